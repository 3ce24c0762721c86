"""Memory images and the hardware description: re-read exactly, described by the schema, and safe to read."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import maqd_snn
from maqd_snn import MaqdError, fold
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.storage import fingerprint
from maqd_snn.neuromorphic.memory import describe, image_folder, read_hex

SCHEMA = Path(__file__).resolve().parent.parent / "docs" / "hardware-description.schema.json"


def conforms(value, schema, at="file"):
    """Check a value against the part of JSON Schema that our schema uses; an unknown keyword is an error."""
    known = {"$schema", "title", "description", "type", "required", "properties", "additionalProperties", "items"}
    assert set(schema) <= known | {"enum", "const", "pattern", "minimum", "minItems"}, schema
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    if "type" in schema:
        assert isinstance(value, types[schema["type"]]), at
        assert not (schema["type"] == "integer" and isinstance(value, bool)), at
    assert value in schema.get("enum", [value]), at
    assert value == schema.get("const", value), at
    assert re.search(schema.get("pattern", ""), value) if "pattern" in schema else True, at
    assert value >= schema["minimum"] if "minimum" in schema else True, at
    if isinstance(value, dict):
        assert set(schema.get("required", [])) <= set(value), at
        if schema.get("additionalProperties") is False:
            assert set(value) <= set(schema["properties"]), at
        for key, item in value.items():
            conforms(item, schema.get("properties", {}).get(key, {}), f"{at}.{key}")
    if isinstance(value, list):
        assert len(value) >= schema.get("minItems", 0), at
        for item in value:
            conforms(item, schema.get("items", {}), at)


def wide():
    """Numbers of every width, negative ones among them."""
    return IntegerNetwork(
        [
            ops.Input("in put_1", shape=(3,), low=-3, high=300),
            ops.Linear("a", ("in put_1",), torch.tensor([[2**33, -1, 0], [-(2**40), 5, 2]])),
            ops.Threshold("s", ("a",), torch.tensor([[-(2**40), 2**20], [5, -7]]), torch.tensor([1, -1]), low=-1),
            ops.Linear("b", ("s",), torch.tensor([[1, -3], [3, -1]])),
            ops.Readout("r", ("b",), torch.tensor([-70000, 200])),
        ]
    )


@pytest.mark.parametrize(
    ("family", "states", "weights", "signed"), [("mlp", 2, 2, False), ("vgg", 3, 3, True), ("resnet", 16, 15, False)]
)
def test_images_hold_the_network(family, states, weights, signed, make_model, random_codes, tmp_path):
    net = fold(make_model(family, states, weights, signed=signed))
    path = tmp_path / "network.hex.json"
    maqd_snn.export(net, path, format="hex")
    found = maqd_snn.verify(path, net, random_codes(net, 6))
    assert found.ok
    assert (found.format, found.scores) == ("hex", 30)
    assert [layer.name for layer in found.checks[0].layers] == [op.name for op in net.ops]
    contents = json.loads(path.read_text())
    conforms(contents, json.loads(SCHEMA.read_text()))
    assert fingerprint(read_hex(path, contents)) == fingerprint(net) == contents["network"]
    assert {file.name for file in image_folder(path).iterdir()} == {entry["file"] for entry in contents["memories"]}


def test_the_words_are_what_readmemh_reads(tmp_path):
    net = wide()
    maqd_snn.export(net, tmp_path / "n.json", format="hex")
    read = {
        file.name: [line for line in file.read_text().splitlines() if not line.startswith("//")]
        for file in (tmp_path / "n.images").iterdir()
    }
    assert read["01_a_weight.hex"][:2] == ["0000000200000000", "ffffffffffffffff"]
    assert read["02_s_direction.hex"] == ["01", "ff"]
    assert read["03_b_weight.hex"] == [f"{0b01_11_00_10:02x}"]  # codes 2, 0, 3, 1 of -3 + 2 code
    assert read["04_r_bias.hex"] == ["fffeee90", "000000c8"]
    codes = np.array([[300, -3, 7], [0, 0, 0]])
    assert maqd_snn.verify(tmp_path / "n.json", net, torch.from_numpy(codes)).ok


def test_the_description_is_whole_and_a_change_is_found(make_model, random_codes, tmp_path):
    net = fold(make_model("resnet", 4, 3))
    path = tmp_path / "network.hardware.json"
    maqd_snn.export(net, path, format="json")
    contents = json.loads(path.read_text())
    conforms(contents, json.loads(SCHEMA.read_text()))
    report = maqd_snn.simulate(net, [random_codes(net, 2)])
    assert contents["total"]["synapses"] == report.total.dense_macs // 2
    codes = random_codes(net, 2)
    assert maqd_snn.verify(path, net, codes).ok
    for change in (
        lambda layers: layers[1].update(weight_sha256="0" * 64),
        lambda layers: next(e for e in layers if e["op"] == "Threshold")["thresholds"][0].append(1),
        lambda layers: layers.pop(),
    ):
        other = json.loads(path.read_text())
        change(other["layers"])
        (tmp_path / "other.json").write_text(json.dumps(other))
        assert not maqd_snn.verify(tmp_path / "other.json", net, codes).ok
    with pytest.raises(AssertionError):
        conforms(other | {"more": 1}, json.loads(SCHEMA.read_text()))


def spoil(path, change):
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version=2), "its version 2 is newer than 1; update maqd-snn"),
        (lambda c: c.update(version="1"), "its version is '1', expected a whole number from 1 to 1"),
        (lambda c: c.update(version=-3), "its version is '-3', expected a whole number from 1 to 1"),
        (lambda c: c.update(format="x"), "it is no maqd-snn hardware description and no maqd-snn memory map"),
        (lambda c: c["memories"][0].update(file="../../etc/passwd"), "is no name of an image"),
        (lambda c: c["memories"][0].update(file="gone.hex"), "the image 'gone.hex' is missing or a link"),
        (lambda c: c["memories"][0].update(words=2**60), "6 values take 6 words, it states 1152921504606846976"),
        (lambda c: c["memories"][0].update(words=1), "6 values take 6 words, it states 1"),
        (lambda c: c["memories"][0].update(words=[[1]] * 10), "expected words of 8, 16, 32 or 64 bits"),
        (lambda c: c["memories"][0].update(word_bits=7), "expected words of 8, 16, 32 or 64 bits"),
        (lambda c: c["memories"][0].update(shape=[3, 2]), "it states layers.0..weight_sha256|damaged|are inconsistent"),
        (lambda c: c["memories"][0].update(shape=[2**40]), "1099511627776 values take"),
        (lambda c: c["memories"][0].update(shape=[2**27], words=2**27), "weight.hex: expected .* words.*; it has"),
        (lambda c: c["memories"][0].update(shape=[1.5]), "expected words of"),
        (
            lambda c: c["memories"][3].update(step=[[1]] * 10),
            "expected codes of 1, 2, 4 or 8 bits, a step and an offset",
        ),
        (lambda c: c["memories"][3].update(code_bits=3), "expected codes of 1, 2, 4 or 8 bits"),
        (
            lambda c: c["layers"][2].update(neurons=7),
            "it states layers.2..neurons, which is not so by its images .1 such",
        ),
        (lambda c: c["layers"][2].update(thresholds=[[1]]), "it states layers.2..thresholds.length, which is not so"),
        (lambda c: c["layers"][2].update(levels=3.0), "it states layers.2..levels, which is not so"),
        (lambda c: c["layers"][2].pop("neurons"), "it states layers.2..neurons, which is not so"),
        (lambda c: c["total"].update(synapses=1), "it states total.synapses, which is not so"),
        (lambda c: c.update(network="0" * 64), "it states network, which is not so"),
        (lambda c: c["memories"][0].pop("sha256"), "it is damaged .KeyError"),
        (lambda c: c["layers"][0].update(op="Bomb"), "it is damaged .KeyError"),
        (lambda c: c["layers"].reverse(), "takes 'b', which is not defined before it|is not usable"),
        (lambda c: c.update(layers=7), "damaged"),
    ],
)
def test_damaged_and_hostile_maps_are_refused(change, message, tmp_path):
    net = wide()
    path = tmp_path / "n.json"
    maqd_snn.export(net, path, format="hex")
    spoil(path, change)
    with pytest.raises(MaqdError, match=message) as error:
        maqd_snn.verify(path, net, torch.zeros(1, 3, dtype=torch.int64))
    assert "\n" not in str(error.value)


def test_damaged_images_and_texts_are_refused(tmp_path):
    net = wide()
    path, zeros = tmp_path / "n.json", torch.zeros(1, 3, dtype=torch.int64)
    maqd_snn.export(net, path, format="hex")
    image = tmp_path / "n.images" / "04_r_bias.hex"
    whole = image.read_text()
    for text in (
        whole.replace("fffeee90", "fffeee91"),
        whole + "00\n",
        whole.replace("fffeee90", "xyz"),
        "",
        "\n" * 10**5,
    ):
        image.write_text(text)
        with pytest.raises(MaqdError, match="04_r_bias.hex: "):
            maqd_snn.verify(path, net, zeros)
    image.unlink()
    image.symlink_to("/etc/passwd")
    with pytest.raises(MaqdError, match="is missing or a link"):
        maqd_snn.verify(path, net, zeros)
    for text in ("", "[]", "[" * 10**5, "{"):
        path.write_text(text)
        with pytest.raises(MaqdError, match="is not usable: it is no"):
            maqd_snn.verify(path, net, zeros)


def test_a_map_that_asks_for_much_is_refused_before_it_runs(make_model, random_codes, tmp_path):
    net = fold(make_model("vgg", 2, 3))
    path = tmp_path / "n.hex.json"
    maqd_snn.export(net, path)
    conv = next(op.name for op in net.ops if isinstance(op, ops.Conv2d))

    def pad(contents):
        layer = next(each for each in contents["layers"] if each["name"] == conv)
        assert layer["weight_shape"][2:] == [3, 3]
        layer["attributes"].update(padding=[20_000, 20_000], dilation=[20_000, 20_000])

    spoil(path, pad)
    with pytest.raises(MaqdError, match="is not usable"):
        maqd_snn.verify(path, net, random_codes(net, 2))
    with pytest.raises(MaqdError, match="is not usable"):
        maqd_snn.load(path)


def test_an_image_of_another_size_is_not_read(tmp_path):
    net = wide()
    path = tmp_path / "n.hex.json"
    maqd_snn.export(net, path)
    image = tmp_path / "n.hex.images" / "04_r_bias.hex"
    with image.open("r+b") as file:
        file.truncate(2**40)  # takes no space on the disk
    with pytest.raises(MaqdError, match="04_r_bias.hex: expected a comment and 2 words.* it has 1099511627776 bytes"):
        maqd_snn.load(path)


def test_a_map_of_another_network_is_refused(make_model, random_codes, tmp_path):
    net, other = fold(make_model("vgg", 2, 3)), fold(make_model("vgg", 2, 2))
    maqd_snn.export(other, tmp_path / "n.hex.json")
    with pytest.raises(MaqdError, match="it holds another network than the one it is compared with"):
        maqd_snn.verify(tmp_path / "n.hex.json", net, random_codes(net, 2))


def test_a_description_says_that_nothing_ran(make_model, random_codes, tmp_path):
    net = fold(make_model("mlp", 2, 3))
    path = tmp_path / "n.json"
    maqd_snn.export(net, path)
    record = maqd_snn.verify(path, net, random_codes(net, 2)).to_dict()
    assert record["ok"]
    assert (record["format"], record["compared"], record["samples"], record["inputs"]) == ("json", "values", 0, "")
    nested = json.loads(path.read_text())
    for _ in range(600):
        nested["total"] = [nested["total"]]
    path.write_text(json.dumps(nested))
    assert not maqd_snn.verify(path, net, random_codes(net, 2)).ok


def test_an_error_names_the_folder_and_not_the_temporary_one(tmp_path, monkeypatch):
    def read_only(self):
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(MaqdError) as caught:
        maqd_snn.export(wide(), tmp_path / "n.json", format="hex")
    assert str(caught.value) == f"cannot write '{tmp_path / 'n.images'}': Read-only file system"


def test_nothing_else_is_replaced(tmp_path):
    net = wide()
    folder = tmp_path / "n.images"
    folder.mkdir()
    with pytest.raises(MaqdError, match="n.images' exists; remove it, give another name, or pass overwrite"):
        maqd_snn.export(net, tmp_path / "n.json", format="hex")
    for name in ("thesis.tex", "firmware.hex"):
        (folder / name).write_text("mine")
        with pytest.raises(MaqdError, match="exists and holds more than images of an export; give another name"):
            maqd_snn.export(net, tmp_path / "n.json", format="hex", overwrite=True)
        assert [file.name for file in folder.iterdir()] == [name]
        (folder / name).unlink()
    assert [file.name for file in tmp_path.iterdir()] == ["n.images"]
    shutil.rmtree(folder)
    maqd_snn.export(net, tmp_path / "n.json", format="hex")
    maqd_snn.export(net, tmp_path / "n.json", format="hex", overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["n.images", "n.json"]
    assert describe(net)["total"]["neurons"] == 2
