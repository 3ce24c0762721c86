"""Augmentation of a whole batch of codes at once, on its device. No Python per sample.

Axis letters: B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


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
    {"none": _none, "shift1": _shift_one, "shift2": _shift_two, "crop-flip": _crop_flip}
)
