"""Tables of events: HDF5, .npy, .npz, text; AEDAT 4 and Event Stream through faery; writing; the command line."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from event_references import aedat4, event_stream
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maqd_snn.cli import main
from maqd_snn.datasets import data_root, read_events
from maqd_snn.datasets.events import EVENT_DTYPE, EventFileError, Events, read_recording, stream_events
from maqd_snn.datasets.events.picture import save_picture, windows
from maqd_snn.datasets.events.writing import write_events
from maqd_snn.errors import MaqdError

ROWS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2**31, 2**32, 2**53 + 1, 2**61]) | st.integers(0, 2**62 - 1),
        st.sampled_from([0, 65535]) | st.integers(0, 65535),
        st.sampled_from([0, 65535]) | st.integers(0, 65535),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=40,
).map(lambda rows: np.array(sorted(rows), EVENT_DTYPE))


def some(count: int = 1000, width: int = 128) -> Events:
    generator = np.random.default_rng(0)
    events = np.empty(count, EVENT_DTYPE)
    events["t"] = np.sort(generator.integers(0, 10**6, count))
    events["x"], events["y"], events["p"] = (generator.integers(0, high, count) for high in (width, width, 2))
    return events


def hdf5(path: Path, events: Events, layout: str) -> Path:
    with h5py.File(path, "w") as file:
        if layout == "group":
            for name in "txyp":
                file[f"events/{name}"] = events[name]
        elif layout == "top":
            for name, of in (("ts", "t"), ("xs", "x"), ("ys", "y"), ("ps", "p")):
                file.create_dataset(name, data=events[of], chunks=(min(7, len(events)),), compression="gzip")
        elif layout == "dsec":
            file["t_offset"] = np.int64(57)
            file["ms_to_idx"] = np.zeros(3, np.uint64)
            for name in "xyp":
                file[f"events/{name}"] = events[name]
            file["events/t"] = events["t"] - 57
        else:
            file["CD/events"] = events
    return path


@pytest.mark.parametrize("layout", ["group", "top", "dsec", "records"])
def test_hdf5_reads_what_is_written(layout: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("hdf5")

    @settings(max_examples=2)
    @given(events=ROWS)
    def check(events: Events) -> None:
        path = hdf5(folder / "a.h5", events, layout)
        recording = read_recording(path)
        assert recording.format == "hdf5"
        np.testing.assert_array_equal(recording.events, events)

    check()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_arrays_and_text_read_what_is_written(suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("arrays")

    @settings(max_examples=20)
    @given(events=ROWS)
    def check(events: Events) -> None:
        if suffix == ".csv":  # 18 digits
            events["t"] = np.sort(events["t"] % 10**18)
        write_events(folder / f"a{suffix}", events)
        np.testing.assert_array_equal(read_events(folder / f"a{suffix}"), events)

    check()


def test_five_bytes_are_written(tmp_path: Path) -> None:
    events = some(width=200)
    events["t"] = events["t"] * 12
    write_events(tmp_path / "a.bin", events)
    np.testing.assert_array_equal(read_events(tmp_path / "a.bin"), events)
    events["y"][3] = 240
    with pytest.raises(MaqdError, match="no row 240"):
        write_events(tmp_path / "a.bin", events)
    events["y"][3] = 256
    with pytest.raises(MaqdError, match="holds x and y up to 255"):
        write_events(tmp_path / "a.bin", events)
    with pytest.raises(MaqdError, match="suffixes that can be written are: .h5"):
        write_events(tmp_path / "a.raw", events)


def test_text_of_many_kinds(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("# comment\n0.0000015 3 4 0\n12.5 5 6 -1\n12.500001 7 8 1\n")
    assert read_events(path).tolist() == [(2, 3, 4, 0), (12_500_000, 5, 6, 0), (12_500_001, 7, 8, 1)]
    path.write_text("x;y;polarity;timestamp\r\n1;2;1;30\r\n\r\n4;5;0;60")
    assert read_events(path).tolist() == [(30, 1, 2, 1), (60, 4, 5, 0)]
    for text, match in (
        ("1,2,3,1\n1,2,3\n", "byte 8: a line of 3 numbers; expected 4"),
        ("1,2,3,1\n1,2,x,1\n", "'x' is no number"),
        ("1,2,3,2\n", "byte 6: p is '2'"),
        ("1,65536,3,1\n", "x is '65536'"),
        ("1,2.0,3,1\n", "x is '2.0'"),
        ("1234567890123456789,2,3,1\n", "no number of up to 18 digits"),
        ("1.2.3,2,3,1\n", "'1.2.3' is no number"),
        ("a,b,c,d\n1,2,3,1\n", "expected the four t, x, y and p"),
        ("5,1,1,1\n4,1,1,1\n", "event 1: time runs backwards, from 5 to 4 us"),
        ("", "holds no events"),
        ("1" * 300_000, "a line of more than|no number"),
    ):
        path.write_text(text)
        with pytest.raises(EventFileError, match=match):
            read_events(path)
    big = some(60_000)
    write_events(tmp_path / "b.csv", big)
    np.testing.assert_array_equal(read_events(tmp_path / "b.csv"), big)


def test_arrays_that_are_no_events(tmp_path: Path) -> None:
    events = some(10)
    path = tmp_path / "a.npy"
    np.save(path, np.stack([events[name].astype(np.int64) for name in "txyp"], axis=1))
    np.testing.assert_array_equal(read_events(path), events)
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(EventFileError, match="Python objects; those are never loaded"):
        read_events(path)
    np.save(path, events[["t", "x", "y"]])
    with pytest.raises(EventFileError, match="expected the fields t, x, y and p"):
        read_events(path)
    np.save(path, events)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(EventFileError):
            read_events(path)
    path.write_bytes(data.replace(b"(10,)", b"(9999999999,)"[:5].ljust(5)))
    with pytest.raises(EventFileError):
        read_events(path)
    bomb = tmp_path / "a.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", data[:128].replace(b"(10,), }     ", b"(10**10,), } ") + bytes(10))
    with pytest.raises(EventFileError):
        read_events(bomb)
    np.savez(bomb, t=events["t"], x=events["x"], y=events["y"], p=events["p"][:5])
    with pytest.raises(EventFileError, match="arrays of different lengths"):
        read_events(bomb)
    records = events.copy()
    records["p"][4] = 3
    np.save(path, records)
    with pytest.raises(EventFileError, match="event 4 has a polarity that is none of 0, 1 and -1: 3"):
        read_events(path)


def test_rows_that_one_array_lacks_are_left_out_of_all(tmp_path: Path) -> None:
    events, path = some(1000), tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in "txyp":
            np.save(tmp_path / "a.npy", events[name])
            data = (tmp_path / "a.npy").read_bytes()
            archive.writestr(f"{name}.npy", data[: -10 * 8] if name == "t" else data)
    with pytest.raises(EventFileError, match="truncated"):
        read_events(path)
    recording = read_recording(path, skip_damaged=True)
    assert np.array_equal(recording.events, events[:990])
    assert recording.skipped_bytes == 10 * (8 + 2 + 2 + 1)


@pytest.mark.parametrize("kind", ["8i8", "(2,3)u1", "S4", "2f8", [("a", "i8")]])
@pytest.mark.parametrize("name", "txyp")
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
def test_a_column_that_is_no_number_is_refused(suffix: str, name: str, kind: Any, tmp_path: Path) -> None:
    fields = [(each, kind if each == name else "i8") for each in "txyp"]
    path, records = tmp_path / f"a{suffix}", np.zeros(3, fields)
    if suffix == ".npy":
        np.save(path, records)
    elif suffix == ".npz":
        np.savez(path, records)
    else:
        with h5py.File(path, "w") as file:
            file["events"] = records
    named = "." if suffix == ".h5" else name  # there the record is told as a whole
    for skip in (False, True):
        with pytest.raises(EventFileError, match=f"column '{named}' is .*expected numbers"):
            read_events(path, skip_damaged=skip)


def test_hdf5_that_is_no_events(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5", some(10), "group")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(EventFileError, match="cannot be read|crashed"):
        read_events(path)
    with h5py.File(path, "w") as file:
        file["a"] = [1]
    with pytest.raises(EventFileError, match="no events: expected t, x, y and p"):
        read_events(path)
    with h5py.File(path, "w") as file:
        for name in "txyp":
            file.create_dataset(name, (10**9,), "u1", chunks=(1000,), compression="gzip")
    with pytest.raises(EventFileError, match="absurd size|beyond the limit"):
        read_events(path)
    backwards = some(10)
    backwards["t"][5] = backwards["t"][4] - 1
    hdf5(path, backwards, "records")
    with pytest.raises(EventFileError, match="event 5: time runs backwards"):
        read_events(path)
    assert len(read_events(path, skip_damaged=True)) == 9


def real(name: str) -> Path:
    path = data_root() / "events" / name
    if not path.exists():
        pytest.skip(f"no {path}; set MAQD_DATA_ROOT")
    return path


@pytest.mark.parametrize(
    ("name", "count", "reference"),
    [("davis_320x240.aedat4", 111_954, aedat4), ("dvs_320x240.es", 473_225, event_stream)],
)
def test_real_recordings_through_faery(
    name: str, count: int, reference: Callable[[bytes], list[tuple[int, int, int, int]]], tmp_path: Path
) -> None:
    pytest.importorskip("faery")
    path = real(name)
    recording = read_recording(path)
    assert (len(recording.events), recording.sensor) == (count, (320, 240))
    assert recording.events.tolist() == reference(path.read_bytes())
    assert sum(map(len, stream_events(path, 100_000))) == count
    data = path.read_bytes()
    for part in (data[: len(data) // 2], data[:1000]):
        damaged = tmp_path / name
        damaged.write_bytes(part)
        try:
            found = read_events(damaged)
        except EventFileError:
            continue
        np.testing.assert_array_equal(found, recording.events[: len(found)])


def test_pictures(tmp_path: Path) -> None:
    events = np.array([(0, 1, 0, 1), (5, 2, 1, 0), (9, 2, 1, 0)], EVENT_DTYPE)
    images = windows(events, 2, (4, 3))
    assert images.shape == (2, 3, 4, 3)
    assert images[0, 0, 1].tolist() != [255, 255, 255]
    assert (images[0] != 255).any(axis=-1).sum() == 1
    assert (images[1] != 255).any(axis=-1).sum() == 1
    save_picture(tmp_path / "a.gif", events, (4, 3), 2)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 2
    with pytest.raises(MaqdError, match="ends in .png"):
        save_picture(tmp_path / "a.jpg", events)
    with pytest.raises(MaqdError, match="no events to look at"):
        windows(events[:0], 2, None)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    events = some(500)
    write_events("a.bin", events)
    assert main(["data", "info", "a.bin", "--json", "a.json"]) == 0
    said = json.loads(Path("a.json").read_text())
    assert (said["events"], said["format"], said["first_us"]) == (500, "5-byte", int(events["t"][0]))
    for suffix in ("h5", "npz", "npy", "csv", "bin"):
        assert main(["data", "convert", "a.bin", f"b.{suffix}"]) == 0
        np.testing.assert_array_equal(read_events(f"b.{suffix}"), events)
    assert main(["data", "view", "a.bin", "--windows", "3", "--sensor", "128x128"]) == 0
    with Image.open("a.png") as image:
        assert image.size[0] > 300
    capsys.readouterr()
    for wrong, match in (
        (["info", "none.bin"], "No such file"),
        (["info", "a.bin", "--sensor", "12"], "expects WIDTHxHEIGHT"),
        (["info", "a.bin", "--sensor", "5x5"], "outside the sensor of 5 x 5"),
        (["convert", "a.bin", "a.raw"], "expected a suffix of: .h5"),
        (["view", "a.bin", "--windows", "0"], "--windows must be at least 1"),
    ):
        assert main(["data", *wrong]) == 2
        assert match in capsys.readouterr().err
