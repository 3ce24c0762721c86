"""Verifies NIR files: reads them as data that is never trusted, and runs them in every runtime of `nir_runtimes`.

Axis letters: B batch.
"""

import contextlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.errors import MaqdError, MissingExtraError
from maqd_snn.integer import IntegerNetwork
from maqd_snn.integer.ops import Op
from maqd_snn.neuromorphic.check import Check, LayerCheck, compare, not_run
from maqd_snn.neuromorphic.nir_export import require_nir
from maqd_snn.neuromorphic.nir_interpreter import NODES, is_graded, topological_order
from maqd_snn.neuromorphic.nir_runtimes import INTERPRETER, NIR_RUNTIMES, NirRuntime, Run
from maqd_snn.sealed import LARGEST_RATIO

# Number of values in one node's output for one sample; only padding that no exported network has makes it larger.
LARGEST_OUTPUT = 2**27
CHUNK = 64
GRADED = "nir-graded"


def verify_nir(path: Path, codes: NDArray[np.int64], expected: NDArray[np.int64], net: IntegerNetwork) -> list[Check]:
    """Read a NIR file back, run it in every runtime of `NIR_RUNTIMES`, and compare every class score.

    Spikes of all neurons are compared, too, as levels: a runtime shows them. A runtime that is not installed, or is
    known to run something in the file wrongly, is returned with the reason. One that refuses or fails on the file
    otherwise has failed. A file in graded form is run in our interpreter alone: no other runtime knows the convention.

    Args:
        path: the file.
        codes: (B, *input shape).
        expected: (B, classes), the network's scores.
        net: the network that the file should be.

    Raises:
        MaqdError: a damaged, foreign or hostile file, or one of another network. MissingExtraError: `nir` is not
            installed, or no foreign runtime is.
    """
    with _blaming(path):
        graph = read_nir(path)
        shape = _shape(graph, "Input")
        if shape != net.input.shape:
            raise MaqdError(f"it takes inputs of shape {shape}, expected {net.input.shape}: it is of another network")
        layers = spiking_nodes(graph, net)
        of_form = GRADED if any(map(is_graded, graph.nodes.values())) else "nir"
        trials = {name: _prepare(path, of_form, entry, layers) for name, entry in NIR_RUNTIMES.items()}
        missing = [trial.missing for name, trial in trials.items() if trial.missing and name != INTERPRETER]
        if len(missing) == len(trials) - 1:
            raise missing[0]
        for start in range(0, len(codes), CHUNK):
            chunk = codes[start : start + CHUNK]
            truth = traced(net, chunk, {of.op for of in layers.values()})
            inputs = torch.from_numpy(chunk - net.input.zero_point).to(torch.float32)
            for name, trial in trials.items():
                try:
                    trial.step(inputs, layers, truth)
                except Exception as error:
                    if name == INTERPRETER:
                        raise  # it is the file's fault
                    trial.stop(f"fails on the file: {one_line(error)}", failed=True)
        return [trial.check(layers, expected) for trial in trials.values()]


@dataclass(frozen=True)
class SpikingNode:
    """A node of neurons: the op that it stands for, and the signs of the neurons of a unit."""

    op: str
    signs: tuple[int, ...]


def spiking_nodes(graph: Any, net: IntegerNetwork) -> dict[str, SpikingNode]:
    """Return the neurons of the graph that its notes assign to an op of the network, by node name; {} without notes."""
    try:
        notes = json.loads(str(graph.metadata["nodes"]))
        found = {
            name: SpikingNode(note["op"], tuple(int(sign) for sign in note["signs"]))
            for name, note in notes.items()
            if "signs" in note
        }
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}
    fits = {}
    for name, node in found.items():
        kind, size = type(graph.nodes.get(name)).__name__, len(node.signs)
        if kind == "IF" and node.op in net.shapes and size:
            channels, *rest = net.shapes[node.op]
            if tuple(np.shape(graph.nodes[name].v_threshold)) == (channels * size, *rest):
                fits[name] = node
    return fits


def levels(spikes: Tensor, signs: Sequence[int]) -> Tensor:
    """Return sum_i signs[i] * spike (c*m + i) for spikes (B, C*m, ...): levels (B, C, ...), float32.

    >>> levels(torch.tensor([[1.0, 0.0, 1.0, 1.0]]), (1, 1)).tolist()
    [[1.0, 2.0]]
    """
    batch, channels, *size = spikes.shape
    units = spikes.reshape(batch, channels // len(signs), len(signs), *size)
    summed: Tensor = (units * torch.tensor(signs, dtype=units.dtype).view(1, 1, -1, *(1,) * len(size))).sum(2)
    return summed


@dataclass
class _Trial:
    """One runtime on one file: what it has given so far, or why it does not run."""

    format: str
    entry: NirRuntime
    run: Run | None = None
    problem: str = ""
    failed: bool = False
    missing: MissingExtraError | None = None
    asked: bool = True
    scores: list[NDArray[Any]] = field(default_factory=list)
    values: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, int] = field(default_factory=dict)

    def stop(self, problem: str, failed: bool = False) -> None:
        self.run, self.problem, self.failed = None, problem, failed

    def step(self, inputs: Tensor, layers: Mapping[str, SpikingNode], truth: Mapping[str, Tensor]) -> None:
        if self.run is None:
            return
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output, seen = self.run(inputs)
        self.scores.append(output.detach().numpy().copy())
        for node, of in layers.items():
            different = levels(seen[node].detach(), of.signs).double() != truth[of.op].double()
            self.values[node] = self.values.get(node, 0) + different.numel()
            self.wrong[node] = self.wrong.get(node, 0) + int(different.sum())

    def check(self, layers: Mapping[str, SpikingNode], expected: NDArray[np.int64]) -> Check:
        if self.run is None:
            named = self.entry.title if self.asked else self.entry.package
            return not_run(self.format, named, self.problem, self.failed)
        shown = [LayerCheck(of.op, self.values[node], self.wrong[node]) for node, of in layers.items()]
        return compare(self.format, self.entry.title, np.concatenate(self.scores), expected, self.entry.note, shown)


def _prepare(path: Path, of_form: str, entry: NirRuntime, layers: Mapping[str, SpikingNode]) -> _Trial:
    trial = _Trial(of_form, entry)
    if of_form == GRADED and not entry.graded:
        trial.asked = False
        trial.stop("it does not know the graded form: its IF gives 0 or 1, whatever the metadata says")
        return trial
    graph = read_nir(path)  # anew, since importers change the graph that they are given
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the importers' own: deprecated calls, paddings
            trial.run = entry.prepare(graph, list(layers)) if not (faults := entry.faults(graph)) else None
    except MissingExtraError as error:
        trial.missing, trial.asked = error, False
        trial.stop(f"not installed; {entry.install}")
    except Exception as error:
        trial.stop(f"refuses the file: {one_line(error)}", failed=True)
    else:
        if faults:
            trial.stop(faults[0] + (f", and {len(faults) - 1} more" if len(faults) > 1 else ""))
    return trial


def traced(net: IntegerNetwork, codes: NDArray[np.int64], names: set[str]) -> dict[str, Tensor]:
    """Return the outputs of the named ops for codes (B, *input shape)."""
    kept: dict[str, Tensor] = {}

    def keep(op: Op, inputs: Sequence[Tensor], output: Tensor) -> None:
        if op.name in names:
            kept[op.name] = output

    net.watch(torch.from_numpy(codes), keep)
    return kept


def one_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type."""
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


def read_nir(path: Path) -> Any:
    """Return the `nir.NIRGraph` of a file, checked before memory is taken and before code is made of it.

    Raises:
        MaqdError: links, data outside the file or claimed but not there; nested graphs, cycles, node types beyond
            `nir_interpreter.NODES`, more than one Input or Output, odd node names, outputs or paddings of absurd size.
    """
    with h5py.File(path, "r") as file:
        claimed = claimed_bytes(file, set())
    if claimed > LARGEST_RATIO * path.stat().st_size:
        raise MaqdError(f"it claims {claimed} bytes, more than the file can hold")
    graph = require_nir().read(path)
    kinds = [type(node).__name__ for node in graph.nodes.values()]
    for name, kind in zip(graph.nodes, kinds, strict=True):
        # Importers paste names into code that they generate and execute.
        if not re.fullmatch(r"[A-Za-z0-9_.]{1,200}", name):
            raise MaqdError(f"the node name {name[:80]!r} has characters other than letters, digits, '_' and '.'")
        if kind not in NODES:
            raise MaqdError(f"node {name!r} is a {kind}; expected only {', '.join(NODES)}")
        _check_size(name, graph.nodes[name])
    if kinds.count("Input") != 1 or kinds.count("Output") != 1:
        raise MaqdError(f"expected one Input and one Output, got {kinds.count('Input')} and {kinds.count('Output')}")
    topological_order(graph)
    return graph


def claimed_bytes(group: h5py.Group, seen: set[int]) -> int:
    """Return the bytes that all datasets below claim; raises MaqdError at links and at data outside the file."""
    total = 0
    for key in group:
        # Soft and external links could lead to other files on the reader's machine.
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise MaqdError(f"{key!r} is a link")
        item = group[key]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise MaqdError(f"{key!r} is linked twice")  # reading would multiply it, or never end
        seen.add(address)
        if isinstance(item, h5py.Group):
            total += claimed_bytes(item, seen)
        elif not isinstance(item, h5py.Dataset) or item.size is None or item.is_virtual or item.external:
            raise MaqdError(f"{key!r} is no plain dataset")
        else:
            total += int(item.nbytes)
    return total


def _check_size(name: str, node: Any) -> None:
    size = prod(int(length) for length in next(iter(node.output_type.values())))
    if not 0 < size <= LARGEST_OUTPUT:
        raise MaqdError(f"node {name!r} has {size} outputs; expected 1..{LARGEST_OUTPUT}")
    if type(node).__name__ in ("Conv2d", "SumPool2d"):
        kernel = node.weight.shape[2:] if type(node).__name__ == "Conv2d" else node.kernel_size
        if np.any(np.asarray(node.padding) >= np.asarray(kernel) * getattr(node, "dilation", 1)):
            raise MaqdError(f"node {name!r} has padding as wide as its kernel")


def _shape(graph: Any, kind: str) -> tuple[int, ...]:
    (node,) = (node for node in graph.nodes.values() if type(node).__name__ == kind)
    return tuple(int(length) for length in next(iter(node.output_type.values())))


@contextlib.contextmanager
def _blaming(path: Path) -> Iterator[None]:
    # nir and the importers check files with assertions and whatever else comes to hand, so any exception is the file's.
    try:
        yield
    except MissingExtraError:
        raise
    except MaqdError as error:
        raise MaqdError(f"{str(path)!r} cannot be verified as NIR: {error}") from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MaqdError(f"{str(path)!r} is damaged, truncated or no NIR file that can be run ({reason})") from error
