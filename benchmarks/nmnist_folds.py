"""N-MNIST in folds: the recipe `nmnist`, trained and tested on every recording that is there.

    maqd bench nmnist-folds [--folds 5] [--work runs/nmnist-folds] [--write docs/events.md] [--quick]

All recordings, training and test parts together, are dealt into folds by a fixed permutation. Each fold is the test set
once: of the others a tenth, fixed too, chooses the epoch, the rest is trained on. Accuracy and SynOps are those of the
folded integer network. The folder of work keeps every finished fold and the checkpoint of the one that runs: the same
command goes on where it was.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from maqd_snn import datasets
from maqd_snn.benchmarks.document import around, replace_between
from maqd_snn.benchmarks.folds import check_folds, run_fold
from maqd_snn.datasets import ImageDataset
from maqd_snn.errors import MaqdError
from maqd_snn.runs import machine
from maqd_snn.training import Recipe, get_recipe

BEGIN, END = "<!-- folds: maqd bench nmnist-folds -->", "<!-- end of folds -->"


def all_recordings(recipe: Recipe, root: Path | None) -> ImageDataset:
    """Return every recording of the recipe's dataset, training part first."""
    train_part, test_part = datasets.load(recipe.dataset, root)
    codes = torch.cat([train_part.codes, test_part.codes])
    return ImageDataset(train_part.card, "all", codes, torch.cat([train_part.labels, test_part.labels]))


def table(recipe: Recipe, title: str, found: list[dict[str, Any]]) -> str:
    """Return the result as Markdown."""
    accuracies = [100 * fold["accuracy"] for fold in found]
    where = machine()
    return "\n".join(
        [
            "| fold | train / validation / test | epoch | right on test | SynOps | dense MACs | folding differs |",
            "|---|---|---|---|---|---|---|",
            *(
                f"| {number} | {' / '.join(map(str, fold['parts']))} | {fold['best_epoch']} of {recipe.epochs} "
                f"| {100 * fold['accuracy']:.1f} % | {fold['synops']:,.0f} | {fold['dense_macs']:,.0f} "
                f"| {fold['fold_mismatches']} |"
                for number, fold in enumerate(found, start=1)
            ),
            f"| **mean** | | | **{statistics.fmean(accuracies):.2f} %** "
            f"| {statistics.fmean(fold['synops'] for fold in found):,.0f} "
            f"| {statistics.fmean(fold['dense_macs'] for fold in found):,.0f} | |",
            "",
            f"{title}; standard deviation over the folds {statistics.stdev(accuracies):.2f} points. "
            f"{recipe.act_states} activation states, {recipe.weight_states} weight states, one seed. From "
            f"`maqd bench nmnist-folds` (`benchmarks/nmnist_folds.py`), {datetime.now(UTC).date()}, "
            f"{where['cores']} CPU cores, torch {where['torch']}.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the folds that are not done, print the table, and write it between the markers of a document."""
    parser = argparse.ArgumentParser(
        prog="maqd bench nmnist-folds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folds", type=int, default=5, help="how many (default: 5)")
    parser.add_argument("--work", type=Path, default=Path("runs/nmnist-folds"), help="folder that keeps what is done")
    parser.add_argument(
        "--data-root", type=Path, help="folder of the datasets (default: $MAQD_DATA_ROOT, else a cache)"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="document to write the table into")
    parser.add_argument("--quick", action="store_true", help="two folds, one epoch")
    options = parser.parse_args(arguments)
    if options.write:
        around(options.write, BEGIN, END)  # no place for the table: said before the work, not after it
    recipe, folds, work = get_recipe("nmnist"), options.folds, options.work
    if options.quick:
        recipe, folds, work = replace(recipe, epochs=1), 2, work / "quick"
    data = all_recordings(recipe, options.data_root)
    check_folds(folds, data)
    found = []
    for number in range(folds):
        found.append(run_fold(recipe, data, folds, number, work / f"fold{number + 1}"))
        print(f"fold {number + 1} of {folds}: {100 * found[-1]['accuracy']:.1f} % right", flush=True)
    lines = table(recipe, data.card.title, found)
    print(lines)
    if options.write:
        replace_between(options.write, BEGIN, END, lines)
    return int(any(fold["fold_mismatches"] for fold in found))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MaqdError as error:
        sys.exit(f"nmnist_folds: {error}")
