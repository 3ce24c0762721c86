"""What a compiled program counts on the way: the terms of `counting.py` as the records of `integer/program.py`.

Axis letters: B batch, C channels, H height, W width, P positions, Z zones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.counting import COUNTS, Counted, Layer, Term, count, run_and_tally
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.execute import TorchExecutor
from maqd_snn.integer.geometry import row
from maqd_snn.integer.ops import Op
from maqd_snn.integer.program import ENTRY, NONE, ROW, RUN, TALLIED_POSITIONS, Program, Tally
from maqd_snn.tallies import Zones

Array = NDArray[np.int64]
Run = tuple[int, int, int, int, int, int]


@dataclass(frozen=True)
class BatchCounts:
    """What a batch gave.

    Attributes:
        scores: output of the last op. counts: (R, B), a row for each count that was asked for.
        channels: nonzero levels by channel; levels: how often each was met; of one threshold op behind the other.
    """

    scores: Tensor
    counts: Array
    channels: Array
    levels: Array


class Counter:
    """Runs batches and counts, by the compiled program where the network has one that can count what is asked for.

    Args:
        net: the network. layers, counted: of `layers_of` and `counted_values`. asked: (name of the op, name of the
        count) of each row.
    """

    def __init__(
        self,
        net: IntegerNetwork,
        layers: Sequence[Layer],
        counted: Mapping[str, Counted],
        asked: Sequence[tuple[str, str]],
    ) -> None:
        self.net = net
        self.layers = layers
        self.asked = asked
        self.counted = counted
        self.thresholds = [layer.op for layer in layers if isinstance(layer.op, ops.Threshold)]
        self._tallies: dict[TorchExecutor, Tally | None] = {}

    def run(self, codes: Tensor) -> BatchCounts:
        """Run one batch of codes (B, *input shape)."""
        executor = self.net.executor(codes.device)
        if not self.in_program(executor):
            return self._by_tallies(codes)
        tally = self._tallies[executor]
        assert tally is not None
        output, result = executor.run_program(codes, tally)
        return BatchCounts(output, result.counts.T, result.channels, result.levels)

    def split(self, channels: Array, levels: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return `channels` and `levels` of `BatchCounts` by the names of threshold ops."""
        by_channel, histograms = {}, {}
        c = k = 0
        for op in self.thresholds:
            by_channel[op.name] = channels[c : c + len(op.thresholds)]
            histograms[op.name] = levels[k : k + op.levels + 1]
            c, k = c + len(op.thresholds), k + op.levels + 1
        return by_channel, histograms

    def in_program(self, executor: TorchExecutor) -> bool:
        """Return whether the executor's program counts."""
        if executor not in self._tallies:
            program = executor.program
            self._tallies[executor] = None if program is None else self._plan(program)
        return self._tallies[executor] is not None

    def _plan(self, program: Program) -> Tally | None:
        return program_tally(self.net, program, self.layers, self.counted, self.asked)

    def _by_tallies(self, codes: Tensor) -> BatchCounts:
        scores, tallies = run_and_tally(self.net, codes, self.counted)
        found = {layer.op.name: count(layer, tallies) for layer in self.layers}
        counts = np.zeros((len(self.asked), len(codes)), np.int64)
        for index, (op, name) in enumerate(self.asked):
            counts[index] = found[op][name]
        channels, levels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for threshold in self.thresholds:
            tally = tallies[threshold.name]
            assert tally.histogram is not None
            channels.append(tally.active.sum((0, 1)))
            levels.append(tally.histogram)
        return BatchCounts(scores.to(torch.int64), counts, np.concatenate(channels), np.concatenate(levels))


def program_tally(
    net: IntegerNetwork,
    program: Program,
    layers: Sequence[Layer],
    counted: Mapping[str, Counted],
    asked: Sequence[tuple[str, str]],
) -> Tally | None:
    """Return what the program is to count, or None where it cannot: levels below zero or above 255, or huge images.

    Args:
        net, program: the network and its program. layers: of `layers_of`. counted: of `counted_values`.
        asked: (name of the op, name of the count) of each count.
    """
    values = {name: _Value.of(net, program, name, entry) for name, entry in counted.items()}
    if not all(value.countable for value in values.values()):
        return None
    terms = {layer.op.name: row(COUNTS, layer.op, "counting")(layer) for layer in layers}
    rows_of: dict[str, list[tuple[int, Array, Array | None]]] = {name: [] for name in counted}
    row_of: dict[tuple[str, bytes], int] = {}  # counts that are multiples of each other are one row
    sums, times = np.zeros(len(asked), np.int64), np.ones(len(asked), np.int64)
    # What an `Add` op charges, one for each nonzero term, is counted where the terms are added up.
    adds = {layer.op.name: NONE for layer in layers if isinstance(layer.op, ops.Add)}
    number = 0
    for index, (op, name) in enumerate(asked):
        parts = terms[op][name]
        if op in adds:
            sums[index] = adds[op] = number
            number += 1
            continue
        factors = [values[term.of].factors(term) for term in parts]
        if len(parts) == 1 and factors[0][1] is None:
            times[index] = np.gcd.reduce(factors[0][0]) or 1
            factors = [(factors[0][0] // times[index], None)]
            sums[index] = row_of.setdefault((parts[0].of, factors[0][0].tobytes()), number)
        else:
            sums[index] = number
        if sums[index] == number:
            number += 1
            for term, (per_zone, effective) in zip(parts, factors, strict=True):
                rows_of[term.of].append((int(sums[index]), per_zone, effective))
    return _records(values, rows_of, adds, sums, times, [layer.op for layer in layers])


@dataclass(frozen=True)
class _Value:
    """A counted value in the program: where it is, its zones, and its largest level (0 where it consists of sums)."""

    name: str
    source: str
    step: int
    shape: tuple[int, int, int]
    zones: Zones | None  # None: every position is a zone of its own, a feature of what was an image
    largest: int
    countable: bool

    @classmethod
    def of(cls, net: IntegerNetwork, program: Program, name: str, counted: Counted) -> "_Value":
        source = program.source(name)
        place = program.places[source]
        small = not place.wide and counted.levels is not None and counted.levels[0] >= 0
        countable = place.shape[1] * place.shape[2] <= TALLIED_POSITIONS and (counted.levels is None or small)
        return cls(
            name,
            source,
            program.observable.index(source),
            place.shape,
            None if len(net.shapes[name]) == 1 else counted.zones,
            0 if counted.levels is None else counted.levels[1],
            countable,
        )

    @property
    def positions(self) -> int:
        return self.shape[1] * self.shape[2]

    @property
    def number(self) -> int:
        return self.positions if self.zones is None else self.zones.number

    def runs(self) -> list[Run]:
        if self.zones is None:
            return [(p, 1, 1, 1, 1, p) for p in range(self.positions)]
        return zone_runs(self.zones)

    def factors(self, term: Term) -> tuple[Array, Array | None]:
        """Return the factors by zone, (1, Z) or (3, Z) flattened, and those by zone and channel, (Z, C), or None."""
        found, effective = np.zeros((3, self.number), np.int64), None
        if term.active is not None and term.active.shape[1] == 1:
            found[0] = term.active[:, 0]
        elif term.active is not None:
            effective = term.active
            if self.zones is None:  # channel by channel in the features, position by position here
                effective = effective.reshape(self.shape[0], self.positions).T
        for line, part in ((1, term.units), (2, term.serial)):
            if part is not None:
                found[line] = part
        # Of values 0 and 1 the magnitude, and the ones of its binary form, are the value itself.
        return (found.ravel() if self.largest > 1 else found.sum(0)), effective


def _records(
    values: Mapping[str, _Value],
    rows_of: Mapping[str, Sequence[tuple[int, Array, Array | None]]],
    adds: Mapping[str, int],
    sums: Array,
    times: Array,
    graph: Sequence[Op],
) -> Tally:
    channels_at, levels_at = {}, {}
    channels = levels = 0
    for op in graph:
        if isinstance(op, ops.Threshold):
            channels_at[op.name], levels_at[op.name] = channels, levels
            channels, levels = channels + len(op.thresholds), levels + op.levels + 1
    entries: list[tuple[int, ...]] = []
    rows: list[tuple[int, int, int]] = []
    runs: list[Run] = []
    zones, by_channel = _Parts(), _Parts()
    entry_of: dict[str, tuple[int, int]] = {}
    # The entries of one step stand beside each other: a value and its flattened image are one there.
    for value in sorted(values.values(), key=lambda value: value.step):
        if not rows_of[value.name] and value.name not in channels_at:
            continue
        first_row, first_run = len(rows), len(runs)
        for target, per_zone, effective in rows_of[value.name]:
            rows.append((target, zones.add(per_zone), NONE if effective is None else by_channel.add(effective)))
        runs += value.runs()
        at = channels_at.get(value.name, NONE), levels_at.get(value.name, NONE)
        first, _ = entry_of.get(value.source, (len(entries), 0))
        entry = (value.positions, value.number, first_run, len(runs), value.largest, *at, first_row, len(rows))
        entries.append(entry)
        entry_of[value.source] = first, len(entries)
    return Tally(
        np.array(entries, ENTRY),
        np.array(runs, RUN),
        np.array(rows, ROW),
        zones.joined(),
        by_channel.joined(),
        entry_of,
        adds,
        sums,
        times,
        channels,
        levels,
    )


class _Parts:
    """Arrays that will lie behind each other."""

    def __init__(self) -> None:
        self.parts: list[Array] = []
        self.size = 0

    def add(self, part: Array) -> int:
        """Put an array behind the others; return where it begins."""
        self.parts.append(np.ascontiguousarray(part).ravel())
        self.size += part.size
        return self.size - part.size

    def joined(self) -> Array:
        return np.concatenate(self.parts or [np.zeros(0, np.int64)])


def zone_runs(zones: Zones) -> list[Run]:
    """Return the positions of every zone as evenly spaced runs: the fields of `RUN`.

    >>> zone_runs(Zones((np.array([0, 1]),), (np.array([0, 2]), np.array([1]))))
    [(0, 3, 2, 2, 2, 0), (1, 3, 2, 1, 1, 1)]
    """
    width = sum(len(part) for part in zones.columns)
    return [
        (y * width + x, line_step * width, lines, step, number, row * len(zones.columns) + column)
        for row, rows in enumerate(zones.rows)
        for y, line_step, lines in even_parts(rows)
        for column, columns in enumerate(zones.columns)
        for x, step, number in even_parts(columns)
    ]


def even_parts(index: Array) -> list[tuple[int, int, int]]:
    """Return rising numbers as evenly spaced parts (first, step, number).

    >>> even_parts(np.array([1, 2, 3, 6, 8]))
    [(1, 1, 3), (6, 2, 2)]
    """
    parts = []
    start = 0
    while start < len(index):
        step = int(index[start + 1] - index[start]) if start + 1 < len(index) else 1
        stop = start + 1
        while stop < len(index) and index[stop] - index[stop - 1] == step:
            stop += 1
        parts.append((int(index[start]), step, stop - start))
        start = stop
    return parts
