"""Headers of text lines that all begin with one character, in front of binary data."""

import re
from dataclasses import dataclass

from maqd_snn.datasets.events.recording import EventFileError
from maqd_snn.datasets.events.source import Source

_CHUNK = 2**20  # read at a time
_KEPT = 2**20  # of the text, for what the header says
_NO_TEXT = re.compile(rb"[\x00-\x08\x0a-\x0c\x0e-\x1f]")


@dataclass(frozen=True)
class Header:
    """The first MB of a header's text, and where the data begin."""

    text: str
    end: int


def read_header(source: Source, mark: bytes, stop: bytes | None = None) -> Header:
    """Read all lines from the start of the file on that begin with `mark`, up to the line `stop` where there is one.

    Lines and header may be of any length. A line is text without control characters, and ends with a line feed: data
    that happen to begin with `mark` are hardly ever taken for a line.

    Raises:
        EventFileError: the file ends inside a line.
    """
    begun = mark + rb"[^\x00-\x08\x0b\x0c\x0e-\x1f\n]*+"
    lines = re.compile(rb"(?:" + (rb"(?!" + stop + rb"\r?\n)" if stop else b"") + begun + rb"\n)*+")
    text, end = b"", 0
    while True:
        chunk = source.bytes(end, _CHUNK)
        found = lines.match(chunk)
        length = found.end() if found else 0
        if length == 0 and len(chunk) == _CHUNK and re.fullmatch(begun, chunk):  # a line longer than that
            after = _line_end(source, end + _CHUNK)
            if after is None:
                break
            text, end = (text + chunk)[:_KEPT], after
            continue
        text = (text + chunk[:length])[:_KEPT]
        end += length
        if length == 0 or (length < len(chunk) and (chunk[length : length + 1] != mark or len(chunk) < _CHUNK)):
            break
    if end + len(chunk) - length == source.size and re.fullmatch(begun, chunk[length:]):
        raise EventFileError(source.path, "truncated inside the header", source.size)
    if stop and (last := re.match(stop + rb"\r?\n", chunk[length:])):
        end += last.end()
    return Header(text.decode("latin-1"), end)


def _line_end(source: Source, start: int) -> int | None:
    """Return where the line ends that goes on at byte `start`, behind its line feed; None where it is no text.

    Raises:
        EventFileError: the file ends inside the line.
    """
    while chunk := source.bytes(start, _CHUNK):
        if found := _NO_TEXT.search(chunk):
            return start + found.end() if found[0] == b"\n" else None
        start += len(chunk)
    raise EventFileError(source.path, "truncated inside the header", source.size)


def check_magic(source: Source, header: Header, magic: str, expected: str) -> None:
    """Raise EventFileError unless the header's text begins with `magic`."""
    if not header.text.startswith(magic):
        got = source.bytes(0, 16)
        raise EventFileError(source.path, f"no {expected}: expected it to begin with {magic!r}, got {got!r}", 0)
