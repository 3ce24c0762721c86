"""The affine map of a QONNX Quant node against brute force over every accumulator."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maqd_snn.folding import bisect_thresholds
from maqd_snn.neuromorphic.quant_fit import fit_quant


def brute_force_levels(thresholds, direction, low, bound):
    """Levels (C, 2*bound + 1) straight from the definition of a Threshold."""
    z = np.arange(-bound, bound + 1)
    reached = np.where(
        direction[:, None, None] > 0, z[:, None] >= thresholds[:, None, :], z[:, None] <= thresholds[:, None, :]
    )
    return low + reached.sum(2)


def quant_node(fit, low, high, bound):
    """What Mul, Add, Clip and Quant compute, one float32 operation at a time."""
    z = np.arange(-bound, bound + 1, dtype=np.float32)
    y = np.multiply(z[None], fit.multiplier[:, None], dtype=np.float32)
    y = np.add(y, fit.offset[:, None], dtype=np.float32)
    return np.round(np.clip(y, np.float32(low), np.float32(high)))


coefficient = st.floats(-4, 4, width=32, allow_nan=False) | st.sampled_from([0.0, 0.5, -0.5, 0.25, 1.0, -1.0, 1e-30])


@settings(max_examples=150, deadline=None)
@given(
    ab=st.lists(st.tuples(coefficient, coefficient), min_size=1, max_size=6),
    n=st.integers(1, 17),
    signed=st.booleans(),
    bound=st.integers(1, 300),
    shrink=st.sampled_from([1.0, 0.1, 0.01]),
)
def test_every_accumulator_of_a_fitted_channel_gets_its_level(ab, n, signed, bound, shrink):
    a, b = torch.tensor(ab, dtype=torch.float32).T
    low = -n if signed else 0
    thresholds, direction = (x.numpy() for x in bisect_thresholds(a * shrink, b, low, n, bound))
    fit = fit_quant(thresholds, direction, low, bound)
    equal = (quant_node(fit, low, n, bound) == brute_force_levels(thresholds, direction, low, bound)).all(1)
    # Said to be fitted exactly where it is right, so the proof at the thresholds neither misses nor invents a fault.
    assert (fit.fitted == equal).all()


@pytest.mark.parametrize("n", [1, 2, 3, 7, 15, 255])
@pytest.mark.parametrize("bound", [40, 3000])
def test_trained_looking_channels_are_all_fitted(n, bound):
    generator = torch.Generator().manual_seed(n)
    a = torch.randn(64, generator=generator) * 4 / bound
    b = torch.rand(64, generator=generator) * 1.5 - 0.5
    a[::8] = 0
    thresholds, direction = (x.numpy() for x in bisect_thresholds(a, b, 0, n, bound))
    fit = fit_quant(thresholds, direction, 0, bound)
    assert fit.fitted.all()
    assert (quant_node(fit, 0, n, bound) == brute_force_levels(thresholds, direction, 0, bound)).all()
    assert len(np.unique(brute_force_levels(thresholds, direction, 0, bound))) > 0.95 * n  # no idle channels


def test_no_affine_map_has_these_thresholds():
    fit = fit_quant(np.array([[0, 1, 40], [0, 20, 40]]), np.array([1, 1]), low=0, bound=50)
    assert fit.fitted.tolist() == [False, True]


@pytest.mark.parametrize("n", [3, 15, 63])
def test_accumulators_too_large_for_float32_are_not_fitted_wrongly(n):
    # Float32 resolves neither the product nor the sum to one accumulator: whatever is wrong must be found out.
    bound = 2**22
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(400, generator=generator) / 2**20, torch.rand(400, generator=generator)
    thresholds, direction = (x.numpy() for x in bisect_thresholds(a, b, 0, n, bound))
    fit = fit_quant(thresholds, direction, 0, bound)
    right = []
    for theta, sign, multiplier, offset in zip(thresholds, direction, fit.multiplier, fit.offset, strict=True):
        z = np.clip(np.concatenate([theta - 1, theta, theta + 1, [-bound, bound]]), -bound, bound)
        level = ((z[:, None] >= theta) if sign > 0 else (z[:, None] <= theta)).sum(1)
        y = z.astype(np.float32) * multiplier + offset
        right.append(bool((np.round(np.clip(y, 0, n)) == level).all()))
    assert fit.fitted.tolist() == right
    assert fit.fitted.sum() > 0
    assert fit.fitted.sum() < 400


def test_channels_of_one_level_have_no_slope():
    bound = 9
    never, always = np.full(3, bound + 1), np.full(3, -bound - 1)
    thresholds = np.stack([never, always, [-10, 10, 10], -never, [10**6, 10**6, 10**6]])
    fit = fit_quant(thresholds, np.array([1, 1, 1, -1, 1]), low=-1, bound=bound)
    assert fit.multiplier.tolist() == [0] * 5
    assert fit.offset.tolist() == [-1, 2, 0, -1, -1]
    assert fit.fitted.all()


def test_a_binary_spike_has_multiplier_one_and_a_whole_offset():
    fit = fit_quant(np.array([[5], [-3]]), np.array([1, -1]), low=0, bound=20)
    assert fit.multiplier.tolist() == [1, -1]
    assert fit.offset.tolist() == [-4, -2]
