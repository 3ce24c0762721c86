"""Compiled training: no graph breaks, and the numbers of the plain step. Compiling is slow, so these are few."""

import copy
import shutil
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


@pytest.mark.parametrize(
    ("family", "options"),
    [
        (
            "resnet",
            {"signed": True, "norm": "lbn-channel-mean", "plan": "4-8", "input_shape": (2, 4, 4), "zero_sum": True},
        ),
        ("vgg", {"pool_first": True, "norm": "batchnorm", "plan": "4-M-4-S", "learned_step": "layer"}),
    ],
)
def test_a_step_traces_without_a_break(make_model, random_codes, monkeypatch, family, options) -> None:
    """Traced with the backend that only records, so that what is tested here is the graph and not the compiler."""
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, fullgraph, **_: compile_(f, fullgraph=fullgraph, backend="aot_eager")
    )
    model = make_model(family, 3, 3, **options).train()
    plain, codes = copy.deepcopy(model), random_codes(model)
    _assert_close(_step(model, prepare(model, "fp32", compiled=True), codes), _step(plain, plain, codes))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_a_compiled_step_is_the_uncompiled_one(make_model, random_codes, precision) -> None:
    """The compiler itself, on products in 8 bits or bfloat16, max-pools, and weight gradients by Winograd's way."""
    model = make_model("vgg", 2, 3, plan="16-M-16", input_shape=(3, 8, 8), pool_first=True).train()
    plain, codes = copy.deepcopy(model), random_codes(model)
    found = _step(model, prepare(model, precision, compiled=True), codes)
    _assert_close(found, _step(plain, prepare(plain, precision), codes))
    for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


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
