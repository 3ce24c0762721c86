"""The ops of an integer network: small frozen records of integer tensors.

Axis letters: B batch, I input channels, O output channels, C channels, H height, W width, n thresholds per channel.
What an op computes stands in `execute.py` (torch) and `reference.py` (NumPy); its shape and bound in `geometry.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from maqd_snn.errors import MaqdError

Pair = tuple[int, int]


def check_codes(smallest: int, largest: int, low: int, high: int) -> None:
    """Raise MaqdError unless low <= smallest and largest <= high."""
    if smallest < low or largest > high:
        raise MaqdError(f"input codes must lie in {low}..{high}, got values in {smallest}..{largest}")


@dataclass(frozen=True, eq=False)
class Op:
    """An op: its name, and the names of the ops whose outputs it takes."""

    name: str
    inputs: tuple[str, ...]

    arity: ClassVar[int | None] = 1  # None: two or more

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise MaqdError(f"an op needs a name without '/', got {self.name!r}")
        if self.name == "." or "\0" in self.name:
            raise MaqdError(f"an op cannot be named {self.name!r}, which no file can hold; use another name")
        expected = "2 or more inputs" if self.arity is None else f"{self.arity} input(s)"
        if len(self.inputs) != self.arity if self.arity is not None else len(self.inputs) < 2:
            raise MaqdError(f"{self.name}: {type(self).__name__} takes {expected}, got {len(self.inputs)}")


def _integer(op: Op, field_name: str, ndim: int) -> None:
    # Keeps one integer type everywhere; a frozen record is set through object.__setattr__ during construction only.
    value = getattr(op, field_name)
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise MaqdError(f"{op.name}: {field_name} must be an integer tensor, got {kind}; fold the model first")
    if value.ndim != ndim or value.numel() == 0:
        raise MaqdError(f"{op.name}: {field_name} must have {ndim} axes and no empty one, got {tuple(value.shape)}")
    object.__setattr__(op, field_name, value.detach().to("cpu", torch.int64, copy=True).contiguous())


def _whole(op: Op, *field_names: str) -> None:
    for field_name in field_names:
        value = getattr(op, field_name)
        if type(value) is not int:
            raise MaqdError(f"{op.name}: {field_name} must be a whole number, got {value!r}")


def _pairs(op: Op, least: Mapping[str, int]) -> None:
    for field_name, smallest in least.items():
        value = getattr(op, field_name)
        if (
            not isinstance(value, tuple)
            or len(value) != 2
            or not all(type(size) is int and smallest <= size <= 2**31 for size in value)
        ):
            raise MaqdError(
                f"{op.name}: {field_name} must be two whole numbers of at least {smallest}, got {value!r}; circular, "
                "reflecting or named paddings are not part of an integer network"
            )


@dataclass(frozen=True, eq=False)
class Input(Op):
    """codes - zero_point, for codes (B, *shape) in low..high; `kind` is `analog` or `events`."""

    inputs: tuple[str, ...] = field(default=(), init=False)
    shape: tuple[int, ...]
    zero_point: int = 0
    low: int = 0
    high: int = 255
    kind: str = "analog"

    arity: ClassVar[int | None] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _whole(self, "zero_point", "low", "high")
        if len(self.shape) not in (1, 3) or any(type(size) is not int or size < 1 for size in self.shape):
            raise MaqdError(f"{self.name}: shape must be (C, H, W) or (features,), each at least 1, got {self.shape}")
        if self.kind not in ("analog", "events"):
            raise MaqdError(f"{self.name}: kind must be 'analog' or 'events', got {self.kind!r}")
        if not self.low <= self.zero_point <= self.high:
            raise MaqdError(f"{self.name}: zero_point must lie in {self.low}..{self.high}, got {self.zero_point}")


@dataclass(frozen=True, eq=False)
class Conv2d(Op):
    """Product sums of weight (O, I/groups, kh, kw) with zero padding; at the input, padding means code = zero point."""

    weight: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _integer(self, "weight", 4)
        _pairs(self, {"stride": 1, "padding": 0, "dilation": 1})
        _whole(self, "groups")
        if self.groups < 1 or self.weight.shape[0] % self.groups:
            raise MaqdError(f"{self.name}: {self.weight.shape[0]} channels cannot be split into {self.groups} groups")


@dataclass(frozen=True, eq=False)
class Linear(Op):
    """Product sums of weight (O, I)."""

    weight: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        _integer(self, "weight", 2)


@dataclass(frozen=True, eq=False)
class Threshold(Op):
    """level = low + number of thresholds reached, z >= theta where direction is +1 and z <= theta where it is -1.

    `thresholds` is (C, n), each row sorted (rising for +1, falling for -1); `direction` is (C,).
    """

    thresholds: Tensor
    direction: Tensor
    low: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _integer(self, "thresholds", 2)
        _integer(self, "direction", 1)
        _whole(self, "low")
        if self.direction.shape[0] != self.thresholds.shape[0] or not bool((self.direction.abs() == 1).all()):
            raise MaqdError(f"{self.name}: direction must hold +1 or -1 for each of {len(self.thresholds)} channels")
        oriented = self.thresholds * self.direction[:, None]
        if bool((oriented[:, 1:] < oriented[:, :-1]).any()):
            raise MaqdError(f"{self.name}: the thresholds of a channel must rise (direction +1) or fall (-1)")

    @property
    def levels(self) -> int:
        """Number of levels above `low`."""
        return self.thresholds.shape[1]


@dataclass(frozen=True, eq=False)
class _Pool2d(Op):
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _pairs(self, {"kernel": 1, "stride": 1, "padding": 0})
        if any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise MaqdError(f"{self.name}: padding must be at most half the kernel {self.kernel}, got {self.padding}")


@dataclass(frozen=True, eq=False)
class MaxPool2d(_Pool2d):
    """Maximum over windows; padding is minus infinity."""


@dataclass(frozen=True, eq=False)
class SumPool2d(_Pool2d):
    """Sum over windows; padding is zero."""


@dataclass(frozen=True, eq=False)
class Add(Op):
    """Sum of two or more inputs of one shape."""

    arity: ClassVar[int | None] = None


@dataclass(frozen=True, eq=False)
class Flatten(Op):
    """(B, C, H, W) -> (B, C*H*W)."""


@dataclass(frozen=True, eq=False)
class Readout(Op):
    """Class scores z + bias, (B, classes)."""

    bias: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        _integer(self, "bias", 1)


OPS: Mapping[str, type[Op]] = MappingProxyType(
    {kind.__name__: kind for kind in (Input, Conv2d, Linear, Threshold, MaxPool2d, SumPool2d, Add, Flatten, Readout)}
)
