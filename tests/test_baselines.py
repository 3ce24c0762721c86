"""The honest baselines and the break-even rate against hand computation."""

import dataclasses

import pytest
import torch

from maqd_snn import fold
from maqd_snn.baselines import baselines, break_even
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.pricing import energy, price_all
from maqd_snn.profiles import PROFILES, Price
from maqd_snn.simulation import simulate

NAMES = [
    "dense-fp32", "dense-int8", "dense-low-bit", "unit-spikes",
    "dense-fp32-memory", "dense-int8-memory", "dense-low-bit-memory", "unit-spikes-memory",
]  # fmt: skip


def network(kind="events", high=3):
    """Ten inputs -> four sums -> four neurons of two thresholds -> three sums."""
    return IntegerNetwork(
        [
            ops.Input("input", shape=(10,), high=high, kind=kind),
            ops.Linear("fc1", ("input",), torch.ones(4, 10, dtype=torch.int64)),
            ops.Threshold("spike", ("fc1",), torch.tensor([[1, 3]] * 4), torch.ones(4, dtype=torch.int64)),
            ops.Linear("fc2", ("spike",), torch.tensor([[1, -1, 0, 1]] * 3)),
            ops.Readout("readout", ("fc2",), torch.tensor([0, 2, -1])),
        ]
    )


def report_of(kind="events", high=3, spikes=(3, 1)):
    x = torch.zeros(len(spikes), 10, dtype=torch.int64)
    for sample, count in enumerate(spikes):
        x[sample, :count] = 1
    return simulate(network(kind, high), [x])


def priced(report):
    return {baseline.name: baseline.energy_pj for baseline in baselines(report)}


def test_dense_baselines_by_hand():
    dense = priced(report_of())
    assert dense["dense-fp32"] == pytest.approx((40 + 12) * 4.6)
    assert dense["dense-int8"] == pytest.approx((40 + 12) * 0.23)
    # fc1: weights all 1 are 2 states, 1 bit; inputs 0..3, 2 bits. fc2: ternary, 2 bits; levels 0..2, 2 bits.
    low_bit = 40 * (0.2 * 1 * 2 / 64 + 0.03) + 12 * (0.2 * 2 * 2 / 64 + 0.03)
    assert dense["dense-low-bit"] == pytest.approx(low_bit)


def test_dense_baselines_with_memories_by_hand():
    """All memories here are below 8 KB, the smallest published size: 10 pJ per 64 bits."""
    dense = priced(report_of())
    bit = 10 / 64
    moved = {32: (40 + 12) * 32 + (10 + 4) * 32 + (4 + 3) * 32, 8: (40 + 12) * 8 + (10 + 4) * 8 + (4 + 3) * 32}
    assert dense["dense-fp32-memory"] == pytest.approx((40 + 12) * 4.6 + moved[32] * bit)
    assert dense["dense-int8-memory"] == pytest.approx((40 + 12) * 0.23 + moved[8] * bit)
    # Sums: fc1 -30..30 in 6 bits, fc2 -8..8 in its bound of 2 * 3 = 6: -6..6 in 4 bits.
    low_bits = 40 * 1 + 10 * 2 + 4 * 6 + 12 * 2 + 4 * 2 + 3 * 4
    assert dense["dense-low-bit-memory"] == pytest.approx(dense["dense-low-bit"] + low_bits * bit)


def test_unit_spikes_by_hand():
    """Levels 2 and 1: fc2 makes (2 + 1) * 4 * 3 accumulations for two samples; four neurons in each of two steps."""
    report = report_of()
    total = (3 + 1) * 4 * 0.03 + (2 + 1) * 4 * 3 * 0.03 + 2 * 4 * 2 * 0.03 + 2 * 2 * 0.03
    assert priced(report)["unit-spikes"] == pytest.approx(total / 2)
    assert [b.title for b in baselines(report)][3] == "the same network in unit spikes over 2 steps"
    # Per accumulation a weight, and a sum read and written; per event a message, written and read; per neuron and step
    # its sum, read and written, and a threshold.
    bits = 16 * (1 + 2 * 6) + 36 * (2 + 2 * 4)
    bits += 4 * 2 * (4 + 2) + 8 * 2 * (2 + 2)
    bits += 8 * 2 * (2 * 6 + 6)
    assert priced(report)["unit-spikes-memory"] == pytest.approx((total + bits * 10 / 64) / 2)


def test_unit_spikes_compute_a_dense_layer_once():
    report = report_of("analog")
    total = 2 * 40 * 0.23 + (2 + 1) * 4 * 3 * 0.03 + 2 * 4 * 2 * 0.03 + 2 * 2 * 0.03
    assert priced(report)["unit-spikes"] == pytest.approx(total / 2)


def test_every_report_has_them(make_model):
    real = simulate(fold(make_model("vgg", 2, 3)), [torch.randint(0, 256, (3, 3, 8, 8))])
    assert [b.name for b in baselines(real)] == NAMES
    assert [b.scope for b in baselines(real)] == ["arithmetic"] * 4 + ["memory"] * 4
    assert all(b.energy_pj > 0 for b in baselines(real))


def test_spikes_have_no_cheaper_adder_than_their_dense_rival():
    """Where every input spikes, an event-driven network does the rival's additions and saves its products only."""
    weight = torch.ones(64, 256, dtype=torch.int64)
    source = ops.Input("input", shape=(256,), high=1, kind="events")
    net = IntegerNetwork([source, ops.Linear("fc", ("input",), weight)])
    report = simulate(net, [torch.ones(1, 256, dtype=torch.int64)])
    assert report.total.synops == report.total.dense_macs
    rival = priced(report)["dense-low-bit"]
    spikes = energy(report, "cmos45-int8").total_pj
    assert spikes == pytest.approx(rival - report.total.dense_macs * 0.2 / 64)


def shares(report, *profiles):
    found = break_even(report, price_all(report, profiles).values())
    return {(entry.profile, entry.rival): entry for entry in found}


def test_break_even_by_hand():
    """All layers are fed levels: an event costs one int8 multiply-accumulate, what the dense int8 rival pays, too."""
    report = report_of()
    found = shares(report, "cmos45-int8")
    measured = (16 + 24) / (80 + 24)
    assert [entry.measured for entry in found.values()] == pytest.approx([measured] * 3)
    assert found["cmos45-int8", "dense-int8"].share == pytest.approx(1.0)
    assert found["cmos45-int8", "dense-fp32"].share == pytest.approx(4.6 / 0.23)
    low_bit = 80 * (0.2 * 1 * 2 / 64 + 0.03) + 24 * (0.2 * 2 * 2 / 64 + 0.03)
    rival = found["cmos45-int8", "dense-low-bit"]
    assert rival.share == pytest.approx(measured * low_bit / (40 * 0.23))
    assert rival.pays is False
    assert found["cmos45-int8", "dense-fp32"].pays is True


def test_at_break_even_both_cost_the_same():
    """Scaled from the measured share to break-even, the spiking layers cost what the rival costs."""
    few, many = report_of(spikes=(1,)), report_of(spikes=(2,))
    for report in (few, many):
        entry = shares(report, "cmos45-memory")["cmos45-memory", "dense-int8-memory"]
        spent = sum(sum(layer.terms.values()) for layer in energy(report, "cmos45-memory").layers if "fc" in layer.name)
        rival = priced(report)["dense-int8-memory"]
        assert spent * entry.share / entry.measured == pytest.approx(rival)


def test_what_has_no_break_even_says_why():
    report = report_of()
    reasons = {
        "loihi1": "no price of a dense multiply-accumulate was published",
        "loihi2": "the price of a synaptic operation was not published",
        "keras-gpu": "it computes every connection anyway",
        "lemaire": "levels above 1 are dense in this model",
    }
    for name, reason in reasons.items():
        entry = shares(report, name)[name, ""]
        assert (entry.share, entry.pays, entry.reason) == (None, None, reason)
    silent = shares(report_of(spikes=(0,)), "cmos45-int8")["cmos45-int8", ""]
    assert (silent.share, silent.reason) == (None, "nothing spiked")


def test_a_users_chip_with_a_price_of_a_mac():
    mine = dataclasses.replace(
        PROFILES["loihi1"], name="mine", prices={**PROFILES["loihi1"].prices, "mac": Price(47.2, "measured", "x")}
    )
    entry = shares(report_of(high=1), mine)["mine", "dense, its own price"]
    # Level-1 events cost 23.6 and the two levels of fc2 more: 16 + 36 unit spikes for 104 connections of 47.2.
    assert entry.share == pytest.approx(entry.measured * 104 * 47.2 / (52 * 23.6))


def test_lemaires_rival_is_lemaires_dense_network():
    binary = IntegerNetwork(
        [
            ops.Input("input", shape=(10,), high=1, kind="events"),
            ops.Linear("fc", ("input",), torch.ones(4, 10, dtype=torch.int64)),
        ]
    )
    x = torch.zeros(1, 10, dtype=torch.int64)
    x[0, :2] = 1
    report = simulate(binary, [x])
    entry = shares(report, "lemaire")["lemaire", "dense, same model"]
    word = 10 * 4 / 8192
    dense = 40 * 3.2 + (10 + 4) * 0.1 + 40 * 40 * word + 10 * 10 * word
    spiking = 8 * 0.1 + 8 * 0.1 + 8 * 40 * word + 16 * 4 * word + 2 * 1000 * word
    assert entry.share == pytest.approx(0.2 * dense / spiking)
