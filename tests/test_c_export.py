"""C files: exact in both forms, counted as simulated, clean under warnings and sanitizers, and never run if foreign."""

import shutil
import subprocess
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import maqd_snn
from maqd_snn import MaqdError, MissingExtraError, fold
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.neuromorphic import c_verify
from maqd_snn.neuromorphic.c_export import Source, c_sizes, c_source, write_c
from maqd_snn.neuromorphic.c_verify import FLAGS, SANITIZERS, counted_events, run_c
from maqd_snn.neuromorphic.packing import pack, unpack
from maqd_snn.runs import verify_file

compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]


def integers(low, high, *shape, seed=0):
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed))


def thresholds(channels, levels, spread, seed=0):
    """Sorted thresholds with both directions, some never and some always reached."""
    theta = integers(-spread, spread, channels, levels, seed=seed).sort(1).values
    theta[0], theta[-1] = -(10**9), 10**9
    direction = torch.where(torch.arange(channels) % 2 == 0, 1, -1)
    return theta * direction[:, None], direction


def awkward():
    """Every op with every option: groups, strides, dilations and paddings that differ by axis, signed levels, x + x."""
    theta, direction = thresholds(6, 4, 300)
    plain, rising = thresholds(5, 3, 40, seed=1)
    return IntegerNetwork(
        [
            ops.Input("in put", shape=(3, 9, 8), zero_point=3, low=-5, high=200),
            ops.Conv2d(
                "conv-1", ("in put",), weight=integers(-7, 7, 6, 1, 3, 2), stride=(2, 1),
                padding=(1, 2), dilation=(1, 2), groups=3,
            ),
            ops.Threshold("s1", ("conv-1",), thresholds=theta, direction=direction, low=-2),
            ops.MaxPool2d("max", ("s1",), kernel=(3, 2), stride=(2, 1), padding=(1, 1)),
            ops.Conv2d("double", ("max",), weight=integers(-1, 1, 5, 6, 2, 3, seed=2), stride=(1, 2), padding=(1, 1)),
            ops.Add("sum", ("double", "double")),
            ops.Conv2d("again", ("max",), weight=integers(-1, 1, 5, 6, 2, 3, seed=3), stride=(1, 2), padding=(1, 1)),
            ops.Add("stream", ("sum", "again")),
            ops.Threshold("s2", ("stream",), thresholds=plain, direction=rising, low=1),
            ops.SumPool2d("sums", ("s2",), kernel=(2, 3), stride=(1, 2), padding=(1, 1)),
            ops.Flatten("flat", ("sums",)),
            ops.Linear("wide", ("flat",), weight=integers(-1000, 1000, 4, 5 * 5 * 3, seed=4)),
            ops.Readout("scores", ("wide",), bias=torch.tensor([-70000, 0, 5, 2])),
        ]
    )  # fmt: skip


def vast():
    """Accumulators that need 64 bits, before and after a threshold, and an output that is no readout."""
    theta, direction = thresholds(3, 1, 10**9)
    return IntegerNetwork(
        [
            ops.Input("x", shape=(4,), high=300, kind="events"),
            ops.Linear("a", ("x",), weight=integers(-(2**31), 2**31, 3, 4)),
            ops.Threshold("s", ("a",), thresholds=theta, direction=direction),
            ops.Linear("b", ("s",), weight=integers(-(2**40), 2**40, 2, 3, seed=1)),
        ]
    )


NETWORKS = {"awkward": awkward, "vast": vast}


def codes_for(net, samples=20):
    return integers(net.input.low, net.input.high, samples, *net.input.shape, seed=5)


def run(net, flags=FLAGS, source=None, samples=20):
    codes = codes_for(net, samples).numpy()
    return run_c(source or c_source(net), "network", codes, net.reference(codes), net, flags)


@compiler
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("command", COMPILERS)
def test_every_option_is_exact_and_clean_under_sanitizers(name, command, monkeypatch):
    monkeypatch.setenv("CC", command)
    net = NETWORKS[name]()
    trace = net.trace(codes_for(net))
    for op in net.ops:
        if isinstance(op, ops.Threshold):
            assert len(trace[op.name].unique()) > 1  # the network is no constant
    checks = run(net, [*FLAGS[:1], "-O1", *FLAGS[3:], *SANITIZERS])
    assert [check.mismatches for check in checks] == [0, 0]
    assert all(check.ok for check in checks)
    assert all(check.runtime.startswith(command) for check in checks)
    counted = {layer.name for layer in checks[1].layers}
    assert counted == set(counted_events(net, codes_for(net).numpy()))
    assert len(counted) >= 2


@compiler
@pytest.mark.parametrize(
    ("family", "act_states", "weight_states", "signed"),
    [("mlp", 2, 2, False), ("vgg", 3, 15, True), ("resnet", 16, 3, False)],
)
def test_folded_models_verify(family, act_states, weight_states, signed, make_model, random_codes, tmp_path):
    net = fold(make_model(family, act_states, weight_states, signed=signed))
    maqd_snn.export(net, tmp_path / "network.c")
    assert {path.name for path in tmp_path.iterdir()} == {"network.c", "network.h", "network_main.c"}
    found = maqd_snn.verify(tmp_path / "network.c", net, random_codes(net, 20))
    assert found.ok
    assert (found.mismatches, found.scores, found.samples, len(found.checks)) == (0, 100, 20, 2)
    figures = found.checks[0].figures
    assert figures.items() >= c_sizes(net).items()
    if "host_static" in figures:  # the tool `size` sees the buffers that the report counts, but for alignment
        assert figures["ram_both"] <= figures["host_static"] <= figures["ram_both"] + 256
        assert figures["host_code_and_constants"] > figures["flash_weights"] + figures["flash_thresholds"]


@compiler
def test_counters_equal_the_simulators(make_model, random_codes):
    net = fold(make_model("vgg", 4, 3))
    codes = random_codes(net, 30)
    layers = {layer.name: layer for layer in maqd_snn.simulate(net, [codes]).layers}
    counted = counted_events(net, codes.numpy())
    assert "conv1" not in counted  # pixels are charged as dense
    for name, (events, effective) in counted.items():
        assert (events, effective) == (layers[name].events, layers[name].effective_synops)
        assert effective > 0


def changed(source, old, new):
    text = source.files[".c"]
    assert old in text
    files = {**source.files, ".c": text.replace(old, new, 1)}
    return Source(MappingProxyType(files), source.sizes)


@compiler
def test_a_wrong_program_is_found_out():
    net = awkward()
    source = c_source(net)
    golden = changed(source, "sum[0] + ", "sum[0] + 1 + ")
    with pytest.raises(MaqdError, match="do not run on its built-in samples: dense, sample 0: WRONG"):
        run(net, source=golden)
    codes = codes_for(net).numpy()
    expected = net.reference(codes)
    expected[3, 1] += 1
    dense, events = run_c(source, "network", codes, expected, net)
    assert (dense.mismatches, events.mismatches, dense.ok) == (1, 1, False)
    counters = changed(source, "effective++;", "effective += 2;")
    dense, events = run(net, source=counters)
    assert (dense.ok, events.ok, events.mismatches) == (True, False, 0)
    assert [layer.mismatches for layer in events.layers][:1] == [1]


@compiler
def test_each_form_alone_compiles_clean_and_runs(tmp_path):
    net = awkward()
    write_c(net, tmp_path / "a-b.c")
    for left_out, works in (("A_B_EVENTS", "dense"), ("A_B_DENSE", "events")):
        build = ["cc", *FLAGS[:1], *FLAGS[3:], f"-D{left_out}=0", "a-b.c", "a-b_main.c", "-o", "program"]
        subprocess.run(build, cwd=tmp_path, check=True)
        good = subprocess.run([tmp_path / "program", works], input=b"", capture_output=True, check=False)
        assert good.returncode == 0
        golden = subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=False)
        assert golden.returncode == 0
        assert golden.stdout.count("ok") == 2


@compiler
def test_codes_out_of_range_and_half_samples_are_refused(tmp_path):
    net = awkward()
    write_c(net, tmp_path / "network.c")
    build = ["cc", "-std=c99", "network.c", "network_main.c", "-o", "program"]
    subprocess.run(build, cwd=tmp_path, check=True)
    codes = np.zeros(net.input.shape, np.int16)
    for value, words in ((201, "a code is outside -5..200"), (-6, "a code is outside -5..200")):
        codes[1, 2, 3] = value
        done = subprocess.run([tmp_path / "program", "dense"], input=codes.tobytes(), capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (2, b"")
        assert words in done.stderr.decode()
    half = subprocess.run([tmp_path / "program", "events"], input=b"\0\0\0\0", capture_output=True, check=False)
    assert half.returncode == 2
    assert b"the input ends within a sample" in half.stderr


@pytest.mark.parametrize("suffix", [".c", ".h", "_main.c"])
def test_a_changed_file_is_not_run(suffix, tmp_path, monkeypatch):
    net = vast()
    write_c(net, tmp_path / "network.c")
    monkeypatch.setattr(c_verify, "run_c", lambda *given: pytest.fail("it was run"))
    file = tmp_path / f"network{suffix}"
    whole = file.read_text()
    for text in (whole + "\n", whole.replace("0", "1", 1), ""):
        file.write_text(text)
        with pytest.raises(MaqdError, match="is not what this version of maqd-snn writes for this network, so it is"):
            maqd_snn.verify(tmp_path / "network.c", net, codes_for(net))
    file.unlink()
    with pytest.raises(MaqdError, match=r"is missing|there is no exported file"):
        maqd_snn.verify(tmp_path / "network.c", net, codes_for(net))


def test_without_a_compiler_the_error_says_so(tmp_path, monkeypatch):
    net = vast()
    maqd_snn.export(net, tmp_path / "network.c")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match="needs a C compiler, but none of cc, gcc, clang is on the PATH"):
        maqd_snn.verify(tmp_path / "network.c", net, codes_for(net))
    monkeypatch.setenv("CC", "no-such-cc -m32")
    with pytest.raises(MissingExtraError, match="but \\$CC is 'no-such-cc', which is not there"):
        maqd_snn.verify(tmp_path / "network.c", net, codes_for(net))
    monkeypatch.setenv("CC", 'gcc"')
    with pytest.raises(MissingExtraError, match="but \\$CC is 'gcc\"': No closing quotation"):
        maqd_snn.verify(tmp_path / "network.c", net, codes_for(net))
    result = verify_file("c", tmp_path / "network.c", net, codes_for(net))
    assert result.skipped
    assert not result.failed


def test_an_existing_file_is_not_replaced(tmp_path):
    net = vast()
    (tmp_path / "network.h").write_text("mine")
    with pytest.raises(MaqdError, match="network.h' exists; remove it, give another name, or pass overwrite"):
        maqd_snn.export(net, tmp_path / "network.c")
    assert {path.name for path in tmp_path.iterdir()} == {"network.h"}
    maqd_snn.export(net, tmp_path / "network.c", overwrite=True)
    assert (tmp_path / "network.h").read_text() != "mine"


def test_all_files_are_written_or_none(tmp_path):
    net = vast()
    (tmp_path / "network_main.c").mkdir()
    with pytest.raises(MaqdError, match="network_main.c' exists"):
        maqd_snn.export(net, tmp_path / "network.c")
    with pytest.raises(MaqdError, match="network_main.c' is a folder"):
        maqd_snn.export(net, tmp_path / "network.c", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["network_main.c"]


@pytest.mark.parametrize(
    ("name", "format"), [("x.h", "c"), ("net.txt", "c"), ("b.nir", "nir-events"), ("b", "json"), ("b.JSON", "hex")]
)
def test_a_file_of_another_suffix_is_not_written(name, format, tmp_path):
    with pytest.raises(MaqdError, match=f"a file of format {format} ends in .*{name}'; give a name like 'network"):
        maqd_snn.export(vast(), tmp_path / name, format)
    assert not list(tmp_path.iterdir())


def test_what_c_cannot_hold_is_refused(tmp_path):
    with pytest.raises(MaqdError, match="a C file needs a name of plain letters"):
        maqd_snn.export(vast(), tmp_path / 'a".c')
    wide = IntegerNetwork(
        [
            ops.Input("x", shape=(1, 1, 70000)),
            ops.SumPool2d("p", ("x",), kernel=(1, 2), stride=(1, 2)),
        ]
    )
    with pytest.raises(MaqdError, match="x: images of .* are larger than 16-bit coordinates"):
        c_source(wide)
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.integers(-127, 127), min_size=1, max_size=40), st.sampled_from([1, 3, 7, 15, 127]), st.booleans())
def test_packing_is_undone_by_unpacking(values, largest, odd):
    array = np.clip(np.array(values), -largest, largest)
    array = array // 2 * 2 + 1 if odd else array
    packed = pack(array)
    if np.abs(array).max() > 127:
        assert packed is None or packed.bits == 8
    if packed is not None:
        assert unpack(packed).tolist() == array.tolist()
        assert len(packed.data) == -(-len(array) * packed.bits // 8)


@pytest.mark.parametrize(("states", "bits"), [(2, 1), (3, 2), (4, 2), (15, 4), (16, 4), (255, 8)])
def test_bits_follow_from_the_number_of_states(states, bits):
    m = states - 1 if states % 2 == 0 else states // 2
    values = np.arange(-m, m + 1, 2 if states % 2 == 0 else 1)
    assert len(values) == states
    assert pack(values).bits == bits
