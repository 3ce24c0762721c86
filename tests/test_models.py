"""Building networks: the families' shapes and rules, and one clear sentence for what cannot be built."""

import math

import pytest
import torch

import maqd_snn
from maqd_snn import MaqdError, layers
from maqd_snn.models import MODELS


def build(model="vgg", **options):
    return maqd_snn.build(model, **{"input_shape": (3, 8, 8), "classes": 4, "plan": "8-M-16", **options})


@pytest.mark.parametrize("family", MODELS)
def test_default_plans_give_logits_and_integer_scores(family):
    model = maqd_snn.build(family, input_shape=(3, 32, 32), classes=7)
    codes = torch.randint(0, 256, (2, 3, 32, 32))
    logits = model(codes)
    assert logits.shape == (2, 7)
    assert 0.05 < float(logits.detach().std()) < 20  # the initial scale suits a cross-entropy
    scores = model.eval()(codes)
    assert torch.equal(scores, scores.round())


def test_first_and_last_layer_have_their_own_states():
    model = build(weight_states=3, edge_states=15)
    states = {name: model.part(name).states for name in ("conv1", "conv2", "classifier")}
    assert states == {"conv1": 15, "conv2": 3, "classifier": 15}
    assert int(model.part("conv2").codes().abs().max()) == 1
    assert int(model.part("conv1").codes().abs().max()) == 7


def test_the_weight_step_is_that_of_the_hidden_layers():
    for family, hidden in (("vgg", "conv2"), ("mlp", "fc2"), ("resnet", "block1_conv1")):
        plan = {"vgg": "8-M-16", "mlp": "8-8", "resnet": "8-8"}[family]
        model, other = build(family, plan=plan, weight_step=2.0), build(family, plan=plan)
        first = next(name for name in model.names if isinstance(model.part(name), layers.QuantizedProduct))
        assert model.part(hidden).step == 2.0 != other.part(hidden).step
        for edge in (first, "classifier"):
            assert model.part(edge).step == other.part(edge).step


@pytest.mark.parametrize(("family", "hidden"), [("vgg", "conv2"), ("mlp", "fc2"), ("resnet", "block1_conv1")])
def test_learned_steps_are_those_of_the_hidden_layers_and_begin_at_the_fixed_one(family, hidden):
    plan = {"vgg": "8-M-16", "mlp": "8-8", "resnet": "8-8"}[family]
    torch.manual_seed(1)
    fixed = build(family, plan=plan, weight_step=0.9)
    for learned, shape in (("layer", (1,)), ("channel", fixed.part(hidden).weight.shape[:1])):
        torch.manual_seed(1)
        model = build(family, plan=plan, weight_step=0.9, learned_step=learned)
        own = {name for name, _ in model.named_parameters()} - {name for name, _ in fixed.named_parameters()}
        products = [n for n in model.names if isinstance(model.part(n), layers.QuantizedProduct)][1:-1]
        assert hidden in products
        assert own == {f"parts.{name}.log_scale" for name in products}
        assert model.part(hidden).log_scale.shape == shape
        assert torch.equal(model.part(hidden).codes(), fixed.part(hidden).codes())
        with torch.no_grad():
            model.part(hidden).log_scale.fill_(math.log(0.9 / 0.3))
        again = build(family, plan=plan, weight_step=0.3).part(hidden)
        again.load_state_dict({"weight": model.part(hidden).weight})
        assert torch.equal(model.part(hidden).codes(), again.codes())
    assert not any("log_scale" in name for name in build(family, plan=plan, weight_states=None,
                                                         learned_step="layer").state_dict())  # fmt: skip


def test_zero_sums_are_those_of_the_hidden_layers():
    torch.manual_seed(1)
    model = build("vgg", plan="8-M-16", zero_sum=True)
    sums = {n: model.part(n).codes().flatten(1).sum(1) for n in ("conv1", "conv2", "classifier")}
    assert not sums["conv2"].any()
    assert sums["conv1"].any()
    assert sums["classifier"].any()


def test_the_residual_stream_is_a_sum_of_accumulators_behind_the_first_spike():
    model = build("resnet", plan="8-8-16")
    inputs = model.inputs_of
    for block in (1, 2, 3):
        assert inputs[f"block{block}_conv1"] == (f"block{block}_spike1",)
        stream, branch = inputs[f"block{block}_add"]
        assert branch == f"block{block}_conv2"
        assert stream == ("block1_add" if block == 2 else f"block{block}_shortcut")
    assert inputs["block1_shortcut"] == ("block1_spike1",)
    assert inputs["block3_shortcut"] == ("block3_spike1",)
    steps = {part.step for name in model.names if "block" in name and hasattr(part := model.part(name), "step")}
    assert len(steps) == 1  # one weight step per network, or the sums would mix scales


def test_pool_first_pools_accumulators():
    assert build(pool_first=True).names[:3] == ("conv1", "pool1", "spike1")
    assert build(pool_first=False).names[:3] == ("conv1", "spike1", "pool1")
    assert isinstance(build(plan="8-S-16").part("pool1"), layers.SumPool2d)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "vit"}, "unknown model 'vit'.*mlp, resnet, vgg"),
        ({"classes": 1}, "a whole number of at least 2 classes, got 1"),
        ({"classes": 2.5}, "a whole number of at least 2 classes, got 2.5"),
        ({"plan": 7}, "plan must be layer widths joined by '-'.* got 7"),
        ({"plan": ""}, "has the step ''"),
        ({"plan": "8-0"}, "has the step '0'"),
        ({"plan": "M-8"}, "starts with a pool"),
        ({"plan": "8-M-8-M-8-M-8-M"}, "use fewer pools"),
        ({"model": "resnet", "plan": "8-M"}, "has the step 'M'"),
        ({"input_shape": (8, 8)}, r"input_shape must be whole numbers \(channels, height, width\).*got \(8, 8\)"),
        ({"input_shape": 5}, "input_shape must be whole numbers.*got 5"),
        ({"input_shape": (1, 4.0, 4)}, "input_shape must be whole numbers"),
        ({"input_range": (5, 5)}, r"low < high with a whole zero point, got 5\.\.5"),
        ({"zero_point": 300}, r"zero_point must lie in 0\.\.255, got 300"),
        ({"zero_point": 0.5}, "whole zero point"),
        ({"input_kind": "video"}, "input kind must be 'analog' or 'events', got 'video'"),
        ({"act_states": 1}, "activation states must be a whole number from 2 to 256, got 1"),
        ({"act_states": 2.0}, "activation states must be a whole number"),
        ({"weight_states": 1}, "weight states must be a whole number from 2 to 255, got 1"),
        ({"edge_states": 256}, "weight states must be a whole number from 2 to 255, got 256"),
        ({"weight_step": float("inf")}, "weight_step must be above 0 and finite"),
        ({"learned_step": "filter"}, "learned_step is one of layer, channel, or none, got 'filter'"),
        ({"norm": "layernorm"}, "unknown normalization 'layernorm'.*batchnorm, groupnorm, lbn"),
        ({"surrogate": "box"}, "unknown surrogate 'box'"),
        ({"model": "mlp", "plan": "1"}, "classifier: a filter of one weight cannot be standardized"),
        ({"model": "mlp", "plan": "99999-99999"}, "more than 2\\^31"),
    ],
)
def test_what_cannot_be_built(options, message):
    with pytest.raises(MaqdError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.full((1, 3, 8, 8), 256), r"must lie in 0\.\.255, got values in 256\.\.256"),
        (torch.full((1, 3, 8, 8), 255.9), "must be whole numbers, got fractions or NaN"),
        (torch.full((1, 3, 8, 8), float("nan")), "must be whole numbers, got fractions or NaN"),
        (torch.zeros(1, 8, 8), r"must have shape \(batch, 3, 8, 8\), got \(1, 8, 8\)"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_codes_outside_the_input_are_refused_in_both_modes(codes, message, training):
    with pytest.raises(MaqdError, match=message):
        build().train(training)(codes)


def test_autocast_does_not_reach_evaluation():
    model = build(act_states=4, weight_states=15).eval()
    codes = torch.randint(0, 256, (4, 3, 8, 8))
    expected = model(codes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(codes), expected)


@pytest.mark.parametrize("states", [2, 4, 16])
def test_gains_start_where_the_levels_err_least(states):
    """At gain g the levels err by E[(max(0, u) - k/(n g))^2], summed up here over a fine grid of the unit normal u."""

    def first_gains(**options):
        model = maqd_snn.build("vgg", input_shape=(3, 8, 8), classes=10, plan="8-M-16", **options)
        gains = torch.cat([model.part(name).norm.gain.detach() for name in model.spiking_names()])
        assert len(gains.unique()) == 1
        return float(gains[0])

    u = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    density, n = torch.exp(-u.square() / 2), states - 1

    def error(g):
        k = torch.floor(n * g * u + 0.5).clamp(0, n)
        return float((density * (u.clamp_min(0) - k / (n * g)).square()).sum())

    found = first_gains(act_states=states, gain=None)
    assert error(found) < min(error(0.99 * found), error(1.01 * found))
    assert first_gains(act_states=states, gain=0.5) == 0.5
    assert first_gains(act_states=states) == 1
    assert first_gains(act_states=None, weight_states=None, gain=None) == 1
