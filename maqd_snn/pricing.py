"""Energy: counts times a named profile. No total where a price is missing."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.lemaire import layer_work, work_pj
from maqd_snn.profile_file import read_profile
from maqd_snn.profiles import MEMORY_TERMS, PRICED, PROFILES, Profile
from maqd_snn.simulation import LayerReport, SimulationReport
from maqd_snn.traffic import accesses, traffic_pj


@dataclass(frozen=True)
class LayerEnergy:
    """The energy of one op per sample.

    Attributes:
        name, op: as in the simulation report. energy_pj: mean per sample, or None where a price is missing.
        terms: picojoules per sample by term (`profiles.TERMS`), of those that are priced.
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
        sensitivity: the total (or priced part) with every memory price multiplied by a factor, by factor; empty where
            the profile prices no memory.
    """

    profile: Profile
    layers: tuple[LayerEnergy, ...]
    total_pj: float | None
    priced_pj: float
    unpriced: tuple[str, ...]
    sensitivity: Mapping[float, float]

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
                "event_driven": profile.event_driven,
                "scope": profile.scope,
                "model": profile.model,
                "includes": profile.includes,
                "excludes": profile.excludes,
                "free": sorted(profile.free),
                "prices": {name: asdict(price) for name, price in profile.prices.items()},
                "listed": {name: asdict(price) for name, price in profile.listed.items()},
                "memories": None if profile.memories is None else _plain(asdict(profile.memories)),
            },
            "total_pj": self.total_pj,
            "priced_pj": self.priced_pj,
            "unpriced": list(self.unpriced),
            "sensitivity": [{"factor": factor, "energy_pj": pj} for factor, pj in self.sensitivity.items()],
            "layers": [
                {**asdict(layer), "terms": dict(layer.terms), "missing": list(layer.missing)} for layer in self.layers
            ],
        }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "points": [list(point) for point in values["points"]]}


Operations = dict[str, int]


def _product(layer: LayerReport, profile: Profile) -> Operations:
    if not profile.event_driven:
        return {"mac": layer.dense_macs}
    if not layer.spiking:
        return {"mac": layer.macs}
    if profile.graded:
        return {"synop_binary" if layer.largest_input == 1 else "synop_graded": layer.synops}
    kind = "synop_conv" if layer.op == "Conv2d" else "synop_linear"
    return {kind if kind in profile.prices else "synop_binary": layer.unit_spike_acs}


def _threshold(layer: LayerReport, profile: Profile) -> Operations:
    if not profile.event_driven:
        return {"neuron_update": layer.neuron_updates}
    # Both forms test every threshold once; where spikes are binary each threshold is a neuron of its own.
    sent = {"spike": layer.unit_spikes} if "spike" in profile.prices else {}
    return {"neuron_update": layer.threshold_tests, **sent}


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

Priced = tuple[dict[str, float], tuple[str, ...]]  # picojoules of all samples by term, and what has no price


def _by_prices(layer: LayerReport, profile: Profile, samples: int) -> Priced:
    operations = OPERATIONS[layer.op](layer, profile)
    needed = {name: number for name, number in operations.items() if number and name not in profile.free}
    terms = {name: number * profile.prices[name].energy_pj for name, number in needed.items() if name in profile.prices}
    return terms, tuple(name for name in needed if name not in profile.prices)


def _event_core(layer: LayerReport, profile: Profile, samples: int) -> Priced:
    assert profile.memories is not None
    terms, missing = _by_prices(layer, profile, samples)
    return {**terms, **traffic_pj(accesses(layer, samples), profile.memories)}, missing


def _lemaire(layer: LayerReport, profile: Profile, samples: int) -> Priced:
    assert profile.memories is not None
    work = layer_work(layer, samples, profile.memories)
    if work is None:
        return _by_prices(layer, profile, samples)
    return work_pj(work, profile.memories), ()


# How each model of `profiles.MODELS` prices an op.
MODELS: Mapping[str, Callable[[LayerReport, Profile, int], Priced]] = MappingProxyType(
    {"prices": _by_prices, "event-core": _event_core, "lemaire": _lemaire}
)

FACTORS = (0.5, 1.0, 2.0)  # of the memory prices: Horowitz's accesses read as 64 or as 32 bits differ by 2


def get_profile(profile: str | os.PathLike[str] | Profile) -> Profile:
    """Return the profile of this name, or of a TOML file; a `Profile` is returned as it is.

    Raises:
        MaqdError: an unknown name (the choices are listed), or a file that is no valid profile.
    """
    if isinstance(profile, Profile):
        return profile
    name = os.fspath(profile)
    if name.endswith(".toml"):
        return read_profile(name)
    if name not in PROFILES:
        raise unknown_name("energy profile", name, PROFILES)
    return PROFILES[name]


def energy(report: SimulationReport, profile: str | os.PathLike[str] | Profile) -> EnergyReport:
    """Return the energy per sample of a simulated network: sum over its operations of count * price.

    A layer that needs an operation without a published price has no energy, and then there is no total: `total_pj` is
    None and `unpriced` says why.

    Args:
        report: of `simulate`.
        profile: a name of `PROFILES`, the path of a TOML file (`profile_file`), or a `Profile`.

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
    memory = sum(pj for layer in layers for name, pj in layer.terms.items() if name in MEMORY_TERMS)
    steps = FACTORS if chosen.memories is not None else ()
    sensitivity = {factor: priced + (factor - 1) * memory for factor in steps}
    return EnergyReport(chosen, layers, None if unpriced else priced, priced, unpriced, sensitivity)


def with_memory_factor(profile: Profile, factor: float) -> Profile:
    """Return the profile with every memory price multiplied by a factor.

    Raises:
        MaqdError: a profile that prices no memory, or a factor that is negative or not finite.
    """
    if profile.memories is None:
        raise MaqdError(f"{profile.name} prices no memory, so that no factor can change it")
    return replace(profile, memories=replace(profile.memories, factor=profile.memories.factor * factor))


def _layer_energy(layer: LayerReport, profile: Profile, samples: int) -> LayerEnergy:
    if layer.op not in OPERATIONS:
        raise MaqdError(f"{layer.name}: there is no pricing rule for a {layer.op}")
    spent, missing = MODELS[profile.model](layer, profile, samples)
    terms = {name: pj / samples for name, pj in spent.items()}
    return LayerEnergy(layer.name, layer.op, None if missing else sum(terms.values()), terms, missing)


def price_all(report: SimulationReport, profiles: Iterable[str | Profile] = PROFILES) -> dict[str, EnergyReport]:
    """Return the energy under every profile, by name.

    Raises:
        MaqdError: two profiles of one name.
    """
    priced: dict[str, EnergyReport] = {}
    for profile in profiles:
        entry = energy(report, profile)
        if entry.profile.name in priced:
            raise MaqdError(f"two energy profiles are named {entry.profile.name!r}; give each its own name")
        priced[entry.profile.name] = entry
    return priced
