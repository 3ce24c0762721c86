"""The benchmark of training steps, small."""

import re

import pytest
import torch
import torch.nn.functional as F

from maqd_snn import MaqdError
from maqd_snn.benchmarks import train
from maqd_snn.benchmarks.train_networks import NETWORKS, Setting

SMALL = Setting("4-M-6", 8, 3, "cpu")


def test_a_quick_call_measures_what_it_is_asked_for(capsys):
    assert train.main(["--quick", "--only", "fp32,fp32-float,products,twin"]) == 0
    said = capsys.readouterr().out
    for name in ("fp32", "fp32-float", "products", "twin"):
        (row,) = [line for line in said.splitlines() if line.startswith(f"| {NETWORKS[name].text} | ")]
        assert re.fullmatch(r"[0-9.]+", row.split(" | ")[1])
    assert "| fp32 compiled / float twin eager | not measured | 0.95 | |" in said


def test_an_unknown_network_names_the_choices():
    with pytest.raises(MaqdError, match=r"unknown network 'int8'.*fp32-float"):
        train.main(["--quick", "--only", "int8"])


def test_products_alone_are_all_products_of_a_step():
    """Each weight's gradient is that of the fixed gradient of its sums; the twin has the same convolutions."""
    ready = NETWORKS["products"].make(SMALL)
    weights = list(ready.module.parameters())
    assert [tuple(w.shape) for w in weights] == [(4, 3, 3, 3), (6, 4, 3, 3)]
    logits = ready.forward(ready.inputs)
    ctx = logits.grad_fn
    F.cross_entropy(logits, SMALL.labels()).backward()
    for x, of_z, weight in zip(ctx.inputs, ctx.grads, weights, strict=True):
        expected = torch.nn.grad.conv2d_weight(x, weight.shape, of_z, padding=1)
        torch.testing.assert_close(weight.grad, expected)


def test_what_a_gpu_would_measure_twice_is_left_out():
    gpu = Setting("4-M-6", 8, 3, "cuda")
    assert "the same as fp32" in str(NETWORKS["fp32-float"].missing(gpu))
    assert NETWORKS["fp32"].missing(gpu) is None
