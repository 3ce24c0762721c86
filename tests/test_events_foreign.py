"""Files of other programs: memory of HDF5, links, truncation and damage that is skipped, units of time, layouts."""

import os
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import event_files as files
import fuzzing
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maqd_snn.datasets import data_root, read_events
from maqd_snn.datasets.events import EVENT_DTYPE, EventFileError, Events, foreign, read_recording, stream_events

GZIP = {"compression": "gzip", "compression_opts": 1}


def many(count: int) -> dict[str, np.ndarray]:
    """Columns of so many events, in order."""
    number = np.arange(count)
    t = number // 7 * 5 + number % 7
    t.sort()
    return {"t": t, "x": (number * 7 % 640).astype("u2"), "y": (number * 3 % 480).astype("u2"), "p": number % 2 == 1}


def as_events(columns: dict[str, np.ndarray]) -> Events:
    events = np.empty(len(columns["t"]), EVENT_DTYPE)
    for name, column in columns.items():
        events[name] = column
    return events


def write_group(path: Path, columns: dict[str, np.ndarray], group: str = "events", **storage: object) -> Path:
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file.create_dataset(f"{group}/{name}", data=column, **storage)
    return path


def streamed(path: Path, **options: object) -> Events:
    return np.concatenate(list(stream_events(path, 100_000, **options)))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("count", "dtype", "storage"),
    [
        (8_000_000, None, {"compression": "gzip"}),  # chunks of h5py's own choice
        (4_000_000, None, {"chunks": (1_000_000,), "shuffle": True, **GZIP}),
        (4_000_000, None, {"chunks": (2_000_000,), "shuffle": True, **GZIP}),
        (4_000_000, "i8", {"chunks": (2**21,), "shuffle": True, "fletcher32": True, **GZIP}),  # 16 MB
        (10, "i8", {"chunks": (2**21,), "maxshape": (None,), "shuffle": True, **GZIP}),
    ],
)
def test_hdf5_of_any_length_and_chunks(
    count: int, dtype: str | None, storage: dict[str, object], tmp_path: Path
) -> None:
    columns = many(count)
    stored = {name: column.astype(dtype or column.dtype) for name, column in columns.items()}
    path = write_group(tmp_path / "a.h5", stored, **storage)
    events = as_events(columns)
    np.testing.assert_array_equal(read_events(path), events)
    np.testing.assert_array_equal(streamed(path), events)


PEAK = """
import sys, os
sys.path.insert(0, {folder!r})
import foreign_worker, h5py
def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024
before = status("VmRSS")
out, sys.stdout = sys.stdout, open(os.devnull, "w")
code = foreign_worker.main("hdf5", {path!r}, str({memory}), str(2**33), "1")
print(code, status("VmHWM") - before, file=out)
"""


@pytest.mark.parametrize(("count", "chunk"), [(1000, 2**21), (2**21, 2**21), (2**21, 5000)])
def test_memory_of_the_worker(count: int, chunk: int, tmp_path: Path) -> None:
    columns = {name: column.astype("i8") for name, column in many(count).items()}
    columns["t"][::3] = 2**62 + 1  # no time
    storage = {"chunks": (chunk,), "maxshape": (None,), "shuffle": True, **GZIP}
    path = write_group(tmp_path / "a.h5", columns, **storage)
    script = PEAK.format(folder=str(foreign.WORKER.parent), path=str(path), memory=foreign.MEMORY)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    code, peak = map(int, done.stdout.split())
    assert code == 0
    # the decoded array is in the process that asks; what is left of twice of it and 64 MB may be the worker's
    assert peak < count * EVENT_DTYPE.itemsize + 64 * 2**20
    assert len(read_events(path, skip_damaged=True)) == count - len(range(0, count, 3))


def test_chunks_that_are_too_large_are_refused(tmp_path: Path) -> None:
    path = write_group(tmp_path / "a.h5", many(10), chunks=(2**21 + 1,), maxshape=(None,), **GZIP)
    with pytest.raises(
        EventFileError, match=r"'t' has chunks of 16777224 bytes, and at most 16777216 are read; .*h5repack"
    ):
        read_events(path)
    table = np.zeros((10, 4))
    with h5py.File(path, "w") as file:
        file.create_dataset("events", data=table, chunks=(2**20, 1), maxshape=(None, 4), **GZIP)
    with pytest.raises(EventFileError, match="has chunks of 33554432 bytes"):
        read_events(path)


# ---------------------------------------------------------------------------------------------- links


def test_links_out_of_an_hdf5_file_are_refused(tmp_path: Path) -> None:
    columns = many(1000)
    write_group(tmp_path / "target.h5", columns)
    path = tmp_path / "link.h5"
    os.mkfifo(tmp_path / "fifo")
    for what in ("target.h5", "fifo"):
        with h5py.File(path, "w") as file:
            file["events"] = h5py.ExternalLink(what, "/events")
        began = time.monotonic()
        with pytest.raises(
            EventFileError, match=f"'events' is a link into another file, '{what}'; those are not followed"
        ):
            read_events(path)
        assert time.monotonic() - began < 20
    write_group(path, columns)
    with h5py.File(path, "a") as file:
        del file["events/x"]
        file["events/x"] = h5py.ExternalLink("target.h5", "/events/x")
    with pytest.raises(EventFileError, match="'x' is a link into another file"):
        read_events(path)
    with h5py.File(path, "w") as file:
        file["away"] = h5py.ExternalLink("target.h5", "/")
        file["events"] = h5py.SoftLink("/away/events")
    with pytest.raises(EventFileError, match="'away' is a link into another file"):
        read_events(path)
    with h5py.File(path, "w") as file:
        file["events"] = h5py.SoftLink("/events")
    with pytest.raises(EventFileError, match="a link to a link, more than 16 times"):
        read_events(path)
    write_group(path, columns, "data/raw")
    with h5py.File(path, "a") as file:
        file["events"] = h5py.SoftLink("/data/raw")
    np.testing.assert_array_equal(read_events(path), as_events(columns))


# ---------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("signed", [False, True])
def test_layouts_of_hdf5(signed: bool, tmp_path: Path) -> None:
    columns = many(1000)
    events, path = as_events(columns), tmp_path / "a.h5"
    p = columns["p"].astype("i8") * (2 if signed else 1) - signed
    with h5py.File(path, "w") as file:  # v2e
        file["events"] = np.stack([columns["t"], columns["x"], columns["y"], p], axis=1).astype(
            "i4" if signed else "u4"
        )
    np.testing.assert_array_equal(read_events(path), events)
    seconds = 1506119776 + columns["t"] / 1e6
    table = np.stack([columns["x"], columns["y"], seconds, p], axis=1).astype("f8")
    with h5py.File(path, "w") as file:  # MVSEC: the left camera
        file.create_dataset("davis/left/events", data=table, chunks=(100, 2), compression="gzip")
        file["davis/right/events"] = table[:10]
    events["t"] += 1506119776_000_000
    np.testing.assert_array_equal(read_events(path), events)
    write_group(path, {**columns, "p": p}, "prophesee/right")
    events["t"] = columns["t"]
    np.testing.assert_array_equal(read_events(path), events)
    with h5py.File(path, "a") as file:  # M3ED: the left camera
        for name in "txyp":
            file[f"prophesee/left/{name}"] = columns[name][:10]
        file["prophesee/left/ms_map_idx"] = np.zeros(3, "u8")
    np.testing.assert_array_equal(read_events(path), events[:10])


# ---------------------------------------------------------------------------------------------- times


def write_times(path: Path, t: np.ndarray) -> Path:
    columns = {"t": t, **{name: np.arange(len(t)) % 2 for name in "xyp"}}
    if path.suffix == ".npz":
        np.savez(path, **columns)
    elif path.suffix == ".npy":
        np.save(path, np.stack([columns[name] for name in "txyp"], axis=1))
    elif path.suffix == ".csv":
        path.write_text("".join(f"{time},{x},{x},{x}\n" for time, x in zip(t.tolist(), columns["x"], strict=True)))
    else:
        write_group(path, columns, chunks=(1000,), maxshape=(None,))
    return path


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".h5", ".csv"])
def test_the_unit_of_floating_point_times(suffix: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / f"a{suffix}"
    for t, expected in (
        ([0.0, 1000.0, 2000.0], [0, 1000, 2000]),  # whole: microseconds
        ([0.0, 0.5, 1.0], [0, 500_000, 1_000_000]),  # a fraction: seconds
        ([0.0, 0.0], [0, 0]),
    ):
        assert read_events(write_times(path, np.array(t)))["t"].tolist() == expected
        assert streamed(path)["t"].tolist() == expected
    with pytest.raises(EventFileError, match=r"whole numbers below 1000: .* Convert them to integers of microseconds"):
        read_events(write_times(path, np.array([0.0, 1.0, 2.0])))
    with pytest.raises(EventFileError, match="Convert them to integers"):
        streamed(path)
    # the first times do not tell
    long = np.concatenate([np.zeros(200_000), np.full(100_000, 7.0), [2000.0]])
    np.testing.assert_array_equal(read_events(write_times(path, long))["t"], long)
    np.testing.assert_array_equal(streamed(path)["t"], long)
    with pytest.raises(EventFileError, match="a time (with a fraction|in microseconds .* that is no whole)"):
        read_events(write_times(path, np.concatenate([long, np.full(400_000, 3000.0), [3000.5]])))
    if suffix != ".csv":
        for t in ([1e308, np.inf], [0.5, 1e308], [0.5, np.nan]):
            with pytest.raises(EventFileError, match="no whole 64-bit number of microseconds"):
                read_events(write_times(path, np.array(t)))
    assert not recwarn.list


def test_seconds_as_text_of_six_digits(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("0.000000 1 2 0\n5.000000 1 2 1\n")
    assert read_events(path)["t"].tolist() == [0, 5_000_000]
    path.write_text("1.000000000000000000e+03 1 2 0\n")
    with pytest.raises(EventFileError, match="no number of up to 18 digits"):
        read_events(path)


# ---------------------------------------------------------------------------------------------- damage


def test_lines_that_are_no_events_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = [
        "1,2,3,1\n",
        "1,2\n",
        "4,2,3,1\n",
        "5,x,3,1\n",
        "6,2,3,7\n",
        "7,65536,x,1\n",
        "\n",
        "8,2,3,0\n",
        "3,9,9,1\n",
        "9,2",
    ]
    path.write_text("".join(lines))
    recording = read_recording(path, skip_damaged=True)
    assert recording.events["t"].tolist() == [1, 4, 8]
    assert recording.skipped_bytes == sum(len(lines[number]) for number in (1, 3, 4, 5, 9))
    assert recording.skipped_events == 1
    for number in (1, 3, 4, 5):
        path.write_text(lines[0] + lines[number])
        with pytest.raises(EventFileError) as error:
            read_events(path)
        assert error.value.offset is not None
        assert len(lines[0]) <= error.value.offset < len(lines[0] + lines[number])
    path.write_text("1,2,3,1\n" + "9" * 600_000 + "\n5,2,3,1\n")
    recording = read_recording(path, skip_damaged=True)
    assert (recording.events["t"].tolist(), recording.skipped_bytes) == ([1, 5], 600_001)


def test_impossible_events_of_text_have_an_offset(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = [f"{t},1,1,1\n" for t in range(60_000)]
    for number in (1, 59_000):
        wrong = [*lines[:number], "0,1,1,1\n" if number > 1 else "1,9,1,1\n", *lines[number:]]
        path.write_text("".join(wrong))
        with pytest.raises(EventFileError, match=f"event {number}: ") as error:
            read_events(path, sensor=(5, 5))
        assert error.value.offset == len("".join(wrong[:number]))


@settings(max_examples=60)
@given(
    lines=st.lists(st.sampled_from(["1,2,3,1", "2,2,3,0", "", " ", "x", "1,2,3", "1,2,3,1,1", "1,-2,3,1", "1,2,3,2"]))
)
def test_skipped_lines_against_a_plain_reader(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.csv"
    text = "1,2,3,1\n" + "\n".join(lines)
    path.write_text(text)
    good, skipped = [], 0
    for line in text.splitlines(keepends=True):
        if line.strip() in ("1,2,3,1", "2,2,3,0"):
            good.append(tuple(map(int, line.split(","))))
        elif line.strip():
            skipped += len(line)
    recording = read_recording(path, skip_damaged=True, unordered=True)
    assert (recording.events.tolist(), recording.skipped_bytes) == (good, skipped)
    if skipped:
        with pytest.raises(EventFileError):
            read_events(path, unordered=True)


def test_truncated_arrays_keep_what_is_there(tmp_path: Path) -> None:
    events = as_events(many(1000))
    path = tmp_path / "a.npy"
    np.save(path, events)
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    recording = read_recording(path, skip_damaged=True)
    np.testing.assert_array_equal(recording.events, events[:998])
    assert recording.skipped_bytes == 26
    np.testing.assert_array_equal(streamed(path, skip_damaged=True), events[:998])
    events["p"][4] = 3
    np.save(path, events)
    recording = read_recording(path, skip_damaged=True)
    np.testing.assert_array_equal(recording.events, np.delete(events, 4))
    assert recording.skipped_bytes == 13
    # an archive's member is damaged in its second half
    path = tmp_path / "a.npz"
    many_events = many(100_000)
    np.savez(path, **many_events)
    data = bytearray(path.read_bytes())
    at = data.index(b"t.npy") + 500_000
    data[at] ^= 255
    path.write_bytes(data)
    with pytest.raises(EventFileError, match="truncated or damaged: Bad CRC"):
        read_events(path, unordered=True)
    recording = read_recording(path, skip_damaged=True, unordered=True)
    assert 90_000 < len(recording.events) < 100_000
    assert recording.skipped_bytes == (100_000 - len(recording.events)) * 13


def test_a_damaged_chunk_of_hdf5_is_skipped(tmp_path: Path) -> None:
    columns = many(300_000)
    path = write_group(tmp_path / "a.h5", columns, chunks=(100_000,), **GZIP)
    with h5py.File(path) as file:
        chunk = file["events/x"].id.get_chunk_info(1)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + 50 : chunk.byte_offset + 90] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(EventFileError, match="filter returned failure"):
        read_events(path)
    recording = read_recording(path, skip_damaged=True)
    np.testing.assert_array_equal(recording.events, np.delete(as_events(columns), slice(100_000, 200_000)))
    assert recording.skipped_bytes == 100_000 * 13
    columns["p"] = columns["p"].astype("u1")
    columns["p"][4] = 3
    recording = read_recording(write_group(path, columns), skip_damaged=True)
    assert (len(recording.events), recording.skipped_bytes) == (299_999, 13)
    with pytest.raises(EventFileError, match="event 4 has a polarity that is none of 0, 1 and -1: 3"):
        read_events(path)


def event_stream(rows: list[files.Row], height: int) -> tuple[bytes, list[int]]:
    """An Event Stream of a DVS, and where each of its events and lone bytes ends."""
    data, last = bytearray(b"Event Stream\x02\0\0\x01" + struct.pack("<HH", 300, height)), 0
    ends = [len(data)]
    for t, x, y, p in rows:
        while t - last >= 127:
            data.append(255)
            last += 127
            ends.append(len(data))
        data += struct.pack("<BHH", (t - last) << 1 | p, x, height - 1 - y)
        last = t
        ends.append(len(data))
    return bytes(data), ends


@pytest.mark.parametrize("sparse", [False, True])
def test_event_streams_that_end_within_an_event(sparse: bool, tmp_path: Path) -> None:
    pytest.importorskip("faery")
    path, generator = tmp_path / "a.es", np.random.default_rng(0)
    steps = generator.integers(0, 400 if sparse else 2, 60)
    rows = [(int(t), int(generator.integers(250, 260)), 5, 1) for t in np.cumsum(steps)]
    data, ends = event_stream(rows, 270)
    path.write_bytes(data)
    assert read_events(path).tolist() == rows
    for length in range(len(data) - 7, len(data)):
        path.write_bytes(data[:length])
        whole = max(end for end in ends if end <= length)
        recording = read_recording(path, skip_damaged=True)
        assert recording.events.tolist() == rows[: len(recording.events)]
        assert recording.skipped_bytes == length - whole
        if whole == length:
            assert len(read_events(path)) == len(recording.events)
            continue
        with pytest.raises(EventFileError, match=f"truncated: an event of 5 bytes has {length - whole}") as error:
            read_events(path)
        assert error.value.offset == whole
    path.write_bytes(data[:17])
    with pytest.raises(EventFileError, match="truncated in its header"):
        read_events(path)


def test_the_end_of_a_long_event_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(foreign.WORKER.parent))
    import foreign_worker

    generator, path = np.random.default_rng(0), tmp_path / "a.es"
    for step in (1, 300):
        rows = [(int(t), int(generator.integers(300)), 5, 1) for t in np.cumsum(generator.integers(0, step, 60_000))]
        data, ends = event_stream(rows, 270)
        for length in (*range(len(data) - 6, len(data) + 1), ends[20_000] + 3):
            path.write_bytes(data[:length])
            whole = max(end for end in ends if end <= length)
            found = foreign_worker.event_stream_last_part(str(path))
            assert (found[0] if found else length) == whole


def real(name: str) -> bytes:
    path = data_root() / "events" / name
    if not path.exists():
        pytest.skip(f"no {path}; set MAQD_DATA_ROOT")
    return path.read_bytes()


def test_aedat4_that_ends_within_a_packet(tmp_path: Path) -> None:
    pytest.importorskip("faery")
    path, data = tmp_path / "a.aedat4", real("davis_320x240.aedat4")
    sound = read_events_of(path, data)
    with pytest.raises(EventFileError, match="byte 494090: truncated: a packet of 22957 bytes has 5902"):
        read_events_of(path, data[:500_000])
    # a recording that was never finished: its header tells no table of packets
    place = data.index(struct.pack("<q", 945_243))
    data = data[:place] + struct.pack("<q", -1) + data[place + 8 : 945_243]
    np.testing.assert_array_equal(read_events_of(path, data), sound)
    for cut in (1, 368, 400, 16_000, 500_000):
        path.write_bytes(data[:-cut])
        with pytest.raises(EventFileError, match=r"truncated: (a packet of|the header of)") as error:
            read_events(path)
        recording = read_recording(path, skip_damaged=True)
        assert error.value.offset is not None
        assert recording.skipped_bytes == len(data) - cut - error.value.offset
        np.testing.assert_array_equal(recording.events, sound[: len(recording.events)])
        assert len(recording.events) > 50_000


def test_a_panic_of_faery_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faery")
    monkeypatch.setenv("RUST_BACKTRACE", "1")
    monkeypatch.setattr(foreign, "TIMEOUT", 20.0)
    header = bytearray(real("davis_320x240.aedat4")[:3000])
    header[18:22] = struct.pack("<I", 2**28)  # where the root table stands
    with pytest.raises(EventFileError, match="cannot be read: range start index 268435456 out of range"):
        read_events_of(tmp_path / "a.aedat4", bytes(header))


def read_events_of(path: Path, data: bytes) -> Events:
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_events(path)


def test_an_aedat4_description_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """faery panics on it, and with little memory hangs as it says so."""
    pytest.importorskip("faery")
    path = tmp_path / "a.aedat4"
    for data in fuzzing.seeds("aedat4"):
        path.write_bytes(data.replace(b'type="string"', b'type="st\xdeing"', 1))
        for lenient in (False, True):
            with pytest.raises(EventFileError, match=r"byte 18: its header's description is no UTF-8 text"):
                read_recording(path, skip_damaged=lenient)


@pytest.mark.parametrize(
    ("says", "error"),
    [
        (
            "print('memory allocation of 5 bytes failed', file=sys.stderr, flush=True); time.sleep(60)",
            "h5py crashed on it",
        ),
        ("print('x\\n' * 10**6 + '7 a reason', file=sys.stderr); sys.exit(1)", "byte 7: a reason"),
        ("sys.exit(5)", r"h5py crashed on it.*\(exit code 5\)"),
        ("time.sleep(60)", "h5py gave no event for 5 s"),
    ],
    ids=["out of memory", "says much", "ends", "hangs"],
)
def test_what_ends_a_worker_is_one_error(
    says: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, path = tmp_path / "worker.py", tmp_path / "a.h5"
    worker.write_text(f"import sys, time\n{says}\n")
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setattr(foreign, "WORKER", worker)
    monkeypatch.setattr(foreign, "TIMEOUT", 5.0)
    with pytest.raises(EventFileError, match=error):
        read_recording(path)
