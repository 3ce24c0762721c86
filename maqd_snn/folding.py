"""Folding: a trained network becomes one integer network, exactly.

Axis letters: C channels, n thresholds per channel.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from maqd_snn import layers
from maqd_snn._version import __version__
from maqd_snn.errors import MaqdError
from maqd_snn.graph import INPUT, SpikingNetwork
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.geometry import output_bound
from maqd_snn.integer.ops import Op
from maqd_snn.spike import normalize_and_level

Inputs = tuple[str, ...]


def bisect_thresholds(a: Tensor, b: Tensor, low: int, n: int, bound: int) -> tuple[Tensor, Tensor]:
    """Return (thresholds (C, n - low), direction (C,)): integer comparisons that give `normalize_and_level` exactly.

    For a > 0: theta_j is the smallest integer z with level(z) >= j; for a < 0 (direction -1) the largest. Searched in
    [-bound-1, bound+1] by bisection on the model's own float function; a level that is never reached gets the end that
    no accumulator reaches, one that always is reached the other end. For a = 0 the level is a constant.

    Args:
        a, b: (C,) float32, finite.
        low, n: smallest and largest level.
        bound: largest magnitude of the accumulator.

    Raises:
        MaqdError: a or b is not finite.
    """
    if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise MaqdError("the normalization has a scale or shift that is not finite; the training has diverged")
    direction = torch.where(a < 0, -1, 1)
    levels = torch.arange(low + 1, n + 1).view(-1, 1)  # (n - low, 1) against (n - low, C)
    # In terms of s = direction * z the level rises with s: bisect for the smallest s in [-bound, bound] that reaches
    # level j; bound + 1 stands for never.
    below = torch.full((n - low, len(a)), -bound - 1)
    reached = torch.full((n - low, len(a)), bound + 1)
    while bool((reached - below > 1).any()):
        middle = torch.div(below + reached, 2, rounding_mode="floor")
        z = (middle * direction).double()
        up = normalize_and_level(z, a, b, low, n) >= levels
        reached = torch.where(up, middle, reached)
        below = torch.where(up, below, middle)
    # Found at -bound means always: one further out says so for partial sums and for readers alike.
    reached = torch.where(reached == -bound, -bound - 1, reached)
    return (reached * direction).T.contiguous(), direction


def _integers(name: str, codes: Tensor) -> Tensor:
    if not bool(torch.isfinite(codes).all()):
        raise MaqdError(f"{name} has parameters that are not finite; the training has diverged")
    return codes.detach().cpu().round().to(torch.int64)


def _weights(name: str, part: layers.QuantizedProduct) -> Tensor:
    if part.states is None:
        raise MaqdError(f"{name} has float weights and cannot be folded; build the model with weight_states >= 2")
    return _integers(name, part.codes())


def _conv2d(name: str, inputs: Inputs, part: layers.Conv2d, bound: int) -> Op:
    return ops.Conv2d(name, inputs, _weights(name, part), part.stride, part.padding, part.dilation, part.groups)


def _linear(name: str, inputs: Inputs, part: layers.Linear, bound: int) -> Op:
    return ops.Linear(name, inputs, _weights(name, part))


def _norm_spike(name: str, inputs: Inputs, part: layers.NormSpike, bound: int) -> Op:
    if part.states is None:
        raise MaqdError(f"{name} is a float activation and cannot be folded; build the model with act_states >= 2")
    a, b = (coefficient.cpu() for coefficient in part.norm.folded())
    try:
        thresholds, direction = bisect_thresholds(a, b, part.low, part.n, bound)
    except MaqdError as error:
        raise MaqdError(f"{name}: {error}") from error
    return ops.Threshold(name, inputs, thresholds, direction, part.low)


def _max_pool(name: str, inputs: Inputs, part: layers.MaxPool2d, bound: int) -> Op:
    return ops.MaxPool2d(name, inputs, part.kernel, part.stride, part.padding)


def _sum_pool(name: str, inputs: Inputs, part: layers.SumPool2d, bound: int) -> Op:
    return ops.SumPool2d(name, inputs, part.kernel, part.stride, part.padding)


def _readout(name: str, inputs: Inputs, part: layers.Readout, bound: int) -> Op:
    if not part.quantized:
        raise MaqdError(f"{name} has a float bias and cannot be folded; build the model with weight_states >= 2")
    return ops.Readout(name, inputs, _integers(name, part.codes()))


FOLD: Mapping[type, Callable[[str, Inputs, Any, int], Op]] = MappingProxyType(
    {
        layers.Conv2d: _conv2d,
        layers.Linear: _linear,
        layers.NormSpike: _norm_spike,
        layers.MaxPool2d: _max_pool,
        layers.SumPool2d: _sum_pool,
        layers.Add: lambda name, inputs, part, bound: ops.Add(name, inputs),
        layers.Flatten: lambda name, inputs, part, bound: ops.Flatten(name, inputs),
        layers.Readout: _readout,
    }
)


@torch.no_grad()
def fold(model: SpikingNetwork, provenance: Mapping[str, Any] | None = None) -> IntegerNetwork:
    """Return the integer network that gives, spike by spike, what `model.eval()` gives on the CPU in float32.

    A hidden neuron's level k = clip(floor(n*(a*z + b) + 1/2), low, n) is monotone in its integer accumulator z, so each
    level has one integer threshold, found by bisection on the very function that the model evaluates.

    Args:
        model: built by `maqd_snn.build`, or any `SpikingNetwork`.
        provenance: plain values to keep in the network (recipe, accuracy, ...); the library version is added.

    Raises:
        MaqdError: a part that cannot be folded (named, with what to do), or not a `SpikingNetwork`.

    >>> from maqd_snn.models import build
    >>> model = build("mlp", input_shape=(1, 4, 4), classes=3, act_states=2, weight_states=3, plan="8")
    >>> net = fold(model)
    >>> codes = torch.randint(0, 256, (5, 1, 4, 4))
    >>> bool((net(codes) == model.eval()(codes)).all())
    True
    """
    if not isinstance(model, SpikingNetwork):
        raise MaqdError(f"fold expects a SpikingNetwork (see maqd_snn.build), got {type(model).__name__}")
    spec = model.input_spec
    graph: list[Op] = [
        ops.Input(INPUT, shape=spec.shape, zero_point=spec.zero_point, low=spec.low, high=spec.high, kind=spec.kind)
    ]
    bounds = {INPUT: output_bound(graph[0], [])}
    for name in model.names:
        part, inputs = model.part(name), model.inputs_of[name]
        if type(part) not in FOLD:
            known = ", ".join(sorted(kind.__name__ for kind in FOLD))
            raise MaqdError(f"{name} is a {type(part).__name__}, which cannot be folded; use one of: {known}")
        op = FOLD[type(part)](name, inputs, part, bounds[inputs[0]])
        graph.append(op)
        bounds[name] = output_bound(op, [bounds[used] for used in inputs])
    return IntegerNetwork(graph, {"library": f"maqd-snn {__version__}", **(provenance or {})})
