"""Pieces of the method, each a field of the recipe: what it does, and that a resumed training keeps to it."""

import hashlib
import re
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from maqd_snn import MaqdError, fold
from maqd_snn.cli import main
from maqd_snn.layers import NormSpike
from maqd_snn.normalization import BatchNorm
from maqd_snn.runs import fold_run, open_run, read_model, train
from maqd_snn.surrogate import Annealed
from maqd_snn.training import Execution, Recipe, build_model, fit, loop
from maqd_snn.training.checkpoint import MODEL, read_tensors, write_tensors
from maqd_snn.training.loop import CHECKPOINT, Training, evaluate
from maqd_snn.training.teacher import load_teacher

SMALL = Recipe(
    name="small", dataset="digits", plan="8-M-16-M", norm="lbn-channel-mean", epochs=3, batch_size=64, augment="shift1"
)
QUIET = Execution(quiet=True)

# Each field that changes what a training does, once.
PIECES = {
    "first biases": {"bias": 0.25},
    "learned steps": {"learned_step": "channel"},
    "zero sums": {"zero_sum": True},
    "ema": {"ema": 0.9},
    "states in stages": {"weight_states_from": 0.2, "act_states_from": 0.45},  # from steps 3 and 7 of 15
    "many states first": {"act_states_first": 16, "act_states_from": 0.45},
    "annealed surrogate": {"surrogate": "triangle", "surrogate_width": 2.0, "surrogate_width_end": 0.5},
    "price above a target": {"synops_penalty": 20.0, "synops_target": 0.1},
    "distillation": {"distillation": 0.5},  # with the teacher of the fixture
}


@pytest.fixture(scope="module")
def twin(few_digits, tmp_path_factory):
    """The folder of a trained float twin."""
    out = tmp_path_factory.mktemp("twin")
    train(replace(SMALL, epochs=2).twin(), few_digits, out, execution=QUIET)
    return out


def trained(recipe, splits, out, **options):
    out.mkdir(exist_ok=True)
    return fit(recipe, splits, out, execution=QUIET, **options)


def same(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("halt", [4, 7, 13])
@pytest.mark.parametrize("piece", PIECES)
def test_every_piece_acts_resumes_to_the_same_bits_and_folds(few_digits, twin, tmp_path, fit_until, piece, halt):
    recipe = replace(SMALL, **PIECES[piece], teacher=str(twin) if piece == "distillation" else None)
    expected = trained(recipe, few_digits, tmp_path / "whole")
    assert not same(expected.model, trained(SMALL, few_digits, tmp_path / "without").model)
    (tmp_path / "parts").mkdir()
    often = Execution(quiet=True, checkpoint_steps=2, checkpoint_seconds=0)
    fit_until(halt, recipe, few_digits, tmp_path / "parts", execution=often)
    resumed = trained(recipe, few_digits, tmp_path / "parts", resume=True)
    assert same(resumed.model, expected.model)
    assert [replace(entry, seconds=0) for entry in resumed.history] == [
        replace(entry, seconds=0) for entry in expected.history
    ]
    assert torch.equal(fold(expected.model)(few_digits.test.codes), expected.model(few_digits.test.codes).long())


def test_biases_start_where_they_are_told_to(few_digits):
    def first_biases(recipe):
        model = build_model(recipe, few_digits)
        return {float(bias) for name in model.spiking_names() for bias in model.part(name).norm.bias.detach()}

    assert first_biases(SMALL) == {0.0}
    assert first_biases(replace(SMALL, bias=-0.25)) == {-0.25}
    assert first_biases(replace(SMALL, bias=-0.25).twin()) == {0.0}


def test_learned_gains_and_biases_are_learned_steps_and_thresholds_of_each_channel():
    """k = clip(floor((u - t)/s + 1/2), 0, n), s = 1/(n g), t = -b/g: the same levels, and the chain rule between."""
    n, generator = 3, torch.Generator().manual_seed(0)
    part = NormSpike(BatchNorm(5), n + 1, surrogate="triangle").train()
    s, t = (torch.rand(5, generator=generator) + 0.2 for _ in range(2))
    with torch.no_grad():
        part.norm.gain.copy_(1 / (n * s))
        part.norm.bias.copy_(-t / (n * s))
    z, weight = (torch.randn(64, 5, generator=generator) for _ in range(2))
    k = part(z)
    (k * weight).sum().backward()
    u = (z - z.mean(0)) / (z.var(0, correction=0) + part.norm.eps).sqrt()
    v = (u - t) / s
    assert torch.equal(k, (v + 0.5).floor().clamp(0, n))
    slope = weight * sum((1 - (v - j + 0.5).abs()).clamp_min(0) for j in range(1, n + 1))
    of_s, of_t = -(slope * (u - t)).sum(0) / s**2, -slope.sum(0) / s
    of_gain, of_bias = part.norm.gain.grad, part.norm.bias.grad
    torch.testing.assert_close(of_gain * (-1 / (n * s**2)) + of_bias * t / (n * s**2), of_s, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(of_bias * (-1 / (n * s)), of_t, rtol=1e-4, atol=1e-4)


def test_the_average_is_that_of_the_parameters_after_every_step(few_digits, tmp_path, monkeypatch):
    seen = []
    take = Training._train_step

    def noting(training, *arguments):
        if not seen:
            seen.append([p.detach().double().clone() for p in training.model.parameters()])
        stop = take(training, *arguments)
        seen.append([p.detach().double().clone() for p in training.model.parameters()])
        return stop

    monkeypatch.setattr(Training, "_train_step", noting)
    trained(replace(SMALL, ema=0.6), few_digits, tmp_path / "run")
    expected = seen[0]
    for step, parameters in enumerate(seen[1:], start=1):
        d = min(0.6, (1 + step) / (10 + step))
        expected = [d * average + (1 - d) * p for average, p in zip(expected, parameters, strict=True)]
    tensors, _ = read_tensors(tmp_path / "run" / CHECKPOINT)
    names = [name for name, _ in build_model(SMALL, few_digits).named_parameters()]
    for name, average, last in zip(names, expected, seen[-1], strict=True):
        torch.testing.assert_close(tensors[f"average.{name}"].double(), average, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(tensors[f"model.{name}"].double(), last, rtol=0, atol=0)


def test_the_averaged_network_is_what_is_validated_and_kept_with_statistics_of_its_own(few_digits, tmp_path):
    result = trained(replace(SMALL, ema=0.9, pool_first=False), few_digits, tmp_path / "run")
    measured = evaluate(result.model, few_digits.validation, label_smoothing=SMALL.label_smoothing)
    assert (measured.loss, measured.accuracy) == (result.best.validation_loss, result.best.validation_accuracy)
    tensors, state = read_tensors(tmp_path / "run" / CHECKPOINT)
    assert result.best.epoch == SMALL.epochs == state["epoch"] - 1  # so the average of the end is the one kept
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(tensor, tensors[f"average.{name}"])
    assert not torch.equal(tensors["average.parts.conv1.weight"], tensors["model.parts.conv1.weight"])
    # The first accumulators of all training images, as they are, have this mean in each channel.
    z = result.model.part("conv1")(result.model.centred(few_digits.train.codes)).double()
    norm = result.model.part("spike1").norm
    torch.testing.assert_close(norm.running_mean, z.mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.running_second_moment[0], z.square().mean(), rtol=1e-5, atol=0)


def test_without_a_decay_there_is_no_average(few_digits, tmp_path):
    trained(replace(SMALL, max_steps=2), few_digits, tmp_path / "run")
    assert not any(name.startswith("average") for name in read_tensors(tmp_path / "run" / CHECKPOINT)[0])


def whole(x):
    return bool((x == x.round()).all())


def test_states_come_after_their_share_of_the_steps(few_digits, tmp_path, monkeypatch):
    """Weights have theirs from step 4 of 15 on, activations from step 8 on."""
    seen = []
    take = Training._train_step

    def noting(training, *arguments):
        stop = take(training, *arguments)
        outputs = {}
        with torch.no_grad():  # in the stage of the step
            training.forward(few_digits.train.codes[:64], outputs.__setitem__)
        seen.append((whole(outputs["conv1"]), whole(outputs["spike1"])))
        return stop

    monkeypatch.setattr(Training, "_train_step", noting)
    trained(replace(SMALL, **PIECES["states in stages"]), few_digits, tmp_path / "run")
    assert seen == [(False, False)] * 3 + [(True, False)] * 4 + [(True, True)] * 8


def test_a_float_twin_has_no_stages(few_digits, tmp_path):
    staged = replace(SMALL, **PIECES["states in stages"], max_steps=2).twin()
    plain = replace(SMALL, max_steps=2).twin()
    assert same(
        trained(staged, few_digits, tmp_path / "staged").model, trained(plain, few_digits, tmp_path / "plain").model
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_compiled_training_goes_through_its_stages_and_widths(few_digits, tmp_path, monkeypatch):
    torch.compiler.reset()
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, fullgraph, **_: compile_(f, fullgraph=fullgraph, backend="aot_eager")
    )
    monkeypatch.setattr(loop, "cpp_compiler", lambda: "found")
    stages = {"weight_states_from": 0.25, "act_states_from": 0.5}
    recipe = replace(SMALL, plan="4-M-4", max_steps=4, **stages, **PIECES["annealed surrogate"])
    compiled = trained(replace(recipe, compile=True), few_digits, tmp_path / "compiled").model.state_dict()
    for name, tensor in trained(recipe, few_digits, tmp_path / "plain").model.state_dict().items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    constant = trained(replace(recipe, surrogate_width_end=2.0), few_digits, tmp_path / "constant").model.state_dict()
    assert float((constant["parts.conv1.weight"] - compiled["parts.conv1.weight"]).abs().max()) > 1e-3


def test_the_surrogate_changes_its_width_evenly(few_digits, tmp_path, monkeypatch):
    seen = []
    derivative = Annealed.derivative

    def noting(surrogate, u):
        seen.append((derivative(surrogate, u), derivative(Annealed(surrogate.base, 2.0 - len(seen) // 2 * 0.25), u)))
        return seen[-1][0]

    monkeypatch.setattr(Annealed, "derivative", noting)
    recipe = replace(SMALL, max_steps=6, **PIECES["annealed surrogate"])
    result = trained(recipe, few_digits, tmp_path / "run")
    assert len(seen) == 12  # two layers, six steps: 2, 1.75, ..., 0.75
    assert all(torch.equal(found, expected) and bool(found.any()) for found, expected in seen)
    assert "width" not in " ".join(result.model.state_dict())


@pytest.mark.parametrize("kind", ["triangle", "sigmoid"])
def test_a_width_that_ends_where_it_began_is_a_constant_one(few_digits, tmp_path, kind):
    wide = replace(SMALL, surrogate=kind, surrogate_width=2.0, max_steps=3)
    annealed = trained(replace(wide, surrogate_width_end=2.0), few_digits, tmp_path / "annealed").model
    assert same(annealed, trained(wide, few_digits, tmp_path / "constant").model)


@pytest.mark.parametrize("teacher_states", [None, 4])
def test_a_step_follows_the_labels_and_the_teacher(few_digits, tmp_path, teacher_states):
    """One step of plain SGD, against the equation and autograd; the teacher may be quantized itself."""
    taught_by = replace(SMALL, plan="16", act_states=teacher_states, weight_states=teacher_states, epochs=1)
    teacher = train(taught_by, few_digits, tmp_path, execution=QUIET).model
    share, t, lr = 0.3, 2.0, 0.5
    recipe = replace(
        SMALL,
        **{"augment": "none", "optimizer": "sgd", "momentum": 0.0, "lr": lr, "schedule": "cosine", "warmup": 0.0},
        **{"weight_decay": 0.0, "max_steps": 1, "teacher": str(tmp_path)},
        **{"distillation": share, "temperature": t},
    )
    found = trained(recipe, few_digits, tmp_path / "run").model
    student = build_model(recipe, few_digits).train()
    order = torch.randperm(320, generator=torch.Generator().manual_seed(1))  # of epoch 1 and seed 0
    codes, labels = few_digits.train.codes[order[:64]], few_digits.train.labels[order[:64]]
    logits = student(codes)
    with torch.no_grad():
        p = torch.softmax(teacher.readout.logits(teacher(codes)).double() / t, 1)
    q = torch.softmax(logits.double() / t, 1)
    soft = t**2 * (p * (p / q).log()).sum(1).mean()
    hard = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    ((1 - share) * hard + share * soft).backward()
    for (name, ours), theirs in zip(found.named_parameters(), student.parameters(), strict=True):
        step = lr * theirs.grad
        assert float((ours - (theirs - step)).detach().abs().max()) <= 1e-4 * float(step.abs().max()) + 1e-7, name
    assert float(soft.detach()) > 0.01  # so that a wrong share would be seen


def test_the_teacher_of_a_run_is_on_record_and_stays_the_same(few_digits, twin, tmp_path):
    recipe = replace(SMALL, max_steps=6, teacher=str(twin), distillation=0.5)
    out = tmp_path / "run"
    out.mkdir()
    result = train(recipe, few_digits, out, execution=QUIET)
    digest = hashlib.sha256((twin / MODEL).read_bytes()).hexdigest()
    assert read_tensors(out / MODEL)[1]["teacher_sha256"] == result.teacher == digest
    provenance = fold_run(recipe, few_digits, result, out).provenance
    assert (provenance["teacher_sha256"], provenance["recipe"]["teacher"]) == (digest, str(twin))
    moved = tmp_path / "twin"
    shutil.copytree(twin, moved)
    other = replace(recipe, teacher=str(moved))
    trained(other, few_digits, tmp_path / "other")
    trained(other, few_digits, tmp_path / "other", resume=True)
    train(replace(SMALL, max_steps=1).twin(), few_digits, moved, execution=QUIET)
    with pytest.raises(MaqdError, match="was taught by another network than the one that .*twin' holds now"):
        trained(other, few_digits, tmp_path / "other", resume=True)


def test_a_trained_network_keeps_the_zero_point_of_its_own_images(few_digits, tmp_path):
    dark = replace(few_digits, train=replace(few_digits.train, codes=few_digits.train.codes // 4))
    out, recipe = tmp_path / "dark", replace(SMALL, max_steps=3)
    open_run(out, recipe, resume=False, overwrite=False)
    model = train(recipe, dark, out, execution=QUIET).model.eval()
    zero_point = model.input_spec.zero_point
    assert zero_point != build_model(recipe, few_digits).input_spec.zero_point
    again = read_model(out, few_digits)
    assert again.input_spec.zero_point == zero_point
    assert torch.equal(again(few_digits.test.codes), model(few_digits.test.codes))
    taught = load_teacher(replace(SMALL, teacher=str(out), distillation=0.5), few_digits)
    assert taught.model.input_spec.zero_point == zero_point
    tensors, state = read_tensors(out / MODEL)
    for wrong in (17, 1.0, True):
        write_tensors(out / MODEL, tensors, {**state, "zero_point": wrong})
        with pytest.raises(MaqdError, match=f"does not fit the model of its recipe: its zero point is {wrong}"):
            read_model(out, few_digits)
    del state["zero_point"]  # a file from before
    write_tensors(out / MODEL, tensors, state)
    assert read_model(out, dark).input_spec.zero_point == zero_point


def test_a_teacher_that_cannot_teach_is_refused_before_anything_is_written(twin, tmp_path, capsys):
    def refusal(teacher):
        options = ["--teacher", str(teacher), "--distillation", "0.5", "--out", str(tmp_path / "run")]
        assert main(["train", "digits", *options]) == 2
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err

    assert "there is no checkpoint" in refusal(tmp_path / "nowhere")
    tensors, state = read_tensors(twin / MODEL)
    folder = tmp_path / "teacher"
    folder.mkdir()
    write_tensors(folder / MODEL, tensors, {**state, "recipe": {**state["recipe"], "dataset": "cifar100"}})
    assert re.search(
        r"was trained on cifar100, but digits has inputs \(1, 8, 8\) and 10 classes of its own", refusal(folder)
    )
    write_tensors(folder / MODEL, tensors, {**state, "recipe": {**state["recipe"], "plan": "9"}})
    assert "does not fit the model of its recipe" in refusal(folder)
    write_tensors(folder / MODEL, tensors, {})
    assert "holds no recipe" in refusal(folder)
    (folder / MODEL).write_bytes(b"PK")
    assert "is not a usable checkpoint" in refusal(folder)


def test_a_run_is_not_its_own_teacher(twin, capsys):
    before = {path.name: path.read_bytes() for path in twin.iterdir()}
    options = ["--plan", "8-M-16-M", "--teacher", str(twin), "--distillation", "0.5", "--overwrite"]
    assert main(["train", "digits", *options, "--out", f"{twin}/../{twin.name}"]) == 2
    assert "a run cannot be its own teacher" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in twin.iterdir()} == before


def test_a_twin_has_no_teacher():
    assert replace(SMALL, teacher="runs/twin", distillation=0.5).twin() == SMALL.twin()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"distillation": 1.5, "teacher": "runs/x"}, r"distillation must lie in \[0, 1\], got 1.5"),
        ({"distillation": 0.5}, "teacher and distillation go together.*got None and 0.5"),
        ({"teacher": "runs/x"}, "teacher and distillation go together.*got 'runs/x' and 0.0"),
        ({"temperature": 0.0}, "temperature must be a finite number above 0, got 0.0"),
        ({"surrogate_width_end": 0.0}, "surrogate_width_end must be a finite number above 0, or none, got 0.0"),
        ({"ema": 1.0}, r"ema must lie in \[0, 1\), got 1.0"),
        ({"act_states_from": 1.0}, r"act_states_from must lie in \[0, 1\), got 1.0"),
        ({"act_states_first": 16}, "act_states_first 16 needs an act_states_from above 0"),
        ({"act_states_from": 0.5, "act_states_first": 2}, "act_states_first must be above act_states, got 2 and 2"),
        ({"act_states_from": 0.5, "act_states_first": 999}, "activation states must be a whole number from 2 to 256"),
        ({"weight_states_from": -0.1}, r"weight_states_from must lie in \[0, 1\), got -0.1"),
        ({"act_states_from": 0.5, "norm": "groupnorm"}, "act_states_from needs a normalization that folds"),
    ],
)
def test_impossible_pieces_are_refused(values, message):
    with pytest.raises(MaqdError, match=message):
        replace(SMALL, **values)
