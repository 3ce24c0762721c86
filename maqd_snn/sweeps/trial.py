"""One trial: a point of the space becomes a run folder with a trained, folded network, and the figures of the front."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from maqd_snn.baselines import baselines
from maqd_snn.datasets import ImageDataset, Splits
from maqd_snn.files import write_text
from maqd_snn.folding import fold
from maqd_snn.integer import IntegerNetwork
from maqd_snn.integer.storage import fingerprint
from maqd_snn.neuromorphic.hardware import fit as fit_chip
from maqd_snn.neuromorphic.hardware import get_chip
from maqd_snn.pricing import energy
from maqd_snn.runs import SIMULATION_BATCH, fold_run, open_run, read_recipe, train
from maqd_snn.simulation import simulate
from maqd_snn.sweeps.rows import TWIN
from maqd_snn.sweeps.space import Spec
from maqd_snn.training import Execution, Recipe, build_model
from maqd_snn.training.checkpoint import previous
from maqd_snn.training.loop import CHECKPOINT, batches, shares
from maqd_snn.training.watching import Epoch

Curve = list[tuple[int, float, float]]
FIGURES = "trial.json"
LOW_BIT, INT8 = "dense-low-bit", "dense-int8"


def recipe_of(spec: Spec, slot: str, point: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a trial; raises MaqdError where the point is no possible network."""
    return spec.space.recipe.twin() if slot == TWIN else spec.space.at(point)


def first_images(splits: Splits, count: int | None) -> Splits:
    """Return the splits with the first so many training images alone; None leaves all."""
    if count is None or count >= len(splits.train):
        return splits
    train = splits.train
    return replace(splits, train=replace(train, codes=train.codes[:count], labels=train.labels[:count]))


def check_possible(recipe: Recipe, splits: Splits) -> None:
    """Build the network and share its batch, as the training would; raises MaqdError."""
    build_model(recipe, splits)
    shares(recipe, len(splits.train), 1)


def run_trial(
    recipe: Recipe,
    spec: Spec,
    splits: Splits,
    out: Path,
    execution: Execution,
    report: Callable[[Curve], None],
) -> dict[str, Any]:
    """Train in the folder `out`, or go on there, fold, and return what was measured on the validation images.

    The folder is an ordinary run; checkpoints are removed once the network is in it. `report` is given the epochs so
    far after each of them, and may raise to end the trial.
    """
    work = _work(recipe, splits)

    def after_epoch(history: Sequence[Epoch]) -> None:
        report([(entry.epoch, entry.validation_accuracy, work(entry.spike_rate)) for entry in history])

    open_run(out, recipe, resume=True, overwrite=False)
    if (kept := read_figures(out)) is not None:  # finished, but the storage was not there to be told
        return kept
    result = train(recipe, splits, out, True, True, execution, None, after_epoch)
    figures: dict[str, Any] = {
        "accuracy": result.best.validation_accuracy,
        "epoch": result.best.epoch,
        "epochs": len(result.history),
        "training_seconds": sum(entry.seconds for entry in result.history),
        "kind": recipe.kind,
        "act_states": recipe.act_states,
        "weight_states": recipe.weight_states,
        "plan": recipe.plan,
        "seed": recipe.seed,
    }
    if recipe.foldable:
        net = fold_run(recipe, splits, result, out)
        check = net.provenance["fold_check"]
        figures |= measure(net, splits.validation, spec.profile, spec.chip)
        figures |= {"fold_values": check["values"], "fold_mismatches": check["mismatches"]}
    write_text(out / FIGURES, json.dumps(figures, indent=1))
    for path in (out / CHECKPOINT, previous(out / CHECKPOINT)):
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return figures


def read_figures(out: Path) -> dict[str, Any] | None:
    """Return the figures in the folder of a finished trial, or None."""
    try:
        figures = json.loads((out / FIGURES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return figures if isinstance(figures, dict) else None


def _work(recipe: Recipe, splits: Splits) -> Callable[[float], float]:
    """Return an estimate of the work per image by the network's mean spike rate: dense MACs, and SynOps."""
    if not recipe.foldable:
        return lambda rate: float("inf")
    torch.manual_seed(recipe.seed)
    total = simulate(fold(build_model(recipe, splits).eval()), [splits.validation.codes[:2]]).total
    dense, macs = total.dense_macs / 2, total.macs / 2
    return lambda rate: macs + rate * (dense - macs)


def measure(net: IntegerNetwork, data: ImageDataset, profile: str, chip: str = "") -> dict[str, Any]:
    """Return the figures of a network on the images: the same network and images give the same figures, to the bit.

    `accuracy`: share of the images. `synops`, `effective_synops`, `dense_macs`, `macs` (charged dense): per image.
    `energy`: pJ per image, None where a price was never published. `dense_low_bit`, `dense_int8`: the same network with
    every connection computed, pJ per image. `bytes`: of its weights at their bit widths. `cores`: on the chip, None
    where it does not fit or none was given. `network`: its digest.
    """
    report = simulate(net, batches(data, SIMULATION_BATCH))
    total, samples = report.total, report.samples
    dense = {entry.name: entry.energy_pj for entry in baselines(report)}
    plan = fit_chip(net, get_chip(chip), advise=False) if chip else None
    weights = [(layer.weights, layer.weight_bits) for layer in report.layers if layer.weights]
    return {
        "accuracy": report.accuracy,
        "samples": samples,
        "synops": total.synops / samples,
        "effective_synops": total.effective_synops / samples,
        "dense_macs": total.dense_macs / samples,
        "macs": total.macs / samples,
        "energy": energy(report, profile).total_pj,
        "dense_low_bit": dense[LOW_BIT],
        "dense_int8": dense[INT8],
        "bytes": sum(-(-count * bits // 8) for count, bits in weights),
        "weights": sum(count for count, _ in weights),
        "cores": plan.cores if plan is not None and plan.fits is not False else None,
        "network": fingerprint(net),
    }


def take_over(folder: Path, before: str | None, mine: str, recipe: Recipe) -> Path:
    """Return the folder of a trial; what an attempt before it has trained here is moved there, to go on from."""
    out = folder / mine
    if before is not None and not out.exists() and (folder / before).is_dir():
        with suppress(Exception):  # of another recipe, or damaged: begin anew
            if read_recipe(folder / before) == recipe:
                os.replace(folder / before, out)
    return out
