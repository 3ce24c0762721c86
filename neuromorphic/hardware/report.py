"""The mapping of a run: what `maqd map` prints, and what it leaves in the run's folder for the report."""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from maqd_snn.integer.storage import fingerprint
from maqd_snn.neuromorphic.hardware.costs import Activity, Traffic, activity, every_unit_once, flows, traffic
from maqd_snn.neuromorphic.hardware.fitting import Plan, in_words
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


def section(mapped: Mapped, png: bytes | None, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return `report["mapping"]`, as `reporting.attachments` shows it: verdicts, limits and figures of each chip.

    Args:
        mapped: of `map_network`. png: its figure. before: the section so far; what it says of other chips is kept,
            if it is of the same network.
    """
    title, network = mapped.plan.chip.title, fingerprint(mapped.plan.job.net)
    before = before if before and before.get("network") == network else {}
    facts = [[title, verdict(mapped.plan)]]
    if mapped.cost is not None:
        n, cost = mapped.cost.sent.samples, mapped.cost
        facts.append([f"{title}: messages per image", f"{cost.messages / n:,.1f}"])
        if cost.hops is not None:
            facts.append([f"{title}: links crossed per image", f"{cost.hops / n:,.1f}"])
        energy = "no total" if cost.energy_pj is None else f"{cost.energy_pj / n / 1000:,.3g} nJ"
        facts.append([f"{title}: energy of messages per image", energy])
    facts += [[f"{title}: would fit with", remedy.text] for remedy in mapped.plan.remedies]
    rows = [
        [
            row.layer,
            row.figure,
            in_words(row.need),
            "unknown" if row.limit is None else in_words(row.limit),
            row.verdict,
        ]
        for row in mapped.plan.rows
    ]
    table = {
        "caption": f"{title}: limits",
        "columns": ["layer", "limit", "needed", "available", "verdict"],
        "rows": rows,
    }
    kept: dict[str, list[Any]] = {key: [] for key in ("facts", "tables", "figures")}
    for key, entries in kept.items():
        for entry in before.get(key, []):
            label = entry[0] if key == "facts" else entry["caption"]
            if label != title and not label.startswith(f"{title}: "):
                entries.append(entry)
    data = "" if png is None else base64.b64encode(png).decode()
    caption = f"{title}: cores by layer, messages on links, shares of the limits"
    figures = [{"caption": caption, "media": "image/png", "data": data}] if data else []
    return {
        "title": "On hardware",
        "network": network,
        "text": "From published limits; see docs/hardware.md. Messages are those of spikes between cores.",
        "facts": kept["facts"] + facts,
        "tables": [*kept["tables"], table],
        "figures": kept["figures"] + figures,
    }
