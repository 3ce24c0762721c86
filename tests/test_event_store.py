"""The event store: what went in comes out, in any order and process; damage is one clear error."""

import json
import multiprocessing
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maqd_snn.datasets.events import store
from maqd_snn.datasets.events.recording import EVENT_DTYPE
from maqd_snn.datasets.events.store import EventStore, Sample, pack, unpack, write_store
from maqd_snn.errors import MaqdError
from maqd_snn.sealed import seal

SENSOR = (34, 30)


def make_events(count, seed=0, sensor=SENSOR, first=0):
    generator = np.random.default_rng(seed)
    events = np.zeros(count, EVENT_DTYPE)
    events["t"] = first + np.cumsum(generator.integers(0, 150, count))
    events["x"], events["y"] = generator.integers(0, sensor[0], count), generator.integers(0, sensor[1], count)
    events["p"] = generator.integers(0, 2, count)
    return events


# Recordings of no events, of one, of more than a chunk; times that start late, below zero, and above 2^31.
RECORDINGS = [
    make_events(count, seed, first=first)
    for seed, (count, first) in enumerate(
        [(100, 0), (0, 0), (1, 5), (store.CHUNK + 3, 2**40), (700, -1000), (2 * store.CHUNK, 2**31 - 5), (0, 0), (9, 1)]
    )
]
SAMPLES = [Sample(events, i % 3, i % 2, i // 2, f"part/{i}.bin") for i, events in enumerate(RECORDINGS)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "some.h5"
    write_store(path, SENSOR, {"made": "by a test", "counts": [1, 2]}, iter(SAMPLES))
    return path


def test_everything_comes_back_in_any_order(written):
    with EventStore(written) as opened:
        assert len(opened) == len(SAMPLES)
        for index in (5, 0, 7, 3, 3, 1, 6, 2, 4, -1):
            found = opened[index]
            assert found.dtype == EVENT_DTYPE
            np.testing.assert_array_equal(found, RECORDINGS[index])
        assert (opened.sensor, opened.facts) == (SENSOR, {"made": "by a test", "counts": [1, 2]})
        assert opened.names == tuple(sample.name for sample in SAMPLES)
        assert opened.labels.tolist() == [sample.label for sample in SAMPLES]
        assert opened.parts.tolist() == [sample.part for sample in SAMPLES]
        assert opened.groups.tolist() == [sample.group for sample in SAMPLES]
        assert opened.counts().tolist() == [len(events) for events in RECORDINGS]
        with pytest.raises(IndexError):
            opened[len(SAMPLES)]


def test_many_recordings_cross_the_writers_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 16)
    many = [make_events(count, seed=count) for count in np.random.default_rng(0).integers(0, 300, 40)]
    write_store(tmp_path / "s.h5", SENSOR, {}, (Sample(e, 0, 0, i, str(i)) for i, e in enumerate(many)))
    with EventStore(tmp_path / "s.h5") as opened:
        for index in np.random.default_rng(1).permutation(40):
            np.testing.assert_array_equal(opened[index], many[index])


def test_only_what_is_asked_for_is_read(written, monkeypatch):
    read = []
    original = store._read_between

    def spy(dataset, begin, end, dtype):
        read.append((begin, end))
        return original(dataset, begin, end, dtype)

    monkeypatch.setattr(store, "_read_between", spy)
    with EventStore(written) as opened:
        assert read == []
        opened[4]
    begin = sum(len(events) for events in RECORDINGS[:4])
    assert read == [(begin, begin + 700)] * 3


@given(
    st.lists(st.tuples(st.integers(0, 2**30), st.integers(0, 65535), st.integers(0, 32767), st.integers(0, 1))),
    st.integers(-(2**62), 2**62),
)
def test_packing_is_exact_up_to_every_edge(rows, first):
    events = np.array(rows, EVENT_DTYPE)  # in any order of time
    events["t"] += first
    packed = pack(events, (65536, 32768), "it")
    np.testing.assert_array_equal(unpack(packed, int(events["t"][0]) if rows else 0), events)
    small = events.copy()
    small["x"] %= 256
    small["y"] %= 128
    packed = pack(small, (256, 128), "it")
    assert packed[1].dtype == packed[2].dtype == np.uint8
    np.testing.assert_array_equal(unpack(packed, int(small["t"][0]) if rows else 0), small)


def test_it_is_smaller_than_the_recordings(tmp_path):
    # Events along a moving edge, as a camera gives them: at most half of the 5-byte format, a fifth of the array.
    generator = np.random.default_rng(0)
    count = 50_000
    events = make_events(count)
    events["x"] = np.clip(np.arange(count) * 34 // count + generator.integers(-2, 3, count), 0, 33)
    path = tmp_path / "s.h5"
    write_store(path, SENSOR, {}, [Sample(events, 0, 0, 0, "")])
    assert path.stat().st_size < 5 * count / 2 < events.nbytes / 5


def _sum(opened):
    return [int(opened[index]["t"].sum()) for index in range(len(opened))]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read_for_themselves(written, method):
    with EventStore(written) as opened:
        expected = _sum(opened)
        with multiprocessing.get_context(method).Pool(2) as pool:
            results = [pool.apply_async(_sum, (opened,)) for _ in range(6)]
            assert [result.get(60) for result in results] == [expected] * 6
        assert _sum(opened) == expected


def test_a_pickled_store_is_checked_again_where_the_file_has_changed(written, tmp_path):
    path = tmp_path / "s.h5"
    path.write_bytes(written.read_bytes())
    with EventStore(path) as opened:
        text = pickle.dumps(opened)
    with pickle.loads(text) as again:  # noqa: S301 - our own
        assert _sum(again) == _sum(EventStore(written))
    damage(path, path.stat().st_size // 2)
    with pytest.raises(MaqdError, match="its digest does not match"):
        pickle.loads(text)  # noqa: S301 - our own


def damage(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.999])
def test_one_flipped_bit_is_found(written, tmp_path, share):
    path = tmp_path / "s.h5"
    path.write_bytes(written.read_bytes())
    damage(path, int(share * path.stat().st_size))
    with pytest.raises(MaqdError, match=r"s\.h5' is not a usable event store file: it (was not|is damaged)"):
        EventStore(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_store_is_found(written, tmp_path, share):
    path = tmp_path / "s.h5"
    content = written.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(MaqdError, match=r"s\.h5' is not a usable event store file"):
        EventStore(path)


def test_no_store_and_another_file(tmp_path):
    with pytest.raises(MaqdError, match="there is no event store '.*none.h5'"):
        EventStore(tmp_path / "none.h5")
    (tmp_path / "x.h5").write_bytes(b"maqd-snn network, sha256 " + b"0" * 600)
    with pytest.raises(MaqdError, match="was not written by maqd-snn"):
        EventStore(tmp_path / "x.h5")


def _manifest(change):
    def apply(file):
        manifest = json.loads(file["manifest"][()].tobytes())
        manifest.update(change)
        del file["manifest"]
        file["manifest"] = np.frombuffer(json.dumps(manifest).encode(), np.uint8)

    return apply


def _replace(name, make, **options):
    def apply(file):
        old = file[name][()]
        del file[name]
        file.create_dataset(name, data=make(old), **options)

    return apply


def _link(file):
    del file["dt"]
    file["dt"] = h5py.SoftLink("/x")


def _huge(file):
    del file["dt"]
    file.create_dataset("dt", (2**40,), "<i4", chunks=(8192,), compression=6, shuffle=True)


def _set(index, value):
    def make(array):
        array[index] = value
        return array

    return make


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_manifest({"format": "other"}), "it holds 'other', expected 'maqd-snn event store'"),
        (_manifest({"version": 2}), "format version 2 is newer than 1"),
        (_manifest({"sensor": [34]}), r"the sensor is \[34\]"),
        (_manifest({"sensor": [34, 2**20]}), "the sensor is"),
        (_manifest({"names": []}), "the names of the recordings are no list of texts"),
        (_manifest({"names": ["a"]}), r"has the shape \(8,\), expected \(1,\)"),
        (_manifest({"facts": 1}), "the manifest holds no dict 'facts'"),
        (_replace("labels", lambda a: a.astype("<i4")), "labels holds int32, expected int64"),
        (_replace("labels", _set(0, -1)), "labels must not be negative"),
        (_replace("parts", _set(0, 2)), "parts must be 0 or 1"),
        (_replace("offsets", _set(1, 2**62)), "the offsets do not cut events|is damaged"),
        (_replace("offsets", _set(2, 50)), "the offsets do not cut events"),
        (_replace("offsets", _set(0, -5)), "the offsets do not cut events"),
        (_replace("x", lambda a: a[:-1]), "the offsets do not cut events of the shapes"),
        (_replace("x", lambda a: a.astype("<u2")), "x holds uint16, expected uint8"),
        (_replace("dt", lambda a: a, chunks=(64,), compression="lzf"), "dt is not packed as expected"),
        (_huge, "dt claims 4398046511104 bytes, more than the file can hold"),
        (_link, "dt is missing or is a link"),
    ],
)
def test_a_hostile_store_under_a_right_seal_is_refused(written, tmp_path, harm, message):
    path = tmp_path / "s.h5"
    path.write_bytes(written.read_bytes())
    with h5py.File(path, "r+") as file:
        harm(file)
    seal(path, store.KIND)
    with pytest.raises(MaqdError, match=message):
        EventStore(path)


INTERRUPTED = """
import sys
from pathlib import Path
import numpy as np
from maqd_snn.datasets.events import EVENT_DTYPE, store
calls = []
def interrupted(data):
    calls.append(1)
    if len(calls) == 9:
        raise KeyboardInterrupt
    return memoryview(data)
store.memoryview = interrupted
store.CHUNK = 16
events = np.zeros(300, EVENT_DTYPE)
try:
    store.write_store(Path(sys.argv[1]), (8, 8), {}, [store.Sample(events, 0, 0, 0, str(i)) for i in range(9)])
except KeyboardInterrupt:
    print("left", len(calls) > 8)
"""


def test_ctrl_c_within_a_write_of_hdf5_is_kept_until_it_can_be_raised(tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "s.h5")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "left True\n", "")
    assert list(tmp_path.iterdir()) == []


def test_events_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path):
    path = tmp_path / "s.h5"
    write_store(path, SENSOR, {}, SAMPLES[:1])
    before = path.read_bytes()
    outside, late = make_events(5), make_events(2)
    outside["x"][3] = 34
    late["t"] = 0, 2**31
    for events, message in ((outside, r"a/3.bin: event 3 is .*34.*, outside the sensor of 34 x 30"), (late, "a/3.bin")):
        with pytest.raises(MaqdError, match=message):
            write_store(path, SENSOR, {}, [SAMPLES[0], Sample(events, 0, 0, 0, "a/3.bin")])
    with pytest.raises(MaqdError, match="there are no recordings"):
        write_store(path, SENSOR, {}, [])
    with pytest.raises(MaqdError, match="1..65536 columns and 1..32768 rows, got 34 x 40000"):
        write_store(path, (34, 40_000), {}, SAMPLES)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.h5"]


def test_an_interrupted_writer_leaves_the_old_store(tmp_path):
    path = tmp_path / "s.h5"
    write_store(path, SENSOR, {}, SAMPLES[:1])
    before = path.read_bytes()

    def breaks():
        yield SAMPLES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(path, SENSOR, {}, breaks())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.h5"]


def test_h5py_alone_reads_it(written):
    with h5py.File(written, "r") as file:
        begin, end = file["offsets"][3], file["offsets"][4]
        events = RECORDINGS[3]
        assert (file["start"][3] + np.cumsum(file["dt"][begin:end].astype(np.int64)) == events["t"]).all()
        assert (file["x"][begin:end] == events["x"]).all()
        assert (file["yp"][begin:end] & 127 == events["y"]).all()
        assert (file["yp"][begin:end] >> 7 == events["p"]).all()
