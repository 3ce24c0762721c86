"""Augmentation of a whole batch of codes at once, on its device. No Python per sample.

Axis letters: B batch, C channels, H height, W width.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from maqd_snn.rounding import round_half_up


def shift(codes: Tensor, pad: int, fill: int, generator: Generator) -> Tensor:
    """Return each image (B, C, H, W) moved by up to `pad` pixels in both directions; the border shows `fill`.

    >>> codes = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3)
    >>> shift(codes, 0, 0, torch.Generator()).equal(codes)
    True
    """
    batch, channels, height, width = codes.shape
    padded = F.pad(codes, (pad, pad, pad, pad), value=fill)
    corner = torch.randint(0, 2 * pad + 1, (2, batch), generator=generator)
    rows = (corner[0, :, None] + torch.arange(height)).view(batch, 1, height, 1)
    columns = (corner[1, :, None] + torch.arange(width)).view(batch, 1, 1, width)
    return padded[torch.arange(batch).view(-1, 1, 1, 1), torch.arange(channels).view(1, -1, 1, 1), rows, columns]


def flip(codes: Tensor, generator: Generator) -> Tensor:
    """Return each image (B, C, H, W) mirrored left to right with probability one half."""
    mirrored = torch.rand(len(codes), generator=generator) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), codes.flip(3), codes)


def warp(codes: Tensor, fill: int, generator: Generator) -> Tensor:
    """Return each image (B, C, H, W) turned by up to 10 degrees, zoomed by up to 10 % and moved by up to a pixel.

    Interpolated bilinearly around the centre, rounded half up; outside the image it shows `fill`.

    >>> codes = torch.full((2, 1, 4, 4), 7, dtype=torch.uint8)
    >>> warp(codes, 7, torch.Generator()).equal(codes)
    True
    """
    batch, _, height, width = codes.shape
    turn, zoom, down, right = (2 * torch.rand(4, batch, generator=generator) - 1).unbind()
    angle, scale = turn * math.radians(10), 1 + 0.1 * zoom
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack([cosine, -sine, 2 * right / width, sine, cosine, 2 * down / height], dim=1)
    grid = F.affine_grid(rows.view(batch, 2, 3), list(codes.shape), align_corners=False)
    warped = F.grid_sample(codes.float() - fill, grid, align_corners=False) + fill
    return round_half_up(warped).to(codes.dtype)


def _none(codes: Tensor, fill: int, generator: Generator) -> Tensor:
    return codes


def _shift_one(codes: Tensor, fill: int, generator: Generator) -> Tensor:
    return shift(codes, 1, fill, generator)


def _shift_two(codes: Tensor, fill: int, generator: Generator) -> Tensor:
    return shift(codes, 2, fill, generator)


def _crop_flip(codes: Tensor, fill: int, generator: Generator) -> Tensor:
    return flip(shift(codes, 4, fill, generator), generator)


# name -> (codes, fill, generator) -> codes
AUGMENTATIONS: Mapping[str, Callable[[Tensor, int, Generator], Tensor]] = MappingProxyType(
    {"none": _none, "shift1": _shift_one, "shift2": _shift_two, "warp": warp, "crop-flip": _crop_flip}
)
