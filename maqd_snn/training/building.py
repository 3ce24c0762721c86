"""The untrained network of a recipe.

Axis letters: C channels, H height, W width.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from maqd_snn.datasets import ImageDataset, Splits
from maqd_snn.errors import MaqdError
from maqd_snn.graph import SpikingNetwork
from maqd_snn.models import build
from maqd_snn.surrogate import Annealed, as_surrogate
from maqd_snn.training.checkpoint import load_model
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


def trained_model(
    recipe: Recipe, splits: Splits, tensors: Mapping[str, Tensor], state: Mapping[str, Any], where: str
) -> SpikingNetwork:
    """Return the network of a trained recipe, in eval mode; `tensors` and `state` are those of its file `where`.

    Its zero point is the one that it was trained with: of a part of the training images, say, whose mean is another.

    Raises:
        MaqdError: tensors of another network, a zero point that is no input code.
    """
    if "zero_point" in state:
        low, high = splits.train.card.low, splits.train.card.high
        zero_point = state["zero_point"]
        if type(zero_point) is not int or not low <= zero_point <= high:
            raise MaqdError(f"{where} does not fit the model of its recipe: its zero point is {zero_point!r}")
        recipe = replace(recipe, zero_point=zero_point)
    model = build_model(recipe, splits)
    load_model(model, tensors, where)
    return model.eval()


def _zero_point(recipe: Recipe, train: ImageDataset) -> int:
    if recipe.zero_point is not None:
        return recipe.zero_point
    return 0 if train.card.kind == "events" else mean_code(train)  # no event is no input
