"""Every recipe as it stands, on the CPU: a few steps, its float twin, and a network that folds with no mismatch."""

import csv
import json
from pathlib import Path

import pytest
import torch

from maqd_snn import IntegerNetwork, load
from maqd_snn.cli import main
from maqd_snn.datasets import ImageDataset, Splits
from maqd_snn.datasets.registry import find_entry
from maqd_snn.runs import NETWORK, check_folding, read_model
from maqd_snn.training import RECIPES, get_recipe
from maqd_snn.training.checkpoint import MODEL, read_tensors

NAMED = {
    *("digits", "mnist", "mnist10k", "cifar10-small", "cifar10-vgg", "cifar10-resnet"),
    *("cifar10-resnet18", "cifar100-resnet18", "cifar10-speed", "nmnist", "dvs128-gesture", "cifar10-dvs"),
}


def random_splits(name):
    """A few random images in the form of the dataset."""
    card = find_entry(name, Path("nowhere")).card
    generator = torch.Generator().manual_seed(0)

    def part(kind, count):
        codes = torch.randint(card.low, card.high + 1, (count, *card.shape), generator=generator).to(torch.uint8)
        return ImageDataset(card, kind, codes, torch.arange(count) % len(card.classes))

    return Splits(part("train", 4), part("validation", 2), part("test", 2))


def test_the_recipes_are_these():
    assert set(RECIPES) == NAMED
    assert all(get_recipe(name).name == name for name in RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_folds_with_no_mismatch_and_has_a_twin(name, tmp_path, monkeypatch, capsys):
    recipe = get_recipe(name)
    splits = random_splits(recipe.dataset)
    monkeypatch.setattr("maqd_snn.datasets.load_splits", lambda *_, **__: splits)
    few = ["--batch-size", "2", "--max-steps", "3", "--quiet", "--accelerator", "cpu"]
    few += ["--compile", "false"] * recipe.compile  # a compiler takes longer than the steps; tests/test_compiled.py
    # Most CPUs emulate bfloat16, slowly: one of the recipes shows it.
    few += ["--precision", "fp32"] * (recipe.precision == "bf16-mixed" and name != "cifar10-speed")
    out, twin = tmp_path / "run", tmp_path / "twin"
    assert main(["train", name, "--out", str(out), *few]) == 0
    net, model = load(out / NETWORK), read_model(out, splits)
    assert isinstance(net, IntegerNetwork)
    assert net.provenance["fold_check"]["mismatches"] == 0
    check = check_folding(model, net, splits)
    assert (check.samples, check.mismatches) == (2, 0)
    assert check.values > 1000
    scores = net(splits.test.codes)
    assert torch.equal(scores, model(splits.test.codes).long())
    assert scores.shape == (2, len(splits.test.card.classes))
    start = read_tensors(out / "checkpoint.safetensors")[0]
    assert any(not torch.equal(start[f"model.{n}"], t) for n, t in untrained(name, splits).items())
    with (out / "layers.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["epoch"] == "1"]
    assert [row["layer"] for row in rows if row["spike_rate"]] == list(model.spiking_names())
    assert any(row["rounded_share"] for row in rows) == (name == "cifar10-speed")

    assert main(["train", name, "--out", str(twin), "--twin", *few]) == 0
    values = json.loads((twin / "recipe.json").read_text())
    assert (values["act_states"], values["weight_states"]) == (None, None)
    assert {k: v for k, v in values.items() if k not in ("act_states", "weight_states")} == {
        k: v
        for k, v in json.loads((out / "recipe.json").read_text()).items()
        if k not in ("act_states", "weight_states")
    }
    assert not (twin / NETWORK).exists()
    assert (twin / MODEL).exists()
    assert "float twin, nothing to fold" in capsys.readouterr().out


def untrained(name, splits):
    from maqd_snn.training import build_model

    return build_model(get_recipe(name), splits).state_dict()


@pytest.mark.parametrize(("act_states", "weight_states"), [(2, 2), (3, 3), (16, 4)])
def test_a_recipe_takes_any_states(tmp_path, monkeypatch, act_states, weight_states):
    splits = random_splits("cifar10")
    monkeypatch.setattr("maqd_snn.datasets.load_splits", lambda *_, **__: splits)
    states = ["--act-states", str(act_states), "--weight-states", str(weight_states)]
    few = ["--batch-size", "2", "--max-steps", "1", "--quiet", "--accelerator", "cpu", "--compile", "false"]
    assert main(["train", "cifar10-small", "--out", str(tmp_path / "run"), *few, *states]) == 0
    assert load(tmp_path / "run" / NETWORK).provenance["fold_check"]["mismatches"] == 0
