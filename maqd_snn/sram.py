"""The energy of an SRAM access by the size of the memory, and the sizes of the memories of a core."""

from dataclasses import dataclass
from itertools import pairwise

from maqd_snn.errors import MaqdError

Points = tuple[tuple[float, float], ...]

# (bytes, pJ per access), 45 nm, 0.9 V: Horowitz, ISSCC 2014, doi 10.1109/ISSCC.2014.6757323.
HOROWITZ_POINTS: Points = ((8 * 1024, 10.0), (32 * 1024, 20.0), (1024 * 1024, 100.0))


def access_pj(capacity_bytes: float, points: Points = HOROWITZ_POINTS) -> float:
    """Return the energy of one access, piecewise linear in the size of the memory; beyond the ends the end's figure.

    Args:
        capacity_bytes: size of the memory. points: rising (bytes, pJ per access).

    >>> access_pj(8192), access_pj(20480), access_pj(2**30), access_pj(100)
    (10.0, 15.0, 100.0, 10.0)
    >>> access_pj(4096, ((0, 0.0), *HOROWITZ_POINTS))
    5.0
    """
    if capacity_bytes <= points[0][0]:
        return points[0][1]
    for (low, low_pj), (high, high_pj) in pairwise(points):
        if capacity_bytes <= high:
            return low_pj + (high_pj - low_pj) * (capacity_bytes - low) / (high - low)
    return points[-1][1]


@dataclass(frozen=True)
class Memories:
    """The memories of a core, and what an access costs.

    Horowitz's figures are per access of 64 bits; Lemaire et al. and SpikingJelly divide the same figures by 4 bytes.
    Both readings are in use, a factor of two apart, so the width is a parameter.

    Attributes:
        access_bits: width of the access that the prices are of, 64 or 32. A word of b bits costs b / access_bits of
        one.
        weight_bytes, accumulator_bytes, threshold_bytes: sizes; None: as large as the layer needs.
        message_bytes: size of the memory that holds inputs and spikes on their way; None: as large as the layer needs.
        points: (bytes, pJ per access), rising. factor: multiplies every price, for sensitivity.

    >>> Memories().bits_pj(4, capacity_bytes=32 * 1024)  # a 4-bit weight out of 32 KB
    1.25
    >>> Memories(access_bits=32).bits_pj(4, capacity_bytes=32 * 1024)
    2.5
    """

    access_bits: int = 64
    weight_bytes: int | None = None
    accumulator_bytes: int | None = None
    threshold_bytes: int | None = None
    message_bytes: int | None = 8192
    points: Points = HOROWITZ_POINTS
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.access_bits not in (32, 64):
            raise MaqdError(f"access_bits must be 64 or 32, got {self.access_bits!r}")
        for name in ("weight_bytes", "accumulator_bytes", "threshold_bytes", "message_bytes"):
            size = getattr(self, name)
            if size is not None and (type(size) is not int or size < 1):
                raise MaqdError(f"{name} must be a whole number of bytes of at least 1, or left out, got {size!r}")
        if not 0 <= self.factor < float("inf"):
            raise MaqdError(f"the factor of memory prices must be a finite number, 0 or more, got {self.factor!r}")
        sizes = [size for size, _ in self.points]
        if len(sizes) < 2 or sizes != sorted(set(sizes)) or not all(0 <= pj < float("inf") for _, pj in self.points):
            raise MaqdError(
                f"points must be two or more (bytes, pJ), bytes rising and pJ finite and 0 or more, got {self.points!r}"
            )

    def bits_pj(self, bits: float, capacity_bytes: float) -> float:
        """Return the energy of moving this many bits into or out of a memory of this size."""
        return bits / self.access_bits * access_pj(capacity_bytes, self.points) * self.factor
