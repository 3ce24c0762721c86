"""Statistics of integer counts over any number of samples, in constant memory and exactly.

Axis letters: R counts (rows), B batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maqd_snn.compiled import fast, machine_code, over_batch

Array = NDArray[np.int64]

BINS = 1024
PERCENTILES = (5, 25, 50, 75, 95)
TOGETHER = 1024  # samples that are worked on together
LIMB = 20  # bits; squares are added limb by limb, so that int64 holds them
HALF = 26  # bits; a number of twice as many is multiplied half by half, and 1024 such products fit uint64


@dataclass(frozen=True)
class Spread:
    """How a count varies over the samples.

    Attributes:
        mean, deviation: mean and population standard deviation, from exact integer sums.
        smallest, largest: of any sample, exactly.
        bin_width: width of the bins that the percentiles come from; 1 means that they are exact.
        p05, p25, p50, p75, p95: percentiles by nearest rank: the sample of that rank lies in [p, p + bin_width).
    """

    mean: float
    deviation: float
    smallest: int = 0
    largest: int = 0
    bin_width: int = 1
    p05: int = 0
    p25: int = 0
    p50: int = 0
    p75: int = 0
    p95: int = 0


def constant(value: int) -> Spread:
    """Return the spread of a count that is the same for every sample."""
    return Spread(float(value), 0.0, value, value, 1, value, value, value, value, value)


class Statistics:
    """Sums, sums of squares, extremes and a fixed-bin histogram of R counts; nothing grows with the samples.

    Count r lies in 0..ceilings[r]; its histogram has bins of ceil((ceilings[r] + 1) / 1024).

    >>> statistics = Statistics([7])
    >>> statistics.add(np.array([[1, 2, 6]]))
    >>> spread = statistics.spread(0)
    >>> spread.mean, spread.smallest, spread.p50, spread.largest, spread.bin_width
    (3.0, 1, 2, 6, 1)
    """

    def __init__(self, ceilings: Sequence[int]) -> None:
        rows = len(ceilings)
        self.samples = 0
        self._sums = [0] * rows
        self._squares = [0] * rows
        self._smallest = np.full(rows, np.iinfo(np.int64).max)
        self._largest = np.full(rows, -1)
        self._widths = np.array([-(-(ceiling + 1) // BINS) for ceiling in ceilings], np.int64)
        self._histogram = np.zeros((rows, BINS), np.int64)
        self._narrow = all(ceiling < 1 << (2 * HALF) for ceiling in ceilings)

    def add(self, values: Array) -> None:
        """Take in the counts (R, B) of a batch, B >= 1."""
        self.samples += values.shape[1]
        if not len(values):
            return
        for start in range(0, values.shape[1], TOGETHER):
            part = np.ascontiguousarray(values[:, start : start + TOGETHER])
            if fast() and self._narrow:
                sums, squares = self._by_machine_code(part)
            else:
                sums, squares = self._by_numpy(part)
            self._sums = [total + new for total, new in zip(self._sums, sums, strict=True)]
            self._squares = [total + new for total, new in zip(self._squares, squares, strict=True)]

    def _by_machine_code(self, part: Array) -> tuple[list[int], list[int]]:
        found = np.zeros((4, len(part)), np.uint64)
        results = found, self._smallest, self._largest, self._histogram
        over_batch(machine_code(add_up), len(part), part, self._widths, *results)
        sums, *squares = found.tolist()
        shifts = (2 * HALF, HALF + 1, 0)
        return sums, [
            sum(n << shift for n, shift in zip(row, shifts, strict=True)) for row in zip(*squares, strict=True)
        ]

    def _by_numpy(self, part: Array) -> tuple[list[int], list[int]]:
        np.minimum(self._smallest, part.min(1), out=self._smallest)
        np.maximum(self._largest, part.max(1), out=self._largest)
        bins = part // self._widths[:, None] + np.arange(len(part))[:, None] * BINS
        found = np.bincount(bins.ravel(), minlength=self._histogram.size)
        self._histogram += found.reshape(self._histogram.shape)
        return part.sum(1).tolist(), sums_of_squares(part)

    def sum(self, row: int) -> int:
        """Return the sum of count `row` over the samples so far."""
        return self._sums[row]

    def sum_of_squares(self, row: int) -> int:
        """Return the sum of the squares of count `row` over the samples so far."""
        return self._squares[row]

    def spread(self, row: int) -> Spread:
        """Return the spread of count `row` over the samples so far."""
        samples, total = self.samples, self._sums[row]
        variance = samples * self._squares[row] - total**2  # times samples^2, exactly
        rising = self._histogram[row].cumsum()
        width, smallest = int(self._widths[row]), int(self._smallest[row])
        ranks = [max(1, -(-percent * samples // 100)) for percent in PERCENTILES]
        bins = np.searchsorted(rising, ranks).tolist()
        return Spread(
            total / samples,
            math.sqrt(variance) / samples,
            smallest,
            int(self._largest[row]),
            width,
            *(found * width for found in bins),
        )


def add_up(
    start: int, stop: int, values: Any, widths: Any, found: Any, smallest: Any, largest: Any, histogram: Any
) -> None:
    """Take in rows start..stop of (R, B <= 1024) counts below 2^52.

    `found` is (4, R) uint64: sums, and sums of the products of high halves, of high and low, and of low halves.
    """
    for r in range(start, stop):
        total, high, mixed, low = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
        width = widths[r]
        for b in range(values.shape[1]):
            value = values[r, b]
            smallest[r] = min(smallest[r], value)
            largest[r] = max(largest[r], value)
            histogram[r, value // width] += 1
            upper, lower = np.uint64(value >> HALF), np.uint64(value & ((1 << HALF) - 1))
            total += np.uint64(value)
            high += upper * upper
            mixed += upper * lower
            low += lower * lower
        found[0, r], found[1, r], found[2, r], found[3, r] = total, high, mixed, low


def sums_of_squares(values: Array) -> list[int]:
    """Return the exact sum over the columns of the squares of (R, B) integers >= 0, at most 2^20 columns.

    >>> sums_of_squares(np.array([[3, 4], [2**40, 1]])) == [25, 2**80 + 1]
    True
    """
    limbs: list[Any] = []
    rest = values
    while not limbs or bool(rest.any()):
        limbs.append(rest & ((1 << LIMB) - 1))
        rest = rest >> LIMB
    totals = [0] * len(values)
    for i, left in enumerate(limbs):
        for j, right in enumerate(limbs):
            products = np.einsum("rb,rb->r", left, right)
            totals = [total + (int(p) << (LIMB * (i + j))) for total, p in zip(totals, products, strict=True)]
    return totals
