"""Where a number that is not finite came from.

Axis letters: B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from maqd_snn.graph import SpikingNetwork, Watch

Forward = Callable[[Tensor, Watch | None], Tensor]


def first_not_finite(model: SpikingNetwork, forward: Forward, batches: Iterable[Tensor]) -> str | None:
    """Return the first layer whose weights or output are not finite in a forward pass of `batches`, in words, or None.

    Args:
        model: the network. forward: (codes, watch) -> logits, in the mode that is asked about; it is called again for
        each batch of codes (B, C, H, W).

    >>> from maqd_snn import build
    >>> model = build("mlp", input_shape=(1, 2, 2), classes=3, plan="4")
    >>> with torch.no_grad():
    ...     _ = model.part("spike1").norm.gain.fill_(torch.inf)
    >>> first_not_finite(model, model, [torch.zeros(2, 1, 2, 2).byte()])
    "the weights of 'spike1' are not finite"
    """
    for name in model.names:
        if not all(bool(parameter.isfinite().all()) for parameter in model.part(name).parameters()):
            return f"the weights of {name!r} are not finite"
    found: list[str] = []

    def watch(name: str, output: Tensor) -> None:
        if not found and not bool(output.isfinite().all()):
            found.append(name)

    with torch.no_grad():
        for codes in batches:
            forward(codes, watch)
            if found:
                return f"{found[0]!r} is the first layer whose output is not finite"
    return None


def first_too_large(model: SpikingNetwork) -> str | None:
    """Return the first layer whose finite weights have no finite sum, in words, or None.

    >>> from maqd_snn import build
    >>> model = build("mlp", input_shape=(1, 2, 2), classes=3, plan="4")
    >>> with torch.no_grad():
    ...     _ = model.part("fc1").weight.fill_(3e38)
    >>> first_too_large(model)
    "the weights of 'fc1' are so large that their sum is not finite"
    """
    for name in model.names:
        if not all(bool(parameter.sum().isfinite()) for parameter in model.part(name).parameters()):
            return f"the weights of {name!r} are so large that their sum is not finite"
    return None


def first_gradient_not_finite(model: SpikingNetwork) -> str | None:
    """Return the layer whose gradient was the first to be not finite on the way back, in words, or None.

    Gradients arise from the last layer to the first.
    """
    for name in reversed(model.names):
        for parameter in model.part(name).parameters():
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                return f"{name!r} is the first layer on the way back whose gradient is not finite"
    return None
