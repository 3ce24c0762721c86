"""What is kept of integers comes back unchanged, and takes the bits that were promised."""

import pytest
import torch

from maqd_snn import MaqdError
from maqd_snn.packing import Span, keep, restore


@pytest.mark.parametrize(
    ("span", "batch", "bytes_per_value"),
    [
        (Span(0, 1), 16, 1 / 8),
        (Span(-1, 1), 16, 1 / 4),
        (Span(0, 3), 8, 1 / 4),
        (Span(0, 15), 4, 1 / 2),
        (Span(-127, 128), 3, 1),
        (Span(0, 255), 2, 1),
        (Span(0, 1), 7, 1),  # seven samples do not fill bytes
        (Span(-255, 0), 5, 1),
        (Span(0, 256), 5, 2),
        (Span(-32768, 32767), 5, 2),
        (Span(0, 32768), 5, 4),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_value_of_a_span_comes_back(span: Span, batch: int, bytes_per_value: float, layout) -> None:
    values = torch.linspace(span.low, span.high, batch * 3 * 4 * 5).round().view(batch, 3, 4, 5)
    values = values.contiguous(memory_format=layout)
    kept = keep(values, span)
    assert kept.numel() * kept.element_size() == values.numel() * bytes_per_value
    back = restore(kept, span, batch, torch.float32)
    assert torch.equal(back, values)
    assert back.is_contiguous(memory_format=layout)


def test_floats_stay_as_they_are() -> None:
    x = torch.randn(3, 4)
    assert keep(x, None) is x
    assert torch.equal(restore(x, None, 3, torch.float32), x)


def test_an_empty_span_is_refused() -> None:
    with pytest.raises(MaqdError, match=r"low <= high, got 3\.\.2"):
        Span(3, 2)
