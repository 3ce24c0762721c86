"""A training that is killed at random places and resumed, against one that runs through: does all end equal?

    maqd bench kills [--kills 10] [--recipe digits] [--out docs/kills.md] [--quick] [-- OPTIONS]

OPTIONS are further ones of `maqd train`. The first kill comes at a random moment of the start, before a first
checkpoint perhaps; the others are spread over the whole training, one in each equal part of it: at a random moment of a
random epoch. Each is SIGKILL. Then the last checkpoints (weights, optimizer, statistics, best epoch, random states) and
the final models are compared, bit for bit, and the figures of all epochs. Exit code 1 where a value differs, where a
file with the name of a checkpoint is not a whole one, or where temporary files are left in the end.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from maqd_snn.errors import MaqdError
from maqd_snn.files import write_text
from maqd_snn.runs import machine
from maqd_snn.training.checkpoint import MODEL, previous, read_tensors
from maqd_snn.training.loop import CHECKPOINT

CHECKPOINT_STEPS = 7


class Place(NamedTuple):
    """A step of a training."""

    epoch: int
    step: int


class Kill(NamedTuple):
    """What a kill left: the place of the checkpoint, None where there is none yet, and how many temporary files."""

    left: Place | None
    temporaries: int


def command(recipe: str, out: Path, options: Sequence[str]) -> list[str]:
    """Return the command that starts the training, or goes on with it."""
    often = ["--checkpoint-steps", str(CHECKPOINT_STEPS)]
    train = [sys.executable, "-m", "maqd_snn", "train", recipe, "--out", str(out), "--resume", "--quiet"]
    return [*train, *often, *options]


def place_of(out: Path) -> Place | None:
    """Return where the checkpoint in the folder is, None where there is none."""
    if not (out / CHECKPOINT).exists():
        return None
    state = read_tensors(out / CHECKPOINT)[1]
    return Place(state["epoch"], state["step"])


def temporaries(out: Path) -> int:
    """Return how many files in the folder have not got their names yet."""
    return sum(".tmp" in path.name for path in out.iterdir()) if out.is_dir() else 0


def kill_once(recipe: str, out: Path, options: Sequence[str], epoch: int | None, delay: float) -> Kill:
    """Start, wait for a new checkpoint in `epoch` or later and for `delay` seconds more, kill, and look what is left.

    Raises:
        MaqdError: the training ended by itself, or a file with the name of a checkpoint is not whole.
    """
    before = place_of(out) or Place(0, 0)
    with subprocess.Popen(command(recipe, out, options), stdout=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None and epoch is not None:
                with suppress(MaqdError):  # replaced while it was read
                    place = place_of(out) or before
                    if place > before and place.epoch >= epoch:
                        break
                time.sleep(0.01)
            time.sleep(delay)
        finally:
            process.kill()
    if process.returncode != -signal.SIGKILL:
        raise MaqdError(f"the training ended with {process.returncode} before it was killed; give it more --epochs")
    for file in (out / CHECKPOINT, previous(out / CHECKPOINT)):
        if file.exists():
            read_tensors(file)
    return Kill(place_of(out), temporaries(out))


def results(out: Path) -> dict[str, Tensor]:
    """Return all tensors that a finished training has left."""
    return {
        f"{name}: {key}": tensor for name in (CHECKPOINT, MODEL) for key, tensor in read_tensors(out / name)[0].items()
    }


def history(out: Path) -> list[dict[str, Any]]:
    """Return the figures of all epochs and layers, the seconds left out."""
    state = read_tensors(out / CHECKPOINT)[1]
    return [{name: row[name] for name in row if name != "seconds"} for row in (*state["history"], *state["layers"])]


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether the tensors are equal to the bit, a NaN and the sign of a zero included."""
    return (
        ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.numpy().tobytes() == theirs.numpy().tobytes()
    )


def spread(kills: int, epochs: int, moments: random.Random) -> list[int]:
    """Return a random epoch of each of `kills` equal parts of a training.

    >>> spread(3, 30, random.Random(0))
    [9, 18, 25]
    """
    return [1 + int((part + moments.random()) * epochs / kills) for part in range(kills)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--quick", action="store_true", help="two kills of a small network")
    parser.add_argument("options", nargs="*", metavar="OPTIONS", help="of maqd train, behind --")
    options = parser.parse_args(arguments)
    if options.kills < 2:
        raise MaqdError(f"--kills must be at least 2, one at the start and one later, got {options.kills}")
    kills = 2 if options.quick else options.kills
    epochs = 6 if options.quick else options.epochs
    train = ["--epochs", str(epochs), *(["--plan", "4-M-8-M"] if options.quick else []), *options.options]
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        started = time.perf_counter()
        subprocess.run(command(options.recipe, whole, train), check=True, stdout=subprocess.DEVNULL)
        first = (time.perf_counter() - started) / kills
        seconds = [entry["seconds"] for entry in read_tensors(whole / CHECKPOINT)[1]["history"]]
        left = []
        for epoch in (None, *spread(kills - 1, epochs - 1, moments)):  # one killed in the last might end before
            delay = moments.uniform(0, first if epoch is None else statistics.median(seconds))
            left.append(kill_once(options.recipe, killed, train, epoch, delay))
            print(f"killed; checkpoint: {_words(left[-1].left)}", flush=True)
        subprocess.run(command(options.recipe, killed, train), check=True, stdout=subprocess.DEVNULL)
        ours, theirs = results(killed), results(whole)
        different = [name for name in theirs if name not in ours or not same_bits(ours[name], theirs[name])]
        different += [name for name in ours if name not in theirs]
        tables = history(killed) == history(whole)
        in_the_end = temporaries(killed)
        values = sum(tensor.numel() for tensor in theirs.values())
    line = (
        f"`{options.recipe}`, {epochs} epochs, killed {kills} times: {len(different)} of {len(theirs)} tensors "
        f"({values:,} values) of the last checkpoint and the final model differ from the uninterrupted run's; the "
        f"figures of the epochs {'are equal' if tables else 'differ'}. The kills left "
        f"{sum(kill.temporaries for kill in left)} temporary files, of which {in_the_end} are there in the end."
    )
    print(line)
    if options.out:
        where = machine()
        lines = [
            "# Killed and resumed",
            "",
            "`kill -9` at a random moment of the start, then at random places all over the training, each followed by "
            f"`--resume`. Made by `maqd bench kills{' -- ' * bool(options.options)}{' '.join(options.options)}` on "
            f"{date.today()}, {where['system']}, {os.cpu_count()} cores, torch {where['torch']}.",
            "",
            line,
            "",
            "Checkpoints that the kills left, all of them whole: "
            + ", ".join(_words(kill.left) for kill in left)
            + ".",
            "",
        ]
        write_text(options.out, "\n".join(lines))
    return int(bool(different or in_the_end) or not tables)


def _words(place: Place | None) -> str:
    return "none yet" if place is None else f"epoch {place.epoch} step {place.step}"
