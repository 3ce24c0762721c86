"""Energies against hand computation, prices against the published figures, and no total where a price is missing."""

import dataclasses

import pytest
import torch

from maqd_snn import MaqdError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.pricing import MODELS, OPERATIONS, energy, price_all
from maqd_snn.profiles import MODELS as MODEL_NAMES
from maqd_snn.profiles import PROFILES, Price
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


def test_every_op_and_every_model_has_a_pricing_rule():
    from maqd_snn.integer.ops import OPS

    assert set(OPERATIONS) == set(OPS) - {"Input"}
    assert set(MODELS) == set(MODEL_NAMES) == {profile.model for profile in PROFILES.values()}


def test_an_op_without_a_pricing_rule_is_an_error():
    report = simulate(network("events"), [codes(3)])
    odd = dataclasses.replace(report, layers=(dataclasses.replace(report.layers[0], op="Attention"),))
    with pytest.raises(MaqdError, match="fc1: there is no pricing rule for a Attention"):
        energy(odd, "cmos45-int8")


def test_unknown_profile_lists_the_choices():
    report = simulate(network("events"), [codes(3)])
    with pytest.raises(MaqdError, match=r"unknown energy profile 'loihi3', did you mean 'loihi2'\?.*truenorth"):
        energy(report, "loihi3")


def test_a_fitted_price_by_kind_of_connection():
    """A convolution and a fully connected layer have prices of their own, and each spike sent costs, too."""
    net = IntegerNetwork(
        [
            ops.Input("input", shape=(1, 3, 3), high=1, kind="events"),
            ops.Conv2d("conv", ("input",), torch.ones(2, 1, 3, 3, dtype=torch.int64), (1, 1), (1, 1)),
            ops.Threshold("spike", ("conv",), torch.tensor([[1, 2]] * 2), torch.ones(2, dtype=torch.int64)),
            ops.Flatten("flatten", ("spike",)),
            ops.Linear("fc", ("flatten",), torch.ones(4, 18, dtype=torch.int64)),
        ]
    )
    x = torch.zeros(1, 1, 3, 3, dtype=torch.int64)
    x[0, 0, 1, 1] = 1  # reaches all nine places of both channels: 18 neurons of level 1
    result = energy(simulate(net, [x]), "loihi1-fitted")
    terms = {layer.name: dict(layer.terms) for layer in result.layers}
    assert terms["conv"] == {"synop_conv": pytest.approx(18 * 24.0)}
    assert terms["spike"] == {"spike": pytest.approx(18 * 69.3)}
    assert terms["fc"] == {"synop_linear": pytest.approx(18 * 4 * 35.5)}
    assert result.total_pj is None
    assert result.unpriced == (
        "spike: one update of a neuron in the single step has no published price in loihi1-fitted",
    )


def test_a_device_that_skips_nothing_is_charged_every_connection():
    report = simulate(network("events"), [codes(3, 1)])
    result = energy(report, "keras-gpu")
    # 40 + 12 connections and 4 neurons, whatever the spikes; the class biases count nothing in that table.
    assert result.total_pj == pytest.approx((40 + 12 + 4) * 300.0)
    assert energy(simulate(network("events"), [codes(0)]), "keras-gpu").total_pj == pytest.approx(result.total_pj)


def test_without_any_price_there_are_counts_and_names():
    report = simulate(network("events"), [codes(3, 1)])
    for name, synop in (("loihi2", "synop_graded"), ("akida", "synop_graded"), ("speck", "synop_binary")):
        result = energy(report, name)
        assert (result.total_pj, result.priced_pj) == (None, 0)
        missing = {layer.name: layer.missing for layer in result.layers}
        assert missing["fc2"] == (synop,)
        assert missing["spike"] == ("neuron_update",)
        assert f"fc2: one synaptic operation of a {'graded spike' if 'graded' in synop else 'spike'}" in str(
            result.unpriced
        )


def test_two_profiles_of_one_name_are_refused():
    report = simulate(network("events"), [codes(3)])
    twin = dataclasses.replace(PROFILES["loihi1"], prices={"add": Price(1, "measured", "nowhere")})
    assert set(price_all(report)) == set(PROFILES)
    with pytest.raises(MaqdError, match="two energy profiles are named 'loihi1'; give each its own name"):
        price_all(report, ["loihi1", twin])
