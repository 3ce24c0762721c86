"""The parts of a trainable network. Each is one node of a `SpikingNetwork`, and each folds to one op.

Axis letters: B batch, I input channels, O output channels, C channels, H height, W width. Between parts flow integers
held in floating point: input codes minus the zero point, levels, and accumulators. Scales live in the normalization.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.integer.geometry import FLOAT32_EXACT, FLOAT64_EXACT
from maqd_snn.normalization import BatchNorm, FoldableNorm, GroupNorm, LayerBatchNorm
from maqd_snn.rounding import round_clip_codes
from maqd_snn.spike import check_activation_states, normalize, normalize_and_level, spike
from maqd_snn.surrogate import Surrogate, as_surrogate
from maqd_snn.weights import (
    STEP_SHARED_BY,
    check_weight_states,
    default_weight_step,
    largest_weight_code,
    scale_weights,
    standardize,
    weight_codes,
)

MAX_WEIGHTS = 2**31  # of one layer

Pair = tuple[int, int]


def pair(value: int | Pair, what: str, least: int) -> Pair:
    """Return (height, width) of a size given as one or two whole numbers; each must be at least `least`."""
    sizes = (value, value) if isinstance(value, int) else tuple(value)
    if len(sizes) != 2 or not all(isinstance(size, int) and size >= least for size in sizes):
        raise MaqdError(f"{what} must be one or two whole numbers of at least {least}, got {value!r}")
    return sizes[0], sizes[1]


class Part(nn.Module, ABC):
    """One node of a `SpikingNetwork`.

    `plan` is called once by the network, in topological order, with the worst-case magnitudes of the inputs; it returns
    that of the output. None stands for a part that is not integer valued (the float twin). `wide` says that the worst
    case reaches 2^24, so that eval mode computes this part in float64.
    """

    wide = False

    @abstractmethod
    def plan(self, *bounds: int | None) -> int | None:
        """Return the largest magnitude that the output can take, given those of the inputs."""

    @abstractmethod
    def forward(self, *values: Tensor) -> Tensor:
        """Return the output of the part."""


class QuantizedProduct(Part):
    """A product with standardized, quantized weights; the base of `Conv2d` and `Linear`.

    With states None the weights are the standardized floats (the float twin). In eval mode the product runs in float32
    where the worst case of sum|w| * max|input| stays below 2^24, and in float64 otherwise, so that it is exact.

    Args:
        states: number of weight states, 2..255, or None.
        step: distance of neighbouring codes in units of the standardized weight; None takes the one of least squared
            error for a unit normal.
        learned_step: `layer` or `channel` (each output channel): the step is learned from there on, see
            `weights.scale_weights`; `log_scale` is then the logarithm of `step` over it. None keeps it.
        zero_sum: the codes of each output channel sum to zero, see `weights.balanced`.

    Raises:
        MaqdError: states outside 2..255, or a worst case of 2^53 and above.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        states: int | None,
        step: float | None,
        learned_step: str | None = None,
        zero_sum: bool = False,
    ) -> None:
        super().__init__()
        if math.prod(shape) > MAX_WEIGHTS:
            raise MaqdError(f"a layer of weights {shape} has more than 2^31 of them; make it narrower")
        self.states = None if states is None else check_weight_states(states)
        self.zero_sum = zero_sum
        if states is None:
            self.step: float | None = None
        else:
            self.step = default_weight_step(states) if step is None else step
        self.weight = nn.Parameter(torch.empty(shape))
        nn.init.kaiming_normal_(self.weight)
        if learned_step not in (None, *STEP_SHARED_BY):
            raise MaqdError(f"learned_step is one of {', '.join(STEP_SHARED_BY)}, or None, got {learned_step!r}")
        self.log_scale: nn.Parameter | None = None
        if learned_step is not None and states is not None:
            self.log_scale = nn.Parameter(torch.zeros(shape[0] if learned_step == "channel" else 1))

    @property
    def fan_in(self) -> int:
        """Weights per output channel."""
        return math.prod(self.weight.shape[1:])

    def plan(self, *bounds: int | None) -> int | None:
        (bound,) = bounds
        if self.states is None or bound is None:
            return None
        worst = self.fan_in * largest_weight_code(self.states) * bound
        if worst >= FLOAT64_EXACT:
            raise MaqdError(f"the products of this layer can reach {worst}, above 2^53; use fewer states or inputs")
        self.wide = worst >= FLOAT32_EXACT
        return worst

    def scaled(self) -> Tensor:
        """Return what is rounded with `step`: the standardized weights, over the learned part of their step."""
        v = standardize(self.weight)
        return v if self.log_scale is None else scale_weights(v, self.log_scale)

    def codes(self) -> Tensor:
        """Return the integer weight codes (for states None: the standardized weights), in the shape of the weight."""
        v = self.scaled()
        return v if self.states is None else weight_codes(v, self.states, self.step, self.zero_sum)

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and the weight codes in the precision of the product."""
        dtype = torch.float64 if self.wide and not self.training else torch.float32
        return x.to(dtype), self.codes().to(dtype)


class Conv2d(QuantizedProduct):
    """z = sum over taps of q * x, with zero padding: (B, I, H, W) -> (B, O, H', W').

    Args:
        in_channels, out_channels: I and O, multiples of `groups`.
        kernel, stride, padding, dilation: one whole number or (height, width).
        groups: channel groups.
        states, step, learned_step, zero_sum: see `QuantizedProduct`.

    >>> layer = Conv2d(3, 8, kernel=3, padding=1, states=3).eval()
    >>> z = layer(torch.randint(-128, 128, (2, 3, 8, 8)).float())
    >>> z.shape, bool((z == z.round()).all())
    (torch.Size([2, 8, 8, 8]), True)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        states: int | None = 3,
        step: float | None = None,
        learned_step: str | None = None,
        zero_sum: bool = False,
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise MaqdError(
                f"groups must divide the channels, got {groups} groups for {in_channels} -> {out_channels} channels"
            )
        size = pair(kernel, "kernel", 1)
        super().__init__((out_channels, in_channels // groups, *size), states, step, learned_step, zero_sum)
        self.stride = pair(stride, "stride", 1)
        self.padding = pair(padding, "padding", 0)
        self.dilation = pair(dilation, "dilation", 1)
        self.groups = groups

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, stride={self.stride}, padding={self.padding}, states={self.states}"

    def forward(self, *values: Tensor) -> Tensor:
        x, q = self.operands(*values)
        return F.conv2d(x, q, None, self.stride, self.padding, self.dilation, self.groups)


class Linear(QuantizedProduct):
    """z = q x: (B, I) -> (B, O).

    >>> Linear(4, 2, states=2).eval()(torch.ones(1, 4)).shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        states: int | None = 3,
        step: float | None = None,
        learned_step: str | None = None,
        zero_sum: bool = False,
    ) -> None:
        super().__init__((outputs, inputs), states, step, learned_step, zero_sum)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, states={self.states}"

    def forward(self, *values: Tensor) -> Tensor:
        x, q = self.operands(*values)
        return F.linear(x, q)


class NormSpike(Part):
    """Normalize the accumulator and emit its level: k = clip(floor(n*(a*z + b) + 1/2), low, n), n = states - 1.

    With states None it is the float twin's max(0, a*z + b).

    Args:
        norm: the normalization; its gain and bias are per channel.
        states: activation states M >= 2, or None.
        signed: levels -n..n instead of 0..n.
        surrogate: a name of `SURROGATES`, a `Surrogate`, or a callable of snnTorch or SpikingJelly.
    """

    def __init__(
        self,
        norm: FoldableNorm | GroupNorm,
        states: int | None,
        signed: bool = False,
        surrogate: str | Surrogate = "rectangle",
    ) -> None:
        super().__init__()
        self.norm = norm
        self.states = None if states is None else check_activation_states(states)
        self.signed = signed
        self.surrogate = as_surrogate(surrogate)

    @property
    def n(self) -> int:
        """Number of positive levels."""
        if self.states is None:
            raise MaqdError("a float activation has no levels; build the network with act_states >= 2")
        return self.states - 1

    @property
    def low(self) -> int:
        """Smallest level."""
        return -self.n if self.signed else 0

    def plan(self, *bounds: int | None) -> int | None:
        return None if self.states is None else self.n

    def extra_repr(self) -> str:
        return f"states={self.states}, signed={self.signed}, surrogate={self.surrogate}"

    def forward(self, *values: Tensor) -> Tensor:
        (z,) = values
        a, b = self.norm.coefficients(z)
        if self.states is None:
            return torch.relu(normalize(z, a, b))
        if self.training:
            return spike(normalize(z, a, b), self.low, self.n, self.surrogate)
        return normalize_and_level(z, a, b, self.low, self.n)


class Pool2d(Part):
    """Windows of `kernel`, moved by `stride` (None: the kernel), over an input padded by at most half the kernel."""

    def __init__(self, kernel: int | Pair, stride: int | Pair | None = None, padding: int | Pair = 0) -> None:
        super().__init__()
        self.kernel = pair(kernel, "kernel", 1)
        self.stride = self.kernel if stride is None else pair(stride, "stride", 1)
        self.padding = pair(padding, "padding", 0)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise MaqdError(f"padding must be at most half the kernel, got padding {padding} for kernel {kernel}")

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}, padding={self.padding}"


class MaxPool2d(Pool2d):
    """Maximum over windows; padding is minus infinity and never wins."""

    def plan(self, *bounds: int | None) -> int | None:
        return bounds[0]

    def forward(self, *values: Tensor) -> Tensor:
        return F.max_pool2d(values[0], self.kernel, self.stride, self.padding)


class SumPool2d(Pool2d):
    """Sum over windows, zero padding. The division of an average folds into what follows."""

    def plan(self, *bounds: int | None) -> int | None:
        if bounds[0] is None:
            return None
        worst = bounds[0] * math.prod(self.kernel)
        self.wide = worst >= FLOAT32_EXACT
        return worst

    def forward(self, *values: Tensor) -> Tensor:
        x = values[0].double() if self.wide and not self.training else values[0]
        return F.avg_pool2d(x, self.kernel, self.stride, self.padding, divisor_override=1)


class Add(Part):
    """The residual sum of accumulators."""

    def plan(self, *bounds: int | None) -> int | None:
        total = 0
        for bound in bounds:
            if bound is None:
                return None
            total += bound
        self.wide = total >= FLOAT32_EXACT
        return total

    def forward(self, *values: Tensor) -> Tensor:
        total = values[0].double() if self.wide and not self.training else values[0]
        for value in values[1:]:
            total = total + value
        return total


class Flatten(Part):
    """(B, C, H, W) -> (B, C*H*W)."""

    def plan(self, *bounds: int | None) -> int | None:
        return bounds[0]

    def forward(self, *values: Tensor) -> Tensor:
        return values[0].flatten(1)


class Readout(Part):
    """Class scores. Training: logits g*(z + r) with one g = exp(log_g) > 0. Eval: the integer scores z + r, exactly.

    r = floor(bias/g0 + 1/2), straight through, with g0 the initial g, so that `bias` is learned in units of logits.
    In the float twin (quantized False) r is not rounded.

    Args:
        classes: number of classes.
        scale: g0, the initial g; about 1 / (standard deviation of z), > 0.
        quantized: round r to integers.
    """

    # No class needs a larger head start than this many initial logit deviations.
    LARGEST_BIAS = 2**15

    unit: Tensor

    def __init__(self, classes: int, scale: float, quantized: bool = True) -> None:
        super().__init__()
        if not (math.isfinite(scale) and scale > 0):
            raise MaqdError(f"the readout's initial scale must be a finite number above 0, got {scale}")
        self.quantized = quantized
        self.bias = nn.Parameter(torch.zeros(classes))
        self.log_g = nn.Parameter(torch.tensor(math.log(scale)))
        self.register_buffer("unit", torch.tensor(scale))

    def largest_code(self) -> int:
        """Return the largest magnitude of r."""
        return math.ceil(self.LARGEST_BIAS / float(self.unit))

    def plan(self, *bounds: int | None) -> int | None:
        return None if bounds[0] is None else bounds[0] + self.largest_code()

    def codes(self) -> Tensor:
        """Return the class bias r, (classes,)."""
        if not self.quantized:
            return self.bias / self.unit
        limit = self.largest_code()
        return round_clip_codes(self.bias, float(self.unit), -limit, limit)

    def forward(self, *values: Tensor) -> Tensor:
        z = values[0]
        if self.quantized and not self.training:
            return z.double() + self.codes().double()
        return self.log_g.exp() * (z + self.codes())

    def logits(self, scores: Tensor) -> Tensor:
        """Return the logits g*(z + r) for what eval mode returned: the integer scores, or the float twin's logits."""
        return self.log_g.exp() * scores if self.quantized else scores


NORMALIZATIONS: Mapping[str, Callable[[int], FoldableNorm | GroupNorm]] = MappingProxyType(
    {
        "lbn": LayerBatchNorm,
        "lbn-sample": partial(LayerBatchNorm, reading="sample"),
        "lbn-channel-mean": partial(LayerBatchNorm, reading="channel-mean"),
        "batchnorm": BatchNorm,
        "groupnorm": GroupNorm,
    }
)


def make_norm(name: str, channels: int) -> FoldableNorm | GroupNorm:
    """Return the normalization `name`, one of `NORMALIZATIONS`, for this many channels."""
    if name not in NORMALIZATIONS:
        raise unknown_name("normalization", name, NORMALIZATIONS)
    return NORMALIZATIONS[name](channels)
