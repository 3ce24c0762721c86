"""The event-driven executor: values equal to the oracle's, counters equal to the simulator's, with zero difference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maqd_snn import MaqdError, fold
from maqd_snn.compiled import NO_NUMBA, numba_found
from maqd_snn.counting import COUNT_NAMES
from maqd_snn.errors import MissingExtraError
from maqd_snn.eventdriven import EVENT_DRIVEN, run_events
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.simulation import simulate

needs_numba = pytest.mark.skipif(not numba_found(), reason="numba is not installed")


@pytest.fixture(params=["python", pytest.param("numba", marks=needs_numba)])
def kernels(request, monkeypatch):
    if request.param == "python":
        monkeypatch.setenv(NO_NUMBA, "1")
    else:
        monkeypatch.delenv(NO_NUMBA, raising=False)


def assert_same(net, codes):
    """Every value equals the oracle's; every counter equals the simulator's, sample by sample."""
    run = run_events(net, codes)
    for name, value in net.reference_trace(codes.numpy()).items():
        np.testing.assert_array_equal(run.outputs[name], value, err_msg=name)
    compared = 0
    for index in range(len(codes)):
        report = simulate(net, [codes[index : index + 1]])
        for entry in report.layers:
            mine = run.layer(entry.name)
            assert mine.spiking == entry.spiking
            raised = {name: int(count[index]) for name, count in mine.counts.items()}
            for name in COUNT_NAMES:
                if name in raised:
                    assert getattr(entry, name) == raised[name], (entry.name, name)
                    compared += 1
                elif name in ("synops", "events", "macs", "adds", "compares", "spikes", "unit_spikes"):
                    assert getattr(entry, name) == 0, (entry.name, name)
    assert compared
    return run


@st.composite
def networks(draw):
    """Events or pixels -> conv -> threshold -> pool -> conv (+ shortcut) -> threshold -> flatten -> linear."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups, signed, kind = draw(st.integers(1, 2)), draw(st.booleans()), draw(st.sampled_from(["events", "analog"]))
    channels = 2 * groups
    pairs = lambda low, high: (draw(st.integers(low, high)), draw(st.integers(low, high)))  # noqa: E731
    kernel, stride, padding, dilation = pairs(1, 3), pairs(1, 2), pairs(0, 2), pairs(1, 2)
    size = tuple(draw(st.integers(max(2, d * (k - 1) + 1), 7)) for k, d in zip(kernel, dilation, strict=True))
    levels = draw(st.integers(1, 4))
    low = -levels if signed else 0
    weight = lambda *shape: torch.from_numpy(rng.integers(-2, 3, shape))  # noqa: E731

    def threshold(name, source):
        theta = np.sort(rng.integers(-4, 6, (channels, levels - low)), 1)
        direction = rng.choice([-1, 1], channels)
        theta = np.where(direction[:, None] > 0, theta, theta[:, ::-1])
        return ops.Threshold(name, (source,), torch.from_numpy(theta.copy()), torch.from_numpy(direction), low)

    pool = draw(st.sampled_from([ops.MaxPool2d, ops.SumPool2d]))
    graph = [
        ops.Input("input", shape=(channels, *size), zero_point=1, low=0, high=3, kind=kind),
        ops.Conv2d("conv", ("input",), weight(channels, 2, *kernel), stride, padding, dilation, groups),
        threshold("spike", "conv"),
        pool("pool", ("spike",), (2, 2), (1, 1), (1, 1)),
        ops.Conv2d("conv2", ("pool",), weight(channels, channels, 3, 3), (1, 1), (1, 1)),
        ops.Conv2d("shortcut", ("pool",), weight(channels, channels, 1, 1)),
        ops.Add("sum", ("conv2", "shortcut")),
        threshold("spike2", "sum"),
        ops.Flatten("flat", ("spike2",)),
    ]
    features = IntegerNetwork(graph).shapes["flat"][0]
    graph += [ops.Linear("fc", ("flat",), weight(3, features)), ops.Readout("readout", ("fc",), weight(3))]
    net = IntegerNetwork(graph)
    return net, torch.from_numpy(rng.integers(0, 4, (2, *net.input.shape)))


@needs_numba
@settings(max_examples=40, deadline=None)
@given(networks())
def test_random_networks_give_the_oracles_values_and_the_simulators_counts(case):
    assert_same(*case)


@settings(max_examples=8, deadline=None)
@given(networks())
def test_plain_python_gives_the_same(case):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(NO_NUMBA, "1")
        assert_same(*case)


@pytest.mark.parametrize(
    ("model", "act_states", "plan"), [("vgg", 2, "4-M-8-S"), ("resnet", 4, "4-8"), ("mlp", 3, "9")]
)
def test_models(kernels, make_model, model, act_states, plan):
    net = fold(make_model(model, act_states, 3, plan=plan))
    codes = torch.randint(0, 256, (2, *net.input.shape), generator=torch.Generator().manual_seed(3))
    assert_same(net, codes)


def test_writes_messages_and_queue(kernels):
    # Values 3, 0, 1 arrive at four neurons; 2 synapses are served in a step, so a message takes two steps.
    source = ops.Input("input", shape=(3,), high=3, kind="events")
    net = IntegerNetwork([source, ops.Linear("fc", ("input",), torch.tensor([[1, 1, 0]] * 4))])
    codes = torch.tensor([[3, 0, 1], [1, 1, 1], [0, 0, 0]])
    entry = run_events(net, codes, synapses_per_step=2).layer("fc")
    assert entry.counts["events"].tolist() == [2, 3, 0]
    assert entry.counts["unit_messages"].tolist() == [4, 3, 0]
    assert entry.counts["bit_serial_messages"].tolist() == [3, 3, 0]
    assert entry.counts["synops"].tolist() == [8, 12, 0]
    assert entry.counts["effective_synops"].tolist() == [4, 8, 0]
    assert entry.counts["unit_spike_acs"].tolist() == [16, 12, 0]
    assert entry.counts["bit_serial_adds"].tolist() == [12, 12, 0]
    assert entry.writes_most.tolist() == [2, 3, 0]
    assert entry.writes_mean.tolist() == [2, 3, 0]
    # Sample 0: sent in steps 1 and 3, served 1-3 and 3-5: one at a time. Sample 1: sent in 1, 2, 3, done at 3, 5, 7.
    assert entry.queue_depth.tolist() == [1, 2, 0]
    assert run_events(net, codes, synapses_per_step=4).layer("fc").queue_depth.tolist() == [1, 1, 0]
    assert run_events(net, codes, synapses_per_step=1).layer("fc").queue_depth.tolist() == [2, 3, 0]


NET = IntegerNetwork(
    [ops.Input("input", shape=(3,), high=3, kind="events"), ops.Linear("fc", ("input",), torch.ones(2, 3).long())]
)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.ones(1, 2).long(), r"input: input codes must have shape \(batch, 3\), got \(1, 2\)"),
        (torch.ones(0, 3).long(), r"input: input codes must have shape \(batch, 3\), got \(0, 3\)"),
        (torch.ones(1, 3), "input: input codes must be an integer tensor, got torch.float32"),
        (torch.full((1, 3), 4), r"input codes must lie in 0\.\.3, got values in 4\.\.4"),
    ],
)
def test_bad_codes(codes, message):
    with pytest.raises(MaqdError, match=message):
        run_events(NET, codes)


def test_bad_arguments(monkeypatch):
    with pytest.raises(MaqdError, match="synapses_per_step must be at least 1, got 0"):
        run_events(NET, torch.ones(1, 3).long(), synapses_per_step=0)
    with pytest.raises(MaqdError, match="no layer is named 'x'; the layers are: fc"):
        run_events(NET, torch.ones(1, 3).long()).layer("x")
    monkeypatch.setenv(NO_NUMBA, "1")
    wide = IntegerNetwork(
        [
            ops.Input("input", shape=(4, 100, 100), kind="events"),
            ops.Conv2d("conv", ("input",), torch.ones(64, 4, 3, 3).long()),
        ]
    )
    with pytest.raises(MissingExtraError, match=r"22,127,616 connections .*pip install 'maqd-snn\[fast\]'"):
        run_events(wide, torch.ones(1, 4, 100, 100).long())


def test_an_op_without_a_rule_is_an_error(monkeypatch):
    rules = {kind: rule for kind, rule in EVENT_DRIVEN.items() if kind is not ops.Linear}
    monkeypatch.setattr("maqd_snn.eventdriven.EVENT_DRIVEN", rules)
    with pytest.raises(MaqdError, match="fc: there is no event-driven rule for a Linear"):
        run_events(NET, torch.ones(1, 3).long())
