"""Every constant of the built-in profiles against a table of the published figures, typed here a second time."""

import pytest

from maqd_snn import MaqdError
from maqd_snn.profiles import (
    BASES,
    MEMORY_TERMS,
    MODELLED,
    PRICED,
    PROFILES,
    SCOPES,
    TERMS,
    UNITS,
    Price,
    Profile,
)
from maqd_snn.sram import HOROWITZ_POINTS, Memories

# profile: {operation: (pJ, basis, a word of the source)}. Horowitz's figures are 45 nm, 0.9 V.
FACTS = {
    # Horowitz, ISSCC 2014, in PMC8934428 table 3: fp32 add 0.9, multiply 3.7, together 4.6; int32 add 0.1, multiply
    # 3.1.
    "cmos45-fp32": dict.fromkeys(("mac", "synop_graded"), (4.6, "estimated", "PMC8934428"))
    | dict.fromkeys(("synop_binary", "add", "compare", "neuron_update"), (0.9, "estimated", "PMC8934428")),
    "cmos45-int32": dict.fromkeys(("mac", "synop_graded"), (3.2, "estimated", "PMC8934428"))
    | dict.fromkeys(("synop_binary", "add", "compare", "neuron_update"), (0.1, "estimated", "PMC8934428")),
    # In SpikingJelly's presets: fp16 add 0.4, multiply 1.1; int8 add 0.03, multiply 0.2.
    "cmos45-fp16": dict.fromkeys(("mac", "synop_graded"), (1.5, "estimated", "SpikingJelly"))
    | dict.fromkeys(("synop_binary", "add", "compare", "neuron_update"), (0.4, "estimated", "SpikingJelly")),
    "cmos45-int8": dict.fromkeys(("mac", "synop_graded"), (0.23, "estimated", "SpikingJelly"))
    | dict.fromkeys(("synop_binary", "add", "compare", "neuron_update"), (0.03, "estimated", "SpikingJelly")),
    "cmos45-memory": dict.fromkeys(("mac", "synop_graded"), (0.23, "estimated", "SpikingJelly"))
    | dict.fromkeys(("synop_binary", "add", "compare", "neuron_update"), (0.03, "estimated", "SpikingJelly")),
    "lemaire": dict.fromkeys(("add", "compare"), (0.1, "derived", "PMC8934428")),
    # Davies et al. 2018, table 2: 23.6 pJ is the minimum, simulated before silicon at 0.75 V; 81 / 52 active /
    # inactive.
    "loihi1": {"synop_binary": (23.6, "simulated", "Davies"), "neuron_update": (81.0, "simulated", "Davies")},
    # SANA-FE, TCAD 2025: dense 35.5, sparse 33.6, convolution 24.0 per synop; spike out 69.3, message out 111.
    "loihi1-fitted": {
        "synop_conv": (24.0, "fitted", "SANA-FE"),
        "synop_linear": (35.5, "fitted", "SANA-FE"),
        "spike": (69.3, "fitted", "SANA-FE"),
    },
    # Merolla et al. 2014: all power / synaptic events at 20 Hz, 128 synapses, 0.775 V.
    "truenorth": {"synop_binary": (26.0, "all-in", "Merolla")},
    # Hoeppner et al. 2019, arXiv 1903.08941, by way of keras-spiking: 13.3 nJ and 26 nJ; 450 pJ and 2.19 nJ.
    "spinnaker1": {
        "synop_binary": (13300.0, "quoted", "1903.08941"),
        "neuron_update": (26000.0, "quoted", "1903.08941"),
    },
    "spinnaker2": {"synop_binary": (450.0, "quoted", "1903.08941"), "neuron_update": (2190.0, "quoted", "1903.08941")},
    # Frenkel et al., doi 10.1109/TBCAS.2018.2880425: 12.7 pJ per synaptic operation, global minimum, measured.
    "odin": {"synop_binary": (12.7, "all-in", "TBCAS.2018.2880425")},
    # doi 10.1093/nsr/nwae102: 5.47 pJ per synaptic operation, measured, incremental.
    "darwin3": {"synop_binary": (5.47, "measured", "nwae102")},
    # keras-spiking 0.3.0, model_energy.py, J per synop and neuron: cpu 8.6e-9, gpu 0.3e-9, arm 0.9e-9 (Degnan 2015);
    # loihi 23.6 + 3.5 = 27.1 and 81 pJ; the SpiNNakers as above.
    "keras-cpu": {"mac": (8600.0, "quoted", "Degnan"), "neuron_update": (8600.0, "quoted", "Degnan")},
    "keras-gpu": {"mac": (300.0, "quoted", "Degnan"), "neuron_update": (300.0, "quoted", "Degnan")},
    "keras-arm": {"mac": (900.0, "quoted", "Degnan"), "neuron_update": (900.0, "quoted", "Degnan")},
    "keras-loihi": {
        "synop_binary": (27.1, "quoted", "keras-spiking 0.3.0"),
        "neuron_update": (81.0, "quoted", "keras-spiking 0.3.0"),
    },
    "keras-spinnaker": {
        "synop_binary": (13300.0, "quoted", "1903.08941"),
        "neuron_update": (26000.0, "quoted", "1903.08941"),
    },
    "keras-spinnaker2": {
        "synop_binary": (450.0, "quoted", "1903.08941"),
        "neuron_update": (2190.0, "quoted", "1903.08941"),
    },
    # No energy per operation was published.
    "loihi2": {},
    "speck": {},
    "akida": {},
}

# Published, but not charged.
LISTED = {
    "loihi1": {
        "neuron update, inactive": (52.0, "simulated"),
        "spike within a tile": (1.7, "simulated"),
        "hop east-west": (3.0, "simulated"),
        "hop north-south": (4.0, "simulated"),
        "learning update": (120.0, "simulated"),
    },
    "loihi1-fitted": {"synaptic operation, sparse": (33.6, "fitted"), "message out": (111.0, "fitted")},
    "truenorth": {
        "synaptic event, marginal, 0.8 V": (2.297, "fitted"),
        "hop": (2.3, "quoted"),
        "bit of SRAM": (0.047, "quoted"),
    },
    "spinnaker1": {
        "synaptic operation, another paper": (11300.0, "quoted"),
        "synaptic operation, a third paper": (26600.0, "quoted"),
    },
    "odin": {"synaptic operation, incremental": (8.43, "measured")},
}

# profile: (node, voltage), empty where the sources at hand do not say.
SILICON = {
    **dict.fromkeys(("cmos45-fp32", "cmos45-fp16", "cmos45-int32", "cmos45-int8"), ("45 nm", "0.9 V")),
    **dict.fromkeys(("cmos45-memory", "lemaire"), ("45 nm", "0.9 V")),
    "loihi1": ("14 nm", "0.75 V"),
    "loihi1-fitted": ("14 nm", ""),
    "truenorth": ("28 nm", "0.775 V"),
    "spinnaker1": ("", ""),
    "spinnaker2": ("22 nm", ""),
    "odin": ("28 nm", ""),
    "darwin3": ("22 nm", ""),
    "loihi2": ("Intel 4", ""),
    **dict.fromkeys((name for name in FACTS if name.startswith("keras")), ("", "")),
    **dict.fromkeys(("speck", "akida"), ("", "")),
}


def test_no_profile_is_left_out():
    assert set(FACTS) == set(PROFILES) == set(SILICON)
    assert {name for name, profile in PROFILES.items() if profile.listed} == set(LISTED)


@pytest.mark.parametrize("name", FACTS)
def test_every_price(name):
    profile = PROFILES[name]
    assert {key: (price.energy_pj, price.basis) for key, price in profile.prices.items()} == {
        key: fact[:2] for key, fact in FACTS[name].items()
    }
    for key, (_, _, word) in FACTS[name].items():
        assert word in profile.prices[key].source
    assert {key: (price.energy_pj, price.basis) for key, price in profile.listed.items()} == LISTED.get(name, {})
    assert (profile.node, profile.voltage) == SILICON[name]
    assert profile.includes
    assert profile.excludes
    assert all(price.source for price in (*profile.prices.values(), *profile.listed.values()))


def test_memory_prices():
    # Horowitz: 10, 20 and 100 pJ per 64-bit access of 8 KB, 32 KB and 1 MB; PMC8934428 halves 10 to 5 for 32 bits,
    # Lemaire et al. and SpikingJelly take the same figures for 4 bytes.
    assert HOROWITZ_POINTS == ((8192, 10.0), (32768, 20.0), (1048576, 100.0))
    core, lemaire = PROFILES["cmos45-memory"].memories, PROFILES["lemaire"].memories
    assert (core.access_bits, core.points) == (64, HOROWITZ_POINTS)
    assert (lemaire.access_bits, lemaire.points) == (32, ((0, 0.0), *HOROWITZ_POINTS))
    assert lemaire.message_bytes == 1000 * 4  # a FIFO of 1000 messages
    assert core.bits_pj(32, 8192) == 5.0
    assert [lemaire.bits_pj(32, size) for size in (8192, 32768, 1048576, 2**30)] == [10.0, 20.0, 100.0, 100.0]


def test_all_in_prices_swallow_the_neuron():
    for name, profile in PROFILES.items():
        all_in = any(price.basis == "all-in" for price in profile.prices.values())
        assert all_in == (name in ("truenorth", "odin"))
        if all_in:
            assert len(profile.prices) == 1
            assert "neuron_update" in profile.free


def test_every_term_has_a_meaning():
    assert set(TERMS) == set(PRICED) | set(MODELLED)
    assert set(MODELLED) >= MEMORY_TERMS
    assert {profile.scope for profile in PROFILES.values()} <= set(SCOPES)
    assert UNITS == {"fJ": 1e-3, "pJ": 1, "nJ": 1e3, "uJ": 1e6, "mJ": 1e9, "J": 1e12}


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_prices_are_validated(value):
    with pytest.raises(MaqdError, match="finite number of pJ, 0 or more, got"):
        Price(value, "measured", "nowhere")


def test_profiles_are_validated():
    with pytest.raises(MaqdError, match="basis of a price must be one of measured, simulated"):
        Price(1, "guessed", "nowhere")
    with pytest.raises(MaqdError, match=r"mine: unknown operations \['teleport'\]"):
        Profile("mine", "", "", "", {"teleport": Price(1, "measured", "nowhere")}, True, "", "")
    with pytest.raises(
        MaqdError, match="mine: scope must be one of arithmetic, memory, model, chip, device, got 'moon'"
    ):
        Profile("mine", "", "", "", {}, True, "", "", scope="moon")
    with pytest.raises(MaqdError, match="mine: model must be one of prices, event-core, lemaire, got 'magic'"):
        Profile("mine", "", "", "", {}, True, "", "", model="magic")
    with pytest.raises(MaqdError, match="mine: the model 'event-core' does not go with memories = None"):
        Profile("mine", "", "", "", {}, True, "", "", model="event-core")
    assert set(BASES) >= {"measured", "simulated", "fitted", "all-in"}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("access_bits", 16, "access_bits must be 64 or 32, got 16"),
        ("weight_bytes", 0, "weight_bytes must be a whole number of bytes of at least 1, or left out, got 0"),
        ("message_bytes", 1.5, "message_bytes must be a whole number of bytes"),
        ("accumulator_bytes", True, "accumulator_bytes must be a whole number of bytes"),
        ("factor", -0.5, "factor of memory prices must be a finite number, 0 or more, got -0.5"),
        ("factor", float("nan"), "factor of memory prices"),
        ("points", ((8, 1.0),), "points must be two or more"),
        ("points", ((8, 1.0), (4, 2.0)), "bytes rising"),
        ("points", ((4, 1.0), (8, -2.0)), "pJ finite and 0 or more"),
    ],
)
def test_memories_are_validated(field, value, message):
    with pytest.raises(MaqdError, match=message):
        Memories(**{field: value})
