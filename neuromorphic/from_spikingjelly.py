"""An integer network from SpikingJelly modules, where that is exact: one time step from rest, whole weights.

Every value on the way is scale * z + offset_c, with the integers z of an op and rational numbers. Weights are whole
numbers times one step per layer, their greatest common divisor; where all of them are whole, the step is 1. Floats are
read as the fractions that they are, so thresholds come out exactly: a neuron that fires from v on has the smallest (for
falling channels the largest) integer z with scale * z + offset_c >= v. Half to even is no obstacle: each level has the
first integer that rounds to it or beyond.

The module computes in float32 or float64. What it sums is proved to be exact, in whatever order: all terms are
multiples of a power of two u, and no sum exceeds 2^24 u (2^53 u). Where that fails, the module itself may round, and it
is refused.

Axis letters: C channels.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.geometry import FLOAT32_EXACT, FLOAT64_EXACT, Shape, output_bound, output_shape
from maqd_snn.integer.ops import Op, Pair
from maqd_snn.neuromorphic.to_spikingjelly import Graded, package
from maqd_snn.neuromorphic.unit_spikes import Bias, ForeignNetwork, Neurons

EXACT: Mapping[torch.dtype, int] = MappingProxyType({torch.float32: FLOAT32_EXACT, torch.float64: FLOAT64_EXACT})
NONE = Fraction(0)


def whole_weights(name: str, weight: Tensor) -> tuple[NDArray[np.int64], Fraction]:
    """Return integers q and a step with weight = q * step exactly: step 1 where all are whole, else as large as can be.

    Raises:
        MaqdError: weights that are not finite, or more than 2^53 such steps apart.

    >>> q, step = whole_weights("fc", torch.tensor([0.75, -0.25, 0.0]))
    >>> q.tolist(), step
    ([3, -1, 0], Fraction(1, 4))
    >>> whole_weights("fc", torch.tensor([4.0, -2.0]))[0].tolist()
    [4, -2]
    """
    values = weight.detach().cpu().double().numpy()
    if not np.isfinite(values).all():
        raise MaqdError(f"{name}: its weights must be finite")
    mantissa, exponent = np.frexp(values)
    bits = (mantissa * 2.0**53).astype(np.int64)
    lowest = exponent - 53 + np.log2(np.maximum(bits & -bits, 1)).astype(np.int64)  # exponent of the last bit that is 1
    least = min(int(lowest[values != 0].min(initial=0)), 0)
    largest = Fraction(float(np.abs(values).max()))
    if largest > FLOAT64_EXACT * Fraction(2) ** least:
        raise MaqdError(f"{name}: {_not_whole(largest, Fraction(2) ** least)}")
    whole = np.ldexp(values, -least).astype(np.int64)
    divisor = int(np.gcd.reduce(np.abs(whole).ravel())) if least < 0 else 1
    return whole // divisor, divisor * Fraction(2) ** least


def _not_whole(largest: Fraction, unit: Fraction) -> str:
    return (
        f"its sums are not exact: they can reach {float(largest):.6g} in steps of {float(unit):.3g}, more than floats "
        "hold; give it weights, biases and thresholds that are few whole numbers times one power of two, or call "
        ".double() on the module, which then holds more"
    )


@dataclass(frozen=True)
class Value:
    """scale * z + offset[c] for the integers z that the op `name` gives; scale is above 0, offset (C,)."""

    name: str
    scale: Fraction
    offset: tuple[Fraction, ...]


class _Reader:
    """Collects ops, and proves that the module's own arithmetic is exact."""

    def __init__(self, given: ops.Input, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.ops: list[Op] = [given]
        self.neurons: list[nn.Module] = []
        self.shapes: dict[str, Shape] = {given.name: output_shape(given, [])}
        self.bounds: dict[str, int] = {given.name: output_bound(given, [])}

    def add(self, op: Op, scale: Fraction, offset: Sequence[Fraction]) -> Value:
        """Add an op; the value is what the module computes there, and its sums are exact."""
        self.shapes[op.name] = output_shape(op, [self.shapes[name] for name in op.inputs])
        self.bounds[op.name] = output_bound(op, [self.bounds[name] for name in op.inputs])
        self.ops.append(op)
        for each in set(offset):
            self.prove(op.name, scale * self.bounds[op.name] + abs(each), scale, each)
        return Value(op.name, scale, tuple(offset))

    def prove(self, name: str, largest: Fraction, *terms: Fraction) -> None:
        """Raise MaqdError unless sums of multiples of the terms are exact up to `largest`."""
        unit = min(
            (Fraction(term.numerator & -term.numerator, term.denominator) for term in terms if term), default=NONE
        )
        if largest > EXACT[self.dtype] * unit or 0 < unit < torch.finfo(self.dtype).tiny:
            raise MaqdError(f"{name}: {_not_whole(largest, unit)}")

    def number(self, name: str, what: str, value: float) -> Fraction:
        """Return a plain number as the module's arithmetic takes it."""
        if not math.isfinite(value):
            raise MaqdError(f"{name}: {what} must be finite, got {value}")
        return Fraction(torch.tensor(value, dtype=self.dtype).item())


def _fractions(values: Tensor) -> tuple[Fraction, ...]:
    return tuple(Fraction(value) for value in values.detach().cpu().double().tolist())


def _pair(value: Any) -> Pair:
    height, width = (value, value) if isinstance(value, int) else value
    return int(height), int(width)


def _refuse(name: str, module: nn.Module, what: str) -> MaqdError:
    return MaqdError(f"{name}: a {type(module).__name__} {what}")


def _product(reader: _Reader, name: str, value: Value, module: Any) -> Value:
    if any(value.offset):
        raise _refuse(name, module, "needs spikes or inputs, but a bias lies before it: put a neuron between")
    if not isinstance(module.weight, nn.Parameter):
        raise _refuse(name, module, "computes its weight anew in every call (pruned, normalized): make it a plain one")
    q, step = whole_weights(name, module.weight)
    op: Op
    if isinstance(module, nn.Conv2d):
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise _refuse(name, module, f"needs zeros as padding, and their number, got {module.padding!r}")
        stride, padding, dilation = (_pair(size) for size in (module.stride, module.padding, module.dilation))
        op = ops.Conv2d(name, (value.name,), torch.from_numpy(q), stride, padding, dilation, module.groups)
    else:
        op = ops.Linear(name, (value.name,), torch.from_numpy(q))
    offset = (NONE,) * len(q) if module.bias is None else _fractions(module.bias)
    return reader.add(op, value.scale * step, offset)


def _max_pool(reader: _Reader, name: str, value: Value, module: Any) -> Value:
    if _pair(module.dilation) != (1, 1) or module.ceil_mode or module.return_indices:
        raise _refuse(name, module, "needs dilation 1, ceil_mode False and return_indices False")
    sizes = (_pair(size) for size in (module.kernel_size, module.stride, module.padding))
    return reader.add(ops.MaxPool2d(name, (value.name,), *sizes), value.scale, value.offset)


def _avg_pool(reader: _Reader, name: str, value: Value, module: Any) -> Value:
    kernel, stride, padding = (_pair(size) for size in (module.kernel_size, module.stride, module.padding))
    area = kernel[0] * kernel[1]
    divisor = module.divisor_override or area
    if divisor & (divisor - 1):
        raise _refuse(name, module, f"divides by {divisor}, which rounds; use a power of two, or divisor_override=1")
    padded = padding != (0, 0)
    if module.ceil_mode or (padded and not (module.count_include_pad or module.divisor_override)):
        raise _refuse(name, module, "needs ceil_mode False, and to divide by the same number everywhere")
    if padded and any(value.offset):
        raise _refuse(name, module, "pads with zeros what has a bias: pool after the neuron, or without padding")
    summed = reader.add(
        ops.SumPool2d(name, (value.name,), kernel, stride, padding), value.scale, [each * area for each in value.offset]
    )
    return replace(summed, scale=summed.scale / divisor, offset=tuple(each / divisor for each in summed.offset))


def _flatten(reader: _Reader, name: str, value: Value, module: Any) -> Value:
    shape = reader.shapes[value.name]
    if module.start_dim != 1 or module.end_dim not in (-1, len(shape)):
        raise _refuse(name, module, f"needs start_dim 1 and end_dim -1, got {module.start_dim} and {module.end_dim}")
    offset = np.repeat(np.array(value.offset, object), math.prod(shape[1:]))
    return reader.add(ops.Flatten(name, (value.name,)), value.scale, offset.tolist())


def _nothing(reader: _Reader, name: str, value: Value, module: Any) -> Value:
    if module.training and not isinstance(module, nn.Identity):
        raise _refuse(name, module, "drops values at random while training: call .eval() on the module")
    return value


def _bias(reader: _Reader, name: str, value: Value, module: Any) -> Value:
    offset = tuple(a + b for a, b in zip(value.offset, _fractions(module.bias), strict=True))
    for each in set(offset):
        reader.prove(name, value.scale * reader.bounds[value.name] + abs(each), value.scale, each)
    return replace(value, offset=offset)


def _neuron(reader: _Reader, name: str, value: Value, module: Any) -> Value:
    return _spikes(reader, name, value.name, [value.scale] * len(value.offset), value.offset, module)


def _charged(reader: _Reader, name: str, value: Value, module: Any, unit: float = 1.0, more: float = 0.0) -> Value:
    """The neurons of `to_spikingjelly`: they get (a z + d + more) / unit - more."""
    _check_step_mode(name, module.neuron)
    half, share = Fraction(more), Fraction(unit)
    scale = [a * value.scale for a in _fractions(module.a)]
    offset = [a * o + d for a, o, d in zip(_fractions(module.a), value.offset, _fractions(module.d), strict=True)]
    for s, o in zip(scale, offset, strict=True):
        reader.prove(name, abs(s) * reader.bounds[value.name] + abs(o) + half * (1 + share), s, o, half, half * share)
    shifted = [(o + half) / share - half for o in offset]
    return _spikes(reader, name, value.name, [s / share for s in scale], shifted, module.neuron)


def _unit(reader: _Reader, name: str, value: Value, module: Any) -> Value:
    if module.levels != 1:
        raise MaqdError(f"{name}: it runs {module.levels} steps; only networks of one time step can be read")
    return _charged(reader, name, value, module)


def _graded(reader: _Reader, name: str, value: Value, module: Any) -> Value:
    return _charged(reader, name, value, module, module.unit, 0.5)


def _spikes(
    reader: _Reader, name: str, source: str, scale: Sequence[Fraction], offset: Sequence[Fraction], neuron: Any
) -> Value:
    """Add the neurons of a layer, of which those of channel c are charged with scale[c] * z + offset[c]."""
    if type(neuron) not in (package().neuron.IFNode, package().neuron.ILIFNode):
        raise _refuse(name, neuron, "is no neuron that can be read; use IFNode or ILIFNode")
    if neuron in reader.neurons:
        raise _refuse(name, neuron, "is there twice, and not at rest the second time; give each layer its own")
    reader.neurons.append(neuron)
    rest = reader.number(name, "v_reset", neuron.v_reset or 0.0)
    for s, o in zip(scale, offset, strict=True):
        reader.prove(name, abs(s) * reader.bounds[source] + abs(o) + abs(rest), s, o, rest)
    reached = CHARGES[type(neuron).__name__](reader, name, neuron)
    bound = reader.bounds[source]
    rows = [
        [_threshold(s, v - o - rest, above, bound) for v, above in reached] for s, o in zip(scale, offset, strict=True)
    ]
    direction = torch.tensor([-1 if s < 0 else 1 for s in scale])
    op = ops.Threshold(name, (source,), torch.tensor(rows), direction)
    return reader.add(op, Fraction(1), (NONE,) * len(rows))


def _threshold(scale: Fraction, charge: Fraction, above: bool, bound: int) -> int:
    """Return the threshold of z for scale * z >= charge (or > where `above`), one beyond the bound for never, always.

    >>> [_threshold(Fraction(s), Fraction(3), above, 9) for s in (2, 3, -2, -3) for above in (False, True)]
    [2, 2, 1, 2, -2, -2, -1, -2]
    >>> [_threshold(Fraction(0), Fraction(charge), above, 9) for charge in (-1, 0, 1) for above in (False, True)]
    [-10, -10, -10, 10, 10, 10]
    """
    if scale == 0:
        reached = charge < 0 if above else charge <= 0
        return -bound - 1 if reached else bound + 1
    z, sign = charge / abs(scale), 1 if scale > 0 else -1
    first = math.floor(z) + 1 if above else math.ceil(z)
    return sign * min(max(first, -bound - 1), bound + 1)


# The charge from which each level is reached, and whether it must be exceeded.
Reached = list[tuple[Fraction, bool]]


def _if_node(reader: _Reader, name: str, neuron: Any) -> Reached:
    probe = torch.tensor(
        [-1.0, -torch.finfo(reader.dtype).tiny, 0.0, torch.finfo(reader.dtype).tiny, 1.0], dtype=reader.dtype
    )
    try:
        fired = neuron.surrogate_function(probe).tolist()
    except Exception:  # it is a function of others
        fired = []
    if fired != [0, 0, 1, 1, 1]:
        raise _refuse(name, neuron, "must fire where v >= v_threshold; its surrogate_function gives something else")
    return [(reader.number(name, "v_threshold", neuron.v_threshold), False)]


def _ilif_node(reader: _Reader, name: str, neuron: Any) -> Reached:
    # round(clip(v / v_threshold, 0, D)): level j is reached above j - 1/2, and at it where half to even goes up to j.
    count, theta = neuron.surrogate_function, reader.number(name, "v_threshold", neuron.v_threshold)
    if type(count) is not package().surrogate.MultiLevelSpikeCount or not count.spiking:
        raise _refuse(name, neuron, "needs a spiking MultiLevelSpikeCount as surrogate_function")
    if theta <= 0 or theta.numerator & (theta.numerator - 1) or theta.denominator & (theta.denominator - 1):
        raise _refuse(
            name,
            neuron,
            f"divides by v_threshold {float(theta)}, which rounds; scale weights so that it is a power of two",
        )
    return [((j - Fraction(1, 2)) * theta, j % 2 == 1) for j in range(1, int(count.max_spike_count) + 1)]


CHARGES: Mapping[str, Callable[[_Reader, str, Any], Reached]] = MappingProxyType(
    {"IFNode": _if_node, "ILIFNode": _ilif_node}
)

Row = Callable[[_Reader, str, Value, Any], Value]

# Types by their names in torch.nn, spikingjelly.activation_based, and here.
TORCH: Mapping[type[nn.Module], Row] = MappingProxyType(
    {
        nn.Conv2d: _product,
        nn.Linear: _product,
        nn.MaxPool2d: _max_pool,
        nn.AvgPool2d: _avg_pool,
        nn.Flatten: _flatten,
        nn.Identity: _nothing,
        nn.Dropout: _nothing,
        nn.Dropout2d: _nothing,
    }
)
SPIKINGJELLY: Mapping[str, Row] = MappingProxyType(
    {
        "layer.Conv2d": _product,
        "layer.Linear": _product,
        "layer.MaxPool2d": _max_pool,
        "layer.AvgPool2d": _avg_pool,
        "layer.Flatten": _flatten,
        "layer.Dropout": _nothing,
        "layer.Dropout2d": _nothing,
        "neuron.IFNode": _neuron,
        "neuron.ILIFNode": _neuron,
    }
)
OURS: Mapping[type[nn.Module], Row] = MappingProxyType({Neurons: _unit, Graded: _graded, Bias: _bias})


def _check_step_mode(name: str, module: nn.Module) -> None:
    if isinstance(module, package().base.StepModule) and module.step_mode != "s":
        raise _refuse(name, module, "runs many steps; call functional.set_step_mode(module, 's') for one step")


def _read(reader: _Reader, name: str, value: Value, module: nn.Module) -> Value:
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        raise _refuse(
            name,
            module,
            "scales and shifts in floating point, which rounds: fold it into whole weights and biases, or train with "
            "maqd_snn.build, whose normalizations fold exactly",
        )
    theirs = {operator.attrgetter(key)(package()): row for key, row in SPIKINGJELLY.items()}
    rows = {**TORCH, **theirs, **OURS}
    if type(module) not in rows:
        known = ", ".join(dict.fromkeys(kind.__name__ for kind in (*TORCH, *theirs)))
        raise _refuse(name, module, f"cannot be read; give an nn.Sequential of {known} only")
    _check_step_mode(name, module)
    return rows[type(module)](reader, name, value, module)


def _chain(reader: _Reader, prefix: str, value: Value, module: nn.Module) -> Value:
    if type(module) is not nn.Sequential:
        return _read(reader, f"{type(module).__name__.lower()}{prefix}", value, module)
    for index, child in enumerate(module):  # one that is there twice, too
        value = _chain(reader, f"{prefix}_{index}", value, child)
    return value


def _graph(reader: _Reader, value: Value, model: ForeignNetwork) -> Value:
    if model.library.name != "spikingjelly":
        raise MaqdError(f"expected modules of spikingjelly, got those of {model.library.name}")
    values = {model.net.input.name: value}
    for op in model.net.ops[1:]:
        taken = [values[name] for name in op.inputs]
        if not isinstance(op, ops.Add):
            value = _read(reader, op.name, taken[0], model.part(op))
        elif len({each.scale for each in taken}) > 1:
            raise MaqdError(f"{op.name}: its summands have weights of different steps; give all layers one step")
        else:
            offset = [sum(each, NONE) for each in zip(*(each.offset for each in taken), strict=True)]
            value = reader.add(ops.Add(op.name, tuple(each.name for each in taken)), taken[0].scale, offset)
        values[op.name] = value
    return value


def _scores(reader: _Reader, value: Value, name: str) -> tuple[list[Op], Fraction]:
    """Return all ops, with a Readout at the end, and what one unit of its scores stands for."""
    if len(reader.shapes[value.name]) != 1:
        raise MaqdError(
            f"{value.name}: class scores are (classes,), got {reader.shapes[value.name]}; end with a Flatten"
        )
    scale = [value.scale, *value.offset]
    common = math.lcm(*(each.denominator for each in scale))
    unit = Fraction(math.gcd(*(int(each * common) for each in scale)), common)
    graph, factor = list(reader.ops), int(value.scale / unit)
    if factor > 1:
        # Biases that are no multiples of the products' step: the last weights take the common one.
        last = max((i for i, op in enumerate(graph) if isinstance(op, ops.Conv2d | ops.Linear)), default=0)
        product = graph[last]
        if not isinstance(product, ops.Conv2d | ops.Linear) or any(
            isinstance(op, ops.Threshold | ops.Add) for op in graph[last:]
        ):
            raise MaqdError(f"{value.name}: its bias must be whole numbers, since no product lies before it")
        graph[last] = replace(product, weight=product.weight * factor)
    bias = torch.tensor([int(each / unit) for each in value.offset])
    return [*graph, ops.Readout(name, (value.name,), bias)], unit


def from_spikingjelly(module: nn.Module, input: ops.Input | None = None) -> IntegerNetwork:
    """Return the integer network that computes what a SpikingJelly network does in one time step from rest, exactly.

    Its scores times `provenance["score_unit"]` are the module's output for codes minus zero point, to the last bit: the
    module's own sums are proved to be exact, as sums of products in any order (an algorithm that is none, such as
    Winograd's, may round).

    Args:
        module: `nn.Sequential` (nested ones too) of `Conv2d`, `Linear`, `MaxPool2d`, `AvgPool2d`, `Flatten`, `Dropout`
            in eval mode (of torch or SpikingJelly) and of SpikingJelly's `IFNode` and `ILIFNode`, step mode "s", in
            float32 or float64; or what `to_spikingjelly` returned, in a form of one step. After training, round weights
            and biases: to whole numbers, say.
        input: what the module is fed: shape, range and zero point of the codes. Not needed for `to_spikingjelly`'s.

    Raises:
        MaqdError: a module of another kind, or with settings that are not exact; sums that floating point may round,
            since weights, biases and thresholds have no common step that is coarse enough. It names the layer and what
            to do. MissingExtraError: SpikingJelly is not installed.

    >>> from spikingjelly.activation_based import neuron
    >>> net = nn.Sequential(nn.Linear(2, 1), neuron.IFNode(v_threshold=1.0), nn.Linear(1, 2, bias=False))
    >>> for part, weight in ((net[0], [[0.5, -0.5]]), (net[2], [[3.0], [-1.0]])):
    ...     part.weight.data = torch.tensor(weight)
    >>> net[0].bias.data = torch.tensor([0.25])
    >>> found = from_spikingjelly(net, ops.Input("input", shape=(2,), high=3))
    >>> found.ops[2].thresholds.tolist()  # z / 2 + 1/4 >= 1
    [[2]]
    >>> found(torch.tensor([[2, 0], [2, 1]])).tolist()
    [[3, -1], [0, 0]]
    """
    package()
    name = "scores"
    if isinstance(module, ForeignNetwork):
        input = input or module.net.input
        name = module.net.ops[-1].name if isinstance(module.net.ops[-1], ops.Readout) else name
    if input is None:
        raise MaqdError("give the input of the module: input=ops.Input('input', shape=(C, H, W), low=0, high=255)")
    numbers = [*module.parameters(), *module.buffers()]
    kinds = {each.dtype for each in numbers if each.is_floating_point()} or {torch.float32}
    if len(kinds) > 1 or not kinds <= set(EXACT):
        raise MaqdError(f"expected one floating type, float32 or float64, got {', '.join(sorted(map(str, kinds)))}")
    reader = _Reader(input, kinds.pop())
    value = Value(input.name, Fraction(1), (NONE,) * input.shape[0])
    value = _graph(reader, value, module) if isinstance(module, ForeignNetwork) else _chain(reader, "", value, module)
    graph, unit = _scores(reader, value, name)
    return IntegerNetwork(graph, {"from": f"spikingjelly {version('spikingjelly')}", "score_unit": float(unit)})
