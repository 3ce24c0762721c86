"""Events as text: one event a line, four numbers set apart by commas, spaces, tabs or semicolons.

A first line of names says which column is which; without it they are t, x, y, p. Lines that begin with '#' or '%' in
front are comments. A time without a decimal point is in microseconds, one with a point in seconds (rounded half up,
exactly). But where the times of a block have no decimal but a single zero (1000.0), as programs print floating-point
numbers that are whole, they are microseconds, or may be either: the rule is that of columns.py. A polarity is 0, 1 or
-1. Numbers are parsed by whole blocks, exactly, in integers. With `skip_damaged` a line that is no event is left out.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.events.columns import (
    LEAST_US,
    MICROSECONDS,
    SECONDS,
    ambiguous_reason,
    find_columns,
)
from maqd_snn.datasets.events.decoding import impossible_reason
from maqd_snn.datasets.events.inspection import BEGINNING, first_impossible, limits_of
from maqd_snn.datasets.events.recording import EVENT_DTYPE, EventFileError, Events, ReadOptions
from maqd_snn.datasets.events.source import Source, open_source
from maqd_snn.datasets.events.tables import Table, TableFormat

_BLOCK = 2**18  # bytes at a time; also the longest line
_DIGITS = 18  # of a number, so that it fits 64 bits
_SEPARATORS = np.zeros(256, np.bool_)
_SEPARATORS[list(b" \t,;\r\n")] = True
_COMMENT = re.compile(rb"[#%][^\n]*\n")
_NAMES = re.compile(rb"[^\n]*[A-DF-Za-df-z][^\n]*\n")  # an e may be that of 1e+03, which is refused as a number
_ORDER = ("t", "x", "y", "p")
_LIMITS = {"x": (0, 2**16 - 1), "y": (0, 2**16 - 1), "p": (-1, 1)}

_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Numbers:
    """The numbers of a block: where they begin and end, value without point, digits behind it (-1: no point).

    `wrong` has an entry for each line of four.
    """

    starts: _Ints
    ends: _Ints
    values: _Ints
    decimals: _Ints
    wrong: NDArray[np.bool_]


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
            text = _Text(source, order, options, options.sensor or self.largest)
            yield Table(None, None, text.slices(start))


@dataclass
class _Text:
    """The lines of a file, read from the front.

    Attributes:
        pointed: what a time with a decimal point is multiplied by; 0 before the first. last: time of the last event.
        count: events so far.
    """

    source: Source
    order: tuple[str, ...]
    options: ReadOptions
    sensor: tuple[int, int]
    pointed: int = 0
    last: int = BEGINNING
    count: int = 0

    def slices(self, start: int) -> Iterator[Events]:
        """Yield the events of block after block from byte `start` on."""
        for data, offset in self._blocks(start):
            yield self._events(data, offset)

    def _blocks(self, start: int) -> Iterator[tuple[NDArray[np.uint8], int]]:
        # whole lines, and where they begin
        size = self.source.size
        while start < size:
            data = self.source.bytes(start, _BLOCK)
            length = data.rfind(b"\n") + 1 if start + len(data) < size else len(data)
            if length == 0:
                length = self._endless(start)
            else:
                yield np.frombuffer(data[:length], np.uint8), start
            start += length

    def _endless(self, start: int) -> int:
        # the bytes of a line that is longer than a block
        at = start
        while data := self.source.bytes(at, _BLOCK):
            end = data.find(b"\n") + 1
            at += end or len(data)
            if end:
                break
        reason = f"a line of more than {_BLOCK} bytes: no text of events"
        self.options.skip(self.source.path, at - start, reason, start)
        return at - start

    def _table(self, data: NDArray[np.uint8], offset: int) -> _Numbers:
        # the numbers of a block, four a line; lines that are none are marked
        edges = np.flatnonzero(np.diff(np.concatenate([[True], _SEPARATORS[data], [True]])))
        starts, ends = self._whole_lines(data, edges[::2], edges[1::2], offset)
        values, decimals, bad = _numbers(data, starts, ends)
        wrong: NDArray[np.bool_] = np.any(bad.reshape(-1, 4), axis=1)
        if wrong.any():
            at = int(np.argmax(bad))
            text = bytes(data[starts[at] : min(ends[at], starts[at] + 40)]).decode("latin-1")
            reason = f"{text!r} is no number of up to {_DIGITS} digits"
            self._leave_out(data, starts, wrong, reason, offset + int(starts[at]))
        return _Numbers(starts, ends, values, decimals, wrong)

    def _events(self, data: NDArray[np.uint8], offset: int) -> Events:
        table = self._table(data, offset)
        wrong = table.wrong
        events = np.empty(len(wrong), EVENT_DTYPE)
        for column, name in enumerate(self.order):
            if name == "t":
                continue
            starts, value, places = (array[column::4] for array in (table.starts, table.values, table.decimals))
            low, high = _LIMITS[name]
            bad = ((places >= 0) | (value < low) | (value > high)) & ~wrong
            if bad.any():
                at = int(np.argmax(bad))
                text = bytes(data[starts[at] : table.ends[column::4][at]]).decode("latin-1")
                reason = f"{name} is {text!r}; expected a whole number from {low} to {high}"
                self._leave_out(data, table.starts, bad, reason, offset + int(starts[at]))
                wrong = wrong | bad
            events[name] = np.where(wrong, 0, value > 0 if name == "p" else value)
        kept, column = np.flatnonzero(~wrong), self.order.index("t")
        value, places = table.values[column::4][kept], table.decimals[column::4][kept]
        where = offset + table.starts[column::4][kept]
        events = events[kept]
        if self.pointed == 0 and (places >= 0).any():
            self.pointed = self._find_unit(offset)
        bad = (self.pointed == MICROSECONDS) & (places > 0) & (value % 10 ** np.clip(places, 0, _DIGITS) != 0)
        if bad.any():
            reason = "a time with a fraction, among times that are whole microseconds (1000.0)"
            raise EventFileError(self.source.path, reason, int(where[np.argmax(bad)]))
        events["t"] = _microseconds(value, places, self.pointed)
        if not self.options.skip_damaged:
            self._refuse_impossible(events, where)
        return events

    def _find_unit(self, start: int) -> int:
        # what times with a point are multiplied by, from this block and as many of the next as it takes
        lenient = replace(self, options=ReadOptions(skip_damaged=True))
        small = -1
        for data, offset in lenient._blocks(start):
            table = lenient._table(data, offset)
            column = self.order.index("t")
            places = np.where(table.wrong, -1, table.decimals[column::4])
            value = np.where(places >= 0, np.abs(table.values[column::4]), 0)
            whole = value // 10 ** np.clip(places, 0, 1)
            if ((places > 1) | ((places == 1) & (value % 10 != 0))).any():
                return SECONDS
            if (whole >= LEAST_US).any():
                return MICROSECONDS
            if small < 0 and whole.any():
                small = offset + int(table.starts[column::4][np.argmax(whole != 0)])
        if small >= 0:
            raise EventFileError(self.source.path, ambiguous_reason(), small)
        return MICROSECONDS

    def _leave_out(
        self, data: NDArray[np.uint8], starts: _Ints, bad: NDArray[np.bool_], reason: str, offset: int
    ) -> None:
        # the bad ones of lines whose numbers begin at `starts`, four each
        breaks = _breaks(data)
        line = np.searchsorted(breaks, starts[::4][bad])
        self.options.skip(self.source.path, int((breaks[line] - breaks[line - 1]).sum()), reason, offset)

    def _whole_lines(self, data: NDArray[np.uint8], starts: _Ints, ends: _Ints, offset: int) -> tuple[_Ints, _Ints]:
        # the numbers of the lines that have four
        breaks = _breaks(data)
        line = np.searchsorted(breaks, starts)
        count = np.bincount(line, minlength=len(breaks))
        wrong = (count != 4) & (count != 0)
        if not wrong.any():
            return starts, ends
        first = int(np.argmax(wrong))
        at = offset + int(starts[np.searchsorted(line, first)])
        length = int(np.diff(breaks, prepend=-1)[wrong].sum())
        reason = f"a line of {count[first]} numbers; expected 4"
        self.options.skip(self.source.path, length, reason, at)
        return starts[~wrong[line]], ends[~wrong[line]]

    def _refuse_impossible(self, events: Events, where: _Ints) -> None:
        index = first_impossible(events, limits_of(self.sensor, self.options.unordered), self.last)
        if index >= 0:
            before = int(events["t"][index - 1]) if index else self.last
            reason = f"event {self.count + index}: {impossible_reason(events[index], before, self.sensor)}"
            raise EventFileError(self.source.path, reason, int(where[index]))
        self.count += len(events)
        if len(events):
            self.last = int(events["t"][-1])


def _breaks(data: NDArray[np.uint8]) -> _Ints:
    # where the lines end; the first entry is before the first line, the last the end of one that has no break
    return np.concatenate([[-1], np.flatnonzero(data == ord("\n")), [len(data) - 1]])


def _numbers(data: NDArray[np.uint8], starts: _Ints, ends: _Ints) -> tuple[_Ints, _Ints, NDArray[np.bool_]]:
    # value without its point, the digits behind the point (-1: no point), and whether it is no number
    negative = data[starts] == ord("-")
    begin = starts + negative
    lengths = ends - begin
    values, decimals = np.zeros(len(starts), np.int64), np.full(len(starts), -1, np.int64)
    digits = np.zeros(len(starts), np.int64)
    bad = lengths > _DIGITS + 1
    for place in range(min(int(lengths.max(initial=0)), _DIGITS + 1)):
        here = place < lengths
        letter = data[np.where(here, begin + place, 0)].astype(np.int64)
        digit = here & (letter >= ord("0")) & (letter <= ord("9"))
        point = here & (letter == ord("."))
        bad |= here & ~digit & ~(point & (decimals < 0))
        values = np.where(digit, values * 10 + letter - ord("0"), values)
        digits += digit
        decimals = np.where(digit & (decimals >= 0), decimals + 1, np.where(point, 0, decimals))
    bad |= (digits == 0) | (digits > _DIGITS)
    return np.where(negative, -values, values), decimals, bad


def _microseconds(value: _Ints, decimals: _Ints, pointed: int) -> _Ints:
    if pointed == MICROSECONDS:
        return np.where(decimals > 0, value // 10 ** np.clip(decimals, 0, _DIGITS), value)
    shift = np.where(decimals < 0, 0, decimals - 6)  # digits to drop; below zero: to add
    down = 10 ** np.clip(shift, 0, _DIGITS)
    # seconds of up to 12 digits before the point: whatever is added, it fits
    up = 10 ** np.clip(-shift, 0, 6)
    rounded: _Ints = np.where(shift > 0, (value + down // 2) // down, value * up)
    return rounded
