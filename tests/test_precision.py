"""The training forward in every precision against the model's own."""

import pytest
import torch

from maqd_snn import MaqdError
from maqd_snn.training.precision import PRECISIONS, prepare


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


def test_the_compiler_that_torch_would_use_is_found_or_is_not(monkeypatch) -> None:
    import shutil

    from torch._inductor import config

    from maqd_snn.training.precision import cpp_compiler

    if shutil.which("g++"):
        assert cpp_compiler() is not None
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    assert cpp_compiler() is None
