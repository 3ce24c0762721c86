"""NIR, NIR data and netx as hostile files: what they claim, what they would take in memory, what they state."""

import json
import shutil
from itertools import pairwise

import h5py
import numpy as np
import pytest
import torch

import maqd_snn
from maqd_snn import MaqdError, fold
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.neuromorphic import export, netx_verify, nir_verify, verify
from maqd_snn.neuromorphic.nir_verify import CHUNK, check_plain, read_nir, samples_within

nir = pytest.importorskip("nir")
FILES = {"nir": "a.nir", "nir-graded": "g.nir", "nir-events": "a.nirdata", "netx": "a.net"}
LONG = b"7" * 20_000


@pytest.fixture(scope="module")
def net(make_model):
    return fold(make_model("vgg", 3, 3, input_range=(0, 16), zero_point=4, edge_states=15))


@pytest.fixture(scope="module")
def written(net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    for form, name in FILES.items():
        export(net, folder / name, form)
    return folder


@pytest.fixture
def copy(written, tmp_path, monkeypatch):
    monkeypatch.delenv(netx_verify.VARIABLE, raising=False)
    return lambda form: shutil.copy(written / FILES[form], tmp_path / FILES[form])


@pytest.fixture
def readers(net):
    """What reads a file of a form, by name."""
    codes = torch.full((2, *net.input.shape), net.input.low)
    return lambda path: [lambda: verify(path, net, codes)] + [lambda: maqd_snn.load(path)] * (path.suffix == ".nir")


def refused(readers, path, message):
    for read in readers(path):
        with pytest.raises(MaqdError, match=message) as error:
            read()
        assert "\n" not in str(error.value)
        assert path.name in str(error.value)


# ------------------------------------------------------------------------------------------ what HDF5 claims

PLACES = {"nir": "node/metadata", "nir-graded": "node/metadata", "nir-events": "nodes", "netx": "layer/1"}


def filled(group):
    """A text that stands for a thousand, none of which is stored."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((100,))
    plan.set_fill_value(np.array(LONG, h5py.string_dtype()))
    kind = h5py.h5t.py_create(h5py.string_dtype(), logical=True)
    h5py.h5d.create(group.id, b"bomb", kind, h5py.h5s.create_simple((1000,)), plan)


def repeated(group):
    """A thousand references to one text."""
    dataset = group.create_dataset("bomb", data=[LONG, *[b""] * 999], dtype=h5py.string_dtype())
    start, path = dataset.id.get_offset(), group.file.filename
    group.file.close()
    with open(path, "r+b") as file:
        file.seek(start)
        one = file.read(16)
        file.seek(start)
        file.write(one * 1000)


def numerous(group):
    group.create_dataset("bomb", (10**9,), h5py.string_dtype(), chunks=(1000,))


def listed(group):
    group.attrs["bomb"] = np.array(["x", "y"], object)


def wide_chunk(group):
    group.create_dataset("bomb", (1,), "f4", chunks=(2**30,), maxshape=(None,))


def compound(group):
    group["bomb"] = np.zeros(1, [("a", "f4"), ("b", "f4")])


def sequence(group):
    group.create_dataset("bomb", (1,), h5py.vlen_dtype(np.int64))


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (filled, "'bomb' states a text for all that is not stored"),
        (repeated, "its texts are longer than the file: it states one of them many times over"),
        (numerous, "it claims 10000000[0-9]{2} texts, more than "),
        (listed, "its attribute 'bomb' is a list of texts, expected one text"),
        (wide_chunk, "it claims 429[0-9]{7} bytes, more than the file can hold"),
        (compound, "'bomb' holds .* expected numbers or text"),
        (sequence, "'bomb' holds object, expected numbers or text"),
    ],
)
def test_what_can_be_larger_than_the_file_is_refused(form, attack, message, copy, readers):
    path = copy(form)
    with h5py.File(path, "r+") as file:
        attack(file[PLACES[form]])
    refused(readers, path, message)


def test_a_fill_text_takes_no_memory(copy, net):
    path = copy("netx")
    with h5py.File(path, "r+") as file:
        del file["layer/1/bias"]
        filled(file["layer/1"])
        file["layer/1"].move("bomb", "bias")
    with pytest.raises(MaqdError, match="'bias' states a text"):
        verify(path, net, torch.zeros((1, *net.input.shape), dtype=torch.int64))


def test_lists_of_texts_that_are_there_are_read(copy, net, readers):
    path = copy("nir")
    with h5py.File(path, "r+") as file:
        file["node/metadata/classes"] = np.array(["a", "b"], object)
    for read in readers(path):
        read()
    assert list(read_nir(path, net).metadata["classes"]) == [b"a", b"b"]
    with h5py.File(path) as file:
        check_plain(file, path)


# --------------------------------------------------------------------------------- what a graph takes in memory


def graph_of(net, *nodes):
    """Nodes in a row, from the network's input to its classes, and nothing of ours in the metadata."""
    named = {"in": nir.Input({"input": np.array(net.input.shape)})}
    named |= {f"n{index:05d}": node for index, node in enumerate(nodes)}
    named["out"] = nir.Output({"output": np.array(net.shapes[net.ops[-1].name])})
    return nir.NIRGraph(named, list(pairwise(named)))


def conv(size, kernel=3, padding=0, stride=1, dilation=1, channels=(3, 3)):
    weight = np.zeros((channels[1], channels[0], kernel, kernel), np.float32)
    return nir.Conv2d(size, weight, stride, padding, dilation, 1, np.zeros(channels[1], np.float32))


def ending(shape, classes=5):
    features = int(np.prod(shape))
    return (
        nir.Flatten({"input": np.array(shape)}, 0, -1),
        nir.Affine(np.zeros((classes, features), np.float32), np.zeros(classes, np.float32)),
    )


def pool(kernel, stride, padding):
    return nir.SumPool2d(*(np.array([value, value]) for value in (kernel, stride, padding)))


# The network's largest output has 8 channels of 8 x 8 at 2 levels; it works on columns of 3 x 3 windows.
LARGE = {
    "outputs": ((conv((8, 8), dilation=60, padding=179), pool(128, 128, 0), *ending((3, 1, 1))), "outputs; expected 1"),
    "padded image": (
        (pool(1000, 1000, 999), *ending((3, 2, 2))),
        r"works on [0-9]+ values; expected at most [0-9]+, what this network can need",
    ),
    "columns": ((conv((8, 8), kernel=40, padding=39), *ending((3, 47, 47))), "outputs; expected 1|works on"),
    "together": (
        (*(conv((8, 8), kernel=1) for _ in range(400)), *ending((3, 8, 8))),
        r"its nodes have [0-9]+ outputs together; expected at most [0-9]+, what this network can need",
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_graph_that_takes_more_than_the_network_is_not_run(name, net, tmp_path, monkeypatch):
    nodes, message = LARGE[name]
    nir.write(tmp_path / "a.nir", graph_of(net, *nodes))
    monkeypatch.setattr(nir_verify, "NIR_RUNTIMES", None)  # none is asked
    with pytest.raises(MaqdError, match=message):
        verify(tmp_path / "a.nir", net, torch.zeros((1, *net.input.shape), dtype=torch.int64))
    read_nir(tmp_path / "a.nir")  # loading runs nothing


def test_a_bias_that_would_spread_is_refused(net, tmp_path):
    # NIR's own check of shapes does not look at it.
    flat, (channels,) = nir.Flatten({"input": np.array(net.input.shape)}, 0, -1), net.shapes[net.ops[-1].name]
    wide = nir.Affine(np.zeros((1, 192), np.float32), np.zeros(10**6, np.float32))
    last = nir.Affine(np.zeros((channels, 1), np.float32), np.zeros(channels, np.float32))
    nir.write(tmp_path / "a.nir", graph_of(net, flat, wide, last))
    with pytest.raises(MaqdError, match=r"node 'n00001': a weight \(1, 192\) and a bias \(1000000,\) do not fit"):
        read_nir(tmp_path / "a.nir")


def test_samples_at_a_time_stay_within_their_bytes(net, written, monkeypatch):
    assert [samples_within(size) for size in (1, 2**22, 2**23, 2**28, 2**40)] == [CHUNK, 64, 32, 1, 1]
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 17, (5, *net.input.shape)))
    monkeypatch.delenv(netx_verify.VARIABLE, raising=False)
    traced, lengths = nir_verify.traced, []

    def counted(of, chunk, names):
        lengths.append(len(chunk))
        return traced(of, chunk, names)

    monkeypatch.setattr(nir_verify, "traced", counted)
    monkeypatch.setattr("maqd_snn.neuromorphic.nir_events.traced", counted)
    for form in ("nir", "nir-graded", "nir-events"):
        lengths.clear()
        monkeypatch.setattr(nir_verify, "CHUNK_BYTES", 2**28)
        assert verify(written / FILES[form], net, codes).ok
        assert len(lengths) == 1
        lengths.clear()
        monkeypatch.setattr(nir_verify, "CHUNK_BYTES", 1)
        assert verify(written / FILES[form], net, codes).ok
        assert set(lengths) == {1}
        assert len(lengths) > 1
    voltage, batches = netx_verify._voltage, set()
    monkeypatch.setattr(netx_verify, "_voltage", lambda group, x: batches.add(len(x)) or voltage(group, x))
    assert verify(written / FILES["netx"], net, codes).ok
    assert batches == {1}


def replace(path, name, value):
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"padding": np.array([500, 500])}, "values of output; expected at most 1024, what this network needs"),
        ({"padding": np.array([500, 500]), "stride": np.array([900, 900])}, "values of work; expected at most"),
        ({"weight": np.zeros((16, 3, 90, 90), np.float32), "padding": np.array([42, 42])}, "values of weight; exp"),
        ({"bias": np.zeros(5000, np.int32)}, r"a layer of 16 channels with a bias \(5000,\)"),
        ({"padding": np.array([-1, -1])}, "do not fit inputs"),
        ({"groups": 3}, "do not fit inputs"),
    ],
)
def test_a_netx_layer_that_takes_more_than_the_network_is_not_run(change, message, copy, net):
    path = copy("netx")
    for name, value in change.items():
        replace(path, f"layer/1/{name}", value)
    with pytest.raises(MaqdError, match=f"cannot be verified as netx: .*{message}"):
        verify(path, net, torch.zeros((1, *net.input.shape), dtype=torch.int64))


def test_loading_takes_no_memory_for_channels_that_are_stated_only(tmp_path):
    weight = torch.ones((2, 1, 1, 1), dtype=torch.int64)
    image = ops.Input("x", shape=(2, 2, 2), high=1)
    net = IntegerNetwork([image, ops.Conv2d("c", ("x",), weight, groups=2), ops.Flatten("f", ("c",))])
    export(net, tmp_path / "a.nir")
    with h5py.File(tmp_path / "a.nir") as file:
        entries = json.loads(file["node/metadata/network"][()])
    entries[1]["weight_shape"][0] = 2**50
    replace(tmp_path / "a.nir", "node/metadata/network", json.dumps(entries))
    with pytest.raises(MaqdError, match="has another shape than it states"):
        maqd_snn.load(tmp_path / "a.nir")


# ------------------------------------------------------------------------------------------ what a file states


def state(path, key, value):
    """Change what a file of any form states; a function changes what JSON holds."""
    with h5py.File(path, "r+") as file:
        if path.suffix == ".nirdata":
            if value is None:
                del file.attrs[key]
            else:
                file.attrs[key] = value
            return
        if path.suffix == ".net":
            notes = json.loads(file["maqd_snn"].asstr()[()])
            place, key = "maqd_snn", key
            notes = {**notes, key: value} if value is not None else {k: v for k, v in notes.items() if k != key}
            value = json.dumps(notes)
        else:
            place = f"node/metadata/{key}"
            if callable(value):
                notes = json.loads(file[place][()])
                value(notes)
                value = json.dumps(notes)
        if place in file:
            del file[place]
        if value is not None:
            file[place] = value


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("zero_point", 0, "it states zero_point 0, the network has 4: it is of another network, or was changed"),
        ("zero_point", "4", "it states zero_point '4', the network has 4"),
        ("fingerprint", "0" * 64, "it states fingerprint '0{64}', the network has '[0-9a-f]{64}'"),
    ],
)
def test_what_a_file_states_is_compared(form, key, value, message, copy, readers):
    path = copy(form)
    state(path, key, value)
    verifier, *_ = readers(path)
    with pytest.raises(MaqdError, match=message):
        verifier()
    if key == "zero_point" and path.suffix == ".nir":
        refused(readers, path, message)


def set_type(entries):
    entries[2]["type"] = "Threshold2"


def set_zero(entries):
    entries[0]["zero_point"] = 0


def drop_low(entries):
    del entries[2]["low"]


def add_field(entries):
    entries[1]["scale"] = 2


def set_note(notes):
    notes["000_input"]["zero_point"] = 0


@pytest.mark.parametrize("form", ["nir", "nir-graded"])
@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("network", set_type, "it states network: spike1: type 'Threshold2', the network has 'Threshold'"),
        ("network", set_zero, "it states network: input: zero_point 0, the network has 4"),
        ("network", drop_low, "it states network: spike1: low None, the network has 0"),
        ("network", add_field, "it states network: conv1: scale 2, the network has None"),
        ("network", lambda entries: entries.pop(), "it states network: ops 11, the network has 12"),
        ("network", "{}", "it states a network that is no list of ops"),
        ("nodes", set_note, "it states nodes: zero_point 0, the network has 4"),
    ],
)
def test_the_stated_network_is_compared(form, key, change, message, copy, readers, net):
    path = copy(form)
    state(path, key, change)
    verifier, *_ = readers(path)
    with pytest.raises(MaqdError, match=message.replace("11", str(len(net.ops) - 1)).replace("12", str(len(net.ops)))):
        verifier()


def test_the_bits_of_a_netx_message_are_compared(copy, net, readers):
    path = copy("netx")
    state(path, "input_message_bits", 4)
    refused(readers, path, "it states input_message_bits 4, the network has 5")


def test_metadata_of_others_are_not_ours(copy, readers, net):
    path = copy("nir")
    with h5py.File(path, "r+") as file:
        for name in list(file["node/metadata"]):
            del file[f"node/metadata/{name}"]
        file["node/metadata/network"] = "LeNet"
        file["node/metadata/library"] = "another"
    verifier, _ = readers(path)
    assert verifier().ok


# ------------------------------------------------------------------------------------------ format versions


@pytest.mark.parametrize("form", FILES)
def test_a_newer_version_is_one_sentence(form, copy, readers):
    path = copy(form)
    state(path, "format_version", 2)
    # It comes first: whatever else is newer, too, is not what is told.
    state(path, "zero_point", 77)
    for read in readers(path):
        with pytest.raises(MaqdError) as error:
            read()
        assert str(error.value) == (
            f"{str(path)!r} has format version 2, newer than 1, the one this library reads; update maqd-snn"
        )


@pytest.mark.parametrize("form", FILES)
def test_files_state_their_version_and_older_ones_need_none(form, copy, readers):
    path = copy(form)
    with h5py.File(path) as file:
        found = {
            ".nir": lambda: file["node/metadata/format_version"][()],
            ".nirdata": lambda: file.attrs["format_version"],
            ".net": lambda: json.loads(file["maqd_snn"].asstr()[()])["format_version"],
        }[path.suffix]()
    assert found == 1
    state(path, "format_version", None)
    for read in readers(path):
        read()
    if path.suffix == ".nirdata":
        for key in ("library", "zero_point", "fingerprint"):
            state(path, key, None)
        verifier, *_ = readers(path)
        assert verifier().ok


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("value", [0, -3, 1.0, "1", [1, 1]])
def test_a_version_that_is_none_is_refused(form, value, copy, readers):
    path = copy(form)
    state(path, "format_version", value)
    refused(readers, path, "it states the format version .*, expected a whole number from 1 on")
