"""NIR verification: faults are found, damaged and hostile files are refused, known importer faults are worked round."""

import io
import json
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from maqd_snn import MaqdError, fold
from maqd_snn.errors import MissingExtraError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.neuromorphic import Check, export, nir_runtimes, nir_verify
from maqd_snn.neuromorphic import verify as verify_file
from maqd_snn.neuromorphic.nir_export import write_nir, write_nir_graded
from maqd_snn.neuromorphic.nir_runtimes import NIR_RUNTIMES
from maqd_snn.neuromorphic.nir_verify import levels, verify_nir

nir = pytest.importorskip("nir")
snntorch = pytest.importorskip("snntorch")


@pytest.fixture
def net(make_model: Callable[..., Any]) -> IntegerNetwork:
    return fold(make_model("vgg", 3, 3))


@pytest.fixture
def path(net: IntegerNetwork, tmp_path: Path) -> Path:
    written = tmp_path / "net.nir"
    write_nir(net, written)
    return written


@pytest.fixture
def verify(
    net: IntegerNetwork, path: Path, random_codes: Callable[..., torch.Tensor]
) -> Callable[[], dict[str, Check]]:
    codes = random_codes(net, 8).numpy()
    return lambda: by_runtime(path, codes, net.reference(codes), net)


def by_runtime(path: Path, codes: Any, expected: Any, net: IntegerNetwork) -> dict[str, Check]:
    """Return the checks of a file by the names of the runtimes."""
    return dict(zip(NIR_RUNTIMES, verify_nir(path, codes, expected, net), strict=True))


def change(path: Path, field: str, function: Callable[[Any], Any]) -> None:
    """Replace one dataset of the file, named from /node/nodes on."""
    with h5py.File(path, "r+") as file:
        value = file["node/nodes"][field][()]
        del file["node/nodes"][field]
        file["node/nodes"][field] = function(value)


def node(path: Path, op: str, role: str) -> str:
    with h5py.File(path) as file:
        notes = json.loads(file["node/metadata/nodes"][()])
    (name,) = (name for name, note in notes.items() if (note["op"], note["role"]) == (op, role))
    return name


def node_in(file: h5py.File, op: str) -> str:
    return next(name for name in file["node/nodes"] if name.endswith(op))


def test_a_written_file_verifies(verify: Callable[[], dict[str, Check]]) -> None:
    checks = verify()
    assert {"snntorch", "spikingjelly", "interpreter"} <= {name for name, check in checks.items() if check.ok}
    for check in checks.values():
        if check.ran:
            assert check.ok
            assert (check.samples, check.scores, check.mismatches) == (8, 40, 0)
            assert [layer.name for layer in check.layers] == ["spike1", "spike2", "pool2", "spike3"]
            assert [layer.values for layer in check.layers] == [8 * 8 * 64, 8 * 8 * 64, 8 * 8 * 16, 8 * 16 * 16]


def test_the_public_functions_write_and_verify_nir(
    net: IntegerNetwork, tmp_path: Path, random_codes: Callable[..., torch.Tensor]
) -> None:
    export(net, tmp_path / "public.nir")
    assert verify_file(tmp_path / "public.nir", net, random_codes(net, 4)).ok


def test_one_wrong_class_bias_is_one_mismatch_per_sample(path: Path, verify: Callable[[], dict[str, Check]]) -> None:
    change(path, node(path, "classifier", "Linear") + "/bias", lambda bias: bias + np.eye(5, dtype=np.float32)[2])
    for check in verify().values():
        if check.ran:
            assert not check.ok
            assert (check.mismatches, check.largest_difference) == (8, 1.0)
            assert not any(layer.mismatches for layer in check.layers)


@pytest.mark.parametrize(
    ("op", "role", "field", "wrong"),
    [
        ("spike2", "drive", "bias", lambda bias: bias + 1),  # thresholds off by one
        ("pool2", "drive", "bias", lambda bias: bias - 1),  # spikes where two of the window fire, not one
        ("spike1", "Threshold", "v_threshold", lambda theta: theta + 500),
        ("conv2", "Conv2d", "weight", lambda weight: weight[::-1].copy()),
        ("spike1", "levels", "weight", lambda weight: np.roll(weight, 1, axis=1)),  # copies of a neighbour
    ],
)
def test_faults_in_hidden_layers_are_found(
    op: str,
    role: str,
    field: str,
    wrong: Callable[[Any], Any],
    path: Path,
    verify: Callable[[], dict[str, Check]],
) -> None:
    change(path, f"{node(path, op, role)}/{field}", wrong)
    checks = [check for check in verify().values() if check.ran]
    assert len(checks) >= 3
    wrong = [layer.mismatches for layer in checks[0].layers]
    names = [layer.name for layer in checks[0].layers]
    # The first layer that differs is the one that was changed, or the next where its own spikes are right.
    first = next(name for name, count in zip(names, wrong, strict=True) if count)
    assert first == ("spike2" if (op, role) in (("conv2", "Conv2d"), ("spike1", "levels")) else op)
    for check in checks:
        assert check.mismatches > 0
        assert not check.ok
        assert check.mismatches == checks[0].mismatches
        assert [layer.mismatches for layer in check.layers] == wrong


def test_another_networks_file_is_refused(
    path: Path, net: IntegerNetwork, make_model: Callable[..., Any], random_codes: Callable[..., torch.Tensor]
) -> None:
    other = fold(make_model("mlp", 2, 3))
    codes = random_codes(other, 2).numpy()
    with pytest.raises(
        MaqdError, match=r"takes inputs of shape \(3, 8, 8\), expected \(1, 5, 4\): it is of another network"
    ):
        verify_nir(path, codes, other.reference(codes), other)
    codes = random_codes(net, 2).numpy()
    with pytest.raises(
        MaqdError, match=r"class scores of shape \(2, 5\), expected \(2, 3\).*not exported from this net"
    ):
        verify_nir(path, codes, net.reference(codes)[:, :3], net)


@pytest.mark.parametrize("keep", [0, 10, 700, 5000, -1])
def test_a_truncated_file_is_refused(keep: int, path: Path, verify: Callable[[], dict[str, Check]]) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MaqdError, match=r"net\.nir' is damaged, truncated or no NIR file that can be run \(") as error:
        verify()
    assert "\n" not in str(error.value)


def test_damaged_weights_are_refused(path: Path, verify: Callable[[], dict[str, Check]]) -> None:
    with h5py.File(path) as file:
        stored = file[f"node/nodes/{node_in(file, 'classifier')}/weight"].id.get_chunk_info(0)
    whole = path.read_bytes()
    for position in range(stored.byte_offset, stored.byte_offset + stored.size, stored.size // 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(MaqdError, match="damaged, truncated or no NIR file"):
            verify()


def test_a_reason_of_many_lines_is_told_in_one(
    verify: Callable[[], dict[str, Check]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(nir_verify, "read_nir", fail)
    with pytest.raises(MaqdError, match=r"\(first line\)$"):
        verify()


def relink(file: h5py.File, name: str, link: Any) -> None:
    del file[name]
    file[name] = link


def virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout(shape=(5,), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=(5,))
    del file[name]
    file.create_virtual_dataset(name, layout)


def external(file: h5py.File, name: str) -> None:
    del file[name]
    file.create_dataset(name, (5,), "f4", external=[("/etc/passwd", 0, 20)])


def enormous(file: h5py.File, name: str) -> None:
    del file[name]
    file.create_dataset(name, (2**40,), "f4", chunks=(2**20,), compression="gzip")


def doubled(file: h5py.File, name: str) -> None:
    file["node/metadata/again"] = file["node/nodes"]


def renamed(file: h5py.File, name: str) -> None:
    code = '"), __import__("os").abort(), ("'
    file["node/nodes"].move("000_input", code)
    edges = [[code.encode() if end == b"000_input" else end for end in edge] for edge in file["node/edges"][()]]
    relink(file, "node/edges", np.array(edges, dtype=object))


def unknown(file: h5py.File, name: str) -> None:
    relink(file, "node/nodes/000_input/type", "Bomb")


def scale(file: h5py.File, name: str) -> None:
    group = file.create_group("node/nodes/scale")
    group["type"], group["scale"] = "Scale", np.ones((3, 8, 8), np.float32)
    relink(file, "node/edges", np.array([*file["node/edges"][()], [b"scale", b"001_conv1"]], dtype=object))


def padded(file: h5py.File, name: str) -> None:
    # The stride brings the output back to 8 x 8.
    relink(file, "node/nodes/001_conv1/padding", np.array([2**20, 2**20]))
    relink(file, "node/nodes/001_conv1/stride", np.array([299593, 299593]))


def large(file: h5py.File, name: str) -> None:
    zeros = {"graph": nir.Input({"input": np.array([3, 8, 8])})}
    weight = np.zeros((1, 3, 3, 3), np.float32)
    zeros["conv"] = nir.Conv2d((8, 8), weight, 1, (2**20, 2**20), 1, 1, np.zeros(1, np.float32))
    zeros["output"] = nir.Output({"output": zeros["conv"].output_type["output"]})
    graph = nir.NIRGraph(zeros, [("graph", "conv"), ("conv", "output")])
    stream = io.BytesIO()
    nir.write(stream, graph)
    del file["node"]
    with h5py.File(stream) as source:
        source.copy("node", file)


def two_outputs(file: h5py.File, name: str) -> None:
    group = file.create_group("node/nodes/more")
    group["type"], group["shape"] = "Output", np.array([3, 8, 8])
    relink(file, "node/edges", np.array([*file["node/edges"][()], [b"000_input", b"more"]], dtype=object))


def cyclic(file: h5py.File, name: str) -> None:
    # Two nodes that feed each other and the classifier: an importer that waits for their inputs would never end.
    last = file[name].parent.name.rsplit("/", 1)[1].encode()
    for copy in ("x", "y"):
        group = file.create_group(f"node/nodes/{copy}")
        size = file["node/nodes"][last]["weight"].shape[1]
        group["type"], group["weight"] = "Affine", np.eye(size, dtype=np.float32)
        group["bias"] = np.zeros(size, np.float32)
    edges = [*file["node/edges"][()], [b"x", b"y"], [b"y", b"x"], [b"y", last]]
    relink(file, "node/edges", np.array(edges, dtype=object))


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda file, name: relink(file, name, h5py.SoftLink("/node/edges")), "'bias' is a link"),
        (lambda file, name: relink(file, name, h5py.ExternalLink("other.h5", "/x")), "'bias' is a link"),
        (lambda file, name: relink(file, name, h5py.Empty("f4")), "'bias' is no plain dataset"),
        (lambda file, name: relink(file, name, np.dtype("f4")), "'bias' is no plain dataset"),
        (virtual, "'bias' is no plain dataset"),
        (external, "'bias' is no plain dataset"),
        (enormous, "it claims [0-9]{13} bytes, more than the file can hold"),
        (doubled, "is linked twice"),
        (renamed, "node name .* has characters other than letters, digits"),
        (unknown, "damaged, truncated or no NIR file"),
        (scale, "node 'scale' is a Scale; expected only Input, Output, Affine"),
        (padded, "node '001_conv1' has padding as wide as its kernel"),
        (large, "node 'conv' has [0-9]{13} outputs; expected 1..1024, what this network can need"),
        (two_outputs, "expected one Input and one Output, got 1 and 2"),
        (cyclic, "cycle"),
        (lambda file, name: relink(file, name, np.zeros(5, "S3")), "damaged, truncated or no NIR file"),
        (lambda file, name: relink(file, name, np.zeros(4, "f4")), r"a bias \(4,\) do not fit inputs"),
        (lambda file, name: relink(file, "node", 3), "damaged, truncated or no NIR file"),
    ],
)
def test_hostile_files_are_refused(
    attack: Callable[[h5py.File, str], None], message: str, path: Path, verify: Callable[[], dict[str, Check]]
) -> None:
    with h5py.File(path, "r+") as file:
        attack(file, f"node/nodes/{node_in(file, 'classifier')}/bias")
    with pytest.raises(MaqdError, match=message) as error:
        verify()
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("pool", "fault"),
    [
        (ops.SumPool2d("pool", ("in",), (2, 2), (2, 2), (1, 1)), "ignores the padding of the SumPool2d 'pool'"),
        (
            ops.SumPool2d("pool", ("in",), (5, 5), (5, 5)),
            "rounds in the SumPool2d 'pool', whose area 25 is no power of",
        ),
    ],
)
def test_a_pool_that_the_importer_runs_wrongly_is_run_by_our_interpreter(
    pool: ops.SumPool2d, fault: str, tmp_path: Path
) -> None:
    net = IntegerNetwork([ops.Input("in", shape=(1, 10, 10)), pool, ops.Flatten("flat", ("pool",))])
    codes = np.random.default_rng(0).integers(0, 256, (400, 1, 10, 10))
    expected = net.reference(codes)
    shape = np.array(net.shapes["pool"])
    graph = nir.NIRGraph(
        {
            "input": nir.Input({"input": np.array([1, 10, 10])}),
            "pool": nir.SumPool2d(*(np.array(pair) for pair in (pool.kernel, pool.stride, pool.padding))),
            "flat": nir.Flatten({"input": shape}, 0, -1),
            "output": nir.Output({"output": np.array([shape.prod()])}),
        },
        [("input", "pool"), ("pool", "flat"), ("flat", "output")],
    )
    nir.write(tmp_path / "a.nir", graph)
    checks = by_runtime(tmp_path / "a.nir", codes, expected, net)
    assert [name for name, check in checks.items() if check.ran] == ["interpreter"]
    assert checks["interpreter"].ok
    for name in ("snntorch", "spikingjelly"):
        assert checks[name].problem.startswith(f"its importer {fault}")
        assert not checks[name].failed
    # It is indeed wrong there: should this fail, the importer was mended and the rule can go.
    model = snntorch.import_nir.import_from_nir(graph)
    got = torch.stack([model(torch.tensor(sample, dtype=torch.float32))[0].flatten() for sample in codes])
    assert got.shape != expected.shape or (got.numpy() != expected).any()
    # And the export avoids it.
    write_nir(net, tmp_path / "b.nir")
    checks = by_runtime(tmp_path / "b.nir", codes[:20], expected[:20], net)
    assert checks["snntorch"].ok
    assert checks["spikingjelly"].ok


def test_neurons_with_thresholds_of_their_own_are_run_by_our_interpreter(
    path: Path, verify: Callable[[], dict[str, Check]]
) -> None:
    name = node(path, "spike1", "Threshold")
    change(path, f"{name}/r", lambda r: 2 * r)
    change(path, f"{name}/v_threshold", lambda theta: 2 * theta)
    checks = verify()
    assert checks["interpreter"].ok
    for foreign in ("snntorch", "spikingjelly"):
        assert (
            checks[foreign].problem == f"its importer needs r = 1 and one threshold for all neurons of the IF {name!r}"
        )


def test_the_process_is_left_as_it_was(
    verify: Callable[[], dict[str, Check]], capsys: pytest.CaptureFixture[str]
) -> None:
    before, threads = len(snntorch.SpikingNeuron.instances), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        verify()
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert len(snntorch.SpikingNeuron.instances) == before
    assert capsys.readouterr().out == ""


def test_a_missing_package_names_its_extra(
    verify: Callable[[], dict[str, Check]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("spikingjelly.activation_based.nir_exchange", "norse.torch.utils.import_nir"):
        monkeypatch.setitem(sys.modules, module, None)
    checks = verify()
    assert checks["snntorch"].ok
    assert checks["spikingjelly"].problem == "not installed; pip install --no-deps spikingjelly, and pip install loguru"
    assert not checks["spikingjelly"].failed
    monkeypatch.setitem(sys.modules, "snntorch.import_nir", None)
    words = r"needs the package 'snntorch'; install it with: pip install 'maqd-snn\[snntorch\]'"
    with pytest.raises(MissingExtraError, match=words):
        verify()
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(
        MissingExtraError, match=r"needs the package 'nir'; install it with: pip install 'maqd-snn\[nir\]'"
    ):
        verify()


def test_a_runtime_that_breaks_has_failed_and_the_others_go_on(
    verify: Callable[[], dict[str, Check]], monkeypatch: pytest.MonkeyPatch, net: IntegerNetwork, path: Path
) -> None:
    def broken(*given: Any, **options: Any) -> None:
        raise RuntimeError("no such layer\nas this")

    monkeypatch.setattr(snntorch.import_nir, "import_from_nir", broken)
    checks = verify()
    assert (checks["snntorch"].ran, checks["snntorch"].failed) == (False, True)
    assert checks["snntorch"].problem == "refuses the file: no such layer"
    assert checks["spikingjelly"].ok
    assert not verify_file(path, net, torch.zeros(2, 3, 8, 8, dtype=torch.int64)).ok


def test_norse_is_not_given_branches_that_join(
    make_model: Callable[..., Any], random_codes: Callable[..., torch.Tensor], tmp_path: Path
) -> None:
    norse = pytest.importorskip("norse.torch.utils.import_nir")
    residual = fold(make_model("resnet", 2, 3))
    codes = random_codes(residual, 8).numpy()
    write_nir(residual, tmp_path / "r.nir")
    checks = by_runtime(tmp_path / "r.nir", codes, residual.reference(codes), residual)
    assert checks["norse"].problem.startswith("its importer drops a branch where two join, as in ")
    assert checks["snntorch"].ok
    assert checks["spikingjelly"].ok
    # It does drop one: should this fail, the importer was mended and the rule can go.
    graph = nir.NIRGraph(
        {
            "input": nir.Input({"input": np.array([1])}),
            "a": nir.Affine(np.ones((1, 1), np.float32), np.zeros(1, np.float32)),
            "b": nir.Affine(2 * np.ones((1, 1), np.float32), np.zeros(1, np.float32)),
            "sum": nir.Affine(np.ones((1, 1), np.float32), np.zeros(1, np.float32)),
            "output": nir.Output({"output": np.array([1])}),
        },
        [("input", "a"), ("input", "b"), ("a", "sum"), ("b", "sum"), ("sum", "output")],
    )
    with pytest.warns(DeprecationWarning, match="nirtorch"):
        module = norse.from_nir(graph)
    assert float(module(torch.ones(1, 1))[0].detach()) != 3


def test_signed_spikes_are_summed_to_levels() -> None:
    spikes = torch.tensor([[[1.0], [0.0], [1.0], [0.0], [1.0], [1.0]]])  # two units of three neurons, one position
    assert levels(spikes, (-1, 1, 1)).tolist() == [[[0.0], [2.0]]]


def test_notes_that_do_not_fit_are_not_believed(
    path: Path, net: IntegerNetwork, verify: Callable[[], dict[str, Check]]
) -> None:
    for text in (
        "[]",
        "{",
        "null",
        '{"003_spike1": {"op": "spike1", "signs": [1, 1, 1]}}',
        '{"x": {"op": 1, "signs": 2}}',
    ):
        with h5py.File(path, "r+") as file:
            relink(file, "node/metadata/nodes", text)
        checks = verify()
        assert checks["snntorch"].ok
        assert checks["snntorch"].layers == ()


@pytest.fixture
def graded(net: IntegerNetwork, tmp_path: Path) -> Path:
    written = tmp_path / "graded.nir"
    write_nir_graded(net, written)
    return written


@pytest.fixture
def verify_graded(
    net: IntegerNetwork, graded: Path, random_codes: Callable[..., torch.Tensor]
) -> Callable[[], dict[str, Check]]:
    codes = random_codes(net, 8).numpy()
    return lambda: by_runtime(graded, codes, net.reference(codes), net)


def test_the_graded_form_is_run_by_our_interpreter_alone(
    verify_graded: Callable[[], dict[str, Check]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(nir_runtimes, "version", missing)  # they need not be installed
    checks = verify_graded()
    for name in ("snntorch", "spikingjelly", "norse"):
        assert checks[name].problem.startswith("it does not know the graded form: its IF gives 0 or 1")
        assert (checks[name].ran, checks[name].failed, checks[name].format) == (False, False, "nir-graded")
    ours = checks["interpreter"]
    assert ours.ok
    assert (ours.format, ours.scores, ours.mismatches) == ("nir-graded", 40, 0)
    assert [layer.name for layer in ours.layers] == ["spike1", "spike2", "pool2", "spike3"]
    assert [layer.values for layer in ours.layers] == [8 * 8 * 64, 8 * 8 * 64, 8 * 8 * 16, 8 * 16 * 16]


@pytest.mark.parametrize("act_states", [2, 3, 4, 16])
@pytest.mark.parametrize("family", ["mlp", "vgg", "resnet"])
def test_graded_files_of_models_verify(
    family: str,
    act_states: int,
    make_model: Callable[..., Any],
    random_codes: Callable[..., torch.Tensor],
    tmp_path: Path,
) -> None:
    for signed in (False, True):
        net = fold(make_model(family, act_states, 15, signed=signed))
        path = tmp_path / f"{signed}.nir"
        export(net, path, "nir-graded")
        record = verify_file(path, net, random_codes(net, 24))
        assert record.ok
        assert (record.format, record.runtime) == ("nir-graded", "maqd-snn NIR interpreter")
        assert len(record.ran[0].layers) >= 2
        assert "does not know the graded form" in record.note


@pytest.mark.parametrize(
    ("op", "field", "wrong"),
    [
        ("spike2", "thresholds and v_threshold", 1),  # thresholds off by one
        ("spike1", "metadata/low", lambda low: low + 1),
        ("spike3", "r", lambda r: -r),
        ("conv2", "weight", lambda weight: weight[::-1].copy()),
    ],
)
def test_faults_in_graded_files_are_found(
    op: str, field: str, wrong: Any, graded: Path, verify_graded: Callable[[], dict[str, Check]]
) -> None:
    role = "Conv2d" if op == "conv2" else "Threshold"
    if callable(wrong):
        change(graded, f"{node(graded, op, role)}/{field}", wrong)
    else:
        for name in ("metadata/thresholds", "v_threshold"):
            change(graded, f"{node(graded, op, role)}/{name}", lambda values: values + values.dtype.type(wrong))
    check = verify_graded()["interpreter"]
    assert check.ran
    assert not check.ok
    first = next(layer.name for layer in check.layers if layer.mismatches)
    assert first == ("spike2" if op == "conv2" else op)


@pytest.mark.parametrize(
    ("field", "function", "message"),
    [
        ("v_threshold", lambda theta: theta + 1, "needs rising thresholds, the first of them less 1/2 as v_threshold"),
        ("metadata/thresholds", lambda t: np.stack([t[:, 0], t[:, 0] - 1], 1), "needs rising thresholds"),
        ("r", lambda r: 2 * r, "v_threshold, r of 1 or -1"),
        (
            "metadata/thresholds",
            lambda t: t.astype(np.float32),
            r"needs metadata of whole numbers.*\(8, 2\) of float32",
        ),
        (
            "metadata/thresholds",
            lambda t: t[:4],
            r"thresholds \(8, levels\); got low of int64, levels of int64, thresholds \(4, 2\)",
        ),
        ("metadata/thresholds", lambda t: "[[1, 2]]", "needs metadata of whole numbers"),
        ("metadata/low", lambda low: "0", "needs metadata of whole numbers"),
        ("metadata/low", lambda low: np.zeros(8, int), "needs metadata of whole numbers"),
        ("metadata/levels", lambda n: 3, "needs metadata of whole numbers"),
        ("metadata/levels", lambda n: 2.0, "levels of float64"),
    ],
)
def test_a_damaged_graded_neuron_is_refused(
    field: str,
    function: Callable[[Any], Any],
    message: str,
    graded: Path,
    verify_graded: Callable[[], dict[str, Check]],
) -> None:
    change(graded, f"{node(graded, 'spike1', 'Threshold')}/{field}", function)
    with pytest.raises(MaqdError, match=message) as error:
        verify_graded()
    assert "\n" not in str(error.value)
    assert str(graded) in str(error.value)


def test_a_graded_neuron_without_levels_is_refused(graded: Path, verify_graded: Callable[[], dict[str, Check]]) -> None:
    name = node(graded, "spike1", "Threshold")
    with h5py.File(graded, "r+") as file:
        del file[f"node/nodes/{name}/metadata/levels"]
    with pytest.raises(MaqdError, match=r"graded\.nir' cannot be verified as NIR: a graded IF needs metadata"):
        verify_graded()


@pytest.mark.parametrize("keep", [0, 700, 5000, -1])
def test_a_truncated_graded_file_is_refused(
    keep: int, graded: Path, verify_graded: Callable[[], dict[str, Check]]
) -> None:
    graded.write_bytes(graded.read_bytes()[:keep])
    with pytest.raises(MaqdError, match=r"graded\.nir' is damaged, truncated or no NIR file"):
        verify_graded()
