"""Formats that C libraries of others read: they run in a process of their own, under a limit of memory.

A damaged file may crash such a library, hang it, or make it ask for any amount of memory. So a worker process reads the
file and sends events in slices over a pipe; here they are checked, as all are. What ends the worker ends in one
EventFileError. HDF5 is read so, too.

A worker may take `MEMORY` beyond its libraries; one that reads HDF5 in addition the events of one chunk, 13 bytes each.
"""

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from maqd_snn.datasets.events.recording import EVENT_DTYPE, EventFileError, Events, ReadOptions
from maqd_snn.datasets.events.source import open_source
from maqd_snn.datasets.events.tables import Table, TableFormat
from maqd_snn.errors import MissingExtraError

WORKER = Path(__file__).with_name("foreign_worker.py")
MEMORY = 60 * 2**20  # that a worker may take for its work, beyond its libraries
TIMEOUT = 60.0  # seconds without a sign of life
_MOST_SAID = 2**20  # bytes of what a worker says that are kept
_OUT_OF_MEMORY = b"memory allocation of "  # what Rust says before it ends the process, or means to
_MISSING = 3  # exit code of the worker where its library is not installed
# Few threads; freed memory goes back at once, so that its limit is not spent on what is no longer used.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RUST_BACKTRACE": "0",  # a backtrace of faery's needs more memory than there is, and hangs
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**20),
}
_EXTRAS = {"h5py": "maqd-snn itself", "faery": "events"}


@dataclass
class _Worker:
    """The process that reads, and the last of what it has said on its standard error."""

    process: "subprocess.Popen[bytes]"
    said: bytearray = field(default_factory=bytearray)

    def hear(self) -> bytes:
        """Take what was said since; nothing at the end."""
        assert self.process.stderr is not None
        words = os.read(self.process.stderr.fileno(), 2**16)
        self.said += words
        del self.said[:-_MOST_SAID]
        return words


class ForeignFormat(TableFormat):
    """A format that the worker reads with `package`."""

    package: str
    reader: str  # a key of the worker's READERS

    @contextmanager
    def open_table(self, path: Path, options: ReadOptions) -> Iterator[Table]:
        with open_source(path):
            pass
        command = [sys.executable, "-P", str(WORKER), self.reader, str(path.resolve()), str(MEMORY)]
        process = subprocess.Popen(
            [*command, str(options.max_bytes), str(int(options.skip_damaged))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, **_ENVIRONMENT},
        )
        worker = _Worker(process)
        try:
            head = self._numbers(path, worker, 3)
            count, width, height = head
            sensor = (width, height) if width > 0 and height > 0 else None
            yield Table(count if count >= 0 else None, sensor, self._slices(path, worker, options))
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

    def _slices(self, path: Path, worker: _Worker, options: ReadOptions) -> Iterator[Events]:
        while True:
            (count,) = self._numbers(path, worker, 1)
            if count == 0:
                (skipped,) = self._numbers(path, worker, 1)
                if skipped:
                    options.skip(path, skipped, f"{skipped} bytes cannot be decoded")
                return
            events = np.empty(count, EVENT_DTYPE)
            self._fill(path, worker, events.view(np.uint8).data)
            yield events

    def _numbers(self, path: Path, worker: _Worker, count: int) -> tuple[int, ...]:
        numbers = np.empty(count, np.int64)
        self._fill(path, worker, numbers.view(np.uint8).data)
        return tuple(numbers.tolist())

    def _fill(self, path: Path, worker: _Worker, buffer: memoryview) -> None:
        process = worker.process
        assert process.stdout is not None
        assert process.stderr is not None
        pipe = process.stdout.fileno()
        pipes, done = [pipe, process.stderr.fileno()], 0
        while done < len(buffer):
            ready, _, _ = select.select(pipes, [], [], TIMEOUT)
            if not ready:
                raise EventFileError(path, f"{self.package} gave no event for {TIMEOUT:.0f} s and was ended")
            if pipe not in ready:
                if not worker.hear():
                    pipes = [pipe]
                elif _OUT_OF_MEMORY in worker.said:  # it may wait for itself forever
                    process.kill()
                    raise self._crash(path, process.wait())
                continue
            data = os.read(pipe, min(len(buffer) - done, 2**20))
            if not data:
                raise self._why(path, worker)
            buffer[done : done + len(data)] = data
            done += len(data)

    def _why(self, path: Path, worker: _Worker) -> Exception:
        while worker.hear():
            pass
        code = worker.process.wait()
        said = worker.said.decode("utf-8", "replace").strip()
        if code == _MISSING:
            return MissingExtraError(self.package, _EXTRAS[self.package], f"reading {self.title}")
        if code == 1 and said:
            offset, _, reason = said.splitlines()[-1].partition(" ")
            return EventFileError(path, reason, int(offset) if offset.isdecimal() else None)
        return self._crash(path, code)

    def _crash(self, path: Path, code: int) -> EventFileError:
        return EventFileError(
            path,
            f"{self.package} crashed on it, or needed more than {MEMORY >> 20} MB beyond the events (exit code "
            f"{code}): the file is damaged",
        )


class Aedat4Format(ForeignFormat):
    """Reader of AEDAT 4, through faery."""

    name = "aedat4"
    title = "AEDAT 4 of DV (through faery)"
    suffixes = (".aedat4",)
    package, reader = "faery", "aedat4"

    def matches(self, head: bytes) -> bool:
        return head.startswith(b"#!AER-DAT4.0")


class EventStreamFormat(ForeignFormat):
    """Reader of Event Stream, through faery."""

    name = "es"
    title = "Event Stream (through faery)"
    suffixes = (".es",)
    package, reader = "faery", "es"

    def matches(self, head: bytes) -> bool:
        return head.startswith(b"Event Stream")


class Hdf5Format(ForeignFormat):
    """Reader of HDF5: t, x, y and p in a group such as `events`, one dataset of records, or one of four columns.

    DSEC's files have `t_offset`, which is added to every time; their `ms_to_idx` is not needed. Of the two cameras of
    MVSEC (`davis`) and M3ED (`prophesee`) the left one is read where both are there. Links into other files are
    refused.
    """

    name = "hdf5"
    title = "HDF5: t, x, y, p in a group, records, or four columns (DSEC, M3ED, MVSEC, v2e)"
    suffixes = (".h5", ".hdf5")
    package, reader = "h5py", "hdf5"

    def matches(self, head: bytes) -> bool:
        return head.startswith(b"\x89HDF\r\n\x1a\n")
