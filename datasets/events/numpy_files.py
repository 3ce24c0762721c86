"""NumPy's .npy and .npz: one structured array or four columns, or one array of each of t, x, y and p.

Pickled objects are never loaded. An .npz is a zip archive; its members are inflated slice by slice, and what a member
declares is held against the size of the file before memory is taken. With `skip_damaged` the rows before a truncation
are kept, and the bytes that are missing of what the header declares count as skipped.

Source: NumPy, "A simple file format for NumPy arrays", numpy.lib.format.
"""

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from maqd_snn.datasets.events.columns import (
    MICROSECONDS,
    Column,
    find_columns,
    to_events,
    unit_of,
)
from maqd_snn.datasets.events.recording import EventFileError, Events, ReadOptions
from maqd_snn.datasets.events.source import open_source
from maqd_snn.datasets.events.tables import SLICE, Table, TableFormat

_ORDER = ("t", "x", "y", "p")  # of four columns without names
_DEFLATE_MAX_RATIO = 1032  # no deflate stream grows more
_MAX_ROW = 1024  # bytes: no table of events has wider rows
_MAX_MEMBERS = 1000
_PIECE = 2**16  # bytes read at a time: what is lost where one cannot be
_BLOCK = 2**23  # bytes of rows at a time


@dataclass
class _Array:
    """An array in a file, read from the front; `damage` says why it ended early."""

    file: IO[bytes]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    capacity: int  # bytes that its rows may take in this file
    damage: str = ""

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])

    @property
    def rows(self) -> int:
        """How many rows the file can hold of those that the header declares."""
        return min(self.shape[0], max(self.capacity, 0) // self.row_bytes)

    def take(self, count: int) -> Column:
        """Return the next `count` rows, or those up to the damage."""
        size = count * self.row_bytes
        data = bytearray()
        try:
            while len(data) < size and (piece := self.file.read(min(_PIECE, size - len(data)))):
                data += piece
            if len(data) < size:
                self.damage = f"truncated: {size - len(data)} bytes of the array are missing"
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            self.damage = f"truncated or damaged: {error}"
        rows = len(data) // self.row_bytes
        return np.frombuffer(data, self.dtype, rows * math.prod(self.shape[1:])).reshape(rows, *self.shape[1:])


def _open_array(path: Path, file: IO[bytes], capacity: int, options: ReadOptions) -> _Array:
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
    array = _Array(file, dtype, shape, capacity - file.tell())
    missing = (shape[0] - array.rows) * array.row_bytes
    if missing:
        reason = f"truncated, or an absurd header: shape {shape} of {dtype} does not fit the file"
        options.skip(path, missing, reason, 0)
    return array


def _columns_of(path: Path, array: _Array) -> dict[str, Any]:
    # for each of t, x, y, p its field, or its place among four columns
    if len(array.shape) == 2:
        return {name: at for at, name in enumerate(_ORDER)}
    names = find_columns(array.dtype.names or ())
    if names is None:
        raise EventFileError(path, f"records of {array.dtype.names}; expected the fields t, x, y and p", 0)
    return dict(names)


def _column(block: Column, of: Any) -> Column:
    return block if of is None else block[:, of] if isinstance(of, int) else block[of]


def _slices(
    path: Path, arrays: dict[str, _Array], again: Callable[[str], AbstractContextManager[_Array]], options: ReadOptions
) -> Iterator[Events]:
    # `arrays`: one for each of t, x, y, p, or a single one of records or four columns, under the name ""; `again`
    # opens one of them anew
    table = arrays.get("")
    places = {name: (name, None) for name in _ORDER}
    if table is not None:
        places = {name: ("", of) for name, of in _columns_of(path, table).items()}
    count = min(array.rows for array in arrays.values())
    row_bytes = sum(array.row_bytes for array in arrays.values())
    if alone := sum((array.rows - count) * array.row_bytes for array in arrays.values()):
        options.skip(path, alone, "truncated: rows without all of t, x, y and p")
    step = max(1, min(SLICE, _BLOCK // row_bytes))
    name, of = places["t"]
    unit = MICROSECONDS
    if count and _column(np.empty((1, *arrays[name].shape[1:]), arrays[name].dtype), of).dtype.kind == "f":
        with again(name) as other:
            unit = unit_of(path, (_column(other.take(min(step, count - at)), of) for at in range(0, count, step)))
    for first in range(0, count, step):
        blocks = {name: array.take(min(step, count - first)) for name, array in arrays.items()}
        rows = min(map(len, blocks.values()))
        columns = {name: _column(blocks[of][:rows], place) for name, (of, place) in places.items()}
        yield to_events(path, columns, first, options, unit=unit, row_bytes=row_bytes)
        damage = next((array.damage for array in arrays.values() if array.damage), None)
        if damage:
            options.skip(path, (count - first - rows) * row_bytes, damage)
            return


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
            array = _open_array(path, file, source.size, options)

            @contextmanager
            def again(_: str) -> Iterator[_Array]:
                with path.open("rb") as other:
                    yield _open_array(path, other, source.size, _uncounted(options))

            yield Table(array.rows, None, _slices(path, {"": array}, again, options))


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
                arrays[name] = stack.enter_context(_member(path, archive, item, source.size, options))
            lengths = {name: array.shape[0] for name, array in arrays.items()}
            if len(set(lengths.values())) != 1 or ("" not in arrays and any(len(a.shape) > 1 for a in arrays.values())):
                raise EventFileError(path, f"arrays of different lengths: {lengths}")

            def again(name: str) -> AbstractContextManager[_Array]:
                return _member(path, archive, members[found[name]], source.size, _uncounted(options))

            count = min(array.rows for array in arrays.values())
            yield Table(count, None, _slices(path, arrays, again, options))


@contextmanager
def _member(
    path: Path, archive: zipfile.ZipFile, item: zipfile.ZipInfo, size: int, options: ReadOptions
) -> Iterator[_Array]:
    try:
        file = archive.open(item)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, zlib.error) as error:
        raise EventFileError(path, f"member {item.filename!r} is damaged: {error}") from error
    with file:
        yield _open_array(path, file, min(item.file_size, size * _DEFLATE_MAX_RATIO), options)


def _uncounted(options: ReadOptions) -> ReadOptions:
    return ReadOptions(skip_damaged=options.skip_damaged)
