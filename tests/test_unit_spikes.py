"""Native modules of snnTorch and SpikingJelly: no count differs, but for free-running layers, which are measured."""

import copy
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import maqd_snn
from maqd_snn import MaqdError, MissingExtraError, fold
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.neuromorphic import schedule_errors, to_snntorch, to_spikingjelly
from maqd_snn.neuromorphic.unit_spikes import charge_of

pytest.importorskip("snntorch")
pytest.importorskip("spikingjelly")
LIBRARIES = [to_snntorch, to_spikingjelly]
FORMS = [("graded", "exact"), ("unit", "exact"), ("unit", "free")]


def digits_network(act_states, codes, family="mlp", plan="16-12"):
    """Return the integer network of a model that has seen `codes` once."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = maqd_snn.build(
            family,
            input_shape=(1, 8, 8),
            input_range=(0, 16),
            classes=10,
            act_states=act_states,
            weight_states=3,
            plan=plan,
        )
    model.train()(codes)
    return fold(model.eval())


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("family", "act_states"), [("mlp", 2), ("vgg", 3), ("resnet", 4), ("vgg", 16)])
def test_graded_and_layer_synchronous_forms_are_exact(library, family, act_states, make_model, random_codes):
    net = fold(make_model(family, act_states, 3))
    codes = random_codes(net, 12)
    truth = net.trace(codes)
    for form in ("graded", "unit"):
        model = library(net, form)
        assert torch.equal(model(codes.byte()), model(codes))  # images are uint8, and the zero point is above many
        for _ in range(2):  # the second time from rest again
            assert torch.equal(model(codes), truth[net.ops[-1].name].double())
        for entry in schedule_errors(model, codes):
            assert (entry.mismatches, entry.mean_difference) == (0, 0.0)
            assert entry.values == truth[entry.name].numel()


@pytest.mark.parametrize("library", LIBRARIES)
def test_free_running_layers_are_measured(library, make_model, random_codes):
    net = fold(make_model("vgg", 4, 3))
    codes = random_codes(net, 12)
    model = library(net, "unit", "free")
    assert model.steps == 3
    errors = {entry.name: entry for entry in schedule_errors(model, codes)}
    assert errors["spike1"].mismatches <= errors["spike1"].values // 1000  # a constant current: ties at most
    assert errors["spike2"].mismatches > 0  # its charge comes late
    assert 0 < errors["spike2"].mean_difference < 1
    counts = model.trace(codes)["spike2"]
    assert counts.min() >= 0
    assert counts.max() <= 3
    binary = fold(make_model("vgg", 2, 3))  # one step leaves no time to come late
    assert all(entry.mismatches == 0 for entry in schedule_errors(library(binary, "unit", "free"), codes))


def test_the_neurons_are_the_libraries_own(make_model, random_codes):
    import snntorch
    from spikingjelly.activation_based import neuron

    net = fold(make_model("mlp", 3, 3))
    before = len(snntorch.SpikingNeuron.instances)
    for library, form, kind in (
        (to_snntorch, "unit", snntorch.Leaky),
        (to_snntorch, "graded", snntorch.Leaky),
        (to_spikingjelly, "unit", neuron.IFNode),
        (to_spikingjelly, "graded", neuron.ILIFNode),
    ):
        assert sum(type(module) is kind for module in library(net, form).modules()) == 2
    assert len(snntorch.SpikingNeuron.instances) == before
    codes = random_codes(net, 4)
    assert torch.equal(to_snntorch(net).to("cpu").double()(codes), net(codes).double())  # a module like any other


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("form", "schedule"), FORMS)
@pytest.mark.parametrize(("family", "act_states"), [("mlp", 2), ("vgg", 3), ("resnet", 4)])
def test_gradients_reach_every_weight(library, form, schedule, family, act_states, make_model, random_codes):
    net = fold(make_model(family, act_states, 3))
    codes = random_codes(net, 16)
    model = library(net, form, schedule)
    products = [op.name for op in net.ops if isinstance(op, ops.Conv2d | ops.Linear)]
    assert len(list(model.parameters())) == len(products) + 1  # and the class bias
    for mode in (False, True):
        scores = model.train(mode)(codes)
        assert scores.dtype == torch.float64
        if schedule == "exact":
            assert np.array_equal(scores.detach().numpy(), net.reference(codes.numpy()))
        model.zero_grad()
        nn.functional.cross_entropy(scores / scores.detach().std(), torch.arange(16) % 5).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
    assert type(copy.deepcopy(model)(codes)) is torch.Tensor  # no membrane holds on to the graph


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("form", "schedule"), FORMS)
@pytest.mark.parametrize("act_states", [2, 4])
@pytest.mark.parametrize("which", ["all", "first"])
def test_training_goes_on_in_the_library(library, form, schedule, act_states, which, few_digits):
    codes, labels = few_digits.train.codes[:64], few_digits.train.labels[:64]
    net = digits_network(act_states, codes)
    model = library(net, form, schedule)
    truth = net(codes).double()
    if schedule == "exact":
        assert torch.equal(model(codes), truth)
    weights = list(model.parameters())[: 1 if which == "first" else None]
    optimizer = torch.optim.Adam(weights, lr=2.0 if which == "first" else 0.05)
    losses = []
    for _ in range(16):
        loss = nn.functional.cross_entropy(model(codes) / truth.std(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0], losses
    errors = schedule_errors(model, codes)  # it is compared with what it was made from
    assert errors[-1].mismatches > 0


@pytest.mark.parametrize("act_states", [2, 3, 16])
def test_a_surrogate_is_as_wide_as_the_accumulators_spread(act_states, few_digits):
    # SpikingJelly's passes a gradient within the levels, and nothing beyond.
    codes = few_digits.train.codes[:64]
    net = digits_network(act_states, codes, "resnet", "8-12")
    model = to_spikingjelly(net)
    values = model.trace(codes)
    for op in net.ops:
        if isinstance(op, ops.Threshold):
            z = values[op.inputs[0]].detach().requires_grad_()
            part = model.part(op)
            part(z).sum().backward()
            assert 0.15 < float((z.grad != 0).double().mean()) < 0.95, op.name


@given(st.integers(-61, 61), st.sampled_from([1, -1]), st.floats(0.1, 200))
def test_a_spread_changes_no_spike(theta, sign, spread):
    z = np.arange(-60, 61)
    op = ops.Threshold("s", ("z",), torch.tensor([[theta]]), torch.tensor([sign]))
    charge = charge_of(op, 60, spread)
    spikes = np.clip((charge.a[0] * z + charge.d[0]) >> charge.exponent, 0, 1)
    assert spikes.tolist() == (z * sign >= theta * sign).tolist()


@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=1),
    st.floats(0.02, 3),
    st.floats(-5, 5),
    st.integers(1, 9),
    st.sampled_from([1, -1]),
)
def test_the_charge_of_an_affine_rounding_is_its_levels(seeds, slope, shift, n, sign):
    z = np.arange(-60, 61)
    levels = np.clip(np.floor(slope * z * sign + shift + 0.5), 0, n).astype(int)
    oriented = [(z * sign)[levels >= j].min() if (levels >= j).any() else 61 for j in range(1, n + 1)]
    op = ops.Threshold("s", ("z",), torch.tensor([oriented]) * sign, torch.tensor([sign]))
    charge = charge_of(op, 60)
    got = np.clip((charge.a[0] * z + charge.d[0]) >> charge.exponent, 0, n)
    assert got.tolist() == levels.tolist()


def test_what_cannot_be_expressed_is_refused(make_model):
    with pytest.raises(MaqdError, match="spike1: spikes that are only counted have levels from 0, got -2"):
        to_snntorch(fold(make_model("mlp", 3, 3, signed=True)))
    net = IntegerNetwork(
        [
            ops.Input("x", shape=(2,)),
            ops.Linear("fc", ("x",), torch.tensor([[1, 1], [1, -1]])),
            ops.Threshold("s", ("fc",), torch.tensor([[0, 1, 250], [1, 2, 3]]), torch.tensor([1, 1])),
        ]
    )
    with pytest.raises(MaqdError, match="s: no charge reproduces the thresholds of channel 0 exactly"):
        to_spikingjelly(net)
    net = fold(make_model("mlp", 3, 3))
    with pytest.raises(MaqdError, match="unknown form 'rate'; the choices are: graded, unit"):
        to_snntorch(net, "rate")
    with pytest.raises(MaqdError, match="unknown schedule 'fast'; the choices are: exact, free"):
        to_spikingjelly(net, "unit", "fast")
    with pytest.raises(MaqdError, match=r"'graded' has one step and no schedule, got schedule 'free'; pass form="):
        to_snntorch(net, schedule="free")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("form", "schedule"), FORMS)
def test_codes_are_checked_as_the_network_checks_them(library, form, schedule, make_model, random_codes):
    net = fold(make_model("mlp", 3, 3))
    codes = random_codes(net, 4)
    model = library(net, form, schedule)
    for wrong, message in (
        (torch.full_like(codes, 999), r"input codes must lie in 0\.\.255, got values in 999\.\.999"),
        (codes - 1, r"input codes must lie in 0\.\.255, got values in -1\.\."),
        (codes.float(), r"input codes must be an integer tensor, got torch\.float32"),
        (codes[:, 0], r"input codes must have shape \(batch, 1, 5, 4\), got \(4, 5, 4\)"),
    ):
        for function in (net, model, model.trace, lambda codes: schedule_errors(model, codes)):
            with pytest.raises(MaqdError, match=message):
                function(wrong)


@pytest.mark.parametrize(("library", "package"), [(to_snntorch, "snntorch"), (to_spikingjelly, "spikingjelly")])
def test_a_missing_package_names_its_extra(library, package, make_model, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"needs the package '{package}'.*maqd-snn\[{package}\]"):
        library(fold(make_model("mlp", 2, 3)))
