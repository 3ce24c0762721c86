"""Chip descriptions: those that come with the library, files of users, and files that must be refused."""

import json

import pytest
import torch

import maqd_snn
from maqd_snn import IntegerNetwork, MaqdError
from maqd_snn.cli import main
from maqd_snn.integer import ops
from maqd_snn.neuromorphic.hardware import CHIPS, get_chip
from maqd_snn.neuromorphic.hardware.chip import TAGS, parse_chip
from maqd_snn.neuromorphic.hardware.drawing import draw
from maqd_snn.neuromorphic.hardware.remedies import changed
from maqd_snn.neuromorphic.hardware.report import map_network
from maqd_snn.neuromorphic.hardware.text import text_plan, text_traffic
from maqd_snn.runs import kept_mapping

GOOD = """
schema = 1
name = "mine"
title = "my chip"

[figures.topology]
value = "mesh"
tag = "stated"
source = "my notes"
"""
FIGURES = {
    "spikes": '"binary"',
    "input": '"none"',
    "scores": '"yes"',
    "max_pool": '"neurons"',
    "convolution": '"yes"',
    "many_chips": '"no"',
    "cores": 8,
    "mesh_width": 2,
    "mesh_height": 2,
    "cores_per_tile": 2,
    "neurons": 100,
}


def toml(**changes):
    """A good chip file with figures changed; None leaves one out."""
    text = GOOD
    for key, value in {**FIGURES, **changes}.items():
        if value is not None:
            tag = "unknown" if value == '"unknown"' else "stated"
            text += f'\n[figures.{key}]\nvalue = {value}\ntag = "{tag}"\nsource = "my notes"\n'
    return text


def small_net(width=12):
    generator = torch.Generator().manual_seed(0)

    def weights(*shape):
        return torch.randint(-1, 2, shape, generator=generator)

    def threshold(name, source, channels):
        return ops.Threshold(name, (source,), torch.ones((channels, 1), dtype=torch.int64), torch.ones(channels).long())

    return IntegerNetwork(
        [
            ops.Input("input", shape=(1, 6, 6), high=1, kind="events"),
            ops.Conv2d("conv1", ("input",), weights(width, 1, 3, 3), (1, 1), (1, 1)),
            threshold("spike1", "conv1", width),
            ops.Conv2d("conv2", ("spike1",), weights(width, width, 3, 3), (1, 1), (1, 1)),
            threshold("spike2", "conv2", width),
            ops.MaxPool2d("pool", ("spike2",), (2, 2), (2, 2)),
            ops.Flatten("flatten", ("pool",)),
            ops.Linear("fc", ("flatten",), weights(4, width * 9)),
        ]
    )


def test_every_figure_of_every_chip_has_a_tag_and_a_source():
    assert len(CHIPS) == len(set(CHIPS)) == 12
    for name in CHIPS:
        chip = get_chip(name)
        assert chip.name == name
        for key, figure in chip.figures.items():
            assert figure.tag in TAGS, (name, key)
            assert len(figure.source) >= 10, (name, key)
            assert (figure.value is None) == (figure.tag == "unknown")
    # Figures that no source states stay unknown.
    for name, key in (
        ("loihi2", "in_axons"),
        ("loihi2", "hop_x_pj"),
        ("spinnaker2", "weight_bits"),
        ("speck2f", "local_pj"),
    ):
        assert get_chip(name).value(key) is None
    assert [get_chip("loihi1").value(key) for key in ("local_pj", "hop_x_pj", "hop_y_pj")] == [1.7, 3.0, 4.0]


def test_a_chip_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(toml())
    plan = maqd_snn.fit(small_net(2), path, advise=False)
    assert (plan.fits, plan.chip.title) == (True, "my chip")
    # 2 channels of 36 neurons are 72 of 100; with 9 pooled ones each 90 of 100; 4 outputs.
    assert [len(pieces) for pieces in (plan.job.pieces[n] for n in ("spike1", "pool", "fc"))] == [1, 1, 1]
    path.write_text(toml(neurons='"unknown"'))
    assert maqd_snn.fit(small_net(2), path, advise=False).fits is None


REFUSED = {
    "no toml": ("= 1", "is no TOML"),
    "schema": (toml().replace("schema = 1", "schema = 2"), "expected schema = 1, got 2"),
    "name": (toml().replace('name = "mine"\n', ""), "name must be a text that is not empty"),
    "extra": ("other = 1\n" + toml(), "unknown keys other"),
    "missing": (toml(cores=None), "the figures cores are missing"),
    "missing mesh": (toml(mesh_width=None), "the figures mesh_width are missing"),
    "negative": (toml(neurons=-1), "neurons must be a whole number of at least 1, got -1"),
    "zero": (toml(neurons=0), "at least 1, got 0"),
    "fraction": (toml(neurons=1.5), "must be a whole number of at least 1, got 1.5"),
    "true": (toml(neurons="true"), "must be a whole number"),
    "huge": (toml(neurons=2**60), "must be a whole number"),
    "infinite": (toml(local_pj="inf"), "must be a number of at least 0, got inf"),
    "choice": (toml(spikes='"loud"'), "must be one of binary, graded, got 'loud'"),
    "unknown figure": (toml(neuron=5), "did you mean 'neurons'"),
    "mesh and cores": (toml(mesh_width=3), "3 x 2 tiles of 2 cores are 12 cores, but cores = 8; make them agree"),
    "mesh alone": (toml(topology=None).replace('value = "mesh"', 'value = "single"'), "belong to topology = 'mesh'"),
    "payload": (toml(payload_bits=4), "binary spikes carry one bit, but payload_bits = 4"),
    "fan-out": (toml(fan_out=4, mean_fan_out=5), "mean_fan_out = 5 is larger than fan_out = 4"),
    "per core": (toml(kernel_words="[1, 2]"), "kernel_words holds 2 values for 8 cores"),
    "words": (toml(synapse_bits=100), "counts words of 64 bits, got 100"),
    "cores": (toml(cores=1 << 40), "cores must be known and at most"),
    "half a mesh": (toml(mesh_width='"unknown"'), "give both mesh_width and mesh_height, or neither"),
    "no source": (toml().replace('source = "my notes"', 'source = ""', 1), "source must be a text that is not empty"),
    "tag": (toml().replace('tag = "stated"', 'tag = "rumour"', 1), "unknown tag"),
    "unknown tag": (toml().replace('tag = "stated"', 'tag = "unknown"', 1), "go together"),
    "figures": ('schema = 1\nname = "a"\ntitle = "b"', "there are no figures"),
    "no table": ('schema = 1\nname = "a"\ntitle = "b"\n[figures]\ncores = 1', "must have value, tag and source"),
    "caveats": ('caveats = "x"\n' + toml(), "caveats must be a list of texts"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_bad_chip_file_is_refused(name):
    text, message = REFUSED[name]
    with pytest.raises(MaqdError, match=message):
        parse_chip(text, "mine.toml")


def test_files_that_are_no_chip_files(tmp_path):
    with pytest.raises(MaqdError, match="unknown chip 'loihi', did you mean 'loihi"):
        get_chip("loihi")
    with pytest.raises(MaqdError, match="there is no chip file"):
        get_chip(tmp_path / "none.toml")
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(MaqdError, match="is no text in UTF-8"):
        get_chip(path)
    path.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(MaqdError, match="is larger than"):
        get_chip(path)


def test_parameters_of_the_generic_chips():
    chip = get_chip("accelerator", {"neurons": 64})
    assert (chip.value("neurons"), get_chip("accelerator").value("neurons")) == (64, 2048)
    with pytest.raises(MaqdError, match="neurons is no parameter but a published figure"):
        get_chip("loihi1", {"neurons": 64})
    with pytest.raises(MaqdError, match="unknown parameter of accelerator 'neuron', did you mean 'neurons'"):
        get_chip("accelerator", {"neuron": 64})
    with pytest.raises(MaqdError, match="8 x 8 tiles of 1 cores are 64 cores, but cores = 32"):
        get_chip("accelerator", {"cores": 32})


def test_what_would_make_it_fit_is_tried_out():
    net = small_net(12)
    plan = maqd_snn.fit(net, "speck2f")
    assert plan.fits is False
    assert [remedy.text for remedy in plan.remedies] == ["sum-pools in place of max-pools"]
    # 12 channels: a single unit of TrueNorth's second layer needs 2 * 9 * 12 axons and more for its pool.
    plan = maqd_snn.fit(net, "truenorth")
    assert plan.fits is False
    assert plan.remedies
    for remedy in plan.remedies:
        assert maqd_snn.fit(changed(net, remedy.change), "truenorth", advise=False).fits is not False
        if remedy.change.width < 16:  # the widest: one sixteenth more does not fit
            from dataclasses import replace

            wider = replace(remedy.change, width=remedy.change.width + 1)
            assert maqd_snn.fit(changed(net, wider), "truenorth", advise=False).fits is False


def test_the_verdict_is_readable_and_drawn(tmp_path):
    net = small_net(8)
    codes = torch.randint(0, 2, (10, 1, 6, 6), generator=torch.Generator().manual_seed(1))
    for chip in ("loihi1", "accelerator", "loihi2", "microcontroller"):
        mapped = map_network(maqd_snn.fit(net, chip), [codes])
        text = f"{text_plan(mapped.plan)}\n{text_traffic(mapped.plan, mapped.cost)}"
        assert max(map(len, text.splitlines())) <= 120
        assert text.startswith(("fits ", "cannot tell whether it fits "))
        assert "spike1 (8 x 6 x 6)" in text
        json.dumps(mapped.to_dict(), allow_nan=False)
        draw(mapped.cost, tmp_path / f"{chip}.png")
        assert (tmp_path / f"{chip}.png").read_bytes().startswith(b"\x89PNG")
    assert "unknown" in text_plan(maqd_snn.fit(net, "loihi2"))
    with pytest.raises(MaqdError, match="a figure is written as"):
        draw(mapped.cost, tmp_path / "x.gif")


def test_commands(tmp_path, capsys):
    small_net(8).save(tmp_path / "network.h5")
    file = str(tmp_path / "network.h5")
    assert main(["chips"]) == 0
    assert "Intel Loihi 1" in capsys.readouterr().out
    assert main(["chips", "loihi1", "--json", str(tmp_path / "chip.json")]) == 0
    assert "neurons = 1,024 [stated]" in capsys.readouterr().out
    assert json.loads((tmp_path / "chip.json").read_text())["figures"]["neurons"]["value"] == 1024
    assert main(["map", file, "--chip", "loihi1", "--json", str(tmp_path / "map.json")]) == 0
    printed = capsys.readouterr().out
    assert "fits Intel Loihi 1, on " in printed
    assert "no data: every unit sends one message" in printed
    assert json.loads((tmp_path / "map.json").read_text()) == json.loads((tmp_path / "map-loihi1.json").read_text())
    assert (tmp_path / "map-loihi1.png").is_file()
    assert main(["map", file, "--chip", "speck2f", "--no-figures"]) == 1
    assert "does not fit SynSense Speck 2f" in capsys.readouterr().out
    assert main(["map", file, "--chip", "accelerator", "--set", "neurons=100", "--no-figures"]) == 0
    assert main(["export", file, "--format", "chip-json", "--chip", "loihi1"]) == 0
    assert "network.loihi1.json" in capsys.readouterr().out
    for arguments, words in (
        (["export", file, "--format", "chip-json", "--chip", "loihi1"], "exists; give --overwrite"),
        (["export", file, "--format", "chip-json"], "give --chip NAME"),
        (["export", file, "--format", "chip-json", "--chip", "speck2f"], "does not fit SynSense Speck 2f"),
        (["export", file, "--format", "nir", "--chip", "loihi1"], "--chip belongs to --format chip-json"),
        (["map", file, "--chip", "loihi9"], "unknown chip 'loihi9', did you mean"),
        (["map", file, "--chip", "accelerator", "--set", "neurons"], "is set as NAME=VALUE"),
        (["map", str(tmp_path / "none.h5"), "--chip", "loihi1"], "there is no network file"),
        (["chips", "none.toml"], "there is no chip file"),
    ):
        capsys.readouterr()
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_without_scipy_the_extra_is_named(monkeypatch):
    import sys

    plan = maqd_snn.fit(small_net(8), "loihi1", advise=False)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(maqd_snn.MissingExtraError, match=r"maqd-snn\[map\]"):
        map_network(plan, None)


def test_the_report_of_a_run_shows_every_mapped_chip(tmp_path, capsys):
    out = tmp_path / "run"
    train = ["--plan", "8-16-M", "--epochs", "1", "--quiet", "--samples", "10", "--format", "onnx"]
    assert main(["run", "digits", "--out", str(out), *train]) == 0
    for chip, code in (("loihi1", 0), ("speck2f", 1), ("loihi1", 0)):
        assert main(["map", str(out), "--chip", chip, "--samples", "20"]) == code
    assert "traffic (20 test images), per image" in capsys.readouterr().out
    mapping = json.loads((out / "report.json").read_text())["mapping"]
    assert [table["caption"] for table in mapping["tables"]] == ["SynSense Speck 2f: limits", "Intel Loihi 1: limits"]
    page = (out / "report.html").read_text()
    for words in ("On hardware", "fits Intel Loihi 1", "does not fit SynSense Speck 2f", "synapse_bits"):
        assert words in page
    assert main(["report", str(out), "--samples", "10"]) == 0
    assert json.loads((out / "report.json").read_text())["mapping"] == mapping
    net = maqd_snn.load(out / "network.h5")
    assert kept_mapping(out, net) == mapping
    assert kept_mapping(out, small_net(8)) is None  # of another network
    (out / "map-notes.txt").write_text("the user's own")
    assert main(["train", "digits", "--out", str(out), "--overwrite", *train[:5]]) == 0
    assert [path.name for path in out.glob("map-*")] == ["map-notes.txt"]
