"""Decoding a file block by block: planned first, so that memory is taken once and two threads can work.

A format cuts its file into blocks and says of each what came before it (its *state*) and how many events it holds (the
plan, from a scan without output). Then every block decodes into its own part of one array, in any order. Nothing but
a block for each thread is in memory beside the result; the same code, run in order, is the lazy reader.
"""

import os
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.events.inspection import BEGINNING, State, drop_impossible, first_impossible, limits_of
from maqd_snn.datasets.events.recording import EVENT_DTYPE, EventFileError, EventFormat, Events, ReadOptions, Recording
from maqd_snn.datasets.events.source import Bytes, Source, open_source

MAX_THREADS = 4
_SMALL = 2**20  # a file that is not worth a second thread
_KEPT = threading.local()
_KEPT_BYTES = 2**20  # a larger block has memory of its own
_DENSE = 0.75  # share of a block's words that must be events, for it to be decoded without a plan

Map = Callable[..., Iterable[Any]]


@dataclass(frozen=True)
class Body:
    """The binary part of a file.

    Attributes:
        start, end: its bytes, whole words only. sensor: (width, height) where the header states it. state: what the
        first block starts with, layout included.
    """

    start: int
    end: int
    sensor: tuple[int, int] | None
    state: State


@dataclass(frozen=True)
class Block:
    """A part of the file that decodes by itself: where it is, what came before it, how many events it holds."""

    offset: int
    length: int
    state: State
    count: int


@dataclass(frozen=True)
class Decoded:
    """All events of a body, the blocks that they came from, and the first impossible event of each block or -1."""

    events: Events
    blocks: list[Block]
    found: list[int]


class SparseError(Exception):
    """A block that needs a plan: many of its words are no events, or damage."""


class BlockFormat(EventFormat):
    """A format that is decoded block by block.

    `word` is the size of its smallest part in bytes; `block_bytes` that of a block, a multiple of it.
    """

    word: int
    block_bytes: int = 2**18
    largest: ClassVar[tuple[int, int]] = (2**16, 2**16)  # sensor that the format can address

    @abstractmethod
    def body(self, source: Source, options: ReadOptions) -> Body:
        """Read the header."""

    @abstractmethod
    def plan(self, source: Source, body: Body, options: ReadOptions, each: Map) -> Iterator[Block]:
        """Cut the body into blocks, in order; `each` is `map`, or a pool's that runs several at once."""

    @abstractmethod
    def decode(self, data: Bytes, state: State, out: Events) -> None:
        """Decode a block into `out`, which has its count of events."""

    def decode_and_check(self, data: Bytes, state: State, out: Events, limits: State) -> int:
        """Decode a block and return the index of its first impossible event, -1 where there is none."""
        self.decode(data, state, out)
        return first_impossible(out, limits, BEGINNING)

    @abstractmethod
    def offset_of(self, data: Bytes, state: State, event: int) -> int:
        """Return where in a block an event is, in bytes; only asked for error messages."""

    def pixel(self, event: Any) -> tuple[int, int]:
        """Return (x, y) of an event; only asked for error messages."""
        return int(event["x"]), int(event["y"])

    def unplanned(self, source: Source, body: Body, options: ReadOptions, limits: State, each: Map) -> "Decoded | None":
        """Decode in one pass a body that has hardly anything but sound events; None where it is another."""
        return None

    def read(self, path: Path, options: ReadOptions) -> Recording:
        before = replace(options.skipped)
        with open_source(path) as source, _threads(source.size) as each:
            body = self.body(source, options)
            sensor = options.sensor or body.sensor
            limits = limits_of(sensor or self.largest, options.unordered)
            decoded = self.unplanned(source, body, options, limits, each)
            if decoded is None:
                decoded = self._planned(source, body, options, limits, each)
            events, blocks, found = decoded.events, decoded.blocks, decoded.found
            ends = np.cumsum([block.count for block in blocks], dtype=np.int64)
            index = _first_bad(events, blocks, ends, found, limits)
            if index is not None:
                if not options.skip_damaged:
                    block = blocks[number := int(np.searchsorted(ends, index, "right"))]
                    inside = index - int(ends[number]) + block.count
                    raise self._impossible(source, block, inside, events, index, sensor or self.largest)
                kept = drop_impossible(events, limits, BEGINNING)
                options.skipped.events += len(events) - kept
                events.resize(kept, refcheck=False)
        check_not_empty(path, len(events), options)
        skipped = options.skipped.since(before)
        return Recording(events, sensor, self.name, skipped.bytes, skipped.events)

    def _planned(self, source: Source, body: Body, options: ReadOptions, limits: State, each: Map) -> "Decoded":
        blocks, total = [], 0
        for block in self.plan(source, body, options, each):
            blocks.append(block)
            total += block.count
            check_size(source.path, total, options)
        events = np.empty(total, EVENT_DTYPE)
        ends = np.cumsum([block.count for block in blocks], dtype=np.int64)

        def decode(block: Block, end: int) -> int:
            data = _buffer(block.length)
            source.fill(data, block.offset)
            return self.decode_and_check(data, block.state, events[end - block.count : end], limits)

        return Decoded(events, blocks, list(each(decode, blocks, ends)))

    def blocks(self, path: Path, options: ReadOptions) -> Iterator[Events]:
        with open_source(path) as source:
            body = self.body(source, options)
            sensor = options.sensor or body.sensor
            limits = limits_of(sensor or self.largest, options.unordered)
            last, total = BEGINNING, 0
            for block in self.plan(source, body, options, map):
                data = _buffer(block.length)
                source.fill(data, block.offset)
                events = np.empty(block.count, EVENT_DTYPE)
                self.decode(data, block.state, events)
                index = first_impossible(events, limits, last)
                if index >= 0:
                    if not options.skip_damaged:
                        raise self._impossible(source, block, index, events, index, sensor or self.largest, last)
                    events = events[: drop_impossible(events, limits, last)]
                    options.skipped.events += block.count - len(events)
                if len(events):
                    last = int(events["t"][-1])
                    total += len(events)
                    yield events
            check_not_empty(path, total, options)

    def _impossible(
        self,
        source: Source,
        block: Block,
        inside: int,
        events: Events,
        index: int,
        sensor: tuple[int, int],
        last: int = BEGINNING,
    ) -> EventFileError:
        data = np.empty(block.length, np.uint8)
        source.fill(data, block.offset)
        before = int(events["t"][index - 1]) if index else last
        offset = block.offset + self.offset_of(data, block.state, inside)
        reason = impossible_reason(events[index], before, sensor, self.pixel(events[index]))
        return EventFileError(source.path, reason, offset)


class WordFormat(BlockFormat):
    """A format whose body is a row of words of one size.

    A scan of a block gives its summary: [events, first bad word, bad words, orphans, ...]; the rest is the format's.
    Orphans are events that came before all that they need, such as the first time word of a stream: they are left out,
    and are no damage.
    """

    summary_size: int

    def decode_whole(self, data: Bytes, state: State, out: Events, limits: State, summary: State) -> int | None:
        """Decode a block of which nothing is known and scan it in the same pass; None where a format does not.

        Args:
            state: what the first block of the file starts with. out: one event for each word; the first ones are used.
            summary: filled as `scan` does.

        Returns:
            The index of the first impossible event, -1 where there is none.
        """
        return None

    def shift(self, state: State, summary: State) -> int:
        """Return what the times of a block lack that `decode_whole` decoded, from the state before it, in us."""
        return 0

    @abstractmethod
    def scan(self, data: Bytes, state: State, summary: State) -> None:
        """Fill the summary of a block. Only whether `state` is known matters, not what it holds, but for the layout."""

    @abstractmethod
    def step(self, state: State, summary: State) -> State:
        """Return the state behind a block from the state before it."""

    @abstractmethod
    def bad_word(self, word: bytes) -> str:
        """Return why a word is bad, for messages."""

    @abstractmethod
    def counts(self, data: Bytes, state: State) -> NDArray[np.int64]:
        """Return the number of events that each word gives; only asked for error messages."""

    def is_known(self, state: State) -> bool:
        """Return whether a state holds all that events need."""
        return True

    def assumed(self, state: State) -> State:
        """Return a known state of the same layout."""
        return state

    def offset_of(self, data: Bytes, state: State, event: int) -> int:
        ends = np.cumsum(self.counts(data, state))
        return self.word * int(np.searchsorted(ends, event, "right"))

    def unplanned(self, source: Source, body: Body, options: ReadOptions, limits: State, each: Map) -> Decoded | None:
        words = (body.end - body.start) // self.word
        if words * EVENT_DTYPE.itemsize > options.max_bytes:
            return None
        events = np.empty(words, EVENT_DTYPE)

        def decode(offset: int) -> tuple[State, int]:
            data = _buffer(min(self.block_bytes, body.end - offset))
            source.fill(data, offset)
            first, count = (offset - body.start) // self.word, len(data) // self.word
            summary = np.zeros(self.summary_size, np.int64)
            index = self.decode_whole(data, body.state, events[first : first + count], limits, summary)
            if index is None or summary[2] or summary[3] or summary[0] < _DENSE * count:
                raise SparseError
            return summary, index

        offsets = range(body.start, body.end, self.block_bytes)
        try:
            results = list(each(decode, offsets))
        except SparseError:
            return None
        state, blocks, filled = body.state, [], 0
        for offset, (summary, _) in zip(offsets, results, strict=True):
            block = Block(offset, min(self.block_bytes, body.end - offset), state, int(summary[0]))
            first = (offset - body.start) // self.word
            part = events[first : first + block.count]
            if shift := self.shift(state, summary):
                part["t"] += shift
            if filled < first:
                events[filled : filled + block.count] = part
            blocks.append(block)
            filled += block.count
            state = self.step(state, summary)
        if filled < words:
            events.resize(filled, refcheck=False)
        return Decoded(events, blocks, [index for _, index in results])

    def plan(self, source: Source, body: Body, options: ReadOptions, each: Map) -> Iterator[Block]:
        assumed = self.assumed(body.state)

        def scan(offset: int, state: State = assumed) -> State:
            data = _buffer(min(self.block_bytes, body.end - offset))
            source.fill(data, offset)
            summary = np.zeros(self.summary_size, np.int64)
            self.scan(data, state, summary)
            return summary

        state = body.state
        offsets = range(body.start, body.end, self.block_bytes)
        for offset, summary in zip(offsets, each(scan, offsets), strict=True):
            if not self.is_known(state):
                summary = scan(offset, state)
            options.skipped.events += int(summary[3])
            if summary[2]:
                at = offset + self.word * int(summary[1])
                options.skip(source.path, self.word * int(summary[2]), self.bad_word(source.bytes(at, self.word)), at)
            yield Block(offset, min(self.block_bytes, body.end - offset), state, int(summary[0]))
            state = self.step(state, summary)


def whole_words(source: Source, start: int, word: int, options: ReadOptions) -> int:
    """Return where the last whole word from `start` on ends; what is behind it is damage."""
    end = source.size - (source.size - start) % word
    if end < source.size:
        reason = f"truncated: the last {source.size - end} bytes are no whole event word of {word} bytes"
        options.skip(source.path, source.size - end, reason, end)
    return end


def check_size(path: Path, events: int, options: ReadOptions) -> None:
    """Raise EventFileError where so many decoded events would exceed the limit."""
    if events * EVENT_DTYPE.itemsize > options.max_bytes:
        raise EventFileError(
            path,
            f"holds {events} events or more, {events * EVENT_DTYPE.itemsize} bytes decoded, beyond the limit of "
            f"{options.max_bytes}; raise max_bytes, or read it lazily with stream_events",
        )


def check_not_empty(path: Path, events: int, options: ReadOptions) -> None:
    """Raise EventFileError where there is no event, unless damage is to be skipped."""
    if events == 0 and not options.skip_damaged:
        raise EventFileError(path, "holds no events; with skip_damaged=True this is an empty recording")


def impossible_reason(event: Any, before: int, sensor: tuple[int, int], pixel: tuple[int, int] | None = None) -> str:
    """Return why an event that comes after time `before` is impossible; `pixel` is named where given, else (x, y)."""
    t, x, y = (int(event[name]) for name in ("t", "x", "y"))
    if x >= sensor[0] or y >= sensor[1]:
        where = f"pixel {pixel or (x, y)} lies outside the sensor of {sensor[0]} x {sensor[1]}"
        return f"{where}; skip_damaged=True drops such events"
    return (
        f"time runs backwards, from {before} to {t} us; skip_damaged=True drops such events, unordered=True keeps them"
    )


def _first_bad(
    events: Events, blocks: list[Block], ends: NDArray[np.int64], found: list[int], limits: State
) -> int | None:
    last = BEGINNING
    for block, end, index in zip(blocks, ends, found, strict=True):
        if block.count == 0:
            continue
        start = int(end) - block.count
        if limits[2] and events["t"][start] < last:
            return start
        if index >= 0:
            return start + index
        last = int(events["t"][end - 1])
    return None


def _buffer(length: int) -> Bytes:
    """Return memory of the thread for one block: it keeps its pages, where a new array would take them block by block.

    The bytes are valid until the thread asks again.
    """
    kept: Bytes | None = getattr(_KEPT, "buffer", None)
    if kept is None or len(kept) < length:
        kept = np.empty(length, np.uint8)
        if length <= _KEPT_BYTES:
            _KEPT.buffer = kept
    return kept[:length]


@contextmanager
def _threads(size: int) -> Iterator[Map]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if size < _SMALL or cores == 1:
        yield map
        return
    with ThreadPoolExecutor(min(cores, MAX_THREADS) - 1) as pool:

        def each(work: Callable[..., Any], *arguments: Iterable[Any]) -> Iterable[Any]:
            return _in_threads(pool, min(cores, MAX_THREADS), work, list(zip(*arguments, strict=True)))

        yield each


def _in_threads(
    pool: ThreadPoolExecutor, threads: int, work: Callable[..., Any], calls: list[tuple[Any, ...]]
) -> list[Any]:
    """Return work(*call) of every call. The calling thread works too: one that only waited would be woken every block.

    Raises what the first of the failed calls raised; none is begun after a failure.
    """
    results: list[Any] = [None] * len(calls)
    errors: dict[int, BaseException] = {}
    numbers = iter(range(len(calls)))

    def worker() -> None:
        for number in numbers:  # each number goes to one thread: a range's iterator moves on in one step
            if errors and min(errors) < number:
                return
            try:
                results[number] = work(*calls[number])
            except BaseException as error:  # raised below, in the calling thread
                errors[number] = error
                return

    others = [pool.submit(worker) for _ in range(threads - 1)]
    worker()
    wait(others)
    if errors:
        raise errors[min(errors)]
    return results
