"""AEDAT 3.1 of cAER and DVS128 Gesture: lines of text, then packets of events of one type, little endian.

    packet: type (int16), source (int16), size of an event, offset of its time, time overflow, capacity, number, valid
            (six int32), then `capacity` events of which `number` are there
    polarity event (type 1): 32 bits: 31-17 x, 16-2 y, 1 polarity, 0 valid; time (int32)

The time in microseconds is overflow * 2^31 + time. Events whose valid bit is 0, and packets of other types, are no
events. All numbers are little endian; files of AEDAT 3.0, which counts rows from the bottom, are refused.

Source: iniVation, "AEDAT 3.1", https://docs.inivation.com/software/software-advanced-usage/file-formats/aedat-3.1.html
"""

import re
from collections.abc import Iterator
from typing import ClassVar, no_type_check

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.events.compiled import PACKED_DTYPE, compiled, fast
from maqd_snn.datasets.events.decoding import Block, BlockFormat, Body, Map
from maqd_snn.datasets.events.inspection import State, limits_of
from maqd_snn.datasets.events.recording import EventFileError, Events, ReadOptions
from maqd_snn.datasets.events.source import Bytes, Source
from maqd_snn.datasets.events.text_header import check_magic, read_header

HEADER = 28
POLARITY = 1
MAX_TYPE = 127
_MAGIC = "#!AER-DAT3.1"
_END = rb"#!END-HEADER"
_LAST = 5  # of a summary: events, first bad event, bad events, bytes used, is the next packet header bad


class Aedat3Format(BlockFormat):
    """Reader of AEDAT 3.1. State: [time overflow, events left in the packet, bytes behind them to jump over]."""

    name = "aedat3"
    title = "AEDAT 3.1 of cAER (DVS128 Gesture)"
    suffixes = ()
    largest: ClassVar[tuple[int, int]] = (2**15, 2**15)
    word = 8

    def matches(self, head: bytes) -> bool:
        return head.startswith(_MAGIC.encode())

    def body(self, source: Source, options: ReadOptions) -> Body:
        header = read_header(source, b"#", _END)
        check_magic(source, header, _MAGIC, "AEDAT 3.1 file")
        if not source.bytes(max(0, header.end - 14), min(14, header.end)).rstrip().endswith(_END):
            raise EventFileError(source.path, f"its header has no last line {_END.decode()!r}", header.end)
        chip = re.search(r"^#Source \d+: (DVS128|DAVIS240|DAVIS346)", header.text, re.MULTILINE)
        sensor = {"DVS128": (128, 128), "DAVIS240": (240, 180), "DAVIS346": (346, 260)}[chip[1]] if chip else None
        return Body(header.end, source.size, sensor, np.zeros(3, np.int64))

    def plan(self, source: Source, body: Body, options: ReadOptions, each: Map) -> Iterator[Block]:
        offset, end, state = body.start, body.end, body.state
        while offset < end or state[1:].any():
            events, jump = int(state[1]), int(state[2])
            if 8 * events + jump > end - offset:
                whole = min(events, (end - offset) // 8)
                reason = (
                    f"truncated, or an absurd packet: it claims {8 * events + jump} bytes more, but only "
                    f"{end - offset} are left"
                )
                options.skip(source.path, end - offset - 8 * whole, reason, offset)
                end, state = offset + 8 * whole, np.array([state[0], whole, 0])
                if whole == 0:
                    return
            elif events == 0 and jump:
                offset, state = offset + jump, np.zeros(3, np.int64)
                continue
            data = np.empty(min(self.block_bytes, end - offset), np.uint8)
            source.fill(data, offset)
            summary, after = np.zeros(_LAST, np.int64), state.copy()
            self._scan(data, after, summary)
            count, first_bad, bads, used, broken = (int(value) for value in summary)
            if bads:
                options.skip(source.path, 8 * bads, "a polarity event with a negative time", offset + first_bad)
            yield Block(offset, used, state, count)
            offset, state = offset + used, after
            if broken or (used == 0 and not after[1:].any()):
                options.skip(source.path, end - offset, _bad_header(source.bytes(offset, HEADER)), offset)
                return

    def _scan(self, data: Bytes, state: State, summary: State) -> None:
        # fills the summary and moves the state on
        if fast():
            compiled(_scan, "bss")(data, state, summary)
            return
        places, _, used, broken = _slots(data, state)
        words, times = _gather(data, places)
        valid = (words & 1) == 1
        bad = valid & (times < 0)
        first = places[np.argmax(bad)] if len(places) else 0
        summary[:] = np.count_nonzero(valid & ~bad), first, np.count_nonzero(bad), used, broken

    def decode(self, data: Bytes, state: State, out: Events) -> None:
        if fast():
            compiled(_decode, "bsEs")(data, state, out.view(PACKED_DTYPE), limits_of(self.largest, True))
            return
        places, overflows, _, _ = _slots(data, state.copy())
        words, times = _gather(data, places)
        chosen = ((words & 1) == 1) & (times >= 0)
        words = words[chosen]
        out["t"] = (overflows[chosen] << 31) + times[chosen]
        out["x"], out["y"], out["p"] = words >> 17, words >> 2 & 0x7FFF, words >> 1 & 1

    def decode_and_check(self, data: Bytes, state: State, out: Events, limits: State) -> int:
        if fast():
            return int(compiled(_decode, "bsEs")(data, state, out.view(PACKED_DTYPE), limits))
        return super().decode_and_check(data, state, out, limits)

    def offset_of(self, data: Bytes, state: State, event: int) -> int:
        places, _, _, _ = _slots(data, state.copy())
        words, times = _gather(data, places)
        return int(places[((words & 1) == 1) & (times >= 0)][event])


def _bad_header(header: bytes) -> str:
    if len(header) < HEADER:
        return f"truncated: {len(header)} bytes are no packet header of {HEADER}"
    little, big = (np.frombuffer(header[4:HEADER], f"{order}i4").astype(int) for order in "<>")
    swapped = int.from_bytes(header[:2], "big") <= MAX_TYPE and 0 < big[0] <= 2**24 and 0 <= big[4] <= big[3]
    if swapped:
        return "a big-endian packet header; AEDAT 3.1 is little endian throughout"
    size, offset, overflow, capacity, number, valid = little
    return (
        f"no packet header: type {int.from_bytes(header[:2], 'little', signed=True)}, {size} bytes an event, time at "
        f"{offset}, overflow {overflow}, capacity {capacity}, number {number}, valid {valid}"
    )


def _gather(data: Bytes, places: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
    # the two numbers of events at any offsets
    if len(places) == 0:
        return np.empty(0, np.uint32), np.empty(0, np.int32)
    words = np.ndarray((len(data) - 3,), "<u4", data.data, 0, (1,))
    return words[places], words[places + 4].view(np.int32)


def _slots(data: Bytes, state: State) -> tuple[NDArray[np.int64], NDArray[np.int64], int, bool]:
    """Return the offsets of all polarity events of a block, their overflows, the bytes used, is the next header bad.

    The state moves on. Packets follow each other, so their headers are a chain; it is found by doubling: where two
    steps lead from every possible header, then four, and so on.
    """
    size = len(data)
    first = min(int(state[1]), size // 8)
    places, overflows = [8 * np.arange(first)], [np.full(first, state[0])]
    state[1] -= first
    used = 8 * first
    used += _jump(state, size - used)
    if state[1] or state[2]:
        return places[0], overflows[0], used, False

    heads = _possible_headers(data, used)
    fields = _fields(data, heads)
    ends = heads + HEADER + fields["capacity"] * fields["size"]
    following = np.searchsorted(heads, ends)
    none = len(heads)
    following[(following == none) | (np.append(heads, -1)[following] != ends)] = none
    steps = np.append(following, none)
    chain = np.array([0 if none and heads[0] == used else none])
    while chain[-1] != none:
        chain = np.append(chain, steps[chain])
        steps = steps[steps]
    chain = chain[chain != none]
    if len(chain):
        last = chain[-1]
        is_events = fields["type"][chain] == POLARITY
        starts, numbers = heads[chain] + HEADER, fields["number"][chain]
        here = np.where(is_events, np.minimum(numbers, (size - starts) // 8), 0)
        before = np.cumsum(here) - here
        places.append(np.repeat(starts - 8 * before, here) + 8 * np.arange(here.sum()))
        overflows.append(np.repeat(fields["overflow"][chain], here))
        used = int(starts[-1] + 8 * here[-1])
        rest = numbers[-1] - here[-1] if is_events[-1] else 0
        body = int(fields["capacity"][last] * fields["size"][last])
        state[:] = fields["overflow"][last], rest, body - 8 * (numbers[-1] if is_events[-1] else 0)
        if rest == 0:
            used += _jump(state, size - used)
    broken = not (state[1] or state[2]) and used + HEADER <= size
    return np.concatenate(places), np.concatenate(overflows), used, broken


def _jump(state: State, left: int) -> int:
    # go over what follows the last event of a packet, as far as the block has it
    if state[1]:
        return 0
    jumped = min(int(state[2]), left)
    state[2] -= jumped
    if state[2] == 0:
        state[0] = 0
    return jumped


def _possible_headers(data: Bytes, start: int) -> NDArray[np.int64]:
    room = len(data) - HEADER + 1 - start
    if room <= 0:
        return np.empty(0, np.int64)
    types = np.ndarray((room,), "<u2", data.data, start, (1,))
    heads = np.flatnonzero(types <= MAX_TYPE) + start
    fields = _fields(data, heads)
    size, number, capacity = fields["size"], fields["number"], fields["capacity"]
    fits = (size >= 1) & (size <= 2**24) & (number >= 0) & (number <= capacity)
    fits &= (fields["valid"] >= 0) & (fields["valid"] <= number) & (fields["overflow"] >= 0)
    fits &= (fields["type"] != POLARITY) | (size == 8)
    return heads[fits]


_FIELDS = {"size": 4, "offset": 8, "overflow": 12, "capacity": 16, "number": 20, "valid": 24}


def _fields(data: Bytes, heads: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    if len(heads) == 0:
        return dict.fromkeys(["type", *_FIELDS], np.empty(0, np.int64))
    words = np.ndarray((len(data) - 3,), "<i4", data.data, 0, (1,))
    types = np.ndarray((len(data) - 1,), "<u2", data.data, 0, (1,))
    found = {name: words[heads + at].astype(np.int64) for name, at in _FIELDS.items()}
    return {"type": types[heads].astype(np.int64), **found}


@no_type_check
def _scan(data, state, summary):
    fields = np.empty(6, np.int64)
    overflow, left, jump = state[0], state[1], state[2]
    size = len(data)
    at, count, bads, first_bad, broken = 0, 0, 0, 0, 0
    while True:
        if left > 0:
            here = min(left, (size - at) // 8)
            for i in range(here):
                place = np.uint64(at + 8 * i)
                valid, negative = data[place] & 1, data[place + np.uint64(7)] >> 7
                count += valid & (1 - negative)
                if valid & negative:
                    if bads == 0:
                        first_bad = at + 8 * i
                    bads += 1
            at += 8 * here
            left -= here
            if left > 0:
                break
        if jump > 0:
            here = min(jump, size - at)
            at += here
            jump -= here
            if jump > 0:
                break
        overflow = 0
        if at + 28 > size:
            break
        kind = np.int64(data[at]) | np.int64(data[at + 1]) << 8
        for field in range(6):
            fields[field] = 0
            for byte in range(4):
                fields[field] |= np.int64(data[at + 4 + 4 * field + byte]) << (8 * byte)
        length, over, capacity, number, said = fields[0], fields[2], fields[3], fields[4], fields[5]
        # numbers of int32 that are negative are above 2^31 here
        wrong = length < 1 or length > 16777216 or over > 2147483647 or capacity > 2147483647
        if wrong or kind > 127 or number > capacity or said > number or (kind == 1 and length != 8):
            broken = 1
            break
        at += 28
        left, jump = np.int64(0), capacity * length
        if kind == 1:
            left, jump = number, 8 * (capacity - number)
        if left > 0 or jump > 0:
            overflow = over
    state[0], state[1], state[2] = overflow, left, jump
    summary[0], summary[1], summary[2], summary[3], summary[4] = count, first_bad, bads, at, broken
    return count


@no_type_check
def _decode(data, state, out, limits):
    width, height, ordered = np.uint32(limits[0]), np.uint32(limits[1]), limits[2] != 0
    last, found = np.int64(-(2**63)), np.int64(-1)
    fields = np.empty(6, np.int64)
    overflow, left, jump = state[0], state[1], state[2]
    size = len(data)
    at = 0
    event = np.uint64(0)
    while True:
        if left > 0:
            here = min(left, (size - at) // 8)
            added = overflow << 31
            for i in range(here):
                place = np.uint64(at + 8 * i)
                head, time = np.uint32(0), np.uint32(0)
                for byte in range(4):
                    head |= np.uint32(data[place + np.uint64(byte)]) << np.uint32(8 * byte)
                    time |= np.uint32(data[place + np.uint64(4 + byte)]) << np.uint32(8 * byte)
                if head & 1 and time < 2147483648:
                    t, x, y = np.int64(time) + added, head >> 17, (head >> 2) & 0x7FFF
                    if ((x >= width) | (y >= height) | (ordered & (t < last))) and found < 0:
                        found = np.int64(event)
                    last = t
                    out[event].t = t
                    out[event].xy = np.uint32(x | y << 16)
                    out[event].p = np.uint8((head >> 1) & 1)
                    event += np.uint64(1)
            at += 8 * here
            left -= here
            if left > 0:
                break
        if jump > 0:
            here = min(jump, size - at)
            at += here
            jump -= here
            if jump > 0:
                break
        if at + 28 > size:
            break
        for field in range(6):
            fields[field] = 0
            for byte in range(4):
                fields[field] |= np.int64(data[at + 4 + 4 * field + byte]) << (8 * byte)
        length, overflow, capacity, number = fields[0], fields[2], fields[3], fields[4]
        left, jump = np.int64(0), capacity * length
        if data[at] == 1 and data[at + 1] == 0:
            left, jump = number, 8 * (capacity - number)
        at += 28
    return found
