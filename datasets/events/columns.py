"""Tables of events in files of other programs: which column is which, and columns to events."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.events.recording import EVENT_DTYPE, EventFileError, Events

NAMES: dict[str, tuple[str, ...]] = {
    "t": ("t", "ts", "time", "timestamp", "timestamps", "t_us"),
    "x": ("x", "xs"),
    "y": ("y", "ys"),
    "p": ("p", "ps", "pol", "polarity", "polarities"),
}

Column = NDArray[Any]


def find_columns(names: Mapping[str, object] | tuple[str, ...]) -> dict[str, str] | None:
    """Return which of the names stand for t, x, y and p; None where one of them is missing.

    >>> find_columns(("timestamp", "x", "y", "polarity"))
    {'t': 'timestamp', 'x': 'x', 'y': 'y', 'p': 'polarity'}
    """
    lower = {name.lower(): name for name in names}
    found = {field: lower[known] for field, options in NAMES.items() for known in options[::-1] if known in lower}
    return found if len(found) == len(NAMES) else None


def fill_events(path: Path, out: Events, columns: Mapping[str, Column], first: int) -> None:
    """Write columns into `out`, whose first event is number `first` of the file.

    Times must be whole numbers, or floating point: these are seconds, rounded to microseconds. Polarities are 0 and 1,
    -1 and 1, or truth values.

    Raises:
        EventFileError: a value that has no place in an event.
    """
    for name, column in columns.items():
        if column.shape != out.shape or column.dtype.kind not in "iufb":
            raise EventFileError(path, f"column {name!r} is {column.dtype} of shape {column.shape}; expected numbers")
    t = columns["t"]
    if t.dtype.kind == "f":
        t = np.floor(t.astype(np.float64) * 1e6 + 0.5)
        _check(path, ~(np.abs(t) < 2**62), t, first, "a time in seconds that is no 64-bit number of us")
    elif t.dtype.kind == "u":
        _check(path, t > np.iinfo(np.int64).max, t, first, "a time beyond 64 bits")
    p = columns["p"]
    _check(path, ~((p == 0) | (p == 1) | (p == -1)), p, first, "a polarity that is none of 0, 1 and -1")
    for name in ("x", "y"):
        values = columns[name]
        bad = ~((values >= 0) & (values < 2**16)) | (values != np.floor(values) if values.dtype.kind == "f" else False)
        _check(path, bad, values, first, f"{name} that is no whole number from 0 to 65535")
        out[name] = values
    out["t"] = t
    out["p"] = p > 0


def empty_events(count: int) -> Events:
    """Return an array of so many events, not filled."""
    return np.empty(count, EVENT_DTYPE)


def _check(path: Path, bad: Column, values: Column, first: int, what: str) -> None:
    if bad.any():
        at = int(np.argmax(bad))
        raise EventFileError(path, f"event {first + at} has {what}: {values[at]}")
