"""The memory model of an event-driven core against hand computation, op by op."""

import dataclasses

import pytest
import torch

from maqd_snn import MaqdError
from maqd_snn.baselines import multiply_accumulate_pj
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.ops import OPS
from maqd_snn.pricing import energy, with_memory_factor
from maqd_snn.profiles import MEMORY_TERMS, PROFILES
from maqd_snn.simulation import simulate
from maqd_snn.sram import Memories, access_pj
from maqd_snn.traffic import ACCESSES, Access, accesses, dense_product, message_bits, traffic_pj


def ones(*shape):
    return torch.ones(*shape, dtype=torch.int64)


def network(levels=2, kind="events"):
    """(2, 4, 4) -> convolution to (3, 4, 4) -> thresholds -> max-pool (3, 2, 2) -> flatten -> 5 scores."""
    return IntegerNetwork(
        [
            ops.Input("input", shape=(2, 4, 4), high=1, kind=kind),
            ops.Conv2d("conv", ("input",), ones(3, 2, 3, 3), (1, 1), (1, 1)),
            ops.Threshold("spike", ("conv",), torch.arange(1, levels + 1).repeat(3, 1), ones(3)),
            ops.MaxPool2d("pool", ("spike",), (2, 2), (2, 2)),
            ops.Flatten("flatten", ("pool",)),
            ops.Linear("fc", ("flatten",), torch.tensor([[2, -1, 0] * 4] * 5)),
            ops.Readout("readout", ("fc",), torch.tensor([0, 2, -1, 0, 1])),
        ]
    )


def corner(samples=1):
    """One spike in the corner: 4 taps in each of 3 channels."""
    x = torch.zeros(samples, 2, 4, 4, dtype=torch.int64)
    x[:, 0, 0, 0] = 1
    return x


def test_accesses_by_hand():
    report = simulate(network(), [corner(2)])
    found = {layer.name: accesses(layer, report.samples) for layer in report.layers}
    # conv: weights all 1 are 1 bit; sums of up to 18 are 6 bits (-18..18); 32 sources, so an address of 5 bits and no
    # level.
    synops = 2 * 4 * 3
    assert found["conv"] == {
        "weight_fetch": Access(synops * 1, 3 * 2 * 9 * 1),
        "accumulator": Access(synops * 2 * 6, 48 * 6),
        "message": Access(2 * 2 * 5, 32 * 5),
    }
    # 48 neurons of two thresholds, each a word of 6 bits; a table of 3 x 2 thresholds.
    assert found["spike"] == {
        "accumulator": Access(2 * 48 * 2 * 6, 48 * 6),
        "threshold_read": Access(2 * 48 * 2 * 6, 6 * 6),
    }
    # 12 corners fire in each sample; a pooled level is 0..2, held in ceil(log2(5)) = 3 bits of a signed sum.
    pool = report.layer("pool")
    assert (pool.compares, pool.accumulator_bits) == (2 * 12, 3)
    assert found["pool"] == {"accumulator": Access(2 * 12 * 2 * 3, 12 * 3)}
    # fc: -1, 0 and 2 are codes of -2..2, 3 bits; the bound is 2 * 4 * (2 + 1) = 24, 6 bits; 12 sources (4 bits), levels
    # of 2.
    assert found["fc"] == {
        "weight_fetch": Access(2 * 3 * 5 * 3, 60 * 3),
        "accumulator": Access(2 * 3 * 5 * 2 * 6, 5 * 6),
        "message": Access(2 * 3 * 2 * 6, 12 * 6),
    }
    assert found["flatten"] == {}
    readout = report.layer("readout")
    assert found["readout"] == {
        "accumulator": Access(2 * 3 * 2 * readout.accumulator_bits, 5 * readout.accumulator_bits)
    }


def test_a_layer_of_pixels_reads_every_weight_and_each_input_once():
    report = simulate(network(kind="analog"), [corner(2)])
    layer = report.layer("conv")
    dense = 3 * 2 * (4 * 3 - 2) ** 2  # an axis of 4 with 3 taps and padding 1 has 10 connections
    assert layer.dense_macs == 2 * dense
    assert accesses(layer, 2) == {
        "weight_fetch": Access(2 * dense * 1, 54),
        "message": Access(2 * 32 * 1, 32),
        "accumulator": Access(2 * 48 * 6, 48 * 6),
    }


def test_the_whole_price_by_hand():
    """All memories of one size: 16 KB are a third of the way from 10 to 20 pJ."""
    size = 16 * 1024
    per_bit = (10 + 10 / 3) / 64
    profile = dataclasses.replace(PROFILES["cmos45-memory"], memories=Memories(64, size, size, size, size))
    report = simulate(network(), [corner()])
    result = energy(report, profile)
    bits = sum(access.bits for layer in report.layers for access in accesses(layer, 1).values())
    arithmetic = energy(report, "cmos45-int8").total_pj
    assert result.total_pj == pytest.approx(arithmetic + bits * per_bit, rel=1e-12)
    assert {name for layer in result.layers for name in layer.terms} & MEMORY_TERMS == {
        "weight_fetch", "accumulator", "threshold_read", "message",
    }  # fmt: skip


def test_sizes_decide_the_price_of_each_memory():
    traffic = {name: Access(64, 8 * 2**20) for name in ("weight_fetch", "accumulator", "threshold_read", "message")}
    sizes = Memories(64, 8192, 20480, 32768, None)  # the messages need 1 MB
    assert traffic_pj(traffic, sizes) == {
        "weight_fetch": 10.0, "accumulator": 15.0, "threshold_read": 20.0, "message": 100.0,
    }  # fmt: skip


def test_figures_of_the_literature_table():
    """A level up to 3, 4-bit weights, 16-bit sums, 32 KB: fetch 1.25, multiply 0.025, sum read and written 10 pJ."""
    memories = Memories()
    assert memories.bits_pj(4, 32 * 1024) == 1.25
    assert memories.bits_pj(2 * 16, 32 * 1024) == 10.0
    assert multiply_accumulate_pj(4, 2) - 0.03 == pytest.approx(0.025)
    # Dense fp32 of the same table, 14.6 pJ: a fetch of 10 and a multiply-accumulate of 4.6.
    assert memories.bits_pj(32, 32 * 1024) + PROFILES["cmos45-fp32"].prices["mac"].energy_pj == pytest.approx(14.6)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_factor_in_the_memory_price(factor):
    report = simulate(network(), [corner()])
    for name in ("cmos45-memory", "lemaire"):
        changed = energy(report, with_memory_factor(PROFILES[name], factor))
        assert energy(report, name).sensitivity[factor] == pytest.approx(changed.total_pj, rel=1e-12)
    core = PROFILES["cmos45-memory"]
    narrow = dataclasses.replace(core, memories=dataclasses.replace(core.memories, access_bits=32))
    assert energy(report, narrow).total_pj == pytest.approx(energy(report, core).sensitivity[2.0], rel=1e-12)
    assert energy(report, "cmos45-int8").sensitivity == {}
    with pytest.raises(MaqdError, match="cmos45-int8 prices no memory, so that no factor can change it"):
        with_memory_factor(PROFILES["cmos45-int8"], factor)


def test_dense_rivals_are_given_perfect_reuse():
    layer = simulate(network(), [corner(3)]).layer("fc")
    assert dense_product(layer, 3, 8, 8, 32) == {
        "weight_fetch": Access(3 * 60 * 8, 60 * 8),
        "message": Access(3 * 12 * 8, 12 * 8),
        "accumulator": Access(3 * 5 * 32, 5 * 32),
    }


def test_prices_rise_with_the_size():
    sizes = [2**power for power in range(25)]
    prices = [access_pj(size) for size in sizes]
    assert prices == sorted(prices)
    assert (prices[0], prices[-1]) == (10.0, 100.0)


def test_every_op_has_a_rule_and_messages_a_size():
    assert set(ACCESSES) == set(OPS) - {"Input"}
    layer = simulate(network(), [corner()]).layers[0]
    with pytest.raises(MaqdError, match="conv: there is no rule for the memory traffic of a Attention"):
        accesses(dataclasses.replace(layer, op="Attention"), 1)
    assert message_bits(dataclasses.replace(layer, input_bits=2, largest_input=1)) == 5 + 2  # -1, 0 and 1
