"""Independent writers and plain readers of event formats, one event at a time, from the formats' definitions.

Rows are (t, x, y, p). The writers take what their format can hold; the readers take sound files only.
"""

import struct
from collections.abc import Iterable
from pathlib import Path

Row = tuple[int, int, int, int]


def five_bytes(rows: Iterable[Row]) -> bytes:
    data, added = bytearray(), 0
    for t, x, y, p in rows:
        while t - added >= 2**23:
            data += bytes([0, 240, 0, 0, 0])
            added += 2**13
        data += bytes([x, y]) + (p << 23 | t - added).to_bytes(3, "big")
    return bytes(data)


def plain_five(data: bytes) -> list[Row]:
    rows, added = [], 0
    for i in range(0, len(data), 5):
        x, y, rest = data[i], data[i + 1], int.from_bytes(data[i + 2 : i + 5], "big")
        if y == 240:
            added += 8192
        else:
            rows.append((rest % 2**23 + added, x, y, rest >> 23))
    return rows


AEDAT2_HEADER = b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n"
DVS128_HEADER = AEDAT2_HEADER + b"# AEChip: ch.unizh.ini.jaer.chip.retina.DVS128\r\n"
DAVIS240_HEADER = AEDAT2_HEADER + b"# AEChip: eu.seebetter.ini.chips.davis.DAVIS240C\r\n"
SPECIALS = {"dvs128": 0x8000, "davis240": 0x80000ABC, "trigger": 0x400, "both": 0x80008000}


def jaer_address(x: int, y: int, p: int, chip: str) -> int:
    """What jAER stores of an event at (x, y) from the top left: rows from the bottom, columns from the right.

    A DVS128 has 1 for OFF (DVS128.java: `type = (1 - addr) & 1`), a DAVIS has 1 for ON (DavisBaseCamera.java).
    """
    if chip == "davis240":
        return (179 - y) << 22 | (239 - x) << 12 | p << 11
    return (127 - y) << 8 | (127 - x) << 1 | (1 - p)


def aedat2(rows: Iterable[Row], chip: str = "dvs128", header: bytes | None = None, specials: bool = False) -> bytes:
    """`specials` puts a word that is no event, with any time, before every second event."""
    head = {"dvs128": DVS128_HEADER, "davis240": DAVIS240_HEADER}[chip] if header is None else header
    data = bytearray(head)
    for number, (t, x, y, p) in enumerate(rows):
        if specials and number % 2 == 0:
            other = "trigger" if chip == "davis240" else "both"
            data += struct.pack(">II", SPECIALS[other if number % 4 else chip], 77)
        data += struct.pack(">II", jaer_address(x, y, p, chip), t % 2**32)
    return bytes(data)


def plain_aedat2(data: bytes, chip: str = "dvs128") -> list[Row]:
    start = 0
    while data[start : start + 1] == b"#":
        start = data.index(b"\n", start) + 1
    rows, added, last = [], 0, 0
    for address, time in struct.iter_unpack(">II", data[start:]):
        if address & (0x80000400 if chip == "davis240" else 0x80008000):
            continue
        if last - time > 2**31:
            added += 2**32
        last = time
        if chip == "davis240":
            rows.append((time + added, 239 - (address >> 12 & 1023), 179 - (address >> 22 & 511), address >> 11 & 1))
        else:
            rows.append((time + added, 127 - (address >> 1 & 127), 127 - (address >> 8 & 127), (1 - address) & 1))
    return rows


AEDAT3_HEADER = (
    b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#Start-Time: 2015-10-28 18:03:51 (TZ+0200)\r\n"
    b"#!END-HEADER\r\n"
)


def packet(
    kind: int, size: int, items: list[bytes], overflow: int = 0, spare: int = 0, valid: int | None = None
) -> bytes:
    """One packet; `spare` is how many more events its capacity has room for."""
    number = len(items)
    head = struct.pack(
        "<hhiiiiii", kind, 1, size, 4, overflow, number + spare, number, number if valid is None else valid
    )
    return head + b"".join(items) + bytes(size * spare)


def polarity_event(t: int, x: int, y: int, p: int, valid: int = 1) -> bytes:
    return struct.pack("<II", x << 17 | y << 2 | p << 1 | valid, t % 2**31)


def aedat3(rows: Iterable[Row], per_packet: int = 3, extras: bool = False, header: bytes | None = None) -> bytes:
    """Packets of up to `per_packet` events; `extras` adds invalid events, other packets, empty ones, spare capacity."""
    if header is None:
        header = AEDAT3_HEADER.replace(b"#Source 1: DVS128\r\n", b"")
    data = bytearray(header)
    waiting: list[Row] = []

    def flush() -> None:
        if not waiting:
            return
        items = []
        for number, (t, x, y, p) in enumerate(waiting):
            items.append(polarity_event(t, x, y, p))
            if extras and number % 2:
                items.append(polarity_event(t, 1, 2, 1, valid=0))
        data.extend(packet(1, 8, items, waiting[0][0] >> 31, spare=2 * extras, valid=len(waiting)))
        if extras:
            data.extend(packet(0, 8, [bytes(8)] * 3))  # special
            data.extend(packet(2, 41, [b"\1" * 41]))  # a frame, of an odd size
            data.extend(packet(1, 8, []))
            data.extend(packet(3, 36, [b"#" * 36] * 2))
        waiting.clear()

    for row in rows:
        if waiting and (len(waiting) == per_packet or waiting[0][0] >> 31 != row[0] >> 31):
            flush()
        waiting.append(row)
    flush()
    return bytes(data)


def plain_aedat3(data: bytes) -> list[Row]:
    at = data.index(b"#!END-HEADER\r\n") + 14
    rows = []
    while at < len(data):
        kind, _, size, _, overflow, capacity, number, _ = struct.unpack_from("<hhiiiiii", data, at)
        at += 28
        if kind == 1:
            for word, time in struct.iter_unpack("<Ii", data[at : at + 8 * number]):
                if word & 1:
                    rows.append((overflow * 2**31 + time, word >> 17, word >> 2 & 32767, word >> 1 & 1))
        at += size * capacity
    return rows


EVT2_HEADER = b"% date 2024-01-01 00:00:00\n% evt 2.0\n% end\n"
EVT21_HEADER = b"% evt 2.1\n% end\n"
EVT3_HEADER = b"% evt 3.0\n% end\n"


def evt2(rows: Iterable[Row], header: bytes = EVT2_HEADER, extras: bool = False) -> bytes:
    data, high = bytearray(header), -1
    for number, (t, x, y, p) in enumerate(rows):
        if t >> 6 != high or number % 7 == 0:
            high = t >> 6
            data += struct.pack("<I", 8 << 28 | high % 2**28)
        if extras and number % 3 == 0:
            data += struct.pack("<III", 10 << 28 | 5, 14 << 28, 15 << 28 | 0xFFFFFFF)
        data += struct.pack("<I", p << 28 | (t & 63) << 22 | x << 11 | y)
    return bytes(data)


def raw_body(data: bytes) -> bytes:
    if b"% end\n" in data[:4096]:
        return data[data.index(b"% end\n") + 6 :]
    start = 0
    while data[start : start + 1] == b"%":
        start = data.index(b"\n", start) + 1
    return data[start:]


def plain_evt2(data: bytes) -> list[Row]:
    rows, high, added = [], None, 0
    for (word,) in struct.iter_unpack("<I", raw_body(data)):
        kind = word >> 28
        if kind == 8:
            now = word % 2**28
            if high is not None and high - now > 2**27:
                added += 2**34
            high = now
        elif kind <= 1 and high is not None:
            rows.append((added + high * 64 + (word >> 22 & 63), word >> 11 & 2047, word & 2047, kind))
    return rows


def evt21(rows: Iterable[Row], header: bytes = EVT21_HEADER, upper_first: bool = False) -> bytes:
    """Events of one time, row, polarity and group of 32 columns share a word where they are in order of x."""
    words: list[tuple[int, int]] = []
    high, open_key, last_x = -1, None, -1
    for t, x, y, p in rows:
        if t >> 6 != high:
            high, open_key = t >> 6, None
            words.append((8 << 28 | high % 2**28, 0))
        key = (t, x // 32 * 32, y, p)
        if key != open_key or x <= last_x:
            words.append((p << 28 | (t & 63) << 22 | x // 32 * 32 << 11 | y, 0))
            open_key = key
        words[-1] = (words[-1][0], words[-1][1] | 1 << x % 32)
        last_x = x
    pairs = (struct.pack("<II", *(pair if upper_first else pair[::-1])) for pair in words)
    return header + b"".join(pairs)


def plain_evt21(data: bytes, upper_first: bool = False) -> list[Row]:
    rows, high, added = [], None, 0
    for pair in struct.iter_unpack("<II", raw_body(data)):
        upper, lower = pair if upper_first else pair[::-1]
        kind = upper >> 28
        if kind == 8:
            now = upper % 2**28
            if high is not None and high - now > 2**27:
                added += 2**34
            high = now
        elif kind <= 1 and high is not None:
            t = added + high * 64 + (upper >> 22 & 63)
            x, y = upper >> 11 & 2047, upper & 2047
            rows += [(t, x + i, y, kind) for i in range(32) if lower >> i & 1]
    return rows


def evt3(
    rows: Iterable[Row],
    header: bytes = EVT3_HEADER,
    vectors: bool = True,
    extras: bool = False,
    implicit_low: bool = True,
) -> bytes:
    """Runs of events of one time, row and polarity with rising x go into vectors where `vectors` is set.

    `implicit_low`: a low time of zero is not written after a new high time, which implies it.
    """
    words: list[int] = []
    high, low, row = None, None, None
    rows = list(rows)
    i = 0
    while i < len(rows):
        t, x, y, p = rows[i]
        if high != t >> 12:
            high, low = t >> 12, None
            words.append(0x8000 | high % 4096)
        if low != t & 4095 and not (implicit_low and low is None and t & 4095 == 0):
            words.append(0x6000 | t & 4095)
        low = t & 4095
        if row != y:
            row = y
            words.append(y)
        if extras:
            words += [0x7001, 0xA001, 0xE123, 0xF0FF]
        run = 1
        while (
            vectors
            and i + run < len(rows)
            and (rows[i + run][0], *rows[i + run][2:]) == (t, y, p)
            and rows[i + run - 1][1] < rows[i + run][1] < x + 32
        ):
            run += 1
        if run > 1:
            mask = sum(1 << other[1] - x for other in rows[i : i + run])
            words += [0x3000 | p << 11 | x, 0x4000 | mask & 4095, 0x4000 | mask >> 12 & 4095, 0x5000 | mask >> 24]
        else:
            words.append(0x2000 | p << 11 | x)
        i += run
    return header + struct.pack(f"<{len(words)}H", *words)


def plain_evt3(data: bytes) -> list[Row]:
    rows = []
    added, high, low, y, base, polarity = 0, None, 0, None, None, 0
    for (word,) in struct.iter_unpack("<H", raw_body(data)):
        kind, value = word >> 12, word & 4095
        if kind == 0:
            y = value & 2047
        elif kind == 3:
            base, polarity = value & 2047, value >> 11
        elif kind == 6:
            low = value
        elif kind == 8:
            if high is not None and high - value > 2**11:
                added += 2**24
            if high != value:
                low = 0
            high = value
        elif kind == 2 and high is not None and y is not None:
            rows.append((added + high * 4096 + low, value & 2047, y, value >> 11))
        elif kind in (4, 5) and base is not None:
            width = 12 if kind == 4 else 8
            if high is not None and y is not None:
                time = added + high * 4096 + low
                rows += [(time, base + i, y, polarity) for i in range(width) if value >> i & 1]
            base += width
    return rows


def dat(rows: Iterable[Row], version: int = 2, header: bytes | None = None) -> bytes:
    if header is None:
        header = b"% Data file containing CD events.\n% Version " + str(version).encode() + b"\n"
    data = bytearray(header + bytes([12 if version == 2 else 0, 8]))
    for t, x, y, p in rows:
        address = p << 28 | y << 14 | x if version == 2 else p << 17 | y << 9 | x
        data += struct.pack("<II", t % 2**32, address)
    return bytes(data)


def plain_dat(data: bytes) -> list[Row]:
    start = 0
    while data[start : start + 1] == b"%":
        start = data.index(b"\n", start) + 1
    version1 = b"% Version 2" not in data[:start]
    rows, added, last = [], 0, 0
    for time, address in struct.iter_unpack("<II", data[start + 2 :]):
        if last - time > 2**31:
            added += 2**32
        last = time
        if version1:
            rows.append((time + added, address & 511, address >> 9 & 255, address >> 17 & 1))
        else:
            rows.append((time + added, address & 16383, address >> 14 & 16383, address >> 28))
    return rows


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path
