"""Networks come back from NIR files and memory maps exactly, or not at all."""

import json

import h5py
import numpy as np
import pytest
import torch

import maqd_snn
from maqd_snn import MaqdError, fold
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.storage import fingerprint

pytest.importorskip("nir")


def grouped():
    """Groups, a kernel that is not square, a single signed level, falling directions."""
    weight = torch.randint(-3, 4, (6, 2, 3, 1), generator=torch.Generator().manual_seed(1))
    return IntegerNetwork(
        [
            ops.Input("x", shape=(4, 5, 5), zero_point=2, high=9),
            ops.Conv2d("conv", ("x",), weight, (2, 1), (1, 0), (1, 1), 2),
            ops.Threshold("s", ("conv",), torch.arange(6)[:, None] - 3, torch.tensor([1, -1] * 3), low=-1),
            ops.Flatten("flat", ("s",)),
            ops.Linear("fc", ("flat",), torch.randint(-5, 6, (3, 90), generator=torch.Generator().manual_seed(2))),
            ops.Readout("r", ("fc",), torch.tensor([4, 0, -9])),
        ],
        {"from": "a test"},
    )


@pytest.mark.parametrize("file", ["net.nir", "net.graded.nir", "net.json"])
@pytest.mark.parametrize("case", [("mlp", 2, 3), ("vgg", 3, 15), ("resnet", 4, 2), ("vgg", 2, 3), None])
def test_a_file_gives_the_network_back(file, case, make_model, tmp_path):
    net = grouped() if case is None else fold(make_model(*case))
    formats = {"net.nir": "nir", "net.graded.nir": "nir-graded", "net.json": "hex"}
    maqd_snn.export(net, tmp_path / file, format=formats[file])
    back = maqd_snn.load(tmp_path / file)
    assert fingerprint(back) == fingerprint(net)
    if file != "net.json":
        assert back.provenance == net.provenance
    codes = torch.full((2, *net.input.shape), net.input.high)
    assert torch.equal(back(codes), net(codes))


def test_signed_levels_and_hdf5_come_back(make_model, tmp_path):
    net = fold(make_model("vgg", 3, 3, signed=True))
    maqd_snn.export(net, tmp_path / "net.nir")
    maqd_snn.export(net, tmp_path / "graded.nir", format="nir-graded")
    net.save(tmp_path / "net.h5")
    for file in ("net.nir", "graded.nir", "net.h5"):
        assert fingerprint(maqd_snn.load(tmp_path / file)) == fingerprint(net)


def test_a_changed_or_foreign_nir_file_is_refused(tmp_path):
    net = grouped()
    path = tmp_path / "net.nir"

    def change(name, function):
        maqd_snn.export(net, path, overwrite=True)
        with h5py.File(path, "r+") as file:
            value = file["node"][name][()]
            del file["node"][name]
            if function is not None:
                file["node"][name] = function(value)
        with pytest.raises(MaqdError, match=r"net.nir' is no NIR file that holds a network of maqd-snn: (.*)") as error:
            maqd_snn.load(path)
        assert "\n" not in str(error.value)
        return str(error.value)

    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(MaqdError, match="is no NIR file that holds a network"):
        maqd_snn.load(path)
    maqd_snn.export(net, path, overwrite=True)
    with h5py.File(path) as file:
        name = next(name for name in file["node/nodes"] if name.endswith("_conv"))
    assert "no integer" in change(f"nodes/{name}/weight", lambda weight: weight + np.float32(0.5))
    assert "it was changed" in change(f"nodes/{name}/weight", lambda weight: weight[::-1].copy())
    assert "it was changed" in change("metadata/fingerprint", lambda value: "0" * 64)
    change("metadata/network", None)
    change("metadata/network", lambda value: "[" * 10**5)
    change("metadata/nodes", lambda value: "{}")

    def op(value):
        entries = json.loads(value)
        entries[0]["type"] = "Bomb"
        return json.dumps(entries)

    change("metadata/network", op)


def test_a_changed_graded_file_is_refused(tmp_path):
    net = grouped()
    path = tmp_path / "net.nir"

    def change(field, function):
        maqd_snn.export(net, path, format="nir-graded", overwrite=True)
        with h5py.File(path, "r+") as file:
            place = file["node/nodes/002_s"]
            value = place[field][()]
            del place[field]
            if function is not None:
                place[field] = function(value)
        with pytest.raises(MaqdError, match=r"net.nir' is no NIR file that holds a network of maqd-snn: (.*)") as error:
            maqd_snn.load(path)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "it was changed" in change("metadata/thresholds", lambda t: t + 1)
    assert "it was changed" in change("r", lambda r: -r)
    assert "it was changed" in change("metadata/thresholds", lambda t: np.concatenate([t, t + 1], 1))
    assert "must be an integer tensor" in change("metadata/thresholds", lambda t: t.astype(np.float64))
    change("metadata/thresholds", None)
    change("metadata/thresholds", lambda t: "many")
    change("metadata/thresholds", lambda t: t[:2])
    change("r", lambda r: np.float32(1))


def test_what_holds_no_network_is_refused(tmp_path):
    maqd_snn.export(grouped(), tmp_path / "d.json", format="json")
    with pytest.raises(MaqdError, match="it is a hardware description, which holds no weights; export with format hex"):
        maqd_snn.load(tmp_path / "d.json")
    for name in ("gone.nir", "gone.json", "gone.h5"):
        with pytest.raises(MaqdError, match="there is no network file"):
            maqd_snn.load(tmp_path / name)
