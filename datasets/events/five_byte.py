"""The 5-byte format of N-MNIST and N-Caltech101: no header, five bytes an event.

    byte 0: x    byte 1: y    bytes 2 to 4, big endian: polarity (1 bit), time in microseconds (23 bits)

A word with y = 240 is no event: it adds 2^13 us to the time of all that follow (the sensor has 240 rows).

Source: G. Orchard, A. Jayawant, G. Cohen, N. Thakor, "Converting static image datasets to spiking neuromorphic datasets
using saccades", Frontiers in Neuroscience 9 (2015), and the readers published with the datasets.
"""

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.events.compiled import compiled, fast
from maqd_snn.datasets.events.decoding import Body, Damage, WordFormat, whole_words
from maqd_snn.datasets.events.inspection import State
from maqd_snn.datasets.events.recording import Events
from maqd_snn.datasets.events.source import Bytes, Source

OVERFLOW_ROW = 240
OVERFLOW_US = 2**13
MAX_FIELD_US = 2**23 - 1


class FiveByteFormat(WordFormat):
    """Reader of the 5-byte format. State: [time that overflow words added, in us]."""

    name = "5-byte"
    title = "5-byte events of N-MNIST and N-Caltech101"
    suffixes = (".bin",)
    word = 5
    block_bytes = 5 * 2**16
    summary_size = 4  # events, first bad word, bad words, overflow words

    def matches(self, head: bytes) -> bool:
        return False  # nothing in the content tells it

    def body(self, source: Source, damage: Damage) -> Body:
        return Body(0, whole_words(source, 0, self.word, damage), None, np.zeros(1, np.int64))

    def scan(self, data: Bytes, state: State, summary: State) -> None:
        overflows = np.count_nonzero(data[1::5] == OVERFLOW_ROW)
        summary[:] = len(data) // 5 - overflows, -1, 0, overflows

    def step(self, state: State, summary: State) -> State:
        return np.array([state[0] + OVERFLOW_US * summary[3]])

    def bad_word(self, word: bytes) -> str:
        raise AssertionError("every word of this format has a meaning")

    def counts(self, data: Bytes, state: State) -> NDArray[np.int64]:
        return np.array(data[1::5] != OVERFLOW_ROW, np.int64)

    def decode(self, data: Bytes, state: State, out: Events) -> None:
        if fast():
            compiled(_decode, "bse")(data, state, out)
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


def _decode(data, state, out):  # type: ignore[no-untyped-def]
    added = state[0]
    event = 0
    for i in range(0, len(data), 5):
        if data[i + 1] == 240:
            added += 8192
            continue
        high = np.int64(data[i + 2])
        out[event].t = ((high & 127) << 16 | np.int64(data[i + 3]) << 8 | np.int64(data[i + 4])) + added
        out[event].x = data[i]
        out[event].y = data[i + 1]
        out[event].p = high >> 7
        event += 1
    return event
