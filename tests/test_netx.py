"""Lava netx files: the layers by hand, the interpreter against the network, refusals, damaged and hostile files."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import maqd_snn
from maqd_snn import MaqdError, fold
from maqd_snn.datasets import load_splits
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.neuromorphic import export, netx_verify, verify
from maqd_snn.neuromorphic.netx_export import netx_layers, write_netx
from maqd_snn.neuromorphic.netx_verify import VARIABLE, verify_netx


@pytest.fixture(autouse=True)
def no_lava(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def t(values: Any) -> torch.Tensor:
    return torch.tensor(values)


def weights(*shape: int, seed: int = 0, largest: int = 3) -> torch.Tensor:
    return torch.randint(-largest, largest + 1, shape, generator=torch.Generator().manual_seed(seed))


def spikes(name: str, source: str, channels: int, levels: int, low: int = 0, spread: int = 40) -> ops.Threshold:
    values = weights(channels, levels, seed=levels, largest=spread).sort(1).values
    direction = t([1, -1]).repeat(channels)[:channels]
    return ops.Threshold(name, (source,), values * direction[:, None], direction, low)


PAIR = ops.Input("in", shape=(2,), high=4, zero_point=2)
IMAGE = ops.Input("in", shape=(4, 8, 6), zero_point=2, low=-5, high=9)
CONV = ops.Conv2d("conv", ("in",), weights(4, 4, 3, 3), padding=(1, 1))


def end(source: str, inputs: int) -> list[ops.Op]:
    return [
        ops.Flatten("flat", (source,)),
        ops.Linear("fc", ("flat",), weights(5, inputs, seed=1)),
        ops.Readout("readout", ("fc",), weights(5)),
    ]


def hand_made() -> IntegerNetwork:
    return IntegerNetwork(
        [
            PAIR,
            ops.Linear("fc", ("in",), t([[1, 2], [3, -1]])),
            ops.Threshold("spike", ("fc",), t([[0, 3], [2, -1]]), t([1, -1])),
            ops.Linear("out", ("spike",), t([[2, -1]])),
            ops.Readout("readout", ("out",), t([5])),
        ]
    )


def test_layers_by_hand() -> None:
    hidden, last = netx_layers(hand_made())
    # Channel 1 fires where z <= 2 and z <= -1, so where -z >= -2 and -z >= 1.
    assert hidden.weight.tolist() == [[1, 2], [1, 2], [-3, 1], [-3, 1]]
    assert (hidden.threshold + 1 - hidden.bias).tolist() == [0, 3, -2, 1]
    assert (hidden.op, hidden.signs, hidden.shape) == ("spike", (1, 1), (4,))
    assert last.weight.tolist() == [[2, 2, -1, -1]]
    assert (last.op, last.bias.tolist(), last.threshold, last.signs) == ("readout", [5], 2**17 - 1, ())


def test_signed_levels_subtract_and_silence_is_level_0() -> None:
    network = IntegerNetwork(
        [
            PAIR,
            ops.Linear("fc", ("in",), t([[1, 2]])),
            ops.Threshold("spike", ("fc",), t([[-2, 3]]), t([1]), low=-1),
            ops.Linear("out", ("spike",), t([[7]])),
            ops.Readout("readout", ("out",), t([0])),
        ]
    )
    hidden, last = netx_layers(network)
    # Level -1 where z < -2, so where -z >= 3; level 1 where z >= 3.
    assert hidden.weight.tolist() == [[-1, -2], [1, 2]]
    assert (hidden.threshold + 1 - hidden.bias).tolist() == [3, 3]
    assert hidden.signs == (-1, 1)
    assert last.weight.tolist() == [[-7, 7]]


def test_what_never_or_always_fires_has_no_synapses() -> None:
    network = hand_made()
    changed = replace(network.ops[2], thresholds=t([[-9, 9], [2, -1]]))
    hidden, _ = netx_layers(IntegerNetwork([*network.ops[:2], changed, *network.ops[3:]]))
    assert hidden.weight.tolist() == [[0, 0], [0, 0], [-3, 1], [-3, 1]]
    assert hidden.bias[0] > hidden.threshold >= 0 > hidden.bias[1]


def test_the_file_states_what_a_reader_needs(tmp_path: Path) -> None:
    write_netx(hand_made(), tmp_path / "net.net")
    with h5py.File(tmp_path / "net.net") as file:
        assert [file[f"layer/{i}/type"][0] for i in range(3)] == [b"input", b"dense", b"dense"]
        assert file["layer/0/shape"][()].tolist() == [2]
        neuron = file["layer/1/neuron"]
        assert [neuron[name][()] for name in ("iDecay", "vDecay", "refDelay", "gradedSpike")] == [4096, 4096, 1, False]
        notes = json.loads(file["maqd_snn"].asstr()[()])
    assert (notes["zero_point"], notes["input_message_bits"]) == (2, 3)
    assert notes["layers"] == [{"op": "spike", "signs": [1, 1]}, {"op": "readout", "signs": []}]


HAND_MADE: dict[str, list[ops.Op]] = {
    "maximum": [IMAGE, CONV, spikes("s", "conv", 4, 3), ops.MaxPool2d("p", ("s",), (2, 2), (2, 2)), *end("p", 48)],
    "maximum, padded": [
        IMAGE,
        CONV,
        spikes("s", "conv", 4, 2),
        ops.MaxPool2d("p", ("s",), (3, 3), (2, 2), (1, 1)),
        *end("p", 48),
    ],
    "maximum of signed levels": [
        IMAGE,
        CONV,
        spikes("s", "conv", 4, 4, low=-2),
        ops.MaxPool2d("p", ("s",), (2, 2), (2, 2)),
        *end("p", 48),
    ],
    "sum into a dense layer, windows overlap": [
        IMAGE,
        CONV,
        spikes("s", "conv", 4, 2, low=-1),
        ops.SumPool2d("p", ("s",), (3, 3), (2, 2), (1, 1)),
        *end("p", 48),
    ],
    "sum into a padded convolution": [
        IMAGE,
        CONV,
        spikes("s", "conv", 4, 2),
        ops.SumPool2d("p", ("s",), (2, 2), (2, 2)),
        ops.Conv2d("conv2", ("p",), weights(4, 4, 3, 3, seed=2), padding=(1, 1)),
        spikes("s2", "conv2", 4, 1),
        *end("s2", 48),
    ],
    "sum of accumulators": [
        IMAGE,
        CONV,
        ops.SumPool2d("p", ("conv",), (2, 2), (2, 2)),
        spikes("s", "p", 4, 2),
        *end("s", 48),
    ],
    "neurons at the input": [IMAGE, spikes("s", "in", 4, 2, spread=5), *end("s", 192)],
    "groups, strides, dilation": [
        IMAGE,
        ops.Conv2d("conv", ("in",), weights(4, 2, 2, 2), stride=(2, 1), dilation=(2, 1), groups=2),
        spikes("s", "conv", 4, 3),
        *end("s", 60),
    ],
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_every_op_runs_exactly(name: str, random_codes: Callable[..., torch.Tensor], tmp_path: Path) -> None:
    exact(IntegerNetwork(HAND_MADE[name]), random_codes, tmp_path)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("act_states", [2, 3])
@pytest.mark.parametrize(("family", "plan"), [("mlp", "32-24"), ("vgg", "8-8-M-16-S")])
def test_models_run_exactly(
    family: str,
    plan: str,
    act_states: int,
    signed: bool,
    make_model: Callable[..., Any],
    random_codes: Callable[..., torch.Tensor],
    tmp_path: Path,
) -> None:
    options = {"signed": signed, "plan": plan, "input_range": (0, 16), "zero_point": 4, "edge_states": 15}
    exact(fold(make_model(family, act_states, 3, **options)), random_codes, tmp_path)


def exact(net: IntegerNetwork, random_codes: Callable[..., torch.Tensor], folder: Path) -> None:
    codes = random_codes(net, 24)
    assert len(np.unique(net.reference(codes.numpy()), axis=0)) > 12  # the network tells its inputs apart
    export(net, folder / "net.net", "netx")
    record = verify(folder / "net.net", net, codes)
    interpreter, lava = record.checks
    assert interpreter.ok
    assert (interpreter.scores, interpreter.mismatches) == (24 * 5, 0)
    assert interpreter.layers
    assert not any(layer.mismatches for layer in interpreter.layers)
    assert not lava.ran
    assert VARIABLE in lava.problem


@pytest.mark.parametrize(("family", "shape"), [("mlp", (1, 8, 8)), ("vgg", (1, 8, 8))])
@pytest.mark.parametrize("act_states", [2, 3])
def test_digits(family: str, shape: tuple[int, ...], act_states: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = maqd_snn.build(
        family,
        input_shape=shape,
        classes=10,
        act_states=act_states,
        weight_states=3,
        plan={"mlp": "32", "vgg": "8-M-8"}[family],
        input_range=(0, 16),
    )
    codes = load_splits("digits").test.codes[:200]
    model.train()
    model(codes)
    net = fold(model.eval())
    write_netx(net, tmp_path / "net.net")
    check = verify_netx(tmp_path / "net.net", codes.numpy(), net.reference(codes.numpy()), net)[0]
    assert check.ok
    assert check.scores == 2000


def varies(net: IntegerNetwork) -> bool:
    """Whether a threshold of the network lies within its accumulators' bound and its unit has a synapse."""
    product, spike = net.ops[1], net.ops[2]
    assert isinstance(product, ops.Linear)
    assert isinstance(spike, ops.Threshold)
    least = spike.thresholds * spike.direction[:, None]
    high = spike.low + spike.levels
    least = torch.where(torch.arange(spike.low, high) >= 0, least, 1 - least)
    bound = net.bounds["fc"]
    between = (least > -bound) & (least <= bound)
    return bool((between & product.weight.any(1)[:, None]).any())


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(-2, 0), st.sampled_from([3, 100, 127]))
@settings(max_examples=30, deadline=None)
def test_random_thresholds_are_exact_for_every_input(seed: int, levels: int, low: int, largest: int) -> None:
    low = max(low, -levels)
    values = weights(3, levels, seed=seed, largest=largest * 3).sort(1).values
    direction = t([1, -1, 1])
    ends: list[ops.Op] = [
        ops.Linear("out", ("s",), weights(2, 3, seed=seed + 2, largest=largest)),
        ops.Readout("readout", ("out",), weights(2, seed=seed, largest=4095)),
    ]
    net = IntegerNetwork(
        [
            PAIR,
            ops.Linear("fc", ("in",), weights(3, 2, seed=seed + 1, largest=largest)),
            ops.Threshold("s", ("fc",), values * direction[:, None], direction, low),
            *ends,
        ]
    )
    codes = np.stack(np.meshgrid(np.arange(5), np.arange(5)), -1).reshape(-1, 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.net"
        if not (net.ops[1].weight.any() and varies(net) and net.ops[3].weight.any()):
            with pytest.raises(MaqdError, match="all its neurons are constant"):
                write_netx(net, path)
            return
        write_netx(net, path)
        assert verify_netx(path, codes, net.reference(codes), net)[0].ok


BRANCH = [
    ops.Input("in", shape=(2,)),
    ops.Linear("a", ("in",), t([[1, 1]])),
    ops.Linear("b", ("in",), t([[1, 2]])),
    ops.Add("sum", ("a", "b")),
    ops.Readout("readout", ("sum",), t([0])),
]
SPIKE = spikes("s", "conv", 4, 2)
REFUSED: dict[str, tuple[list[ops.Op], str]] = {
    "branch": (BRANCH, "b: netx networks are chains, this op reads in; export as nir"),
    "sum of branches": (
        [BRANCH[0], BRANCH[1], ops.Add("sum", ("a", "a")), ops.Readout("readout", ("sum",), t([0]))],
        "sum: netx has no Add: its networks are chains without branches",
    ),
    "no readout": (hand_made().ops[:3], "netx needs a network that ends in a Readout; export as onnx"),
    "flattened accumulators": (
        [IMAGE, CONV, ops.Flatten("flat", ("conv",)), ops.Readout("readout", ("flat",), weights(192))],
        "flat: netx flattens spikes only, these are accumulators",
    ),
    "padded pool of accumulators": (
        [IMAGE, CONV, ops.SumPool2d("p", ("conv",), (2, 2), (2, 2), (1, 1)), spikes("s", "p", 4, 2), *end("s", 80)],
        "p: netx pools accumulators without padding only",
    ),
    "pool of a pool": (
        [
            IMAGE,
            CONV,
            SPIKE,
            ops.SumPool2d("p", ("s",), (2, 2), (2, 2)),
            ops.SumPool2d("q", ("p",), (2, 1), (2, 1)),
            *end("q", 24),
        ],
        "q: netx has no pool of a pool",
    ),
    "overlapping pool before a padded convolution": (
        [
            IMAGE,
            CONV,
            SPIKE,
            ops.SumPool2d("p", ("s",), (3, 3), (1, 1)),
            ops.Conv2d("conv2", ("p",), weights(4, 4, 3, 3), padding=(1, 1)),
            spikes("s2", "conv2", 4, 1),
            *end("s2", 96),
        ],
        "p: netx needs sum-pools whose windows tile the image",
    ),
    "product of a product": (
        [
            hand_made().ops[0],
            hand_made().ops[1],
            ops.Linear("x", ("fc",), t([[1, 1]])),
            ops.Readout("r", ("x",), t([0])),
        ],
        "x: netx needs spikes between two products",
    ),
    "neurons at features": (
        [PAIR, spikes("s", "in", 2, 1), ops.Linear("x", ("s",), t([[1, 1]])), ops.Readout("r", ("x",), t([0]))],
        "s: netx needs a product before neurons of features",
    ),
    "no silence": (
        [IMAGE, CONV, spikes("s", "conv", 4, 2, low=1), *end("s", 192)],
        r"s: in netx, silence is level 0, not among 1\.\.3; export as onnx",
    ),
    "maximum of accumulators": (
        [IMAGE, CONV, ops.MaxPool2d("p", ("conv",), (2, 2), (2, 2)), spikes("s", "p", 4, 2), *end("s", 48)],
        "p: netx has a maximum of spikes only; pool after the spikes",
    ),
    "padded maximum of signed levels": (
        [
            IMAGE,
            CONV,
            spikes("s", "conv", 4, 2, low=-1),
            ops.MaxPool2d("p", ("s",), (2, 2), (2, 2), (1, 1)),
            *end("p", 80),
        ],
        "p: netx has no padding for the maximum of signed levels",
    ),
    "class bias": (
        [*hand_made().ops[:4], ops.Readout("readout", ("out",), t([4096]))],
        r"readout: a class bias has 13 bits in netx, got 4096\.\.4096; export as nir",
    ),
    "weight": (
        [PAIR, ops.Linear("fc", ("in",), t([[1, 128]])), ops.Readout("readout", ("fc",), t([0]))],
        "readout: netx holds weights up to 127, got 128; export as nir",
    ),
    "sums": (
        [
            ops.Input("in", shape=(2,), high=100000),
            ops.Linear("fc", ("in",), t([[1, 1]])),
            ops.Readout("readout", ("fc",), t([0])),
        ],
        "readout: its accumulators can reach 200000, but Loihi's neurons hold sums up to 131071",
    ),
    "thresholds far apart": (
        [
            ops.Input("in", shape=(1,), high=50000),
            ops.Linear("fc", ("in",), t([[1], [1]])),
            ops.Threshold("s", ("fc",), t([[1], [20000]]), t([1, 1])),
            ops.Linear("x", ("s",), t([[1, 1]])),
            ops.Readout("r", ("x",), t([0])),
        ],
        "s: its thresholds lie between 1 and 20000, but a layer in netx has one threshold from 0 on",
    ),
    "constant layer": (
        [*hand_made().ops[:2], ops.Threshold("spike", ("fc",), t([[9], [9]]), t([1, 1])), *hand_made().ops[3:]],
        "spike: all its neurons are constant",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_netx_cannot_express_is_refused_by_name(name: str, tmp_path: Path) -> None:
    network, message = REFUSED[name]
    with pytest.raises(MaqdError, match=message):
        export(IntegerNetwork(network), tmp_path / "net.net", "netx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("channels", "groups"), [(126, 126), (128, 64), (130, 65), (131, 1)])
def test_groups_are_joined_until_lava_can_count_them(
    channels: int, groups: int, random_codes: Callable[..., torch.Tensor], tmp_path: Path
) -> None:
    image = ops.Input("in", shape=(1, 4, 4), high=9)
    conv = ops.Conv2d("conv", ("in",), weights(channels, 1, 3, 3), padding=(1, 1))
    pool = ops.MaxPool2d("p", ("s",), (2, 2), (2, 2))
    net = IntegerNetwork([image, conv, spikes("s", "conv", channels, 1), pool, *end("p", 4 * channels)])
    layer = next(layer for layer in netx_layers(net) if layer.op == "p")
    assert (layer.groups, layer.weight.shape) == (groups, (channels, channels // groups, 2, 2))
    exact(net, random_codes, tmp_path)
    change(tmp_path / "net.net", "layer/2/groups", 128)
    with pytest.raises(MaqdError, match="a layer of 128 groups; lava-nc counts up to 127"):
        verify(tmp_path / "net.net", net, random_codes(net, 2))


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "net.net").write_text("mine")
    with pytest.raises(MaqdError, match="exists; remove it"):
        export(hand_made(), tmp_path / "net.net", "netx")
    assert (tmp_path / "net.net").read_text() == "mine"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_netx(hand_made(), tmp_path / "net.net")
    return tmp_path / "net.net"


ALL = np.stack(np.meshgrid(np.arange(5), np.arange(5)), -1).reshape(-1, 2)


def run(path: Path) -> Any:
    net = hand_made()
    return verify_netx(path, ALL, net.reference(ALL), net)[0]


def change(path: Path, field: str, value: Any) -> None:
    with h5py.File(path, "r+") as file:
        del file[field]
        file[field] = value


@pytest.mark.parametrize(
    ("field", "index"), [("layer/1/weight", (2, 1)), ("layer/1/bias", (1,)), ("layer/2/weight", (0, 3))]
)
def test_a_changed_number_is_found(path: Path, field: str, index: tuple[int, ...]) -> None:
    with h5py.File(path, "r+") as file:
        file[field][index] += 1
    check = run(path)
    assert not check.ok
    assert check.mismatches > 0
    assert (check.layers[0].mismatches > 0) == field.startswith("layer/1")


def statement(path: Path, **changes: Any) -> None:
    with h5py.File(path) as file:
        notes = json.loads(file["maqd_snn"].asstr()[()])
    change(path, "maqd_snn", json.dumps({**notes, **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:1000]), "is damaged, truncated or no netx file"),
        (lambda p: p.write_bytes(b"no hdf5"), "is damaged, truncated or no netx file"),
        (lambda p: change(p, "maqd_snn", [1]), "states nothing in 'maqd_snn': it was not written by maqd-snn"),
        (lambda p: change(p, "maqd_snn", "{}"), "is damaged, truncated or no netx file"),
        (lambda p: change(p, "layer/1/neuron/vDecay", 128), "neurons that remember"),
        (
            lambda p: change(p, "layer/1/type", np.array(["average"], "S10")),
            "a layer of type 'average'; expected input",
        ),
        (lambda p: change(p, "layer/1/weight", np.ones((4, 3))), r"a weight \(4, 3\).* do not fit inputs \(2,\)"),
        (lambda p: statement(p, layers=[{"op": "readout", "signs": []}]), "has 2 layers and states 1"),
        (lambda p: statement(p, layers=[{"op": "x", "signs": []}]), "a layer for 'x', which the network has not"),
        (lambda p: statement(p, input_message_bits=99), r"messages of 99 bits, expected 1\.\.24"),
    ],
)
def test_damaged_files_are_refused(path: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(path)
    with pytest.raises(MaqdError, match=message):
        run(path)


def test_hostile_files_are_refused_before_memory_is_taken(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["layer/1/weight"]
        file["layer/1"].create_dataset("weight", (2**20, 2**20), np.float32, chunks=(1, 64), compression="gzip")
    with pytest.raises(MaqdError, match="more than the file can hold"):
        run(path)


def test_links_are_refused(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["layer/1/weight"]
        file["layer/1/weight"] = h5py.ExternalLink("other.h5", "/weight")
    with pytest.raises(MaqdError, match="cannot be verified as netx"):
        run(path)


@pytest.mark.parametrize(
    ("script", "message"),
    [("#!/bin/sh\necho 'no module' >&2\nexit 3\n", "fails on the file: no module"), (None, "cannot be run")],
)
def test_a_lava_that_fails_is_named(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, message: str
) -> None:
    interpreter = tmp_path / "python"
    if script:
        interpreter.write_text(script)
        interpreter.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(interpreter))
    net = hand_made()
    _, lava = verify_netx(path, ALL, net.reference(ALL), net)
    assert not lava.ran
    assert message in lava.problem
    assert lava.failed == bool(script)


def test_a_lava_that_takes_too_long_ends_with_its_processes(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter, started = tmp_path / "python", tmp_path / "started"
    interpreter.write_text(f"#!/bin/sh\nsleep 300 &\necho $! > {started}\nwait\n")
    interpreter.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(interpreter))
    monkeypatch.setattr(netx_verify, "LIMIT_S", 2.0)
    net = hand_made()
    _, lava = verify_netx(path, ALL, net.reference(ALL), net)
    assert "timed out after 2.0 seconds" in lava.problem
    until = time.monotonic() + 20
    while (runs := is_running(int(started.read_text()))) and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_interpreter_that_forgets_the_bias_is_caught(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(path).ok
    voltage = netx_verify._voltage
    monkeypatch.setattr(netx_verify, "_voltage", lambda group, x: voltage(group, x) - 64)
    assert not run(path).ok
