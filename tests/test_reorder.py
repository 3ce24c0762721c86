"""Spikes before pools: the same network, value by value, and left alone where it would be another."""

from dataclasses import replace

import pytest
import torch

from maqd_snn import fold
from maqd_snn.datasets import DATASETS, ImageDataset, Splits
from maqd_snn.integer.ops import MaxPool2d, Threshold
from maqd_snn.integer.reorder import spikes_before_pools
from maqd_snn.neuromorphic import FORMATS, export, verify
from maqd_snn.runs import check_folding

NAMES = ["conv1", "spike1", "pool1", "conv2", "spike2", "pool2", "conv3", "pool3", "spike3"]


def rising(model):
    """The model with no gain below zero."""
    for name in model.spiking_names():
        with torch.no_grad():
            model.part(name).norm.gain.abs_()
    return model


def splits_of(model, codes):
    card = replace(DATASETS["cifar10"].card, shape=model.input_spec.shape)
    part = ImageDataset(card, "validation", codes.to(torch.uint8), torch.zeros(len(codes), dtype=torch.int64))
    return Splits(part, part, part)


@pytest.mark.parametrize(("states", "signed"), [(2, False), (4, False), (4, True)])
def test_every_value_is_the_same(make_model, random_codes, states, signed):
    plan = {"plan": "8-M-12-M-16-S", "pool_first": True, "input_shape": (3, 12, 12)}
    model = rising(make_model("vgg", states, 3, "lbn-channel-mean", signed, **plan))
    codes = random_codes(model, 32)
    before = fold(model)
    net = spikes_before_pools(before)
    assert [op.name for op in net.ops][1:10] == NAMES
    assert torch.equal(net(codes), before(codes))
    assert torch.equal(net(codes), torch.from_numpy(net.reference(codes.numpy())))
    theirs, ours = before.trace(codes), net.trace(codes)
    assert torch.equal(ours["pool1"], theirs["spike1"])
    assert torch.equal(ours["pool2"], theirs["spike2"])
    assert all(
        torch.equal(ours[name], theirs[name]) for name in NAMES if name not in ("spike1", "pool1", "spike2", "pool2")
    )
    pools = [op for op in net.ops if isinstance(op, MaxPool2d)]
    spikes = {op.name for op in net.ops if isinstance(op, Threshold)}
    assert all(set(op.inputs) <= spikes for op in pools)
    check = check_folding(model, net, splits_of(model, codes))
    assert (check.samples, check.mismatches) == (32, 0)
    assert check.values == sum(value.numel() for value in ours.values())
    assert spikes_before_pools(net).ops == net.ops


def test_the_check_sees_a_spike_that_moved_wrongly(make_model, random_codes):
    model = rising(make_model("vgg", 2, 3, plan="8-M-16", pool_first=True))
    codes = random_codes(model, 32)
    net = spikes_before_pools(fold(model))
    with torch.no_grad():
        model.part("spike1").norm.bias += 0.05
    assert check_folding(model, net, splits_of(model, codes)).mismatches > 0


def test_a_falling_channel_keeps_its_pool_first(make_model, random_codes):
    """make_model has a negative gain in every layer."""
    model = make_model("vgg", 2, 3, plan="8-M-16", pool_first=True)
    before = fold(model)
    net = spikes_before_pools(before)
    assert [op.name for op in net.ops] == [op.name for op in before.ops]
    codes = random_codes(model, 32)
    assert check_folding(model, net, splits_of(model, codes)).mismatches == 0


def test_pools_in_a_row_and_pools_behind_spikes(make_model, random_codes):
    model = rising(make_model("vgg", 4, 3, plan="8-M-M-12-M", pool_first=True))
    assert [name for name in model.names if "pool" in name or "spike" in name] == [
        "pool1", "spike1", "pool1_2", "pool2", "spike2",
    ]  # fmt: skip
    net = spikes_before_pools(fold(model))
    assert [op.name for op in net.ops if "pool" in op.name or "spike" in op.name] == [
        "spike1", "pool1", "pool1_2", "spike2", "pool2",
    ]  # fmt: skip
    codes = random_codes(model, 32)
    assert torch.equal(net(codes), fold(model)(codes))
    usual = make_model("vgg", 2, 3)
    assert spikes_before_pools(net_of := fold(usual)).ops == net_of.ops


def test_formats_that_know_only_spikes_take_it(make_model, random_codes, tmp_path):
    model = rising(make_model("vgg", 2, 3, plan="8-M-16", pool_first=True))
    net = spikes_before_pools(fold(model))
    export(net, tmp_path / FORMATS["nir"].file, "nir")
    check = verify(tmp_path / FORMATS["nir"].file, net, random_codes(model, 8))
    assert check.ok
