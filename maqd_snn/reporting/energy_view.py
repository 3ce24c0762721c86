"""The section on energy: headline, charts, profiles with their bases, baselines, break-even, sensitivity."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from maqd_snn.profiles import BASES, SCOPES, TERMS
from maqd_snn.reporting import charts
from maqd_snn.reporting.wording import NO_VALUE, Values, part, pj, ratio_text, share

HEADLINE_PROFILE = "cmos45-int8"
MEMORY_PROFILE = "cmos45-memory"
BASELINE_NODE = "45 nm"  # the baselines are of this node, so only its profiles compare with them
CHARTED_OPS = 12

# The class that paints a term, and its name in a legend; the order is that of the bars.
STYLES: dict[str, tuple[str, ...]] = {
    "synops": ("synop_graded", "synop_binary", "synop_conv", "synop_linear", "operations"),
    "charged": ("mac",),
    "weights": ("weight_fetch", "parameters"),
    "sums": ("accumulator", "potentials"),
    "thresholds": ("threshold_read",),
    "messages": ("message", "in_out", "spike"),
    "others": ("neuron_update", "add", "compare", "addressing"),
}
LEGEND = {
    "synops": "synaptic operations",
    "charged": "dense MACs",
    "weights": "weights read",
    "sums": "sums read and written",
    "thresholds": "thresholds read",
    "messages": "inputs and spikes moved",
    "others": "neurons, pools, addressing",
}
# Column heads: the whole meaning is the title of the head.
SHORT = {
    "mac": "MACs",
    "synop_binary": "SynOps",
    "synop_graded": "graded SynOps",
    "synop_conv": "SynOps",
    "synop_linear": "SynOps",
    "add": "additions",
    "compare": "compares",
    "neuron_update": "neurons",
    "spike": "spikes",
    "weight_fetch": "weights",
    "accumulator": "sums",
    "threshold_read": "thresholds",
    "message": "messages",
}
STYLE_OF = {term: style for style, terms in STYLES.items() for term in terms}


def energy_view(report: Values) -> dict[str, Any]:
    """Return the headline, the charts and the tables of the section on energy."""
    entries, base = list((report.get("energy") or {}).values()), list(report.get("baselines") or ())
    headline = next((entry for entry in entries if entry["profile"]["name"] == HEADLINE_PROFILE), None)
    headline = headline or next((entry for entry in entries if entry["total_pj"] is not None), None)
    headline = headline or next(iter(entries), None)
    detailed = [headline] if headline is not None else []
    detailed += [entry for entry in entries if entry["profile"]["name"] == MEMORY_PROFILE and entry is not headline]
    columns = list(dict.fromkeys(_plain_name(entry) for entry in base))
    return {
        "headline": None if headline is None else _headline(headline, base),
        "profiles": [_profile(entry, base, columns) for entry in entries],
        "columns": [name.replace("-", " ", 1) for name in columns],
        "baselines": [_baseline(entry) for entry in base],
        "chart": _chart(entries, base),
        "by_layer": [view for view in map(_by_layer, detailed) if view["chart"]],
        "break_even": _break_even(report.get("break_even") or ()),
        "sensitivity": [_sensitivity(entry) for entry in entries if entry.get("sensitivity")],
    }


def _scope(entry: Values) -> str:
    return str(entry.get("scope") or "arithmetic")


def _plain_name(baseline: Values) -> str:
    return str(baseline["name"]).removesuffix("-memory")


def _label(baseline: Values) -> str:
    return _plain_name(baseline).replace("-", " ", 1)


def _baseline(entry: Values) -> dict[str, Any]:
    scope = _scope(entry)
    return {
        "label": _label(entry),
        "energy": pj(entry["energy_pj"]),
        "value": entry["energy_pj"],
        "basis": entry["basis"],
        "title": entry["title"],
        "scope": SCOPES.get(scope, scope),
    }


def _headline(entry: Values, base: Sequence[Values]) -> dict[str, Any]:
    profile = entry["profile"]
    return {
        "energy": pj(entry["total_pj"]),
        "name": profile["name"],
        "title": profile["title"],
        "excludes": profile["excludes"],
        "ratios": [
            {"text": text, "mood": mood, "title": _label(baseline), "energy": pj(baseline["energy_pj"])}
            for baseline, (text, mood) in _ratios(entry, base)
        ],
    }


def _ratios(entry: Values, base: Sequence[Values]) -> list[tuple[Values, tuple[str, str]]]:
    """Return how the total stands to the baselines of its own node and scope."""
    total, profile = entry["total_pj"], entry["profile"]
    if not total or profile["node"] != BASELINE_NODE:
        return []
    rivals = [b for b in base if b["energy_pj"] and _scope(b) == _scope(profile)]
    return [(baseline, ratio_text(total, baseline["energy_pj"])) for baseline in rivals]


# Charts


GROUPS = {
    "arithmetic": f"{BASELINE_NODE} arithmetic",
    "memory": f"{BASELINE_NODE} arithmetic and memories",
    "model": "Another analytical model",
    "chip": "Chips: other technologies",
    "device": "Devices: average operations",
}


def _chart(entries: Sequence[Values], base: Sequence[Values]) -> Markup:
    groups: dict[str, list[charts.Dot]] = {name: [] for name in GROUPS}
    for entry in entries:
        profile, total, priced = entry["profile"], entry["total_pj"], entry["priced_pj"]
        if not (total or priced):
            continue  # nothing to place; the table says so
        note = pj(total) if total is not None else f"no total: more than {pj(priced)}"
        scope = _scope(profile)
        if scope in ("arithmetic", "memory") and profile["node"] != BASELINE_NODE:
            scope = "chip"
        # Only these two groups hold anything but spikes; elsewhere a phone needs the room.
        name = f"{profile['name']}, spikes" if scope in ("arithmetic", "memory") else profile["name"]
        dot = charts.Dot(name, note, total or priced, "synops", total is None)
        groups[scope if scope in groups else "chip"].append(dot)
    for entry in base:
        dot = charts.Dot(_label(entry), pj(entry["energy_pj"]), entry["energy_pj"], "dense")
        groups[_scope(entry) if _scope(entry) in groups else "arithmetic"].append(dot)
    drawn = {GROUPS[name]: dots for name, dots in groups.items() if dots}
    return Markup(charts.log_dots(drawn, "Energy on a logarithmic scale", _power_of_ten)) if drawn else Markup("")


def _power_of_ten(energy_pj: float) -> str:
    """Return an energy without zeros behind the point.

    >>> _power_of_ten(1e4) == "10\N{NO-BREAK SPACE}nJ"
    True
    """
    written, unit = pj(energy_pj).split("\N{NO-BREAK SPACE}")
    return f"{float(written):g}\N{NO-BREAK SPACE}{unit}"


def _by_layer(entry: Values) -> dict[str, Any]:
    """Return where the energy of a profile goes: a chart and a table of layers and terms."""
    spent = [layer for layer in entry["layers"] if sum(layer["terms"].values()) > 0]
    totals = {layer["name"]: sum(layer["terms"].values()) for layer in spent}
    total = sum(totals.values())
    order = {term: index for index, term in enumerate(term for terms in STYLES.values() for term in terms)}
    terms = sorted(
        {t for layer in spent for t, value in layer["terms"].items() if value > 0}, key=lambda t: order.get(t, 99)
    )
    kept = sorted(spent, key=lambda layer: -totals[layer["name"]])
    kept = kept[: CHARTED_OPS - 1] if len(spent) > CHARTED_OPS else kept
    names = {layer["name"] for layer in kept}
    rows = [(layer["name"], layer["terms"]) for layer in spent if layer["name"] in names]
    rest = [layer["terms"] for layer in spent if layer["name"] not in names]
    if rest:
        rows.append((f"the other {len(rest)} ops", {t: sum(terms.get(t, 0.0) for terms in rest) for t in terms}))
    drawn = [
        charts.Row(name, f"{pj(sum(of.values()))} ({part(sum(of.values()) / total)})", _stack(name, of))
        for name, of in rows
    ]
    styles = [style for style in STYLES if any(STYLE_OF.get(term, "others") == style for term in terms)]
    return {
        "name": entry["profile"]["name"],
        "chart": Markup(charts.bars(drawn, f"Energy of each layer in {entry['profile']['name']}")) if drawn else "",
        "legend": [(style, LEGEND[style]) for style in styles],
        "terms": [(SHORT.get(term, term.replace("_", " ")), TERMS.get(term, term)) for term in terms],
        "rows": [
            {
                "name": layer["name"],
                "cells": [(layer["terms"].get(term, 0.0), _cell(layer["terms"].get(term))) for term in terms],
                "total": totals[layer["name"]],
                "energy": pj(totals[layer["name"]]),
                "share": part(totals[layer["name"]] / total),
            }
            for layer in spent
        ],
        "sums": [pj(sum(layer["terms"].get(term, 0.0) for layer in spent)) for term in terms],
        "total": pj(total),
    }


def _cell(value: float | None) -> str:
    return pj(value) if value else ""


def _stack(name: str, terms: Values) -> tuple[charts.Part, ...]:
    """Return the parts of a stacked bar: each reaches to the sum of those before it, and the longest is drawn first."""
    stacked: list[charts.Part] = []
    reached = 0.0
    for style in STYLES:
        of = {term: value for term, value in terms.items() if STYLE_OF.get(term, "others") == style and value > 0}
        if of:
            reached += sum(of.values())
            title = ", ".join(f"{TERMS.get(term, term)}: {pj(value)}" for term, value in of.items())
            stacked.append(charts.Part(reached, style, f"{name}: {title}"))
    return tuple(reversed(stacked))


# Tables


def _profile(entry: Values, base: Sequence[Values], columns: Sequence[str]) -> dict[str, Any]:
    profile, prices = entry["profile"], entry["profile"]["prices"]
    spent: dict[str, float] = {}
    for layer in entry["layers"]:
        for term, energy_pj in layer["terms"].items():
            spent[term] = spent.get(term, 0.0) + energy_pj
    listed = profile.get("listed") or {}
    sources = list(dict.fromkeys(_source(price) for price in (*prices.values(), *listed.values())))
    operations = [
        {
            "name": TERMS.get(name, name),
            "price": _price(price),
            "source": sources.index(_source(price)) + 1,
            "energy": pj(spent[name]) if name in spent else NO_VALUE,
            "share": part(spent[name] / entry["priced_pj"]) if spent.get(name) else NO_VALUE,
        }
        for name, price in prices.items()
    ]
    operations += [
        {
            "name": TERMS.get(name, name),
            "price": "by size",
            "source": "",
            "energy": pj(value),
            "share": part(value / entry["priced_pj"]) if value else NO_VALUE,
        }
        for name, value in spent.items()
        if name not in prices
    ]
    ratios = {_plain_name(baseline): ratio for baseline, ratio in _ratios(entry, base)}
    bases = list(dict.fromkeys(price["basis"] for price in prices.values()))
    scope = _scope(profile)
    return {
        "name": profile["name"],
        "title": profile["title"],
        "node": ", ".join(str(profile[key]) for key in ("node", "voltage") if profile.get(key)) or NO_VALUE,
        "graded": profile["graded"],
        "event_driven": profile.get("event_driven", True),
        "includes": profile["includes"],
        "excludes": profile["excludes"],
        "memories": _memories(profile.get("memories")),
        "scope": SCOPES.get(scope, scope),
        "bases": [{"name": name, "meaning": BASES.get(name, "")} for name in bases],
        "total": None if entry["total_pj"] is None else pj(entry["total_pj"]),
        "value": entry["priced_pj"],
        "priced": pj(entry["priced_pj"]) if entry["priced_pj"] else "nothing",
        "unpriced": _unpriced(entry["layers"]),
        "operations": operations,
        "listed": [
            {"name": name, "price": _price(price), "source": sources.index(_source(price)) + 1}
            for name, price in listed.items()
        ],
        "sources": sources,
        "ratios": [ratios.get(name) for name in columns],
        "comparable": bool(ratios),
    }


def _source(price: Values) -> str:
    return f"{price['source']} ({price['basis']})"


def _price(price: Values) -> str:
    return f"{price['energy_pj']:,.6g}\N{NO-BREAK SPACE}pJ"


def _memories(memories: Values | None) -> str:
    if not memories:
        return ""
    sizes = [
        f"{name.removesuffix('_bytes')}s {memories[name]:,} bytes"
        for name in ("weight_bytes", "accumulator_bytes", "threshold_bytes", "message_bytes")
        if memories.get(name)
    ]
    text = (
        f"accesses of {memories['access_bits']} bits; {', '.join([*sizes, 'others'] if sizes else ['all'])} as needed"
    )
    factor = memories.get("factor", 1.0)
    return text if factor == 1 else f"{text}; prices times {factor:g}"


def _unpriced(layers: Sequence[Values]) -> list[str]:
    """Return a sentence per operation without a price, naming the layers that need it."""
    needed_by: dict[str, list[str]] = {}
    for layer in layers:
        for operation in layer["missing"]:
            needed_by.setdefault(operation, []).append(layer["name"])
    return [f"{TERMS.get(operation, operation)}: {', '.join(names)}" for operation, names in needed_by.items()]


def _break_even(entries: Sequence[Values]) -> dict[str, Any]:
    rows = [entry for entry in entries if entry["share"] is not None]
    reasons: dict[str, list[str]] = {}
    for entry in entries:
        if entry["share"] is None:
            reasons.setdefault(entry["reason"], []).append(entry["profile"])
    return {
        "measured": share(entries[0]["measured"]) if entries else "",
        "rows": [
            {
                "profile": entry["profile"],
                "rival": entry["rival"].removesuffix("-memory").replace("-", " ", 1),
                "value": entry["share"],
                "share": share(entry["share"]) if entry["share"] <= 1 else "pays at any rate",
                "verdict": "below: spikes pay" if entry["pays"] else "above: the dense network is cheaper",
                "mood": "good" if entry["pays"] else "bad",
            }
            for entry in rows
        ],
        "reasons": [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()],
    }


def _sensitivity(entry: Values) -> dict[str, Any]:
    return {
        "name": entry["profile"]["name"],
        "cells": [(row["energy_pj"], f"{row['factor']:g}", pj(row["energy_pj"])) for row in entry["sensitivity"]],
    }
