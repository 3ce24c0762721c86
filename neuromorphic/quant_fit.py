"""A layer's integer thresholds as one affine map, a rounding and a clip: what a QONNX `Quant` node computes.

Axis letters: C channels, n thresholds per channel.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

# Each step keeps two thirds of an interval of at most 2^26; 120 of them bring it below float64's own resolution.
SEARCH_STEPS = 120


@dataclass(frozen=True)
class QuantFit:
    """level(z) = round_half_even(clip(multiplier*z + offset, low, low + n)) for the channels in `fitted`.

    Attributes:
        multiplier, offset: (C,) float32. fitted: (C,) bool, True where this was proved for every integer |z| <= bound.
    """

    multiplier: NDArray[np.float32]
    offset: NDArray[np.float32]
    fitted: NDArray[np.bool_]


def fit_quant(thresholds: Integers, direction: Integers, low: int, bound: int) -> QuantFit:
    """Return the affine map A*z + D whose roundings to nearest are the levels of integer thresholds.

    With u = direction*z, oriented thresholds theta_j, t = 1/|A| and c = t*(low - 1/2 - D), the map crosses from level
    low+j-1 to low+j at x_j = c + t*j. Every x_j must lie strictly between theta_j - 1 and theta_j, so that no integer
    meets a tie; where level j is always reached, below -bound; where it never is, above bound. For fixed t the c that
    do so are an interval; half its length, the margin, is concave in t, so a ternary search finds the widest one.
    The result is then proved in float32 by `levels_in_float32`. A channel of one level only gets A = 0.

    Args:
        thresholds: (C, n), of an `ops.Threshold`: rising where direction is +1, falling where it is -1.
        direction: (C,) of +1 and -1.
        low: smallest level.
        bound: largest magnitude of the accumulator z, below 2^24.

    Source: own derivation; `Quant` as in qonnx 1.0.0, which clips and then rounds half to even.

    >>> fit = fit_quant(np.array([[3, 6, 9]]), np.array([1]), low=0, bound=20)
    >>> z = np.arange(-20, 21, dtype=np.float32)
    >>> level = np.round(np.clip(fit.multiplier[0] * z + fit.offset[0], 0, 3))
    >>> bool(fit.fitted[0]), [int(z[level >= j].min()) for j in (1, 2, 3)]
    (True, [3, 6, 9])
    """
    n = thresholds.shape[1]
    theta = np.clip(thresholds * direction[:, None], -bound - 1, bound + 1)
    always, never = theta <= -bound, theta > bound
    constant = (always | never).all(1)

    multiplier, offset = _widest(theta, low, bound)
    multiplier = np.where(constant, 0.0, multiplier * direction)
    offset = np.where(constant, low + always.sum(1), offset)

    a, d = multiplier.astype(np.float32), offset.astype(np.float32)
    # Both sides are monotone in z in the same direction, so levels that agree on either side of every threshold, and
    # at both ends, agree everywhere.
    ends = np.full((len(theta), 1), bound)
    points = np.clip(np.concatenate([theta, theta - 1, ends, -ends], axis=1), -bound, bound)
    expected = low + np.stack([np.searchsorted(row, at, side="right") for row, at in zip(theta, points, strict=True)])
    got = levels_in_float32(points * direction[:, None], a, d, low, low + n)
    return QuantFit(a, d, (got == expected).all(1))


def levels_in_float32(
    z: Integers, multiplier: NDArray[np.float32], offset: NDArray[np.float32], low: int, high: int
) -> NDArray[np.float32]:
    """Return round_half_even(clip(A*z + D, low, high)) for z (C, points), product and sum each rounded to float32."""
    product = z.astype(np.float32) * multiplier[:, None]
    level: NDArray[np.float32] = np.round(np.clip(product + offset[:, None], np.float32(low), np.float32(high)))
    return level


def _widest(theta: Integers, low: int, bound: int) -> tuple[Floats, Floats]:
    """Return (A > 0, D), (C,) float64, with the widest margin for oriented thresholds (C, n)."""
    n: int = theta.shape[1]
    j = np.arange(1, n + 1)
    always, never = theta <= -bound, theta > bound
    below = np.where(always, -np.inf, np.where(never, bound, theta - 1)).astype(np.float64)
    above = np.where(never, np.inf, np.where(always, -bound, theta)).astype(np.float64)

    def interval(t: Floats) -> tuple[Floats, Floats]:
        return (below - t[:, None] * j).max(1), (above - t[:, None] * j).min(1)

    def score(t: Floats) -> Floats:
        least, most = interval(t)
        # A larger t means a smaller A, whose levels float32 resolves less finely: of equal margins the steepest wins.
        return (most - least) / 2 - t * (n / 2**24)

    # The smallest t leaves a margin of at least 1/4 even where one integer jumps over all levels; it is 1 for n = 1,
    # so that a binary spike has A = 1, and a whole D. With the largest, a single level spans the whole range.
    smallest = np.full(len(theta), 1 / (2 * n - 1))
    left, right = smallest.copy(), np.full(len(theta), 2.0 * bound + 2)
    for _ in range(SEARCH_STEPS):
        third = (right - left) / 3
        first, second = left + third, right - third
        up = score(first) < score(second)
        left, right = np.where(up, first, left), np.where(up, right, second)
    t = np.where(score(smallest) >= score(left), smallest, left)
    least, most = interval(t)
    # A constant channel may have only one-sided limits; its A and D are not used.
    c = np.where(np.isfinite(least) & np.isfinite(most), (least + most) / 2, 0.0)
    return 1 / t, low - 0.5 - c / t
