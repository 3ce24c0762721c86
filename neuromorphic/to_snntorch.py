"""An integer network as snnTorch modules, to continue work there."""

from typing import Any

import torch
from torch import Tensor, nn

from maqd_snn.errors import MissingExtraError
from maqd_snn.integer import IntegerNetwork
from maqd_snn.neuromorphic.unit_spikes import Charge, ForeignNetwork, Library, Neurons


def _package() -> Any:
    try:
        import snntorch
    except ImportError as error:
        raise MissingExtraError("snntorch", "snntorch", "building snnTorch modules") from error
    return snntorch


def _leaky(threshold: float) -> nn.Module:
    snntorch = _package()
    instances = snntorch.SpikingNeuron.instances
    before = len(instances)
    neuron: nn.Module = snntorch.Leaky(
        beta=1.0, threshold=threshold, reset_mechanism="subtract", init_hidden=True, reset_delay=False
    )
    del instances[before:]  # a list on the class, which would keep all neurons ever made
    return neuron


def _unit(charge: Charge, threshold: float) -> Neurons:
    # snnTorch fires above the threshold only, and everything is a whole number (or, free-running, a multiple of 1/n):
    # a little more charge in each step, less than one such unit in all, makes it "at least".
    extra = 1 / (4 * charge.levels * charge.levels)

    def step(neuron: nn.Module, current: Tensor) -> Tensor:
        spikes: Tensor = neuron(current + extra)
        return spikes

    return Neurons(charge, _leaky(threshold), step)


class Thermometer(nn.Module):
    """Levels in one step: n `Leaky` neurons for each unit, of which number j fires where the level is at least j."""

    def __init__(self, charge: Charge) -> None:
        super().__init__()
        self.levels, self.unit = charge.levels, float(2**charge.exponent)
        self.neuron = _leaky(1.0)
        self.register_buffer("a", torch.from_numpy(charge.a).double())
        self.register_buffer("d", torch.from_numpy(charge.d).double())

    def forward(self, z: Tensor) -> Tensor:
        a, d = (getattr(self, name).view(-1, *(1,) * (z.ndim - 2)) for name in ("a", "d"))
        charge = a * z + d
        above = torch.stack([charge - j * self.unit for j in range(1, self.levels + 1)], 1)  # at least 0 where it fires
        spikes: Tensor = self.neuron(above + 1.5)
        return spikes.sum(1)


def _rest(model: nn.Module) -> None:
    snntorch = _package()
    for module in model.modules():
        if isinstance(module, snntorch.Leaky):
            module.reset_mem()


def to_snntorch(net: IntegerNetwork, form: str = "graded", schedule: str = "exact") -> ForeignNetwork:
    """Return the network as modules of snnTorch (`snntorch.Leaky`, torch products), in float64, from rest each call.

    Args:
        net: the integer network; levels from 0.
        form: `graded` (one step, n neurons for n levels) or `unit` (n steps, one neuron, unit spikes).
        schedule: of `unit`: `exact` (layer after layer) or `free` (all layers in the same n steps; counts differ).

    Raises:
        MaqdError: signed levels, thresholds that no charge reproduces, an unknown form. MissingExtraError.
    """
    return ForeignNetwork(net, Library("snntorch", _unit, Thermometer, _rest), form, schedule)
