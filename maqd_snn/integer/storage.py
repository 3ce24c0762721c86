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
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import torch
from h5py import h5g, h5t
from torch import Tensor

from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.files import atomic_path
from maqd_snn.hdf5 import hdf5_file
from maqd_snn.integer.network import IntegerNetwork
from maqd_snn.integer.ops import OPS, Op
from maqd_snn.sealed import (
    LARGEST_RATIO,
    SEAL_SIZE,
    check_seal,
    manifest_value,
    node,
    one_reason,
    read_array,
    read_manifest,
    write_manifest,
)
from maqd_snn.sealed import seal as seal_as

FORMAT = "maqd-snn integer network"
VERSION = 1
KIND = "network"


def save(net: IntegerNetwork, path: str | Path) -> None:
    """Write `net` to `path`; an interrupted or failed save leaves the previous file as it was."""
    with atomic_path(path) as temporary:
        _write(net, temporary)
        seal(temporary)


def seal(path: Path) -> None:
    """Write the digest of the file's contents into its user block."""
    seal_as(path, KIND)


def _write(net: IntegerNetwork, path: Path) -> None:
    graph = []
    with hdf5_file(path, SEAL_SIZE) as file:
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
        write_manifest(file, FORMAT, VERSION, {"provenance": net.provenance, "ops": graph})


def fingerprint(net: IntegerNetwork) -> str:
    """Return the sha256 of what the network computes: its ops with all their fields, not its provenance.

    >>> from maqd_snn.integer import ops
    >>> ready = ops.Input("input", shape=(2,))
    >>> nets = [IntegerNetwork([ready, ops.Readout("r", ("input",), bias=torch.tensor([0, k]))]) for k in (0, 0, 1)]
    >>> [fingerprint(net) == fingerprint(nets[0]) for net in nets]
    [True, True, False]
    """
    digest = hashlib.sha256()
    for op in net.ops:
        values = {name: getattr(op, name) for name in _fields(type(op))}
        plain = {key: list(value.shape) if isinstance(value, Tensor) else value for key, value in values.items()}
        digest.update(json.dumps([type(op).__name__, op.name, op.inputs, plain], sort_keys=True).encode())
        for value in values.values():
            if isinstance(value, Tensor):
                digest.update(value.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


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
    with one_reason(source, KIND):
        check_seal(source, KIND)
        with h5py.File(source, "r") as file:
            return _read(file.id, source.stat().st_size)


def _read(root: h5g.GroupID, file_size: int) -> IntegerNetwork:
    manifest = read_manifest(root, FORMAT, VERSION, file_size)
    graph: list[Op] = []
    left = LARGEST_RATIO * file_size  # for all tensors together: a small file may hold one of them under many names
    for index, entry in enumerate(manifest_value(manifest, "ops", list)):
        graph.append(_op(root, index, entry, left))
        left -= sum(tensor.nbytes for tensor in vars(graph[-1]).values() if isinstance(tensor, Tensor))
    return IntegerNetwork(graph, manifest_value(manifest, "provenance", dict))


def _op(root: h5g.GroupID, index: int, entry: Any, limit: int) -> Op:
    name, kind = manifest_value(entry, "name", str), manifest_value(entry, "type", str)
    if kind not in OPS:
        raise unknown_name("op type", kind, OPS)
    if "inputs" in entry and not all(isinstance(source, str) for source in manifest_value(entry, "inputs", list)):
        raise MaqdError(f"{name}: the inputs are no list of names")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items() if key != "type"
    }
    tensors = [key.decode() for key in node(root, f"tensors/{index}", h5g.GroupID)]
    found, expected = sorted([*values, *tensors]), _fields(OPS[kind])
    if found != expected:
        raise MaqdError(f"{name}: the fields of a {kind} are {expected}, got {found}")
    for key in tensors:
        values[key] = torch.from_numpy(read_array(root, f"tensors/{index}/{key}", h5t.STD_I64LE, limit))
    return OPS[kind](**values)
