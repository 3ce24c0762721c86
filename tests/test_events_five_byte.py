"""5-byte recordings: an independent writer and a plain reader, both paths, bad input."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maqd_snn.datasets import data_root, read_events
from maqd_snn.datasets.events import EVENT_DTYPE, EventFileError, read_recording, stream_events
from maqd_snn.errors import MaqdError

Rows = list[tuple[int, int, int, int]]


def write_five(path: Path, rows: Rows) -> Path:
    """Rows of (t, x, y, p), p of 0 or 1; times beyond 23 bits need overflow words."""
    data, added = bytearray(), 0
    for t, x, y, p in rows:
        while t - added >= 2**23:
            data += bytes([0, 240, 0, 0, 0])
            added += 2**13
        data += bytes([x, y]) + (p << 23 | t - added).to_bytes(3, "big")
    path.write_bytes(data)
    return path


pytestmark = pytest.mark.usefixtures("way")


ROWS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 255, 256, 65535, 65536, 2**23 - 1, 2**23, 2**23 + 2**13, 2**24]) | st.integers(0, 2**24),
        st.sampled_from([0, 255]) | st.integers(0, 255),
        st.sampled_from([0, 239, 241, 255]) | st.integers(0, 239),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=50,
).map(sorted)


@given(rows=ROWS)
def test_what_is_written_is_read(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write_five(tmp_path_factory.mktemp("five") / "a.bin", rows)
    events = read_events(path)
    assert events.dtype == EVENT_DTYPE
    assert events.tolist() == rows


def test_many_blocks_with_overflows_across_them(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    times = np.sort(generator.integers(0, 2**24, 100_000))
    x, y, p = (generator.integers(0, high, len(times)) for high in (256, 240, 2))
    path = write_five(tmp_path / "a.bin", list(zip(*(values.tolist() for values in (times, x, y, p)), strict=True)))
    events = read_events(path)
    for name, values in (("t", times), ("x", x), ("y", y), ("p", p)):
        np.testing.assert_array_equal(events[name], values)
    parts = list(stream_events(path, 1_000_000, start_us=0))
    assert len(parts) == 17
    np.testing.assert_array_equal(np.concatenate(parts), events)
    assert all((part["t"] // 1_000_000 == k).all() for k, part in enumerate(parts))


def test_every_recording_of_n_mnist_here() -> None:
    paths = sorted((data_root() / "nmnist").glob("*/*/*.bin"))
    if not paths:
        pytest.skip("no recordings in nmnist/ of the data folder; set MAQD_DATA_ROOT")
    events = 0
    for path in paths:
        data = np.fromfile(path, np.uint8).reshape(-1, 5).astype(np.int64)
        x, y, head, *low = data.T
        found = read_events(path, sensor=(34, 34))
        expected = {"t": (head & 127) << 16 | low[0] << 8 | low[1], "x": x, "y": y, "p": head >> 7}
        assert y.max() < 34  # no row that says the clock has overflowed
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=str(path))
        events += len(found)
    assert len(paths) == 1100
    assert events > 4_000_000


def test_truncated_at_any_byte(tmp_path: Path) -> None:
    whole = write_five(tmp_path / "a.bin", [(10, 1, 2, 1), (20, 3, 4, 0), (30, 5, 6, 1)]).read_bytes()
    for length in range(len(whole)):
        path = tmp_path / "b.bin"
        path.write_bytes(whole[:length])
        if length % 5 or not length:
            with pytest.raises(EventFileError, match="truncated|holds no events") as caught:
                read_events(path)
            assert caught.value.offset == (length - length % 5 if length % 5 else None)
        recording = read_recording(path, skip_damaged=True)
        assert recording.events["t"].tolist() == [10, 20, 30][: length // 5]
        assert recording.skipped_bytes == length % 5


def test_impossible_events_are_refused_or_dropped(tmp_path: Path) -> None:
    rows = [(10, 1, 2, 1), (30, 33, 4, 0), (20, 5, 6, 1), (30, 34, 6, 1), (31, 0, 34, 1)]
    path = write_five(tmp_path / "a.bin", rows)
    with pytest.raises(EventFileError, match="byte 10: time runs backwards, from 30 to 20 us") as caught:
        read_events(path)
    assert caught.value.offset == 10
    with pytest.raises(EventFileError, match="byte 15: pixel \\(34, 6\\) lies outside the sensor of 34 x 34"):
        read_events(path, sensor=(34, 34), unordered=True)
    recording = read_recording(path, sensor=(34, 34), skip_damaged=True)
    assert recording.events["t"].tolist() == [10, 30]
    assert (recording.skipped_events, recording.skipped_bytes) == (3, 0)
    assert read_events(path, unordered=True)["t"].tolist() == [10, 30, 20, 30, 31]
    with pytest.raises(EventFileError, match="byte 10: time runs backwards"):
        list(stream_events(path, 5))


def test_what_is_no_recording(tmp_path: Path) -> None:
    with pytest.raises(EventFileError, match="No such file"):
        read_events(tmp_path / "none.bin")
    with pytest.raises(EventFileError, match="folder, a device or a pipe"):
        read_events(tmp_path)
    (tmp_path / "a.what").write_bytes(b"\1\2\3\4\5")
    with pytest.raises(EventFileError, match="neither its first bytes nor its name tell a format"):
        read_events(tmp_path / "a.what")
    assert len(read_events(tmp_path / "a.what", format="5-byte")) == 1
    with pytest.raises(MaqdError, match="unknown event format '5byte', did you mean '5-byte'"):
        read_events(tmp_path / "a.what", format="5byte")
    with pytest.raises(EventFileError, match="beyond the limit of 12; raise max_bytes"):
        read_events(tmp_path / "a.what", format="5-byte", max_bytes=12)
    with pytest.raises(MaqdError, match="sensor of 1 to 65536"):
        read_events(tmp_path / "a.what", format="5-byte", sensor=(0, 4))
    with pytest.raises(MaqdError, match="window of at least 1 us"):
        next(stream_events(tmp_path / "a.what", 0))
