"""Augmentation of a whole batch of codes at once, on its device. No Python per sample.

The random numbers of every sample are drawn apart from their use: for the batch of a step as a whole, on the CPU. So a
sample is changed in the same way on every device, and whatever number of processes or parts the batch is shared among.

Axis letters: B batch, C channels, H height, W width; K random numbers of one sample.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from maqd_snn.rounding import round_half_up

CUTOUT = 8  # pixels


def shift(codes: Tensor, pad: int, fill: int, corner: Tensor) -> Tensor:
    """Return each image (B, C, H, W) moved by up to `pad` pixels in both directions; the border shows `fill`.

    `corner` (2, B) holds row and column, whole numbers 0..2*pad, of what is shown within the padded image.

    >>> codes = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2)
    >>> shift(codes, 1, 9, torch.tensor([[1.0], [2.0]])).tolist()
    [[[[1, 9], [3, 9]]]]
    """
    batch, channels, height, width = codes.shape
    padded = F.pad(codes, (pad, pad, pad, pad), value=fill)
    at = corner.long()
    rows = (at[0, :, None] + torch.arange(height, device=codes.device)).view(batch, 1, height, 1)
    columns = (at[1, :, None] + torch.arange(width, device=codes.device)).view(batch, 1, 1, width)
    samples = torch.arange(batch, device=codes.device).view(-1, 1, 1, 1)
    return padded[samples, torch.arange(channels, device=codes.device).view(1, -1, 1, 1), rows, columns]


def flip(codes: Tensor, chance: Tensor) -> Tensor:
    """Return each image (B, C, H, W) mirrored left to right where `chance` (B,), from [0, 1), is below one half."""
    return torch.where((chance < 0.5).view(-1, 1, 1, 1), codes.flip(3), codes)


def cutout(codes: Tensor, size: int, fill: int, centre: Tensor) -> Tensor:
    """Return each image (B, C, H, W) with a square of `size` pixels set to `fill`; at the border less of it is seen.

    `centre` (2, B) holds where its middle is, in shares of height and width from [0, 1).

    Source: DeVries & Taylor, arXiv 1708.04552.

    >>> cutout(torch.ones(1, 1, 3, 3), 2, 0, torch.tensor([[0.4], [0.0]])).tolist()
    [[[[0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]]
    """
    batch, _, height, width = codes.shape
    inside = []
    for axis, length in ((0, height), (1, width)):
        start = (centre[axis] * length).floor().view(batch, 1) - size // 2
        position = torch.arange(length, device=codes.device)
        inside.append((position >= start) & (position < start + size))
    return codes.masked_fill((inside[0][:, :, None] & inside[1][:, None, :]).unsqueeze(1), fill)


def warp(
    codes: Tensor, fill: int, chance: Tensor, *, degrees: float = 10, zoom: float = 0.1, pixels: float = 1
) -> Tensor:
    """Return each image (B, C, H, W) turned by up to `degrees`, zoomed by up to the share `zoom`, moved by `pixels`.

    Interpolated bilinearly around the centre, rounded half up; outside the image it shows `fill`. `chance` (4, B) holds
    turn, zoom, shift down and right as shares from [0, 1) of their ranges.

    >>> codes = torch.full((2, 1, 4, 4), 7, dtype=torch.uint8)
    >>> warp(codes, 7, torch.rand(4, 2)).equal(codes)
    True
    """
    batch, _, height, width = codes.shape
    turn, larger, down, right = (2 * chance - 1).unbind()
    angle, scale = turn * math.radians(degrees), 1 + zoom * larger
    down, right = pixels * down, pixels * right
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack([cosine, -sine, 2 * right / width, sine, cosine, 2 * down / height], dim=1)
    grid = F.affine_grid(rows.view(batch, 2, 3), list(codes.shape), align_corners=False)
    warped = F.grid_sample(codes.float() - fill, grid, align_corners=False) + fill
    return round_half_up(warped).to(codes.dtype)


@dataclass(frozen=True)
class Augmentation:
    """How samples are drawn for and changed.

    `draw` takes a number of samples B and a generator and returns the random numbers (K, B); `apply` takes codes
    (B, C, H, W), the code that stands for nothing, and those numbers, and returns changed codes.
    """

    draw: Callable[[int, Generator], Tensor]
    apply: Callable[[Tensor, int, Tensor], Tensor]


def _corners(pad: int) -> Callable[[int, Generator], Tensor]:
    return lambda count, generator: torch.randint(0, 2 * pad + 1, (2, count), generator=generator).float()


def _draw_crop_flip(count: int, generator: Generator, pad: int = 4) -> Tensor:
    return torch.cat([_corners(pad)(count, generator), torch.rand(1, count, generator=generator)])


def _crop_flip(codes: Tensor, fill: int, drawn: Tensor, pad: int = 4) -> Tensor:
    return flip(shift(codes, pad, fill, drawn[:2]), drawn[2])


def _draw_crop_flip_cutout(count: int, generator: Generator) -> Tensor:
    return torch.cat([_draw_crop_flip(count, generator), torch.rand(2, count, generator=generator)])


def _crop_flip_cutout(codes: Tensor, fill: int, drawn: Tensor) -> Tensor:
    return cutout(_crop_flip(codes, fill, drawn[:3]), CUTOUT, fill, drawn[3:])


def _draw_warp(count: int, generator: Generator) -> Tensor:
    return torch.rand(4, count, generator=generator)


def _event_warp(codes: Tensor, fill: int, drawn: Tensor) -> Tensor:
    return warp(codes, fill, drawn, degrees=15, zoom=0.15, pixels=2)


AUGMENTATIONS: Mapping[str, Augmentation] = MappingProxyType(
    {
        "none": Augmentation(lambda count, _: torch.empty(0, count), lambda codes, _fill, _drawn: codes),
        "shift1": Augmentation(_corners(1), lambda codes, fill, drawn: shift(codes, 1, fill, drawn)),
        "shift2": Augmentation(_corners(2), lambda codes, fill, drawn: shift(codes, 2, fill, drawn)),
        "warp": Augmentation(_draw_warp, warp),
        "crop-flip": Augmentation(_draw_crop_flip, _crop_flip),
        "crop2-flip": Augmentation(partial(_draw_crop_flip, pad=2), partial(_crop_flip, pad=2)),
        "crop-flip-cutout": Augmentation(_draw_crop_flip_cutout, _crop_flip_cutout),
        "event-warp": Augmentation(_draw_warp, _event_warp),
        "event-warp-flip": Augmentation(
            lambda count, generator: torch.rand(5, count, generator=generator),
            lambda codes, fill, drawn: flip(_event_warp(codes, fill, drawn[:4]), drawn[4]),
        ),
    }
)
