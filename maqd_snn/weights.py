"""Quantized weights: standardize per output channel, then round and clip to a symmetric set of integer codes."""

import math
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from maqd_snn.errors import MaqdError
from maqd_snn.rounding import floor_clip, round_clip_codes

MAX_WEIGHT_STATES = 255
STEP_SHARED_BY = ("layer", "channel")  # the weights that a learned step may be common to


def check_weight_states(states: int) -> int:
    """Return `states` if it is a whole number from 2 to 255, else raise MaqdError."""
    if isinstance(states, bool) or not isinstance(states, int) or not 2 <= states <= MAX_WEIGHT_STATES:
        raise MaqdError(f"weight states must be a whole number from 2 to {MAX_WEIGHT_STATES}, got {states!r}")
    return states


def largest_weight_code(states: int) -> int:
    """Return the largest code: (M-1)/2 for an odd number M of states, M-1 for an even one (odd codes only).

    >>> [largest_weight_code(m) for m in (2, 3, 4, 15, 255)]
    [1, 1, 3, 7, 127]
    """
    check_weight_states(states)
    return (states - 1) // 2 if states % 2 else states - 1


def standardize(weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Return (w - mean) / (std + eps) per output channel, std with Bessel's correction.

    Args:
        weight: (O, ...), at least two weights in each output channel.
        eps: added to the deviation, so that a constant filter becomes zeros.

    Raises:
        MaqdError: an output channel has fewer than two weights, so that its deviation does not exist.

    Source: weight standardization as commonly written; used by MaQD (arXiv 2403.14999, abstract).

    >>> standardize(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]), eps=0.0 + 1e-12).round().tolist()
    [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    flat = weight.flatten(1)
    if flat.shape[1] < 2:
        raise MaqdError(
            f"weight standardization needs at least 2 weights in each output channel, got shape {tuple(weight.shape)}; "
            "use fewer groups or a larger kernel"
        )
    deviation, mean = torch.std_mean(flat, dim=1, keepdim=True)
    return ((flat - mean) / (deviation + eps)).view_as(weight)


def default_weight_step(states: int) -> float:
    """Return the step s of least squared error E[(v - s*q(v))^2] for a unit normal v, computed by golden section.

    The codes are -m..m for an odd number of states, and odd integers for an even one (level spacing 2s).

    Raises:
        MaqdError: states outside 2..255.

    >>> [round(default_weight_step(m), 4) for m in (2, 3, 4)]
    [0.7979, 1.224, 0.4978]
    """
    top = largest_weight_code(states)
    return least_squares_step(tuple(range(-top, top + 1, 1 if states % 2 else 2)))


@lru_cache(maxsize=512)
def least_squares_step(codes: tuple[int, ...]) -> float:
    """Return the step s of least squared error E[(v - s*q(v))^2] for a unit normal v, q(v) the nearest of s * codes.

    Args:
        codes: rising integers, the same above and below zero.

    >>> round(least_squares_step((-1, 0, 1)), 4)
    1.224
    """
    inverse_golden = (math.sqrt(5) - 1) / 2
    low, high = 1e-3, 4.0
    for _ in range(80):
        left, right = high - inverse_golden * (high - low), low + inverse_golden * (high - low)
        if _squared_error(left, codes) < _squared_error(right, codes):
            high = right
        else:
            low = left
    return (low + high) / 2


def _squared_error(step: float, codes: tuple[int, ...]) -> float:
    # E[(v-Q)^2] = 1 - 2 E[vQ] + E[Q^2] for levels c_1 < ... < c_M with midpoints as boundaries: E[vQ] is the sum over
    # boundaries b of (c_above - c_below) * pdf(b), E[Q^2] of (c_above^2 - c_below^2) * P(v > b), plus c_1^2.
    levels = [step * code for code in codes]
    error = 1.0 + levels[0] ** 2
    for below, above in pairwise(levels):
        boundary = (below + above) / 2
        density = math.exp(-boundary * boundary / 2) / math.sqrt(2 * math.pi)
        tail = math.erfc(boundary / math.sqrt(2)) / 2
        error += (above**2 - below**2) * tail - 2 * (above - below) * density
    return error


def scale_weights(v: Tensor, log_scale: Tensor) -> Tensor:
    """Return v * exp(t), t one number for the layer, (1,), or for each output channel, (O,).

    Rounded with the step s this is v rounded with the step s*exp(-t), so learning t is learning the step. Straight
    through, dL/dt is the sum of dL/dq * v/s over the weights that are not clipped. Where the loss does not see a factor
    of q (the normalization takes it out), sum(dL/dq * q) = 0, and dL/dt is minus the step's own gradient times the step
    as in LSQ: the sum of dL/dq * (q - v/s) over what is not clipped and of dL/dq * q over what is.

    Source: LSQ, Esser et al., arXiv 1902.08153; without its scale of the gradient, which Adam would take out again.

    >>> scale_weights(torch.ones(2, 3), torch.tensor([0.0, 2.0]).log1p()).tolist()
    [[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]]
    """
    return v * log_scale.exp().view(-1, *[1] * (v.ndim - 1))


def weight_codes(v: Tensor, states: int, step: float | None = None, zero_sum: bool = False) -> Tensor:
    """Return the integer weight codes q of the standardized weight v, held in floating point; the weight is step * q.

    Odd M: q = clip(floor(v/s + 1/2), -m, m) with m = (M-1)/2. Even M: q = clip(2*floor(v/(2s)) + 1, -(M-1), M-1), so
    that v = 0 gives +1 and two states are -1, +1. The gradient is straight through, 1/s, inside the clip range.

    Args:
        v: tensor of any shape; with `zero_sum` of at least two axes.
        states: number of weight states M, 2..255.
        step: s > 0; None takes `default_weight_step(states)`.
        zero_sum: balance the codes of each output channel (the first axis), see `balanced`.

    Raises:
        MaqdError: states outside 2..255 or step <= 0.

    >>> v = torch.tensor([-9.0, -0.7, -0.1, 0.0, 0.7, 9.0])
    >>> weight_codes(v, 3, step=1.0).tolist(), weight_codes(v, 4, step=0.5).tolist()
    ([-1.0, -1.0, 0.0, 0.0, 1.0, 1.0], [-3.0, -1.0, -1.0, 1.0, 1.0, 3.0])
    """
    top = largest_weight_code(states)
    s = default_weight_step(states) if step is None else step
    if states % 2:
        q = round_clip_codes(v, s, -top, top)
    elif not s > 0:
        raise MaqdError(f"the weight step must be above 0, got {s}")
    else:
        half = states // 2
        q = 2 * floor_clip(v / (2 * s), -half, half - 1) + 1
    return q + (balanced(q, v / s, states) - q).detach() if zero_sum else q


@torch.no_grad()
def balanced(q: Tensor, v: Tensor, states: int) -> Tensor:
    """Return the codes q of v with those moved that bring the sum of each output channel to zero at little cost.

    A standardized filter sums to zero, its nearest codes do not: they see the mean of their inputs. Where the sum is S
    and neighbouring codes are d apart, floor(|S|/d) codes move by d against its sign. Moving q to q - d sign(S) adds
    d^2 + 2 d sign(S) (v - q) to the squared error (v - q)^2, so those with the least sign(S) (v - q) move, the first of
    equals first: no codes of that sum are nearer unless weights are clipped. No code moves twice or past the largest
    one; with two and three states there are always enough. The sum of an odd number of odd codes ends at 1 or -1.

    Args:
        q: (O, ...), codes of `states` states. v: what they are nearest to, in their units, in the shape of q.

    >>> v = torch.tensor([[0.9, 0.8, 0.6, 0.7, -3.0]])
    >>> q = weight_codes(v, 3, step=1.0)
    >>> q.tolist(), balanced(q, v, 3).tolist()
    ([[1.0, 1.0, 1.0, 1.0, -1.0]], [[1.0, 0.0, 0.0, 0.0, -1.0]])
    """
    flat, distance, top = q.flatten(1), 1 if states % 2 else 2, largest_weight_code(states)
    total = flat.sum(1, keepdim=True)
    moved = flat - distance * total.sign()
    cost = (total.sign() * (v.flatten(1) - flat)).masked_fill(moved.abs() > top, math.inf)
    order = cost.argsort(dim=1, stable=True)
    rank = torch.arange(flat.shape[1], device=q.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, rank)
    moves = (rank < torch.div(total.abs(), distance, rounding_mode="floor")) & (cost < math.inf)
    return torch.where(moves, moved, flat).view_as(q)


def weight_codes_backward(grad: Tensor, v: Tensor, states: int, step: float | None = None) -> Tensor:
    """Return the gradient of v, given that of `weight_codes(v, states, step)`; no graph is needed.

    >>> v = torch.tensor([-9.0, -0.7, 0.2], requires_grad=True)
    >>> weight_codes(v, 3, step=0.5).sum().backward()
    >>> bool((v.grad == weight_codes_backward(torch.ones(3), v.detach(), 3, step=0.5)).all())
    True
    """
    top = largest_weight_code(states)
    s = default_weight_step(states) if step is None else step
    if states % 2:
        u, low, high = v / s + 0.5, -top, top
    else:
        u, low, high = v / (2 * s), -(states // 2), states // 2 - 1
    return grad * ((u >= low) & (u < high + 1)) / s


def standardize_backward(grad: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Return the gradient of the weight, given that of `standardize(weight, eps)`; no graph is needed.

    With d the standard deviation of N weights, c = w - mean and e = d + eps:
    dL/dw = (g - mean(g))/e - c * sum(g c) / (e^2 d (N - 1)), the last term being zero where d is.

    Args:
        grad, weight: (O, ...).
    """
    flat, g = weight.flatten(1), grad.flatten(1)
    deviation, mean = torch.std_mean(flat, dim=1, keepdim=True)
    centred, scale = flat - mean, deviation + eps
    share = (g * centred).sum(1, keepdim=True) / (scale.square() * deviation * (flat.shape[1] - 1))
    share = torch.where(deviation > 0, share, torch.zeros_like(share))
    return ((g - g.mean(1, keepdim=True)) / scale - centred * share).view_as(weight)
