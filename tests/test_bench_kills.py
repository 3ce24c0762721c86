"""`maqd bench kills`, `bf16`, `local-stats`: that they run, and that a difference would be seen."""

import random
import re

import pytest
import torch

from maqd_snn import MaqdError
from maqd_snn.benchmarks import bf16, kills, local_stats
from maqd_snn.cli import main


def test_a_killed_training_ends_with_the_same_bits_and_the_document_says_so(tmp_path, capsys):
    assert kills.main(["--quick", "--out", str(tmp_path / "kills.md")]) == 0
    text = (tmp_path / "kills.md").read_text()
    assert "killed 2 times: 0 of 88 tensors" in text
    assert "of which 0 are there in the end." in text
    assert text.count("epoch ") + text.count("none yet") == 2
    assert "killed; checkpoint: " in capsys.readouterr().out


def test_another_training_in_the_killed_folder_is_seen(monkeypatch, capsys):
    command = kills.command
    monkeypatch.setattr(
        kills,
        "command",
        lambda recipe, out, options: [*command(recipe, out, options), "--seed", str(int(out.name == "killed"))],
    )
    assert kills.main(["--quick"]) == 1
    assert re.search(r": [1-9]\d* of \d+ tensors", capsys.readouterr().out)


def test_a_file_that_is_not_whole_is_seen(tmp_path):
    (tmp_path / kills.CHECKPOINT).write_bytes(b"half")
    with pytest.raises(MaqdError, match="not a usable checkpoint"):
        kills.place_of(tmp_path)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (torch.tensor([0.0]), torch.tensor([-0.0]), False),
        (torch.tensor([torch.nan]), torch.tensor([torch.nan]), True),
        (torch.tensor([1.0]), torch.tensor([1]), False),
        (torch.zeros(2, 1), torch.zeros(2), False),
    ],
)
def test_bits_are_compared_and_not_values(a, b, same):
    assert kills.same_bits(a, b) is same


def test_the_kills_are_spread_over_the_whole_training():
    epochs = kills.spread(9, 40, random.Random(0))
    assert [int((epoch - 1) * 9 / 40) for epoch in epochs] == list(range(9))


@pytest.mark.parametrize("arguments", [["--kills", "1"], ["--kills", "0"]])
def test_too_few_kills_are_refused(arguments):
    with pytest.raises(
        MaqdError, match=f"--kills must be at least 2, one at the start and one later, got {arguments[1]}"
    ):
        kills.main(arguments)


@pytest.mark.parametrize("bench", [bf16, local_stats])
def test_a_comparison_needs_seeds(bench):
    with pytest.raises(MaqdError, match="--seeds must be at least 1, got 0"):
        bench.main(["--seeds", "0", "--recipe", "digits"])


def test_bf16_compares_both_precisions(tmp_path, capsys):
    out = tmp_path / "bf16.md"
    assert bf16.main(["--quick", "--recipe", "digits", "--out", str(out)]) == 0
    rows = [line for line in out.read_text().splitlines() if line.startswith("| `--precision")]
    assert [row.split("`")[1] for row in rows] == ["--precision fp32", "--precision bf16-mixed"]
    assert all(" % (" in row for row in rows)


def test_options_behind_two_dashes_reach_the_benchmark_as_they_are(monkeypatch):
    taken = []
    monkeypatch.setattr(kills, "main", lambda arguments: taken.append(arguments) or 0)
    assert main(["bench", "kills", "--", "--lr", "0.1"]) == 0
    assert main(["bench", "kills", "--quick", "--", "--seed", "3"]) == 0
    assert taken == [["--", "--lr", "0.1"], ["--quick", "--", "--seed", "3"]]
