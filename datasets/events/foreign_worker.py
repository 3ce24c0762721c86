"""The process that reads one recording with a C library: foreign_worker.py READER FILE MEMORY MAX_BYTES LENIENT.

To standard output: the number of events (-1: unknown), width and height (0: unknown); then slices, each its number of
events and the events (13 bytes each); then a zero and the number of bytes that were left out (0 unless LENIENT is 1).
All numbers are int64. An error is one line on standard error, the byte offset (-1: unknown) and the reason, exit code
1; a package that is missing is exit code 3. It imports nothing of this library, so that it starts fast.
"""

import contextlib
import os
import re
import resource
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
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
# Groups with t, x, y, p, or datasets of records, in the order in which they are looked for.
GROUPS = ("events", "CD/events", "event", "dvs/events", "prophesee/left", "prophesee/right", "")
# Datasets of four columns and their order: v2e; MVSEC.
TABLES = {"events": "txyp", "davis/left/events": "xytp", "davis/right/events": "xytp"}
UNEXPECTED_END = "failed to fill whole buffer"  # how faery says so
MAX_CHUNK = 16 * 2**20  # bytes, as decoded
MAX_LINKS = 16  # from one to the next
LARGEST_HEADER = 2**20  # bytes of an AEDAT 4 header that are looked at
SCAN = 2**14  # bytes of an Event Stream at a time
BLOCK = 4 * 2**20  # bytes read at once where chunks are smaller
LARGEST_US = 2**62
LEAST_US = 1000  # a column of whole floating-point times up to here may be seconds or microseconds
Header = tuple[int, int, int]


class RefusedError(Exception):
    """The file is not what it should be; `offset` is where, in bytes, or -1."""

    def __init__(self, reason: str, offset: int = -1) -> None:
        super().__init__(reason)
        self.offset = offset


@dataclass
class Job:
    """What is to be read and how; `skipped` counts the bytes that were left out."""

    path: str
    kind: str
    memory: int
    max_bytes: int
    lenient: bool
    skipped: int = 0
    base: int = field(default_factory=lambda: address_space())

    def allow(self, more: int = 0) -> None:
        """Let this process take `memory` and so much more beyond what it began with; a failing allocation ends it."""
        if self.base:
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            soft = self.base + self.memory + more
            resource.setrlimit(resource.RLIMIT_AS, (soft if hard < 0 else min(soft, hard), hard))

    def truncated(self, offset: int, reason: str) -> None:
        """Count what follows `offset`, or refuse the file."""
        if not self.lenient:
            raise RefusedError(f"truncated: {reason}", offset)
        self.skipped += os.path.getsize(self.path) - offset


def address_space() -> int:
    """Return the size of this process's address space in bytes; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


# ---------------------------------------------------------------------------------------------- faery


def faery_events(job: Job) -> Iterator[Any]:
    import faery

    file_type, last_part = {"aedat4": ("aedat", aedat4_last_part), "es": ("es", event_stream_last_part)}[job.kind]
    last = last_part(job.path)
    try:
        stream = faery.events_stream_from_file(job.path, file_type=file_type)
        width, height = stream.dimensions()
    except BaseException as error:  # a panic of Rust is no Exception
        if last is None:
            raise
        raise RefusedError(f"truncated: {last[1]}; faery cannot open it", last[0]) from error
    yield -1, int(width), int(height)
    try:
        for packet in stream:
            for start in range(0, len(packet), SLICE):
                part = packet[start : start + SLICE]
                events = np.empty(len(part), DTYPE)
                if len(part) and int(part["t"].max()) > np.iinfo(np.int64).max:
                    raise RefusedError("a time beyond 64 bits")
                events["t"], events["x"], events["y"], events["p"] = part["t"], part["x"], part["y"], part["on"]
                yield events
    except RuntimeError as error:
        if last is None or UNEXPECTED_END not in str(error):
            raise
    if last is not None:
        job.truncated(*last)


def aedat4_last_part(path: str) -> tuple[int, str] | None:
    """Return where the packet stands that the file ends in, and what is missing; None where there is none.

    Packets (stream, size, as many bytes) go from the header to the table that the header tells the place of, or to the
    end of the file.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        at = 14
        file.seek(at)
        (length,) = struct.unpack("<I", _exactly(file, 4))
        header = file.read(min(length, LARGEST_HEADER))
        try:
            end = _file_data_position(header)
            text = _description(header)
        except (struct.error, IndexError):
            return None
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as error:  # faery panics on it, and hangs as it says so
            raise RefusedError("its header's description is no UTF-8 text", at + 4) from error
        at += 4 + length
        while at != end and at < size:
            file.seek(at)
            head = file.read(8)
            if len(head) < 8:
                return at, f"the header of a packet has {len(head)} of 8 bytes"
            (length,) = struct.unpack("<I", head[4:])
            if at + 8 + length > size:
                return at, f"a packet of {length} bytes has {size - at - 8}"
            at += 8 + length
    return (size, f"packets go on to byte {end}") if end > at else None


def _field(header: bytes, number: int) -> int | None:
    # where a field of a flatbuffer's root table is; None where the table has none
    (root,) = struct.unpack_from("<I", header)
    layout = root - struct.unpack_from("<i", header, root)[0]
    if layout < 0 or struct.unpack_from("<H", header, layout)[0] < 6 + 2 * number:
        return None
    (offset,) = struct.unpack_from("<H", header, layout + 4 + 2 * number)
    return root + offset if offset else None


def _file_data_position(header: bytes) -> int:
    at = _field(header, 1)
    return -1 if at is None else int(struct.unpack_from("<q", header, at)[0])


def _description(header: bytes) -> bytes:
    at = _field(header, 2)
    if at is None:
        return b""
    at += struct.unpack_from("<I", header, at)[0]
    (length,) = struct.unpack_from("<I", header, at)
    text = header[at + 4 : at + 4 + length]
    return text if len(text) == length else b""


def event_stream_last_part(path: str) -> tuple[int, str] | None:
    """Return where the event stands that the file ends in, and what is missing; None where there is none.

    An event of a DVS or ATIS stream has five bytes; overflows and resets have one, and tell so. Wherever one begins to
    read, after some such bytes it is in step with the file: so the end of the file tells, unless it has none of them.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        kind = _exactly(file, 20)[15]
        if kind not in (1, 2):
            return None
        alone = np.arange(256) >= (0xFE if kind == 1 else 0xFC)
        length = 4 * SCAN
        while True:
            start = max(20, size - length)
            file.seek(start)
            past = np.arange(5)  # an event begins at one of five bytes
            while data := file.read(SCAN):
                past = _past_end(alone[np.frombuffer(data, np.uint8)], past)
            if start == 20 or (past == past[0]).all():
                missing = int(past[0])
                return (size - 5 + missing, f"an event of 5 bytes has {5 - missing}") if missing else None
            length *= 8


def _past_end(alone: Any, first: Any) -> Any:
    """Return how many bytes the last event of a block lacks, for each place `first` where its first event may begin.

    Every byte points to where the next event would begin; following the pointers is a doubling of steps.
    """
    size = len(alone)
    after = np.arange(size + 5)
    after[:size] += np.where(alone, 1, 5)
    while (after[first] < size).any():
        after = after[after]
    return after[first] - size


def _exactly(file: Any, count: int) -> bytes:
    data: bytes = file.read(count)
    if len(data) < count:
        raise RefusedError("truncated in its header", file.tell())
    return data


# ---------------------------------------------------------------------------------------------- HDF5


def hdf5_events(job: Job) -> Iterator[Any]:
    import h5py

    # Chunks are read whole and once: a cache of HDF5's (8 MB a dataset) would only take memory.
    with h5py.File(job.path, "r", rdcc_nbytes=0) as file:
        columns = _columns(h5py, file)
        lengths = {name: column[0].shape[0] for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise RefusedError(f"columns of different lengths: {lengths}")
        count = lengths["t"]
        if count * DTYPE.itemsize > job.max_bytes:
            raise RefusedError(f"declares {count} events, beyond the limit of {job.max_bytes} bytes; raise max_bytes")
        for name, (dataset, _) in columns.items():
            _check_storage(name, dataset)
        offset = 0
        for at in ("t_offset", "events/t_offset"):
            stated = _open(h5py, file, file, at)
            if isinstance(stated, h5py.Dataset) and stated.shape == () and stated.dtype.kind in "iu":
                _check_storage("t_offset", stated)
                offset = int(stated[()])
        if abs(offset) > LARGEST_US:
            raise RefusedError(f"t_offset is {offset}, beyond 64 bits")
        by_dataset: dict[Any, tuple[Any, dict[str, Any]]] = {}
        for name, (dataset, of) in columns.items():
            by_dataset.setdefault(dataset.id, (dataset, {}))[1][name] = of
        parts = [Part(dataset, fields, job.lenient, offset) for dataset, fields in by_dataset.values()]
        held = sum(part.held_bytes for part in parts)
        job.allow(held + min(count * DTYPE.itemsize, MAX_CHUNK))  # HDF5 keeps up to 16 MB that it has freed
        for part in parts:
            part.find_unit()
        row_bytes = sum(part.row_bytes for part in parts)
        yield count, *_geometry(file)
        for start in range(0, count, SLICE):
            events = np.empty(min(SLICE, count - start), DTYPE)
            bad = np.zeros(len(events), np.bool_)
            for part in parts:
                part.fill(events, bad)
            if bad.any():
                job.skipped += row_bytes * int(bad.sum())
                events = events[~bad]
            yield events


def _geometry(file: Any) -> tuple[int, int]:
    """Return the size of the sensor that an HDF5 file written here states, else 0, 0."""
    if "geometry" not in file.attrs:
        return 0, 0
    attribute = file.attrs.get_id("geometry")
    if attribute.shape != () or attribute.dtype.kind != "S" or attribute.dtype.itemsize > 16:
        return 0, 0
    stated = re.fullmatch(rb"([0-9]{1,5})x([0-9]{1,5})", bytes(file.attrs["geometry"]))
    return (int(stated[1]), int(stated[2])) if stated else (0, 0)


class Part:
    """One dataset with one or more of the columns, read block by block; a block is whole chunks.

    What is held of a block are numbers as narrow as an event's, so 13 bytes an event at most.
    """

    def __init__(self, dataset: Any, fields: dict[str, Any], lenient: bool, offset: int) -> None:
        self.dataset, self.fields, self.lenient, self.offset = dataset, fields, lenient, offset
        self.count = dataset.shape[0]
        self.row_bytes = _row_bytes(dataset)
        chunk = dataset.chunks[0] if dataset.chunks else 1
        self.rows = min(chunk * max(1, min(SLICE, BLOCK // self.row_bytes) // chunk), max(self.count, 1))
        self.held_bytes = self.rows * sum(DTYPE[name].itemsize for name in fields)
        self.factor = 1.0
        self.held: dict[str, Any] = {}
        self.bad: Any = None  # of the block's rows, those that are no event
        self.why = ""  # of the first of them
        self.start = self.end = self.at = 0  # of the block; the row that comes next

    def find_unit(self) -> None:
        """Find whether floating-point times are seconds or microseconds: see columns.py."""
        if "t" not in self.fields or self._column(self.dataset[:0], "t").dtype.kind != "f":
            return
        small = False
        for start in range(0, self.count, self.rows):
            try:
                t = self._column(self.dataset[start : min(start + self.rows, self.count)], "t")
            except OSError:
                if self.lenient:
                    continue
                raise
            if (t != np.floor(t)).any():
                self.factor = 1e6
                return
            if (np.abs(t) >= LEAST_US).any():
                return
            small = small or bool(t.any())
        if small:
            raise RefusedError(
                f"times are floating-point and all whole numbers below {LEAST_US}: seconds or microseconds? Convert "
                "them to integers of microseconds"
            )

    def fill(self, out: Any, bad: Any) -> None:
        """Write the next rows into the columns of `out`, and set `bad` where they are no events."""
        done = 0
        while done < len(out):
            if self.at == self.end:
                self._read()
            stop = min(self.end, self.at + len(out) - done)
            rows = slice(self.at - self.start, stop - self.start)
            here = slice(done, done + stop - self.at)
            for name, values in self.held.items():
                out[name][here] = values[rows]
            if self.bad is not None and self.bad[rows].any():
                if not self.lenient:
                    raise RefusedError(self.why)
                bad[here] |= self.bad[rows]
            done += stop - self.at
            self.at = stop

    def _read(self) -> None:
        self.held, self.bad, self.why = {}, None, ""
        self.start, self.end = self.end, min(self.end + self.rows, self.count)
        size = self.end - self.start
        try:
            block = self.dataset[self.start : self.end]
        except OSError:
            if not self.lenient:
                raise
            np.empty(3 * MAX_CHUNK, np.uint8)  # a MemoryError where that was why
            self.held, self.bad = dict.fromkeys(self.fields, np.zeros(size, np.uint8)), np.ones(size, np.bool_)
            return
        for name in self.fields:
            values = self._column(block, name)
            held = self.held[name] = np.empty(size, DTYPE[name])
            for start in range(0, size, SLICE):
                piece = values[start : start + SLICE]
                bad, what = self._convert(name, piece, held[start : start + SLICE])
                if not bad.any():
                    continue
                first = int(np.argmax(bad))
                if self.bad is None or not self.bad[: start + first + 1].any():
                    self.why = f"event {self.start + start + first} has {what}: {piece[first]}"
                if self.bad is None:
                    self.bad = np.zeros(size, np.bool_)
                self.bad[start : start + SLICE] |= bad

    def _column(self, block: Any, name: str) -> Any:
        of = self.fields[name]
        return block if of is None else block[:, of] if isinstance(of, int) else block[of]

    def _convert(self, name: str, values: Any, out: Any) -> tuple[Any, str]:
        """Write values into `out`; return which are none of an event, and what is wrong with them."""
        with np.errstate(all="ignore"):
            if name == "p":
                bad = ~((values == 0) | (values == 1) | (values == -1))
                out[:] = values > 0
                return bad, "a polarity that is none of 0, 1 and -1"
            if name != "t":
                bad = ~((values >= 0) & (values < 2**16))
                if values.dtype.kind == "f":
                    bad |= values != np.floor(values)
                out[:] = np.where(bad, 0, values)
                return bad, f"{name} that is no whole number to 65535"
            if values.dtype.kind == "f":
                bad = ~(np.abs(values) < LARGEST_US / self.factor)
                if self.factor == 1:
                    bad |= values != np.floor(values)
                values = np.floor(np.where(bad, 0, values).astype(np.float64) * self.factor + 0.5)
                unit = "microseconds" if self.factor == 1 else "seconds"
                what = f"a time in {unit} (floating-point) that is no whole 64-bit number of microseconds"
            else:
                bad = (values > LARGEST_US) | (values < -LARGEST_US)
                what = "a time beyond 64 bits"
            out[:] = np.where(bad, 0, values)
            out += self.offset
            return bad, what


def _columns(h5py: Any, file: Any) -> dict[str, tuple[Any, str | int | None]]:
    for group, order in TABLES.items():
        place = _open(h5py, file, file, group)
        if isinstance(place, h5py.Dataset) and place.ndim == 2 and place.shape[1] == 4 and not place.dtype.names:
            return {name: (place, order.index(name)) for name in "txyp"}
    for group in GROUPS:
        place = _open(h5py, file, file, group)
        if isinstance(place, h5py.Dataset) and place.ndim == 1 and place.dtype.names:
            found = _find(place.dtype.names)
            if found:
                return {name: (place, of) for name, of in found.items()}
        found = _find(tuple(place)) if isinstance(place, h5py.Group) else None
        datasets = {name: _open(h5py, file, place, of) for name, of in found.items()} if found else {}
        if datasets and all(isinstance(dataset, h5py.Dataset) for dataset in datasets.values()):
            if any(dataset.ndim != 1 for dataset in datasets.values()):
                raise RefusedError("columns t, x, y, p that are not one-dimensional")
            return {name: (dataset, None) for name, dataset in datasets.items()}
    inside = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
    only = [file[name] for name in inside if isinstance(file[name], h5py.Dataset)]
    if len(only) == 1 and only[0].ndim == 1 and only[0].dtype.names and (found := _find(only[0].dtype.names)):
        return {name: (only[0], of) for name, of in found.items()}
    groups = [group for group in GROUPS if group]
    raise RefusedError(
        f"no events: expected t, x, y and p, alone or in one of {groups}, or four columns in one of {list(TABLES)}; it "
        f"holds {list(file)[:10]}"
    )


def _open(h5py: Any, file: Any, place: Any, path: str, links: int = 0) -> Any:
    """Return what stands at a path, None where nothing does; a link that leads out of the file is refused."""
    if links > MAX_LINKS:
        raise RefusedError(f"{path!r} is a link to a link, more than {MAX_LINKS} times")
    if path.startswith("/"):
        place = file
    for name in path.split("/"):
        if name in ("", "."):
            continue
        link = place.get(name, getlink=True) if isinstance(place, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.ExternalLink):
            what = f"{name!r} is a link into another file, {link.filename!r}"
            raise RefusedError(f"{what}; those are not followed: copy what it leads to")
        soft = isinstance(link, h5py.SoftLink)
        place = _open(h5py, file, place, link.path, links + 1) if soft else place[name]
    return place


def _find(names: tuple[str, ...]) -> dict[str, str] | None:
    lower = {name.lower(): name for name in names}
    found = {field: lower[known] for field, options in NAMES.items() for known in options[::-1] if known in lower}
    return found if len(found) == 4 else None


def _row_bytes(dataset: Any) -> int:
    return int(dataset.dtype.itemsize * np.prod(dataset.shape[1:], dtype=np.int64))


def _check_storage(name: str, dataset: Any) -> None:
    if dataset.is_virtual or dataset.external:
        raise RefusedError(f"column {name!r} lies in other files; those are not followed")
    kinds = [dataset.dtype[of].kind for of in dataset.dtype.names] if dataset.dtype.names else [dataset.dtype.kind]
    if not set(kinds) <= set("iufb") or not 1 <= _row_bytes(dataset) <= 1024:
        raise RefusedError(f"column {name!r} is {dataset.dtype}; expected numbers")
    # what is stored must be able to hold what is declared: a chunk grows by no more than deflate allows
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > stored * (1032 if dataset.chunks else 1):
        what = f"column {name!r} declares {dataset.nbytes} bytes and stores {stored}"
        raise RefusedError(f"truncated, or an absurd size: {what}")
    if dataset.chunks:
        largest = max(
            dataset.dtype.itemsize * np.prod(dataset.chunks, dtype=float),
            float(dataset.chunks[0] * _row_bytes(dataset)),
        )
        if largest > MAX_CHUNK:
            what = f"column {name!r} has chunks of {largest:.0f} bytes, and at most {MAX_CHUNK} are read"
            raise RefusedError(f"{what}; store it in smaller chunks (h5repack -l CHUNK=65536)")


READERS = {"aedat4": (faery_events, "faery"), "es": (faery_events, "faery"), "hdf5": (hdf5_events, "h5py")}


def main(reader: str, path: str, memory: str, max_bytes: str, lenient: str) -> int:
    read, package = READERS[reader]
    try:
        __import__(package)
    except ImportError:
        return 3
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    job = Job(path, reader, int(memory), int(max_bytes), lenient == "1")
    job.allow()
    out = sys.stdout.buffer
    try:
        stream = read(job)
        out.write(np.array(next(stream), np.int64).tobytes())
        for events in stream:
            if len(events):
                out.write(np.int64(len(events)).tobytes())
                out.write(events.tobytes())
        out.write(np.array([0, job.skipped], np.int64).tobytes())
        out.flush()
    except BrokenPipeError:
        return 0
    except MemoryError:
        print(f"-1 needs more than {job.memory >> 20} MB beyond its events: the file is damaged", file=sys.stderr)
        return 1
    except BaseException as error:  # a foreign library: whatever it raises, the file cannot be read
        text = " ".join(str(error).split())[:500] or type(error).__name__
        what = f"{error.offset} {text}" if isinstance(error, RefusedError) else f"-1 cannot be read: {text}"
        print(what, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    os._exit(code)
