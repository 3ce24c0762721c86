"""The network whose parameters are the moving average of those of a training.

Axis letters: C channels, H height, W width, N images.
"""

import copy
import math
from typing import final

import torch
from torch import Tensor

from maqd_snn.diagnosis import recalibrate
from maqd_snn.graph import SpikingNetwork

IMAGES = 2048  # that statistics are taken of
AT_ONCE = 512


def decay_at(decay: float, taken: int) -> float:
    """Return min(decay, (1 + t)/(10 + t)), the decay of step t = `taken`, from 1.

    Until the step at which `decay` is the smaller one, the average reaches back over about a ninth of the steps so far,
    so that it soon forgets where the training began.

    >>> [round(decay_at(0.99, taken), 3) for taken in (1, 90, 5000)]
    [0.182, 0.91, 0.99]
    """
    return min(decay, (1 + taken) / (10 + taken))


@final
class Average:
    """The exponential moving average A <- d*A + (1 - d)*p of the parameters p of a network, d as in `decay_at`.

    `network` is the one that has the averages as its parameters. Its weights are standardized and rounded as any
    network's are, to codes that no step of the training need have had. So the running statistics of its normalizations
    are neither the training's nor an average of them: they are taken anew, see `take_statistics`.
    """

    def __init__(self, model: SpikingNetwork, decay: float) -> None:
        self.network, self.decay = copy.deepcopy(model).eval(), decay

    @torch.no_grad()
    def update(self, model: SpikingNetwork, taken: int) -> None:
        """Take in the parameters after step `taken`, counted from 1."""
        share = 1 - decay_at(self.decay, taken)
        for average, parameter in zip(self.network.parameters(), model.parameters(), strict=True):
            average.lerp_(parameter, share)

    def take_statistics(self, codes: Tensor, labels: Tensor, order: Tensor) -> None:
        """Set the running statistics to those of the first training images of the order, unaugmented.

        Args:
            codes, labels: of all training images, (N, C, H, W) and (N,). order: numbers of images.
        """
        chosen = order[:IMAGES].to(codes.device)
        parts = chosen.tensor_split(math.ceil(len(chosen) / AT_ONCE))  # none much smaller than the others
        recalibrate(self.network, ((codes[part], labels[part]) for part in parts))
