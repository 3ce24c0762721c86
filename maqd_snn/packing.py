"""What a training step keeps of integers for its backward pass: as few bits as their range needs.

Axis letters: B batch; the other axes are free.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from maqd_snn.errors import MaqdError


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
        return x.to(narrow) if narrow.itemsize < x.dtype.itemsize else x
    byte = x.to(torch.uint8) if span.low == 0 else (x.to(torch.int16) - span.low).to(torch.uint8)
    per_byte = 8 // span.bits
    if per_byte == 1 or len(x) % per_byte:
        return byte
    parts = byte.view(per_byte, len(x) // per_byte, *byte.shape[1:])
    packed: Tensor = parts[0]
    for index in range(1, per_byte):
        packed = packed | (parts[index] << (index * span.bits))
    return packed


def restore(kept: Tensor, span: Span | None, batch: int, dtype: torch.dtype) -> Tensor:
    """Return the values that `keep` was given, in `dtype`.

    >>> restore(torch.tensor([193], dtype=torch.uint8), Span(0, 1), 8, torch.float32).tolist()
    [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    """
    if span is None or span.bits is None:
        return kept.to(dtype)
    if len(kept) != batch:
        shifts = torch.arange(0, 8, span.bits, dtype=torch.uint8, device=kept.device)
        spread = kept.unsqueeze(0) >> shifts.view(-1, *(1,) * kept.ndim)
        kept = (spread & (2**span.bits - 1)).flatten(0, 1)
    values = kept.to(dtype)
    return values if span.low == 0 else values + span.low
