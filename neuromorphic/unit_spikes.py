"""Native modules of other libraries that compute an integer network: graded in one step, or with unit spikes.

A neuron's level is k = clip(floor((a z + d) / 2^e), 0, n) with integers a (of the sign of the channel's direction), d
and e, found from its thresholds and proved for every accumulator z. So a neuron that integrates and fires by
subtraction, fed the constant current a z + d for n steps, with the threshold n 2^e, fires exactly k times.

- `graded`: one step, levels travel as numbers.
- `unit`, schedule `exact`: a layer has heard all n steps of the layer before when it begins its own n steps
  (layer-synchronous). No spike count differs from the level.
- `unit`, schedule `free`: all layers run in the same n steps, each on the spikes of the moment. Counts differ where
  charge comes late; `schedule_errors` measures it, layer by layer.

All numbers are integers or halves below 2^53 in float64, so nothing rounds.

They can be trained on: product weights and class biases are parameters, a and d are constants of the neurons. The
backward is the library's own surrogate, as wide as one level of charge. Where a neuron has a single threshold, how wide
a level is follows from nothing: it is taken from the spread of the accumulator, see `SPREADS`.
Axis letters: B batch, C channels, n steps.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.execute import check_input
from maqd_snn.integer.geometry import FLOAT64_EXACT
from maqd_snn.integer.ops import Op
from maqd_snn.neuromorphic.quant_fit import fit_quant

FORMS = ("graded", "unit")
SCHEDULES = ("exact", "free")
LARGEST_EXPONENT = 40


@dataclass(frozen=True)
class Charge:
    """Integers with level(z) = clip(floor((a z + d) / 2^exponent), 0, n); a and d are (C,) int64."""

    a: NDArray[np.int64]
    d: NDArray[np.int64]
    exponent: int
    levels: int


def charge_of(op: ops.Threshold, bound: int, spread: float = 1.0) -> Charge:
    """Return the integers of a layer's neurons; proved at both sides of every threshold.

    Several thresholds say how much charge one level is. A single one at theta does not: level(z) is also that of
    floor((a z + d) / (2^k 2^e)) for a larger d. k = round(log2(spread)) makes a level as wide as the accumulator's
    spread, which is no matter of the forward, but the width of the surrogate in the backward.

    Args:
        op: (C, n) thresholds. bound: largest magnitude of z. spread: standard deviation of z, from 1 to bound; what is
            beyond is taken as that.

    Raises:
        MaqdError: levels that do not start at 0; a channel whose thresholds no charge reproduces exactly.

    >>> op = ops.Threshold("s", ("z",), torch.tensor([[3, 6, 9]]), torch.tensor([1]))
    >>> charge, z = charge_of(op, 20), np.arange(-20, 21)
    >>> level = np.clip((charge.a[0] * z + charge.d[0]) >> charge.exponent, 0, 3)
    >>> [int(z[level >= j].min()) for j in (1, 2, 3)]
    [3, 6, 9]
    >>> op = ops.Threshold("s", ("z",), torch.tensor([[3]]), torch.tensor([1]))
    >>> [charge_of(op, 20, spread).exponent for spread in (1, 8)]
    [8, 11]
    """
    if op.low != 0:
        raise MaqdError(
            f"{op.name}: spikes that are only counted have levels from 0, got {op.low}; use unsigned levels"
        )
    theta, direction, n = op.thresholds.numpy(), op.direction.numpy(), op.levels
    fit = fit_quant(theta, direction, 0, bound)
    oriented = np.clip(theta * direction[:, None], -bound - 1, bound + 1)
    points = np.clip(np.concatenate([oriented, oriented - 1], 1), -bound, bound) * direction[:, None]
    points = np.concatenate([points, np.tile([[-bound, bound]], (len(theta), 1))], 1)
    expected = np.stack(
        [np.searchsorted(row, u, side="right") for row, u in zip(oriented, points * direction[:, None], strict=True)]
    )
    wrong = np.ones(len(theta), bool)
    multiplier, offset = fit.multiplier.astype(np.float64), fit.offset.astype(np.float64)
    wider = round(math.log2(min(max(spread, 1.0), bound))) if n == 1 and bound > 0 else 0
    for steep in range(8, LARGEST_EXPONENT + 1, 4):
        exponent = steep + wider
        scale = 2.0**exponent
        a, d = np.rint(multiplier * 2.0**steep), np.rint((offset + 0.5) * 2.0**steep) + scale - 2.0**steep
        # The membrane of n steps, and a half for readers that fire above the threshold only, must fit float64.
        if (
            float((np.abs(a) * bound + np.abs(d)).max()) * 4 * n * n >= FLOAT64_EXACT
            or n * scale * 4 * n >= FLOAT64_EXACT
        ):
            break
        whole_a, whole_d = a.astype(np.int64), d.astype(np.int64)
        got = np.clip((whole_a[:, None] * points + whole_d[:, None]) >> exponent, 0, n)
        wrong = (got != expected).any(1)
        if not wrong.any():
            return Charge(whole_a, whole_d, exponent, n)
    raise MaqdError(
        f"{op.name}: no charge reproduces the thresholds of channel {int(np.argmax(wrong))} exactly; their steps are "
        "too uneven for a neuron with one threshold (use the thermometer form of NIR)"
    )


def _of_product(op: ops.Conv2d | ops.Linear, given: Sequence[float]) -> float:
    return given[0] * math.sqrt(float(op.weight.double().square().sum()) / len(op.weight))


# A rule of thumb for the standard deviation of an op's output, from those of its inputs: codes and levels spread evenly
# over their range, all independent. It is a property of the graph, not of a batch.
SPREADS: Mapping[type[Op], Callable[[Any, Sequence[float]], float]] = MappingProxyType(
    {
        ops.Input: lambda op, given: (op.high - op.low) / math.sqrt(12),
        ops.Conv2d: _of_product,
        ops.Linear: _of_product,
        ops.Threshold: lambda op, given: math.sqrt(op.levels * (op.levels + 2) / 12),
        ops.MaxPool2d: lambda op, given: given[0],
        ops.SumPool2d: lambda op, given: given[0] * math.sqrt(math.prod(op.kernel)),
        ops.Add: lambda op, given: math.hypot(*given),
        ops.Flatten: lambda op, given: given[0],
        ops.Readout: lambda op, given: given[0],
    }
)


class Neurons(nn.Module):
    """The neurons of one layer: integrate and fire with a subtracting reset, of another library.

    `neuron` is its module; `step` calls it for one step on the current (B, C, ...) and returns spikes.
    """

    def __init__(self, charge: Charge, neuron: nn.Module, step: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.levels, self.exponent = charge.levels, charge.exponent
        self.neuron, self._step = neuron, step
        self.register_buffer("a", torch.from_numpy(charge.a).double())
        self.register_buffer("d", torch.from_numpy(charge.d).double())

    def current(self, z: Tensor, share: float = 1.0) -> Tensor:
        """Return a z + d * share."""
        a, d = (getattr(self, name).view(-1, *(1,) * (z.ndim - 2)) for name in ("a", "d"))
        value: Tensor = a * z + d * share
        return value

    def step(self, current: Tensor) -> Tensor:
        """Return the spikes of one step."""
        return self._step(self.neuron, current).double()  # some libraries give float32


@dataclass(frozen=True)
class Library:
    """What a library provides.

    Attributes:
        name: of it. unit: (charge, threshold) -> Neurons for unit spikes. graded: (charge) -> module from accumulators
        to levels in one step. rest: brings all neurons of a module to rest.
    """

    name: str
    unit: Callable[[Charge, float], Neurons]
    graded: Callable[[Charge], nn.Module]
    rest: Callable[[nn.Module], None]


class ForeignNetwork(nn.Module):
    """An integer network of a library's modules; codes in, class scores out, float64. See `to_snntorch`.

    Attributes:
        net: the network it was made from. steps: of the form `unit`; the largest n. parts: the modules; `part(op)` is
        that of an op.
    """

    def __init__(self, net: IntegerNetwork, library: Library, form: str, schedule: str) -> None:
        super().__init__()
        for value, choices, what in ((form, FORMS, "form"), (schedule, SCHEDULES, "schedule")):
            if value not in choices:
                raise MaqdError(f"unknown {what} {value!r}; the choices are: {', '.join(choices)}")
        if form == "graded" and schedule != "exact":
            raise MaqdError(
                f"form 'graded' has one step and no schedule, got schedule {schedule!r}; "
                "pass form='unit', or leave the schedule out"
            )
        self.net, self.library, self.form, self.schedule = net, library, form, schedule
        self.parts = nn.ModuleDict()
        self._key: dict[str, str] = {}
        levels: set[int] = set()
        spreads: dict[str, float] = {}
        for index, op in enumerate(net.ops):
            if type(op) not in MODULES:
                raise MaqdError(f"{op.name}: there is no module for a {type(op).__name__}")
            self._key[op.name] = f"m{index:02d}_" + "".join(c if c.isalnum() else "_" for c in op.name)
            spreads[op.name] = SPREADS[type(op)](op, [spreads[name] for name in op.inputs])
            part: nn.Module | None
            if isinstance(op, ops.Threshold):
                charge = charge_of(op, net.bounds[op.inputs[0]], spreads[op.inputs[0]])
                levels.add(charge.levels)
                unit = form == "unit"
                theta = float(charge.levels * 2**charge.exponent if schedule == "exact" else 2**charge.exponent)
                part = library.unit(charge, theta) if unit else library.graded(charge)
            else:
                part = MODULES[type(op)](op)
            if part is not None:
                self.parts[self._key[op.name]] = part.double()
        if form == "unit" and schedule == "free" and len(levels) > 1:
            raise MaqdError(f"free-running layers need one number of levels, got {sorted(levels)}")
        self.steps = max(levels, default=1)
        self.eval()

    def forward(self, codes: Tensor) -> Tensor:
        """Return class scores (B, classes), float64, for integer codes (B, *input shape).

        Raises:
            MaqdError: codes of the wrong shape or type, or outside the input's range.
        """
        return self.trace(codes)[self.net.ops[-1].name]

    def trace(self, codes: Tensor) -> dict[str, Tensor]:
        """Return every op's output by name; of neurons the levels, or the number of their spikes.

        Raises:
            MaqdError: codes of the wrong shape or type, or outside the input's range.
        """
        check_input(self.net.input, codes)
        self.library.rest(self)
        inputs = codes.double() - self.net.input.zero_point  # in uint8 the difference would wrap around
        outputs = (self._free if self.schedule == "free" else self._in_turn)(inputs)
        self.library.rest(self)  # membranes hold the graph of the backward, with which no module can be copied
        return outputs

    def part(self, op: Op) -> nn.Module:
        """Return the module of an op."""
        return self.parts[self._key[op.name]]

    def _in_turn(self, inputs: Tensor) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        for op in self.net.ops:
            values = [outputs[name] for name in op.inputs]
            outputs[op.name] = inputs if isinstance(op, ops.Input) else self._compute(op, values)
        return outputs

    def _compute(self, op: Op, values: list[Tensor]) -> Tensor:
        if isinstance(op, ops.Add):
            return torch.stack(values).sum(0)
        part = self.part(op)
        if isinstance(part, Neurons):
            # The spikes of all steps are heard before the next layer fires: it may as well hear their number.
            current = part.current(values[0])
            return torch.stack([part.step(current) for _ in range(part.levels)]).sum(0)
        result: Tensor = part(values[0]).double()
        return result

    def _free(self, inputs: Tensor) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for _ in range(self.steps):
            now: dict[str, Tensor] = {}
            for op in self.net.ops:
                values = [now[name] for name in op.inputs]
                if isinstance(op, ops.Input):
                    value = inputs / self.steps
                elif isinstance(op, ops.Add):
                    value = torch.stack(values).sum(0)
                elif isinstance(op, ops.Readout):
                    value = values[0]
                else:
                    part = self.part(op)
                    if isinstance(part, Neurons):
                        value = part.step(part.current(values[0], 1 / self.steps))
                    else:
                        value = part(values[0])
                now[op.name] = value
                total[op.name] = total[op.name] + value if op.name in total else value
        for op in self.net.ops:
            if isinstance(op, ops.Readout):
                total[op.name] = self.part(op)(total[op.inputs[0]])
        return total


@dataclass(frozen=True)
class ScheduleError:
    """How the spike counts of a layer compare with its levels.

    Attributes:
        name: of the layer. values: number of counts compared. mismatches: how many differ.
        mean_difference: of their magnitudes, in spikes.
    """

    name: str
    values: int
    mismatches: int
    mean_difference: float


@torch.no_grad()
def schedule_errors(model: ForeignNetwork, codes: Tensor) -> list[ScheduleError]:
    """Return how many spike counts, and at the end class scores, of a model differ from the integer network's.

    mismatches = #{i: count_i != level_i}, mean_difference = mean_i abs(count_i - level_i), over all i of a layer:
    samples, channels and positions.

    Args:
        model: of `to_snntorch` or `to_spikingjelly`. It is compared with the network that it was made from, so what was
            trained since shows as errors, too.
        codes: (B, *input shape) integers in the range of the network's input.

    Returns:
        One entry for every layer of neurons, in their order, and one for the class scores (in units of a score).

    Raises:
        MaqdError: codes of the wrong shape or type, or outside the input's range.

    >>> from maqd_snn.neuromorphic import to_snntorch
    >>> net = IntegerNetwork([
    ...     ops.Input("in", shape=(1,), high=9),
    ...     ops.Linear("fc1", ("in",), torch.tensor([[1]])),
    ...     ops.Threshold("spike1", ("fc1",), torch.tensor([[2, 4]]), torch.tensor([1])),
    ...     ops.Linear("fc2", ("spike1",), torch.tensor([[2]])),
    ...     ops.Threshold("spike2", ("fc2",), torch.tensor([[1, 2]]), torch.tensor([1])),
    ... ])
    >>> codes = torch.arange(10)[:, None]
    >>> [entry.mismatches for entry in schedule_errors(to_snntorch(net, "unit"), codes)]
    [0, 0]
    >>> for entry in schedule_errors(to_snntorch(net, "unit", "free"), codes):
    ...     print(entry.name, entry.mismatches, "of", entry.values, entry.mean_difference)
    spike1 0 of 10 0.0
    spike2 2 of 10 0.2
    """
    ours, truth = model.trace(codes), model.net.trace(codes)
    found = []
    for op in model.net.ops:
        if isinstance(op, ops.Threshold) or op is model.net.ops[-1]:
            difference = (ours[op.name] - truth[op.name].double()).abs()
            wrong = int((difference != 0).sum())
            found.append(ScheduleError(op.name, difference.numel(), wrong, float(difference.mean())))
    return found


def _conv2d(op: ops.Conv2d) -> nn.Module:
    outs, per_group, *kernel = op.weight.shape
    module = nn.Conv2d(
        per_group * op.groups,
        outs,
        (kernel[0], kernel[1]),
        op.stride,
        op.padding,
        op.dilation,
        op.groups,
        bias=False,
        dtype=torch.float64,
    )
    module.weight.data = op.weight.double()
    return module


def _linear(op: ops.Linear) -> nn.Module:
    module = nn.Linear(op.weight.shape[1], op.weight.shape[0], bias=False, dtype=torch.float64)
    module.weight.data = op.weight.double()
    return module


class Bias(nn.Module):
    """z + bias."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias.double())

    def forward(self, z: Tensor) -> Tensor:
        return z + self.bias


MODULES: Mapping[type[Op], Callable[[Any], nn.Module | None]] = {
    ops.Input: lambda op: None,
    ops.Conv2d: _conv2d,
    ops.Linear: _linear,
    ops.Threshold: lambda op: None,
    ops.MaxPool2d: lambda op: nn.MaxPool2d(op.kernel, op.stride, op.padding),
    ops.SumPool2d: lambda op: nn.AvgPool2d(op.kernel, op.stride, op.padding, divisor_override=1),
    ops.Add: lambda op: None,
    ops.Flatten: lambda op: nn.Flatten(1),
    ops.Readout: lambda op: Bias(op.bias),
}
