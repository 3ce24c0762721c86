"""ONNX files of an integer network: standard operators only (`onnx`), or with quantizer nodes (`qonnx`), and others.

All take a batch of any size of input CODES, the integers before the zero point is subtracted; the graph's first nodes
subtract it, so that zero padding means what it means in the network. The input is named after the network's `Input`,
and every op's output after the op. A file cannot refuse codes outside the input's range; its description states it.

- `onnx`: codes are uint8 where their range fits, else int64; class scores are int64. In between, integers are held in
  float32, or in float64 from the ops on whose worst case reaches 2^24. A `Threshold` is n comparisons and their sum.
- `qonnx`: codes and class scores are integers held in float32, and weights stand behind `Quant` nodes of the smallest
  bit width. A `Threshold` is Mul, Add, Relu, Quant; where the levels do not fill the bit width there is a Clip before
  the Quant; for signed levels there is no Relu. Multiplier and offset are those of `quant_fit`. A layer in which a
  channel has none, since float32 cannot resolve its thresholds (32 levels and more, or accumulators of millions), is
  written as `MultiThreshold`, and so is every layer with `qonnx_model(net, multi_threshold=True)`.

- `onnx-qcdq`: weights have 8 bits behind DequantizeLinear, a `Threshold` is Mul, Add, QuantizeLinear, DequantizeLinear
  (with a Clip where the levels do not fill the type), with multiplier and offset of `quant_fit`; where a channel has
  none the levels come from comparisons. Standard operators only.
- `onnx-integer`: integers all through: ConvInteger and MatMulInteger of unsigned 8-bit values (codes with their zero
  point, levels) and 8-bit weights into int32; comparisons in int32. A product whose input or weights need more than 8
  bits is computed in exact floating point between casts. Standard operators only; class scores are int64.

What other tools make of the QONNX form (read in their sources, not run): FINN has no layer for Clip, so for a number of
levels that does not fill a bit width give it the MultiThreshold form. hls4ml turns a Clip into a ReLU without an upper
limit and has no MultiThreshold: for it, use activation states 2, 4, 8, ..., which need no Clip.

Axis letters: B batch, C channels, O output channels, I input channels, n thresholds per channel.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maqd_snn._version import __version__
from maqd_snn.counting import flowing_values
from maqd_snn.errors import MaqdError, MissingExtraError
from maqd_snn.files import atomic_path
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.geometry import FLOAT32_EXACT
from maqd_snn.integer.ops import Op
from maqd_snn.neuromorphic.quant_fit import fit_quant

# Opset 13 is the first with ReduceSum's axes as an input; onnxruntime has had it since 1.6, and qonnx 1.0.0 runs it.
# The IR version is one that old runtimes read too, instead of the newest that the installed onnx knows.
OPSET = 13
IR_VERSION = 8
FORMAT_VERSION = 1  # of what this library states in a file
QONNX_DOMAIN = "qonnx.custom_op.general"
QONNX_VERSION = 1
BATCH = "batch"
WEIGHT_ZERO = 128

# Up to here each level has its own comparison; above, all levels are compared along an axis, which is about as fast,
# takes n times the memory, and keeps the number of nodes small.
LEVELS_BY_NODES = 15


def onnx_package() -> Any:
    """Return the package `onnx`, which is imported here only; raises MissingExtraError where it is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "onnx", "writing or reading ONNX files") from error
    return onnx


def onnx_model(net: IntegerNetwork) -> Any:
    """Return the network as an `onnx.ModelProto` of standard operators; see the module's first lines.

    Raises:
        MaqdError: an op that the form cannot express exactly. MissingExtraError: onnx is not installed.
    """
    return _model(net, _PLAIN)


def qonnx_model(net: IntegerNetwork, multi_threshold: bool = False) -> Any:
    """Return the network as an `onnx.ModelProto` with QONNX quantizer nodes; see the module's first lines.

    Args:
        net: the integer network.
        multi_threshold: write every `Threshold` as a `MultiThreshold` node, FINN's own form.

    Raises:
        MaqdError: an op that the form cannot express exactly. MissingExtraError: onnx is not installed.
    """
    return _model(net, _MULTI_THRESHOLD if multi_threshold else _QONNX)


def write_onnx(net: IntegerNetwork, path: Path) -> None:
    """Write `onnx_model(net)` to `path`, atomically."""
    _write(onnx_model(net), path)


def write_qonnx(net: IntegerNetwork, path: Path) -> None:
    """Write `qonnx_model(net)` to `path`, atomically."""
    _write(qonnx_model(net), path)


def qcdq_model(net: IntegerNetwork) -> Any:
    """Return the network as an `onnx.ModelProto` in QCDQ form; see the module's first lines. Raises as `onnx_model`."""
    return _model(net, _QCDQ)


def integer_model(net: IntegerNetwork) -> Any:
    """Return the network as an `onnx.ModelProto` of integers; see the module's first lines. Raises as `onnx_model`."""
    return _model(net, _INTEGER)


def write_qcdq(net: IntegerNetwork, path: Path) -> None:
    """Write `qcdq_model(net)` to `path`, atomically."""
    _write(qcdq_model(net), path)


def write_integer(net: IntegerNetwork, path: Path) -> None:
    """Write `integer_model(net)` to `path`, atomically."""
    _write(integer_model(net), path)


def write_multi_threshold(net: IntegerNetwork, path: Path) -> None:
    """Write `qonnx_model(net, multi_threshold=True)` to `path`, atomically."""
    _write(qonnx_model(net, multi_threshold=True), path)


def _write(model: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


class Value(NamedTuple):
    """A tensor of the graph: its name, its shape without the batch axis (all axes for a constant), its number type."""

    name: str
    shape: tuple[int, ...]
    number: str


class _Graph:
    """The graph that is being written; the rows of a form add their nodes to it."""

    def __init__(self, net: IntegerNetwork, form: "_Form", onnx: Any) -> None:
        self.net, self.form, self.onnx = net, form, onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.infos: dict[str, Any] = {}  # of the nodes' outputs, by name
        self.inputs: list[Any] = []
        self.annotations: list[Any] = []
        self.taken = {op.name for op in net.ops}
        self.op = ""  # name of the op whose nodes are being added
        self.flow = flowing_values(net)
        self.zero: dict[str, int] = {}  # zero points that are not yet subtracted, by value

    def fresh(self, what: str) -> str:
        """Return a name for `what` of the current op that nothing else has."""
        name = f"{self.op}_{what}"
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def info(self, value: Value, batched: bool = True) -> Any:
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.number))
        return self.onnx.helper.make_tensor_value_info(value.name, kind, [*([BATCH] if batched else []), *value.shape])

    def constant(self, what: str, array: NDArray[Any]) -> Value:
        name = self.fresh(what)
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(array, order="C"), name))
        return Value(name, array.shape, array.dtype.name)

    def node(
        self,
        kind: str,
        inputs: Sequence[Value],
        what: str = "",
        shape: tuple[int, ...] | None = None,
        number: str = "",
        batched: bool = True,
        **attributes: Any,
    ) -> Value:
        """Add a node; shape and number type of its output are those of its first input unless given."""
        shape = inputs[0].shape if shape is None else shape
        value = Value(self.fresh(what or kind.lower()), shape, number or inputs[0].number)
        node = self.onnx.helper.make_node(kind, [i.name for i in inputs], [value.name], name=value.name, **attributes)
        self.nodes.append(node)
        self.infos[value.name] = self.info(value, batched)
        return value

    def name_last(self, value: Value, name: str) -> Value:
        """Rename the output of the last node, which must be `value`."""
        del self.infos[value.name]
        value = value._replace(name=name)
        node = self.nodes[-1]
        node.name = node.output[0] = name
        self.infos[name] = self.info(value)
        return value

    def cast(self, value: Value, number: str) -> Value:
        """Return `value` in another number type."""
        if value.number == number:
            return value
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(number))
        return self.node("Cast", [value], f"{value.name}_as_{number}", number=number, to=kind)

    def per_channel(self, what: str, values: NDArray[Any], like: Value) -> Value:
        """Return a constant (C,) that is broadcast over the batch and the positions of `like`."""
        return self.constant(what, values.astype(like.number).reshape(1, -1, *(1,) * (len(like.shape) - 1)))

    def number(self, op: Op, largest: int = 0) -> str:
        """Return the number type that holds the op's worst case, also on the way to it, exactly.

        Raises:
            MaqdError: the form, or onnxruntime for this operator, has none.
        """
        worst = max(largest, self.net.bounds[op.name], *(self.net.bounds[name] for name in op.inputs))
        if worst < FLOAT32_EXACT:
            return "float32"
        if type(op) in self.form.in_double:
            return "float64"
        raise MaqdError(
            f"{op.name}: its accumulators can reach {worst}, from 2^24 on float32 is not exact, and the format "
            f"{self.form.name!r} has no {type(op).__name__} in float64; train with fewer weight or activation states "
            "or connections there, or, where the layer takes the input, with a zero point amid its range"
        )

    def int32(self, op: Op, largest: int = 0) -> None:
        """Raise MaqdError where the op's worst case, also on the way to it, does not fit int32."""
        worst = max(largest, self.net.bounds[op.name] + 1, *(self.net.bounds[name] + 1 for name in op.inputs))
        if worst >= 2**31:
            raise MaqdError(
                f"{op.name}: its accumulators can reach {worst}, and the format {self.form.name!r} holds int32; "
                "train with fewer weight or activation states there, or export as onnx"
            )

    def annotate(self, value: Value, low: int, high: int) -> None:
        """State the integer type of a tensor for FINN and qonnx, as qonnx itself does."""
        annotation = self.onnx.TensorAnnotation(tensor_name=value.name)
        entry = annotation.quant_parameter_tensor_names.add()
        entry.key, entry.value = "finn_datatype", _datatype(low, high)
        self.annotations.append(annotation)

    def quant(self, value: Value, bits: int, signed: bool, batched: bool = True) -> Value:
        """Round half to even and clip to 0..2^bits - 1, or to -m..m with m = 2^(bits - 1) - 1: a `Quant` node."""
        numbers = {"scale": 1, "zeropt": 0, "bitwidth": bits}
        parameters = [self.constant(what, np.array(number, np.float32)) for what, number in numbers.items()]
        return self.node(
            "Quant",
            [value, *parameters],
            domain=QONNX_DOMAIN,
            batched=batched,
            signed=int(signed),
            narrow=int(signed),
            rounding_mode="ROUND",
        )


def _bits(low: int, high: int) -> int:
    # Signed ranges are symmetric ("narrow"), of two bits at least: qonnx takes a signed single bit for -1 and +1.
    return max(-low, high).bit_length() + 1 if low < 0 else max(1, high.bit_length())


def _datatype(low: int, high: int) -> str:
    bits = _bits(low, high)
    return f"INT{bits}" if low < 0 else "BINARY" if bits == 1 else f"UINT{bits}"


Row = Callable[[_Graph, Any, list[Value]], Value]
WeightRow = Callable[[_Graph, NDArray[np.int64], str], Value]


def _plain_weight(g: _Graph, codes: NDArray[np.int64], number: str) -> Value:
    return g.constant("weight", codes.astype(number))


def _quant_weight(g: _Graph, codes: NDArray[np.int64], number: str) -> Value:
    largest = max(1, int(np.abs(codes).max()))
    return g.quant(_plain_weight(g, codes, number), _bits(-largest, largest), signed=True, batched=False)


def _code_type(op: ops.Input) -> str:
    return "uint8" if op.low >= 0 and op.high <= 255 else "int64"


def _input(g: _Graph, op: ops.Input, values: list[Value]) -> Value:
    number = g.number(op, max(abs(op.low), abs(op.high)))
    codes = Value(op.name, op.shape, g.form.code_type(op))
    g.inputs.append(g.info(codes))
    value = g.cast(codes, number)
    if op.zero_point:
        value = g.node("Sub", [value, g.constant("zero_point", np.array(op.zero_point, number))], "centred")
    if g.form.annotated:
        g.annotate(codes, op.low, op.high)
    return value


def _conv(g: _Graph, op: Op, x: Value, weight: Value, kernel: ops.Pair, **attributes: Any) -> Value:
    return g.node("Conv", [x, weight], shape=g.net.shapes[op.name], kernel_shape=kernel, **attributes)


def _conv2d(g: _Graph, op: ops.Conv2d, values: list[Value]) -> Value:
    x = g.cast(values[0], g.number(op))
    kernel = (op.weight.shape[2], op.weight.shape[3])
    return _conv(
        g,
        op,
        x,
        g.form.weight(g, op.weight.numpy(), x.number),
        kernel,
        strides=op.stride,
        pads=op.padding * 2,
        dilations=op.dilation,
        group=op.groups,
    )


def _linear(g: _Graph, op: ops.Linear, values: list[Value]) -> Value:
    x = g.cast(values[0], g.number(op))
    weight = g.form.weight(g, op.weight.numpy().T, x.number)
    return g.node("MatMul", [x, weight], shape=g.net.shapes[op.name])


def _max_pool(g: _Graph, op: ops.MaxPool2d, values: list[Value]) -> Value:
    return g.node(
        "MaxPool",
        [g.cast(values[0], g.number(op))],
        shape=g.net.shapes[op.name],
        kernel_shape=op.kernel,
        strides=op.stride,
        pads=op.padding * 2,
    )


def _sum_pool(g: _Graph, op: ops.SumPool2d, values: list[Value]) -> Value:
    # AveragePool divides, which is exact for areas that are powers of two only: a convolution of ones per channel is
    # exact for all.
    x = g.cast(values[0], g.number(op))
    ones = g.form.weight(g, np.ones((x.shape[0], 1, *op.kernel), np.int64), x.number)
    return _conv(g, op, x, ones, op.kernel, strides=op.stride, pads=op.padding * 2, group=x.shape[0])


def _add(g: _Graph, op: ops.Add, values: list[Value]) -> Value:
    number = g.number(op)
    total, *rest = (g.cast(value, number) for value in values)
    for value in rest:
        total = g.node("Add", [total, value])
    return total


def _flatten(g: _Graph, op: ops.Flatten, values: list[Value]) -> Value:
    return g.node("Flatten", values, shape=g.net.shapes[op.name], axis=1)


def _readout(g: _Graph, op: ops.Readout, values: list[Value]) -> Value:
    x = g.cast(values[0], g.number(op))
    return g.node("Add", [x, g.per_channel("bias", op.bias.numpy(), x)])


def _oriented(g: _Graph, op: ops.Threshold, z: Value) -> tuple[Value, NDArray[np.int64]]:
    """Return (direction*z, thresholds (C, n) of it): a level is reached where the first is at least the second."""
    limit = g.net.bounds[op.inputs[0]] + 1
    direction = op.direction.numpy()
    # Clipped to one beyond the reachable range, thresholds are exact in the type of z, and never and always stay so.
    theta = op.thresholds.numpy().clip(-limit, limit) * direction[:, None]
    if (direction < 0).any():
        z = g.node("Mul", [z, g.per_channel("direction", direction, z)], "oriented")
    return z, theta


def _comparisons(g: _Graph, op: ops.Threshold, values: list[Value]) -> Value:
    z, theta = _oriented(g, op, g.cast(values[0], g.number(op)))
    if op.levels <= LEVELS_BY_NODES:
        level = _reached(g, z, g.per_channel("theta", theta[:, 0], z))
        for column in theta.T[1:]:
            level = g.node("Add", [level, _reached(g, z, g.per_channel("theta", column, z))], "count")
    else:
        positions = (1,) * (len(z.shape) - 1)
        axis = g.constant("axis", np.array([2], np.int64))
        z = g.node("Unsqueeze", [z, axis], shape=(z.shape[0], 1, *z.shape[1:]))
        all_theta = g.constant("theta", theta.astype(z.number).reshape(1, *theta.shape, *positions))
        level = _reached(g, z, all_theta, (z.shape[0], op.levels, *z.shape[2:]))
        level = g.node("ReduceSum", [level, axis], "count", shape=(z.shape[0], *z.shape[2:]), keepdims=0)
    if op.low:
        level = g.node("Add", [level, g.constant("low", np.array(op.low, np.float32))], "level")
    return level


def _reached(g: _Graph, z: Value, theta: Value, shape: tuple[int, ...] | None = None, number: str = "float32") -> Value:
    reached = g.node("GreaterOrEqual", [z, theta], "reached", shape=shape, number="bool")
    return g.cast(reached, number)


def _affine_quant(g: _Graph, op: ops.Threshold, values: list[Value]) -> Value:
    g.number(op)  # raises where float32 is not exact
    fit = fit_quant(op.thresholds.numpy(), op.direction.numpy(), op.low, g.net.bounds[op.inputs[0]])
    if not fit.fitted.all():
        return _multi_threshold(g, op, values)
    z = values[0]
    z = g.node("Mul", [z, g.per_channel("multiplier", fit.multiplier, z)], "scaled")
    z = g.node("Add", [z, g.per_channel("offset", fit.offset, z)], "shifted")
    low, high = op.low, op.low + op.levels
    bits = _bits(low, high)
    reach = (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if low < 0 else (0, 2**bits - 1)
    if low == 0:
        z = g.node("Relu", [z])  # without it FINN takes no unsigned Quant
    if (low, high) != reach:
        limits = [g.constant(what, np.array(limit, np.float32)) for what, limit in (("low", low), ("high", high))]
        z = g.node("Clip", [z, *limits])
    return g.quant(z, bits, signed=low < 0)


def _multi_threshold(g: _Graph, op: ops.Threshold, values: list[Value]) -> Value:
    z, theta = _oriented(g, op, g.cast(values[0], g.number(op)))
    return g.node(
        "MultiThreshold",
        [z, g.constant("thresholds", theta.astype(z.number))],
        domain=QONNX_DOMAIN,
        out_dtype=_datatype(op.low, op.low + op.levels),
        out_scale=1.0,
        out_bias=float(op.low),
        data_layout="NCHW" if len(z.shape) == 3 else "NC",
    )


def _qcdq_weight(g: _Graph, codes: NDArray[np.int64], number: str) -> Value:
    if np.abs(codes).max() > 127:
        raise MaqdError(
            f"{g.op}: its weights reach {np.abs(codes).max()}, and the format {g.form.name!r} holds them in 8 bits; "
            "train with at most 255 weight states, or export as onnx"
        )
    weight, zero = _eight_bit_weight(g, codes)
    return g.node("DequantizeLinear", [weight, _one(g), zero], "dequantized", number="float32", batched=False)


def _eight_bit_weight(g: _Graph, codes: NDArray[np.int64]) -> tuple[Value, Value]:
    """Return the weight as uint8, and its zero point: int8 would be exact as well, were it not for onnxruntime.

    On processors with AVX2 but no VNNI its kernels for uint8 x int8 add two products in 16 bits, which saturate; those
    for uint8 x uint8 do not.
    """
    weight = g.constant("weight", (codes + WEIGHT_ZERO).astype(np.uint8))
    return weight, g.constant("weight_zero", np.array(WEIGHT_ZERO, np.uint8))


def _one(g: _Graph) -> Value:
    return g.constant("scale", np.array(1, np.float32))


def _qcdq(g: _Graph, op: ops.Threshold, values: list[Value]) -> Value:
    g.number(op)  # raises where float32 is not exact
    low, high = op.low, op.low + op.levels
    number = "uint8" if low >= 0 else "int8"
    limits = np.iinfo(number)
    if low < limits.min or high > limits.max:
        raise MaqdError(f"{op.name}: the format {g.form.name!r} holds levels as {number}, got {low}..{high}")
    fit = fit_quant(op.thresholds.numpy(), op.direction.numpy(), low, g.net.bounds[op.inputs[0]])
    if fit.fitted.all():
        z = values[0]
        z = g.node("Mul", [z, g.per_channel("multiplier", fit.multiplier, z)], "scaled")
        z = g.node("Add", [z, g.per_channel("offset", fit.offset, z)], "shifted")
        if (low, high) != (limits.min, limits.max):
            names = (("low", low), ("high", high))
            z = g.node("Clip", [z, *(g.constant(what, np.array(limit, np.float32)) for what, limit in names)])
    else:
        z = _comparisons(g, op, values)
    zero = g.constant("zero", np.array(0, number))
    level = g.node("QuantizeLinear", [z, _one(g), zero], number=number)
    return g.node("DequantizeLinear", [level, _one(g), zero], number="float32")


def _integer_input(g: _Graph, op: ops.Input, values: list[Value]) -> Value:
    codes = Value(op.name, op.shape, g.form.code_type(op))
    g.inputs.append(g.info(codes))
    if codes.number == "uint8":
        g.zero[codes.name] = op.zero_point  # the products subtract it, and pad with it
        return codes
    g.int32(op, max(abs(op.low), abs(op.high)))
    value = g.cast(codes, "int32")
    if op.zero_point:
        value = g.node("Sub", [value, g.constant("zero_point", np.array(op.zero_point, np.int32))], "centred")
    return value


def _centred(g: _Graph, value: Value) -> Value:
    """Return the value as int32, its zero point subtracted."""
    zero = g.zero.get(value.name, 0)
    value = g.cast(value, "int32")
    return g.node("Sub", [value, g.constant("zero_point", np.array(zero, np.int32))], "centred") if zero else value


def _eight_bits(g: _Graph, op: Op, value: Value) -> tuple[Value, Value] | None:
    """Return (the value as uint8, its zero point), or None where its range needs more than 8 bits."""
    if value.number == "uint8":
        return value, g.constant("x_zero", np.array(g.zero.get(value.name, 0), np.uint8))
    flow = g.flow[op.inputs[0]]
    low = min(flow.low, 0)
    if flow.high - low > 255:
        return None
    if low:
        value = g.node("Sub", [value, g.constant("lowest", np.array(low, np.int32))], "raised")
    return g.cast(value, "uint8"), g.constant("x_zero", np.array(-low, np.uint8))


def _integer_product(g: _Graph, op: Any, value: Value, codes: NDArray[np.int64], fallback: Row, **more: Any) -> Value:
    g.int32(op)
    small = _eight_bits(g, op, value) if np.abs(codes).max() <= 127 else None
    if small is None:
        number = g.number(op)
        exact = fallback(g, op, [g.cast(_centred(g, value), number)])
        return g.cast(exact, "int32")
    x, x_zero = small
    weight, zero = _eight_bit_weight(g, codes)
    kind = "MatMulInteger" if codes.ndim == 2 else "ConvInteger"
    return g.node(kind, [x, weight, x_zero, zero], shape=g.net.shapes[op.name], number="int32", **more)


def _integer_conv2d(g: _Graph, op: ops.Conv2d, values: list[Value]) -> Value:
    kernel = (op.weight.shape[2], op.weight.shape[3])
    shape = {"kernel_shape": kernel, "strides": op.stride, "pads": op.padding * 2, "dilations": op.dilation}
    return _integer_product(g, op, values[0], op.weight.numpy(), _conv2d, group=op.groups, **shape)


def _integer_linear(g: _Graph, op: ops.Linear, values: list[Value]) -> Value:
    return _integer_product(g, op, values[0], op.weight.numpy().T, _linear)


def _integer_sum_pool(g: _Graph, op: ops.SumPool2d, values: list[Value]) -> Value:
    channels = g.net.shapes[op.inputs[0]][0]
    ones = np.ones((channels, 1, *op.kernel), np.int64)
    shape = {"kernel_shape": op.kernel, "strides": op.stride, "pads": op.padding * 2}
    return _integer_product(g, op, values[0], ones, _sum_pool, group=channels, **shape)


def _integer_max_pool(g: _Graph, op: ops.MaxPool2d, values: list[Value]) -> Value:
    # onnxruntime has no maximum in int32: levels as float32 are exact.
    g.number(op)
    pooled = _max_pool(g, op, [g.cast(_centred(g, values[0]), "float32")])
    return g.cast(pooled, "int32")


def _integer_add(g: _Graph, op: ops.Add, values: list[Value]) -> Value:
    g.int32(op)
    total, *rest = (_centred(g, value) for value in values)
    for value in rest:
        total = g.node("Add", [total, value])
    return total


def _integer_flatten(g: _Graph, op: ops.Flatten, values: list[Value]) -> Value:
    value = g.node("Flatten", values, shape=g.net.shapes[op.name], axis=1)
    if values[0].name in g.zero:
        g.zero[value.name] = g.zero[values[0].name]
    return _centred(g, value)


def _integer_threshold(g: _Graph, op: ops.Threshold, values: list[Value]) -> Value:
    g.int32(op)
    z, theta = _oriented(g, op, _centred(g, values[0]))
    if op.levels <= LEVELS_BY_NODES:
        level = _reached(g, z, g.per_channel("theta", theta[:, 0], z), number="int32")
        for column in theta.T[1:]:
            level = g.node("Add", [level, _reached(g, z, g.per_channel("theta", column, z), number="int32")], "count")
    else:
        positions = (1,) * (len(z.shape) - 1)
        axis = g.constant("axis", np.array([2], np.int64))
        z = g.node("Unsqueeze", [z, axis], shape=(z.shape[0], 1, *z.shape[1:]))
        all_theta = g.constant("theta", theta.astype(z.number).reshape(1, *theta.shape, *positions))
        level = _reached(g, z, all_theta, (z.shape[0], op.levels, *z.shape[2:]), number="int32")
        level = g.node("ReduceSum", [level, axis], "count", shape=(z.shape[0], *z.shape[2:]), keepdims=0)
    if op.low:
        level = g.node("Add", [level, g.constant("low", np.array(op.low, np.int32))], "level")
    return level


def _integer_readout(g: _Graph, op: ops.Readout, values: list[Value]) -> Value:
    g.int32(op)
    x = _centred(g, values[0])
    return g.node("Add", [x, g.per_channel("bias", op.bias.numpy(), x)])


_SHARED: Mapping[type[Op], Row] = MappingProxyType(
    {
        ops.Input: _input,
        ops.Conv2d: _conv2d,
        ops.Linear: _linear,
        ops.MaxPool2d: _max_pool,
        ops.SumPool2d: _sum_pool,
        ops.Add: _add,
        ops.Flatten: _flatten,
        ops.Readout: _readout,
    }
)


@dataclass(frozen=True)
class _Form:
    """What distinguishes the forms: the table of rows, and how codes and weights are written.

    `in_double` are the ops that onnxruntime computes in float64 too; `integer_scores`: the output is cast to int64;
    `annotated`: the input's integer type is stated for FINN.
    """

    name: str
    rows: Mapping[type[Op], Row]
    weight: WeightRow
    code_type: Callable[[ops.Input], str]
    domains: Mapping[str, int]
    in_double: tuple[type[Op], ...] = ()
    integer_scores: bool = False
    annotated: bool = False


_PLAIN = _Form(
    "onnx",
    {**_SHARED, ops.Threshold: _comparisons},
    _plain_weight,
    _code_type,
    {"": OPSET},
    in_double=(ops.Input, ops.Linear, ops.Threshold, ops.MaxPool2d, ops.Add, ops.Flatten, ops.Readout),
    integer_scores=True,
)
_QONNX = _Form(
    "qonnx",
    {**_SHARED, ops.Threshold: _affine_quant},
    _quant_weight,
    lambda op: "float32",
    {"": OPSET, QONNX_DOMAIN: QONNX_VERSION},
    annotated=True,
)
_QCDQ = _Form(
    "onnx-qcdq",
    {**_SHARED, ops.Threshold: _qcdq},
    _qcdq_weight,
    _code_type,
    {"": OPSET},
    integer_scores=True,
)
_INTEGER = replace(
    _PLAIN,
    name="onnx-integer",
    rows={
        ops.Input: _integer_input,
        ops.Conv2d: _integer_conv2d,
        ops.Linear: _integer_linear,
        ops.MaxPool2d: _integer_max_pool,
        ops.SumPool2d: _integer_sum_pool,
        ops.Add: _integer_add,
        ops.Flatten: _integer_flatten,
        ops.Threshold: _integer_threshold,
        ops.Readout: _integer_readout,
    },
)
_MULTI_THRESHOLD = replace(_QONNX, name="qonnx-multithreshold", rows={**_SHARED, ops.Threshold: _multi_threshold})


FORM_NAMES = frozenset(form.name for form in (_PLAIN, _QONNX, _MULTI_THRESHOLD, _QCDQ, _INTEGER))
WITH_FOREIGN_OPERATORS = frozenset(form.name for form in (_QONNX, _MULTI_THRESHOLD))


def _model(net: IntegerNetwork, form: _Form) -> Any:
    onnx = onnx_package()
    g = _Graph(net, form, onnx)
    values: dict[str, Value] = {}
    for op in net.ops:
        if type(op) not in form.rows:
            known = ", ".join(sorted(kind.__name__ for kind in form.rows))
            raise MaqdError(
                f"{op.name}: the format {form.name!r} cannot express a {type(op).__name__}; "
                f"replace it by ops out of {known}, or choose another format"
            )
        g.op = op.name
        value = form.rows[type(op)](g, op, [values[name] for name in op.inputs])
        # The name of the Input is the graph's input, so that what follows from it keeps the name that it was given.
        values[op.name] = value if isinstance(op, ops.Input) else g.name_last(value, op.name)
    last = values[net.ops[-1].name]
    if last.name in g.zero:  # a network of nothing but reshaped codes
        last = g.name_last(_centred(g, last), g.fresh("centred_scores"))
    if form.integer_scores:
        last = g.name_last(g.node("Cast", [last], number="int64", to=onnx.TensorProto.INT64), g.fresh("scores"))

    infos = [info for name, info in g.infos.items() if name != last.name]
    graph = onnx.helper.make_graph(g.nodes, "maqd_snn", g.inputs, [g.infos[last.name]], g.constants, value_info=infos)
    graph.quantization_annotation.extend(g.annotations)
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in form.domains.items()],
        ir_version=IR_VERSION,
        producer_name="maqd-snn",
        producer_version=__version__,
        doc_string=_description(net),
    )
    properties = {
        "maqd_snn_format_version": str(FORMAT_VERSION),
        "maqd_snn_version": __version__,
        "maqd_snn_form": form.name,
        "maqd_snn_provenance": json.dumps(net.provenance, sort_keys=True),
    }
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    return model


def _description(net: IntegerNetwork) -> str:
    code, scores = net.input, net.shapes[net.ops[-1].name]
    return (
        f"Integer network. Input {code.name!r}: {prod(code.shape)} integer codes {code.low}..{code.high} of shape "
        f"{code.shape}, {code.kind}, not scaled. Output: {prod(scores)} integer class scores."
    )
