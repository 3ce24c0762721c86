"""Diagnosis: every figure against a network where it is known, or against the sum written out."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from maqd_snn import build
from maqd_snn import diagnosis as d
from maqd_snn.cli import main
from maqd_snn.commands.diagnose import diagnosis_text
from maqd_snn.errors import MaqdError
from maqd_snn.normalization import FoldableNorm
from maqd_snn.runs import DIAGNOSIS_JSON, DIAGNOSIS_PNG
from maqd_snn.spike import normalize
from maqd_snn.weights import default_weight_step, least_squares_step, standardize

DOCS = Path(__file__).parent.parent / "docs"


def labelled(model, codes):
    """Labels that the network itself gives."""
    return model(codes).argmax(1)


def test_parts_of_each_group(make_model):
    model = make_model("vgg", 3, 3)
    assert d.members(model, "weights") == ["conv2", "conv3"]
    assert d.members(model, "activations") == ["spike1", "spike2", "spike3"]
    assert (d.members(model, "first"), d.members(model, "last")) == (["conv1"], ["classifier"])
    assert d.members(make_model("vgg", None, 3), "activations") == []
    assert all(d.members(make_model("resnet", 2, None), group) == [] for group in ("weights", "first", "last"))
    with pytest.raises(MaqdError, match="unknown group of parts 'middle'"):
        d.members(model, "middle")


@pytest.mark.parametrize("family", ["mlp", "vgg", "resnet"])
def test_a_switched_part_computes_what_was_rounded(make_model, random_codes, family):
    model = make_model(family, 4, 3, "lbn-channel-mean", signed=family == "mlp")
    codes = random_codes(model)
    plain = model.trace(codes)
    product, spike = d.members(model, "weights")[0], model.spiking_names()[0]
    trace = d.switched(model, [spike]).trace(codes)
    part = model.part(spike)
    a, b = part.norm.folded()
    shape = (1, -1) + (1,) * (plain[spike].ndim - 2)
    z = plain[model.inputs_of[spike][0]].float()
    ramp = (part.n * (z * a.view(shape) + b.view(shape))).clamp(part.low, part.n)
    assert torch.allclose(trace[spike], ramp, atol=1e-5)
    assert (trace[spike] + 0.5).floor().clamp(part.low, part.n).sub(plain[spike]).abs().max() <= 1  # ties alone differ
    trace = d.switched(model, [product]).trace(codes)
    part = model.part(product)
    weight, x = standardize(part.weight) / default_weight_step(3), plain[model.inputs_of[product][0]].float()
    z = F.linear(x, weight) if weight.ndim == 2 else F.conv2d(x, weight, None, part.stride, part.padding)
    assert torch.allclose(trace[product], z, atol=1e-3)
    assert not torch.equal(trace[product], plain[product].float())
    untouched = d.switched(model, []).trace(codes)
    assert all(torch.equal(untouched[name], plain[name]) for name in plain)


def test_what_cannot_be_switched_is_refused(make_model):
    for name in ("flatten", "nothing"):
        with pytest.raises(MaqdError, match=f"'{name}' is no quantized part of this network; it has conv1, spike1"):
            d.switched(make_model("vgg", 2, 3), [name])
    with pytest.raises(MaqdError, match="'spike1' is no quantized part"):
        d.switched(make_model("vgg", None, None), ["spike1"])


def test_recalibration_takes_the_mean_over_the_batches(make_model, random_codes):
    model = make_model("vgg", 2, 3, "batchnorm")
    batches = [(random_codes(model, seed=seed), None) for seed in range(3)]
    mine = d.recalibrate(copy.deepcopy(model), batches)
    z = torch.cat([model.trace(codes)["conv1"] for codes, _ in batches]).double()
    norm = mine.part("spike1").norm
    assert torch.allclose(norm.running_mean, z.mean((0, 2, 3)), rtol=1e-5)
    assert torch.allclose(norm.running_second_moment, z.square().mean((0, 2, 3)), rtol=1e-5)
    assert not mine.training
    assert norm.momentum == 0.1


def test_the_switches_say_which_rounding_costs(make_model, random_codes):
    """The labels are those of the network with float activations: to switch these is to be right everywhere."""
    model = make_model("vgg", 2, 3, "lbn-channel-mean")
    batches = [(random_codes(model, 64, seed), None) for seed in range(2)]
    truth = d.recalibrate(d.switched(model, d.members(model, "activations")), batches)
    test = [(codes, labelled(truth, codes)) for codes, _ in batches]
    before = copy.deepcopy(model.state_dict())
    found = {switch.groups: switch.accuracy for switch in d.switches(model, batches, test)}
    assert list(found) == [
        (),
        *((group,) for group in d.GROUPS),
        *(tuple(d.GROUPS)[:count] for count in (2, 3, 4)),
    ]
    assert found["activations",] == 1
    assert found[()] < 0.9
    assert found["weights",] < 0.9
    assert found[()] == d.accuracy(d.recalibrate(copy.deepcopy(model), batches), test)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    some = d.switches(model, batches, test, ("activations", "last"))
    assert [switch.groups for switch in some] == [(), ("activations",), ("last",), ("activations", "last")]
    assert some[1].accuracy == 1


@pytest.mark.parametrize("signed", [False, True])
def test_levels_are_counted_and_constant_channels_found(make_model, random_codes, signed):
    model = make_model("vgg", 4, 3, signed=signed)
    norm = model.part("spike1").norm
    with torch.no_grad():
        norm.gain[:3] = 0
        norm.bias[:3] = torch.tensor([0.0, 5.0, 0.4])
    batches = [(random_codes(model, seed=seed), None) for seed in range(2)]
    trace = torch.cat([model.trace(codes)["spike1"] for codes, _ in batches])
    first, *_ = found = d.levels(model, batches)
    assert [of.name for of in found] == model.spiking_names()
    assert first.counts == tuple(int((trace == level).sum()) for level in range(first.low, 4))
    assert first.low == (-3 if signed else 0)
    assert (first.channels, first.dead, first.saturated) == (8, 1, 1)
    assert first.rate == pytest.approx(float((trace != 0).float().mean()))


def test_the_weight_error_is_that_of_the_quantizer():
    """A large layer of normal weights has the error of a unit normal: 1 - E[Q^2] at the best step."""
    torch.manual_seed(0)
    model = build("mlp", input_shape=(1, 30, 30), classes=4, plan="600-600", weight_states=3, edge_states=2)
    first, hidden, _ = (e for e in d.quantization_errors(model, []) if e.kind == "weights")
    assert hidden.error == pytest.approx(0.1902, abs=0.003)  # of three levels at the best step
    assert first.error == pytest.approx(1 - 2 / torch.pi, abs=0.003)  # sign: E|v| = sqrt(2/pi)
    v = standardize(model.part("fc2").weight.detach()).double()
    step = least_squares_step((-1, 0, 1))
    outside = v.abs() > step
    expected = float((v.abs() - step)[outside].square().sum() / v.square().sum())
    assert hidden.clipped == pytest.approx(expected, rel=1e-6)


def test_group_normalization_is_diagnosed_though_it_does_not_fold(make_model, random_codes):
    model = make_model("vgg", 3, 3, "groupnorm")
    codes = random_codes(model)
    found = {e.name: e for e in d.quantization_errors(model, [(codes, None)])}
    with torch.no_grad():
        z = model.trace(codes)["conv2"].float()
        y = 2 * normalize(z, *model.part("spike2").norm.coefficients(z)).clamp_min(0)
    error = (y - (y + 0.5).floor().clamp(0, 2)).square().sum() / y.square().sum()
    assert found["spike2"].error == pytest.approx(float(error), rel=1e-4)


@pytest.mark.parametrize("signed", [False, True])
def test_the_activation_error_is_that_of_rounding_and_clipping(make_model, random_codes, signed):
    model = make_model("vgg", 3, 3, signed=signed)
    codes = random_codes(model)
    found = {e.name: e for e in d.quantization_errors(model, [(codes, None)])}
    assert list(found) == [n for n in model.names if n.startswith(("conv", "spike", "classifier"))]
    with torch.no_grad():
        trace = model.trace(codes)
    part = model.part("spike2")
    a, b = (of.double().view(1, -1, 1, 1) for of in part.norm.folded())
    y = 2 * (a * trace["conv2"] + b)
    target = y if signed else y.clamp_min(0)
    error = (target - trace["spike2"]).square()
    assert found["spike2"].error == pytest.approx(float(error.sum() / target.square().sum()), rel=1e-4)
    clipped = float(error[target.abs() > 2].sum() / target.square().sum())
    assert found["spike2"].clipped == pytest.approx(clipped, rel=1e-4)


class Never:
    """No gradient at all."""

    def derivative(self, u):
        return torch.zeros_like(u)


class Backwards:
    """The gradient of a step down."""

    def derivative(self, u):
        return -torch.exp(-u.square())


def agreement(directions=24, **options):
    torch.manual_seed(0)
    model = build("vgg", input_shape=(3, 8, 8), classes=10, plan="8-M-16-M", norm="lbn-channel-mean", **options)
    codes, labels = torch.randint(0, 256, (300, 3, 8, 8)), torch.randint(0, 10, (300,))
    found = d.gradient_agreement(model, codes, labels, directions, generator=torch.Generator().manual_seed(1))
    assert [(of.name, of.parameter) for of in found] == [
        ("conv1", "weight"),
        ("spike1", "bias"),
        ("conv2", "weight"),
        ("spike2", "bias"),
        ("classifier", "weight"),
    ]
    assert not any(isinstance(m, FoldableNorm) and m.samples for m in model.modules())  # a copy was perturbed
    return {of.name: of for of in found}


def test_the_true_gradient_agrees_and_wrong_ones_do_not():
    for of in agreement(act_states=None, weight_states=None).values():
        assert of.slope == pytest.approx(1, abs=0.1)
        assert of.correlation > 0.95
    good = agreement(act_states=2, surrogate="triangle")
    assert good["spike2"].slope > 0
    assert good["spike2"].correlation > 0.5
    assert good["classifier"].correlation > 0.9  # 255 states: nearly smooth
    wrong = agreement(act_states=2, surrogate=Backwards())
    assert wrong["spike2"].slope < 0
    assert wrong["spike2"].correlation < -0.5
    none = agreement(3, act_states=2, surrogate=Never())
    assert (none["spike2"].slope, none["spike2"].correlation) == (0, 0)


def test_impossible_questions(make_model):
    model = make_model("vgg", 2, 3)
    few, flat = "at least 3 directions are needed, got 2", "the size of a step must be above 0"
    for directions, size, words in ((2, 0.1, few), (3, 0.0, flat), (3, float("nan"), flat)):
        with pytest.raises(MaqdError, match=words):
            d.gradient_agreement(model, torch.zeros(2, 3, 8, 8), torch.zeros(2).long(), directions, size)


TRAIN = ["train", "digits", "--plan", "4-M-8-M", "--max-steps", "3", "--batch-size", "32", "--quiet"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnose")
    assert main([*TRAIN, "--out", str(folder / "run"), "--act-states", "3"]) == 0
    assert main([*TRAIN, "--out", str(folder / "twin"), "--twin"]) == 0
    return folder


def test_the_command_prints_writes_and_draws(runs, tmp_path, capsys):
    run, file = runs / "run", tmp_path / "d.json"
    command = ["diagnose", str(run), "--images", "100", "--directions", "3", "--json", str(file)]
    assert main([*command, "--twin", str(runs / "twin")]) == 0
    out = capsys.readouterr().out
    values = json.loads(file.read_text())
    assert json.loads((run / DIAGNOSIS_JSON).read_text()) == values
    assert (run / DIAGNOSIS_PNG).read_bytes().startswith(b"\x89PNG")
    assert out.startswith(diagnosis_text(values))
    assert re.search(rf"float twin +{100 * values['twin']:.2f} ", out)
    base, last = values["switches"][0]["accuracy"], values["switches"][-1]["accuracy"]
    assert f"loss to the twin {100 * (values['twin'] - base):.2f} points" in out
    assert f"its training {100 * (values['twin'] - last):.2f}" in out
    assert values["images"] == 100
    assert len(values["levels"]) == 2
    assert len(values["errors"]) == len(values["gradients"]) == 5
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert "float twin" not in capsys.readouterr().out
    assert (tmp_path / DIAGNOSIS_PNG).is_file()


def test_a_twin_that_was_trained_in_another_way_is_told(runs, tmp_path, capsys):
    twin = tmp_path / "twin"
    assert main([*TRAIN, "--out", str(twin), "--twin", "--seed", "1", "--norm", "batchnorm"]) == 0
    command = ["diagnose", str(runs / "run"), "--images", "50", "--directions", "3", "--out", str(tmp_path)]
    assert main([*command, "--twin", str(twin)]) == 0
    words = "that twin was trained in another way: norm batchnorm in place of lbn-channel-mean"
    assert words in capsys.readouterr().out.splitlines()
    assert main([*command, "--twin", str(runs / "twin")]) == 0
    assert "in another way" not in capsys.readouterr().out
    assert json.loads((tmp_path / DIAGNOSIS_JSON).read_text())["twin_differences"] == []


def test_the_table_of_the_page_is_that_of_the_records():
    two, four = (json.loads((DOCS / f"diagnosis-{states}-states.json").read_text()) for states in (2, 4))
    pairs = zip(two["switches"], four["switches"], strict=True)
    rows = [(one["label"], one["accuracy"], other["accuracy"]) for one, other in pairs]
    rows.append(("float twin", two["twin"], four["twin"]))
    page = (DOCS / "accuracy.md").read_text().split("### Two and four states")[1].split("![")[0]
    table = [line for line in page.splitlines() if line.startswith("|") and "%" in line]
    assert table == [f"| {label} | {100 * one:.1f} % | {100 * other:.1f} % |" for label, one, other in rows]
    assert (two["images"], two["twin_differences"], four["twin_differences"]) == (5000, [], [])


def test_what_is_wrong_is_told_before_the_work(runs, monkeypatch, capsys):
    monkeypatch.setattr("maqd_snn.diagnosis.switches", None)
    assert main(["diagnose", str(runs / "run"), "--directions", "2"]) == 2
    assert "at least 3 directions are needed, got 2" in capsys.readouterr().err


def test_a_twin_of_another_network_is_refused(runs, tmp_path, capsys):
    twin = tmp_path / "twin"
    assert main([*TRAIN, "--out", str(twin), "--twin", "--plan", "8-M-8-M"]) == 0
    capsys.readouterr()
    assert main(["diagnose", str(runs / "run"), "--twin", str(twin)]) == 2
    assert "is the float twin of another network: its plan is 8-M-8-M, not 4-M-8-M" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{twin}"], "is a float twin, in which nothing is quantized"),
        (["{run}", "--twin", "{run}"], "is no float twin on digits"),
        (["{run}", "--images", "0"], "--images must be at least 1"),
        (["{run}", "--part", "train"], "unknown part 'train'"),
        (["{run}", "--directions", "1"], "at least 3 directions"),
        (["{run}", "--out", "{run}/no"], "--out expects an existing folder"),
        (["{run}/no"], "no"),
    ],
)
def test_wrong_input_is_one_sentence(runs, arguments, words, capsys):
    filled = [a.format(run=runs / "run", twin=runs / "twin") for a in arguments]
    assert main(["diagnose", *filled]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
