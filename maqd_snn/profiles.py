"""Energy profiles: named, frozen tables of published prices. A price that nobody published is absent, never guessed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from maqd_snn.errors import MaqdError
from maqd_snn.sram import HOROWITZ_POINTS, Memories

# How a figure was obtained.
BASES: Mapping[str, str] = MappingProxyType(
    {
        "measured": "measured on the chip",
        "simulated": "simulated before there was silicon",
        "fitted": "fitted to measurements of a whole chip",
        "derived": "computed from other figures",
        "all-in": "all power, static included, divided by events; never add anything to it",
        "estimated": "the author's rough figure for a technology, of no particular chip",
        "quoted": "as a secondary source quotes it, which does not say how it was obtained",
    }
)

# What can be priced; each is a number of operations that `pricing` reads from the counts.
PRICED: Mapping[str, str] = MappingProxyType(
    {
        "mac": "one multiply-accumulate of a layer that is not spiking",
        "synop_binary": "one synaptic operation of a spike without a level: an accumulation",
        "synop_graded": "one synaptic operation of a graded spike: a small multiplication and an accumulation",
        "synop_conv": "one synaptic operation of a spike without a level through a convolution",
        "synop_linear": "one synaptic operation of a spike without a level through a fully connected layer",
        "add": "one addition of a sum-pool, residual sum or readout",
        "compare": "one comparison of a max-pool",
        "neuron_update": "one update of a neuron in the single step",
        "spike": "one spike sent by a neuron",
    }
)

# What the memory models charge besides; their prices follow from the sizes of the memories.
MODELLED: Mapping[str, str] = MappingProxyType(
    {
        "weight_fetch": "weights read",
        "accumulator": "neuron sums read and written",
        "threshold_read": "thresholds read",
        "message": "inputs and spikes written and read on their way to a layer",
        "operations": "32-bit additions and multiplications (Lemaire et al.)",
        "addressing": "computing where a spike goes (Lemaire et al.)",
        "parameters": "32-bit weights read (Lemaire et al.)",
        "potentials": "32-bit membrane potentials read and written (Lemaire et al.)",
        "in_out": "32-bit inputs read and spikes written (Lemaire et al.)",
    }
)

# Terms that are memory traffic: a factor in the memory price multiplies these.
MEMORY_TERMS = frozenset(MODELLED) - {"operations", "addressing"}

TERMS: Mapping[str, str] = MappingProxyType({**PRICED, **MODELLED})

# How a profile turns counts into energy; `pricing.MODELS` has the functions.
MODELS = ("prices", "event-core", "lemaire")

# What a total of a profile is made of. Only equal scopes of equal nodes are comparable.
SCOPES: Mapping[str, str] = MappingProxyType(
    {
        "arithmetic": "arithmetic alone",
        "memory": "arithmetic and memory",
        "model": "an analytical model of its own",
        "chip": "a chip's own operations",
        "device": "a device's average operation",
    }
)

# Picojoules of one unit, for prices that are written in another.
UNITS: Mapping[str, float] = MappingProxyType({"fJ": 1e-3, "pJ": 1.0, "nJ": 1e3, "uJ": 1e6, "mJ": 1e9, "J": 1e12})


@dataclass(frozen=True)
class Price:
    """The energy of one operation, in pJ.

    Attributes:
        energy_pj: picojoules, above or equal to 0. basis: one of `BASES`. source: where the figure stands.
    """

    energy_pj: float
    basis: str
    source: str

    def __post_init__(self) -> None:
        if not 0 <= self.energy_pj < float("inf"):
            raise MaqdError(f"a price must be a finite number of pJ, 0 or more, got {self.energy_pj}")
        if self.basis not in BASES:
            raise MaqdError(f"the basis of a price must be one of {', '.join(BASES)}, got {self.basis!r}")


@dataclass(frozen=True)
class Profile:
    """Prices per operation of one technology or chip.

    Attributes:
        name, title: for lists. node, voltage: of the silicon; empty where the source does not say.
        prices: by the keys of `PRICED`, in pJ per operation; an absent one was never published: a layer that needs it
            has no energy, and there is no total.
        graded: whether a level travels as one event; if False a level-k spike is k binary spikes of k neurons
            (thermometer), and synops and neuron updates are counted so.
        includes, excludes: what the prices cover, in words.
        free: operations that the prices already contain (an all-in figure) or that this technology does not perform.
        listed: published figures that are not charged, by name: alternatives, and what needs a placement or learning.
        event_driven: whether zeros are skipped; if False every connection is one multiply-accumulate.
        scope: one of `SCOPES`. model: one of `MODELS`. memories: of the models that price memory, else None.
    """

    name: str
    title: str
    node: str
    voltage: str
    prices: Mapping[str, Price]
    graded: bool
    includes: str
    excludes: str
    free: frozenset[str] = field(default_factory=frozenset)
    listed: Mapping[str, Price] = field(default_factory=dict)
    event_driven: bool = True
    scope: str = "chip"
    model: str = "prices"
    memories: Memories | None = None

    def __post_init__(self) -> None:
        unknown = sorted((set(self.prices) | self.free) - set(PRICED))
        if unknown:
            raise MaqdError(f"{self.name}: unknown operations {unknown}; expected some of {', '.join(PRICED)}")
        for name, choices in (("scope", tuple(SCOPES)), ("model", MODELS)):
            if getattr(self, name) not in choices:
                raise MaqdError(f"{self.name}: {name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if (self.model == "prices") != (self.memories is None):
            raise MaqdError(f"{self.name}: the model {self.model!r} does not go with memories = {self.memories!r}")


_HOROWITZ = "Horowitz, ISSCC 2014, doi 10.1109/ISSCC.2014.6757323"
_PMC = f"{_HOROWITZ}, as in PMC8934428, table 3"
_PRESET = f"{_HOROWITZ}, as quoted in SpikingJelly 2.0.0, op_counter/simple_energy.py"
_DAVIES = "Davies et al., IEEE Micro 2018, table 2 (pre-silicon simulation, 0.75 V)"
_SANAFE = "SANA-FE, IEEE TCAD 2025, doi 10.1109/TCAD.2025.3537971 (fitted on Nahuku boards)"
_MEROLLA = "Merolla et al., Science 2014, and supplement: total power / synaptic events at 20 Hz, 128 synapses, 0.775 V"
_ODIN = "Frenkel et al., IEEE TBioCAS 2019, doi 10.1109/TBCAS.2018.2880425"
_DARWIN = "Darwin3, National Science Review 2024, doi 10.1093/nsr/nwae102"
_HOEPPNER = "Hoeppner et al. 2019, arXiv 1903.08941, as quoted in keras-spiking 0.3.0, model_energy.py"
_DEGNAN = "Degnan et al. 2015, as quoted in keras-spiking 0.3.0, model_energy.py"
_KERAS = "keras-spiking 0.3.0, model_energy.py"


def _cmos45(kind: str, add_pj: float, multiply_pj: float, source: str) -> Profile:
    accumulate = Price(add_pj, "estimated", f"{source}: {kind} add")
    multiply_accumulate = Price(round(multiply_pj + add_pj, 6), "estimated", f"{source}: {kind} multiply + add")
    return Profile(
        name=f"cmos45-{kind}",
        title=f"45 nm CMOS arithmetic, {kind}",
        node="45 nm",
        voltage="0.9 V",
        prices={
            "mac": multiply_accumulate,
            "synop_binary": accumulate,
            "synop_graded": multiply_accumulate,
            "add": accumulate,
            "compare": accumulate,
            "neuron_update": accumulate,
        },
        graded=True,
        includes="arithmetic only: a comparison is priced as an addition, a neuron update as one comparison",
        excludes="memory, control, routing and static power, which dominate on a real chip",
        scope="arithmetic",
    )


_INT8 = _cmos45("int8", add_pj=0.03, multiply_pj=0.2, source=_PRESET)
_INT32 = _cmos45("int32", add_pj=0.1, multiply_pj=3.1, source=_PMC)


def _keras(name: str, title: str, synop: Price, neuron: Price, event_driven: bool) -> Profile:
    return Profile(
        name=f"keras-{name}",
        title=f"{title}, as keras-spiking has it",
        node="",
        voltage="",
        prices={"synop_binary" if event_driven else "mac": synop, "neuron_update": neuron},
        graded=not event_driven,
        includes="synaptic operations and neuron updates"
        + ("" if event_driven else ": every connection once, every neuron once, whatever the data"),
        excludes="everything else: moving data to and from the device, pooling and sums (which count nothing there)",
        free=frozenset({"add", "compare"}),
        event_driven=event_driven,
        scope="device",
    )


def _unpriced(name: str, title: str, node: str, graded: bool, excludes: str) -> Profile:
    return Profile(name, title, node, "", {}, graded, "nothing: no price of an operation was published", excludes)


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            _cmos45("fp32", add_pj=0.9, multiply_pj=3.7, source=_PMC),
            _cmos45("fp16", add_pj=0.4, multiply_pj=1.1, source=_PRESET),
            _INT32,
            _INT8,
            Profile(
                name="cmos45-memory",
                title="45 nm event-driven core with its memories",
                node="45 nm",
                voltage="0.9 V",
                prices=_INT8.prices,
                graded=True,
                includes="int8 arithmetic; SRAM accesses for weights, neuron sums, thresholds and messages, by the "
                "size of each memory, words packed",
                excludes="control, routing, static power, caches and reuse",
                scope="memory",
                model="event-core",
                memories=Memories(),
            ),
            Profile(
                name="lemaire",
                title="Analytical model of Lemaire et al., 32-bit integers",
                node="45 nm",
                voltage="0.9 V",
                prices={
                    "add": Price(0.1, "derived", f"{_PMC}: int32 add; pooling is not in the model"),
                    "compare": Price(0.1, "derived", f"{_PMC}: int32 add; pooling is not in the model"),
                },
                graded=True,
                includes="32-bit operations, addressing, and SRAM accesses of 4 bytes each; layers with levels above 1 "
                "as the dense network",
                excludes="control, routing, static power; borders are ignored, as in the paper (arXiv 2210.13107)",
                scope="model",
                model="lemaire",
                memories=Memories(access_bits=32, message_bytes=4000, points=((0, 0.0), *HOROWITZ_POINTS)),
            ),
            Profile(
                name="loihi1",
                title="Intel Loihi 1",
                node="14 nm",
                voltage="0.75 V",
                prices={
                    "synop_binary": Price(23.6, "simulated", f"{_DAVIES}: synaptic operation, minimum"),
                    "neuron_update": Price(81.0, "simulated", f"{_DAVIES}: neuron update, active"),
                },
                graded=False,
                includes="synaptic operations and neuron updates; every neuron with a threshold as active",
                excludes="spike transport (needs a placement), static power (about 104 mW a chip, derived, at another "
                "voltage)",
                listed={
                    "neuron update, inactive": Price(52.0, "simulated", _DAVIES),
                    "spike within a tile": Price(1.7, "simulated", _DAVIES),
                    "hop east-west": Price(3.0, "simulated", _DAVIES),
                    "hop north-south": Price(4.0, "simulated", _DAVIES),
                    "learning update": Price(120.0, "simulated", _DAVIES),
                },
            ),
            Profile(
                name="loihi1-fitted",
                title="Intel Loihi 1, fitted to a board",
                node="14 nm",
                voltage="",
                prices={
                    "synop_conv": Price(24.0, "fitted", f"{_SANAFE}: convolution"),
                    "synop_linear": Price(35.5, "fitted", f"{_SANAFE}: dense"),
                    "spike": Price(69.3, "fitted", f"{_SANAFE}: spike out"),
                },
                graded=False,
                includes="synaptic operations by kind of connection, spikes sent",
                excludes="neuron updates (no figure found), messages (need a placement), static power",
                listed={
                    "synaptic operation, sparse": Price(33.6, "fitted", _SANAFE),
                    "message out": Price(111.0, "fitted", _SANAFE),
                },
            ),
            Profile(
                name="truenorth",
                title="IBM TrueNorth",
                node="28 nm",
                voltage="0.775 V",
                prices={"synop_binary": Price(26.0, "all-in", _MEROLLA)},
                graded=False,
                includes="everything, static power included, averaged over synaptic events at one operating point",
                excludes="nothing; neuron updates are inside the figure and must not be added",
                free=frozenset({"neuron_update"}),
                listed={
                    "synaptic event, marginal, 0.8 V": Price(2.297, "fitted", "third-party regression"),
                    "hop": Price(2.3, "quoted", "Merolla et al., Science 2014, supplement"),
                    "bit of SRAM": Price(0.047, "quoted", "Merolla et al., Science 2014, supplement"),
                },
            ),
            Profile(
                name="spinnaker1",
                title="SpiNNaker 1",
                node="",
                voltage="",
                prices={
                    "synop_binary": Price(13_300.0, "quoted", f"{_HOEPPNER}: synaptic operation"),
                    "neuron_update": Price(26_000.0, "quoted", f"{_HOEPPNER}: neuron update"),
                },
                graded=False,
                includes="synaptic operations and neuron updates",
                excludes="what the source does not say",
                listed={
                    "synaptic operation, another paper": Price(11_300.0, "quoted", "secondary source"),
                    "synaptic operation, a third paper": Price(26_600.0, "quoted", "secondary source"),
                },
            ),
            Profile(
                name="spinnaker2",
                title="SpiNNaker 2",
                node="22 nm",
                voltage="",
                prices={
                    "synop_binary": Price(450.0, "quoted", f"{_HOEPPNER}: synaptic operation"),
                    "neuron_update": Price(2_190.0, "quoted", f"{_HOEPPNER}: neuron update"),
                },
                graded=False,
                includes="synaptic operations and neuron updates",
                excludes="its multiply-accumulate unit (no figure found); what the source does not say",
            ),
            Profile(
                name="odin",
                title="ODIN",
                node="28 nm",
                voltage="",
                prices={"synop_binary": Price(12.7, "all-in", f"{_ODIN}: measured, global minimum per operation")},
                graded=False,
                includes="everything, measured and divided by synaptic operations, at the minimum",
                excludes="nothing; neuron updates are inside the figure and must not be added",
                free=frozenset({"neuron_update"}),
                listed={"synaptic operation, incremental": Price(8.43, "measured", _ODIN)},
            ),
            Profile(
                name="darwin3",
                title="Darwin3",
                node="22 nm",
                voltage="",
                prices={"synop_binary": Price(5.47, "measured", f"{_DARWIN}: incremental")},
                graded=False,
                includes="synaptic operations, incremental",
                excludes="neuron updates (no figure found), transport, static power",
            ),
            _keras(
                "cpu",
                "Intel i7-4960X",
                Price(8_600.0, "quoted", f"{_DEGNAN}: cpu"),
                Price(8_600.0, "quoted", f"{_DEGNAN}: cpu"),
                event_driven=False,
            ),
            _keras(
                "gpu",
                "GPU",
                Price(300.0, "quoted", f"{_DEGNAN}: gpu"),
                Price(300.0, "quoted", f"{_DEGNAN}: gpu"),
                event_driven=False,
            ),
            _keras(
                "arm",
                "ARM",
                Price(900.0, "quoted", f"{_DEGNAN}: arm"),
                Price(900.0, "quoted", f"{_DEGNAN}: arm"),
                event_driven=False,
            ),
            _keras(
                "loihi",
                "Loihi 1",
                Price(27.1, "quoted", f"{_KERAS}: loihi, 23.6 + 3.5; the 3.5 is not explained there"),
                Price(81.0, "quoted", f"{_KERAS}: loihi"),
                event_driven=True,
            ),
            _keras(
                "spinnaker",
                "SpiNNaker 1",
                Price(13_300.0, "quoted", f"{_HOEPPNER}: spinnaker"),
                Price(26_000.0, "quoted", f"{_HOEPPNER}: spinnaker"),
                event_driven=True,
            ),
            _keras(
                "spinnaker2",
                "SpiNNaker 2",
                Price(450.0, "quoted", f"{_HOEPPNER}: spinnaker2"),
                Price(2_190.0, "quoted", f"{_HOEPPNER}: spinnaker2"),
                event_driven=True,
            ),
            _unpriced("loihi2", "Intel Loihi 2", "Intel 4", True, "everything: no energy per operation is public"),
            _unpriced(
                "speck",
                "SynSense Speck",
                "",
                False,
                "everything: published papers disagree on the energy per synaptic operation; known is the power of the "
                "processor, 0.42 mW resting and 0.70 mW in use (doi 10.1038/s41467-024-47811-6)",
            ),
            _unpriced("akida", "BrainChip Akida", "", True, "everything: power is measured on boards only"),
        )
    }
)
