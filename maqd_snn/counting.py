"""Counting rules: what each op costs, per sample, exactly. One table, op type -> function; no row is an error, never 0.

Axis letters: B batch, C input channels, O output channels, H height, W width, P = H*W positions.

The fan-out of a position is the same for all its channels and separable in height and width, so counting needs one pass
over the spikes (`tallies.py`), shared by the op that emits them and all that take them, and no second convolution.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.geometry import Shape, row
from maqd_snn.integer.ops import Op, Pair
from maqd_snn.tallies import Tally, Zones, alike, tally


@dataclass(frozen=True)
class Counts:
    """The counts of a layer, a network or a sample. All are integers.

    Attributes:
        events: nonzero values arriving at a spiking layer, after any pooling.
        synops: sum over events of their fan-out at that position (stride, padding, dilation, groups included).
        effective_synops: the same, connections of weight zero left out.
        unit_spike_acs: sum of abs(level) * fan-out: a level-k spike sent as k unit spikes.
        bit_serial_adds: sum of popcount(abs(level)) * fan-out.
        dense_macs: connections of the layer; taps that fall into padding are no synapses.
        macs: dense_macs where the layer is not spiking (analog input or accumulators), else 0.
        adds: nonzero terms of sum-pools and residual sums, and bias additions of the readout.
        compares: nonzero terms of max-pools.
        neuron_updates: neurons whose accumulator is read, compared and reset in the single step.
        threshold_tests: comparisons with thresholds, neurons * levels.
        spikes: nonzero levels emitted. unit_spikes: sum of their magnitudes.
        weight_bytes, membrane_bytes, message_bytes: what an event-driven core moves for the synops of spiking layers:
            one weight fetch each, one accumulator read and write each, and one message (address and level) per event;
            every word in whole bytes.
        bit_ops: synops (or macs) * weight bits * input bits.
    """

    events: int = 0
    synops: int = 0
    effective_synops: int = 0
    unit_spike_acs: int = 0
    bit_serial_adds: int = 0
    dense_macs: int = 0
    macs: int = 0
    adds: int = 0
    compares: int = 0
    neuron_updates: int = 0
    threshold_tests: int = 0
    spikes: int = 0
    unit_spikes: int = 0
    weight_bytes: int = 0
    membrane_bytes: int = 0
    message_bytes: int = 0
    bit_ops: int = 0

    @property
    def bytes(self) -> int:
        """Bytes that an event-driven core moves: weights, accumulators and messages."""
        return self.weight_bytes + self.membrane_bytes + self.message_bytes


COUNT_NAMES: tuple[str, ...] = tuple(f.name for f in fields(Counts))

Array = NDArray[np.int64]

# What depends on the data: name -> (B,). What does not: name -> the number for every sample.
PerSample = dict[str, Array]
Fixed = dict[str, int]


@dataclass(frozen=True)
class Values:
    """What flows between two ops: its kind and its range.

    Attributes:
        kind: `analog` (input codes of pixels), `spikes` (levels, pooled levels, event counts) or `accumulators`.
        low, high: the range of the values.
    """

    kind: str
    low: int
    high: int

    @property
    def spiking(self) -> bool:
        """Whether a layer that takes these values is charged by its spikes: a property of the graph, not of a batch."""
        return self.kind == "spikes"

    @property
    def bits(self) -> int:
        """Bits that tell all values of the range apart."""
        return max(1, (self.high - self.low).bit_length())

    @property
    def largest(self) -> int:
        """Largest magnitude."""
        return max(abs(self.low), abs(self.high))


def _accumulators(op: Op, values: Sequence[Values], bound: int) -> Values:
    return Values("accumulators", -bound, bound)


def _same(op: Op, values: Sequence[Values], bound: int) -> Values:
    return values[0]


def _input_values(op: ops.Input, values: Sequence[Values], bound: int) -> Values:
    return Values("spikes" if op.kind == "events" else "analog", op.low - op.zero_point, op.high - op.zero_point)


def _sum_pool_values(op: ops.SumPool2d, values: Sequence[Values], bound: int) -> Values:
    area = op.kernel[0] * op.kernel[1]
    return Values(values[0].kind, min(0, values[0].low) * area, max(0, values[0].high) * area)


VALUES: Mapping[type[Op], Callable[[Any, Sequence[Values], int], Values]] = MappingProxyType(
    {
        ops.Input: _input_values,
        ops.Conv2d: _accumulators,
        ops.Linear: _accumulators,
        ops.Threshold: lambda op, values, bound: Values("spikes", op.low, op.low + op.levels),
        ops.MaxPool2d: _same,
        ops.SumPool2d: _sum_pool_values,
        ops.Add: _accumulators,
        ops.Flatten: _same,
        ops.Readout: _accumulators,
    }
)


def flowing_values(net: IntegerNetwork) -> dict[str, Values]:
    """Return what flows out of every op, by name."""
    flow: dict[str, Values] = {}
    for op in net.ops:
        flow[op.name] = row(VALUES, op, "value")(op, [flow[name] for name in op.inputs], net.bounds[op.name])
    return flow


def tap_map(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Array:
    """Return V (kernel, size): V[t, y] = 1 where some output reads input position y through tap t, else 0.

    >>> tap_map(5, 3, kernel=3, stride=2, padding=1, dilation=1).sum(0).tolist()
    [1, 2, 1, 2, 1]
    """
    taps = np.zeros((kernel, size), np.int64)
    positions = np.arange(out) * stride - padding
    for t in range(kernel):
        read = positions + t * dilation
        taps[t, read[(read >= 0) & (read < size)]] = 1
    return taps


@dataclass(frozen=True)
class Layer:
    """An op in its place: what is known before the first sample.

    Attributes:
        op: the op. inputs: what arrives, one entry per input. in_shapes, out_shape: without the batch axis.
        bound: largest magnitude of the op's sums. fan_out: (P,) connections or windows of each input position.
        effective: (C, P) connections of nonzero weight, for products. connections: all connections of the layer.
        positions: (Z,) one position of each zone of its first input, see `tallies.py`.
    """

    op: Op
    inputs: tuple[Values, ...]
    in_shapes: tuple[Shape, ...]
    out_shape: Shape
    bound: int
    fan_out: Array = field(repr=False)
    effective: Array = field(repr=False)
    connections: int
    positions: Array = field(repr=False)

    @property
    def spiking(self) -> bool:
        """Whether the op's inputs are spikes."""
        return bool(self.inputs) and all(value.spiking for value in self.inputs)

    @property
    def weight(self) -> Tensor | None:
        """The weight codes of a product, else None."""
        return self.op.weight if isinstance(self.op, ops.Conv2d | ops.Linear) else None

    @cached_property
    def weight_bits(self) -> int:
        """Bits of the codes in use: -m..m, or the odd codes of it where no code is even."""
        if self.weight is None:
            return 0
        largest = int(self.weight.abs().max())
        states = largest + 1 if bool((self.weight % 2 != 0).all()) else 2 * largest + 1
        return max(1, (states - 1).bit_length())


@dataclass(frozen=True)
class Counted:
    """A value that counting looks at: its zones, and its range where it consists of levels."""

    zones: Zones
    levels: tuple[int, int] | None


def counted_values(net: IntegerNetwork) -> dict[str, Counted]:
    """Return what must be tallied, by the name of the op that gives it: all that the rules of `COUNTS` ask for."""
    flow = flowing_values(net)
    asked: dict[str, list[Op]] = {}
    for op in net.ops:
        if isinstance(op, ops.Threshold):
            asked.setdefault(op.name, [])
        product = isinstance(op, ops.Conv2d | ops.Linear)
        if isinstance(op, ops.MaxPool2d | ops.SumPool2d | ops.Add) or (product and flow[op.inputs[0]].spiking):
            for name in op.inputs:
                asked.setdefault(name, []).append(op)
    return {
        name: Counted(_zones(net, name, takers), (flow[name].low, flow[name].high) if flow[name].spiking else None)
        for name, takers in asked.items()
    }


def _zones(net: IntegerNetwork, name: str, takers: Sequence[Op]) -> Zones:
    shape = net.shapes[name]
    if len(shape) == 1:
        return Zones((np.zeros(1, np.int64),), (np.zeros(1, np.int64),))
    windows = [op for op in takers if not isinstance(op, ops.Add)]
    maps = [_taps(op, shape, net.shapes[op.name]) for op in windows]
    return Zones(alike([rows for rows, _ in maps], shape[1]), alike([columns for _, columns in maps], shape[2]))


def layers_of(net: IntegerNetwork, counted: Mapping[str, Counted] | None = None) -> list[Layer]:
    """Return every op of the network in its place, in order; `counted` as `counted_values` gives it, if at hand."""
    flow, counted = flowing_values(net), counted_values(net) if counted is None else counted
    return [_layer(net, op, tuple(flow[name] for name in op.inputs), counted) for op in net.ops]


def _layer(net: IntegerNetwork, op: Op, inputs: tuple[Values, ...], counted: Mapping[str, Counted]) -> Layer:
    in_shapes = tuple(net.shapes[name] for name in op.inputs)
    out_shape = net.shapes[op.name]
    fan_out = effective = np.zeros(0, np.int64)
    connections = 0
    if isinstance(op, ops.Conv2d):
        group_out = op.weight.shape[0] // op.groups
        rows, columns = _taps(op, in_shapes[0], out_shape)
        fan_out = np.outer(rows.sum(0), columns.sum(0)).ravel() * group_out
        # Nonzero weights that leave input channel c through each tap, (C, kh, kw).
        used = (op.weight.view(op.groups, group_out, *op.weight.shape[1:]) != 0).sum(1).flatten(0, 1).numpy()
        by_row = np.tensordot(used, columns, axes=(2, 0))  # (C, kh, W)
        effective = np.matmul(rows.T, by_row).reshape(len(used), -1)  # (C, P)
        connections = int(fan_out.sum()) * in_shapes[0][0]
    elif isinstance(op, ops.Linear):
        fan_out = np.array([op.weight.shape[0]], np.int64)
        effective = (op.weight != 0).sum(0)[:, None].numpy()
        connections = op.weight.numel()
    elif isinstance(op, ops.SumPool2d | ops.MaxPool2d):
        rows, columns = _taps(op, in_shapes[0], out_shape)
        fan_out = np.outer(rows.sum(0), columns.sum(0)).ravel()
    entry = counted.get(op.inputs[0]) if op.inputs else None
    positions = np.zeros(0, np.int64) if entry is None else entry.zones.representatives
    return Layer(op, inputs, in_shapes, out_shape, net.bounds[op.name], fan_out, effective, connections, positions)


def _taps(op: Op, in_shape: Shape, out_shape: Shape) -> tuple[Array, Array]:
    """Return the tap maps of an op with windows: (kh, H) and (kw, W). A row for each such op."""
    kernel, stride, padding, dilation = row(WINDOWS, op, "window")(op)
    rows, columns = (
        tap_map(in_shape[1 + axis], out_shape[1 + axis], kernel[axis], stride[axis], padding[axis], dilation[axis])
        for axis in (0, 1)
    )
    return rows, columns


# Kernel, stride, padding and dilation.
WINDOWS: Mapping[type[Op], Callable[[Any], tuple[Pair, Pair, Pair, Pair]]] = MappingProxyType(
    {
        ops.Conv2d: lambda op: ((op.weight.shape[2], op.weight.shape[3]), op.stride, op.padding, op.dilation),
        ops.MaxPool2d: lambda op: (op.kernel, op.stride, op.padding, (1, 1)),
        ops.SumPool2d: lambda op: (op.kernel, op.stride, op.padding, (1, 1)),
    }
)


def _whole_bytes(bits: int) -> int:
    return -(-bits // 8)


def _word_bytes(bits: int) -> int:
    """Bytes of the smallest machine word, 1, 2, 4 or 8, that holds this many bits."""
    return next(size for size in (1, 2, 4, 8) if bits <= 8 * size)


def _message_bytes(layer: Layer) -> int:
    values, sources = layer.inputs[0], int(np.prod(layer.in_shapes[0]))
    payload = 0 if values.largest == 1 and values.low == 0 else values.bits
    return _whole_bytes((sources - 1).bit_length() + payload)


@dataclass(frozen=True)
class Term:
    """A part of a count: sums over zones and channels of one value's `Tally`, times factors.

    Attributes:
        of: the op whose output is tallied. active: (Z, 1) or (Z, C) factors of nonzero values, Z = 1 for all zones.
        units, serial: (Z,) factors of magnitudes, and of the ones of their binary form; None for 0.
    """

    of: str
    active: Array | None = None
    units: Array | None = None
    serial: Array | None = None

    def __mul__(self, factor: int) -> "Term":
        return Term(
            self.of, *(None if part is None else part * factor for part in (self.active, self.units, self.serial))
        )

    def per_sample(self, tally: Tally) -> Array:
        """Return (B,)."""
        total = np.zeros(len(tally.active), np.int64)
        if self.active is not None and self.active.shape[1] == 1:
            total += (tally.per_zone * self.active[:, 0]).sum(1)
        elif self.active is not None:
            total += np.einsum("bzc,zc->b", tally.active, np.broadcast_to(self.active, tally.active.shape[1:]))
        for factors, sums in ((self.units, tally.units), (self.serial, tally.serial)):
            if factors is not None:
                assert sums is not None
                total += (sums * factors).sum(1)
        return total


Terms = dict[str, tuple[Term, ...]]
ONE = np.ones(1, np.int64)


def _product(layer: Layer) -> Terms:
    if not layer.spiking:
        return {}
    of, fan_out = layer.op.inputs[0], layer.fan_out[layer.positions]
    events, synops = Term(of, ONE[:, None]), Term(of, fan_out[:, None])
    terms = {
        "events": events,
        "synops": synops,
        "effective_synops": Term(of, layer.effective[:, layer.positions].T),
        "unit_spike_acs": Term(of, units=fan_out),
        "bit_serial_adds": Term(of, serial=fan_out),
    }
    return {name: (term,) for name, term in _with_traffic(layer, terms).items()}


Count = TypeVar("Count", Term, int)


def _with_traffic(layer: Layer, counts: dict[str, Count]) -> dict[str, Count]:
    """Add what follows from events and synops: the bytes an event-driven core moves, and bit operations."""
    synops, events, bits = counts["synops"], counts["events"], layer.weight_bits
    return {
        **counts,
        "weight_bytes": synops * _whole_bytes(bits),
        "membrane_bytes": synops * 2 * _word_bytes((2 * layer.bound).bit_length()),
        "message_bytes": events * _message_bytes(layer),
        "bit_ops": synops * bits * layer.inputs[0].bits,
    }


def _threshold(layer: Layer) -> Terms:
    return {"spikes": (Term(layer.op.name, ONE[:, None]),), "unit_spikes": (Term(layer.op.name, units=ONE),)}


def _pool(count: str) -> Callable[[Layer], Terms]:
    return lambda layer: {count: (Term(layer.op.inputs[0], layer.fan_out[layer.positions][:, None]),)}


def _add(layer: Layer) -> Terms:
    return {"adds": tuple(Term(name, ONE[:, None]) for name in layer.op.inputs)}


def _nothing(layer: Layer) -> Terms:
    return {}


# What depends on the data: a sum of terms for each count.
COUNTS: Mapping[type[Op], Callable[[Layer], Terms]] = MappingProxyType(
    {
        ops.Input: _nothing,
        ops.Conv2d: _product,
        ops.Linear: _product,
        ops.Threshold: _threshold,
        ops.MaxPool2d: _pool("compares"),
        ops.SumPool2d: _pool("adds"),
        ops.Add: _add,
        ops.Flatten: _nothing,
        ops.Readout: _nothing,
    }
)


def run_and_tally(
    net: IntegerNetwork, codes: Tensor, counted: Mapping[str, Counted]
) -> tuple[Tensor, dict[str, Tally]]:
    """Run the network on a batch of codes; return its output and the tallies of the values in `counted`."""
    tallies: dict[str, Tally] = {}

    def observe(name: str, value: Tensor) -> None:
        tallies[name] = tally(value, counted[name].zones, counted[name].levels)

    return net.observe(codes, counted, observe), tallies


def count(layer: Layer, tallies: Mapping[str, Tally]) -> PerSample:
    """Return what the data decide of the counts of one op for a batch, by the names of `Counts`.

    Args:
        layer: of `layers_of`.
        tallies: of the values that `counted_values` names.
    """
    terms = row(COUNTS, layer.op, "counting")(layer)
    return {name: sum_terms(parts, tallies) for name, parts in terms.items()}


def sum_terms(terms: Sequence[Term], tallies: Mapping[str, Tally]) -> Array:
    """Return one count, (B,)."""
    total: Array = np.sum([term.per_sample(tallies[term.of]) for term in terms], axis=0)
    return total


def _fixed_product(layer: Layer) -> Fixed:
    dense = layer.connections
    if layer.spiking:
        return {"dense_macs": dense}
    return {"dense_macs": dense, "macs": dense, "bit_ops": dense * layer.weight_bits * layer.inputs[0].bits}


def _fixed_threshold(layer: Layer) -> Fixed:
    assert isinstance(layer.op, ops.Threshold)
    neurons = math.prod(layer.out_shape)
    return {"neuron_updates": neurons, "threshold_tests": neurons * layer.op.levels}


def _fixed_readout(layer: Layer) -> Fixed:
    assert isinstance(layer.op, ops.Readout)
    return {"adds": int((layer.op.bias != 0).sum())}


def _none(layer: Layer) -> Fixed:
    return {}


# What is the same for every sample.
FIXED: Mapping[type[Op], Callable[[Layer], Fixed]] = MappingProxyType(
    {
        ops.Input: _none,
        ops.Conv2d: _fixed_product,
        ops.Linear: _fixed_product,
        ops.Threshold: _fixed_threshold,
        ops.MaxPool2d: _none,
        ops.SumPool2d: _none,
        ops.Add: _none,
        ops.Flatten: _none,
        ops.Readout: _fixed_readout,
    }
)


def fixed_counts(layer: Layer) -> Fixed:
    """Return the counts of one op that are the same for every sample, by the names of `Counts`."""
    return row(FIXED, layer.op, "counting")(layer)


def _most_product(layer: Layer) -> Fixed:
    if not layer.spiking:
        return {}
    dense, largest = layer.connections, layer.inputs[0].largest
    return _with_traffic(
        layer,
        {
            "events": math.prod(layer.in_shapes[0]),
            "synops": dense,
            "effective_synops": int(layer.effective.sum()),
            "unit_spike_acs": dense * largest,
            "bit_serial_adds": dense * ((largest + 1).bit_length() - 1),  # no number up to `largest` has more ones
        },
    )


def _most_threshold(layer: Layer) -> Fixed:
    assert isinstance(layer.op, ops.Threshold)
    neurons = math.prod(layer.out_shape)
    largest = max(abs(layer.op.low), abs(layer.op.low + layer.op.levels))
    return {"spikes": neurons, "unit_spikes": neurons * largest}


def _most_pool(count: str) -> Callable[[Layer], Fixed]:
    return lambda layer: {count: int(layer.fan_out.sum()) * layer.in_shapes[0][0]}


def _most_add(layer: Layer) -> Fixed:
    return {"adds": len(layer.inputs) * math.prod(layer.out_shape)}


# The largest that a count of `COUNTS` can be for one sample: the range of its histogram.
CEILINGS: Mapping[type[Op], Callable[[Layer], Fixed]] = MappingProxyType(
    {
        ops.Input: _none,
        ops.Conv2d: _most_product,
        ops.Linear: _most_product,
        ops.Threshold: _most_threshold,
        ops.MaxPool2d: _most_pool("compares"),
        ops.SumPool2d: _most_pool("adds"),
        ops.Add: _most_add,
        ops.Flatten: _none,
        ops.Readout: _none,
    }
)


def ceilings(layer: Layer) -> Fixed:
    """Return the largest value of each count of `count` for one sample."""
    return row(CEILINGS, layer.op, "counting")(layer)
