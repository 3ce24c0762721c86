"""The training forward in every precision against the model's own."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from maqd_snn import MaqdError
from maqd_snn.layers import QuantizedProduct
from maqd_snn.normalization import FoldableNorm
from maqd_snn.tape import Convolution, Operands
from maqd_snn.training.precision import PRECISIONS, TrainingForward, prepare
from maqd_snn.winograd import pays


def test_fp32_is_the_models_own_training_forward(make_model, random_codes) -> None:
    model, twin = (make_model("vgg", 2, 3).train() for _ in range(2))
    codes = random_codes(model)
    torch.testing.assert_close(prepare(model, "fp32")(codes), twin(codes))


def test_an_unknown_precision_lists_the_choices(make_model) -> None:
    with pytest.raises(MaqdError, match="bf16-mixed"):
        prepare(make_model("mlp", 2, 3), "fp8")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_watched_step_names_every_node_and_reaches_every_parameter(make_model, random_codes, precision) -> None:
    model = make_model("vgg", 2, 3).train()
    seen: dict[str, torch.Tensor] = {}
    logits = prepare(model, precision)(random_codes(model), seen.__setitem__)
    assert logits.dtype == torch.float32
    assert set(seen) == {"input", *model.names}
    logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_without_a_compiler_the_steps_run_as_they_are_and_say_so(tmp_path, monkeypatch, capsys) -> None:
    from maqd_snn.datasets import load_splits
    from maqd_snn.training import Recipe, fit, loop

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be compiled here")

    monkeypatch.setattr(loop, "cpp_compiler", lambda: None)
    monkeypatch.setattr(torch, "compile", refuse)
    recipe = Recipe("small", "digits", plan="4-M-8", max_steps=2, compile=True)
    fit(recipe, load_splits("digits"), tmp_path)
    assert "no C++ compiler was found: the steps run uncompiled" in capsys.readouterr().err


def test_statistics_of_several_processes_run_uncompiled_and_say_so(tmp_path, monkeypatch, capsys) -> None:
    from maqd_snn.datasets import load_splits
    from maqd_snn.training import Recipe, fit, loop

    monkeypatch.setattr(loop, "cpp_compiler", lambda: "c++")
    monkeypatch.setattr(TrainingForward, "runs_compiled", property(lambda self: False))
    fit(Recipe("small", "digits", plan="4-M-8", max_steps=2, compile=True), load_splits("digits"), tmp_path)
    assert "statistics of several processes: the steps run uncompiled" in capsys.readouterr().err


def test_the_compiler_that_torch_would_use_is_found_or_is_not() -> None:
    import shutil

    from torch._inductor import config

    from maqd_snn.training.precision import cpp_compiler

    if shutil.which("g++"):
        assert cpp_compiler() is not None
    with config.patch({"cpp.cxx": ("no-such-compiler",)}):  # undone by itself; monkeypatch would delete the setting
        assert cpp_compiler() is None


@pytest.mark.parametrize("outputs", [20, 40], ids=["direct", "winograd"])
def test_what_is_rounded_for_bfloat16(outputs: int) -> None:
    """Operands and results are; the sums between them, of integers, are exact."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 4, (3, 80, 6, 5), generator=generator, dtype=torch.uint8)
    q = torch.randint(-3, 4, (outputs, 80, 3, 3), generator=generator, dtype=torch.int8)
    grad = torch.randint(-300, 300, (3, outputs, 6, 5), generator=generator).float()
    winograd = pays((80, outputs), (3, 3), (1, 1), (1, 1))
    assert winograd == (outputs == 40)
    numbers = Operands(rounded=True)
    step = Convolution("conv", (1,), (0,), padding=(1, 1), numbers=numbers, kernel=(3, 3), winograd=winograd)
    (z, _), ((of_x,), (of_q,)) = step.forward([x], [q]), step.backward(grad, [x], (), [q])
    rounded = grad.to(torch.bfloat16).double()
    assert not torch.equal(rounded, grad.double())
    layout = (None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, (True, True, False))
    truth = torch.ops.aten.convolution_backward(rounded, x.double(), q.double(), *layout)
    for ours, exact in ((z, F.conv2d(x.double(), q.double(), padding=1)), (of_x, truth[0]), (of_q, truth[1])):
        assert torch.equal(ours, exact.to(torch.bfloat16).float())
        assert not torch.equal(ours.double(), exact)


def test_a_cpu_without_bfloat16_rounds_instead(make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    for has in (True, False):
        monkeypatch.setattr("maqd_snn.training.precision.cpu_has_bfloat16", lambda has=has: has)
        run = prepare(make_model("vgg", 2, 3), "bf16-mixed")
        assert run.operands_on("cpu") == (Operands(torch.bfloat16) if has else Operands(rounded=True))
        assert run.operands_on("cuda") == Operands(torch.bfloat16)


@pytest.mark.parametrize("has", [True, False], ids=["instructions", "rounding"])
@pytest.mark.parametrize(
    ("family", "plan"), [("mlp", "24-16"), ("vgg", "8-8-M-16-S")], ids=["matrix products", "convolutions"]
)
def test_the_rounded_share_is_of_the_sums_before_they_are_rounded(
    make_model, random_codes, monkeypatch, has, family, plan
) -> None:
    """Of the first product the fp32 step shows the same sums; the last product is never in bfloat16."""
    monkeypatch.setattr("maqd_snn.training.precision.cpu_has_bfloat16", lambda: has)
    model, twin = (make_model(family, 2, 3, plan=plan).train() for _ in range(2))
    codes, seen, exact = random_codes(model), {}, {}
    run = prepare(model, "bf16-mixed")
    run(codes, seen.__setitem__)
    prepare(twin)(codes, exact.__setitem__)
    *products, last = [name for name in model.names if isinstance(model.part(name), QuantizedProduct)]
    assert list(run.rounded_shares) == products
    assert last not in run.rounded_shares
    sums = exact[products[0]]
    assert torch.equal(seen[products[0]], sums.to(torch.bfloat16).float())
    changed = float((seen[products[0]] != sums).float().mean())
    assert run.rounded_shares[products[0]] == pytest.approx(changed)
    assert 0 < changed < float((sums.abs() > 256).float().mean())


@pytest.mark.parametrize(("act_states", "weight_states"), [(2, 3), (4, 2), (16, 15)])
@pytest.mark.parametrize("image", [(3, 8, 8, 100), (1, 8, 8, 0), (1, 9, 7, 100)], ids=str)
@pytest.mark.parametrize("family", ["vgg", "resnet"])
def test_eight_bits_change_no_bit(make_model, random_codes, family, image, act_states, weight_states) -> None:
    *shape, zero_point = image
    options = {"input_shape": tuple(shape), "zero_point": zero_point}
    options |= {"plan": "8-8-M-16"} if family == "vgg" else {}
    model = make_model(family, act_states, weight_states, **options).train()
    codes, found = random_codes(model), []
    for precision in ("fp32", "fp32-float"):
        run = copy.deepcopy(prepare(model, precision))
        eight_bits = [step for step in run.tape().steps if getattr(step, "int8", False)]
        assert bool(eight_bits) == (precision == "fp32")
        logits = run(codes)
        logits.square().sum().backward()
        found.append([logits, *(p.grad for p in run.model.parameters()), *run.model.buffers()])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "fp32-float"])
def test_in_other_precisions_no_sum_is_rounded(make_model, random_codes, precision) -> None:
    model = make_model("vgg", 2, 3).train()
    run = prepare(model, precision)
    run(random_codes(model), lambda *_: None)
    assert run.rounded_shares == {}


def test_whether_steps_run_compiled_can_be_asked(make_model) -> None:
    """Statistics of several processes are not compiled, at no time before the first step either."""
    model = make_model("vgg", 2, 3, norm="batchnorm").train()
    run = prepare(model, compiled=True)
    assert run.runs_compiled
    assert not prepare(model).runs_compiled
    for module in model.modules():
        if isinstance(module, FoldableNorm):
            module.sum_over_processes = lambda x: x
    assert not run.runs_compiled


def test_eight_bits_are_for_the_cpu(make_model, monkeypatch) -> None:
    run = prepare(make_model("vgg", 2, 3), "fp32")
    assert run.operands_on("cpu") == Operands(int8=True)
    assert run.operands_on("cuda") == Operands()
    assert any(getattr(step, "int8", False) for step in run.tape().steps)
    monkeypatch.setattr(TrainingForward, "device_type", "cuda")  # as if it had been moved
    assert not any(getattr(step, "int8", False) for step in run.tape().steps)


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")
def test_compiled_code_rounds_too() -> None:
    """Of a conversion to bfloat16 and back a compiler may make nothing."""
    numbers, x = Operands(rounded=True), torch.linspace(0, 3, 100)
    compiled = torch.compile(lambda x: numbers.give(numbers.take(x) + 1), fullgraph=True)
    assert torch.equal(compiled(x), numbers.give(numbers.take(x) + 1))
    assert not torch.equal(numbers.take(x), x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_one_process_compiles_any_number_of_networks(make_model, random_codes, monkeypatch) -> None:
    """Each beside those before it, which stay compiled; the compiler of torch stops at eight of one code."""
    compile_, traced = torch.compile, []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        traced.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda f, fullgraph, **_: compile_(f, fullgraph=fullgraph, backend=backend))
    torch.compiler.reset()
    runs = []
    with torch.no_grad():
        for width in range(8, 17):
            model = make_model("mlp", 2, 3, plan=str(width)).train()
            codes, run = random_codes(model), prepare(model, compiled=True)
            runs.append((run, codes, run(codes)))
            assert torch.equal(runs[-1][2], prepare(model)(codes))
        assert len(traced) == 2 * len(runs)  # operands and forward
        for run, codes, logits in runs:
            assert torch.equal(run(codes), logits)
    assert len(traced) == 2 * len(runs)
