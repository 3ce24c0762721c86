"""Prophesee EVT 3.0: words of 16 bits in RAW files; each changes a state or gives events.

    by the top four bits:  0 row: 10-0              2 event: 11 polarity, 10-0 x
                           3 base: 11 polarity, 10-0 x
                           4 events at base + i for every bit i of 11-0; the base moves on by 12
                           5 the same for 7-0; the base moves on by 8
                           6 low time: 11-0         8 high time: 11-0, in units of 4096 us
                           7, 15 continued, 10 trigger, 14 others: no events

A new high time sets the low time to zero. The high time counts modulo 2^12: it has wrapped around where it falls by
more than half of that.

Source: Prophesee, "EVT 3.0 Format", https://docs.prophesee.ai/stable/data/encoding_formats/evt3.html
"""

from typing import ClassVar, no_type_check

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.events.compiled import PACKED_DTYPE, compiled, fast
from maqd_snn.datasets.events.decoding import Body, WordFormat, whole_words
from maqd_snn.datasets.events.inspection import State
from maqd_snn.datasets.events.prophesee import encoding, open_raw, stated_sensor
from maqd_snn.datasets.events.recording import Events, ReadOptions
from maqd_snn.datasets.events.source import Bytes, Source

_KINDS = 0b1100_0101_1111_1101
_WRAP = 2**24
_HALF = 2**11
_BITS = np.arange(12)
_POPCOUNT = np.array([value.bit_count() for value in range(2**12)], np.int64)
_UNKNOWN = -1


class Evt3Format(WordFormat):
    """Reader of EVT 3.0. State: [time that wraps added, high time, low time, row, base, its polarity], -1 unknown."""

    name = "evt3"
    title = "Prophesee EVT 3.0 (RAW)"
    suffixes = ()
    largest: ClassVar[tuple[int, int]] = (2048, 2048)
    word = 2
    block_bytes = 2 * 2**15
    # events, first bad word, bad words, orphans; high time: first, last, wraps between them; low time: before the first
    # high time, after it; row, base, its polarity (all -1: none came); what the base moved on since it came
    summary_size = 13

    def matches(self, head: bytes) -> bool:
        return head.startswith(b"% ") and encoding(head.decode("latin-1")) == self.name

    def body(self, source: Source, options: ReadOptions) -> Body:
        header = open_raw(source, self.name)
        end = whole_words(source, header.end, self.word, options)
        return Body(header.end, end, stated_sensor(header.text), np.array([0, -1, 0, -1, -1, 0]))

    def bad_word(self, word: bytes) -> str:
        return f"word {word.hex()} is of no defined kind: the file is damaged, or of another byte order or encoding"

    def is_known(self, state: State) -> bool:
        return bool((state[[1, 3, 4]] >= 0).all())

    def assumed(self, state: State) -> State:
        return np.zeros(6, np.int64)

    def step(self, state: State, summary: State) -> State:
        added, high, low, row, base, polarity = (int(value) for value in state)
        first, last, wraps, low_before, low_after, new_row, new_base, new_polarity, moved = (
            int(value) for value in summary[4:]
        )
        if low_before >= 0:
            low = low_before
        if first >= 0:
            added += _WRAP * ((high - first > _HALF) + wraps)
            low = low if first == high else 0
            high = last
        if low_after >= 0:
            low = low_after
        if new_row >= 0:
            row = new_row
        if new_base >= 0:
            base, polarity = new_base, new_polarity
        if base >= 0:
            base += moved
        return np.array([added, high, low, row, base, polarity])

    def scan(self, data: Bytes, state: State, summary: State) -> None:
        if fast():
            compiled(_scan, "hss")(data.view(np.uint16), state, summary)
            return
        words = data.view("<u2").astype(np.int64)
        kind, value = words >> 12, words & 0xFFF
        counts, known = self._counts(words, state)
        bad = (_KINDS >> kind & 1) == 0
        summary[:4] = counts[known].sum(), np.argmax(bad), np.count_nonzero(bad), counts[~known].sum()
        summary[4:] = -1, -1, 0, -1, -1, -1, -1, -1, 0
        where = np.flatnonzero(kind == 8)
        lows = np.flatnonzero(kind == 6)
        if len(where):
            highs = value[where]
            summary[4:7] = highs[0], highs[-1], np.count_nonzero(highs[:-1] - highs[1:] > _HALF)
            before, after = lows[lows < where[0]], lows[lows > where[0]]
            changes = where[1:][np.diff(highs) != 0]
            if len(changes) and (len(after) == 0 or after[-1] < changes[-1]):
                summary[8] = 0
            elif len(after):
                summary[8] = value[after[-1]]
        else:
            before = lows
        if len(before):
            summary[7] = value[before[-1]]
        rows, bases = np.flatnonzero(kind == 0), np.flatnonzero(kind == 3)
        if len(rows):
            summary[9] = value[rows[-1]] & 0x7FF
        since = 0
        if len(bases):
            since = int(bases[-1])
            summary[10], summary[11] = value[since] & 0x7FF, value[since] >> 11
        summary[12] = 12 * np.count_nonzero(kind[since:] == 4) + 8 * np.count_nonzero(kind[since:] == 5)

    def counts(self, data: Bytes, state: State) -> NDArray[np.int64]:
        counts, known = self._counts(data.view("<u2").astype(np.int64), state)
        return np.where(known, counts, 0)

    def _counts(self, words: NDArray[np.int64], state: State) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        # of every word: its events, and whether all that they need came before
        kind = words >> 12
        masks = np.where(kind == 4, words & 0xFFF, np.where(kind == 5, words & 0xFF, kind == 2))
        known = np.ones(len(words), np.bool_)
        for needed, at in ((8, 1), (0, 3)):
            if state[at] < 0:
                known &= np.logical_or.accumulate(kind == needed)
        if state[4] < 0:
            known &= np.logical_or.accumulate(kind == 3) | (kind == 2)
        return _POPCOUNT[masks] * np.isin(kind, (2, 4, 5)), known

    def decode(self, data: Bytes, state: State, out: Events) -> None:
        if fast():
            compiled(_decode, "hsE")(data.view(np.uint16), state, out.view(PACKED_DTYPE))
            return
        words = data.view("<u2").astype(np.int64)
        kind, value = words >> 12, words & 0xFFF
        place = np.arange(len(words))
        counts, known = self._counts(words, state)
        chosen = np.flatnonzero((counts > 0) & known)

        highs = np.concatenate([state[1:2], value[kind == 8]])
        wraps = np.concatenate([[0], np.cumsum(highs[:-1] - highs[1:] > _HALF)])
        number = np.cumsum(kind == 8)
        # the low time is the last one that came, or zero since the high time last changed
        changed = np.zeros(len(words), np.bool_)
        changed[kind == 8] = np.diff(highs) != 0
        is_low = (kind == 6) | changed
        lows = np.concatenate([state[2:3], np.where(changed, 0, value)[is_low]])
        times = state[0] + _WRAP * wraps[number] + (highs[number] << 12) + lows[np.cumsum(is_low)]

        rows = np.concatenate([state[3:4], value[kind == 0] & 0x7FF])[np.cumsum(kind == 0)]
        moves = np.where(kind == 4, 12, np.where(kind == 5, 8, 0))
        moved = np.cumsum(moves) - moves
        is_base = kind == 3
        base_number = np.cumsum(is_base)
        starts = np.concatenate([state[4:5], (value[is_base] & 0x7FF) - moved[is_base]])
        polarities = np.concatenate([state[5:6], value[is_base] >> 11])[base_number]
        single = kind == 2
        x = np.where(single, value & 0x7FF, starts[base_number] + moved)
        p = np.where(single, value >> 11, polarities)
        masks = np.where(single, 1, np.where(kind == 5, value & 0xFF, value))

        row, bit = np.nonzero(masks[chosen, None] >> _BITS & 1)
        word = place[chosen][row]
        out["t"] = times[word]
        out["x"] = np.minimum(x[word] + bit, 2**16 - 1)
        out["y"] = rows[word]
        out["p"] = p[word]


@no_type_check
def _scan(words, state, summary):
    count, first_bad, bads, orphans, wraps = 0, 0, 0, 0, 0
    begin, high = np.int64(-1), np.int64(-1)
    low_before, low = np.int64(-1), np.int64(-1)  # since the first high time, or the beginning
    row, base, polarity, moved = np.int64(-1), np.int64(-1), np.int64(-1), np.int64(0)
    timed, placed, based = state[1] >= 0, state[3] >= 0, state[4] >= 0
    for i in range(len(words)):
        word = np.int64(words[i])
        kind = word >> 12
        if (0b1000101 >> kind) & 1:  # row, event, low time: in no order that could be foretold, so no branches
            is_event, is_row, is_low = np.int64(kind == 2), -np.int64(kind == 0), -np.int64(kind == 6)
            count += is_event
            orphans += is_event & np.int64(not (timed and placed))
            row = (row & ~is_row) | (word & 0x7FF & is_row)
            placed = placed | (kind == 0)
            low = (low & ~is_low) | (word & 0xFFF & is_low)
        elif kind == 4 or kind == 5:
            mask = word & 0xFFF if kind == 4 else word & 0xFF
            moved += 12 if kind == 4 else 8
            mask = mask - ((mask >> 1) & 0x555)
            mask = (mask & 0x333) + ((mask >> 2) & 0x333)
            mask = (mask & 0xF) + ((mask >> 4) & 0xF) + (mask >> 8)
            count += mask
            if not (timed and placed and based):
                orphans += mask
        elif kind == 3:
            base, polarity, moved = word & 0x7FF, (word >> 11) & 1, 0
            based = True
        elif kind == 8:
            now = word & 0xFFF
            if begin < 0:
                begin = now
                low_before, low = low, np.int64(-1)
            else:
                if high - now > 2048:
                    wraps += 1
                if high != now:
                    low = np.int64(0)
            high = now
            timed = True
        elif (0b1100010111111101 >> kind) & 1 == 0:
            if bads == 0:
                first_bad = i
            bads += 1
    low_after = low
    if begin < 0:
        low_before, low_after = low, np.int64(-1)
    summary[0], summary[1], summary[2], summary[3] = count - orphans, first_bad, bads, orphans
    summary[4], summary[5], summary[6], summary[7], summary[8] = begin, high, wraps, low_before, low_after
    summary[9], summary[10], summary[11], summary[12] = row, base, polarity, moved
    return count


@no_type_check
def _decode(words, state, out):
    added, high, low, row, base, polarity = state[0], state[1], state[2], state[3], state[4], state[5]
    time = added + (high << 12) + low
    event, total = np.uint64(0), np.uint64(len(out))
    for i in range(len(words)):
        if event == total:
            break
        word = np.int64(words[i])
        kind = word >> 12
        if (0b1000101 >> kind) & 1:  # as in the scan; what is no event is written, and written over
            is_row, is_low = -np.int64(kind == 0), -np.int64(kind == 6)
            out[event].t = time
            out[event].xy = np.uint32((word & 0x7FF) | row << 16)
            out[event].p = np.uint8((word >> 11) & 1)
            event += np.uint64((kind == 2) & (high >= 0) & (row >= 0))
            row = (row & ~is_row) | (word & 0x7FF & is_row)
            low = (low & ~is_low) | (word & 0xFFF & is_low)
            time = added + (high << 12) + low
        elif kind == 4 or kind == 5:
            mask = word & 0xFFF if kind == 4 else word & 0xFF
            if high >= 0 and row >= 0 and base >= 0:
                x = base
                while mask:
                    if mask & 1:
                        out[event].t = time
                        out[event].xy = np.uint32(min(x, 65535) | row << 16)
                        out[event].p = np.uint8(polarity)
                        event += np.uint64(1)
                    mask >>= 1
                    x += 1
            if base >= 0:
                base += 12 if kind == 4 else 8
        elif kind == 3:
            base, polarity = word & 0x7FF, (word >> 11) & 1
        elif kind == 8:
            now = word & 0xFFF
            if high - now > 2048:
                added += 16777216
            if high != now:
                low = 0
            high = now
            time = added + (high << 12) + low
    return np.int64(event)
