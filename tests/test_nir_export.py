"""NIR export: the written graphs, op by op, against the integer network; in our interpreter and in snnTorch."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maqd_snn import MaqdError, fold
from maqd_snn.errors import MissingExtraError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.neuromorphic import nir_export
from maqd_snn.neuromorphic.nir_export import firing_threshold, nir_graph, write_nir, write_nir_graded
from maqd_snn.neuromorphic.nir_interpreter import is_graded, run_nir
from maqd_snn.neuromorphic.nir_verify import verify_nir

nir = pytest.importorskip("nir")
snntorch = pytest.importorskip("snntorch")


def notes(graph: Any) -> dict[str, dict[str, Any]]:
    return json.loads(graph.metadata["nodes"])


def compare_op_by_op(net: IntegerNetwork, graph: Any, codes: torch.Tensor) -> None:
    """Check that every node that stands for an op's output gives it, and that every op but sums by edges has one."""
    truth = net.reference_trace(codes.numpy())
    outputs = run_nir(graph, codes - net.input.zero_point)
    covered = set()
    for name, note in notes(graph).items():
        op, value = note["op"], outputs[name].numpy()
        if "signs" in note and not is_graded(graph.nodes[name]):
            channels = truth[op].shape[1]
            assert set(np.unique(value)) <= {0, 1}
            bits = value.reshape(len(value), channels, len(note["signs"]), *value.shape[2:])
            value = np.einsum("bcm...,m->bc...", bits, np.array(note["signs"]))
        elif note["role"] in ("drive", "count", "copy") or "carries_bias_of" in note:
            continue
        covered.add(op)
        assert (value == truth[op]).all(), name
    covered |= {note["op"] for note in notes(graph).values() if "carries_bias_of" in note}
    without = (op for op in net.ops if op.name not in covered)
    assert all(isinstance(op, ops.Add) or (isinstance(op, ops.Flatten) and op.inputs == ("in",)) for op in without)


def mismatches(net: IntegerNetwork, path: Path, codes: torch.Tensor) -> int:
    """Verify the file in every runtime, and compare the spikes of all neurons in snnTorch with our interpreter's."""
    spikes: dict[int, list[torch.Tensor]] = {}

    def keep(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if isinstance(module, snntorch.Leaky):
            spikes.setdefault(id(module), []).append(output)

    handle = torch.nn.modules.module.register_module_forward_hook(keep)
    try:
        checks = verify_nir(path, codes.numpy(), net.reference(codes.numpy()), net)
    finally:
        handle.remove()
    ran = [check for check in checks if check.ran]
    assert {check.runtime.split()[0] for check in ran} >= {"snntorch", "spikingjelly", "maqd-snn"}
    for check in ran:
        assert (check.format, check.samples) == ("nir", len(codes))
        assert not any(layer.mismatches for layer in check.layers)
    graph = nir.read(path)
    outputs = run_nir(graph, codes - net.input.zero_point)
    layers = [outputs[name] for name, node in graph.nodes.items() if isinstance(node, nir.IF)]
    assert len(layers) == len(spikes)
    for expected, got in zip(layers, spikes.values(), strict=True):
        assert torch.equal(torch.cat(got), expected)
    return max(check.mismatches for check in ran)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("act_states", [2, 3, 4])
@pytest.mark.parametrize(
    ("family", "plan", "weight_states"),
    [
        ("mlp", "32-24", 3),
        ("vgg", "8-8-M-16-S", 3),
        ("vgg", "8-S-16-M", 15),
        ("resnet", "8-8-16", 3),
        ("mlp", "16", 15),
    ],
)
def test_models_run_exactly(
    family: str,
    plan: str,
    weight_states: int,
    act_states: int,
    signed: bool,
    make_model: Callable[..., Any],
    random_codes: Callable[..., torch.Tensor],
    tmp_path: Path,
) -> None:
    net = fold(make_model(family, act_states, weight_states, signed=signed, plan=plan))
    codes = random_codes(net, 24)
    scores = net.reference(codes.numpy())
    assert len(np.unique(scores, axis=0)) > len(codes) // 2  # the network tells its inputs apart
    path = tmp_path / "net.nir"
    write_nir(net, path)
    graph = nir.read(path)
    compare_op_by_op(net, graph, codes)
    (output,) = (name for name, node in graph.nodes.items() if isinstance(node, nir.Output))
    assert (run_nir(graph, codes - 100)[output].numpy() == scores).all()
    assert mismatches(net, path, codes[:6]) == 0


def weights(*shape: int, seed: int = 0, largest: int = 3) -> torch.Tensor:
    return torch.randint(-largest, largest + 1, shape, generator=torch.Generator().manual_seed(seed))


def threshold(name: str, source: str, channels: int, levels: int, low: int = 0, spread: int = 40) -> ops.Threshold:
    values = weights(channels, levels, seed=levels, largest=spread).sort(1).values
    direction = torch.tensor([1, -1]).repeat(channels)[:channels]
    return ops.Threshold(name, (source,), values * direction[:, None], direction, low)


IMAGE = ops.Input("in", shape=(4, 7, 6), zero_point=2, low=-5, high=9)
CONV = ops.Conv2d("conv", ("in",), weights(4, 4, 3, 3), padding=(1, 1))
SPIKE = threshold("spike", "conv", 4, 3)
SIGNED = threshold("spike", "conv", 4, 4, low=-3)
BINARY = threshold("spike", "conv", 4, 1)
CODE = '", __import__("os").abort(), "'
HAND_MADE = {
    "grouped convolution": [IMAGE, ops.Conv2d("grouped", ("in",), weights(6, 2, 3, 3), groups=2)],
    "depthwise of spikes": [IMAGE, CONV, SPIKE, ops.Conv2d("depth", ("spike",), weights(8, 1, 3, 3), groups=4)],
    "stride, dilation, padding": [
        IMAGE,
        CONV,
        SIGNED,
        ops.Conv2d("next", ("spike",), weights(3, 4, 3, 3), stride=(2, 1), padding=(2, 1), dilation=(2, 1)),
    ],
    "kernel 1x3": [IMAGE, ops.Conv2d("wide", ("in",), weights(3, 4, 1, 3), stride=(1, 2), padding=(0, 1))],
    "kernel 5x1": [IMAGE, CONV, SPIKE, ops.Conv2d("tall", ("spike",), weights(3, 4, 5, 1), dilation=(1, 2))],
    "convolution of a convolution": [IMAGE, CONV, ops.Conv2d("next", ("conv",), weights(3, 4, 3, 3))],
    "threshold of the input": [IMAGE, threshold("spike", "in", 4, 2, spread=9)],
    "levels of both signs, unequal": [IMAGE, CONV, threshold("spike", "conv", 4, 5, low=-1)],
    "levels -2..0": [IMAGE, CONV, threshold("spike", "conv", 4, 2, low=-2)],
    "one level, -1..0": [IMAGE, CONV, threshold("spike", "conv", 4, 1, low=-1)],
    "two readers of one product": [
        IMAGE,
        CONV,
        BINARY,
        threshold("other", "conv", 4, 1),
        ops.Add("sum", ("spike", "other")),
    ],
    "max-pool of binary spikes": [IMAGE, CONV, BINARY, ops.MaxPool2d("pool", ("spike",), (2, 2), (2, 2))],
    "max-pool, overlapping, padded": [IMAGE, CONV, SPIKE, ops.MaxPool2d("pool", ("spike",), (3, 3), (2, 1), (1, 1))],
    "max-pool of signed levels": [IMAGE, CONV, SIGNED, ops.MaxPool2d("pool", ("spike",), (3, 1), (2, 2))],
    "max-pool of a max-pool": [
        IMAGE,
        CONV,
        SIGNED,
        ops.MaxPool2d("pool", ("spike",), (2, 2), (1, 1)),
        ops.MaxPool2d("again", ("pool",), (3, 3), (3, 3)),
    ],
    "sum-pool of area 4": [IMAGE, CONV, SIGNED, ops.SumPool2d("pool", ("spike",), (2, 2), (2, 2))],
    "sum-pool of area 9": [IMAGE, CONV, SPIKE, ops.SumPool2d("pool", ("spike",), (3, 3), (2, 2))],
    "sum-pool, padded": [IMAGE, CONV, BINARY, ops.SumPool2d("pool", ("spike",), (2, 2), (2, 2), (1, 1))],
    "sum-pool of the whole image": [IMAGE, CONV, ops.SumPool2d("pool", ("conv",), (7, 5), (1, 1))],
    "x + x": [IMAGE, CONV, ops.Add("twice", ("conv", "conv")), threshold("spike", "twice", 4, 2)],
    "x + y + x + (x + y)": [
        IMAGE,
        CONV,
        SPIKE,
        ops.Add("sum", ("conv", "spike")),
        ops.Add("all", ("conv", "spike", "conv", "sum")),
    ],
    "levels added to the input, twice read": [
        IMAGE,
        CONV,
        SIGNED,
        ops.Add("sum", ("in", "spike")),
        ops.Flatten("flat", ("sum",)),
        ops.Linear("fc", ("flat",), weights(5, 168)),
        ops.Linear("fc2", ("flat",), weights(5, 168, seed=1)),
        ops.Add("logits", ("fc", "fc2")),
        ops.Readout("readout", ("logits",), weights(5, seed=9, largest=99)),
    ],
    "features, graded, flattened again": [
        ops.Input("in", shape=(6,), high=7, zero_point=3),
        ops.Flatten("flat", ("in",)),
        ops.Linear("fc", ("flat",), weights(5, 6)),
        threshold("spike", "fc", 5, 4, low=-2, spread=20),
        ops.Readout("readout", ("spike",), weights(5)),
    ],
    "names that clash or carry code": [
        ops.Input("a.b", shape=(4,)),
        ops.Linear("a_b", ("a.b",), weights(4, 4)),
        ops.Threshold(CODE, ("a_b",), weights(4, 1), torch.ones(4).long()),
        ops.Linear("keys", (CODE,), weights(3, 4)),
    ],
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_every_op_runs_exactly(name: str, random_codes: Callable[..., torch.Tensor], tmp_path: Path) -> None:
    net = IntegerNetwork(HAND_MADE[name])
    path = tmp_path / "net.nir"
    write_nir(net, path)
    codes = random_codes(net, 20, seed=3)
    graph = nir.read(path)
    compare_op_by_op(net, graph, codes)
    assert mismatches(net, path, codes[:5]) == 0
    assert all(re.fullmatch("[A-Za-z0-9_]+", node) for node in graph.nodes)


@st.composite
def small_networks(draw: st.DrawFn) -> IntegerNetwork:
    channels, m = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    low = draw(st.integers(-m, 0))
    values = draw(
        st.lists(st.lists(st.integers(-30, 30), min_size=m, max_size=m), min_size=channels, max_size=channels)
    )
    signs = torch.tensor(draw(st.lists(st.sampled_from([-1, 1]), min_size=channels, max_size=channels)))
    rows = draw(st.lists(st.integers(-3, 3), min_size=2 * channels, max_size=2 * channels))
    return IntegerNetwork(
        [
            ops.Input("in", shape=(2,), high=4, zero_point=2),
            ops.Linear("fc", ("in",), torch.tensor(rows).view(channels, 2)),
            ops.Threshold("spike", ("fc",), torch.tensor(values).sort(1).values * signs[:, None], signs, low),
            ops.Linear("out", ("spike",), torch.ones(1, channels).long()),
        ]
    )


@given(small_networks())
@settings(max_examples=60, deadline=None)
def test_any_thresholds_of_any_direction_are_exact_for_every_input(net: IntegerNetwork) -> None:
    codes = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    compare_op_by_op(net, nir_graph(net), codes)


def chain(weight: int, thresholds: Sequence[int]) -> IntegerNetwork:
    return IntegerNetwork(
        [
            ops.Input("in", shape=(1,)),
            ops.Linear("fc", ("in",), torch.tensor([[weight], [-weight]])),
            ops.Threshold("spike", ("fc",), torch.tensor([thresholds, thresholds]), torch.tensor([1, 1])),
            ops.Readout("readout", ("spike",), torch.tensor([0, 0])),
        ]
    )


@pytest.mark.parametrize(
    ("weight", "theta"), [(8192, 2 * 255 * 8192 + 2), (8224, 2 * 255 * 8224 + 2), (8225, 1), (16448, 1)]
)
def test_large_accumulators_are_exact_up_to_the_limit(weight: int, theta: int, tmp_path: Path) -> None:
    # With one threshold at, and one beside, a reachable accumulator: half a unit decides.
    net = chain(weight, [-3 * weight, -3 * weight + 1, 254 * weight, 254 * weight + 1, 255 * weight])
    path = tmp_path / "net.nir"
    write_nir(net, path)
    graph = nir.read(path)
    (neurons,) = (node for node in graph.nodes.values() if isinstance(node, nir.IF))
    assert np.unique(neurons.v_threshold).tolist() == [theta]
    codes = torch.arange(256)[:, None]
    compare_op_by_op(net, graph, codes)
    assert mismatches(net, path, codes) == 0


# What the graded form can and the thermometer cannot express.
GRADED_ONLY = {
    "max-pool of accumulators, padded": [IMAGE, CONV, ops.MaxPool2d("pool", ("conv",), (2, 2), (2, 2), (1, 1))],
    "max-pool of the input": [IMAGE, ops.MaxPool2d("pool", ("in",), (3, 2), (2, 2), (1, 1))],
    "max-pool of signed levels, padded": [
        IMAGE,
        CONV,
        SIGNED,
        ops.MaxPool2d("pool", ("spike",), (2, 2), (2, 2), (1, 1)),
    ],
    "levels 1..4": [
        IMAGE,
        CONV,
        threshold("spike", "conv", 4, 3, low=1),
        ops.MaxPool2d("p", ("spike",), (2, 2), (1, 1)),
    ],
}


@pytest.mark.parametrize("name", [*HAND_MADE, *GRADED_ONLY])
def test_every_op_runs_exactly_in_graded_form(
    name: str, random_codes: Callable[..., torch.Tensor], tmp_path: Path
) -> None:
    net = IntegerNetwork({**HAND_MADE, **GRADED_ONLY}[name])
    path = tmp_path / "net.nir"
    write_nir_graded(net, path)
    codes = random_codes(net, 20, seed=3)
    graph = nir.read(path)
    compare_op_by_op(net, graph, codes)
    # One IF for each unit, in the op's own shape; neurons of a pool of spikes included.
    units = {note["op"]: graph.nodes[node] for node, note in notes(graph).items() if "signs" in note}
    assert len(units) == sum(isinstance(node, nir.IF) for node in graph.nodes.values())
    assert {op.name for op in net.ops if isinstance(op, ops.Threshold)} <= set(units)
    assert all(node.v_threshold.shape == net.shapes[op] for op, node in units.items())


@given(small_networks())
@settings(max_examples=60, deadline=None)
def test_any_thresholds_of_any_direction_are_exact_in_graded_form(net: IntegerNetwork) -> None:
    codes = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    compare_op_by_op(net, nir_graph(net, graded=True), codes)


@pytest.mark.parametrize("act_states", [2, 3])
def test_who_does_not_know_the_graded_form_is_right_for_two_states_only(
    act_states: int, make_model: Callable[..., Any], random_codes: Callable[..., torch.Tensor]
) -> None:
    net = fold(make_model("vgg", act_states, 3))  # both signs of gains, a max-pool
    codes = random_codes(net, 12)
    graph = nir_graph(net, graded=True)
    assert "another network" in graph.metadata["warning"]
    for node in graph.nodes.values():
        node.metadata = {}
    scores = run_nir(graph, codes - net.input.zero_point)[list(graph.nodes)[-1]].numpy()
    assert (scores == net.reference(codes.numpy())).all() == (act_states == 2)


def test_the_graded_form_does_not_grow_with_the_levels(make_model: Callable[..., Any]) -> None:
    def numbers(act_states: int, graded: bool) -> int:
        graph = nir_graph(fold(make_model("vgg", act_states, 3)), graded)
        arrays = (getattr(node, name, None) for node in graph.nodes.values() for name in ("weight", "r", "v_threshold"))
        return sum(array.size for array in arrays if array is not None)

    assert numbers(2, True) == numbers(16, True) < numbers(3, False)


def test_the_graded_form_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "net.nir"
    write_nir_graded(IntegerNetwork(HAND_MADE["max-pool of signed levels"], {"recipe": "digits"}), path)
    graph = nir.read(path)
    assert graph.metadata["form"].startswith("graded, a convention of maqd-snn")
    assert graph.metadata["scales"].startswith("all 1")
    assert json.loads(graph.metadata["provenance"]) == {"recipe": "digits"}
    spike = graph.nodes["002_spike"]
    assert {key: int(spike.metadata[key]) for key in ("low", "levels")} == {"low": -3, "levels": 4}
    assert (spike.metadata["thresholds"] == SIGNED.thresholds.numpy() * SIGNED.direction.numpy()[:, None]).all()
    assert (spike.r == SIGNED.direction.numpy()[:, None, None]).all()


@pytest.mark.parametrize(("weight", "held"), [(32896, True), (32897, False)])
def test_graded_sums_are_exact_up_to_half_of_float32(weight: int, held: bool) -> None:
    net = chain(weight, [-3 * weight, -3 * weight + 1, 254 * weight, 254 * weight + 1, 2**60])
    if held:
        compare_op_by_op(net, nir_graph(net, graded=True), torch.arange(256)[:, None])
    else:
        with pytest.raises(MaqdError, match=r"spike: its accumulators can reach 8388735.*exact up to 8388607 only"):
            nir_graph(net, graded=True)


def test_accumulators_beyond_float32_are_refused() -> None:
    with pytest.raises(
        MaqdError, match=r"spike: its accumulators can reach 4194495, but NIR.*exact up to 4194302 only"
    ):
        nir_graph(chain(16449, [1]))
    with pytest.raises(MaqdError, match=r"fc: its values can reach 25500000, but NIR holds float32.*export as onnx"):
        nir_graph(chain(100_000, [1]))


def test_the_firing_threshold_keeps_membranes_between_0_and_twice_itself() -> None:
    # So that sinabs, whose neurons fire floor(v / theta) times and clip v at -theta, sees single spikes.
    for bound in range(200):
        theta = firing_threshold(CONV, bound)
        assert theta - (2 * bound + 1.5) > 0
        assert theta + 2 * bound + 1.5 < 2 * theta


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            [IMAGE, CONV, ops.MaxPool2d("pool", ("conv",), (2, 2), (2, 2))],
            r"pool: NIR has no maximum of accumulators or inputs.*'S' in a plan.*onnx",
        ),
        (
            [
                IMAGE,
                CONV,
                SPIKE,
                ops.SumPool2d("sums", ("spike",), (2, 2), (1, 1)),
                ops.MaxPool2d("pool", ("sums",), (2, 2), (2, 2)),
            ],
            r"pool: NIR has no maximum of accumulators",
        ),
        (
            [IMAGE, CONV, SIGNED, ops.MaxPool2d("pool", ("spike",), (2, 2), (2, 2), (1, 1))],
            r"pool: NIR has no padding for the maximum of signed levels.*onnx",
        ),
        (
            [IMAGE, CONV, threshold("spike", "conv", 4, 3, low=1)],
            r"spike: in NIR, silence is level 0, which is not among the levels 1\.\.4.*onnx",
        ),
        (
            [IMAGE, ops.Conv2d("wide", ("in",), weights(3, 4, 2, 3))],
            r"wide: nir takes every kernel for a square one, and \(2, 3\) cannot be padded.*onnx",
        ),
    ],
)
def test_what_nir_cannot_express_is_refused(graph: list[ops.Op], message: str) -> None:
    with pytest.raises(MaqdError, match=message):
        nir_graph(IntegerNetwork(graph))


def test_an_op_without_a_row_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {kind: row for kind, row in nir_export.NODES.items() if kind is not ops.Add}
    monkeypatch.setattr(nir_export, "NODES", rows)
    with pytest.raises(MaqdError, match=r"twice: a Add cannot be written as NIR; use only: Input, Conv2d, Linear"):
        nir_graph(IntegerNetwork(HAND_MADE["x + x"]))


def test_size_grows_with_the_levels_and_not_with_their_square(make_model: Callable[..., Any]) -> None:
    def numbers(act_states: int) -> int:
        graph = nir_graph(fold(make_model("vgg", act_states, 3, plan="16-16-16")))
        return sum(node.weight.size for node in graph.nodes.values() if hasattr(node, "weight"))

    # From 2 to 14 levels: the products stay, what copies and sums levels grows sevenfold.
    assert numbers(15) - numbers(3) == 6 * (numbers(3) - numbers(2))


def test_binary_networks_have_a_node_per_op(make_model: Callable[..., Any]) -> None:
    net = fold(make_model("vgg", 2, 3, plan="8-8-S-16"))
    graph = nir_graph(net)
    assert [re.sub(r"^\d+_", "", name) for name in graph.nodes] == [op.name for op in net.ops[:-1]] + ["readout_output"]


def test_old_readers_find_neither_v_reset_nor_metadata_on_nodes(tmp_path: Path) -> None:
    path = tmp_path / "net.nir"
    write_nir(IntegerNetwork(HAND_MADE["max-pool of signed levels"]), path)
    with h5py.File(path) as file:
        fields: list[str] = []
        file["node/nodes"].visit(fields.append)
    assert any(field.endswith("v_threshold") for field in fields)
    assert not [field for field in fields if "v_reset" in field or "metadata" in field]


def test_the_graph_says_what_it_is(tmp_path: Path) -> None:
    net = IntegerNetwork(HAND_MADE["max-pool of signed levels"], {"recipe": "digits", "accuracy": 0.5})
    path = tmp_path / "net.nir"
    write_nir(net, path)
    metadata = nir.read(path).metadata
    assert json.loads(metadata["provenance"]) == {"recipe": "digits", "accuracy": 0.5}
    assert metadata["library"].startswith("maqd-snn ")
    assert metadata["format_version"] == 1
    assert metadata["scales"].startswith("all 1: weights, thresholds and levels are whole numbers")
    assert metadata["zero_point"] == 2
    spike = next(note for name, note in json.loads(metadata["nodes"]).items() if name == "003_spike")
    assert spike == {"op": "spike", "role": "Threshold", "low": -3, "high": 1, "signs": [-1, -1, -1, 1]}


def test_a_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "net.nir"
    path.write_text("old")
    with pytest.raises(MaqdError, match="maximum of accumulators"):
        write_nir(IntegerNetwork([IMAGE, CONV, ops.MaxPool2d("pool", ("conv",), (2, 2), (2, 2))]), path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.nir"]


def test_without_nir_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'maqd-snn\[nir\]'"):
        nir_graph(chain(1, [1]))
