"""The table of formats, and reading a recording by its content first and its name second."""

import operator
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maqd_snn.datasets.events.aedat2 import Aedat2Format
from maqd_snn.datasets.events.aedat3 import Aedat3Format
from maqd_snn.datasets.events.dat import DatFormat
from maqd_snn.datasets.events.evt2 import Evt2Format, Evt21Format
from maqd_snn.datasets.events.evt3 import Evt3Format
from maqd_snn.datasets.events.five_byte import FiveByteFormat
from maqd_snn.datasets.events.foreign import Aedat4Format, EventStreamFormat, Hdf5Format
from maqd_snn.datasets.events.numpy_files import NpyFormat, NpzFormat
from maqd_snn.datasets.events.recording import (
    EVENT_DTYPE,
    EventFileError,
    EventFormat,
    Events,
    ReadOptions,
    Recording,
    Skipped,
)
from maqd_snn.datasets.events.source import open_source
from maqd_snn.datasets.events.text import TextFormat
from maqd_snn.errors import MaqdError, unknown_name

FORMATS: dict[str, EventFormat] = {
    entry.name: entry
    for entry in (
        Aedat2Format(),
        Aedat3Format(),
        Evt2Format(),
        Evt21Format(),
        Evt3Format(),
        DatFormat(),
        Aedat4Format(),
        EventStreamFormat(),
        Hdf5Format(),
        NpyFormat(),
        NpzFormat(),
        FiveByteFormat(),
        TextFormat(),
    )
}

_HEAD = 4096
_LARGEST_US = 2**62  # of a window, and of a time that one begins or ends at


@dataclass(frozen=True)
class Extent:
    """From when to when a recording has events, and the longest time in it without one, all in microseconds."""

    first_us: int
    last_us: int
    gap_us: tuple[int, int]  # (last event before it, first event behind it)


def find_format(path: str | os.PathLike[str], format: str | None = None) -> EventFormat:
    """Return the format of a file: the one named, else the one its first bytes tell, else the one its name tells.

    Raises:
        EventFileError: neither tells; the file cannot be read. MaqdError: no such format.
    """
    if format is not None:
        if format not in FORMATS:
            raise unknown_name("event format", format, FORMATS)
        return FORMATS[format]
    path = Path(path)
    with open_source(path) as source:
        head = source.bytes(0, _HEAD)
    for entry in FORMATS.values():
        if entry.matches(head):
            return entry
    for entry in FORMATS.values():
        if path.suffix.lower() in entry.suffixes:
            return entry
    known = ", ".join(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
    raise EventFileError(
        path, f"no known recording: neither its first bytes nor its name tell a format (known: {known}); name one"
    )


def read_recording(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    sensor: tuple[int, int] | None = None,
    skip_damaged: bool = False,
    unordered: bool = False,
    max_bytes: int = ReadOptions.max_bytes,
) -> Recording:
    """Read a recording of an event camera, whatever its format.

    Args:
        path: the file.
        format: a key of `FORMATS`; None finds it from content and name.
        sensor: (width, height) in pixels that coordinates must lie in; None takes what the file states.
        skip_damaged: drop damaged parts and count them, instead of raising.
        unordered: keep events whose time runs backwards, in the order of the file.
        max_bytes: limit of the decoded array (13 bytes an event), checked before memory is taken.

    Raises:
        EventFileError: no recording, or a damaged one: file, byte offset, reason. MaqdError: unknown format; a sensor
            or limit that is none.
        MissingExtraError: the format needs a package that is not installed.

    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.bin"
    >>> _ = file.write_bytes(bytes([3, 4, 128, 0, 7, 5, 6, 0, 1, 0]))
    >>> read_recording(file).events
    array([(  7, 3, 4, 1), (256, 5, 6, 0)],
          dtype=[('t', '<i8'), ('x', '<u2'), ('y', '<u2'), ('p', 'u1')])
    """
    options = _options(sensor, skip_damaged, unordered, max_bytes)
    return find_format(path, format).read(Path(path), options)


def read_events(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    sensor: tuple[int, int] | None = None,
    skip_damaged: bool = False,
    unordered: bool = False,
    max_bytes: int = ReadOptions.max_bytes,
) -> Events:
    """Return the events of a recording as one structured array: t (int64, us), x, y (uint16), p (uint8; 1 brighter).

    Arguments and errors are those of `read_recording`, which also tells the sensor and what was skipped.

    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.bin"
    >>> _ = file.write_bytes(bytes([3, 4, 128, 0, 7]))
    >>> read_events(file)["t"]
    array([7])
    """
    recording = read_recording(
        path, format=format, sensor=sensor, skip_damaged=skip_damaged, unordered=unordered, max_bytes=max_bytes
    )
    return recording.events


def stream_events(
    path: str | os.PathLike[str],
    window_us: int,
    *,
    start_us: int | None = None,
    stop_us: int | None = None,
    format: str | None = None,
    sensor: tuple[int, int] | None = None,
    skip_damaged: bool = False,
    max_bytes: int = ReadOptions.max_bytes,
    skipped: Skipped | None = None,
) -> Iterator[Events]:
    """Yield a recording window by window: the k-th array holds start + k*window <= t < start + (k+1)*window.

    The file is read block by block, so it may be larger than memory; one window must fit `max_bytes`. Windows without
    events come as empty arrays, those of a gap in time included (`recording_extent` finds it beforehand); the last one
    holds the last event, or ends at `stop_us`. The recording must be in order of time; what precedes an error in the
    file is yielded first.

    Args:
        window_us: length of a window, at least 1.
        start_us: beginning of the first window; None: the time of the first event. Earlier events are left out.
        stop_us: end, exclusive; None: the end of the recording.
        skipped: takes the count of what is left out of the blocks read so far, see `Skipped`.

    Raises:
        As `read_recording`; MaqdError: no length of a window, or no time.

    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.bin"
    >>> _ = file.write_bytes(bytes([3, 4, 128, 0, 7, 5, 6, 0, 0, 9, 1, 2, 0, 0, 30]))
    >>> [window["t"].tolist() for window in stream_events(file, 10)]
    [[7, 9], [], [30]]
    """
    window_us = _whole("a window of at least 1 us", window_us, 1, _LARGEST_US)
    if start_us is not None:
        start_us = _whole("start_us", start_us, -_LARGEST_US, _LARGEST_US)
    if stop_us is not None:
        stop_us = _whole("stop_us", stop_us, -_LARGEST_US if start_us is None else start_us, _LARGEST_US)
    options = _options(sensor, skip_damaged, False, max_bytes, skipped)
    blocks = find_format(path, format).blocks(Path(path), options)
    return _windows(Path(path), blocks, window_us, start_us, stop_us, options)


def recording_extent(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    sensor: tuple[int, int] | None = None,
    skip_damaged: bool = False,
    max_bytes: int = ReadOptions.max_bytes,
    skipped: Skipped | None = None,
) -> Extent | None:
    """Return from when to when a recording has events, read block by block; None where it has none.

    Arguments and errors are those of `stream_events`; the recording must be in order of time.

    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.bin"
    >>> _ = file.write_bytes(bytes([3, 4, 128, 0, 7, 5, 6, 0, 0, 9, 1, 2, 0, 0, 30]))
    >>> recording_extent(file)
    Extent(first_us=7, last_us=30, gap_us=(9, 30))
    """
    options = _options(sensor, skip_damaged, False, max_bytes, skipped)
    found: Extent | None = None
    for block in find_format(path, format).blocks(Path(path), options):
        times = block["t"]
        if not len(times):
            continue
        before = int(times[0]) if found is None else found.last_us
        steps = np.diff(times, prepend=before).view(np.uint64)  # no step is negative; one may be beyond 2^63
        widest = int(steps.argmax())
        gap = (int(times[widest - 1]) if widest else before, int(times[widest]))
        if found is not None and found.gap_us[1] - found.gap_us[0] >= gap[1] - gap[0]:
            gap = found.gap_us
        found = Extent(int(times[0]) if found is None else found.first_us, int(times[-1]), gap)
    return found


def _options(
    sensor: Any, skip_damaged: bool, unordered: bool, max_bytes: int, skipped: Skipped | None = None
) -> ReadOptions:
    """Return the options of a reader, their types checked: callers are people."""
    if sensor is not None:
        try:
            width, height = (operator.index(side) for side in sensor)
        except (TypeError, ValueError) as error:
            raise MaqdError(
                f"expected sensor as two whole numbers of pixels (width, height), got {sensor!r}"
            ) from error
        sensor = width, height
    limit = _whole("max_bytes", max_bytes, 0, _LARGEST_US)
    return ReadOptions(sensor, bool(skip_damaged), bool(unordered), limit, Skipped() if skipped is None else skipped)


def _whole(name: str, value: Any, low: int, high: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if not low <= number <= high:
        raise MaqdError(f"expected {name}, a whole number in {low}..{high}, got {value!r}")
    return number


def _windows(
    path: Path,
    blocks: Iterator[Events],
    window_us: int,
    start_us: int | None,
    stop_us: int | None,
    options: ReadOptions,
) -> Iterator[Events]:
    pending: list[Events] = []
    held = 0
    begin = start_us  # of the window that is being filled
    for block in blocks:
        if not len(block):
            continue
        if begin is None:
            begin = int(block["t"][0])
        block = block[np.searchsorted(block["t"], begin) :]
        finished = False
        if stop_us is not None and len(block) and int(block["t"][-1]) >= stop_us:
            finished, block = True, block[: np.searchsorted(block["t"], stop_us)]
        while len(block) and int(block["t"][-1]) >= begin + window_us:
            begin += window_us
            cut = int(np.searchsorted(block["t"], begin))
            yield _joined([*pending, block[:cut]])
            pending, held, block = [], 0, block[cut:]
        if len(block):
            pending.append(block)
            held += block.nbytes
            if held > options.max_bytes:
                raise EventFileError(
                    path,
                    f"one window of {window_us} us holds more than the limit of {options.max_bytes} bytes; take "
                    "shorter windows, or raise max_bytes",
                )
        if finished:
            break
    while stop_us is not None and begin is not None and begin < stop_us:
        yield _joined(pending)
        pending = []
        begin += window_us
    if pending:
        yield _joined(pending)


def _joined(parts: list[Events]) -> Events:
    return np.concatenate(parts) if parts else np.empty(0, EVENT_DTYPE)
