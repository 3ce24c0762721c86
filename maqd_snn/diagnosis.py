"""Where a trained network loses accuracy, and what its layers do: groups switched to float, levels, errors, gradients.

Axis letters: B batch, C channels, H height, W width, N images.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.graph import Node, SpikingNetwork
from maqd_snn.layers import Conv2d, NormSpike, Part, QuantizedProduct
from maqd_snn.normalization import FoldableNorm
from maqd_snn.spike import normalize

Batches = Iterable[tuple[Tensor, Tensor]]

EXPECTED_CHANGE = 0.02  # of the loss, that the gradient promises for the longest step along it


class FloatProduct(Part):
    """A product with the weights that rounding was given, v/s in place of the codes q: the scale of z stays."""

    def __init__(self, product: QuantizedProduct) -> None:
        super().__init__()
        self.product = product

    def plan(self, *bounds: int | None) -> int | None:
        return None

    def forward(self, *values: Tensor) -> Tensor:
        product, x = self.product, values[0].float()
        weight = product.scaled() / (product.step or 1.0)
        if isinstance(product, Conv2d):
            return F.conv2d(x, weight, None, product.stride, product.padding, product.dilation, product.groups)
        return F.linear(x, weight)


class FloatSpike(Part):
    """The ramp clip(n*(a*z + b), low, n) in place of the staircase of levels: rounding alone is taken away."""

    def __init__(self, spike: NormSpike) -> None:
        super().__init__()
        self.spike = spike

    def plan(self, *bounds: int | None) -> int | None:
        return None

    def forward(self, *values: Tensor) -> Tensor:
        part = self.spike
        a, b = part.norm.coefficients(values[0])
        return (normalize(values[0], a, b) * part.n).clamp(part.low, part.n)


def _products(model: SpikingNetwork) -> list[str]:
    return [name for name in model.names if isinstance(model.part(name), QuantizedProduct)]


GROUPS: Mapping[str, Callable[[SpikingNetwork], list[str]]] = MappingProxyType(
    {
        "weights": lambda model: _products(model)[1:-1],
        "activations": lambda model: model.spiking_names(),
        "first": lambda model: _products(model)[:1],
        "last": lambda model: _products(model)[1:][-1:],
    }
)


def members(model: SpikingNetwork, group: str) -> list[str]:
    """Return the quantized parts of a group: `weights` (of hidden layers), `activations`, `first` or `last` (weights).

    >>> from maqd_snn import build
    >>> model = build("mlp", input_shape=(1, 2, 2), classes=3, plan="4-5")
    >>> [members(model, group) for group in GROUPS]
    [['fc2'], ['spike1', 'spike2'], ['fc1'], ['classifier']]
    """
    if group not in GROUPS:
        raise unknown_name("group of parts", group, GROUPS)
    return [name for name in GROUPS[group](model) if _quantized(model.part(name))]


def _quantized(part: Part) -> bool:
    return isinstance(part, NormSpike | QuantizedProduct) and part.states is not None


def switched(model: SpikingNetwork, names: Iterable[str]) -> SpikingNetwork:
    """Return a copy of the network whose parts of these names compute in float, see `FloatProduct`, `FloatSpike`.

    The normalizations keep their running statistics, which are those of the quantized network; see `recalibrate`.

    Raises:
        MaqdError: a name that is no quantized product or spike of the network.
    """
    chosen, mine = set(names), copy.deepcopy(model)
    for name in chosen:
        if name not in mine.names or not _quantized(mine.part(name)):
            raise MaqdError(f"{name!r} is no quantized part of this network; it has {', '.join(mine.names)}")
    nodes = []
    for name in mine.names:
        part = mine.part(name)
        if name in chosen:
            part = FloatSpike(part) if isinstance(part, NormSpike) else FloatProduct(part)  # type: ignore[arg-type]
        nodes.append(Node(name, part, mine.inputs_of[name]))
    return SpikingNetwork(mine.input_spec, nodes).eval()


@torch.no_grad()
def recalibrate(model: SpikingNetwork, batches: Batches) -> SpikingNetwork:
    """Take the running statistics of every normalization anew, as means over the batches, and return the model."""
    norms = [module for module in model.modules() if isinstance(module, FoldableNorm)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.samples.zero_()
        norm.momentum = 1e-12  # below the share of a batch in all samples so far: a plain mean
    model.train()
    for codes, _ in batches:
        model(codes)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    return model.eval()


@torch.no_grad()
def accuracy(model: SpikingNetwork, batches: Batches) -> float:
    """Return the share of images that the network, in eval mode, classifies right."""
    right = total = 0
    for codes, labels in batches:
        right += int((model(codes).argmax(1) == labels).sum())
        total += len(labels)
    return right / total


@dataclass(frozen=True)
class Switch:
    """Groups in float, and the accuracy of the network that has them so."""

    groups: tuple[str, ...]
    accuracy: float


def switches(model: SpikingNetwork, calibration: Batches, test: Batches, order: Sequence[str] = ()) -> list[Switch]:
    """Return the accuracy of the network as it is, with each group alone in float, and with groups added up in `order`.

    Every variant, the first included, takes its normalization statistics anew from `calibration`. What a switch shows
    is what rounding costs the network as it was trained; another training might have cost less.

    Args:
        calibration, test: batches that can be gone through again and again (a list).
        order: in which groups are added up; by default as in `GROUPS`.
    """
    names = {group: members(model, group) for group in (order or GROUPS)}
    present = [group for group in names if names[group]]
    chosen = [(), *((group,) for group in present), *(tuple(present[:count]) for count in range(2, len(present) + 1))]

    def measure(groups: tuple[str, ...]) -> Switch:
        variant = switched(model, [name for group in groups for name in names[group]])
        return Switch(groups, accuracy(recalibrate(variant, calibration), test))

    return [measure(groups) for groups in chosen]


@dataclass(frozen=True)
class Levels:
    """What the neurons of one spiking layer emitted: how often each level, and which channels carry nothing.

    `counts[i]` is the number of neurons at level `low + i`. A channel is dead where it never fires, saturated where it
    is always at the highest level, on all positions of all images.
    """

    name: str
    low: int
    counts: tuple[int, ...]
    channels: int
    dead: int
    saturated: int

    @property
    def rate(self) -> float:
        """Share of neurons that fire."""
        return 1 - self.counts[-self.low] / max(sum(self.counts), 1)


@torch.no_grad()
def levels(model: SpikingNetwork, batches: Batches) -> list[Levels]:
    """Return what every quantized spiking layer of the network, in eval mode, emits for the batches."""
    parts = {name: model.part(name) for name in model.spiking_names() if _quantized(model.part(name))}
    counts: dict[str, Tensor] = {}

    def watch(name: str, output: Tensor) -> None:
        part = parts.get(name)
        if not isinstance(part, NormSpike):
            return
        states = part.n - part.low + 1
        by_channel = output.transpose(0, 1).flatten(1).long() - part.low  # (C, positions of all images)
        offset = torch.arange(len(by_channel)).unsqueeze(1) * states
        found = torch.bincount((by_channel + offset).flatten(), minlength=len(by_channel) * states)
        counts[name] = counts.get(name, 0) + found.view(-1, states)

    for codes, _ in batches:
        model(codes, watch)
    return [_levels(name, parts[name], of) for name, of in counts.items()]


def _levels(name: str, part: Part, counts: Tensor) -> Levels:
    assert isinstance(part, NormSpike)
    total = counts.sum(1)
    dead = int((counts[:, -part.low] == total).sum())
    saturated = int((counts[:, -1] == total).sum())
    return Levels(name, part.low, tuple(counts.sum(0).tolist()), len(counts), dead, saturated)


@dataclass(frozen=True)
class QuantizationError:
    """Mean squared error of rounding and clipping, over the mean square of what was rounded.

    For weights that is the standardized weight v, over what is learned of its step, against s*q. For activations it is
    max(0, y), with y = n*(a*z + b) (y itself where levels are signed), against the level k; `clipped` is the part of
    the error where y lies above n.
    """

    name: str
    kind: str
    error: float
    clipped: float


@torch.no_grad()
def quantization_errors(model: SpikingNetwork, batches: Batches) -> list[QuantizationError]:
    """Return the error of every quantized part in the order of the network, activations measured on the batches."""
    sums: dict[str, Tensor] = {}
    inputs = {model.inputs_of[name][0]: name for name in model.spiking_names() if _quantized(model.part(name))}

    def watch(name: str, output: Tensor) -> None:
        part = model.part(inputs[name]) if name in inputs else None
        if isinstance(part, NormSpike):
            y = normalize(output, *part.norm.coefficients(output)).double() * part.n
            target = y if part.signed else y.clamp_min(0)
            error = (target - (y + 0.5).floor().clamp(part.low, part.n)).square()
            outside = target.abs() > part.n
            of = torch.stack([error.sum(), error[outside].sum(), target.square().sum()])
            sums[inputs[name]] = sums.get(inputs[name], 0) + of

    for codes, _ in batches:
        model(codes, watch)
    found = []
    for name in model.names:
        part = model.part(name)
        if isinstance(part, QuantizedProduct) and part.states is not None and part.step is not None:
            v = part.scaled().double()
            q = part.codes().double()
            top = part.step * float(q.abs().max())
            error = (v - part.step * q).square()
            total = float(v.square().sum()) or 1.0
            clipped = float(error[v.abs() > top].sum()) / total
            found.append(QuantizationError(name, "weights", float(error.sum()) / total, clipped))
        elif name in sums:
            error, clipped, total = sums[name].tolist()
            found.append(QuantizationError(name, "activations", error / (total or 1.0), clipped / (total or 1.0)))
    return found


@dataclass(frozen=True)
class GradientAgreement:
    """How a surrogate gradient g agrees with finite differences of the loss, for one parameter of one layer.

    `slope` is (L(p + e u) - L(p - e u)) / (2 e |g|) with u = g/|g| and a small e: what the loss does along the gradient
    over what the gradient says; 1 where it is right, 0 where following it gains nothing. `correlation` is that of
    <g, d> with L(p + e d) - L(p - e d) over random directions d: an estimate of the cosine between g and the gradient
    of the loss, smoothed over steps of this size.
    """

    name: str
    parameter: str
    slope: float
    correlation: float


def check_directions(directions: int) -> None:
    """Raise MaqdError for fewer random directions than a correlation can be taken of."""
    if directions < 3:
        raise MaqdError(f"at least 3 directions are needed, got {directions}")


def gradient_agreement(
    model: SpikingNetwork,
    codes: Tensor,
    labels: Tensor,
    directions: int = 24,
    size: float = 0.05,
    generator: Generator | None = None,
) -> list[GradientAgreement]:
    """Return the agreement of every layer's weights, and of every spiking layer's biases (its thresholds).

    The loss is the mean cross-entropy over the images in training mode, a piecewise constant function that many images
    and neurons make smooth: its differences over small steps are those of the expected loss. 2 + 2*directions forward
    passes a layer.

    Args:
        codes, labels: the images, all in one batch. directions: random ones, at least 3.
        size: root mean square of a step, in deviations of the layer's weights, or in units of the normalized membrane;
            along the gradient steps are shorter where it promises a change of the loss above 0.02.

    Raises:
        MaqdError: fewer than 3 directions, a size that is not above 0.
    """
    check_directions(directions)
    if not size > 0:
        raise MaqdError(f"the size of a step must be above 0, got {size}")
    mine = copy.deepcopy(model).train()

    def loss() -> Tensor:
        return F.cross_entropy(mine(codes), labels)

    loss().backward()  # type: ignore[no-untyped-call]
    found = []
    for name in mine.names:
        part = mine.part(name)
        if isinstance(part, NormSpike):
            found.append(_agreement(loss, name, "bias", part.norm.bias, directions, size, generator))
        elif isinstance(part, QuantizedProduct):
            unit = size * float(part.weight.detach().std())
            found.append(_agreement(loss, name, "weight", part.weight, directions, unit, generator))
    return found


@torch.no_grad()
def _agreement(
    loss: Callable[[], Tensor],
    name: str,
    kind: str,
    parameter: Tensor,
    directions: int,
    size: float,
    generator: Generator | None,
) -> GradientAgreement:
    gradient, start = parameter.grad, parameter.clone()
    if gradient is None or not bool(gradient.any()):
        return GradientAgreement(name, kind, 0.0, 0.0)

    def difference(step: Tensor) -> float:
        ends = []
        for sign in (1, -1):
            parameter.copy_(start + sign * step)
            ends.append(float(loss()))
        parameter.copy_(start)
        return ends[0] - ends[1]

    norm = float(gradient.norm())
    along = gradient / norm * min(size * gradient.numel() ** 0.5, EXPECTED_CHANGE / norm)
    said = 2 * float((gradient * along).sum())
    slope = difference(along) / said
    pairs = []
    for _ in range(directions):
        step = torch.randn(parameter.shape, generator=generator) * size
        pairs.append([float((gradient * step).sum()), difference(step)])
    return GradientAgreement(name, kind, slope, _correlation(torch.tensor(pairs, dtype=torch.float64)))


def _correlation(pairs: Tensor) -> float:
    """Return <a, b>/(|a| |b|) of the columns: directions come in both signs, so their means are zero."""
    first, second = pairs.unbind(1)
    scale = float(first.norm() * second.norm())
    return float(first @ second) / scale if scale else 0.0
