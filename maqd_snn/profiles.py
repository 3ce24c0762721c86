"""Energy profiles: named, frozen tables of published prices. A price that nobody published is absent, never guessed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from maqd_snn.errors import MaqdError

BASES = ("measured", "simulated", "fitted", "derived", "all-in")

# What can be priced; each is a number of operations that `pricing` reads from the counts.
PRICED = MappingProxyType(
    {
        "mac": "one multiply-accumulate of a layer that is not spiking",
        "synop_binary": "one synaptic operation of a spike without a level: an accumulation",
        "synop_graded": "one synaptic operation of a graded spike: a small multiplication and an accumulation",
        "add": "one addition of a sum-pool, residual sum or readout",
        "compare": "one comparison of a max-pool",
        "neuron_update": "one update of a neuron in the single step",
    }
)


@dataclass(frozen=True)
class Price:
    """The energy of one operation.

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
        name, title: for lists. node, voltage: of the silicon. prices: by the keys of `PRICED`; an absent one was never
        published, a layer that needs it has no energy, and there is no total.
        graded: whether a level travels as one event; if False a level-k spike is k binary spikes of k neurons
        (thermometer), and synops and neuron updates are counted so.
        includes, excludes: what the prices cover, in words.
        free: operations that the prices already contain (an all-in figure) or that this technology does not perform.
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

    def __post_init__(self) -> None:
        unknown = sorted((set(self.prices) | self.free) - set(PRICED))
        if unknown:
            raise MaqdError(f"{self.name}: unknown operations {unknown}; expected some of {', '.join(PRICED)}")


_HOROWITZ = "Horowitz, ISSCC 2014, doi 10.1109/ISSCC.2014.6757323"
_DAVIES = "Davies et al., IEEE Micro 2018, table 2 (pre-silicon simulation, 0.75 V)"
_MEROLLA = "Merolla et al., Science 2014, and supplement: total power / synaptic events at 20 Hz, 128 synapses, 0.775 V"


def _cmos45(name: str, kind: str, add_pj: float, multiply_pj: float) -> Profile:
    accumulate = Price(add_pj, "measured", f"{_HOROWITZ}: {kind} add")
    multiply_accumulate = Price(round(multiply_pj + add_pj, 6), "measured", f"{_HOROWITZ}: {kind} multiply + add")
    return Profile(
        name=name,
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
    )


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            _cmos45("cmos45-fp32", "fp32", add_pj=0.9, multiply_pj=3.7),
            _cmos45("cmos45-int8", "int8", add_pj=0.03, multiply_pj=0.2),
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
                excludes="spike transport (1.7 pJ within a tile, 3.0 and 4.0 pJ a hop: needs a placement), static",
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
            ),
        )
    }
)
