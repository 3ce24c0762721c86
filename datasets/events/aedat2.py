"""AEDAT 2.0 of jAER: lines of text that begin with '#', then pairs of address and time, 32 bits each, big endian.

    DVS128:  bits 31, 15 special (no event), 14-8 row, 7-1 column, 0 polarity, 1: OFF (darker)
    DAVIS:   bit 31 APS or IMU sample (no event), 30-22 row, 21-12 column, 11 polarity, 1: ON (brighter),
             10 external trigger (no event)

Addresses count rows from the bottom and columns from the right; events have their origin at the top left, as those of
every format: x = width - 1 - column, y = height - 1 - row. The header names the chip. Without a name, addresses of more
than 16 bits among the first tell a DAVIS, whose size is then unknown: its x and y stay the address's own.

Source: jAER, DVS128.java and DavisBaseCamera.java, which write and read these files (they count y from the bottom);
libcaer, dvs128.c, inverts polarity, column and row of the same chip. iniVation's page on AEDAT 2.0 has the bits of a
DAVIS; that on AEDAT 1.0 has the polarity of the DVS128 the other way round, against both programs.
https://docs.inivation.com/software/software-advanced-usage/file-formats/aedat-2.0.html
"""

import re
from dataclasses import replace
from typing import Any

import numpy as np

from maqd_snn.datasets.events.decoding import Body, whole_words
from maqd_snn.datasets.events.pairs import Layout, PairFormat
from maqd_snn.datasets.events.recording import ReadOptions
from maqd_snn.datasets.events.source import Source
from maqd_snn.datasets.events.text_header import Header, check_magic, read_header

DVS128 = Layout(
    True, True, x=(1, 0x7F), y=(8, 0x7F), p_shift=0, skipped=0x80008000, bad=0x7FFF0000, inverted=0x7FFF
)  # 127 - column is the column with its seven bits inverted, and so for rows
DAVIS = Layout(True, True, x=(12, 0x3FF), y=(22, 0x1FF), p_shift=11, skipped=0x80000400, bad=0)  # of unknown size

# Chip names in headers, as the last part of a Java class: the layout of its family, and the sensor's (width, height).
CHIPS: dict[str, tuple[Layout, tuple[int, int]]] = {
    "dvs128": (DVS128, (128, 128)),
    "tmpdiff128": (DVS128, (128, 128)),
    "davis128": (DAVIS, (128, 128)),
    "davis208": (DAVIS, (208, 192)),
    "davis240": (DAVIS, (240, 180)),
    "sbret10": (DAVIS, (240, 180)),
    "davis346": (DAVIS, (346, 260)),
}

_MAGIC = "#!AER-DAT2.0"
_LOOKED_AT = 8 * 2**13


class Aedat2Format(PairFormat):
    """Reader of AEDAT 2.0."""

    name = "aedat2"
    title = "AEDAT 2.0 of jAER (DVS128 and DAVIS chips; CIFAR10-DVS)"
    suffixes = (".aedat",)

    def matches(self, head: bytes) -> bool:
        return head.startswith(_MAGIC.encode())

    def body(self, source: Source, options: ReadOptions) -> Body:
        header = read_header(source, b"#")
        check_magic(source, header, _MAGIC, "AEDAT 2.0 file")
        end = whole_words(source, header.end, self.word, options)
        layout, sensor = _chip(source, header, end)
        return Body(header.end, end, sensor, layout.state())

    def pixel(self, event: Any) -> tuple[int, int]:
        x, y = super().pixel(event)
        return x - 2**16 * (x >= 2**15), y - 2**16 * (y >= 2**15)  # beyond the chip's own width or height

    def bad_word(self, word: bytes) -> str:
        return (
            f"address {word[:4].hex()} is none of a DVS128, which has 16 bits: the file is damaged, or of another chip "
            "or byte order than its header says"
        )


def _chip(source: Source, header: Header, end: int) -> tuple[Layout, tuple[int, int] | None]:
    named = re.search(r"AEChip:\s*(\S+)", header.text)
    if named:
        chip = named[1].rpartition(".")[2].lower()
        for name, (layout, sensor) in CHIPS.items():
            if chip.startswith(name):
                return _from_top_left(layout, sensor), sensor
        if "davis" in chip:
            return DAVIS, None
    data = source.bytes(header.end, min(_LOOKED_AT, end - header.end))
    addresses = np.frombuffer(data, ">u4")[::2]
    return (DAVIS, None) if (addresses & DVS128.bad).any() else (DVS128, (128, 128))


def _from_top_left(layout: Layout, sensor: tuple[int, int]) -> Layout:
    """Return the layout of a chip of this size: size - 1 - n is n with its bits inverted, less what they are too many.

    >>> _from_top_left(DVS128, (128, 128)) == DVS128, hex(_from_top_left(DAVIS, (240, 180)).inverted)
    (True, '0x7ffff000')
    """
    bits = layout.x[1] << layout.x[0] | layout.y[1] << layout.y[0]
    beyond = layout.x[1] + 1 - sensor[0], layout.y[1] + 1 - sensor[1]
    return replace(layout, inverted=layout.inverted | bits, beyond=beyond)
