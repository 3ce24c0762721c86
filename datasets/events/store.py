"""The event store: the recordings of one dataset in one HDF5 file, each readable by itself.

The file is sealed (`maqd_snn.sealed`: a digest of all its bytes, compared when it is opened) and holds no data of
variable length. Layout:

`/manifest`, uint8: JSON with `format`, `version`, `facts` and `names`, the source of each recording;
`/offsets`, int64 (N + 1): recording i is the entries offsets[i]..offsets[i + 1] of `/dt`, `/x` and `/yp`;
`/start`, int64 (N): the time in microseconds of its first event;
`/labels`, `/parts`, `/groups`, int64 (N): class; 0 training, 1 test; what must not be split (a person, say);
`/dt`, int32 (all E): the time since the event before, zero in the first one of a recording; `/x`, column; `/yp`, row,
with the polarity in its highest bit; one byte each where the sensor allows, else two. In chunks, shuffled and deflated.

Axis letters: N recordings, E events.
"""

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import h5py
import numpy as np
from h5py import h5d, h5s, h5t
from numpy.typing import NDArray

from maqd_snn.datasets.events.frames import check_events
from maqd_snn.datasets.events.recording import EVENT_DTYPE, Events
from maqd_snn.errors import MaqdError
from maqd_snn.files import atomic_path
from maqd_snn.hdf5 import hdf5_errors
from maqd_snn.sealed import (
    LARGEST_RATIO,
    SEAL_SIZE,
    check_seal,
    checked_dataset,
    manifest_value,
    one_reason,
    read_array,
    read_manifest,
    seal,
    write_manifest,
)

FORMAT = "maqd-snn event store"
VERSION = 1
KIND = "event store"
CHUNK = 8192  # events: about two N-MNIST recordings
COLUMNS = ("labels", "parts", "groups")


PLACES = {1: h5t.STD_U8LE, 2: h5t.STD_U16LE}  # bytes of x and of yp


def place_bytes(sensor: tuple[int, int]) -> int:
    """Return the size of the entries of `/x` and `/yp` for a sensor of (width, height).

    >>> place_bytes((128, 128)), place_bytes((240, 180))
    (1, 2)
    """
    width, height = sensor
    if not (1 <= width <= 2**16 and 1 <= height <= 2**15):
        raise MaqdError(f"a sensor has 1..65536 columns and 1..32768 rows, got {width} x {height}")
    return 1 if width <= 2**8 and height <= 2**7 else 2


@final
@dataclass(frozen=True)
class Sample:
    """One recording on its way into a store: events, class, part (0 training, 1 test), group and source name."""

    events: Events
    label: int
    part: int
    group: int
    name: str


Packed = tuple[NDArray[np.int32], NDArray[Any], NDArray[Any]]  # dt, x, yp


def pack(events: Events, sensor: tuple[int, int], where: str) -> Packed:
    """Return events as (dt, x, yp), see above.

    Raises:
        MaqdError: a coordinate outside the sensor, or neighbours in time 2^31 microseconds or more apart.
    """
    check_events(events)
    outside = (events["x"] >= sensor[0]) | (events["y"] >= sensor[1]) | (events["p"] > 1)
    if outside.any():
        number = int(outside.argmax())
        raise MaqdError(
            f"{where}: event {number} is {events[number]}, outside the sensor of {sensor[0]} x {sensor[1]} pixels with "
            "polarities 0 and 1"
        )
    gaps = np.diff(events["t"], prepend=events["t"][:1])
    if (apart := _far_apart(gaps)) is not None:
        raise MaqdError(f"{where}: {apart}")
    size = place_bytes(sensor)
    place = np.dtype(f"<u{size}")
    yp = events["y"] | events["p"].astype("<u2") << (8 * size - 1)
    return gaps.astype("<i4"), events["x"].astype(place), yp.astype(place)


def far_apart(events: Events) -> str | None:
    """Return why `pack` would refuse the times of these events, or None."""
    return _far_apart(np.diff(events["t"]))


def _far_apart(gaps: NDArray[np.int64]) -> str | None:
    if len(gaps) and (gaps.min() < -(2**31) or gaps.max() >= 2**31):
        return "neighbouring events are 2^31 microseconds (36 minutes) or more apart; it is no one recording"
    return None


def unpack(packed: Packed, start: int) -> Events:
    """Return the events that `pack` took apart; `start` is the time of the first.

    >>> events = np.array([(7, 1, 2, 0), (9, 3, 4, 1), (8, 0, 0, 1)], EVENT_DTYPE)
    >>> bool((unpack(pack(events, (34, 34), "it"), 7) == events).all())
    True
    """
    dt, x, yp = packed
    events = np.empty(len(dt), EVENT_DTYPE)
    times = np.cumsum(dt, dtype=np.int64)
    times += start
    top = 8 * yp.itemsize - 1
    events["t"], events["x"], events["y"], events["p"] = times, x, yp & ((1 << top) - 1), yp >> top
    return events


def write_store(
    path: str | os.PathLike[str], sensor: tuple[int, int], facts: dict[str, Any], samples: Iterable[Sample]
) -> None:
    """Write recordings to the store `path`, atomically, one at a time in memory.

    Args:
        path: the file; what was there stays until the new one is whole.
        sensor: (width, height) that every event must lie in.
        facts: plain values for the reader, kept as JSON: provenance.
        samples: the recordings; taken one by one.

    Raises:
        MaqdError: no recordings, events outside the sensor, a folder that cannot be written; or what `samples` raises.
    """
    size = place_bytes(sensor)
    columns: dict[str, list[int]] = {name: [] for name in (*COLUMNS, "start")}
    offsets, names = [0], []
    with atomic_path(path) as temporary:
        with _Patient(temporary, "w+") as disk:
            with hdf5_errors(), h5py.File(disk, "w", userblock_size=SEAL_SIZE) as file:
                into = [
                    file.create_dataset(
                        name, (0,), kind, maxshape=(None,), chunks=(CHUNK,), compression=6, shuffle=True
                    )
                    for name, kind in (("dt", "<i4"), ("x", f"<u{size}"), ("yp", f"<u{size}"))
                ]
                waiting: list[Packed] = []
                for sample in samples:
                    waiting.append(pack(sample.events, sensor, sample.name))
                    offsets.append(offsets[-1] + len(sample.events))
                    names.append(sample.name)
                    columns["start"].append(int(sample.events["t"][0]) if len(sample.events) else 0)
                    for name, value in zip(COLUMNS, (sample.label, sample.part, sample.group), strict=True):
                        columns[name].append(value)
                    if offsets[-1] - len(into[0]) >= 64 * CHUNK:
                        waiting = [_append(into, waiting, whole_chunks=True)]
                        disk.check()
                if not names:
                    raise MaqdError(f"cannot write {str(path)!r}: there are no recordings for it")
                _append(into, waiting, whole_chunks=False)
                for name, values in columns.items():
                    file.create_dataset(name, data=np.array(values, "<i8"))
                file.create_dataset("offsets", data=np.array(offsets, "<i8"))
                facts = {"sensor": list(sensor), "facts": facts, "names": names}
                write_manifest(file, FORMAT, VERSION, facts)
            disk.check()
        seal(temporary, KIND)


def _append(into: list[h5py.Dataset], packed: list[Packed], whole_chunks: bool) -> Packed:
    """Append events, at most as many as fill whole chunks, and return the rest: no chunk is packed twice."""
    begin = len(into[0])
    dt, x, yp = (np.concatenate(parts) for parts in zip(*packed, strict=True))
    count = len(dt) // CHUNK * CHUNK if whole_chunks else len(dt)
    for dataset, values in zip(into, (dt, x, yp), strict=True):
        dataset.resize((begin + count,))
        dataset[begin:] = values[:count]
    return dt[count:], x[count:], yp[count:]


@final
class _Patient(io.FileIO):
    """A file that keeps its first error until it is asked: the HDF5 library takes the process down on a full disk.

    A Ctrl-C is kept in the same way. Files that memory holds are written with `maqd_snn.hdf5`.
    """

    _error: BaseException | None = None

    def write(self, data: Any, /) -> int:
        with self._kept():
            left = memoryview(data).cast("B")
            while left:
                left = left[super().write(left) :]
        return len(data)

    def truncate(self, size: int | None = None, /) -> int:
        with self._kept():
            super().truncate(size)
        return self.tell() if size is None else size

    def check(self) -> None:
        """Raise the first error."""
        if self._error is not None:
            raise self._error

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._error = self._error or error


@final
class EventStore:
    """A store, open for reading; index it for the events of one recording.

    It may be pickled or used after a fork: every process opens the file for itself. The seal is compared once, where
    the store is first opened, and again where the file has changed since.

    Attributes:
        path, sensor, facts, names: see `write_store`. labels, parts, groups: (N,) int64.

    Raises:
        MaqdError: no such file; damaged, truncated, foreign, newer, or with contents that are no valid store. Sizes are
            checked before memory is taken.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._sealed: tuple[int, ...] | None = None
        self._open()

    def _open(self) -> None:
        if not self.path.is_file():
            raise MaqdError(f"there is no event store {str(self.path)!r}; write it first")
        with one_reason(self.path, KIND):
            status = self.path.stat()
            stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            if stamp != self._sealed:
                check_seal(self.path, KIND)
            self._file = h5py.File(self.path, "r")
            self._process = os.getpid()
            try:
                self._read(status.st_size)
            except BaseException:
                self._file.close()
                raise
            self._sealed = stamp

    def _read(self, size: int) -> None:
        root = self._file.id
        manifest = read_manifest(root, FORMAT, VERSION, size)
        sensor = manifest_value(manifest, "sensor", list)
        if len(sensor) != 2 or not all(type(side) is int and 1 <= side <= 2**16 for side in sensor):
            raise MaqdError(f"the sensor is {str(sensor)[:80]}, expected width and height in pixels")
        self.sensor: tuple[int, int] = (sensor[0], sensor[1])
        self.facts: dict[str, Any] = manifest_value(manifest, "facts", dict)
        self.names: tuple[str, ...] = tuple(manifest_value(manifest, "names", list))
        if not all(isinstance(name, str) for name in self.names) or not self.names:
            raise MaqdError("the names of the recordings are no list of texts")
        count = len(self.names)
        arrays = {name: read_array(root, name, h5t.STD_I64LE, size) for name in (*COLUMNS, "start", "offsets")}
        for name, array in arrays.items():
            expected = (count + (name == "offsets"),)
            if array.shape != expected:
                raise MaqdError(f"{name} has the shape {array.shape}, expected {expected}")
        self.labels, self.parts, self.groups = (arrays[name] for name in COLUMNS)
        self._start, self._offsets = arrays["start"], arrays["offsets"]
        place = PLACES[place_bytes(self.sensor)]
        self._packed: list[tuple[h5d.DatasetID, np.dtype[Any]]] = [
            (checked_dataset(root, name, kind, LARGEST_RATIO * size, _one_axis), kind.dtype)
            for name, kind in (("dt", h5t.STD_I32LE), ("x", place), ("yp", place))
        ]
        shapes = {dataset.shape for dataset, _ in self._packed}
        steps = np.diff(self._offsets)
        if shapes != {(int(self._offsets[-1]),)} or self._offsets[0] != 0 or steps.min() < 0:
            raise MaqdError(f"the offsets do not cut events of the shapes {sorted(shapes)} into recordings")
        if self.labels.min() < 0 or not np.isin(self.parts, (0, 1)).all():
            raise MaqdError("labels must not be negative, parts must be 0 or 1")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Events:
        """Return the events of recording `index`; the others are not read."""
        number = range(len(self))[index]
        if self._process != os.getpid():
            self._open()
        begin, end = int(self._offsets[number]), int(self._offsets[number + 1])
        with one_reason(self.path, KIND):
            dt, x, yp = (_read_between(dataset, begin, end, dtype) for dataset, dtype in self._packed)
        return unpack((dt, x, yp), int(self._start[number]))

    def counts(self) -> NDArray[np.int64]:
        """Return the number of events of each recording, (N,)."""
        counts: NDArray[np.int64] = np.diff(self._offsets)
        return counts

    def close(self) -> None:
        """Close the file."""
        if self._process == os.getpid():
            self._file.close()

    def __enter__(self) -> "EventStore":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_sealed": self._sealed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self._sealed = state["path"], state["_sealed"]
        self._open()


def _read_between(dataset: h5d.DatasetID, begin: int, end: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    values = np.empty(end - begin, dtype)
    if end > begin:
        space = dataset.get_space()
        space.select_hyperslab((begin,), (end - begin,))
        dataset.read(h5s.create_simple((end - begin,)), space, values)
    return values


def _one_axis(chunk: tuple[int, ...]) -> bool:
    return len(chunk) == 1 and 0 < chunk[0] <= 2**20
