"""The figure of a run: written whole, in every format, from the values of the report alone."""

import json

import pytest

from maqd_snn import MaqdError, fold
from maqd_snn.datasets import load_splits
from maqd_snn.reporting.figures import save_figure
from maqd_snn.runs import make_report
from maqd_snn.simulation import simulate
from maqd_snn.training import Recipe, build_model


@pytest.fixture(scope="module")
def report():
    recipe = Recipe(name="x", dataset="digits", plan="4-M-8")
    splits = load_splits("digits")
    net = fold(
        build_model(recipe, splits), {"recipe": {"model": "vgg", "plan": "4-M-8", "act_states": 2, "weight_states": 3}}
    )
    simulation = simulate(net, [(splits.test.codes[:50], splits.test.labels[:50])])
    values = make_report(net, splits, simulation, [], ["cmos45-int8", "loihi1"])
    return json.loads(json.dumps(values))  # what a reader of report.json has


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_every_format(report, tmp_path, suffix, magic):
    path = tmp_path / f"figure{suffix}"
    save_figure(report, path)
    assert path.read_bytes().startswith(magic)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_figure_names_layers_and_prices(report, tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # keeps text as text
    save_figure(report, tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    for words in ("conv1", "classifier", "dense int8", "spikes, cmos45-int8", "2-state spikes"):
        assert words in text
    assert "loihi1" not in text  # no total, and another technology


def test_unknown_formats_are_refused(report, tmp_path):
    with pytest.raises(MaqdError, match=r"written as \.png, \.svg or \.pdf, got 'figure\.docx'"):
        save_figure(report, tmp_path / "figure.docx")
