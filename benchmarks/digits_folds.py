"""Settings of the recipe `digits`, compared in folds of the scans that are not for testing.

    maqd bench digits-folds [--deals 2] [--folds 4] [--work DIR] [--only NAME ...] [--write docs/accuracy.md] [--quick]

The scans are dealt into folds, --deals times, each time in another order. Each fold is held out once: of the others a
tenth chooses the epoch, the rest is trained on. The 360 test scans are not looked at. The folder of work keeps every
finished training and the checkpoint of the one that runs: the same command goes on where it was. Several calls may work
in one folder, each on variants of its own (--only).
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from maqd_snn import datasets
from maqd_snn.benchmarks.document import around, replace_between
from maqd_snn.benchmarks.folds import check_folds, run_fold
from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.reporting.units import quantity
from maqd_snn.training import get_recipe

BEGIN, END = "<!-- folds: maqd bench digits-folds -->", "<!-- end of folds -->"
# What the compared trainings have of their own, so that they stay what they are when the recipe changes.
REFERENCE: Mapping[str, Any] = MappingProxyType(
    {
        "plan": "32-64-M-128",
        "epochs": 40,
        "batch_size": 32,
        "augment": "warp",
        "lr": 0.1,
        "warmup": 0.25,
        "momentum": 0.6,
        "surrogate": "triangle",
        "surrogate_width": 1.0,
        "ema": 0.0,
    }
)
_TWIN = {"act_states": None, "weight_states": None}
VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "reference": {},
        "float twin": _TWIN,
        "averaged": {"ema": 0.99},
        "averaged float twin": {**_TWIN, "ema": 0.99},
        "surrogate twice as wide": {"surrogate_width": 2.0},
        "averaged with surrogate twice as wide": {"ema": 0.99, "surrogate_width": 2.0},
        "averaged with rate 0.05": {"ema": 0.99, "lr": 0.05},
        "averaged with rate 0.2": {"ema": 0.99, "lr": 0.2},
        "averaged with 60 epochs": {"ema": 0.99, "epochs": 60},
    }
)


def table(found: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> str:
    """Return a row for each variant: means of its trainings, and in how many of the same folds its loss is lower."""
    lines = [
        "| variant | held out: right | wrong | cross-entropy | lower than the reference's | SynOps "
        "| fold check: values that differ |",
        "|---|---|---|---|---|---|---|",
    ]
    reference = found.get("reference")
    for name, folds in found.items():
        wrong = sum(round((1 - fold["accuracy"]) * fold["parts"][2]) for fold in folds)
        tested = sum(fold["parts"][2] for fold in folds)
        counts = "| |"  # what stays in float has none
        if "synops" in folds[0]:
            synops = statistics.fmean(fold["synops"] for fold in folds)
            counts = f"{quantity(synops)} | {sum(fold['fold_mismatches'] for fold in folds)} |"
        lines.append(
            f"| {name} | {100 * (1 - wrong / tested):.2f} % | {wrong} of {tested:,} "
            f"| {statistics.fmean(fold['loss'] for fold in folds):.4f} | {_lower(folds, reference)} | {counts}"
        )
    return "\n".join(
        [
            *dict.fromkeys(fold["when"] for folds in found.values() for fold in folds),
            f"{title}; {len(next(iter(found.values())))} trainings a row, each of another seed.",
            "",
            *lines,
        ]
    )


def _lower(folds: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]] | None) -> str:
    if reference is None or folds is reference:
        return ""
    lower = sum(one["loss"] < other["loss"] for one, other in zip(folds, reference, strict=True))
    return f"in {lower} of {len(folds)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trainings that are not done, print the table, and write it between the markers of a document."""
    parser = argparse.ArgumentParser(
        prog="maqd bench digits-folds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--deals", type=int, default=2, help="how often all scans are dealt (default: 2)")
    parser.add_argument("--folds", type=int, default=4, help="how many folds (default: 4)")
    parser.add_argument("--work", type=Path, default=Path("runs/digits-folds"), help="folder that keeps what is done")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these variants alone")
    parser.add_argument("--write", type=Path, metavar="FILE", help="document to write the table into")
    parser.add_argument("--quick", action="store_true", help="one deal, two folds, five steps: shows that it runs")
    options = parser.parse_args(arguments)
    if options.deals < 1:
        raise MaqdError(f"--deals must be at least 1, got {options.deals}")
    if options.write and options.only:
        raise MaqdError("--write replaces the whole table; leave out --only (what is trained is not trained again)")
    for name in options.only or ():
        if name not in VARIANTS:
            raise unknown_name("variant", name, VARIANTS)
    if options.write:
        around(options.write, BEGIN, END)  # no place for the table: said before the work, not after it
    base, work = replace(get_recipe("digits"), **REFERENCE), options.work
    deals, folds = options.deals, options.folds
    if options.quick:
        base, deals, folds, work = replace(base, max_steps=5), 1, 2, work / "quick"
    data, _ = datasets.load(base.dataset)
    check_folds(folds, data)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS if name in (options.only or VARIANTS)}
    for deal in range(deals):
        for number in range(folds):
            for name, rows in found.items():
                recipe = replace(base, **VARIANTS[name], seed=deal * folds + number)
                out = work / f"{folds}-folds" / name.replace(" ", "-") / f"{deal + 1}-{number + 1}"
                rows.append(run_fold(recipe, data, folds, number, out, deal, quiet=True))
                right = f"{100 * rows[-1]['accuracy']:.2f} % right, cross-entropy {rows[-1]['loss']:.4f}"
                print(f"deal {deal + 1} of {deals}, fold {number + 1} of {folds}, {name}: {right}", flush=True)
    steps = f"{base.max_steps} steps each" if options.quick else f"{base.epochs} epochs unless the row says otherwise"
    title = f"The {len(data):,} scans of {data.card.title!r} that are not for testing, dealt {deals} times"
    lines = table(found, f"{title} into {folds} folds; {steps}")
    print(lines)
    if options.write:
        replace_between(options.write, BEGIN, END, lines)
    return int(any(row.get("fold_mismatches") for rows in found.values() for row in rows))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MaqdError as error:
        sys.exit(f"digits_folds: {error}")
