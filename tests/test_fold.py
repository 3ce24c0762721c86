"""Folding: every spike of the integer network equals that of `model.eval()`, op by op, in both executors."""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import maqd_snn
from maqd_snn import InputSpec, Node, SpikingNetwork, fold, layers
from maqd_snn.errors import MaqdError
from maqd_snn.folding import FOLD, bisect_thresholds
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.layers import Part, make_norm
from maqd_snn.spike import normalize_and_level

Trace = Mapping[str, Tensor]


def assert_traces_equal(model: SpikingNetwork, net: IntegerNetwork, codes: Tensor) -> dict[str, Tensor]:
    """Compare model, fast executor and oracle for equality, op by op, over every value; return the network's trace."""
    with torch.no_grad():
        of_model = model.trace(codes)
    fast = net.trace(codes)
    oracle = net.reference_trace(codes.numpy())
    assert set(of_model) == set(fast) == set(oracle) == {op.name for op in net.ops}
    for name, value in fast.items():
        assert value.shape == (len(codes), *net.shapes[name]), name
        mismatches = int((of_model[name] != value).sum())
        assert mismatches == 0, f"{name}: {mismatches} of {value.numel()} differ between model and integer network"
        mismatches = int((torch.from_numpy(oracle[name]) != value).sum())
        assert mismatches == 0, f"{name}: {mismatches} of {value.numel()} differ between executor and oracle"
        assert int(value.abs().max()) <= net.bounds[name], name
    last = net.ops[-1].name
    assert torch.equal(net(codes), fast[last])
    assert np.array_equal(net.reference(codes.numpy()), oracle[last])
    return fast


def fold_and_compare(model: SpikingNetwork, codes: Tensor) -> IntegerNetwork:
    net = fold(model)
    assert_traces_equal(model, net, codes)
    return net


@pytest.mark.parametrize("norm", ["lbn", "batchnorm"])
@pytest.mark.parametrize("weight_states", [2, 3, 4, 15])
@pytest.mark.parametrize("act_states", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("family", ["mlp", "vgg", "resnet"])
def test_zero_mismatches(make_model, random_codes, family, act_states, weight_states, norm) -> None:
    model = make_model(family, act_states, weight_states, norm)
    net = fold(model)
    trace = assert_traces_equal(model, net, random_codes(model))
    # The test is worth something: gains of both signs and zero were met, and the spikes are not all alike.
    spikes = [op for op in net.ops if isinstance(op, ops.Threshold)]
    for op in spikes:
        gain = model.part(op.name).norm.gain.detach()
        assert torch.equal(op.direction < 0, gain < 0)
        assert float(gain.min()) < 0 == float(gain[0]) < float(gain.max())
        assert trace[op.name][:, 0].unique().numel() == 1  # a gain of zero: a constant
        assert op.levels == act_states - 1
    assert sum(trace[op.name].unique().numel() for op in spikes) >= len(spikes) * min(act_states, 4)


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "lbn-sample"},
        {"norm": "lbn-channel-mean"},
        {"signed": True},
        {"signed": True, "norm": "batchnorm", "input_range": (-8, 8), "zero_point": 0},
        {"input_range": (0, 3), "zero_point": 0, "input_kind": "events"},
        {"edge_states": 2},
        {"edge_states": 16, "weight_step": 0.3},
        {"learned_step": "channel"},
        {"learned_step": "layer", "weight_step": 0.5},
        {"zero_sum": True},
    ],
    ids=str,
)
@pytest.mark.parametrize(("act_states", "weight_states"), [(2, 3), (5, 4)])
@pytest.mark.parametrize("family", ["mlp", "vgg", "resnet"])
def test_zero_mismatches_with_options(make_model, random_codes, family, act_states, weight_states, options) -> None:
    model = make_model(family, act_states, weight_states, **options)
    net = fold_and_compare(model, random_codes(model))
    for op in net.ops:
        if isinstance(op, ops.Threshold):
            assert op.low == (1 - act_states if options.get("signed") else 0)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("plan", ["8-8-M-16-S", "8-S-8-M", "8-M-S-8"])
@pytest.mark.parametrize("act_states", [2, 4])
def test_zero_mismatches_with_pools_before_the_norm(make_model, random_codes, act_states, plan, signed) -> None:
    model = make_model("vgg", act_states, 3, signed=signed, plan=plan, pool_first=True)
    net = fold_and_compare(model, random_codes(model))
    names = [op.name for op in net.ops]
    pooled = next(op for op in net.ops if isinstance(op, ops.MaxPool2d | ops.SumPool2d))
    assert names.index(pooled.name) < names.index(f"spike{pooled.name[4:].split('_')[0]}")


def test_every_part_of_a_hand_made_graph(random_codes) -> None:
    """Strides, paddings, dilations and groups of each side differ; pools overlap and are padded; a residual sum."""
    torch.manual_seed(0)
    conv = layers.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, states=4)
    parts = [
        Node("stem", layers.Conv2d(2, 4, 3, padding=1, states=7), ("input",)),
        Node("overlap", layers.MaxPool2d((3, 2), stride=(1, 2), padding=(1, 1)), ("stem",)),
        Node("s1", layers.NormSpike(make_norm("batchnorm", 4), 4, signed=True), ("overlap",)),
        Node("conv", conv, ("s1",)),
        Node("depthwise", layers.Conv2d(6, 6, 1, groups=6, states=None), ("conv",)),
    ]
    with pytest.raises(MaqdError, match="depthwise has float weights"):
        fold(SpikingNetwork(InputSpec((2, 9, 8)), parts))
    parts[4:] = [
        Node("sum", layers.Add(), ("conv", "conv")),
        Node("s2", layers.NormSpike(make_norm("lbn", 6), 3), ("sum",)),
        Node("average", layers.SumPool2d((2, 3), stride=(2, 1), padding=(1, 1)), ("s2",)),
        Node("s3", layers.NormSpike(make_norm("lbn-sample", 6), 2), ("average",)),
        Node("flat", layers.Flatten(), ("s3",)),
    ]
    model = SpikingNetwork(InputSpec((2, 9, 8), zero_point=17), parts)
    model(random_codes(model, 16))
    model.eval()
    assert all(v.unique().numel() > 1 for v in assert_traces_equal(model, fold(model), random_codes(model)).values())


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
@pytest.mark.parametrize("family", ["mlp", "vgg"])
def test_zero_mismatches_with_tiny_and_huge_gains(make_model, random_codes, family: str, scale: float) -> None:
    model = make_model(family, 4, 3)
    with torch.no_grad():
        for name in model.spiking_names():
            model.part(name).norm.gain.mul_(scale)
    fold_and_compare(model, random_codes(model))


@pytest.mark.parametrize("states", [2, 255])
def test_most_states_there_are(make_model, random_codes, states: int) -> None:
    fold_and_compare(make_model("mlp", 256, states), random_codes(make_model("mlp", 256, states)))


def test_a_constant_filter_and_a_dead_layer(make_model, random_codes) -> None:
    model = make_model("vgg", 2, 3)
    with torch.no_grad():
        model.part("conv2").weight[1] = 0.25  # standardizes to zeros
        model.part("spike2").norm.bias.fill_(-100)  # and nothing behind it ever fires
        model.part("spike2").norm.gain.fill_(1)
    net = fold(model)
    trace = assert_traces_equal(model, net, random_codes(model))
    assert not trace["conv2"][:, 1].any()
    assert not trace["spike2"].any()


def test_an_untrained_model_folds(random_codes) -> None:
    model = maqd_snn.build("vgg", input_shape=(1, 6, 6), classes=3, plan="4-M-4")
    net = fold(model)  # in training mode
    assert model.training
    fold_and_compare(model.eval(), random_codes(model))
    assert np.array_equal(net(random_codes(model)), fold(model)(random_codes(model)))


def test_folding_leaves_the_model_alone_and_the_network_does_not_follow_it(make_model, random_codes) -> None:
    model = make_model("resnet", 3, 3)
    codes = random_codes(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    net = fold(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    scores = net(codes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    assert torch.equal(net(codes), scores)
    assert not torch.equal(fold(model)(codes), scores)


def test_eval_is_exact_under_autocast(make_model, random_codes) -> None:
    model = make_model("vgg", 3, 3)
    codes = random_codes(model)
    net = fold(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_traces_equal(model, net, codes)


@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("family", ["mlp", "vgg", "resnet"])
def test_scores_do_not_depend_on_the_batch(make_model, random_codes, family: str, batch: int) -> None:
    model = make_model(family, 2, 3)
    net = fold(model)
    codes = random_codes(model)
    assert torch.equal(net(codes[:batch]), net(codes)[:batch])
    assert torch.equal(model(codes[:batch]).long(), net(codes)[:batch])
    assert np.array_equal(net.reference(codes[:batch].numpy()), net.reference(codes.numpy())[:batch])


def test_provenance_has_the_library_version(make_model) -> None:
    net = fold(make_model("mlp", 2, 3), {"recipe": "digits", "accuracy": 0.5})
    assert net.provenance == {"library": f"maqd-snn {maqd_snn.__version__}", "recipe": "digits", "accuracy": 0.5}


# Wide layers: the worst case reaches 2^24, and float32 would be wrong.


@pytest.mark.parametrize(
    ("family", "act_states", "weight_states", "wide", "options"),
    [
        ("mlp", 2, 3, ["fc1"], {"input_range": (0, 2**22), "zero_point": 5}),
        ("vgg", 256, 255, ["conv2"], {"plan": "64-8-S", "input_shape": (1, 4, 4)}),
        ("resnet", 256, 255, ["block4_add"], {"plan": "16-16-16-16", "input_shape": (1, 4, 4)}),
        ("vgg", 4, 3, ["conv1", "pool1"], {"plan": "8-S", "pool_first": True, "input_range": (0, 2**19)}),
    ],
)
def test_wide_parts_run_in_float64(make_model, random_codes, family, act_states, weight_states, wide, options) -> None:
    model = make_model(family, act_states, weight_states, **options)
    assert set(wide) <= set(model.wide_parts())
    codes = random_codes(model, 12)
    trace = model.trace(codes)
    for name in model.wide_parts():
        assert trace[name].dtype == torch.float64, name
    fold_and_compare(model, codes)


def test_float32_would_be_wrong_in_the_wide_layer(make_model, random_codes) -> None:
    model = make_model("mlp", 2, 3, input_range=(0, 2**22), zero_point=5)
    codes = random_codes(model, 12)
    centred = (codes - 5).flatten(1)
    weight = model.part("fc1").codes()
    exact = centred @ weight.long().T
    assert torch.equal(model.trace(codes)["fc1"].long(), exact)
    assert not torch.equal((centred.float() @ weight.T).long(), exact)


def test_executor_chooses_by_the_networks_own_bound(make_model, random_codes) -> None:
    # The model's bound is that of any weights, the network's that of these: it may be float32 where the model is not.
    net = fold(make_model("mlp", 2, 3, input_range=(0, 2**22), zero_point=5))
    executor = net.executor(torch.device("cpu"))
    by_name = {prepared.op.name: prepared for prepared in executor.graph}
    assert net.bounds["fc1"] >= 2**24 > net.bounds["fc2"]
    assert by_name["fc1"].dtype == by_name["spike1"].dtype == torch.float64
    assert by_name["fc2"].dtype == by_name["spike2"].dtype == torch.float32


def test_input_codes_above_2_to_the_24(make_model, random_codes) -> None:
    model = make_model("mlp", 2, 3, input_range=(0, 2**26), zero_point=5)
    fold_and_compare(model, random_codes(model, 12))


def test_products_beyond_float64_are_refused() -> None:
    with pytest.raises(MaqdError, match=r"^fc1: the products of this layer can reach \d+, above 2\^53; use fewer"):
        maqd_snn.build("mlp", input_shape=(1, 8, 8), classes=2, input_range=(0, 2**45))


# What cannot be folded says so.


class Doubled(layers.Flatten):
    """A part that a user derived, whose forward nobody but its author knows."""

    def forward(self, *values: Tensor) -> Tensor:
        return 2 * super().forward(*values)


def test_float_twin_is_refused(make_model) -> None:
    model = make_model("mlp", None, None)
    with pytest.raises(
        MaqdError, match=r"^fc1 has float weights and cannot be folded; build the model with weight_states"
    ):
        fold(model)


def test_float_activation_is_refused(make_model) -> None:
    with pytest.raises(MaqdError, match=r"^spike1 is a float activation .* build the model with act_states >= 2"):
        fold(make_model("vgg", None, 3))


def test_float_edge_layers_are_refused(make_model) -> None:
    with pytest.raises(MaqdError, match=r"^conv1 has float weights"):
        fold(make_model("vgg", 2, 3, edge_states=None))


def test_float_readout_is_refused(make_model) -> None:
    model = make_model("mlp", 2, 3)
    model.readout.quantized = False
    with pytest.raises(MaqdError, match=r"^readout has a float bias"):
        fold(model)


def test_unknown_part_is_refused_even_if_derived_from_a_known_one() -> None:
    parts = [Node("twice", Doubled(), ("input",)), Node("fc", layers.Linear(4, 2), ("twice",))]
    with pytest.raises(
        MaqdError, match=r"^twice is a Doubled, which cannot be folded; use one of: Add, Conv2d, Flatten"
    ):
        fold(SpikingNetwork(InputSpec((1, 2, 2)), parts))


@pytest.mark.parametrize("name", ["type", "pop", "double", "conv1.a"])
def test_name_that_torch_keeps_for_itself_is_refused(name: str) -> None:
    with pytest.raises(MaqdError, match=rf"^a part cannot be named '{name}' \(.*\); use another name"):
        SpikingNetwork(InputSpec((1, 2, 2)), [Node(name, layers.Flatten(), ("input",))])


def test_other_modules_are_refused() -> None:
    with pytest.raises(MaqdError, match="fold expects a SpikingNetwork .* got Sequential"):
        fold(nn.Sequential())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["gain", "bias"])
def test_diverged_training_is_refused(make_model, field: str, value: float) -> None:
    model = make_model("mlp", 2, 3)
    with torch.no_grad():
        getattr(model.part("spike2").norm, field)[3] = value
    with pytest.raises(
        MaqdError, match=r"^spike2: the normalization has a scale or shift that is not finite; .* diverged"
    ):
        fold(model)


@pytest.mark.parametrize("name", ["fc1", "fc2", "classifier"])
def test_diverged_weights_are_refused(make_model, name: str) -> None:
    model = make_model("mlp", 2, 3)
    with torch.no_grad():
        model.part(name).weight[0, 0] = math.nan
    with pytest.raises(MaqdError, match=rf"^{name}\b.*(finite|diverged)"):
        fold(model)


def test_every_part_of_the_library_has_a_row() -> None:
    abstract = {layers.QuantizedProduct, layers.Pool2d}
    seen, todo = set(), [Part]
    while todo:
        for kind in todo.pop().__subclasses__():
            seen.add(kind)
            todo.append(kind)
    assert {kind for kind in seen if kind.__module__ == layers.__name__} - abstract == set(FOLD)


# Ties: n*(a*z + b) + 1/2 falls exactly on an integer.


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_hidden_ties_go_up(n: int, signed: bool, sign: int) -> None:
    """a = +-1/(2n) and b a multiple of 1/(2n): every second accumulator lies on a tie, and no rounding hides it."""
    shift = torch.arange(-4, 5)
    norm = make_norm("batchnorm", len(shift))
    norm.eps = 0.0
    with torch.no_grad():
        norm.gain.fill_(sign)
        norm.bias.copy_(shift / (2 * n))
    norm.running_second_moment.fill_(4.0 * n * n)
    part = layers.NormSpike(norm, n + 1, signed).eval()
    z = torch.arange(-40, 41)
    low = -n if signed else 0

    def exact(z: int, shift: int) -> int:
        x = Fraction(sign * z, 2 * n) + Fraction(shift, 2 * n)
        return min(max(math.floor(n * x + Fraction(1, 2)), low), n)

    expected = torch.tensor([[exact(int(value), int(s)) for s in shift] for value in z])
    ties = sum((n * Fraction(sign * int(v) + int(s), 2 * n)).denominator == 2 for v in z for s in shift)
    assert ties > expected.numel() // 3
    assert torch.equal(part(z[:, None].expand(-1, len(shift)).float()).long(), expected)
    thresholds, direction = bisect_thresholds(*norm.folded(), low, n, 40)
    assert torch.equal(levels_by_thresholds(z, thresholds, direction, low), expected)


@pytest.mark.parametrize("act_states", [2, 3, 5])
@pytest.mark.parametrize("family", ["mlp", "vgg", "resnet"])
def test_zero_mismatches_where_the_last_bit_decides(make_model, random_codes, family: str, act_states: int) -> None:
    """Every channel has a threshold just where an accumulator is; a fused or a finer a*z + b would decide otherwise.

    b is the float32 number with which fl(fl(a*z0) + b) is exactly (j - 1/2)/n, for an accumulator z0 that was met.
    """
    model = make_model(family, act_states, 3)
    codes = random_codes(model, 12)
    n, otherwise = act_states - 1, 0
    for name in model.spiking_names():
        norm = model.part(name).norm
        norm.running_mean.zero_()  # so that the folded b is the bias itself
        a = norm.folded()[0]
        z = model.trace(codes)[model.inputs_of[name][0]].detach()
        met = z[2:].transpose(0, 1).flatten(1).mode(1).values  # (C,): the most frequent accumulator of each channel
        tie = (torch.arange(len(a)) % n + 0.5) / n
        with torch.no_grad():
            norm.bias.copy_(tie - a * met.float())
        b = norm.folded()[1]
        assert torch.equal(b, norm.bias.detach())
        level = model.trace(codes)[name]
        finer_a, finer_b = (c.double().view(-1, *(1,) * (z.ndim - 2)) for c in (a, b))
        finer = torch.floor((z.double() * finer_a + finer_b) * n + 0.5).clamp(0, n)
        otherwise += int((finer != level).sum())
    assert otherwise > 20  # in so many places it matters how a*z + b is computed
    fold_and_compare(model, codes)


# bisect_thresholds against every z there is.


def levels_by_thresholds(z: Tensor, thresholds: Tensor, direction: Tensor, low: int) -> Tensor:
    """(Z,) -> (Z, C): low plus the number of thresholds reached, as DESIGN.md defines it."""
    theta, value = thresholds[None], z[:, None, None]
    return low + torch.where(direction[None, :, None] > 0, value >= theta, value <= theta).sum(2)


def levels_in_numpy(z: Tensor, a: Tensor, b: Tensor, low: int, n: int) -> np.ndarray[Any, Any]:
    """clip(floor(n*(a*z + b) + 1/2), low, n), each step rounded to float32."""
    with np.errstate(over="ignore", under="ignore"):
        x = z.numpy().astype(np.float32)[:, None] * a.numpy() + b.numpy()
        return np.clip(np.floor(x * np.float32(n) + np.float32(0.5)), low, n).astype(np.int64)


def assert_thresholds_are_exact(a: Tensor, b: Tensor, low: int, n: int, bound: int) -> None:
    thresholds, direction = bisect_thresholds(a, b, low, n, bound)
    assert thresholds.shape == (len(a), n - low)
    assert thresholds.dtype == direction.dtype == torch.int64
    assert int(thresholds.abs().max()) <= bound + 1
    assert torch.equal(direction, torch.where(a < 0, -1, 1))
    z = torch.arange(-bound, bound + 1)
    got = levels_by_thresholds(z, thresholds, direction, low)
    expected = normalize_and_level(z[:, None].expand(-1, len(a)), a, b, low, n).long()
    assert torch.equal(got, expected)
    np.testing.assert_array_equal(got.numpy(), levels_in_numpy(z, a, b, low, n))
    # Always and never: one beyond the reachable range, so that a reader can tell them from the others.
    oriented = thresholds * direction[:, None]
    assert not bool((oriented == -bound).any())
    assert bool((oriented.diff(dim=1) >= 0).all())


any_float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
near_one_level = st.floats(-2, 2, width=32)
exactly_half_steps = st.integers(-64, 64).map(lambda k: k / 32)
coefficient = st.one_of(
    any_float32,
    near_one_level,
    exactly_half_steps,
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1.1754944e-38, 1e-20, -1e-20, 1e20, 3.4028235e38, -3.4028235e38]),
)


@settings(max_examples=300)
@given(
    pairs=st.lists(st.tuples(coefficient, coefficient), min_size=1, max_size=8),
    n=st.one_of(st.integers(1, 8), st.integers(1, 255)),
    signed=st.booleans(),
    bound=st.one_of(st.integers(0, 12), st.integers(0, 400)),
)
@example(pairs=[(1e-45, 0.5), (-1e-45, 0.5)], n=1, signed=False, bound=3)
@example(pairs=[(3.4028235e38, -3.4028235e38), (-3.4028235e38, 3.4028235e38)], n=255, signed=True, bound=300)
@example(pairs=[(0.0, -0.5), (0.0, 0.49999997), (-0.0, 0.5)], n=1, signed=True, bound=2)
@example(pairs=[(0.5, 0.0)], n=1, signed=False, bound=0)
def test_bisection_equals_brute_force_over_every_accumulator(pairs, n: int, signed: bool, bound: int) -> None:
    a, b = (torch.tensor(values, dtype=torch.float32) for values in zip(*pairs, strict=True))
    assert_thresholds_are_exact(a, b, -n if signed else 0, n, bound)


@pytest.mark.parametrize("bound", [1, 1000, 30_000])
def test_bisection_at_scales_that_cross_inside_the_range(bound: int) -> None:
    generator = torch.Generator().manual_seed(bound)
    a = torch.randn(16, generator=generator) * 4 / bound
    b = torch.randn(16, generator=generator)
    assert_thresholds_are_exact(a, b, -3, 3, bound)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_bisection_where_the_last_bit_decides(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    a = torch.randn(400, generator=generator)
    z = torch.randint(-300, 301, (400,), generator=generator)
    b = (torch.randint(0, n, (400,), generator=generator) + 0.5) / n - a * z
    assert_thresholds_are_exact(a, b, 0, n, 300)
    finer = torch.floor((z * a.double() + b.double()) * n + 0.5).clamp(0, n)
    assert int((finer != normalize_and_level(z[None], a, b, 0, n)[0]).sum()) > 40


def test_bisection_beyond_float32_integers() -> None:
    """Above 2^24 several accumulators become one float32: the threshold still separates them exactly."""
    bound = 2**30
    a, b = torch.tensor([2.0**-24, -(2.0**-24)]), torch.tensor([-1.0, 2.5])
    thresholds, direction = bisect_thresholds(a, b, 0, 3, bound)
    for z in [*range(2**24 - 20, 2**24 + 80), *range(2**25 - 50, 2**25 + 80), *range(2**26 - 80, 2**26 + 80)]:
        for value in (z, -z):
            one = torch.tensor([value])
            expected = normalize_and_level(one[:, None].double().expand(-1, 2), a, b, 0, 3).long()
            assert torch.equal(levels_by_thresholds(one, thresholds, direction, 0), expected), value


def test_constant_channel_is_always_or_never() -> None:
    thresholds, direction = bisect_thresholds(torch.zeros(3), torch.tensor([-9.0, 0.5, 9.0]), 0, 2, 10)
    assert direction.tolist() == [1, 1, 1]
    assert thresholds.tolist() == [[11, 11], [-11, 11], [-11, -11]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bisection_refuses_what_is_not_finite(bad: float) -> None:
    for a, b in (([1.0, bad], [0.0, 0.0]), ([1.0, 1.0], [bad, 0.0])):
        with pytest.raises(MaqdError, match="scale or shift that is not finite"):
            bisect_thresholds(torch.tensor(a), torch.tensor(b), 0, 1, 5)


@pytest.mark.parametrize("change", ["threshold", "direction", "weight", "bias"])
def test_this_comparison_finds_a_network_that_is_off_by_one(make_model, random_codes, change: str) -> None:
    """The comparison itself, broken once: one number of the folded network changed by the least there is."""
    model = make_model("mlp", 3, 3, plan="12-12")
    off: Callable[[ops.Op], ops.Op] = {"threshold": _later, "direction": _turned, "weight": _heavier, "bias": _bolder}[
        change
    ]
    net = IntegerNetwork([off(op) for op in fold(model).ops])
    with pytest.raises(AssertionError, match="differ between model and integer network"):
        assert_traces_equal(model, net, random_codes(model, 400))


def _later(op: ops.Op) -> ops.Op:
    if not isinstance(op, ops.Threshold) or op.name != "spike2":  # where accumulators are small, and every one is met
        return op
    return ops.Threshold(op.name, op.inputs, op.thresholds + op.direction[:, None], op.direction, op.low)


def _turned(op: ops.Op) -> ops.Op:
    if not isinstance(op, ops.Threshold):
        return op
    return ops.Threshold(op.name, op.inputs, -op.thresholds, -op.direction, op.low)


def _heavier(op: ops.Op) -> ops.Op:
    return (
        ops.Linear(op.name, op.inputs, op.weight + torch.eye(*op.weight.shape).long())
        if isinstance(op, ops.Linear)
        else op
    )


def _bolder(op: ops.Op) -> ops.Op:
    return (
        ops.Readout(op.name, op.inputs, op.bias + torch.eye(len(op.bias))[0].long())
        if isinstance(op, ops.Readout)
        else op
    )
