"""Reading integer networks back: our own HDF5, NIR files of ours, and memory maps.

A NIR file of ours states the ops of the network in its metadata, with thresholds and biases; weights, and in the graded
form thresholds too, are read from its nodes. The fingerprint that it states must be that of what was read: nothing is
nearly right.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maqd_snn.errors import MaqdError, MissingExtraError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer import load as load_hdf5
from maqd_snn.integer.ops import OPS
from maqd_snn.integer.storage import fingerprint
from maqd_snn.neuromorphic.memory import load_map
from maqd_snn.neuromorphic.nir_verify import NewerFileError, check_metadata, one_line, read_nir


def load(path: str | Path) -> IntegerNetwork:
    """Return the integer network of a file that this library wrote.

    Args:
        path: `network.h5` of `IntegerNetwork.save`; a `.nir` file of `maqd_snn.export`; or a memory map (`.json`).

    Raises:
        MaqdError: no such file; a damaged, foreign, hostile or newer file. MissingExtraError: `nir` is not installed.
    """
    source = Path(path)
    if source.suffix not in (".nir", ".json"):
        return load_hdf5(source)
    if not source.is_file():
        raise MaqdError(f"there is no network file {str(source)!r}; give one that maqd_snn.export wrote")
    if source.suffix == ".json":
        return load_map(source)
    try:
        return _from_nir(read_nir(source))
    except (MissingExtraError, NewerFileError):
        raise
    except Exception as error:  # nir checks files with assertions and whatever else comes to hand
        raise MaqdError(
            f"{str(source)!r} is no NIR file that holds a network of maqd-snn: {one_line(error)}"
        ) from error


def _from_nir(graph: Any) -> IntegerNetwork:
    stated = {key: str(graph.metadata[key]) for key in ("network", "nodes", "provenance", "fingerprint")}
    notes = json.loads(stated["nodes"])
    nodes = {
        note["op"]: (graph.nodes[name], note)
        for name, note in notes.items()
        if note["role"] in ("Conv2d", "Linear", "Threshold")
    }
    entries = json.loads(stated["network"])
    direction = {entry["name"]: entry.get("direction") for entry in entries}
    rebuilt = []
    for entry in entries:
        kind = OPS[entry["type"]]
        known = {each.name for each in fields(kind) if each.init}
        values = {key: _value(key, value) for key, value in entry.items() if key in known}
        if issubclass(kind, ops.Conv2d | ops.Linear):
            node, note = nodes[entry["name"]]
            weight = np.asarray(node.weight, np.float64)
            carried = note.get("carries_bias_of")
            if direction.get(carried) is not None:  # the product carries the signs of its single threshold, too
                low = next(each["low"] for each in entries if each["name"] == carried)
                factor = np.array(direction[carried]) * (1 if low == 0 else -1)
                if factor.shape != weight.shape[:1]:
                    raise MaqdError(f"{carried} has {factor.size} directions, its product {len(weight)} outputs")
                weight = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
            values["weight"] = torch.from_numpy(_own(weight, entry["weight_shape"], int(entry.get("groups", 1))))
        if issubclass(kind, ops.Threshold) and "thresholds" not in values:
            values |= _graded(nodes[entry["name"]][0])
        rebuilt.append(kind(**values))
    net = IntegerNetwork(rebuilt, json.loads(stated["provenance"]))
    if fingerprint(net) != stated["fingerprint"]:
        raise MaqdError("what it holds is not the network whose fingerprint it states: it was changed")
    check_metadata(graph.metadata, net)
    return net


def _graded(node: Any) -> dict[str, Any]:
    """Return the fields that a graded IF holds: its thresholds are those of r * x, and r is the direction."""
    r = np.asarray(node.r)
    direction = torch.from_numpy(r.reshape(len(r), -1)[:, 0].astype(np.int64))
    return {"thresholds": torch.from_numpy(node.metadata["thresholds"]) * direction[:, None], "direction": direction}


def _value(key: str, value: Any) -> Any:
    if key in ("thresholds", "direction", "bias"):
        return torch.tensor(value, dtype=torch.int64)
    return tuple(value) if isinstance(value, list) else value


def _own(weight: Any, shape: list[int], groups: int) -> Any:
    """Return the weight of the op: without the rim that makes kernels square, and the zeros between groups."""
    if len(shape) == 4:
        rims = [(have - want) // 2 for have, want in zip(weight.shape[2:], shape[2:], strict=True)]
        weight = weight[:, :, rims[0] : rims[0] + shape[2], rims[1] : rims[1] + shape[3]]
        outs, per_group = len(weight), shape[1]
        group = np.arange(outs) // (outs // groups)
        weight = np.stack([weight[o, g * per_group : (g + 1) * per_group] for o, g in enumerate(group)])
    whole = np.rint(weight).astype(np.int64)
    if list(whole.shape) != shape or not np.array_equal(whole, weight):
        raise MaqdError("a weight of it is no integer, or has another shape than it states")
    return whole
