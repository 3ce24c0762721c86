"""Verifies netx files: in an interpreter of Loihi's integers, and in Lava where an environment for it is named.

Lava needs Python 3.10, so it runs in an environment of its own, whose interpreter the variable MAQD_LAVA_PYTHON names.
`maqd bench exports --environments DIR` builds one.

Axis letters: B batch.
"""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork
from maqd_snn.integer.geometry import Shape, output_size
from maqd_snn.integer.ops import Pair
from maqd_snn.integer.storage import fingerprint
from maqd_snn.neuromorphic.check import Check, LayerCheck, compare, not_run
from maqd_snn.neuromorphic.netx_export import ATTRIBUTE, FORMAT_VERSION, MOST_GROUPS, ONE, message_bits, netx_layers
from maqd_snn.neuromorphic.nir_verify import (
    CHUNK,
    NewerFileError,
    check_plain,
    check_version,
    compare_stated,
    levels,
    one_line,
    samples_within,
    traced,
)

VARIABLE = "MAQD_LAVA_PYTHON"
LIMIT_S = 3600.0
FRACTION = 64  # of a current or a voltage: 6 of their 24 bits
WRAP = 2**23

RECORDER = r'''
"""A process that writes what a port sends to a file, step by step; Lava's Monitor hands values over one by one."""

import numpy as np
from lava.magma.core.decorator import implements, requires
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class Recorder(AbstractProcess):
    def __init__(self, shape, file, steps):
        super().__init__(shape=shape, file=file, steps=steps)
        self.a_in = InPort(shape=shape)


@implements(proc=Recorder, protocol=LoihiProtocol)
@requires(CPU)
class PyRecorder(PyLoihiProcessModel):
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params):
        super().__init__(proc_params)
        shape = (proc_params["steps"], *proc_params["shape"])
        self.values = np.lib.format.open_memmap(proc_params["file"], "w+", bool, shape)

    def run_spk(self):
        self.values[self.time_step - 1] = self.a_in.recv() != 0
'''

# Run by the interpreter of that environment. One sample enters at each step; what a layer says of it comes one step
# later than from the layer before.
LAVA = r"""
import sys, types
from importlib.metadata import version
# lava-dl's netx needs slayer (and with it torch, matplotlib, OpenCV) only for neurons that the file has none of.
stub = types.ModuleType("lava.lib.dl.slayer"); stub.__path__ = []
sys.modules[stub.__name__] = stub
neuron = types.ModuleType("lava.lib.dl.slayer.neuron"); neuron.__path__ = []
sys.modules[neuron.__name__] = neuron
rf = types.ModuleType("lava.lib.dl.slayer.neuron.rf"); rf.neuron_params = None
sys.modules[rf.__name__] = rf
modules = types.ModuleType("lava.lib.dl.netx.sequential_modules"); modules.__file__ = __file__
sys.modules[modules.__name__] = modules
import numpy as np
from lava.lib.dl.netx import hdf5
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.source import RingBuffer
from lava.proc.monitor.process import Monitor
from recorder import Recorder

file, inputs, outputs, bits = sys.argv[1:]
if __name__ == "__main__":
    codes = np.load(inputs).astype(np.int32)
    net = hdf5.Network(net_config=file, input_message_bits=int(bits))
    samples, depth = len(codes), len(net.layers)
    steps = samples + depth
    data = np.zeros((*net.inp.shape, steps), np.int32)
    data[..., :samples] = codes.T  # (C, H, W) is (W, H, C) here
    source = RingBuffer(data=data)
    source.s_out.connect(net.inp)
    for index, layer in enumerate(net.layers[:-1]):
        layer.neuron.s_out.connect(Recorder(layer.neuron.s_out.shape, f"{outputs}.{index}.npy", steps).a_in)
    last = net.layers[-1].neuron
    monitor = Monitor()
    monitor.probe(last.v, steps)
    try:
        net.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    except RuntimeError as error:  # "1 Exception(s) occurred": which, the actors know
        raised = [actor.exception[0] for actor in net.runtime._messaging_infrastructure.actors if actor.exception]
        sys.exit(str(raised[0] if raised else error))
    voltages = np.asarray(monitor.get_data()[last.name][last.v.name])[depth : depth + samples]
    net.stop()
    found = {}
    for index in range(depth - 1):
        values = np.load(f"{outputs}.{index}.npy")[index + 1 : index + 1 + samples]
        found[f"layer{index}"] = values.transpose(0, *range(values.ndim - 1, 0, -1))
    np.savez(outputs, **found, **{f"layer{depth - 1}": voltages.reshape(samples, *last.v.shape)})
    print("lava-nc", version("lava-nc"), "with lava-dl", version("lava-dl"))
"""


@dataclass(frozen=True)
class Stated:
    """What the file states: the op and the signs of each layer of neurons, and the bits of an input's message."""

    layers: tuple[tuple[str, tuple[int, ...]], ...]
    bits: int


def verify_netx(path: Path, codes: NDArray[np.int64], expected: NDArray[np.int64], net: IntegerNetwork) -> list[Check]:
    """Run a netx file in the interpreter, and in Lava where there is one; compare scores and every layer's spikes.

    Args:
        path: the file. codes: (B, *input shape). expected: (B, classes), the network's scores. net: the network.

    Raises:
        MaqdError: a damaged, foreign or hostile file, or one of another network.
    """
    try:
        with h5py.File(path, "r") as file:
            stated = _stated(file, path, net)
            shown, scores = _interpret(file, codes - net.input.zero_point, stated, net)
    except NewerFileError:
        raise
    except MaqdError as error:
        raise MaqdError(f"{str(path)!r} cannot be verified as netx: {error}") from error
    except Exception as error:  # h5py raises whatever comes to hand
        raise MaqdError(
            f"{str(path)!r} is damaged, truncated or no netx file that can be run ({one_line(error)})"
        ) from error
    truth = _trace(net, codes, {op for op, signs in stated.layers if signs})
    checks = [_check("maqd-snn netx interpreter, 24-bit integers", shown, scores, truth, expected, stated)]
    interpreter = os.environ.get(VARIABLE)
    if not interpreter:
        why = f"needs Python 3.10; name its interpreter in {VARIABLE} (maqd bench exports --environments builds one)"
        return [*checks, not_run("netx", "lava", why)]
    return [*checks, _in_lava(interpreter, path, codes - net.input.zero_point, truth, expected, stated)]


def _stated(file: h5py.File, path: Path, net: IntegerNetwork) -> Stated:
    check_plain(file, path)
    if ATTRIBUTE not in file or file[ATTRIBUTE].shape != ():
        raise MaqdError(f"it states nothing in {ATTRIBUTE!r}: it was not written by maqd-snn")
    notes = json.loads(file[ATTRIBUTE].asstr()[()])
    if not isinstance(notes, dict):
        raise MaqdError(f"it states no object in {ATTRIBUTE!r}: it was not written by maqd-snn")
    check_version(path, notes.get("format_version"), FORMAT_VERSION)
    found = tuple((str(note["op"]), tuple(int(sign) for sign in note["signs"])) for note in notes["layers"])
    for op, signs in found:
        if op not in net.shapes or any(abs(sign) != 1 for sign in signs):
            raise MaqdError(f"it has a layer for {op!r:.80}, which the network has not: it is of another network")
    bits = int(notes["input_message_bits"])
    if not 1 <= bits <= 24:
        raise MaqdError(f"it states messages of {bits} bits, expected 1..24")
    own = {"zero_point": net.input.zero_point, "input_message_bits": message_bits(net.input)}
    compare_stated(notes, {**own, "fingerprint": fingerprint(net)})
    return Stated(found, bits)


def _interpret(
    file: h5py.File, inputs: NDArray[np.int64], stated: Stated, net: IntegerNetwork
) -> tuple[list[NDArray[Any]], NDArray[Any]]:
    """Return the spikes of each layer but the last, and the last one's voltages / 64."""
    groups = [file[f"layer/{index}"] for index in range(len(file["layer"]))]
    layers = [group for group in groups if _kind(group) in ("dense", "conv")]
    if len(layers) != len(stated.layers):
        raise MaqdError(f"it has {len(layers)} layers and states {len(stated.layers)}")
    step = samples_within(8 * _values_at_once(layers, net))
    parts: list[list[NDArray[Any]]] = [[] for _ in layers]
    for start in range(0, len(inputs), step):
        x = torch.from_numpy(inputs[start : start + step]).double()
        for index, group in enumerate(layers):
            v = _voltage(group, x)
            theta = int(group["neuron/vThMant"][()])
            x = (v > theta * FRACTION).double()
            last = index + 1 == len(layers)
            parts[index].append((v / FRACTION if last else x.bool()).numpy())
    *spikes, scores = (np.concatenate(part) for part in parts)
    return spikes, scores


def _kind(group: h5py.Group) -> str:
    kind = group["type"][0].decode("ascii")
    if kind not in ("input", "flatten", "dense", "conv"):
        raise MaqdError(f"it has a layer of type {kind!r:.40}; expected input, flatten, dense or conv")
    return str(kind)


@dataclass(frozen=True)
class _Size:
    """What a layer takes, in values: its weight, and for one sample its output and what a product works on."""

    shape: Shape
    weight: int
    work: int

    @property
    def output(self) -> int:
        return prod(self.shape)


def _size(shape: Shape, weight: Shape, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> _Size:
    """Return what a layer takes whose inputs have this shape."""
    misfit = MaqdError(f"a weight {weight}, stride {stride} and padding {padding} do not fit inputs {shape}")
    if len(weight) == 2:
        if weight[1] != prod(shape):
            raise misfit
        return _Size(weight[:1], prod(weight), prod(shape))
    if len(weight) != 4 or len(shape) != 3 or shape[0] != weight[1] * groups or min(padding) < 0:
        raise misfit
    channels, height, width = shape
    kernel = (weight[2], weight[3])
    size = output_size((height, width), kernel, stride, padding, dilation)
    if min(size) < 1:
        raise misfit
    padded = (height + 2 * padding[0]) * (width + 2 * padding[1])
    # Of the columns, each pixel stands as often as windows hold it.
    return _Size((weight[0], *size), prod(weight), channels * (padded + prod(kernel) * prod(size)))


def _values_at_once(layers: list[h5py.Group], net: IntegerNetwork) -> int:
    """Return how many values the layers take for one sample; raises MaqdError where the network's own take fewer."""
    needed, shape = [], net.input.shape
    for layer in netx_layers(net):
        needed.append(_size(shape, layer.weight.shape, layer.stride, layer.padding, ONE, layer.groups))
        shape = needed[-1].shape
    limits = {key: max(getattr(size, key) for size in needed) for key in ("output", "weight", "work")}
    found, shape = [], net.input.shape
    for group in layers:
        numbers = ((1, 1), (0, 0), (1, 1), 1) if _kind(group) == "dense" else _geometry(group)
        size = _size(shape, group["weight"].shape, *numbers)
        for key, limit in limits.items():
            if getattr(size, key) > limit:
                raise MaqdError(
                    f"it has a layer with {getattr(size, key)} values of {key}; expected at most {limit}, "
                    "what this network needs"
                )
        if group["bias"].shape != size.shape[:1]:
            raise MaqdError(f"it has a layer of {size.shape[0]} channels with a bias {group['bias'].shape}")
        found.append(size)
        shape = size.shape
    # Current and voltage, on the way through 24 bits, in up to six copies.
    return max(size.work + 6 * size.output for size in found)


def _geometry(group: h5py.Group) -> tuple[Pair, Pair, Pair, int]:
    """Return stride, padding, dilation and groups of a convolution."""
    stride, padding, dilation = ((int(h), int(w)) for h, w in (group[n][()] for n in ("stride", "padding", "dilation")))
    groups = int(group["groups"][()])
    if groups > MOST_GROUPS:
        raise MaqdError(f"it has a layer of {groups} groups; lava-nc counts up to {MOST_GROUPS}")
    return stride, padding, dilation, groups


def _voltage(group: h5py.Group, x: Tensor) -> Tensor:
    """Return the voltages of a layer's neurons, whole numbers of 1/64, as Loihi's integers hold them."""
    neuron = group["neuron"]
    if neuron["type"][0] != b"CUBA" or (neuron["iDecay"][()], neuron["vDecay"][()]) != (4096, 4096):
        raise MaqdError("it has neurons that remember; expected CUBA with both decays 4096")
    weight = torch.from_numpy(group["weight"][()].astype(np.int64)).double()
    bias = torch.from_numpy(group["bias"][()].astype(np.int64)).double()
    if _kind(group) == "dense":
        current = x.flatten(1) @ weight.T
    else:
        current = F.conv2d(x, weight, None, *_geometry(group))
        bias = bias[:, None, None]
    u = current * FRACTION
    u = torch.where(u > WRAP, u - 2 * WRAP, torch.where(u <= -WRAP, u + 2 * WRAP, u))
    return (u + bias * FRACTION).clamp(-WRAP + 1, WRAP - 1)


def _trace(net: IntegerNetwork, codes: NDArray[np.int64], names: set[str]) -> dict[str, NDArray[Any]]:
    kept: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for start in range(0, len(codes), CHUNK):
        for name, output in traced(net, codes[start : start + CHUNK], names).items():
            kept[name].append(output.numpy().astype(np.int16))
    return {name: np.concatenate(parts) for name, parts in kept.items()}


def _check(
    runtime: str,
    shown: list[NDArray[Any]],
    scores: NDArray[Any],
    truth: dict[str, NDArray[Any]],
    expected: NDArray[np.int64],
    stated: Stated,
) -> Check:
    layers = []
    for spikes, (op, signs) in zip(shown, stated.layers, strict=False):
        different = levels(torch.from_numpy(spikes).float(), signs).numpy() != truth[op]
        layers.append(LayerCheck(op, different.size, int(different.sum())))
    return compare("netx", runtime, scores, expected, "one sample a step, graded input spikes", layers)


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command; the processes that it started end with it, also where it takes longer than `LIMIT_S`."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            said, errors = process.communicate(timeout=LIMIT_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, said, errors)


def _in_lava(
    interpreter: str,
    path: Path,
    inputs: NDArray[np.int64],
    truth: dict[str, NDArray[Any]],
    expected: NDArray[np.int64],
    stated: Stated,
) -> Check:
    with h5py.File(path, "r") as file:
        flat = len(file["layer/0/shape"][()]) == 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given, found, script = folder / "inputs.npy", folder / "outputs.npz", folder / "run_netx.py"
        np.save(given, inputs.reshape(len(inputs), -1) if flat else inputs)
        # Lava starts processes, which import both again.
        script.write_text(LAVA, encoding="utf-8")
        (folder / "recorder.py").write_text(RECORDER, encoding="utf-8")
        command = [interpreter, str(script), str(path.resolve()), str(given), str(found), str(stated.bits)]
        try:
            done = _run(command)
        except (OSError, subprocess.TimeoutExpired) as error:
            return not_run("netx", "lava", f"cannot be run: {one_line(error)}")
        if done.returncode or not found.is_file():
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            return not_run("netx", "lava", f"fails on the file: {said[:300]}", failed=True)
        title = done.stdout.strip().splitlines()[-1]
        with np.load(found, allow_pickle=False) as values:
            shown = [values[f"layer{index}"] for index in range(len(stated.layers))]
    *spikes, last = shown
    return _check(title, spikes, last / FRACTION, truth, expected, stated)
