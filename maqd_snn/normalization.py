"""Normalizations that fold away: one pair (a, b) per channel at inference, y = a*z + b.

Axis letters: B batch, C channels, H height, W width; z is (B, C) or (B, C, H, W).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.pieces import by_pieces


@dataclass(frozen=True)
class Reading:
    """Over which axes, beside the positions, the statistics are taken."""

    name: str
    mean_over_batch: bool
    mean_over_channels: bool
    variance_over_channels: bool


READINGS: Mapping[str, Reading] = MappingProxyType(
    {
        "layer": Reading("layer", True, True, True),
        "sample": Reading("sample", False, True, True),
        "channel-mean": Reading("channel-mean", True, False, True),
        "batch": Reading("batch", True, False, False),
    }
)

# A mini-batch of this many samples replaces the share `momentum` of the running estimates; smaller ones replace less.
REFERENCE_BATCH = 128


SumOverProcesses = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Statistics:
    """Of one mini-batch: what it is normalized by, and what the running estimates take from it.

    `mean` and `variance` are (1 or B, 1 or C) in float32, `first` and `second` the moments E[z] and E[z^2] in float64,
    (1,) or (C,) each, and `samples` the number of samples that they are of.
    """

    mean: Tensor
    variance: Tensor
    first: Tensor
    second: Tensor
    samples: int | Tensor


def batch_statistics(
    z: Tensor, reading: Reading, label: str = "normalization", sum_over_processes: SumOverProcesses | None = None
) -> Statistics:
    """Return the statistics of a mini-batch: mean = E[z] and variance = E[(z - mean)^2] over the axes of the reading.

    Sums go over positions first and then over the other axes: short sums round less, and a slab of one sample stays in
    the cache.

    Args:
        z: (B, C) or (B, C, H, W).
        reading: one of `READINGS`.
        label: the name that errors give.
        sum_over_processes: the differentiable sum over the processes that share the batch; None for this one alone.

    Raises:
        MaqdError: fewer than two values for a statistic.

    >>> of = batch_statistics(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), READINGS["batch"])
    >>> of.mean.tolist(), of.variance.tolist(), of.second.tolist()
    ([[3.0, 5.0]], [[4.0, 4.0]], [13.0, 29.0])
    """
    values = z.float()
    mean_axes, variance_axes = statistic_axes(reading)
    count = min(extent(z, mean_axes), extent(z, variance_axes))
    if count < 2:
        raise MaqdError(
            f"{label}: the statistics of the {reading.name!r} normalization need at least 2 values, but an accumulator "
            f"of shape {tuple(z.shape)} gives {count}; use a larger batch or another normalization"
        )
    mean = by_channel(values).sum(mean_axes, keepdim=True) / extent(z, mean_axes)
    (squares,) = by_pieces(lambda x, mean: (by_channel((x - per_position(mean, x.ndim)).square()),), values, mean)
    variance = squares.sum(variance_axes, keepdim=True) / extent(z, variance_axes)
    # Squared in float64: far from zero, the variance is a small difference of large numbers.
    squared = mean.double().square()
    if 1 in variance_axes:
        squared = squared.mean(1, keepdim=True)
    first, second = mean.double().mean(0), (variance.double() + squared).mean(0)
    if sum_over_processes is None:
        return Statistics(mean, variance, first, second, len(z))
    samples, first, second = _over_processes(len(z), first, second, sum_over_processes)
    if 0 in mean_axes:
        squared = first.square().mean() if 1 in variance_axes else first.square()
        mean, variance = first.float().unsqueeze(0), (second - squared).clamp_min(0).float().unsqueeze(0)
    return Statistics(mean, variance, first, second, samples)


def statistic_axes(reading: Reading) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the axes, beside the positions, of the mean and of the variance: 0 is the batch, 1 the channels."""
    mean = tuple(axis for axis, over in enumerate((reading.mean_over_batch, reading.mean_over_channels)) if over)
    variance = tuple(
        axis for axis, over in enumerate((reading.mean_over_batch, reading.variance_over_channels)) if over
    )
    return mean, variance


def extent(z: Tensor, axes: tuple[int, ...]) -> int:
    """Return the number of values that a statistic over the positions and these axes is taken of."""
    return math.prod([z.shape[axis] for axis in (*axes, *range(2, z.ndim))])


def by_channel(x: Tensor) -> Tensor:
    """Return the sums over the positions, (B, C)."""
    return x.sum(tuple(range(2, x.ndim))) if x.ndim > 2 else x


def per_position(x: Tensor, ndim: int) -> Tensor:
    """Return x of (1 or B, 1 or C) with axes of one position appended, for a tensor of `ndim` axes."""
    return x.view(*x.shape, *(1,) * (ndim - 2))


def batch_coefficients(mean: Tensor, variance: Tensor, gain: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return a = gain/sqrt(variance + eps) and b = bias - mean*a, each (1 or B, C)."""
    a = gain * torch.rsqrt(variance + eps)
    return a, bias - mean * a


class FoldableNorm(nn.Module):
    """Normalize by batch statistics in training and by running ones at inference; gain and bias per channel.

    y = gain * (z - mean) / sqrt(variance + eps) + bias, with mean = E[z] and variance = E[(z - mean)^2] over the axes
    of the reading. Kept are the running mean and the running second moment E[z^2], in float64; the variance at
    inference is derived from them (E[z^2] - mean^2, averaged over channels where there is one variance per layer).
    Both are linear in the samples, so their expectation does not depend on the batch size. The share of a mini-batch
    of B samples is 1 - (1 - momentum)^(B/128), or B over all samples seen while that is larger: the memory is counted
    in samples, not in steps, whatever the batch size.

    Where several processes share a mini-batch, `sum_over_processes` may be set to a differentiable sum of a tensor over
    them: the statistics are then those of all their samples, from one sum of (count, sum, sum of squares) per layer.
    None, the default, leaves each process its own statistics.

    Args:
        channels: C.
        reading: `layer` (one mean and one variance over B, C, H, W: Layer-Batch Normalization), `sample` (over C, H, W
            of each sample; running averages at inference), `channel-mean` (mean per channel over B, H, W, one variance
            per layer), `batch` (mean and variance per channel over B, H, W: BatchNorm).
        eps: added to the variance, in squared accumulator units.
        momentum: share of the running estimates that 128 samples replace, in (0, 1].

    Raises:
        MaqdError: an unknown reading; in training, a statistic that does not exist (fewer than two values).

    Source: Layer-Batch Normalization of MaQD (arXiv 2403.14999); the readings, the moments and the momentum per sample
    are this library's choice.

    >>> norm = FoldableNorm(2, "layer")
    >>> a, b = norm.coefficients(torch.tensor([[1.0, 3.0]]))
    >>> (torch.tensor([[1.0, 3.0]]) * a + b).round(decimals=3).tolist()
    [[-1.0, 1.0]]
    """

    running_mean: Tensor
    running_second_moment: Tensor
    samples: Tensor

    def __init__(self, channels: int, reading: str = "layer", eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        if reading not in READINGS:
            raise unknown_name("normalization", reading, READINGS)
        if not 0 < momentum <= 1:
            raise MaqdError(f"momentum must lie in (0, 1], got {momentum}")
        self.channels, self.reading, self.eps, self.momentum = channels, reading, eps, momentum
        self.label = "normalization"  # the name that errors give; the network sets it to the part's name
        self.sum_over_processes: SumOverProcesses | None = None
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.axes = axes = READINGS[reading]
        self.register_buffer("running_mean", torch.zeros(1 if axes.mean_over_channels else channels).double())
        self.register_buffer(
            "running_second_moment", torch.ones(1 if axes.variance_over_channels else channels).double()
        )
        self.register_buffer("samples", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        return f"{self.channels}, reading={self.reading!r}, eps={self.eps}, momentum={self.momentum}"

    def coefficients(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and b of y = a*z + b: of this batch in training, else the folded ones.

        Training updates the running moments.

        Shapes: (C,), or (B, C) for the reading `sample` in training.
        """
        if not self.training:
            return self.folded()
        of = batch_statistics(z, self.axes, self.label, self.sum_over_processes)
        self.observe(of.first.detach(), of.second.detach(), of.samples)
        a, b = batch_coefficients(of.mean, of.variance, self.gain, self.bias, self.eps)
        return (a.squeeze(0), b.squeeze(0)) if self.axes.mean_over_batch else (a, b)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return the inference pair a = gain/sqrt(variance + eps), b = bias - mean*a, each (C,) in float32.

        Computed in float64 and rounded once, so that every caller gets the same bits.
        """
        mean = self.running_mean
        squared = mean.square().mean() if self.running_second_moment.numel() == 1 else mean.square()
        variance = (self.running_second_moment - squared).clamp_min(0)
        a = self.gain.detach().double() * torch.rsqrt(variance + self.eps)
        b = self.bias.detach().double() - mean * a
        return a.float(), b.float()

    @torch.no_grad()
    def observe(self, first: Tensor, second: Tensor, samples: int | Tensor) -> None:
        """Take the moments E[z] and E[z^2] of a mini-batch of this many samples into the running ones."""
        self.samples += samples
        share = 1 - (1 - self.momentum) ** (samples / REFERENCE_BATCH)
        weight = torch.clamp(samples / self.samples.double(), min=share)
        self.running_mean.lerp_(first, weight)
        self.running_second_moment.lerp_(second, weight)


def _over_processes(
    batch: int, mean: Tensor, second_moment: Tensor, sum_over_processes: SumOverProcesses
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (samples, mean, second moment) over all processes, given those of this one; float64 moments, (1,) or (C,).

    What is summed is the number of samples, and per sample the sums of the values and of their squares.
    """
    mine = torch.cat([mean.new_full((1,), batch), batch * mean, batch * second_moment])
    count, sums, squares = torch.split(sum_over_processes(mine), [1, mean.numel(), second_moment.numel()])
    return count.detach().round().long().view(()), sums / count, squares / count


class LayerBatchNorm(FoldableNorm):
    """`FoldableNorm` with the reading `layer`, `sample` or `channel-mean`; see there for equations and errors."""

    def __init__(self, channels: int, reading: str = "layer", eps: float = 1e-5, momentum: float = 0.1) -> None:
        if reading == "batch":
            raise MaqdError("LayerBatchNorm has the readings layer, sample and channel-mean; use BatchNorm for 'batch'")
        super().__init__(channels, reading, eps, momentum)


class BatchNorm(FoldableNorm):
    """`FoldableNorm` with the reading `batch`: mean and variance per channel over (B, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, "batch", eps, momentum)


class GroupNorm(nn.Module):
    """Normalize every sample by the statistics of its own groups of channels: for comparison, since it does not fold.

    y = gain * (z - mean) / sqrt(variance + eps) + bias, mean and variance over (C/G, H, W) of each sample and group, in
    training and at inference alike. So a and b of y = a*z + b depend on the sample, and no integer threshold stands for
    them.

    Args:
        channels: C.
        groups: G; None takes the largest divisor of C up to 8.
        eps: added to the variance, in squared accumulator units.

    Raises:
        MaqdError: groups that do not divide the channels; a group of fewer than two values.

    Source: Wu & He, Group Normalization, arXiv 1803.08494.

    >>> norm = GroupNorm(4, groups=2)
    >>> a, b = norm.coefficients(torch.tensor([[1.0, 3.0, 10.0, 30.0]]))
    >>> (torch.tensor([[1.0, 3.0, 10.0, 30.0]]) * a + b).round(decimals=3).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """

    def __init__(self, channels: int, groups: int | None = None, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = next(g for g in range(8, 0, -1) if channels % g == 0) if groups is None else groups
        if self.groups < 1 or channels % self.groups:
            raise MaqdError(f"{channels} channels cannot be split into {groups} groups")
        self.channels, self.eps = channels, eps
        self.label = "normalization"
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def extra_repr(self) -> str:
        return f"{self.channels}, groups={self.groups}, eps={self.eps}"

    def coefficients(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and b of y = a*z + b, each (B, C)."""
        members = z.float().reshape(len(z), self.groups, -1)
        if members.shape[2] < 2:
            raise MaqdError(
                f"{self.label}: group normalization needs at least 2 values in a group, but an accumulator of shape "
                f"{tuple(z.shape)} gives {members.shape[2]}; use fewer groups or another normalization"
            )
        variance, mean = torch.var_mean(members, 2, correction=0)
        each = self.channels // self.groups
        return batch_coefficients(
            mean.repeat_interleave(each, 1), variance.repeat_interleave(each, 1), self.gain, self.bias, self.eps
        )

    def folded(self) -> tuple[Tensor, Tensor]:
        """Refuse: there is nothing that could be folded."""
        raise MaqdError(
            f"{self.label}: group normalization takes its statistics from each sample, at inference too, so no integer "
            "threshold stands for it and it cannot be folded; train with norm='lbn-channel-mean' or 'batchnorm'"
        )
