"""Kernels that numba compiles, where the extra `fast` is installed.

A kernel is a plain Python function over NumPy arrays, right also as it stands, only slow. Its machine code releases the
GIL, so that a batch can be worked on in several threads, and is kept on disk.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any, TypeVar

import torch

from maqd_snn.errors import MissingExtraError

Kernel = Callable[..., Any]
Result = TypeVar("Result")

NO_NUMBA = "MAQD_NO_NUMBA"  # environment variable: any text but the empty one turns numba off


@lru_cache(maxsize=1)
def numba_found() -> bool:
    """Return whether numba can be imported."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def fast() -> bool:
    """Return whether kernels are compiled: numba is there, and MAQD_NO_NUMBA is not set."""
    return not os.environ.get(NO_NUMBA) and numba_found()


def need_numba(purpose: str) -> None:
    """Raise MissingExtraError unless kernels are compiled."""
    if not fast():
        raise MissingExtraError("numba", "fast", purpose)


@cache
def machine_code(kernel: Kernel) -> Kernel:
    """Return the machine code of `kernel`, compiled at its first call for the types that it is given."""
    import numba

    try:
        compiled: Kernel = numba.njit(cache=True, nogil=True)(kernel)
    except RuntimeError:  # no folder for the cache can be written to
        compiled = numba.njit(nogil=True)(kernel)
    return compiled


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "maqd-kernel")


def in_parts(work: Callable[[int, int], Result], total: int, parts: int | None = None) -> list[Result]:
    """Return work(start, stop) of consecutive parts of 0..total, in order.

    Args:
        work: releases the GIL, or the threads gain nothing.
        total: at least 1.
        parts: at most this many; None for as many as torch uses threads.
    """
    number = min(torch.get_num_threads(), total, parts or total)
    if number == 1:
        return [work(0, total)]
    bounds = [total * index // number for index in range(number + 1)]
    waiting = [_pool(number).submit(work, start, stop) for start, stop in pairwise(bounds)]
    return [part.result() for part in waiting]


def over_batch(kernel: Kernel, batch: int, *arguments: Any) -> None:
    """Call kernel(start, stop, *arguments) for parts of 0..batch, in as many threads as torch uses."""
    in_parts(lambda start, stop: kernel(start, stop, *arguments), batch)
