"""ONNX and QONNX files: exact in onnxruntime and in qonnx's executor, and safe to read."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import maqd_snn
from maqd_snn import MaqdError, MissingExtraError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.neuromorphic import onnx_export
from maqd_snn.neuromorphic.check import record
from maqd_snn.neuromorphic.onnx_export import (
    integer_model,
    onnx_model,
    qcdq_model,
    qonnx_model,
    write_onnx,
    write_qonnx,
)
from maqd_snn.neuromorphic.onnx_verify import verify_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("qonnx")

FORMS = {
    "onnx": onnx_model,
    "onnx-qcdq": qcdq_model,
    "onnx-integer": integer_model,
    "qonnx": qonnx_model,
    "qonnx-multithreshold": lambda net: qonnx_model(net, multi_threshold=True),
}
PLANS = {"mlp": "12-12", "vgg": "6-6-M-8-S", "resnet": "6-8"}


def folded(model="vgg", shape=(3, 8, 8), classes=5, **settings):
    """A folded network with gains of both signs and a zero one, and statistics of a few batches."""
    options = {"act_states": 3, "weight_states": 3, "zero_point": 100, "plan": PLANS[model]} | settings
    torch.manual_seed(0)
    built = maqd_snn.build(model, input_shape=shape, classes=classes, **options)
    built.train()
    for _ in range(2):
        built(torch.randint(0, 256, (16, *shape)))
    with torch.no_grad():
        for module in built.modules():
            if hasattr(module, "gain"):
                module.gain.normal_()
                module.bias.normal_(0, 0.5)
                module.gain[0] = 0
    net = maqd_snn.fold(built.eval())
    assert any(bool((op.direction < 0).any()) for op in net.ops if isinstance(op, ops.Threshold))
    return net


def codes_for(net, samples, seed=1):
    spec = net.input
    return torch.randint(
        spec.low, spec.high + 1, (samples, *spec.shape), generator=torch.Generator().manual_seed(seed)
    ).numpy()


def verified(path, codes, expected, net):
    """Return the record of all runtimes."""
    return record(path, net, codes, verify_onnx(path, codes, expected, net))


def check(net, model, path, samples=6):
    """Write `model`, verify it against the NumPy oracle."""
    path.write_bytes(model.SerializeToString())
    codes = codes_for(net, samples)
    return verified(path, codes, net.reference(codes), net)


def kinds(model):
    return [node.op_type for node in model.graph.node]


def constant(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def set_constant(tensor, array):
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(array), tensor.name))


CASES = [
    *({"model": model, "act_states": states} for model in PLANS for states in (2, 3, 4, 8, 16)),
    *({"model": model, "act_states": 3, "signed": True} for model in PLANS),
    {"act_states": 4, "signed": True, "weight_states": 15},
    {"act_states": 2, "signed": True},
    {"weight_states": 2},
    {"model": "resnet", "act_states": 4, "weight_states": 15},
    {"act_states": 4, "plan": "6-M-8-S-8", "pool_first": True},
    {"act_states": 40, "plan": "4-M-4"},
    {"act_states": 256, "plan": "4-M-4"},
    {"zero_point": 0},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_no_class_score_differs(case, tmp_path):
    net = folded(**case)
    for form, write in FORMS.items():
        model = write(net)
        result = check(net, model, tmp_path / "net.onnx")
        assert result.ok, (form, result)
        assert result.scores == 6 * 5
        assert result.format == form
        assert [c.runtime.split()[0] for c in result.ran] == ["onnxruntime", "qonnx"][form.startswith("qonnx") :]
        shown = [layer.name for layer in result.ran[0].layers]
        assert shown == [op.name for op in net.ops[1:]][: -1 if form.startswith("qonnx") else None]
        thresholds = [op for op in net.ops if isinstance(op, ops.Threshold)]
        if form == "qonnx-multithreshold":
            assert kinds(model).count("MultiThreshold") == len(thresholds)
        elif thresholds[0].levels < 32:  # among that many levels float32 may be too coarse
            assert "MultiThreshold" not in kinds(model)


def awkward_network():
    """Every option of every op that the model families leave at its default."""
    g = torch.Generator().manual_seed(3)

    def weight(*shape):
        return torch.randint(-3, 4, shape, generator=g)

    def thresholds(name, source, channels, n, spread, low=0, down=()):
        theta = (torch.arange(n)[None] * spread + torch.randint(-4, 5, (channels, 1), generator=g)) - spread
        direction = torch.ones(channels, dtype=torch.int64)
        direction[list(down)] = -1
        return ops.Threshold(name, (source,), theta * direction[:, None], direction, low)

    return IntegerNetwork(
        [
            ops.Input("in", shape=(4, 9, 7), zero_point=3, low=-5, high=9, kind="events"),
            ops.Conv2d("grouped", ("in",), weight(6, 2, 3, 2), (2, 1), (1, 2), (1, 2), 2),
            thresholds("spike", "grouped", 6, 5, 15, low=-2, down=(1, 4)),
            ops.MaxPool2d("max", ("spike",), (3, 2), (2, 1), (1, 1)),
            ops.SumPool2d("sum", ("spike",), (3, 2), (2, 1), (1, 1)),
            ops.Conv2d("depthwise", ("max",), weight(6, 1, 1, 1), groups=6),
            ops.Add("three", ("max", "sum", "depthwise")),
            ops.MaxPool2d("max_of_negatives", ("three",), (2, 2), (1, 1), (1, 1)),
            thresholds("spike2", "max_of_negatives", 6, 7, 1, low=1, down=(0,)),
            ops.Flatten("flat", ("spike2",)),
            ops.Linear("fc", ("flat",), weight(8, 6 * 4 * 11)),
            thresholds("spike3", "fc", 8, 3, 20, low=-4, down=(3,)),
            ops.Flatten("flat_again", ("spike3",)),
            ops.Linear("out", ("flat_again",), weight(3, 8)),
            ops.Readout("scores", ("out",), torch.tensor([7, 0, -9])),
        ]
    )


@pytest.mark.parametrize("form", FORMS)
def test_groups_dilation_odd_pools_and_levels_that_start_anywhere(form, tmp_path):
    net = awkward_network()
    assert len(np.unique(net.reference(codes_for(net, 20)))) > 30
    assert check(net, FORMS[form](net), tmp_path / "net.onnx", 20).ok


@pytest.mark.parametrize("make", [awkward_network, lambda: folded("resnet", act_states=4)], ids=["awkward", "resnet"])
def test_every_op_of_the_file_gives_what_the_network_gives(make):
    net = make()
    model = onnx_model(net)
    infos = {info.name: info for info in model.graph.value_info}
    names = [op.name for op in net.ops[1:]]
    model.graph.output.extend(infos[name] for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    codes = codes_for(net, 5)
    outputs = session.run(names, {net.input.name: codes.astype(onnx_export._code_type(net.input))})
    for name, output in zip(names, outputs, strict=True):
        np.testing.assert_array_equal(output, net.reference_trace(codes)[name], err_msg=name)
        assert output.shape[1:] == net.shapes[name]


@pytest.mark.parametrize("form", FORMS)
def test_the_model_is_valid_and_says_where_it_comes_from(form):
    net = folded("resnet")
    model = FORMS[form](net)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True)
    infos = [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]
    batched = [info for info in infos if info.type.tensor_type.shape.dim[0].dim_param == "batch"]
    shapes = {info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim[1:]) for info in batched}
    assert all(shapes[op.name] == net.shapes[op.name] for op in net.ops)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["maqd_snn_form"] == form
    assert properties["maqd_snn_version"] == model.producer_version == maqd_snn.__version__
    assert json.loads(properties["maqd_snn_provenance"]) == net.provenance
    assert "0..255" in model.doc_string


def test_the_batch_is_dynamic_and_the_input_takes_plain_integers():
    net = folded("mlp", shape=(1, 4, 4))
    session = onnxruntime.InferenceSession(onnx_model(net).SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(uint8)"
    assert session.get_outputs()[0].type == "tensor(int64)"
    for samples in (1, 7):
        codes = codes_for(net, samples)
        np.testing.assert_array_equal(session.run(None, {"input": codes.astype(np.uint8)})[0], net.reference(codes))


def test_more_samples_than_one_batch_holds(tmp_path, monkeypatch):
    net = folded("mlp", shape=(1, 4, 4))
    monkeypatch.setattr("maqd_snn.neuromorphic.onnx_verify.BATCH_ELEMENTS", 12 * 16 * 3)
    for write in FORMS.values():
        assert check(net, write(net), tmp_path / "net.onnx", samples=8).ok


def bits_of(model):
    return {
        node.output[0]: int(onnx.numpy_helper.to_array(constant(model, node.input[3])))
        for node in model.graph.node
        if node.op_type == "Quant"
    }


@pytest.mark.parametrize(
    ("settings", "expected", "clipped"),
    [
        ({"act_states": 2, "weight_states": 2}, {"spike1": 1, "conv2_quant": 2, "conv1_quant": 8}, False),
        ({"act_states": 3, "weight_states": 3}, {"spike1": 2, "conv2_quant": 2}, True),
        ({"act_states": 4, "weight_states": 15}, {"spike1": 2, "conv2_quant": 4}, False),
        ({"act_states": 16, "weight_states": 5}, {"spike1": 4, "conv2_quant": 3}, False),
        ({"act_states": 256}, {"spike2": 8}, False),
        ({"act_states": 4, "signed": True}, {"spike1": 3}, False),
        ({"act_states": 3, "signed": True}, {"spike1": 3}, True),
    ],
    ids=str,
)
def test_quant_nodes_have_the_smallest_bit_width(settings, expected, clipped):
    model = qonnx_model(folded(plan="4-16", shape=(3, 4, 4), **settings))
    assert {name: bits_of(model)[name] for name in expected} == expected
    assert ("Clip" in kinds(model)) == clipped
    assert ("Relu" in kinds(model)) != settings.get("signed", False)


def test_qonnx_counts_the_connections_and_bit_widths_that_the_network_has():
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.change_batchsize import ChangeBatchSize
    from qonnx.util.inference_cost import inference_cost

    net = folded("vgg", plan="6-6-M-8", act_states=4, weight_states=3, zero_point=0)
    wrapper = ModelWrapper(qonnx_model(net)).transform(ChangeBatchSize(1))
    cost = inference_cost(wrapper, discount_sparsity=False)["total_cost"]
    assert cost["op_mac_UINT8_INT8"] == 8 * 8 * 6 * 27
    assert cost["op_mac_UINT2_INT2"] == 8 * 8 * 6 * 54 + 4 * 4 * 8 * 54
    assert cost["op_mac_UINT2_INT8"] == 4 * 4 * 8 * 5


def test_the_standard_qcdq_form_made_from_a_qonnx_file_is_exact_in_onnxruntime():
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.qonnx_to_qcdq import QuantToQCDQ

    net = folded("resnet", act_states=4)
    model = ModelWrapper(qonnx_model(net)).transform(QuantToQCDQ()).model
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    codes = codes_for(net, 6)
    np.testing.assert_array_equal(session.run(None, {"input": codes.astype(np.float32)})[0], net.reference(codes))


def uneven_network():
    """Thresholds that no affine map has, in the first of two layers."""
    return IntegerNetwork(
        [
            ops.Input("in", shape=(2,), low=-20, high=20),
            ops.Linear("fc", ("in",), torch.tensor([[1, 1], [1, -1]])),
            ops.Threshold("uneven", ("fc",), torch.tensor([[0, 1, 25], [1, 0, -25]]), torch.tensor([1, -1])),
            ops.Linear("fc2", ("uneven",), torch.tensor([[3, 1], [-1, 4]])),
            ops.Threshold("even", ("fc2",), torch.tensor([[2, 4, 6], [1, 2, 3]]), torch.tensor([1, 1])),
            ops.Linear("out", ("even",), torch.tensor([[1, 0], [0, 1]])),
        ]
    )


def test_a_layer_without_affine_map_falls_back_to_multithreshold(tmp_path):
    net = uneven_network()
    model = qonnx_model(net)
    assert [node.output[0] for node in model.graph.node if node.op_type == "MultiThreshold"] == ["uneven"]
    assert "even" in bits_of(model)
    assert check(net, model, tmp_path / "net.onnx", 300).ok


def large_network(kind):
    """Accumulators of 2^24 and more, among them 2^24 + 1, which float32 does not have."""
    weight = torch.tensor([[2**16, 1, 0], [-(2**16), 0, 3]])
    if kind == "Conv2d":
        start = ops.Input("in", shape=(3, 1, 1), high=256)
        return IntegerNetwork([start, ops.Conv2d("big", ("in",), weight[:, :, None, None])])
    theta = torch.tensor([[2**24 - 1, 2**24, 2**24 + 1], [-(2**24), -(2**24) + 1, 0]])
    ends = {
        "Threshold": ops.Threshold("spike", ("sum",), theta, torch.tensor([1, 1])),
        "Readout": ops.Readout("scores", ("sum",), torch.tensor([1, -1])),
    }
    return IntegerNetwork(
        [
            ops.Input("in", shape=(3,), high=256),
            ops.Linear("big", ("in",), weight),
            ops.Linear("little", ("in",), torch.zeros(2, 3, dtype=torch.int64)),
            ops.Add("sum", ("little", "big")),  # of a float32 and a float64 tensor
            ends[kind],
        ]
    )


@pytest.mark.parametrize("kind", ["Threshold", "Readout"])
def test_linear_layers_beyond_float32_run_in_float64(kind, tmp_path):
    net = large_network(kind)
    codes = np.stack(np.meshgrid([255, 256], [0, 1, 2, 255], [0, 1], indexing="ij"), -1).reshape(-1, 3)
    expected = net.reference(codes)
    assert len(set(expected[:, 0].tolist())) == {"Threshold": 3, "Readout": 8}[kind]
    write_onnx(net, tmp_path / "net.onnx")
    assert verified(tmp_path / "net.onnx", codes, expected, net).ok
    with pytest.raises(MaqdError, match=r"^big: .* can reach 16777984, .*'qonnx' has no Linear in float64"):
        qonnx_model(net)


@pytest.mark.parametrize("form", FORMS)
def test_convolutions_beyond_float32_are_refused(form):
    with pytest.raises(MaqdError, match=r"^big: its accumulators .* has no Conv2d in float64; train"):
        FORMS[form](large_network("Conv2d"))


def test_codes_beyond_float32_are_subtracted_exactly(tmp_path):
    base = 2**40
    net = IntegerNetwork(
        [
            ops.Input("in", shape=(2,), zero_point=base, low=base - 3, high=base + 3),
            ops.Linear("out", ("in",), torch.tensor([[1, 2], [3, 4]])),
        ]
    )
    assert check(net, onnx_model(net), tmp_path / "net.onnx", 20).ok
    with pytest.raises(MaqdError, match="has no Input in float64"):
        qonnx_model(net)


def test_an_op_without_a_row_is_an_error_that_says_what_to_do(monkeypatch):
    net = folded("mlp")
    monkeypatch.delitem(onnx_export._PLAIN.rows, ops.Flatten)
    with pytest.raises(MaqdError, match=r"^flatten: the format 'onnx' cannot express a Flatten; replace .*Linear"):
        onnx_model(net)


# Reading: files are data.


@pytest.fixture(scope="module")
def small():
    return folded("vgg", plan="4-M-4-S", shape=(2, 6, 6))


def refused(net, model, path, match):
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    codes = codes_for(net, 2)
    with pytest.raises(MaqdError, match=match) as caught:
        verified(path, codes, net.reference(codes), net)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["onnx", "qonnx"])
def test_one_changed_threshold_is_found_wherever_it_matters(form, tmp_path):
    net = uneven_network()
    codes = np.stack(np.meshgrid(np.arange(-20, 21), np.arange(-20, 21), indexing="ij"), -1).reshape(-1, 2)
    changed = ops.Threshold("even", ("fc2",), torch.tensor([[2, 4, 7], [1, 2, 3]]), torch.tensor([1, 1]))
    tampered = IntegerNetwork([changed if op.name == "even" else op for op in net.ops])
    different = int((tampered.reference(codes) != net.reference(codes)).sum())
    assert different > 0

    model = FORMS["onnx" if form == "onnx" else "qonnx-multithreshold"](net)
    if form == "onnx":
        name, theta = "even_theta__", np.array([[7, 3]], np.float32)  # the third of three levels
    else:
        name, theta = "even_thresholds", np.array([[2, 4, 7], [1, 2, 3]], np.float32)
    before = onnx.numpy_helper.to_array(constant(model, name))
    assert before.shape == theta.shape
    assert (before != theta).sum() == 1
    set_constant(constant(model, name), theta)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    result = verified(tmp_path / "net.onnx", codes, net.reference(codes), net)
    assert not result.ok
    assert result.mismatches == different


@pytest.mark.parametrize("name", ["spike1_offset", "spike2_multiplier", "conv2_weight", "readout_bias"])
def test_changed_numbers_of_a_quant_file_are_mismatches(small, name, tmp_path):
    model = qonnx_model(small)
    tensor = constant(model, name)
    set_constant(tensor, -onnx.numpy_helper.to_array(tensor) - 1)
    result = check(small, model, tmp_path / "net.onnx")
    assert result.mismatches > 0
    assert not result.ok


@pytest.mark.parametrize("form", FORMS)
def test_damaged_files_are_refused_or_compared_but_never_crash(small, form, tmp_path):
    whole = FORMS[form](small).SerializeToString()
    codes = codes_for(small, 2)
    expected = small.reference(codes)
    rng = np.random.default_rng(0)
    path = tmp_path / "net.onnx"
    outcomes = []
    for _ in range(40):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        try:
            outcomes.append(str(verified(path, codes, expected, small).ok))
        except MaqdError as error:
            outcomes.append(str(error))
    assert not any("\n" in outcome for outcome in outcomes)
    assert len(set(outcomes) - {"True", "False"}) > 1
    for length in (0, 1, 10, len(whole) // 3, len(whole) - 1):
        refused(small, whole[:length], path, "is damaged, truncated or no ONNX")
    refused(small, b"\x89HDF\r\n\x1a\n" + bytes(200), path, "is damaged, truncated or no ONNX")


def test_nothing_outside_the_file_is_read(small, tmp_path):
    model = onnx_model(small)
    tensor = constant(model, "conv1_weight")
    (tmp_path / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    refused(small, model, tmp_path / "net.onnx", "'conv1_weight' lies in another file")


@pytest.mark.parametrize(
    ("domain", "kind"),
    [("", "Loop"), ("", "ConstantOfShape"), ("com.microsoft", "Gelu"), ("os", "system"), ("", "Quant")],
)
def test_other_operators_are_refused_before_anything_runs(small, domain, kind, tmp_path):
    model = qonnx_model(small)
    model.graph.node[0].domain, model.graph.node[0].op_type = domain, kind
    full = f"{domain}.{kind}" if domain else kind
    refused(small, model, tmp_path / "net.onnx", f"node '{full}', which maqd-snn does not write")


def test_functions_graphs_and_sparse_constants_are_refused(small, tmp_path):
    path = tmp_path / "net.onnx"
    model = onnx_model(small)
    function = model.functions.add()
    function.name, function.domain = "Relu", "mine"
    refused(small, model, path, "defines functions")
    model = onnx_model(small)
    model.graph.node[0].attribute.add().g.name = "inner"
    refused(small, model, path, "holds a graph or tensor")
    model = onnx_model(small)
    model.graph.sparse_initializer.add().dims.append(3)
    refused(small, model, path, "sparse constants")


def test_tensors_larger_than_the_network_has_are_refused_before_they_are_made(small, tmp_path):
    # 200004 x 200004 behind the first convolution, and a stride of its pool that brings it back to 3 x 3.
    model = onnx_model(small)
    for node, key, values in (("conv1", "pads", [10**5] * 4), ("pool1", "strides", [100_001] * 2)):
        entry = next(entry for entry in model.graph.node if entry.name == node)
        next(attribute for attribute in entry.attribute if attribute.name == key).ints[:] = values
    refused(small, model, tmp_path / "net.onnx", r"\(0, 4, 200004, 200004\), more than any tensor of this network")
    large = onnx_model(small)
    large.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(10**4, np.float32), "large"))
    refused(small, large, tmp_path / "net.onnx", r"'large' has the shape \(10000,\), more than any")


def test_a_quant_node_cannot_lie_about_its_shape(small, tmp_path):
    model = qonnx_model(small)
    info = next(info for info in model.graph.value_info if info.name == "spike1")
    info.type.tensor_type.shape.dim[2].dim_value = 1
    refused(small, model, tmp_path / "net.onnx", "'spike1' is not that of its Quant's input|shapes do not fit")


def test_files_of_another_network_are_refused(small, tmp_path):
    path = tmp_path / "net.onnx"
    wider = folded("vgg", shape=(2, 8, 8), plan="4-M-4-S")
    refused(small, onnx_model(wider), path, r"codes of shape \(2, 8, 8\), expected \(2, 6, 6\)")
    more = folded("vgg", plan="4-M-4-S", shape=(2, 6, 6), classes=6)
    refused(small, onnx_model(more), path, r"class scores of shape \(2, 6\) for 2 samples, expected \(5,\) each")
    narrow = onnx_model(small)
    narrow.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT8
    refused(small, narrow, path, "neither float32, uint8 nor int64")
    two = onnx_model(small)
    two.graph.output.append(two.graph.value_info[-1])
    refused(small, two, path, "1 inputs and 2 outputs")


def test_codes_that_the_input_cannot_hold_are_an_error_and_do_not_wrap(tmp_path):
    net = folded("mlp", shape=(1, 2, 2), input_range=(-10, 255))
    model = onnx_model(net)
    assert check(net, model, tmp_path / "net.onnx", 20).ok
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    refused(net, model, tmp_path / "net.onnx", "uint8, cannot hold these codes")


# Writing and the public functions.


def test_one_runtime_alone_still_verifies(small, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    result = check(small, onnx_model(small), tmp_path / "net.onnx")
    assert [(c.runtime.split()[0], c.ran) for c in result.checks] == [("onnxruntime", False), ("qonnx", True)]
    assert "not installed; running ONNX files needs the package 'onnxruntime'" in result.checks[0].problem
    assert result.ok


def test_integer_files_hold_no_floating_point_where_eight_bits_do():
    model = integer_model(folded("vgg", plan="6-M-8", act_states=4, weight_states=15))
    assert kinds(model).count("ConvInteger") == 2
    assert kinds(model).count("MatMulInteger") == 1
    assert {"Conv", "MatMul"}.isdisjoint(kinds(model))
    wide = integer_model(folded("resnet", act_states=40, plan="6-8"))  # sums over 4 x 4 levels do not fit
    assert "MatMul" in kinds(wide)


@pytest.mark.parametrize("form", ["onnx-qcdq", "onnx-integer"])
def test_products_of_eight_bits_do_not_saturate(form, tmp_path):
    # Two products of 255 and 127 are beyond 16 bits, in which some kernels add them.
    weight = torch.full((3, 64), 127)
    weight[1] = -127
    net = IntegerNetwork(
        [
            ops.Input("in", shape=(64,)),
            ops.Linear("a", ("in",), weight.flip(0)),
            ops.Linear("b", ("in",), torch.eye(64, dtype=torch.int64)),
            ops.Threshold("s", ("b",), torch.arange(1, 256).repeat(64, 1), torch.ones(64, dtype=torch.int64)),
            ops.Linear("c", ("s",), weight),
            ops.Add("sum", ("a", "c")),
        ]
    )
    codes = np.full((4, 64), 255)
    codes[1:] = codes_for(net, 3)
    (tmp_path / "net.onnx").write_bytes(FORMS[form](net).SerializeToString())
    assert verified(tmp_path / "net.onnx", codes, net.reference(codes), net).ok


def test_weights_that_int8_does_not_hold_are_refused_or_computed_in_floating_point(tmp_path):
    net = IntegerNetwork(
        [
            ops.Input("in", shape=(2,), zero_point=7),
            ops.Linear("fc", ("in",), torch.tensor([[128, 1], [-3, 0]])),
        ]
    )
    with pytest.raises(MaqdError, match="fc: its weights reach 128, and the format 'onnx-qcdq' holds them in 8 bits"):
        qcdq_model(net)
    model = integer_model(net)
    assert "MatMulInteger" not in kinds(model)
    assert check(net, model, tmp_path / "net.onnx").ok
    huge = IntegerNetwork([ops.Input("in", shape=(2,)), ops.Linear("fc", ("in",), torch.tensor([[2**23, 2**23]]))])
    with pytest.raises(
        MaqdError, match="fc: its accumulators can reach 4278190081, and the format 'onnx-integer' holds"
    ):
        integer_model(huge)


@pytest.mark.parametrize("name", [name for name in maqd_snn.neuromorphic.FORMATS if "onnx" in name])
def test_export_and_verify(small, name, tmp_path):
    path = tmp_path / "net.onnx"
    maqd_snn.neuromorphic.export(small, path, format=name)
    result = maqd_snn.neuromorphic.verify(path, small, torch.from_numpy(codes_for(small, 3)))
    assert result.ok
    assert result.format == name


@dataclass
class HalfWritten:
    def SerializeToString(self):  # noqa: N802 - protobuf's name
        raise OSError("disk full")


@pytest.mark.parametrize("write", [write_onnx, write_qonnx])
def test_a_failing_write_keeps_the_old_file(small, write, tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    write(small, path)
    before = path.read_bytes()
    with pytest.raises(MaqdError, match="big: its accumulators"):
        write(large_network("Conv2d"), path)
    monkeypatch.setattr(onnx_export, "_model", lambda net, form: HalfWritten())
    with pytest.raises(MaqdError, match=r"disk full.*unchanged"):
        write(small, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("modules", "package", "write"),
    [
        (["onnx"], "onnx", write_onnx),
        (["onnxruntime", "qonnx.core.onnx_exec"], "onnxruntime", write_onnx),
        (["qonnx.core.onnx_exec"], "qonnx", write_qonnx),
    ],
)
def test_a_missing_package_names_the_extra(small, modules, package, write, tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    write(small, path)
    codes = codes_for(small, 1)
    expected = small.reference(codes)
    for module in modules:
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"needs the package '{package}'; .*pip install 'maqd-snn\[onnx\]'"):
        verified(path, codes, expected, small)
    if package == "onnx":
        with pytest.raises(MissingExtraError, match="writing or reading ONNX"):
            write(small, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m, "ir_version", 99), "its IR version 99 is newer than 8, the last one read"),
        (lambda m: setattr(m.opset_import[0], "version", 99), "its ONNX operator version 99 is newer than 13"),
        (lambda m: state(m, "2"), "its format version 2 is newer than 1, the last one read; update maqd-snn"),
        (lambda m: state(m, "new"), "its format version is 'new', expected a whole number from 1 to 1"),
    ],
)
def test_files_of_newer_versions_are_refused(change, message, small, tmp_path):
    model = onnx_model(small)
    change(model)
    refused(small, model, tmp_path / "n.onnx", message)


def state(model, version):
    """Set the format version that a model states."""
    (entry,) = (entry for entry in model.metadata_props if entry.key == "maqd_snn_format_version")
    entry.value = version


def test_a_file_without_a_format_version_is_read(small, tmp_path):
    model = onnx_model(small)
    kept = [entry for entry in model.metadata_props if entry.key != "maqd_snn_format_version"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    (tmp_path / "n.onnx").write_bytes(model.SerializeToString())
    codes = codes_for(small, 2)
    assert verified(tmp_path / "n.onnx", codes, small.reference(codes), small).ok
