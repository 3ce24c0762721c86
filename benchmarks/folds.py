"""Folds: every sample of a dataset is tested once, by a network that was trained on the others."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maqd_snn.benchmarks.document import read_json, when
from maqd_snn.datasets import ImageDataset, Splits
from maqd_snn.datasets.splits import SPLIT_SEED, hold_out
from maqd_snn.errors import MaqdError
from maqd_snn.files import write_text
from maqd_snn.runs import fold_run, simulate_run, train
from maqd_snn.training import Fit, Recipe
from maqd_snn.training.loop import evaluate

_FIELDS = {"parts", "accuracy", "loss", "best_epoch", "when"}


def fold_splits(data: ImageDataset, folds: int, number: int, deal: int = 0) -> Splits:
    """Return the parts of fold `number`: samples number, number + folds, ... of a fixed permutation are its test.

    Of the others a tenth, fixed too, is for validation. Each `deal` is another permutation.
    """
    order = np.random.RandomState(SPLIT_SEED + deal).permutation(len(data))
    tested = np.zeros(len(data), np.bool_)
    tested[order[number::folds]] = True

    def part(name: str, mask: Any) -> ImageDataset:
        index = torch.from_numpy(np.flatnonzero(mask))
        return ImageDataset(data.card, name, data.codes[index], data.labels[index])

    rest = part("train+validation", ~tested)
    return Splits(*hold_out(rest, max(1, len(rest) // 10), "train", "validation"), part("test", tested))


def check_folds(folds: int, data: ImageDataset) -> None:
    """Raise MaqdError unless each fold has a sample to test, and others to train and to validate with."""
    if not 2 <= folds <= len(data):
        raise MaqdError(f"--folds must lie in 2..{len(data):,}, the number of samples, got {folds}")


def run_fold(
    recipe: Recipe, data: ImageDataset, folds: int, number: int, out: Path, deal: int = 0, quiet: bool = False
) -> dict[str, Any]:
    """Train, fold and test one fold in the folder `out`, or return what an earlier call found.

    Accuracy and SynOps are those of the folded integer network; of what does not fold there is accuracy alone.

    Raises:
        MaqdError: the folder is of another recipe, of other folds or data; a file in it is damaged.
    """
    inputs = {"recipe": asdict(recipe), "folds": folds, "number": number, "samples": len(data), "deal": deal}
    begun, file = out / "inputs.json", out / "result.json"
    foreign = read_json(begun) != inputs if begun.is_file() else file.is_file()  # a result of nobody knows what
    if foreign:
        raise MaqdError(
            f"{str(out)!r} holds a training of another recipe, of other folds or of other data; give another --work, "
            "or remove the folder"
        )
    if file.is_file():
        before = read_json(file)
        if not isinstance(before, dict) or _FIELDS - before.keys():
            raise MaqdError(f"{str(file)!r} is no result of a fold; give another --work, or remove the file")
        return before
    out.mkdir(parents=True, exist_ok=True)
    write_text(begun, json.dumps(inputs, indent=1))
    splits = fold_splits(data, folds, number, deal)
    result = train(recipe, splits, out, resume=True, quiet=quiet)
    tested = evaluate(result.model, splits.test)
    assert tested is not None  # nothing stops it
    found = {
        "parts": [len(splits.train), len(splits.validation), len(splits.test)],
        "accuracy": tested.accuracy,
        "loss": tested.loss,
        "best_epoch": result.best.epoch,
        "when": when(),
        **(_folded(recipe, splits, result, out) if recipe.foldable else {}),
    }
    write_text(file, json.dumps(found, indent=1))
    return found


def _folded(recipe: Recipe, splits: Splits, result: Fit, out: Path) -> dict[str, Any]:
    net = fold_run(recipe, splits, result, out)
    simulation = simulate_run(net, splits)
    assert simulation.accuracy is not None  # the splits have labels
    return {
        "accuracy": simulation.accuracy,
        "synops": simulation.total.synops / simulation.samples,
        "dense_macs": simulation.total.dense_macs / simulation.samples,
        "fold_mismatches": net.provenance["fold_check"]["mismatches"],
    }
