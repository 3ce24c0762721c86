"""The HTML page: the values of `report.json` in, one page out that needs nothing else.

Every text of a report is data: the template escapes it, and the page forbids the browser to load or run anything.
"""

import base64
import hashlib
import math
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from maqd_snn.reporting import charts
from maqd_snn.reporting.activity import browser_view, channels_view, classes_view, spread_view, worst_view
from maqd_snn.reporting.attachments import compare_view, mapping_view
from maqd_snn.reporting.energy_view import energy_view
from maqd_snn.reporting.wording import (
    NO_VALUE,
    TIMES,
    Values,
    deviation,
    number,
    part,
    ratio_text,
    share,
    wilson_interval,
)

__all__ = ["NUMBERED_CLASSES", "TERMS", "html_report", "ratio_text", "wilson_interval"]

TEMPLATE, SCRIPT = "report.html.j2", "report.js"
NUMBERED_CLASSES = 20  # up to here a confusion matrix is a table of numbers, beyond a heat map
LISTED_CLASSES = 20
SHOWN_MISTAKES = 8

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
    """Return the report as one HTML page: nothing is fetched, light and dark, for screen, phone and paper.

    The same values give the same text. Parts that a report may lack (history, exports, labels, a dataset card, samples,
    a comparison, a mapping) are left out or said to be missing. The page's one script sorts tables and leafs through
    samples; the browser is told to run no other, by its digest.

    Args:
        report: the values of `report.json`.
    """
    text = page_environment().get_template(TEMPLATE).render(_page(report))
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON may hold halves of surrogate pairs, files may not


@cache
def page_environment() -> Environment:
    """Return the environment that pages are made in: everything is escaped, nothing may be missing."""
    folder = files("maqd_snn.reporting")
    return Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page_script(*names: str) -> tuple[str, str]:
    """Return the scripts as they stand in the page as one, and its digest for the page's policy."""
    folder = files("maqd_snn.reporting")
    text = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
    return text, "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _page(report: Values) -> dict[str, Any]:
    simulation, recipe, card = report["simulation"], report.get("recipe") or {}, report.get("dataset") or {}
    sample = "sample" if card.get("kind") == "events" else "image"
    provenance = report.get("provenance") or {}
    script, digest = page_script(SCRIPT)
    return {
        "script": Markup(script),
        "digest": digest,
        "title": str(recipe.get("name") or "Integer network"),
        "dataset_title": str(card.get("title") or card.get("name") or ""),
        "sample": sample,
        "samples": f"{simulation['samples']:,}",
        "network": _network(simulation, recipe),
        "accuracy": _accuracy(report, sample),
        "synops": _synops(simulation),
        "energy": energy_view(report),
        "classes": classes_view(simulation, card.get("classes") or ()),
        "spread": spread_view(simulation),
        "worst": worst_view(simulation, card.get("classes") or ()),
        "channels": channels_view(simulation),
        "browser": browser_view(report),
        "compare": compare_view(report),
        "mapping": mapping_view(report),
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
        "weights": number(weights),
        "nonzero": share(nonzero / weights, 0) if weights else NO_VALUE,
    }


def _accuracy(report: Values, sample: str) -> dict[str, str]:
    accuracy = report.get("accuracy") or {}
    test, validation, samples = accuracy.get("test"), accuracy.get("validation"), report["simulation"]["samples"]
    classes = len((report.get("dataset") or {}).get("classes") or ())
    digits = 1 if samples < 1000 else 2
    texts = {"test": "", "counted": "", "interval": "", "validation": "", "chance": "", "meter": ""}
    if test is not None:
        low, high = wilson_interval(test, samples)
        texts["test"] = share(test, digits)
        texts["counted"] = f"{round(test * samples):,} of {samples:,} test {sample}s"
        texts["interval"] = f"{100 * low:.{digits}f} to {share(high, digits)}"
        known, chance = charts.Part(test, "synops", ""), 1 / classes if classes else None
        texts["meter"] = Markup(charts.meter([known], f"Accuracy {texts['test']}", (low, high), chance))
    if validation is not None:
        texts["validation"] = share(validation, digits)
    if classes:
        texts["chance"] = share(1 / classes, 0 if 100 % classes == 0 else 1)
    return texts


def _synops(simulation: Values) -> dict[str, str]:
    total, samples = simulation["total"], simulation["samples"]
    spiking = total["dense_macs"] - total["macs"]
    of_dense = share(total["synops"] / spiking if spiking else None)
    names = (("synops", "synops"), ("effective", "effective_synops"))
    parts = [charts.Part(total[key] / spiking, style, "") for style, key in names] if spiking else []
    return {
        "mean": number(total["synops"] / samples),
        "deviation": deviation(total, "synops"),
        "share": of_dense,
        "spiking_macs": number(spiking / samples),
        "effective": number(total["effective_synops"] / samples),
        "macs": number(total["macs"] / samples) if total["macs"] else "",
        "meter": Markup(charts.meter(parts, f"SynOps are {of_dense} of the dense MACs")) if spiking else "",
    }


# Layers


def _layers(simulation: Values) -> dict[str, Any]:
    layers, total, samples = simulation["layers"], simulation["total"], simulation["samples"]
    work = total["synops"] + total["macs"]
    return {
        "rows": [_layer(layer, samples, work) for layer in layers if layer["op"] != "Flatten"],
        "total": {
            "weights": f"{sum(layer['weights'] for layer in layers):,}",
            "events": number(total["events"] / samples),
            "synops": number(total["synops"] / samples),
            "deviation": deviation(total, "synops"),
            "effective": number(total["effective_synops"] / samples),
            "dense": number(total["dense_macs"] / samples),
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
        "nonzero": share(layer["nonzero_weights"] / layer["weights"], 0) if layer["weights"] else "",
        "bits": f"{layer['weight_bits']} · {layer['input_bits']} · {layer['accumulator_bits']}" if product else "",
        "rate": f"{layer['spikes'] / (layer['neurons'] * samples):.3f}" if layer["neurons"] else "",
        "dense_input": product and not spiking,
        "events": number(layer["events"] / samples) if counted else "",
        "synops": number(layer["synops"] / samples) if counted else "",
        "deviation": deviation(layer, "synops") if counted else "",
        "effective": number(layer["effective_synops"] / samples) if counted else "",
        "dense": number(layer["dense_macs"] / samples) if product else "",
        "share": part(charged / work) if product and work else "",
        "other": ", ".join(f"{number(layer[key] / samples)} {word}" for key, word in other if layer[key]),
        "raw": {key: layer[key] for key in ("weights", "events", "synops", "effective_synops", "dense_macs")},
        "charged": charged,
        "nonzero_value": layer["nonzero_weights"] / layer["weights"] if layer["weights"] else "",
        "spread": ((layer.get("per_sample") or {}).get("synops") or {}).get("deviation", ""),
    }


def _layer_chart(layers: Sequence[Values], samples: int) -> Markup:
    rows = []
    for layer in layers:
        if not layer["dense_macs"]:
            continue
        dense, synops, effective = (layer[name] / samples for name in ("dense_macs", "synops", "effective_synops"))
        if layer["spiking"]:
            note = f"{number(synops)} of {number(dense)} ({share(synops / dense)})"
            parts = (
                charts.Part(dense, "dense", f"{layer['name']}: {dense:,.0f} dense MACs"),
                charts.Part(synops, "synops", f"{layer['name']}: {synops:,.1f} SynOps"),
                charts.Part(effective, "effective", f"{layer['name']}: {effective:,.1f} effective SynOps"),
            )
            rows.append(charts.Row(layer["name"], note, parts))
        else:
            charged = charts.Part(dense, "charged", f"{layer['name']}: {dense:,.0f} MACs charged in full")
            rows.append(charts.Row(layer["name"], f"{number(dense)} MACs, charged in full", (charged,)))
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
                "rate": share(rate),
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

    def plain(value: float) -> str:
        return f"{value:g}"

    def percent(value: float) -> str:
        return f"{100 * value:.3g}%"

    loss = [line("training", "train_loss", "train"), line("validation", "validation_loss", "validation")]
    accuracy = [line("training", "train_accuracy", "train"), line("validation", "validation_accuracy", "validation")]
    rate = [line("spike rate", "spike_rate", "synops")]
    panels = [
        {"title": title, "both": len(series) > 1, "chart": Markup(chart)}
        for title, series, chart in (
            ("Loss", loss, charts.lines(epochs, loss, "Loss by epoch", plain, best)),
            ("Accuracy", accuracy, charts.lines(epochs, accuracy, "Accuracy by epoch", percent, best)),
            ("Spike rate", rate, charts.lines(epochs, rate, "Spike rate by epoch", percent, best, from_zero=True)),
        )
    ]
    return {
        "panels": panels if epochs else [],
        "epochs": len(epochs),
        "best": "" if entry_of_best is None else f"{best}",
        "best_accuracy": "" if entry_of_best is None else share(entry_of_best.get("validation_accuracy"), 2),
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
                "recall": share(recalls[index]),
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
                "share": share(matrix[row][column] / totals[row]),
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
        "sizes": _sizes(checks),
        "fold": None
        if fold is None
        else {
            "samples": f"{fold['samples']:,}",
            "compared": f"{fold['values']:,}",
            "mismatches": f"{fold['mismatches']:,}",
            "mood": "bad" if fold["mismatches"] else "good" if fold["values"] else "even",
        },
    }


SIZES = (
    ("flash_weights", "Flash", "weights, packed by their states"),
    ("flash_thresholds", "Flash", "thresholds and tables"),
    ("ram_dense", "RAM", "static buffers of the dense form"),
    ("ram_events", "RAM", "static buffers of the event-driven form"),
    ("ram_both", "RAM", "static buffers where both forms are built in"),
    ("host_code_and_constants", "Flash", "all code and constants as this machine compiled them, both forms"),
    ("host_static", "RAM", "all static memory as this machine compiled it, both forms"),
)


def _sizes(checks: list[Values]) -> list[dict[str, str]]:
    """Return the bytes that the C program takes, where one was compiled."""
    runs = [run.get("figures") or {} for check in checks for run in check.get("checks") or ()]
    figures = next((found for found in runs if "flash_weights" in found), {})
    return [
        {"memory": memory, "what": what, "bytes": f"{figures[key]:,}"} for key, memory, what in SIZES if key in figures
    ]


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
        "largest": NO_VALUE if check["largest_difference"] is None else f"{check['largest_difference']:g}",
        "note": check.get("note") or "",
    }


def _term(total: Values, samples: int, key: str, name: str, meaning: str) -> dict[str, str]:
    return {
        "name": name,
        "meaning": meaning,
        "mean": number(total[key] / samples) if key in total else NO_VALUE,
        "deviation": deviation(total, key),
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
