"""What a training step keeps of integers for its backward pass: as few bits as their range needs.

Axis letters: B batch; the other axes are free.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from maqd_snn.errors import MaqdError
from maqd_snn.pieces import by_pieces


@dataclass(frozen=True)
class Span:
    """The integers low..high that a value can take. A value that is not integer valued has the span None."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise MaqdError(f"a span must have low <= high, got {self.low}..{self.high}")

    @property
    def bits(self) -> int | None:
        """Bits of one packed value, 1, 2, 4 or 8; None where the span has more than 256 values."""
        return next((bits for bits in (1, 2, 4, 8) if self.high - self.low < 2**bits), None)

    @property
    def dtype(self) -> torch.dtype:
        """The smallest type that holds the integers themselves: uint8, int8, int16, else float32.

        >>> Span(0, 1).dtype, Span(-3, 3).dtype, Span(-576, 576).dtype, Span(-40_000, 40_000).dtype
        (torch.uint8, torch.int8, torch.int16, torch.float32)
        """
        for dtype in (torch.uint8, torch.int8, torch.int16):
            info = torch.iinfo(dtype)
            if info.min <= self.low and self.high <= info.max:
                return dtype
        return torch.float32


def keep(x: Tensor, span: Span | None) -> Tensor:
    """Return x in as few bits as the span needs.

    Spans of up to 256 values become bytes of x - low, several values to a byte where the batch can be divided: byte b
    holds the samples b, b + B', b + 2B', ... of B' = B*bits/8. Others become int16 where it holds them. Values without
    a span, or with a larger one, stay as they are.

    Args:
        x: (B, ...), integers of the span in any type.
        span: range of the values; None where they are no integers.

    >>> keep(torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]), Span(0, 1)).tolist()
    [193]
    """
    if span is None:
        return x
    if span.bits is None:
        narrow = span.dtype
        return _narrow(x) if narrow == torch.int16 and x.dtype.itemsize > 2 else x
    low = span.low
    (byte,) = by_pieces(lambda x: ((x if low == 0 else x.float() - low).to(torch.uint8),), x)
    if span.bits == 8 or len(x) % (8 // span.bits):
        return byte
    packed: Tensor = _pack(byte, span.bits)
    return packed


# Operators, so that torch.compile leaves them as they are: fused into a kernel of floats, shifts of bytes and 16-bit
# integers keep all of it from being vectorized.
@torch.library.custom_op("maqd_snn::narrow", mutates_args=())
def _narrow(x: Tensor) -> Tensor:
    return x.to(torch.int16)


@_narrow.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=torch.int16)


@torch.library.custom_op("maqd_snn::widen", mutates_args=())
def _widen(kept: Tensor) -> Tensor:
    return kept.to(torch.float32)


@_widen.register_fake
def _(kept: Tensor) -> Tensor:
    return torch.empty_like(kept, dtype=torch.float32)


@torch.library.custom_op("maqd_snn::pack", mutates_args=())
def _pack(x: Tensor, bits: int) -> Tensor:
    per_byte = 8 // bits
    parts = x.view(per_byte, len(x) // per_byte, *x.shape[1:])
    packed = parts[0].clone(memory_format=torch.preserve_format)
    for index in range(1, per_byte):
        packed.add_(parts[index], alpha=2 ** (index * bits))
    return packed


@_pack.register_fake
def _(x: Tensor, bits: int) -> Tensor:
    return torch.empty_like(x[: len(x) * bits // 8])


@torch.library.custom_op("maqd_snn::unpack", mutates_args=())
def _unpack(packed: Tensor, bits: int) -> Tensor:
    per_byte = 8 // bits
    x = torch.cat([packed] * per_byte)
    for index, part in enumerate(x.view(per_byte, *packed.shape)):
        part.bitwise_right_shift_(index * bits)
    return x.bitwise_and_(2**bits - 1)


@_unpack.register_fake
def _(packed: Tensor, bits: int) -> Tensor:
    return torch.empty_like(torch.cat([packed] * (8 // bits)))


def restore(kept: Tensor, span: Span | None, batch: int, dtype: torch.dtype | None) -> Tensor:
    """Return the values that `keep` was given, in `dtype`; with None as uint8 or int16 where it holds them so.

    Compiled code is given no int16: see `_narrow`. What `keep` does not hold so is float32 with None.

    >>> restore(torch.tensor([193], dtype=torch.uint8), Span(0, 1), 8, torch.float32).tolist()
    [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    """
    if span is None or span.bits is None:
        if kept.dtype != torch.int16:
            return kept.to(dtype or torch.float32)
        return kept if dtype is None and not torch.compiler.is_compiling() else _widen(kept).to(dtype or torch.float32)
    if len(kept) != batch:
        kept = _unpack(kept, span.bits)
    if dtype is None and span.low == 0:
        return kept
    values = kept.to(dtype or torch.float32)
    return values if span.low == 0 else values.add_(span.low)
