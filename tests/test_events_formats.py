"""The binary event formats: independent writers and readers, compiled code and NumPy, real recordings, bad input."""

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import event_files as files
import pytest
from event_files import Row, written
from hypothesis import given, settings
from hypothesis import strategies as st

from maqd_snn.datasets import data_root
from maqd_snn.datasets.events import EventFileError, find_format, read_events, read_recording, stream_events
from maqd_snn.datasets.events.decoding import BlockFormat
from maqd_snn.datasets.events.registry import FORMATS


@pytest.fixture(params=["compiled", "numpy"], autouse=True, scope="module")
def way(request: pytest.FixtureRequest) -> object:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setenv("MAQD_NO_NUMBA", "1")
        else:
            pytest.importorskip("numba")
            patch.delenv("MAQD_NO_NUMBA", raising=False)
        yield request.param


@dataclass(frozen=True)
class Case:
    """A format: its writer and plain reader, and the rows that it can hold: time edges, width, height."""

    format: str
    name: str
    write: Callable[[list[Row]], bytes]
    plain: Callable[[bytes], list[Row]]
    times: tuple[int, ...]
    width: int
    height: int
    gap: int  # the longest pause that the format can tell from time running backwards


WRAP32 = (0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 2**32, 2**32 + 2**31, 2**33)
CASES = {
    "5-byte": Case(
        "5-byte",
        "a.bin",
        files.five_bytes,
        files.plain_five,
        (0, 65535, 65536, 2**23 - 1, 2**23, 2**24),
        256,
        240,
        2**40,
    ),
    "aedat2": Case("aedat2", "a.aedat", files.aedat2, files.plain_aedat2, WRAP32, 128, 128, 2**31 - 1),
    "aedat2-davis": Case(
        "aedat2",
        "a.aedat",
        lambda rows: files.aedat2(rows, "davis240", specials=True),
        lambda data: files.plain_aedat2(data, "davis240"),
        WRAP32,
        240,
        180,
        2**31 - 1,
    ),
    "aedat3": Case("aedat3", "a.aedat", files.aedat3, files.plain_aedat3, (*WRAP32, 2**40, 2**61), 2**15, 2**15, 2**62),
    "aedat3-extras": Case(
        "aedat3",
        "a.aedat",
        lambda rows: files.aedat3(rows, 2, extras=True),
        files.plain_aedat3,
        WRAP32,
        2**15,
        2**15,
        2**40,
    ),
    "evt2": Case(
        "evt2",
        "a.raw",
        lambda rows: files.evt2(rows, extras=True),
        files.plain_evt2,
        (0, 63, 64, 2**32, 2**33, 2**34 - 1, 2**34, 2**35),
        2048,
        2048,
        2**33 - 64,
    ),
    "evt2.1": Case(
        "evt2.1", "a.raw", files.evt21, files.plain_evt21, (0, 63, 64, 2**34 - 1, 2**34, 2**35), 2048, 2048, 2**33 - 64
    ),
    "evt2.1-upper-first": Case(
        "evt2.1",
        "a.raw",
        lambda rows: files.evt21(rows, upper_first=True),
        lambda data: files.plain_evt21(data, upper_first=True),
        (0, 63, 64, 2**34 - 1, 2**34),
        2048,
        2048,
        2**33 - 64,
    ),
    "evt3": Case(
        "evt3",
        "a.raw",
        files.evt3,
        files.plain_evt3,
        (0, 4095, 4096, 2**23, 2**24 - 1, 2**24, 2**25),
        2048,
        2048,
        2**23 - 4096,
    ),
    "evt3-extras": Case(
        "evt3",
        "a.raw",
        lambda rows: files.evt3(rows, vectors=False, extras=True),
        files.plain_evt3,
        (0, 4095, 4096, 2**24 - 1, 2**24),
        2048,
        2048,
        2**23 - 4096,
    ),
    "dat": Case("dat", "a.dat", files.dat, files.plain_dat, WRAP32, 2**14, 2**14, 2**31 - 1),
    "dat-version1": Case("dat", "a.dat", lambda rows: files.dat(rows, 1), files.plain_dat, WRAP32, 512, 256, 2**31 - 1),
}


def without_long_pauses(rows: list[Row], gap: int) -> list[Row]:
    """Sorted rows whose time is moved so that no pause exceeds what the format can tell; the first is below a wrap."""
    moved: list[Row] = []
    late = before = 0
    for t, x, y, p in sorted(rows):
        late += max(0, t - late - before - gap)
        before = t - late
        moved.append((before, x, y, p))
    return moved


def rows_of(case: Case) -> st.SearchStrategy[list[Row]]:
    event = st.tuples(
        st.sampled_from(case.times) | st.integers(0, max(case.times)),
        st.sampled_from([0, 1, case.width - 1]) | st.integers(0, case.width - 1),
        st.sampled_from([0, 1, case.height - 1]) | st.integers(0, case.height - 1),
        st.integers(0, 1),
    )
    burst = st.tuples(event, st.lists(st.integers(1, 13), max_size=6)).map(
        lambda drawn: [
            (drawn[0][0], x, *drawn[0][2:])
            for step in range(len(drawn[1]) + 1)
            if (x := drawn[0][1] + sum(drawn[1][:step])) < case.width
        ]
    )
    return st.lists(burst, min_size=1, max_size=20).map(
        lambda bursts: without_long_pauses([row for burst in bursts for row in burst], case.gap)
    )


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_read(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    case = CASES[name]
    folder = tmp_path_factory.mktemp("events")

    @settings(max_examples=50)
    @given(rows=rows_of(case))
    def check(rows: list[Row]) -> None:
        path = written(folder, case.name, case.write(rows))
        assert case.plain(path.read_bytes()) == rows  # the writer and the plain reader agree: the case is sound
        assert find_format(path).name == case.format
        recording = read_recording(path)
        assert recording.events.tolist() == rows
        assert (recording.format, recording.skipped_bytes, recording.skipped_events) == (case.format, 0, 0)

    check()


@pytest.mark.parametrize("name", CASES)
def test_state_crosses_blocks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    generator = random.Random(3)
    span = min(max(case.times), case.gap * 3)
    rows: list[Row] = []
    for t in sorted(generator.randrange(span) for _ in range(60)):
        x, y, p = generator.randrange(case.width), generator.randrange(case.height), generator.randrange(2)
        rows += [(t, x + k, y, p) for k in sorted(generator.sample(range(40), 5)) if x + k < case.width]
    rows = without_long_pauses(rows, case.gap)
    path = written(tmp_path, case.name, case.write(rows))
    entry = FORMATS[case.format]
    assert isinstance(entry, BlockFormat)
    for words in (4, 5, 64):
        monkeypatch.setattr(type(entry), "block_bytes", words * max(entry.word, 8) if entry.word != 5 else words * 5)
        assert read_events(path).tolist() == rows
        parts = list(stream_events(path, max(1, span // 50), start_us=0))
        assert [row for part in parts for row in part.tolist()] == rows


@pytest.mark.parametrize("name", ["5-byte", "aedat2"])
def test_a_few_words_that_are_no_events_need_no_plan(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    case, entry = CASES[name], FORMATS[name]
    assert isinstance(entry, BlockFormat)
    if name == "5-byte":  # the time needs an overflow word before every eighth event
        rows = [(2**23 - 20_000 + 1000 * i, i % 99, i % 98, i % 2) for i in range(400)]
        data = case.write(rows)
    else:  # the time wraps around six times
        rows = [(2**26 * i, i % 99, i % 98, i % 2) for i in range(400)]
        words = [case.write(rows)[len(files.DVS128_HEADER) :][8 * i : 8 * i + 8] for i in range(400)]
        special = b"\0\0\x80\0\0\0\0\x4d"
        data = files.DVS128_HEADER + b"".join(word + special * (i % 8 == 0) for i, word in enumerate(words))
    monkeypatch.setattr(type(entry), "block_bytes", 16 * entry.word)
    path = written(tmp_path, case.name, data)
    planned, planned_way = [], type(entry)._planned
    monkeypatch.setattr(type(entry), "_planned", lambda *args: planned.append(1) or planned_way(*args))
    assert read_events(path).tolist() == rows
    assert bool(planned) == (way == "numpy")
    with pytest.raises(EventFileError, match=r"pixel \(98, 0\) lies outside the sensor of 98 x 99"):
        read_events(path, sensor=(98, 99))
    kept = [row for row in rows if row[1] < 98]
    assert read_events(path, sensor=(98, 99), skip_damaged=True).tolist() == kept


@pytest.mark.parametrize("name", CASES)
def test_truncated_at_any_byte(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    rows = [(10, 1, 2, 1), (20, 3, 4, 0), (200, 5, 4, 1), (9000, 6, 4, 1), (9000, 8, 4, 1)]
    whole = case.write(rows)
    refused = 0
    for length in range(len(whole)):
        path = written(tmp_path, case.name, whole[:length])
        try:
            found = read_events(path, format=case.format).tolist()
        except EventFileError:
            refused += 1
        else:
            assert found == rows[: len(found)]
            assert found  # an empty recording is refused
        try:
            recording = read_recording(path, format=case.format, skip_damaged=True)
        except EventFileError:
            continue  # not even a header
        assert recording.events.tolist() == rows[: len(recording.events)]
    assert refused > len(whole) / 3


def real(name: str) -> Path:
    path = data_root() / "events" / name
    if not path.exists():
        pytest.skip(f"no {path}; set MAQD_DATA_ROOT")
    return path


@pytest.mark.parametrize(
    ("name", "format", "count", "plain"),
    [
        ("nmnist_sample.bin", "5-byte", 4325, files.plain_five),
        ("ncars_sample.dat", "dat", 2009, files.plain_dat),
        ("evt2_640x480.raw", "evt2", 521252, files.plain_evt2),
        ("dvs128_aedat2/pendulum.aedat", "aedat2", 160245, files.plain_aedat2),
        ("dvs128_aedat2/pencil_timestamps_above_2e31.aedat", "aedat2", 126164, files.plain_aedat2),
    ],
)
def test_real_recordings(name: str, format: str, count: int, plain: Callable[[bytes], list[Row]]) -> None:
    path = real(name)
    recording = read_recording(path)
    assert (recording.format, len(recording.events)) == (format, count)
    assert recording.events.tolist() == plain(path.read_bytes())


def test_gesture_clips() -> None:
    clips = sorted(real("dvs128_gesture_clips").glob("*.bin"))
    assert len(clips) == 10
    for path in clips:
        events = read_events(path, sensor=(128, 128))
        assert 63_000 <= len(events) <= 182_000
        assert events.tolist() == files.plain_five(path.read_bytes())


@pytest.mark.parametrize("name", ["evt2", "evt3", "dat"])
def test_expelliarmus_agrees(name: str, tmp_path: Path) -> None:
    expelliarmus = pytest.importorskip("expelliarmus")
    case = CASES[name]
    generator = random.Random(5)
    # one high time of EVT 3.0 only: expelliarmus 1.1.12 adds 4096 us where a high and then a smaller low time come
    times = sorted(generator.randrange(2**12 if name == "evt3" else 2**23) for _ in range(3000))
    rows = [(t, generator.randrange(1280), generator.randrange(720), generator.randrange(2)) for t in times]
    data = files.evt3(rows, implicit_low=False) if name == "evt3" else case.write(rows)
    path = written(tmp_path, case.name, data)
    theirs = expelliarmus.Wizard(encoding=name).read(path)
    ours = read_events(path)
    for field in ("t", "x", "y", "p"):
        assert ours[field].tolist() == theirs[field].tolist()


def test_tonic_agrees() -> None:
    tonic = pytest.importorskip("tonic.io")
    path = real("nmnist_sample.bin")
    theirs = tonic.read_mnist_file(str(path), dtype=tonic.events_struct)
    ours = read_events(path)
    for field in ("t", "x", "y", "p"):
        assert ours[field].tolist() == theirs[field].astype(int).tolist()


# ---------------------------------------------------------------------------------------------------------- bad input


def refused(path: Path, match: str, offset: int | None, **options: object) -> None:
    with pytest.raises(EventFileError, match=match) as caught:
        read_events(path, **options)  # type: ignore[arg-type]
    assert caught.value.offset == offset
    assert repr(str(path)) in str(caught.value)


def test_headers_of_any_length(tmp_path: Path) -> None:
    rows = [(5, 1, 2, 1)]
    header = files.DVS128_HEADER + b"#" + b"x" * 100 + b"\r\n"
    long = files.DVS128_HEADER + b"#<entry/>\r\n" * 300_000
    lines = [
        files.DVS128_HEADER + b"#" + b"x" * (2**20 * n + more) + b"\r\n" for n in (1, 2, 3) for more in (-3, -2, -1, 0)
    ]
    for head in (header, long, files.AEDAT2_HEADER.replace(b"\r", b""), *lines, lines[-1] + lines[-1]):
        assert read_events(written(tmp_path, "a.aedat", files.aedat2(rows, header=head))).tolist() == rows
    # data whose first byte is the mark of a header line
    data = files.aedat2([(5, 1, 179 - (0x23 << 2), 1)], "davis240")
    assert data[len(files.DAVIS240_HEADER)] == 0x23
    assert read_events(written(tmp_path, "a.aedat", data)).tolist() == [(5, 1, 39, 1)]


def test_a_long_line_of_a_header_is_truncated_only_where_the_file_ends(tmp_path: Path) -> None:
    cut = files.DVS128_HEADER + b"#" + b"x" * (2**21 + 5)
    refused(written(tmp_path, "a.aedat", cut), "truncated inside the header", len(cut))
    # data without a line feed that look like a line for more than a megabyte: y = 39 and x = 107 of a DAVIS
    row = (0x23848084, 0x20202020)
    data = files.DAVIS240_HEADER + struct.pack(">II", *row) * 2**18 + struct.pack(">II", 0, 0x20202021)
    events = read_events(written(tmp_path, "a.aedat", data))
    assert len(events) == 2**18 + 1
    assert events[0].tolist() == (0x20202020, 239 - (0x23848084 >> 12 & 1023), 179 - (0x23848084 >> 22), 0)


def test_aedat2_of_another_chip_or_byte_order(tmp_path: Path) -> None:
    rows = [(5, 1, 2, 1), (6, 100, 100, 0)]
    data = files.aedat2(rows, "davis240", files.DVS128_HEADER)
    path = written(tmp_path, "a.aedat", data)
    start = len(files.DVS128_HEADER)
    refused(path, "none of a DVS128, which has 16 bits", start)
    recording = read_recording(path, skip_damaged=True)
    assert (len(recording.events), recording.skipped_bytes) == (0, 16)


def test_aedat3_damage(tmp_path: Path) -> None:
    rows = [(5, 1, 2, 1), (6, 3, 4, 0), (7, 5, 6, 1), (8, 7, 8, 1)]
    start = len(files.AEDAT3_HEADER)
    good = files.AEDAT3_HEADER + files.packet(1, 8, [files.polarity_event(*row) for row in rows[:2]])
    huge = struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, 2**29, 2**29, 2**29)
    huge += b"".join(files.polarity_event(*row) for row in rows[2:])
    path = written(tmp_path, "a.aedat", good + huge)
    refused(path, "absurd packet: it claims 4294967280 bytes more, but only 0 are left", len(good + huge))
    assert read_events(path, skip_damaged=True).tolist() == rows
    path = written(tmp_path, "a.aedat", good + b"\xff" * 40)
    refused(path, "no packet header: type -1, -1 bytes an event", len(good))
    recording = read_recording(path, skip_damaged=True)
    assert (recording.events.tolist(), recording.skipped_bytes) == (rows[:2], 40)
    swapped = b"\0\1\0\1" + b"".join(value.to_bytes(4, "big") for value in (8, 4, 0, 1, 1, 1)) + bytes(8)
    refused(written(tmp_path, "a.aedat", good + swapped), "big-endian packet header; AEDAT 3.1 is little", len(good))
    negative = files.polarity_event(*rows[2])[:7] + b"\xff"
    path = written(tmp_path, "a.aedat", good + files.packet(1, 8, [files.polarity_event(*rows[2]), negative]))
    refused(path, "negative time", len(good) + 28 + 8)
    recording = read_recording(path, skip_damaged=True)
    assert (recording.events.tolist(), recording.skipped_bytes) == (rows[:3], 8)
    outside = files.packet(1, 8, [files.polarity_event(9, 128, 0, 0)])
    path = written(tmp_path, "a.aedat", good + outside)
    refused(path, "pixel \\(128, 0\\) lies outside the sensor of 128 x 128", len(good) + 28)
    assert start < len(good)
    refused(written(tmp_path, "b.aedat", good.replace(b"3.1", b"3.0")), "begin with '#!AER-DAT2.0'", 0)


@pytest.mark.parametrize("upper_first", [False, True])
@pytest.mark.parametrize(
    "head",
    [
        b"% format EVT21;{endianness};height=720;width=1280\n",
        b"% evt 2.1\n% {endianness}\n",
        b"% endianness other\n% format EVT21;height=720;{endianness}\n",  # that of the format counts
    ],
)
def test_the_byte_order_of_evt21_that_a_header_states(head: bytes, upper_first: bool, tmp_path: Path) -> None:
    """OpenEB writes and reads it: `legacy` is two halves, the upper one first; `little` is 64-bit little endian.

    The words look more like the other order: of both halves the wrong one has time words with an empty other half.
    """
    stated = b"endianness=" if b";{endianness}" in head else b"endianness "
    header = head.replace(b"{endianness}", stated + (b"legacy" if upper_first else b"little"))
    words = [(0x80000001, 0), *[(0, 0x80000000)] * 9, (0x10000000 | 5 << 11 | 6, 0x80000001)]
    body = b"".join(struct.pack("<II", *(pair if upper_first else pair[::-1])) for pair in words)
    rows = [(64, 31, 0, 0)] * 9 + [(64, 5, 6, 1), (64, 36, 6, 1)]
    path = written(tmp_path, "a.raw", header + b"% end\n" + body)
    assert files.plain_evt21(path.read_bytes(), upper_first) == rows
    assert read_events(path).tolist() == rows
    big = header.replace(b"legacy" if upper_first else b"little", b"big")
    refused(written(tmp_path, "b.raw", big + body), "states the byte order 'big', expected legacy or little", 0)


@pytest.mark.parametrize("name", ["evt2", "evt2.1", "evt3"])
def test_raw_damage(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    word = FORMATS[case.format].word  # type: ignore[attr-defined]
    rows = [(10, 1, 2, 1), (20, 3, 4, 0)]
    data = case.write(rows)
    bad = {"evt2": b"\0\0\0\x70", "evt2.1": bytes(7) + b"\x70", "evt3": b"\0\x10"}[name]
    path = written(tmp_path, "a.raw", data + bad + bad)
    refused(path, f"word {bad.hex()} is of no defined kind", len(data))
    recording = read_recording(path, skip_damaged=True)
    assert (recording.events.tolist(), recording.skipped_bytes) == (rows, 2 * word)
    # events before the first time have none: they are counted, and are no damage
    body = files.raw_body(data)
    first = body[: 2 * word] if name == "evt3" else body[:word]
    orphaned = data[: len(data) - len(body)] + body[len(first) :] + body
    recording = read_recording(written(tmp_path, "a.raw", orphaned), unordered=True)
    assert recording.skipped_events >= 1
    assert recording.events.tolist()[-2:] == rows
    if name != "evt2.1":  # another byte order
        swapped = bytes(byte for i in range(0, len(body), word) for byte in body[i : i + word][::-1])
        refused_or_empty(written(tmp_path, "a.raw", data[: len(data) - len(body)] + swapped * 4))
    refused(written(tmp_path, "b.raw", b"no header"), "begin with '%'", 0, format=case.format)
    wrong = b"% evt 9.9\n% end\n" + body
    refused(written(tmp_path, "b.raw", wrong), "its header states no known encoding", 0, format=case.format)


def refused_or_empty(path: Path) -> None:
    with pytest.raises(EventFileError):
        read_events(path)


def test_time_that_runs_backwards(tmp_path: Path) -> None:
    for name, case in CASES.items():
        rows = [(100, 1, 2, 1), (200, 3, 4, 0), (150, 5, 6, 1), (300, 7, 8, 0)]
        path = written(tmp_path, case.name, case.write(rows))
        with pytest.raises(EventFileError, match="time runs backwards, from 200 to 150 us") as caught:
            read_events(path)
        assert caught.value.offset is not None, name
        # the bytes before the offset decode to the events before it
        head = written(tmp_path, f"b{case.name}", path.read_bytes()[: caught.value.offset])
        assert read_events(head, format=case.format, skip_damaged=True).tolist() == rows[:2], name
        recording = read_recording(path, skip_damaged=True)
        assert recording.events.tolist() == [rows[0], rows[1], rows[3]]
        assert recording.skipped_events == 1
        assert read_events(path, unordered=True).tolist() == rows


def test_dat_damage(tmp_path: Path) -> None:
    rows = [(10, 1, 2, 1)]
    path = written(tmp_path, "a.dat", files.dat(rows, header=b"% Data file\n% Version 7\n"))
    refused(path, "DAT version 7 is unknown", 0)
    data = files.dat(rows)
    path = written(tmp_path, "a.dat", data[:-8] + b"\0\0\0\0\0\0\0\xf0" + data[-8:])
    refused(path, "polarity beyond 1", len(data) - 8)
    assert read_events(path, skip_damaged=True).tolist() == rows
    path = written(tmp_path, "a.dat", data.replace(b"\x0c\x08", b"\x0e\x08"))
    refused(path, "events of type 14 and 8 bytes", len(data) - 10)
    sensor = written(tmp_path, "a.dat", files.dat([(1, 304, 0, 0)], header=b"% Version 2\n% Width 304\n% Height 240\n"))
    refused(sensor, "outside the sensor of 304 x 240", len(sensor.read_bytes()) - 8)
