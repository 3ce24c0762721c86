"""The benchmark of training steps, small."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from maqd_snn import MaqdError
from maqd_snn.benchmarks import train
from maqd_snn.benchmarks.train_networks import NETWORKS, Setting

SMALL = Setting("4-M-6", 8, 3, "cpu")


def test_a_quick_call_measures_what_it_is_asked_for(capsys):
    assert train.main(["--quick", "--only", "fp32,fp32-float,products,twin"]) == 0
    said = capsys.readouterr().out
    for name in ("fp32", "fp32-float", "products", "twin"):
        (row,) = [line for line in said.splitlines() if line.startswith(f"| {NETWORKS[name].text} | ")]
        _, ms, _, *memory = row.split(" | ")
        assert re.fullmatch(r"[0-9]+", ms)
        assert all(re.fullmatch(r"[0-9.]+", cell.strip(" |")) for cell in memory) == (name != "products")
    assert "| fp32 compiled / float twin eager | not measured | 0.95 | |" in said


def test_an_unknown_network_names_the_choices():
    with pytest.raises(MaqdError, match=r"unknown network 'int8'.*fp32-float"):
        train.main(["--quick", "--only", "int8"])


class Calls(TorchDispatchMode):
    """The shapes of convolutions, forward and backward, there with the gradients asked for: inputs, weights, biases."""

    def __init__(self) -> None:
        super().__init__()
        self.forward, self.backward = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.forward.append((args[0].shape, args[1].shape))
        if func is torch.ops.aten.convolution_backward.default:
            self.backward.append((args[1].shape, args[2].shape, tuple(args[-1])))
        return func(*args, **(kwargs or {}))


def calls_of(name: str, setting: Setting) -> Calls:
    ready, calls = NETWORKS[name].make(setting), Calls()
    with calls:
        F.cross_entropy(ready.forward(ready.inputs), setting.labels()).backward()
    return calls


def test_products_alone_are_the_products_of_the_twin():
    twin, products = calls_of("twin-last", SMALL), calls_of("products", SMALL)
    assert len(twin.forward) == 2
    assert products.forward == twin.forward
    assert sorted(map(str, products.backward)) == sorted(map(str, twin.backward))


def test_what_a_gpu_would_measure_twice_is_left_out():
    gpu = Setting("4-M-6", 8, 3, "cuda")
    assert "the same as fp32" in str(NETWORKS["fp32-float"].missing(gpu))
    assert NETWORKS["fp32"].missing(gpu) is None
