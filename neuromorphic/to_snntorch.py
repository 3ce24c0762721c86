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


def _leaky(threshold: float, width: float) -> nn.Module:
    """Return neurons; their surrogate, an arctangent, has half its height at `width` / pi from the threshold."""
    snntorch = _package()
    instances = snntorch.SpikingNeuron.instances
    before = len(instances)
    neuron: nn.Module = snntorch.Leaky(
        beta=1.0,
        threshold=threshold,
        spike_grad=snntorch.surrogate.atan(alpha=2.0 / width),
        reset_mechanism="subtract",
        init_hidden=True,
        reset_delay=False,
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

    return Neurons(charge, _leaky(threshold, width=threshold), step)


class Thermometer(nn.Module):
    """Levels in one step: n `Leaky` neurons for each unit, of which number j fires where the level is at least j."""

    def __init__(self, charge: Charge) -> None:
        super().__init__()
        self.levels, self.unit = charge.levels, float(2**charge.exponent)
        self.neuron = _leaky(1.0, width=self.unit)
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

    level(z) = clip(floor((a z + d) / 2^e), 0, n): `graded` computes it in one step; with `unit`, a neuron of threshold
    n 2^e hears a z + d for n steps and fires level(z) times. Both give the scores of `net`, to the last bit; the
    schedule `free` does not, see `schedule_errors`.

    The modules can be trained on. Parameters are the weights of products and the class biases, whole numbers at first;
    a, d and thresholds are constants. Gradients pass the neurons by snnTorch's `surrogate.atan`, as wide as one level.
    Scores are large: divide them before a softmax, by their standard deviation, say.

    Args:
        net: the integer network; levels from 0.
        form: `graded` (one step, n neurons for n levels) or `unit` (n steps, one neuron, unit spikes).
        schedule: of `unit`: `exact` (layer after layer) or `free` (all layers in the same n steps; counts differ).

    Returns:
        A module from integer codes (B, *input shape), in the range of the network's input, to scores (B, classes),
        float64, in units of the integer network's; codes of another kind are a MaqdError, as in `net`.

    Raises:
        MaqdError: signed levels; thresholds that no charge reproduces; an op that has no module; an unknown form or
            schedule; `free` with the form `graded`, or where layers have different numbers of levels.
        MissingExtraError: snnTorch is not installed.

    >>> from maqd_snn.integer import ops
    >>> net = IntegerNetwork([
    ...     ops.Input("in", shape=(1,), high=9),
    ...     ops.Linear("fc", ("in",), torch.tensor([[2], [-1]])),
    ...     ops.Threshold("spike", ("fc",), torch.tensor([[3, 9], [-2, -4]]), torch.tensor([1, -1])),
    ...     ops.Readout("scores", ("spike",), torch.tensor([0, 1])),
    ... ])
    >>> module, codes = to_snntorch(net, "unit"), torch.tensor([[0], [2], [9]])
    >>> net(codes).tolist() == module(codes).tolist(), module(codes).tolist()
    (True, [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    >>> module(codes).sum().backward()
    >>> [bool(parameter.grad.any()) for parameter in module.parameters()]
    [True, True]
    """
    return ForeignNetwork(net, Library("snntorch", _unit, Thermometer, _rest), form, schedule)
