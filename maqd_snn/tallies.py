"""One pass over the values that flow between two ops: how many there are, by sample, channel and zone.

Axis letters: B batch, C channels, H height, W width, Z zones.

A zone is a set of positions that every op that takes the values treats alike: its fan-out is the same at all of them.
Zones are products of row classes and column classes (inside and borders, say), so there are few, and every count is a
small sum over them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.compiled import fast, machine_code, over_batch

Array = NDArray[np.int64]
Classes = tuple[Array, ...]

LANE = 255  # what one byte of a word can hold
FEW_LEVELS = 16  # up to so many nonzero levels are counted one by one


@dataclass(frozen=True)
class Zones:
    """Row classes times column classes of an image; features (B, C) have one zone.

    Attributes:
        rows, columns: index arrays, rising, that together name every row and column once.
    """

    rows: Classes
    columns: Classes

    @cached_property
    def of_row(self) -> Array:
        """Row class of each row, (H,)."""
        return _class_of(self.rows)

    @cached_property
    def of_column(self) -> Array:
        """Column class of each column, (W,)."""
        return _class_of(self.columns)

    @property
    def number(self) -> int:
        """Number of zones."""
        return len(self.rows) * len(self.columns)

    @property
    def representatives(self) -> Array:
        """One position of each zone, (Z,), as an index of the flattened image."""
        width = sum(len(part) for part in self.columns)
        first: list[int] = [int(r[0]) * width + int(c[0]) for r in self.rows for c in self.columns]
        return np.array(first, np.int64)


def _class_of(classes: Classes) -> Array:
    of = np.zeros(sum(len(part) for part in classes), np.int64)
    for index, part in enumerate(classes):
        of[part] = index
    return of


def alike(maps: Sequence[Array], size: int) -> Classes:
    """Return the classes of 0..size-1 whose columns are equal in each of the `maps` (n, size).

    >>> [part.tolist() for part in alike([np.array([[0, 1, 1, 0]])], 4)]
    [[0, 3], [1, 2]]
    """
    found: dict[bytes, list[int]] = {}
    columns = np.ascontiguousarray(np.concatenate([np.zeros((1, size), np.int64), *maps]).T)
    for index, column in enumerate(columns):
        found.setdefault(column.tobytes(), []).append(index)
    return tuple(np.array(part, np.int64) for part in found.values())


@dataclass(frozen=True)
class Tally:
    """What a batch of values holds.

    Attributes:
        active: (B, Z, C) nonzero values. units: (B, Z) sums of magnitudes. serial: (B, Z) sums of the ones in their
        binary form; both None where the values are sums, no levels. histogram: how often each level was met, or None.
    """

    active: Array
    units: Array | None = None
    serial: Array | None = None
    histogram: Array | None = None

    @cached_property
    def per_zone(self) -> Array:
        """Nonzero values of all channels, (B, Z)."""
        total: Array = self.active.sum(2)
        return total


def tally(x: Tensor, zones: Zones, levels: tuple[int, int] | None) -> Tally:
    """Count values (B, C, H, W) or (B, C): integers of any type, in `levels` = (lowest, highest) or None for sums."""
    image = x if x.ndim == 4 else x[:, :, None, None]
    if levels is None:
        return Tally(_active(image, zones))
    low, high = levels
    met = [k for k in range(low, high + 1) if k] if high - low <= FEW_LEVELS else None
    if met is None:
        return _tally_of_many(image, zones, low, high)
    batch, channels = image.shape[:2]
    active = np.zeros((batch, zones.number, channels), np.int64)
    units, serial = np.zeros((2, batch, zones.number), np.int64)
    histogram = np.zeros(high - low + 1, np.int64)
    for k in met:
        # Values 0 and 1 held in bytes are their own indicator.
        is_own = (low, high) == (0, 1) and image.dtype == torch.uint8
        found = zone_sums(image if is_own else (image == k).view(torch.uint8), zones)
        active += found
        per_zone = found.sum(2)
        units += abs(k) * per_zone
        serial += abs(k).bit_count() * per_zone
        histogram[k - low] = found.sum()
    if low <= 0 <= high:
        histogram[-low] = image.numel() - histogram.sum()
    return Tally(active, units, serial, histogram)


def _active(image: Tensor, zones: Zones) -> Array:
    if zones.number == 1 and image.dtype == torch.float32 and _fast(image):
        last = image.permute(0, 2, 3, 1).contiguous().numpy()
        found = np.zeros((len(image), 1, image.shape[1]), np.int64)
        over_batch(machine_code(count_nonzero), len(image), last.reshape(len(image), -1, image.shape[1]), found)
        return found
    return zone_sums((image != 0).view(torch.uint8), zones)


def _fast(x: Tensor) -> bool:
    return x.device.type == "cpu" and fast()


def count_nonzero(start: int, stop: int, values: Any, found: Any) -> None:
    """Count the nonzero values of samples start..stop: (B, P, C) -> (B, 1, C)."""
    for b in range(start, stop):
        counts = np.zeros(values.shape[2], np.int32)
        for position in range(values.shape[1]):
            for c in range(values.shape[2]):
                counts[c] += values[b, position, c] != 0
        for c in range(values.shape[2]):
            found[b, 0, c] = counts[c]


def sum_words(start: int, stop: int, words: Any, of_row: Any, of_column: Any, columns: int, found: Any) -> None:
    """Sum the bytes of words (B, H, W, C/8) over the zones of samples start..stop: found is (B, Z, C)."""
    _, height, width, size = words.shape
    zones, channels = found.shape[1:]
    for b in range(start, stop):
        sums = np.zeros((zones, size), np.uint64)
        terms = np.zeros(zones, np.int64)
        for y in range(height):
            for x in range(width):
                z = of_row[y] * columns + of_column[x]
                for c in range(size):
                    sums[z, c] += words[b, y, x, c]
                terms[z] += 1
                if terms[z] == 255:  # one more could overflow a byte
                    for c in range(channels):
                        found[b, z, c] += (sums[z, c // 8] >> np.uint64(8 * (c % 8))) & np.uint64(255)
                    sums[z] = 0
                    terms[z] = 0
        for z in range(zones):
            for c in range(channels):
                found[b, z, c] += (sums[z, c // 8] >> np.uint64(8 * (c % 8))) & np.uint64(255)


def _tally_of_many(image: Tensor, zones: Zones, low: int, high: int) -> Tally:
    magnitude = image.to(torch.int64).abs()
    ones = torch.zeros_like(magnitude)
    for bit in range(max(abs(low), abs(high)).bit_length()):
        ones += (magnitude >> bit) & 1
    units, serial = (_zones_of_positions(part.sum(1), zones) for part in (magnitude, ones))
    histogram = None
    if high - low < 2**20:
        shifted = (image.to(torch.int64) - low).flatten()
        histogram = torch.bincount(shifted, minlength=high - low + 1).cpu().numpy()
    return Tally(_active(image, zones), units, serial, histogram)


def _zones_of_positions(values: Tensor, zones: Zones) -> Array:
    """Sum (B, H, W) integers over each zone: (B, Z)."""
    array = values.cpu().numpy()
    sums = [array[:, r][:, :, c].sum((1, 2)) for r in zones.rows for c in zones.columns]
    return np.stack(sums, 1)


def zone_sums(ones: Tensor, zones: Zones) -> Array:
    """Sum bytes of 0 and 1, (B, C, H, W), over each zone: (B, Z, C).

    Eight channels are added at once, as the bytes of one 64-bit word: no byte overflows below 256 terms.
    """
    channels = ones.shape[1]
    last = ones.permute(0, 2, 3, 1)  # (B, H, W, C)
    if channels % 8:
        last = F.pad(last, (0, -channels % 8))
    words = _flat(last).view(torch.int64).view(*last.shape[:3], -1)  # (B, H, W, C/8)
    if _fast(ones):
        found = np.zeros((len(ones), zones.number, channels), np.int64)
        by_zone = zones.of_row, zones.of_column, len(zones.columns)
        over_batch(machine_code(sum_words), len(ones), words.numpy().view(np.uint64), *by_zone, found)
        return found
    sums: dict[tuple[int, int], Tensor] = {}
    for column, chosen in enumerate(zones.columns):
        for start in range(0, len(chosen), LANE):
            part = chosen[start : start + LANE]
            lines = _take(words, 2, part)
            lines = lines.squeeze(2) if len(part) == 1 else lines.sum(2)  # (B, H, C/8), bytes up to len(part)
            for index, row in enumerate(zones.rows):
                for total in _row_sums(lines, row, LANE // len(part)):
                    so_far = sums.get((index, column))
                    sums[index, column] = total if so_far is None else so_far + total
    ordered = [sums[r, c] for r in range(len(zones.rows)) for c in range(len(zones.columns))]
    return torch.stack(ordered, 1)[..., :channels].cpu().numpy()


def _row_sums(lines: Tensor, rows: Array, at_once: int) -> list[Tensor]:
    """Sum words (B, H, C/8) over `rows`, `at_once` at a time, each time unpacked to (B, C) int64."""
    found = []
    for start in range(0, len(rows), at_once):
        part = _take(lines, 1, rows[start : start + at_once])
        packed = part.squeeze(1) if part.shape[1] == 1 else part.sum(1)
        found.append(_flat(packed).view(torch.uint8).view(len(packed), -1).to(torch.int64))
    return found


def _flat(x: Tensor) -> Tensor:
    # Axes of size 1 may have any stride, but a view of another type asks for a plain one.
    return x.reshape(-1).contiguous().as_strided((x.numel(),), (1,))


def _take(x: Tensor, axis: int, index: Array) -> Tensor:
    """Select along an axis, as a view where the index is evenly spaced."""
    steps = np.unique(np.diff(index))
    if len(steps) > 1:
        return x.index_select(axis, torch.from_numpy(index).to(x.device))
    step = int(steps[0]) if len(steps) else 1
    slices = [slice(None)] * axis + [slice(int(index[0]), int(index[-1]) + 1, step)]
    return x[tuple(slices)]
