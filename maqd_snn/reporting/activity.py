"""The sections on activity: spike rates of channels, counts of classes, and the sample browser."""

import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from maqd_snn.reporting import charts
from maqd_snn.reporting.wording import NO_VALUE, TIMES, Values, number, share

BASE64 = re.compile(r"[A-Za-z0-9+/]{16,2000000}={0,2}")
LARGEST_PICTURE = 4096  # pixels of a side; a page shows nothing larger
SHOWN_SCORES = 20


def channels_view(simulation: Values) -> list[dict[str, Any]]:
    """Return the spike rate of every channel of every threshold layer."""
    samples, found = simulation["samples"], []
    for layer in simulation["layers"]:
        spikes = layer.get("channel_spikes") or ()
        if not spikes or not layer["neurons"]:
            continue
        rates = [count * len(spikes) / (layer["neurons"] * samples) for count in spikes]
        silent = sum(count == 0 for count in spikes)
        found.append(
            {
                "name": layer["name"],
                "channels": f"{len(spikes):,}",
                "mean": share(sum(rates) / len(rates)),
                "least": share(min(rates)),
                "most": share(max(rates)),
                "silent": f"{silent:,}",
                "chart": Markup(charts.cells(rates, f"Spike rate of the channels of {layer['name']}")),
            }
        )
    return found


def classes_view(simulation: Values, names: Sequence[object]) -> dict[str, Any] | None:
    """Return samples, SynOps and spikes of each class, or None without labels."""
    counts = simulation.get("class_samples") or ()
    total = simulation["total"]
    synops, spikes = total.get("class_synops") or (), total.get("class_spikes") or ()
    if not counts or not len(counts) == len(synops) == len(spikes):
        return None
    labels = (
        [str(name) for name in names] if len(names) == len(counts) else [str(index) for index in range(len(counts))]
    )
    mean = total["synops"] / simulation["samples"]
    rows = []
    for index, samples in enumerate(counts):
        of_class = synops[index] / samples if samples else 0.0
        rows.append(
            {
                "index": index,
                "name": labels[index],
                "samples": samples,
                "synops": of_class,
                "synops_text": number(of_class) if samples else NO_VALUE,
                "spikes": spikes[index] / samples if samples else 0.0,
                "spikes_text": number(spikes[index] / samples) if samples else NO_VALUE,
                "relative": f"{100 * (of_class / mean - 1):+.1f}\N{NO-BREAK SPACE}%" if samples and mean else NO_VALUE,
                "bar": round(100 * of_class / max(mean * 2, 1e-12), 1) if samples else 0,
            }
        )
    largest = max((row["synops"] for row in rows), default=0.0) or 1.0
    for row in rows:
        row["bar"] = f"{100 * row['synops'] / largest:.1f}%"
    return {"rows": rows, "mean": number(mean)}


def spread_view(simulation: Values) -> list[dict[str, Any]]:
    """Return how the SynOps spread over the samples, of the network and of each layer that has any."""
    rows = []
    named = [("all layers", simulation["total"])]
    named += [(layer["name"], layer) for layer in simulation["layers"] if layer["synops"]]
    for name, counts in named:
        spread = (counts.get("per_sample") or {}).get("synops")
        if not spread or "p50" not in spread:
            continue
        keys = ("smallest", "p05", "p25", "p50", "p75", "p95", "largest")
        rows.append(
            {
                "name": name,
                "cells": [(spread[key], number(spread[key])) for key in keys],
                "bin": f"{spread['bin_width']:,}",
            }
        )
    return rows if len(rows) > 0 and rows[0]["name"] == "all layers" else []


def worst_view(simulation: Values, names: Sequence[object]) -> dict[str, str] | None:
    """Return the sample with the most SynOps."""
    worst = simulation.get("worst_sample")
    if not worst:
        return None
    label = worst.get("label")
    return {
        "index": f"{worst['index']:,}",
        "label": "" if label is None else _name(label, names),
        "synops": number(worst["counts"]["synops"]),
    }


def _name(index: int, names: Sequence[object]) -> str:
    return str(names[index]) if 0 <= index < len(names) else str(index)


# The sample browser


def browser_view(report: Values) -> list[dict[str, Any]]:
    """Return the samples that can be looked at; a picture that is no plain base64 text is left out."""
    names = (report.get("dataset") or {}).get("classes") or ()
    found = []
    for sample in report.get("samples") or ():
        label, prediction = sample.get("label"), sample["prediction"]
        found.append(
            {
                "index": f"{sample['index']:,}",
                "label": "" if label is None else _name(label, names),
                "prediction": _name(prediction, names),
                "mood": "" if label is None else "good" if label == prediction else "bad",
                "input": picture_view(sample.get("input")),
                "scores": _scores(sample["scores"], names, label, prediction),
                "layers": [
                    {
                        "name": layer["name"],
                        "shape": f" {TIMES} ".join(str(size) for size in layer["shape"]),
                        "rate": share(layer["rate"]),
                        "picture": picture_view(layer.get("picture")),
                        "note": _note(layer),
                    }
                    for layer in sample["layers"]
                ],
            }
        )
    return found


def picture_view(picture: Values | None) -> dict[str, Any] | None:
    """Return a picture's source and size, or None where it is missing, too large or no base64 text.

    >>> picture_view({"width": 2, "height": 1, "png": "javascript:alert(1)"}) is None
    True
    """
    if not picture or not isinstance(picture.get("png"), str) or not BASE64.fullmatch(picture["png"]):
        return None
    width, height = picture.get("width"), picture.get("height")
    if not all(isinstance(size, int) and 1 <= size <= LARGEST_PICTURE for size in (width, height)):
        return None
    return {"src": f"data:image/png;base64,{picture['png']}", "width": width, "height": height}


def _note(layer: Values) -> str:
    shape = layer["shape"]
    if layer.get("picture") is None:
        return "left out to keep the page small"
    return f"the first {layer['channels']} of {shape[0]} channels" if layer["channels"] < shape[0] else ""


def _scores(scores: Sequence[int], names: Sequence[object], label: int | None, said: int) -> list[dict[str, Any]]:
    """Return the highest scores first, with the length of a bar from the lowest score."""
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:SHOWN_SCORES]
    low, high = min(scores, default=0), max(scores, default=1)
    return [
        {
            "name": _name(index, names),
            "score": f"{scores[index]:,}",
            "width": f"{100 * (scores[index] - low) / max(high - low, 1):.1f}%",
            "mood": "right" if index == label else "wrong" if index == said and label is not None else "synops",
        }
        for index in order
    ]
