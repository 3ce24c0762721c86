"""Prophesee EVT 2.0 and EVT 2.1: words of 32 and 64 bits in RAW files.

    EVT 2.0, by the top four bits:  0, 1 event of that polarity: 27-22 low time, 21-11 x, 10-0 y
                                    8    high time: 27-0, in units of 64 us
                                    10 trigger, 14 others, 15 continued: no events
    EVT 2.1: the upper half is such a word, of an event at x + i for every bit i of the lower half that is set

The high time counts modulo 2^28: it has wrapped around where it falls by more than half of that. EVT 2.1 comes in two
byte orders: `little`, 64-bit little endian (GenX320), and `legacy`, two little-endian halves, the upper one first
(IMX636). OpenEB's headers state which; where one does not, high time words, whose lower half is zero, tell them apart.

Source: Prophesee, "EVT 2.0 Format" and "EVT 2.1 Format", https://docs.prophesee.ai/stable/data/encoding_formats/;
OpenEB, psee_raw_file_header.cpp and make_decoder.cpp, for the byte order in the header.
"""

from typing import ClassVar, no_type_check

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.events.compiled import PACKED_DTYPE, compiled, fast
from maqd_snn.datasets.events.decoding import Body, WordFormat, whole_words
from maqd_snn.datasets.events.inspection import State
from maqd_snn.datasets.events.prophesee import encoding, open_raw, stated_byte_order, stated_sensor
from maqd_snn.datasets.events.recording import EventFileError, Events, ReadOptions
from maqd_snn.datasets.events.source import Bytes, Source
from maqd_snn.datasets.events.text_header import Header

_KINDS = 0b1100_0101_0000_0011  # bit k: words of kind k are defined
_WRAP = 2**34
_HALF = 2**27
_LOOKED_AT = 8 * 2**13
BYTE_ORDERS = {"legacy": 0, "little": 1}  # of EVT 2.1, as headers name them: the place of the upper half


class Evt2Format(WordFormat):
    """Reader of EVT 2.0. State: [place of the upper half, time that wraps added, high time or -1]."""

    name = "evt2"
    title = "Prophesee EVT 2.0 (RAW)"
    suffixes: tuple[str, ...] = (".raw",)
    largest: ClassVar[tuple[int, int]] = (2048, 2048)
    word = 4
    block_bytes = 4 * 2**16
    summary_size = 7  # events, first bad word, bad words, orphans, first and last high time or -1, wraps between them

    def matches(self, head: bytes) -> bool:
        return head.startswith(b"% ") and encoding(head.decode("latin-1")) == self.name

    def body(self, source: Source, options: ReadOptions) -> Body:
        header = open_raw(source, self.name)
        end = whole_words(source, header.end, self.word, options)
        return Body(header.end, end, stated_sensor(header.text), np.array([self._upper(source, header, end), 0, -1]))

    def _upper(self, source: Source, header: Header, end: int) -> int:
        return 0

    def bad_word(self, word: bytes) -> str:
        return f"word {word.hex()} is of no defined kind: the file is damaged, or of another byte order or encoding"

    def is_known(self, state: State) -> bool:
        return bool(state[2] >= 0)

    def assumed(self, state: State) -> State:
        return np.array([state[0], 0, 0])

    def step(self, state: State, summary: State) -> State:
        if summary[4] < 0:
            return state
        wraps = int(state[2] - summary[4] > _HALF) + summary[6]
        return np.array([state[0], state[1] + _WRAP * wraps, summary[5]])

    def scan(self, data: Bytes, state: State, summary: State) -> None:
        if fast():
            compiled(self._scan_kernel, "wss")(data.view(np.uint32), state, summary)
            return
        heads, times, counts, bad = self._parts(data, state)
        known = times >= 0
        summary[:4] = counts[known].sum(), np.argmax(bad), np.count_nonzero(bad), counts[~known].sum()
        highs = (heads[heads >> 28 == 8] & 0xFFFFFFF).astype(np.int64)
        summary[4:] = -1, -1, 0
        if len(highs):
            summary[4:] = highs[0], highs[-1], np.count_nonzero(highs[:-1] - highs[1:] > _HALF)

    def counts(self, data: Bytes, state: State) -> NDArray[np.int64]:
        _, times, counts, _ = self._parts(data, state)
        return np.where(times >= 0, counts, 0)

    def decode(self, data: Bytes, state: State, out: Events) -> None:
        if fast():
            compiled(self._decode_kernel, "wsE")(data.view(np.uint32), state, out.view(PACKED_DTYPE))
            return
        heads, times, counts, _ = self._parts(data, state)
        word = np.flatnonzero((counts > 0) & (times >= 0))
        shift = self._shifts(data, state, word)
        word = np.repeat(word, counts[word])
        heads = heads[word]
        out["t"] = times[word] + (heads >> 22 & 0x3F)
        out["x"] = (heads >> 11 & 0x7FF) + shift
        out["y"] = heads & 0x7FF
        out["p"] = heads >> 28

    def _parts(
        self, data: Bytes, state: State
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        # of every word: its upper half, the time of the high time word before it (-1: none), its events, is it bad
        heads, counts = self._heads(data, state)
        kind = heads >> 28
        is_high = kind == 8
        highs = np.concatenate([state[2:3], heads[is_high] & 0xFFFFFFF]).astype(np.int64)
        wraps = np.concatenate([[0], np.cumsum(highs[:-1] - highs[1:] > _HALF)])
        times = np.where(highs < 0, -1, state[1] + _WRAP * wraps + (highs << 6))
        return heads, times[np.cumsum(is_high)], np.where(kind <= 1, counts, 0), (self._kinds >> kind & 1) == 0

    _kinds = _KINDS

    def _heads(self, data: Bytes, state: State) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        heads = data.view("<u4")
        return heads, np.ones(len(heads), np.int64)

    def _shifts(self, data: Bytes, state: State, word: NDArray[np.int64]) -> NDArray[np.int64] | int:
        return 0

    @staticmethod
    @no_type_check
    def _scan_kernel(words, state, summary):
        count, first_bad, bads, orphans, wraps = 0, 0, 0, 0, 0
        begin, high = np.int64(-1), np.int64(-1)
        known = state[2] >= 0
        for i in range(len(words)):
            word = words[i]
            kind = word >> 28
            if kind <= 1:
                count += 1
                orphans += not known
            elif kind == 8:
                now = np.int64(word & 0xFFFFFFF)
                if begin < 0:
                    begin = now
                elif high - now > 134217728:
                    wraps += 1
                high = now
                known = True
            elif (0b1100010100000011 >> kind) & 1 == 0:
                if bads == 0:
                    first_bad = i
                bads += 1
        summary[0], summary[1], summary[2], summary[3] = count - orphans, first_bad, bads, orphans
        summary[4], summary[5], summary[6] = begin, high, wraps
        return count

    @staticmethod
    @no_type_check
    def _decode_kernel(words, state, out):
        added, high = state[1], state[2]
        event = np.uint64(0)
        for i in range(len(words)):
            word = words[i]
            kind = word >> 28
            if kind <= 1:
                if high >= 0:
                    out[event].t = added + (high << 6) + np.int64((word >> 22) & 0x3F)
                    out[event].xy = np.uint32(((word >> 11) & 0x7FF) | (word & 0x7FF) << 16)
                    out[event].p = np.uint8(kind)
                    event += np.uint64(1)
            elif kind == 8:
                now = np.int64(word & 0xFFFFFFF)
                if high - now > 134217728:
                    added += 17179869184
                high = now
        return np.int64(event)


class Evt21Format(Evt2Format):
    """Reader of EVT 2.1. State: that of EVT 2.0; the place is 0 where the upper half comes first, else 1."""

    name = "evt2.1"
    title = "Prophesee EVT 2.1 (RAW)"
    suffixes: tuple[str, ...] = ()
    word = 8
    block_bytes = 8 * 2**12
    _kinds = _KINDS & 0x7FFF

    def _upper(self, source: Source, header: Header, end: int) -> int:
        if order := stated_byte_order(header.text):
            if order not in BYTE_ORDERS:
                expected = " or ".join(BYTE_ORDERS)
                raise EventFileError(source.path, f"its header states the byte order {order!r}, expected {expected}", 0)
            return BYTE_ORDERS[order]
        data = source.bytes(header.end, min(_LOOKED_AT, end - header.end))
        halves = np.frombuffer(data, "<u4").reshape(-1, 2)

        def likely(upper: int) -> tuple[int, int]:
            kind, rest = halves[:, upper] >> 28, halves[:, 1 - upper]
            undefined = np.count_nonzero(self._kinds >> kind & 1 == 0)
            return int(np.count_nonzero((kind == 8) & (rest == 0))), -int(undefined)

        return 0 if likely(0) > likely(1) else 1

    def _heads(self, data: Bytes, state: State) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        halves = data.view("<u4").reshape(-1, 2)
        upper = int(state[0])
        masks = np.ascontiguousarray(halves[:, 1 - upper])
        bits = np.unpackbits(masks.view(np.uint8).reshape(-1, 4), axis=1)
        return halves[:, upper], bits.sum(axis=1, dtype=np.int64)

    def _shifts(self, data: Bytes, state: State, word: NDArray[np.int64]) -> NDArray[np.int64] | int:
        masks = np.ascontiguousarray(data.view("<u4").reshape(-1, 2)[word, 1 - int(state[0])])
        bits = np.unpackbits(masks.view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
        return np.nonzero(bits)[1]

    @staticmethod
    @no_type_check
    def _scan_kernel(words, state, summary):
        count, first_bad, bads, orphans, wraps = 0, 0, 0, 0, 0
        begin, high = np.int64(-1), np.int64(-1)
        known = state[2] >= 0
        upper = np.uint64(state[0])
        for i in range(len(words) // 2):
            word = words[np.uint64(2) * np.uint64(i) + upper]
            kind = word >> 28
            if kind <= 1:
                mask = words[np.uint64(2) * np.uint64(i) + np.uint64(1) - upper]
                mask = mask - ((mask >> 1) & 0x55555555)
                mask = (mask & 0x33333333) + ((mask >> 2) & 0x33333333)
                mask = (((mask + (mask >> 4)) & 0x0F0F0F0F) * 0x01010101 & 0xFFFFFFFF) >> 24
                count += np.int64(mask)
                if not known:
                    orphans += np.int64(mask)
            elif kind == 8:
                now = np.int64(word & 0xFFFFFFF)
                if begin < 0:
                    begin = now
                elif high - now > 134217728:
                    wraps += 1
                high = now
                known = True
            elif (0b0100010100000011 >> kind) & 1 == 0:
                if bads == 0:
                    first_bad = i
                bads += 1
        summary[0], summary[1], summary[2], summary[3] = count - orphans, first_bad, bads, orphans
        summary[4], summary[5], summary[6] = begin, high, wraps
        return count

    @staticmethod
    @no_type_check
    def _decode_kernel(words, state, out):
        upper, added, high = np.uint64(state[0]), state[1], state[2]
        event = np.uint64(0)
        for i in range(len(words) // 2):
            word = words[np.uint64(2) * np.uint64(i) + upper]
            kind = word >> 28
            if kind <= 1:
                if high < 0:
                    continue
                mask = words[np.uint64(2) * np.uint64(i) + np.uint64(1) - upper]
                t = added + (high << 6) + np.int64((word >> 22) & 0x3F)
                xy = np.uint32(((word >> 11) & 0x7FF) | (word & 0x7FF) << 16)
                while mask:
                    if mask & 1:
                        out[event].t = t
                        out[event].xy = xy
                        out[event].p = np.uint8(kind)
                        event += np.uint64(1)
                    mask >>= 1
                    xy += np.uint32(1)
            elif kind == 8:
                now = np.int64(word & 0xFFFFFFF)
                if high - now > 134217728:
                    added += 17179869184
                high = now
        return np.int64(event)
