"""Rows of `maqd bench events`: decoding files, beside tonic, expelliarmus and faery."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from maqd_snn.benchmarks.lines import Line, Row, Setting
from maqd_snn.datasets.events import read_events

OURS = "maqd-snn"
UNIT = "M events/s"


def _lines(what: str, setting: Setting, path: Path, peers: dict[str, Callable[[Path], Any]]) -> Iterator[Line]:
    events = len(read_events(path))
    note = f"{events / 1e6:.1f} M events, {path.stat().st_size / 1e6:.0f} MB"
    yield Line(what, OURS, events / setting.best(lambda: read_events(path)) / 1e6, UNIT, note)
    for who, read in peers.items():
        try:
            yield Line(what, who, events / setting.best(lambda read=read: read(path), 3) / 1e6, UNIT)  # type: ignore[misc]
        except ImportError:
            continue


def five_byte(setting: Setting) -> Iterable[Line]:
    """The 5-byte format of N-MNIST."""

    def tonic(path: Path) -> Any:
        from tonic.io import events_struct, read_mnist_file

        return read_mnist_file(str(path), dtype=events_struct)

    count = 10**5 if setting.quick else 3 * 10**7
    generator = np.random.default_rng(0)
    times = np.sort(generator.integers(0, 2**23, count)).astype(">u4")
    words = np.empty((count, 5), np.uint8)
    words[:, :2] = generator.integers(0, 34, (count, 2))
    words[:, 2:] = times.view(np.uint8).reshape(-1, 4)[:, 1:]
    words[:, 2] |= generator.integers(0, 2, count, dtype=np.uint8) << 7
    path = setting.folder / "five.bin"
    words.tofile(path)
    return _lines("5-byte", setting, path, {"tonic": tonic})


def _columns(setting: Setting, width: int, height: int, count: int, last: int) -> list[Any]:
    count = 10**5 if setting.quick else count
    generator = np.random.default_rng(0)
    times = np.sort(generator.integers(0, last, count)).astype(np.uint32)
    sides = [generator.integers(0, side, count, dtype=np.uint32) for side in (width, height, 2)]
    return [times, *sides]


def aedat2(setting: Setting) -> Iterable[Line]:
    """AEDAT 2.0 of a DVS128, pairs of big-endian numbers."""
    header = b"#!AER-DAT2.0\r\n# AEChip: DVS128\r\n"

    def tonic(path: Path) -> Any:
        from tonic.io import get_aer_events_from_file, make_structured_array

        words = get_aer_events_from_file(str(path), 2, len(header))
        address = words["address"]
        return make_structured_array((address >> 8) & 127, (address >> 1) & 127, words["timeStamp"], address & 1)

    t, x, y, p = _columns(setting, 128, 128, 2 * 10**7, 2**32 - 1)
    path = setting.folder / "a.aedat"
    with path.open("wb") as file:
        file.write(header)
        np.stack([y << 8 | x << 1 | p, t], axis=1).astype(">u4").tofile(file)
    return _lines("AEDAT 2.0", setting, path, {"tonic": tonic})


def aedat3(setting: Setting) -> Iterable[Line]:
    """AEDAT 3.1, packets of 4096 events."""
    t, x, y, p = _columns(setting, 128, 128, 2 * 10**7, 2**31 - 1)
    size = 4096
    whole = len(t) // size * size
    words = np.stack([x << 17 | y << 2 | p << 1 | 1, t], axis=1)[:whole].astype("<u4").view(np.uint8)
    head = np.array([1 | 1 << 16, 8, 4, 0, size, size, size], "<i4").view(np.uint8)
    packets = np.empty((whole // size, 28 + 8 * size), np.uint8)
    packets[:, :28] = head
    packets[:, 28:] = words.reshape(-1, 8 * size)
    path = setting.folder / "a.aedat"
    with path.open("wb") as file:
        file.write(b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n")
        packets.tofile(file)
    return _lines("AEDAT 3.1", setting, path, {})


def _expelliarmus(encoding: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        from expelliarmus import Wizard

        return Wizard(encoding=encoding).read(path)

    return read


def _faery(path: Path) -> Any:
    import faery

    return sum(len(packet) for packet in faery.events_stream_from_file(path))


def evt2(setting: Setting) -> Iterable[Line]:
    """EVT 2.0, a time word every 64 us."""
    t, x, y, p = _columns(setting, 1280, 720, 2 * 10**7, 2**24)
    words = p << 28 | (t & 63) << 22 | x << 11 | y
    first = np.flatnonzero(np.diff(t >> 6, prepend=-1))
    words = np.insert(words, first, 8 << 28 | t[first] >> 6)
    path = setting.folder / "a.raw"
    with path.open("wb") as file:
        file.write(b"% evt 2.0\n% end\n")
        words.astype("<u4").tofile(file)
    return _lines("EVT 2.0", setting, path, {"expelliarmus": _expelliarmus("evt2"), "faery": _faery})


def evt3(setting: Setting) -> Iterable[Line]:
    """EVT 3.0, single events: time, row and column of each."""
    t, x, y, p = _columns(setting, 1280, 720, 10**7, 2**24)
    high = np.diff(t >> 12, prepend=-1) != 0
    words = np.stack([0x8000 | t >> 12, 0x6000 | t & 4095, y, 0x2000 | p << 11 | x], axis=1)
    kept = np.ones(words.shape, np.bool_)
    kept[:, 0] = high
    kept[1:, 1] = (np.diff(t) != 0) | high[1:]
    path = setting.folder / "a.raw"
    with path.open("wb") as file:
        file.write(b"% evt 3.0\n% end\n")
        words[kept].astype("<u2").tofile(file)
    return _lines("EVT 3.0", setting, path, {"expelliarmus": _expelliarmus("evt3"), "faery": _faery})


READER_ROWS: Mapping[str, Row] = MappingProxyType(
    {"5-byte": five_byte, "aedat2": aedat2, "aedat3": aedat3, "evt2": evt2, "evt3": evt3}
)
