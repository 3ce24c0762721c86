"""Events as text: one event a line, four numbers set apart by commas, spaces, tabs or semicolons.

A first line of names says which column is which; without it they are t, x, y, p. Lines that begin with '#' or '%' in
front are comments. A time without a decimal point is in microseconds, one with a point in seconds (rounded half up,
exactly). A polarity is 0, 1 or -1. Numbers are parsed by whole blocks, exactly, in integers.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.events.columns import find_columns
from maqd_snn.datasets.events.recording import EVENT_DTYPE, EventFileError, Events, ReadOptions
from maqd_snn.datasets.events.source import Source, open_source
from maqd_snn.datasets.events.tables import Table, TableFormat

_BLOCK = 2**18  # bytes at a time; also the longest line
_DIGITS = 18  # of a number, so that it fits 64 bits
_SEPARATORS = np.zeros(256, np.bool_)
_SEPARATORS[list(b" \t,;\r\n")] = True
_COMMENT = re.compile(rb"[#%][^\n]*\n")
_NAMES = re.compile(rb"[^\n]*[A-Za-z][^\n]*\n")
_ORDER = ("t", "x", "y", "p")


class TextFormat(TableFormat):
    """Reader of CSV and other text."""

    name = "csv"
    title = "text: t, x, y, p a line (CSV, TXT)"
    suffixes = (".csv", ".txt")

    def matches(self, head: bytes) -> bool:
        return False  # any text may be meant

    @contextmanager
    def open_table(self, path: Path, options: ReadOptions) -> Iterator[Table]:
        with open_source(path) as source:
            head = source.bytes(0, _BLOCK)
            start = 0
            while comment := _COMMENT.match(head, start):
                start = comment.end()
            order: tuple[str, ...] = _ORDER
            if names := _NAMES.match(head, start):
                columns = tuple(re.split(r"[\s,;]+", names[0].decode("latin-1").strip()))
                found = find_columns(columns)
                if found is None or len(columns) != 4:
                    raise EventFileError(path, f"columns {columns[:10]}; expected the four t, x, y and p", start)
                order = tuple(field for column in columns for field, name in found.items() if name == column)
                start = names.end()
            yield Table(None, None, _slices(source, start, order))


def _slices(source: Source, start: int, order: tuple[str, ...]) -> Iterator[Events]:
    while start < source.size:
        data = source.bytes(start, _BLOCK)
        length = data.rfind(b"\n") + 1 if start + len(data) < source.size else len(data)
        if length == 0:
            raise EventFileError(source.path, f"a line of more than {_BLOCK} bytes: no text of events", start)
        yield _parse(source.path, np.frombuffer(data[:length], np.uint8), start, order)
        start += length


def _parse(path: Path, data: NDArray[np.uint8], offset: int, order: tuple[str, ...]) -> Events:
    apart = _SEPARATORS[data]
    edges = np.flatnonzero(np.diff(np.concatenate([[True], apart, [True]])))
    starts, ends = edges[::2], edges[1::2]
    line = np.cumsum(data == ord("\n"))[starts] if len(starts) else np.empty(0, np.int64)
    _check_lines(path, line, starts, offset)
    if len(starts) == 0:
        return np.empty(0, EVENT_DTYPE)
    values, decimals = _numbers(path, data, starts, ends, offset)
    events = np.empty(len(starts) // 4, EVENT_DTYPE)
    for column, name in enumerate(order):
        at = starts[column::4]
        value, places = values[column::4], decimals[column::4]
        if name == "t":
            events["t"] = _microseconds(value, places)
            continue
        low, high = (-1, 1) if name == "p" else (0, 2**16 - 1)
        bad = (places >= 0) | (value < low) | (value > high)
        if bad.any():
            where = int(np.argmax(bad))
            text = bytes(data[at[where] : ends[column::4][where]]).decode("latin-1")
            reason = f"{name} is {text!r}; expected a whole number from {low} to {high}"
            raise EventFileError(path, reason, offset + int(at[where]))
        events[name] = value > 0 if name == "p" else value
    return events


def _check_lines(path: Path, line: NDArray[np.int64], starts: NDArray[np.int64], offset: int) -> None:
    _, first, count = np.unique(line, return_index=True, return_counts=True)
    wrong = np.flatnonzero(count != 4)
    if len(wrong):
        at = int(starts[first[wrong[0]]])
        raise EventFileError(path, f"a line of {count[wrong[0]]} numbers; expected 4", offset + at)


def _numbers(
    path: Path, data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], offset: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # value without its point, and the digits behind the point (-1: no point)
    negative = data[starts] == ord("-")
    begin = starts + negative
    lengths = ends - begin
    values, decimals = np.zeros(len(starts), np.int64), np.full(len(starts), -1, np.int64)
    digits = np.zeros(len(starts), np.int64)
    bad = lengths > _DIGITS + 1
    for place in range(min(int(lengths.max()), _DIGITS + 1)):
        here = place < lengths
        letter = data[np.where(here, begin + place, 0)].astype(np.int64)
        digit = here & (letter >= ord("0")) & (letter <= ord("9"))
        point = here & (letter == ord("."))
        bad |= here & ~digit & ~(point & (decimals < 0))
        values = np.where(digit, values * 10 + letter - ord("0"), values)
        digits += digit
        decimals = np.where(digit & (decimals >= 0), decimals + 1, np.where(point, 0, decimals))
    bad |= (digits == 0) | (digits > _DIGITS)
    if bad.any():
        at = int(np.argmax(bad))
        text = bytes(data[starts[at] : min(ends[at], starts[at] + 40)]).decode("latin-1")
        raise EventFileError(path, f"{text!r} is no number of up to {_DIGITS} digits", offset + int(starts[at]))
    return np.where(negative, -values, values), decimals


def _microseconds(value: NDArray[np.int64], decimals: NDArray[np.int64]) -> NDArray[np.int64]:
    shift = np.where(decimals < 0, 0, decimals - 6)  # digits to drop; below zero: to add
    down = 10 ** np.clip(shift, 0, _DIGITS)
    # seconds of up to 12 digits before the point: whatever is added, it fits
    up = 10 ** np.clip(-shift, 0, 6)
    rounded: NDArray[np.int64] = np.where(shift > 0, (value + down // 2) // down, value * up)
    return rounded
