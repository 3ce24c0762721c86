"""What NeuroBench and SpikingJelly count on the same network: each is imported here alone, on use.

NeuroBench is run in float64: its own float32 sums are wrong beyond 2^24.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from maqd_snn.errors import MissingExtraError
from maqd_snn.integer import IntegerNetwork
from maqd_snn.neuromorphic.peer_modules import Levels, as_torch


@dataclass(frozen=True)
class NeuroBenchCounts:
    """NeuroBench's metrics; operations are means per sample.

    Attributes:
        version: of the package. effective_acs, effective_macs, dense: `SynapticOperations`. connection_sparsity,
        activation_sparsity: as named. footprint: bytes of parameters and buffers in float32.
    """

    version: str
    effective_acs: float
    effective_macs: float
    dense: float
    connection_sparsity: float
    activation_sparsity: float
    footprint: float


def neurobench_counts(net: IntegerNetwork, codes: Tensor, batch: int = 10) -> NeuroBenchCounts:
    """Return NeuroBench's metrics of the network on these codes (B, *input shape).

    Raises:
        MissingExtraError: NeuroBench is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages that it imports
        model = _neurobench_model(net, torch.float64)
        from neurobench.metrics.static import ConnectionSparsity, Footprint
        from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
        from neurobench.models import TorchModel

        operations, activations = SynapticOperations(), ActivationSparsity()
        sparse = 0.0
        counted: dict[str, float] = {}
        for part in torch.split(codes, batch):
            predictions = model(part)
            counted = operations(model, predictions, (part, None))
            sparse += activations(model, predictions, (part, None)) * len(part)
            model.reset_hooks()
        model.cleanup_hooks()
        single: Any = TorchModel(as_torch(net, torch.float32))
        return NeuroBenchCounts(
            version=version("neurobench"),
            effective_acs=float(counted["Effective_ACs"]),
            effective_macs=float(counted["Effective_MACs"]),
            dense=float(counted["Dense"]),
            connection_sparsity=float(ConnectionSparsity()(single)),
            activation_sparsity=sparse / len(codes),
            footprint=float(Footprint()(single)),
        )


def neurobench_runs(net: IntegerNetwork) -> Callable[[Tensor], object]:
    """Return what runs a batch under NeuroBench and counts its synaptic operations, in float32, its own habit.

    Raises:
        MissingExtraError: NeuroBench is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _neurobench_model(net, torch.float32)
        from neurobench.metrics.workload import SynapticOperations

    operations = SynapticOperations()

    def run(codes: Tensor) -> object:
        counted = operations(model, model(codes), (codes, None))
        model.reset_hooks()
        return counted

    return run


def _neurobench_model(net: IntegerNetwork, dtype: torch.dtype) -> Any:
    try:
        from neurobench.models import TorchModel
    except ImportError as error:
        raise MissingExtraError("neurobench", "neurobench", "the comparison with NeuroBench") from error
    model: Any = TorchModel(as_torch(net, dtype))
    model.add_activation_module(Levels)
    model.register_hooks()
    return model


@dataclass(frozen=True)
class SpikingJellyCounts:
    """SpikingJelly's op counters; all are means per sample.

    Attributes:
        version: of the package. synops, macs, acs: of `SynOpCounter`, `MACCounter`, `ACCounter`. simple_int8_pj: of
        `estimate_simple_energy` with its int8 prices.
    """

    version: str
    synops: float
    macs: float
    acs: float
    simple_int8_pj: float


def spikingjelly_counts(net: IntegerNetwork, codes: Tensor, batch: int = 10) -> SpikingJellyCounts:
    """Return the op counters of SpikingJelly on these codes (B, *input shape).

    Raises:
        MissingExtraError: SpikingJelly, or what its counters import, is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        op_counter = _op_counter()
        # float32, its own habit: its counts are integers of Python, and 24.96 pJ are charged per byte that is read.
        model = as_torch(net, torch.float32)
        config = op_counter.SimpleEnergyConfig(cost_config=op_counter.SimpleEnergyCostConfig.int8())
        synops = macs = acs = 0
        simple = 0.0
        for part in torch.split(codes, batch):
            counters = [op_counter.SynOpCounter(), op_counter.MACCounter(), op_counter.ACCounter()]
            with torch.no_grad(), op_counter.DispatchCounterMode(counters, strict=False):
                model(part)
            found = [int(counter.get_total()) for counter in counters]
            synops, macs, acs = synops + found[0], macs + found[1], acs + found[2]
            simple += float(op_counter.estimate_simple_energy(model, part, config=config).energy_total_pj)
        size = len(codes)
        return SpikingJellyCounts(version("spikingjelly"), synops / size, macs / size, acs / size, simple / size)


def spikingjelly_runs(net: IntegerNetwork) -> Callable[[Tensor], object]:
    """Return what runs a batch under SpikingJelly's counter of synaptic operations, in float32.

    Raises:
        MissingExtraError: SpikingJelly, or what its counters import, is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        op_counter = _op_counter()
    model = as_torch(net, torch.float32)

    def run(codes: Tensor) -> object:
        counter = op_counter.SynOpCounter()
        with torch.no_grad(), op_counter.DispatchCounterMode([counter], strict=False):
            model(codes)
        return counter.get_total()

    return run


def _op_counter() -> Any:
    try:
        from spikingjelly.activation_based import op_counter
    except ImportError as error:
        raise MissingExtraError("spikingjelly", "spikingjelly", "the comparison with SpikingJelly") from error
    return op_counter
