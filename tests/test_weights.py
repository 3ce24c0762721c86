"""Weight codes: every state count from 2 to 255, against the formulas of DESIGN.md written out again in NumPy."""

import math
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from maqd_snn.errors import MaqdError
from maqd_snn.weights import (
    balanced,
    check_weight_states,
    default_weight_step,
    largest_weight_code,
    scale_weights,
    standardize,
    weight_codes,
)

EVERY = range(2, 256)
Array = NDArray[np.float64]


def code_set(states: int) -> list[int]:
    return list(range(-(states // 2), states // 2 + 1)) if states % 2 else list(range(1 - states, states, 2))


def literal_codes(v: Array, states: int, step: float) -> Array:
    """The formulas as they stand in DESIGN.md."""
    if states % 2:
        m = (states - 1) // 2
        return np.clip(np.floor(v / step + 0.5), -m, m)
    return np.clip(2 * np.floor(v / (2 * step)) + 1, -(states - 1), states - 1)


@cache
def normal_grid() -> tuple[Array, Array]:
    v = np.linspace(0, 8, 30001)  # the codes are symmetric, so one half is enough
    return v, np.exp(-(v**2) / 2) * math.sqrt(2 / math.pi) * (v[1] - v[0])


def squared_error(states: int, step: float) -> float:
    """E[(v - s q(v))^2] for a unit normal v, summed over a grid."""
    v, weight = normal_grid()
    return float((weight * (v - step * literal_codes(v, states, step)) ** 2).sum())


@pytest.mark.parametrize("states", EVERY)
def test_code_set_is_exactly_the_states(states: int) -> None:
    step = default_weight_step(states)
    reach = 2 * states * step
    codes = weight_codes(torch.linspace(-reach, reach, 40 * states + 1, dtype=torch.float64), states)
    expected = code_set(states)
    assert codes.unique().tolist() == expected
    assert len(expected) == states
    assert [-code for code in reversed(expected)] == expected  # symmetric
    assert largest_weight_code(states) == max(expected)
    assert int(weight_codes(torch.zeros(()), states)) == (0 if states % 2 else 1)


@pytest.mark.parametrize("states", EVERY)
def test_codes_equal_the_formulas(states: int) -> None:
    rng = np.random.default_rng(states)
    step = default_weight_step(states)
    v = rng.normal(0, 1.5, 500)
    from_boundary = np.abs((v / step + (0.5 if states % 2 else 0)) % 1)
    v = v[(from_boundary > 1e-9) & (from_boundary < 1 - 1e-9)]
    np.testing.assert_array_equal(weight_codes(torch.from_numpy(v), states).numpy(), literal_codes(v, states, step))


@pytest.mark.parametrize("states", EVERY)
def test_ties_go_up(states: int) -> None:
    # With a step of 1/4 all boundaries are exact in floating point.
    ties = np.arange(-2 * states, 2 * states + 1) * 0.125
    for dtype in (torch.float32, torch.float64):
        got = weight_codes(torch.from_numpy(ties).to(dtype), states, step=0.25)
        np.testing.assert_array_equal(got.numpy(), literal_codes(ties, states, 0.25))


@pytest.mark.parametrize("states", EVERY)
def test_default_step_is_a_minimum_of_the_squared_error(states: int) -> None:
    step = default_weight_step(states)
    least = squared_error(states, step)
    assert least < squared_error(states, step * 0.97)
    assert least < squared_error(states, step * 1.03)


@pytest.mark.parametrize("states", [2, 3, 4, 5, 8, 15, 16, 33, 64])
def test_default_step_is_the_best_of_a_scan(states: int) -> None:
    scan = np.geomspace(0.02, 3.5, 200)
    errors = [squared_error(states, step) for step in scan]
    best = int(np.argmin(errors))
    assert scan[best - 1] < default_weight_step(states) < scan[best + 1]
    assert squared_error(states, default_weight_step(states)) <= errors[best] + 1e-9


# Level spacing of the best uniform quantizer of a unit normal: J. Max, "Quantizing for minimum distortion", 1960,
# table II.
MAX_1960 = {2: 1.596, 3: 1.224, 4: 0.9957, 5: 0.8430, 6: 0.7334, 7: 0.6508, 8: 0.5860, 16: 0.3352, 32: 0.1881}


@pytest.mark.parametrize(("states", "spacing"), MAX_1960.items())
def test_default_step_equals_the_published_table(states: int, spacing: float) -> None:
    step = default_weight_step(states)
    assert (step if states % 2 else 2 * step) == pytest.approx(spacing, abs=6e-5 if spacing < 1 else 6e-4)


@pytest.mark.parametrize("states", [2, 3, 4, 15, 16, 255])
def test_gradient_is_straight_through_inside_the_clip_range(states: int) -> None:
    step = 0.25
    edge = step * (largest_weight_code(states) + (0.5 if states % 2 else 1))
    v = torch.tensor([-edge - 0.01, -edge + 0.01, 0.0, edge - 0.01, edge + 0.01], requires_grad=True)
    weight_codes(v, states, step).sum().backward()
    assert v.grad.tolist() == [0.0, 4.0, 4.0, 4.0, 0.0]


@pytest.mark.parametrize("shape", [(4, 9), (5, 3, 3, 3), (2, 2)])
def test_standardize_equals_the_plain_formula(shape) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(3, 2, shape)
    flat = weight.reshape(shape[0], -1)
    expected = (flat - flat.mean(1, keepdims=True)) / (flat.std(1, ddof=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(standardize(torch.from_numpy(weight)).numpy(), expected.reshape(shape), rtol=1e-12)


def test_standardize_makes_a_constant_filter_zero() -> None:
    assert standardize(torch.full((2, 4), 0.5)).tolist() == [[0.0] * 4] * 2


def test_standardize_needs_two_weights() -> None:
    with pytest.raises(
        MaqdError, match=r"at least 2 weights in each output channel, got shape \(8, 1, 1, 1\); use fewer"
    ):
        standardize(torch.ones(8, 1, 1, 1))


@pytest.mark.parametrize("states", [1, 0, -3, 256, 2.0, True, "3", None])
def test_states_outside_the_range_are_refused(states) -> None:
    for function in (check_weight_states, largest_weight_code, default_weight_step):
        with pytest.raises(MaqdError, match=r"weight states must be a whole number from 2 to 255, got"):
            function(states)


def test_step_must_be_positive() -> None:
    with pytest.raises(MaqdError, match=r"expects step > 0"):
        weight_codes(torch.zeros(1), 3, step=0.0)


@pytest.mark.parametrize("states", [3, 4, 15])
@pytest.mark.parametrize("shared", [1, 6])
def test_the_gradient_of_a_learned_step_is_that_of_lsq_where_the_loss_sees_no_factor(states, shared):
    generator = torch.Generator().manual_seed(states)
    v, target = torch.randn(6, 40, generator=generator), torch.randn(6, 40, generator=generator)
    log_scale = (0.2 * torch.randn(shared, generator=generator)).requires_grad_()
    start = default_weight_step(states)
    q = weight_codes(scale_weights(v, log_scale), states, start)
    q.retain_grad()
    axes = (0, 1) if shared == 1 else (1,)  # of what the loss takes the scale out
    loss = (target * q / q.square().sum(axes, keepdim=True).sqrt()).sum()
    loss.backward()
    step = start * (-log_scale.detach()).exp().view(-1, 1)
    u = v / step
    half = 0.5 if states % 2 else 1.0
    top = largest_weight_code(states)
    inside = (u >= -top - half) & (u < top + half)
    of_step = q.grad * torch.where(inside, q.detach() - u, q.detach())
    expected = -of_step.sum(axes, keepdim=True).flatten()
    torch.testing.assert_close(log_scale.grad, expected, rtol=1e-4, atol=1e-5)
    assert float(expected.abs().max()) > 0.05


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("states", [2, 3, 4, 5])
def test_balanced_codes_are_the_nearest_ones_of_sum_zero(states: int, size: int) -> None:
    v = standardize(torch.randn(40, 1, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    step = default_weight_step(states)
    nearest, found = weight_codes(v, states).flatten(1), weight_codes(v, states, zero_sum=True).flatten(1)
    grid = torch.tensor(list(product(code_set(states), repeat=size)), dtype=torch.float64)
    odd = states % 2 == 0 and size % 2 == 1  # an odd number of odd codes has no sum of zero
    moved = 0
    for row, plain, codes in zip(v.flatten(1), nearest, found, strict=True):
        total = float(plain.sum())
        least = math.copysign(1.0, total) if odd else 0.0
        assert float(codes.sum()) == least
        among = grid[grid.sum(1) == least]
        best = (row - step * among).square().sum(1).min()
        assert (row - step * codes).square().sum() == pytest.approx(float(best), rel=1e-12)
        if total == least:
            assert torch.equal(codes, plain)
        moved += not torch.equal(codes, plain)
    assert moved


def test_balanced_codes_move_once_at_most_and_the_first_of_equals_first() -> None:
    v = torch.tensor([[0.6, 0.6, 0.6, -1.8], [-1.0, 1.0, 0.0, 0.0]])
    assert weight_codes(v, 3, 1.0, zero_sum=True).tolist() == [[0.0, 0.0, 1.0, -1.0], [-1.0, 1.0, 0.0, 0.0]]
    far = torch.tensor([[2.0] * 8 + [-7.0]])  # of sum 9 with only 8 codes that can move
    assert balanced(far, torch.tensor([[1.77] * 8 + [-14.0]]), 15).tolist() == [[1.0] * 8 + [-7.0]]
    assert balanced(torch.tensor([[1.0]]), torch.tensor([[0.7]]), 2).tolist() == [[1.0]]


def test_the_gradient_of_balanced_codes_is_that_of_the_nearest() -> None:
    v = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = torch.arange(27.0).view(3, 3, 3)
    (plain,) = torch.autograd.grad((weight_codes(v, 4) * weights).sum(), v)
    (other,) = torch.autograd.grad((weight_codes(v, 4, zero_sum=True) * weights).sum(), v)
    assert torch.equal(plain, other)
