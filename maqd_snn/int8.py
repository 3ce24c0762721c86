"""An exact product of 8-bit levels and 8-bit weight codes on the CPU, with oneDNN's quantized convolution.

Axis letters: B batch, I input channels, O output channels, H height, W width.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from maqd_snn.integer.geometry import output_size
from maqd_snn.integer.int8 import without_stride


@torch.library.custom_op("maqd_snn::int8_conv2d", mutates_args=())
def int8_conv2d(
    x: Tensor, q: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Tensor:
    """Return the product sums z = sum q * x in float32: (B, I, H, W) uint8, (O, I/groups, kh, kw) int8, zero padding.

    The result lies in memory with the channels last. Ask `exact` first: without VNNI instructions pairs of products are
    added in saturating 16-bit numbers.
    """
    one = torch.ones(1)  # of all channels: torch reads scales one by one
    zero = torch.zeros(1, dtype=torch.int64)
    x, at, around = without_stride(x, q.shape[2:], stride, padding)
    x = x.contiguous(memory_format=torch.channels_last)
    layout = (list(at), list(around), dilation, groups)
    packed = torch.ops.onednn.qconv_prepack(q.contiguous(), one, 1.0, 0, *layout, list(x.shape))
    z: Tensor = torch.ops.onednn.qconv2d_pointwise(
        x, 1.0, 0, packed, one, zero, None, *layout, 1.0, 0, torch.float32, "none", [], ""
    )
    return z.contiguous(memory_format=torch.channels_last)


@int8_conv2d.register_fake
def _(x: Tensor, q: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int) -> Tensor:
    height, width = output_size(x.shape[2:], q.shape[2:], stride, padding, dilation)  # type: ignore[arg-type]
    out = x.new_empty((x.shape[0], q.shape[0], height, width), dtype=torch.float32)
    return out.to(memory_format=torch.channels_last)


@lru_cache(maxsize=256)
def exact(shape: tuple[int, int, int, int], groups: int, largest_level: int, largest_code: int) -> bool:
    """Return whether `int8_conv2d` is exact for weights of this shape, levels 0..largest_level, codes +-largest_code.

    Two questions are asked: do the operands fit into 8 bits, and does a probe with the largest operands, which
    saturates first, give what float64 gives. False where this build of torch has no such operator.
    """
    if largest_level > 255 or largest_code > 127 or math.prod(shape[1:]) * largest_level * largest_code >= 2**24:
        return False
    generator = torch.Generator().manual_seed(0)
    size = (2, shape[1] * groups, *(k + 4 for k in shape[2:]))
    x = torch.full(size, largest_level)
    x[1] = torch.randint(0, 2, size[1:], generator=generator) * largest_level
    q = torch.randint(0, 2, shape, generator=generator) * (2 * largest_code) - largest_code
    q[: len(q) // 2] = largest_code
    padding = [k // 2 for k in shape[2:]]
    truth = F.conv2d(x.double(), q.double(), None, 1, padding, 1, groups)
    levels = x.to(torch.uint8).contiguous(memory_format=torch.channels_last)
    try:
        z = int8_conv2d(levels, q.to(torch.int8), [1, 1], padding, [1, 1], groups)
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return bool((z.double() == truth).all())
