"""The runtimes that run NIR files, in a visible table: how each is prepared, and what each is known to run wrongly.

A runtime builds its own modules from the graph; we run these on batches, every batch from rest, and change nothing in
what they compute. What has to be adapted to run them so is said in the check's note, and shown in `docs/exports.md`.

Axis letters: B batch.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maqd_snn.errors import MissingExtraError
from maqd_snn.neuromorphic.nir_interpreter import run_nir

# (B, *input shape) -> (the file's output, outputs of the neurons by node name), from rest.
Run = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class NirRuntime:
    """One runtime of NIR graphs.

    Attributes:
        package: that must be installed, or an empty string. install: what to tell a user without it.
        prepare: (graph, names of its neurons) -> Run. faults: what it runs otherwise than NIR defines it, for a graph.
        note: what is adapted to run its modules on batches. graded: whether it knows the graded form.
    """

    package: str
    install: str
    prepare: Callable[[Any, list[str]], Run]
    faults: Callable[[Any], list[str]]
    note: str = ""
    graded: bool = False

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.package} {version(self.package)}" if self.package else "maqd-snn NIR interpreter"


def require_snntorch() -> Any:
    """Return the package `snntorch` with its NIR importer; raises MissingExtraError where it is not installed."""
    try:
        import snntorch.import_nir
    except ImportError as error:
        raise MissingExtraError("snntorch", "snntorch", "running NIR files in snnTorch") from error
    return snntorch


def require_spikingjelly() -> Any:
    """Return SpikingJelly's `import_from_nir`; raises MissingExtraError where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from spikingjelly.activation_based.nir_exchange import import_from_nir
    except ImportError as error:
        raise MissingExtraError("spikingjelly", "spikingjelly", "running NIR files in SpikingJelly") from error
    return import_from_nir


def require_norse() -> Any:
    """Return norse's `from_nir`; raises MissingExtraError where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from norse.torch.utils.import_nir import from_nir
    except ImportError as error:
        raise MissingExtraError("norse", "norse", "running NIR files in norse") from error
    return from_nir


def torch_faults(graph: Any) -> list[str]:
    """Return what snnTorch 1.0.0 and SpikingJelly 2.0.0 with nirtorch 2.6 run otherwise than NIR defines it."""
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


def norse_faults(graph: Any) -> list[str]:
    """Return what norse 1.1.0 runs otherwise: beside the faults of SumPool2d, `nirtorch.load` drops a branch."""
    faults = [fault for fault in torch_faults(graph) if "SumPool2d" in fault]
    targets = [target for _, target in graph.edges]
    joined = sorted({name for name in targets if targets.count(name) > 1})
    if joined:
        faults.append(f"its importer drops a branch where two join, as in {joined[0]!r}")
    return faults


def _watched(modules: Mapping[str, Any], neurons: list[str]) -> dict[str, Tensor]:
    """Record what the named modules give; the returned dict is refilled by every run."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    for name in neurons:
        modules[name].register_forward_hook(keep(name))
    return seen


def _keep_batch(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Flatten):
            module.start_dim += 1 if module.start_dim >= 0 else 0


def _snntorch(graph: Any, neurons: list[str]) -> Run:
    snntorch = require_snntorch()
    instances = snntorch.SpikingNeuron.instances
    before = len(instances)
    with contextlib.redirect_stdout(io.StringIO()):  # the importer prints a line about every graph
        model = snntorch.import_nir.import_from_nir(graph)
    del instances[before:]  # a list on the class, which would keep all neurons ever imported
    _keep_batch(model)
    leaky = [module for module in model.modules() if isinstance(module, snntorch.Leaky)]
    for neuron in leaky:
        # The importer leaves this False for IF nodes: they would hand (spikes, membrane) to the next module.
        neuron.init_hidden = True
    seen = _watched(dict(model.named_children()), neurons)

    def run(inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        for neuron in leaky:
            neuron.reset_mem()  # its Leaky(beta=0.9) is an IF only in the first step from rest
        output, _ = model(inputs)
        return output, seen

    return run


def _spikingjelly(graph: Any, neurons: list[str]) -> Run:
    model = require_spikingjelly()(graph, dt=1.0)
    seen = _watched(dict(model.named_children()), neurons)
    return lambda inputs: (model(inputs)[0], seen)  # without a state it starts from rest


def _norse(graph: Any, neurons: list[str]) -> Run:
    model = require_norse()(graph)
    _keep_batch(model)
    seen = _watched(dict(model.named_children()), neurons)
    return lambda inputs: (model(inputs)[0], seen)  # without a state it starts from rest


def _interpreter(graph: Any, neurons: list[str]) -> Run:
    (last,) = (name for name, node in graph.nodes.items() if type(node).__name__ == "Output")

    def run(inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        outputs = run_nir(graph, inputs)
        return outputs[last], {name: outputs[name] for name in neurons}

    return run


INTERPRETER = "interpreter"
_FLATTEN = "its Flatten made to keep the batch axis"

NIR_RUNTIMES: Mapping[str, NirRuntime] = MappingProxyType(
    {
        "snntorch": NirRuntime(
            "snntorch",
            "pip install 'maqd-snn[snntorch]'",
            _snntorch,
            torch_faults,
            f"{_FLATTEN}, its IF made to give spikes only (init_hidden), reset before every batch",
        ),
        "spikingjelly": NirRuntime(
            "spikingjelly",
            "pip install --no-deps spikingjelly, and pip install loguru",
            _spikingjelly,
            torch_faults,
            "imported with dt = 1",
        ),
        "norse": NirRuntime("norse", "pip install --no-deps norse", _norse, norse_faults, _FLATTEN),
        INTERPRETER: NirRuntime("", "", _interpreter, lambda graph: [], graded=True),
    }
)
