"""NumPy's .npy and .npz: one structured array or four columns, or one array of each of t, x, y and p.

Pickled objects are never loaded. An .npz is a zip archive; its members are inflated slice by slice, and what a member
declares is held against the size of the file before memory is taken.

Source: NumPy, "A simple file format for NumPy arrays", numpy.lib.format.
"""

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from maqd_snn.datasets.events.columns import Column, fill_events, find_columns
from maqd_snn.datasets.events.recording import EVENT_DTYPE, EventFileError, Events, ReadOptions
from maqd_snn.datasets.events.source import open_source
from maqd_snn.datasets.events.tables import SLICE, Table, TableFormat

_ORDER = ("t", "x", "y", "p")  # of four columns without names
_DEFLATE_MAX_RATIO = 1032  # no deflate stream grows more
_MAX_ROW = 1024  # bytes: no table of events has wider rows
_MAX_MEMBERS = 1000


@dataclass
class _Array:
    """An array in a file, read from the front."""

    path: Path
    file: IO[bytes]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def take(self, count: int) -> Column:
        """Return the next `count` rows."""
        columns = self.shape[1:]
        size = count * self.dtype.itemsize * math.prod(columns)
        try:
            data = self.file.read(size)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise EventFileError(self.path, f"truncated or damaged: {error}") from error
        if len(data) != size:
            raise EventFileError(self.path, f"truncated: {size - len(data)} bytes of the array are missing")
        return np.frombuffer(data, self.dtype).reshape(count, *columns)


def _open_array(path: Path, file: IO[bytes], capacity: int) -> _Array:
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file, max_header_size=10_000)
    except KeyError as error:
        raise EventFileError(path, "no array: its .npy version is unknown", 0) from error
    except Exception as error:  # the header is Python text, parsed by NumPy: whatever it raises, it is damaged
        raise EventFileError(path, f"no array: its header cannot be read ({type(error).__name__})", 0) from error
    if dtype.hasobject:
        raise EventFileError(path, "an array of Python objects; those are never loaded", 0)
    if fortran and len(shape) > 1:
        raise EventFileError(path, "an array in Fortran order; expected rows of events", 0)
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 4) or any(side < 0 for side in shape):
        raise EventFileError(path, f"an array of shape {shape}; expected events in rows, of one or four columns", 0)
    if not 1 <= dtype.itemsize <= _MAX_ROW or dtype.subdtype is not None:
        raise EventFileError(path, f"an array of {dtype}; expected numbers, or records of them", 0)
    size = dtype.itemsize * math.prod(shape)
    if size > capacity:
        raise EventFileError(path, f"truncated, or an absurd header: shape {shape} of {dtype} does not fit the file", 0)
    return _Array(path, file, dtype, shape)


def _slices(path: Path, arrays: dict[str, _Array]) -> Iterator[Events]:
    # `arrays`: one for each of t, x, y, p, or a single one of records or four columns, under the name ""
    count = next(iter(arrays.values())).shape[0]
    names = None
    if "" in arrays and len(arrays[""].shape) == 1:
        names = find_columns(arrays[""].dtype.names or ())
        if names is None:
            reason = f"records of {arrays[''].dtype.names}; expected the fields t, x, y and p"
            raise EventFileError(path, reason, 0)
    for first in range(0, count, SLICE):
        rows = min(SLICE, count - first)
        if "" not in arrays:
            columns = {name: array.take(rows) for name, array in arrays.items()}
        else:
            block = arrays[""].take(rows)
            if names:
                columns = {name: block[of] for name, of in names.items()}
            else:
                columns = {name: block[:, at] for at, name in enumerate(_ORDER)}
        events = np.empty(rows, EVENT_DTYPE)
        fill_events(path, events, columns, first)
        yield events


class NpyFormat(TableFormat):
    """Reader of .npy: records with fields t, x, y and p, or four columns in this order."""

    name = "npy"
    title = "NumPy .npy: records with t, x, y, p, or four columns in this order"
    suffixes = (".npy",)

    def matches(self, head: bytes) -> bool:
        return head.startswith(b"\x93NUMPY")

    @contextmanager
    def open_table(self, path: Path, options: ReadOptions) -> Iterator[Table]:
        with open_source(path) as source, path.open("rb") as file:
            array = _open_array(path, file, source.size)
            yield Table(array.shape[0], None, _slices(path, {"": array}))


class NpzFormat(TableFormat):
    """Reader of .npz: arrays t, x, y and p, or a single array as in .npy."""

    name = "npz"
    title = "NumPy .npz: arrays t, x, y, p, or one array as in .npy"
    suffixes = (".npz",)

    def matches(self, head: bytes) -> bool:
        return head.startswith(b"PK\x03\x04") and b".npy" in head[:512]

    @contextmanager
    def open_table(self, path: Path, options: ReadOptions) -> Iterator[Table]:
        with ExitStack() as stack:
            source = stack.enter_context(open_source(path))
            try:
                archive = stack.enter_context(zipfile.ZipFile(path))
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
                raise EventFileError(path, f"no .npz archive, or a truncated one: {error}", 0) from error
            members = {item.filename.removesuffix(".npy"): item for item in archive.infolist()[:_MAX_MEMBERS]}
            found = find_columns(tuple(members))
            if found is None:
                tables = [name for name in members if len(members) == 1 or name == "events"]
                if len(tables) != 1:
                    reason = f"members {sorted(members)[:10]}; expected t, x, y and p, or one array"
                    raise EventFileError(path, reason, 0)
                found = {"": tables[0]}
            arrays = {}
            for name, of in found.items():
                item = members[of]
                if item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or item.flag_bits & 1:
                    raise EventFileError(path, f"member {of!r} is encrypted, or compressed in another way than deflate")
                try:
                    file = stack.enter_context(archive.open(item))
                except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, zlib.error) as error:
                    raise EventFileError(path, f"member {of!r} is damaged: {error}") from error
                capacity = min(item.file_size, source.size * _DEFLATE_MAX_RATIO)
                arrays[name] = _open_array(path, file, capacity)
            lengths = {name: array.shape[0] for name, array in arrays.items()}
            if len(set(lengths.values())) != 1 or ("" not in arrays and any(len(a.shape) > 1 for a in arrays.values())):
                raise EventFileError(path, f"arrays of different lengths: {lengths}")
            yield Table(next(iter(lengths.values())), None, _slices(path, arrays))
