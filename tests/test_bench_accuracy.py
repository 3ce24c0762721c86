"""`maqd bench accuracy`: what it trains, resumes, judges and writes."""

import dataclasses
import json
import shutil

import pytest

from maqd_snn.benchmarks import accuracy
from maqd_snn.benchmarks.accuracy import CLAIMS, METHODS, NETWORKS, REFERENCE, network_table, verdict_table, verdicts
from maqd_snn.cli import main
from maqd_snn.datasets import load_splits
from maqd_snn.errors import MaqdError
from maqd_snn.training import get_recipe


def rows(**accuracies):
    return [{"network": name, "test": test} for name, tests in accuracies.items() for test in tests]


def test_a_claim_is_about_means_and_both_limits():
    def met(**accuracies):
        named = {name.strip("_"): tests for name, tests in accuracies.items()}
        return {v.claim.network: v.met for v in verdicts("cifar10-small", rows(**named))}

    assert met(_2=[0.78, 0.81], _4=[0.84], twin=[0.86, 0.87]) == {"2": True, "4": True}
    assert met(_2=[0.78, 0.79], twin=[0.80]) == {"2": False}  # below 79 %
    assert met(_2=[0.80], twin=[0.88]) == {"2": False}  # too far behind
    assert met(_16=[0.871], _4=[0.838], twin=[0.88]) == {"4": False, "16": True}
    assert met(_2=[0.9]) == {}  # nothing to compare with
    found = verdicts("cifar10-small", rows(**{"2": [0.78], "twin": [0.86]}))
    assert verdict_table(found)[-1] == "| 2 | 78.00 % | 79 % | 8.00 points | 7 | **no** |"


def test_every_claim_and_variant_is_one_of_the_recipes():
    for recipe, claims in CLAIMS.items():
        assert {claim.network for claim in claims} <= set(NETWORKS), recipe
    base = dataclasses.replace(get_recipe("cifar10-small"), **REFERENCE)
    for name, fields in METHODS.items():
        if fields:
            assert dataclasses.replace(base, **fields) != base, name


def test_networks_are_trained_folded_and_reported(tmp_path, monkeypatch, capsys):
    calls = []

    def run(*arguments):
        calls.append([str(a) for a in arguments])
        assert main(calls[-1]) == 0

    monkeypatch.setattr(accuracy, "_maqd", run)
    # What --quick trains, as if it were the recipe: else its rows would be of another one.
    monkeypatch.setattr(
        accuracy, "get_recipe", lambda name: dataclasses.replace(get_recipe(name), max_steps=2, compile=False)
    )
    page = tmp_path / "page.md"
    markers = (accuracy.BEGIN.format("digits"), accuracy.END.format("digits"))
    page.write_text("before\n{}\nstale\n{}\nafter\n".format(*markers))
    records = tmp_path / "records.json"
    command = ["--recipe", "digits", "--folder", str(tmp_path / "runs"), "--only", "2", "twin", "--quick"]
    command += ["--records", str(records)]
    assert accuracy.main([*command, "--out", str(page)]) == 0
    assert [call[0] for call in calls] == ["train", "report", "train", "eval"]
    text = page.read_text()
    assert "stale" not in text
    assert "| 2 / 3 | 0 |" in text
    assert "| float twin | 0 |" in text
    assert "| 2 | " in text.split("| behind the twin |")[1]
    report = json.loads((tmp_path / "runs" / "digits-2-0" / "report.json").read_text())
    row = next(line for line in text.splitlines() if line.startswith("| 2 / 3"))
    assert f"| {100 * report['accuracy']['test']:.2f} % |" in row
    assert f"| 0 of {report['provenance']['fold_check']['values']:,} |" in row
    before = (tmp_path / "runs" / "digits-2-0" / "metrics.csv").read_text()
    kept = json.loads(records.read_text())
    records.unlink()
    assert accuracy.main(command) == 0  # resumed: nothing is trained again
    assert (tmp_path / "runs" / "digits-2-0" / "metrics.csv").read_text() == before
    assert json.loads(records.read_text()) == kept
    shutil.rmtree(tmp_path / "runs")
    calls.clear()
    assert accuracy.main([*command, "--out", str(page)]) == 0  # the records are enough
    assert (calls, page.read_text()) == ([], text)
    del kept["digits twin 0"]
    kept["digits 2 0"]["recipe"]["lr"] *= 2  # a row of another recipe is none
    records.write_text(json.dumps(kept))
    assert accuracy.main([*command, "--kept", "--out", str(page)]) == 0
    assert (calls, "| 2 / 3 | 0 |" in page.read_text()) == ([], False)
    assert "Still to be trained: 2, seed 0; twin, seed 0." in page.read_text()
    assert accuracy.main([*command, "--only", "2"]) == 0
    assert [call[0] for call in calls] == ["train", "report"]
    capsys.readouterr()


def test_variants_are_compared_on_validation_images_and_not_repeated(tmp_path, monkeypatch, capsys):
    splits = load_splits("digits")
    monkeypatch.setattr(accuracy, "load_splits", lambda name: splits)
    # Digits in place of CIFAR-10: the plan must fit them.
    monkeypatch.setattr(accuracy, "REFERENCE", {**REFERENCE, "plan": "4-M-8", "precision": "fp32"})
    command = ["--methods", "--folder", str(tmp_path), "--only", "Muon, rate 0.2", "--quick"]
    assert accuracy.main(command) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("| Muon, rate 0.2 | ")
    monkeypatch.setattr(accuracy, "fit", None)
    records, page = tmp_path / "records.json", tmp_path / "page.md"
    assert accuracy.main([*command, "--records", str(records)]) == 0
    shutil.rmtree(tmp_path / "Muon-rate-0.2")
    page.write_text(f"{accuracy.METHOD_BEGIN}\n{accuracy.METHOD_END}\n")
    command += ["--records", str(records), "--kept", "--out", str(page)]
    assert accuracy.main(command) == 0
    assert capsys.readouterr().out.splitlines() == [line] * 2
    assert line in page.read_text()
    kept = json.loads(records.read_text())
    kept["Muon, rate 0.2"]["recipe"]["momentum"] = 0.5  # a row of another training is none
    records.write_text(json.dumps(kept))
    assert accuracy.main(command) == 0
    assert "Still to be trained: Muon, rate 0.2." in page.read_text()


def test_unknown_names_list_the_choices(tmp_path):
    with pytest.raises(MaqdError, match=r"unknown network or variant '8'.*16"):
        accuracy.main(["--only", "8", "--folder", str(tmp_path)])


def test_the_table_of_a_twin_has_no_counts():
    row = {"network": "twin", "seed": 1, "test": 0.5, "validation": 0.25, "epoch": 2, "epochs": 3, "seconds": 90.0}
    assert network_table([row])[-1] == "| float twin | 1 | 50.00 % | 25.00 % | 2 of 3 | 1.5 | | | | | | |"
    assert network_table([row])[0].count("|") == network_table([row])[-1].count("|")


def test_rows_that_are_kept_nowhere_are_asked_for(capsys):
    with pytest.raises(SystemExit):
        accuracy.main(["--kept"])
    assert "--kept needs --records FILE" in capsys.readouterr().err
