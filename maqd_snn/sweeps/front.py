"""The front of a study: the networks that no other beats in accuracy and a cost together, and the choice of one."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.sweeps.rows import DONE, TWIN, Row

COSTS = ("energy", "synops", "bytes", "cores")
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
)
PREFIXES: Mapping[str, float] = MappingProxyType(
    {"f": 1e-3, "p": 1.0, "n": 1e3, "u": 1e6, "µ": 1e6, "m": 1e9, "": 1e12}  # of joules, in pJ
)
MULTIPLES: Mapping[str, float] = MappingProxyType({"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9})


def networks(rows: Sequence[Row]) -> list[Row]:
    """Return the finished trials that have an integer network, the twin left out."""
    return [row for row in rows if row.outcome == DONE and row.slot != TWIN and row.result.get("network")]


def front(rows: Sequence[Row], cost: str) -> list[Row]:
    """Return the networks that no other beats: none is as accurate at as little cost, and better in one of both.

    They come by rising cost; networks without the cost are left out. Of equal ones the first stands for all.

    >>> rows = [Row(i, str(i), DONE, result={"network": "x", "accuracy": a, "energy": e})
    ...         for i, (a, e) in enumerate([(0.9, 5.0), (0.8, 3.0), (0.85, 6.0), (0.9, 5.0)])]
    >>> [row.number for row in front(rows, "energy")]
    [1, 0]
    """
    known = [row for row in networks(rows) if row.result.get(cost) is not None]
    found: list[Row] = []
    for row in sorted(known, key=lambda row: (row.result[cost], -row.result["accuracy"], row.number)):
        if not found or row.result["accuracy"] > found[-1].result["accuracy"]:
            found.append(row)
    return found


def fronts(rows: Sequence[Row]) -> dict[int, list[str]]:
    """Return, by number, the costs in whose front each network stands; those that stand in none are left out."""
    found: dict[int, list[str]] = {}
    for cost in COSTS:
        for row in front(rows, cost):
            found.setdefault(row.number, []).append(cost)
    return found


@dataclass(frozen=True)
class Condition:
    """A bound on a figure, such as `energy<1uJ`."""

    name: str
    comparison: str
    bound: float

    def holds(self, result: Mapping[str, Any]) -> bool:
        """Return whether a result meets it; what has no such figure does not."""
        value = result.get(self.name)
        return value is not None and COMPARISONS[self.comparison](value, self.bound)


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """Return the conditions in a text, joined by commas: energies with a unit, accuracies as share or percentage.

    >>> parse_conditions("energy<1uJ, accuracy>=90%, synops<2M")  # doctest: +NORMALIZE_WHITESPACE
    (Condition(name='energy', comparison='<', bound=1000000.0),
     Condition(name='accuracy', comparison='>=', bound=0.9),
     Condition(name='synops', comparison='<', bound=2000000.0))
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\d+\.?\d*(?:[eE][+-]?\d+)?)\s*(\S*)\s*", part)
        if match is None:
            raise MaqdError(
                f"--pick expects bounds such as energy<1uJ or accuracy>=0.9, joined by commas, got {part!r}"
            )
        name, comparison, number, unit = match.groups()
        if name not in ("accuracy", *COSTS):
            raise unknown_name("figure to pick by", name, ("accuracy", *COSTS))
        found.append(Condition(name, comparison, float(number) * _factor(name, unit, part)))
    return tuple(found)


def _factor(name: str, unit: str, part: str) -> float:
    if name == "energy":
        if unit.endswith("J") and unit[:-1] in PREFIXES:
            return PREFIXES[unit[:-1]]
        raise MaqdError(f"--pick {part.strip()!r}: an energy needs a unit: fJ, pJ, nJ, uJ, mJ or J")
    if name == "accuracy":
        if unit in ("", "%"):
            return 0.01 if unit else 1.0
    elif (unit[:-1] if name == "bytes" and unit.endswith("B") else unit) in MULTIPLES:
        return MULTIPLES[unit[:-1] if unit.endswith("B") else unit]
    raise MaqdError(f"--pick {part.strip()!r} has the unknown unit {unit!r}")


def pick(rows: Sequence[Row], conditions: Sequence[Condition], cost: str) -> Row:
    """Return the most accurate network that meets all conditions, the cheapest of equal ones.

    Where accuracy alone is bounded, the cheapest that meets them.

    Raises:
        MaqdError: none does; the nearest figures are named.
    """
    possible = [row for row in networks(rows) if all(condition.holds(row.result) for condition in conditions)]
    known = networks(rows)
    if not possible:
        have = "; ".join(
            f"{name} from {min(values):g} to {max(values):g}"
            for name in dict.fromkeys(condition.name for condition in conditions)
            if (values := [row.result[name] for row in known if row.result.get(name) is not None])
        )
        raise MaqdError(f"no network of the study meets that; it has {have or 'no such figures'}")
    if all(condition.name == "accuracy" for condition in conditions):
        return min(possible, key=lambda row: (_cost(row, cost), -row.result["accuracy"], row.number))
    return min(possible, key=lambda row: (-row.result["accuracy"], _cost(row, cost), row.number))


def _cost(row: Row, cost: str) -> float:
    value = row.result.get(cost)
    return float("inf") if value is None else float(value)
