"""A training that is killed at random moments and resumed, against one that runs through: are the final weights equal?

    maqd bench kills [--kills 10] [--recipe digits] [--out docs/kills.md] [--quick]

Each kill is SIGKILL, at a random moment after the process has written a checkpoint of its own. Exit code 1 where a
weight differs, or where a file with the name of a checkpoint is not a whole one.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

from maqd_snn.errors import MaqdError
from maqd_snn.files import write_text
from maqd_snn.runs import machine
from maqd_snn.training.checkpoint import MODEL, previous, read_tensors
from maqd_snn.training.loop import CHECKPOINT

CHECKPOINT_STEPS = 7


def command(recipe: str, out: Path, options: Sequence[str]) -> list[str]:
    """Return the command that starts the training, or goes on with it."""
    return [sys.executable, "-m", "maqd_snn", "train", recipe, "--out", str(out), "--resume", "--quiet", *options]


def kill_once(recipe: str, out: Path, options: Sequence[str], moment: float) -> tuple[int, int]:
    """Start, wait for a checkpoint, kill `moment` seconds later; return (epoch, step) of the checkpoint that is left.

    Raises:
        MaqdError: the training ended by itself, or left a checkpoint that is not whole.
    """
    path = out / CHECKPOINT
    before = path.stat().st_mtime_ns if path.exists() else 0
    often = ["--checkpoint-steps", str(CHECKPOINT_STEPS)]
    with subprocess.Popen(command(recipe, out, [*options, *often]), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and (not path.exists() or path.stat().st_mtime_ns == before):
            time.sleep(0.002)
        time.sleep(moment)
        process.kill()
    if process.returncode != -signal.SIGKILL:
        raise MaqdError(f"the training ended with {process.returncode} before it was killed; give it more --epochs")
    for file in (path, previous(path)):
        if file.exists():
            read_tensors(file)
    state = read_tensors(path)[1]
    return state["epoch"], state["step"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--quick", action="store_true", help="one kill of a small network")
    options = parser.parse_args(arguments)
    kills = 1 if options.quick else options.kills
    epochs = 6 if options.quick else options.epochs
    train = ["--epochs", str(epochs), *(["--plan", "4-M-8-M"] if options.quick else [])]
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        places = []
        for _ in range(kills):
            places.append(kill_once(options.recipe, killed, train, moments.uniform(0, 0.5)))
            print(f"killed; the checkpoint is of epoch {places[-1][0]}, step {places[-1][1]}", flush=True)
        for out in (killed, whole):
            subprocess.run(command(options.recipe, out, train), check=True, stdout=subprocess.DEVNULL)
        ours, theirs = read_tensors(killed / MODEL)[0], read_tensors(whole / MODEL)[0]
        different = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
        halves = [path.name for path in killed.iterdir() if path.name.startswith(".")]
        weights = sum(tensor.numel() for tensor in theirs.values())
    line = (
        f"`{options.recipe}`, {epochs} epochs, killed {kills} times: {len(different)} of {len(theirs)} tensors "
        f"({weights:,} values) of the final model differ from the uninterrupted run's; {len(halves)} temporary files "
        "left."
    )
    print(line)
    if options.out:
        where = machine()
        lines = [
            "# Killed and resumed",
            "",
            f"`kill -9` at random moments of a training, each followed by `--resume`. Made by `maqd bench kills` on "
            f"{date.today()}, {where['system']}, {os.cpu_count()} cores, torch {where['torch']}.",
            "",
            line,
            "",
            "Checkpoints that the kills left, all of them whole: "
            + ", ".join(f"epoch {epoch} step {step}" for epoch, step in places)
            + ".",
            "",
        ]
        write_text(options.out, "\n".join(lines))
    return int(bool(different or halves))
