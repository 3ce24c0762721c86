"""An open recording: regular files only, read at an offset, never more than was asked for."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.events.recording import EventFileError

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """An open file of `size` bytes. Reading it is safe from several threads: there is no common position."""

    path: Path
    descriptor: int
    size: int

    def fill(self, buffer: Bytes, offset: int) -> None:
        """Fill `buffer` from byte `offset` on. Raises EventFileError where the file ends early or cannot be read."""
        view = buffer.data
        done = 0
        while done < len(view):
            try:
                got = os.preadv(self.descriptor, [view[done:]], offset + done)
            except OSError as error:
                raise EventFileError(self.path, f"cannot be read: {error.strerror}", offset + done) from error
            if got == 0:
                raise EventFileError(self.path, "the file became shorter while it was read", offset + done)
            done += got

    def bytes(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset` on, fewer only at the end of the file."""
        buffer = np.empty(max(0, min(length, self.size - offset)), np.uint8)
        self.fill(buffer, offset)
        return buffer.tobytes()


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a recording.

    Raises:
        EventFileError: there is no such file, it is no regular file (a folder, a device, a pipe), or it is unreadable.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not block
    except OSError as error:
        raise EventFileError(path, f"cannot be opened: {error.strerror}; expected a recording there") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise EventFileError(path, "expected a file, but this is a folder, a device or a pipe")
        yield Source(path, descriptor, status.st_size)
    finally:
        os.close(descriptor)
