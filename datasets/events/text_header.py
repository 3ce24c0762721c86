"""Headers of text lines that all begin with one character, in front of binary data."""

import re
from dataclasses import dataclass

from maqd_snn.datasets.events.recording import EventFileError
from maqd_snn.datasets.events.source import Source

_CHUNK = 2**20  # also the longest line
_KEPT = 2**20  # of the text, for what the header says


@dataclass(frozen=True)
class Header:
    """The first MB of a header's text, and where the data begin."""

    text: str
    end: int


def read_header(source: Source, mark: bytes, stop: bytes | None = None) -> Header:
    """Read all lines from the start of the file on that begin with `mark`, up to the line `stop` where there is one.

    A line is text without control characters, and ends with a line feed: data that happen to begin with `mark` are
    hardly ever taken for a line.

    Raises:
        EventFileError: the file ends inside a line.
    """
    text_of_line = rb"[^\x00-\x08\x0b\x0c\x0e-\x1f\n]*+\n"
    lines = re.compile(rb"(?:" + (rb"(?!" + stop + rb"\r?\n)" if stop else b"") + mark + text_of_line + rb")*+")
    text, end = b"", 0
    while True:
        chunk = source.bytes(end, _CHUNK)
        found = lines.match(chunk)
        length = found.end() if found else 0
        text = (text + chunk[:length])[:_KEPT]
        end += length
        if length == 0 or (length < len(chunk) and (chunk[length : length + 1] != mark or len(chunk) < _CHUNK)):
            break
    if re.fullmatch(mark + text_of_line[:-2] + rb"\r?", chunk[length:]):
        raise EventFileError(source.path, "truncated inside the header", source.size)
    if stop and (last := re.match(stop + rb"\r?\n", chunk[length:])):
        end += last.end()
    return Header(text.decode("latin-1"), end)


def check_magic(source: Source, header: Header, magic: str, expected: str) -> None:
    """Raise EventFileError unless the header's text begins with `magic`."""
    if not header.text.startswith(magic):
        got = source.bytes(0, 16)
        raise EventFileError(source.path, f"no {expected}: expected it to begin with {magic!r}, got {got!r}", 0)
