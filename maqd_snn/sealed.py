"""HDF5 files under a seal, and reading them as data that is never trusted.

The first 512 bytes of such a file (an HDF5 user block) hold one line of text: `maqd-snn <what>, sha256 <digest of all
that follows>`. It is checked before the HDF5 library sees a byte: that library may hang or crash on a flipped bit, and
its own checks miss some that change a number. A seal tells damage, no forger: what is read is checked all the same.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from h5py import h5d, h5g, h5l, h5o, h5s, h5t, h5z

from maqd_snn.errors import MaqdError

SEAL_SIZE = 512  # the smallest user block that HDF5 allows
LARGEST_REASON = 500  # characters

# Deflate cannot shrink data by more than about 1030 times; arrays that claim more than that are not in the file.
LARGEST_RATIO = 1100

_PACKED = [h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE]


def seal(path: Path, what: str) -> None:
    """Write the digest of the file's contents into its user block; `what` says what kind of file it is."""
    with path.open("r+b") as file:
        file.write(_digest(path, what).ljust(SEAL_SIZE, b"\0"))


def check_seal(path: Path, what: str) -> None:
    """Raise MaqdError unless the seal is there, of this kind, and right."""
    with path.open("rb") as file:
        found = file.read(SEAL_SIZE)
    if not found.startswith(_begin(what)):
        raise MaqdError("it was not written by maqd-snn")
    if found != _digest(path, what).ljust(SEAL_SIZE, b"\0"):
        raise MaqdError("it is damaged or truncated, its digest does not match")


def _begin(what: str) -> bytes:
    return f"maqd-snn {what}, sha256 ".encode()


def _digest(path: Path, what: str) -> bytes:
    with path.open("rb") as file:
        file.seek(SEAL_SIZE)
        return _begin(what) + hashlib.file_digest(file, "sha256").hexdigest().encode() + b"\n"


@contextmanager
def one_reason(source: Path, what: str) -> Iterator[None]:
    """Turn whatever reading `source` raises into one MaqdError that names the file and the reason."""
    try:
        yield
    except (
        OSError,
        KeyError,
        ValueError,
        TypeError,
        RuntimeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        reason = " ".join(str(error).splitlines())[:LARGEST_REASON] or type(error).__name__
        if not isinstance(error, MaqdError):
            reason = f"it is damaged, truncated or no HDF5 ({reason})"
        raise MaqdError(f"{str(source)!r} is not a usable {what} file: {reason}") from error


def write_manifest(file: h5py.File, form: str, version: int, values: dict[str, Any]) -> None:
    """Write JSON text as the bytes of the dataset `manifest`."""
    text = json.dumps({"format": form, "version": version, **values}, sort_keys=True, allow_nan=False).encode()
    file.create_dataset("manifest", data=np.frombuffer(text, np.uint8))


def read_manifest(root: h5g.GroupID, form: str, version: int, file_size: int) -> Any:
    """Return what `write_manifest` wrote; raises MaqdError or ValueError where it is of another form or newer."""
    text = read_array(root, "manifest", h5t.STD_U8LE, file_size).tobytes()
    manifest = json.loads(text.decode(), parse_constant=_no_json)
    found_form, found = manifest_value(manifest, "format", str), manifest_value(manifest, "version", int)
    if found_form != form:
        raise MaqdError(f"it holds {found_form[:80]!r}, expected {form!r}")
    if found < 1:
        raise MaqdError(f"the format version {found} is none")
    if found > version:
        raise MaqdError(f"format version {found} is newer than {version}; update maqd-snn")
    return manifest


def _no_json(constant: str) -> NoReturn:
    raise MaqdError(f"the manifest holds {constant}, which is no JSON")


def manifest_value(record: Any, key: str, kind: type) -> Any:
    """Return `record[key]` of a manifest, which must be of exactly this type."""
    if not isinstance(record, dict) or type(record.get(key)) is not kind:
        raise MaqdError(f"the manifest holds no {kind.__name__} {key!r} where there must be one")
    return record[key]


def node(root: h5g.GroupID, path: str, kind: type) -> Any:
    """Return the group or dataset at `path`.

    Every step must be a plain hard link: soft and external links could lead to other files on the reader's machine.
    """
    found: Any = root
    for step in path.encode().split(b"/"):
        if (
            not isinstance(found, h5g.GroupID)
            or not found.links.exists(step)
            or found.links.get_info(step).type != h5l.TYPE_HARD
        ):
            raise MaqdError(f"{path} is missing or is a link")
        found = h5o.open(found, step)
    if not isinstance(found, kind):
        raise MaqdError(f"{path} is not a {'group' if kind is h5g.GroupID else 'dataset'}")
    return found


def checked_dataset(
    root: h5g.GroupID, path: str, kind: h5t.TypeID, limit: int, chunk: Callable[[tuple[int, ...]], bool] | None = None
) -> h5d.DatasetID:
    """Return the dataset at `path`, of exactly this type, of at most `limit` bytes, in plain or packed layout.

    Packed is shuffled and deflated, in one chunk, or in chunks whose shape `chunk` accepts.
    """
    # The type comes first, of the low-level dataset: of variable length, not even the fill value may be looked at.
    dataset = node(root, path, h5d.DatasetID)
    if not dataset.get_type().equal(kind):
        raise MaqdError(f"{path} holds {str(dataset.dtype)[:80]}, expected {kind.dtype}")
    plan, shape = dataset.get_create_plist(), dataset.shape
    if shape is None:
        raise MaqdError(f"{path} holds nothing")
    if plan.get_layout() == h5d.CHUNKED:
        filters = [plan.get_filter(index)[0] for index in range(plan.get_nfilters())]
        fits = plan.get_chunk() == shape if chunk is None else chunk(plan.get_chunk())
        if not fits or filters != _PACKED:
            raise MaqdError(
                f"{path} is not packed as {'one chunk' if chunk is None else 'expected'}, shuffled and deflated"
            )
    elif plan.get_layout() != h5d.CONTIGUOUS or plan.get_external_count():
        raise MaqdError(f"{path} points into another file or is laid out in a foreign way")
    claimed = math.prod(shape) * kind.get_size()
    if claimed > limit:
        raise MaqdError(f"{path} claims {claimed} bytes, more than the file can hold")
    return dataset


def read_array(root: h5g.GroupID, path: str, kind: h5t.TypeID, limit: int) -> Any:
    """Return the array at `path`; see `checked_dataset`."""
    dataset = checked_dataset(root, path, kind, limit)
    values = np.empty(dataset.shape, kind.dtype)
    dataset.read(h5s.ALL, h5s.ALL, values)
    return values
