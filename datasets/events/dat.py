"""Prophesee DAT, versions 1 and 2: a header, type and size of an event (a byte each), pairs of time and address.

All numbers are little endian. The address:

    version 1:  bit 17 polarity, 16-9 y, 8-0 x
    version 2:  bits 31-28 polarity, 27-14 y, 13-0 x

Source: Prophesee, "DAT File Format", https://docs.prophesee.ai/stable/data/file_formats/dat.html; version 1 as in the
readers published with N-CARS.
"""

import re

from maqd_snn.datasets.events.decoding import Body, whole_words
from maqd_snn.datasets.events.pairs import Layout, PairFormat
from maqd_snn.datasets.events.prophesee import encoding, read_prophesee, stated_sensor
from maqd_snn.datasets.events.recording import EventFileError, ReadOptions
from maqd_snn.datasets.events.source import Source

VERSION1 = Layout(False, False, x=(0, 0x1FF), y=(9, 0xFF), p_shift=17, skipped=0, bad=0)
VERSION2 = Layout(False, False, x=(0, 0x3FFF), y=(14, 0x3FFF), p_shift=28, skipped=0, bad=0xE0000000)
LAYOUTS = {1: VERSION1, 2: VERSION2}
TYPES = (0x00, 0x0C)  # 2D events; contrast detection


class DatFormat(PairFormat):
    """Reader of Prophesee DAT."""

    name = "dat"
    title = "Prophesee DAT, versions 1 and 2 (N-CARS)"
    suffixes = (".dat",)

    def matches(self, head: bytes) -> bool:
        text = head.decode("latin-1")
        return text.startswith("% ") and encoding(text) is None and ("% Data file" in text or "% Version" in text)

    def body(self, source: Source, options: ReadOptions) -> Body:
        header = read_prophesee(source)
        if not header.text.startswith("%"):
            raise EventFileError(source.path, "no DAT file: expected header lines that begin with '%'", 0)
        stated = re.search(r"^% Version (\d+)\s*$", header.text, re.MULTILINE)
        version = int(stated[1][:3]) if stated else 1
        if version not in LAYOUTS:
            raise EventFileError(source.path, f"DAT version {version} is unknown; the versions 1 and 2 can be read", 0)
        kind = source.bytes(header.end, 2)
        if len(kind) < 2:
            raise EventFileError(source.path, "truncated: no type and size of the events", header.end)
        if kind[0] not in TYPES or kind[1] != self.word:
            reason = f"events of type {kind[0]} and {kind[1]} bytes; expected type 0 or 12 (CD) and {self.word} bytes"
            raise EventFileError(source.path, reason, header.end)
        start = header.end + 2
        end = whole_words(source, start, self.word, options)
        return Body(start, end, stated_sensor(header.text), LAYOUTS[version].state())

    def bad_word(self, word: bytes) -> str:
        return f"address {word[4:].hex()} has a polarity beyond 1: the file is damaged, or of another byte order"
