"""What a reader of event recordings returns, and what every reader is.

An event is (t, x, y, p): time in microseconds, column, row, polarity (1: brighter, 0: darker).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maqd_snn.errors import MaqdError

EVENT_DTYPE = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])  # packed: 13 bytes an event

Events = NDArray[np.void]  # one-dimensional, of EVENT_DTYPE


class EventFileError(MaqdError):
    """A recording that cannot be decoded: file, byte offset where known, and reason."""

    def __init__(self, path: Path, reason: str, offset: int | None = None) -> None:
        self.path, self.reason, self.offset = path, reason, offset
        where = "" if offset is None else f", byte {offset}"
        super().__init__(f"{str(path)!r}{where}: {reason}")


@dataclass
class Skipped:
    """How much of a recording was left out so far.

    Attributes:
        bytes: parts of the file that could not be decoded. events: decoded ones that cannot be: outside the sensor, or
            before their predecessor. Events before the first word of time in EVT files, which have no time and are no
            damage, are counted among them.
    """

    bytes: int = 0
    events: int = 0

    def since(self, before: "Skipped") -> "Skipped":
        """Return what has been left out since a copy was taken."""
        return Skipped(self.bytes - before.bytes, self.events - before.events)


@dataclass(frozen=True)
class ReadOptions:
    """How to read.

    Attributes:
        sensor: (width, height) in pixels that coordinates must lie in; None takes what the file or format states.
        skip_damaged: drop damaged parts and count them in `skipped`, instead of raising.
        unordered: keep events whose time runs backwards, in the order of the file. Otherwise they are damage.
        max_bytes: limit of the decoded array, checked before memory is taken.
        skipped: what all readings with these options have left out.

    Raises:
        MaqdError: a sensor or limit that cannot be.
    """

    sensor: tuple[int, int] | None = None
    skip_damaged: bool = False
    unordered: bool = False
    max_bytes: int = 8 * 2**30
    skipped: Skipped = field(default_factory=Skipped, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.sensor is not None and not all(1 <= side <= 2**16 for side in self.sensor):
            raise MaqdError(f"expected a sensor of 1 to 65536 pixels a side, got {self.sensor}")
        if self.max_bytes < 0:
            raise MaqdError(f"expected max_bytes of at least 0, got {self.max_bytes}")

    def skip(self, path: Path, length: int, reason: str, offset: int | None = None) -> None:
        """Count `length` undecodable bytes; raises EventFileError where damage is not to be skipped."""
        if not self.skip_damaged:
            raise EventFileError(path, reason, offset)
        self.skipped.bytes += length


@dataclass(frozen=True)
class Recording:
    """A decoded recording.

    Attributes:
        events: array of EVENT_DTYPE in the order of the file.
        sensor: (width, height) where the file, the format or the caller states it, else None.
        format: name of the format, as in `FORMATS`.
        skipped_bytes: size of the parts of the file that could not be decoded (0 unless `skip_damaged`).
        skipped_events: events that were decoded and left out, see `Skipped`.
    """

    events: Events
    sensor: tuple[int, int] | None
    format: str
    skipped_bytes: int = 0
    skipped_events: int = 0


class EventFormat(ABC):
    """One file format. Instances have no state; they are registered in `registry.FORMATS`."""

    name: str
    title: str  # for lists
    suffixes: tuple[str, ...]  # lower case, with the dot

    @abstractmethod
    def matches(self, head: bytes) -> bool:
        """Return whether the first bytes of a file (up to 4096) are surely of this format; False where unsure."""

    @abstractmethod
    def read(self, path: Path, options: ReadOptions) -> Recording:
        """Decode the whole file. Raises EventFileError."""

    @abstractmethod
    def blocks(self, path: Path, options: ReadOptions) -> Iterator[Events]:
        """Decode lazily: yield arrays of some ten thousand events, in file order, in bounded memory."""
