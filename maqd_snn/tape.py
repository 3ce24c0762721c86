"""The training step of a network, written out: forward, what is kept, backward.

Each part becomes a `Step` with a forward and a backward of its own, so that what the backward pass keeps is chosen here
and not by autograd: levels in bits, accumulators as int16 where their bound allows, pooling indices in bits, nothing
that is cheap to compute again. The plain forward of the parts is the definition; the steps equal it within float
rounding.

Axis letters: B batch, I input channels, O output channels, C channels, H height, W width. Value 0 is the input; value
i + 1 is the output of step i.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maqd_snn import layers
from maqd_snn.errors import MaqdError
from maqd_snn.graph import INPUT, SpikingNetwork, Watch
from maqd_snn.int8 import exact, int8_conv2d
from maqd_snn.integer.geometry import output_size, windows_meet_image
from maqd_snn.normalization import (
    READINGS,
    GroupNorm,
    Reading,
    SumOverProcesses,
    batch_coefficients,
    batch_statistics,
    by_channel,
    extent,
    per_position,
    statistic_axes,
)
from maqd_snn.packing import Span, keep, restore
from maqd_snn.penalty import Fee, taps
from maqd_snn.pieces import by_pieces
from maqd_snn.rounding import floor_clip
from maqd_snn.spike import level, normalize
from maqd_snn.surrogate import Rectangle, Surrogate, staircase_derivative
from maqd_snn.weights import (
    largest_weight_code,
    scale_weights,
    standardize,
    standardize_backward,
    weight_codes,
    weight_codes_backward,
)
from maqd_snn.winograd import Pair, pays, weight_gradient

Tensors = tuple[Tensor, ...]
Gradients = tuple[Tensor | None, ...]  # of the inputs of a step; None where nobody asks for it


@dataclass(frozen=True)
class Step(ABC):
    """One part of a training step.

    `inputs` are the values it takes. `parameters` are the places of its parameters in the network's list; in place of a
    weight the step is given the weight codes. `needs_inputs` says that the backward pass reads the inputs, and
    `takes_bytes` that it does not ask for floats: integers come as uint8 or int16 where they are kept so.
    """

    name: str
    inputs: tuple[int, ...]
    parameters: tuple[int, ...]
    needs_inputs = False
    takes_bytes = False

    @abstractmethod
    def forward(self, inputs: Sequence[Tensor], operands: Sequence[Tensor]) -> tuple[Tensor, Tensors]:
        """Return the output, and what the backward pass needs beside the inputs."""

    @abstractmethod
    def backward(
        self, grad: Tensor, inputs: Sequence[Tensor], extras: Tensors, operands: Sequence[Tensor]
    ) -> tuple[Gradients, Tensors]:
        """Return the gradients of the inputs and those of the operands."""


# An operator, since torch.compile leaves out a conversion to bfloat16 and back.
@torch.library.custom_op("maqd_snn::as_bfloat16", mutates_args=())
def as_bfloat16(x: Tensor) -> Tensor:
    """Return x rounded to bfloat16, in float32.

    >>> as_bfloat16(torch.tensor([256.0, 257.0, 259.0])).tolist()
    [256.0, 256.0, 260.0]
    """
    return x.to(torch.bfloat16).float()


@as_bfloat16.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=torch.float32)


@dataclass(frozen=True)
class Operands:
    """In which numbers products run: the type, and whether forward convolutions use 8 bits where that is exact.

    `rounded` is for devices that do not multiply bfloat16: with the type float32, what goes into a product and what
    comes out of it is rounded as it would be there. The sums are float32's in both cases.
    """

    dtype: torch.dtype = torch.float32
    int8: bool = False
    rounded: bool = False

    def take(self, x: Tensor) -> Tensor:
        """Return an operand of a product."""
        x = x.to(self.dtype)
        return as_bfloat16(x) if self.rounded else x

    def give(self, z: Tensor) -> Tensor:
        """Return the result of a product."""
        return as_bfloat16(z) if self.rounded else z

    @property
    def bfloat16(self) -> bool:
        """Whether results are numbers of bfloat16."""
        return self.rounded or self.dtype == torch.bfloat16


@dataclass(frozen=True)
class Stage:
    """What of a quantized network a step leaves in float.

    Attributes:
        float_acts: the ramp clip(n*y, low, n) in place of the levels. float_weights: v/s in place of the codes.
        Rounding alone is left out, and the clipping of weights, so that sums stay on their scale.
        states: with `float_acts`, the ramp is rounded after all, to the levels of so many activation states.
    """

    float_acts: bool = False
    float_weights: bool = False
    states: int | None = None


QUANTIZED = Stage()


@dataclass(frozen=True)
class Product(Step):
    """A product of the input x and weight codes q, with these `numbers`."""

    numbers: Operands = Operands()
    needs_inputs = True

    @abstractmethod
    def product(self, x: Tensor, q: Tensor) -> Tensor:
        """Return the product of operands of one type."""

    def sums(self, inputs: Sequence[Tensor], operands: Sequence[Tensor]) -> Tensor:
        """Return the sums in float32, not rounded to what `forward` gives; of integers they are exact below 2^24."""
        (x,), (q,) = inputs, operands
        return self.product(self.numbers.take(x).float(), self.numbers.take(q).float())


@dataclass(frozen=True)
class Convolution(Product):
    """z = sum over taps of q * x, with these `numbers`, or in 8 bits (forward only, exact).

    `winograd` lets a CPU compute the gradient of q with fewer multiplications.
    """

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    int8: bool = False
    kernel: Pair = (1, 1)
    winograd: bool = False
    takes_bytes = True

    def product(self, x: Tensor, q: Tensor) -> Tensor:
        q = q.contiguous(memory_format=torch.channels_last)
        z = F.conv2d(x, q, None, self.stride, self.padding, self.dilation, self.groups)
        # One channel is both layouts to F.conv2d, which then gives the other one: sums would be in another order.
        return z.contiguous(memory_format=torch.channels_last)

    def forward(self, inputs: Sequence[Tensor], operands: Sequence[Tensor]) -> tuple[Tensor, Tensors]:
        (x,), (q,) = inputs, operands
        if self.int8:
            levels = x.to(torch.uint8, memory_format=torch.channels_last)
            z: Tensor = int8_conv2d(levels, q, self.stride, self.padding, self.dilation, self.groups)
            return z, ()
        return self.numbers.give(self.product(self.numbers.take(x), self.numbers.take(q))), ()

    def backward(
        self, grad: Tensor, inputs: Sequence[Tensor], extras: Tensors, operands: Sequence[Tensor]
    ) -> tuple[Gradients, Tensors]:
        (x,), (q,) = inputs, operands
        take, give = self.numbers.take, self.numbers.give
        x = x if x.dtype == torch.uint8 else take(x)
        grad, q = take(grad), take(q).contiguous(memory_format=torch.channels_last)
        if self.winograd and grad.device.type == "cpu":
            of_q = weight_gradient(x, grad, self.padding)
            of_x = F.conv_transpose2d(grad, q, None, 1, self.padding) if self.inputs[0] != 0 else None
        else:
            wanted = (self.inputs[0] != 0, True, False)
            geometry = (self.stride, self.padding, self.dilation, False, (0, 0), self.groups)
            of_x, of_q, _ = torch.ops.aten.convolution_backward(grad, x.to(grad.dtype), q, None, *geometry, wanted)
        return (None if of_x is None else give(of_x),), (give(of_q).float(),)


@dataclass(frozen=True)
class MatrixProduct(Product):
    """z = q x, with these `numbers`."""

    def product(self, x: Tensor, q: Tensor) -> Tensor:
        return F.linear(x, q)

    def forward(self, inputs: Sequence[Tensor], operands: Sequence[Tensor]) -> tuple[Tensor, Tensors]:
        take, give = self.numbers.take, self.numbers.give
        return give(self.product(take(inputs[0]), take(operands[0]))), ()

    def backward(
        self, grad: Tensor, inputs: Sequence[Tensor], extras: Tensors, operands: Sequence[Tensor]
    ) -> tuple[Gradients, Tensors]:
        take, give = self.numbers.take, self.numbers.give
        grad = take(grad)
        of_x = give(grad @ take(operands[0])) if self.inputs[0] != 0 else None
        return (of_x,), (give(grad.t() @ take(inputs[0])).float(),)


@dataclass(frozen=True)
class NormAndSpike(Step):
    """k = clip(floor(n*(a*z + b) + 1/2), low, n) with the statistics of the batch; without levels max(0, a*z + b).

    With `ramp` nothing is rounded: clip(n*(a*z + b), low, n). Or, with `finer`, to other levels on the same scale:
    n/m * clip(floor(m*(a*z + b) + 1/2), m*low/n, m), m being `finer`.
    """

    reading: Reading = READINGS["layer"]
    eps: float = 1e-5
    low: int = 0
    n: int | None = 1
    surrogate: Surrogate = Rectangle()  # noqa: RUF009 - frozen
    sum_over_processes: SumOverProcesses | None = None
    ramp: bool = False
    finer: int | None = None
    needs_inputs = True
    takes_bytes = True

    def _level(self, x: Tensor) -> Tensor:
        if self.n is None:
            return torch.relu(x)
        if self.finer is not None:
            return level(x, self.low // self.n * self.finer, self.finer) * (self.n / self.finer)
        return (x * self.n).clamp(self.low, self.n) if self.ramp else level(x, self.low, self.n)

    def _slope(self, v: Tensor, n: int) -> Tensor:
        if self.finer is not None:
            return staircase_derivative(v * (self.finer / n), self.low // n * self.finer, self.finer, self.surrogate)
        if self.ramp:
            return ((v >= self.low) & (v <= n)).to(v.dtype)
        return staircase_derivative(v, self.low, n, self.surrogate)

    def forward(self, inputs: Sequence[Tensor], operands: Sequence[Tensor]) -> tuple[Tensor, Tensors]:
        (z,), (gain, bias) = inputs, operands
        of = batch_statistics(z, self.reading, self.name, self.sum_over_processes)
        a, b = batch_coefficients(of.mean, of.variance, gain, bias, self.eps)
        (k,) = by_pieces(self._fire, z, a, b)
        samples = (of.samples,) if isinstance(of.samples, Tensor) else ()
        return k, (of.first, of.second, of.mean, torch.rsqrt(of.variance + self.eps), a, b, *samples)

    def _fire(self, z: Tensor, a: Tensor, b: Tensor) -> Tensors:
        return (self._level(normalize(z, a, b)),)

    def backward(
        self, grad: Tensor, inputs: Sequence[Tensor], extras: Tensors, operands: Sequence[Tensor]
    ) -> tuple[Gradients, Tensors]:
        """Return dL/dz, and (dL/dgain, dL/dbias).

        With h = gain * dL/dy and y = gain*u + bias, u = (z - mean)/deviation:
        dL/dz = (h - E[h] - u E[h u])/deviation, the averages being over the axes of mean and variance.
        """
        (z,), (_, _, mean, per_deviation, a, b, *samples), (gain, _) = inputs, extras, operands
        g, of_bias, of_gain = by_pieces(self._of_normalized, grad, z, mean, per_deviation, a, b)
        mean_axes, variance_axes = statistic_axes(self.reading)
        h_mean = (gain * of_bias).sum(mean_axes, keepdim=True) / extent(z, mean_axes)
        hu_mean = (gain * of_gain).sum(variance_axes, keepdim=True) / extent(z, variance_axes)
        if self.sum_over_processes is not None and 0 in mean_axes:
            mine = torch.cat([h_mean.flatten(), hu_mean.flatten()]) * len(z)
            both = torch.split(self.sum_over_processes(mine) / samples[0], [h_mean.numel(), hu_mean.numel()])
            h_mean, hu_mean = both[0].view(h_mean.shape), both[1].view(hu_mean.shape)
        (of_z,) = by_pieces(_of_sums, g, z, mean, per_deviation, gain.unsqueeze(0), h_mean, hu_mean, into=(g,))
        return (of_z,), (of_gain.sum(0), of_bias.sum(0))

    def _of_normalized(
        self, grad: Tensor, z: Tensor, mean: Tensor, per_deviation: Tensor, a: Tensor, b: Tensor
    ) -> Tensors:
        """Return g = dL/dy, and over the positions the sums of g and of g u, (B, C)."""
        x, grad = normalize(z, a, b), grad.float()
        if self.n is None:
            g = torch.where(x > 0, grad, torch.zeros_like(grad))
        else:
            g = grad * self._slope(x * self.n, self.n) * self.n
        return g, by_channel(g), by_channel(g * _standardized(z, mean, per_deviation))


def _standardized(z: Tensor, mean: Tensor, per_deviation: Tensor) -> Tensor:
    return (z.float() - per_position(mean, z.ndim)) * per_position(per_deviation, z.ndim)


def _of_sums(
    g: Tensor, z: Tensor, mean: Tensor, per_deviation: Tensor, gain: Tensor, h_mean: Tensor, hu_mean: Tensor
) -> Tensors:
    """Return dL/dz, given g = dL/dy, E[h] and E[h u]."""
    u = _standardized(z, mean, per_deviation)
    h = g * per_position(gain, z.ndim)
    of_z = h - per_position(h_mean, z.ndim) - u * per_position(hu_mean, z.ndim)
    return (of_z * per_position(per_deviation, z.ndim),)


@dataclass(frozen=True)
class Pool(Step):
    """Windows; `disjoint` ones tile the image without padding, up to a rest that no window covers."""

    kernel: Pair = (2, 2)
    stride: Pair = (2, 2)
    padding: Pair = (0, 0)
    size: Pair = (0, 0)  # of the input

    @property
    def disjoint(self) -> bool:
        """Whether windows do not overlap and are not padded."""
        return self.kernel == self.stride and self.padding == (0, 0)

    def _spread(self, windows: Tensor) -> Tensor:
        """Return the image (B, C, H, W) of (B, h, kh, w, kw, C) values; the rest at its borders is zero."""
        batch, height, kh, width, kw, channels = windows.shape
        image = windows.reshape(batch, height * kh, width * kw, channels).permute(0, 3, 1, 2)
        bottom, right = self.size[0] - height * kh, self.size[1] - width * kw
        return F.pad(image, (0, right, 0, bottom)) if bottom or right else image


@dataclass(frozen=True)
class MaxPool(Pool):
    """The maximum of each window; the gradient goes to the first of equal ones, row by row, as torch's does."""

    def forward(self, inputs: Sequence[Tensor], operands: Sequence[Tensor]) -> tuple[Tensor, Tensors]:
        (x,) = inputs
        if not self.disjoint:
            best, where = F.max_pool2d(x, self.kernel, self.stride, self.padding, return_indices=True)
            return best, (where.to(torch.int32),)
        (kh, kw), (height, width) = self.kernel, (n // k for n, k in zip(self.size, self.kernel, strict=True))
        best, first = by_pieces(self._maxima, x[:, :, : height * kh, : width * kw])
        return best, (keep(first, self._places),)

    def _maxima(self, x: Tensor) -> Tensors:
        """Return the maximum of each window and its place."""
        kh, kw = self.kernel
        best = x[:, :, ::kh, ::kw]
        first = torch.zeros_like(best)  # in floating point, which fuses better than mixed types
        for index in range(1, kh * kw):
            candidate = x[:, :, index // kw :: kh, index % kw :: kw]
            first = torch.where(candidate > best, torch.full_like(first, index), first)
            best = torch.maximum(best, candidate)
        return best, first

    @property
    def _places(self) -> Span:
        return Span(0, math.prod(self.kernel) - 1)

    def backward(
        self, grad: Tensor, inputs: Sequence[Tensor], extras: Tensors, operands: Sequence[Tensor]
    ) -> tuple[Gradients, Tensors]:
        (where,) = extras
        if not self.disjoint:
            flat = grad.new_zeros(*grad.shape[:2], math.prod(self.size))
            of_x = flat.scatter_add(2, where.flatten(2).to(torch.int64), grad.flatten(2))
            return (of_x.view(*grad.shape[:2], *self.size),), ()
        if grad.device.type == "cpu":
            first = restore(where, self._places, len(grad), None)
            return (spread_maxima(grad, first, self.kernel, self.size),), ()
        # Fused by the compiler of a GPU; that of a CPU would compute the places anew in each loop that reads the image.
        first = restore(where, self._places, len(grad), grad.dtype).permute(0, 2, 3, 1)  # (B, h, w, C)
        kh, kw = self.kernel
        place = torch.arange(kh * kw, device=grad.device, dtype=first.dtype).view(1, 1, kh, 1, kw, 1)
        here = first.unsqueeze(2).unsqueeze(4) == place
        spread = torch.where(here, grad.permute(0, 2, 3, 1).unsqueeze(2).unsqueeze(4), grad.new_zeros(()))
        return (self._spread(spread),), ()


# Values beside the largest gradients, that take no more memory but leave it in order: glibc finds room for an aligned
# block only where there is some more than its size, so never where a block of the same size was.
ROOM = 64


@torch.library.custom_op("maqd_snn::spread_maxima", mutates_args=())
def spread_maxima(grad: Tensor, first: Tensor, kernel: list[int], size: list[int]) -> Tensor:
    """Return the image (B, C, H, W) that has each gradient where the maximum of its window was, and zeros elsewhere.

    Args:
        grad: (B, C, h, w).
        first: (B, C, h, w), the place of the maximum in its window, row by row.
        kernel: kh, kw of windows that do not overlap. size: H, W.
    """
    kh, kw = kernel
    height, width = grad.shape[2] * kh, grad.shape[3] * kw
    new = torch.empty if [height, width] == list(size) else torch.zeros  # a rest at the borders is zero
    shape = (len(grad), *size, grad.shape[1])
    roomy = new(math.prod(shape) + ROOM, dtype=grad.dtype, device=grad.device)
    image = roomy[: math.prod(shape)].view(shape).permute(0, 3, 1, 2)
    for place in range(kh * kw):
        torch.mul(grad, first == place, out=image[:, :, place // kw : height : kh, place % kw : width : kw])
    return image


@spread_maxima.register_fake
def _(grad: Tensor, first: Tensor, kernel: list[int], size: list[int]) -> Tensor:
    return grad.new_empty(len(grad), *size, grad.shape[1]).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class SumPool(Pool):
    """The sum of each window, zero padding."""

    def forward(self, inputs: Sequence[Tensor], operands: Sequence[Tensor]) -> tuple[Tensor, Tensors]:
        return F.avg_pool2d(inputs[0].float(), self.kernel, self.stride, self.padding, divisor_override=1), ()

    def backward(
        self, grad: Tensor, inputs: Sequence[Tensor], extras: Tensors, operands: Sequence[Tensor]
    ) -> tuple[Gradients, Tensors]:
        if self.disjoint:
            spread = grad.permute(0, 2, 3, 1).unsqueeze(2).unsqueeze(4)
            batch, height, _, width, _, channels = spread.shape
            return (self._spread(spread.expand(batch, height, self.kernel[0], width, self.kernel[1], channels)),), ()
        image = grad.new_empty(*grad.shape[:2], *self.size)
        return (
            torch.ops.aten.avg_pool2d_backward(
                grad.float().contiguous(), image.float(), self.kernel, self.stride, self.padding, False, True, 1
            ),
        ), ()


@dataclass(frozen=True)
class Sum(Step):
    """The residual sum."""

    def forward(self, inputs: Sequence[Tensor], operands: Sequence[Tensor]) -> tuple[Tensor, Tensors]:
        total = inputs[0].float()
        for value in inputs[1:]:
            total = total + value.float()
        return total, ()

    def backward(
        self, grad: Tensor, inputs: Sequence[Tensor], extras: Tensors, operands: Sequence[Tensor]
    ) -> tuple[Gradients, Tensors]:
        return (grad,) * len(self.inputs), ()


@dataclass(frozen=True)
class Flat(Step):
    """(B, C, H, W) -> (B, C*H*W)."""

    shape: tuple[int, ...] = ()

    def forward(self, inputs: Sequence[Tensor], operands: Sequence[Tensor]) -> tuple[Tensor, Tensors]:
        return inputs[0].flatten(1), ()

    def backward(
        self, grad: Tensor, inputs: Sequence[Tensor], extras: Tensors, operands: Sequence[Tensor]
    ) -> tuple[Gradients, Tensors]:
        return (grad.view(len(grad), *self.shape),), ()


@dataclass(frozen=True)
class Scores(Step):
    """Logits g*(z + r), g = exp(log_g)."""

    unit: float = 1.0
    limit: int | None = None  # largest magnitude of r; None where it is not rounded
    needs_inputs = True

    def _r(self, bias: Tensor) -> Tensor:
        u = bias / self.unit
        return u if self.limit is None else floor_clip(u + 0.5, -self.limit, self.limit)

    def forward(self, inputs: Sequence[Tensor], operands: Sequence[Tensor]) -> tuple[Tensor, Tensors]:
        bias, log_g = operands
        return log_g.exp() * (inputs[0].float() + self._r(bias)), ()

    def backward(
        self, grad: Tensor, inputs: Sequence[Tensor], extras: Tensors, operands: Sequence[Tensor]
    ) -> tuple[Gradients, Tensors]:
        bias, log_g = operands
        of_z = grad * log_g.exp()
        of_bias = of_z.sum(0) / self.unit
        if self.limit is not None:
            u = bias / self.unit + 0.5
            of_bias = of_bias * ((u >= -self.limit) & (u < self.limit + 1))
        return (of_z,), (of_bias, (of_z * (inputs[0].float() + self._r(bias))).sum())


@dataclass(frozen=True)
class Codes:
    """How the weight in this place of the network's list becomes codes.

    `states` None keeps the standardized floats, over the step if there is one. `scale` is the place of what is learned
    of the step, if it is. `zero_sum`: see `weights.balanced`.
    """

    place: int
    states: int | None
    step: float | None
    scale: int | None = None
    zero_sum: bool = False

    def forward(self, parameters: Sequence[Tensor]) -> Tensor:
        """Return the codes in the smallest type that holds them."""
        v = self._scaled(standardize(parameters[self.place]), parameters)
        if self.states is None:
            return v if self.step is None else v / self.step
        top = largest_weight_code(self.states)
        return weight_codes(v, self.states, self.step, self.zero_sum).to(Span(-top, top).dtype)

    def backward(self, grad: Tensor, parameters: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return the gradients of the parameters by their places, given that of the codes."""
        weight = parameters[self.place]
        found: dict[int, Tensor] = {}
        v = self._scaled(standardize(weight), parameters)
        if self.states is not None:
            grad = weight_codes_backward(grad, v, self.states, self.step)
        elif self.step is not None:
            grad = grad / self.step
        if self.scale is not None:
            log_scale = parameters[self.scale]
            of_channels = (grad * v).flatten(1).sum(1)
            found[self.scale] = of_channels if len(log_scale) == len(weight) else of_channels.sum().view(1)
            grad = scale_weights(grad, log_scale)
        return found | {self.place: standardize_backward(grad, weight)}

    def _scaled(self, v: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        return v if self.scale is None else scale_weights(v, parameters[self.scale])


@dataclass(frozen=True)
class Tape:
    """The steps of a network in order, and what is kept between forward and backward.

    Args:
        steps: one per part.
        codes: one per product.
        spans: the range of every value; None for floats.
        kept: the values that are kept, in bits; the backward pass reads them.
        repeated: the values that it computes again, each from a kept one.
        fees: by step, what its input costs if it is spikes that cost something. free: what may be spent for nothing;
        fees are charged when all of them together cost more.
    """

    steps: tuple[Step, ...]
    codes: tuple[Codes, ...]
    spans: tuple[Span | None, ...]
    kept: tuple[int, ...]
    repeated: tuple[int, ...]
    fees: tuple[Fee | None, ...] = ()
    free: float = 0.0

    def operands(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return the parameters with codes in place of the weights; last a zero, or NaN if any parameter is not finite.

        Integers cannot say that a weight is not finite, so this tensor does; it is added to the logits.
        """
        operands = list(parameters)
        for of in self.codes:
            operands[of.place] = of.forward(parameters)
        return [*operands, torch.stack([p.sum() for p in parameters]).sum() * 0]

    def forward(
        self, x: Tensor, operands: Sequence[Tensor], watch: Watch | None = None, watch_sums: Watch | None = None
    ) -> tuple[Tensor, list[Tensor], list[Tensors]]:
        """Return the logits, the kept values, and what each step wants kept beside them.

        Args:
            x: codes minus the zero point, (B, C, H, W).
            operands: of `operands`.
            watch: called with every part's name and output in floating point; not in compiled code.
            watch_sums: called with the name of every product in bfloat16 and its sums before they are rounded; they
            are computed for it.
        """
        values = {0: x.contiguous(memory_format=torch.channels_last)}
        kept, extras = [], []
        for index, step in enumerate(self.steps):
            mine = [operands[place] for place in step.parameters]
            values[index + 1], extra = step.forward([values[used] for used in step.inputs], mine)
            extras.append(extra)
            if watch_sums is not None and isinstance(step, Product) and step.numbers.bfloat16:
                watch_sums(step.name, step.sums([values[used] for used in step.inputs], mine))
            if watch is not None:
                watch(step.name, values[index + 1].float())
            for used in sorted(set(step.inputs)):  # no name may hold a value any longer
                if not any(used in later.inputs for later in self.steps[index + 1 :]):
                    if used in self.kept:
                        kept.append(keep(values[used], self.spans[used]))
                    del values[used]
        return values[len(self.steps)] + operands[-1], kept, extras

    def backward(
        self,
        grad: Tensor,
        kept: list[Tensor],
        extras: Sequence[Tensors],
        operands: Sequence[Tensor],
        parameters: Sequence[Tensor],
    ) -> list[Tensor]:
        """Return the gradients of the parameters, given that of the logits; the list `kept` is emptied."""
        batch = len(grad)
        store = dict(zip(self.kept, kept, strict=True))
        kept.clear()
        charged = self._charged(store, operands, batch)
        grads: dict[int, Tensor] = {len(self.steps): grad}
        found: dict[int, Tensor] = {}
        for index in range(len(self.steps) - 1, -1, -1):
            store.pop(index + 1, None)  # read by later steps only
            self._step_back(index, grads, found, store, extras[index], operands, batch, charged)
        for of_codes in self.codes:
            found.update(of_codes.backward(found[of_codes.place], parameters))
        return [found[place] for place in range(len(parameters))]

    def _step_back(
        self,
        index: int,
        grads: dict[int, Tensor],
        found: dict[int, Tensor],
        store: Mapping[int, Tensor],
        extras: Tensors,
        operands: Sequence[Tensor],
        batch: int,
        charged: Tensor | float,
    ) -> None:
        """Take the gradient of a step's output out of `grads`; put those of its inputs there, of operands in `found`.

        A function of its own, so that when the next step runs no name holds a value or a gradient any longer.
        """
        step = self.steps[index]
        reads = step.inputs if step.needs_inputs else ()
        inputs = [self._value(used, store, operands, batch, step.takes_bytes) for used in reads]
        mine = [operands[place] for place in step.parameters]
        of_inputs, of_operands = step.backward(grads.pop(index + 1), inputs, extras, mine)
        found.update(zip(step.parameters, of_operands, strict=True))
        fee = self.fees[index] if self.fees else None
        if fee is not None and of_inputs[0] is not None:
            of_inputs = (of_inputs[0] + fee.gradient(inputs[0]) * charged,)
        for used, of in zip(step.inputs, of_inputs, strict=True):
            if of is not None and used != 0:
                grads[used] = grads[used] + of if used in grads else of

    def _charged(self, store: Mapping[int, Tensor], operands: Sequence[Tensor], batch: int) -> Tensor | float:
        """Return 1 where fees are charged, 0 where what spikes cost is still free."""
        if not self.free:
            return 1.0
        costs = [
            fee.cost(self._value(step.inputs[0], store, operands, batch, step.takes_bytes))
            for step, fee in zip(self.steps, self.fees, strict=True)
            if fee is not None
        ]
        return (torch.stack(costs).sum() > self.free).float() if costs else 0.0

    def _value(
        self, index: int, store: Mapping[int, Tensor], operands: Sequence[Tensor], batch: int, as_bytes: bool = False
    ) -> Tensor:
        if index not in self.repeated:
            return restore(store[index], self.spans[index], batch, None if as_bytes else torch.float32)
        step = self.steps[index - 1]
        inputs = [self._value(used, store, operands, batch) for used in step.inputs]
        return step.forward(inputs, [operands[place] for place in step.parameters])[0]


# A product of at most this many weights per neuron is computed again rather than kept as float32: the first layer's.
CHEAP_FAN_IN = 64


@dataclass(frozen=True)
class At:
    """Where a part stands: its name, the values it takes with spans and shapes, the places of its parameters.

    And how it is to compute: in which numbers, and in which stage.
    """

    name: str
    inputs: tuple[int, ...]
    parameters: tuple[int, ...]
    spans: tuple[Span | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    operands: Operands
    stage: Stage

    @property
    def wiring(self) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        """The fields that every step has."""
        return self.name, self.inputs, self.parameters

    @property
    def image(self) -> Pair:
        """Height and width of the first input."""
        _, height, width = self.shapes[0]
        return height, width


Built = tuple[Step, Span | None, tuple[int, ...]]  # the step, and the span and the shape of its output


def _symmetric(part: layers.Part, at: At) -> Span | None:
    if at.stage.float_weights and isinstance(part, layers.QuantizedProduct):
        return None
    bound = part.plan(*(None if span is None else max(abs(span.low), abs(span.high)) for span in at.spans))
    return None if bound is None else Span(-bound, bound)


def _convolution(part: layers.Conv2d, at: At) -> Built:
    outputs, inputs, kh, kw = part.weight.shape
    size = output_size(at.image, (kh, kw), part.stride, part.padding, part.dilation)
    span, int8 = at.spans[0], False
    states = None if at.stage.float_weights else part.states
    if at.operands.int8 and states is not None and span is not None and span.low >= 0:
        int8 = windows_meet_image((kh, kw), part.padding, part.dilation)
        int8 = int8 and exact((outputs, inputs, kh, kw), part.groups, span.high, largest_weight_code(states))
    winograd = part.groups == 1 and at.operands.dtype == torch.float32
    step = Convolution(
        *at.wiring,
        at.operands,
        part.stride,
        part.padding,
        part.dilation,
        part.groups,
        int8,
        (kh, kw),
        winograd and pays((inputs, outputs), (kh, kw), part.stride, part.dilation),
    )
    return step, _symmetric(part, at), (outputs, *size)


def _matrix_product(part: layers.Linear, at: At) -> Built:
    return MatrixProduct(*at.wiring, at.operands), _symmetric(part, at), (part.weight.shape[0],)


def _norm_and_spike(part: layers.NormSpike, at: At) -> Built:
    norm = part.norm
    if isinstance(norm, GroupNorm):
        raise MaqdError(f"{at.name}: group normalization has no written-out step; train with model(codes) itself")
    low, n = (0, None) if part.states is None else (part.low, part.n)
    ramp = at.stage.float_acts
    finer = at.stage.states - 1 if ramp and at.stage.states is not None else None
    step = NormAndSpike(*at.wiring, norm.axes, norm.eps, low, n, part.surrogate, norm.sum_over_processes, ramp, finer)
    return step, (None if n is None or ramp else Span(low, n)), at.shapes[0]


def _pooled(part: layers.Pool2d, at: At) -> tuple[int, ...]:
    return at.shapes[0][0], *output_size(at.image, part.kernel, part.stride, part.padding)


def _max_pool(part: layers.MaxPool2d, at: At) -> Built:
    return MaxPool(*at.wiring, part.kernel, part.stride, part.padding, at.image), at.spans[0], _pooled(part, at)


def _sum_pool(part: layers.SumPool2d, at: At) -> Built:
    taps, span = math.prod(part.kernel), at.spans[0]
    summed = None if span is None else Span(min(0, span.low * taps), max(0, span.high * taps))
    return SumPool(*at.wiring, part.kernel, part.stride, part.padding, at.image), summed, _pooled(part, at)


def _sum(part: layers.Add, at: At) -> Built:
    return Sum(*at.wiring), _symmetric(part, at), at.shapes[0]


def _flat(part: layers.Flatten, at: At) -> Built:
    return Flat(*at.wiring, at.shapes[0]), at.spans[0], (math.prod(at.shapes[0]),)


def _scores(part: layers.Readout, at: At) -> Built:
    limit = part.largest_code() if part.quantized else None
    return Scores(*at.wiring, float(part.unit), limit), None, at.shapes[0]


RULES: Mapping[type[layers.Part], Callable[[Any, At], Built]] = MappingProxyType(
    {
        layers.Conv2d: _convolution,
        layers.Linear: _matrix_product,
        layers.NormSpike: _norm_and_spike,
        layers.MaxPool2d: _max_pool,
        layers.SumPool2d: _sum_pool,
        layers.Add: _sum,
        layers.Flatten: _flat,
        layers.Readout: _scores,
    }
)


def tape_of(
    model: SpikingNetwork, operands: Operands, penalty: float = 0.0, target: float = 0.0, stage: Stage = QUANTIZED
) -> Tape:
    """Return the training step of the network.

    Args:
        model: the network. Its normalizations' `sum_over_processes` are taken as they are now.
        operands: in which numbers products run. The last one, whose sums become logits, always runs in float32.
        penalty: weight of the share of connections that carry a spike, see `maqd_snn.penalty`; it acts on gradients.
        target: the share up to which they are free.
        stage: what is left in float; there are no spikes to pay for where activations are.

    Raises:
        MaqdError: a part of a class that `RULES` does not have.
    """
    place = {id(parameter): index for index, parameter in enumerate(model.parameters())}
    spec = model.input_spec
    spans: list[Span | None] = [Span(spec.low - spec.zero_point, spec.high - spec.zero_point)]
    shapes: list[tuple[int, ...]] = [spec.shape]
    value_of = {INPUT: 0}
    steps: list[Step] = []
    codes: list[Codes] = []
    for name in model.names:
        part = model.part(name)
        if type(part) not in RULES:
            raise MaqdError(
                f"{name}: a {type(part).__name__} has no training step in maqd_snn.tape.RULES, which knows "
                f"{', '.join(kind.__name__ for kind in RULES)}; add one, or train with model(codes) itself"
            )
        inputs = tuple(value_of[used] for used in model.inputs_of[name])
        parameters: tuple[int, ...] = ()
        if isinstance(part, layers.QuantizedProduct):
            parameters = (place[id(part.weight)],)
        elif isinstance(part, layers.Readout | layers.NormSpike):
            owner: nn.Module = part.norm if isinstance(part, layers.NormSpike) else part
            parameters = tuple(place[id(parameter)] for parameter in owner.parameters())
        last = len(steps) == len(model.names) - 2
        at = At(
            name,
            inputs,
            parameters,
            tuple(spans[used] for used in inputs),
            tuple(shapes[used] for used in inputs),
            Operands() if last else operands,
            stage,
        )
        step, span, shape = RULES[type(part)](part, at)
        if isinstance(part, layers.QuantizedProduct):
            scale = None if part.log_scale is None else place[id(part.log_scale)]
            states = None if stage.float_weights else part.states
            codes.append(Codes(parameters[0], states, part.step, scale, part.zero_sum))
        steps.append(step)
        spans.append(span)
        shapes.append(shape)
        value_of[name] = len(steps)
    tape = _with_kept(model, steps, codes, spans)
    return replace(tape, fees=_fees(steps, spans, shapes, penalty), free=penalty * target) if penalty else tape


def _fees(
    steps: Sequence[Step], spans: Sequence[Span | None], shapes: Sequence[tuple[int, ...]], penalty: float
) -> tuple[Fee | None, ...]:
    """Return by step the fee on its input: on that of every product that is fed by spikes, through pools at most."""
    spiking = [False]
    fees: dict[int, tuple[Fee, int]] = {}  # by step: the fee of one input channel, and how many channels there are
    for index, step in enumerate(steps):
        fed = spiking[step.inputs[0]]
        passes = isinstance(step, Pool | Flat)
        spiking.append((isinstance(step, NormAndSpike) and step.n is not None) or (passes and fed))
        span, shape = spans[step.inputs[0]], shapes[step.inputs[0]]
        if not fed or span is None:
            continue
        largest = max(abs(span.low), abs(span.high))
        if isinstance(step, MatrixProduct):
            fees[index] = Fee((1,), (1,), shapes[index + 1][0], largest), shape[0]
        elif isinstance(step, Convolution):
            outputs, *size = shapes[index + 1]
            kernel = step.kernel
            counts = [
                taps(shape[1 + a], size[a], kernel[a], step.stride[a], step.padding[a], step.dilation[a])
                for a in range(2)
            ]
            fees[index] = Fee(counts[0], counts[1], outputs // step.groups, largest), shape[0]
    dense = sum(fee.connections * channels for fee, channels in fees.values())
    return tuple(
        replace(fees[index][0], amount=penalty / dense) if index in fees else None for index in range(len(steps))
    )


def _with_kept(
    model: SpikingNetwork, steps: Sequence[Step], codes: Sequence[Codes], spans: Sequence[Span | None]
) -> Tape:
    wanted = {used for step in steps if step.needs_inputs for used in step.inputs}
    repeated = []
    for index in sorted(wanted):
        part = model.part(steps[index - 1].name) if index else None
        span = spans[index]
        cheap = isinstance(part, layers.QuantizedProduct) and part.fan_in <= CHEAP_FAN_IN
        if cheap and span is not None and span.dtype == torch.float32 and wanted.issuperset(steps[index - 1].inputs):
            repeated.append(index)
    # In the order in which the forward pass lets go of them.
    last_use = {used: index for index, step in enumerate(steps) for used in step.inputs}
    kept = sorted(wanted - set(repeated), key=lambda value: (last_use[value], value))
    return Tape(tuple(steps), tuple(codes), tuple(spans), tuple(kept), tuple(repeated))
