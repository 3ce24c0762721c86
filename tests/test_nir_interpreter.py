"""The NIR interpreter: every node type against loops over its definition, and the graphs that it refuses."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from maqd_snn import MaqdError
from maqd_snn.neuromorphic.nir_interpreter import Size, run_nir, sizes, topological_order

nir = pytest.importorskip("nir")


def run_one(node: Any, inputs: np.ndarray) -> np.ndarray:
    graph = nir.NIRGraph(
        {"in": nir.Input({"input": np.array(inputs.shape[1:])}), "node": node, "out": nir.Output({"output": None})},
        [("in", "node"), ("node", "out")],
        type_check=False,
    )
    outputs = run_nir(graph, torch.from_numpy(inputs))
    assert {name: size.shape for name, size in sizes(graph).items()} == {k: v.shape[1:] for k, v in outputs.items()}
    return outputs["out"].numpy()


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-9, 10, shape).astype(np.float32)


def test_affine_and_linear_are_weight_times_input_plus_bias() -> None:
    x, weight, bias = random(4, 5), random(3, 5), random(3)
    expected = np.array([[sum(w * v for w, v in zip(row, sample, strict=True)) for row in weight] for sample in x])
    assert (run_one(nir.Linear(weight), x) == expected).all()
    assert (run_one(nir.Affine(weight, bias), x) == expected + bias).all()


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [((1, 1), (0, 0), (1, 1), 1), ((2, 1), (1, 2), (1, 1), 1), (2, 1, 2, 2), ((3, 2), (2, 0), (2, 1), 4)],
)
def test_conv2d_is_its_loop(stride: Any, padding: Any, dilation: Any, groups: int) -> None:
    x, weight, bias = random(2, 4, 7, 6), random(8, 4 // groups, 3, 2), random(8)
    got = run_one(nir.Conv2d((7, 6), weight, stride, padding, dilation, groups, bias), x)
    (sh, sw), (ph, pw), (dh, dw) = (np.broadcast_to(v, 2) for v in (stride, padding, dilation))
    for (b, o, i, j), value in np.ndenumerate(got):
        total = bias[o]
        for c, dy, dx in np.ndindex(*weight.shape[1:]):
            y, z = i * sh + dy * dh - ph, j * sw + dx * dw - pw
            if 0 <= y < 7 and 0 <= z < 6:
                total += weight[o, c, dy, dx] * x[b, o // (8 // groups) * (4 // groups) + c, y, z]
        assert value == total
    assert got.shape[2:] == ((7 + 2 * ph - dh * 2 - 1) // sh + 1, (6 + 2 * pw - dw - 1) // sw + 1)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [((2, 2), (2, 2), (0, 0)), ((3, 2), (2, 1), (1, 0)), ((2, 5), (1, 3), (0, 2))]
)
def test_sum_pool2d_is_its_loop(kernel: Any, stride: Any, padding: Any) -> None:
    x = random(2, 3, 7, 6)
    got = run_one(nir.SumPool2d(np.array(kernel), np.array(stride), np.array(padding)), x)
    padded = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    assert got.shape[2:] == tuple((np.array(padded.shape[2:]) - kernel) // stride + 1)
    for (b, c, i, j), value in np.ndenumerate(got):
        y, z = i * stride[0], j * stride[1]
        assert value == padded[b, c, y : y + kernel[0], z : z + kernel[1]].sum()


def test_flatten_counts_its_axes_without_the_batch() -> None:
    x = random(2, 3, 4, 5)
    shape = {"input": np.array([3, 4, 5])}
    assert (run_one(nir.Flatten(shape, 0, -1), x) == x.reshape(2, 60)).all()
    assert (run_one(nir.Flatten(shape, 1, 2), x) == x.reshape(2, 3, 20)).all()
    assert (run_one(nir.Flatten(shape, 0, 1), x) == x.reshape(2, 12, 5)).all()


def test_a_neuron_fires_strictly_above_its_threshold() -> None:
    threshold = np.array([0.5, 1.0, 3.0, -1.0], np.float32)
    node = nir.IF(r=np.array([1, 1, 2, 1], np.float32), v_threshold=threshold)
    x = np.array([[0.5, 1.0, 1.5, -1.0], [0.75, 1.25, 1.75, -0.75]], np.float32)
    assert run_one(node, x).tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]


def test_edges_into_one_node_add_up() -> None:
    eye, zero = np.eye(2, dtype=np.float32), np.zeros(2, np.float32)
    nodes = {"out": nir.Output({"output": np.array([2])}), "in": nir.Input({"input": np.array([2])})}
    nodes |= {"a": nir.Affine(2 * eye, zero), "b": nir.Affine(3 * eye, zero)}
    graph = nir.NIRGraph(nodes, [("in", "a"), ("in", "b"), ("in", "out"), ("b", "out"), ("a", "out")])
    assert run_nir(graph, torch.tensor([[1.0, 10.0]]))["out"].tolist() == [[6, 60]]
    assert topological_order(graph) == ["in", "a", "b", "out"]


def test_an_unknown_node_is_an_error() -> None:
    with pytest.raises(MaqdError, match="node 'node' is a Scale; maqd-snn's NIR interpreter runs only: Input, "):
        run_one(nir.Scale(np.ones(3)), random(1, 3))


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([("in", "a"), ("a", "b"), ("b", "a"), ("b", "out")], "has a cycle"),
        ([("in", "b"), ("b", "out"), ("a", "out")], "node 'a' of the NIR graph has no input"),
        ([("in", "a"), ("a", "c"), ("b", "out")], "edge 'a' -> 'c' to or from a node that does not exist"),
    ],
)
def test_a_graph_that_is_not_feed_forward_is_an_error(edges: list[tuple[str, str]], message: str) -> None:
    affine = nir.Affine(np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
    nodes = {"in": nir.Input({"input": np.array([2])}), "a": affine, "b": affine}
    graph = nir.NIRGraph(nodes | {"out": nir.Output({"output": np.array([2])})}, edges, type_check=False)
    with pytest.raises(MaqdError, match=message):
        run_nir(graph, torch.ones(1, 2))


def test_sizes_are_told_before_anything_is_run() -> None:
    conv = nir.Conv2d((4, 6), random(5, 2, 3, 3), (2, 1), (1, 0), 1, 1, random(5))
    nodes = {
        "in": nir.Input({"input": np.array([2, 4, 6])}),
        "conv": conv,
        "if": nir.IF(np.ones((5, 2, 4)), np.ones((5, 2, 4))),
        "flat": nir.Flatten({"input": np.array([5, 2, 4])}, 0, -1),
        "out": nir.Output({"output": np.array([40])}),
    }
    row = list(nodes)
    found = sizes(nir.NIRGraph(nodes, list(pairwise(row))))
    # The sum of its inputs, the padded image, and 3 x 3 pixels of each channel at each position.
    assert found["conv"] == Size((5, 2, 4), 48 + 2 * 6 * 6 + 2 * 9 * 8)
    assert {name: size.shape for name, size in found.items() if name != "conv"} == {
        "in": (2, 4, 6),
        "if": (5, 2, 4),
        "flat": (40,),
        "out": (40,),
    }


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (nir.Affine(random(3, 4), random(2)), r"node 'node': a weight \(3, 4\) and a bias \(2,\) do not fit inputs"),
        (nir.Linear(random(3, 5)), r"a weight \(3, 5\) and a bias \(3,\) do not fit inputs \(4,\)"),
        (nir.IF(random(2, 4), random(2, 4)), r"r \(2, 4\) and v_threshold \(2, 4\) do not fit inputs \(4,\)"),
        (nir.SumPool2d(*(np.array([2, 2]),) * 3), r"a SumPool2d needs images \(C, H, W\), got inputs \(4,\)"),
        (nir.Flatten({"input": np.array([4])}, 0, -1), None),
        (nir.Conv2d((4, 4), random(1, 1, 3, 3), 1, 0, 1, 1, random(1)), r"do not fit inputs \(4,\)"),
    ],
)
def test_arrays_that_do_not_fit_are_named(node: Any, message: str | None) -> None:
    graph = nir.NIRGraph(
        {"in": nir.Input({"input": np.array([4])}), "node": node, "out": nir.Output({"output": None})},
        [("in", "node"), ("node", "out")],
        type_check=False,
    )
    if message is None:
        assert sizes(graph)["out"].shape == (4,)
        node.start_dim = 1
        message = "start_dim 1 and end_dim -1 do not fit inputs"
    with pytest.raises(MaqdError, match=message):
        sizes(graph)


def test_inputs_of_several_shapes_are_not_added_up() -> None:
    nodes = {"in": nir.Input({"input": np.array([2])}), "a": nir.Affine(random(1, 2), random(1))}
    nodes["out"] = nir.Output({"output": np.array([2])})
    graph = nir.NIRGraph(nodes, [("in", "a"), ("in", "out"), ("a", "out")], type_check=False)
    for run in (lambda: sizes(graph), lambda: run_nir(graph, torch.ones(1, 2))):
        with pytest.raises(MaqdError, match="node 'out' adds up inputs of the shapes"):
            run()
