"""Statistics of integer counts over any number of samples, in constant memory and exactly.

Axis letters: R counts (rows), B batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]

BINS = 1024
PERCENTILES = (5, 25, 50, 75, 95)
LIMB = 20  # bits; squares are added limb by limb, so that int64 holds them
CHUNK = 1 << 20  # columns: 2^20 products of two limbs stay below 2^60


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
        self.sums = [0] * rows
        self.squares = [0] * rows
        self.smallest = np.full(rows, np.iinfo(np.int64).max)
        self.largest = np.full(rows, -1)
        self.widths = np.array([-(-(ceiling + 1) // BINS) for ceiling in ceilings], np.int64)
        self.histogram = np.zeros((rows, BINS), np.int64)

    def add(self, values: Array) -> None:
        """Take in the counts (R, B) of a batch, B >= 1."""
        if not len(values):
            self.samples += values.shape[1]
            return
        for start in range(0, values.shape[1], CHUNK):
            part = values[:, start : start + CHUNK]
            self.samples += part.shape[1]
            self.sums = [total + int(new) for total, new in zip(self.sums, part.sum(1), strict=True)]
            self.squares = [total + new for total, new in zip(self.squares, sums_of_squares(part), strict=True)]
            np.minimum(self.smallest, part.min(1), out=self.smallest)
            np.maximum(self.largest, part.max(1), out=self.largest)
            np.add.at(self.histogram, (np.arange(len(part))[:, None], part // self.widths[:, None]), 1)

    def spread(self, row: int) -> Spread:
        """Return the spread of count `row` over the samples so far."""
        samples, total = self.samples, self.sums[row]
        variance = samples * self.squares[row] - total**2  # times samples^2, exactly
        rising = self.histogram[row].cumsum()
        width, smallest = int(self.widths[row]), int(self.smallest[row])
        ranks = [max(1, -(-percent * samples // 100)) for percent in PERCENTILES]
        bins = [int(np.searchsorted(rising, rank)) for rank in ranks]
        return Spread(
            total / samples,
            math.sqrt(variance) / samples,
            smallest,
            int(self.largest[row]),
            width,
            *(found * width for found in bins),
        )


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
