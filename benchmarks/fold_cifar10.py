"""Fold check on real data: every value of every op, on all CIFAR-10 test images.

    python benchmarks/fold_cifar10.py RUN [RUN ...] [--out docs/fold-check.md] [--quick]

Each RUN is the folder of a `maqd train` or `maqd run` on CIFAR-10. `model.eval()` is compared with the torch executor
on all 10,000 test images and the NumPy int64 oracle on the first 1,000. Progress is kept in RUN/fold-check.json after
every chunk, so that an interrupted check goes on where it was. Exit code 1 where anything differs.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from maqd_snn.datasets import load_splits
from maqd_snn.errors import MaqdError
from maqd_snn.files import write_text
from maqd_snn.runs import machine, read_model, read_network, read_recipe
from maqd_snn.training import get_recipe

CHUNK = 100
ORACLE_IMAGES = 1000


@torch.no_grad()
def check(run: Path, images: int, oracle_images: int) -> dict[str, Any]:
    """Compare in chunks and return the counts; continue from the progress file."""
    recipe = read_recipe(run)
    splits = load_splits(recipe.dataset)
    model, net = read_model(run, splits), read_network(run)
    progress = run / "fold-check.json"
    names = ("images", "values", "mismatches", "oracle_images", "oracle_values", "oracle_mismatches")
    done = {"network": net.provenance["created"], "of": images, **dict.fromkeys(names, 0)}
    if progress.is_file():
        before = json.loads(progress.read_text())
        done = before if all(before[key] == done[key] for key in ("network", "of")) else done  # else anew
    for start in tqdm(range(done["images"], images, CHUNK), desc=run.name, disable=None):
        codes = splits.test.codes[start : min(start + CHUNK, images)]
        theirs, ours = model.trace(codes), net.trace(codes)
        assert theirs.keys() == ours.keys()
        for name, value in ours.items():
            done["mismatches"] += int((theirs[name].double() != value.double()).sum())
            done["values"] += value.numel()
        if start < oracle_images:
            truth = net.reference_trace(codes[: oracle_images - start].numpy())
            for name, exact in truth.items():
                done["oracle_mismatches"] += int((ours[name][: len(exact)].numpy() != exact).sum())
                done["oracle_values"] += exact.size
            done["oracle_images"] += min(len(codes), oracle_images - start)
        done["images"] = start + len(codes)
        write_text(progress, json.dumps(done))
    return done


def command(run: Path) -> str:
    """Return the command that trains this run's network."""
    recipe = read_recipe(run)
    default = asdict(get_recipe(recipe.name))
    changed = {name: value for name, value in asdict(recipe).items() if value != default[name]}
    return " ".join(["maqd train", recipe.name, *(f"--{k.replace('_', '-')} {v}" for k, v in changed.items())])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--quick", action="store_true", help="200 images, 100 with the oracle")
    options = parser.parse_args(arguments)
    rows, failed = [], False
    for run in options.runs:
        recipe = read_recipe(run)
        done = check(run, 200 if options.quick else 10_000, 100 if options.quick else ORACLE_IMAGES)
        failed |= bool(done["mismatches"] or done["oracle_mismatches"])
        epochs = read_network(run).provenance["best_epoch"]
        rows.append(
            f"| `{recipe.model}` {recipe.plan} | {recipe.act_states} / {recipe.weight_states} | {recipe.norm} "
            f"| {epochs} of {recipe.epochs} | "
            f"{done['images']:,} | {done['values']:,} | **{done['mismatches']}** | "
            f"{done['oracle_images']:,} | {done['oracle_values']:,} | **{done['oracle_mismatches']}** |"
        )
        print(rows[-1])
    if options.out:
        where = machine()
        lines = [
            "# Fold check on CIFAR-10",
            "",
            "Every value of every op (input, accumulators, levels, pools, sums, scores) of trained networks, compared",
            "one by one: `model.eval()` against the torch executor of the folded network, and that against the NumPy",
            f"int64 oracle. Made by `benchmarks/fold_cifar10.py` on {date.today()}, {where['system']}, "
            f"{where['cores']} cores, torch {where['torch']}, Python {where['python']}.",
            "",
            "The networks were trained by " + " and ".join(f"`{command(run)}`" for run in options.runs) + ".",
            "",
            "| network | activation / weight states | normalization | epoch | images | values | differ | "
            "oracle: images | values | differ |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
        write_text(options.out, "\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MaqdError as error:
        sys.exit(f"fold_cifar10: {error}")
