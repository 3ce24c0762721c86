"""The honest baselines that stand beside the spikes, and the spike rate at which event-driven work stops paying."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from maqd_snn.lemaire import dense_work, work_pj
from maqd_snn.pricing import EnergyReport
from maqd_snn.profiles import PROFILES, Profile
from maqd_snn.simulation import LayerReport, SimulationReport
from maqd_snn.sram import Memories
from maqd_snn.traffic import dense_product, spiking_product, traffic_pj


@dataclass(frozen=True)
class Baseline:
    """What the same network costs per sample in another form, in 45 nm.

    Attributes:
        name, title: for tables. energy_pj: per sample. basis: how the figure was obtained.
        scope: `arithmetic`, or `memory` where SRAM accesses are in it; comparable with profiles of the same scope.
    """

    name: str
    title: str
    energy_pj: float
    basis: str
    scope: str = "arithmetic"


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


Cost = Callable[[LayerReport], float]  # picojoules of a product layer over all samples


def _fp32(layer: LayerReport) -> float:
    return layer.dense_macs * PROFILES["cmos45-fp32"].prices["mac"].energy_pj


def _int8(layer: LayerReport) -> float:
    return layer.dense_macs * PROFILES["cmos45-int8"].prices["mac"].energy_pj


def _low_bit(layer: LayerReport) -> float:
    return layer.dense_macs * multiply_accumulate_pj(layer.weight_bits, layer.input_bits)


def _with_memory(cost: Cost, samples: int, memories: Memories, bits: tuple[int, int, int] | None) -> Cost:
    def whole(layer: LayerReport) -> float:
        widths = bits or (layer.weight_bits, layer.input_bits, layer.accumulator_bits)
        return cost(layer) + sum(traffic_pj(dense_product(layer, samples, *widths), memories).values())

    return whole


Rival = tuple[str, Cost, str, str]  # title, cost, basis, scope


def _dense(samples: int) -> dict[str, Rival]:
    """Return title, cost, basis and scope of the dense rivals by name."""
    memories = PROFILES["cmos45-memory"].memories
    assert memories is not None
    rivals: dict[str, tuple[str, Cost, str, tuple[int, int, int] | None]] = {
        "dense-fp32": ("the same network, dense, fp32", _fp32, "estimated prices", (32, 32, 32)),
        "dense-int8": ("the same network, dense, int8", _int8, "estimated prices", (8, 8, 32)),
        "dense-low-bit": ("the same network, dense, at its own bit widths", _low_bit, "derived prices", None),
    }
    table: dict[str, Rival] = {}
    for name, (title, cost, basis, _) in rivals.items():
        table[name] = (title, cost, basis, "arithmetic")
    for name, (title, cost, basis, bits) in rivals.items():
        whole = _with_memory(cost, samples, memories, bits)
        table[f"{name}-memory"] = (f"{title}, with its memories", whole, basis, "memory")
    return table


def _products(report: SimulationReport) -> list[LayerReport]:
    return [layer for layer in report.layers if layer.weights]


def baselines(report: SimulationReport) -> tuple[Baseline, ...]:
    """Return the baselines: dense fp32, int8 and low-bit, and unit spikes over n steps; each with and without memories.

    The dense low-bit network is the like-for-like rival of a graded single-step network (Yan et al., arXiv 2409.08290):
    the same weights and levels, every connection computed. Unit spikes are the same network on hardware without levels:
    a level-k spike is k spikes in k of n steps, n the largest number of levels.
    """
    products = _products(report)
    found = [
        Baseline(name, title, sum(map(cost, products)) / report.samples, basis, scope)
        for name, (title, cost, basis, scope) in _dense(report.samples).items()
    ]
    found[3:3] = [_unit_spikes(report, memories=None)]
    memories = PROFILES["cmos45-memory"].memories
    return (*found, _unit_spikes(report, memories))


def _unit_spikes(report: SimulationReport, memories: Memories | None) -> Baseline:
    """Price k accumulations for a level k, and every neuron in each of n steps.

    Dense layers are computed once and their sums kept. With memories, each accumulation fetches a weight and reads and
    writes a sum; messages are counted once per graded event, which is a lower bound.
    """
    prices = PROFILES["cmos45-int8"].prices
    add, mac = prices["synop_binary"].energy_pj, prices["mac"].energy_pj
    steps = max((layer.levels for layer in report.layers), default=0) or 1
    total = 0.0
    for layer in report.layers:
        total += layer.macs * mac + (layer.unit_spike_acs + layer.compares + layer.adds) * add
        total += layer.neuron_updates * steps * add
        if memories is None:
            continue
        if layer.spiking and layer.weights:
            total += sum(traffic_pj(spiking_product(layer, layer.unit_spike_acs), memories).values())
        elif layer.weights:
            widths = (layer.weight_bits, layer.input_bits, layer.accumulator_bits)
            total += sum(traffic_pj(dense_product(layer, report.samples, *widths), memories).values())
        elif layer.op == "Threshold":
            size = memories.accumulator_bytes or layer.neurons * layer.input_bits / 8
            threshold = memories.threshold_bytes or layer.output_shape[0] * layer.input_bits / 8
            updates = layer.neuron_updates * steps
            total += memories.bits_pj(2 * updates * layer.input_bits, size)
            total += memories.bits_pj(updates * layer.input_bits, threshold)
    name = "unit-spikes" if memories is None else "unit-spikes-memory"
    title = f"the same network in unit spikes over {steps} step{'s' if steps > 1 else ''}"
    if memories is not None:
        title += ", with its memories"
    return Baseline(name, title, total / report.samples, "derived counts, estimated prices",
                    "arithmetic" if memories is None else "memory")  # fmt: skip


@dataclass(frozen=True)
class BreakEven:
    """The share of connections that may carry a spike before event-driven work costs more than the dense rival.

    With D the rival's energy of the layers that are fed spikes, S their event-driven energy and r = synops / dense MACs
    of
    these layers as measured: break-even is r * D / S. What both sides share (thresholds, pools, the layers that are not
    fed spikes) drops out.

    Attributes:
        profile, rival: names. share: break-even, above 1 where spikes pay even if all connections carry one; None where
        the profile has no price for a dense MAC or a synaptic operation, and `reason` says so.
        measured: the share r that was measured. pays: whether r lies below break-even.
    """

    profile: str
    rival: str
    share: float | None
    measured: float
    reason: str = ""

    @property
    def pays(self) -> bool | None:
        """Whether the measured share lies below break-even; None where there is none."""
        return None if self.share is None else self.measured < self.share


def break_even(report: SimulationReport, entries: Iterable[EnergyReport]) -> tuple[BreakEven, ...]:
    """Return the break-even share of every profile against each dense rival of its own technology and scope."""
    spiking = [layer for layer in _products(report) if layer.spiking]
    dense = sum(layer.dense_macs for layer in spiking)
    measured = sum(layer.synops for layer in spiking) / dense if dense else 0.0
    names = {layer.name for layer in spiking}
    found = []
    for entry in entries:
        profile = entry.profile
        layers = [layer for layer in entry.layers if layer.name in names]
        spent = sum(sum(layer.terms.values()) for layer in layers) * report.samples
        rivals = _rivals(profile, report.samples)
        graded = any(layer.input_bits > 1 for layer in spiking)
        if not profile.event_driven:
            reason = "it computes every connection anyway"
        elif any(layer.missing for layer in layers):
            reason = "the price of a synaptic operation was not published"
        elif profile.model == "lemaire" and graded:
            reason = "levels above 1 are dense in this model"
        elif not rivals:
            reason = "no price of a dense multiply-accumulate was published"
        else:
            reason = "" if spent else "nothing spiked"
        if reason:
            found.append(BreakEven(profile.name, "", None, measured, reason))
            continue
        for rival, cost in rivals.items():
            found.append(BreakEven(profile.name, rival, measured * sum(map(cost, spiking)) / spent, measured))
    return tuple(found)


def _rivals(profile: Profile, samples: int) -> dict[str, Cost]:
    """Return the dense rivals of a profile: those of its technology and scope, else its own price of a dense layer."""
    memories = profile.memories
    if profile.model == "lemaire" and memories is not None:
        return {"dense, same model": lambda layer: sum(work_pj(dense_work(layer, samples), memories).values())}
    if profile.name in ("cmos45-int8", "cmos45-memory"):
        return {name: cost for name, (_, cost, _, scope) in _dense(samples).items() if scope == profile.scope}
    if "mac" not in profile.prices:
        return {}
    price = profile.prices["mac"].energy_pj
    return {"dense, its own price": lambda layer: layer.dense_macs * price}
