"""The untrained network of a recipe.

Axis letters: C channels, H height, W width.
"""

import math
from dataclasses import fields, replace

import torch

from maqd_snn.datasets import ImageDataset, Splits
from maqd_snn.graph import SpikingNetwork
from maqd_snn.models import build
from maqd_snn.surrogate import Annealed, as_surrogate
from maqd_snn.training.config import Recipe


def mean_code(dataset: ImageDataset) -> int:
    """Return the mean input code of the images, rounded half up."""
    return math.floor(float(dataset.codes.double().mean()) + 0.5)


def build_model(recipe: Recipe, splits: Splits) -> SpikingNetwork:
    """Return the recipe's untrained network for this data; its weights depend on the seed alone."""
    card = splits.train.card
    torch.manual_seed(recipe.seed)
    quantization = recipe.quantization()
    if recipe.surrogate_width_end is not None:
        annealed = Annealed(as_surrogate(recipe.surrogate), recipe.surrogate_width_end)
        quantization = replace(quantization, surrogate=annealed, surrogate_width=1.0)
    return build(
        recipe.model,
        input_shape=card.shape,
        classes=len(card.classes),
        plan=recipe.plan,
        zero_point=_zero_point(recipe, splits.train),
        input_range=(card.low, card.high),
        input_kind=card.kind,
        **{field.name: getattr(quantization, field.name) for field in fields(quantization)},
    )


def _zero_point(recipe: Recipe, train: ImageDataset) -> int:
    if recipe.zero_point is not None:
        return recipe.zero_point
    return 0 if train.card.kind == "events" else mean_code(train)  # no event is no input
