"""Compiling kernels with numba, where the extra `fast` is installed.

A kernel is a plain function over arrays; `compiled` gives its machine code, which releases the GIL and is kept on disk.
Without numba the formats use NumPy.
"""

from functools import cache

from maqd_snn.compiled import NO_NUMBA, Kernel, fast, numba_found
from maqd_snn.datasets.events.recording import EVENT_DTYPE

__all__ = ["NO_NUMBA", "compiled", "fast", "numba_found"]


@cache
def compiled(kernel: Kernel, signature: str) -> Kernel:
    """Return the machine code of `kernel`.

    Args:
        kernel: a function that numba can compile.
        signature: one letter an argument: b bytes (uint8), s state (int64), e events, i one integer. An integer is
            returned.
    """
    import numba
    from numba import types

    letters = {
        "b": types.Array(types.uint8, 1, "C"),
        "s": types.Array(types.int64, 1, "C"),
        "e": types.Array(numba.from_dtype(EVENT_DTYPE), 1, "C"),
        "i": types.int64,
    }
    typed = types.int64(*(letters[letter] for letter in signature))
    try:
        machine: Kernel = numba.njit(typed, cache=True, nogil=True)(kernel)
    except RuntimeError:  # no folder for the cache can be written to
        machine = numba.njit(typed, nogil=True)(kernel)
    return machine
