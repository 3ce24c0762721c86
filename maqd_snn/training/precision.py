"""The training forward of a network in a chosen precision, compiled or not.

Axis letters: B batch, C channels, H height, W width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from maqd_snn.errors import unknown_name
from maqd_snn.graph import SpikingNetwork, Watch
from maqd_snn.layers import QuantizedProduct


@dataclass(frozen=True)
class Precision:
    """In which numbers the products of a training step run; parameters, statistics and gradients stay float32.

    `autocast` is the type of the products, or None for float32.
    """

    text: str
    autocast: torch.dtype | None = None


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        "fp32": Precision("float32 throughout"),
        "bf16-mixed": Precision("products in bfloat16: operands exact, sums above 256 rounded", torch.bfloat16),
    }
)

LARGEST_EXACT_BF16 = 256


class TrainingForward(nn.Module):
    """codes (B, C, H, W) -> logits (B, classes) of the model in training mode; see `prepare`.

    `rounded_shares` holds, for every product of a bf16 step that was watched, the share of its sums above 256, which
    bfloat16 rounds.
    """

    def __init__(self, model: SpikingNetwork, precision: str, compiled: bool) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
        self.model = model
        self.precision = PRECISIONS[precision]
        self.compiled = compiled
        self.rounded_shares: dict[str, float] = {}

    def forward(self, codes: Tensor, watch: Watch | None = None) -> Tensor:
        dtype = self.precision.autocast
        if dtype is not None and watch is not None:
            watch = self._noting_rounded(watch)
        with torch.autocast(codes.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            logits: Tensor = self.model(codes, watch)
        return logits.float()

    def _noting_rounded(self, watch: Watch) -> Watch:
        def noting(name: str, output: Tensor) -> None:
            if name in self.model.names and isinstance(self.model.part(name), QuantizedProduct):
                self.rounded_shares[name] = float((output.abs() > LARGEST_EXACT_BF16).float().mean())
            watch(name, output)

        return noting


def prepare(model: SpikingNetwork, precision: str = "fp32", compiled: bool = False) -> TrainingForward:
    """Return the training forward of the model: (codes, watch or None) -> logits, on the device of the model.

    It is a module that holds the model, so that it can be handed to DistributedDataParallel. The model must be in
    training mode. A call with `watch` runs uncompiled, since it hands out every node's output.

    Args:
        precision: a name of `PRECISIONS`.
        compiled: run through `torch.compile`.

    Raises:
        MaqdError: an unknown precision.

    >>> from maqd_snn import build
    >>> model = build("mlp", input_shape=(1, 4, 4), classes=3, plan="8")
    >>> prepare(model, "fp32")(torch.randint(0, 256, (5, 1, 4, 4))).shape
    torch.Size([5, 3])
    """
    return TrainingForward(model, precision, compiled)
