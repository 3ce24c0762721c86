"""An integer network as SpikingJelly modules, to continue work there."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from maqd_snn.errors import MissingExtraError
from maqd_snn.integer import IntegerNetwork
from maqd_snn.neuromorphic.unit_spikes import Charge, ForeignNetwork, Library, Neurons


def package() -> Any:
    """Return `spikingjelly.activation_based`; raises MissingExtraError where SpikingJelly is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from spikingjelly import activation_based
            from spikingjelly.activation_based import base, functional, layer, neuron, surrogate  # noqa: F401 - loads them
    except ImportError as error:
        raise MissingExtraError("spikingjelly", "spikingjelly", "building SpikingJelly modules") from error
    return activation_based


def _unit(charge: Charge, threshold: float) -> Neurons:
    activation_based = package()
    arctan = activation_based.surrogate.ATan(alpha=2.0 / threshold)  # as wide as the threshold
    # It fires at the threshold, too.
    neuron = activation_based.neuron.IFNode(v_threshold=threshold, v_reset=None, surrogate_function=arctan)

    def step(module: nn.Module, current: Tensor) -> Tensor:
        spikes: Tensor = module(current)
        return spikes

    return Neurons(charge, neuron, step)


class Graded(nn.Module):
    """Levels in one step: an affine map, then SpikingJelly's `ILIFNode`, round(clip(x, 0, n)), half to even."""

    def __init__(self, charge: Charge) -> None:
        super().__init__()
        activation_based = package()
        self.unit = float(2**charge.exponent)
        count = activation_based.surrogate.MultiLevelSpikeCount(charge.levels)
        self.neuron = activation_based.neuron.ILIFNode(v_threshold=1.0, surrogate_function=count)
        self.register_buffer("a", torch.from_numpy(charge.a).double())
        self.register_buffer("d", torch.from_numpy(charge.d).double())

    def forward(self, z: Tensor) -> Tensor:
        a, d = (getattr(self, name).view(-1, *(1,) * (z.ndim - 2)) for name in ("a", "d"))
        # Rounding to nearest of x - 1/2 is the floor of x where x is no whole number: half a unit is added.
        levels: Tensor = self.neuron((a * z + d + 0.5) / self.unit - 0.5)
        return levels


def _rest(model: nn.Module) -> None:
    package().functional.reset_net(model)


def to_spikingjelly(net: IntegerNetwork, form: str = "graded", schedule: str = "exact") -> ForeignNetwork:
    """Return the network as modules of SpikingJelly (`ILIFNode`, `IFNode`), in float64, from rest each call.

    level(z) = clip(floor((a z + d) / 2^e), 0, n): `graded` computes it in one step; with `unit`, a neuron of threshold
    n 2^e hears a z + d for n steps and fires level(z) times. Both give the scores of `net`, to the last bit; the
    schedule `free` does not, see `schedule_errors`.

    The modules can be trained on. Parameters are the weights of products and the class biases, whole numbers at first;
    a, d and thresholds are constants. Gradients pass the neurons by SpikingJelly's `MultiLevelSpikeCount` (`graded`) or
    `ATan`, as wide as one level. Scores are large: divide them before a softmax, by their standard deviation, say.

    Args:
        net: the integer network; levels from 0.
        form: `graded` (one step, `ILIFNode`) or `unit` (n steps, soft-reset `IFNode`, unit spikes).
        schedule: of `unit`: `exact` (layer after layer) or `free` (all layers in the same n steps; counts differ).

    Returns:
        A module from integer codes (B, *input shape), in the range of the network's input, to scores (B, classes),
        float64, in units of the integer network's; codes of another kind are a MaqdError, as in `net`.

    Raises:
        MaqdError: signed levels; thresholds that no charge reproduces; an op that has no module; an unknown form or
            schedule; `free` with the form `graded`, or where layers have different numbers of levels.
        MissingExtraError: SpikingJelly is not installed.

    >>> from maqd_snn.integer import ops
    >>> net = IntegerNetwork([
    ...     ops.Input("in", shape=(1,), high=9),
    ...     ops.Linear("fc", ("in",), torch.tensor([[2], [-1]])),
    ...     ops.Threshold("spike", ("fc",), torch.tensor([[3, 9], [-2, -4]]), torch.tensor([1, -1])),
    ...     ops.Readout("scores", ("spike",), torch.tensor([0, 1])),
    ... ])
    >>> module, codes = to_spikingjelly(net, "unit"), torch.tensor([[0], [2], [9]])
    >>> net(codes).tolist() == module(codes).tolist(), module(codes).tolist()
    (True, [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    >>> module(codes).sum().backward()
    >>> [bool(parameter.grad.any()) for parameter in module.parameters()]
    [True, True]
    """
    return ForeignNetwork(net, Library("spikingjelly", _unit, Graded, _rest), form, schedule)
