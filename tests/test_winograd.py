"""The weight gradient by Winograd's algorithm, against the direct one in float64."""

import pytest
import torch
from torch import Tensor

from maqd_snn import winograd
from maqd_snn.winograd import pays, weight_gradient


def direct(x: Tensor, grad: Tensor, padding: tuple[int, int]) -> Tensor:
    weight = torch.zeros(grad.shape[1], x.shape[1], 3, 3, dtype=torch.float64)
    rest = (None, [1, 1], list(padding), [1, 1], False, [0, 0], 1, (False, True, False))
    found: Tensor = torch.ops.aten.convolution_backward(grad.double(), x.double(), weight, *rest)[1]
    return found


def operands(batch: int, inputs: int, outputs: int, size: tuple[int, int], padding: tuple[int, int]):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-3, 4, (batch, inputs, *size), generator=generator)
    grown = [n + 2 * p - 2 for n, p in zip(size, padding, strict=True)]
    return x, torch.randint(-8, 9, (batch, outputs, *grown), generator=generator).float()


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 1)], ids=str)
@pytest.mark.parametrize("size", [(3, 3), (6, 8), (7, 6), (6, 5), (9, 7)], ids=str)
@pytest.mark.parametrize("batch", [1, 5])
def test_it_is_exact_for_integers(batch: int, size, padding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of small integers and quarters are exact in float32. Blocks of two samples leave a shorter one at last."""
    x, grad = operands(batch, 3, 5, size, padding)
    monkeypatch.setattr(winograd, "_block", lambda *_: 2)
    assert torch.equal(weight_gradient(x, grad, padding).double(), direct(x, grad, padding))


@pytest.mark.parametrize("channels_last", [False, True])
def test_it_rounds_no_more_than_sums_do(channels_last: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, (70, 48, 12, 12), generator=generator).float()
    grad = torch.randn(70, 32, 12, 12, generator=generator)
    if channels_last:
        x, grad = (t.to(memory_format=torch.channels_last) for t in (x, grad))
    truth = direct(x, grad, (1, 1))
    error = (weight_gradient(x, grad, (1, 1)) - truth).abs().max() / truth.abs().max()
    assert float(error) < 2e-6


def test_torch_accepts_the_operator() -> None:
    x, grad = operands(3, 4, 2, (6, 5), (1, 1))
    tests = ("test_schema", "test_faketensor")
    assert set(torch.library.opcheck(weight_gradient, (x, grad, [1, 1]), test_utils=tests).values()) == {"SUCCESS"}


def test_where_it_takes_the_place_of_the_direct_one() -> None:
    one, three = (1, 1), (3, 3)
    assert pays((32, 64), three, one, one)
    assert not pays((3, 64), three, one, one)
    assert not pays((64, 64), (5, 5), one, one)
    assert not pays((64, 64), three, (2, 2), one)
    assert not pays((64, 64), three, one, (2, 2))
