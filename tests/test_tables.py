"""CSV, LaTeX and the schema of report.json: right numbers, and names that nobody can turn into something else."""

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

from maqd_snn.counting import COUNT_NAMES
from maqd_snn.datasets import load_splits
from maqd_snn.folding import fold
from maqd_snn.profiles import BASES, MODELS, PROFILES, SCOPES
from maqd_snn.reporting.compare import compare
from maqd_snn.reporting.tables import counts_csv, energy_csv, escape_latex, latex_tables
from maqd_snn.runs import make_report
from maqd_snn.simulation import simulate
from maqd_snn.training import Recipe, build_model

SCHEMA = Path(__file__).parents[1] / "docs" / "report-schema.json"
HOSTILE = '=HYPERLINK("http://evil.test")\n\\input{/etc/passwd}'


@pytest.fixture(scope="module")
def report():
    recipe = Recipe(name="x_y & z", dataset="digits", plan="4-M-8", act_states=3)
    splits = load_splits("digits")
    net = fold(build_model(recipe, splits), {"recipe": {"name": recipe.name}})
    simulation = simulate(net, [(splits.test.codes[:50], splits.test.labels[:50])])
    values = make_report(net, splits, simulation, [], list(PROFILES))
    return json.loads(json.dumps(values))  # what a reader of report.json has


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_every_count_of_every_layer(report):
    lines = read(counts_csv(report))
    simulation = report["simulation"]
    assert [line["name"] for line in lines] == [layer["name"] for layer in simulation["layers"]]
    for line, layer in zip(lines, simulation["layers"], strict=True):
        assert {name: float(line[name]) for name in COUNT_NAMES} == {
            name: layer[name] / simulation["samples"] for name in COUNT_NAMES
        }
    assert lines[0]["output_shape"] == "4x8x8"


def test_every_energy(report):
    lines = read(energy_csv(report))
    for name, entry in report["energy"].items():
        of = [line for line in lines if line["profile"] == name]
        total = next(line for line in of if line["term"] == "total")
        assert total["energy_pj"] == ("" if entry["total_pj"] is None else str(entry["total_pj"]))
        parts = [float(line["energy_pj"]) for line in of if line["layer"] and line["energy_pj"]]
        assert sum(parts) == pytest.approx(entry["priced_pj"])
        missing = {(line["layer"], line["term"]) for line in of if line["layer"] and not line["energy_pj"]}
        assert missing == {(layer["name"], term) for layer in entry["layers"] for term in layer["missing"]}
    rivals = {line["profile"]: float(line["energy_pj"]) for line in lines if line["term"] == "baseline"}
    assert rivals == {baseline["name"]: baseline["energy_pj"] for baseline in report["baselines"]}


def test_names_cannot_become_formulas(report):
    changed = json.loads(json.dumps(report))
    changed["simulation"]["layers"][0]["name"] = HOSTILE
    changed["energy"]["cmos45-int8"]["layers"][0]["name"] = HOSTILE
    for text, column in ((counts_csv(changed), "name"), (energy_csv(changed), "layer")):
        found = [line[column] for line in read(text) if "HYPERLINK" in line[column]]
        assert found
        assert all(name == "'" + HOSTILE for name in found)


def test_names_cannot_become_commands(report):
    changed = json.loads(json.dumps(report))
    changed["recipe"]["name"] = HOSTILE
    changed["simulation"]["layers"][0]["name"] = "$x^2_{3}$ % & #~ \\end{tabular}"
    text = latex_tables(changed)
    assert "\\input" not in text
    assert text.count("\\end{tabular}") == text.count("\\begin{tabular}") == 2
    assert r"\$x\textasciicircum{}2\_\{3\}\$ \% \& \#\textasciitilde{}" in text
    assert escape_latex("a\x00b\nc") == "a b c"


def test_the_tables_hold_the_figures(report):
    text = latex_tables(report)
    assert r"x\_y \& z" in text
    assert "\\usepackage{booktabs}" in text.splitlines()[0]
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    for name in ("conv1", "conv2", "classifier", "total", "cmos45-int8", "dense-low-bit-memory"):
        assert any(row.strip().startswith(name) for row in rows), name
    assert any("loihi2 & no total & Intel 4" in row for row in rows)
    for begin, columns in (("lrrrrrr", 7), ("lrll", 4)):
        body = text[text.index(f"{{{begin}}}") :]
        body = body[: body.index("\\end{tabular}")]
        assert all(row.replace(r"\&", "").count("&") == columns - 1 for row in body.splitlines() if row.endswith(r"\\"))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(report, tmp_path):
    preamble = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "paper.tex").write_text(preamble + latex_tables(report) + "\\end{document}\n")
    done = subprocess.run(["pdflatex", "-halt-on-error", "paper.tex"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


# The schema


def test_a_report_fits_the_schema_and_a_wrong_one_does_not(report):
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(report)] == []
    for path in (
        ("simulation", "samples"),
        ("energy", "loihi1", "total_pj"),
        ("baselines",),
        ("samples",),
        ("break_even",),
    ):
        broken = json.loads(json.dumps(report))
        holder = broken
        for key in path[:-1]:
            holder = holder[key]
        del holder[path[-1]]
        assert list(validator.iter_errors(broken)), path
    broken = json.loads(json.dumps(report))
    broken["simulation"]["layers"][0]["synops"] = 0.5
    assert list(validator.iter_errors(broken))


@pytest.mark.filterwarnings("ignore")
def test_the_optional_parts_fit_the_schema(report, make_model, random_codes):
    schema = json.loads(SCHEMA.read_text())
    net = fold(make_model("mlp", 2, 3))
    mapping = {"title": "On a chip", "facts": [["cores", "4"]], "figures": []}
    whole = {**report, "compare": compare(net, random_codes(net, 3)), "mapping": mapping}
    jsonschema.validate(json.loads(json.dumps(whole)), schema)


def test_the_schema_knows_what_the_library_knows():
    found = json.loads(SCHEMA.read_text())["$defs"]
    assert found["price"]["properties"]["basis"]["enum"] == list(BASES)
    assert found["profile"]["properties"]["scope"]["enum"] == list(SCOPES)
    assert found["profile"]["properties"]["model"]["enum"] == list(MODELS)
    assert set(found["per_sample"]["properties"]) == set(COUNT_NAMES)
    assert set(COUNT_NAMES) <= set(found["layer"]["properties"])
