"""The weight gradient of a 3x3 convolution by Winograd's minimal filtering: 16 multiplications in place of 36.

Axis letters: B batch, I input channels, O output channels, H height, W width; h, w count tiles of 2 x 2 outputs.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]

# The spread tiles of one block of samples: about what stays in a cache.
BLOCK_BYTES = 4 * 2**20
# With fewer channels the matrix products are too thin to be worth the transforms.
LEAST_CHANNELS = 32


def pays(channels: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> bool:
    """Return whether `weight_gradient` can take the place of the direct one on a CPU, and is the faster one.

    Args:
        channels: I and O of a convolution without groups.

    >>> pays((64, 64), (3, 3), (1, 1), (1, 1)), pays((3, 64), (3, 3), (1, 1), (1, 1))
    (True, False)
    """
    return kernel == (3, 3) and stride == (1, 1) == dilation and min(channels) >= LEAST_CHANNELS


@torch.library.custom_op("maqd_snn::winograd_weight_gradient", mutates_args=())
def weight_gradient(x: Tensor, grad: Tensor, padding: list[int]) -> Tensor:
    """Return dL/dq of z = sum over 3x3 taps of q * x, stride 1, zero padding: (O, I, 3, 3) in float32.

    Over the tiles of 2 x 2 outputs g and 4 x 4 inputs d, dL/dq = G' [sum (B' d B) * (A g A')] G, with Lavin and Gray's
    matrices of F(2x2, 3x3): the transposition principle applied to their forward algorithm. The sums over tiles and
    samples are 16 matrix products. The rows that are negative in A and in B' alike have their signs turned in both.
    With levels for x, B' d B are integers; the order of the sums differs from the direct one's, and its error is no
    larger.

    Args:
        x: (B, I, H, W), the input of the convolution, in any type.
        grad: (B, O, H + 2 padding - 2, W + 2 padding - 2) in float32, dL/dz.
        padding: of height and width.

    Source: Lavin and Gray, Fast algorithms for convolutional neural networks, CVPR 2016.
    """
    (batch, inputs, height, width), (_, outputs, *size) = x.shape, grad.shape
    rows, columns = (-(-n // 2) for n in size)
    x, grad = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)
    total = torch.zeros(16, inputs, outputs)
    block = min(batch, _block(rows * columns, inputs, outputs))
    # What a block of samples is spread into, and the views of it: (4 x 4 parts, samples, tiles, channels).
    padded = torch.zeros(block, 2 * rows + 2, 2 * columns + 2, inputs)
    inside = padded[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width]
    half_x = torch.empty(4, block, rows, 2 * columns + 2, inputs)
    of_x = torch.empty(4, 4, block, rows, columns, inputs)
    half_grad = torch.empty(2, block, rows, 2 * columns, outputs)
    of_grad = torch.empty(4, 4, block, rows, columns, outputs)
    high, wide = (
        [padded[:, i : i + 2 * rows - 1 : 2] for i in range(4)],
        [half_x[:, :, :, j : j + 2 * columns - 1 : 2] for j in range(4)],
    )
    half_x_parts, of_x_parts = half_x.unbind(0), of_x.unbind(1)
    outer_parts, inner_parts = of_grad[::3].unbind(1), of_grad[1:3].unbind(1)
    left, right = of_x.view(16, -1, inputs).transpose(1, 2), of_grad.view(16, -1, outputs)
    for start in range(0, batch, block):
        g = grad[start : start + block]
        missing = block - len(g)  # in the last block; samples of zeros fill it up
        if missing or size[0] % 2 or size[1] % 2:
            g = F.pad(g, (0, 0, 0, size[1] % 2, 0, size[0] % 2, 0, missing))
        inside[: block - missing].copy_(x[start : start + block])
        _spread_inputs(high, half_x_parts)
        _spread_inputs(wide, of_x_parts)
        g = g.view(block, rows, 2, 2 * columns, outputs).permute(2, 0, 1, 3, 4)  # rows of even and of odd index
        torch.add(g[0], g[1], out=half_grad[0])
        torch.sub(g[0], g[1], out=half_grad[1])
        _spread_gradients(g, outer_parts)
        _spread_gradients(half_grad, inner_parts)
        total.baddbmm_(left, right)
    g = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])
    return torch.einsum("ar,bs,abio->oirs", g, g, total.view(4, 4, inputs, outputs)).contiguous()


@weight_gradient.register_fake
def _(x: Tensor, grad: Tensor, padding: list[int]) -> Tensor:
    return grad.new_empty((grad.shape[1], x.shape[1], 3, 3), dtype=torch.float32)


def _block(tiles: int, inputs: int, outputs: int) -> int:
    """Return the samples of a block; more where the products themselves, which every block adds to, are large."""
    bytes_of_sample, bytes_of_products = 64 * tiles * (inputs + outputs), 64 * inputs * outputs
    return max(1, max(BLOCK_BYTES, 2 * bytes_of_products) // bytes_of_sample)


def _spread_inputs(d: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Write d0 - d2, d1 + d2, d2 - d1, d3 - d1 to out[0..3]."""
    torch.sub(d[0], d[2], out=out[0])
    torch.add(d[1], d[2], out=out[1])
    torch.sub(d[2], d[1], out=out[2])
    torch.sub(d[3], d[1], out=out[3])


def _spread_gradients(g: Tensor, out: Sequence[Tensor]) -> None:
    """Write a, a + b, a - b, b to out[0..3]: a the columns of even, b those of odd index, (parts, samples, h, W, O)."""
    a, b = g[:, :, :, ::2], g[:, :, :, 1::2]
    out[0].copy_(a)
    torch.add(a, b, out=out[1])
    torch.sub(a, b, out=out[2])
    out[3].copy_(b)
