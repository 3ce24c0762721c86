"""Normalizations that fold away: one pair (a, b) per channel at inference, y = a*z + b.

Axis letters: B batch, C channels, H height, W width; z is (B, C) or (B, C, H, W).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from maqd_snn.errors import MaqdError, unknown_name


@dataclass(frozen=True)
class Reading:
    """Over which axes, beside the positions, the statistics are taken."""

    mean_over_batch: bool
    mean_over_channels: bool
    variance_over_channels: bool


READINGS: Mapping[str, Reading] = MappingProxyType(
    {
        "layer": Reading(True, True, True),
        "sample": Reading(False, True, True),
        "channel-mean": Reading(True, False, True),
        "batch": Reading(True, False, False),
    }
)

# A mini-batch of this many samples replaces the share `momentum` of the running estimates; smaller ones replace less.
REFERENCE_BATCH = 128


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
        self.sum_over_processes: Callable[[Tensor], Tensor] | None = None
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        axes = READINGS[reading]
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
        mean, variance = self._statistics(z)
        a = self.gain * torch.rsqrt(variance + self.eps)
        return a, self.bias - mean * a

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

    def _statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        axes = READINGS[self.reading]
        values = z.float().flatten(2) if z.ndim > 2 else z.float().unsqueeze(2)  # (B, C, H*W)
        mean_axes = tuple(
            axis for axis, over in enumerate((axes.mean_over_batch, axes.mean_over_channels, True)) if over
        )
        variance_axes = tuple(
            axis for axis, over in enumerate((axes.mean_over_batch, axes.variance_over_channels, True)) if over
        )
        count = min(_extent(values, mean_axes), _extent(values, variance_axes))
        if count < 2:
            raise MaqdError(
                f"{self.label}: the statistics of the {self.reading!r} normalization need at least 2 values, but an "
                f"accumulator of shape {tuple(z.shape)} gives {count}; use a larger batch or another normalization"
            )
        mean = values.mean(mean_axes, keepdim=True)  # (1|B, 1|C, 1)
        variance = (values - mean).square().mean(variance_axes, keepdim=True)
        # Squared in float64: far from zero, the variance is a small difference of large numbers.
        second = variance.double() + mean.double().square().mean(variance_axes, keepdim=True)
        batch: int | Tensor = len(values)
        first_moment, second_moment = mean.double().mean(0).view(-1), second.mean(0).view(-1)
        if self.sum_over_processes is not None:
            batch, first_moment, second_moment = _over_processes(
                len(values), first_moment, second_moment, self.sum_over_processes
            )
            if axes.mean_over_batch:
                squared = first_moment.square().mean() if axes.variance_over_channels else first_moment.square()
                mean, variance = first_moment.float(), (second_moment - squared).clamp_min(0).float()
        with torch.no_grad():
            self._update(batch, first_moment, second_moment)
        if axes.mean_over_batch:
            return mean.view(-1), variance.view(-1)
        return mean.squeeze(2), variance.squeeze(2)

    def _update(self, batch: int | Tensor, mean: Tensor, second_moment: Tensor) -> None:
        self.samples += batch
        share = 1 - (1 - self.momentum) ** (batch / REFERENCE_BATCH)
        weight = torch.clamp(batch / self.samples.double(), min=share)
        self.running_mean.lerp_(mean, weight)
        self.running_second_moment.lerp_(second_moment, weight)


def _over_processes(
    batch: int, mean: Tensor, second_moment: Tensor, sum_over_processes: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (samples, mean, second moment) over all processes, given those of this one; float64 moments, (1,) or (C,).

    What is summed is the number of samples, and per sample the sums of the values and of their squares.
    """
    mine = torch.cat([mean.new_full((1,), batch), batch * mean, batch * second_moment])
    count, sums, squares = torch.split(sum_over_processes(mine), [1, mean.numel(), second_moment.numel()])
    return count.detach().round().long().view(()), sums / count, squares / count


def _extent(values: Tensor, axes: tuple[int, ...]) -> int:
    count = 1
    for axis in axes:
        count *= values.shape[axis]
    return count


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
