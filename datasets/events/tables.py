"""Formats that hold tables of numbers: they are read slice by slice, each slice to events, then checked as all are."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from maqd_snn.datasets.events.decoding import check_not_empty, check_size, impossible_reason
from maqd_snn.datasets.events.inspection import BEGINNING, drop_impossible, first_impossible, limits_of
from maqd_snn.datasets.events.recording import EVENT_DTYPE, EventFileError, EventFormat, Events, ReadOptions, Recording

SLICE = 2**17  # events at a time


@dataclass(frozen=True)
class Table:
    """An open table: how many events it says it has (None: unknown), its sensor, and its slices as events."""

    count: int | None
    sensor: tuple[int, int] | None
    slices: Iterator[Events]


class TableFormat(EventFormat):
    """A format whose events come in slices; what cannot be decoded is left to `ReadOptions.skip`."""

    largest: ClassVar[tuple[int, int]] = (2**16, 2**16)

    @abstractmethod
    def open_table(self, path: Path, options: ReadOptions) -> AbstractContextManager[Table]:
        """Open the file and check what it declares."""

    def read(self, path: Path, options: ReadOptions) -> Recording:
        before = replace(options.skipped)
        with self.open_table(path, options) as table:
            sensor = options.sensor or table.sensor
            parts, total = [], 0
            if table.count is not None:
                check_size(path, table.count, options)
            events = np.empty(table.count or 0, EVENT_DTYPE)
            for part in self._checked(path, table, options):
                total += len(part)
                check_size(path, total, options)
                if table.count is None:
                    parts.append(part)
                else:
                    events[total - len(part) : total] = part
        if table.count is None:
            events = np.concatenate(parts) if parts else np.empty(0, EVENT_DTYPE)
        elif total < len(events):
            events.resize(total, refcheck=False)
        check_not_empty(path, total, options)
        skipped = options.skipped.since(before)
        return Recording(events, sensor, self.name, skipped.bytes, skipped.events)

    def blocks(self, path: Path, options: ReadOptions) -> Iterator[Events]:
        total = 0
        with self.open_table(path, options) as table:
            for part in self._checked(path, table, options):
                total += len(part)
                if len(part):
                    yield part
        check_not_empty(path, total, options)

    def _checked(self, path: Path, table: Table, options: ReadOptions) -> Iterator[Events]:
        sensor = options.sensor or table.sensor or self.largest
        limits = limits_of(sensor, options.unordered)
        last, number = BEGINNING, 0
        for part in table.slices:
            index = first_impossible(part, limits, last)
            if index >= 0:
                if not options.skip_damaged:
                    before = int(part["t"][index - 1]) if index else last
                    reason = impossible_reason(part[index], before, sensor)
                    raise EventFileError(path, f"event {number + index}: {reason}")
                kept = drop_impossible(part, limits, last)
                options.skipped.events += len(part) - kept
                number += len(part) - kept
                part = part[:kept]
            number += len(part)
            if len(part):
                last = int(part["t"][-1])
            yield part
