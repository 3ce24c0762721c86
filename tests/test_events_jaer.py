"""AEDAT 2.0 as jAER means it: polarity, orientation, special words, and what lies outside the chip.

The golden events were worked out by hand from the lines of jAER that decode an address, then turned from its origin at
the bottom left to ours at the top left: y = height - 1 - e.y. Of the DVS128 (ch.unizh.ini.jaer.chip.retina.DVS128):

    e.type = (byte) ((1 - addr) & 1);    // 0 is Off, 1 is On
    e.x = (short) (sxm - ((short) ((addr & XMASK) >>> XSHIFT)));    // sxm = 127, XMASK = 0xfe, XSHIFT = 1
    e.y = (short) ((addr & YMASK) >>> YSHIFT);    // YMASK = 0x7f00, YSHIFT = 8

and of a DAVIS (eu.seebetter.ini.chips.davis.DavisBaseCamera):

    e.polarity = (data & DavisChip.POLMASK) == DavisChip.POLMASK ? On : Off;    // bit 11
    e.x = (short) (sx1 - ((data & DavisChip.XMASK) >>> DavisChip.XSHIFT));    // sx1 = width - 1; bits 21-12
    e.y = (short) ((data & DavisChip.YMASK) >>> DavisChip.YSHIFT);    // bits 30-22

libcaer (src/dvs128.c) says the same of a DVS128: it inverts the polarity ("hardware is like this"), x and y.
"""

import struct
from collections.abc import Iterable
from pathlib import Path

import event_files as files
import numpy as np
import pytest
from event_files import Row, written

from maqd_snn.datasets import data_root
from maqd_snn.datasets.events import EventFileError, read_events, read_recording, stream_events

CHIP = b"# AEChip: eu.seebetter.ini.chips.davis.%s\r\n"
HEADERS = {
    "DVS128": files.DVS128_HEADER,
    "DAVIS240C": files.DAVIS240_HEADER,
    "Davis346B": files.AEDAT2_HEADER + CHIP % b"Davis346B",
    "DavisNew": files.AEDAT2_HEADER + CHIP % b"DavisNew",  # of a size that nobody knows
    "": files.AEDAT2_HEADER,
}
GOLDEN: dict[str, dict[int, tuple[int, int, int]]] = {
    "DVS128": {
        0x0000: (127, 127, 1),
        0x0001: (127, 127, 0),
        0x7FFF: (0, 0, 0),
        0x7FFE: (0, 0, 1),
        0x0A15: (117, 117, 0),
        0x7F02: (126, 0, 1),
        0x00FF: (0, 127, 0),
    },
    "DAVIS240C": {
        0x00000000: (239, 179, 0),
        0x00000800: (239, 179, 1),
        5 << 22 | 7 << 12 | 0x800: (232, 174, 1),
        179 << 22 | 239 << 12: (0, 0, 0),
    },
    "Davis346B": {0x00000800: (345, 259, 1), 259 << 22 | 345 << 12: (0, 0, 0), 1 << 22 | 2 << 12: (343, 258, 0)},
    # The address's own, where the size is unknown.
    "DavisNew": {5 << 22 | 7 << 12 | 0x800: (7, 5, 1), 511 << 22 | 1023 << 12: (1023, 511, 0)},
    "": {5 << 22 | 7 << 12 | 0x800: (7, 5, 1), 0: (0, 0, 0)},
}


pytestmark = pytest.mark.usefixtures("way")


def file_of(folder: Path, chip: str, addresses: Iterable[int]) -> Path:
    """An AEDAT 2.0 file of these addresses, at times 0, 10, 20, ..."""
    body = b"".join(struct.pack(">II", address, 10 * number) for number, address in enumerate(addresses))
    return written(folder, "a.aedat", HEADERS[chip] + body)


@pytest.mark.parametrize("chip", GOLDEN)
def test_golden_events(chip: str, tmp_path: Path) -> None:
    path = file_of(tmp_path, chip, GOLDEN[chip])
    expected: list[Row] = [(10 * number, *event) for number, event in enumerate(GOLDEN[chip].values())]
    recording = read_recording(path)
    assert recording.events.tolist() == expected
    sizes = {"DVS128": (128, 128), "DAVIS240C": (240, 180), "Davis346B": (346, 260)}
    assert recording.sensor == sizes.get(chip)
    assert [row for part in stream_events(path, 10) for row in part.tolist()] == expected


def test_every_address_of_a_dvs128(tmp_path: Path) -> None:
    events = read_events(file_of(tmp_path, "DVS128", range(2**15)))
    address = np.arange(2**15)
    assert (events["x"] == 127 - (address >> 1 & 127)).all()
    assert (events["y"] == 127 - (address >> 8)).all()
    assert (events["p"] == (1 - address) & 1).all()


@pytest.mark.parametrize("special", [0x8000, 0x80000000, 0x80008000, 0x80008ABC, 0xFFFF])
def test_special_words_of_a_dvs128_are_no_events(special: int, tmp_path: Path) -> None:
    addresses = [special, 0x0A15, special, special, 0x7FFE]
    expected = [(10, 117, 117, 0), (40, 0, 0, 1)]
    for chip in ("DVS128", ""):  # a bit 31 alone makes no DAVIS
        recording = read_recording(file_of(tmp_path, chip, addresses))
        assert (recording.events.tolist(), recording.skipped_bytes) == (expected, 0)
        assert recording.sensor == (128, 128)
    addresses[3] = special & 0x80008000 | 0x10000  # an address of more than 15 bits is damage, special or not
    with pytest.raises(EventFileError, match="none of a DVS128") as caught:
        read_events(file_of(tmp_path, "DVS128", addresses))
    assert caught.value.offset == len(files.DVS128_HEADER) + 24


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize(
    ("column", "row", "pixel"),
    [(240, 0, r"\(-1, 179\)"), (1023, 3, r"\(-784, 176\)"), (0, 180, r"\(239, -1\)"), (240, 511, r"\(-1, -332\)")],
)
def test_outside_the_chip(column: int, row: int, pixel: str, planned: bool, tmp_path: Path) -> None:
    addresses = [0x800] * 3 + [row << 22 | column << 12] + [0x80000000] * (9 * planned)
    path = file_of(tmp_path, "DAVIS240C", addresses)
    offset = len(files.DAVIS240_HEADER) + 24
    with pytest.raises(EventFileError, match=f"pixel {pixel} lies outside the sensor of 240 x 180") as caught:
        read_events(path)
    assert caught.value.offset == offset
    with pytest.raises(EventFileError, match=f"pixel {pixel} lies outside the sensor of 240 x 180") as caught:
        list(stream_events(path, 10))
    assert caught.value.offset == offset
    recording = read_recording(path, skip_damaged=True)
    assert recording.events[["x", "y", "p"]].tolist() == [(239, 179, 1)] * 3
    assert recording.skipped_events == 1
    with pytest.raises(EventFileError, match="lies outside the sensor of 2000 x 2000"):  # no sensor holds it
        read_events(path, sensor=(2000, 2000))


def test_the_same_scene_as_aedat_3(tmp_path: Path) -> None:
    """libcaer turns the same camera's addresses into AEDAT 3.1 with the origin at the top left, 1 for ON."""
    rows = [(0, 3, 4, 1), (1, 120, 2, 0), (2, 64, 127, 1)]
    old = read_events(written(tmp_path, "a.aedat", files.aedat2(rows)))
    new = read_events(written(tmp_path, "b.aedat", files.aedat3(rows)))
    assert old.tolist() == new.tolist() == rows


@pytest.mark.parametrize("name", ["pendulum", "pencil_timestamps_above_2e31"])
def test_lonely_events_are_mostly_brighter(name: str) -> None:
    """Isolated events of a DVS128 are mostly leakage of its reset switch, which is ON."""
    path = data_root() / "events" / "dvs128_aedat2" / f"{name}.aedat"
    if not path.exists():
        pytest.skip(f"no {path}; set MAQD_DATA_ROOT")
    events = read_events(path)
    place = ((events["t"] - events["t"][0]) // 50_000 * 8 + events["y"] // 16) * 8 + events["x"] // 16
    _, first, count = np.unique(place, return_index=True, return_counts=True)
    lonely = events["p"][first[count == 1]]  # alone in 16 x 16 pixels for 50 ms
    assert len(lonely) > 2000
    assert lonely.mean() > 0.65


@pytest.mark.parametrize("chip", ["dvs128", "davis240"])
def test_tonic_reads_the_same_addresses(chip: str, tmp_path: Path) -> None:
    """Tonic gives the address's own fields; turned here, they are ours."""
    tonic = pytest.importorskip("tonic.io")
    generator = np.random.default_rng(0)
    width, height = (128, 128) if chip == "dvs128" else (240, 180)
    sides = (generator.integers(0, side, 500).tolist() for side in (width, height, 2))
    rows = list(zip(range(500), *sides, strict=True))
    data = files.aedat2(rows, chip)
    path = written(tmp_path, "a.aedat", data)
    words = tonic.get_aer_events_from_file(str(path), 2, len(data) - 8 * len(rows))
    address = words["address"].astype(np.int64)
    if chip == "dvs128":
        x, y, p = 127 - (address >> 1 & 127), 127 - (address >> 8 & 127), 1 - (address & 1)
    else:
        x, y, p = 239 - (address >> 12 & 1023), 179 - (address >> 22 & 511), address >> 11 & 1
    ours = read_events(path)
    for field, theirs in zip("txyp", (words["timeStamp"], x, y, p), strict=True):
        assert ours[field].tolist() == theirs.astype(int).tolist()
