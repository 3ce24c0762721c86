"""Surrogates: the gradient through `spike` against closed forms written out again, and other libraries' callables."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.errors import MaqdError
from maqd_snn.spike import check_activation_states, level, normalize, normalize_and_level, spike
from maqd_snn.surrogate import (
    S3NN,
    SURROGATES,
    ArcTan,
    External,
    Rectangle,
    Sigmoid,
    Surrogate,
    Triangle,
    Widened,
    as_surrogate,
    staircase_derivative,
    widened,
)

Array = NDArray[np.float64]


def _logistic(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(x / 2))


def rectangle(w: float) -> Callable[[Array], Array]:
    return lambda u: np.where((-w / 2 <= u) & (u < w / 2), 1 / w, 0.0)


def triangle(w: float) -> Callable[[Array], Array]:
    return lambda u: np.where(np.abs(u) < w, (w - np.abs(u)) / w**2, 0.0)


def sigmoid(alpha: float) -> Callable[[Array], Array]:
    return lambda u: alpha / 4 / np.cosh(alpha * u / 2) ** 2


def arctan(alpha: float) -> Callable[[Array], Array]:
    return lambda u: alpha / 2 / (1 + (math.pi * alpha * u / 2) ** 2)


def s3nn(alpha: float, beta: float) -> Callable[[Array], Array]:
    rising = lambda u: alpha * _logistic(alpha * u) * _logistic(-alpha * u)  # noqa: E731
    return lambda u: np.where(u < 0, rising(np.minimum(u, 0)), beta / (np.maximum(u, 0) + 1))


CLOSED_FORMS: list[tuple[Surrogate, Callable[[Array], Array]]] = [
    (Rectangle(), rectangle(1.0)),
    (Rectangle(0.5), rectangle(0.5)),
    (Rectangle(2.0), rectangle(2.0)),
    (Triangle(), triangle(1.0)),
    (widened(Triangle(1.5), 2.0), triangle(3.0)),
    (widened(Rectangle(), 3.0), rectangle(3.0)),
    (widened(Sigmoid(4.0), 2.0), sigmoid(2.0)),
    (widened(ArcTan(2.0), 0.5), arctan(4.0)),
    (Triangle(0.75), triangle(0.75)),
    (Sigmoid(), sigmoid(4.0)),
    (Sigmoid(1.5), sigmoid(1.5)),
    (ArcTan(), arctan(2.0)),
    (ArcTan(5.0), arctan(5.0)),
    (S3NN(), s3nn(4.0, 1.0)),
    (S3NN(2.0, 0.5), s3nn(2.0, 0.5)),
]

STATES = [2, 3, 4, 5, 9, 16]


def membranes(n: int) -> Tensor:
    """Random values around the range of the levels, and n*x exactly on every eighth of a level where n allows."""
    generator = torch.Generator().manual_seed(n)
    random = (torch.rand(400, generator=generator, dtype=torch.float64) * (2 * n + 4) - n - 2) / n
    return torch.cat([random, torch.arange(-8 * n - 16, 8 * n + 17, dtype=torch.float64) / (8 * n)])


def gradient(x: Tensor, low: int, n: int, surrogate: Surrogate) -> Tensor:
    leaf = x.clone().requires_grad_()
    (got,) = torch.autograd.grad(spike(leaf, low, n, surrogate).sum(), leaf)
    return got


def test_every_named_surrogate_has_a_closed_form_here() -> None:
    assert {type(surrogate) for surrogate, _ in CLOSED_FORMS} == {*SURROGATES.values(), Widened}
    assert [as_surrogate(name) for name in SURROGATES] == [kind() for kind in SURROGATES.values()]


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize(
    ("surrogate", "h"), CLOSED_FORMS, ids=lambda value: str(value) if hasattr(value, "derivative") else ""
)
def test_gradient_through_spike_is_the_sum_over_the_levels(surrogate, h, states: int, signed: bool) -> None:
    n = states - 1
    low = -n if signed else 0
    x = membranes(n)
    nx = (x * n).numpy()
    expected = n * sum(h(nx - j + 0.5) for j in range(low + 1, n + 1))
    np.testing.assert_allclose(gradient(x, low, n, surrogate).numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("states", STATES)
def test_unit_rectangle_passes_the_gradient_exactly_between_the_ends(states: int, signed: bool) -> None:
    n = states - 1
    low = -n if signed else 0
    x = membranes(n)
    nx = x * n
    assert torch.equal(gradient(x, low, n, Rectangle()), n * ((nx >= low) & (nx < n)).double())


@pytest.mark.parametrize("surrogate", [s for s, _ in CLOSED_FORMS], ids=str)
def test_surrogate_stands_for_a_unit_step(surrogate: Surrogate) -> None:
    # The integral over all u is one; S3NN's right half falls like 1/u and has none.
    u = torch.linspace(-400, 400, 800_001, dtype=torch.float64)
    if isinstance(surrogate, S3NN):
        u = u[u < 0]
    area = float(surrogate.derivative(u).sum()) * 1e-3
    assert area == pytest.approx(0.5 if isinstance(surrogate, S3NN) else 1.0, abs=5e-3)


@pytest.mark.parametrize("surrogate", [Rectangle(), Sigmoid(), S3NN()], ids=str)
def test_chain_rule_and_weighting(surrogate: Surrogate) -> None:
    x = torch.linspace(-1, 2, 50, dtype=torch.float64, requires_grad=True)
    weight = torch.linspace(-3, 3, 50, dtype=torch.float64)
    (got,) = torch.autograd.grad((weight * spike(2 * x, 0, 3, surrogate)).sum(), x)
    torch.testing.assert_close(got, 2 * weight * gradient(2 * x.detach(), 0, 3, surrogate))


@pytest.mark.parametrize("n", [1, 2, 4, 8, 64])
def test_ties_go_up(n: int) -> None:
    # n is a power of two, so that every tie (j - 1/2)/n is exact.
    j = torch.arange(-n - 2, n + 3).float()
    tie = (j - 0.5) / n
    for low in (0, -n):
        assert torch.equal(level(tie, low, n), j.clamp(low, n))
        assert torch.equal(spike(tie, low, n, Rectangle()), j.clamp(low, n))
        below = torch.nextafter(tie, torch.tensor(-torch.inf))
        expected = (j - 1).clamp(low, n)
        near_zero = j == 1  # floor(0.49999997 + 1/2) rounds up in float32, in every part of the library alike
        assert torch.equal(level(below, low, n)[~near_zero], expected[~near_zero])


def test_normalize_is_one_product_and_one_sum_in_float32() -> None:
    rng = np.random.default_rng(0)
    z = rng.integers(-(2**26), 2**26, (64, 5, 3, 2))
    a, b = rng.normal(size=(2, 5)).astype(np.float32)
    per_channel = (1, 5, 1, 1)
    expected = z.astype(np.float32) * a.reshape(per_channel) + b.reshape(per_channel)
    for dtype in (torch.int64, torch.float64):
        got = normalize(torch.from_numpy(z).to(dtype), torch.from_numpy(a), torch.from_numpy(b))
        np.testing.assert_array_equal(got.numpy(), expected)
    levels = np.clip(np.floor(expected * np.float32(3) + np.float32(0.5)), -3, 3)
    got = normalize_and_level(torch.from_numpy(z), torch.from_numpy(a), torch.from_numpy(b), -3, 3)
    np.testing.assert_array_equal(got.numpy(), levels)


# Other libraries' callables: only their backward is used.


def _snntorch() -> dict[str, Callable[[Tensor], Tensor]]:
    from snntorch import surrogate as theirs

    return {
        "snntorch atan": theirs.atan(),
        "snntorch fast_sigmoid": theirs.fast_sigmoid(slope=5),
        "snntorch sigmoid": theirs.sigmoid(slope=5),
        "snntorch triangular": theirs.triangular(),
    }


def _spikingjelly() -> dict[str, Callable[[Tensor], Tensor]]:
    from spikingjelly.activation_based import surrogate as theirs

    return {
        "spikingjelly ATan": theirs.ATan(),
        "spikingjelly Sigmoid": theirs.Sigmoid(alpha=3.0),
        "spikingjelly PiecewiseQuadratic": theirs.PiecewiseQuadratic(),
        "spikingjelly S2NN": theirs.S2NN(),
    }


@cache
def external(name: str) -> Callable[[Tensor], Tensor]:
    library = name.split()[0]
    pytest.importorskip("snntorch" if library == "snntorch" else "spikingjelly.activation_based.surrogate")
    return (_snntorch() if library == "snntorch" else _spikingjelly())[name]


EXTERNAL = [
    "snntorch atan",
    "snntorch fast_sigmoid",
    "snntorch sigmoid",
    "snntorch triangular",
    "spikingjelly ATan",
    "spikingjelly Sigmoid",
    "spikingjelly PiecewiseQuadratic",
    "spikingjelly S2NN",
]


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("states", [2, 3, 8])
@pytest.mark.parametrize("name", EXTERNAL)
def test_external_staircase_is_the_sum_of_its_own_backward(name: str, states: int, signed: bool) -> None:
    function = external(name)
    n = states - 1
    low = -n if signed else 0
    x = membranes(n)
    expected = torch.zeros_like(x)
    for j in range(low + 1, n + 1):
        u = (x * n - (j - 0.5)).requires_grad_()
        function(u).sum().backward()
        expected += n * u.grad
    surrogate = as_surrogate(function)
    assert surrogate == External(function)
    torch.testing.assert_close(gradient(x, low, n, surrogate), expected, rtol=1e-9, atol=1e-12)
    assert torch.count_nonzero(expected) > 10


@pytest.mark.parametrize("name", EXTERNAL)
def test_external_forward_stays_the_round_clip(name: str) -> None:
    function = external(name)
    x = membranes(4)
    assert torch.equal(spike(x, 0, 4, as_surrogate(function)), torch.floor(x * 4 + 0.5).clamp(0, 4))
    # Theirs is another function: the values of a step, and in snnTorch no spike at the threshold.
    if name.startswith("snntorch"):
        assert float(function(torch.zeros(1))) == 0.0
        assert float(spike(torch.full((1,), 0.5), 0, 1, as_surrogate(function))) == 1.0


@pytest.mark.parametrize("name", ["snntorch atan", "spikingjelly ATan"])
def test_external_arctan_equals_ours(name: str) -> None:
    # Both libraries' default alpha is 2, like ours.
    v = torch.linspace(-3, 6, 200, dtype=torch.float64)
    torch.testing.assert_close(
        staircase_derivative(v, 0, 3, as_surrogate(external(name))), staircase_derivative(v, 0, 3, ArcTan())
    )


@pytest.mark.parametrize("name", [*SURROGATES, "snntorch atan", "snntorch fast_sigmoid", "spikingjelly ATan"])
def test_surrogate_trains_a_small_network(make_model, toy_losses, name: str) -> None:
    surrogate = name if name in SURROGATES else external(name)
    model = make_model("mlp", 3, 3, classes=2, input_shape=(1, 6, 6), plan="32-16", surrogate=surrogate)
    for layer in model.spiking_names():
        with torch.no_grad():
            model.part(layer).norm.gain.fill_(1)
            model.part(layer).norm.bias.zero_()
    first, last = toy_losses(model)
    assert last < 0.4 * first, (first, last)


def test_gradient_reaches_the_hidden_weights_only_through_the_surrogate(make_model, random_codes) -> None:
    model = make_model("mlp", 2, 3, surrogate=lambda u: u * 0.0).train()
    model(random_codes(model)).sum().backward()
    assert not model.part("fc1").weight.grad.any()
    assert model.part("classifier").weight.grad.any()


@pytest.mark.parametrize("kind", [Rectangle, Triangle])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_width_must_be_positive(kind, value: float) -> None:
    with pytest.raises(MaqdError, match="surrogate parameter width must be a finite number above 0"):
        kind(value)


@pytest.mark.parametrize("kind", [Sigmoid, ArcTan, S3NN])
def test_alpha_must_be_positive(kind) -> None:
    with pytest.raises(MaqdError, match="surrogate parameter alpha must be a finite number above 0, got -2"):
        kind(-2.0)
    with pytest.raises(MaqdError, match="surrogate parameter beta"):
        S3NN(beta=0.0)


def test_unknown_name_lists_the_choices() -> None:
    with pytest.raises(MaqdError, match="unknown surrogate 'arctn', did you mean 'arctan'.*rectangle, s3nn, sigmoid"):
        as_surrogate("arctn")


def test_not_callable_is_refused() -> None:
    with pytest.raises(MaqdError, match="must be a name, a Surrogate or a callable, got int"):
        as_surrogate(3)


@pytest.mark.parametrize(
    "function",
    [lambda u: u.sum(), lambda u: u.detach(), lambda u: 1.0],
    ids=["other shape", "no gradient", "no tensor"],
)
def test_useless_callable_is_refused(function) -> None:
    x = torch.zeros(3, requires_grad=True)
    with pytest.raises(MaqdError, match=r"must map a tensor to a differentiable tensor of the same shape"):
        spike(x, 0, 1, as_surrogate(function)).sum().backward()


@pytest.mark.parametrize("states", [1, 0, 257, 2.0, True, "2"])
def test_activation_states_outside_the_range_are_refused(states) -> None:
    with pytest.raises(MaqdError, match="activation states must be a whole number from 2 to 256, got"):
        check_activation_states(states)


def test_a_class_in_place_of_an_instance_is_refused() -> None:
    with pytest.raises(MaqdError, match="must be an instance, got the class Rectangle"):
        as_surrogate(Rectangle)
