"""Compiling kernels with numba, where the extra `fast` is installed.

A kernel is a plain function over arrays; `compiled` gives its machine code, which releases the GIL and is kept on disk.
Without numba the formats use NumPy.
"""

from functools import cache

import numpy as np

from maqd_snn.compiled import NO_NUMBA, Kernel, fast, numba_found
from maqd_snn.datasets.events.recording import EVENT_DTYPE

__all__ = ["FIVE_DTYPE", "NO_NUMBA", "PACKED_DTYPE", "compiled", "fast", "numba_found"]

# Views of events and of 5-byte words that need fewer loads and stores: x and y in one 32-bit number.
PACKED_DTYPE = np.dtype([("t", "<i8"), ("xy", "<u4"), ("p", "u1")])
FIVE_DTYPE = np.dtype([("head", "<u4"), ("last", "u1")])


@cache
def compiled(kernel: Kernel, signature: str) -> Kernel:
    """Return the machine code of `kernel`.

    Args:
        kernel: a function that numba can compile.
        signature: one letter an argument: b bytes, h, w, q words of 16, 32, 64 bits (all unsigned), f words of 5 bytes,
            s state (int64), e events, E events as PACKED_DTYPE, i one integer. An integer is returned.
    """
    import numba
    from numba import types

    letters = {
        "b": types.Array(types.uint8, 1, "C"),
        "h": types.Array(types.uint16, 1, "C"),
        "w": types.Array(types.uint32, 1, "C"),
        "q": types.Array(types.uint64, 1, "C"),
        "f": types.Array(numba.from_dtype(FIVE_DTYPE), 1, "C"),
        "s": types.Array(types.int64, 1, "C"),
        "e": types.Array(numba.from_dtype(EVENT_DTYPE), 1, "C"),
        "E": types.Array(numba.from_dtype(PACKED_DTYPE), 1, "C"),
        "i": types.int64,
    }
    typed = types.int64(*(letters[letter] for letter in signature))
    try:
        machine: Kernel = numba.njit(typed, cache=True, nogil=True)(kernel)
    except RuntimeError:  # no folder for the cache can be written to
        machine = numba.njit(typed, nogil=True)(kernel)
    return machine
