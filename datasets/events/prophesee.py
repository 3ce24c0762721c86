"""What Prophesee's files have in common: a header of lines '% keyword value'."""

import re

from maqd_snn.datasets.events.recording import EventFileError
from maqd_snn.datasets.events.source import Source
from maqd_snn.datasets.events.text_header import Header, read_header

# Of RAW files, old ('% evt 2.0') and new ('% format EVT2;height=720;width=1280').
VERSIONS = {"2.0": "evt2", "2": "evt2", "2.1": "evt2.1", "21": "evt2.1", "3.0": "evt3", "3": "evt3"}


def read_prophesee(source: Source) -> Header:
    """Read the header; a line '% end' is its last, where there is one."""
    return read_header(source, b"%", rb"% end")


def encoding(text: str) -> str | None:
    """Return the name of the format that a RAW header states, or None.

    >>> encoding("% evt 2.0"), encoding("% format EVT21;height=320;width=320"), encoding("% Version 2")
    ('evt2', 'evt2.1', None)
    """
    stated = re.search(r"^% (?:evt |format EVT)(\d(?:\.?\d)?)\b", text, re.MULTILINE)
    return VERSIONS.get(stated[1]) if stated else None


def stated_sensor(text: str) -> tuple[int, int] | None:
    """Return (width, height) where the header states them.

    >>> stated_sensor("% format EVT3;height=720;width=1280"), stated_sensor("% geometry 640x480")
    ((1280, 720), (640, 480))
    """
    geometry = re.search(r"^% geometry (\d{1,5})x(\d{1,5})\s*$", text, re.MULTILINE)
    if geometry:
        return _sides(geometry[1], geometry[2])
    width = re.search(r"(?:^% Width |[;\s]width=)(\d{1,5})\b", text, re.MULTILINE | re.IGNORECASE)
    height = re.search(r"(?:^% Height |[;\s]height=)(\d{1,5})\b", text, re.MULTILINE | re.IGNORECASE)
    return _sides(width[1], height[1]) if width and height else None


def stated_byte_order(text: str) -> str | None:
    """Return the byte order of EVT 2.1 that a RAW header states, in lower case, or None; that of the format counts.

    >>> stated_byte_order("% format EVT21;height=720;width=1280;endianness=legacy"), stated_byte_order("% evt 2.1")
    ('legacy', None)
    >>> stated_byte_order("% endianness little")
    'little'
    """
    for pattern in (r"^% format [^\r\n]*;endianness=(\w+)", r"^% endianness (\w+)"):
        if stated := re.search(pattern, text, re.MULTILINE):
            return stated[1].lower()
    return None


def _sides(width: str, height: str) -> tuple[int, int] | None:
    sides = int(width), int(height)
    return sides if min(sides) > 0 else None


def open_raw(source: Source, name: str) -> Header:
    """Read the header of a RAW file that must state the encoding `name`.

    Raises:
        EventFileError: there is no header, or it states another encoding.
    """
    header = read_prophesee(source)
    if not header.text.startswith("%"):
        got = source.bytes(0, 16)
        raise EventFileError(source.path, f"no RAW file: expected header lines that begin with '%', got {got!r}", 0)
    if (stated := encoding(header.text)) != name:
        found = f"encoding {stated}" if stated else "no known encoding"
        raise EventFileError(source.path, f"its header states {found}, expected {name}", 0)
    return header
