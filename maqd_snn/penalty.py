"""A price on spikes in training: the share of connections that carry one, as a differentiable estimate.

    S = 1/(B D) * sum over products l fed by spikes, samples and positions:  F_l(position) * |v| / m_l

v is the level that arrives at the product (behind any pooling), m_l the largest that can, F_l the fan-out of its
position (stride, padding, dilation and groups included), D the dense MACs of those products. With two states and
max-pools |v|/m is 0 or 1 and S is exactly SynOps / dense MACs; a graded level k of n counts as k/n of an event, so that
a step down pulls towards silence: min(1, k), the exact count, has no slope above the first level. Its gradient with
respect to v goes on through pools and the surrogate as the loss's own does. What the loss is given is
penalty * max(0, S - target): below the target spikes are free.

Axis letters: B batch, C channels, H height, W width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Pair = tuple[int, int]


def taps(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[int, ...]:
    """Return, for each input position of one axis, how many (output, tap) pairs of a convolution read it.

    >>> taps(4, 4, 3, 1, 1, 1), taps(5, 2, 3, 2, 0, 1)
    ((2, 3, 3, 2), (1, 1, 2, 1, 1))
    """
    counts = [0] * size
    for place in range(out):
        for tap in range(kernel):
            at = place * stride - padding + tap * dilation
            if 0 <= at < size:
                counts[at] += 1
    return tuple(counts)


@dataclass(frozen=True)
class Fee:
    """What the values that arrive at one product cost.

    Attributes:
        rows, columns: `taps` of both axes; (1,) and (1,) for a matrix product. channels: outputs that one input channel
        reaches. largest: m. amount: what one connection with a value of m costs: penalty / D.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    channels: int
    largest: int
    amount: float = 0.0

    @property
    def connections(self) -> int:
        """Connections of one input channel: its dense MACs."""
        return sum(self.rows) * sum(self.columns) * self.channels

    def cost(self, x: Tensor) -> Tensor:
        """Return penalty times the part of S that the values x have, (B, C, H, W) or (B, I)."""
        return (self.gradient(x) * x.float()).sum()

    def gradient(self, x: Tensor) -> Tensor:
        """Return d(penalty * S)/dx for the values x, (B, C, H, W) or (B, I)."""
        scale = self.amount * self.channels / (self.largest * len(x))
        of = x.float().sign() * scale
        if x.ndim == 2:
            return of
        rows = torch.tensor(self.rows, dtype=torch.float32, device=x.device)
        columns = torch.tensor(self.columns, dtype=torch.float32, device=x.device)
        return of * (rows[:, None] * columns)
