"""Reading for people: windows up to an end, the extent of a recording, and what is said of arguments that are none."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maqd_snn.datasets.events import (
    EVENT_DTYPE,
    FORMATS,
    EventFileError,
    ReadOptions,
    Skipped,
    read_events,
    stream_events,
)
from maqd_snn.datasets.events.advice import KEEP, LIMIT, SKIP, reworded
from maqd_snn.datasets.events.registry import Extent, recording_extent
from maqd_snn.errors import MaqdError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return text(tmp_path, [7, 9, 30])


def text(folder: Path, times: list[int]) -> Path:
    path = folder / "a.csv"
    path.write_text("t,x,y,p\n" + "".join(f"{t},3,4,1\n" for t in times))
    return path


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (None, None, [[7, 9], [], [30]]),
        (None, 31, [[7, 9], [], [30]]),
        (None, 30, [[7, 9], [], []]),
        (None, 27, [[7, 9], []]),
        (None, 28, [[7, 9], [], []]),
        (None, 60, [[7, 9], [], [30], [], [], []]),
        (None, 8, [[7]]),
        (None, 7, []),
        (0, 20, [[7, 9], []]),
        (0, None, [[7, 9], [], [], [30]]),
        (-20, 0, [[], []]),
        (40, 60, [[], []]),
        (40, 40, []),
    ],
)
def test_windows_go_up_to_the_end_that_is_asked_for(
    file: Path, start: int | None, stop: int | None, expected: list[list[int]]
) -> None:
    assert [window["t"].tolist() for window in stream_events(file, 10, start_us=start, stop_us=stop)] == expected


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 30), st.integers(-50, 400))
def test_windows_are_what_their_times_say(tmp_path_factory: pytest.TempPathFactory, steps, window, stop) -> None:
    times = np.cumsum(steps)
    path = text(tmp_path_factory.mktemp("w"), times.tolist())
    begin = int(times[0])
    found = [part["t"].tolist() for part in stream_events(path, window, stop_us=stop)]
    edges = range(begin, stop, window)
    assert found == [[t for t in times if at <= t < min(at + window, stop)] for at in edges]


def test_the_extent_of_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    events = np.zeros(300_000, EVENT_DTYPE)  # several blocks
    events["t"] = np.arange(300_000) * 2
    events["t"][200_000:] += 10**12
    np.save(path, events)
    last = int(events["t"][-1])
    assert recording_extent(path) == Extent(0, last, (399_998, 10**12 + 400_000))
    events["t"][262_144:] += 10**13  # between two blocks
    np.save(path, events)
    extent = recording_extent(path)
    assert extent is not None
    assert extent.gap_us == (int(events["t"][262_143]), int(events["t"][262_144]))
    events["t"][0] = -(2**62)
    events["t"][1:] += 2**62 - 2**50  # a gap beyond 2^62
    np.save(path, events)
    extent = recording_extent(path)
    assert extent is not None
    assert extent.gap_us == (-(2**62), int(events["t"][1]))
    assert recording_extent(text(tmp_path, []), skip_damaged=True) is None
    assert recording_extent(text(tmp_path, [5])) == Extent(5, 5, (5, 5))


def test_options_serve_any_number_of_readings(tmp_path: Path) -> None:
    """Each recording tells its own counts, the options those of all."""
    options = ReadOptions(skip_damaged=True)
    path = tmp_path / "a.csv"
    path.write_text("t,x,y,p\n5,1,1,1\nabc\n3,1,1,1\n")
    binary = tmp_path / "a.bin"
    binary.write_bytes(bytes([3, 4, 128, 0, 7, 5]))
    for number in (1, 2, 3):
        for name, file, left in (("csv", path, (4, 1)), ("5-byte", binary, (1, 0))):
            recording = FORMATS[name].read(file, options)
            assert (recording.skipped_bytes, recording.skipped_events) == left
        assert options.skipped == Skipped(5 * number, number)
    assert options == ReadOptions(skip_damaged=True)
    assert hash(options) == hash(ReadOptions(skip_damaged=True))


@pytest.mark.parametrize("sensor", [(34,), (34, 34, 2), (34.0, 34), 34, "34x34", (None, 3)])
def test_a_sensor_is_two_whole_numbers(file: Path, sensor: object) -> None:
    for read in (read_events, lambda path, sensor: next(stream_events(path, 10, sensor=sensor))):
        with pytest.raises(MaqdError, match=r"expected sensor as two whole numbers of pixels \(width, height\), got "):
            read(file, sensor=sensor)
    assert len(read_events(file, sensor=[np.int64(34), np.uint8(34)])) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("window", "options", "message"),
    [
        (float("nan"), {}, "expected a window of at least 1 us, a whole number in .*, got nan"),
        (10.5, {}, "window of at least 1 us.*, got 10.5"),
        (0, {}, "window of at least 1 us.*, got 0"),
        (2**63, {}, "window of at least 1 us"),
        (10, {"start_us": 0.5}, "expected start_us, a whole number in .*, got 0.5"),
        (10, {"stop_us": float("inf")}, "expected stop_us, a whole number in .*, got inf"),
        (10, {"start_us": 5, "stop_us": 4}, r"expected stop_us, a whole number in 5\.\..*, got 4"),
        (10, {"max_bytes": 1e9}, "expected max_bytes, a whole number"),
    ],
)
def test_times_are_whole_numbers(file: Path, window: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(MaqdError, match=message):
        stream_events(file, window, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reason", "words", "expected"),
    [
        ("a; skip_damaged=True drops such events", {SKIP: "-s"}, "a; -s drops such events"),
        ("a; skip_damaged=True drops b, unordered=True keeps b", {KEEP: "-u"}, "a; -u keeps b"),
        ("a; skip_damaged=True drops b, unordered=True keeps b", {}, "a"),
        ("a; with skip_damaged=True this is empty", {}, "a"),
        ("a; raise max_bytes, or read it lazily with stream_events", {LIMIT: "-m"}, "a; raise -m"),
        ("a; raise max_bytes, or read it lazily with stream_events", {}, "a"),
        ("a, b; get c, or d; skip_damaged=True drops e", {}, "a, b; get c, or d"),
        ("nothing to advise", {}, "nothing to advise"),
    ],
)
def test_advice_is_in_the_words_of_the_reader(reason: str, words: dict[str, str], expected: str) -> None:
    error = reworded(EventFileError(Path("x"), reason, 7), words)
    assert (error.path, error.reason, error.offset) == (Path("x"), expected, 7)


def test_the_document_names_every_format() -> None:
    document = Path(__file__).parents[1] / "docs" / "events.md"
    rows = "".join(line for line in document.read_text(encoding="utf-8").splitlines() if line.startswith("| `"))
    for name, entry in FORMATS.items():
        assert f"`{name}`" in rows
        assert all(suffix in rows for suffix in entry.suffixes)
