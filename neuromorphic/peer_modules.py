"""The integer network as plain torch modules, for tools that count on modules. It reads nothing but the network.

Axis letters: B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.ops import Op


class Levels(nn.Module):
    """A threshold op: level = low + number of thresholds reached, per channel."""

    thresholds: Tensor
    direction: Tensor

    def __init__(self, op: ops.Threshold) -> None:
        super().__init__()
        self.low = op.low
        # Constants, no parameters: tools that weigh a model by its buffers should not count them as weights.
        self.register_buffer("thresholds", op.thresholds.double(), persistent=False)
        self.register_buffer("direction", op.direction.double(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the levels of accumulators (B, C) or (B, C, H, W)."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        direction = self.direction.to(x.dtype)
        turned = x * direction.view(shape)
        level = torch.full_like(x, self.low)
        for threshold in (self.thresholds.to(x.dtype) * direction[:, None]).T:
            level += turned >= threshold.view(shape)
        return level


class MaxPool(nn.Module):
    """A max-pool of levels; padding is minus infinity."""

    def __init__(self, op: ops.MaxPool2d) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        """Return the maxima of windows."""
        return F.max_pool2d(x, self.op.kernel, self.op.stride, self.op.padding)


class SumPool(nn.Module):
    """A sum-pool; padding is zero."""

    def __init__(self, op: ops.SumPool2d) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        """Return the sums of windows."""
        kernel = self.op.kernel
        return F.avg_pool2d(x, kernel, self.op.stride, self.op.padding, divisor_override=1)


class Sum(nn.Module):
    """A residual sum."""

    def forward(self, *values: Tensor) -> Tensor:
        """Return the sum of two or more tensors of one shape."""
        return torch.stack(values).sum(0)


class Bias(nn.Module):
    """The integer class bias of the readout."""

    bias: Tensor

    def __init__(self, op: ops.Readout) -> None:
        super().__init__()
        self.register_buffer("bias", op.bias.double(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores."""
        return x + self.bias.to(x.dtype)


def _convolution(op: ops.Conv2d) -> nn.Module:
    outputs, inputs, height, width = op.weight.shape
    module = nn.Conv2d(
        inputs * op.groups, outputs, (height, width), op.stride, op.padding, op.dilation, op.groups, bias=False
    )
    module.weight.data = op.weight.to(module.weight.dtype)
    return module


def _linear(op: ops.Linear) -> nn.Module:
    module = nn.Linear(op.weight.shape[1], op.weight.shape[0], bias=False)
    module.weight.data = op.weight.to(module.weight.dtype)
    return module


MODULES: Mapping[type[Op], Callable[[Any], nn.Module]] = MappingProxyType(
    {
        ops.Conv2d: _convolution,
        ops.Linear: _linear,
        ops.Threshold: Levels,
        ops.MaxPool2d: MaxPool,
        ops.SumPool2d: SumPool,
        ops.Add: lambda op: Sum(),
        ops.Flatten: lambda op: nn.Flatten(),
        ops.Readout: Bias,
    }
)


class TorchNetwork(nn.Module):
    """The whole network: integer codes in, class scores out, each op one module.

    Args:
        net: the integer network.

    Attributes:
        parts: the modules in order; `names` are their ops.

    Raises:
        MaqdError: an op without a module.
    """

    def __init__(self, net: IntegerNetwork) -> None:
        super().__init__()
        self.source = net.input
        self.graph = [op for op in net.ops if not isinstance(op, ops.Input)]
        for op in self.graph:
            if type(op) not in MODULES:
                raise MaqdError(f"{op.name}: there is no torch module for a {type(op).__name__}")
        self.names = [op.name for op in self.graph]
        self.parts = nn.ModuleList([MODULES[type(op)](op) for op in self.graph])
        self.requires_grad_(False)
        self.eval()

    def forward(self, codes: Tensor) -> Tensor:
        """Return class scores, integers held in the floating type of the weights, exact below its largest integer."""
        kind = next((p.dtype for p in self.parameters()), torch.float64)
        values = {self.source.name: codes.to(kind) - self.source.zero_point}
        for op, part in zip(self.graph, self.parts, strict=True):
            values[op.name] = part(*(values[name] for name in op.inputs))
        return values[self.names[-1]]


def as_torch(net: IntegerNetwork, dtype: torch.dtype = torch.float64) -> TorchNetwork:
    """Return the network as plain torch modules; in float64 every sum is exact.

    >>> net = IntegerNetwork([ops.Input("i", shape=(2,), high=3), ops.Linear("fc", ("i",), torch.tensor([[1, -2]]))])
    >>> as_torch(net)(torch.tensor([[3, 1]])).tolist()
    [[1.0]]
    """
    return TorchNetwork(net).to(dtype)
