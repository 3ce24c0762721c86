"""The mapping of a run: what `maqd map` prints, and what it leaves in the run's folder for the report."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from maqd_snn.neuromorphic.hardware.costs import Activity, Traffic, activity, every_unit_once, flows, traffic
from maqd_snn.neuromorphic.hardware.fitting import Plan
from maqd_snn.neuromorphic.hardware.placing import place
from maqd_snn.neuromorphic.hardware.text import verdict

SECTION_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Mapped:
    """A plan, and what its placement costs; no cost where a limit fails."""

    plan: Plan
    cost: Traffic | None

    def to_dict(self) -> dict[str, Any]:
        """Return the section of a report as plain values."""
        return {
            "schema": SECTION_SCHEMA,
            **self.plan.to_dict(),
            "verdict": verdict(self.plan),
            "traffic": None if self.cost is None else self.cost.to_dict(),
        }


def map_network(plan: Plan, batches: Iterable[Tensor] | None) -> Mapped:
    """Return the plan with its placement and traffic, measured on batches of codes; without any, one message a unit."""
    if plan.fits is False:
        return Mapped(plan, None)
    sent: Activity = every_unit_once(plan) if batches is None else activity(plan, batches)
    flow = flows(plan, sent)
    return Mapped(plan, traffic(place(plan, flow), sent, flow))
