"""The HTML page: the values of `report.json` in, one page out that needs nothing else.

Every text of a report is data: the template escapes it, and the page forbids the browser to load or run anything.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from maqd_snn.profiles import PRICED
from maqd_snn.reporting import charts
from maqd_snn.reporting.units import energy_text, quantity

Values = Mapping[str, Any]

TEMPLATE = "report.html.j2"
HEADLINE_PROFILE = "cmos45-int8"
BASELINE_NODE = "45 nm"  # the dense baselines are arithmetic of this node, so only its profiles compare with them
NUMBERED_CLASSES = 20  # up to here a confusion matrix is a table of numbers, beyond a heat map
LISTED_CLASSES = 20
SHOWN_MISTAKES = 8
CHARTED_OPS = 12
NO_VALUE = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"

# The counts that the page explains: key, name, meaning.
TERMS: tuple[tuple[str, str, str], ...] = (
    ("events", "Events", "Nonzero values arriving at a spiking layer, after any pooling."),
    (
        "synops",
        "SynOps",
        "Synaptic operations: every event counted once per connection that leaves it. Stride, padding, dilation and "
        "groups are respected; taps that fall into padding are no connections.",
    ),
    ("effective_synops", "Effective SynOps", "SynOps over connections whose weight is not zero."),
    (
        "unit_spike_acs",
        "Unit-spike accumulations",
        "What the SynOps become where a spike of level k is sent as k spikes of level 1, for hardware without graded "
        "spikes.",
    ),
    (
        "bit_serial_adds",
        "Bit-serial additions",
        "What the SynOps become where a level is sent bit by bit: one addition per set bit of the level.",
    ),
    ("dense_macs", "Dense MACs", "All connections of all layers: the work of the network without spikes."),
    (
        "macs",
        "MACs charged",
        "Dense MACs of the layers that are fed no spikes (pixels, or sums with no threshold between). They cannot skip "
        "zeros and are charged in full, never as SynOps.",
    ),
    ("spikes", "Spikes", "Nonzero levels emitted by threshold layers."),
    ("unit_spikes", "Unit spikes", "The sum of the levels of those spikes."),
    ("neuron_updates", "Neuron updates", "Neurons whose sum is read, compared and reset in the single time step."),
    ("threshold_tests", "Threshold tests", "Comparisons with thresholds: neurons times levels above the lowest."),
    ("compares", "Comparisons", "Nonzero terms of max-pools."),
    ("adds", "Additions", "Nonzero terms of sum-pools and residual sums, and the biases of the readout."),
    ("weight_bytes", "Weight bytes", "Weights fetched by an event-driven core, one per SynOp, in whole bytes."),
    ("membrane_bytes", "Membrane bytes", "Neuron sums read and written by an event-driven core, once per SynOp."),
    ("message_bytes", "Message bytes", "Address and level of every event, in whole bytes."),
    ("bit_ops", "Bit operations", "SynOps (or MACs charged) times weight bits times input bits."),
)


def html_report(report: dict[str, Any]) -> str:
    """Return the report as one HTML page: no scripts, no network, light and dark, for screen and paper.

    The same values give the same text. Parts that a report may lack (history, exports, labels, a dataset card) are left
    out or said to be missing.

    Args:
        report: the values of `report.json`.
    """
    text = _environment().get_template(TEMPLATE).render(_page(report))
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON may hold halves of surrogate pairs, files may not


@cache
def _environment() -> Environment:
    folder = files("maqd_snn.reporting")
    return Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _page(report: Values) -> dict[str, Any]:
    simulation, recipe, card = report["simulation"], report.get("recipe") or {}, report.get("dataset") or {}
    sample = "sample" if card.get("kind") == "events" else "image"
    provenance = report.get("provenance") or {}
    return {
        "title": str(recipe.get("name") or "Integer network"),
        "dataset_title": str(card.get("title") or card.get("name") or ""),
        "sample": sample,
        "samples": f"{simulation['samples']:,}",
        "network": _network(simulation, recipe),
        "accuracy": _accuracy(report, sample),
        "synops": _synops(simulation),
        "energy": _energy(report),
        "verification": _verification(report),
        "layers": _layers(simulation),
        "histograms": _histograms(simulation),
        "curves": _curves(report.get("history") or (), provenance.get("best_epoch")),
        "confusion": _confusion(simulation.get("confusion"), card.get("classes") or ()),
        "terms": [_term(simulation["total"], simulation["samples"], *term) for term in TERMS],
        "dataset": _dataset(card),
        "facts": _facts(report),
        "library": str(report.get("library") or "maqd-snn"),
        "created": _moment(report.get("created")),
    }


# Numbers


def _keep(text: str) -> str:
    """Bind a number to its unit, which must not stand on the next line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _quantity(value: float) -> str:
    return _keep(quantity(value))


def _pj(energy_pj: float | None) -> str:
    """Return an energy with its unit.

    >>> _pj(2.5e6) == "2.50\N{NO-BREAK SPACE}\N{MICRO SIGN}J"
    True
    """
    return _keep(energy_text(energy_pj).replace(" uJ", " \N{MICRO SIGN}J"))


def _share(share: float | None, digits: int = 1) -> str:
    """Return a share of 1 as percent.

    >>> _share(0.8917) == "89.2\N{NO-BREAK SPACE}%", _share(None) == NO_VALUE
    (True, True)
    """
    return NO_VALUE if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def _part(share: float) -> str:
    """Return a share of a whole as percent; a small part is not nothing.

    >>> _part(0.0002) == "<\N{NO-BREAK SPACE}0.1\N{NO-BREAK SPACE}%", _part(0.0) == _share(0.0)
    (True, True)
    """
    return f"<\N{NO-BREAK SPACE}{_share(0.001)}" if 0 < share < 0.0005 else _share(share)


def ratio_text(ours: float, theirs: float) -> tuple[str, str]:
    """Return how far `ours` lies below or above `theirs`, in words, and `good`, `even` or `bad`.

    >>> ratio_text(10.0, 182.0)
    ('18.2 × below', 'good')
    >>> ratio_text(13.1, 10.0)
    ('1.31 × above', 'bad')
    >>> ratio_text(10.0, 10.01)
    ('equal to', 'even')
    """
    ratio = theirs / ours
    if abs(ratio - 1) < 0.005:
        return "equal to", "even"
    factor, word, mood = (ratio, "below", "good") if ratio > 1 else (1 / ratio, "above", "bad")
    written = f"{factor:,.0f}" if factor >= 99.95 else f"{factor:.1f}" if factor >= 9.995 else f"{factor:.2f}"
    return f"{written} {TIMES} {word}", mood


def wilson_interval(share: float, samples: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share seen in a number of samples (E. B. Wilson, JASA 22, 1927).

    >>> low, high = wilson_interval(0.5, 100)
    >>> round(low, 3), round(high, 3)
    (0.404, 0.596)
    """
    z = 1.959964
    middle = (share + z * z / (2 * samples)) / (1 + z * z / samples)
    half = z / (1 + z * z / samples) * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    return max(middle - half, 0.0), min(middle + half, 1.0)


# Headline


def _network(simulation: Values, recipe: Values) -> dict[str, str]:
    weights = sum(layer["weights"] for layer in simulation["layers"])
    nonzero = sum(layer["nonzero_weights"] for layer in simulation["layers"])
    return {
        "model": " ".join(str(recipe[key]) for key in ("model", "plan") if recipe.get(key)),
        "states": " and ".join(
            f"{recipe[key]} {word} states"
            for key, word in (("act_states", "activation"), ("weight_states", "weight"))
            if recipe.get(key)
        ),
        "weights": _quantity(weights),
        "nonzero": _share(nonzero / weights, 0) if weights else NO_VALUE,
    }


def _accuracy(report: Values, sample: str) -> dict[str, str]:
    accuracy = report.get("accuracy") or {}
    test, validation, samples = accuracy.get("test"), accuracy.get("validation"), report["simulation"]["samples"]
    classes = len((report.get("dataset") or {}).get("classes") or ())
    digits = 1 if samples < 1000 else 2
    texts = {"test": "", "counted": "", "interval": "", "validation": "", "chance": "", "meter": ""}
    if test is not None:
        low, high = wilson_interval(test, samples)
        texts["test"] = _share(test, digits)
        texts["counted"] = f"{round(test * samples):,} of {samples:,} test {sample}s"
        texts["interval"] = f"{100 * low:.{digits}f} to {_share(high, digits)}"
        part, chance = charts.Part(test, "synops", ""), 1 / classes if classes else None
        texts["meter"] = Markup(charts.meter([part], f"Accuracy {texts['test']}", (low, high), chance))
    if validation is not None:
        texts["validation"] = _share(validation, digits)
    if classes:
        texts["chance"] = _share(1 / classes, 0 if 100 % classes == 0 else 1)
    return texts


def _synops(simulation: Values) -> dict[str, str]:
    total, samples = simulation["total"], simulation["samples"]
    spiking = total["dense_macs"] - total["macs"]
    share = _share(total["synops"] / spiking if spiking else None)
    names = (("synops", "synops"), ("effective", "effective_synops"))
    parts = [charts.Part(total[key] / spiking, style, "") for style, key in names] if spiking else []
    return {
        "mean": _quantity(total["synops"] / samples),
        "deviation": _deviation(total, "synops"),
        "share": share,
        "spiking_macs": _quantity(spiking / samples),
        "effective": _quantity(total["effective_synops"] / samples),
        "macs": _quantity(total["macs"] / samples) if total["macs"] else "",
        "meter": Markup(charts.meter(parts, f"SynOps are {share} of the dense MACs")) if spiking else "",
    }


def _deviation(counts: Values, name: str) -> str:
    spread = (counts.get("per_sample") or {}).get(name)
    return "" if spread is None else _quantity(spread["deviation"])


def _energy_headline(entry: Values, base: Sequence[Values]) -> dict[str, Any]:
    profile = entry["profile"]
    return {
        "energy": _pj(entry["total_pj"]),
        "name": profile["name"],
        "title": profile["title"],
        "excludes": profile["excludes"],
        "ratios": [
            {"text": text, "mood": mood, "title": _baseline(baseline), "energy": _pj(baseline["energy_pj"])}
            for baseline, (text, mood) in _ratios(entry, base)
        ],
    }


def _ratios(entry: Values, base: Sequence[Values]) -> list[tuple[Values, tuple[str, str]]]:
    total = entry["total_pj"]
    if not total or entry["profile"]["node"] != BASELINE_NODE:
        return []
    return [(baseline, ratio_text(total, baseline["energy_pj"])) for baseline in base if baseline["energy_pj"]]


# Energy


def _energy(report: Values) -> dict[str, Any]:
    """Return the headline, the charts and the tables of the section on energy."""
    entries, base = list((report.get("energy") or {}).values()), list(report.get("baselines") or ())
    headline = next((entry for entry in entries if entry["profile"]["name"] == HEADLINE_PROFILE), None)
    headline = headline or next((entry for entry in entries if entry["total_pj"] is not None), None)
    headline = headline or next(iter(entries), None)
    return {
        "headline": None if headline is None else _energy_headline(headline, base),
        "profiles": [_profile(entry, base) for entry in entries],
        "baselines": [{**entry, "label": _baseline(entry), "energy": _pj(entry["energy_pj"])} for entry in base],
        "chart": _energy_chart(entries, base),
        "by_layer": None if headline is None else _energy_by_layer(headline),
        "by_layer_profile": "" if headline is None else headline["profile"]["name"],
    }


def _baseline(baseline: Values) -> str:
    return str(baseline["name"]).replace("-", " ", 1)


def _energy_chart(entries: Sequence[Values], base: Sequence[Values]) -> Markup:
    ours: dict[bool, list[charts.Dot]] = {True: [], False: []}
    for entry in entries:
        profile, total, priced = entry["profile"], entry["total_pj"], entry["priced_pj"]
        note = _pj(total) if total is not None else f"no total: more than {_pj(priced)}"
        dot = charts.Dot(f"{profile['name']}, spikes", note, total or priced, "synops", total is None)
        ours[profile["node"] == BASELINE_NODE].append(dot)
    dense = [charts.Dot(_baseline(entry), _pj(entry["energy_pj"]), entry["energy_pj"], "dense") for entry in base]
    groups = {f"{BASELINE_NODE} arithmetic": ours[True] + dense, "Chips: another technology": ours[False]}
    drawn = {heading: dots for heading, dots in groups.items() if dots}
    return Markup(charts.log_dots(drawn, "Energy on a logarithmic scale", _power_of_ten)) if drawn else Markup("")


def _power_of_ten(energy_pj: float) -> str:
    """Return an energy without zeros behind the point.

    >>> _power_of_ten(1e4) == "10\N{NO-BREAK SPACE}nJ"
    True
    """
    number, unit = _pj(energy_pj).split("\N{NO-BREAK SPACE}")
    return f"{float(number):g}\N{NO-BREAK SPACE}{unit}"


def _energy_by_layer(entry: Values) -> Markup:
    spent = [(layer["name"], sum(layer["terms"].values())) for layer in entry["layers"]]
    total = sum(energy_pj for _, energy_pj in spent)
    spent = [(name, energy_pj) for name, energy_pj in spent if energy_pj > 0]
    if not spent:
        return Markup("")
    kept = sorted(spent, key=lambda pair: -pair[1])[: CHARTED_OPS - 1] if len(spent) > CHARTED_OPS else spent
    names = {name for name, _ in kept}
    rows = [pair for pair in spent if pair[0] in names]
    rest = [energy_pj for name, energy_pj in spent if name not in names]
    if rest:
        rows.append((f"the other {len(rest)} ops", sum(rest)))
    drawn = [
        charts.Row(name, f"{_pj(energy_pj)} ({_part(energy_pj / total)})", (charts.Part(energy_pj, "synops", ""),))
        for name, energy_pj in rows
    ]
    return Markup(charts.bars(drawn, f"Energy of each layer in {entry['profile']['name']}"))


def _profile(entry: Values, base: Sequence[Values]) -> dict[str, Any]:
    profile, prices = entry["profile"], entry["profile"]["prices"]
    spent: dict[str, float] = {}
    for layer in entry["layers"]:
        for operation, energy_pj in layer["terms"].items():
            spent[operation] = spent.get(operation, 0.0) + energy_pj
    sources = list(dict.fromkeys(f"{price['source']} ({price['basis']})" for price in prices.values()))
    operations = [
        {
            "name": PRICED.get(name, name),
            "price": f"{price['energy_pj']:g}\N{NO-BREAK SPACE}pJ",
            "source": sources.index(f"{price['source']} ({price['basis']})") + 1,
            "energy": _pj(spent[name]) if name in spent else NO_VALUE,
            "share": _part(spent[name] / entry["priced_pj"]) if spent.get(name) else NO_VALUE,
        }
        for name, price in prices.items()
    ]
    ratios = {baseline["name"]: ratio for baseline, ratio in _ratios(entry, base)}
    return {
        "name": profile["name"],
        "title": profile["title"],
        "node": ", ".join(str(profile[key]) for key in ("node", "voltage") if profile.get(key)),
        "graded": profile["graded"],
        "includes": profile["includes"],
        "excludes": profile["excludes"],
        "basis": ", ".join(dict.fromkeys(price["basis"] for price in prices.values())) or NO_VALUE,
        "total": None if entry["total_pj"] is None else _pj(entry["total_pj"]),
        "priced": _pj(entry["priced_pj"]),
        "unpriced": _unpriced(entry["layers"]),
        "operations": operations,
        "sources": sources,
        "ratios": [ratios.get(baseline["name"]) for baseline in base],
    }


def _unpriced(layers: Sequence[Values]) -> list[str]:
    """Return a sentence per operation without a price, naming the layers that need it."""
    needed_by: dict[str, list[str]] = {}
    for layer in layers:
        for operation in layer["missing"]:
            needed_by.setdefault(operation, []).append(layer["name"])
    return [f"{PRICED.get(operation, operation)}: {', '.join(names)}" for operation, names in needed_by.items()]


# Layers


def _layers(simulation: Values) -> dict[str, Any]:
    layers, total, samples = simulation["layers"], simulation["total"], simulation["samples"]
    work = total["synops"] + total["macs"]
    return {
        "rows": [_layer(layer, samples, work) for layer in layers if layer["op"] != "Flatten"],
        "total": {
            "weights": f"{sum(layer['weights'] for layer in layers):,}",
            "events": _quantity(total["events"] / samples),
            "synops": _quantity(total["synops"] / samples),
            "deviation": _deviation(total, "synops"),
            "effective": _quantity(total["effective_synops"] / samples),
            "dense": _quantity(total["dense_macs"] / samples),
        },
        "chart": _layer_chart(layers, samples),
    }


def _layer(layer: Values, samples: int, work: int) -> dict[str, Any]:
    product, spiking = bool(layer["dense_macs"]), bool(layer["spiking"])
    counted, charged = product and spiking, layer["synops"] + layer["macs"]
    other = (("threshold_tests", "threshold tests"), ("compares", "comparisons"), ("adds", "additions"))
    return {
        "name": layer["name"],
        "op": layer["op"],
        "product": product,
        "shape": f" {TIMES} ".join(str(size) for size in layer["output_shape"]),
        "weights": f"{layer['weights']:,}" if layer["weights"] else "",
        "nonzero": _share(layer["nonzero_weights"] / layer["weights"], 0) if layer["weights"] else "",
        "bits": f"{layer['weight_bits']} · {layer['input_bits']} · {layer['accumulator_bits']}" if product else "",
        "rate": f"{layer['spikes'] / (layer['neurons'] * samples):.3f}" if layer["neurons"] else "",
        "dense_input": product and not spiking,
        "events": _quantity(layer["events"] / samples) if counted else "",
        "synops": _quantity(layer["synops"] / samples) if counted else "",
        "deviation": _deviation(layer, "synops") if counted else "",
        "effective": _quantity(layer["effective_synops"] / samples) if counted else "",
        "dense": _quantity(layer["dense_macs"] / samples) if product else "",
        "share": _part(charged / work) if product and work else "",
        "other": ", ".join(f"{_quantity(layer[key] / samples)} {word}" for key, word in other if layer[key]),
    }


def _layer_chart(layers: Sequence[Values], samples: int) -> Markup:
    rows = []
    for layer in layers:
        if not layer["dense_macs"]:
            continue
        dense, synops, effective = (layer[name] / samples for name in ("dense_macs", "synops", "effective_synops"))
        if layer["spiking"]:
            note = f"{_quantity(synops)} of {_quantity(dense)} ({_share(synops / dense)})"
            parts = (
                charts.Part(dense, "dense", f"{layer['name']}: {dense:,.0f} dense MACs"),
                charts.Part(synops, "synops", f"{layer['name']}: {synops:,.1f} SynOps"),
                charts.Part(effective, "effective", f"{layer['name']}: {effective:,.1f} effective SynOps"),
            )
            rows.append(charts.Row(layer["name"], note, parts))
        else:
            part = charts.Part(dense, "charged", f"{layer['name']}: {dense:,.0f} MACs charged in full")
            rows.append(charts.Row(layer["name"], f"{_quantity(dense)} MACs, charged in full", (part,)))
    return Markup(charts.bars(rows, "SynOps and dense MACs of each layer")) if rows else Markup("")


def _histograms(simulation: Values) -> list[dict[str, Any]]:
    found = []
    for layer in simulation["layers"]:
        counts = layer.get("histogram") or ()
        if not sum(counts):
            continue
        lowest = layer["lowest_level"]
        rate = 1 - counts[-lowest] / sum(counts) if 0 <= -lowest < len(counts) else 1.0
        found.append(
            {
                "name": layer["name"],
                "neurons": f"{layer['neurons']:,}",
                "rate": _share(rate),
                "levels": len(counts),
                "chart": Markup(charts.histogram(counts, lowest, f"Levels emitted by {layer['name']}")),
            }
        )
    return found


# Training


def _curves(history: Sequence[Values], best: int | None) -> dict[str, Any]:
    epochs = [entry["epoch"] for entry in history]
    entry_of_best = next((entry for entry in history if entry["epoch"] == best), None)

    def line(name: str, key: str, style: str) -> charts.Line:
        values = (entry.get(key) for entry in history)
        return charts.Line(name, style, tuple(math.nan if value is None else float(value) for value in values))

    def number(value: float) -> str:
        return f"{value:g}"

    def percent(value: float) -> str:
        return f"{100 * value:.3g}%"

    loss = [line("training", "train_loss", "train"), line("validation", "validation_loss", "validation")]
    accuracy = [line("training", "train_accuracy", "train"), line("validation", "validation_accuracy", "validation")]
    rate = [line("spike rate", "spike_rate", "synops")]
    panels = [
        {"title": title, "both": len(series) > 1, "chart": Markup(chart)}
        for title, series, chart in (
            ("Loss", loss, charts.lines(epochs, loss, "Loss by epoch", number, best)),
            ("Accuracy", accuracy, charts.lines(epochs, accuracy, "Accuracy by epoch", percent, best)),
            ("Spike rate", rate, charts.lines(epochs, rate, "Spike rate by epoch", percent, best, from_zero=True)),
        )
    ]
    return {
        "panels": panels if epochs else [],
        "epochs": len(epochs),
        "best": "" if entry_of_best is None else f"{best}",
        "best_accuracy": "" if entry_of_best is None else _share(entry_of_best.get("validation_accuracy"), 2),
        "minutes": f"{sum(entry.get('seconds') or 0 for entry in history) / 60:.1f}",
    }


# Confusion


def _confusion(matrix: Sequence[Sequence[int]] | None, classes: Sequence[object]) -> dict[str, Any] | None:
    if not matrix:
        return None
    size = len(matrix)
    names = [str(name) for name in classes] if len(classes) == size else [str(index) for index in range(size)]
    totals = [sum(row) for row in matrix]
    recalls = [matrix[index][index] / totals[index] if totals[index] else None for index in range(size)]
    cells = [(row, column) for row in range(size) for column in range(size) if row != column and matrix[row][column]]
    mistakes = sorted(cells, key=lambda cell: -matrix[cell[0]][cell[1]])[:SHOWN_MISTAKES]
    rows = []
    for index, line in enumerate(matrix):
        worst = max((column for column in range(size) if column != index), key=lambda c: line[c], default=index)
        rows.append(
            {
                "index": index,
                "name": names[index],
                "cells": [
                    {
                        "number": number,
                        "shade": round(number / totals[index], 3) if number else 0,
                        "right": column == index,
                        "title": f"{names[index]} taken for {names[column]}: {number}",
                    }
                    for column, number in enumerate(line)
                ]
                if size <= NUMBERED_CLASSES
                else [],
                "total": totals[index],
                "recall": _share(recalls[index]),
                "worst": f"{names[worst]} ({line[worst]})" if worst != index and line[worst] else NO_VALUE,
            }
        )
    heat, block = ("", 1) if size <= NUMBERED_CLASSES else charts.heat_map(matrix, "Confusion matrix")
    return {
        "names": names,
        "rows": rows,
        "numbered": size <= NUMBERED_CLASSES,
        "heat": Markup(heat),
        "block": block,
        "mistakes": [
            {
                "label": names[row],
                "prediction": names[column],
                "number": f"{matrix[row][column]:,}",
                "share": _share(matrix[row][column] / totals[row]),
            }
            for row, column in mistakes
        ],
    }


# Verification and provenance


def _verification(report: Values) -> dict[str, Any]:
    exports = list(report.get("exports") or ())
    fold = (report.get("provenance") or {}).get("fold_check")
    checks = [entry["check"] for entry in exports if entry.get("check")]
    broken = any(map(_failed, exports)) or (fold is not None and fold["mismatches"] > 0)
    if broken:
        verdict, mood = "Failed", "bad"
    elif checks and len(checks) == len(exports):
        verdict, mood = "Verified", "good"
    elif checks:
        verdict, mood = "Partly verified", "even"
    else:
        verdict, mood = "Not verified", "even"
    return {
        "verdict": verdict,
        "mood": mood,
        "files": f"{sum(check['ok'] for check in checks)} of {len(exports)}" if exports else "",
        "scores": f"{sum(check['scores'] for check in checks):,}",
        "mismatches": f"{sum(check['mismatches'] for check in checks):,}",
        "checked": bool(checks),
        "exports": [_export(entry) for entry in exports],
        "fold": None
        if fold is None
        else {
            "samples": f"{fold['samples']:,}",
            "compared": f"{fold['values']:,}",
            "mismatches": f"{fold['mismatches']:,}",
            "mood": "bad" if fold["mismatches"] else "good" if fold["values"] else "even",
        },
    }


def _failed(entry: Values) -> bool:
    """Whether scores differ, or the runtime refused the file."""
    check = entry.get("check")
    return bool(entry.get("failed")) or (check is not None and not check["ok"])


def _export(entry: Values) -> dict[str, Any]:
    check = entry.get("check")
    row = {"format": entry["format"], "file": entry.get("file") or NO_VALUE, "problem": entry.get("problem") or ""}
    if not check:
        verdict, mood = ("FAILED", "bad") if _failed(entry) else ("not checked", "even")
        return {**row, "verdict": verdict, "mood": mood, "runtime": NO_VALUE, "scores": "", "mismatches": "",
                "samples": "", "largest": "", "note": ""}  # fmt: skip
    return {
        **row,
        "verdict": "verified" if check["ok"] else "FAILED",
        "mood": "good" if check["ok"] else "bad",
        "runtime": check["runtime"],
        "samples": f"{check['samples']:,}",
        "scores": f"{check['scores']:,}",
        "mismatches": f"{check['mismatches']:,}",
        "largest": f"{check['largest_difference']:g}",
        "note": check.get("note") or "",
    }


def _term(total: Values, samples: int, key: str, name: str, meaning: str) -> dict[str, str]:
    return {
        "name": name,
        "meaning": meaning,
        "mean": _quantity(total[key] / samples) if key in total else NO_VALUE,
        "deviation": _deviation(total, key),
    }


def _facts(report: Values) -> list[dict[str, Any]]:
    """Return the lists of names and values of the section on provenance."""
    provenance = report.get("provenance") or {}
    run = {
        "library": report.get("library") or "",
        "trained": _moment(provenance.get("created")),
        "reported": _moment(report.get("created")),
        **{key: value for key, value in provenance.items() if key not in ("created", "fold_check", "library")},
    }
    groups = (("Recipe", report.get("recipe") or {}), ("Run", run), ("Machine", report.get("machine") or {}))
    written = (
        (title, [(key.replace("_", " "), _fact(value)) for key, value in group.items() if value != ""])
        for title, group in groups
    )
    return [{"title": title, "entries": entries} for title, entries in written if entries]


def _moment(text: object) -> str:
    """Return a time in ISO 8601 as people write it; another text as it is.

    >>> _moment("2026-11-23T16:32:46+00:00"), _moment("yesterday"), _moment(None)
    ('2026-11-23 16:32 UTC', 'yesterday', '')
    """
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return "" if text is None else str(text)
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".rstrip()


def _dataset(card: Values) -> list[tuple[str, str]]:
    parts = (("train", "training"), ("validation", "validation"), ("test", "test"))
    classes = [str(name) for name in card.get("classes") or ()]
    listed = ", ".join(classes[:LISTED_CLASSES])
    more = f" and {len(classes) - LISTED_CLASSES} more" if len(classes) > LISTED_CLASSES else ""
    shape = f" {TIMES} ".join(str(size) for size in card.get("shape") or ())
    entries = (
        ("Parts", ", ".join(f"{card[key]:,} for {word}" for key, word in parts if key in card)),
        ("Input", f"{shape}, codes {card.get('low')} to {card.get('high')}, {card.get('kind')}" if shape else ""),
        ("Classes", f"{len(classes)}: {listed}{more}" if classes else ""),
        ("Licence", str(card.get("licence") or "")),
        ("Citation", str(card.get("citation") or "")),
        ("From", str(card.get("url") or "")),
    )
    return [entry for entry in entries if entry[1]]


def _fact(value: object) -> str:
    if value is None:
        return NO_VALUE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
