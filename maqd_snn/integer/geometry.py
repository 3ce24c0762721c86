"""Shapes and worst cases of the ops: one table each, op type -> function. An op without a row is an error.

Shapes are without the batch axis: (C, H, W) or (features,).
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any, TypeVar

from torch import Tensor

from maqd_snn.errors import MaqdError
from maqd_snn.integer import ops
from maqd_snn.integer.ops import Op, Pair

Shape = tuple[int, ...]
Row = TypeVar("Row")

# Integers below these magnitudes are exact in the number type; int64 sums of larger ones come near overflow.
FLOAT32_EXACT = 2**24
FLOAT64_EXACT = 2**53


def row(table: Mapping[type[Op], Row], op: Op, what: str) -> Row:
    """Return the table's entry for the type of `op`; an op without one is an error that names it."""
    try:
        return table[type(op)]
    except KeyError:
        raise MaqdError(f"{op.name}: there is no {what} rule for a {type(op).__name__}") from None


def output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)) -> Pair:
    """Return (H', W') with H' = floor((H + 2 p - d (k - 1) - 1) / s) + 1.

    >>> output_size((5, 5), (3, 3), (2, 2), (1, 1))
    (3, 3)
    """
    height, width = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    return height, width


def windows_meet_image(kernel: Pair, padding: Pair, dilation: Pair = (1, 1)) -> bool:
    """Return whether every window covers at least a pixel's row and column, none lies in the padding alone.

    oneDNN's 8-bit convolution ends the process with a segmentation fault at some that do (torch 2.13.0, AVX512 VNNI).

    >>> windows_meet_image((3, 1), (1, 0)), windows_meet_image((3, 1), (1, 1))
    (True, False)
    """
    return all(p <= d * (k - 1) for k, p, d in zip(kernel, padding, dilation, strict=True))


def _image(op: Op, shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise MaqdError(f"{op.name}: {type(op).__name__} expects an input (C, H, W), got {shape}")
    return shape[0], shape[1], shape[2]


def _not_empty(op: Op, shape: Shape) -> Shape:
    if min(shape) < 1:
        raise MaqdError(f"{op.name}: the input is smaller than the kernel, the output would be {shape}")
    return shape


def _conv_shape(op: ops.Conv2d, shapes: Sequence[Shape]) -> Shape:
    channels, height, width = _image(op, shapes[0])
    out, per_group, kernel_h, kernel_w = op.weight.shape
    if channels != per_group * op.groups:
        raise MaqdError(f"{op.name}: the weight expects {per_group * op.groups} input channels, got {channels}")
    size = output_size((height, width), (kernel_h, kernel_w), op.stride, op.padding, op.dilation)
    return _not_empty(op, (out, *size))


def _linear_shape(op: ops.Linear, shapes: Sequence[Shape]) -> Shape:
    if shapes[0] != (op.weight.shape[1],):
        raise MaqdError(f"{op.name}: the weight expects ({op.weight.shape[1]},) inputs, got {shapes[0]}")
    return (op.weight.shape[0],)


def _threshold_shape(op: ops.Threshold, shapes: Sequence[Shape]) -> Shape:
    if shapes[0][0] != len(op.thresholds):
        raise MaqdError(f"{op.name}: thresholds for {len(op.thresholds)} channels, but the input has {shapes[0][0]}")
    return shapes[0]


def _pool_shape(op: ops.MaxPool2d | ops.SumPool2d, shapes: Sequence[Shape]) -> Shape:
    channels, height, width = _image(op, shapes[0])
    return _not_empty(op, (channels, *output_size((height, width), op.kernel, op.stride, op.padding)))


def _add_shape(op: ops.Add, shapes: Sequence[Shape]) -> Shape:
    if any(shape != shapes[0] for shape in shapes):
        raise MaqdError(f"{op.name}: the summands must have one shape, got {list(shapes)}")
    return shapes[0]


def _readout_shape(op: ops.Readout, shapes: Sequence[Shape]) -> Shape:
    if shapes[0] != (len(op.bias),):
        raise MaqdError(f"{op.name}: the bias has {len(op.bias)} classes, but the input has shape {shapes[0]}")
    return shapes[0]


SHAPES: Mapping[type[Op], Callable[[Any, Sequence[Shape]], Shape]] = MappingProxyType(
    {
        ops.Input: lambda op, shapes: op.shape,
        ops.Conv2d: _conv_shape,
        ops.Linear: _linear_shape,
        ops.Threshold: _threshold_shape,
        ops.MaxPool2d: _pool_shape,
        ops.SumPool2d: _pool_shape,
        ops.Add: _add_shape,
        ops.Flatten: lambda op, shapes: (prod(shapes[0]),),
        ops.Readout: _readout_shape,
    }
)


def _product_bound(op: ops.Conv2d | ops.Linear, bounds: Sequence[int]) -> int:
    rows = op.weight.flatten(1)
    if _largest(rows) * rows.shape[1] < 2**62:
        return int(rows.abs().sum(1).max()) * bounds[0]
    sums = [sum(abs(int(code)) for code in weights) for weights in rows.tolist()]  # as int64 they could wrap
    return max(sums) * bounds[0]


def _largest(values: Tensor) -> int:
    return max(int(values.max()), -int(values.min()))  # not abs(): that of -2^63 is itself


# The largest magnitude that any output, or any partial sum on the way to it, can take.
BOUNDS: Mapping[type[Op], Callable[[Any, Sequence[int]], int]] = MappingProxyType(
    {
        ops.Input: lambda op, bounds: max(op.high - op.zero_point, op.zero_point - op.low),
        ops.Conv2d: _product_bound,
        ops.Linear: _product_bound,
        ops.Threshold: lambda op, bounds: max(abs(op.low), abs(op.low + op.levels)),
        ops.MaxPool2d: lambda op, bounds: bounds[0],
        ops.SumPool2d: lambda op, bounds: bounds[0] * op.kernel[0] * op.kernel[1],
        ops.Add: lambda op, bounds: sum(bounds),
        ops.Flatten: lambda op, bounds: bounds[0],
        ops.Readout: lambda op, bounds: bounds[0] + _largest(op.bias),
    }
)


Range = tuple[int, int]


def _sum_pool_range(op: ops.SumPool2d, ranges: Sequence[Range], bound: int) -> Range:
    (low, high), area = ranges[0], op.kernel[0] * op.kernel[1]
    return min(0, low) * area, max(0, high) * area


def _symmetric(op: Op, ranges: Sequence[Range], bound: int) -> Range:
    return -bound, bound


# The smallest and largest value of the output.
RANGES: Mapping[type[Op], Callable[[Any, Sequence[Range], int], Range]] = MappingProxyType(
    {
        ops.Input: lambda op, ranges, bound: (op.low - op.zero_point, op.high - op.zero_point),
        ops.Conv2d: _symmetric,
        ops.Linear: _symmetric,
        ops.Threshold: lambda op, ranges, bound: (op.low, op.low + op.levels),
        ops.MaxPool2d: lambda op, ranges, bound: ranges[0],
        ops.SumPool2d: _sum_pool_range,
        ops.Add: _symmetric,
        ops.Flatten: lambda op, ranges, bound: ranges[0],
        ops.Readout: _symmetric,
    }
)


def output_range(op: Op, ranges: Sequence[Range], bound: int) -> Range:
    """Return (smallest, largest) value of the op's output, for those of its inputs and the op's own bound."""
    return row(RANGES, op, "range")(op, ranges, bound)


def output_shape(op: Op, shapes: Sequence[Shape]) -> Shape:
    """Return the shape of the op's output for those of its inputs; raises MaqdError where they do not fit."""
    return row(SHAPES, op, "shape")(op, shapes)


def output_bound(op: Op, bounds: Sequence[int]) -> int:
    """Return the largest magnitude of the op's output and partial sums, for those of its inputs.

    Raises:
        MaqdError: it reaches 2^53, where float64 is no longer exact.
    """
    bound = row(BOUNDS, op, "bound")(op, bounds)
    if bound >= FLOAT64_EXACT:
        raise MaqdError(f"{op.name}: accumulators can reach {bound}, above 2^53; use fewer states or inputs")
    return bound
