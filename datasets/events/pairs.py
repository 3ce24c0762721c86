"""Words of two 32-bit numbers, an address and a time in microseconds: AEDAT 2.0 and Prophesee DAT.

The time counts modulo 2^32. It has wrapped around where it falls by more than half of that; where it falls by less, it
runs backwards.
"""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.events.compiled import PACKED_DTYPE, compiled, fast
from maqd_snn.datasets.events.decoding import WordFormat
from maqd_snn.datasets.events.inspection import State, limits_of
from maqd_snn.datasets.events.recording import Events
from maqd_snn.datasets.events.source import Bytes

_WRAP = 2**32
_HALF = 2**31
_DYNAMIC = 12  # where the state behind the layout begins: [time that wraps added, last raw time or -1]


@dataclass(frozen=True)
class Layout:
    """Where the fields of an address are, and what a camera that counts its pixels from another corner needs.

        address ^= inverted;  x = (address >> shift & mask) - beyond;  y, p alike

    Attributes:
        big_endian: byte order of both numbers. address_first: the address comes before the time.
        x, y: (shift, mask). p_shift: bit of the polarity. skipped: words with any of these bits are no events.
        bad: words with any of these bits are damage (asked first). Both are bits of the address as it is in the file.
        inverted, beyond: see above; beyond is for (x, y). What becomes negative lies outside every sensor.
    """

    big_endian: bool
    address_first: bool
    x: tuple[int, int]
    y: tuple[int, int]
    p_shift: int
    skipped: int
    bad: int
    inverted: int = 0
    beyond: tuple[int, int] = (0, 0)

    def state(self) -> State:
        """Return the state that a file starts with."""
        order = [self.big_endian, not self.address_first]
        kinds = [self.skipped, self.bad, self.inverted]
        return np.array([*order, *self.x, *self.y, self.p_shift, *kinds, *self.beyond, 0, -1], np.int64)


class PairFormat(WordFormat):
    """Reader of address and time pairs; subclasses read the header and choose the layout."""

    word = 8
    block_bytes = 8 * 2**16
    summary_size = 7  # events, first bad word, bad words, orphans, first and last raw time, wraps between them

    def scan(self, data: Bytes, state: State, summary: State) -> None:
        if fast():
            compiled(_scan, "wss")(data.view(np.uint32), state, summary)
            return
        address, time = _split(data, state)
        bad, event = _kinds(address, state)
        times = time[event]
        summary[:4] = len(times), np.argmax(bad), np.count_nonzero(bad), 0
        if len(times):
            wraps = np.count_nonzero(times[:-1] - times[1:] > _HALF)
            summary[4:] = times[0], times[-1], wraps

    def step(self, state: State, summary: State) -> State:
        if summary[0] == 0:
            return state
        after = state.copy()
        after[_DYNAMIC] += _WRAP * (int(state[_DYNAMIC + 1] - summary[4] > _HALF) + summary[6])
        after[_DYNAMIC + 1] = summary[5]
        return after

    def decode_whole(self, data: Bytes, state: State, out: Events, limits: State, summary: State) -> int | None:
        if not fast():
            return None
        first = state.copy()
        first[_DYNAMIC:] = 0, -1  # what came before is not known yet; `shift` tells it
        return _decoded(data, first, out, limits, summary)

    def shift(self, state: State, summary: State) -> int:
        if summary[0] == 0:
            return 0
        return int(state[_DYNAMIC] + _WRAP * int(state[_DYNAMIC + 1] - summary[4] > _HALF))

    def counts(self, data: Bytes, state: State) -> NDArray[np.int64]:
        return _kinds(_split(data, state)[0], state)[1].astype(np.int64)

    def decode(self, data: Bytes, state: State, out: Events) -> None:
        if fast():
            _decoded(data, state, out, limits_of(self.largest, unordered=True), np.zeros(self.summary_size, np.int64))
            return
        address, time = _split(data, state)
        event = _kinds(address, state)[1]
        address, time = address[event], time[event]
        falls = np.diff(time, prepend=state[_DYNAMIC + 1]) < -_HALF
        out["t"] = time + state[_DYNAMIC] + (_WRAP * np.cumsum(falls) if falls.any() else 0)
        address ^= state[9]
        out["x"] = (address >> state[2] & state[3]) - state[10] & 0xFFFF
        out["y"] = (address >> state[4] & state[5]) - state[11] & 0xFFFF
        out["p"] = address >> state[6] & 1


def _split(data: Bytes, state: State) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    words = data.view(">u4" if state[0] else "<u4").reshape(-1, 2)
    first = int(state[1])
    return words[:, first].astype(np.int64), words[:, 1 - first].astype(np.int64)


def _kinds(address: NDArray[np.int64], state: State) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    bad = (address & state[8]) != 0
    return bad, ~bad & ((address & state[7]) == 0)


def _decoded(data: Bytes, state: State, out: Events, limits: State, summary: State) -> int:
    """Decode by machine code; see `WordFormat.decode_whole`."""
    words, events = data.view(np.uint32), out.view(PACKED_DTYPE)
    return int(compiled(_decode, "wsEss")(words, state, events, limits, summary))


@no_type_check
def _scan(words, state, summary):
    swapped, first = state[0] != 0, np.uint64(state[1])
    skipped, bad = np.uint32(state[7]), np.uint32(state[8])
    if swapped:
        skipped = (skipped >> 24) | ((skipped >> 8) & 0xFF00) | ((skipped & 0xFF00) << 8) | (skipped << 24)
        bad = (bad >> 24) | ((bad >> 8) & 0xFF00) | ((bad & 0xFF00) << 8) | (bad << 24)
    skipped, bad = np.uint32(skipped), np.uint32(bad)
    count, first_bad, bads, wraps = 0, 0, 0, 0
    begin, last = np.int64(0), np.int64(-1)
    for i in range(len(words) // 2):
        at = np.uint64(i) * np.uint64(2)
        address = words[at + first]
        if address & bad:
            if bads == 0:
                first_bad = i
            bads += 1
            continue
        if address & skipped:
            continue
        time = words[at + np.uint64(1) - first]
        if swapped:
            time = (time >> 24) | ((time >> 8) & 0xFF00) | ((time & 0xFF00) << 8) | (time << 24)
        raw = np.int64(np.uint32(time))
        if count == 0:
            begin = raw
        elif last - raw > 2147483648:
            wraps += 1
        last = raw
        count += 1
    summary[0], summary[1], summary[2], summary[3] = count, first_bad, bads, 0
    if count:
        summary[4], summary[5], summary[6] = begin, last, wraps
    return count


@no_type_check
def _decode(words, state, out, limits, summary):
    swapped, first = state[0] != 0, np.uint64(state[1])
    x_shift, x_mask = np.uint32(state[2]), np.uint32(state[3])
    y_shift, y_mask = np.uint32(state[4]), np.uint32(state[5])
    p_shift, ignored, bad = np.uint32(state[6]), np.uint32(state[7] | state[8]), np.uint32(state[8])
    inverted, x_beyond, y_beyond = np.uint32(state[9]), np.uint32(state[10]), np.uint32(state[11])
    width, height, ordered = np.uint32(limits[0]), np.uint32(limits[1]), limits[2] != 0
    added, last = state[12], state[13]
    bads, found = 0, np.int64(-1)
    event = np.uint64(0)
    for i in range(len(words) // 2):
        at = np.uint64(i) * np.uint64(2)
        address, time = words[at + first], words[at + np.uint64(1) - first]
        if swapped:
            address = (address >> 24) | ((address >> 8) & 0xFF00) | ((address & 0xFF00) << 8) | (address << 24)
            time = (time >> 24) | ((time >> 8) & 0xFF00) | ((time & 0xFF00) << 8) | (time << 24)
        address = np.uint32(address)
        if address & ignored:
            bads += (address & bad) != 0
            continue
        raw = np.int64(np.uint32(time))
        wrap = np.int64(last - raw > 2147483648)
        address ^= inverted
        x = np.uint32(((address >> x_shift) & x_mask) - x_beyond) & np.uint32(0xFFFF)
        y = np.uint32(((address >> y_shift) & y_mask) - y_beyond) & np.uint32(0xFFFF)
        if ((x >= width) | (y >= height) | (ordered & (wrap == 0) & (raw < last))) and found < 0:
            found = np.int64(event)
        added += wrap << 32
        last = raw
        out[event].t = raw + added
        out[event].xy = np.uint32(x | (y << 16))
        out[event].p = np.uint8((address >> p_shift) & 1)
        event += np.uint64(1)
    summary[0], summary[1], summary[2], summary[3] = event, 0, bads, 0
    if event:  # what is added is whole wraps
        summary[4], summary[5], summary[6] = out[0].t & 0xFFFFFFFF, last, (added - state[12]) >> 32
    return found
