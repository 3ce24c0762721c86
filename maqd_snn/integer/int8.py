"""Convolutions of levels held as uint8 with weights held as int8: exact integer products, by oneDNN as torch ships it.

Axis letters: B batch, C input channels, O output channels, H height, W width.

On a processor without instructions for sums of four products oneDNN adds pairs of uint8 * int8 in 16 bits, which
saturate: exact is only what keeps 2 * max|x| * max|w| <= 32767. Larger or negative values are therefore split into
parts that keep it, each a channel of its own: x = sum of sign * part, with the same weights times sign.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maqd_snn.integer import ops
from maqd_snn.integer.geometry import windows_meet_image

SATURATION = 32767
LARGEST_PARTS = 4  # beyond that float32 is faster

Part = tuple[int, int]


def split_plan(low: int, high: int, largest_weight: int) -> list[Part]:
    """Return the parts (sign, start) of values in low..high: part = clamp(sign * x - start, 0, limit).

    >>> split_plan(-121, 134, 127)
    [(1, 0), (1, 129), (-1, 0)]
    >>> split_plan(0, 3, 1)
    [(1, 0)]
    """
    limit = part_limit(largest_weight)
    parts = [(1, start) for start in range(0, high, limit)] + [(-1, start) for start in range(0, -low, limit)]
    return parts or [(1, 0)]


def part_limit(largest_weight: int) -> int:
    """Return the largest value that a part may have: 255, or less where a pair of products could saturate 16 bits."""
    return min(255, SATURATION // (2 * max(1, largest_weight)))


def supported(op: ops.Conv2d, low: int, high: int, device: torch.device) -> bool:
    """Whether the op, for inputs in low..high, can run here on this device."""
    largest = int(op.weight.abs().max())
    kernel = op.weight.shape[2], op.weight.shape[3]
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.onednn, "qconv2d_pointwise")
        and windows_meet_image(kernel, op.padding, op.dilation)
        and largest <= 127
        and len(split_plan(low, high, largest)) <= LARGEST_PARTS
    )


def without_stride(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[Tensor, Sequence[int], Sequence[int]]:
    """Return the input, stride and padding of the same convolution, at stride 1 where the kernel is one pixel.

    oneDNN's 8-bit convolution of one pixel with a stride copies its input for each thread, and where its threads do not
    run at the same time, as on a busy machine, some sums are wrong.

    >>> x = torch.arange(16).view(1, 1, 4, 4)
    >>> [of.tolist() if isinstance(of, Tensor) else of for of in without_stride(x, (1, 1), (2, 2), (1, 0))]
    [[[[[0, 0], [4, 6], [12, 14]]]], (1, 1), (0, 0)]
    """
    if max(kernel) > 1 or max(stride) == 1:
        return x, stride, padding
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    return x[:, :, :: stride[0], :: stride[1]], (1, 1), (0, 0)


class Int8Conv:
    """One convolution, packed once per input size.

    With a `threshold` of one level the comparison is the last step of the convolution itself: with weights times the
    direction, z >= theta is clamp(z - theta + 1, 0, 1) = 1, which is exact while |z| + |theta| + 1 stays below 2^24.
    """

    def __init__(self, op: ops.Conv2d, low: int, high: int, threshold: ops.Threshold | None = None) -> None:
        self.op = op
        self.parts = split_plan(low, high, int(op.weight.abs().max()))
        self.limit = part_limit(int(op.weight.abs().max()))
        weight = op.weight
        self.bias: Tensor | None = None
        if threshold is not None:
            weight = weight * threshold.direction.view(-1, 1, 1, 1)
            self.bias = (1 - threshold.thresholds[:, 0] * threshold.direction).to(torch.float32)
        self.weight = torch.cat([sign * weight for sign, _ in self.parts], 1).to(torch.int8)
        self.scales = torch.ones(len(weight))
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.packed: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Return the sums (B, O, H', W') of integers as float32, or with a threshold the levels as uint8."""
        op = self.op
        x, stride, padding = without_stride(self.split(x), op.weight.shape[2:], op.stride, op.padding)
        x = x.contiguous(memory_format=torch.channels_last)
        shape = tuple(x.shape)
        geometry = list(stride), list(padding), list(op.dilation), op.groups
        if shape[1:] not in self.packed:
            pack: Callable[..., Tensor] = torch.ops.onednn.qconv_prepack
            self.packed[shape[1:]] = pack(self.weight, self.scales, 1.0, 0, *geometry, list(shape))
        last: tuple[Any, ...] = (torch.float32, "none", [], "")
        if self.bias is not None:
            last = (torch.uint8, "hardtanh", [0.0, 1.0], "")
        convolve: Callable[..., Tensor] = torch.ops.onednn.qconv2d_pointwise
        packed = self.packed[shape[1:]]
        return convolve(x, 1.0, 0, packed, self.scales, self.zeros, self.bias, *geometry, 1.0, 0, *last)

    def split(self, x: Tensor) -> Tensor:
        """Return the parts of integers (B, C, H, W) as uint8 channels, those of a group beside each other."""
        if self.parts == [(1, 0)]:
            return x.to(torch.uint8)
        wide = x.to(torch.int16)
        parts = [(wide * sign - start).clamp_(0, self.limit).to(torch.uint8) for sign, start in self.parts]
        batch, channels, height, width = x.shape
        grouped = [part.view(batch, self.op.groups, channels // self.op.groups, height, width) for part in parts]
        return torch.cat(grouped, 2).flatten(1, 2)
