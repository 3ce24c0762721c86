"""SpikingJelly networks become integer networks: every score as their own forward gives it, or a reason why not."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

import maqd_snn
from maqd_snn import MaqdError, MissingExtraError, fold
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.storage import fingerprint
from maqd_snn.neuromorphic import from_spikingjelly, to_snntorch, to_spikingjelly

pytest.importorskip("spikingjelly")
from spikingjelly.activation_based import functional, layer, neuron, surrogate

IMAGE = ops.Input("in", shape=(2, 8, 8), zero_point=3, high=7)
FEATURES = ops.Input("in", shape=(6,), high=9)


def whole(module, step=1.0, largest=3, bias_step=None, seed=0):
    """Give all products of a module weights of whole numbers times `step`, and biases times `bias_step`."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            shape = part.weight.shape
            part.weight.data = torch.randint(-largest, largest + 1, shape, generator=generator) * step
            if part.bias is not None:
                values = torch.randint(-6, 7, part.bias.shape, generator=generator)
                part.bias.data = values * (step if bias_step is None else bias_step)
    return module.eval()


def agree(module, source, samples=1000):
    """Compare the scores of `samples` inputs with the module's own forward, from rest; return the network."""
    net = from_spikingjelly(module, source)
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(source.low, source.high + 1, (samples, *source.shape), generator=generator)
    functional.reset_net(module)
    dtype = next(module.parameters()).dtype
    with torch.no_grad():
        theirs = module((codes - source.zero_point).to(dtype)).double()
    functional.reset_net(module)
    ours = net.reference(codes.numpy()) * net.provenance["score_unit"]
    assert ours.shape == tuple(theirs.shape)
    assert (ours == theirs.numpy()).all()
    assert len(np.unique(ours, axis=0)) > 10  # it tells its inputs apart
    return net


def ilif(levels, threshold=1.0):
    return neuron.ILIFNode(v_threshold=threshold, surrogate_function=surrogate.MultiLevelSpikeCount(levels))


# Of u, what thresholds are multiples of.
NETWORKS = {
    "torch's layers, IF": lambda u: nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        neuron.IFNode(v_threshold=4.0 * u, v_reset=None),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        neuron.IFNode(v_threshold=2.5 * u),
        nn.Flatten(),
        nn.Linear(32, 5),
    ),
    "SpikingJelly's layers, nested, dropout, groups, dilation": lambda u: nn.Sequential(
        nn.Sequential(
            layer.Conv2d(2, 6, 3, padding=(2, 1), dilation=(2, 1), groups=2),
            neuron.IFNode(v_threshold=u),
            layer.Dropout(0.3),
        ),
        layer.AvgPool2d(2),
        nn.Sequential(layer.Flatten(), nn.Identity(), layer.Linear(96, 12), neuron.IFNode(u), layer.Linear(12, 4)),
    ),
    "ILIF, several levels": lambda u: nn.Sequential(
        nn.Conv2d(2, 6, 3), ilif(3, 8.0 * u), nn.AvgPool2d(2, 2, 1), nn.Conv2d(6, 8, 2), ilif(4, 2.0 * u),
        nn.Flatten(), nn.Linear(72, 5)
    ),
    "pools of accumulators": lambda u: nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.MaxPool2d(3, 2, 1), neuron.IFNode(32.0 * u), nn.Conv2d(6, 8, 1),
        nn.AvgPool2d(2, divisor_override=1), ilif(2, 4.0 * u), nn.Flatten(), nn.Linear(8, 5)
    ),
    "a neuron before all, none at the end": lambda u: nn.Sequential(
        ilif(5, 2.0), nn.Conv2d(2, 4, 3), nn.AvgPool2d(2), nn.Flatten()
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("step", "bias_step", "u"), [(1.0, 1.0, 1.0), (0.125, 0.0625, 0.125), (1.0, 0.25, 1.0), (3 / 512, 1 / 128, 1 / 128)]
)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_score_is_the_modules_own(name, step, bias_step, u, dtype):
    module = whole(NETWORKS[name](u), step, bias_step=bias_step).to(dtype)
    agree(module, IMAGE)


@pytest.mark.parametrize("v_reset", [None, 0.0, 2.0, -2.0])
def test_one_step_begins_at_rest(v_reset):
    # In SpikingJelly rest is v_reset, if there is one.
    module = whole(nn.Sequential(nn.Linear(6, 20), neuron.IFNode(3.0, v_reset), nn.Linear(20, 4)))
    shifted = whole(nn.Sequential(nn.Linear(6, 20), neuron.IFNode(3.0 - (v_reset or 0.0)), nn.Linear(20, 4)))
    ours, theirs = agree(module, FEATURES), from_spikingjelly(shifted, FEATURES)
    assert torch.equal(ours.ops[2].thresholds, theirs.ops[2].thresholds)


def test_what_a_module_has_heard_before_does_not_matter():
    module = whole(nn.Sequential(nn.Linear(6, 20), neuron.IFNode(3.0), nn.Linear(20, 4)))
    before = fingerprint(from_spikingjelly(module, FEATURES))
    module(torch.ones(3, 6))
    assert fingerprint(from_spikingjelly(module, FEATURES)) == before


@given(
    st.integers(1, 9),
    st.sampled_from([0.25, 1.0, 4.0]),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.integers(-8, 8),
)
@example(3, 1.0, 1.0, 2)
@settings(max_examples=60)
def test_ties_go_to_the_even_level(levels, threshold, step, shift):
    # Quarters as biases: of every fourth charge a half.
    module = nn.Sequential(nn.Linear(1, 3), ilif(levels, threshold), nn.Linear(3, 3, bias=False))
    module[0].weight.data = torch.tensor([[step], [-step], [0.0]])
    module[0].bias.data = torch.tensor([shift * 0.25, 2.0, shift * 0.25])
    module[2].weight.data = torch.eye(3)
    source = ops.Input("in", shape=(1,), low=-40, high=40)
    codes = torch.arange(-40, 41)[:, None]
    with torch.no_grad():
        theirs = module(codes.float())
    net = from_spikingjelly(module, source)
    assert np.array_equal(net.reference(codes.numpy()), theirs.numpy())


def test_halves_are_rounded_to_even_thresholds():
    module = nn.Sequential(nn.Linear(1, 1, bias=False), ilif(4, 2.0))
    module[0].weight.data = torch.tensor([[1.0]])
    spikes = from_spikingjelly(module, ops.Input("in", shape=(1,))).ops[2]
    assert spikes.thresholds.tolist() == [[2, 3, 6, 7]]  # 1, 3, 5, 7 are halves: 1 -> 0, 3 -> 2, 5 -> 2, 7 -> 4


@pytest.mark.parametrize(("dtype", "fires"), [(torch.float32, True), (torch.float64, False)])
def test_a_threshold_is_rounded_as_the_module_rounds_it(dtype, fires):
    module = nn.Sequential(nn.Linear(1, 1, bias=False), neuron.IFNode(0.7), nn.Linear(1, 1, bias=False)).to(dtype)
    module[0].weight.data.fill_(np.float32(0.7))  # which is less than 0.7
    module[2].weight.data.fill_(1.0)
    assert bool(module(torch.ones(1, 1, dtype=dtype))) == fires
    assert bool(from_spikingjelly(module, ops.Input("in", shape=(1,), high=1))(torch.ones(1, 1).long())) == fires


def test_a_layer_may_be_there_twice_but_no_neuron():
    product = nn.Linear(6, 6, bias=False)
    agree(whole(nn.Sequential(product, neuron.IFNode(3.0), product, neuron.IFNode(2.0), nn.Linear(6, 4))), FEATURES)
    shared = neuron.IFNode(3.0)
    with pytest.raises(MaqdError, match="ifnode_3: a IFNode is there twice, and not at rest the second time"):
        from_spikingjelly(features(product, shared, product, shared, nn.Linear(6, 4)), FEATURES)


def test_weights_that_are_whole_stay_as_they_are():
    module = whole(nn.Sequential(nn.Linear(6, 20), neuron.IFNode(), nn.Linear(20, 4)), step=2.0)
    net = from_spikingjelly(module, FEATURES)
    assert torch.equal(net.ops[1].weight, module[0].weight.long())
    assert net.provenance["score_unit"] == 1.0
    assert net.provenance["from"].startswith("spikingjelly ")


@pytest.mark.parametrize("form", ["unit", "graded"])
@pytest.mark.parametrize("family", ["mlp", "vgg", "resnet"])
def test_networks_come_back_from_spikingjelly(family, form, make_model, random_codes):
    net = fold(make_model(family, 2, 3))
    model = to_spikingjelly(net, form)
    back = from_spikingjelly(model)
    codes = random_codes(net, 24)
    assert back.input is net.input
    for name, values in net.trace(codes).items():
        assert torch.equal(back.trace(codes)[name], values), name
    with torch.no_grad():  # it is read from the modules: what was trained on there counts
        model.part(net.ops[-1]).bias += 7
    assert torch.equal(from_spikingjelly(model)(codes), net(codes) + 7)


@pytest.mark.parametrize("act_states", [3, 16])
def test_graded_networks_come_back_from_spikingjelly(act_states, make_model, random_codes):
    net = fold(make_model("vgg", act_states, 15))
    codes = random_codes(net, 24)
    assert torch.equal(from_spikingjelly(to_spikingjelly(net))(codes), net(codes))


def test_real_digits_give_the_same_scores():
    model = maqd_snn.build("mlp", input_shape=(1, 8, 8), classes=10, act_states=2, weight_states=3, plan="32-24")
    _, test = maqd_snn.datasets.load("digits")
    codes = test.codes
    model.train()
    model(codes)
    net = fold(model.eval())
    back = from_spikingjelly(to_spikingjelly(net, "unit"))
    assert torch.equal(back(codes), net(codes))
    assert len(net(codes).argmax(1).unique()) > 1


def test_a_network_that_was_read_can_be_exported(tmp_path):
    net = from_spikingjelly(whole(NETWORKS["ILIF, several levels"](1.0)), IMAGE)
    pytest.importorskip("nir")
    maqd_snn.export(net, tmp_path / "net.nir", format="nir-graded")
    codes = torch.randint(0, 8, (20, 2, 8, 8))
    assert maqd_snn.verify(tmp_path / "net.nir", net, codes).ok


def features(*parts, step=1.0):
    return whole(nn.Sequential(*parts), step)


def changed(module, function):
    function(module)
    return module


REFUSED = {
    "trained in floating point": (lambda: nn.Sequential(nn.Linear(6, 4)), r"linear_0: its sums are not.*\.double"),
    "a decimal step": (lambda: features(nn.Linear(6, 4), step=0.1), "linear_0: its sums are not exact"),
    "a decimal bias": (
        lambda: changed(features(nn.Linear(6, 4)), lambda m: m[0].bias.data.fill_(0.1)),
        "linear_0: its sums are not exact",
    ),
    "sums beyond 2^24": (lambda: features(nn.Linear(6, 4), step=2.0**20 + 1), r"linear_0: its sums.*can reach 9\.75"),
    "weights too far apart": (
        lambda: changed(features(nn.Linear(6, 4)), lambda m: m[0].weight.data.view(-1)[0].fill_(2.0**-100)),
        r"linear_0: its sums are not exact.*in steps of 7\.89e-31",
    ),
    "weights that are hardly there": (
        lambda: changed(features(nn.Linear(6, 4, bias=False)), lambda m: m[0].weight.data.fill_(2.0**-130)),
        "linear_0: its sums are not exact",
    ),
    "pruned": (
        lambda: changed(features(nn.Linear(6, 4)), lambda m: prune.random_unstructured(m[0], "weight", 0.5)),
        "linear_0: a Linear computes its weight anew in every call",
    ),
    "nan": (lambda: changed(features(nn.Linear(6, 4)), lambda m: m[0].weight.data.fill_(np.nan)), "must be finite"),
    "infinite threshold": (lambda: features(nn.Linear(6, 4), neuron.IFNode(np.inf)), "v_threshold must be finite"),
    "normalization": (lambda: features(nn.Linear(6, 4), nn.BatchNorm1d(4)), "batchnorm1d_1: a BatchNorm1d scales and"),
    "its normalization": (lambda: features(layer.BatchNorm2d(4)), "batchnorm2d_0: a BatchNorm2d scales .*fold it"),
    "a leaky neuron": (lambda: features(nn.Linear(6, 4), neuron.LIFNode()), "lifnode_1: a LIFNode cannot be read"),
    "a module of one's own": (lambda: nn.Sequential(nn.Tanh()), "tanh_0: a Tanh cannot be read; give an nn"),
    "no chain": (lambda: nn.ModuleList([nn.Linear(6, 4)]), "modulelist: a ModuleList cannot be read"),
    "a subclass": (lambda: nn.Sequential(layer.WSLinear(6, 4)), "wslinear_0: a WSLinear cannot be read"),
    "many steps": (lambda: features(layer.Linear(6, 4, step_mode="m")), r"many steps; call functional\.set_step_mode"),
    "a neuron of many steps": (lambda: features(neuron.IFNode(step_mode="m"), nn.Linear(6, 4)), "ifnode_0.*many steps"),
    "dropout in training": (lambda: features(nn.Linear(6, 4), nn.Dropout()).train(), r"at random.*call \.eval\(\)"),
    "no spikes": (lambda: features(neuron.IFNode(surrogate_function=surrogate.Sigmoid(spiking=False))), "must fire"),
    "random spikes": (lambda: features(neuron.IFNode(surrogate_function=surrogate.PoissonPass())), "must fire where"),
    "counts of an IF": (lambda: features(neuron.IFNode(surrogate_function=surrogate.MultiLevelSpikeCount(3))), "must "),
    "no counts": (
        lambda: changed(features(ilif(3)), lambda m: setattr(m[0].surrogate_function, "spiking", False)),
        "ilifnode_0: a ILIFNode needs a spiking MultiLevelSpikeCount",
    ),
    "a division": (lambda: features(nn.Linear(6, 4), ilif(3, 0.75)), r"divides by v_threshold 0\.75, which rounds"),
    "two products": (lambda: features(nn.Linear(6, 4), nn.Linear(4, 3)), "linear_1: a Linear needs spikes or inputs"),
    "two types": (lambda: changed(features(nn.Linear(6, 4), nn.Linear(4, 3)), lambda m: m[1].double()), "one floating"),
    "half precision": (lambda: features(nn.Linear(6, 4)).half(), r"float32 or float64, got torch\.float16"),
    "a threshold that is too fine": (
        lambda: features(nn.Linear(6, 4), neuron.IFNode(1.0, v_reset=1e-9)), "ifnode_1: its sums are not exact"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_exact_is_refused(name):
    make, message = REFUSED[name]
    with pytest.raises(MaqdError, match=message) as error:
        from_spikingjelly(make(), FEATURES)
    assert "\n" not in str(error.value)


IMAGES_REFUSED = {
    "reflecting": (nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), "needs zeros as padding, and their number"),
    "named padding": (nn.Conv2d(2, 4, 3, padding="same"), "needs zeros as padding, and their number, got 'same'"),
    "ninths": (
        nn.AvgPool2d(3),
        "avgpool2d_0: a AvgPool2d divides by 9, which rounds; use a power of two, or divisor_over",
    ),
    "average without padding": (nn.AvgPool2d(2, 2, 1, count_include_pad=False), "divide by the same number everywhere"),
    "ceiling": (nn.AvgPool2d(2, ceil_mode=True), "ceil_mode False"),
    "ceiling of maxima": (nn.MaxPool2d(2, ceil_mode=True), "needs dilation 1, ceil_mode False"),
    "dilated maxima": (nn.MaxPool2d(2, dilation=2), "needs dilation 1"),
    "indices": (nn.MaxPool2d(2, return_indices=True), "return_indices False"),
    "half a flatten": (nn.Flatten(2), "needs start_dim 1 and end_dim -1, got 2 and -1"),
    "images as scores": (nn.Conv2d(2, 4, 3), r"class scores are \(classes,\), got \(4, 6, 6\); end with a Flatten"),
}


@pytest.mark.parametrize("name", IMAGES_REFUSED)
def test_layers_of_images_that_are_not_exact_are_refused(name):
    module, message = IMAGES_REFUSED[name]
    with pytest.raises(MaqdError, match=message):
        from_spikingjelly(features(module), IMAGE)


def test_a_bias_before_a_padded_average_is_refused():
    with pytest.raises(MaqdError, match="pads with zeros what has a bias: pool after the neuron"):
        from_spikingjelly(features(nn.Conv2d(2, 4, 3), nn.AvgPool2d(2, 2, 1), neuron.IFNode(), nn.Flatten()), IMAGE)


@pytest.mark.parametrize("bias", [0.1, 1e-4])
def test_a_module_of_doubles_holds_more(bias):
    module = features(nn.Linear(6, 20), neuron.IFNode(3.3), nn.Linear(20, 4), step=0.1)
    module[0].bias.data.fill_(bias)
    with pytest.raises(MaqdError, match=r"call \.double\(\) on the module"):
        from_spikingjelly(module, FEATURES)
    agree(module.double(), FEATURES)


def test_other_forms_of_to_spikingjelly_are_refused(make_model):
    net = fold(make_model("mlp", 3, 3))
    with pytest.raises(MaqdError, match=r"spike1: it runs 2 steps; only networks of one time step can be read"):
        from_spikingjelly(to_spikingjelly(net, "unit"))
    pytest.importorskip("snntorch")
    with pytest.raises(MaqdError, match="expected modules of spikingjelly, got those of snntorch"):
        from_spikingjelly(to_snntorch(net))
    model = to_spikingjelly(net)
    functional.set_step_mode(model, "m")
    with pytest.raises(MaqdError, match="spike1: a ILIFNode runs many steps"):
        from_spikingjelly(model)
    model.part(net.ops[3]).neuron = neuron.LIFNode()
    functional.set_step_mode(model, "s")
    with pytest.raises(MaqdError, match="spike1: a LIFNode is no neuron that can be read; use IFNode or ILIFNode"):
        from_spikingjelly(model)


@pytest.mark.parametrize("step", [1.0, 0.125])
@pytest.mark.parametrize(("form", "act_states"), [("graded", 2), ("graded", 4), ("unit", 2)])
def test_what_was_trained_on_in_spikingjelly_comes_back_once_rounded(form, act_states, step, few_digits):
    codes, labels = few_digits.train.codes[:64], few_digits.train.labels[:64]
    trained = maqd_snn.build(
        "vgg", input_shape=(1, 8, 8), classes=10, act_states=act_states, weight_states=3, plan="6-M-8"
    )
    trained.train()(codes)
    net = fold(trained.eval())
    model = to_spikingjelly(net, form)
    before = fingerprint(from_spikingjelly(model))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(codes) / 30, labels).backward()
        optimizer.step()
    with pytest.raises(MaqdError, match="its sums are not exact: they can reach"):
        from_spikingjelly(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.div_(step).round_().mul_(step)
        scores = model(codes)
    back = from_spikingjelly(model)
    assert back.provenance["score_unit"] == step
    assert torch.equal(back(codes) * step, scores)
    assert fingerprint(back) != before
    assert not torch.equal(scores, net(codes).double())


def test_what_was_trained_on_in_spikingjelly_and_is_no_longer_exact_is_refused(make_model):
    net = fold(make_model("mlp", 2, 3))
    readout, spikes = net.ops[-1], next(op for op in net.ops if isinstance(op, ops.Threshold))
    model = to_spikingjelly(net)
    model.part(readout).bias.data.fill_(1e-20)
    with pytest.raises(MaqdError, match=f"{readout.name}: its sums are not exact"):
        from_spikingjelly(model)
    model = to_spikingjelly(net)
    model.part(spikes).a.fill_(
        2.0 ** (54 - net.bounds[spikes.inputs[0]].bit_length())
    )  # halves no longer fit beside it
    model.part(spikes).d.fill_(-0.5)
    with pytest.raises(MaqdError, match=f"{spikes.name}: its sums are not exact"):
        from_spikingjelly(model)


def test_branches_and_biases_without_a_common_step_are_refused(make_model):
    net = fold(make_model("resnet", 2, 3))
    model = to_spikingjelly(net)
    product = next(
        op for op in net.ops if isinstance(op, ops.Conv2d) and isinstance(net.consumers(op.name)[0], ops.Add)
    )
    model.part(product).weight.data /= 4
    with pytest.raises(MaqdError, match="its summands have weights of different steps; give all layers one step"):
        from_spikingjelly(model)
    spikes = ops.Threshold("s", ("in",), torch.ones(6, 1).long(), torch.ones(6).long())
    net = IntegerNetwork([FEATURES, spikes, ops.Readout("r", ("s",), torch.arange(6))])
    model = to_spikingjelly(net)
    codes = torch.randint(0, 10, (20, 6))
    assert torch.equal(from_spikingjelly(model)(codes), net(codes))
    model.part(net.ops[-1]).bias.data += 0.5
    with pytest.raises(MaqdError, match="s: its bias must be whole numbers, since no product lies before it"):
        from_spikingjelly(model)


def test_the_input_must_be_told():
    with pytest.raises(MaqdError, match=r"give the input of the module: input=ops\.Input\("):
        from_spikingjelly(features(nn.Linear(6, 4)))
    with pytest.raises(MaqdError, match=r"linear_0: the weight expects \(6,\) inputs, got \(5,\)"):
        from_spikingjelly(features(nn.Linear(6, 4)), ops.Input("in", shape=(5,)))


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "spikingjelly", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'spikingjelly'.*maqd-snn\[spikingjelly\]"):
        from_spikingjelly(features(nn.Linear(6, 4)), FEATURES)
