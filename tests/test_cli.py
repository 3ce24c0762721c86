"""The command line as a user meets it: the main job, its parts, and one clear sentence for every wrong input."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import maqd_snn
from maqd_snn.cli import main, make_parser
from maqd_snn.neuromorphic import FORMATS

OPTIONS = ["--plan", "8-M-16-M", "--epochs", "2", "--batch-size", "64", "--quiet"]
ARTEFACTS = {
    "recipe.json",
    "metrics.csv",
    "layers.csv",
    "checkpoint.safetensors",
    "checkpoint.previous.safetensors",
    "model.safetensors",
    "network.h5",
    "report.json",
    "report.html",
    *(file.name for entry in FORMATS.values() if entry.usual for file in entry.files(Path(entry.file))),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one `maqd run digits`; copy it before changing it."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["run", "digits", "--out", str(out), "--samples", "20", *OPTIONS]) == 0
    return out


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def fails(capsys, arguments, *words):
    """Run, expect exit code 2 and one sentence on stderr that has all the words, and nothing on stdout."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    for word in words:
        assert word in captured.err


def test_run_leaves_every_artefact_and_tells_the_figures(finished, tmp_path, capsys):
    assert {path.name for path in finished.iterdir()} == ARTEFACTS
    report = json.loads((finished / "report.json").read_text())
    assert report["schema"] == 1
    assert report["simulation"]["samples"] == 360
    assert report["provenance"]["fold_check"]["mismatches"] == 0
    assert [entry["format"] for entry in report["exports"]] == ["nir", "nir-events", "onnx", "qonnx", "c"]
    for entry in report["exports"]:
        assert entry["check"]["ok"], entry
        assert entry["check"]["scores"] == (80 if entry["format"] == "nir-events" else 200)  # it has samples of its own
    net = maqd_snn.load(finished / "network.h5")
    _, test = maqd_snn.datasets.load("digits")
    accuracy = float((net(test.codes).argmax(1) == test.labels).double().mean())
    assert report["accuracy"]["test"] == pytest.approx(accuracy)
    assert report["simulation"]["total"]["synops"] > 0
    assert "<html" in (finished / "report.html").read_text()

    capsys.readouterr()
    assert main(["run", "digits", "--out", str(finished), "--resume", "--samples", "20", *OPTIONS]) == 0
    printed = capsys.readouterr().out
    for words in ("accuracy", "SynOps", "cmos45-int8", "dense-fp32", "verified: 0 of 200", "snntorch", "onnxruntime"):
        assert words in printed


def test_parts_of_the_main_job(run, tmp_path, capsys):
    result = tmp_path / "result.json"
    assert main(["eval", str(run), "--json", str(result)]) == 0
    assert json.loads(result.read_text())["samples"] == 360
    assert main(["eval", str(run), "--part", "validation"]) == 0
    expected = json.loads((run / "report.json").read_text())["accuracy"]
    printed = capsys.readouterr().out
    assert f"accuracy {expected['test']:.4f}" in printed
    assert f"accuracy {expected['validation']:.4f}" in printed

    (run / "network.nir").unlink()
    (run / "report.html").unlink()
    assert main(["export", str(run), "--format", "nir"]) == 0
    capsys.readouterr()
    fails(capsys, ["export", run, "--format", "nir"], "network.nir' exists; remove it, give another name")
    assert main(["export", str(run), "--format", "nir", "--overwrite"]) == 0
    assert main(["verify", str(run / "network.c"), "--samples", "5"]) == 0
    assert main(["verify", str(run / "network.nir"), "--samples", "5", "--json", str(result)]) == 0
    check = json.loads(result.read_text())
    assert (check["ok"], check["samples"], check["mismatches"]) == (True, 5, 0)
    assert main(["report", str(run), "--samples", "5", "--profile", "cmos45-int8"]) == 0
    assert (run / "report.html").is_file()
    assert list(json.loads((run / "report.json").read_text())["energy"]) == ["cmos45-int8"]


def test_train_alone_and_one_format(tmp_path, capsys):
    out = tmp_path / "t"
    assert main(["train", "digits", "--out", str(out), "--act-states", "4", *OPTIONS]) == 0
    assert not (out / "report.json").exists()
    assert main(["export", str(out / "network.h5"), "--format", "onnx", "--out", str(tmp_path / "x.onnx")]) == 0
    assert main(["verify", str(tmp_path / "x.onnx"), "--against", str(out), "--samples", "5"]) == 0
    assert "OK: 0 of 50 class scores differ" in capsys.readouterr().out


def test_a_network_without_a_dataset_is_verified_on_codes_that_are_given(run, tmp_path, capsys):
    images, file = tmp_path / "n.hex.json", tmp_path / "n.onnx"
    assert main(["export", str(run), "--format", "hex", "--out", str(images)]) == 0
    written = capsys.readouterr().out
    assert (
        f"{tmp_path / 'n.hex.images'} ({sum(f.stat().st_size for f in images.parent.rglob('*.hex'))} bytes)" in written
    )
    assert main(["export", str(images), "--format", "onnx", "--out", str(file)]) == 0
    capsys.readouterr()
    fails(capsys, ["verify", file, "--against", images], "does not say what it was trained on; give --data NAME or")
    assert main(["verify", str(file), "--against", str(images), "--data", "digits", "--samples", "3"]) == 0
    codes = tmp_path / "codes.npy"
    np.save(codes, np.zeros((4, 1, 8, 8), np.uint8))
    command = ["verify", file, "--against", images, "--data", codes]
    assert main([str(part) for part in command]) == 0
    assert "OK: 0 of 40 class scores differ on 4 samples, onnx in onnxruntime" in capsys.readouterr().out
    np.save(codes, np.full((4, 1, 8, 8), 999))
    fails(capsys, command, "999")
    np.save(codes, np.zeros((4, 1, 8, 8)))
    fails(capsys, command, "codes.npy' holds float64 of shape (4, 1, 8, 8), expected integer codes")
    codes.write_bytes(codes.read_bytes()[:200])
    fails(capsys, command, "codes.npy' is not there, damaged or no .npy array")


def test_the_float_twin_is_trained_and_evaluated(run, tmp_path, capsys):
    out = tmp_path / "twin"
    twin = ["--twin", *OPTIONS]
    fails(capsys, ["run", "digits", "--out", out, *twin], "a float twin (--twin, states 'none') has no integer network")
    assert not out.exists()
    for field, *values in (["act-states", 4], ["weight-states", 15], ["teacher", run, "--distillation", 0.5]):
        said = f"--twin trains float weights and ReLU, untaught; leave out --{field}"
        fails(capsys, ["train", "digits", "--out", out, *twin, f"--{field}", *values], said)
    assert not out.exists()
    assert main(["train", "digits", "--out", str(out), *twin, "--act-states", "none"]) == 0
    recipe = json.loads((out / "recipe.json").read_text())
    assert (recipe["act_states"], recipe["weight_states"]) == (None, None)
    assert main(["eval", str(out)]) == 0
    assert "digits, float twin, test: " in capsys.readouterr().out
    assert not (out / "network.h5").exists()


def test_a_wrong_file_fails_verification_with_code_1(run, tmp_path, capsys):
    other = tmp_path / "other"
    assert main(["train", "digits", "--out", str(other), "--seed", "1", *OPTIONS]) == 0
    assert main(["verify", str(run / "network.onnx"), "--against", str(other), "--samples", "10"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_an_existing_run_is_not_lost(run, capsys):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    base = ["train", "digits", "--out", run, *OPTIONS]
    fails(capsys, base, "holds another run", "--resume, --overwrite or another --out")
    fails(capsys, [*base, "--resume", "--lr", "0.2"], "holds a run of another recipe (lr: ", " there, 0.2 here); give")
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert main([str(part) for part in [*base, "--overwrite", "--epochs", "1"]]) == 0
    assert not (run / "report.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "digit"], ["unknown recipe 'digit', did you mean 'digits'?", "cifar10-vgg"]),
        (["run", "digits", "--dataset", "cifar"], ["unknown dataset 'cifar'", "cifar10"]),
        (["run", "digits", "--model", "vit"], ["unknown model 'vit'", "resnet"]),
        (["run", "digits", "--format", "nri"], ["unknown export format 'nri', did you mean 'nir'?", "qonnx"]),
        (["run", "digits", "--profile", "loihi3"], ["unknown energy profile 'loihi3'", "truenorth"]),
        (["run", "digits", "--act-states", "1"], ["activation states", "from 2 to 256, got 1"]),
        (["run", "digits", "--weight-states", "1"], ["weight states", "from 2 to 255, got 1"]),
        (["run", "digits", "--epochs", "some"], ["--epochs expects a whole number, got 'some'"]),
        (["run", "digits", "--plan", "8-Q"], ["plan '8-Q' has the step 'Q'", "'64-64-M-128-128-M'"]),
        (["run", "digits", "--plan", "8-M-8-M-8-M-8-M"], ["use fewer pools"]),
        (["run", "digits", "--model", "mlp", "--plan", "1"], ["classifier: a filter of one weight cannot be"]),
        (["run", "digits", "--lr", "inf"], ["lr must be a finite number above 0, got inf"]),
        (["run", "digits", "--format", ","], ["--format names no format", "qonnx"]),
        (["export", "nowhere", "--format", "nir,onnx"], ["one format at a time, got nir, onnx"]),
        (["eval", "nowhere", "--json", "no/such.json"], ["--json expects a file in an existing folder"]),
        (["eval", "nowhere", "--json", "/dev/null"], ["--json expects a file", "device or pipe, got '/dev/null'"]),
        (["eval", "x" * 300], ["File name too long"]),
        (["run", "digits", "--samples", "0"], ["--samples must be at least 1, got 0"]),
        (["eval", "nowhere"], ["'nowhere' holds no run"]),
        (["report", "nowhere"], ["'nowhere' holds no run"]),
        (["export", "nowhere", "--format", "nir"], ["there is no network file 'nowhere'"]),
        (["export", "nowhere", "--format", "pdf"], ["unknown export format 'pdf'"]),
        (["verify", "nowhere.nir"], ["there is no exported file 'nowhere.nir'"]),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fails(capsys, arguments, *words)
    assert list(tmp_path.iterdir()) == []


def test_wrong_folders(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    fails(capsys, ["train", "digits", "--out", tmp_path / "file", *OPTIONS], "is a file; give a folder")
    fails(capsys, ["train", "digits", "--out", tmp_path / "mine", *OPTIONS], "not empty and holds no run")
    fails(capsys, ["train", "digits", "--out", tmp_path / "file" / "x", *OPTIONS], "cannot create the folder")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    monkeypatch.setenv("MAQD_DATA_ROOT", str(tmp_path / "empty"))
    fails(capsys, ["train", "cifar10-vgg", "--out", tmp_path / "c"], "cifar10", "--download")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("recipe.json", b"{", "is damaged: it is no JSON text"),
        ("recipe.json", b"[]", "holds no recipe"),
        ("network.h5", b"", "is not a usable network file"),
        ("network.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "is not a usable network file"),
    ],
)
def test_damaged_runs(run, name, content, words, capsys):
    (run / name).write_bytes(content)
    fails(capsys, ["report", run], words)


@pytest.mark.parametrize("file", ["network.nir", "network.onnx"])
def test_damaged_exports(run, file, capsys):
    whole = (run / file).read_bytes()
    (run / file).write_bytes(whole[: len(whole) // 2])
    fails(capsys, ["verify", run / file, "--samples", "2"], file)
    # A report names the failure, exits with 1, and does not mend the file behind the reader's back.
    assert main(["report", str(run), "--samples", "2"]) == 1
    assert "verification failed" in capsys.readouterr().out
    assert len((run / file).read_bytes()) == len(whole) // 2


def test_a_run_that_never_began_is_no_run(tmp_path):
    out = tmp_path / "run"
    assert main(["train", "digits", "--out", str(out), *OPTIONS, "--optimizer", "sgd", "--lr", "1e38"]) == 2
    assert [path.name for path in out.iterdir()] == ["recipe.json"]
    assert main(["train", "digits", "--out", str(out), *OPTIONS]) == 0


def test_missing_extra_is_named(run, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    fails(capsys, ["export", run, "--format", "onnx", "--overwrite"], "'onnx'", "pip install 'maqd-snn[onnx]'")


@pytest.mark.parametrize("command", ["", "run", "train", "eval", "report", "export", "verify"])
def test_help_fits_a_screen(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stopped:
        main([*([command] if command else []), "--help"])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 34
    assert max(map(len, lines)) <= 100


def test_bad_options_exit_with_code_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        make_parser().parse_args(["run", "digits", "--no-such-option"])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "last", "usage"),
    [
        (["train", "digits", "--foo", "3"], "unknown argument '--foo'; see: maqd train --help", "maqd train RECIPE"),
        (["train", "digits", "--epchs=3"], "unknown argument '--epchs=3', did you mean '--epochs'? see: ", "RECIPE"),
        (["eval", "a", "b"], "maqd eval: error: unknown argument 'b'; see: maqd eval --help", "maqd eval [-h]"),
        (
            ["train", "digits", "--", "--lr", "0.1"],
            "'--lr' stands in the wrong place: options come behind the",
            "RECIPE",
        ),
        (
            ["--twin", "train", "digits"],
            "'--twin' stands in the wrong place: options come behind the command",
            "RECIPE",
        ),
        (["--foo"], "maqd: error: unknown argument '--foo'; see: maqd --help", "COMMAND"),
    ],
)
def test_an_unknown_argument_is_answered_by_its_command(arguments, last, usage, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    errors = capsys.readouterr().err
    assert usage in errors.splitlines()[0]
    assert last in errors.splitlines()[-1]


def test_the_help_of_a_training_says_where_its_fields_are_described(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "docs/training.md tells of them and of their fields" in " ".join(capsys.readouterr().out.split())


def test_a_report_with_everything(run, tmp_path, capsys):
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'name = "mine"\ntitle = "Mine"\nnode = ""\nvoltage = ""\ngraded = true\nincludes = ""\nexcludes = ""\n'
        '[prices.synop_binary]\nvalue = 2\nunit = "nJ"\nbasis = "measured"\nsource = "our board"\n'
    )
    options = ["--csv", "--latex", "--compare", "--samples", "4", "--profile", f"cmos45-memory,{mine}"]
    assert main(["report", str(run), *options]) == 0
    capsys.readouterr()
    report = json.loads((run / "report.json").read_text())
    assert list(report["energy"]) == ["cmos45-memory", "mine"]
    assert report["energy"]["mine"]["profile"]["prices"]["synop_binary"]["energy_pj"] == 2000
    assert [tool["name"] for tool in report["compare"]["tools"]] == ["NeuroBench", "SpikingJelly"]
    assert {"counts.csv", "energy.csv", "report.tex"} <= {path.name for path in run.iterdir()}
    assert "Others' numbers side by side" in (run / "report.html").read_text()
    fails(capsys, ["report", run, "--profile", tmp_path / "no.toml"], "there is no profile file")


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_large_pages_are_asked_for_before_torch_looks(given, expected):
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    if given is not None:
        environment["THP_MEM_ALLOC_ENABLE"] = given
    code = """
import builtins, os
load = builtins.__import__
def noting(name, *rest, **named):
    if name == "torch":
        print("torch:", os.environ.get("THP_MEM_ALLOC_ENABLE"))
    return load(name, *rest, **named)
builtins.__import__ = noting
from maqd_snn.cli import main
main([])
"""
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert {line for line in ran.stdout.splitlines() if line.startswith("torch:")} == {f"torch: {expected}"}
