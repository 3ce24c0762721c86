"""Saving and loading: what comes back is what was saved, and no file, however damaged or hostile, gives a traceback."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

import maqd_snn
from maqd_snn import fold, load
from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.storage import seal

NOT_USABLE = "is not a usable network file: "


def contents(net: IntegerNetwork) -> list[Any]:
    """Everything a network holds, as plain values that can be compared."""
    held: list[Any] = [net.provenance]
    for op in net.ops:
        values = {field.name: getattr(op, field.name) for field in fields(op)}
        held.append((type(op), {key: v.tolist() if isinstance(v, Tensor) else v for key, v in values.items()}))
    return held


def every_op() -> IntegerNetwork:
    """A network with every op, none of whose fields has its default."""
    weight = torch.tensor([-(2**31), 2**31, 0, 5, -1, 1, 7, 2]).view(2, 1, 2, 2)
    graph = [
        ops.Input("in put", shape=(2, 9, 8), zero_point=-3, low=-7, high=2, kind="events"),
        ops.Conv2d("conv.1", ("in put",), weight, stride=(2, 1), padding=(1, 2), dilation=(2, 3), groups=2),
        ops.Threshold(
            "größe", ("conv.1",), torch.tensor([[-5, 0, 9], [4, 4, -(2**40)]]), torch.tensor([1, -1]), low=-2
        ),
        ops.Add("sum", ("größe", "größe", "größe")),
        ops.MaxPool2d("max", ("sum",), kernel=(2, 3), stride=(1, 2), padding=(1, 0)),
        ops.SumPool2d("average", ("max",), kernel=(3, 2), stride=(2, 1), padding=(0, 1)),
        ops.Flatten("flat", ("average",)),
        ops.Linear("fc", ("flat",), torch.arange(2 * 20).view(2, 20) - 20),
        ops.Readout("readout", ("fc",), torch.tensor([2**45, -3])),
    ]
    return IntegerNetwork(graph, {"recipe": "größe", "accuracy": 0.1 + 0.2, "nested": {"a": [1, None, True]}})


@pytest.fixture(scope="module")
def small(make_model) -> IntegerNetwork:
    return fold(
        make_model("vgg", 3, 3, plan="2-M-2", input_shape=(1, 4, 4), classes=3), {"recipe": "x", "accuracy": 0.5}
    )


@pytest.fixture
def file(small, tmp_path: Path) -> Path:
    path = tmp_path / "net.h5"
    small.save(path)
    return path


def edit(path: Path, change: Callable[[h5py.File], None]) -> None:
    """Change a saved file through h5py and seal it again, as somebody who means harm would."""
    with h5py.File(path, "r+") as opened:
        change(opened)
    seal(path)


# Round trips.


def test_every_op_comes_back_field_by_field(tmp_path: Path, random_codes) -> None:
    net = every_op()
    net.save(tmp_path / "net.h5")
    back = load(tmp_path / "net.h5")
    assert {type(op) for op in net.ops} == set(ops.OPS.values())
    assert contents(back) == contents(net)
    assert (back.shapes, back.bounds) == (net.shapes, net.bounds)
    codes = random_codes(net, 5)
    for name, value in net.trace(codes).items():
        assert torch.equal(back.trace(codes)[name], value), name


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("family", ["mlp", "vgg", "resnet"])
def test_folded_networks_come_back_op_by_op(
    make_model, random_codes, tmp_path: Path, family: str, signed: bool
) -> None:
    net = fold(make_model(family, 3, 4, signed=signed), {"accuracy": 0.25, "recipe": "r"})
    net.save(str(tmp_path / "net.h5"))
    back = maqd_snn.load(str(tmp_path / "net.h5"))
    assert contents(back) == contents(net)
    assert back.provenance["library"] == f"maqd-snn {maqd_snn.__version__}"
    codes = random_codes(net)
    of_net, of_back = net.trace(codes), back.trace(codes)
    assert of_net.keys() == of_back.keys()
    for name, value in of_net.items():
        assert torch.equal(of_back[name], value), name
    assert np.array_equal(back.reference(codes.numpy()), of_net[net.ops[-1].name].numpy())


def test_saving_twice_gives_the_same_bytes(small, tmp_path: Path) -> None:
    small.save(tmp_path / "a.h5")
    load(tmp_path / "a.h5").save(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_large_provenance_and_many_ops(tmp_path: Path) -> None:
    # HDF5 keeps at most 64 KiB in an attribute of fixed length.
    graph: list[ops.Op] = [ops.Input("in", shape=(2,))]
    for index in range(300):
        graph.append(ops.Add(f"a_rather_long_name_of_an_op_{index:0200}", (graph[-1].name, "in")))
    net = IntegerNetwork(graph, {"log": "x" * 200_000})
    net.save(tmp_path / "net.h5")
    assert contents(load(tmp_path / "net.h5")) == contents(net)


# Saving is atomic.


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device")])
def test_a_save_interrupted_with_half_a_file_keeps_the_old_one(small, file: Path, monkeypatch, error) -> None:
    before, write = file.read_bytes(), Path.write_bytes

    def interrupted(path: Path, data: bytes) -> int:
        write(path, data[: len(data) // 2])
        assert len(list(file.parent.iterdir())) == 2  # the new one is being written, beside the old one
        raise error

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(error if isinstance(error, type) else MaqdError):
        every_op().save(file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]
    monkeypatch.undo()
    assert contents(load(file)) == contents(small)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device"), RuntimeError("damaged heap")])
@pytest.mark.parametrize("call", [1, 4])
def test_interrupted_save_keeps_the_old_file(small, file: Path, monkeypatch, error, call: int) -> None:
    before = file.read_bytes()
    create, calls = h5py.Group.create_dataset, []

    def interrupted(*given: Any, **named: Any) -> h5py.Dataset:
        calls.append(1)
        if len(calls) == call:
            raise error
        return create(*given, **named)

    monkeypatch.setattr(h5py.Group, "create_dataset", interrupted)
    net = every_op()
    # A full disk reaches us as OSError, what HDF5 makes of an error as RuntimeError: one clear error for both.
    expected = error if isinstance(error, type) else MaqdError
    with pytest.raises(expected):
        net.save(file)
    assert len(calls) == call
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]
    monkeypatch.undo()
    assert contents(load(file)) == contents(small)


def test_full_disk_is_one_clear_error(small, file: Path, monkeypatch) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        MaqdError, match=r"cannot write '.*net\.h5': .*No space left.*; the previous file, if any, is unchanged"
    ):
        small.save(file)
    assert list(file.parent.iterdir()) == [file]


def test_first_save_that_fails_leaves_nothing(small, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(h5py.Group, "create_dataset", lambda *given, **named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        small.save(tmp_path / "net.h5")
    assert list(tmp_path.iterdir()) == []


def test_save_replaces_the_old_file(small, file: Path) -> None:
    every_op().save(file)
    assert contents(load(file)) == contents(every_op())
    assert list(file.parent.iterdir()) == [file]


def test_unwritable_folder_is_an_error(small, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):  # root may write everywhere, but not here
        folder = Path("/proc")
        if not folder.is_dir():
            pytest.skip("needs a folder that cannot be written, and is root")
    with pytest.raises(MaqdError, match=r"cannot write '.*net\.h5': .*; the previous file, if any, is unchanged"):
        small.save(folder / "net.h5")


def test_missing_folder_and_folder_for_a_file_are_errors(small, tmp_path: Path) -> None:
    with pytest.raises(MaqdError, match="the folder '.*nowhere' does not exist; create it first"):
        small.save(tmp_path / "nowhere" / "net.h5")
    with pytest.raises(MaqdError, match="expected a file name to write to, but .* is a folder"):
        small.save(tmp_path)


@pytest.mark.parametrize("value", [np.float32(0.5), Path("x"), {1, 2}])
def test_provenance_that_is_no_json_is_refused_clearly(small, tmp_path: Path, value) -> None:
    with pytest.raises(MaqdError, match="provenance"):
        IntegerNetwork(small.ops, {"value": value}).save(tmp_path / "net.h5")


def test_every_name_of_an_op_can_be_saved_or_is_refused(tmp_path: Path) -> None:
    name = "."
    try:
        net = IntegerNetwork([ops.Input(name, shape=(2,)), ops.Flatten("flat", (name,))])
    except MaqdError:
        return
    net.save(tmp_path / "net.h5")
    assert contents(load(tmp_path / "net.h5")) == contents(net)


# Other files.


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.h5", tmp_path):
        with pytest.raises(MaqdError, match=r"there is no network file '.*'; give the network\.h5 of a run"):
            load(path)


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"hello\n" * 1000, b"PK\3\4" + bytes(500), b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(2000)],
)
def test_renamed_other_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "net.h5"
    path.write_bytes(data)
    with pytest.raises(MaqdError, match=NOT_USABLE):
        load(path)


def test_foreign_hdf5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as opened:
        opened["x"] = np.arange(3)
    with pytest.raises(MaqdError, match=NOT_USABLE):
        load(path)
    with h5py.File(path, "a") as opened:
        opened.attrs["format"] = "a model of somebody else"
    with pytest.raises(MaqdError, match=NOT_USABLE):
        load(path)


def test_every_truncation_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    cuts = {*range(0, 700, 13), *range(700, len(whole), 311), *range(len(whole) - 40, len(whole))}
    for size in sorted(cuts):
        file.write_bytes(whole[:size])
        with pytest.raises(MaqdError, match=NOT_USABLE):
            load(file)
    file.write_bytes(whole)
    load(file)


# Damage and malice, one field at a time: (what is done to the file, what the error says).


def rewrite(change: Callable[[str], str]) -> Callable[[h5py.File], None]:
    """Change the text of the manifest."""

    def rewritten(f: h5py.File) -> None:
        old = f["manifest"][()].tobytes().decode()
        del f["manifest"]
        f["manifest"] = np.frombuffer(change(old).encode(), np.uint8)

    return rewritten


def manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[h5py.File], None]:
    """Change what the manifest says, in place."""

    def changed(text: str) -> str:
        held = json.loads(text)
        change(held)
        return json.dumps(held)

    return rewrite(changed)


def head(**changed: Any) -> Callable[[h5py.File], None]:
    return manifest(lambda held: held.update(changed))


def plain(op: int, **changed: Any) -> Callable[[h5py.File], None]:
    """Change the type, the name, the inputs or other fields of an op that are no tensors."""
    return manifest(lambda held: held["ops"][op].update(changed))


def order(*indices: int) -> Callable[[h5py.File], None]:
    """List these ops; each takes its tensors along."""

    def change(f: h5py.File) -> None:
        manifest(lambda held: held.update(ops=[held["ops"][index] for index in indices]))(f)
        f.move("tensors", "old")
        for place, index in enumerate(indices):
            f.copy(f"old/{index}", f"tensors/{place}")

    return change


def without(*path: Any) -> Callable[[h5py.File], None]:
    """Take something out of the manifest."""

    def change(held: Any) -> None:
        for step in path[:-1]:
            held = held[step]
        del held[path[-1]]

    return manifest(change)


def tensor(path: str, make: Callable[[h5py.Group, str], Any]) -> Callable[[h5py.File], None]:
    """Delete the dataset at tensors/<path>, and make something else in its place."""

    def change(f: h5py.File) -> None:
        group, _, name = f"tensors/{path}".rpartition("/")
        del f[group][name]
        make(f[group], name)

    return change


def delete(path: str) -> Callable[[h5py.File], None]:
    return lambda f: f.__delitem__(path)


def array(*shape: int, dtype: str = "<i8") -> Callable[[h5py.Group, str], Any]:
    return lambda g, name: g.create_dataset(name, data=np.zeros(shape, dtype))


def claim(*shape: int, **options: Any) -> Callable[[h5py.Group, str], Any]:
    """A dataset of which nothing was ever written: a few hundred bytes that claim to be gigabytes and more."""
    return lambda g, name: g.create_dataset(
        name, shape=shape, dtype="<i8", chunks=shape if options else None, **options
    )


def packed(**options: Any) -> Callable[[h5py.Group, str], Any]:
    return lambda g, name: g.create_dataset(name, data=np.ones((2, 2, 3, 3), "<i8"), **options)


def virtual(g: h5py.Group, name: str) -> None:
    layout = h5py.VirtualLayout(shape=(2, 1, 3, 3), dtype="<i8")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(2, 1, 3, 3))
    g.create_virtual_dataset(name, layout)


def external(g: h5py.Group, name: str) -> None:
    g.create_dataset(name, shape=(2, 1, 3, 3), dtype="<i8", external=[("/etc/passwd", 0, 144)])


def many(f: h5py.File) -> None:
    """One tensor that the file can hold, deflated about 1000 times, as the weight of many layers."""
    manifest(lambda held: held["ops"].extend(dict(held["ops"][4], name=f"more{index}") for index in range(20)))(f)
    options = {"chunks": (2000, 2, 19, 19), "compression": "gzip", "shuffle": True}
    del f["tensors/4/weight"]
    f.create_dataset("tensors/4/weight", data=np.zeros((2000, 2, 19, 19), np.int64), **options)
    for index in range(20):
        f[f"tensors/{9 + index}/weight"] = f["tensors/4/weight"]


def link(make: Any) -> Callable[[h5py.Group, str], Any]:
    return lambda g, name: g.__setitem__(name, make)


DAMAGE: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "newer version": (head(version=2), "format version 2 is newer than 1; update maqd-snn"),
    "newer version of another form": (
        rewrite(lambda old: '{"format": "maqd-snn integer network", "version": 2}'),
        "format version 2 is newer than 1",
    ),
    "version 0": (head(version=0), "the format version 0 is none"),
    "version one half": (head(version=0.5), "the manifest holds no int 'version'"),
    "version is text": (head(version="one"), "the manifest holds no int 'version'"),
    "version is a list": (head(version=[1, 2]), "the manifest holds no int 'version'"),
    "version is true": (head(version=True), "the manifest holds no int 'version'"),
    "version is not a number": (head(version=float("nan")), "the manifest holds NaN, which is no JSON"),
    "version is infinite": (head(version=float("inf")), "the manifest holds Infinity, which is no JSON"),
    "no version": (without("version"), "the manifest holds no int 'version'"),
    "no format": (without("format"), "the manifest holds no str 'format'"),
    "format is a number": (head(format=3), "the manifest holds no str 'format'"),
    "other format": (head(format="y" * 500), "it holds 'yyyy.*', expected 'maqd-snn integer network'"),
    "no manifest": (delete("manifest"), "manifest is missing or is a link"),
    "manifest is a group": (
        lambda f: (f.__delitem__("manifest"), f.create_group("manifest")),
        "manifest is not a dataset",
    ),
    "manifest is a link": (
        lambda f: (f.move("manifest", "text"), f.__setitem__("manifest", h5py.SoftLink("/text"))),
        "manifest is missing or is a link",
    ),
    "manifest of variable length": (
        lambda f: (f.__delitem__("manifest"), f.__setitem__("manifest", "{}")),
        "manifest holds object, expected uint8",
    ),
    "manifest in signed bytes": (
        lambda f: (f.__delitem__("manifest"), f.__setitem__("manifest", np.zeros(9, np.int8))),
        "manifest holds int8, expected uint8",
    ),
    "manifest claims more than there is": (
        lambda f: (
            f.__delitem__("manifest"),
            f.create_dataset("manifest", (2**20,), "u1", chunks=(2**20,), compression="gzip", shuffle=True),
        ),
        "manifest claims 1048576 bytes, more than the file",
    ),
    "manifest is empty": (rewrite(lambda old: ""), "damaged"),
    "manifest is no UTF-8": (
        lambda f: f["manifest"].__setitem__(5, 255),
        "damaged.*can't decode byte 0xff",
    ),
    "manifest is no JSON": (rewrite(lambda old: "[}"), "damaged"),
    "manifest ends early": (rewrite(lambda old: old[:-1]), "damaged"),
    "manifest is no object": (rewrite(lambda old: "[]"), "the manifest holds no str 'format'"),
    "manifest is nested deeply": (rewrite(lambda old: "[" * 100_000), ""),
    "a number of many digits": (rewrite(lambda old: "1" * 100_000), ""),
    "no list of ops": (without("ops"), "the manifest holds no list 'ops'"),
    "ops are no list": (head(ops={"input": 1}), "the manifest holds no list 'ops'"),
    "an op is a text": (head(ops=["input"]), "the manifest holds no str 'name'"),
    "no name": (without("ops", 4, "name"), "the manifest holds no str 'name'"),
    "a name is no text": (plain(4, name=["conv2"]), "the manifest holds no str 'name'"),
    "an op without its group": (manifest(lambda held: held["ops"].append(held["ops"][6])), "tensors/9 is missing"),
    "a name that leads away": (plain(4, name="../ops/input"), "an op needs a name without '/'"),
    "an empty name": (plain(4, name=""), "an op needs a name"),
    "the same op twice": (order(0, 0), "two ops are named 'input'"),
    "no ops": (head(ops=[]), "needs one Input and at least one other op"),
    "ops out of order": (order(1, 0), "takes 'input', which is not defined before it"),
    "op left out": (order(0, 2), "takes 'conv1', which is not defined before it"),
    "tensors of other ops": (manifest(lambda held: held["ops"].pop(1)), "spike1: the fields of a Threshold are"),
    "no provenance": (without("provenance"), "the manifest holds no dict 'provenance'"),
    "provenance is no object": (head(provenance=[]), "the manifest holds no dict 'provenance'"),
    "provenance is no JSON": (head(provenance={"accuracy": float("nan")}), "the manifest holds NaN"),
    "provenance is infinite": (rewrite(lambda old: old.replace("0.5", "1e999")), "provenance must be plain values"),
    "no group of tensors": (delete("tensors"), "tensors/0 is missing or is a link"),
    "no group of an op": (delete("tensors/4"), "tensors/4 is missing or is a link"),
    "unknown op": (plain(4, type="Softmax"), "unknown op type 'Softmax'.* choices are: Add, Conv2d"),
    "private name as op": (plain(4, type="__init__"), "unknown op type '__init__'"),
    "other op": (plain(4, type="Linear"), r"the fields of a Linear are \['inputs', 'name', 'weight'\], got"),
    "no type": (without("ops", 4, "type"), "the manifest holds no str 'type'"),
    "type is a number": (plain(4, type=3), "the manifest holds no str 'type'"),
    "inputs are a number": (plain(4, inputs=3), "the manifest holds no list 'inputs'"),
    "inputs are a text": (plain(4, inputs="p"), "the manifest holds no list 'inputs'"),
    "inputs are an object": (plain(4, inputs={"pool1": 3}), "the manifest holds no list 'inputs'"),
    "inputs are null": (plain(4, inputs=None), "the manifest holds no list 'inputs'"),
    "inputs are lists": (plain(4, inputs=[["pool1"]]), "conv2: the inputs are no list of names"),
    "two inputs": (plain(4, inputs=["pool1", "pool1"]), "Conv2d takes 1 input"),
    "no inputs": (without("ops", 4, "inputs"), "the fields of a Conv2d are"),
    "inputs of the input": (plain(0, inputs=[]), "the fields of a Input are"),
    "a field is missing": (
        without("ops", 4, "groups"),
        r"conv2: the fields of a Conv2d are .*, got \['dilation', 'inp",
    ),
    "a field too many": (plain(4, bias=1), r"the fields of a Conv2d are .* got \['bias', 'dilation'"),
    "weight in the manifest too": (plain(4, weight=1), "the fields of a Conv2d are .*'weight', 'weight'"),
    "stride is zero": (plain(4, stride=[0, 1]), "conv2: stride must be two whole numbers of at least 1"),
    "stride is text": (plain(4, stride="11"), "conv2: stride must be two whole numbers"),
    "padding is huge": (plain(4, padding=[10**30, 0]), "conv2: padding must be two whole numbers"),
    "groups are null": (plain(4, groups=None), ""),
    "groups are text": (plain(4, groups="1"), ""),
    "shape is negative": (plain(0, shape=[1, -4, 4]), "input: shape must be"),
    "shape is a number": (plain(0, shape=4), ""),
    "range is infinite": (plain(0, high=float("inf")), ""),
    "range is huge": (plain(0, high=10**400), "above 2\\^53"),
    "range is null": (plain(0, high=None), ""),
    "kind is unknown": (plain(0, kind="video"), "input: kind must be 'analog' or 'events'"),
    "low is text": (plain(2, low="x"), ""),
    "low is null": (plain(2, low=None), ""),
    "zero point one half": (plain(0, zero_point=0.5), "input: zero_point must be a whole number"),
    "low input one half": (plain(0, low=-0.5), "input: low must be a whole number"),
    "low one half": (plain(2, low=0.5), "spike1: low must be a whole number"),
    "groups in floats": (plain(4, groups=1.0), "conv2: groups must be a whole number"),
    "no weight": (delete("tensors/4/weight"), "conv2: the fields of a Conv2d are .*'weight'.*, got"),
    "weight in floats": (tensor("4/weight", array(2, 2, 3, 3, dtype="<f8")), "holds float64, expected int64"),
    "weight in int32": (tensor("4/weight", array(2, 2, 3, 3, dtype="<i4")), "holds int32, expected int64"),
    "weight in big-endian": (tensor("4/weight", array(2, 2, 3, 3, dtype=">i8")), "holds >i8, expected int64"),
    "weight in texts": (tensor("4/weight", lambda g, n: g.__setitem__(n, "weights")), "expected int64"),
    "weight of records": (tensor("4/weight", array(2, dtype="i8,f4")), "expected int64"),
    "weight is a scalar": (tensor("4/weight", array()), ""),
    "weight is empty": (tensor("4/weight", array(0, 2, 3, 3)), "conv2: weight must have 4 axes and no empty one"),
    "weight is null": (tensor("4/weight", lambda g, n: g.__setitem__(n, h5py.Empty("<i8"))), "weight holds nothing"),
    "weight has other axes": (tensor("4/weight", array(2, 18)), "conv2: weight must have 4 axes"),
    "weight of other channels": (
        tensor("4/weight", array(2, 5, 3, 3)),
        "conv2: the weight expects 5 input channels",
    ),
    "weight is a group": (tensor("4/weight", lambda g, n: g.create_group(n)), "weight is not a dataset"),
    "weight claims terabytes": (
        tensor("4/weight", claim(2**16, 2**16, 3, 3)),
        "claims .* bytes, more than the file",
    ),
    "weight claims gigabytes packed": (
        tensor("4/weight", claim(2**14, 2**14, 1, 1, compression="gzip", shuffle=True)),
        "claims .* bytes, more than the file",
    ),
    "weight claims more than there are bytes": (tensor("4/weight", claim(2**31, 2**31, 1, 2**20)), ""),
    "weight in another order of chunks": (
        tensor("4/weight", packed(chunks=(1, 2, 3, 3), compression="gzip", shuffle=True)),
        "weight is not packed as one chunk, shuffled and deflated",
    ),
    "weight packed in another way": (
        tensor("4/weight", packed(chunks=(2, 2, 3, 3), compression="lzf")),
        "weight is not packed as one chunk, shuffled and deflated",
    ),
    "soft link": (tensor("4/weight", link(h5py.SoftLink("/tensors/1/weight"))), "weight is missing or is a link"),
    "hanging soft link": (tensor("4/weight", link(h5py.SoftLink("/nothing"))), "weight is missing or is a link"),
    "external link": (
        tensor("4/weight", link(h5py.ExternalLink("other.h5", "x"))),
        "weight is missing or is a link",
    ),
    "external data": (tensor("4/weight", external), "weight points into another file"),
    "virtual data": (tensor("4/weight", virtual), "weight points into another file"),
    "group is a soft link": (
        lambda f: (f.__delitem__("tensors/4"), f.__setitem__("tensors/4", h5py.SoftLink("/tensors/1"))),
        "tensors/4 is missing or is a link",
    ),
    "tensors are an external link": (
        lambda f: (f.__delitem__("tensors"), f.__setitem__("tensors", h5py.ExternalLink("other.h5", "/tensors"))),
        "tensors/0 is missing or is a link",
    ),
    "group is a dataset": (
        lambda f: (f.__delitem__("tensors/4"), f.create_dataset("tensors/4", data=[1])),
        "tensors/4 is not a group",
    ),
    "group in itself": (
        lambda f: f["tensors/4"].__setitem__("more", f["tensors"]),
        "the fields of a Conv2d are .*'more'",
    ),
    "group in a group": (
        lambda f: (f.__delitem__("tensors/4/weight"), f["tensors/4"].__setitem__("weight", f["tensors"])),
        "weight is not a dataset",
    ),
    "weight under many names": (many, "claims .* bytes, more than the file"),
    "thresholds out of order": (
        lambda f: f["tensors/2/thresholds"].__setitem__(..., [[5, 1], [5, 1]]),
        "spike1: the thresholds of a channel must rise",
    ),
    "direction is zero": (
        lambda f: f["tensors/2/direction"].__setitem__(..., [0, 1]),
        r"spike1: direction must hold \+1 or -1",
    ),
    "weights are huge": (lambda f: f["tensors/4/weight"].__setitem__(..., 2**56), "above 2\\^53"),
    "weights overflow": (lambda f: f["tensors/4/weight"].__setitem__(..., 2**62), "above 2\\^53"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_one_clear_error(file: Path, what: str) -> None:
    change, message = DAMAGE[what]
    (file.parent / "other.h5").write_bytes(file.read_bytes())
    edit(file, change)
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(MaqdError, match=NOT_USABLE) as caught:
        load(file)
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    caught.match(message)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1000
    assert peak < 50e6
    assert seconds < 5


def test_other_names_in_the_file_are_left_alone(small, file: Path) -> None:
    """Attributes and groups that no op names may stand in the file; they are not read."""
    edit(
        file, lambda f: (f.attrs.__setitem__("note", "mine"), f.create_group("notes"), f.create_group("tensors/spare"))
    )
    assert contents(load(file)) == contents(small)


# Bit flips and worse. libhdf5 may hang or crash on them, so the loads run in another process.

FLIPS = """
import random, sys
import torch
from maqd_snn import load
from maqd_snn.errors import MaqdError

torch.set_num_threads(1)
path, flips = sys.argv[1], int(sys.argv[2])

def contents(net):
    return [net.provenance] + [
        (type(op), {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in vars(op).items()}) for op in net.ops
    ]

with open(path, "rb") as file:
    whole = file.read()
expected = contents(load(path))
generator = random.Random(int(sys.argv[3]))
refused = 0
for _ in range(flips):
    bit = generator.randrange(8 * len(whole))
    print("bit", bit, "of byte", bit // 8, flush=True)
    data = bytearray(whole)
    data[bit // 8] ^= 1 << bit % 8
    with open(path, "wb") as file:
        file.write(data)
    try:
        found = contents(load(path))
    except MaqdError:
        refused += 1
    else:
        if found != expected:
            sys.exit("the flip was not noticed, and the network is another one")
print("refused", refused)
"""


def test_flipped_bit_is_refused_or_changes_nothing(file: Path) -> None:
    run = [sys.executable, "-W", "error", "-c", FLIPS, str(file), "1000", "2"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False, cwd=file.parent)
    where = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, (where, done.stderr)
    assert int(where[0].split()[1]) > 50


RESEALED = """
import random, signal, sys
from pathlib import Path
import torch
from maqd_snn import load
from maqd_snn.errors import MaqdError
from maqd_snn.integer.storage import SEAL_SIZE, seal

torch.set_num_threads(1)
path, loads, generator = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
whole = path.read_bytes()
used = [at for at in range(SEAL_SIZE, len(whole)) if any(whole[at - 4 : at + 5])]  # most of an HDF5 file is zeros
refused = 0
for number in range(loads):
    data = bytearray(whole)
    for _ in range(generator.choice([1, 1, 2, 4, 16])):
        at = generator.choice(used)
        data[at] = generator.choice([0, 1, 255, data[at] ^ 1 << generator.randrange(8), generator.randrange(256)])
    path.write_bytes(data)
    seal(path)
    print("load", number, flush=True)
    signal.alarm(10)  # kills the process, whatever the library is in
    try:
        load(path)
    except MaqdError as error:
        refused += 1
        if len(str(error).splitlines()) != 1:
            sys.exit(f"not one sentence: {error}")
    signal.alarm(0)
print("refused", refused)
"""


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="needs the alarm of POSIX systems")
def test_damage_that_is_sealed_again_neither_hangs_nor_crashes(file: Path) -> None:
    """Somebody who means harm computes the digest anew; then nothing stands between the damage and libhdf5."""
    run = [sys.executable, "-W", "error", "-c", RESEALED, str(file), "400", "0"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False, cwd=file.parent)
    where = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, (where, done.stderr)
    assert 50 < int(where[0].split()[1]) < 400


def test_damaged_tensors_are_refused(file: Path) -> None:
    """One byte changed in the compressed tensors, the part of the file that HDF5 itself can check."""
    whole = file.read_bytes()
    with h5py.File(file) as opened:
        ids = [opened[f"tensors/{op}/weight"].id for op in (1, 4, 7)]
        chunks = [dataset.get_chunk_info(0) for dataset in ids]
    generator = random.Random(0)
    refused = 0
    for chunk in chunks:
        for _ in range(60):
            data = bytearray(whole)
            at = chunk.byte_offset + generator.randrange(chunk.size)
            data[at] ^= generator.randrange(1, 256)
            file.write_bytes(data)
            try:
                load(file)
            except MaqdError:
                refused += 1
    assert refused >= 170  # a few bits of a deflate stream mean nothing
