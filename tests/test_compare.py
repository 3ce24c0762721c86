"""Others' counters on the same network: they agree where the definitions agree, and say why where they do not."""

import dataclasses

import pytest
import torch

from maqd_snn import MaqdError, fold
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.ops import OPS
from maqd_snn.neuromorphic.peer_modules import MODULES, as_torch
from maqd_snn.reporting import compare as compare_module
from maqd_snn.reporting.compare import compare
from maqd_snn.simulation import simulate

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages that are compared with

FAMILIES = [("mlp", 2, 3), ("vgg", 2, 3), ("vgg", 4, 3), ("resnet", 2, 3), ("resnet", 3, 4)]


@pytest.mark.parametrize(("family", "acts", "weights"), [*FAMILIES, ("vgg", 3, 2)])
@pytest.mark.parametrize("signed", [False, True])
def test_the_torch_modules_are_the_network(make_model, random_codes, family, acts, weights, signed):
    net = fold(make_model(family, acts, weights, signed=signed))
    codes = random_codes(net, 6)
    assert torch.equal(as_torch(net)(codes).to(torch.int64), net(codes))
    assert torch.equal(as_torch(net, torch.float32)(codes).to(torch.int64), net(codes))


def test_padded_pools_and_falling_thresholds():
    one = torch.ones(2, dtype=torch.int64)
    net = IntegerNetwork(
        [
            ops.Input("input.0", shape=(2, 5, 5), low=-3, high=3),
            ops.Threshold("spike", ("input.0",), torch.tensor([[-1, 2], [1, -2]]), torch.tensor([1, -1]), low=-1),
            ops.SumPool2d("sum", ("spike",), (3, 3), (2, 2), (1, 1)),
            ops.MaxPool2d("max", ("spike",), (3, 3), (2, 2), (1, 1)),
            ops.Add("add", ("sum", "max")),
            ops.Flatten("flatten", ("add",)),
            ops.Readout("readout", ("flatten",), torch.arange(18)),
        ]
    )
    assert one.sum() == 2
    codes = torch.randint(-3, 4, (7, 2, 5, 5))
    assert torch.equal(as_torch(net)(codes).to(torch.int64), net(codes))


def test_every_op_has_a_module():
    assert {kind.__name__ for kind in MODULES} == set(OPS) - {"Input"}

    class Attention(ops.Flatten):
        pass

    net = IntegerNetwork([ops.Input("input", shape=(2,), high=1), ops.Flatten("flat", ("input",))])
    net.ops = (net.ops[0], Attention("odd", ("input",)))
    with pytest.raises(MaqdError, match="odd: there is no torch module for a Attention"):
        as_torch(net)


def rows_of(found, tool):
    entry = next(entry for entry in found["tools"] if entry["name"] == tool)
    if entry["problem"]:
        pytest.skip(entry["problem"])
    return {row["metric"]: row for row in entry["rows"]}


@pytest.mark.parametrize(("family", "acts", "weights"), FAMILIES)
def test_neurobench_agrees_where_the_definitions_do(make_model, random_codes, family, acts, weights):
    net = fold(make_model(family, acts, weights))
    codes = random_codes(net, 25)
    rows = rows_of(compare(net, codes), "NeuroBench")
    report = simulate(net, [codes])
    for metric in ("Dense", "Effective_ACs", "connection_sparsity", "activation_sparsity"):
        assert rows[metric]["agrees"] is True, rows[metric]
    assert rows["Dense"]["theirs"] == report.total.dense_macs / 25
    binary = [layer for layer in report.layers if layer.spiking and layer.largest_input == 1]
    assert rows["Effective_ACs"]["theirs"] == sum(layer.effective_synops for layer in binary) / 25
    assert (rows["Effective_ACs"]["theirs"] > 0) == (acts == 2)
    assert rows["footprint"]["agrees"] is None
    assert rows["footprint"]["theirs"] > rows["footprint"]["ours"]


@pytest.mark.parametrize("high", [1, 3])
def test_neurobench_agrees_on_every_number_where_all_is_spikes(high):
    """Event inputs: no dense layer. Binary spikes are its accumulations, levels its multiply-accumulates."""
    torch.manual_seed(high)
    net = IntegerNetwork(
        [
            ops.Input("input", shape=(2, 6, 6), high=high, kind="events"),
            ops.Conv2d("conv", ("input",), torch.randint(-1, 2, (4, 1, 3, 3)), (2, 2), (1, 1), groups=2),
            ops.Threshold("spike", ("conv",), torch.tensor([[1]] * 4), torch.ones(4, dtype=torch.int64)),
            ops.Flatten("flatten", ("spike",)),
            ops.Linear("fc", ("flatten",), torch.randint(-1, 2, (5, 36))),
        ]
    )
    codes = torch.randint(0, high + 1, (20, 2, 6, 6))
    rows = rows_of(compare(net, codes), "NeuroBench")
    report = simulate(net, [codes])
    for metric in ("Dense", "Effective_ACs", "Effective_MACs"):
        assert rows[metric]["agrees"] is True, rows[metric]
    conv, fc = (report.layer(name).effective_synops / 20 for name in ("conv", "fc"))
    assert rows["Effective_ACs"]["theirs"] == (fc if high == 3 else conv + fc)
    assert rows["Effective_MACs"]["theirs"] == (conv if high == 3 else 0)


def test_a_batch_that_happens_to_be_binary_is_explained():
    weight = torch.ones(3, 4, dtype=torch.int64)
    net = IntegerNetwork([ops.Input("i", shape=(4,), high=3, kind="events"), ops.Linear("fc", ("i",), weight)])
    found = compare(net, torch.ones(2, 4, dtype=torch.int64))
    row = rows_of(found, "NeuroBench")["Effective_ACs"]
    assert (row["theirs"], row["ours"], row["agrees"]) == (12, 0, None)
    assert "decides by the values of a batch" in row["why"]


@pytest.mark.parametrize(("family", "acts", "weights"), FAMILIES)
def test_spikingjelly_agrees_where_the_definitions_do(make_model, random_codes, family, acts, weights):
    net = fold(make_model(family, acts, weights))
    codes = random_codes(net, 12)
    rows = rows_of(compare(net, codes), "SpikingJelly")
    report = simulate(net, [codes])
    assert rows["SynOp"]["agrees"] is True, rows["SynOp"]
    binary = [layer for layer in report.layers if layer.spiking and layer.input_bits == 1]
    assert rows["SynOp"]["theirs"] == sum(layer.synops for layer in binary) / 12
    assert (rows["SynOp"]["theirs"] > 0) == (acts == 2)
    # Its MACs are the dense ones of the other layers, with the taps that fall into padding.
    others = [layer for layer in report.layers if layer.weights and not (layer.spiking and layer.input_bits == 1)]
    positions = sum(layer.weights * torch.tensor(layer.output_shape[1:]).prod().item() for layer in others)
    assert rows["MAC"]["theirs"] == positions
    assert rows["MAC"]["agrees"] is (True if family == "mlp" else None)


def test_a_difference_is_not_hidden(make_model, random_codes, monkeypatch):
    """If a tool's number is off by one, the row says so."""
    net = fold(make_model("vgg", 2, 3))
    codes = random_codes(net, 4)
    rows_of(compare(net, codes), "NeuroBench")
    true = compare_module.neurobench_counts
    monkeypatch.setattr(
        compare_module,
        "neurobench_counts",
        lambda net, codes: dataclasses.replace(true(net, codes), dense=true(net, codes).dense + 0.25),
    )
    assert rows_of(compare(net, codes), "NeuroBench")["Dense"]["agrees"] is False


def test_a_tool_that_is_not_installed_is_a_sentence(make_model, random_codes, monkeypatch):
    import sys

    net = fold(make_model("mlp", 2, 3))
    monkeypatch.setitem(sys.modules, "neurobench.models", None)
    entry = compare(net, random_codes(net, 2))["tools"][0]
    assert (entry["name"], entry["rows"]) == ("NeuroBench", [])
    assert "pip install 'maqd-snn[neurobench]'" in entry["problem"]


def test_no_samples():
    net = IntegerNetwork([ops.Input("i", shape=(2,), high=1), ops.Flatten("f", ("i",))])
    with pytest.raises(MaqdError, match="a comparison needs at least one sample"):
        compare(net, torch.zeros(0, 2, dtype=torch.int64))
