"""Energies against hand computation, prices against the published figures, and no total where a price is missing."""

import dataclasses

import pytest
import torch

from maqd_snn import MaqdError, fold
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.pricing import OPERATIONS, baselines, energy, price_all
from maqd_snn.profiles import BASES, PROFILES, Price, Profile
from maqd_snn.simulation import simulate


def network(kind, high=1):
    """Ten inputs -> four sums -> four neurons of two thresholds -> three sums."""
    first, second = torch.ones(4, 10, dtype=torch.int64), torch.tensor([[1, -1, 0, 1]] * 3)
    thresholds = torch.tensor([[1, 3]] * 4)
    return IntegerNetwork(
        [
            ops.Input("input", shape=(10,), high=high, kind=kind),
            ops.Linear("fc1", ("input",), first),
            ops.Threshold("spike", ("fc1",), thresholds, torch.ones(4, dtype=torch.int64)),
            ops.Linear("fc2", ("spike",), second),
            ops.Readout("readout", ("fc2",), torch.tensor([0, 2, -1])),
        ]
    )


def codes(*spikes):
    """One sample for each number of spikes."""
    x = torch.zeros(len(spikes), 10, dtype=torch.int64)
    for sample, count in enumerate(spikes):
        x[sample, :count] = 1
    return x


# Two samples with 3 and 1 spikes: sums 3 and 1, levels 2 and 1. Totals: fc1 16 synops; 8 neurons, 16 threshold tests;
# fc2 8 graded events with fan-out 3, unit spikes (2 + 1) * 4 * 3; readout 2 nonzero biases a sample.
FC1, TESTS, FC2, FC2_UNITS, READOUT = 16, 16, 24, 36, 4


@pytest.mark.parametrize(
    ("profile", "total_pj"),
    [
        ("cmos45-fp32", FC1 * 0.9 + TESTS * 0.9 + FC2 * 4.6 + READOUT * 0.9),
        ("cmos45-int8", FC1 * 0.03 + TESTS * 0.03 + FC2 * 0.23 + READOUT * 0.03),
    ],
)
def test_totals_by_hand(profile, total_pj):
    result = energy(simulate(network("events"), [codes(3, 1)]), profile)
    assert result.total_pj == pytest.approx(total_pj / 2, rel=1e-12)  # per sample
    assert result.total_pj == pytest.approx(sum(layer.energy_pj for layer in result.layers))
    assert result.unpriced == ()


def test_binary_chips_send_a_graded_spike_as_unit_spikes():
    report = simulate(network("events"), [codes(3, 1)])
    loihi, truenorth = energy(report, "loihi1"), energy(report, "truenorth")
    terms = {layer.name: dict(layer.terms) for layer in loihi.layers}
    assert terms["fc2"] == {"synop_binary": pytest.approx(FC2_UNITS / 2 * 23.6)}
    assert terms["spike"] == {"neuron_update": pytest.approx(TESTS / 2 * 81.0)}
    # TrueNorth's 26 pJ is all-in: neuron updates are inside and must not be added.
    assert [(layer.name, layer.energy_pj) for layer in truenorth.layers if layer.op == "Threshold"] == [("spike", 0)]
    assert truenorth.priced_pj == pytest.approx((FC1 + FC2_UNITS) / 2 * 26.0)
    # An addition of a class bias was never priced on either chip.
    assert loihi.total_pj is truenorth.total_pj is None
    assert loihi.unpriced == (
        "readout: one addition of a sum-pool, residual sum or readout has no published price in loihi1",
    )


def test_an_analog_first_layer_has_no_price_on_a_spiking_chip():
    report = simulate(network("analog"), [codes(3, 1)])
    result = energy(report, "loihi1")
    first = result.layers[0]
    assert (first.energy_pj, first.missing, result.total_pj) == (None, ("mac",), None)
    assert energy(report, "cmos45-int8").layers[0].energy_pj == pytest.approx(40 * 0.23)


@pytest.mark.parametrize(
    ("profile", "operation", "energy_pj", "basis"),
    [
        ("cmos45-fp32", "mac", 4.6, "measured"),
        ("cmos45-fp32", "synop_binary", 0.9, "measured"),
        ("cmos45-int8", "mac", 0.23, "measured"),
        ("cmos45-int8", "synop_binary", 0.03, "measured"),
        ("loihi1", "synop_binary", 23.6, "simulated"),
        ("loihi1", "neuron_update", 81.0, "simulated"),
        ("truenorth", "synop_binary", 26.0, "all-in"),
    ],
)
def test_published_prices(profile, operation, energy_pj, basis):
    price = PROFILES[profile].prices[operation]
    assert (price.energy_pj, price.basis) == (energy_pj, basis)
    assert price.source


def test_every_op_has_a_pricing_rule_and_every_price_a_source():
    from maqd_snn.integer.ops import OPS

    assert set(OPERATIONS) == set(OPS) - {"Input"}
    for profile in PROFILES.values():
        assert profile.includes
        assert profile.excludes
        assert all(price.source and price.basis in BASES for price in profile.prices.values())


def test_an_op_without_a_pricing_rule_is_an_error():
    report = simulate(network("events"), [codes(3)])
    odd = dataclasses.replace(report, layers=(dataclasses.replace(report.layers[0], op="Attention"),))
    with pytest.raises(MaqdError, match="fc1: there is no pricing rule for a Attention"):
        energy(odd, "cmos45-int8")


def test_unknown_profile_lists_the_choices():
    report = simulate(network("events"), [codes(3)])
    with pytest.raises(MaqdError, match=r"unknown energy profile 'loihi2', did you mean 'loihi1'\?.*truenorth"):
        energy(report, "loihi2")


def test_profiles_are_validated():
    with pytest.raises(MaqdError, match="finite number of pJ, 0 or more, got -1"):
        Price(-1, "measured", "nowhere")
    with pytest.raises(MaqdError, match="basis of a price must be one of"):
        Price(1, "guessed", "nowhere")
    with pytest.raises(MaqdError, match=r"mine: unknown operations \['teleport'\]"):
        Profile("mine", "", "", "", {"teleport": Price(1, "measured", "nowhere")}, True, "", "")


def test_baselines_by_hand(make_model):
    report = simulate(network("events", high=3), [codes(3, 1)])
    dense = {baseline.name: baseline.energy_pj for baseline in baselines(report)}
    assert dense["dense-fp32"] == pytest.approx((40 + 12) * 4.6)
    assert dense["dense-int8"] == pytest.approx((40 + 12) * 0.23)
    # fc1: weights all 1 are 2 states, 1 bit; inputs 0..3, 2 bits. fc2: ternary, 2 bits; levels 0..2, 2 bits.
    low_bit = 40 * (0.2 * 1 * 2 / 64 + 0.03) + 12 * (0.2 * 2 * 2 / 64 + 0.03)
    assert dense["dense-low-bit"] == pytest.approx(low_bit)
    real = simulate(fold(make_model("vgg", 2, 3)), [torch.randint(0, 256, (3, 3, 8, 8))])
    assert [b.name for b in baselines(real)] == ["dense-fp32", "dense-int8", "dense-low-bit"]
    assert set(price_all(real)) == set(PROFILES)


def test_spikes_have_no_cheaper_adder_than_their_dense_rival():
    """Where every input spikes, an event-driven network does the rival's additions and saves its products only."""
    weight = torch.ones(64, 256, dtype=torch.int64)
    source = ops.Input("input", shape=(256,), high=1, kind="events")
    net = IntegerNetwork([source, ops.Linear("fc", ("input",), weight)])
    report = simulate(net, [torch.ones(1, 256, dtype=torch.int64)])
    assert report.total.synops == report.total.dense_macs
    rival = {baseline.name: baseline.energy_pj for baseline in baselines(report)}["dense-low-bit"]
    spikes = energy(report, "cmos45-int8").total_pj
    assert spikes == pytest.approx(rival - report.total.dense_macs * 0.2 / 64)
