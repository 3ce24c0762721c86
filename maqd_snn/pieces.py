"""Elementwise passes over a batch, one piece of it after the other, so that what they make on the way stays small.

Axis letters: B batch; the other axes are free.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# A piece of the first argument: its temporaries stay in a cache. A large batch has no more pieces than MOST, since on a
# GPU each costs the start of its kernels.
PIECE_BYTES = 2 * 2**20
MOST = 16

Tensors = tuple[Tensor, ...]


def by_pieces(function: Callable[..., Tensors], *values: Tensor, into: Sequence[Tensor] | None = None) -> Tensors:
    """Return function(*values), computed for one piece of the batch after the other.

    The call is one piece where autograd records, which keeps every temporary anyway, and in compiled code, which fuses
    the passes and makes none.

    Args:
        function: of tensors (B, ...), each result (B, ...) too and each sample of it that of the same samples.
        values: the first is (B, ...). Others that have not B samples are handed to every piece whole.
        into: tensors that take the results where there are several pieces; they may be among the values.

    >>> from unittest.mock import patch
    >>> x = torch.arange(6.0).view(3, 2)
    >>> with torch.no_grad(), patch("maqd_snn.pieces.PIECE_BYTES", 1):
    ...     by_pieces(lambda x, a: (a * x, torch.full_like(x[:, 0], len(x))), x, torch.tensor([10.0]))
    (tensor([[ 0., 10.],
            [20., 30.],
            [40., 50.]]), tensor([1., 1., 1.]))
    """
    batch = len(values[0])
    pieces = min(batch, MOST, -(-4 * values[0].numel() // PIECE_BYTES))  # as float32
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or pieces <= 1:
        return function(*values)
    whole = list(into) if into is not None else []
    size = -(-batch // pieces)
    for start in range(0, batch, size):
        piece = slice(start, start + size)
        found = function(*(value[piece] if len(value) == batch else value for value in values))
        if not whole:
            whole = [_like(part, batch) for part in found]
        for kept, part in zip(whole, found, strict=True):
            kept[piece] = part
    return tuple(whole)


def _like(part: Tensor, batch: int) -> Tensor:
    """Return an empty tensor for `batch` samples like these; images have their channels last."""
    layout = torch.channels_last if part.ndim == 4 else torch.contiguous_format
    return torch.empty((batch, *part.shape[1:]), dtype=part.dtype, device=part.device, memory_format=layout)
