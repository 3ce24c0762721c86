"""Normalizations: every reading against plain formulas, their gradients, and their moments at batch size 1 and 128."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import maqd_snn
from maqd_snn import InputSpec, Node, SpikingNetwork, layers
from maqd_snn.cli import main
from maqd_snn.errors import MaqdError
from maqd_snn.layers import NORMALIZATIONS, make_norm
from maqd_snn.normalization import READINGS, BatchNorm, FoldableNorm, GroupNorm, LayerBatchNorm
from maqd_snn.spike import normalize
from maqd_snn.tape import Operands, tape_of
from maqd_snn.training.precision import prepare

# Axes of (B, C, H, W) over which mean and variance are taken, as in DESIGN.md.
AXES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "layer": ((0, 1, 2, 3), (0, 1, 2, 3)),
    "sample": ((1, 2, 3), (1, 2, 3)),
    "channel-mean": ((0, 2, 3), (0, 1, 2, 3)),
    "batch": ((0, 2, 3), (0, 2, 3)),
}

SHAPES = {"conv": (6, 5, 4, 3), "linear": (6, 5)}


def accumulators(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Integer accumulators whose channels differ in mean and deviation."""
    rng = np.random.default_rng(seed)
    per_channel = (-1, *(1,) * (len(shape) - 2))
    scale = np.arange(1, shape[1] + 1).reshape(per_channel)
    return torch.from_numpy(np.round(rng.normal(3 * scale, 10 * scale, shape))).float()


def plain(z: Tensor, gain: Tensor, bias: Tensor, reading: str, eps: float = 1e-5) -> Tensor:
    """gain * (z - mean) / sqrt(variance + eps) + bias, in the type of z, from the axes above."""
    image = z if z.ndim == 4 else z[:, :, None, None]
    mean_axes, variance_axes = AXES[reading]
    centred = image - image.mean(mean_axes, keepdim=True)
    y = centred / torch.sqrt((centred**2).mean(variance_axes, keepdim=True) + eps)
    return (gain.view(1, -1, 1, 1) * y + bias.view(1, -1, 1, 1)).view(z.shape)


def awkward(norm: FoldableNorm) -> FoldableNorm:
    with torch.no_grad():
        norm.gain.copy_(torch.linspace(-1.5, 2, norm.channels))
        norm.bias.copy_(torch.linspace(0.7, -0.4, norm.channels))
    return norm


def test_the_readings_are_these() -> None:
    norms = [make_norm(name, 8) for name in NORMALIZATIONS if name != "groupnorm"]
    assert set(READINGS) == set(AXES) == {norm.reading for norm in norms}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("reading", AXES)
def test_training_output_equals_the_plain_formula(reading: str, kind: str) -> None:
    z = accumulators(SHAPES[kind])
    norm = awkward(FoldableNorm(5, reading))
    got = normalize(z, *norm.coefficients(z))
    expected = plain(z.double(), norm.gain.double(), norm.bias.double(), reading)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", SHAPES)
def test_batch_reading_equals_torch_batch_norm(kind: str) -> None:
    z = accumulators(SHAPES[kind])
    norm = awkward(BatchNorm(5))
    expected = F.batch_norm(z, None, None, norm.gain, norm.bias, training=True, eps=1e-5)
    torch.testing.assert_close(normalize(z, *norm.coefficients(z)), expected, rtol=1e-5, atol=1e-5)


def test_sample_reading_equals_torch_group_norm() -> None:
    z = accumulators(SHAPES["conv"])
    norm = awkward(LayerBatchNorm(5, "sample"))
    expected = F.group_norm(z, 1, norm.gain, norm.bias, eps=1e-5)
    torch.testing.assert_close(normalize(z, *norm.coefficients(z)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("reading", AXES)
def test_gradients_equal_those_of_the_plain_formula(reading: str, kind: str) -> None:
    z = accumulators(SHAPES[kind])
    weight = torch.from_numpy(np.random.default_rng(1).normal(size=z.shape))

    norm = awkward(FoldableNorm(5, reading))
    leaf = z.clone().requires_grad_()
    (normalize(leaf, *norm.coefficients(leaf)) * weight.float()).sum().backward()

    exact = [t.detach().double().requires_grad_() for t in (z, norm.gain, norm.bias)]
    (plain(*exact, reading) * weight).sum().backward()
    for got, expected in zip((leaf, norm.gain, norm.bias), exact, strict=True):
        scale = float(expected.grad.abs().max())
        torch.testing.assert_close(got.grad.double(), expected.grad, rtol=1e-4, atol=1e-5 * scale)


def moments(z: Tensor, reading: str) -> tuple[Tensor, Tensor]:
    """E[z] and E[z^2] over the samples, in the shapes that the norm keeps."""
    image = (z if z.ndim == 4 else z[:, :, None, None]).double()
    per_channel = (0, 2, 3)
    mean = image.mean(per_channel) if reading in ("channel-mean", "batch") else image.mean().view(1)
    second = (image**2).mean(per_channel) if reading == "batch" else (image**2).mean().view(1)
    return mean, second


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("reading", AXES)
def test_first_batch_sets_the_running_moments(reading: str, kind: str) -> None:
    z = accumulators(SHAPES[kind])
    norm = FoldableNorm(5, reading)
    norm.coefficients(z)
    mean, second = moments(z, reading)
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(norm.running_second_moment, second, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("reading", AXES)
def test_running_moments_follow_the_share_per_sample(reading: str, momentum: float) -> None:
    norm = FoldableNorm(5, reading, momentum=momentum)
    mean, second, seen = 0.0, 1.0, 0
    for step, batch in enumerate((3, 128, 7, 300, 2, 2)):
        z = accumulators((batch, 5, 2, 2), seed=step)
        norm.coefficients(z)
        seen += batch
        share = max(1 - (1 - momentum) ** (batch / 128), batch / seen)
        new_mean, new_second = moments(z, reading)
        mean, second = (1 - share) * mean + share * new_mean, (1 - share) * second + share * new_second
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(norm.running_second_moment, second, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("reading", ["layer", "channel-mean", "batch"])
def test_inference_equals_training_on_a_single_batch(reading: str) -> None:
    z = accumulators(SHAPES["conv"])
    norm = awkward(FoldableNorm(5, reading))
    trained = normalize(z, *norm.coefficients(z))
    norm.eval()
    torch.testing.assert_close(normalize(z, *norm.coefficients(z)), trained, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reading", AXES)
def test_folded_equals_the_formula_rounded_once(reading: str) -> None:
    norm = awkward(FoldableNorm(5, reading, eps=1e-3))
    for step in range(3):
        norm.coefficients(accumulators(SHAPES["conv"], seed=step))
    mean, second = norm.running_mean.numpy(), norm.running_second_moment.numpy()
    squared = mean**2 if len(second) > 1 else np.mean(mean**2)
    exact_a = norm.gain.detach().double().numpy() / np.sqrt(second - squared + 1e-3)
    exact_b = norm.bias.detach().double().numpy() - mean * exact_a
    a, b = norm.folded()
    for got, exact in ((a, exact_a), (b, exact_b)):
        assert got.dtype == torch.float32
        assert got.shape == (5,)
        assert not got.requires_grad
        np.testing.assert_allclose(got.numpy(), exact, rtol=2.0**-24 * 1.001)  # one rounding to float32, no more


def test_evaluation_uses_the_folded_pair_and_changes_nothing() -> None:
    norm = awkward(FoldableNorm(5, "layer"))
    norm.coefficients(accumulators(SHAPES["conv"]))
    norm.eval()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    for got, folded in zip(norm.coefficients(accumulators(SHAPES["conv"], seed=9)), norm.folded(), strict=True):
        assert torch.equal(got, folded)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_variance_is_never_negative() -> None:
    # A layer that always gives the same accumulator: E[z^2] - mean^2 is zero up to rounding.
    norm = FoldableNorm(3, "layer")
    for _ in range(3):
        norm.coefficients(torch.full((4, 3), 10007.0))
    a, b = norm.folded()
    assert bool(torch.isfinite(a).all() and torch.isfinite(b).all())
    assert a.tolist() == pytest.approx([1e-5**-0.5] * 3, rel=0.5)


@pytest.mark.parametrize("reading", AXES)
def test_inference_variance_survives_a_mean_far_from_zero(reading: str) -> None:
    """The mean is 30000 deviations away: what is left of E[z^2] - mean^2 must still be the variance, within 2 %."""
    norm = FoldableNorm(5, reading)
    rng = np.random.default_rng(0)
    for _ in range(20):
        norm.coefficients(torch.from_numpy(np.round(rng.normal(300_000, 10, (64, 5, 4, 4)))).float())
    variance = norm.gain.detach().double() ** 2 / norm.folded()[0].double() ** 2
    np.testing.assert_allclose(variance.numpy(), 100, rtol=0.02)


# A statistic that does not exist is an error that names the layer.


@pytest.mark.parametrize(
    ("reading", "shape"),
    [
        ("batch", (1, 5)),
        ("batch", (1, 5, 1, 1)),
        ("channel-mean", (1, 5)),
        ("channel-mean", (1, 5, 1, 1)),
        ("layer", (1, 1)),
        ("layer", (0, 5)),
        ("sample", (4, 1)),
        ("sample", (4, 1, 1, 1)),
    ],
)
def test_missing_statistic_is_an_error(reading: str, shape: tuple[int, ...]) -> None:
    norm = FoldableNorm(shape[1], reading)
    message = (
        rf"normalization: the statistics of the '{reading}' normalization need at least 2 values.*use a larger batch"
    )
    with pytest.raises(MaqdError, match=message):
        norm.coefficients(torch.zeros(shape))
    assert int(norm.samples) == 0


@pytest.mark.parametrize("norm", ["batchnorm", "lbn-channel-mean"])
def test_the_error_names_the_layer_of_the_network(make_model, random_codes, norm: str) -> None:
    model = make_model("mlp", 2, 3, norm).train()
    with pytest.raises(MaqdError, match=r"^spike1: the statistics of the .* accumulator of shape \(1, 24\) gives 1;"):
        model(random_codes(model, batch=1))
    # In the convolutions of this one the positions are enough, and in its last layer, of one position, they are not.
    model = make_model("vgg", 2, 3, norm, plan="4-M-4-M-4-M-4").train()
    with pytest.raises(MaqdError, match=r"^spike4: .*\(1, 4, 1, 1\) gives 1"):
        model(random_codes(model, batch=1))


def test_batch_size_1_is_fine_at_inference(make_model, random_codes) -> None:
    for norm in NORMALIZATIONS:
        model = make_model("mlp", 2, 3, norm)
        codes = random_codes(model)
        assert torch.equal(torch.cat([model(code[None]) for code in codes]), model(codes))


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("channels", "groups", "used"), [(12, None, 6), (16, None, 8), (7, None, 7), (12, 3, 3)])
def test_group_normalization_is_torchs(kind, channels, groups, used) -> None:
    norm = GroupNorm(channels, groups)
    assert norm.groups == used
    with torch.no_grad():
        norm.gain.copy_(torch.linspace(-1.5, 2, channels))
        norm.bias.copy_(torch.linspace(0.7, -0.4, channels))
    z = torch.randn(5, channels, *(4, 3) * (kind == "conv"), generator=torch.Generator().manual_seed(0)) * 9 + 4
    if kind == "linear" and channels == used:
        with pytest.raises(MaqdError, match=r"at least 2 values in a group, but .*\(5, 7\) gives 1; use fewer groups"):
            norm.coefficients(z)
        return
    expected = F.group_norm(z, used, norm.gain, norm.bias, norm.eps)
    for mode in (norm.train(), norm.eval()):
        assert torch.allclose(normalize(z, *mode.coefficients(z)), expected, atol=1e-4)


def test_group_normalization_trains_and_is_not_folded(make_model, random_codes) -> None:
    model = make_model("vgg", 4, 3, "groupnorm")
    with pytest.raises(MaqdError, match="^spike1: group normalization takes its statistics from each sample"):
        maqd_snn.fold(model)
    with pytest.raises(MaqdError, match="^spike1: group normalization has no written-out step"):
        tape_of(model, Operands())
    forward = prepare(model.train(), "fp32", compiled=True)
    codes = random_codes(model)
    assert torch.equal(forward(codes), model(codes))
    forward(codes).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for n, p in model.named_parameters() if "spike" in n)
    with pytest.raises(MaqdError, match="12 channels cannot be split into 5 groups"):
        GroupNorm(12, 5)
    with pytest.raises(MaqdError, match="unknown precision"):
        prepare(model, "fp8")


def test_group_normalization_is_trained_and_evaluated_by_the_commands(tmp_path, capsys) -> None:
    few = ["digits", "--out", str(tmp_path / "g"), "--norm", "groupnorm", "--max-steps", "2", "--plan", "8-M-16"]
    assert main(["run", *few]) == 2
    assert "nor has group normalization" in capsys.readouterr().err
    assert main(["train", *few]) == 0
    said = capsys.readouterr()
    assert "group normalization, nothing to fold" in said.out
    assert "group normalization: the steps run uncompiled and in float32" in said.err
    assert main(["eval", str(tmp_path / "g")]) == 0
    assert "digits, group normalization, test: " in capsys.readouterr().out
    assert main(["report", str(tmp_path / "g")]) == 2
    assert "holds no integer network (group normalization)" in capsys.readouterr().err
    assert main(["train", *few, "--overwrite", "--act-states", "none", "--weight-states", "none"]) == 0
    assert "float twin, nothing to fold" in capsys.readouterr().out


# Layer-Batch Normalization at batch size 1: what the method is for.


@pytest.mark.parametrize("product", ["conv", "linear"])
def test_lbn_moments_at_batch_size_1_converge_to_those_at_128(product: str) -> None:
    """Tolerance: the mean within 1 % of the accumulator's deviation, the second moment within 2 % of itself."""
    torch.manual_seed(0)
    codes = torch.randint(-100, 156, (4096, 3, 6, 6)).float()
    if product == "conv":
        z = layers.Conv2d(3, 8, kernel=3, padding=1, states=3).eval()(codes).detach()
    else:
        z = layers.Linear(108, 16, states=3).eval()(codes.flatten(1)).detach()
    norms = {}
    for batch in (1, 128):
        norms[batch] = FoldableNorm(z.shape[1], "layer")
        for chosen in z.split(batch):
            norms[batch].coefficients(chosen)
    mean, second = moments(z, "layer")
    deviation = float((second - mean**2).sqrt())
    for reference_mean, reference_second in (
        (norms[128].running_mean, norms[128].running_second_moment),
        (mean, second),
    ):
        assert abs(float(norms[1].running_mean - reference_mean)) < 0.01 * deviation
        assert float(norms[1].running_second_moment / reference_second) == pytest.approx(1, abs=0.02)
    assert int(norms[1].samples) == int(norms[128].samples) == 4096


@pytest.mark.parametrize(
    ("family", "options"),
    [("mlp", {"input_shape": (1, 6, 6), "plan": "32-16"}), ("vgg", {"input_shape": (1, 6, 6), "plan": "8-M-16"})],
    ids=["linear", "conv"],
)
@pytest.mark.parametrize("norm", ["lbn", "lbn-sample"])
def test_lbn_trains_at_batch_size_1(toy_losses, norm: str, family: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = maqd_snn.build(family, classes=2, norm=norm, zero_point=90, **options)
    first, last = toy_losses(model, batch=1, epochs=2, lr=0.003)
    assert last < 0.5 * first, (first, last)
    # What it learned is there at inference, with the moments gathered at batch size 1.
    model.eval()
    dark, bright = torch.full((1, 1, 3, 6), 30), torch.full((1, 1, 3, 6), 150)
    codes = torch.cat([torch.cat([dark, bright], 2), torch.cat([bright, dark], 2)])
    assert model(codes).argmax(1).tolist() == [0, 1]


def test_lbn_at_batch_size_1_moves_the_gradient_of_an_integer_conv_layer() -> None:
    """One conv layer alone, at batch size 1: all its parameters get a finite gradient that is not zero."""
    torch.manual_seed(0)
    parts = [
        Node("conv", layers.Conv2d(1, 4, kernel=3, states=3), ("input",)),
        Node("spike", layers.NormSpike(make_norm("lbn", 4), 2), ("conv",)),
    ]
    model = SpikingNetwork(InputSpec((1, 5, 5)), parts)
    model(torch.randint(0, 256, (1, 1, 5, 5))).square().sum().backward()
    for parameter in (model.part("conv").weight, model.part("spike").norm.gain, model.part("spike").norm.bias):
        assert bool(torch.isfinite(parameter.grad).all())
        assert parameter.grad.any()


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(MaqdError, match="unknown normalization 'layr', did you mean 'layer'"):
        FoldableNorm(3, "layr")
    with pytest.raises(
        MaqdError, match="unknown normalization 'bn'.*batchnorm, groupnorm, lbn, lbn-channel-mean, lbn-sample"
    ):
        make_norm("bn", 3)
    with pytest.raises(MaqdError, match="use BatchNorm for 'batch'"):
        LayerBatchNorm(3, "batch")


@pytest.mark.parametrize("momentum", [0.0, -0.1, 1.5, float("nan")])
def test_momentum_outside_its_range_is_refused(momentum: float) -> None:
    with pytest.raises(MaqdError, match=r"momentum must lie in \(0, 1\], got"):
        FoldableNorm(3, momentum=momentum)


@pytest.mark.parametrize("reading", AXES)
def test_statistics_over_processes_are_those_of_the_whole_batch(reading: str) -> None:
    z = accumulators((7, 5, 4, 3)) + 1000
    whole = awkward(FoldableNorm(5, reading))
    expected = normalize(z, *whole.coefficients(z))
    parts = z.split([4, 3])  # processes need not have as many samples each
    sent: list[Tensor] = []
    for part in parts:  # what each process would send: the sum is known only when all have spoken
        norm = awkward(FoldableNorm(5, reading))
        norm.sum_over_processes = lambda mine: (sent.append(mine.detach().clone()), mine)[1]
        norm.coefficients(part)
    total = sent[0] + sent[1]
    for part, wanted in zip(parts, expected.split([4, 3]), strict=True):
        norm = awkward(FoldableNorm(5, reading))
        norm.sum_over_processes = lambda mine: mine + (total - mine.detach())
        assert torch.allclose(normalize(part, *norm.coefficients(part)), wanted, atol=1e-4)
        assert int(norm.samples) == 7
        for ours, theirs in zip(norm.folded(), whole.folded(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-5)


def test_gradients_pass_through_the_sum_over_processes() -> None:
    first, second = accumulators((4, 5, 3, 3)).double().split(2)
    gradients = []
    for together in (True, False):
        mine = first.clone().requires_grad_()
        norm = awkward(FoldableNorm(5, "layer"))
        other = second.float()
        if together:
            y = normalize(z := torch.cat([mine, second]), *norm.coefficients(z))[:2]
        else:
            rest = torch.stack([other.mean().double(), other.double().square().mean()]) * 2
            norm.sum_over_processes = lambda sums, rest=rest: sums + torch.cat([torch.tensor([2.0]), rest])
            y = normalize(mine, *norm.coefficients(mine))
        y.square().sin().sum().backward()  # type: ignore[no-untyped-call]
        assert mine.grad is not None
        gradients.append(mine.grad)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6)
