"""Optimizers and learning-rate schedules. A schedule is a pure function of the step, so there is nothing to resume."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from maqd_snn.training.muon import Muon


def cosine(progress: float, warmup: float) -> float:
    """Return the share of the peak rate at `progress` in [0, 1]: a linear rise over `warmup`, then a half cosine to 0.

    >>> [round(cosine(p, 0.2), 3) for p in (0.1, 0.2, 0.6, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if progress < warmup:
        return progress / warmup
    return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def one_cycle(progress: float, warmup: float) -> float:
    """Return the share of the peak rate: a half cosine from 1/25 up to 1 over `warmup`, then one down to 1e-4 of that.

    Source: Smith & Topin, arXiv 1708.07120, with cosine annealing.

    >>> [round(one_cycle(p, 0.25), 3) for p in (0.0, 0.25, 1.0)]
    [0.04, 1.0, 0.0]
    """
    start, end = 1 / 25, 1e-4 / 25
    if progress < warmup:
        return start + (1 - start) * (1 - math.cos(math.pi * progress / warmup)) / 2
    return end + (1 - end) * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


SCHEDULES: Mapping[str, Callable[[float, float], float]] = MappingProxyType({"cosine": cosine, "onecycle": one_cycle})


def _adamw(groups: list[dict[str, Any]], lr: float, momentum: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=lr)


def _sgd(groups: list[dict[str, Any]], lr: float, momentum: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)


def _muon(groups: list[dict[str, Any]], lr: float, momentum: float) -> torch.optim.Optimizer:
    matrices, rest = groups
    return Muon([{**matrices, "orthogonal": True}, {**rest, "orthogonal": False}], lr=lr, momentum=momentum)


OPTIMIZERS: Mapping[str, Callable[[list[dict[str, Any]], float, float], torch.optim.Optimizer]] = MappingProxyType(
    {"adamw": _adamw, "sgd": _sgd, "muon": _muon}
)


def make_optimizer(
    model: nn.Module, name: str, lr: float, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    """Return the optimizer `name` over the model's parameters; gains and biases (one axis or none) do not decay."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[name](groups, lr, momentum)
