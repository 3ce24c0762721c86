"""An event-driven executor: it takes the spikes one by one, visits every synapse of each, and counts what it does.

Axis letters: B batch, C input channels, O output channels, H height, W width, I inputs of a group.

It shares no formula with `counting.py`: there is no fan-out here, only loops over messages and over the synapses that
they reach, and a counter that is raised at each. So it is a second witness of every count, and it shows what only
events show: messages, queues, and how often each accumulator is written.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.compiled import fast, machine_code, need_numba, over_batch
from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.geometry import output_size, row
from maqd_snn.integer.ops import Op, check_codes

Array = NDArray[np.int64]

SLOW_LIMIT = 20_000_000  # connections times samples that plain Python may visit: about half a minute
SYNAPSES_PER_STEP = 64

EVENTS, SYNOPS, EFFECTIVE, UNITS, SERIAL, UNIT_MESSAGES, SERIAL_MESSAGES, DEPTH = range(8)
COUNTERS = (
    "events",
    "synops",
    "effective_synops",
    "unit_spike_acs",
    "bit_serial_adds",
    "unit_messages",
    "bit_serial_messages",
    "queue_depth",
)


@dataclass(frozen=True, eq=False)
class LayerEvents:
    """What one op did, sample by sample; every array is (B,).

    Attributes:
        name, op: name and type of the op. spiking: whether spikes arrive at it.
        counts: by the names of `Counts`, as far as this op raises them: `events` (the messages of graded spikes),
        `synops`, `effective_synops`, `unit_spike_acs` and `bit_serial_adds` (the work if a level-k spike is one graded
        event, k unit spikes, or one message for each binary one of k), `macs`, `adds`, `compares`, `spikes`,
        `unit_spikes`. Beyond them `unit_messages` and `bit_serial_messages`: the messages of those two codes.
        queue_depth: most messages that wait or are served at once. The neurons before the layer are scanned in order
        (channel, row, column), one a step, and each that fires sends one message; the layer serves the messages in
        turn, `synapses_per_step` synapses a step.
        writes_most: writes of the accumulator that is written most; writes_mean: mean over the accumulators.
    """

    name: str
    op: str
    spiking: bool
    counts: Mapping[str, Array]
    queue_depth: Array
    writes_most: Array
    writes_mean: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EventRun:
    """The outputs of the last op, (B, ...) int64, and what every op did, the input left out."""

    scores: Array
    layers: tuple[LayerEvents, ...]
    outputs: Mapping[str, Array]

    def layer(self, name: str) -> LayerEvents:
        """Return the entry of the op called `name`."""
        for entry in self.layers:
            if entry.name == name:
                return entry
        raise MaqdError(f"no layer is named {name!r}; the layers are: {', '.join(e.name for e in self.layers)}")


# Kernels: plain loops, compiled where numba is installed. Arrays are channels-last, so that a spike's synapses lie
# beside each other.


def scatter(
    start: int,
    stop: int,
    x: Any,  # (B, H, W, C)
    weight: Any,  # (C, kh, kw, O/groups): the synapses that leave each channel
    geometry: Any,  # stride, padding, dilation: 6 numbers, and groups
    per_step: int,
    z: Any,  # (B, H', W', O): accumulators
    writes: Any,  # (B, H', W', O)
    counters: Any,  # (B, 8)
) -> None:
    """Send every nonzero value through its synapses."""
    _, height, width, channels = x.shape
    _, kernel_h, kernel_w, fan = weight.shape
    _, out_h, out_w, _ = z.shape
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups = geometry
    per_group = channels // groups
    for b in range(start, stop):
        done = np.zeros(height * width * channels + 1, np.int64)  # when each message is served
        messages = first_waiting = step = deepest = 0
        synops = effective = units = serial = unit_messages = serial_messages = 0
        for c in range(channels):
            first_output = c // per_group * fan
            for y in range(height):
                for at in range(width):
                    step += 1  # the neuron before is scanned
                    level = x[b, y, at, c]
                    if level == 0:
                        continue
                    magnitude = abs(level)
                    ones = 0
                    rest = magnitude
                    while rest:
                        ones += rest & 1
                        rest >>= 1
                    unit_messages += magnitude
                    serial_messages += ones
                    visited = 0
                    for dy in range(kernel_h):
                        top = y + pad_h - dy * dilation_h
                        if top < 0 or top % stride_h != 0 or top // stride_h >= out_h:
                            continue
                        for dx in range(kernel_w):
                            left = at + pad_w - dx * dilation_w
                            if left < 0 or left % stride_w != 0 or left // stride_w >= out_w:
                                continue
                            for o in range(fan):
                                w = weight[c, dy, dx, o]
                                z[b, top // stride_h, left // stride_w, first_output + o] += w * level
                                writes[b, top // stride_h, left // stride_w, first_output + o] += 1
                                visited += 1
                                synops += 1
                                if w != 0:
                                    effective += 1
                                units += magnitude
                                serial += ones
                    begin = step
                    if messages and done[messages - 1] > begin:
                        begin = done[messages - 1]
                    done[messages] = begin + (visited + per_step - 1) // per_step
                    messages += 1
                    while first_waiting < messages and done[first_waiting] <= step:
                        first_waiting += 1
                    deepest = max(deepest, messages - first_waiting)
        counters[b, EVENTS] = messages
        counters[b, SYNOPS] = synops
        counters[b, EFFECTIVE] = effective
        counters[b, UNITS] = units
        counters[b, SERIAL] = serial
        counters[b, UNIT_MESSAGES] = unit_messages
        counters[b, SERIAL_MESSAGES] = serial_messages
        counters[b, DEPTH] = deepest


def multiply_all(start: int, stop: int, x: Any, weight: Any, geometry: Any, z: Any, macs: Any) -> None:
    """Visit every connection of a layer that is not spiking; shapes as for `scatter`."""
    _, height, width, channels = x.shape
    _, kernel_h, kernel_w, fan = weight.shape
    _, out_h, out_w, _ = z.shape
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups = geometry
    per_group = channels // groups
    for b in range(start, stop):
        visited = 0
        for top in range(out_h):
            for left in range(out_w):
                for dy in range(kernel_h):
                    y = top * stride_h - pad_h + dy * dilation_h
                    for dx in range(kernel_w):
                        at = left * stride_w - pad_w + dx * dilation_w
                        if y < 0 or y >= height or at < 0 or at >= width:
                            continue
                        for c in range(channels):
                            first_output = c // per_group * fan
                            for o in range(fan):
                                z[b, top, left, first_output + o] += weight[c, dy, dx, o] * x[b, y, at, c]
                                visited += 1
        macs[b] = visited


def fire(start: int, stop: int, z: Any, theta: Any, direction: Any, low: int, level: Any, counters: Any) -> None:
    """Compare accumulators (B, P, C) with thresholds (C, n): levels, and (B, 2) spikes and unit spikes."""
    _, positions, channels = z.shape
    for b in range(start, stop):
        for p in range(positions):
            for c in range(channels):
                k = low
                for j in range(theta.shape[1]):
                    if (direction[c] > 0 and z[b, p, c] >= theta[c, j]) or (
                        direction[c] < 0 and z[b, p, c] <= theta[c, j]
                    ):
                        k += 1
                level[b, p, c] = k
                if k != 0:
                    counters[b, 0] += 1
                    counters[b, 1] += abs(k)


def pool(start: int, stop: int, x: Any, geometry: Any, maximum: bool, out: Any, operations: Any) -> None:
    """Take the maximum or the sum of windows (B, H, W, C); one operation for each nonzero value of a window."""
    _, height, width, channels = x.shape
    _, out_h, out_w, _ = out.shape
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w = geometry
    for b in range(start, stop):
        for top in range(out_h):
            for left in range(out_w):
                for c in range(channels):
                    total = 0
                    met = False
                    for dy in range(kernel_h):
                        for dx in range(kernel_w):
                            y, at = top * stride_h - pad_h + dy, left * stride_w - pad_w + dx
                            if y < 0 or y >= height or at < 0 or at >= width:
                                continue
                            value = x[b, y, at, c]
                            if not maximum:
                                total += value
                            elif not met or value > total:
                                total = value
                            met = True
                            if value != 0:
                                operations[b] += 1
                    out[b, top, left, c] = total


def add_up(start: int, stop: int, term: Any, total: Any, adds: Any) -> None:
    """Add a term (B, N) to a total; one addition for each nonzero value."""
    for b in range(start, stop):
        for index in range(term.shape[1]):
            total[b, index] += term[b, index]
            if term[b, index] != 0:
                adds[b] += 1


# Output, counters by name, and the writes of each accumulator (B, N) of a layer that spikes arrive at.
Done = tuple[Array, dict[str, Array], Array | None]
Rule = Callable[["_Machine", Any, Sequence[Array]], Done]


@dataclass(frozen=True)
class _Machine:
    """How a run is done: whether spikes arrive at an op, by name, and the synapses a layer serves in a step."""

    spiking: Mapping[str, bool]
    synapses_per_step: int

    def call(self, kernel: Callable[..., None], batch: int, *arguments: Any) -> None:
        over_batch(machine_code(kernel), batch, *arguments) if fast() else kernel(0, batch, *arguments)


def _last(x: Array) -> Array:
    """(B, C, H, W) or (B, C) -> (B, H, W, C)."""
    image = x if x.ndim == 4 else x[:, :, None, None]
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


def _first(x: Array, ndim: int) -> Array:
    image = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return image if ndim == 4 else image.reshape(len(image), -1)


def _product(machine: _Machine, op: ops.Conv2d | ops.Linear, values: Sequence[Array]) -> Done:
    weight, groups = op.weight.numpy(), 1
    geometry = [1, 1, 0, 0, 1, 1]
    if isinstance(op, ops.Conv2d):
        geometry, groups = [*op.stride, *op.padding, *op.dilation], op.groups
    else:
        weight = weight[:, :, None, None]
    out, per_group, kernel_h, kernel_w = weight.shape
    # (groups, O/groups, I, kh, kw) -> (groups * I, kh, kw, O/groups)
    leaving = weight.reshape(groups, out // groups, per_group, kernel_h, kernel_w).transpose(0, 2, 3, 4, 1)
    leaving = np.ascontiguousarray(leaving.reshape(groups * per_group, kernel_h, kernel_w, out // groups))
    x = _last(values[0])
    batch, height, width, _ = x.shape
    strides, paddings, dilations = ((geometry[i], geometry[i + 1]) for i in (0, 2, 4))
    size = output_size((height, width), (kernel_h, kernel_w), strides, paddings, dilations)
    z = np.zeros((batch, *size, out), np.int64)
    numbers = np.array([*geometry, groups], np.int64)
    if not machine.spiking[op.name]:
        macs = np.zeros(batch, np.int64)
        machine.call(multiply_all, batch, x, leaving, numbers, z, macs)
        return _first(z, values[0].ndim), {"macs": macs}, None
    writes = np.zeros_like(z)
    counters = np.zeros((batch, len(COUNTERS)), np.int64)
    machine.call(scatter, batch, x, leaving, numbers, machine.synapses_per_step, z, writes, counters)
    return _first(z, values[0].ndim), dict(zip(COUNTERS, counters.T.copy(), strict=True)), writes.reshape(batch, -1)


def _threshold(machine: _Machine, op: ops.Threshold, values: Sequence[Array]) -> Done:
    z = _last(values[0])
    flat = z.reshape(len(z), -1, z.shape[3])
    level, counters = np.zeros_like(flat), np.zeros((len(z), 2), np.int64)
    theta, direction = op.thresholds.numpy(), op.direction.numpy()
    machine.call(fire, len(z), flat, theta, direction, op.low, level, counters)
    counts = {"spikes": counters[:, 0].copy(), "unit_spikes": counters[:, 1].copy()}
    return _first(level.reshape(z.shape), values[0].ndim), counts, None


def _pool(machine: _Machine, op: ops.MaxPool2d | ops.SumPool2d, values: Sequence[Array], count: str) -> Done:
    x = _last(values[0])
    size = output_size((x.shape[1], x.shape[2]), op.kernel, op.stride, op.padding)
    out, operations = np.zeros((len(x), *size, x.shape[3]), np.int64), np.zeros(len(x), np.int64)
    geometry = np.array([*op.kernel, *op.stride, *op.padding], np.int64)
    machine.call(pool, len(x), x, geometry, isinstance(op, ops.MaxPool2d), out, operations)
    return _first(out, 4), {count: operations}, None


def _add(machine: _Machine, op: Op, values: Sequence[Array]) -> Done:
    total, adds = np.zeros_like(values[0]), np.zeros(len(values[0]), np.int64)
    flat = total.reshape(len(total), -1)
    for value in values:
        machine.call(add_up, len(total), np.ascontiguousarray(value).reshape(flat.shape), flat, adds)
    return total, {"adds": adds}, None


def _readout(machine: _Machine, op: ops.Readout, values: Sequence[Array]) -> Done:
    total, adds = values[0].copy(), np.zeros(len(values[0]), np.int64)
    bias = np.repeat(op.bias.numpy()[None], len(total), axis=0)
    machine.call(add_up, len(total), bias, total, adds)
    return total, {"adds": adds}, None


# An op without a row is an error.
EVENT_DRIVEN: Mapping[type[Op], Rule] = MappingProxyType(
    {
        ops.Input: lambda machine, op, values: (values[0] - op.zero_point, {}, None),
        ops.Conv2d: _product,
        ops.Linear: _product,
        ops.Threshold: _threshold,
        ops.MaxPool2d: partial(_pool, count="compares"),
        ops.SumPool2d: partial(_pool, count="adds"),
        ops.Add: _add,
        ops.Flatten: lambda machine, op, values: (values[0].reshape(len(values[0]), -1), {}, None),
        ops.Readout: _readout,
    }
)


def carries_spikes(net: IntegerNetwork) -> dict[str, bool]:
    """Return whether what flows out of each op are spikes: events, or levels of a threshold, pooled at most."""
    carries: dict[str, bool] = {}
    for op in net.ops:
        if isinstance(op, ops.Input):
            carries[op.name] = op.kind == "events"
        elif isinstance(op, ops.MaxPool2d | ops.SumPool2d | ops.Flatten):
            carries[op.name] = carries[op.inputs[0]]
        else:
            carries[op.name] = isinstance(op, ops.Threshold)
    return carries


def run_events(net: IntegerNetwork, codes: Tensor, *, synapses_per_step: int = SYNAPSES_PER_STEP) -> EventRun:
    """Run the network on integer codes (B, *input shape), spike by spike.

    Args:
        net: the integer network.
        codes: integers in the input's range.
        synapses_per_step: synapses that a layer serves in the time in which one neuron before it is scanned.

    Raises:
        MaqdError: codes of the wrong shape, type or range, or no samples; an op without a rule.
        MissingExtraError: numba is not installed (extra `fast`) and the network is too large for plain Python.

    >>> net = IntegerNetwork([
    ...     ops.Input("input", shape=(3,), high=3, kind="events"),
    ...     ops.Linear("fc", ("input",), weight=torch.tensor([[1, -2, 0], [3, 0, 1]])),
    ... ])
    >>> run = run_events(net, torch.tensor([[3, 0, 1]]))
    >>> run.scores.tolist(), {name: int(count[0]) for name, count in run.layer("fc").counts.items()}["synops"]
    ([[3, 10]], 4)
    """
    source = net.input
    if synapses_per_step < 1:
        raise MaqdError(f"synapses_per_step must be at least 1, got {synapses_per_step}")
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise MaqdError(f"{source.name}: input codes must be an integer tensor, got {codes.dtype}")
    if tuple(codes.shape[1:]) != source.shape or not len(codes):
        expected = f"(batch, {', '.join(map(str, source.shape))})"
        raise MaqdError(f"{source.name}: input codes must have shape {expected}, got {tuple(codes.shape)}")
    values = codes.cpu().to(torch.int64).numpy()
    check_codes(int(values.min()), int(values.max()), source.low, source.high)
    if not fast():
        products = [op for op in net.ops if isinstance(op, ops.Conv2d | ops.Linear)]
        work = sum(op.weight.numel() * prod(net.shapes[op.name][1:]) for op in products) * len(codes)
        if work > SLOW_LIMIT:
            need_numba(f"event-driven execution of {work:,} connections (at most {SLOW_LIMIT:,} without it)")
    carries = carries_spikes(net)
    machine = _Machine({op.name: all(carries[name] for name in op.inputs) for op in net.ops}, synapses_per_step)
    outputs: dict[str, Array] = {}
    layers = []
    for op in net.ops:
        inputs = [outputs[name] for name in op.inputs] if op.inputs else [values]
        outputs[op.name], counts, writes = row(EVENT_DRIVEN, op, "event-driven")(machine, op, inputs)
        if not op.inputs:
            continue
        depth = counts.pop("queue_depth", np.zeros(len(values), np.int64))
        written = np.zeros((len(values), 1), np.int64) if writes is None else writes
        spiking = bool(op.inputs) and machine.spiking[op.name]
        most, mean = written.max(1), written.mean(1)
        layers.append(LayerEvents(op.name, type(op).__name__, spiking, counts, depth, most, mean))
    return EventRun(outputs[net.ops[-1].name], tuple(layers), outputs)
