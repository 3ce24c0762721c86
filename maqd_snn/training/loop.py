"""The training loop.

Axis letters: B batch, C channels, H height, W width.
"""

import csv
import io
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from tqdm import tqdm

from maqd_snn.datasets import ImageDataset, Splits
from maqd_snn.errors import MaqdError
from maqd_snn.files import write_text
from maqd_snn.graph import SpikingNetwork
from maqd_snn.models import build
from maqd_snn.training.augment import AUGMENTATIONS
from maqd_snn.training.checkpoint import (
    load_model,
    load_optimizer,
    optimizer_tensors,
    read_tensors,
    under_prefix,
    with_prefix,
    write_tensors,
)
from maqd_snn.training.config import Recipe
from maqd_snn.training.optimize import SCHEDULES, make_optimizer

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.csv"
EVAL_BATCH = 500
RATE_EVERY = 16  # steps between two looks at the spike rate


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured. Losses are mean cross-entropies (label-smoothed in training), accuracies shares."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    spike_rate: float
    seconds: float


@dataclass(frozen=True)
class Fit:
    """The outcome of a training: the model of the best epoch, in eval mode, and what every epoch measured."""

    model: SpikingNetwork
    history: tuple[Epoch, ...]
    best: Epoch


def mean_code(dataset: ImageDataset) -> int:
    """Return the mean input code of the images, rounded half up."""
    return math.floor(float(dataset.codes.double().mean()) + 0.5)


def build_model(recipe: Recipe, splits: Splits) -> SpikingNetwork:
    """Return the recipe's untrained network for this data; its weights depend on the seed alone."""
    card = splits.train.card
    torch.manual_seed(recipe.seed)
    return build(
        recipe.model,
        input_shape=card.shape,
        classes=len(card.classes),
        act_states=recipe.act_states,
        weight_states=recipe.weight_states,
        edge_states=recipe.edge_states,
        plan=recipe.plan,
        signed=recipe.signed,
        norm=recipe.norm,
        surrogate=recipe.surrogate,
        weight_step=recipe.weight_step,
        pool_first=recipe.pool_first,
        zero_point=mean_code(splits.train) if recipe.zero_point is None else recipe.zero_point,
        input_range=(card.low, card.high),
        input_kind=card.kind,
    )


def batches(dataset: ImageDataset, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (codes, labels) in order, `size` samples at a time."""
    for start in range(0, len(dataset), size):
        yield dataset.codes[start : start + size], dataset.labels[start : start + size]


@torch.no_grad()
def evaluate(model: SpikingNetwork, dataset: ImageDataset) -> tuple[float, float, float]:
    """Return (mean cross-entropy, accuracy, spike rate) of `model.eval()` on the dataset."""
    was_training = model.training
    model.eval()
    loss = correct = 0.0
    spikes = neurons = 0
    spiking = set(model.spiking_names())

    def watch(name: str, output: Tensor) -> None:
        nonlocal spikes, neurons
        if name in spiking:
            spikes += int(torch.count_nonzero(output))
            neurons += output.numel()

    for codes, labels in batches(dataset, EVAL_BATCH):
        scores = model(codes, watch)
        loss += float(F.cross_entropy(model.readout.logits(scores).float(), labels, reduction="sum"))
        correct += float((scores.argmax(1) == labels).sum())
    model.train(was_training)
    return loss / len(dataset), correct / len(dataset), spikes / max(neurons, 1)


def fit(recipe: Recipe, splits: Splits, out: Path, resume: bool = False, quiet: bool = False) -> Fit:
    """Train the recipe's network and return the model of the epoch with the lowest validation loss.

    Every epoch ends with a checkpoint and the metrics as CSV in `out`, both written atomically. Shuffling and
    augmentation draw from a generator seeded by (seed, epoch), so a resumed training continues as if it had never
    stopped. The test set is never looked at.

    Args:
        recipe: the configuration. splits: its data. out: an existing folder.
        resume: continue from the checkpoint in `out`, if there is one.
        quiet: no progress bar.

    Raises:
        MaqdError: a checkpoint of another recipe, an unwritable folder, a loss that is not finite.
    """
    model = build_model(recipe, splits)
    optimizer = make_optimizer(model, recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.momentum)
    history: list[Epoch] = []
    best_tensors: dict[str, Tensor] = {}
    checkpoint = out / CHECKPOINT
    if resume and checkpoint.exists():
        tensors, state = read_tensors(checkpoint)
        if state.get("recipe") != asdict(recipe):
            raise MaqdError(f"{str(checkpoint)!r} belongs to another recipe; give another --out, or the same options")
        load_model(model, under_prefix("model", tensors), str(checkpoint))
        load_optimizer(optimizer, under_prefix("optimizer", tensors), str(checkpoint))
        best_tensors = under_prefix("best", tensors)
        history = _history(state.get("history"), str(checkpoint))
    for name in model.wide_parts():
        tqdm.write(f"{name}: sums may pass 2^24; training may round them, evaluation runs in float64", file=sys.stderr)

    for epoch in range(len(history) + 1, recipe.epochs + 1):
        history.append(_train_epoch(model, optimizer, recipe, splits, epoch, quiet))
        if best(history) == history[-1]:
            best_tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        tensors = {
            **with_prefix("model", model.state_dict()),
            **with_prefix("best", best_tensors),
            **with_prefix("optimizer", optimizer_tensors(optimizer)),
        }
        rows = [asdict(entry) for entry in history]
        write_tensors(checkpoint, tensors, {"recipe": asdict(recipe), "history": rows})
        write_text(out / METRICS, metrics_csv(history))
    load_model(model, best_tensors, str(checkpoint))
    return Fit(model.eval(), tuple(history), best(history))


def best(history: list[Epoch]) -> Epoch:
    """Return the epoch of lowest validation loss, then highest validation accuracy, then the earliest.

    The loss comes first because it is the finer measure: among 180 images a lucky epoch in the middle of the training
    can be right on one more than the last ones.
    """
    return min(history, key=lambda entry: (entry.validation_loss, -entry.validation_accuracy, entry.epoch))


def metrics_csv(history: list[Epoch]) -> str:
    """Return the history as CSV text with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(entry) for entry in history)
    return text.getvalue()


def _history(rows: Any, where: str) -> list[Epoch]:
    names = {f.name for f in fields(Epoch)}
    for row in rows if isinstance(rows, list) else [None]:
        if (
            not isinstance(row, dict)
            or set(row) != names
            or not all(isinstance(value, int | float) for value in row.values())
        ):
            raise MaqdError(f"{where} holds no history of this version; train again")
    return [Epoch(**row) for row in rows]


def _train_epoch(
    model: SpikingNetwork,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    splits: Splits,
    epoch: int,
    quiet: bool,
) -> Epoch:
    model.train()
    data, started = splits.train, time.perf_counter()
    generator = Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    order = torch.randperm(len(data), generator=generator)
    # An incomplete last batch is left to the next epoch's shuffle: its statistics would be those of few samples.
    steps = max(1, len(data) // recipe.batch_size)
    augment, schedule = AUGMENTATIONS[recipe.augment], SCHEDULES[recipe.schedule]
    loss_sum = correct = rate = 0.0
    seen = 0
    spiking = set(model.spiking_names())
    lr = recipe.lr
    # The bar is for people at a terminal; elsewhere one line per epoch is printed.
    bar = tqdm(total=steps, desc=f"epoch {epoch}/{recipe.epochs}", leave=False, disable=True if quiet else None)
    with bar:
        for step in range(steps):
            chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            codes = augment(data.codes[chosen], model.input_spec.zero_point, generator)
            labels = data.labels[chosen]
            lr = recipe.lr * schedule((step + (epoch - 1) * steps) / (steps * recipe.epochs), recipe.warmup)
            for group in optimizer.param_groups:
                group["lr"] = lr
            rates: list[float] = []

            def watch(name: str, output: Tensor, rates: list[float] = rates) -> None:
                if name in spiking:
                    rates.append(torch.count_nonzero(output).item() / output.numel())

            logits = model(codes, watch if step % RATE_EVERY == 0 else None)
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            value = loss.item()
            if not math.isfinite(value):
                raise MaqdError(
                    f"the loss became {value} in epoch {epoch}, step {step + 1}; lower --lr and start again"
                )
            optimizer.step()
            loss_sum += value * len(chosen)
            correct += float((logits.argmax(1) == labels).sum())
            seen += len(chosen)
            if rates:
                rate = sum(rates) / len(rates)
            bar.set_postfix(loss=f"{loss_sum / seen:.3f}", accuracy=f"{correct / seen:.3f}", spikes=f"{rate:.3f}")
            bar.update()
    validation_loss, validation_accuracy, spike_rate = evaluate(model, splits.validation)
    entry = Epoch(
        epoch=epoch,
        lr=lr,
        train_loss=loss_sum / seen,
        train_accuracy=correct / seen,
        validation_loss=validation_loss,
        validation_accuracy=validation_accuracy,
        spike_rate=spike_rate,
        seconds=time.perf_counter() - started,
    )
    if not quiet:
        tqdm.write(
            f"epoch {epoch:3d}/{recipe.epochs}  loss {entry.train_loss:.3f}  accuracy {entry.train_accuracy:.3f}  "
            f"validation {entry.validation_accuracy:.3f}  spike rate {spike_rate:.3f}  {entry.seconds:.1f} s",
            file=sys.stderr,
        )
    return entry
