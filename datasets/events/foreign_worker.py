"""The process that reads one recording with a C library: foreign_worker.py READER FILE MEMORY MAX_BYTES.

To standard output: the number of events (-1: unknown), width and height (0: unknown); then slices, each its number of
events and the events (13 bytes each); then a zero. All numbers are int64. An error is one line on standard error, exit
code 1; a package that is missing is exit code 3. It imports nothing of this library, so that it starts fast.
"""

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

DTYPE = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])
SLICE = 2**16
NAMES = {
    "t": ("t", "ts", "time", "timestamp", "timestamps", "t_us"),
    "x": ("x", "xs"),
    "y": ("y", "ys"),
    "p": ("p", "ps", "pol", "polarity", "polarities"),
}
GROUPS = ("events", "CD/events", "event", "dvs/events", "")
Header = tuple[int, int, int]


class RefusedError(Exception):
    """The file is not what it should be."""


def faery_events(path: str, kind: str, max_bytes: int) -> Iterator[Any]:
    import faery

    types = {"aedat4": "aedat", "es": "es"}
    stream = faery.events_stream_from_file(path, file_type=types[kind])
    width, height = stream.dimensions()
    yield -1, int(width), int(height)
    for packet in stream:
        for start in range(0, len(packet), SLICE):
            part = packet[start : start + SLICE]
            events = np.empty(len(part), DTYPE)
            if len(part) and int(part["t"].max()) > np.iinfo(np.int64).max:
                raise RefusedError("a time beyond 64 bits")
            events["t"], events["x"], events["y"], events["p"] = part["t"], part["x"], part["y"], part["on"]
            yield events


def hdf5_events(path: str, kind: str, max_bytes: int) -> Iterator[Any]:
    import h5py

    with h5py.File(path, "r") as file:
        columns = _columns(h5py, file)
        lengths = {name: column[0].shape[0] for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise RefusedError(f"columns of different lengths: {lengths}")
        count = lengths["t"]
        if count * DTYPE.itemsize > max_bytes:
            raise RefusedError(f"declares {count} events, beyond the limit of {max_bytes} bytes; raise max_bytes")
        for name, (dataset, _) in columns.items():
            _check_storage(name, dataset, count)
        offset = 0
        for at in ("t_offset", "events/t_offset"):
            stated = file.get(at)
            if isinstance(stated, h5py.Dataset) and stated.shape == () and stated.dtype.kind in "iu":
                offset = int(stated[()])
        yield count, 0, 0
        for start in range(0, count, SLICE):
            rows = slice(start, min(start + SLICE, count))
            read: dict[int, Any] = {}
            parts = {}
            for name, (dataset, field) in columns.items():
                block = read.setdefault(dataset.id.id, None)
                if block is None:
                    block = read[dataset.id.id] = dataset[rows]
                parts[name] = block if field is None else block[field]
            events = np.empty(rows.stop - rows.start, DTYPE)
            _fill(events, parts, start, offset)
            yield events


def _columns(h5py: Any, file: Any) -> dict[str, tuple[Any, str | None]]:
    for group in GROUPS:
        place = file.get(group) if group else file
        if isinstance(place, h5py.Dataset) and place.ndim == 1 and place.dtype.names:
            found = _find(place.dtype.names)
            if found:
                return {name: (place, field) for name, field in found.items()}
        found = _find(tuple(place)) if isinstance(place, h5py.Group) else None
        if found and all(isinstance(place.get(of), h5py.Dataset) for of in found.values()):
            if any(place[of].ndim != 1 for of in found.values()):
                raise RefusedError("columns t, x, y, p that are not one-dimensional")
            return {name: (place[of], None) for name, of in found.items()}
    only = [file[name] for name in file if isinstance(file.get(name), h5py.Dataset)]
    if len(only) == 1 and only[0].ndim == 1 and only[0].dtype.names and (found := _find(only[0].dtype.names)):
        return {name: (only[0], field) for name, field in found.items()}
    raise RefusedError(
        f"no events: expected t, x, y and p, alone or in one of {GROUPS[:-1]}; it holds {list(file)[:10]}"
    )


def _find(names: tuple[str, ...]) -> dict[str, str] | None:
    lower = {name.lower(): name for name in names}
    found = {field: lower[known] for field, options in NAMES.items() for known in options[::-1] if known in lower}
    return found if len(found) == 4 else None


def _check_storage(name: str, dataset: Any, count: int) -> None:
    if dataset.is_virtual or dataset.external:
        raise RefusedError(f"column {name!r} lies in other files; those are not followed")
    kinds = [dataset.dtype[of].kind for of in dataset.dtype.names] if dataset.dtype.names else [dataset.dtype.kind]
    if not set(kinds) <= set("iufb") or dataset.dtype.itemsize > 1024:
        raise RefusedError(f"column {name!r} is {dataset.dtype}; expected numbers")
    # what is stored must be able to hold what is declared: a chunk grows by no more than deflate allows
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > stored * (1032 if dataset.chunks else 1):
        what = f"column {name!r} declares {dataset.nbytes} bytes and stores {stored}"
        raise RefusedError(f"truncated, or an absurd size: {what}")
    if dataset.chunks and dataset.dtype.itemsize * np.prod(dataset.chunks, dtype=float) > 16 * 2**20:
        raise RefusedError(f"column {name!r} has chunks of more than 16 MB; store it in smaller ones")


def _fill(events: Any, parts: dict[str, Any], start: int, offset: int) -> None:
    t, p = parts["t"], parts["p"]
    if t.dtype.kind == "f":
        t = np.floor(t.astype(np.float64) * 1e6 + 0.5)
        _check(~(np.abs(t) < 2**62), t, start, "a time in seconds that is no 64-bit number of us")
    _check((t > 2**62) | (t < -(2**62)) | (abs(offset) > 2**62), t, start, "a time beyond 64 bits")
    _check(~((p == 0) | (p == 1) | (p == -1)), p, start, "a polarity that is none of 0, 1 and -1")
    for name in ("x", "y"):
        values = parts[name]
        whole = values == np.floor(values) if values.dtype.kind == "f" else True
        _check(~((values >= 0) & (values < 2**16) & whole), values, start, f"{name} that is no whole number to 65535")
        events[name] = values
    events["t"] = t.astype(np.int64) + offset
    events["p"] = p > 0


def _check(bad: Any, values: Any, start: int, what: str) -> None:
    if bad.any():
        at = int(np.argmax(bad))
        raise RefusedError(f"event {start + at} has {what}: {values[at]}")


def allow(memory: int) -> None:
    """Let this process take so much address space beyond what it has; a failing allocation ends it."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        now = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + memory, resource.RLIM_INFINITY))


READERS = {"aedat4": (faery_events, "faery"), "es": (faery_events, "faery"), "hdf5": (hdf5_events, "h5py")}


def main(reader: str, path: str, memory: str, max_bytes: str) -> int:
    read, package = READERS[reader]
    try:
        __import__(package)
    except ImportError:
        return 3
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.path.exists("/proc/self/statm"):
        allow(int(memory))
    out = sys.stdout.buffer
    try:
        stream = read(path, reader, int(max_bytes))
        out.write(np.array(next(stream), np.int64).tobytes())
        for events in stream:
            if len(events):
                out.write(np.int64(len(events)).tobytes())
                out.write(events.tobytes())
        out.write(np.int64(0).tobytes())
        out.flush()
    except BrokenPipeError:
        return 0
    except Exception as error:  # a foreign library: whatever it raises, the file cannot be read
        text = " ".join(str(error).split())[:500] or type(error).__name__
        print(text if isinstance(error, RefusedError) else f"cannot be read: {text}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    os._exit(code)
