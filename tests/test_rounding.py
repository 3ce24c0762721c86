"""The scaled round-clip: halves go up, exactly, everywhere."""

from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maqd_snn.errors import MaqdError
from maqd_snn.rounding import round_clip, round_clip_codes, round_half_up

HALVES = torch.arange(-64, 64) + 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_half_goes_up_where_torch_rounds_to_even(dtype) -> None:
    v = HALVES.to(dtype)
    assert torch.equal(round_half_up(v), v + 0.5)
    assert bool((torch.round(v) != v + 0.5).any())  # so this test can tell the two apart


@given(st.integers(-(2**20), 2**20))
def test_equals_exact_half_up_on_eighths(eighths: int) -> None:
    v = torch.tensor(eighths / 8, dtype=torch.float64)
    assert int(round_half_up(v)) == floor(Fraction(eighths, 8) + Fraction(1, 2))


@given(
    v=st.integers(-4000, 4000).map(lambda k: Fraction(k, 32)),
    step=st.sampled_from([Fraction(1, 4), Fraction(1, 2), Fraction(1), Fraction(2), Fraction(8)]),
    low=st.integers(-9, 3),
    width=st.integers(1, 20),
)
def test_round_clip_equals_the_formula_in_exact_arithmetic(v, step, low, width) -> None:
    code = min(max(floor(v / step + Fraction(1, 2)), low), low + width)
    tensor = torch.tensor(float(v))
    assert Fraction(float(round_clip_codes(tensor, float(step), low, low + width))) == code
    assert Fraction(float(round_clip(tensor, float(step), low, low + width))) == step * code


@pytest.mark.parametrize("n", [1, 2, 3, 7, 15, 255])
def test_activation_reaches_every_level_and_no_other(n: int) -> None:
    x = torch.linspace(-1, 2, 30 * n + 1, dtype=torch.float64)
    assert round_clip_codes(x, 1 / n, 0, n).unique().tolist() == list(range(n + 1))
    assert round_clip_codes(x * 2, 1 / n, -n, n).unique().tolist() == list(range(-n, n + 1))


def test_gradient_is_straight_through_inside_and_zero_outside() -> None:
    # Codes -1..2 with step 0.5: inside means -0.75 <= v < 1.25.
    v = torch.tensor([-0.76, -0.75, 0.1, 1.2499, 1.25, 9.0], requires_grad=True)
    round_clip_codes(v, 0.5, -1, 2).sum().backward()
    assert v.grad.tolist() == [0.0, 2.0, 2.0, 2.0, 0.0, 0.0]
    v.grad = None
    round_clip(v, 0.5, -1, 2).sum().backward()
    assert v.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]


def test_input_is_not_changed() -> None:
    v = torch.tensor([-5.0, 0.25, 5.0])
    round_clip(v, 0.5, 0, 2)
    assert v.tolist() == [-5.0, 0.25, 5.0]


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan")])
def test_step_must_be_positive(step: float) -> None:
    with pytest.raises(MaqdError, match=r"round_clip expects step > 0, got .*; use the distance"):
        round_clip(torch.zeros(1), step, 0, 1)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, -2)])
def test_range_must_not_be_empty(low: int, high: int) -> None:
    with pytest.raises(MaqdError, match=rf"expects low < high, got low={low}, high={high}"):
        round_clip(torch.zeros(1), 1.0, low, high)
