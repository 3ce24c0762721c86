"""Surrogate gradients: the derivative of a staircase of levels as a sum of single-step surrogates.

Axis letters: none here, everything is elementwise. u is the distance to a threshold in units of one level.
"""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from maqd_snn.errors import MaqdError, unknown_name


@runtime_checkable
class Surrogate(Protocol):
    """A single-step surrogate: `derivative(u)` stands for the derivative of the unit step H(u)."""

    def derivative(self, u: Tensor) -> Tensor:
        """Return h(u), elementwise."""


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise MaqdError(f"surrogate parameter {name} must be a finite number above 0, got {value}")


@dataclass(frozen=True)
class Rectangle:
    """h(u) = 1/w for -w/2 <= u < w/2, else 0. Half open, so that neighbouring steps of width 1 do not overlap."""

    width: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("width", self.width)

    def derivative(self, u: Tensor) -> Tensor:
        inside = (u >= -self.width / 2) & (u < self.width / 2)
        return inside.to(u.dtype) / self.width


@dataclass(frozen=True)
class Triangle:
    """h(u) = max(0, 1 - |u|/w) / w."""

    width: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("width", self.width)

    def derivative(self, u: Tensor) -> Tensor:
        return (1 - u.abs() / self.width).clamp_min(0) / self.width


@dataclass(frozen=True)
class Sigmoid:
    """h(u) = alpha * sigmoid(alpha u) * (1 - sigmoid(alpha u))."""

    alpha: float = 4.0

    def __post_init__(self) -> None:
        _check_positive("alpha", self.alpha)

    def derivative(self, u: Tensor) -> Tensor:
        s = torch.sigmoid(self.alpha * u)
        return self.alpha * s * (1 - s)


@dataclass(frozen=True)
class ArcTan:
    """h(u) = (alpha/2) / (1 + (pi/2 * alpha u)^2)."""

    alpha: float = 2.0

    def __post_init__(self) -> None:
        _check_positive("alpha", self.alpha)

    def derivative(self, u: Tensor) -> Tensor:
        return (self.alpha / 2) / (1 + (math.pi / 2 * self.alpha * u).square())


@dataclass(frozen=True)
class S3NN:
    """h(u) = alpha*sigmoid(alpha u)*(1 - sigmoid(alpha u)) for u < 0, and beta/(u + 1) for u >= 0.

    Source: S3NN (Suetake et al., arXiv 2201.10879); defaults alpha = 4, beta = 1 as in public implementations.
    """

    alpha: float = 4.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("alpha", self.alpha)
        _check_positive("beta", self.beta)

    def derivative(self, u: Tensor) -> Tensor:
        s = torch.sigmoid(self.alpha * u)
        return torch.where(u < 0, self.alpha * s * (1 - s), self.beta / (u.clamp_min(0) + 1))


@dataclass(frozen=True)
class External:
    """A surrogate from another library: a callable with its own backward, such as snnTorch's or SpikingJelly's.

    Only its backward is used, once per level; the forward is always the round-clip (theirs breaks ties otherwise).
    """

    function: Callable[[Tensor], Tensor]
    key: int = field(init=False, repr=False, compare=False)  # where compiled code finds the callable

    def __post_init__(self) -> None:
        _CALLABLES[id(self.function)] = self.function
        object.__setattr__(self, "key", id(self.function))

    def derivative(self, u: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            h: Tensor = _opaque_derivative(u, self.key)
            return h
        return _derivative_of(self.function, u)


def _derivative_of(function: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = u.detach().requires_grad_()
        out = function(leaf)
        if not isinstance(out, Tensor) or out.shape != u.shape or not out.requires_grad:
            raise MaqdError(
                f"a surrogate callable must map a tensor to a differentiable tensor of the same shape, but "
                f"{function!r} did not; pass for example snntorch.surrogate.atan() or "
                "spikingjelly.activation_based.surrogate.ATan()"
            )
        (h,) = torch.autograd.grad(out.sum(), leaf)
    return h


# Compiled code cannot trace another library's autograd function. It calls an operator instead, which finds the callable
# by its key.
_CALLABLES: dict[int, Callable[[Tensor], Tensor]] = {}


@torch.library.custom_op("maqd_snn::surrogate_derivative", mutates_args=())
def _opaque_derivative(u: Tensor, key: int) -> Tensor:
    # An operator runs below autograd; a thread of its own stands above it again.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_derivative_of, _CALLABLES[key], u).result().clone(memory_format=torch.preserve_format)


@_opaque_derivative.register_fake
def _(u: Tensor, key: int) -> Tensor:
    return torch.empty_like(u)


@dataclass(frozen=True)
class Widened:
    """h(u) = base(u/w)/w: another surrogate w times as wide and 1/w as high, so that its area stays.

    >>> Widened(Sigmoid(4.0), 2.0).derivative(torch.zeros(1)).tolist()
    [0.5]
    """

    base: Surrogate
    width: float

    def __post_init__(self) -> None:
        _check_positive("width", self.width)

    def derivative(self, u: Tensor) -> Tensor:
        return self.base.derivative(u / self.width) / self.width


def widened(surrogate: Surrogate, width: float) -> Surrogate:
    """Return the surrogate made `width` times as wide; with width 1 it is the same.

    >>> widened(Triangle(), 2.0), widened(ArcTan(), 1.0)
    (Triangle(width=2.0), ArcTan(alpha=2.0))
    """
    _check_positive("width", width)
    if width == 1:
        return surrogate
    if isinstance(surrogate, Rectangle | Triangle):
        return replace(surrogate, width=surrogate.width * width)
    return Widened(surrogate, width)


@final
class Annealed(nn.Module):
    """h(u) = base(u/w)/w, as `Widened`, with a width w that may be changed between two steps: `width.fill_(w)`.

    The width is a tensor, so that compiled code reads it anew. It moves with the model and is no part of its state.

    Raises:
        MaqdError: a width that is not a finite number above 0.

    >>> surrogate = Annealed(Triangle(), 2.0)
    >>> before = surrogate.derivative(torch.zeros(1)).item()
    >>> _ = surrogate.width.fill_(1.0)
    >>> before, surrogate.derivative(torch.zeros(1)).item()
    (0.5, 1.0)
    """

    width: Tensor

    def __init__(self, base: Surrogate, width: float) -> None:
        super().__init__()
        _check_positive("width", width)
        self.base = base
        self.register_buffer("width", torch.tensor(float(width)), persistent=False)

    def extra_repr(self) -> str:
        return f"{self.base}, width={float(self.width)}"

    def derivative(self, u: Tensor) -> Tensor:
        return self.base.derivative(u / self.width) / self.width


SURROGATES: Mapping[str, Callable[[], Surrogate]] = MappingProxyType(
    {"rectangle": Rectangle, "triangle": Triangle, "sigmoid": Sigmoid, "arctan": ArcTan, "s3nn": S3NN}
)


def as_surrogate(spec: str | Surrogate | Callable[[Tensor], Tensor]) -> Surrogate:
    """Return the surrogate for a name of `SURROGATES`, a `Surrogate`, or a callable of another library.

    Raises:
        MaqdError: an unknown name (the choices are listed), or something that cannot be called.

    >>> as_surrogate("triangle")
    Triangle(width=1.0)
    """
    if isinstance(spec, str):
        if spec not in SURROGATES:
            raise unknown_name("surrogate", spec, SURROGATES)
        return SURROGATES[spec]()
    if isinstance(spec, type):
        raise MaqdError(f"a surrogate must be an instance, got the class {spec.__name__}; write {spec.__name__}()")
    if isinstance(spec, Surrogate):
        return spec
    if callable(spec):
        return External(spec)
    raise MaqdError(f"a surrogate must be a name, a Surrogate or a callable, got {type(spec).__name__}")


def staircase_derivative(v: Tensor, low: int, high: int, surrogate: Surrogate) -> Tensor:
    """Return the derivative of the staircase clip(floor(v + 1/2), low, high).

    It is the sum over j = low+1..high of h(v - j + 1/2). With v = n*x, low = 0 and high = n this is
    sum_j h(n x - j + 1/2).

    >>> v = torch.tensor([-0.1, 0.2, 2.9, 3.1])
    >>> staircase_derivative(v, 0, 3, Rectangle()).tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    if isinstance(surrogate, Rectangle) and surrogate.width == 1.0:
        # The unit rectangles tile the range of the levels: one comparison instead of one per level.
        return ((v >= low) & (v < high)).to(v.dtype)
    total = surrogate.derivative(v - (low + 0.5))
    for j in range(low + 2, high + 1):
        total = total + surrogate.derivative(v - (j - 0.5))
    return total
