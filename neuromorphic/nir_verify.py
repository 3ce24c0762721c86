"""Verifies NIR files in a foreign runtime: snnTorch's NIR importer.

Axis letters: B batch.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from importlib.metadata import version
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
from maqd_snn.neuromorphic.check import Check, compare
from maqd_snn.neuromorphic.nir_export import require_nir
from maqd_snn.neuromorphic.nir_interpreter import NODES, run_nir, topological_order
from maqd_snn.sealed import LARGEST_RATIO

# Number of values in one node's output for one sample; only padding that no exported network has makes it larger.
LARGEST_OUTPUT = 2**27
CHUNK = 64


def require_snntorch() -> Any:
    """Return the package `snntorch` with its NIR importer; raises MissingExtraError where it is not installed."""
    require_nir()  # its importer needs it
    try:
        import snntorch.import_nir
    except ImportError as error:
        raise MissingExtraError("snntorch", "snntorch", "verifying NIR files") from error
    return snntorch


def verify_nir(path: Path, codes: NDArray[np.int64], expected: NDArray[np.int64], net: IntegerNetwork) -> Check:
    """Read a NIR file back, run it in snnTorch, and compare every class score.

    A file with something that snnTorch's importer is known to run wrongly is run by our own interpreter instead, and
    the note says so. Where scores differ, the note says whether they do in our interpreter too.

    Args:
        path: the file.
        codes: (B, *input shape).
        expected: (B, classes), the network's scores.
        net: the network that the file should be.

    Raises:
        MaqdError: a damaged, foreign or hostile file, or one of another network.
            MissingExtraError: `nir` or `snntorch` is not installed.
    """
    snntorch = require_snntorch()
    inputs = torch.from_numpy(codes - net.input.zero_point).to(torch.float32)
    with _blaming(path):
        graph = read_nir(path)
        shape = _shape(graph, "Input")
        if shape != net.input.shape:
            raise MaqdError(f"it takes inputs of shape {shape}, expected {net.input.shape}: it is of another network")
        faults = importer_faults(graph)
        if faults:
            note = f"not run in snnTorch: {'; '.join(faults)}"
            return compare("nir", "maqd-snn NIR interpreter", _interpret(graph, inputs), expected, note)
        runtime, scores = f"snntorch {version('snntorch')}", _run_snntorch(snntorch, graph, inputs)
        if scores.shape == expected.shape and np.array_equal(scores, expected):
            return compare("nir", runtime, scores, expected)
        own = compare("nir", "", _interpret(graph, inputs), expected)
        note = f"in maqd-snn's own NIR interpreter, {own.mismatches} of this file's scores differ"
        return compare("nir", runtime, scores, expected, note)


def read_nir(path: Path) -> Any:
    """Return the `nir.NIRGraph` of a file, checked before memory is taken and before code is made of it.

    Raises:
        MaqdError: links, data outside the file or claimed but not there; nested graphs, cycles, node types beyond
            `nir_interpreter.NODES`, more than one Input or Output, odd node names, outputs or paddings of absurd size.
    """
    with h5py.File(path, "r") as file:
        claimed = _claimed_bytes(file, set())
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


def importer_faults(graph: Any) -> list[str]:
    """Return what snnTorch 1.0.0 with nirtorch 2.6 would run otherwise than NIR defines it; `write_nir` avoids it."""
    faults = []
    for name, node in graph.nodes.items():
        kind = type(node).__name__
        if kind == "SumPool2d":
            area = int(np.prod(node.kernel_size))
            if np.any(node.padding):
                faults.append(f"its importer ignores the padding of the SumPool2d {name!r}")
            if area & (area - 1):
                faults.append(f"its importer rounds in the SumPool2d {name!r}, whose area {area} is no power of two")
        if kind == "IF" and (np.any(node.r != 1) or np.unique(node.v_threshold).size != 1):
            faults.append(f"its importer needs r = 1 and one threshold for all neurons of the IF {name!r}")
    return faults


def _run_snntorch(snntorch: Any, graph: Any, inputs: Tensor) -> NDArray[np.float32]:
    instances = snntorch.SpikingNeuron.instances
    before = len(instances)
    with contextlib.redirect_stdout(io.StringIO()):  # the importer prints a line about every graph
        model = snntorch.import_nir.import_from_nir(graph)
    neurons = [module for module in model.modules() if isinstance(module, snntorch.Leaky)]
    for neuron in neurons:
        # The importer leaves this False for IF nodes: they would hand (spikes, membrane) to the next module.
        neuron.init_hidden = True
    scores = []
    with torch.no_grad(), _one_thread():
        # One sample at a time, without a batch axis: the importer's Flatten would flatten that, too.
        for sample in inputs:
            for neuron in neurons:
                neuron.reset_mem()  # its Leaky(beta=0.9) is an IF only in the first step from rest
            output, _ = model(sample)
            scores.append(output.numpy())
    del instances[before:]  # a list on the class, which would keep all neurons ever imported
    return np.stack(scores)


def _interpret(graph: Any, inputs: Tensor) -> NDArray[np.float32]:
    (output,) = (name for name, node in graph.nodes.items() if type(node).__name__ == "Output")
    chunks = [run_nir(graph, inputs[start : start + CHUNK])[output] for start in range(0, len(inputs), CHUNK)]
    return torch.cat(chunks).numpy()


def _claimed_bytes(group: h5py.Group, seen: set[int]) -> int:
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
            total += _claimed_bytes(item, seen)
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
def _one_thread() -> Iterator[None]:
    # Handing single samples to several threads costs more than it saves: 450 samples/s became 6 on two busy cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _blaming(path: Path) -> Iterator[None]:
    # nir and the importers check files with assertions and whatever else comes to hand, so any exception is the file's.
    try:
        yield
    except MaqdError as error:
        raise MaqdError(f"{str(path)!r} cannot be verified as NIR: {error}") from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MaqdError(f"{str(path)!r} is damaged, truncated or no NIR file that can be run ({reason})") from error
