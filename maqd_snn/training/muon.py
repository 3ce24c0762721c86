"""Muon: steps along orthogonalized momentum, for the weights of standardized layers.

Axis letters: O output channels, I everything else of a filter.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalized(update: Tensor, steps: int = 5) -> Tensor:
    """Return about the nearest matrix with orthonormal rows or columns, by Newton-Schulz steps; any shape (O, ...).

    With X scaled to a largest singular value below 1, each step is X <- aX + (bA + cA^2) X, A = X X^T. Singular values
    end between about 0.7 and 1.2.

    Source: Jordan et al., Muon (2024), with its coefficients.

    >>> u = orthogonalized(torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0))).flatten(1)
    >>> s = torch.linalg.svdvals(u)
    >>> bool(s.min() > 0.5 and s.max() < 1.5)
    True
    """
    a, b, c = NEWTON_SCHULZ
    x: Tensor = update.flatten(1)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.T if tall else x
    return x.reshape(update.shape)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized, for groups with `orthogonal`; Adam with the same rate times `scalar_rate` for the rest.

    m <- momentum * m + g; w <- normalized(w) - lr * orthogonalized(g + momentum * m). Before its step each weight is
    scaled so that its filters have mean square norm 1: a standardized layer computes the same, and a step changes O
    filters of K weights by about lr * sqrt(min(1, K/O)) of their size, whatever they have grown to: by half of lr where
    64 filters see 3x3 pixels of one channel. Weight decay therefore has no effect on these groups.

    Args:
        groups: parameter groups, each with `orthogonal`.
        lr: relative step of a layer with K >= O. momentum: of the gradients, with Nesterov's look ahead.
        scalar_rate: Adam's rate over lr.

    Source: Jordan et al., Muon (2024); weights scaled in each step as in airbench94 (Jordan, 2024).
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, momentum: float = 0.6, scalar_rate: float = 0.05
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "scalar_rate": scalar_rate})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            move = self._orthogonal if group["orthogonal"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    move(parameter, parameter.grad, group)

    def _orthogonal(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(group["momentum"]).add_(grad)
        update = orthogonalized(grad + group["momentum"] * state["momentum"])
        parameter.mul_(math.sqrt(len(parameter)) / (parameter.norm() + 1e-7))
        parameter.sub_(update, alpha=group["lr"])

    def _adam(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["first"], state["second"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["steps"] = torch.zeros(())
        state["steps"] += 1
        state["first"].lerp_(grad, 0.1)
        state["second"].lerp_(grad.square(), 0.01)
        steps = float(state["steps"])
        first = state["first"] / (1 - 0.9**steps)
        second = state["second"] / (1 - 0.99**steps)
        rate = group["lr"] * group["scalar_rate"]
        parameter.sub_(first / (second.sqrt() + 1e-8), alpha=rate)
