"""Golden events of a NIR file: what goes in, what every neuron fires and what comes out, for a few samples.

They are NIR's own data form (nir 1.0.8, `nir.read_data`): a `nir.ValuedEventData` for the Input node, every node of
neurons and the Output node of `nir_graph(net)`, so that who reads the graph on another machine can compare without this
library. All events are at time 0 of one time step. An event is a value that is not zero: codes minus zero point of the
input, 1 of a spike, the class score of the output; idx is the place in the flattened node, -1 where a sample has fewer
events than the longest. The file's own attributes state format version, fingerprint and zero point of the network.

Axis letters: B batch, E events.
"""

import hashlib
from dataclasses import replace
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn._version import __version__
from maqd_snn.errors import MaqdError
from maqd_snn.files import atomic_path
from maqd_snn.integer import IntegerNetwork
from maqd_snn.integer.storage import fingerprint
from maqd_snn.neuromorphic.check import Check, LayerCheck, compare
from maqd_snn.neuromorphic.nir_export import FORMAT_VERSION, nir_graph, require_nir
from maqd_snn.neuromorphic.nir_interpreter import run_nir
from maqd_snn.neuromorphic.nir_verify import (
    NewerFileError,
    check_plain,
    check_version,
    compare_stated,
    levels,
    one_line,
    samples_within,
    spiking_nodes,
    traced,
)

SAMPLES = 8
LARGEST_SAMPLES = 1024  # that a file may hold: few events of many samples would take much memory
INPUT, OUTPUT = "values", "scores"  # names of the observables; those of neurons are "spikes"
SPIKES = "spikes"


def golden_codes(net: IntegerNetwork) -> NDArray[np.int64]:
    """Return the codes (B, *input shape) of the samples: all lowest, all highest, then at random."""
    generator = np.random.default_rng(0)
    codes = generator.integers(net.input.low, net.input.high + 1, (SAMPLES, *net.input.shape))
    codes[0], codes[1] = net.input.low, net.input.high
    return codes


def write_nir_events(net: IntegerNetwork, path: Path, codes: NDArray[np.integer[Any]] | None = None) -> None:
    """Write the golden events to `path`, atomically.

    Args:
        net: the network. path: the file. codes: the samples (B, *input shape), at most `LARGEST_SAMPLES`; None takes
        `golden_codes`.

    Raises:
        MaqdError: as `nir_graph`; a package nir older than its data form; codes of another shape or outside the range
            of the input, or too many.
    """
    nir = require_nir()
    codes = golden_codes(net) if codes is None else codes
    if codes.shape[1:] != net.input.shape or not 1 <= len(codes) <= LARGEST_SAMPLES:
        raise MaqdError(
            f"golden events are of 1 to {LARGEST_SAMPLES} samples of shape {net.input.shape}, got an array of shape "
            f"{codes.shape}"
        )
    if codes.min() < net.input.low or codes.max() > net.input.high:
        raise MaqdError(
            f"the samples must be input codes in {net.input.low}..{net.input.high}, got {codes.min()}..{codes.max()}"
        )
    if not hasattr(nir, "ValuedEventData"):
        raise MaqdError("golden events need nir 1.0.8 or newer: python -m pip install 'nir>=1.0.8'")
    graph = nir_graph(net)
    inputs = torch.from_numpy(codes.astype(np.int64) - net.input.zero_point).float()
    outputs = run_nir(graph, inputs)
    names = {"Input": INPUT, "IF": SPIKES, "Output": OUTPUT}
    nodes = {
        name: nir.NIRNodeData({names[type(node).__name__]: _events(nir, outputs[name])})
        for name, node in graph.nodes.items()
        if type(node).__name__ in names
    }
    memory = BytesIO()  # see `maqd_snn.hdf5`
    nir.write_data(memory, nir.NIRGraphData(nodes))
    with h5py.File(memory, "r+") as file:
        file.attrs.update(
            library=f"maqd-snn {__version__}",
            format_version=FORMAT_VERSION,
            zero_point=net.input.zero_point,
            fingerprint=fingerprint(net),
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(memory.getbuffer())


def _events(nir: Any, values: Tensor) -> Any:
    """Return the `nir.ValuedEventData` of values (B, ...)."""
    flat = values.flatten(1).numpy()
    most = max(1, int((flat != 0).sum(1).max()))
    idx = np.full((len(flat), most), -1)
    time, value = np.full(idx.shape, np.inf), np.zeros(idx.shape, np.float32)
    for sample, row in enumerate(flat):
        (found,) = row.nonzero()
        idx[sample, : len(found)], time[sample, : len(found)], value[sample, : len(found)] = found, 0.0, row[found]
    return nir.ValuedEventData(idx, time, flat.shape[1], 1.0, value)


def verify_nir_events(
    path: Path, codes: NDArray[np.int64], expected: NDArray[np.int64], net: IntegerNetwork
) -> list[Check]:
    """Read golden events back and compare all of them with the integer network on the input that the file holds.

    Args:
        path: the file. codes, expected: not needed, since the file holds its own samples. net: the network.

    Raises:
        MaqdError: a damaged, foreign or hostile file, or one of another network.
    """
    nir = require_nir()
    try:
        with h5py.File(path, "r") as file:
            check_plain(file, path)
            check_version(path, file.attrs.get("format_version"), FORMAT_VERSION)
            stated = {key: file.attrs[key] for key in ("zero_point", "fingerprint") if key in file.attrs}
        compare_stated(stated, {"zero_point": net.input.zero_point, "fingerprint": fingerprint(net)})
        data, graph = nir.read_data(path), nir_graph(net)
        layers = spiking_nodes(graph, net)
        given = _Events(data, _only(graph, "Input"), INPUT, net.input.shape)
        scored = _Events(data, _only(graph, "Output"), OUTPUT, net.shapes[net.ops[-1].name])
        fired = {}
        for name, node in layers.items():
            channels, *rest = net.shapes[node.op]
            fired[name] = _Events(data, name, SPIKES, (channels * len(node.signs), *rest))
        for events in (scored, *fired.values()):
            if events.samples != given.samples:
                raise MaqdError(f"its node {events.node!r} has {events.samples} samples, its input {given.samples}")
        # float32 of the file, int64 of the network's own
        one = 12 * sum(prod(shape) for shape in (*net.shapes.values(), *(each.shape for each in fired.values())))
        wrong, scores, truths, digest = dict.fromkeys(layers, 0), [], [], hashlib.sha256()
        for start in range(0, given.samples, step := samples_within(one)):
            part = slice(start, start + step)
            golden = given.dense(part).long().numpy() + net.input.zero_point
            if golden.min() < net.input.low or golden.max() > net.input.high:
                raise MaqdError(f"its input has codes outside {net.input.low}..{net.input.high}")
            digest.update(golden.tobytes())
            truth = traced(net, golden, {node.op for node in layers.values()})
            for name, node in layers.items():
                found = levels(fired[name].dense(part), node.signs).long()
                wrong[name] += int((found != truth[node.op].long()).sum())
            scores.append(scored.dense(part).numpy())
            truths.append(net.reference(golden))
        checks = [
            LayerCheck(node.op, given.samples * prod(net.shapes[node.op]), wrong[name]) for name, node in layers.items()
        ]
        got, truth_of_all = np.concatenate(scores), np.concatenate(truths)
        check = compare("nir-events", "nir.read_data", got, truth_of_all, "its own samples", checks)
        return [replace(check, inputs=digest.hexdigest())]
    except NewerFileError:
        raise
    except MaqdError as error:
        raise MaqdError(f"{str(path)!r} cannot be verified as golden events: {error}") from error
    except Exception as error:  # nir and h5py raise whatever comes to hand
        raise MaqdError(f"{str(path)!r} is damaged, truncated or no NIR data ({one_line(error)})") from error


def _only(graph: Any, kind: str) -> str:
    (name,) = (str(name) for name, node in graph.nodes.items() if type(node).__name__ == kind)
    return name


class _Events:
    """The events of one node, checked: `dense` gives the values of some samples."""

    def __init__(self, data: Any, node: str, observable: str, shape: tuple[int, ...]) -> None:
        if node not in data.nodes or observable not in data.nodes[node].observables:
            raise MaqdError(f"it has no {observable!r} of a node {node!r}: it is of another network")
        events = data.nodes[node].observables[observable]
        size, idx = prod(shape), np.asarray(events.idx)
        if idx.ndim != 2 or events.n_neurons != size or idx.shape != events.value.shape or not len(idx):
            raise MaqdError(
                f"its node {node!r} has {events.n_neurons} values and events {idx.shape}, expected {size} values"
            )
        if len(idx) > LARGEST_SAMPLES:
            raise MaqdError(f"its node {node!r} has {len(idx)} samples, expected at most {LARGEST_SAMPLES}")
        if (idx >= size).any() or (np.asarray(events.time)[idx >= 0] != 0).any():
            raise MaqdError(f"its node {node!r} has events beyond its {size} values or at another time than 0")
        self.node, self.shape, self.samples = node, shape, len(idx)
        self._idx, self._value = idx, events.value

    def dense(self, part: slice) -> Tensor:
        """Return the values (B, *shape) of these samples."""
        idx = self._idx[part]
        there = idx >= 0
        values = np.zeros((len(idx), prod(self.shape)), np.float32)
        samples = np.broadcast_to(np.arange(len(idx))[:, None], idx.shape)
        np.add.at(values, (samples[there], idx[there]), self._value[part][there])
        return torch.from_numpy(values).reshape(len(idx), *self.shape)
