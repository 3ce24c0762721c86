"""AEDAT 2.0 of jAER: lines of text that begin with '#', then pairs of address and time, 32 bits each, big endian.

    DVS128:  bit 15 special (no event), 14-8 y, 7-1 x, 0 polarity
    DAVIS:   bit 31 APS or IMU sample (no event), 30-22 y, 21-12 x, 11 polarity, 10 external trigger (no event)

Coordinates are the address's own: jAER counts rows from the bottom. The header names the chip; without a name,
addresses of more than 16 bits among the first tell a DAVIS.

Source: iniVation, "AEDAT 2.0", https://docs.inivation.com/software/software-advanced-usage/file-formats/aedat-2.0.html
"""

import re

import numpy as np

from maqd_snn.datasets.events.decoding import Body, Damage, whole_words
from maqd_snn.datasets.events.pairs import Layout, PairFormat
from maqd_snn.datasets.events.source import Source
from maqd_snn.datasets.events.text_header import Header, check_magic, read_header

DVS128 = Layout(True, True, x=(1, 0x7F), y=(8, 0x7F), p_shift=0, skipped=0x8000, bad=0xFFFF0000)
DAVIS = Layout(True, True, x=(12, 0x3FF), y=(22, 0x1FF), p_shift=11, skipped=0x80000400, bad=0)

# Chip names in headers, as the last part of a Java class: the layout, and the sensor's (width, height).
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

    def body(self, source: Source, damage: Damage) -> Body:
        header = read_header(source, b"#")
        check_magic(source, header, _MAGIC, "AEDAT 2.0 file")
        end = whole_words(source, header.end, self.word, damage)
        layout, sensor = _chip(source, header, end)
        return Body(header.end, end, sensor, layout.state())

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
                return layout, sensor
        if "davis" in chip:
            return DAVIS, None
    data = source.bytes(header.end, min(_LOOKED_AT, end - header.end))
    addresses = np.frombuffer(data, ">u4")[::2]
    return (DAVIS, None) if (addresses >> 16).any() else (DVS128, (128, 128))
