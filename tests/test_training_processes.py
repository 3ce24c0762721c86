"""Two processes that train together, over gloo on the CPU, against one alone."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from maqd_snn import MaqdError
from maqd_snn.cli import main
from maqd_snn.datasets import load_splits
from maqd_snn.training import Execution, fit, get_recipe
from maqd_snn.training.checkpoint import MODEL, read_tensors
from maqd_snn.training.launch import launch
from maqd_snn.training.loop import CHECKPOINT
from maqd_snn.training.team import Alone, join

RECIPE = dataclasses.replace(get_recipe("digits"), plan="4-M-8-M", batch_size=16, epochs=2, max_steps=120)
SGD = dataclasses.replace(RECIPE, sync_stats=True, optimizer="sgd", lr=0.05, momentum=0.9)
KINDS = {
    "synchronized": SGD,
    "in parts": dataclasses.replace(SGD, accumulate=2),
    # Muon makes all singular values of an update equal, those of rounding errors too: two trainings that differ in one
    # rounding part after some 50 steps. Until then they are as close as with SGD.
    "synchronized, Muon": dataclasses.replace(RECIPE, sync_stats=True, epochs=1, max_steps=30),
    "local": RECIPE,
}
OPTIONS = ["--plan", "4-M-8-M", "--batch-size", "16", "--epochs", "2", "--max-steps", "120", "--quiet"]
LOSS_TOLERANCE = 1e-4  # relative; sums in another order, and now and then a membrane that falls on the other side

# What each of the two processes runs: all kinds, one after the other, the CPU's threads shared.
TOGETHER = """
import atexit, json, sys
from pathlib import Path
from torch import distributed
from maqd_snn.datasets import load_splits
from maqd_snn.training import Execution, Recipe, fit
from maqd_snn.training.team import join
out = Path(sys.argv[1])
atexit.register(lambda: distributed.is_initialized() or (out / f"left.{team.rank}").touch())  # after those of join
team = join(Execution())
for name, values in json.loads(sys.argv[2]).items():
    result = fit(Recipe(**values), load_splits("digits"), out / name, quiet=True, team=team)
assert team.size == 2
"""

START = """
import sys
from torch.distributed.run import main
main(["--standalone", "--nproc-per-node", "2", *sys.argv[1:]])
"""


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder of what two processes trained of each kind."""
    out = tmp_path_factory.mktemp("together")
    for name in KINDS:
        (out / name).mkdir()
    (out / "together.py").write_text(TOGETHER)
    recipes = json.dumps({name: dataclasses.asdict(recipe) for name, recipe in KINDS.items()})
    command = [sys.executable, "-c", START, str(out / "together.py"), str(out), recipes]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return out


def two(out):
    """The command that trains in two processes."""
    return [sys.executable, "-m", "maqd_snn", "train", "digits", "--devices", "2", "--out", str(out), *OPTIONS]


def start_two(out):
    """Start it, and return the process that starts the two when they have written a checkpoint."""
    command = [*two(out), "--checkpoint-steps", "5"]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    while not (out / CHECKPOINT).exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


def losses(history):
    return [loss for entry in history for loss in (entry["train_loss"], entry["validation_loss"])]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_losses_of_one_with_the_same_batch(together, tmp_path, kind):
    alone = fit(KINDS[kind], load_splits("digits"), tmp_path, quiet=True, team=Alone(torch.device("cpu")))
    tensors, state = read_tensors(together / kind / CHECKPOINT)
    ours, theirs = (losses(rows) for rows in (map(dataclasses.asdict, alone.history), state["history"]))
    assert len(ours) == len(theirs) == 2 * KINDS[kind].epochs
    steps = min(78, KINDS[kind].max_steps)
    right = state["history"][0]["train_accuracy"] * steps * 16  # a whole number: all samples were counted, each once
    assert right == pytest.approx(round(right), abs=1e-6)
    if kind == "local":  # statistics of half the batch are others: the losses differ, by more than the tolerance
        assert theirs != pytest.approx(ours, rel=10 * LOSS_TOLERANCE)
        assert theirs == pytest.approx(ours, rel=0.1)
    else:
        assert theirs == pytest.approx(ours, rel=LOSS_TOLERANCE)
    assert torch.equal(*tensors["ranks"][:, 3:])  # averaged at the end of an epoch: both go on from the same estimates


def test_processes_leave_their_group_before_the_interpreter_ends(together):
    # Else gloo's threads outlive it, and now and then one ends the process: "terminate called without an active
    # exception".
    assert sorted(path.name for path in together.glob("left.*")) == ["left.0", "left.1"]


def test_processes_that_would_begin_at_different_places_are_refused(together):
    class Other(Alone):
        def gather_texts(self, text):
            return [text, text.replace("(3, ", "(1, ")]

    recipe = KINDS["local"]
    out = together / "local"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(MaqdError, match="would go on from different checkpoints"):
        fit(recipe, load_splits("digits"), out, resume=True, quiet=True, team=Other(torch.device("cpu")))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_command_starts_two_that_save_on_sigterm_and_end_with_the_same_bits(together, tmp_path):
    out = tmp_path / "run"
    process = start_two(out)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    lines = errors.splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("maqd train: stopped by SIGTERM in epoch ")

    tensors, state = read_tensors(out / CHECKPOINT)
    assert state["step"] > 0
    own, average = tensors["ranks"][:, 3:], tensors["model.parts.spike1.norm.running_mean"]
    assert not torch.equal(own[0], own[1])
    assert torch.equal(own[:, : average.numel()].mean(0), average)
    done = subprocess.run([*two(out), "--resume"], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "folded" in done.stdout
    result, expected = read_tensors(out / MODEL)[0], read_tensors(together / "local" / CHECKPOINT)[0]
    for name, tensor in result.items():
        assert torch.equal(tensor, expected[f"best.{name}"]), name


def test_numbers_that_do_not_fit_are_refused(monkeypatch, tmp_path, capsys):
    with pytest.raises(MaqdError, match=r"8 processes were asked for.*torchrun --nnodes 2 --nproc-per-node 4"):
        join(Execution(devices=4, nodes=2))
    with pytest.raises(MaqdError, match="devices must be at least 1, got 0"):
        Execution(devices=0)
    with pytest.raises(MaqdError, match="unknown accelerator 'gpu'"):
        Execution(accelerator="gpu")
    with pytest.raises(MaqdError, match="checkpoint_seconds must be a finite number from 0"):
        Execution(checkpoint_seconds=-1)
    out = tmp_path / "run"
    assert main(["train", "digits", "--devices", "3", "--out", str(out), *OPTIONS]) == 2
    assert "a batch of 16 samples cannot be shared evenly among 3 processes" in capsys.readouterr().err
    assert main(["train", "digits", "--devices", "2", "--nodes", "2", "--out", str(out), *OPTIONS]) == 2
    assert "start them with: torchrun --nnodes 2 --nproc-per-node 2" in capsys.readouterr().err
    for name, value in {"LOCAL_RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MaqdError, match=r"torchrun started 4 processes, 2 on this machine, but --devices 3 --nodes 2"):
        join(Execution(devices=3))
    assert main(["train", "digits", "--devices", "3", "--out", str(out), *OPTIONS]) == 2  # and not that 16 is no 3 n
    assert "torchrun started 4 processes" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_of_two_processes_one_is_killed_and_that_is_said_without_a_traceback(tmp_path, rank):
    out = tmp_path / "run"
    process = start_two(out)
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            os.kill(int(child), signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGKILL
    killed = (
        f"maqd: the process of rank {rank} was ended by signal 9, SIGKILL (is the memory enough?); "
        "continue with --resume"
    )
    lost = (
        f"maqd train: the process of rank {1 - rank} lost another one, which has ended, was killed or does "
        "not answer; continue with --resume"
    )
    said = errors.splitlines()
    assert said[-1] == killed
    assert said[:-1] in ([], [lost] * (rank == 1))  # the writer alone speaks, if torchrun does not end it before


@pytest.mark.parametrize(
    ("codes", "code", "said"),
    [
        ((2, -15), 2, None),  # the first says why; the other was ended by torchrun
        ((-15, 2), 2, None),
        ((-15, -9), 137, "rank 1 was ended by signal 9, SIGKILL"),
        ((2, -9), 137, "rank 1 was ended by signal 9, SIGKILL"),  # without the killed one the other fails, too
        ((-15, -15), 143, "rank 0 was ended by signal 15;"),
        ((143, -15), 143, None),
    ],
)
def test_the_exit_code_is_that_of_the_process_that_failed_by_itself(monkeypatch, capsys, codes, code, said):
    failures = {rank: ProcessFailure(rank, 1, number, "") for rank, number in enumerate(codes)}

    def elastic_launch(config, entrypoint):
        def run(*arguments):
            raise ChildFailedError("maqd", failures)

        return run

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", elastic_launch)
    assert launch(["train"], Execution(devices=2)) == code
    error = capsys.readouterr().err
    assert said in error if said else error == ""
