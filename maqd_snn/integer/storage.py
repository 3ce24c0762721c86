"""Saving and loading integer networks as HDF5: format version, op by op, provenance. Files are data, never trusted.

The first 512 bytes (an HDF5 user block) hold one line of text: `maqd-snn network, sha256 <digest of all that follows>`.
It is checked before the HDF5 library sees a byte: that library may hang or crash on a flipped bit, and its own checks
miss some that change a number.

Layout, without attributes or data of variable length: reading such texts from a hostile file can hang that library.
`/manifest`, uint8: JSON in UTF-8, an object with `format` = "maqd-snn integer network", `version`, `provenance` and
`ops`, a list of objects, in order, with `type` and the fields of the op that are no tensors (`name`, `inputs`, ...);
`/tensors/<index of the op>/<field>`, int64: the fields that are tensors, each in one chunk, shuffled and deflated.
"""

import hashlib
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
import torch
from h5py import h5d, h5g, h5l, h5o, h5s, h5t, h5z
from torch import Tensor

from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.files import atomic_path
from maqd_snn.integer.network import IntegerNetwork
from maqd_snn.integer.ops import OPS, Op

FORMAT = "maqd-snn integer network"
VERSION = 1

# Deflate cannot shrink data by more than about 1030 times; tensors that claim more than that are not in the file.
LARGEST_RATIO = 1100
LARGEST_REASON = 500  # characters

SEAL_SIZE = 512  # the smallest user block that HDF5 allows
SEAL_BEGIN = b"maqd-snn network, sha256 "


def save(net: IntegerNetwork, path: str | Path) -> None:
    """Write `net` to `path`; an interrupted or failed save leaves the previous file as it was."""
    with atomic_path(path) as temporary:
        try:
            _write(net, temporary)
        except RuntimeError as error:  # what HDF5 makes of a full disk
            raise OSError(str(error).splitlines()[0]) from error
        seal(temporary)


def seal(path: Path) -> None:
    """Write the digest of the file's contents into its user block."""
    with path.open("r+b") as file:
        file.write(_digest(path).ljust(SEAL_SIZE, b"\0"))


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(SEAL_SIZE)
        return SEAL_BEGIN + hashlib.file_digest(file, "sha256").hexdigest().encode() + b"\n"


def _check_seal(path: Path) -> None:
    with path.open("rb") as file:
        found = file.read(SEAL_SIZE)
    if not found.startswith(SEAL_BEGIN):
        raise MaqdError("it was not written by maqd-snn")
    if found != _digest(path).ljust(SEAL_SIZE, b"\0"):
        raise MaqdError("it is damaged or truncated, its digest does not match")


def _write(net: IntegerNetwork, path: Path) -> None:
    graph = []
    with h5py.File(path, "w", userblock_size=SEAL_SIZE) as file:
        for index, op in enumerate(net.ops):
            group = file.create_group(f"tensors/{index}")
            entry: dict[str, Any] = {"type": type(op).__name__}
            for name in _fields(type(op)):
                value = getattr(op, name)
                if isinstance(value, Tensor):
                    group.create_dataset(name, data=value.numpy(), chunks=value.shape, compression="gzip", shuffle=True)
                else:
                    entry[name] = value
            graph.append(entry)
        manifest = {"format": FORMAT, "version": VERSION, "provenance": net.provenance, "ops": graph}
        text = json.dumps(manifest, sort_keys=True, allow_nan=False).encode()
        file.create_dataset("manifest", data=np.frombuffer(text, np.uint8))


def _fields(kind: type[Op]) -> list[str]:
    return sorted(field.name for field in fields(kind) if field.init)


def load(path: str | Path) -> IntegerNetwork:
    """Read an integer network that `IntegerNetwork.save` wrote.

    Raises:
        MaqdError: no such file; not HDF5, truncated, foreign, from a newer format version, or with contents that are
            no valid network. Sizes are checked before memory is taken; links out of the file are refused.
    """
    source = Path(path)
    if not source.is_file():
        raise MaqdError(f"there is no network file {str(source)!r}; give the network.h5 of a run")
    try:
        _check_seal(source)
        with h5py.File(source, "r") as file:
            return _read(file.id, source.stat().st_size)
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
        raise MaqdError(f"{str(source)!r} is not a usable network file: {reason}") from error


def _read(root: h5g.GroupID, file_size: int) -> IntegerNetwork:
    text = _array(root, "manifest", h5t.STD_U8LE, file_size).tobytes()
    manifest = json.loads(text.decode(), parse_constant=_no_json)
    form, version = _value(manifest, "format", str), _value(manifest, "version", int)
    if form != FORMAT:
        raise MaqdError(f"it holds {form[:80]!r}, expected {FORMAT!r}")
    if version < 1:
        raise MaqdError(f"the format version {version} is none")
    if version > VERSION:
        raise MaqdError(f"format version {version} is newer than {VERSION}; update maqd-snn")
    graph: list[Op] = []
    left = LARGEST_RATIO * file_size  # for all tensors together: a small file may hold one of them under many names
    for index, entry in enumerate(_value(manifest, "ops", list)):
        graph.append(_op(root, index, entry, left))
        left -= sum(value.nbytes for value in vars(graph[-1]).values() if isinstance(value, Tensor))
    return IntegerNetwork(graph, _value(manifest, "provenance", dict))


def _no_json(constant: str) -> NoReturn:
    raise MaqdError(f"the manifest holds {constant}, which is no JSON")


def _value(record: Any, key: str, kind: type) -> Any:
    if not isinstance(record, dict) or type(record.get(key)) is not kind:
        raise MaqdError(f"the manifest holds no {kind.__name__} {key!r} where there must be one")
    return record[key]


def _op(root: h5g.GroupID, index: int, entry: Any, limit: int) -> Op:
    name, kind = _value(entry, "name", str), _value(entry, "type", str)
    if kind not in OPS:
        raise unknown_name("op type", kind, OPS)
    if "inputs" in entry and not all(isinstance(source, str) for source in _value(entry, "inputs", list)):
        raise MaqdError(f"{name}: the inputs are no list of names")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items() if key != "type"
    }
    tensors = [key.decode() for key in _node(root, f"tensors/{index}", h5g.GroupID)]
    found, expected = sorted([*values, *tensors]), _fields(OPS[kind])
    if found != expected:
        raise MaqdError(f"{name}: the fields of a {kind} are {expected}, got {found}")
    for key in tensors:
        values[key] = torch.from_numpy(_array(root, f"tensors/{index}/{key}", h5t.STD_I64LE, limit))
    return OPS[kind](**values)


def _node(root: h5g.GroupID, path: str, kind: type) -> Any:
    # Every step must be a plain hard link: soft and external links could lead to other files on the reader's machine.
    node: Any = root
    for step in path.encode().split(b"/"):
        if (
            not isinstance(node, h5g.GroupID)
            or not node.links.exists(step)
            or node.links.get_info(step).type != h5l.TYPE_HARD
        ):
            raise MaqdError(f"{path} is missing or is a link")
        node = h5o.open(node, step)
    if not isinstance(node, kind):
        raise MaqdError(f"{path} is not a {'group' if kind is h5g.GroupID else 'dataset'}")
    return node


def _array(root: h5g.GroupID, path: str, kind: h5t.TypeID, limit: int) -> Any:
    # The type comes first, of the low-level dataset: of variable length, not even the fill value may be looked at.
    dataset = _node(root, path, h5d.DatasetID)
    if not dataset.get_type().equal(kind):
        raise MaqdError(f"{path} holds {str(dataset.dtype)[:80]}, expected {kind.dtype}")
    plan, shape = dataset.get_create_plist(), dataset.shape
    if shape is None:
        raise MaqdError(f"{path} holds nothing")
    if plan.get_layout() == h5d.CHUNKED:
        filters = [plan.get_filter(index)[0] for index in range(plan.get_nfilters())]
        if plan.get_chunk() != shape or filters != [h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE]:
            raise MaqdError(f"{path} is not packed as one chunk, shuffled and deflated")
    elif plan.get_layout() != h5d.CONTIGUOUS or plan.get_external_count():
        raise MaqdError(f"{path} points into another file or is laid out in a foreign way")
    claimed = math.prod(shape) * kind.get_size()
    if claimed > limit:
        raise MaqdError(f"{path} claims {claimed} bytes, more than the file can hold")
    values = np.empty(shape, kind.dtype)
    dataset.read(h5s.ALL, h5s.ALL, values)
    return values
