"""`maqd plot`: what is drawn is what the network has, and every picture is one."""

import csv

import numpy as np
import pytest
import torch

from maqd_snn import fold
from maqd_snn.cli import main
from maqd_snn.reporting import plots
from maqd_snn.runs import PLOTS

TRAIN = ["train", "digits", "--plan", "4-M-8-M", "--max-steps", "3", "--batch-size", "32", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("plots") / "run"
    assert main([*TRAIN, "--out", str(out), "--act-states", "3"]) == 0
    return out


@pytest.mark.parametrize("signed", [False, True])
def test_counts_are_those_of_the_network(make_model, random_codes, signed):
    model = make_model("vgg", 3, 4, signed=signed)
    net, codes = fold(model), random_codes(model)
    for name, (values, counts) in plots.weight_counts(net).items():
        codes_of = model.part(name).codes().long()
        assert counts.sum() == codes_of.numel()
        assert {int(v): int(n) for v, n in zip(values, counts, strict=True) if n} == {
            int(v): int((codes_of == v).sum()) for v in codes_of.unique()
        }
    trace, levels = model.trace(codes), plots.level_counts(net, codes)
    assert list(levels) == ["spike1", "spike2 before pool2", "spike3 before pool3"]
    for name, (values, counts) in zip(model.spiking_names(), levels.values(), strict=True):
        assert values.tolist() == ([-2, -1, 0, 1, 2] if signed else [0, 1, 2])
        assert counts.tolist() == [int((trace[name] == value).sum()) for value in values]


def test_histograms_lose_nothing_where_values_share_a_bar():
    values = np.arange(-127, 128)
    counts = np.arange(255) ** 2
    figure = plots.histograms({"wide": (values, counts), "narrow": (values[:3], counts[:3])}, "title", "code")
    wide, narrow = figure.axes
    for axes, number in ((wide, 37), (narrow, 3)):
        heights = [bar.get_height() for bar in axes.patches]
        assert len(heights) == number <= plots.MOST_BARS
        assert sum(heights) == pytest.approx(100)
    assert [bar.get_x() + bar.get_width() / 2 for bar in narrow.patches] == [-127, -126, -125]
    assert narrow.patches[2].get_height() == pytest.approx(80)  # 4 of 0 + 1 + 4


def test_curves_show_the_tables(run):
    tables = [plots.read_table((run / name).read_text()) for name in ("metrics.csv", "layers.csv")]
    loss, accuracy, rates, _ = plots.curves(*tables, "title").axes
    with (run / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert [line.get_ydata()[0] for line in loss.lines] == [float(row["train_loss"]), float(row["validation_loss"])]
    assert accuracy.lines[1].get_ydata()[0] == pytest.approx(100 * float(row["validation_accuracy"]))
    assert [line.get_label() for line in rates.lines] == ["spike1", "spike2"]


def test_the_surrogate_is_drawn_at_its_thresholds():
    axes = plots.surrogate_shape("rectangle", 3, True, "title").axes[0]
    level, gradient = axes.lines
    x, k = torch.as_tensor(level.get_xdata()), torch.as_tensor(level.get_ydata())
    assert sorted(set(k.tolist())) == [-2, -1, 0, 1, 2]
    steps = x[1:][k.diff() > 0]
    assert steps.tolist() == pytest.approx([-0.75, -0.25, 0.25, 0.75], abs=2e-3)
    assert set(gradient.get_ydata().tolist()) == {0.0, 2.0}


def test_the_command_writes_pictures(run, tmp_path):
    assert main(["plot", str(run), "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(PLOTS.values())
    for path in tmp_path.iterdir():
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert path.stat().st_size > 5000


def test_the_pictures_say_which_neurons_they_show(run, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.update({path.name: figure}))
    assert main(["plot", str(run), "--out", str(tmp_path)]) == 0
    assert drawn["levels.png"].get_suptitle().endswith(": levels in network.h5 on 180 validation images")
    # The model pools first, its network fires first: twice as high and as wide, with other shares.
    titles = [axes.get_title() for axes in drawn["levels.png"].axes]
    neurons = [180 * 4 * 8 * 8, 180 * 8 * 4 * 4]
    assert titles == [f"spike{n} before pool{n}: {number:,}" for n, number in enumerate(neurons, 1)]
    rates = drawn["curves.png"].axes[2]
    assert rates.get_legend().get_title().get_text() == "after pooling, where it comes first"


@pytest.mark.parametrize(
    ("options", "why", "drawn"),
    [
        (["--twin"], "float twin", ["curves.png"]),
        (["--act-states", "none"], "partly float", ["curves.png"]),
        (["--weight-states", "none"], "partly float", ["curves.png", "surrogate.png"]),
        (["--norm", "groupnorm"], "group normalization", ["curves.png", "surrogate.png"]),
    ],
)
def test_a_network_that_does_not_fold_is_drawn_as_far_as_it_goes(tmp_path, capsys, options, why, drawn):
    out = tmp_path / "run"
    assert main([*TRAIN, "--out", str(out), *options]) == 0
    capsys.readouterr()
    assert main(["plot", str(out)]) == 0
    *paths, line = capsys.readouterr().out.splitlines()
    assert paths == [str(out / name) for name in drawn]
    assert line == f"weight codes and levels are drawn of a folded network, and this one does not fold ({why})"
    assert sorted(path.name for path in out.glob("*.png")) == drawn


def test_what_cannot_be_drawn_is_one_sentence(run, tmp_path, capsys):
    def fails(*arguments):
        assert main(["plot", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "holds no run" in fails(tmp_path)
    assert "--out expects an existing folder" in fails(run, "--out", tmp_path / "none")
    (tmp_path / "recipe.json").write_text((run / "recipe.json").read_text())
    assert "has no metrics.csv yet" in fails(tmp_path)
    (tmp_path / "metrics.csv").write_text("epoch\n1\n")
    (tmp_path / "layers.csv").write_text((run / "layers.csv").read_text())
    assert "are damaged" in fails(tmp_path)


def test_an_interrupted_training_has_its_curves(run, tmp_path, capsys):
    for name in ("recipe.json", "metrics.csv", "layers.csv"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    assert main(["plot", str(tmp_path)]) == 0
    *paths, line = capsys.readouterr().out.splitlines()
    assert paths == [str(tmp_path / PLOTS[name]) for name in ("curves", "surrogate")]
    assert line == "there is no network.h5 yet: weight codes and levels are drawn when the training has ended"
    assert {path.name for path in tmp_path.glob("*.png")} == {"curves.png", "surrogate.png"}


METRICS = "epoch,lr,train_loss,train_accuracy,validation_loss,validation_accuracy\n"
LAYERS = "epoch,layer,spike_rate,rounded_share\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.csv", b"\xff\xfe\x00", "'utf-8' codec can't decode"),
        ("metrics.csv", b"", "a row for an epoch are expected, and there is no row"),
        ("metrics.csv", METRICS.encode(), "a row for an epoch are expected, and there is no row"),
        (
            "metrics.csv",
            f"{METRICS}1,0.1,much,0.5,2.0,0.5\n".encode(),
            "train_loss in row 1 is expected to be a finite",
        ),
        ("metrics.csv", f"{METRICS}1,0.1,2.0,0.5,nan,0.5\n".encode(), "number, and is nan"),
        ("metrics.csv", f"{METRICS}1,0.1,2.0,0.5,2.0\n".encode(), "validation_accuracy in row 1 is expected to be a"),
        ("metrics.csv", f"{METRICS}1,0.1,2.0,0.5,2.0,0.5,3\n".encode(), "row 1 has more cells than the header"),
        ("metrics.csv", b"epoch\n1\n", "a column 'lr' is expected, and there are epoch"),
        ("metrics.csv", METRICS.encode() + b"1" * 200_000, "field larger than field limit"),
        ("layers.csv", LAYERS.encode(), "a row for an epoch are expected, and there is no row"),
        ("layers.csv", f"{LAYERS}1,spike1,0.5,\n1,spike2,half,\n".encode(), "spike_rate in row 2 is expected to be a"),
        ("layers.csv", f"{LAYERS}1,,0.5,\n".encode(), "layer in row 1 is expected to be a name, and is None"),
    ],
    ids=["bytes", "empty", "header", "text", "nan", "short", "long", "column", "field", "layers", "rate", "layer"],
)
def test_damaged_tables_are_one_sentence_and_no_picture(run, tmp_path, capsys, name, content, message):
    for table in ("recipe.json", "metrics.csv", "layers.csv"):
        (tmp_path / table).write_bytes((run / table).read_bytes())
    (tmp_path / name).write_bytes(content)
    assert main(["plot", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"are damaged: {name}: " in error
    assert message in error
    assert list(tmp_path.glob("*.png")) == []
