"""Training: it learns real scans, resumes to the same bits, chooses the epoch on validation data, fails clearly."""

import csv
import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from maqd_snn import MaqdError, fold
from maqd_snn.datasets import load_splits
from maqd_snn.training import Epoch, Execution, Recipe, fit, loop
from maqd_snn.training.augment import AUGMENTATIONS, cutout, flip, shift
from maqd_snn.training.checkpoint import previous, read_checkpoint, read_tensors, write_checkpoint, write_tensors
from maqd_snn.training.config import FIELD_TYPES, override, parse_field
from maqd_snn.training.loop import CHECKPOINT, Evaluation, Training, best, differences, evaluate
from maqd_snn.training.optimize import SCHEDULES
from maqd_snn.training.watching import LAYERS, METRICS

SMALL = Recipe(
    name="small",
    dataset="digits",
    plan="8-M-16-M",
    norm="lbn",
    surrogate="rectangle",
    gain=1.0,
    pool_first=False,
    epochs=3,
    batch_size=64,
    optimizer="adamw",
    lr=6e-3,
    augment="shift1",
)


@pytest.fixture(scope="module")
def digits():
    return load_splits("digits")


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_it_learns_real_digits_and_keeps_the_best_epoch(digits, tmp_path):
    result = fit(dataclasses.replace(SMALL, plan="16-M-32-M", epochs=8, batch_size=32), digits, tmp_path, quiet=True)
    assert [entry.epoch for entry in result.history] == list(range(1, 9))
    assert result.history[-1].train_loss < 0.7 * result.history[0].train_loss
    assert SMALL.label_smoothing > 0
    measured = evaluate(result.model, digits.validation, label_smoothing=SMALL.label_smoothing)
    assert (measured.accuracy, measured.loss) == (result.best.validation_accuracy, result.best.validation_loss)
    assert measured.loss == min(entry.validation_loss for entry in result.history)
    with torch.no_grad():
        logits = result.model.readout.logits(result.model(digits.validation.codes))
    right = F.cross_entropy(logits.float(), digits.validation.labels, label_smoothing=SMALL.label_smoothing)
    assert measured.loss == pytest.approx(float(right), rel=1e-5)
    assert evaluate(result.model, digits.validation).loss < measured.loss
    assert measured.accuracy > 0.7
    assert 0.05 < measured.spike_rate < 0.7
    net = fold(result.model)
    assert torch.equal(net(digits.test.codes), result.model(digits.test.codes).long())
    with (tmp_path / METRICS).open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["train_loss"]) for row in rows] == [entry.train_loss for entry in result.history]
    with (tmp_path / LAYERS).open() as file:
        rows = [row for row in csv.DictReader(file) if int(row["epoch"]) == result.best.epoch]
    outputs = result.model.trace(digits.validation.codes)
    fired = {name: float((outputs[name] != 0).double().mean()) for name in ("spike1", "spike2")}
    assert {row["layer"]: float(row["spike_rate"]) for row in rows} == pytest.approx(fired)


def without_time(history):
    return [dataclasses.replace(entry, seconds=0) for entry in history]


@pytest.mark.parametrize("halt", [1, 2, 5, 6, 8, 14])
def test_resumed_training_ends_with_the_same_bits(few_digits, tmp_path, fit_until, halt):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    execution = Execution(checkpoint_steps=2, checkpoint_seconds=0)
    expected = fit(SMALL, few_digits, whole, quiet=True)  # without checkpoints within an epoch

    fit_until(halt, SMALL, few_digits, parts, quiet=True, execution=execution)
    kept = 0 if halt == 1 else read_tensors(parts / CHECKPOINT)[1]["step"]
    assert kept == {1: 0, 2: 2, 5: 0, 6: 1, 8: 3, 14: 4}[halt]  # every 2 steps of all, and after every 5, an epoch
    resumed = fit(SMALL, few_digits, parts, resume=True, quiet=True, execution=execution)
    assert equal(weights(resumed.model), weights(expected.model))
    assert without_time(resumed.history) == without_time(expected.history)
    assert resumed.layers == expected.layers
    (parts / METRICS).unlink()
    again = fit(SMALL, few_digits, parts, resume=True, quiet=True)  # nothing is left to train, a table is
    assert again.history == resumed.history
    assert equal(weights(again.model), weights(expected.model))
    assert len((parts / METRICS).read_text().splitlines()) == 4


def test_the_seed_decides(few_digits, tmp_path):
    once = dataclasses.replace(SMALL, epochs=1)
    same = [weights(fit(once, few_digits, tmp_path, quiet=True).model) for _ in range(2)]
    other = weights(fit(dataclasses.replace(once, seed=1), few_digits, tmp_path, quiet=True).model)
    assert equal(*same)
    assert not equal(same[0], other)


def epoch(number, accuracy, loss):
    return Epoch(number, 0.1, 1.0, 0.5, loss, accuracy, 0.2, 1.0)


def test_the_best_epoch_is_chosen_on_validation_loss_then_accuracy():
    history = [epoch(1, 0.95, 0.5), epoch(2, 0.8, 0.4), epoch(3, 0.9, 0.4), epoch(4, 0.9, 0.4), epoch(5, 0.99, 0.41)]
    assert best(history).epoch == 3


def test_the_model_returned_is_that_of_the_best_epoch(few_digits, tmp_path, monkeypatch):
    seen = []

    def best_in_the_middle(model, *arguments):
        seen.append(weights(model))
        return Evaluation((1.0, 0.5, 2.0)[len(seen) - 1], 0.5, 0.1, {})

    monkeypatch.setattr(loop, "evaluate", best_in_the_middle)
    result = fit(SMALL, few_digits, tmp_path, quiet=True)
    assert result.best.epoch == 2
    assert equal(weights(result.model), seen[1])
    assert not equal(seen[1], seen[2])


def test_the_test_set_is_never_looked_at(few_digits, tmp_path):
    blind = dataclasses.replace(few_digits, test=None)
    fit(dataclasses.replace(SMALL, epochs=1), blind, tmp_path, quiet=True)


def test_the_float_twin_trains_and_does_not_fold(few_digits, tmp_path):
    twin = dataclasses.replace(SMALL, act_states=None, weight_states=None)
    result = fit(twin, few_digits, tmp_path, quiet=True)
    assert result.history[-1].train_loss < result.history[0].train_loss
    with pytest.raises(MaqdError, match="conv1 has float weights and cannot be folded"):
        fold(result.model)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_every_optimizer_and_schedule_lowers_the_loss(few_digits, tmp_path, optimizer, schedule):
    lr = {"adamw": 6e-3, "sgd": 0.1, "muon": 0.1}[optimizer]
    recipe = dataclasses.replace(SMALL, optimizer=optimizer, schedule=schedule, lr=lr)
    history = fit(recipe, few_digits, tmp_path, quiet=True).history
    assert history[-1].train_loss < history[0].train_loss


def test_a_loss_that_is_not_finite_stops_with_one_sentence(few_digits, tmp_path):
    with pytest.raises(MaqdError, match=r"the loss became (nan|inf) in epoch 1, step \d+: .* 'conv1' .*; lower --lr"):
        fit(dataclasses.replace(SMALL, optimizer="sgd", lr=1e38), few_digits, tmp_path, quiet=True)
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize(
    ("often", "value", "at"),
    [(1, math.nan, "epoch 1, step 3"), (1, math.inf, "epoch 1, step 3"), (9, math.inf, "epoch 1")],
)
def test_weights_that_are_not_finite_are_never_saved(few_digits, tmp_path, monkeypatch, often, value, at):
    take, recipe = Training._train_step, dataclasses.replace(SMALL, max_steps=3)

    def breaking(training, *arguments):
        if training.taken == 2:  # within the step, after its gradient was found finite
            # Where it is infinite, neurons always fire: no validation shows it.
            bias = training.model.part("spike1").norm.bias
            training.stepper.register_step_post_hook(lambda *_: bias.data[0].fill_(value))
        return take(training, *arguments)

    monkeypatch.setattr(Training, "_train_step", breaking)
    with pytest.raises(MaqdError, match=rf"a weight became .* in {at}: 'model.parts.spike1.norm.bias' is; lower --lr"):
        fit(recipe, few_digits, tmp_path, quiet=True, execution=Execution(checkpoint_steps=often))
    assert not (tmp_path / CHECKPOINT).exists() or read_tensors(tmp_path / CHECKPOINT)[1]["step"] == 2


TWIN = SMALL.twin()


@pytest.mark.parametrize(
    ("recipe", "break_it", "message"),
    [
        (SMALL, lambda model: model.readout.log_g.data.fill_(200), "the loss became nan .*: 'readout' is the first"),
        (
            SMALL,
            lambda model: model.part("conv2").weight.data.fill_(1e37),
            "nan .*: the weights of 'conv2' are so large",
        ),
        (
            TWIN,
            lambda model: model.part("spike1").norm.gain.data.fill_(3e38),
            "nan .*: 'spike1' is the first layer whose",
        ),
        (SMALL, lambda model: model.part("spike1").norm.gain.data.fill_(math.nan), "the weights of 'spike1' are not"),
        (
            SMALL,
            lambda model: model.part("conv2").weight.register_hook(lambda grad: grad / 0),
            "a gradient became infinite or nan in epoch 1, step 3: 'conv2' is the first layer on the way back",
        ),
    ],
)
def test_the_layer_that_first_broke_is_named(few_digits, tmp_path, monkeypatch, recipe, break_it, message):
    take = Training._train_step

    def breaking(training, *arguments):
        if training.taken == 2:
            break_it(training.model)
        return take(training, *arguments)

    monkeypatch.setattr(Training, "_train_step", breaking)
    with pytest.raises(MaqdError, match=message):
        fit(recipe, few_digits, tmp_path, quiet=True, execution=Execution(checkpoint_steps=2))
    tensors, state = read_tensors(tmp_path / CHECKPOINT)
    assert state["step"] == 2
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_a_file_from_before_a_field_is_of_the_same_recipe():
    values = dataclasses.asdict(SMALL)
    assert differences(values, SMALL) == []
    older = {name: value for name, value in values.items() if name != "synops_penalty"}
    assert differences(older, SMALL) == []
    assert differences(older, dataclasses.replace(SMALL, synops_penalty=0.1)) == ["synops_penalty: 0.0 there, 0.1 here"]
    assert differences({**values, "unknown": 1}, SMALL) == ["unknown: 1 there, nothing here"]
    assert differences(None, SMALL) == ["no recipe there"]
    other = dataclasses.replace(SMALL, plan=None, max_steps=8)
    assert differences(values, other) == ["plan: '8-M-16-M' there, None here", "max_steps: None there, 8 here"]
    del values["dataset"]
    assert differences(values, SMALL) == ["dataset: nothing there, 'digits' here"]


def test_checkpoints_of_another_recipe_or_damaged_are_refused(few_digits, tmp_path):
    once = dataclasses.replace(SMALL, epochs=1)
    fit(once, few_digits, tmp_path, quiet=True)
    with pytest.raises(MaqdError, match=r"belongs to another recipe \(lr: 0.006 there, 0.001 here\); give its options"):
        fit(dataclasses.replace(once, lr=1e-3), few_digits, tmp_path, resume=True, quiet=True)
    path = tmp_path / CHECKPOINT
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(MaqdError, match="is not a usable checkpoint"):
            fit(once, few_digits, tmp_path, resume=True, quiet=True)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(MaqdError, match="is not a usable checkpoint"):
        read_tensors(path)
    save_file({"x": torch.zeros(1)}, path, metadata={"state": json.dumps({"version": 99})})
    with pytest.raises(MaqdError, match="version 99, newer than"):
        read_tensors(path)


def test_two_damaged_checkpoints_are_both_named_with_what_to_do(tmp_path):
    path = tmp_path / CHECKPOINT
    for _ in range(2):
        write_checkpoint(path, {"x": torch.zeros(1)}, {})
    what = "is not a usable checkpoint: it is damaged or foreign"
    to_do = "; train anew with --overwrite, or give another --out$"
    previous(path).write_bytes(b"half")
    assert read_checkpoint(path)[2] == path
    path.write_bytes(b"half")
    both = rf"^'{path}' {what} \(.*\); '{previous(path)}' {what} \(.*\){to_do}"
    with pytest.raises(MaqdError, match=both):
        read_checkpoint(path)
    for gone, left in ((path, previous(path)), (previous(path), path)):
        left.write_bytes(b"half")
        gone.unlink(missing_ok=True)
        with pytest.raises(MaqdError, match=rf"^'{left}' {what} \(.*\){to_do}"):
            read_checkpoint(path)


def test_a_damaged_checkpoint_falls_back_on_the_one_before(few_digits, tmp_path, capsys):
    once = dataclasses.replace(SMALL, epochs=1)
    expected = fit(once, few_digits, tmp_path, quiet=True, execution=Execution(checkpoint_steps=2))
    path = tmp_path / CHECKPOINT
    assert [read_tensors(p)[1]["epoch"] for p in (previous(path), path)] == [1, 2]
    path.write_bytes(path.read_bytes()[:-1])
    resumed = fit(once, few_digits, tmp_path, resume=True, quiet=True)
    assert "is damaged; continuing from" in capsys.readouterr().err
    assert equal(weights(resumed.model), weights(expected.model))


@pytest.mark.parametrize(
    ("name", "told"),
    [("", "missing"), *((f"{of}.parts.conv1.weight", "damaged") for of in ("model", "average", "best"))],
)
def test_a_checkpoint_missing_or_not_finite_falls_back_on_the_one_before(few_digits, tmp_path, capsys, name, told):
    once = dataclasses.replace(SMALL, epochs=2, ema=0.9)
    expected = fit(once, few_digits, tmp_path, quiet=True, execution=Execution(checkpoint_steps=2))
    path = tmp_path / CHECKPOINT
    tensors, state = read_tensors(path)
    good = previous(path).read_bytes()
    path.unlink()
    if name:
        tensors[name][0] = math.nan
        write_tensors(path, tensors, state)
    resumed = fit(once, few_digits, tmp_path, resume=True, quiet=True)
    said = f"{str(path)!r} is {told}; continuing from {str(previous(path))!r}\n"
    assert capsys.readouterr().err == said
    assert equal(weights(resumed.model), weights(expected.model))
    assert previous(path).read_bytes() == good
    for file in (path, previous(path)):
        write_tensors(file, {**tensors, name or "model.x": torch.tensor(math.inf)}, state)
    with pytest.raises(MaqdError, match=rf"is not a usable checkpoint: '{name or 'model.x'}' in it is not finite"):
        fit(once, few_digits, tmp_path, resume=True, quiet=True)
    path.unlink()
    with pytest.raises(MaqdError, match=r"checkpoint.previous.safetensors' is not a usable checkpoint"):
        fit(once, few_digits, tmp_path, resume=True, quiet=True)


def test_a_damaged_checkpoint_never_takes_the_place_of_the_one_before(few_digits, tmp_path, fit_until):
    often = Execution(checkpoint_steps=1)
    fit_until(3, SMALL, few_digits, tmp_path, quiet=True, execution=often)
    path = tmp_path / CHECKPOINT
    good = previous(path).read_bytes()
    path.write_bytes(b"junk")
    fit_until(3, SMALL, few_digits, tmp_path, resume=True, quiet=True, execution=often)  # from step 2, saves once
    assert read_tensors(path)[1]["step"] == 3
    assert previous(path).read_bytes() == good
    fit_until(4, SMALL, few_digits, tmp_path, resume=True, quiet=True, execution=often)
    assert [read_tensors(p)[1]["step"] for p in (previous(path), path)] == [3, 4]


def _set(name, value):
    return lambda tensors, state: tensors.__setitem__(name, value(tensors[name]))


def _without(start):
    return lambda tensors, state: [tensors.pop(name) for name in list(tensors) if name.startswith(start)]


def _with(name):
    return lambda tensors, state: tensors.__setitem__(name, torch.zeros(()))


def _state(change):
    return lambda tensors, state: change(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("optimizer.0.exp_avg", lambda t: t[:1]), "optimizer state '0.exp_avg' that is none of its parameter"),
        (_set("optimizer.0.exp_avg", lambda t: t.int()), "optimizer state '0.exp_avg' that is none of its parameter"),
        (_set("optimizer.0.exp_avg", lambda t: t + 0j), "optimizer state '0.exp_avg' that is none of its parameter"),
        (_set("optimizer.0.exp_avg", lambda t: t.sum()), "optimizer state '0.exp_avg' that is none of its parameter"),
        (_set("optimizer.0.step", lambda t: -t), "optimizer state '0.step' that is no number of steps"),
        (_set("optimizer.0.step", lambda t: t * math.nan), "optimizer state '0.step' that is no number of steps"),
        (_without("optimizer.0.exp_avg"), "lacks the optimizer state '0.exp_avg'"),
        (_without("optimizer.1."), "lacks the optimizer state '1.exp_avg'"),
        (_without("optimizer."), "lacks the optimizer state '0.exp_avg'"),
        (_with("optimizer.0.max_exp_avg_sq"), "optimizer state '0.max_exp_avg_sq' that fits no parameter"),
        (_with("optimizer.99.exp_avg"), "optimizer state '99.exp_avg' that fits no parameter"),
        (_without("best."), "does not fit the model of its recipe"),
        (_without("best.parts.conv1.weight"), "does not fit the model of its recipe"),
        (_set("best.parts.conv1.weight", lambda t: t[:1]), "does not fit the model of its recipe"),
        (_state(lambda s: s.update(rounded=[])), "holds no position of this version"),
        (_state(lambda s: s.update(rounded={"conv1": math.nan})), "holds no position of this version"),
        (_state(lambda s: s.update(data=[])), "was trained on other images"),
        (_set("model.parts.conv1.weight", lambda t: t.int()), "does not fit the model of its recipe"),
        (_set("model.parts.conv1.weight", lambda t: t[:1]), "does not fit the model of its recipe"),
        (_set("ranks", lambda t: t * math.nan), "holds no position of this version"),
        (_state(lambda s: s.update(seconds=math.nan)), "holds no position of this version"),
        (_state(lambda s: s.update(step=99)), "holds no position of this version"),
        (_state(lambda s: s["history"][0].update(validation_loss=None)), "holds no history of this version"),
        (_state(lambda s: s["history"][0].update(validation_loss=-math.inf)), "holds no history of this version"),
        (_state(lambda s: (s.update(epoch=101, step=0), s["history"].extend(s["history"] * 99))), "holds no position"),
    ],
)
def test_a_crafted_checkpoint_is_refused_before_a_step_is_taken(few_digits, tmp_path, fit_until, change, message):
    fit_until(7, SMALL, few_digits, tmp_path, quiet=True, execution=Execution(checkpoint_steps=1))
    path = tmp_path / CHECKPOINT
    tensors, state = read_tensors(path)
    change(tensors, state)
    path.unlink()
    previous(path).unlink()
    write_tensors(path, tensors, state)
    with pytest.raises(MaqdError, match=message):
        fit(SMALL, few_digits, tmp_path, resume=True, quiet=True)


@pytest.mark.parametrize("optimizer", ["sgd", "muon", "none"])
def test_an_optimizer_without_its_state_is_refused_where_it_has_one(few_digits, tmp_path, fit_until, optimizer):
    name, momentum = ("sgd", 0.0) if optimizer == "none" else (optimizer, 0.9)
    recipe = dataclasses.replace(SMALL, optimizer=name, momentum=momentum, lr=0.05, epochs=1)
    fit_until(2, recipe, few_digits, tmp_path, quiet=True, execution=Execution(checkpoint_steps=1))
    tensors, state = read_tensors(tmp_path / CHECKPOINT)
    less = {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer.")}
    write_tensors(tmp_path / CHECKPOINT, less, state)
    if optimizer == "none":
        assert less == tensors
        fit(recipe, few_digits, tmp_path, resume=True, quiet=True)
    else:
        with pytest.raises(MaqdError, match=r"lacks the optimizer state '0\.momentum"):
            fit(recipe, few_digits, tmp_path, resume=True, quiet=True)


def test_a_resumed_training_in_bfloat16_loses_no_rounded_shares(few_digits, tmp_path, fit_until):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    recipe = dataclasses.replace(SMALL, precision="bf16-mixed", epochs=2)
    expected = fit(recipe, few_digits, whole, quiet=True)
    assert {row.layer for row in expected.layers if row.rounded_share is not None} == {"conv1", "conv2"}
    fit_until(8, recipe, few_digits, parts, quiet=True, execution=Execution(checkpoint_steps=1))  # in epoch 2
    assert fit(recipe, few_digits, parts, resume=True, quiet=True).layers == expected.layers
    assert (parts / LAYERS).read_text() == (whole / LAYERS).read_text()


def test_other_training_images_are_refused(few_digits, tmp_path, fit_until):
    fit_until(7, SMALL, few_digits, tmp_path, quiet=True, execution=Execution(checkpoint_steps=1))
    train = few_digits.train
    codes, labels = train.codes.clone(), train.labels.clone()
    codes[0, 0, 0, 0] += 1
    labels[0] = (labels[0] + 1) % 10
    for changed, count in (
        ({"codes": codes}, 320),
        ({"labels": labels}, 320),
        ({"codes": codes[:319], "labels": labels[:319]}, 319),
    ):
        other = dataclasses.replace(few_digits, train=dataclasses.replace(train, **changed))
        message = (
            rf"was trained on other images: expected 320 with sha256 [0-9a-f]{{12}}, got {count} with .*; put the data"
        )
        with pytest.raises(MaqdError, match=message):
            fit(SMALL, other, tmp_path, resume=True, quiet=True)


def test_a_checkpoint_from_before_data_and_rounded_shares_were_kept_is_gone_on_from(few_digits, tmp_path, fit_until):
    fit_until(7, SMALL, few_digits, tmp_path, quiet=True, execution=Execution(checkpoint_steps=1))
    tensors, state = read_tensors(tmp_path / CHECKPOINT)
    del state["data"], state["rounded"]
    write_tensors(tmp_path / CHECKPOINT, tensors, state)
    assert len(fit(SMALL, few_digits, tmp_path, resume=True, quiet=True).history) == 3


def test_an_interrupted_save_keeps_the_previous_checkpoint(few_digits, tmp_path, monkeypatch):
    once = dataclasses.replace(SMALL, epochs=1)
    fit(once, few_digits, tmp_path, quiet=True)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maqd_snn.training.checkpoint.save_file", full)
    with pytest.raises(MaqdError, match="No space left on device; the previous file, if any, is unchanged"):
        fit(once, few_digits, tmp_path, quiet=True)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, LAYERS, METRICS]


def test_shift_moves_whole_images_and_fills_the_border():
    codes = torch.zeros(9, 1, 4, 4, dtype=torch.uint8)
    codes[:, :, 1, 2] = 9
    corners = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
    moved = shift(codes, 1, 5, corners)
    for image, (row, column) in zip(moved, corners.T.tolist(), strict=True):
        padded = torch.full((6, 6), 5, dtype=torch.uint8)
        padded[1:5, 1:5] = codes[0, 0]
        assert torch.equal(image[0], padded[row : row + 4, column : column + 4])
    drawn = AUGMENTATIONS["shift1"].draw(1000, torch.Generator().manual_seed(0))
    assert {tuple(pair) for pair in drawn.T.tolist()} == {(float(r), float(c)) for r in range(3) for c in range(3)}


def test_flip_and_cutout_act_on_each_image_as_drawn():
    codes = torch.arange(2 * 3 * 4 * 6, dtype=torch.uint8).view(2, 3, 4, 6)
    flipped = flip(codes, torch.tensor([0.49, 0.5]))
    assert flipped[0].tolist() == [[row[::-1] for row in plane] for plane in codes[0].tolist()]
    assert torch.equal(flipped[1], codes[1])

    cut = cutout(codes, 2, 255, torch.tensor([[0.5, 0.0], [0.5, 0.999]]))  # rows 1-2, columns 2-3; row 0, columns 4-5
    expected = codes.clone()
    expected[0, :, 1:3, 2:4] = 255
    expected[1, :, 0:1, 4:6] = 255
    assert torch.equal(cut, expected)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_keep_shape_type_and_range_and_act_on_each_image_alone(name):
    augmentation = AUGMENTATIONS[name]
    codes = torch.randint(0, 17, (6, 3, 8, 8), dtype=torch.uint8)
    drawn = augmentation.draw(6, torch.Generator().manual_seed(0))
    result = augmentation.apply(codes, 5, drawn)
    assert (result.shape, result.dtype) == (codes.shape, codes.dtype)
    assert int(result.max()) <= 16
    halves = [augmentation.apply(codes[rows], 5, drawn[:, rows]) for rows in (slice(0, 4), slice(4, 6))]
    assert torch.equal(torch.cat(halves), result)
    assert torch.equal(result, codes) == (name == "none")


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_schedules_peak_at_one_and_end_near_zero(name, warmup):
    values = [SCHEDULES[name](step / 400, warmup) for step in range(401)]
    assert max(values) == pytest.approx(1)
    assert values.index(max(values)) == 400 * warmup
    assert values[-1] == pytest.approx(0, abs=1e-4)
    assert all(math.isfinite(value) and value >= 0 for value in values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "cifar"}, "unknown dataset 'cifar'.*cifar100"),
        ({"model": "vit"}, "unknown model 'vit'.*resnet"),
        ({"surrogate": "box"}, "unknown surrogate"),
        ({"optimizer": "lion"}, "unknown optimizer"),
        ({"schedule": "step"}, "unknown schedule"),
        ({"augment": "mixup"}, "unknown augmentation"),
        ({"norm": "layernorm"}, "unknown normalization"),
        ({"act_states": 1}, "activation states must be a whole number from 2"),
        ({"weight_states": 256}, "weight states must be a whole number from 2 to 255"),
        ({"weight_step": 0.0}, "weight_step must be above 0 and finite"),
        ({"surrogate_width": 0.0}, "surrogate parameter width must be a finite number above 0"),
        ({"gain": -1.0}, "gain must be above 0 and finite, or none for the one of least error, got -1.0"),
        ({"gain": math.inf}, "gain must be above 0 and finite"),
        ({"bias": math.nan}, "bias must be a finite number, got nan"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"lr": 0.0}, "lr must be a finite number above 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\)"),
    ],
)
def test_recipes_are_validated(values, message):
    with pytest.raises(MaqdError, match=message):
        override(SMALL, values)


def test_recipes_survive_json():
    assert Recipe.from_dict(json.loads(SMALL.to_json()), "here") == SMALL
    for values, message in (
        ([], "here holds no recipe"),
        ({"name": "x", "dataset": "digits", "colour": 1}, "unknown or missing fields"),
        ({"name": "x"}, "unknown or missing fields"),
        ({"name": "x", "dataset": "digits", "epochs": "many"}, "epochs has the value 'many', expected a whole number"),
        ({"name": "x", "dataset": "digits", "epochs": True}, "epochs has the value True"),
    ):
        with pytest.raises(MaqdError, match=message):
            Recipe.from_dict(values, "here")


def test_what_had_another_name_is_read_under_the_one_of_today():
    former = {**dataclasses.asdict(SMALL), "precision": "int8-forward"}
    assert SMALL.precision == "fp32"
    assert Recipe.from_dict(former, "here") == SMALL
    assert differences(former, SMALL) == []


def test_a_file_from_before_a_field_is_read_as_what_was_done_then():
    values = dataclasses.asdict(dataclasses.replace(SMALL, gain=None))
    del values["gain"]
    assert Recipe.from_dict(values, "here").gain == 1.0
    assert differences(values, SMALL) == []


def test_every_field_can_be_parsed():
    values = dataclasses.asdict(SMALL)
    for name in FIELD_TYPES:
        assert parse_field(name, str(values[name])) == values[name]
    with pytest.raises(MaqdError, match="--act-states expects a whole number or 'none', got '2.5'"):
        parse_field("act_states", "2.5")
    with pytest.raises(MaqdError, match="--signed expects true or false, got 'yes'"):
        parse_field("signed", "yes")
