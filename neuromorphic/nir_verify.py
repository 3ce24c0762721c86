"""Verifies NIR files: reads them as data that is never trusted, and runs them in every runtime of `nir_runtimes`.

What HDF5 claims is checked before it is read (`check_plain`), what the graph would take in memory before it is run, and
what metadata of ours state is compared with the network (`check_metadata`). All three readers of HDF5 beside
`network.h5` (NIR, NIR data, netx) use the first and the last.

Axis letters: B batch.
"""

import contextlib
import json
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from h5py import h5d, h5t
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.errors import MaqdError, MissingExtraError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.ops import Op
from maqd_snn.integer.storage import fingerprint
from maqd_snn.neuromorphic.check import Check, LayerCheck, compare, not_run
from maqd_snn.neuromorphic.nir_export import FORMAT_VERSION, require_nir, stated_ops
from maqd_snn.neuromorphic.nir_interpreter import NODES, Size, is_graded, sizes
from maqd_snn.neuromorphic.nir_runtimes import INTERPRETER, NIR_RUNTIMES, NirRuntime, Run
from maqd_snn.sealed import LARGEST_RATIO

# Values in one node's output for one sample, where no network says what is needed; nothing is run then.
LARGEST_OUTPUT = 2**27
CHUNK = 64
# Of all values that one runtime computes at a time, unless a single sample takes more.
CHUNK_BYTES = 2**28
# Of variable length, in one file: two for each edge of a graph.
MOST_TEXTS = 2**16
# As HDF5 stores the reference to one.
TEXT_BYTES = 16
GRADED = "nir-graded"


class NewerFileError(MaqdError):
    """A file of a later format version than this library reads; the message names the file."""


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
        graph = read_nir(path, net)
        check_metadata(graph.metadata, net)
        layers = spiking_nodes(graph, net)
        of_form = GRADED if any(map(is_graded, graph.nodes.values())) else "nir"
        trials = {name: _prepare(path, net, of_form, entry, layers) for name, entry in NIR_RUNTIMES.items()}
        missing = [trial.missing for name, trial in trials.items() if trial.missing and name != INTERPRETER]
        if len(missing) == len(trials) - 1:
            raise missing[0]
        step = _samples_at_a_time(sizes(graph).values())
        for start in range(0, len(codes), step):
            chunk = codes[start : start + step]
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
        found = {
            name: SpikingNode(note["op"], tuple(int(sign) for sign in note["signs"]))
            for name, note in _notes(graph.metadata).items()
            if "signs" in note
        }
    except (KeyError, TypeError, ValueError, AttributeError):
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


def _prepare(
    path: Path, net: IntegerNetwork, of_form: str, entry: NirRuntime, layers: Mapping[str, SpikingNode]
) -> _Trial:
    trial = _Trial(of_form, entry)
    if of_form == GRADED and not entry.graded:
        trial.asked = False
        trial.stop("it does not know the graded form: its IF gives 0 or 1, whatever the metadata says")
        return trial
    graph = read_nir(path, net)  # anew, since importers change the graph that they are given
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


def read_nir(path: Path, net: IntegerNetwork | None = None) -> Any:
    """Return the `nir.NIRGraph` of a file, checked before memory is taken and before code is made of it.

    Args:
        path: the file.
        net: the network that it should be: then no node may take more than an export of the network needs. Without
            one the graph is not to be run.

    Raises:
        MaqdError: links, data outside the file or claimed but not there; a newer format version; nested graphs, cycles,
            node types beyond `nir_interpreter.NODES`, more than one Input or Output, odd node names, arrays that do not
            fit, outputs or paddings of absurd size, inputs of another shape than the network's.
    """
    with h5py.File(path, "r") as file:
        check_plain(file, path)
        check_version(path, _scalar(file, "node/metadata/format_version"), FORMAT_VERSION)
    graph = require_nir().read(path)
    kinds = [type(node).__name__ for node in graph.nodes.values()]
    for name, kind in zip(graph.nodes, kinds, strict=True):
        # Importers paste names into code that they generate and execute.
        if not re.fullmatch(r"[A-Za-z0-9_.]{1,200}", name):
            raise MaqdError(f"the node name {name[:80]!r} has characters other than letters, digits, '_' and '.'")
        if kind not in NODES:
            raise MaqdError(f"node {name!r} is a {kind}; expected only {', '.join(NODES)}")
    if kinds.count("Input") != 1 or kinds.count("Output") != 1:
        raise MaqdError(f"expected one Input and one Output, got {kinds.count('Input')} and {kinds.count('Output')}")
    shape = _shape(graph, "Input")
    if net is not None and shape != net.input.shape:
        raise MaqdError(f"it takes inputs of shape {shape}, expected {net.input.shape}: it is of another network")
    _check_sizes(graph, None if net is None else _room(net))
    return graph


def check_plain(file: h5py.File, path: Path) -> None:
    """Raise MaqdError unless everything in the file is numbers and text, there, and no larger than the file can hold.

    Text of variable length is never compressed, so all of it together is smaller than the file: unless it is stated
    many times over, by references to one text, or as what stands where nothing is stored.
    """
    size = path.stat().st_size
    claimed, texts, characters = 0, 0, 0
    for name, item in _everything(file, set()):
        for key in item.attrs:
            attribute = item.attrs.get_id(key)
            count, kind = attribute.get_space().get_simple_extent_npoints(), attribute.get_type()
            if _is_text(key, kind):
                if count > 1:  # it can only be read as a whole
                    raise MaqdError(f"its attribute {_short(key)} is a list of texts, expected one text")
                characters += sum(map(_length, np.ravel(np.asarray(item.attrs[key], object))))
            claimed += count * kind.get_size()
        if isinstance(item, h5py.Group):
            continue
        kind, stored = item.id.get_type(), item.id.get_create_plist()
        # What is read at a time: all of it, but a chunk at least.
        count = max(prod(item.shape), prod(item.chunks or ()))
        claimed += count * kind.get_size()
        if not _is_text(name, kind):
            continue
        if stored.fill_value_defined() == h5d.FILL_VALUE_USER_DEFINED:
            raise MaqdError(f"{_short(name)} states a text for all that is not stored, expected every text stored")
        texts += count
        if texts > MOST_TEXTS or TEXT_BYTES * texts > size:
            raise MaqdError(f"it claims {texts} texts, more than {min(MOST_TEXTS, size // TEXT_BYTES)}")
        for index in np.ndindex(item.shape):  # one by one: each is in the file, all of them may not be
            characters += _length(item[index])
            if characters > size:
                break
    if claimed > LARGEST_RATIO * size:
        raise MaqdError(f"it claims {claimed} bytes, more than the file can hold")
    if characters > size:
        raise MaqdError("its texts are longer than the file: it states one of them many times over")


def _length(text: Any) -> int:
    return len(text) if isinstance(text, bytes | str) else 0


def _is_text(name: str, kind: h5t.TypeID) -> bool:
    """Return whether the type is text of variable length; raises MaqdError unless it is that or of fixed size."""
    if kind.get_class() not in (h5t.INTEGER, h5t.FLOAT, h5t.ENUM, h5t.STRING):
        raise MaqdError(f"{_short(name)} holds {kind.dtype!s:.80}, expected numbers or text")
    return isinstance(kind, h5t.TypeStringID) and bool(kind.is_variable_str())


def _everything(group: h5py.Group, seen: set[int]) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """Yield the group and all groups and datasets below; raises MaqdError at links and at data outside the file."""
    yield str(group.name), group
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
            yield from _everything(item, seen)
        elif not isinstance(item, h5py.Dataset) or item.size is None or item.is_virtual or item.external:
            raise MaqdError(f"{key!r} is no plain dataset")
        else:
            yield key, item


def _scalar(file: h5py.File, name: str) -> Any:
    """Return the one value of a dataset that `check_plain` has passed; None where there is none."""
    if name not in file:
        return None
    item = file[name]
    return item[()] if isinstance(item, h5py.Dataset) and item.shape == () else "no single number"


def check_version(path: Path, stated: Any, newest: int) -> None:
    """Raise `NewerFileError` where a file states a later format version; what was written before there was one is read.

    Args:
        path: the file. stated: its format version, None where it states none. newest: that this library reads.
    """
    if stated is None:
        return
    if not isinstance(stated, int | np.integer) or isinstance(stated, bool) or stated < 1:
        raise MaqdError(f"it states the format version {_short(stated)}, expected a whole number from 1 on")
    if stated > newest:
        raise NewerFileError(
            f"{str(path)!r} has format version {_short(stated)}, newer than {newest}, the one this library reads; "
            "update maqd-snn"
        )


def check_metadata(metadata: Mapping[str, Any], net: IntegerNetwork) -> None:
    """Raise MaqdError where the metadata of a NIR graph state something else than the network has.

    Graphs that others made, without a key of ours, pass.
    """
    ours = str(metadata.get("library", "")).startswith("maqd-snn")
    if not ours and not {"format_version", "fingerprint", "zero_point"} & metadata.keys():
        return
    compare_stated(metadata, {"zero_point": net.input.zero_point})
    if "network" in metadata:
        _compare_ops(str(metadata["network"]), net)
    for note in _notes(metadata).values():
        if isinstance(note, dict) and note.get("role") == "Input":
            of_input = {key: getattr(net.input, key) for key in ("zero_point", "low", "high", "kind")}
            compare_stated(note, of_input, "nodes: ")
    compare_stated(metadata, {"fingerprint": fingerprint(net)})


def compare_stated(stated: Mapping[str, Any], own: Mapping[str, Any], prefix: str = "") -> None:
    """Raise MaqdError, which names the key, where a value that is stated is not the network's own."""
    for key, value in own.items():
        if key in stated and (isinstance(stated[key], np.ndarray) or stated[key] != value):
            raise MaqdError(
                f"it states {prefix}{key} {_short(stated[key])}, the network has {_short(value)}: it is of another "
                "network, or was changed; export the network again"
            )


def _compare_ops(stated: str, net: IntegerNetwork) -> None:
    entries, own = json.loads(stated), json.loads(stated_ops(net, in_nodes=("weight",)))
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise MaqdError("it states a network that is no list of ops; export the network again")
    compare_stated({"ops": len(entries)}, {"ops": len(own)}, "network: ")
    for entry, expected in zip(entries, own, strict=True):
        # The graded form has these in its nodes.
        for key in sorted(entry.keys() | expected.keys() - {"thresholds", "direction"}):
            compare_stated({key: entry.get(key)}, {key: expected.get(key)}, f"network: {expected['name']}: ")


def _short(value: Any) -> str:
    return (str(value) if isinstance(value, np.generic) else repr(value))[:80]


def _notes(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the metadata note on nodes, by node name; {} where that cannot be read."""
    try:
        notes = json.loads(str(metadata["nodes"]))
    except (KeyError, ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}


@dataclass(frozen=True)
class _Room:
    """What the graph of a network may take for one sample, in values: a node's output and work, all outputs."""

    output: int
    work: int
    total: int


def _room(net: IntegerNetwork) -> _Room:
    """Return what an export of the network needs at most: in thermometer form, a neuron for each level of a unit."""
    copies = max([op.levels for op in net.ops if isinstance(op, ops.Threshold)], default=1)
    outputs, work, total = [], [], 0
    for op in net.ops:
        output = prod(net.shapes[op.name])
        outputs.append(output)
        work.append(3 * output)  # of a product with one position a window: its inputs three times
        # Copies of drives, neurons and levels, and counts of a maximum; then of inputs; sum and output at the end.
        total += output * (3 * copies + len(op.inputs) + 3)
        if isinstance(op, ops.Conv2d | ops.MaxPool2d | ops.SumPool2d):
            kernel = op.weight.shape[2:] if isinstance(op, ops.Conv2d) else op.kernel
            dilation = op.dilation if isinstance(op, ops.Conv2d) else (1, 1)
            channels, *size = net.shapes[op.inputs[0]]
            side = max(kernel)  # kernels are made square, by zeros
            padded = prod(
                n + 2 * p + (side - k + 1) * d for n, p, k, d in zip(size, op.padding, kernel, dilation, strict=True)
            )
            columns = side * side * prod(net.shapes[op.name][1:])
            work.append(channels * (prod(size) + padded + columns))
    return _Room(copies * max(outputs), copies * max(work), total)


def _check_sizes(graph: Any, room: _Room | None) -> None:
    limit = LARGEST_OUTPUT if room is None else room.output
    why = "" if room is None else ", what this network can need"
    taken = sizes(graph)
    for name, size in taken.items():
        output, node = prod(size.shape), graph.nodes[name]
        if not 0 < output <= limit:
            raise MaqdError(f"node {name!r} has {output} outputs; expected 1..{limit}{why}")
        if type(node).__name__ in ("Conv2d", "SumPool2d"):
            kernel = node.weight.shape[2:] if type(node).__name__ == "Conv2d" else node.kernel_size
            if np.any(np.asarray(node.padding) >= np.asarray(kernel) * getattr(node, "dilation", 1)):
                raise MaqdError(f"node {name!r} has padding as wide as its kernel")
        if room is not None and size.work > room.work:
            raise MaqdError(f"node {name!r} works on {size.work} values; expected at most {room.work}{why}")
    total = sum(prod(size.shape) for size in taken.values())
    if room is not None and total > room.total:
        raise MaqdError(f"its nodes have {total} outputs together; expected at most {room.total}{why}")


def _samples_at_a_time(taken: Collection[Size]) -> int:
    one = sum(prod(size.shape) for size in taken) + max(size.work for size in taken)
    return samples_within(4 * one)


def samples_within(bytes_of_one: int) -> int:
    """Return how many samples, each of so many bytes, are run at a time: 1..`CHUNK`, within `CHUNK_BYTES`."""
    return max(1, min(CHUNK, CHUNK_BYTES // max(1, bytes_of_one)))


def _shape(graph: Any, kind: str) -> tuple[int, ...]:
    (node,) = (node for node in graph.nodes.values() if type(node).__name__ == kind)
    return tuple(int(length) for length in next(iter(node.output_type.values())))


@contextlib.contextmanager
def _blaming(path: Path) -> Iterator[None]:
    # nir and the importers check files with assertions and whatever else comes to hand, so any exception is the file's.
    try:
        yield
    except (MissingExtraError, NewerFileError):
        raise
    except MaqdError as error:
        raise MaqdError(f"{str(path)!r} cannot be verified as NIR: {error}") from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MaqdError(f"{str(path)!r} is damaged, truncated or no NIR file that can be run ({reason})") from error
