"""Model families: `mlp`, `vgg` and pre-activation `resnet`, each a graph of parts.

Axis letters: C channels, H height, W width.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import nn

from maqd_snn import layers
from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.graph import INPUT, InputSpec, Node, SpikingNetwork
from maqd_snn.integer.geometry import output_size
from maqd_snn.layers import Part
from maqd_snn.spike import check_activation_states, least_squares_gain
from maqd_snn.surrogate import Surrogate, as_surrogate, widened
from maqd_snn.weights import STEP_SHARED_BY, check_weight_states, default_weight_step


@dataclass(frozen=True)
class Quantization:
    """The states, normalization and surrogate that all layers of a model share.

    `edge_states` are the weight states of the first and last layer; `pool_first` pools accumulators before the norm.
    `gain` is where every gain of the normalizations starts, None the one of least squared error (`least_squares_gain`);
    `bias` is where every bias of them starts. `weight_step`, `learned_step`, `zero_sum` are those of the hidden layers.
    """

    act_states: int | None = 2
    weight_states: int | None = 3
    edge_states: int | None = 255
    signed: bool = False
    norm: str = "lbn"
    surrogate: str | Surrogate = "rectangle"
    surrogate_width: float = 1.0
    gain: float | None = 1.0
    bias: float = 0.0
    weight_step: float | None = None
    learned_step: str | None = None
    zero_sum: bool = False
    pool_first: bool = False

    def __post_init__(self) -> None:
        if self.act_states is not None:
            check_activation_states(self.act_states)
        for states in (self.weight_states, self.edge_states):
            if states is not None:
                check_weight_states(states)
        if self.weight_step is not None and not 0 < self.weight_step < math.inf:
            raise MaqdError(f"weight_step must be above 0 and finite, got {self.weight_step}")
        if self.learned_step not in (None, *STEP_SHARED_BY):
            raise MaqdError(f"learned_step is one of {', '.join(STEP_SHARED_BY)}, or none, got {self.learned_step!r}")
        if self.norm not in layers.NORMALIZATIONS:
            raise unknown_name("normalization", self.norm, layers.NORMALIZATIONS)
        if self.gain is not None and not 0 < self.gain < math.inf:
            raise MaqdError(f"gain must be above 0 and finite, or none for the one of least error, got {self.gain}")
        if not math.isfinite(self.bias):
            raise MaqdError(f"bias must be a finite number, got {self.bias}")
        self.shape()

    def shape(self) -> Surrogate:
        """Return the surrogate in its width."""
        return widened(as_surrogate(self.surrogate), self.surrogate_width)

    @property
    def first_gain(self) -> float:
        """Where the gains of the normalizations start; in the float twin at 1, since no level waits for them."""
        if self.act_states is None:
            return 1.0
        return least_squares_gain(self.act_states - 1) if self.gain is None else self.gain

    @property
    def first_bias(self) -> float:
        """Where the biases of the normalizations start; in the float twin at 0, for the same reason."""
        return 0.0 if self.act_states is None else self.bias

    @property
    def rounding(self) -> dict[str, Any]:
        """The options of a hidden product about the rounding of its weights."""
        return {"step": self.weight_step, "learned_step": self.learned_step, "zero_sum": self.zero_sum}

    @property
    def edge(self) -> int | None:
        """Weight states of the first and last layer: in the float twin they are float, too."""
        return None if self.weight_states is None else self.edge_states


class _Builder:
    """Collects nodes; `head` is the node whose output comes next, `shape` its shape without the batch axis."""

    def __init__(self, spec: InputSpec, q: Quantization) -> None:
        self.spec, self.q = spec, q
        self.nodes: list[Node] = []
        self.head = INPUT
        self.shape: tuple[int, ...] = spec.shape

    def add(self, name: str, part: Part, *inputs: str) -> str:
        self.nodes.append(Node(name, part, inputs or (self.head,)))
        self.head = name
        return name

    def conv(self, name: str, channels: int, kernel: int, stride: int = 1, edge: bool = False, source: str = "") -> str:
        states = self.q.edge if edge else self.q.weight_states
        rounding: dict[str, Any] = {} if edge else self.q.rounding
        in_channels, height, width = self.shape
        padding = (kernel - 1) // 2
        part = layers.Conv2d(in_channels, channels, kernel, stride, padding, states=states, **rounding)
        pairs = (kernel, kernel), (stride, stride), (padding, padding)
        self.shape = (channels, *output_size((height, width), *pairs))
        return self.add(name, part, *((source,) if source else ()))

    def spike(self, name: str) -> str:
        norm = layers.make_norm(self.q.norm, self.shape[0])
        nn.init.constant_(norm.gain, self.q.first_gain)
        nn.init.constant_(norm.bias, self.q.first_bias)
        return self.add(name, layers.NormSpike(norm, self.q.act_states, self.q.signed, self.q.shape()))

    def pool(self, name: str, kind: type[layers.Pool2d], size: tuple[int, int]) -> str:
        if any(n < k for n, k in zip(self.shape[1:], size, strict=True)):
            raise MaqdError(f"{name} pools windows of {size}, but its input is only {self.shape[1:]}; use fewer pools")
        self.shape = (self.shape[0], *output_size((self.shape[1], self.shape[2]), size, size, (0, 0)))
        return self.add(name, kind(size))

    def flatten(self) -> str:
        self.shape = (math.prod(self.shape),)
        return self.add("flatten", layers.Flatten())

    def classifier(self, classes: int, pooled: int = 1) -> SpikingNetwork:
        """Add the last product and the readout. `pooled` is the number of levels summed into each of its inputs."""
        inputs, states = self.shape[0], self.q.edge
        self.add("classifier", layers.Linear(inputs, classes, states))
        # With weights of deviation 1/step and levels around n/2 the logits start at a deviation of about one.
        weight_scale = 1.0 if states is None else 1 / default_weight_step(states)
        level_scale = 1.0 if self.q.act_states is None else (self.q.act_states - 1) / 2
        scale = 1 / (weight_scale * level_scale * pooled * math.sqrt(inputs))
        self.add("readout", layers.Readout(classes, scale, quantized=states is not None))
        return SpikingNetwork(self.spec, self.nodes)


class Family(Protocol):
    """A model family: (input, classes, quantization, plan) -> network; plan None takes the family's default."""

    def __call__(self, spec: InputSpec, classes: int, q: Quantization, plan: str | None) -> SpikingNetwork: ...


def _widths(plan: str, letters: str, example: str) -> list[str]:
    steps = plan.split("-")
    for step in steps:
        if not (re.fullmatch(r"[1-9]\d{0,5}", step) or (step and step in letters)):
            raise MaqdError(
                f"plan {plan!r} has the step {step!r}; expected layer widths joined by '-', as in {example!r}"
            )
    return steps


def mlp(spec: InputSpec, classes: int, q: Quantization, plan: str | None = None) -> SpikingNetwork:
    """Fully connected: one hidden layer per width of the plan, such as `256-256`."""
    builder = _Builder(spec, q)
    builder.flatten()
    for index, width in enumerate(_widths("256-256" if plan is None else plan, "", "256-256"), start=1):
        states = q.edge if index == 1 else q.weight_states
        rounding: dict[str, Any] = {} if index == 1 else q.rounding
        builder.add(f"fc{index}", layers.Linear(builder.shape[0], int(width), states, **rounding))
        builder.shape = (int(width),)
        builder.spike(f"spike{index}")
    return builder.classifier(classes)


def vgg(spec: InputSpec, classes: int, q: Quantization, plan: str | None = None) -> SpikingNetwork:
    """Convolutions 3x3 and 2x2 pools, such as `64-64-M-128-128-M`: M is a max-pool, S a sum-pool, of the levels.

    With `q.pool_first` a pool acts on the accumulators before the norm of its convolution instead.
    """
    builder = _Builder(spec, q)
    steps = _widths("64-64-M-128-128-M-256-256-M" if plan is None else plan, "MS", "64-64-M-128-128-M")
    if steps[0] in "MS":
        raise MaqdError(f"plan {plan!r} starts with a pool; start with a width, as in '64-64-M-128-128-M'")
    index = 0
    for position, step in enumerate(steps):
        if step in "MS":
            if not q.pool_first or steps[position - 1] in "MS":
                _pool(builder, index, step)
            continue
        index += 1
        builder.conv(f"conv{index}", int(step), kernel=3, edge=index == 1)
        following = steps[position + 1] if position + 1 < len(steps) else ""
        if q.pool_first and following and following in "MS":
            _pool(builder, index, following)
        builder.spike(f"spike{index}")
    builder.flatten()
    return builder.classifier(classes)


def _pool(builder: _Builder, index: int, letter: str) -> None:
    taken = sum(node.name.startswith(f"pool{index}") for node in builder.nodes)
    name = f"pool{index}" + (f"_{taken + 1}" if taken else "")
    builder.pool(name, layers.MaxPool2d if letter == "M" else layers.SumPool2d, (2, 2))


def resnet(spec: InputSpec, classes: int, q: Quantization, plan: str | None = None) -> SpikingNetwork:
    """Pre-activation residual network of the widths of the plan, such as `16-16-16-32-32-32-64-64-64` (ResNet-20).

    Each width is one block spike-conv-spike-conv; where it differs from the one before, the block halves the image.
    The residual stream is a sum of integer accumulators and starts behind the first spike; where a block's input is no
    accumulator of the stream's scale and shape (the first block, or a wider one), a 1x1 convolution of the block's
    first spike takes the place of the identity. It ends in a spike, a global sum-pool and the classifier.
    """
    builder = _Builder(spec, q)
    widths = [
        int(width) for width in _widths("16-16-16-32-32-32-64-64-64" if plan is None else plan, "", "16-16-32-32")
    ]
    builder.conv("stem", widths[0], kernel=3, edge=True)
    stream: str | None = None  # the accumulator that carries the residual sum; none behind the stem
    builder.spike("block1_spike1")
    for index, width in enumerate(widths, start=1):
        name = f"block{index}"
        if index > 1:
            builder.head = stream or builder.head
            builder.spike(f"{name}_spike1")
        first_spike, shape = builder.head, builder.shape
        stride = 1 if index == 1 or width == widths[index - 2] else 2
        builder.conv(f"{name}_conv1", width, kernel=3, stride=stride)
        builder.spike(f"{name}_spike2")
        builder.conv(f"{name}_conv2", width, kernel=3)
        branch, shape_out = builder.head, builder.shape
        if stream is None or stride != 1:
            builder.shape = shape
            stream = builder.conv(f"{name}_shortcut", width, kernel=1, stride=stride, source=first_spike)
            builder.shape = shape_out
        stream = builder.add(f"{name}_add", layers.Add(), stream, branch)
    builder.spike("final_spike")
    size = (builder.shape[1], builder.shape[2])
    builder.pool("global_pool", layers.SumPool2d, size)
    builder.flatten()
    return builder.classifier(classes, pooled=math.prod(size))


MODELS: Mapping[str, Family] = MappingProxyType({"mlp": mlp, "vgg": vgg, "resnet": resnet})


def build(
    model: str,
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    act_states: int | None = 2,
    weight_states: int | None = 3,
    edge_states: int | None = 255,
    plan: str | None = None,
    signed: bool = False,
    norm: str = "lbn",
    surrogate: str | Surrogate | Callable[[torch.Tensor], torch.Tensor] = "rectangle",
    surrogate_width: float = 1.0,
    gain: float | None = 1.0,
    bias: float = 0.0,
    weight_step: float | None = None,
    learned_step: str | None = None,
    zero_sum: bool = False,
    pool_first: bool = False,
    zero_point: int = 0,
    input_range: tuple[int, int] = (0, 255),
    input_kind: str = "analog",
) -> SpikingNetwork:
    """Return a network of the family `model`, one of `MODELS`.

    Args:
        input_shape: (C, H, W).
        classes: number of classes, at least 2.
        act_states: activation states M >= 2 (2 are binary spikes), or None for ReLU (the float twin).
        weight_states: weight states 2..255 of the hidden layers, or None for float weights.
        edge_states: weight states of the first and last layer; with weight_states None they are float too.
        plan: layer widths joined by '-', see the family; None takes its default.
        signed: signed levels -n..n.
        norm: lbn, lbn-sample, lbn-channel-mean or batchnorm; groupnorm for comparison, which does not fold.
        surrogate: a name of `SURROGATES`, a `Surrogate`, or a callable of snnTorch or SpikingJelly.
        surrogate_width: how many times as wide the surrogate is made, at the same area.
        gain: where the gains of the normalizations start; None takes the one at which the levels describe the positive
            half of a unit normal with least squared error.
        bias: where the biases of the normalizations start; level 1 is reached at 1/(2n), n = act_states - 1.
        weight_step: distance of neighbouring hidden weight codes; None takes the one of least squared error.
        learned_step: `layer` or `channel`: that distance is learned from there on, one for each of them; None keeps it.
        zero_sum: the hidden weight codes of each output channel sum to zero, see `weights.balanced`.
        pool_first: pool accumulators before the norm instead of levels after the spike.
        zero_point, input_range, input_kind: the input codes, see `InputSpec`.

    Raises:
        MaqdError: an unknown family, states below 2, an impossible plan; the message says what to do.

    >>> model = build("vgg", input_shape=(3, 8, 8), classes=10, plan="8-M-16-M")
    >>> model(torch.randint(0, 256, (2, 3, 8, 8))).shape
    torch.Size([2, 10])
    """
    if model not in MODELS:
        raise unknown_name("model", model, MODELS)
    if type(classes) is not int or classes < 2:
        raise MaqdError(f"a classifier needs a whole number of at least 2 classes, got {classes!r}")
    if plan is not None and not isinstance(plan, str):
        raise MaqdError(f"plan must be layer widths joined by '-', as in '64-64-M-128', got {plan!r}")
    q = Quantization(
        act_states=act_states,
        weight_states=weight_states,
        edge_states=edge_states,
        signed=signed,
        norm=norm,
        surrogate=as_surrogate(surrogate),
        surrogate_width=surrogate_width,
        gain=gain,
        bias=bias,
        weight_step=weight_step,
        learned_step=learned_step,
        zero_sum=zero_sum,
        pool_first=pool_first,
    )
    low, high = input_range
    spec = InputSpec(input_shape, zero_point, low, high, input_kind)
    network = MODELS[model](spec, classes, q, plan)
    for name in network.names:
        part = network.part(name)
        if isinstance(part, layers.QuantizedProduct) and part.fan_in < 2:
            raise MaqdError(f"{name}: a filter of one weight cannot be standardized; widen the layer before it")
    return network
