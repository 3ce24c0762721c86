"""The 5-byte format of N-MNIST and N-Caltech101: no header, five bytes an event.

    byte 0: x    byte 1: y    bytes 2 to 4, big endian: polarity (1 bit), time in microseconds (23 bits)

A word with y = 240 is no event: it adds 2^13 us to the time of all that follow (the sensor has 240 rows).

Source: G. Orchard, A. Jayawant, G. Cohen, N. Thakor, "Converting static image datasets to spiking neuromorphic datasets
using saccades", Frontiers in Neuroscience 9 (2015), and the readers published with the datasets.
"""

from typing import ClassVar, no_type_check

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.events.compiled import FIVE_DTYPE, PACKED_DTYPE, compiled, fast
from maqd_snn.datasets.events.decoding import Body, WordFormat, whole_words
from maqd_snn.datasets.events.inspection import State, limits_of
from maqd_snn.datasets.events.recording import Events, ReadOptions
from maqd_snn.datasets.events.source import Bytes, Source

OVERFLOW_ROW = 240
OVERFLOW_US = 2**13
MAX_FIELD_US = 2**23 - 1


class FiveByteFormat(WordFormat):
    """Reader of the 5-byte format. State: [time that overflow words added, in us]."""

    name = "5-byte"
    title = "5-byte events of N-MNIST and N-Caltech101"
    suffixes = (".bin",)
    largest: ClassVar[tuple[int, int]] = (256, 256)
    word = 5
    block_bytes = 5 * 2**17
    summary_size = 5  # events, first bad word, bad words, orphans, overflow words

    def matches(self, head: bytes) -> bool:
        return False  # nothing in the content tells it

    def body(self, source: Source, options: ReadOptions) -> Body:
        return Body(0, whole_words(source, 0, self.word, options), None, np.zeros(1, np.int64))

    def scan(self, data: Bytes, state: State, summary: State) -> None:
        if fast():
            overflows = compiled(_scan, "f")(data.view(FIVE_DTYPE))
        else:
            overflows = np.count_nonzero(data[1::5] == OVERFLOW_ROW)
        summary[:] = len(data) // 5 - overflows, 0, 0, 0, overflows

    def step(self, state: State, summary: State) -> State:
        return np.array([state[0] + OVERFLOW_US * summary[4]])

    def decode_whole(self, data: Bytes, state: State, out: Events, limits: State, summary: State) -> int | None:
        if not fast():
            return None
        return _decoded(data, np.zeros_like(state), out, limits, summary)  # what came before, `shift` adds

    def shift(self, state: State, summary: State) -> int:
        return int(state[0])

    def bad_word(self, word: bytes) -> str:
        raise AssertionError("every word of this format has a meaning")

    def counts(self, data: Bytes, state: State) -> NDArray[np.int64]:
        return np.array(data[1::5] != OVERFLOW_ROW, np.int64)

    def decode(self, data: Bytes, state: State, out: Events) -> None:
        if fast():
            _decoded(data, state, out, limits_of(self.largest, unordered=True), np.zeros(self.summary_size, np.int64))
            return
        words = data.reshape(-1, 5)
        overflow = words[:, 1] == OVERFLOW_ROW
        added: NDArray[np.int64] | int = int(state[0])
        if overflow.any():
            added = (added + OVERFLOW_US * np.cumsum(overflow))[~overflow]
            words = words[~overflow]
        high, middle, low = (words[:, column].astype(np.int64) for column in (2, 3, 4))
        out["t"] = ((high & 127) << 16 | middle << 8 | low) + added
        out["x"], out["y"], out["p"] = words[:, 0], words[:, 1], words[:, 2] >> 7


def _decoded(data: Bytes, state: State, out: Events, limits: State, summary: State) -> int:
    """Decode by machine code; see `WordFormat.decode_whole`."""
    words, events = data.view(FIVE_DTYPE), out.view(PACKED_DTYPE)
    return int(compiled(_decode, "fsEss")(words, state, events, limits, summary))


@no_type_check
def _scan(words):
    overflows = 0
    for i in range(len(words)):
        overflows += ((words[i].head >> 8) & 255) == 240
    return overflows


@no_type_check
def _decode(words, state, out, limits, summary):
    width, height, ordered = np.uint32(limits[0]), np.uint32(limits[1]), limits[2] != 0
    added, last, found = state[0], np.int64(-1), np.int64(-1)
    event = np.uint64(0)
    for i in range(len(words)):
        head = words[i].head
        column, row = head & 255, (head >> 8) & 255
        if row == 240:
            added += 8192
            continue
        t = np.int64(((head >> 16) & 127) << 16 | (head >> 24) << 8 | words[i].last) + added
        if ((column >= width) | (row >= height) | (ordered & (t < last))) and found < 0:
            found = np.int64(event)
        last = t
        out[event].t = t
        out[event].xy = column | row << 16
        out[event].p = np.uint8((head >> 23) & 1)
        event += np.uint64(1)
    summary[0], summary[1], summary[2], summary[3] = event, 0, 0, 0
    summary[4] = len(words) - np.int64(event)
    return found
