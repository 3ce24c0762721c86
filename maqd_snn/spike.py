"""Graded spikes: normalize an accumulator, round and clip it to a level. The level is the spike.

Axis letters: B batch, C channels, H height, W width; z is an integer accumulator (B, C) or (B, C, H, W).
"""

import torch
from torch import Tensor

from maqd_snn.errors import MaqdError
from maqd_snn.rounding import round_half_up
from maqd_snn.surrogate import Surrogate, staircase_derivative
from maqd_snn.weights import least_squares_step

MAX_ACTIVATION_STATES = 256


def check_activation_states(states: int) -> int:
    """Return `states` if it is a whole number from 2 to 256, else raise MaqdError."""
    if isinstance(states, bool) or not isinstance(states, int) or not 2 <= states <= MAX_ACTIVATION_STATES:
        raise MaqdError(f"activation states must be a whole number from 2 to {MAX_ACTIVATION_STATES}, got {states!r}")
    return states


def least_squares_gain(n: int) -> float:
    """Return the gain g at which levels k of x = g*u describe the positive half of a unit normal u with least error.

    E[(max(0, u) - s*k)^2] is smallest where s = 1/(n*g) is the step of least squared error of a symmetric quantizer of
    2n + 1 levels: its positive half is the same problem.

    >>> [round(least_squares_gain(n), 3) for n in (1, 3, 15)]
    [0.817, 0.512, 0.345]
    """
    return 1 / (n * least_squares_step(tuple(range(-n, n + 1))))


def normalize(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return a*z + b in float32, as one multiplication and one addition, never fused.

    Args:
        z: (B, C) or (B, C, H, W).
        a, b: (C,), or (B, C) for statistics per sample.
    """
    shape = (*a.shape, *(1,) * (z.ndim - 2)) if a.ndim == 2 else (1, *a.shape, *(1,) * (z.ndim - 2))
    return z.to(torch.float32) * a.view(shape) + b.view(shape)


def level(x: Tensor, low: int, n: int) -> Tensor:
    """Return clip(floor(n*x + 1/2), low, n): the integer level of the activation x, held in floating point.

    >>> level(torch.tensor([-1.0, 0.16, 0.17, 0.5, 2.0]), low=0, n=3).tolist()
    [0.0, 0.0, 1.0, 2.0, 3.0]
    """
    return round_half_up(x * n).clamp_(low, n)


def normalize_and_level(z: Tensor, a: Tensor, b: Tensor, low: int, n: int) -> Tensor:
    """Return the level k = clip(floor(n*(a*z + b) + 1/2), low, n) of an accumulator z.

    This one function is what `model.eval()` computes and what `fold` bisects, in eager float32 on the CPU: each of its
    steps is monotone in z also after rounding, so k is monotone in z for every a and b.
    """
    return level(normalize(z, a, b), low, n)


class _Spike(torch.autograd.Function):
    """Forward: level(x). Backward: n times the staircase derivative at n*x."""

    @staticmethod
    def forward(ctx, x, low, n, surrogate):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        ctx.low, ctx.n, ctx.surrogate = low, n, surrogate
        return level(x, low, n)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        slope = staircase_derivative(x * ctx.n, ctx.low, ctx.n, ctx.surrogate)
        return grad * slope * ctx.n, None, None, None


def spike(x: Tensor, low: int, n: int, surrogate: Surrogate) -> Tensor:
    """Return `level(x, low, n)` with the surrogate gradient dk/dx = n * sum_j h(n x - j + 1/2), j = low+1..n.

    Args:
        x: normalized membrane of any shape.
        low: 0 for unsigned levels 0..n, -n for signed ones.
        n: number of positive levels, activation states minus 1.
        surrogate: the single-step surrogate h.

    Source: S3NN (arXiv 2201.10879) for one step from surrogate to level; the sum over levels is this library's choice.
    """
    levels: Tensor = _Spike.apply(x, low, n, surrogate)  # type: ignore[no-untyped-call]
    return levels
