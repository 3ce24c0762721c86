"""What would make a network fit: changed networks of the same graph are built and put to the same test."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from math import prod

import torch

from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.geometry import output_shape
from maqd_snn.integer.ops import Op

WIDTHS = 16  # hidden layers are narrowed in sixteenths

# Figures that lighter weights help with.
LIGHTER = frozenset(
    {"weight_bits", "axon_types", "crossbar_axons", "synapse_bits", "accumulator_bits", "threshold_groups"}
)


@dataclass(frozen=True)
class Change:
    """A change of a network.

    Attributes:
        states: activation states of every layer, or None for as they are. weight_bits: bits of every weight, or None.
        sum_pools: sum-pools in place of max-pools. width: share of every hidden layer's channels, in sixteenths.
        shrink: the input's height and width are divided by this.
    """

    states: int | None = None
    weight_bits: int | None = None
    sum_pools: bool = False
    width: int = WIDTHS
    shrink: int = 1

    def text(self) -> str:
        """Return the change in words."""
        parts = [f"{self.states} activation states"] if self.states else []
        parts += [f"weights of {self.weight_bits} bits"] if self.weight_bits else []
        parts += ["sum-pools in place of max-pools"] if self.sum_pools else []
        parts += [f"{self.width} of {WIDTHS} channels in every hidden layer"] if self.width < WIDTHS else []
        parts += [f"an input of 1/{self.shrink} the height and width"] if self.shrink > 1 else []
        return " and ".join(parts)


@dataclass(frozen=True)
class Remedy:
    """A change that makes the network fit (or leaves only unknown figures), and the cores it then takes."""

    text: str
    cores: int | None
    change: Change


def changed(net: IntegerNetwork, change: Change) -> IntegerNetwork:
    """Return a network of the same graph with a change applied: weights and thresholds are cut, not trained.

    Raises:
        MaqdError: the change leaves no network, such as an input that is smaller than a kernel.
    """
    last = next(op.name for op in reversed(net.ops) if isinstance(op, ops.Conv2d | ops.Linear))
    shapes: dict[str, tuple[int, ...]] = {}
    graph: list[Op] = []
    for op in net.ops:
        new = _changed_op(net, op, change, shapes, keep=op.name == last)
        graph.append(new)
        shapes[op.name] = output_shape(new, [shapes[name] for name in new.inputs])
    return IntegerNetwork(graph)


def _narrow(channels: int, change: Change) -> int:
    return max(1, channels * change.width // WIDTHS)


def _weights(weight: torch.Tensor, change: Change) -> torch.Tensor:
    if change.weight_bits is None:
        return weight
    most = 2 ** (change.weight_bits - 1) - 1
    return weight.clamp(-most, most)


def _changed_op(net: IntegerNetwork, op: Op, change: Change, shapes: Mapping[str, tuple[int, ...]], keep: bool) -> Op:
    into = shapes[op.inputs[0]] if op.inputs else ()
    if isinstance(op, ops.Input):
        if len(op.shape) == 1:
            return op
        return replace(op, shape=(op.shape[0], *(max(1, n // change.shrink) for n in op.shape[1:])))
    if isinstance(op, ops.Conv2d):
        out = len(op.weight) if keep else _narrow(len(op.weight), change)
        if op.groups > 1:
            if out != len(op.weight) or into[0] != op.weight.shape[1] * op.groups:
                raise MaqdError(f"{op.name}: a grouped convolution is not narrowed")
            return replace(op, weight=_weights(op.weight, change))
        return replace(op, weight=_weights(op.weight[:out, : into[0]], change))
    if isinstance(op, ops.Linear):
        out = len(op.weight) if keep else _narrow(len(op.weight), change)
        return replace(op, weight=_weights(op.weight[:out, : prod(into)], change))
    if isinstance(op, ops.Threshold):
        thresholds, low = op.thresholds[: into[0]], op.low
        if change.states is not None and change.states - 1 < op.levels:
            thresholds, low = thresholds[:, op.levels // 2 : op.levels // 2 + change.states - 1], max(low, 0)
        return replace(op, thresholds=thresholds, direction=op.direction[: into[0]], low=low)
    if isinstance(op, ops.MaxPool2d | ops.SumPool2d):
        kernel = (min(op.kernel[0], into[1]), min(op.kernel[1], into[2]))  # a global pool stays one
        kind = ops.SumPool2d if change.sum_pools or isinstance(op, ops.SumPool2d) else ops.MaxPool2d
        return kind(op.name, op.inputs, kernel=kernel, stride=op.stride, padding=op.padding)
    return op


Try = Callable[[IntegerNetwork], tuple[bool, int | None]]


def remedies(net: IntegerNetwork, failing: Set[str], attempt: Try) -> list[Remedy]:
    """Return the changes that make the network fit, the single ones if any does, else the first combination that does.

    Args:
        net: the network that does not fit. failing: figures of the limits that fail. attempt: (network) -> whether it
        fits (no limit fails), and the cores it takes.
    """

    def tried(change: Change) -> Remedy | None:
        try:
            ok, cores = attempt(changed(net, change))
        except MaqdError:
            return None
        return Remedy(change.text(), cores, change) if ok else None

    basic = _basic(net, failing)
    found = [remedy for change in basic if (remedy := tried(change))]
    found += [remedy for remedy in (_widest(Change(), tried), _shrunk(net, Change(), tried)) if remedy]
    if found:
        return found
    together = Change(
        states=next((c.states for c in basic if c.states), None),
        weight_bits=next((c.weight_bits for c in basic if c.weight_bits), None),
        sum_pools=any(c.sum_pools for c in basic),
    )
    if together != Change():
        for remedy in (tried(together), _widest(together, tried)):
            if remedy:
                return [remedy]
    for shrink in (2, 4, 8):
        remedy = _widest(replace(together, shrink=shrink), tried)
        if remedy:
            return [remedy]
    return []


def _basic(net: IntegerNetwork, failing: Set[str]) -> list[Change]:
    levels = max((op.levels for op in net.ops if isinstance(op, ops.Threshold)), default=1)
    signed = any(op.low < 0 for op in net.ops if isinstance(op, ops.Threshold))
    found = [Change(states=states) for states in range(levels, 1, -1) if states == 2 or not signed][-3:]
    if not found and signed:
        found = [Change(states=2)]
    if failing & LIGHTER:
        found += [Change(weight_bits=bits) for bits in (4, 2)]
    if any(isinstance(op, ops.MaxPool2d) for op in net.ops):
        found.append(Change(sum_pools=True))
    return found


def _widest(change: Change, tried: Callable[[Change], Remedy | None]) -> Remedy | None:
    """Return the widest network that fits, by bisection: a narrower one never needs more."""
    if not (best := tried(replace(change, width=1))):
        return None
    low, high = 1, WIDTHS
    while high - low > 1:
        middle = (low + high) // 2
        remedy = tried(replace(change, width=middle))
        low, high, best = (middle, high, remedy) if remedy else (low, middle, best)
    return best


def _shrunk(net: IntegerNetwork, change: Change, tried: Callable[[Change], Remedy | None]) -> Remedy | None:
    if len(net.input.shape) != 3:
        return None
    for shrink in (2, 4, 8):
        if shrink <= min(net.input.shape[1:]) and (remedy := tried(replace(change, shrink=shrink))):
            return remedy
    return None
