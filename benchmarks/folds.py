"""Folds: every sample of a dataset is tested once, by a network that was trained on the others."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maqd_snn.benchmarks.document import when
from maqd_snn.datasets import ImageDataset, Splits
from maqd_snn.datasets.splits import SPLIT_SEED, hold_out
from maqd_snn.files import write_text
from maqd_snn.runs import fold_run, simulate_run, train
from maqd_snn.training import Fit, Recipe
from maqd_snn.training.loop import evaluate


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


def run_fold(
    recipe: Recipe, data: ImageDataset, folds: int, number: int, out: Path, deal: int = 0, quiet: bool = False
) -> dict[str, Any]:
    """Train, fold and test one fold, or return what an earlier call with the same recipe and data found.

    Accuracy and SynOps are those of the folded integer network; of what does not fold there is accuracy alone.
    """
    file = out / "result.json"
    inputs = {"recipe": asdict(recipe), "folds": folds, "samples": len(data), "deal": deal}
    if file.is_file():
        before: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if before["inputs"] == inputs:
            return before
    out.mkdir(parents=True, exist_ok=True)
    splits = fold_splits(data, folds, number, deal)
    result = train(recipe, splits, out, resume=True, quiet=quiet)
    tested = evaluate(result.model, splits.test)
    assert tested is not None  # nothing stops it
    found = {
        "inputs": inputs,
        "parts": [len(splits.train), len(splits.validation), len(splits.test)],
        "accuracy": tested.accuracy,
        "loss": tested.loss,
        "best_epoch": result.best.epoch,
        "when": when(),
        "seconds": sum(epoch.seconds for epoch in result.history),
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
