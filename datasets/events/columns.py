"""Tables of events in files of other programs: which column is which, and columns to events.

Times are whole numbers of microseconds, or floating point. Floating-point times with a fraction among them are seconds,
rounded half up to microseconds. Where all are whole numbers, and one of them is 1000 or more, they are microseconds:
seconds have fractions. Where all are whole numbers below 1000 (and not all zero) they may be either, which is an error:
convert them to integers of microseconds. Which it is, the first part of a column says that can (a part is some ten
thousand events); a fraction in a later part of a column of microseconds is an error, too.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.events.recording import EVENT_DTYPE, EventFileError, Events, ReadOptions

NAMES: dict[str, tuple[str, ...]] = {
    "t": ("t", "ts", "time", "timestamp", "timestamps", "t_us"),
    "x": ("x", "xs"),
    "y": ("y", "ys"),
    "p": ("p", "ps", "pol", "polarity", "polarities"),
}
LEAST_US = 1000  # whole numbers below it may be seconds
SECONDS, MICROSECONDS = 10**6, 1  # what times are multiplied by
_LARGEST_US = 2**62

Column = NDArray[Any]


def find_columns(names: Mapping[str, object] | tuple[str, ...]) -> dict[str, str] | None:
    """Return which of the names stand for t, x, y and p; None where one of them is missing.

    >>> find_columns(("timestamp", "x", "y", "polarity"))
    {'t': 'timestamp', 'x': 'x', 'y': 'y', 'p': 'polarity'}
    """
    lower = {name.lower(): name for name in names}
    found = {field: lower[known] for field, options in NAMES.items() for known in options[::-1] if known in lower}
    return found if len(found) == len(NAMES) else None


def unit_of(path: Path, parts: Iterable[Column]) -> int:
    """Return what floating-point times are to be multiplied by, given part by part until they tell.

    Raises:
        EventFileError: they do not tell.

    >>> unit_of(Path("a.npy"), [np.array([0.0, 0.5])]), unit_of(Path("a.npy"), [np.array([0.0, 7000.0])])
    (1000000, 1)
    """
    small = False
    for t in parts:
        if (t != np.floor(t)).any():
            return SECONDS
        if (np.abs(t) >= LEAST_US).any():
            return MICROSECONDS
        small = small or bool(t.any())
    if small:
        raise EventFileError(path, ambiguous_reason())
    return MICROSECONDS


def ambiguous_reason() -> str:
    """Return why times are refused that may be seconds or microseconds."""
    return (
        f"times are floating-point and all whole numbers below {LEAST_US}: seconds or microseconds? Convert them to "
        "integers of microseconds"
    )


def to_events(
    path: Path, columns: Mapping[str, Column], first: int, options: ReadOptions, *, unit: int, row_bytes: int
) -> Events:
    """Return columns as events; the first is number `first` of the file.

    Polarities are 0 and 1, -1 and 1, or truth values. With `skip_damaged` rows that are no event are left out, and
    `row_bytes` counted for each.

    Args:
        unit: what floating-point times are multiplied by, see `unit_of`.

    Raises:
        EventFileError: a value that has no place in an event.
    """
    for name, column in columns.items():
        if column.dtype.kind not in "iufb" or column.ndim != 1:
            each = f", {column.shape[1:]} in a row" if column.ndim > 1 else ""
            raise EventFileError(path, f"column {name!r} is {column.dtype}{each}; expected numbers")
    bad = np.zeros(len(columns["t"]), np.bool_)
    out = np.empty(len(bad), EVENT_DTYPE)

    def check(wrong: Column, values: Column, what: str) -> Column:
        wrong = wrong & ~bad
        if wrong.any():
            at = int(np.argmax(wrong))
            reason = f"event {first + at} has {what}: {values[at]}"
            options.skip(path, row_bytes * int(wrong.sum()), reason)
            bad[wrong] = True
        return np.where(bad, 0, values) if bad.any() else values

    t, p = columns["t"], columns["p"]
    with np.errstate(all="ignore"):
        if t.dtype.kind == "f":
            wrong = ~(np.abs(t) < _LARGEST_US / unit)
            if unit == MICROSECONDS:
                wrong |= t != np.floor(t)
            of = "microseconds" if unit == MICROSECONDS else "seconds"
            what = f"a time in {of} (floating-point) that is no whole 64-bit number of microseconds"
            out["t"] = np.floor(check(wrong, t, what).astype(np.float64) * unit + 0.5)
        else:
            out["t"] = check(t > np.iinfo(np.int64).max, t, "a time beyond 64 bits")
        out["p"] = check(~((p == 0) | (p == 1) | (p == -1)), p, "a polarity that is none of 0, 1 and -1") > 0
        for name in ("x", "y"):
            values = columns[name]
            wrong = ~((values >= 0) & (values < 2**16))
            if values.dtype.kind == "f":
                wrong |= values != np.floor(values)
            out[name] = check(wrong, values, f"{name} that is no whole number from 0 to 65535")
    return out[~bad] if bad.any() else out
