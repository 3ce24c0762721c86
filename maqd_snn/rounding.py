"""The scaled round-clip function: round half up, everywhere, for weights and activations alike."""

import torch
from torch import Tensor

from maqd_snn.errors import MaqdError


def round_half_up(v: Tensor) -> Tensor:
    """Return floor(v + 1/2), elementwise and of any shape; halves go up, unlike `torch.round` (half to even).

    >>> round_half_up(torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5])).tolist()
    [-1.0, 0.0, 1.0, 2.0, 3.0]
    """
    return torch.floor(v + 0.5)


class _FloorClip(torch.autograd.Function):
    """clip(floor(u), low, high); the gradient passes unchanged where low <= u < high + 1."""

    @staticmethod
    def forward(ctx, u, low, high):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(u)
        ctx.low, ctx.high = low, high
        return torch.floor(u).clamp_(low, high)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (u,) = ctx.saved_tensors
        inside = (u >= ctx.low) & (u < ctx.high + 1)
        return grad * inside, None, None


def floor_clip(u: Tensor, low: int, high: int) -> Tensor:
    """Return clip(floor(u), low, high) with the gradient 1 for low <= u < high + 1, and zero outside.

    >>> floor_clip(torch.tensor([-3.0, -0.1, 0.9, 5.0]), -1, 1).tolist()
    [-1.0, -1.0, 0.0, 1.0]
    """
    if not torch.is_grad_enabled():
        return torch.floor(u).clamp_(low, high)
    codes: Tensor = _FloorClip.apply(u, low, high)  # type: ignore[no-untyped-call]
    return codes


def round_clip_codes(v: Tensor, step: float, low: int, high: int) -> Tensor:
    """Return the integer codes of the scaled round-clip, clip(floor(v/step + 1/2), low, high), held in floating point.

    The gradient is straight through, 1/step, for step*(low - 1/2) <= v < step*(high + 1/2), and zero outside.

    Args:
        v: tensor of any shape.
        step: distance of two codes, in units of v, > 0.
        low, high: smallest and largest code, low < high.

    Raises:
        MaqdError: step <= 0 or low >= high.
    """
    if not step > 0:
        raise MaqdError(f"round_clip expects step > 0, got {step}; use the distance between two quantized values")
    if not low < high:
        raise MaqdError(f"round_clip expects low < high, got low={low}, high={high}")
    return floor_clip(v / step + 0.5, low, high)


def round_clip(v: Tensor, step: float, low: int, high: int) -> Tensor:
    """Return the scaled round-clip RC(v; s, lo, hi) = s * clip(floor(v/s + 1/2), lo, hi).

    Source: the quantizer of MaQD (arXiv 2403.14999); rounding half up is this library's choice. Arguments, gradient and
    errors are those of `round_clip_codes`.

    >>> round_clip(torch.tensor([-0.3, 0.1, 0.25, 0.6, 9.0]), step=0.5, low=0, high=2).tolist()
    [0.0, 0.0, 0.5, 0.5, 1.0]
    """
    return step * round_clip_codes(v, step, low, high)
