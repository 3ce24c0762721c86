"""`maqd bench accuracy`: what it trains, resumes, keeps, judges, writes and refuses."""

import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from maqd_snn.benchmarks import accuracy
from maqd_snn.benchmarks.accuracy import (
    CLAIMS,
    METHODS,
    NETWORKS,
    REFERENCE,
    networks_of,
    recipe_of,
    seeds_of,
    verdict_table,
    verdicts,
)
from maqd_snn.cli import main
from maqd_snn.datasets import load_splits
from maqd_snn.errors import MaqdError
from maqd_snn.reporting.units import energy_text, quantity
from maqd_snn.runs import read_network
from maqd_snn.sweeps.studies import STUDIES
from maqd_snn.sweeps.trial import measure
from maqd_snn.training import get_recipe

DOCS = Path(__file__).parent.parent / "docs"
COUNTS = {"mismatches": 0, "compared": 1, "macs": 9, "synops": 5, "energy_pj": 1.0}
DENSE = {"dense-low-bit": 2.0, "dense-int8": 3.0}


def rows(seconds=60.0, **accuracies):
    """Return rows of seeds 0, 1, ...; None is a seed that is not there."""
    return [
        {"network": name.strip("_"), "seed": seed, "test": test, "seconds": seconds}
        for name, tests in accuracies.items()
        for seed, test in enumerate(tests)
        if test is not None
    ]


def on_record(network, seed, test=0.9, recipe="digits"):
    """Return a whole row, as a training of the recipe leaves it."""
    row = {"network": network, "seed": seed, "epoch": 1, "epochs": 2, "validation": 0.5, "seconds": 60.0, "test": test}
    row |= {"when": "today.", "recipe": dataclasses.asdict(recipe_of(recipe, network, seed))}
    return row if network == "twin" else {**row, **COUNTS, "dense_pj": DENSE}


def write_records(path, *found, recipe="digits"):
    path.write_text(json.dumps({f"{recipe} {row['network']} {row['seed']}": row for row in found}))


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    marks = (accuracy.BEGIN.format("digits"), accuracy.END.format("digits"), accuracy.METHOD_BEGIN, accuracy.METHOD_END)
    path.write_text("before\n{}\nstale\n{}\nbetween\n{}\nstale\n{}\nafter\n".format(*marks))
    return path


@pytest.fixture
def untrained(monkeypatch):
    """Let every training be an error."""

    def train(*arguments, **options):
        raise AssertionError("trained")

    for name in ("train_network", "fit"):
        monkeypatch.setattr(accuracy, name, train)


def test_a_claim_is_about_means_and_both_limits():
    def met(**accuracies):
        found = verdicts("cifar10-small", rows(**accuracies))
        return {v.claim.network: v.met for v in found if not v.missing}

    assert met(_2=[0.78, 0.81], _4=[0.84, 0.84], twin=[0.86, 0.87]) == {"2": True, "4": True}
    assert met(_2=[0.78, 0.79], twin=[0.80, 0.80]) == {"2": False}  # below 79 %
    assert met(_2=[0.80, 0.80], twin=[0.88, 0.88]) == {"2": False}  # too far behind
    assert met(_16=[0.871], _4=[0.838, 0.838], twin=[0.88, 0.88]) == {"4": False, "16": True}
    assert met(_2=[0.9, 0.9]) == {}  # nothing to compare with
    found = verdicts("cifar10-small", rows(_2=[0.78, 0.78], twin=[0.86, 0.86]))
    assert verdict_table(found)[2] == "| 2 | 78.00 % | 79 % | 8.00 points | 7 | 1.0 | 15 | **no** |"


def test_a_claim_is_about_the_time_of_every_training_too():
    good = {"_2": [0.8, 0.8], "twin": [0.86, 0.86]}
    for late in range(4):
        timed = rows(seconds=899, **good)
        timed[late]["seconds"] = 901
        one, *_ = verdicts("cifar10-small", timed)
        assert (one.missing, one.met, round(one.minutes, 2)) == ((), False, 15.02)
        assert verdict_table([one])[-1] == "| 2 | 80.00 % | 79 % | 6.00 points | 7 | 15.0 | 15 | **no** |"
    assert verdicts("cifar10-small", rows(seconds=899, **good))[0].met
    (unlimited,) = verdicts("mnist10k", rows(seconds=9999, _2=[0.8, 0.8], twin=[0.8, 0.8]))
    assert unlimited.met
    assert verdict_table([unlimited])[-1].endswith("| 166.7 | no limit | yes |")


def test_a_claim_is_judged_by_all_seeds_and_the_same_of_the_twin():
    (one,) = verdicts("mnist10k", rows(_2=[0.9, None], twin=[0.9, 0.8]))
    assert (one.missing, one.met) == (("2, seed 1",), False)
    (other,) = verdicts("mnist10k", rows(_2=[0.9, 0.9], twin=[0.9, None]))
    assert verdict_table([other])[-1] == "| 2 | | 0 % | | 0.5 | | no limit | not judged, missing: twin, seed 1 |"
    sixteen = verdicts("cifar10-small", rows(_16=[0.85], twin=[0.855, 0.95]))[-1]
    assert (sixteen.twin, sixteen.met) == (85.5, True)  # the twin's other seed is no part of it
    (four,) = verdicts("digits", rows(_2=[0.9, 0.9, 0.9, 0.86], twin=[0.9, 0.9, 0.9, 0.9]))
    assert (round(four.test, 6), four.met) == (89, False)
    (three,) = verdicts("digits", rows(_2=[0.9, 0.9, 0.9], twin=[0.9, 0.9, 0.9, 0.9]))
    assert three.missing == ("2, seed 3",)


def test_every_claim_and_variant_is_one_of_the_recipes():
    for recipe, claims in CLAIMS.items():
        for claim in claims:
            assert set(seeds_of(recipe, claim.network)) <= set(seeds_of(recipe, "twin")), recipe
    base = dataclasses.replace(get_recipe("cifar10-small"), **REFERENCE)
    for name, fields in METHODS.items():
        if fields:
            assert dataclasses.replace(base, **fields) != base, name


def test_a_recipe_trains_what_its_claims_need():
    assert networks_of("mnist10k") == ["2", "twin"]
    assert networks_of("cifar10-small") == networks_of("mnist") == list(NETWORKS)


@pytest.mark.parametrize(
    ("kind", "records", "code"),
    [
        (["--recipe", "digits"], "accuracy.json", 0),
        (["--recipe", "mnist10k"], "accuracy.json", 0),
        (["--recipe", "cifar10-small"], "accuracy.json", 0),
        (["--methods"], "methods.json", 0),
    ],
)
def test_the_tables_of_the_page_are_those_of_the_records(kind, records, code, tmp_path, capsys):
    page = tmp_path / "accuracy.md"
    page.write_text((DOCS / "accuracy.md").read_text())
    assert accuracy.main([*kind, "--records", str(DOCS / records), "--kept", "--out", str(page)]) == code
    assert page.read_text() == (DOCS / "accuracy.md").read_text()
    capsys.readouterr()


@pytest.mark.parametrize("study", STUDIES)
def test_the_tables_of_the_studies_are_those_of_their_records(study, tmp_path, capsys):
    records = DOCS / f"study-{study}.json"
    command = ["study", study, "--tables", "--records", str(records), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) >= 8
    page = (DOCS / "accuracy.md").read_text().splitlines()
    begin = next(number for number, line in enumerate(page) if line.startswith(f"<!-- {study}: maqd study {study} "))
    part = page[begin : page.index(f"<!-- end of {study} -->")]
    assert [line for line in part if line.startswith("|")] == table


def test_networks_are_trained_folded_and_reported(tmp_path, monkeypatch, page, capsys):
    calls = []

    def run(*arguments):
        calls.append([str(a) for a in arguments])
        assert main(calls[-1]) == 0

    monkeypatch.setattr(accuracy, "_maqd", run)
    records, folder = tmp_path / "records.json", tmp_path / "runs" / "quick"
    whole = on_record("2", 0)
    write_records(records, whole)
    command = ["--recipe", "digits", "--folder", str(tmp_path / "runs"), "--quick", "--records", str(records)]
    assert accuracy.main([*command, "--out", str(page)]) == 0
    assert [call[0] for call in calls] == ["train", "report", "train", "eval"]
    text = page.read_text()
    assert text.count("stale") == 1
    assert "| 2 / 3 | 0 |" in text
    assert "| float twin | 0 |" in text
    assert (
        "not judged, missing: 2, seed 1; 2, seed 2; 2, seed 3; twin, seed 1; " in text.split("| behind the twin |")[1]
    )
    report = json.loads((folder / "digits-2-0" / "report.json").read_text())
    row = next(line for line in text.splitlines() if line.startswith("| 2 / 3"))
    assert f"| {100 * report['accuracy']['test']:.2f} % |" in row
    assert f"| 0 of {report['provenance']['fold_check']['values']:,} |" in row
    before = (folder / "digits-2-0" / "metrics.csv").read_text()
    kept = json.loads(records.read_text())
    assert kept.pop("digits 2 0") == whole  # the row of a whole training stays
    records.unlink()
    assert accuracy.main(command) == 0  # resumed: nothing is trained again
    assert (folder / "digits-2-0" / "metrics.csv").read_text() == before
    assert json.loads(records.read_text()) == kept
    shutil.rmtree(tmp_path / "runs")
    calls.clear()
    assert accuracy.main([*command, "--out", str(page)]) == 0  # the records are enough
    assert (calls, page.read_text()) == ([], text)
    kept["digits 2 0, quick"]["recipe"]["lr"] *= 2  # a row of another recipe is none
    records.write_text(json.dumps(kept))
    assert accuracy.main([*command, "--kept", "--out", str(page)]) == 1
    assert (calls, "| 2 / 3 | 0 |" in page.read_text()) == ([], False)
    assert "Still to be trained: 2, seed 0." in page.read_text()
    assert not (tmp_path / "runs").exists()
    assert accuracy.main([*command, "--only", "2"]) == 0
    assert [call[0] for call in calls] == ["train", "report"]
    capsys.readouterr()


def test_each_twin_has_its_own_result(tmp_path, monkeypatch):
    results = {}

    def run(command, *arguments):
        path = arguments[arguments.index("--json") + 1]
        epoch = {"epoch": 1, "validation_loss": 1.0, "validation_accuracy": 0.5, "seconds": 1.0}
        path.write_text(json.dumps({"history": [epoch], "accuracy": 0.5}))
        results.setdefault(command, []).append(path)

    monkeypatch.setattr(accuracy, "_maqd", run)
    monkeypatch.setattr(accuracy, "read_recipe", lambda run: recipe_of("digits", "twin", 0))
    for seed in (0, 1):
        accuracy.train_network("digits", "twin", seed, tmp_path, quick=False)
    assert len({*results["train"], *results["eval"]}) == 4


def test_what_is_missing_on_record_is_an_exit_code(tmp_path, untrained, capsys):
    records = tmp_path / "records.json"
    command = ["--recipe", "mnist10k", "--records", str(records), "--kept"]
    assert accuracy.main(command) == 1  # no file
    write_mnist = partial(write_records, recipe="mnist10k")
    four = [on_record(name, seed, recipe="mnist10k") for name in ("2", "twin") for seed in (0, 1)]
    write_mnist(records, *four)
    assert accuracy.main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("| yes |")
    write_mnist(records, *four[:-1])
    assert accuracy.main(command) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("| not judged, missing: twin, seed 1 |")
    assert accuracy.main([*command, "--only", "2"]) == 0  # the twin is left out on purpose
    assert accuracy.main([*command, "--only", "2", "twin"]) == 1
    write_mnist(records, *four[2:])
    capsys.readouterr()
    assert accuracy.main([*command, "--only", "twin"]) == 0  # there is no claim about it
    assert "not judged" not in capsys.readouterr().out
    write_mnist(records, on_record("2", 0, 0.8, "mnist10k"), *four[1:])
    assert accuracy.main(command) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith("| **no** |")
    write_mnist(records, {**four[0], "recipe": {**four[0]["recipe"], "former": 1}}, *four[1:])
    assert accuracy.main(command) == 1  # of a version with another field
    write_mnist(records, {**four[0], "recipe": four[1]["recipe"]}, *four[1:])
    assert accuracy.main(command) == 1  # of another seed


def test_an_unknown_recipe_is_refused_before_all_else(tmp_path, page, untrained):
    records = tmp_path / "records.json"
    records.write_text("[1]")
    with pytest.raises(MaqdError, match="unknown recipe 'foo'"):
        accuracy.main(["--recipe", "foo", "--records", str(records), "--kept", "--out", str(page)])


def test_a_table_is_not_replaced_by_an_empty_one(tmp_path, page, untrained):
    text = page.read_text()
    for kind in (["--recipe", "digits"], ["--methods", "--quick"]):
        with pytest.raises(MaqdError, match=r"has no row for this table, so '.*page.md' stays as it is"):
            accuracy.main([*kind, "--records", str(tmp_path / "none.json"), "--kept", "--out", str(page)])
    assert page.read_text() == text


def test_records_of_calls_at_the_same_time_are_all_kept(tmp_path, monkeypatch, capsys):
    records = tmp_path / "records.json"
    other = {"mnist10k twin 1": on_record("twin", 1, recipe="mnist10k")}

    def train(recipe, name, seed, folder, quick):
        if (name, seed) == ("2", 1):  # meanwhile another call has ended
            records.write_text(json.dumps({**json.loads(records.read_text()), **other}))
        assert (name, seed) != ("twin", 1)
        return on_record(name, seed, recipe=recipe)

    monkeypatch.setattr(accuracy, "train_network", train)
    assert accuracy.main(["--recipe", "mnist10k", "--records", str(records)]) == 0
    assert set(json.loads(records.read_text())) == {
        f"mnist10k {name} {seed}" for name in ("2", "twin") for seed in (0, 1)
    }
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: accuracy._keep(records, f"row {i}", on_record("twin", i)), range(40)))
    assert len(json.loads(records.read_text())) == 44
    assert [path.name for path in tmp_path.iterdir()] == ["records.json"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"digits 2 0": {', "no JSON text"),
        ("[1]", "holds no rows by name"),
        ('{"digits 2 0": 1}', "the row 'digits 2 0' has no 'recipe'"),
        (json.dumps({"digits 2 0": {**on_record("2", 0), "test": "0.9"}}), "has no 'test'"),
        (json.dumps({"digits 2 0": {**on_record("2", 0), "dense_pj": {"dense-int8": 1}}}), "has no 'dense-low-bit'"),
        (json.dumps({"digits twin 0": {"network": "twin"}}), "has no 'seconds'"),
        (json.dumps({"BatchNorm": {"method": "BatchNorm", "seconds": 1, "when": "", "recipe": {}}}), "has no 'images'"),
    ],
)
def test_damaged_records_are_refused_by_name(text, message, tmp_path, untrained):
    records = tmp_path / "records.json"
    records.write_text(text)
    for further in ([], ["--kept"]):
        with pytest.raises(MaqdError, match=rf"records.json' .*{message}.*; .*remove"):
            accuracy.main(["--recipe", "digits", "--records", str(records), *further])


def test_places_to_write_to_are_looked_at_before_the_work(tmp_path, page, untrained):
    for path in (tmp_path / "none" / "records.json", tmp_path):
        with pytest.raises(MaqdError, match="--records expects a file in a folder that can be written"):
            accuracy.main(["--recipe", "digits", "--records", str(path)])
    with pytest.raises(FileNotFoundError):
        accuracy.main(["--recipe", "digits", "--out", str(tmp_path / "none.md")])
    with pytest.raises(MaqdError, match="no place for the table"):
        accuracy.main(["--recipe", "mnist10k", "--out", str(page)])


def test_what_a_command_says_when_it_fails_is_the_error(tmp_path):
    with pytest.raises(MaqdError, match=r"holds no run .*\(exit code 2 of `maqd eval .*`\)"):
        accuracy._maqd("eval", tmp_path)


@pytest.fixture
def digits_for_cifar(monkeypatch):
    splits = load_splits("digits")
    monkeypatch.setattr(accuracy, "load_splits", lambda name: splits)
    # The plan must fit them.
    monkeypatch.setattr(accuracy, "REFERENCE", {**REFERENCE, "plan": "4-M-8", "precision": "fp32"})


def test_variants_are_compared_on_validation_images_and_not_repeated(
    tmp_path, page, monkeypatch, digits_for_cifar, capsys
):
    command = ["--methods", "--folder", str(tmp_path), "--only", "Muon, rate 0.2", "--quick"]
    assert accuracy.main(command) == 0
    (line,) = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    result = json.loads((tmp_path / "quick" / "Muon-rate-0.2" / "result.json").read_text())
    assert cells[0] == "Muon, rate 0.2"
    assert cells[4] == f"0 of {result['compared']:,}"
    net = read_network(tmp_path / "quick" / "Muon-rate-0.2")
    figures = measure(net, load_splits("digits").validation, "cmos45-int8")
    assert (result["accuracy"], result["synops"]) == (figures["accuracy"], figures["synops"])
    assert cells[5:] == [quantity(figures["synops"]), energy_text(figures["energy"])]
    monkeypatch.setattr(accuracy, "fit", None)
    records = tmp_path / "records.json"
    assert accuracy.main([*command, "--records", str(records)]) == 0
    shutil.rmtree(tmp_path / "quick" / "Muon-rate-0.2")
    command += ["--records", str(records), "--kept"]
    monkeypatch.setattr(accuracy, "load_splits", None)  # what is on record needs no images
    assert accuracy.main([*command, "--out", str(page)]) == 0
    assert capsys.readouterr().out.splitlines() == [line] * 2
    assert line in page.read_text()
    assert accuracy.main([*command, "--out", str(page), "--only", "Muon, rate 0.2", "BatchNorm"]) == 0
    assert "Still to be trained: BatchNorm." in page.read_text()
    kept = json.loads(records.read_text())
    kept["Muon, rate 0.2, quick"]["recipe"]["momentum"] = 0.5  # a row of another training is none
    records.write_text(json.dumps(kept))
    assert accuracy.main(command) == 1


def test_a_variant_that_stays_in_float_has_no_counts_and_one_that_folds_wrongly_fails(
    tmp_path, digits_for_cifar, capsys
):
    records = tmp_path / "records.json"
    command = ["--methods", "--quick", "--folder", str(tmp_path), "--records", str(records)]
    assert accuracy.main([*command, "--only", "float weights", "BatchNorm"]) == 0
    batchnorm, floats = capsys.readouterr().out.splitlines()
    assert floats.endswith("% | | | |")
    kept = json.loads(records.read_text())
    assert "synops" not in kept["float weights, quick"]
    kept["BatchNorm, quick"]["mismatches"] = 1
    records.write_text(json.dumps(kept))
    assert accuracy.main([*command, "--only", "float weights", "BatchNorm"]) == 1
    assert capsys.readouterr().out.splitlines() == [batchnorm.replace("| 0 of", "| 1 of"), floats]
    del kept["BatchNorm, quick"]["energy_pj"]
    records.write_text(json.dumps(kept))
    with pytest.raises(MaqdError, match="the row 'BatchNorm, quick' has no 'energy_pj'"):
        accuracy.main(command)


def test_a_short_trial_is_no_result_of_a_variant(tmp_path, untrained, digits_for_cifar):
    base = dataclasses.replace(get_recipe("cifar10-small"), epochs=1, compile=False, **accuracy.REFERENCE)
    row = {"method": "BatchNorm", "epoch": 1, "seconds": 1.0, "when": "today."}
    row |= dict.fromkeys(("accuracy", "train", "rate"), 0.5)
    command = ["--methods", "--folder", str(tmp_path), "--only", "BatchNorm"]
    quick = {**row, "images": 256, "recipe": dataclasses.asdict(dataclasses.replace(base, norm="batchnorm"))}
    for folder in (tmp_path, tmp_path / "quick"):
        (folder / "BatchNorm").mkdir(parents=True)
    (tmp_path / "quick" / "BatchNorm" / "result.json").write_text(json.dumps(quick))
    assert accuracy.main([*command, "--quick"]) == 0
    with pytest.raises(AssertionError, match="trained"):
        accuracy.main(command)
    for before in (quick, row, {**quick, "recipe": {"former": 1}}):  # row: of before there were recipes in results
        (tmp_path / "BatchNorm" / "result.json").write_text(json.dumps(before))
        with pytest.raises(MaqdError, match="BatchNorm' holds a training of another recipe or of other images; give"):
            accuracy.main(command)


def test_unknown_names_list_the_choices(tmp_path, monkeypatch):
    with pytest.raises(MaqdError, match=r"unknown network or variant '8'.*16"):
        accuracy.main(["--only", "8", "--folder", str(tmp_path)])
    monkeypatch.setattr(accuracy, "load_splits", None)  # before the images are asked for
    with pytest.raises(MaqdError, match=r"unknown network or variant '8'.*momentum 0.9"):
        accuracy.main(["--methods", "--only", "8", "--folder", str(tmp_path)])


def test_the_table_of_a_twin_has_no_counts():
    row = {"network": "twin", "seed": 1, "test": 0.5, "validation": 0.25, "epoch": 2, "epochs": 3, "seconds": 90.0}
    assert accuracy.network_table([row])[-1] == "| float twin | 1 | 50.00 % | 25.00 % | 2 of 3 | 1.5 | | | | | | |"
    assert accuracy.network_table([row])[0].count("|") == accuracy.network_table([row])[-1].count("|")


def test_rows_that_are_kept_nowhere_are_asked_for(capsys):
    with pytest.raises(SystemExit):
        accuracy.main(["--kept"])
    assert "--kept needs --records FILE" in capsys.readouterr().err
