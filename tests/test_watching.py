"""What a training shows at a terminal, and what it leaves for TensorBoard."""

import csv
import dataclasses
import os
import sys

import numpy as np
import pytest

from maqd_snn.datasets import load_splits
from maqd_snn.training import Execution, Recipe, fit, loop
from maqd_snn.training.watching import LAYERS, METRICS, TENSORBOARD, Progress, rates_line

RATES = {f"block{index}_spike": index / 10 for index in range(1, 9)}


@pytest.mark.parametrize("width", [15, 34, 60, 147, 148, 200])
def test_spike_rates_that_do_not_fit_are_counted(width):
    line = rates_line(RATES, width)
    _, *shown = line.replace("spike rate %: ", "spike rate %:  ").split("  ")
    named = [f"block{index}_spike {10 * index}" for index in range(1, 9)]
    if width >= len("spike rate %: " + "  ".join(named)):
        assert shown == named
    else:
        assert shown == [*named[: len(shown) - 1], f"+{9 - len(shown)} more"]
        # One more would not have fitted.
        more = f"  +{8 - len(shown)} more" if len(shown) < 8 else ""
        assert len("spike rate %: " + "  ".join(named[: len(shown)]) + more) > width
    assert len(line) <= max(width, len("spike rate %: +8 more"))


def test_a_narrow_terminal_shows_how_many_layers_it_has_no_room_for(monkeypatch):
    termios = pytest.importorskip("termios", reason="needs a POSIX terminal")
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (20, 61))
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Progress(total=10, done=0, quiet=False) as progress:
            progress.figures(1.0, 0.5, RATES)
        shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "spike rate %: block1_spike 10  block2_spike 20  +6 more" in shown


def points(folder):
    """Return {tag: {step: value}} of TensorBoard's files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder)).Reload()
    return {tag: {e.step: e.value for e in read.Scalars(tag)} for tag in read.Tags()["scalars"]}


def test_tensorboard_has_the_loss_of_the_steps_since_the_point_before(tmp_path, fit_until, monkeypatch):
    pytest.importorskip("tensorboard", reason="needs the extra 'tensorboard'")
    digits = load_splits("digits")
    recipe = Recipe("small", "digits", plan="4-M-8-M", batch_size=len(digits.train) // 17, epochs=2)
    board, run, each = Execution(tensorboard=True), tmp_path / "run", tmp_path / "each"
    run.mkdir()
    each.mkdir()
    fit_until(10, recipe, digits, run, quiet=True, execution=dataclasses.replace(board, checkpoint_steps=10))
    fit(recipe, digits, run, resume=True, quiet=True, execution=board)
    monkeypatch.setattr(loop, "RATE_EVERY", 1)
    fit(recipe, digits, each, quiet=True, execution=board)
    found, alone = points(run / TENSORBOARD), points(each / TENSORBOARD)["train/loss"]

    loss = found["train/loss"]
    assert list(loss) == list(found["train/lr"]) == [1, 17, 18, 34]  # 17 steps an epoch, of which 1 and 17 are noted
    # Steps 2 to 10 came before the training was resumed, and are in no point.
    for last, since in ((1, 0), (17, 10), (18, 17), (34, 18)):
        assert loss[last] == pytest.approx(np.mean([alone[step] for step in range(since + 1, last + 1)]), rel=1e-5)
    with (run / METRICS).open() as file:
        first, second = csv.DictReader(file)
    for ends, row in ((17, first), (34, second)):
        mean = np.mean([alone[step] for step in range(ends - 16, ends + 1)])
        assert mean == pytest.approx(float(row["train_loss"]), rel=1e-5)
    for name in first.keys() - {"epoch", "lr"}:
        expected = {17: float(first[name]), 34: float(second[name])}
        assert found[f"epoch/{name}"] == pytest.approx(expected, rel=1e-5)
    with (run / LAYERS).open() as file:
        for row in csv.DictReader(file):
            rate = found[f"spike rate/{row['layer']}"][17 * int(row["epoch"])]
            assert rate == pytest.approx(float(row["spike_rate"]), rel=1e-5)
            assert set(found[f"spike rate in training/{row['layer']}"]) == set(loss)
