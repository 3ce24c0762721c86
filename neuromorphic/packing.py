"""Integer weights packed by the number of their states: 1, 2, 4 or 8 bits each, so that none crosses a byte.

A weight w is stored as the code (w - offset) / step, number i in the bits `bits * (i mod 8/bits)` and up of its byte.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maqd_snn.errors import MaqdError

PACKED_BITS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Packed:
    """Packed integers: w_i = step * code_i + offset.

    Attributes:
        bits: of a code, one of 1, 2, 4, 8. step: 1, or 2 where all values have one parity. offset: the value of code 0.
        count: number of values. data: (ceil(count * bits / 8),) uint8; the unused bits of the last byte are 0.
    """

    bits: int
    step: int
    offset: int
    count: int
    data: NDArray[np.uint8]


def pack(values: NDArray[np.int64]) -> Packed | None:
    """Return the values, in C order, packed as narrowly as -m..m (or its odd codes) allows; None above 8 bits.

    The range is taken as symmetric, m being the largest magnitude, and the codes of one parity where all values are
    odd: so ternary weights take 2 bits, 15 states 4, binary ones (-1, +1) 1, 255 states 8.

    >>> packed = pack(np.array([-1, 0, 1, 1, -1]))
    >>> packed.bits, packed.data.tolist()
    (2, [164, 0])
    >>> pack(np.array([3, -1, 1])).bits, pack(np.array([-127, 5])).bits, pack(np.array([300])) is None
    (2, 8, True)
    """
    flat = values.reshape(-1)
    m = int(np.abs(flat).max())
    step = 2 if bool((flat % 2 != 0).all()) else 1
    states = (2 * m) // step + 1
    needed = max(1, (states - 1).bit_length())
    if needed > max(PACKED_BITS):
        return None
    bits = next(size for size in PACKED_BITS if size >= needed)
    codes = ((flat + m) // step).astype(np.uint8)
    per_byte = 8 // bits
    padded = np.zeros(-(-len(codes) // per_byte) * per_byte, np.uint8)
    padded[: len(codes)] = codes
    shifts = (np.arange(per_byte) * bits).astype(np.uint8)
    data: NDArray[np.uint8] = np.bitwise_or.reduce(padded.reshape(-1, per_byte) << shifts, axis=1)
    return Packed(bits, step, -m, len(codes), data)


def unpack(packed: Packed) -> NDArray[np.int64]:
    """Return the values of `pack`, (count,) int64.

    Raises:
        MaqdError: the data is too short or too long for the count.

    >>> unpack(pack(np.array([-1, 0, 1, 1, -1]))).tolist()
    [-1, 0, 1, 1, -1]
    """
    expected = -(-packed.count * packed.bits // 8)
    if len(packed.data) != expected:
        raise MaqdError(f"{packed.count} values of {packed.bits} bits take {expected} bytes, got {len(packed.data)}")
    shifts = np.arange(8 // packed.bits) * packed.bits
    codes = (packed.data[:, None].astype(np.int64) >> shifts) & ((1 << packed.bits) - 1)
    return codes.reshape(-1)[: packed.count] * packed.step + packed.offset
