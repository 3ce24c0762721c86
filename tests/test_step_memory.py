"""The memory of a training step: pieces of the batch, what is let go of, and the peak beside that of the float twin."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from maqd_snn.benchmarks.train import stepper
from maqd_snn.benchmarks.train_networks import NETWORKS, Setting
from maqd_snn.pieces import by_pieces
from maqd_snn.training.precision import prepare


@pytest.mark.parametrize(
    ("family", "states", "options"),
    [
        ("vgg", 2, {}),
        ("vgg", 256, {"signed": True}),
        ("vgg", 4, {"norm": "lbn-channel-mean", "pool_first": True}),
        ("resnet", 3, {"norm": "lbn-sample"}),
        ("resnet", 2, {"norm": "batchnorm"}),
        ("mlp", 3, {}),
        ("vgg", None, {}),
    ],
    ids=str,
)
def test_pieces_change_no_bit_of_a_step(make_model, random_codes, monkeypatch, family, states, options) -> None:
    """Pieces of three samples, the last one shorter: every sum over positions is one sample's own."""
    steps = []
    for piece_bytes in (2**30, 1):
        monkeypatch.setattr("maqd_snn.pieces.PIECE_BYTES", piece_bytes)
        monkeypatch.setattr("maqd_snn.pieces.MOST", 6)
        model = make_model(family, states, 3, **options).train()
        logits = prepare(model)(random_codes(model, batch=16))
        logits.square().sum().backward()
        steps.append([logits.detach(), *model.buffers(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(whole, pieces) for whole, pieces in zip(*steps, strict=True))


def test_what_is_cut_and_what_is_not(monkeypatch) -> None:
    monkeypatch.setattr("maqd_snn.pieces.PIECE_BYTES", 4 * 2 * 3)  # two samples
    seen: list[tuple[int, int]] = []

    def add(x: Tensor, shared: Tensor) -> tuple[Tensor]:
        seen.append((len(x), len(shared)))
        return (x + shared,)

    x, shared = torch.arange(15.0).view(5, 3), torch.ones(1, 3)
    with torch.no_grad():
        (found,) = by_pieces(add, x, shared)
        (same,) = by_pieces(add, x, shared, into=(x,))
    assert seen == 2 * [(2, 1), (2, 1), (1, 1)]
    assert same is x
    assert torch.equal(found, torch.arange(15.0).view(5, 3) + 1)
    assert torch.equal(x, found)
    seen.clear()
    by_pieces(add, x.requires_grad_(), shared)
    assert seen == [(5, 1)]  # autograd keeps what each piece makes


def test_a_graph_that_is_retained_can_be_run_twice(make_model, random_codes) -> None:
    model = make_model("vgg", 2, 3).train()
    total = prepare(model)(random_codes(model)).square().sum()
    total.backward(retain_graph=True)
    once = [parameter.grad.clone() for parameter in model.parameters()]
    total.backward()
    assert all(torch.equal(2 * g, parameter.grad) for g, parameter in zip(once, model.parameters(), strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


def peak_bytes(step: Callable[[], None]) -> int:
    """Return the most bytes that torch's allocator had given out during the step, beyond those at its start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    changes: list[tuple[int, int]] = []
    events = list(found.profiler.kineto_results.experimental_event_tree())
    while events:
        event = events.pop()
        events += event.children
        if event.tag.name == "Allocation":
            changes.append((event.start_time_ns, event.extra_fields.alloc_size))
    live = peak = 0
    for _, change in sorted(changes, key=lambda at: at[0]):
        live += change
        peak = max(peak, live)
    return peak


def test_an_uncompiled_step_takes_less_than_the_float_twins(monkeypatch) -> None:
    """As in `maqd bench train`, where the processes are measured: here a small network and torch's allocator."""
    setting = Setting("32-32-M-64-64", 16, 16, "cpu")
    layer = 4 * 16 * 32 * 16 * 16
    monkeypatch.setattr("maqd_snn.pieces.PIECE_BYTES", layer // 8)  # about the proportion of the benchmark's network
    monkeypatch.setattr("maqd_snn.winograd.BLOCK_BYTES", layer // 4)
    peaks = {}
    for name in ("fp32", "twin"):
        step = stepper(NETWORKS[name].make(setting), setting.labels())
        step()
        peaks[name] = peak_bytes(step)
    assert 3 * layer < peaks["fp32"] < 0.7 * peaks["twin"]
