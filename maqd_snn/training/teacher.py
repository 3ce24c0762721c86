"""Distillation: a trained network, the float twin say, whose softened outputs are learned beside the labels.

Axis letters: B batch, C channels, H height, W width.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from maqd_snn.datasets import Splits
from maqd_snn.errors import MaqdError
from maqd_snn.graph import SpikingNetwork
from maqd_snn.training.building import trained_model
from maqd_snn.training.checkpoint import MODEL, read_tensors
from maqd_snn.training.config import Recipe


def divergence(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(p || q) with p = softmax(taught/T) and q = softmax(logits/T), the mean over the batch.

    T^2 keeps the size of the gradients whatever the temperature T.

    Args:
        logits, taught: (B, classes), of the student and of the teacher.
        temperature: T > 0.

    Source: Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network, arXiv 1503.02531.

    >>> divergence(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), 2.0)
    tensor(0.4438)
    """
    p, q = (F.log_softmax(values / temperature, 1) for values in (taught, logits))
    return temperature**2 * F.kl_div(q, p, reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class Teacher:
    """A trained network in eval mode, and what part of the loss it has.

    `fingerprint` is the sha256 of the file that it is from.
    """

    model: SpikingNetwork
    fingerprint: str
    weight: float
    temperature: float

    @torch.no_grad()
    def logits(self, codes: Tensor) -> Tensor:
        """Return its logits, (B, classes), for input codes (B, C, H, W)."""
        return self.model.readout.logits(self.model(codes)).float()

    def mixed(self, loss: Tensor, logits: Tensor, codes: Tensor) -> Tensor:
        """Return (1 - w) * loss + w * `divergence`, w the weight, for the logits of the same codes."""
        return (1 - self.weight) * loss + self.weight * divergence(logits, self.logits(codes), self.temperature)


def load_teacher(recipe: Recipe, splits: Splits) -> Teacher | None:
    """Return the teacher of a recipe, on the CPU; None where it has none.

    Raises:
        MaqdError: the folder holds no trained network, a damaged one, or one for another dataset, whose classes and
            inputs would be others.
    """
    if recipe.teacher is None:
        return None
    file = Path(recipe.teacher) / MODEL
    tensors, state = read_tensors(file)
    theirs = Recipe.from_dict(state.get("recipe"), str(file))
    if theirs.dataset != recipe.dataset:
        card = splits.train.card
        raise MaqdError(
            f"the teacher {recipe.teacher!r} was trained on {theirs.dataset}, but {recipe.dataset} has inputs "
            f"{card.shape} and {len(card.classes)} classes of its own; give the run of a network for {recipe.dataset}"
        )
    model = trained_model(theirs, splits, tensors, state, str(file))
    with file.open("rb") as opened:
        fingerprint = hashlib.file_digest(opened, "sha256").hexdigest()
    return Teacher(model, fingerprint, recipe.distillation, recipe.temperature)
