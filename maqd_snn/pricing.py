"""Energy: counts times a named profile, and the honest baselines beside it. No total where a price is missing."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.profiles import PRICED, PROFILES, Profile
from maqd_snn.simulation import LayerReport, SimulationReport


@dataclass(frozen=True)
class LayerEnergy:
    """The energy of one op per sample.

    Attributes:
        name, op: as in the simulation report. energy_pj: mean per sample, or None where a price is missing.
        terms: picojoules per sample by operation, of those that are priced.
        missing: operations that have no published price in this profile.
    """

    name: str
    op: str
    energy_pj: float | None
    terms: Mapping[str, float]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class EnergyReport:
    """The energy of a network per sample under one profile.

    Attributes:
        profile: the profile. layers: one entry per op. total_pj: mean per sample, None where any price is missing.
        priced_pj: the sum of what is priced. unpriced: sentences naming each layer and operation without a price.
    """

    profile: Profile
    layers: tuple[LayerEnergy, ...]
    total_pj: float | None
    priced_pj: float
    unpriced: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain values, the profile with its sources included."""
        profile = self.profile
        return {
            "profile": {
                "name": profile.name,
                "title": profile.title,
                "node": profile.node,
                "voltage": profile.voltage,
                "graded": profile.graded,
                "includes": profile.includes,
                "excludes": profile.excludes,
                "prices": {name: asdict(price) for name, price in profile.prices.items()},
            },
            "total_pj": self.total_pj,
            "priced_pj": self.priced_pj,
            "unpriced": list(self.unpriced),
            "layers": [{**asdict(layer), "terms": dict(layer.terms)} for layer in self.layers],
        }


Operations = dict[str, int]


def _product(layer: LayerReport, profile: Profile) -> Operations:
    if not layer.spiking:
        return {"mac": layer.macs}
    if not profile.graded:
        return {"synop_binary": layer.unit_spike_acs}
    return {"synop_binary" if layer.largest_input == 1 else "synop_graded": layer.synops}


def _threshold(layer: LayerReport, profile: Profile) -> Operations:
    # Both forms test every threshold once; where spikes are binary each threshold is a neuron of its own.
    return {"neuron_update": layer.threshold_tests}


# Operations of an op over all samples, by the keys of `PRICED`. An op without a row is an error, never free.
OPERATIONS: Mapping[str, Callable[[LayerReport, Profile], Operations]] = MappingProxyType(
    {
        "Conv2d": _product,
        "Linear": _product,
        "Threshold": _threshold,
        "MaxPool2d": lambda layer, profile: {"compare": layer.compares},
        "SumPool2d": lambda layer, profile: {"add": layer.adds},
        "Add": lambda layer, profile: {"add": layer.adds},
        "Readout": lambda layer, profile: {"add": layer.adds},
        "Flatten": lambda layer, profile: {},
    }
)


def get_profile(profile: str | Profile) -> Profile:
    """Return the profile of this name; a `Profile` is returned as it is. Unknown names list the choices."""
    if isinstance(profile, Profile):
        return profile
    if profile not in PROFILES:
        raise unknown_name("energy profile", profile, PROFILES)
    return PROFILES[profile]


def energy(report: SimulationReport, profile: str | Profile) -> EnergyReport:
    """Return the energy per sample of a simulated network: sum over its operations of count * price.

    A layer that needs an operation without a published price has no energy, and then there is no total: `total_pj` is
    None and `unpriced` says why.

    Args:
        report: of `simulate`.
        profile: a name of `PROFILES`, or a `Profile`.

    Raises:
        MaqdError: an unknown profile (the choices are listed), or an op without a pricing rule.
    """
    chosen = get_profile(profile)
    layers = tuple(_layer_energy(layer, chosen, report.samples) for layer in report.layers)
    unpriced = tuple(
        f"{layer.name}: {PRICED[name]} has no published price in {chosen.name}"
        for layer in layers
        for name in layer.missing
    )
    priced = sum(sum(layer.terms.values()) for layer in layers)
    return EnergyReport(chosen, layers, None if unpriced else priced, priced, unpriced)


def _layer_energy(layer: LayerReport, profile: Profile, samples: int) -> LayerEnergy:
    if layer.op not in OPERATIONS:
        raise MaqdError(f"{layer.name}: there is no pricing rule for a {layer.op}")
    operations = OPERATIONS[layer.op](layer, profile)
    needed = {name: number for name, number in operations.items() if number and name not in profile.free}
    missing = tuple(name for name in needed if name not in profile.prices)
    terms = {
        name: number / samples * profile.prices[name].energy_pj
        for name, number in needed.items()
        if name in profile.prices
    }
    return LayerEnergy(layer.name, layer.op, None if missing else sum(terms.values()), terms, missing)


@dataclass(frozen=True)
class Baseline:
    """What the same network costs per sample without spikes: every connection is one multiply-accumulate.

    Attributes:
        name, title: for tables. energy_pj: per sample, arithmetic only. basis: how the figure was obtained.
    """

    name: str
    title: str
    energy_pj: float
    basis: str


def multiply_accumulate_pj(weight_bits: int, input_bits: int) -> float:
    """Return the energy of a small integer multiply-accumulate in 45 nm, derived from Horowitz's figures.

    E_mul = 0.2 pJ * bits * bits / 64 (predicts 3.2 pJ at 32 x 32, published 3.1). The addition is the int8 one, 0.03
    pJ, that `cmos45-int8` charges for a spike, so that neither side has the cheaper adder.

    >>> round(multiply_accumulate_pj(8, 8), 3), round(multiply_accumulate_pj(2, 1), 5)
    (0.23, 0.03625)
    """
    int8 = PROFILES["cmos45-int8"].prices
    multiply = (int8["mac"].energy_pj - int8["synop_binary"].energy_pj) * weight_bits * input_bits / 64
    return multiply + int8["synop_binary"].energy_pj


def baselines(report: SimulationReport) -> tuple[Baseline, ...]:
    """Return the dense baselines that stand beside the spikes: fp32, int8, and the low-bit network of the same states.

    The dense low-bit network is the like-for-like rival of a graded single-step network (Yan et al., arXiv 2409.08290):
    the same weights and levels, every connection computed.
    """
    products = [layer for layer in report.layers if layer.weights]
    dense = sum(layer.dense_macs for layer in products) / report.samples
    low_bit = sum(
        layer.dense_macs / report.samples * multiply_accumulate_pj(layer.weight_bits, layer.input_bits)
        for layer in products
    )
    fp32, int8 = (PROFILES[name].prices["mac"].energy_pj for name in ("cmos45-fp32", "cmos45-int8"))
    return (
        Baseline("dense-fp32", "the same network, dense, fp32", dense * fp32, "measured prices"),
        Baseline("dense-int8", "the same network, dense, int8", dense * int8, "measured prices"),
        Baseline("dense-low-bit", "the same network, dense, at its own bit widths", low_bit, "derived prices"),
    )


def price_all(report: SimulationReport, profiles: Iterable[str] = PROFILES) -> dict[str, EnergyReport]:
    """Return the energy under every profile, by name."""
    return {name: energy(report, name) for name in profiles}
