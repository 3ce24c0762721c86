"""Benchmarks in folds: every sample is tested once, nothing is tested that was trained on, and work goes on."""

import dataclasses
import json
from itertools import chain

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
    marked = dataclasses.replace(data, codes=data.codes.clone())
    places = torch.tensor([1, 4, 16, 64])
    marked.codes[:, 0, 0, :4] = torch.arange(100)[:, None] // places % 4  # tells every recording apart

    def numbers(part):
        return (part.codes[:, 0, 0, :4] * places).sum(1).tolist()

    tested = []
    for number in range(3):
        split = fold_splits(marked, 3, number)
        parts = [numbers(part) for part in (split.train, split.validation, split.test)]
        assert sorted(chain(*parts)) == list(range(100))
        assert torch.equal(split.train.labels, data.labels[parts[0]])
        assert len(parts[2]) in (33, 34)
        assert len(parts[1]) == (100 - len(parts[2])) // 10
        tested.append(parts[2])
    assert sorted(chain(*tested)) == list(range(100))
    assert numbers(fold_splits(marked, 3, 2).test) == tested[2]
    assert numbers(fold_splits(marked, 3, 2, deal=1).test) != tested[2]


def test_the_command_keeps_what_is_done_and_writes_its_table(root, tmp_path, capsys, monkeypatch):
    document = tmp_path / "page.md"
    document.write_text(f"before\n{nmnist_folds.BEGIN}\nstale row\n{nmnist_folds.END}\nafter\n")
    work = tmp_path / "work"
    arguments = ["--quick", "--work", str(work), "--data-root", str(root), "--write", str(document)]
    assert main(arguments) == 0
    found = [json.loads((work / "quick" / f"fold{number}" / "result.json").read_text()) for number in (1, 2)]
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
    for count in ("0", "1", "101"):
        with pytest.raises(MaqdError, match=rf"--folds must lie in 2..100, the number of samples, got {count}"):
            main(["--folds", count, "--data-root", str(root), "--work", str(tmp_path / "work")])
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(MaqdError, match="has no place for the table: expected the lines <!-- folds"):
        main(["--write", str(tmp_path / "page.md")])


def test_settings_of_digits_are_compared_without_its_test_scans(tmp_path, capsys, monkeypatch):
    document = tmp_path / "page.md"
    document.write_text(f"before\n{digits_folds.BEGIN}\nstale row\n{digits_folds.END}\nafter\n")
    chosen = ["reference", "float twin", "averaged"]
    train_part, test_part = datasets.load("digits")
    monkeypatch.setattr(digits_folds, "VARIANTS", {name: digits_folds.VARIANTS[name] for name in chosen})
    monkeypatch.setattr(digits_folds.datasets, "load", lambda name: (train_part, None))
    command = ["--quick", "--work", str(tmp_path / "work"), "--write", str(document)]
    assert digits_folds.main(command) == 0
    said = capsys.readouterr().out
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "stale row" not in text
    assert f"The {1797 - len(test_part):,} scans of " in text
    assert "dealt 1 times into 2 folds; 5 steps each; 2 trainings a row" in text
    results = {}
    for name in chosen:
        folder = tmp_path / "work" / "quick" / "2-folds" / name.replace(" ", "-")
        found = results[name] = [json.loads((folder / f"1-{n}" / "result.json").read_text()) for n in (1, 2)]
        inputs = [json.loads((folder / f"1-{n}" / "inputs.json").read_text()) for n in (1, 2)]
        assert [one["parts"] for one in found] == [[647, 71, 719], [648, 71, 718]]
        assert [one["recipe"]["seed"] for one in inputs] == [0, 1]
        wrong = sum(round(one["parts"][2] * (1 - one["accuracy"])) for one in found)
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        assert f"| {100 * (1 - wrong / 1437):.2f} % | {wrong} of 1,437 |" in row
        assert row.endswith("| | |") == (name == "float twin")
        lower = sum(one["loss"] < other["loss"] for one, other in zip(found, results[chosen[0]], strict=True))
        assert (f"| in {lower} of 2 |" in row) == (name != chosen[0])
    monkeypatch.setattr(folds, "train", None)  # a second call trains nothing
    assert digits_folds.main(command) == 0
    assert capsys.readouterr().out == said


def test_every_deal_and_fold_is_a_training_of_its_own(tmp_path, monkeypatch, capsys):
    calls = []

    def run_fold(recipe, data, folds, number, out, deal, quiet):
        calls.append((deal, number, folds, recipe.seed, recipe.ema, out.relative_to(tmp_path).as_posix()))
        row = {"parts": [1, 1, 10], "accuracy": 0.9, "loss": 1.0, "when": "today"}
        return row | {"synops": 1000, "fold_mismatches": int(number == mismatched)}

    monkeypatch.setattr(digits_folds, "run_fold", run_fold)
    command = ["--deals", "2", "--folds", "3", "--work", str(tmp_path), "--only", "averaged"]
    mismatched = None
    assert digits_folds.main(command) == 0
    assert calls == [
        (deal, number, 3, 3 * deal + number, 0.99, f"3-folds/averaged/{deal + 1}-{number + 1}")
        for deal in range(2)
        for number in range(3)
    ]
    assert "| averaged | 90.00 % | 6 of 60 | 1.0000 |  | 1.00 k | 0 |" in capsys.readouterr().out
    mismatched = 1
    assert digits_folds.main(command) == 1


def test_a_result_is_that_of_the_same_training(tmp_path, monkeypatch):
    data, _ = datasets.load("digits")
    recipe = dataclasses.replace(get_recipe("digits"), max_steps=1)
    first = folds.run_fold(recipe, data, 4, 0, tmp_path, quiet=True)
    monkeypatch.setattr(folds, "train", None)
    assert folds.run_fold(recipe, data, 4, 0, tmp_path) == first
    other = dataclasses.replace(recipe, seed=1)
    fewer = dataclasses.replace(data, labels=data.labels[:-1], codes=data.codes[:-1])
    for inputs in ((other, data, 4, 0), (recipe, fewer, 4, 0), (recipe, data, 5, 0), (recipe, data, 4, 1)):
        with pytest.raises(MaqdError, match="holds a training of another recipe, .*give another --work"):
            folds.run_fold(*inputs, tmp_path)
    with pytest.raises(MaqdError, match="holds a training of another recipe"):
        folds.run_fold(recipe, data, 4, 0, tmp_path, deal=1)
    inputs = (tmp_path / "inputs.json").rename(tmp_path / "gone.json")
    with pytest.raises(MaqdError, match="holds a training of another recipe"):
        folds.run_fold(recipe, data, 4, 0, tmp_path)
    inputs.rename(tmp_path / "inputs.json")
    for text, message in (
        ('{"a": 1}', "is no result of a fold"),
        ("[]", "is no result of a fold"),
        ("{", "is damaged"),
    ):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(MaqdError, match=f"result.json' {message}.*remove"):
            folds.run_fold(recipe, data, 4, 0, tmp_path)


def test_every_variant_is_another_recipe():
    base = dataclasses.replace(get_recipe("digits"), **digits_folds.REFERENCE)
    recipes = [dataclasses.replace(base, **fields) for fields in digits_folds.VARIANTS.values()]
    assert all(recipes.index(recipe) == number for number, recipe in enumerate(recipes))
    assert get_recipe("digits") == dataclasses.replace(base, **digits_folds.VARIANTS["averaged"])  # what was chosen


def test_wrong_input_of_the_comparison(tmp_path, monkeypatch):
    monkeypatch.setattr(digits_folds, "run_fold", None)
    document = tmp_path / "page.md"
    document.write_text("nothing")
    for options, message in (
        (["--only", "foo"], "unknown variant 'foo'"),
        (["--deals", "0"], "--deals must be at least 1, got 0"),
        (["--folds", "1"], "--folds must lie in 2..1,437, the number of samples, got 1"),
        (["--folds", "1438"], "--folds must lie in 2..1,437, the number of samples, got 1438"),
        (["--write", str(document)], "has no place for the table: expected the lines <!-- folds"),
        (["--write", str(document), "--only", "averaged"], "--write replaces the whole table; leave out --only"),
    ):
        with pytest.raises(MaqdError, match=message):
            digits_folds.main(options)
