"""Slow decoders of AEDAT 4 and Event Stream, from their descriptions, for the tests: nothing of faery's is used.

Every decoder returns rows (t, x, y, p) in the order of the file, and takes sound files only.
"""

import struct
from collections.abc import Iterator

Row = tuple[int, int, int, int]

AEDAT4_MAGIC = b"#!AER-DAT4.0\r\n"
STREAM_MAGIC = b"Event Stream"
LZ4_MAGIC = 0x184D2204


def aedat4(data: bytes) -> list[Row]:
    """Return the events of every EVTS packet: flatbuffers in LZ4 frames, or as they are.

    After the magic comes the header, a flatbuffer with its size before it; then packets: stream, size, and as many
    bytes. A packet's table has one field, a vector of 16 bytes an event: t (int64), x, y (int16), p (one byte),
    padding. Where the header's second field says where the list of packets stands, packets end there.
    """
    if not data.startswith(AEDAT4_MAGIC):
        raise AssertionError("no AEDAT 4")
    at = len(AEDAT4_MAGIC)
    header, at = _sized(data, at)
    compression = _scalar(header, 0, "<i", 0)
    end = _scalar(header, 1, "<q", -1)
    rows: list[Row] = []
    end = len(data) if end < 0 else end
    while at < end:
        size = struct.unpack_from("<ii", data, at)[1]
        packet = data[at + 8 : at + 8 + size]
        at += 8 + size
        if compression in (1, 2):  # LZ4, and LZ4 at its higher level
            packet = lz4_frame(packet)
        elif compression != 0:
            raise AssertionError(f"compression {compression}")
        table, _ = _sized(packet, 0)
        if table[4:8] == b"EVTS":
            rows.extend(_events(table))
    return rows


def event_stream(data: bytes) -> list[Row]:
    """Return the events of a DVS stream (type 1), version 2.

    Header: magic, three bytes of version, the type, width and height (uint16). An event is five bytes: the time since
    the last one in seven bits above the polarity, then x and y (uint16), y from the bottom. A lone byte 0xff is 127 us
    without an event. Files with a lone 0xfe (the sender was reset) are not taken.
    """
    if not (data.startswith(STREAM_MAGIC) and data[12] == 2 and data[15] == 1):
        raise AssertionError("no Event Stream 2 of a DVS")
    (height,) = struct.unpack_from("<H", data, 18)
    at, t = 20, 0
    rows: list[Row] = []
    while at < len(data):
        first = data[at]
        if first == 0xFE:
            raise AssertionError(f"a reset at byte {at}")
        t += first >> 1
        if first == 0xFF:
            at += 1
            continue
        x, y = struct.unpack_from("<HH", data, at + 1)
        rows.append((t, x, height - 1 - y, first & 1))
        at += 5
    return rows


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    """Return the flatbuffer whose size stands at `at`, and where it ends."""
    (size,) = struct.unpack_from("<I", data, at)
    return data[at + 4 : at + 4 + size], at + 4 + size


def _field(buffer: bytes, number: int) -> int | None:
    """Return where the root table's field stands; None where it is left out."""
    (root,) = struct.unpack_from("<I", buffer, 0)
    layout = root - struct.unpack_from("<i", buffer, root)[0]
    (length,) = struct.unpack_from("<H", buffer, layout)
    if 4 + 2 * number + 2 > length:
        return None
    (offset,) = struct.unpack_from("<H", buffer, layout + 4 + 2 * number)
    return root + offset if offset else None


def _scalar(buffer: bytes, number: int, kind: str, default: int) -> int:
    at = _field(buffer, number)
    return default if at is None else int(struct.unpack_from(kind, buffer, at)[0])


def _events(table: bytes) -> Iterator[Row]:
    at = _field(table, 0)
    if at is None:
        return
    at += struct.unpack_from("<I", table, at)[0]
    (count,) = struct.unpack_from("<I", table, at)
    for number in range(count):
        t, x, y, p = struct.unpack_from("<qhhB", table, at + 4 + 16 * number)
        yield t, x, y, p


def lz4_frame(data: bytes) -> bytes:
    """Return the content of one LZ4 frame; its checksums are not looked at."""
    magic, flags = struct.unpack_from("<IB", data, 0)
    if magic != LZ4_MAGIC:
        raise AssertionError(f"no LZ4 frame: {magic:#x}")
    at = 7 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0)
    out = bytearray()
    while size := struct.unpack_from("<I", data, at)[0]:
        block = data[at + 4 : at + 4 + (size & 0x7FFFFFFF)]
        at += 4 + len(block) + (4 if flags & 16 else 0)
        if size & 0x80000000:
            out += block
        else:
            _lz4_block(block, out)
    return bytes(out)


def _lz4_block(block: bytes, out: bytearray) -> None:
    """Append what a block stands for: sequences of literals and of copies of what was written before."""
    at = 0

    def length(nibble: int) -> int:
        nonlocal at
        total = nibble
        while nibble == 15:
            total += block[at]
            at += 1
            if block[at - 1] != 255:
                break
        return total

    while at < len(block):
        token = block[at]
        at += 1
        literals = length(token >> 4)
        out += block[at : at + literals]
        at += literals
        if at == len(block):  # the last sequence has no copy
            return
        distance = block[at] | block[at + 1] << 8
        at += 2
        count = length(token & 15) + 4
        start = len(out) - distance
        if distance >= count:
            out += out[start : start + count]
        else:
            for index in range(count):  # the copy overlaps what it writes
                out.append(out[start + index])
