"""The studies of the method: their spaces, their cells, and tables of them."""

import csv
import io
import json
import subprocess
import sys

import pytest

from maqd_snn import MaqdError
from maqd_snn.cli import main
from maqd_snn.models import build
from maqd_snn.reporting import study_tables as tables
from maqd_snn.sweeps.records import write_records
from maqd_snn.sweeps.rows import DONE, FAILED, SKIPPED, TWIN, Row
from maqd_snn.sweeps.space import difference
from maqd_snn.sweeps.studies import STUDIES, cells, study_spec

PAIR = {"act_states": 2, "weight_states": 3}
ROWS = [
    Row(0, "0", DONE, {**PAIR, "seed": 0}, {"accuracy": 0.7, "energy": 1e3, "synops": 9.0}),
    Row(1, "1", DONE, {**PAIR, "seed": 1}, {"accuracy": 0.8, "energy": 3e3, "synops": 7.0}),
    Row(4, "2", DONE, {"act_states": 2, "weight_states": None, "seed": 0}, {"accuracy": 0.9}),
    Row(3, "3", SKIPPED, {"act_states": 2, "weight_states": None, "seed": 1}, {}, "no such thing"),
    Row(5, "4", SKIPPED, {"act_states": 4, "weight_states": 3, "seed": 0}, {}, "too narrow"),
    Row(6, TWIN, DONE, {}, {"accuracy": 0.99}),
]


def plain():
    return [vars(cell) for cell in cells(ROWS)]


def test_cells_have_mean_deviation_and_number_of_seeds():
    first, second, third = plain()
    assert first == {
        "point": {"act_states": 2, "weight_states": 3}, "count": 2, "mean": pytest.approx(0.75),
        "deviation": pytest.approx(0.1 / 2**0.5), "energy": 2e3, "synops": 8.0, "reason": "",
    }  # fmt: skip
    assert (second["count"], second["mean"], second["deviation"], second["energy"]) == (1, 0.9, None, None)
    assert second["reason"] == "no such thing"  # of its other seed
    assert (third["count"], third["mean"], third["reason"]) == (0, None, "too narrow")


def test_cells_of_a_grid_are_there_before_their_trainings():
    points = [{"act_states": a, "weight_states": w, "seed": s} for a in (2, 4) for w in (3, None) for s in (0, 1)]
    found = cells(
        [*ROWS, Row(7, "5", FAILED, {"act_states": 4, "weight_states": 3, "seed": 1}, {}, "not finite")], points
    )
    assert [cell.count for cell in found] == [2, 1, 0, 0]
    assert [cell.reason for cell in found] == ["", "no such thing", "too narrow", ""]
    markdown = tables.study_markdown([vars(cell) for cell in found], "title")
    assert "| 4 | - | - |" in markdown
    assert "`-`, or fewer seeds: no such thing" in markdown


def test_tables_of_a_study(tmp_path):
    lines = list(csv.DictReader(io.StringIO(tables.study_csv(plain()))))
    assert [line["weight_states"] for line in lines] == ["3", "float", "3"]
    assert float(lines[0]["accuracy_mean"]) == pytest.approx(0.75)
    assert lines[2]["accuracy_mean"] == ""
    markdown = tables.study_markdown(plain(), "title").splitlines()
    assert markdown[:4] == [
        "| act_states \\ weight_states | 3 | float |",
        "|---|---|---|",
        "| 2 | 75.00 ± 7.07 (2) | 90.00 (1) |",
        "| 4 | - | - |",
    ]
    assert "`-`, or fewer seeds: too narrow" in markdown
    assert markdown[-6:-2] == [
        "| act_states \\ weight_states | 3 | float |",
        "|---|---|---|",
        "| 2 | 8, 2.00 nJ | - |",
        "| 4 | - | - |",
    ]
    latex = tables.study_latex(plain(), "a_b")
    assert r"2 & 3 & 75.00 $\pm$ 7.07 (2) & 2.00 nJ & 8 \\" in latex
    assert r"a\_b" in latex
    tables.save_heat_map(plain(), "title", tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(MaqdError, match="no cell of the study is finished yet"):
        tables.save_heat_map(plain()[2:], "title", tmp_path / "map.png")
    with pytest.raises(MaqdError, match="a grid has two axes beside the seed, this study has 1: a"):
        tables.grid([{**plain()[0], "point": {"a": 1}}])


def test_the_named_studies_are_possible():
    for name in STUDIES:
        spec = study_spec(name, "cifar10-small", 2, False, {}, None)
        points = list(spec.space.grid())
        assert len(points) == spec.points
        recipes = [spec.space.at(point) for point in points]
        assert {recipe.seed for recipe in recipes} == {0, 1}
        assert difference(spec, spec) == ""
        assert spec.from_json(spec.to_json()) == spec
    with pytest.raises(MaqdError, match="unknown study 'state', did you mean 'states'"):
        study_spec("state", "digits", 1, False, {}, None)
    for name in ("act_states", "weight_states", "seed"):
        with pytest.raises(MaqdError, match=f"the study 'states' varies {name} itself"):
            study_spec("states", "digits", 1, False, {name: 7}, None)
    with pytest.raises(MaqdError, match="--images must be at least 1, got 0"):
        study_spec("states", "digits", 1, False, {}, 0)


@pytest.mark.parametrize("recipe", ["digits", "cifar10-small", "cifar10-resnet18"])
def test_the_default_size_is_possible_with_every_model(recipe):
    space = study_spec("first-last", recipe, 1, False, {}, None).space
    for point in space.grid():
        at = space.at(point)
        build(at.model, input_shape=(3, 32, 32), classes=10, plan=at.plan)
    assert study_spec("first-last", recipe, 1, False, {"model": "mlp"}, None).space.recipe.plan == "64-64"


def test_tables_name_what_is_missing_and_refuse_another_study(tmp_path, capsys):
    spec = study_spec("first-last", "digits", 2, False, {}, None)
    points = list(spec.space.grid())
    records = tmp_path / "records.json"
    write_records(records, spec, [Row(0, "3", DONE, points[3], {"accuracy": 0.5})])
    tables_of = ["--tables", "--records", str(records), "--out", str(tmp_path / "out")]
    assert main(["study", "first-last", *tables_of]) == 0
    said = capsys.readouterr().out
    assert "| 2 | - | 50.00 (1) | - | - |" in said
    assert "up to 10,000 images, 1 of 16 trainings: validation accuracy" in said
    assert main(["study", "surrogate", *tables_of]) == 2
    assert (
        "vary act_states, edge_states; the study 'surrogate' varies surrogate, surrogate_width"
        in capsys.readouterr().err
    )
    write_records(records, spec, [Row(0, "3", SKIPPED, points[3], {}, "too narrow")])
    assert main(["study", "first-last", *tables_of]) == 2
    assert "no training of the study 'first-last' is finished: too narrow" in capsys.readouterr().err


def test_the_learning_rate_follows_the_batch_size():
    space = study_spec("normalization", "cifar10-small", 1, False, {}, None).space
    base = space.recipe
    assert space.at({"norm": "lbn", "batch_size": 128, "seed": 0}).lr == base.lr
    assert space.at({"norm": "lbn", "batch_size": 8, "seed": 0}).lr == pytest.approx(base.lr / 4)


def test_a_study_runs_and_writes_its_tables(tmp_path, capsys):
    pytest.importorskip("optuna")
    size = [
        "--recipe",
        "digits",
        "--plan",
        "4-M-8-M",
        "--epochs",
        "1",
        "--images",
        "320",
        "--seeds",
        "1",
        "--threads",
        "1",
    ]
    records, first = tmp_path / "records.json", tmp_path / "first"
    study = [sys.executable, "-m", "maqd_snn", "study", "first-last", *size, "--quiet", "--records", str(records)]
    said = subprocess.run([*study, "--out", str(first)], check=True, capture_output=True, text=True).stdout
    assert "| act_states \\ edge_states | 2 | 3 | 15 | 255 |" in said
    assert said.count("(1)") == 8
    assert (first / "study.png").read_bytes().startswith(b"\x89PNG")
    assert main(["study", "first-last", "--out", str(first), "--tables"]) == 0
    tables_said = capsys.readouterr().out
    assert tables_said.count("(1)") == 8

    # Where the storage is not, the records are enough: for tables, and to train what is missing alone.
    there = tmp_path / "there"
    assert main(["study", "first-last", "--out", str(there), "--tables", "--records", str(records)]) == 0
    assert capsys.readouterr().out == tables_said.replace(str(first), str(there))
    kept = json.loads(records.read_text())
    whole, lost = records.read_text(), kept["rows"].pop(3)
    records.write_text(json.dumps(kept))
    subprocess.run([*study, "--out", str(tmp_path / "second")], check=True, capture_output=True)
    assert len(list((tmp_path / "second" / "trials").iterdir())) == 1
    again = json.loads(records.read_text())["rows"]
    assert again[:3] + again[4:] == kept["rows"]
    for row in (again[3], lost):
        row["seconds"] = row["result"]["training_seconds"] = 0
    assert again[3] == lost
    assert len(whole.splitlines()) == len(records.read_text().splitlines()) == 8 + 3

    assert main(["study", "nothing", "--out", str(tmp_path)]) == 2
    assert "unknown study 'nothing'" in capsys.readouterr().err
