"""An integer network as stages: what one kind of core computes between the values that travel between cores.

What travels are spikes: the output of a `Threshold`, behind the max-pools that alone read it. A stage is everything
from arriving values to the next travelling value or to the class scores. Accumulators never travel: a residual sum that
feeds two thresholds is computed where each of them is. That is exact, since it is linear, and costs the synapses twice.

Axis letters: O outputs, I inputs, C channels, H height, W width. Features (F,) are images (F, 1, 1).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maqd_snn.counting import Values, flowing_values
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.geometry import Shape, row
from maqd_snn.integer.ops import Op, Pair

Image = tuple[int, int, int]
Mask = NDArray[np.bool_]
Span = tuple[int, int]
Box = tuple[Span, Span, Span]  # channels, rows, columns: first and one beyond the last


def image(shape: Shape) -> Image:
    """Return the shape as (C, H, W)."""
    return (shape[0], 1, 1) if len(shape) == 1 else (shape[0], shape[1], shape[2])


def whole(shape: Shape) -> Box:
    """Return the box of all of a value of this shape."""
    c, h, w = image(shape)
    return (0, c), (0, h), (0, w)


def size(box: Box) -> int:
    """Return the number of units in a box.

    >>> size(((0, 2), (1, 4), (0, 5)))
    30
    """
    (c0, c1), (r0, r1), (x0, x1) = box
    return (c1 - c0) * (r1 - r0) * (x1 - x0)


def union(first: Box, second: Box) -> Box:
    """Return the smallest box around both."""
    c, r, x = ((min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(first, second, strict=True))
    return c, r, x


def _window(span: Span, kernel: int, stride: int, padding: int, dilation: int, limit: int) -> Span:
    low = span[0] * stride - padding
    high = (span[1] - 1) * stride - padding + dilation * (kernel - 1) + 1
    first = min(max(low, 0), limit - 1)
    return first, max(min(high, limit), first + 1)


def _conv_box(op: ops.Conv2d, box: Box, shape: Image) -> Box:
    out, per_group, kernel_h, kernel_w = op.weight.shape
    group_out = out // op.groups
    channels = (box[0][0] // group_out * per_group, ((box[0][1] - 1) // group_out + 1) * per_group)
    rows = _window(box[1], kernel_h, op.stride[0], op.padding[0], op.dilation[0], shape[1])
    columns = _window(box[2], kernel_w, op.stride[1], op.padding[1], op.dilation[1], shape[2])
    return channels, rows, columns


def _pool_box(op: ops.MaxPool2d | ops.SumPool2d, box: Box, shape: Image) -> Box:
    rows = _window(box[1], op.kernel[0], op.stride[0], op.padding[0], 1, shape[1])
    columns = _window(box[2], op.kernel[1], op.stride[1], op.padding[1], 1, shape[2])
    return box[0], rows, columns


def _same(op: Op, box: Box, shape: Image) -> Box:
    return box


def _all(op: Op, box: Box, shape: Image) -> Box:
    return whole(shape)


# What an op reads to compute a box of its output: (op, box, shape of the input) -> box of the input.
BOXES: Mapping[type[Op], Callable[[Any, Box, Image], Box]] = MappingProxyType(
    {
        ops.Conv2d: _conv_box,
        ops.Linear: _all,
        ops.Threshold: _same,
        ops.MaxPool2d: _pool_box,
        ops.SumPool2d: _pool_box,
        ops.Add: _same,
        ops.Flatten: _all,
        ops.Readout: _same,
    }
)


def box_read(op: Op, box: Box, shape: Shape) -> Box:
    """Return the box of its input, of this shape, that an op reads to compute a box of its output."""
    return row(BOXES, op, "box")(op, box, image(shape))


@dataclass(frozen=True)
class Reach:
    """Which inputs reach which outputs: masks O x I of channels, rows, columns; a connection is their product."""

    channels: Mask
    rows: Mask
    columns: Mask

    def after(self, before: "Reach") -> "Reach":
        """Return the reach of `before` followed by this."""
        return Reach(
            _joined(self.channels, before.channels),
            _joined(self.rows, before.rows),
            _joined(self.columns, before.columns),
        )


def _joined(second: Mask, first: Mask) -> Mask:
    joined: Mask = second.astype(np.float32) @ first.astype(np.float32) > 0  # a product of booleans has no fast path
    return joined


def _windows_reach(op: Op, channels: Mask, shapes: tuple[Image, Image], kernel: Pair, dilation: Pair) -> Reach:
    assert isinstance(op, ops.Conv2d | ops.MaxPool2d | ops.SumPool2d)
    masks = []
    for axis in (0, 1):
        into, out = shapes[0][1 + axis], shapes[1][1 + axis]
        stride, padding = op.stride[axis], op.padding[axis]
        mask = np.zeros((out, into), np.bool_)
        for o in range(out):
            taps = o * stride - padding + dilation[axis] * np.arange(kernel[axis])
            mask[o, taps[(taps >= 0) & (taps < into)]] = True
        masks.append(mask)
    return Reach(channels, masks[0], masks[1])


def _conv_reach(op: ops.Conv2d, into: Image, out: Image) -> Reach:
    channels = np.kron(np.eye(op.groups, dtype=np.bool_), np.ones((out[0] // op.groups, op.weight.shape[1]), np.bool_))
    return _windows_reach(op, channels, (into, out), (op.weight.shape[2], op.weight.shape[3]), op.dilation)


def _pool_reach(op: ops.MaxPool2d | ops.SumPool2d, into: Image, out: Image) -> Reach:
    return _windows_reach(op, np.eye(into[0], dtype=np.bool_), (into, out), op.kernel, (1, 1))


def _identity(op: Op, into: Image, out: Image) -> Reach:
    return Reach(*(np.eye(n, dtype=np.bool_) for n in into))


def _full(op: Op, into: Image, out: Image) -> Reach:
    return Reach(*(np.ones((o, i), np.bool_) for o, i in zip(out, into, strict=True)))


REACHES: Mapping[type[Op], Callable[[Any, Image, Image], Reach]] = MappingProxyType(
    {
        ops.Conv2d: _conv_reach,
        ops.Linear: _full,
        ops.Threshold: _identity,
        ops.MaxPool2d: _pool_reach,
        ops.SumPool2d: _pool_reach,
        ops.Add: _identity,
        ops.Flatten: _full,  # a product over all features follows; see `stages_of`
        ops.Readout: _identity,
    }
)


@dataclass(frozen=True, eq=False)
class Branch:
    """One way from an arriving value to the neurons of a stage.

    Attributes:
        source: name of the value that arrives. steps: the ops on the way. reach: from the value to the neurons.
    """

    source: str
    steps: tuple[Op, ...]
    reach: Reach

    @property
    def product(self) -> ops.Conv2d | ops.Linear | None:
        """The product on the way; None where there is none or more than one."""
        found = [op for op in self.steps if isinstance(op, ops.Conv2d | ops.Linear)]
        return found[0] if len(found) == 1 else None


@dataclass(frozen=True, eq=False)
class Stage:
    """What is computed between arriving values and the value that leaves.

    Attributes:
        name: of the op whose output leaves. steps: all its ops, in order. branches: the ways to the neurons.
        neuron: the `Threshold`, or the last op, whose outputs are class scores. pools: max-pools behind the threshold.
        shape, neuron_shape: (C, H, W) of what leaves, and of the neurons. low, levels: of the levels that leave (0, 0
        for scores). bound: the largest magnitude of the neurons' sums. flow: what arrives, by name.
    """

    name: str
    steps: tuple[Op, ...]
    branches: tuple[Branch, ...]
    neuron: Op
    pools: tuple[ops.MaxPool2d, ...]
    shape: Image
    neuron_shape: Image
    low: int
    levels: int
    bound: int
    flow: Mapping[str, Values]

    @property
    def spiking(self) -> bool:
        """Whether the stage ends in spikes, and not in class scores."""
        return isinstance(self.neuron, ops.Threshold)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the arriving values."""
        return tuple(dict.fromkeys(branch.source for branch in self.branches))

    @property
    def weights(self) -> tuple[ops.Conv2d | ops.Linear, ...]:
        """The products."""
        return tuple(op for op in self.steps if isinstance(op, ops.Conv2d | ops.Linear))

    def neurons_of(self, box: Box, shapes: Mapping[str, Shape]) -> Box:
        """Return the box of neurons behind a box of what leaves: more, where windows are pooled."""
        for op in reversed(self.pools):
            box = box_read(op, box, shapes[op.inputs[0]])
        return box


def stages_of(net: IntegerNetwork) -> list[Stage]:
    """Return the stages of a network, in topological order; the values between them are the stages' outputs.

    >>> import torch
    >>> net = IntegerNetwork([
    ...     ops.Input("input", shape=(4,), high=1, kind="events"),
    ...     ops.Linear("fc1", ("input",), weight=torch.ones(3, 4, dtype=torch.int64)),
    ...     ops.Threshold("spike", ("fc1",), torch.tensor([[1]] * 3), torch.tensor([1, 1, 1])),
    ...     ops.Linear("fc2", ("spike",), weight=torch.ones(2, 3, dtype=torch.int64)),
    ... ])
    >>> [(stage.name, stage.sources) for stage in stages_of(net)]
    [('spike', ('input',)), ('fc2', ('spike',))]
    """
    by_name = {op.name: op for op in net.ops}
    flow = flowing_values(net)
    travels = {net.input.name: net.input.name}  # value that travels -> op that holds its levels
    for op in net.ops:
        if isinstance(op, ops.Threshold):
            end: Op = op
            while len(readers := net.consumers(end.name)) == 1 and isinstance(readers[0], ops.MaxPool2d):
                end = readers[0]
            travels[end.name] = op.name
    travels.setdefault(net.ops[-1].name, net.ops[-1].name)
    stages = []
    for op in net.ops:
        if op.name in travels and not isinstance(op, ops.Input):
            stages.append(_stage(net, by_name, flow, travels, op))
    return stages


def _stage(
    net: IntegerNetwork, by_name: Mapping[str, Op], flow: Mapping[str, Values], travels: Mapping[str, str], last: Op
) -> Stage:
    inside = {last.name}
    for op in reversed(net.ops):
        if op.name in inside:
            inside.update(name for name in op.inputs if name not in travels)
    neuron = by_name[travels[last.name]]
    pools: list[ops.MaxPool2d] = []
    op = last
    while op is not neuron:
        assert isinstance(op, ops.MaxPool2d)
        pools.insert(0, op)
        op = by_name[op.inputs[0]]
    branches = [Branch(source, way, reach) for source, way, reach in _ways(net, by_name, travels, neuron)]
    threshold = neuron if isinstance(neuron, ops.Threshold) else None
    source_names = {branch.source for branch in branches}
    return Stage(
        name=last.name,
        steps=tuple(op for op in net.ops if op.name in inside),
        branches=tuple(branches),
        neuron=neuron,
        pools=tuple(pools),
        shape=image(net.shapes[last.name]),
        neuron_shape=image(net.shapes[neuron.name]),
        low=threshold.low if threshold else 0,
        levels=threshold.levels if threshold else 0,
        bound=net.bounds[neuron.inputs[0]] if threshold else net.bounds[neuron.name],
        flow=MappingProxyType({name: flow[name] for name in source_names}),
    )


def _ways(
    net: IntegerNetwork, by_name: Mapping[str, Op], travels: Mapping[str, str], end: Op
) -> list[tuple[str, tuple[Op, ...], Reach]]:
    """Return every way from a travelling value to the output of `end`: (source, ops, reach)."""
    found: list[tuple[str, tuple[Op, ...], Reach]] = []
    rule = row(REACHES, end, "reach")
    for name in end.inputs:
        shapes = image(net.shapes[name]), image(net.shapes[end.name])
        if name in travels:
            found.append((name, (end,), rule(end, *shapes)))
        else:
            before = _ways(net, by_name, travels, by_name[name])
            if rule is not _identity:  # which would be a large mask that changes nothing
                reach = rule(end, *shapes)
                before = [(source, way, reach.after(first)) for source, way, first in before]
            found += [(source, (*way, end), first) for source, way, first in before]
    return found


def split(length: int, parts: int) -> list[Span]:
    """Return `length` cut into spans whose lengths differ by one at most, the longer ones first.

    >>> split(7, 3)
    [(0, 3), (3, 5), (5, 7)]
    """
    short, longer = divmod(length, parts)
    edges = [0]
    for index in range(parts):
        edges.append(edges[-1] + short + (index < longer))
    return list(pairwise(edges))


def cut(shape: Image, parts: Sequence[int]) -> list[Box]:
    """Return a value of this shape cut into boxes, so many along channels, rows and columns."""
    channels, rows, columns = (split(n, p) for n, p in zip(shape, parts, strict=True))
    return [(c, r, x) for c in channels for r in rows for x in columns]
