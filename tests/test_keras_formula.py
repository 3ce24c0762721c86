"""The published example of keras-spiking, "Estimating model energy", to the printed digits.

https://www.nengo.ai/keras-spiking/examples/model-energy.html: a 7x7 convolution of 28x28x1 to 22x22x2, dense 968 -> 128
and dense 128 -> 10, with a ReLU behind the first two.
"""

import dataclasses

import pytest

from maqd_snn import MaqdError
from maqd_snn.keras_formula import connections, neuron_pj, synop_pj
from maqd_snn.profiles import PROFILES, Price

CONNECTIONS = {
    "conv2d": connections(22 * 22 * 2, 7 * 7 * 1),
    "dense": connections(128, 968),
    "dense_1": connections(10, 128),
}
NEURONS = {"re_lu": 22 * 22 * 2, "re_lu_1": 128}

MY_GPU = dataclasses.replace(
    PROFILES["keras-gpu"],
    name="my-gpu",
    prices={"mac": Price(1000.0, "derived", "the example"), "neuron_update": Price(2000.0, "derived", "the example")},
)

# J per inference as printed, layer by layer, and the totals.
PRINTED = {
    "cpu": (
        PROFILES["keras-cpu"],
        {"conv2d": "0.00041", "dense": "0.0011", "dense_1": "1.1e-05", "re_lu": "8.3e-06", "re_lu_1": "1.1e-06"},
        "1.49e-03",
    ),
    "gpu": (
        PROFILES["keras-gpu"],
        {"conv2d": "1.4e-05", "dense": "3.7e-05", "dense_1": "3.8e-07", "re_lu": "2.9e-07", "re_lu_1": "3.8e-08"},
        "5.21e-05",
    ),
    "my-gpu": (
        MY_GPU,
        {"conv2d": "4.7e-05", "dense": "0.00012", "dense_1": "1.3e-06", "re_lu": "1.9e-06", "re_lu_1": "2.6e-07"},
        "1.75e-04",
    ),
}


def joules(energy_pj):
    return energy_pj / 1e12


def test_connections_as_printed():
    assert CONNECTIONS == {"conv2d": 47432, "dense": 123904, "dense_1": 1280}


@pytest.mark.parametrize("device", PRINTED)
def test_devices_that_skip_nothing(device):
    profile, layers, total = PRINTED[device]
    found = {name: joules(synop_pj(profile, number, rate_hz=5.0, steps=10)) for name, number in CONNECTIONS.items()}
    found |= {name: joules(neuron_pj(profile, number, steps=10)) for name, number in NEURONS.items()}
    # The page prints two digits, with as many decimals as they need.
    assert {name: f"{value:.2g}" for name, value in found.items()} == layers
    assert f"{sum(found.values()):.2e}" == total


# Loihi, with the rates of the inputs as printed (two digits): rate, time steps, energy of the synaptic operations as
# printed.
LOIHI = [
    ("conv2d", 1, 1, "1.3e-09"),
    ("dense", 0.28, 1, "9.5e-10"),
    ("dense_1", 0.2, 1, "7e-12"),
    ("conv2d", 5, 1, "6.4e-09"),
    ("dense", 1.4, 1, "4.7e-09"),
    ("dense_1", 1, 1, "3.5e-11"),
    ("conv2d", 5, 10, "6.4e-08"),
    ("dense", 1.4, 10, "4.7e-08"),
    ("dense_1", 1, 10, "3.5e-10"),
    ("conv2d", 5, 20, "1.3e-07"),
    ("dense", 1.4, 20, "9.5e-08"),
]


@pytest.mark.parametrize(("layer", "rate", "steps", "printed"), LOIHI)
def test_loihi(layer, rate, steps, printed):
    loihi = PROFILES["keras-loihi"]
    if layer == "conv2d":  # its rate is exactly that of the input, ones or fives
        assert f"{joules(synop_pj(loihi, CONNECTIONS[layer], rate, steps=steps)):.2g}" == printed
        return
    half = 0.005 if rate < 1 else 0.05
    low, high = (joules(synop_pj(loihi, CONNECTIONS[layer], end, steps=steps)) for end in (rate - half, rate + half))
    unit = 10 ** (int(f"{float(printed):.1e}".split("e")[1]) - 1)  # of the last printed digit
    # Some rate that is printed so gives some energy that is printed so.
    assert low < float(printed) + unit / 2
    assert high > float(printed) - unit / 2


@pytest.mark.parametrize(
    ("neurons", "steps", "printed"),
    [(968, 1, "7.8e-08"), (128, 1, "1e-08"), (968, 10, "7.8e-07"), (128, 10, "1e-07"), (968, 20, "1.6e-06")],
)
def test_loihi_updates_every_neuron_in_every_step(neurons, steps, printed):
    assert f"{joules(neuron_pj(PROFILES['keras-loihi'], neurons, steps)):.2g}" == printed


def test_a_profile_without_the_price_is_an_error():
    with pytest.raises(
        MaqdError, match="loihi2 has no price for 'synop_binary', which the formula of keras-spiking needs"
    ):
        synop_pj(PROFILES["loihi2"], 10, 1.0)
