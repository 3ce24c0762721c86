"""Golden events of NIR files: NIR's own reader gives them back, they are the network's, changed ones are found."""

import shutil

import h5py
import numpy as np
import pytest
import torch

from maqd_snn import MaqdError, fold
from maqd_snn.neuromorphic import export, nir_events, verify
from maqd_snn.neuromorphic.nir_events import SAMPLES, golden_codes, write_nir_events
from maqd_snn.neuromorphic.nir_export import nir_graph

nir = pytest.importorskip("nir")


@pytest.fixture(scope="module")
def net(make_model):
    return fold(make_model("vgg", 4, 3))


@pytest.fixture(scope="module")
def file(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("events") / "network.nirdata"
    write_nir_events(net, path)
    return path


@pytest.fixture
def copy(file, tmp_path):
    return shutil.copy(file, tmp_path / file.name)


def named(nodes, ending):
    (name,) = (name for name in nodes if name.endswith(ending))
    return name


def checked(path, net):
    return verify(path, net, torch.from_numpy(golden_codes(net)[:1]))


@pytest.mark.parametrize(
    ("family", "act_states", "signed"), [("mlp", 2, False), ("vgg", 2, False), ("resnet", 3, False), ("vgg", 3, True)]
)
def test_all_events_are_those_of_the_network(family, act_states, signed, make_model, tmp_path):
    net = fold(make_model(family, act_states, 3, signed=signed))
    path = tmp_path / "network.nirdata"
    export(net, path, "nir-events")
    record = checked(path, net)
    assert record.ok
    assert record.scores == SAMPLES * 5
    assert len(record.checks[0].layers) >= 2


def test_samples_of_ones_own(net, random_codes, tmp_path):
    path = tmp_path / "network.nirdata"
    codes = random_codes(net, 40, seed=5).numpy().astype(np.uint8)
    write_nir_events(net, path, codes)
    record = checked(path, net)
    assert record.ok
    assert record.scores == 40 * 5
    events = nir.read_data(path).nodes[named(nir_graph(net).nodes, "_input")].observables["values"]
    found = events.to_time_gridded(1.0).data[:, 0].reshape(codes.shape) + net.input.zero_point
    np.testing.assert_array_equal(found, codes)
    for wrong, message in (
        (codes[:, :, :-1], "of shape"),
        (codes[:0], "1 to 1024 samples"),
        (np.repeat(codes, 26, 0), "1 to 1024 samples"),
        (codes.astype(int) + 1, r"must be input codes in 0\.\.255, got 1\.\.256"),
    ):
        with pytest.raises(MaqdError, match=message):
            write_nir_events(net, tmp_path / "wrong.nirdata", wrong)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_nirs_own_reader_gives_what_the_network_computes(net, file):
    data, graph = nir.read_data(file), nir_graph(net)
    assert set(data.nodes) <= set(graph.nodes)
    events = data.nodes[named(data.nodes, "_input")].observables["values"]
    assert isinstance(events, nir.ValuedEventData)
    assert (events.n_samples, events.n_neurons, events.t_max) == (SAMPLES, np.prod(net.input.shape), 1.0)
    codes = events.to_time_gridded(1.0).data[:, 0].reshape(SAMPLES, *net.input.shape) + net.input.zero_point
    np.testing.assert_array_equal(codes, golden_codes(net))
    scores = data.nodes[named(data.nodes, "_output")].observables["scores"].to_time_gridded(1.0).data[:, 0]
    np.testing.assert_array_equal(scores, net.reference(golden_codes(net)))
    assert codes[0].max() == net.input.low
    assert codes[1].min() == net.input.high
    spikes = [node.observables["spikes"] for node in data.nodes.values() if "spikes" in node.observables]
    assert sum(int((node.idx >= 0).sum()) for node in spikes) > 100
    assert all((node.value[node.idx >= 0] == 1).all() for node in spikes)


@pytest.mark.parametrize(("node", "observable"), [("_output", "scores"), ("_spike2", "spikes")])
def test_one_changed_event_is_found(net, copy, node, observable):
    with h5py.File(copy, "r+") as file:
        nodes = file["nodes"]
        nodes[named(nodes, node)]["observables"][observable]["value"][0, 0] += 1
    record = checked(copy, net)
    assert not record.ok
    layers = sum(layer.mismatches for layer in record.checks[0].layers)
    assert (record.mismatches, layers) == ((1, 0) if node == "_output" else (0, 1))


def change_input(path, name, value):
    with h5py.File(path, "r+") as file:
        group = file["nodes"][named(file["nodes"], "_input")]["observables"]["values"]
        if name in group.attrs:
            group.attrs[name] = value
        else:
            group[name][0, 0] = value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("idx", 10**6, "events beyond its"),
        ("time", 0.5, "at another time than 0"),
        ("value", 10**6, "codes outside 0..255"),
        ("n_neurons", 3, "has 3 values and events"),
    ],
)
def test_wrong_values_are_refused(net, copy, name, value, message):
    change_input(copy, name, value)
    with pytest.raises(MaqdError, match=message):
        checked(copy, net)


def test_of_another_network_damaged_or_hostile(net, file, copy, make_model, tmp_path):
    with pytest.raises(MaqdError, match="cannot be verified as golden events: its node|of another network"):
        checked(file, fold(make_model("mlp", 3, 3)))
    data = file.read_bytes()
    for size in (0, 100, len(data) // 2):
        (tmp_path / "part.nirdata").write_bytes(data[:size])
        with pytest.raises(MaqdError, match="damaged, truncated or no NIR data"):
            checked(tmp_path / "part.nirdata", net)
    many = shutil.copy(file, tmp_path / "many.nirdata")
    with h5py.File(many, "r+") as opened:
        group = opened["nodes"][named(opened["nodes"], "_input")]["observables"]["values"]
        for name in ("idx", "time", "value"):
            kind = group[name].dtype
            del group[name]
            group.create_dataset(name, (2000, 1), kind, fillvalue=0)
    with pytest.raises(MaqdError, match="has 2000 samples, expected at most 1024"):
        checked(many, net)
    with h5py.File(copy, "r+") as opened:
        opened["nodes/link"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(MaqdError, match="'link' is a link"):
        checked(copy, net)
    with h5py.File(copy, "w") as opened:
        opened.create_dataset("huge", (10**12,), "u1", chunks=(10**6,))
    with pytest.raises(MaqdError, match="claims 1000000000000 bytes, more than the file can hold"):
        checked(copy, net)


def test_an_older_nir_is_named(net, tmp_path, monkeypatch):
    monkeypatch.setattr(nir_events, "require_nir", object)
    with pytest.raises(MaqdError, match="need nir 1.0.8 or newer"):
        write_nir_events(net, tmp_path / "a.nirdata")
    assert not list(tmp_path.iterdir())
