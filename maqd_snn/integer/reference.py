"""The oracle: every op in plain NumPy int64, as literally as it can be written.

Axis letters: B batch, C channels, O output channels, H height, W width.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maqd_snn.errors import MaqdError
from maqd_snn.integer import ops
from maqd_snn.integer.geometry import output_size, row
from maqd_snn.integer.ops import Op, Pair, check_codes

Array = NDArray[np.int64]


def _input(op: ops.Input, values: Sequence[Array]) -> Array:
    codes = values[0]
    if codes.shape[1:] != op.shape:
        raise MaqdError(f"{op.name}: input codes must have shape (batch, {op.shape}), got {codes.shape}")
    if codes.size:
        check_codes(int(codes.min()), int(codes.max()), op.low, op.high)
    return codes - op.zero_point


def _windows(
    x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, fill: int
) -> list[tuple[Pair, Array]]:
    """Return ((dy, dx), the values (B, C, H', W') that tap (dy, dx) reads) for every tap of the kernel."""
    height, width = output_size((x.shape[2], x.shape[3]), kernel, stride, padding, dilation)
    pad_h, pad_w = padding
    padded = np.pad(x, ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w)), constant_values=fill)
    taps = []
    for dy in range(kernel[0]):
        for dx in range(kernel[1]):
            top, left = dy * dilation[0], dx * dilation[1]
            rows = slice(top, top + (height - 1) * stride[0] + 1, stride[0])
            columns = slice(left, left + (width - 1) * stride[1] + 1, stride[1])
            taps.append(((dy, dx), padded[:, :, rows, columns]))
    return taps


def _conv2d(op: ops.Conv2d, values: Sequence[Array]) -> Array:
    weight = op.weight.numpy()
    out, per_group, *kernel = weight.shape
    group_out = out // op.groups
    positions = prod(output_size(values[0].shape[2:], (kernel[0], kernel[1]), op.stride, op.padding, op.dilation))
    total: Array | None = None
    for (dy, dx), read in _windows(values[0], (kernel[0], kernel[1]), op.stride, op.padding, op.dilation, fill=0):
        if total is None:
            total = np.zeros((read.shape[0], out, *read.shape[2:]), np.int64)
        for g in range(op.groups):
            of_group = slice(g * group_out, (g + 1) * group_out)
            patch = read[:, g * per_group : (g + 1) * per_group].reshape(read.shape[0], per_group, positions)
            product = weight[of_group, :, dy, dx] @ patch  # (B, O/groups, H'*W')
            total[:, of_group] += product.reshape(read.shape[0], group_out, *read.shape[2:])
    assert total is not None  # a kernel has at least one tap
    return total


def _threshold(op: ops.Threshold, values: Sequence[Array]) -> Array:
    z = values[0]
    per_channel = (1, -1, *(1,) * (z.ndim - 2))
    direction = op.direction.numpy().reshape(per_channel)
    level = np.full(z.shape, op.low, np.int64)
    for theta in op.thresholds.numpy().T:
        theta = theta.reshape(per_channel)
        level += np.where(direction > 0, z >= theta, z <= theta)
    return level


def _max_pool(op: ops.MaxPool2d, values: Sequence[Array]) -> Array:
    lowest = int(np.iinfo(np.int64).min)
    taps = _windows(values[0], op.kernel, op.stride, op.padding, (1, 1), fill=lowest)
    largest: Array = np.max([read for _, read in taps], axis=0)
    return largest


def _sum_pool(op: ops.SumPool2d, values: Sequence[Array]) -> Array:
    taps = _windows(values[0], op.kernel, op.stride, op.padding, (1, 1), fill=0)
    total: Array = np.sum([read for _, read in taps], axis=0)
    return total


REFERENCE: Mapping[type[Op], Callable[[Any, Sequence[Array]], Array]] = MappingProxyType(
    {
        ops.Input: _input,
        ops.Conv2d: _conv2d,
        ops.Linear: lambda op, values: values[0] @ op.weight.numpy().T,
        ops.Threshold: _threshold,
        ops.MaxPool2d: _max_pool,
        ops.SumPool2d: _sum_pool,
        ops.Add: lambda op, values: np.sum(values, axis=0),
        ops.Flatten: lambda op, values: values[0].reshape(len(values[0]), prod(values[0].shape[1:])),
        ops.Readout: lambda op, values: values[0] + op.bias.numpy(),
    }
)


def evaluate(op: Op, values: Sequence[Array]) -> Array:
    """Return the op's output for its inputs, all int64; an `Input` takes the codes."""
    return row(REFERENCE, op, "reference")(op, values)
