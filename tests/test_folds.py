"""Benchmarks in folds: every sample is tested once, nothing is tested that was trained on, and work goes on."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from event_layouts import moving_bar, write_five_byte

from maqd_snn import datasets
from maqd_snn.benchmarks import digits_folds, folds, nmnist_folds
from maqd_snn.benchmarks.folds import fold_splits
from maqd_snn.benchmarks.nmnist_folds import all_recordings, main
from maqd_snn.errors import MaqdError
from maqd_snn.training import get_recipe


@pytest.fixture
def root(tmp_path):
    for part, count in (("Train", 8), ("Test", 2)):
        for digit in range(10):
            for index in range(count):
                events = moving_bar(digit + 10 * index, count=400, span_us=300_000, side=34)
                write_five_byte(tmp_path / "data" / "nmnist" / part / str(digit) / f"{index}.bin", events)
    return tmp_path / "data"


def test_folds_are_disjoint_and_complete(root):
    data = all_recordings(get_recipe("nmnist"), root)
    assert len(data) == 100
    marks = data.codes.flatten(1).sum(1) * 1000 + torch.arange(100)  # tells every recording apart
    marked = type(data)(data.card, "all", data.codes, data.labels)
    tested = []
    for number in range(3):
        parts = fold_splits(marked, 3, number)
        sizes = [len(parts.train), len(parts.validation), len(parts.test)]
        assert sum(sizes) == 100
        assert sizes[2] in (33, 34)
        assert sizes[1] == (100 - sizes[2]) // 10
        tested.append(parts.test.codes)
    assert sorted(torch.cat(tested).flatten(1).sum(1).tolist()) == sorted(data.codes.flatten(1).sum(1).tolist())
    assert len(marks.unique()) == 100
    again = fold_splits(marked, 3, 2)
    assert torch.equal(again.test.codes, tested[2])
    other = fold_splits(marked, 3, 2, deal=1)
    assert not torch.equal(other.test.codes, tested[2])


def test_the_command_keeps_what_is_done_and_writes_its_table(root, tmp_path, capsys, monkeypatch):
    document = tmp_path / "page.md"
    document.write_text(f"before\n{nmnist_folds.BEGIN}\nstale row\n{nmnist_folds.END}\nafter\n")
    work = tmp_path / "work"
    arguments = ["--quick", "--work", str(work), "--data-root", str(root), "--write", str(document)]
    assert main(arguments) == 0
    found = [json.loads((work / f"fold{number}" / "result.json").read_text()) for number in (1, 2)]
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "stale row" not in text
    mean = np.mean([100 * fold["accuracy"] for fold in found])
    assert f"**{mean:.2f} %**" in text
    assert "N-MNIST (80 of 60,000 training and 20 of 10,000 test recordings)" in text
    assert [fold["parts"] for fold in found] == [[45, 5, 50]] * 2
    monkeypatch.setattr(folds, "train", None)  # a second call trains nothing
    assert main(arguments) == 0
    assert f"**{mean:.2f} %**" in capsys.readouterr().out


def test_wrong_input(root, tmp_path):
    with pytest.raises(MaqdError, match="--folds must be at least 2, got 1"):
        main(["--folds", "1"])
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(MaqdError, match="has no place for the table: expected the lines <!-- folds"):
        main(["--write", str(tmp_path / "page.md")])


def test_settings_of_digits_are_compared_without_its_test_scans(tmp_path, capsys, monkeypatch):
    document = tmp_path / "page.md"
    document.write_text(f"before\n{digits_folds.BEGIN}\nstale row\n{digits_folds.END}\nafter\n")
    train_part, test_part = datasets.load("digits")
    monkeypatch.setattr(digits_folds.datasets, "load", lambda name: (train_part, None))
    chosen = ["**the reference**", "float twin", "averaged parameters, decay 0.99"]
    folders = ["the-reference", "float-twin", "averaged-parameters-decay-0.99"]
    results = {}
    command = ["--quick", "--work", str(tmp_path / "work"), "--write", str(document), "--only", *chosen]
    assert digits_folds.main(command) == 0
    said = capsys.readouterr().out
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "stale row" not in text
    assert f"The {1797 - len(test_part):,} scans of " in text
    for name, folder in zip(chosen, folders, strict=True):
        found = results[name] = [
            json.loads((tmp_path / f"work/{folder}/1-{n}/result.json").read_text()) for n in (1, 2)
        ]
        assert [one["parts"] for one in found] == [[647, 71, 719], [648, 71, 718]]
        assert [one["inputs"]["recipe"]["seed"] for one in found] == [0, 1]
        wrong = sum(round(one["parts"][2] * (1 - one["accuracy"])) for one in found)
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        assert f"| {100 * (1 - wrong / 1437):.2f} % | {wrong} of 1,437 |" in row
        assert row.endswith("| | |") == (name == "float twin")
        lower = sum(one["loss"] < other["loss"] for one, other in zip(found, results[chosen[0]], strict=True))
        assert (f"| in {lower} of 2 |" in row) == (name != chosen[0])
    monkeypatch.setattr(folds, "train", None)  # a second call trains nothing
    assert digits_folds.main(command) == 0
    assert capsys.readouterr().out == said


def test_every_variant_is_another_recipe():
    base = dataclasses.replace(get_recipe("digits"), **digits_folds.REFERENCE)
    recipes = [dataclasses.replace(base, **fields) for fields in digits_folds.VARIANTS.values()]
    assert all(recipes.index(recipe) == number for number, recipe in enumerate(recipes))


def test_wrong_variants_and_counts_of_folds(tmp_path):
    with pytest.raises(MaqdError, match="unknown variant 'foo'"):
        digits_folds.main(["--only", "foo"])
    for option in ("--folds", "--deals"):
        with pytest.raises(MaqdError, match=f"{option} must be at least [12], got 0"):
            digits_folds.main([option, "0"])
    document = tmp_path / "page.md"
    document.write_text("nothing")
    with pytest.raises(MaqdError, match="has no place for the table: expected the lines <!-- folds"):
        digits_folds.main(["--write", str(document)])
