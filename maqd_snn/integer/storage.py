"""Saving and loading integer networks as HDF5: format version, op by op, provenance. Files are data, never trusted.

The first 512 bytes (an HDF5 user block) hold one line of text: `maqd-snn network, sha256 <digest of all that follows>`.
It is checked before the HDF5 library sees a byte: that library may hang or crash on a flipped bit, and HDF5's own checks
miss some that change a number.

Layout: attributes `format` = "maqd-snn integer network", `version`, `provenance` (JSON), `names` (JSON list, in order);
`/ops/<name>` with attributes `type`, `inputs` (JSON) and `fields` (JSON of the fields that are no tensors), and one
int64 dataset per tensor field.
"""

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.files import atomic_path
from maqd_snn.integer.network import IntegerNetwork
from maqd_snn.integer.ops import OPS, Op

FORMAT = "maqd-snn integer network"
VERSION = 1

# Deflate cannot shrink data by more than about 1030 times; a dataset that claims more than that is not in the file.
LARGEST_RATIO = 1100
LARGEST_TEXT = 2**24

SEAL_SIZE = 512  # the smallest user block that HDF5 allows
SEAL_BEGIN = b"maqd-snn network, sha256 "


def save(net: IntegerNetwork, path: str | Path) -> None:
    """Write `net` to `path`; an interrupted or failed save leaves the previous file as it was."""
    with atomic_path(path) as temporary:
        _write(net, temporary)
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
    with h5py.File(path, "w", userblock_size=SEAL_SIZE) as file:
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        file.attrs["provenance"] = json.dumps(net.provenance, sort_keys=True)
        file.attrs["names"] = json.dumps([op.name for op in net.ops])
        for op in net.ops:
            group = file.create_group(f"ops/{op.name}", track_order=True)
            plain: dict[str, Any] = {}
            for field in fields(op):
                value = getattr(op, field.name)
                if isinstance(value, Tensor):
                    group.create_dataset(field.name, data=value.numpy(), compression="gzip", shuffle=True)
                elif field.name not in ("name", "inputs"):
                    plain[field.name] = value
            group.attrs["type"] = type(op).__name__
            group.attrs["inputs"] = json.dumps(op.inputs)
            group.attrs["fields"] = json.dumps(plain, sort_keys=True)


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
            return _read(file, source.stat().st_size)
    except MaqdError as error:
        raise MaqdError(f"{str(source)!r} is not a usable network file: {error}") from error
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
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MaqdError(
            f"{str(source)!r} is not a usable network file: it is damaged, truncated or no HDF5 ({reason})"
        ) from error


def _read(file: h5py.File, file_size: int) -> IntegerNetwork:
    if _text(file.attrs, "format") != FORMAT:
        raise MaqdError(f"it holds {_text(file.attrs, 'format')[:80]!r}, expected {FORMAT!r}")
    version = file.attrs["version"]
    if not isinstance(version, np.integer) or version < 1:
        raise MaqdError(f"the format version {version!r} is none")
    if version > VERSION:
        raise MaqdError(f"format version {version} is newer than {VERSION}; update maqd-snn")
    names = _names(file.attrs, "names")
    provenance = json.loads(_text(file.attrs, "provenance"))
    if not isinstance(provenance, dict):
        raise MaqdError("the provenance is damaged")
    return IntegerNetwork([_op(_child(file, f"ops/{name}", h5py.Group), name, file_size) for name in names], provenance)


def _op(group: h5py.Group, name: str, file_size: int) -> Op:
    kind = _text(group.attrs, "type")
    if kind not in OPS:
        raise unknown_name("op type", kind, OPS)
    inputs = _names(group.attrs, "inputs")
    plain = json.loads(_text(group.attrs, "fields"))
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()}
    for key in group:
        values[key] = _tensor(_child(group, key, h5py.Dataset), file_size)
    expected = {field.name for field in fields(OPS[kind]) if field.init} - {"name", "inputs"}
    if set(values) != expected:
        raise MaqdError(f"{name}: the fields of a {kind} are {sorted(expected)}, got {sorted(values)}")
    if kind == "Input":
        return OPS[kind](name=name, **values)
    return OPS[kind](name=name, inputs=tuple(inputs), **values)


def _names(attributes: h5py.AttributeManager, key: str) -> list[str]:
    names = json.loads(_text(attributes, key))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MaqdError(f"the attribute {key!r} is no list of names")
    return names


def _child(parent: h5py.Group, path: str, kind: type) -> Any:
    # Every step must be a plain hard link: soft and external links could lead to other files on the reader's machine.
    node: Any = parent
    for step in path.split("/"):
        if not isinstance(node, h5py.Group) or not isinstance(node.get(step, getlink=True), h5py.HardLink):
            raise MaqdError(f"{path} is missing or is a link")
        node = node[step]
    if not isinstance(node, kind):
        raise MaqdError(f"{path} is not a {kind.__name__.lower()}")
    return node


def _tensor(dataset: h5py.Dataset, file_size: int) -> Tensor:
    if dataset.dtype != np.dtype("<i8"):
        raise MaqdError(f"{dataset.name} holds {dataset.dtype}, expected int64")
    if dataset.is_virtual or dataset.external:
        raise MaqdError(f"{dataset.name} points into another file")
    if dataset.size is None or dataset.nbytes > LARGEST_RATIO * file_size:
        raise MaqdError(f"{dataset.name} claims {dataset.nbytes} bytes, more than the file can hold")
    return torch.from_numpy(dataset[()])


def _text(attributes: h5py.AttributeManager, key: str) -> str:
    if key not in attributes:
        raise MaqdError(f"the attribute {key!r} is missing")
    value = attributes[key]
    if not isinstance(value, str) or len(value) > LARGEST_TEXT:
        raise MaqdError(f"the attribute {key!r} is no text")
    return value
