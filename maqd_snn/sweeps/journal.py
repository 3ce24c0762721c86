"""The journal file of a study: one JSON text a line, appended under a lock that a dying process gives back.

A process that is killed, or a full disk, can leave half a line at the end. It was never acknowledged, and nobody reads
it; the next one who writes removes it.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maqd_snn.errors import MaqdError

LOCK_SECONDS = 60.0


class JournalFile:
    """A file of JSON lines that several processes read and append to, with the interface of Optuna's backends.

    Args:
        path: the file; it is made if its folder exists. lock_seconds: how long to wait for others.

    Raises:
        MaqdError: the file cannot be opened, stays locked, or holds a line that is no JSON text.

    >>> import tempfile
    >>> journal = JournalFile(Path(tempfile.mkdtemp()) / "journal.log")
    >>> journal.append_logs([{"a": 1}, {"a": 2}]); list(journal.read_logs(1))
    [{'a': 2}]
    """

    def __init__(self, path: Path, lock_seconds: float = LOCK_SECONDS) -> None:
        self.path, self.lock_seconds = path, lock_seconds
        self._offsets = [0]  # where each line that was read begins
        with self._locked(fcntl.LOCK_SH):
            pass

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the entries from this number on."""
        known = min(log_number_from, len(self._offsets) - 1)
        with self._locked(fcntl.LOCK_SH) as file:
            os.lseek(file, self._offsets[known], os.SEEK_SET)
            with os.fdopen(os.dup(file), "rb") as reader:
                data = reader.read()
        number, position = known, self._offsets[known]
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                return
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ValueError(f"got {type(entry).__name__}")
            except (ValueError, RecursionError) as error:
                raise MaqdError(
                    f"{str(self.path)!r} is damaged: line {number + 1} is no JSON object ({error})"
                ) from error
            number, position = number + 1, position + len(line)
            if number == len(self._offsets):
                self._offsets.append(position)
            if number > log_number_from:
                yield entry

    def append_logs(self, logs: Iterable[dict[str, Any]]) -> None:
        """Append the entries, all or none of them, and wait until they are on the disk."""
        data = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)
        with self._locked(fcntl.LOCK_EX) as file:
            size = _whole_lines(file)
            os.ftruncate(file, size)
            os.lseek(file, size, os.SEEK_SET)
            try:
                written = os.write(file, data)
                if written != len(data):
                    raise OSError(f"only {written} of {len(data)} bytes could be written; is the disk full?")
                os.fsync(file)
            except OSError:
                os.ftruncate(file, size)
                raise

    @contextmanager
    def _locked(self, kind: int) -> Iterator[int]:
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise MaqdError(f"cannot open the journal {str(self.path)!r}: {error.strerror}; give another") from error
        try:
            until = time.monotonic() + self.lock_seconds
            while True:
                try:
                    fcntl.flock(file, kind | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > until:
                        raise MaqdError(
                            f"{str(self.path)!r} has been locked by another process for {self.lock_seconds:g} s; see "
                            "who holds it (fuser), or give another --storage"
                        ) from error
                    time.sleep(0.005)
            yield file
        finally:
            os.close(file)  # gives the lock back


def _whole_lines(file: int) -> int:
    """Return the size of the file without half a line at its end."""
    size = os.fstat(file).st_size
    end = size
    while end:
        start = max(0, end - 4096)
        block = os.pread(file, end - start, start)
        newline = block.rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
