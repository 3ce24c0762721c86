"""Compiled training: no graph breaks, and the numbers of the plain step. Compiling is slow, so these are few."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maqd_snn import SpikingNetwork
from maqd_snn.surrogate import SURROGATES, Surrogate, as_surrogate, staircase_derivative
from maqd_snn.training.precision import prepare

pytestmark = [
    # torch warns itself when it compiles an autograd function
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def _step(model: SpikingNetwork, forward: Any, codes: Tensor) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    logits = forward(codes)
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return logits.detach(), [parameter.grad.clone() for parameter in model.parameters()]


def _assert_close(found: tuple[Tensor, list[Tensor]], expected: tuple[Tensor, list[Tensor]]) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max()) + 1e-7


@pytest.mark.slow
def test_a_compiled_step_equals_the_plain_one(make_model, random_codes) -> None:
    """Inductor, C++ and all; `prepare` compiles with fullgraph=True, so a graph break would be an error."""
    model = make_model("vgg", 2, 3, plan="8-8-M-8", input_shape=(3, 8, 8)).train()
    plain = copy.deepcopy(model)
    codes = random_codes(model)
    forward = prepare(model, "int8-forward", compiled=True)
    _assert_close(_step(model, forward, codes), _step(plain, plain, codes))
    for (name, buffer), (_, expected) in zip(model.named_buffers(), plain.named_buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=1e-5, atol=1e-5, msg=name)
    seen: dict[str, Tensor] = {}
    watched = forward(codes, seen.__setitem__)  # the same tape, uncompiled
    assert set(seen) == {"input", *model.names}
    torch.testing.assert_close(watched, plain(codes), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("resnet", {"signed": True, "norm": "lbn-channel-mean"}),
        ("mlp", {"norm": "lbn-sample"}),
        ("vgg", {"pool_first": True, "norm": "batchnorm", "plan": "8-M-8-S"}),
    ],
)
def test_every_family_traces_without_a_break(make_model, random_codes, monkeypatch, family, options) -> None:
    """Traced with the backend that only records, so that what is tested here is the graph and not the compiler."""
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, fullgraph, dynamic: compile_(f, fullgraph=fullgraph, backend="aot_eager")
    )
    model = make_model(family, 3, 3, **options).train()
    plain, codes = copy.deepcopy(model), random_codes(model)
    _assert_close(_step(model, prepare(model, "fp32", compiled=True), codes), _step(plain, plain, codes))


class _Derivative(nn.Module):
    def __init__(self, surrogate: Surrogate) -> None:
        super().__init__()
        self.surrogate = surrogate

    def forward(self, v: Tensor) -> Tensor:
        return staircase_derivative(v, -2, 2, self.surrogate)


def _theirs(name: str) -> Any:
    if name == "snntorch":
        return pytest.importorskip("snntorch").surrogate.atan()
    return pytest.importorskip("spikingjelly.activation_based.surrogate").ATan()


@pytest.mark.parametrize("name", [*SURROGATES, "snntorch", "spikingjelly"])
def test_every_surrogate_traces_without_a_break(name: str) -> None:
    surrogate = as_surrogate(name if name in SURROGATES else _theirs(name))
    v = torch.linspace(-4, 4, 33)
    compiled = torch.compile(_Derivative(surrogate), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(v), staircase_derivative(v, -2, 2, surrogate))


@pytest.mark.parametrize("family", ["vgg", "resnet", "mlp"])
def test_a_model_compiled_by_its_user_has_no_break(make_model, random_codes, family: str) -> None:
    model = make_model(family, 2, 3).train()
    plain, codes = copy.deepcopy(model), random_codes(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    _assert_close(_step(model, compiled, codes), _step(plain, plain, codes))
