"""Signals that ask a training to stop: it goes on to the end of its step, saves, and leaves."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ASKING = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A training was asked to stop, has saved and has left; `signal` is the number of what asked.

    It is a `KeyboardInterrupt`, so that whoever handles only that still leaves.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class StopFlag:
    """The number of the signal that asked to stop, or 0."""

    def __init__(self) -> None:
        self.number = 0


@contextmanager
def stop_flag(patient: bool = False) -> Iterator[StopFlag]:
    """Yield a flag that SIGINT and SIGTERM raise while the context lasts.

    The second SIGINT interrupts at once, unless `patient`: several processes get a Ctrl-C from the terminal and another
    from torchrun. Outside the main thread signals cannot be handled and the flag stays down.

    >>> with stop_flag() as flag:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     flag.number == signal.SIGTERM
    True
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if flag.number and number == signal.SIGINT and not patient:
            raise KeyboardInterrupt
        flag.number = flag.number or number

    before: dict[int, Any] = {number: signal.signal(number, handle) for number in ASKING}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def children_deaf() -> Iterator[None]:
    """Keep what asks a training to stop from the processes that are started in the context, a compiler say.

    A Ctrl-C goes to all processes of a terminal: without this it would end the compiler and so the step in the middle.
    Here the signal waits, at the longest until the context ends.

    >>> import subprocess, sys
    >>> stubborn = "import os, signal; os.kill(os.getpid(), signal.SIGTERM); print('goes on')"
    >>> with children_deaf():
    ...     subprocess.run([sys.executable, "-c", stubborn], stdout=subprocess.PIPE).stdout
    b'goes on\\n'
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
