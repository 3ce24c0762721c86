"""NIR graphs of integer networks: integer weights, one time step from rest, in thermometer or graded form.

**Thermometer form**, which every reader of NIR runs.

NIR has no multi-level neuron. A level in low..high is therefore carried by m = high - low binary neurons per unit, of
which number i stands for level j = low + 1 + i: for j > 0 it fires where the level is at least j and counts +1; for
j <= 0 it fires where the level is below j and counts -1. So level = sum_i sign_i * spike_i, and silence is level 0,
which keeps zero padding right. Neuron i of channel c is channel c*m + i of its node.

A neuron gets theta + drive as input, drive being an integer plus one half, and fires where that exceeds its threshold
theta: no tie exists. Where m > 1, a neuron-free node sums the spikes back to levels before the next product (role
`levels`), and a neuron-free node copies each accumulator m times, with signs and biases, before the neurons (role
`drive`): so the graph grows with m, not with its square.

**Graded form**, a convention of this library: one IF for each unit, whose metadata says what it gives in its one step,

    level = low + number of thresholds t of its channel with r * x >= t,

with integer thresholds, rising, and r = +1 or -1, the direction. v_threshold is the first threshold less one half. A
SumPool2d whose metadata has `maximum` takes the maximum of its windows, without what pads them. So who does not know
the convention runs the right network where all levels are 0 or 1 and maxima are those of spikes, and only there.

Axis letters: B batch, C channels, H height, W width, m neurons per unit.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from io import BytesIO
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn._version import __version__
from maqd_snn.errors import MaqdError, MissingExtraError
from maqd_snn.files import atomic_path
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.geometry import FLOAT32_EXACT, Shape
from maqd_snn.integer.ops import Op, Pair
from maqd_snn.integer.storage import fingerprint

Array = NDArray[Any]


def require_nir() -> Any:
    """Return the package `nir`; raises MissingExtraError where it is not installed."""
    try:
        import nir
    except ImportError as error:
        raise MissingExtraError("nir", "nir", "the NIR format") from error
    return nir


# Of what the metadata of graphs and of golden events state; older files state none. Raise it when a reader of them that
# knows only this one would be wrong.
FORMAT_VERSION = 1

THERMOMETER_FORM = {
    "form": "thermometer: level = sum of sign * spike over the m channels c*m .. c*m + m-1 of a unit",
    "scales": "all 1: weights, thresholds and levels are whole numbers, biases of neurons halves",
}
GRADED_FORM = {
    "form": "graded, a convention of maqd-snn: an IF with metadata `thresholds` (channels, levels) gives one level in "
    "its one step, low + the number of thresholds t of its channel with r * input >= t; a SumPool2d with metadata "
    "`maximum` gives the maximum of its windows",
    "warning": "NIR's own IF gives 0 or 1: a reader that does not know the convention runs another network, unless "
    "every IF has low 0 and one level",
    "scales": "all 1: weights, thresholds and levels are whole numbers",
}


@dataclass(frozen=True)
class Value:
    """An op's output in the graph: sum_i signs[i] * (channel c*m + i of the sum of the source nodes' outputs).

    Attributes:
        sources: names of the nodes whose outputs the edges add up.
        shape: of the value, (C, H, W) or (features,); the nodes have m times as many channels.
        signs: +1 or -1 for each of the m channels of a unit; (1,) is a plain value.
        spikes: whether the channels are what neurons give: 0 or 1, or levels in the graded form.
    """

    sources: tuple[str, ...]
    shape: Shape
    signs: tuple[int, ...] = (1,)
    spikes: bool = False


def nir_graph(net: IntegerNetwork, graded: bool = False) -> Any:
    """Return the `nir.NIRGraph` that computes what `net` computes, for inputs codes - zero_point.

    All values are integers or halves below 2^24, hence exact in float32, in whatever order they are summed.

    Args:
        net: the integer network.
        graded: whether one IF stands for a unit, with its levels in the metadata, and not m binary neurons.

    Raises:
        MaqdError: an op that NIR cannot express, or accumulators too large for float32; it names the op and what to do.
            MissingExtraError: the package `nir` is not installed.
    """
    builder, nodes = _Builder(net, require_nir()), GRADED_NODES if graded else NODES
    for op in net.ops:
        if type(op) not in nodes:
            known = ", ".join(kind.__name__ for kind in nodes)
            raise MaqdError(f"{op.name}: a {type(op).__name__} cannot be written as NIR; use only: {known}")
        if net.bounds[op.name] > FLOAT32_EXACT:
            raise MaqdError(
                f"{op.name}: its values can reach {net.bounds[op.name]}, but NIR holds float32, exact up to 2^24 only; "
                "use fewer states or narrower layers, or export as onnx"
            )
        builder.values[op.name] = nodes[type(op)](builder, op)
    last = net.ops[-1]
    value = builder.plain(last.name)
    # Readers do not add up edges into an Output.
    (source,) = value.sources if len(value.sources) == 1 else (builder.identity(last, "sum", value),)
    builder.add(last, "output", (source,), builder.nir.Output({"output": np.array(value.shape)}))
    # All of it on the graph, but for what graded nodes need: nir 1.0.4, which sinabs needs, cannot read metadata on
    # Input, Output or Conv2d.
    metadata = {
        "library": f"maqd-snn {__version__}",
        "format_version": FORMAT_VERSION,
        **(GRADED_FORM if graded else THERMOMETER_FORM),
        "input": "codes minus zero_point",
        "zero_point": net.input.zero_point,
        "time_steps": 1,
        "state": "every sample starts from rest",
        "nodes": json.dumps(builder.notes),
        "network": stated_ops(net, in_nodes=("weight", "thresholds", "direction") if graded else ("weight",)),
        "fingerprint": fingerprint(net),
        "provenance": json.dumps(net.provenance, sort_keys=True),
    }
    return builder.nir.NIRGraph(builder.nodes, builder.edges, metadata=metadata)


def write_nir(net: IntegerNetwork, path: Path, graded: bool = False) -> None:
    """Write `nir_graph(net, graded)` to `path`, atomically.

    The thermometer form can be read by nir 1.0.4 to 1.0.8 (1.0.5 without SumPool2d).

    Raises:
        MaqdError: as `nir_graph`, or an unwritable path.
    """
    graph = nir_graph(net, graded)
    memory = BytesIO()  # see `maqd_snn.hdf5`
    require_nir().write(memory, graph)
    with h5py.File(memory, "r+") as file:
        # nir before 1.0.6 fails on v_reset; 1.0.6 and later take a missing one for 0, which is what it is.
        for node in file["node/nodes"].values():
            node.pop("v_reset", None)
    with atomic_path(path) as temporary:
        temporary.write_bytes(memory.getbuffer())


def write_nir_graded(net: IntegerNetwork, path: Path) -> None:
    """Write the graded form; see `write_nir`."""
    write_nir(net, path, graded=True)


def stated_ops(net: IntegerNetwork, in_nodes: Sequence[str]) -> str:
    """Return what a NIR file states of the ops as JSON: everything but the fields that its nodes hold."""
    entries = []
    for op in net.ops:
        entry: dict[str, Any] = {"type": type(op).__name__}
        for each in fields(op):
            value = getattr(op, each.name)
            if each.name == "weight":
                entry["weight_shape"] = list(value.shape)
            elif each.init and each.name not in in_nodes:
                entry[each.name] = value.tolist() if isinstance(value, Tensor) else value
        entries.append(entry)
    return json.dumps(entries)


class _Builder:
    """Collects nodes, edges and notes on nodes by node name; `values` holds the ops' outputs by op name."""

    def __init__(self, net: IntegerNetwork, nir: Any) -> None:
        self.net, self.nir = net, nir
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.notes: dict[str, dict[str, Any]] = {}
        self.values: dict[str, Value] = {}
        self.op = {op.name: op for op in net.ops}
        self._plain: dict[str, Value] = {}

    def add(self, op: Op, role: str, sources: Sequence[str], node: Any) -> str:
        """Add a node of the op, and edges from its sources; return its name."""
        # Numbered, names are unique, sort in topological order (HDF5 sorts them) and clash with no attribute of the
        # modules that readers make of them. Readers paste names into code they generate: plain letters only.
        name = f"{len(self.nodes):03d}_{re.sub(r'[^A-Za-z0-9_]', '_', op.name)}" + (f"_{role}" if role else "")
        self.notes[name] = {"op": op.name, "role": role or type(op).__name__}
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def product(self, op: Op, role: str, sources: Sequence[str], weight: Array, bias: Array) -> str:
        """Add weight (O, I) @ x + bias (O,) for features x (I,)."""
        return self.add(op, role, sources, self.nir.Affine(weight.astype(np.float32), bias.astype(np.float32)))

    def conv(
        self,
        op: Op,
        role: str,
        sources: Sequence[str],
        size: Pair,
        weight: Array,
        stride: Pair = (1, 1),
        padding: Pair = (0, 0),
        dilation: Pair = (1, 1),
        bias: Array | None = None,
    ) -> str:
        """Add a convolution of images of size (H, W) with weight (O, I, kh, kw)."""
        # nir infers the shape of a convolution from kh alone, and its reader refuses what does not fit: make it square.
        short, missing = int(np.argmin(weight.shape[2:])), abs(weight.shape[2] - weight.shape[3])
        if missing % 2:
            raise MaqdError(
                f"{op.name}: nir takes every kernel for a square one, and {weight.shape[2:]} cannot be padded to one "
                "evenly; use a square kernel, or export as onnx"
            )
        around = [(missing // 2,) * 2 if axis == short else (0, 0) for axis in range(2)]
        wider = [p + before * d for p, (before, _), d in zip(padding, around, dilation, strict=True)]
        node = self.nir.Conv2d(
            input_shape=size,
            weight=np.pad(weight, ((0, 0), (0, 0), *around)).astype(np.float32),
            stride=stride,
            padding=(wider[0], wider[1]),
            dilation=dilation,
            groups=1,
            bias=(np.zeros(len(weight)) if bias is None else bias).astype(np.float32),
        )
        return self.add(op, role, sources, node)

    def mix(self, op: Op, role: str, sources: Sequence[str], shape: Shape, matrix: Array, bias: Array) -> str:
        """Add matrix (C', C) @ x + bias (C',) along the channels of x: an Affine, or a 1x1 convolution."""
        if len(shape) == 1:
            return self.product(op, role, sources, matrix, bias)
        return self.conv(op, role, sources, (shape[1], shape[2]), matrix[:, :, None, None], bias=bias)

    def sum_pool(self, op: ops.MaxPool2d | ops.SumPool2d, role: str, sources: Sequence[str], shape: Shape) -> str:
        """Add sums over the op's windows, for images (C, H, W)."""
        area = op.kernel[0] * op.kernel[1]
        if op.padding == (0, 0) and area & (area - 1) == 0:
            sizes = (np.array(pair) for pair in (op.kernel, op.stride, op.padding))
            return self.add(op, role, sources, self.nir.SumPool2d(*sizes))
        # nirtorch, under snnTorch, SpikingJelly and norse, reads SumPool2d as LPPool2d: it drops the padding, and
        # divides by the area and multiplies again, which rounds unless that is a power of two. A convolution is exact.
        weight = np.eye(shape[0])[:, :, None, None] * np.ones(op.kernel)
        return self.conv(op, role, sources, (shape[1], shape[2]), weight, op.stride, op.padding)

    def identity(self, op: Op, role: str, value: Value) -> str:
        """Add a node that outputs the plain value."""
        channels = value.shape[0]
        return self.mix(op, role, value.sources, value.shape, np.eye(channels), np.zeros(channels))

    def plain(self, name: str) -> Value:
        """Return the output of the op of this name as a plain value; spikes are summed to levels, once."""
        value = self.values[name]
        if value.signs == (1,):
            return value
        if name not in self._plain:
            channels, *size = value.shape
            matrix = np.kron(np.eye(channels), np.array([value.signs]))  # (C, C*m)
            shape = (channels * len(value.signs), *size)
            levels = self.mix(self.op[name], "levels", value.sources, shape, matrix, np.zeros(channels))
            self._plain[name] = Value((levels,), value.shape)
        return self._plain[name]

    def scaled(self, op: Op, role: str, value: Value, scale: Array, bias: Array) -> tuple[str, ...]:
        """Return the nodes that give scale[c, i] * value_c + bias[c, i] as channel c*m + i; scale, bias are (C, m)."""
        channels, m = scale.shape
        taken = self.op[op.inputs[0]]
        if m == 1 and isinstance(taken, ops.Conv2d | ops.Linear) and len(self.net.consumers(taken.name)) == 1:
            # The product has no other reader: it can carry sign and bias itself.
            (name,) = value.sources
            node = self.nodes[name]
            per_row = (-1, *(1,) * (node.weight.ndim - 1))
            node.weight = (node.weight * scale.reshape(per_row)).astype(np.float32)
            node.bias = bias[:, 0].astype(np.float32)
            self.notes[name]["carries_bias_of"] = op.name
            return value.sources
        matrix = np.zeros((channels * m, channels))
        rows = np.arange(channels * m)
        matrix[rows, rows // m] = scale.reshape(-1)
        return (self.mix(op, role, value.sources, value.shape, matrix, bias.reshape(-1)),)

    def neurons(self, op: Op, value: Value, scale: Array, offset: Array, bound: int) -> str:
        """Add the neurons, number c*m + i of which fires where scale[c, i] * value_c + offset[c, i] > 0.

        `bound` is the largest magnitude of the value; offsets are halves of magnitude bound + 3/2 at most.
        """
        theta = firing_threshold(op, bound)
        sources = self.scaled(op, "drive", value, scale, theta + offset)
        shape = (scale.size, *value.shape[1:])
        node = self.nir.IF(r=np.ones(shape, np.float32), v_threshold=np.full(shape, theta, np.float32))
        return self.add(op, "", sources, node)

    def graded(
        self, op: Op, sources: Sequence[str], shape: Shape, direction: Array, thresholds: Array, low: int
    ) -> str:
        """Add graded neurons: low + number of thresholds (C, n) that direction (C,) times the sources' sum reaches."""
        each = np.ones(shape)
        per_channel = (-1, *(1,) * (len(shape) - 1))
        node = self.nir.IF(
            r=(each * direction.reshape(per_channel)).astype(np.float32),
            v_threshold=(each * (thresholds[:, 0] - 0.5).reshape(per_channel)).astype(np.float32),
            metadata={"low": low, "levels": thresholds.shape[1], "thresholds": thresholds},
        )
        name = self.add(op, "", sources, node)
        self.notes[name]["signs"] = [1]
        return name


def firing_threshold(op: Op, bound: int) -> int:
    """Return theta, with which theta + drive is exact to a half in float32, where abs(drive) <= 2 bound + 3/2.

    The first choice, 2 bound + 2, keeps every membrane above 0 and below 2 theta: so readers whose neurons fire
    floor(v / theta) times per step (sinabs), or clip at -theta, see the same spikes. Else it is 1.

    Raises:
        MaqdError: neither is exact.

    >>> op = ops.Flatten("flatten", ("input",))
    >>> firing_threshold(op, 1000), firing_threshold(op, 3_000_000)
    (2002, 1)
    """
    for theta in (2 * bound + 2, 1):
        if 2 * theta + 4 * bound + 3 <= FLOAT32_EXACT:
            return theta
    raise MaqdError(
        f"{op.name}: its accumulators can reach {bound}, but NIR holds float32, in which thresholds are exact up to "
        f"{(FLOAT32_EXACT - 5) // 4} only; use fewer states or narrower layers, or export as onnx"
    )


def _input(builder: _Builder, op: ops.Input) -> Value:
    node = builder.nir.Input({"input": np.array(op.shape)})
    name = builder.add(op, "", (), node)
    builder.notes[name] |= {"zero_point": op.zero_point, "low": op.low, "high": op.high, "kind": op.kind}
    return Value((name,), op.shape)


def _conv2d(builder: _Builder, op: ops.Conv2d) -> Value:
    value = builder.plain(op.inputs[0])
    out, per_group, *kernel = op.weight.shape
    # nir takes the input channels of a grouped convolution for those of one group: write the dense equivalent.
    dense = np.zeros((out, op.groups, per_group, *kernel))
    channel = np.arange(out)
    dense[channel, channel // (out // op.groups)] = op.weight.numpy()
    weight = dense.reshape(out, op.groups * per_group, *kernel)
    size = (value.shape[1], value.shape[2])
    name = builder.conv(op, "", value.sources, size, weight, op.stride, op.padding, op.dilation)
    return Value((name,), builder.net.shapes[op.name])


def _linear(builder: _Builder, op: ops.Linear) -> Value:
    weight = op.weight.numpy()
    sources = builder.plain(op.inputs[0]).sources
    return Value((builder.product(op, "", sources, weight, np.zeros(len(weight))),), builder.net.shapes[op.name])


def _threshold(builder: _Builder, op: ops.Threshold) -> Value:
    high = op.low + op.levels
    if not op.low <= 0 <= high:
        raise MaqdError(
            f"{op.name}: in NIR, silence is level 0, which is not among the levels {op.low}..{high}; "
            "use levels that include 0, or export as onnx"
        )
    value, bound = builder.plain(op.inputs[0]), builder.net.bounds[op.inputs[0]]
    signs = np.where(np.arange(op.low, high) >= 0, 1, -1)  # (m,), of the levels low + 1 .. high
    direction = op.direction.numpy()[:, None]
    thresholds = op.thresholds.clamp(-bound - 1, bound + 1).numpy()  # (C, m)
    # Level j is reached where direction * (z - theta_j) + 1/2 > 0, and is not where the negative of that is.
    name = builder.neurons(op, value, signs * direction, signs * (0.5 - direction * thresholds), bound)
    builder.notes[name] |= {"low": op.low, "high": high, "signs": signs.tolist()}
    return Value((name,), value.shape, tuple(signs.tolist()), spikes=True)


def _max_pool(builder: _Builder, op: ops.MaxPool2d) -> Value:
    value = builder.values[op.inputs[0]]
    if not value.spikes:
        raise MaqdError(
            f"{op.name}: NIR has no maximum of accumulators or inputs, only of spikes; "
            "pool after the spikes, use sum-pools ('S' in a plan), or export as nir-graded or onnx"
        )
    if min(value.signs) < 0 and op.padding != (0, 0):
        raise MaqdError(
            f"{op.name}: NIR has no padding for the maximum of signed levels; "
            "pool without padding, use sum-pools ('S' in a plan), or export as nir-graded or onnx"
        )
    channels, height, width = value.shape
    spikes = channels * len(value.signs)
    counts = builder.sum_pool(op, "count", value.sources, (spikes, height, width))
    # The maximum reaches j > 0 where any level of the window does; it is below j <= 0 where all levels are.
    area = op.kernel[0] * op.kernel[1]
    needed = np.tile(np.where(np.array(value.signs) > 0, 1, area), channels)[:, None]
    shape = builder.net.shapes[op.name]
    pooled = Value((counts,), (spikes, *shape[1:]))
    name = builder.neurons(op, pooled, np.ones_like(needed), 0.5 - needed, area)
    builder.notes[name]["signs"] = list(value.signs)
    return Value((name,), shape, value.signs, spikes=True)


def _graded_threshold(builder: _Builder, op: ops.Threshold) -> Value:
    value, bound = builder.plain(op.inputs[0]), builder.net.bounds[op.inputs[0]]
    if 2 * bound + 1 > FLOAT32_EXACT:
        raise MaqdError(
            f"{op.name}: its accumulators can reach {bound}, but NIR holds float32, in which halves are exact up to "
            f"{FLOAT32_EXACT // 2 - 1} only; use fewer states or narrower layers, or export as onnx"
        )
    direction = op.direction.numpy()
    rising = op.thresholds.numpy() * direction[:, None]
    return Value((builder.graded(op, value.sources, value.shape, direction, rising, op.low),), value.shape, spikes=True)


def _spike_range(builder: _Builder, name: str) -> tuple[int, int]:
    """Return the smallest and largest level of the spikes that the op of this name gives, pooled or not."""
    op = builder.op[name]
    if isinstance(op, ops.Threshold):
        return op.low, op.low + op.levels
    return _spike_range(builder, op.inputs[0])


def _graded_max_pool(builder: _Builder, op: ops.MaxPool2d) -> Value:
    value, shape = builder.values[op.inputs[0]], builder.net.shapes[op.name]
    sizes = (np.array(pair) for pair in (op.kernel, op.stride, op.padding))
    node = builder.nir.SumPool2d(*sizes, metadata={"maximum": 1})
    pooled = builder.add(op, "maximum", value.sources, node)
    if not value.spikes:
        return Value((pooled,), shape)
    # Neurons that give the level which they get: where all levels are 0 or 1, a plain sum comes to the same there.
    low, high = _spike_range(builder, op.inputs[0])
    thresholds = np.tile(np.arange(low + 1, high + 1), (shape[0], 1))
    return Value((builder.graded(op, (pooled,), shape, np.ones(shape[0]), thresholds, low),), shape, spikes=True)


def _sum_pool(builder: _Builder, op: ops.SumPool2d) -> Value:
    value = builder.plain(op.inputs[0])
    return Value((builder.sum_pool(op, "", value.sources, value.shape),), builder.net.shapes[op.name])


def _add(builder: _Builder, op: ops.Add) -> Value:
    sources: tuple[str, ...] = ()
    for name in op.inputs:
        value = builder.plain(name)
        # Edges into one node add up, but NIR knows no edge twice: x + x takes a second node.
        again = bool(set(sources) & set(value.sources))
        sources += (builder.identity(op, "copy", value),) if again else value.sources
    return Value(sources, builder.net.shapes[op.name])


def _flatten(builder: _Builder, op: ops.Flatten) -> Value:
    value = builder.plain(op.inputs[0])
    if len(value.shape) == 1:
        return value
    # NIR's axes do not count the batch.
    node = builder.nir.Flatten({"input": np.array(value.shape)}, start_dim=0, end_dim=-1)
    return Value((builder.add(op, "", value.sources, node),), (prod(value.shape),))


def _readout(builder: _Builder, op: ops.Readout) -> Value:
    value = builder.plain(op.inputs[0])
    bias = op.bias.numpy()[:, None]
    return Value(builder.scaled(op, "", value, np.ones_like(bias), bias), value.shape)


NODES: Mapping[type[Op], Callable[[_Builder, Any], Value]] = MappingProxyType(
    {
        ops.Input: _input,
        ops.Conv2d: _conv2d,
        ops.Linear: _linear,
        ops.Threshold: _threshold,
        ops.MaxPool2d: _max_pool,
        ops.SumPool2d: _sum_pool,
        ops.Add: _add,
        ops.Flatten: _flatten,
        ops.Readout: _readout,
    }
)
# The op types that the graded form writes otherwise.
GRADED_NODES: Mapping[type[Op], Callable[[_Builder, Any], Value]] = MappingProxyType(
    {**NODES, ops.Threshold: _graded_threshold, ops.MaxPool2d: _graded_max_pool}
)
