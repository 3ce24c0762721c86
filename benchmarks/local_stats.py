"""Accuracy with statistics of each process's own samples, with those of all, and of one process; over seeds.

    maqd bench local-stats [--recipe digits] [--devices 2] [--seeds 3] [--folder DIR] [--out FILE] [--quick]

Every training has the same batch size; OPTIONS are further ones of `maqd train`. Validation accuracy of the best epoch:
the test set is not touched. With --folder the runs are kept, and those that were stopped go on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

from maqd_snn.errors import MaqdError
from maqd_snn.files import write_text
from maqd_snn.runs import machine


class Best(NamedTuple):
    """Validation accuracy and loss of the best of so many epochs."""

    accuracy: float
    loss: float
    epochs: int


def train(recipe: str, seed: int, options: Sequence[str], run: Path | None) -> Best:
    """Train in processes of their own and return what the best epoch came to.

    Args:
        run: folder that keeps the run, or goes on with the one it holds; None for one that is thrown away.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        start = [sys.executable, "-m", "maqd_snn", "train", recipe, "--quiet", "--resume", "--json", str(result)]
        command = [*start, "--out", str(run or Path(folder) / "run"), "--seed", str(seed), *options]
        if code := subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
            raise MaqdError(f"a training ended with exit code {code}, see above: {' '.join(command[2:])}")
        history = json.loads(result.read_text())["history"]
    best = min(history, key=lambda row: row["validation_loss"])
    return Best(best["validation_accuracy"], best["validation_loss"], len(history))


def options_of(description: str | None, recipe: str) -> argparse.ArgumentParser:
    """Return a parser of what comparisons of trainings over seeds share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=recipe)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keeps the runs, so that a comparison that was stopped goes on")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--quick", action="store_true", help="one seed, ten steps")
    parser.add_argument("options", nargs="*", metavar="OPTIONS", help="of maqd train, behind --")
    return parser


def compare(title: str, bench: str, kinds: Mapping[str, Sequence[str]], options: argparse.Namespace) -> None:
    """Train each kind with every seed, print the table, and write it to `options.out`.

    Args:
        kinds: the text of a row and the options of its training.
        options: of the parser of `options_of`.

    Raises:
        MaqdError: no seeds, or a training that failed.
    """
    if options.seeds < 1:
        raise MaqdError(f"--seeds must be at least 1, got {options.seeds}")
    seeds = range(1 if options.quick else options.seeds)
    further = [*options.options, *(["--max-steps", "10"] if options.quick else [])]
    rows = ["| training | validation accuracy, mean (each seed) | validation loss |", "|---|---|---|"]
    for number, (kind, chosen) in enumerate(kinds.items()):
        folders = [options.folder and options.folder / f"{bench}-{number}-{seed}" for seed in seeds]
        results = [
            train(options.recipe, seed, [*chosen, *further], folder)
            for seed, folder in zip(seeds, folders, strict=True)
        ]
        accuracies = [100 * best.accuracy for best in results]
        each = ", ".join(f"{accuracy:.1f}" for accuracy in accuracies)
        loss = statistics.mean(best.loss for best in results)
        rows.append(f"| {kind} | {statistics.mean(accuracies):.2f} % ({each}) | {loss:.4f} |")
        print(rows[-1], flush=True)
    if options.out:
        where = machine()
        lines = [
            f"# {title}",
            "",
            f"`maqd train {' '.join([options.recipe, *further])}`, {len(seeds)} seeds, the same batch size in each "
            f"row; the best of {results[0].epochs} epochs. Made by `maqd bench {bench}` on {date.today()}, "
            f"{where['system']}, {os.cpu_count()} cores, torch {where['torch']}.",
            "",
            *rows,
            "",
        ]
        write_text(options.out, "\n".join(lines))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = options_of(__doc__, "digits")
    parser.add_argument("--devices", type=int, default=2)
    options = parser.parse_args(arguments)
    several = ["--devices", str(options.devices)]
    kinds = {
        "one process": [],
        f"{options.devices} processes, local statistics": several,
        f"{options.devices} processes, `--sync-stats true`": [*several, "--sync-stats", "true"],
    }
    compare("Local statistics", "local-stats", kinds, options)
    return 0
