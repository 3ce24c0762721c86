"""Pictures of a training: its curves, what the weights and the levels have become, and the surrogate.

Each takes plain values or the integer network and returns a matplotlib figure, imported on use.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.errors import MaqdError
from maqd_snn.files import atomic_path
from maqd_snn.integer import IntegerNetwork
from maqd_snn.integer.ops import Conv2d, Linear, MaxPool2d, SumPool2d, Threshold
from maqd_snn.reporting.figures import DENSE, EFFECTIVE, INK, SPIKES
from maqd_snn.rounding import round_half_up
from maqd_snn.surrogate import as_surrogate, staircase_derivative, widened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Counts = NDArray[np.int64]
COLUMNS = 4
POOLS = (MaxPool2d, SumPool2d)
MOST_BARS = 40  # of more values than these, neighbours share a bar

Row = dict[str, float | str | None]
NUMBER: tuple[type, ...] = (float,)
EPOCH_COLUMNS = dict.fromkeys(
    ("epoch", "lr", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"), NUMBER
)
LAYER_COLUMNS = {"epoch": NUMBER, "layer": (str,), "spike_rate": (float, NoneType)}
WORDS: Mapping[type, str] = {float: "a finite number", str: "a name", NoneType: "nothing"}


def read_table(text: str) -> list[Row]:
    """Return the rows of a CSV table with a header: numbers where a cell is one, None where it is empty.

    Raises:
        ValueError: a row has more cells than the header.

    >>> read_table("epoch,layer,spike_rate\\n1,spike1,\\n")
    [{'epoch': 1.0, 'layer': 'spike1', 'spike_rate': None}]
    """

    def value(cell: str | None) -> float | str | None:
        try:
            return float(cell) if cell else None
        except ValueError:
            return cell

    rows = list(csv.DictReader(io.StringIO(text)))
    for number, row in enumerate(rows, 1):
        if None in row:
            raise ValueError(f"row {number} has more cells than the header")
    return [{name: value(cell) for name, cell in row.items()} for row in rows]


def read_drawn(path: Path, columns: Mapping[str, tuple[type, ...]]) -> list[Row]:
    """Return the rows of a table that a training wrote.

    Args:
        path: of the table. columns: those that are drawn, and what their cells may be, see `EPOCH_COLUMNS`.

    Raises:
        MaqdError: it is no table, has no row, or has something else in one of these columns.
    """
    try:
        rows = read_table(path.read_text(encoding="utf-8"))
        if not rows:
            raise ValueError("a header and a row for an epoch are expected, and there is no row")
        for number, row in enumerate(rows, 1):
            for name, kinds in columns.items():
                if name not in row:
                    raise ValueError(f"a column {name!r} is expected, and there are {', '.join(row)}")
                cell = row[name]
                if not isinstance(cell, kinds) or (isinstance(cell, float) and not math.isfinite(cell)):
                    expected = " or ".join(WORDS[kind] for kind in kinds)
                    raise ValueError(f"{name} in row {number} is expected to be {expected}, and is {cell!r}")
    except (ValueError, csv.Error) as error:
        raise MaqdError(
            f"the tables of {str(path.parent)!r} are damaged: {path.name}: {error}; train on to write them"
        ) from error
    return rows


def weight_counts(net: IntegerNetwork) -> dict[str, tuple[Counts, Counts]]:
    """Return (code, how many weights have it) of every layer with weights, from its lowest to its highest code."""
    found = {}
    for op in net.ops:
        if isinstance(op, Conv2d | Linear):
            weight = op.weight.long().flatten()
            low, high = int(weight.min()), int(weight.max())
            found[op.name] = np.arange(low, high + 1), torch.bincount(weight - low, minlength=high - low + 1).numpy()
    return found


def level_counts(net: IntegerNetwork, codes: Tensor) -> dict[str, tuple[Counts, Counts]]:
    """Return (level, how many neurons emitted it) of every spiking layer for input codes (B, C, H, W).

    The key is its name and, where it stands before a pool, that: behind one there are fewer neurons, which fire more.
    """
    trace = net.trace(codes)
    pools = {name: f"{name} before {op.name}" for op in net.ops if isinstance(op, POOLS) for name in op.inputs}
    found = {}
    for op in net.ops:
        if isinstance(op, Threshold):
            levels = np.arange(op.low, op.low + op.thresholds.shape[1] + 1)
            values = trace[op.name].long().flatten() - op.low
            counts = torch.bincount(values, minlength=len(levels)).numpy()
            found[pools.get(op.name, op.name)] = levels, counts
    return found


def curves(epochs: Sequence[Mapping[str, Any]], layers: Sequence[Mapping[str, Any]], title: str) -> "Figure":
    """Return losses, accuracies and learning rate of every epoch, and the spike rate of every layer of the model.

    Args:
        epochs, layers: the rows of metrics.csv and layers.csv.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (loss, accuracy, rates) = _figure(1, 3, title)
    x = [row["epoch"] for row in epochs]
    for axes, what, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        for part, colour in (("train", DENSE), ("validation", SPIKES)):
            axes.plot(x, [scale * row[f"{part}_{what}"] for row in epochs], ".-", color=colour, label=part)
    loss.set_title("loss", fontsize=9.5)
    accuracy.set_title("accuracy, %", fontsize=9.5)
    rate = accuracy.twinx()
    rate.plot(x, [row["lr"] for row in epochs], ":", color=EFFECTIVE)
    rate.set_ylabel("learning rate at the end of the epoch (dotted)", fontsize=7.5, color=EFFECTIVE)
    rate.tick_params(labelsize=7, colors=EFFECTIVE)
    for spine in rate.spines.values():
        spine.set_visible(False)
    names = list(dict.fromkeys(row["layer"] for row in layers if row["spike_rate"] is not None))
    for index, name in enumerate(names):
        rows = [row for row in layers if row["layer"] == name]
        blended = _blend(index / max(len(names) - 1, 1))
        rates.plot([r["epoch"] for r in rows], [100 * r["spike_rate"] for r in rows], ".-", color=blended, label=name)
    rates.set_title("neurons that fire, %", fontsize=9.5)
    rates.set_ylim(bottom=0)
    for axes in (loss, accuracy, rates):
        axes.set_xlabel("epoch", fontsize=8.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss.legend(frameon=False, fontsize=7)
    accuracy.legend(frameon=False, fontsize=7, loc="lower right")
    if names:
        which = "after pooling, where it comes first"
        rates.legend(frameon=False, fontsize=7, ncols=1 + len(names) // 9, title=which, title_fontsize=7)
    return figure


def histograms(counts: Mapping[str, tuple[Counts, Counts]], title: str, what: str) -> "Figure":
    """Return one histogram for each layer: the share of each integer value."""
    from matplotlib.ticker import MaxNLocator

    rows = math.ceil(len(counts) / COLUMNS)
    figure, axes = _figure(rows, min(COLUMNS, len(counts)), title)
    for place, (name, (values, number)) in zip(axes, counts.items(), strict=False):
        width = math.ceil(len(values) / MOST_BARS)  # how many values share a bar
        starts = np.arange(0, len(values), width)
        share = 100 * np.add.reduceat(number, starts) / max(number.sum(), 1)
        place.bar(values[starts] + (width - 1) / 2, share, 0.85 * width, color=SPIKES)
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
        place.set_title(f"{name}: {int(number.sum()):,}", fontsize=8.5)
        place.set_ylabel("%", fontsize=8)
        place.set_xlabel(what, fontsize=8)
    for place in axes[len(counts) :]:
        place.set_axis_off()
    return figure


def surrogate_shape(name: str, act_states: int, signed: bool, title: str, width: float = 1.0) -> "Figure":
    """Return the staircase of levels over the normalized membrane x, and the gradient that training takes for it.

    Args:
        name: of the surrogate. act_states, signed: of the network. width: how many times as wide it is.
    """
    n = act_states - 1
    low = -n if signed else 0
    x = torch.linspace(low / n - 1, 2, 2001)
    figure, (axes,) = _figure(1, 1, title)
    axes.plot(x, round_half_up(n * x).clamp(low, n), color=DENSE, label="level k(x)")
    gradient = n * staircase_derivative(n * x, low, n, widened(as_surrogate(name), width))
    axes.plot(x, gradient, color=SPIKES, label=f"gradient dk/dx, {name}")
    axes.set_xlabel("normalized membrane x", fontsize=8.5)
    axes.legend(frameon=False, fontsize=8)
    return figure


def diagnosis(values: Mapping[str, Any], title: str) -> "Figure":
    """Return the split of the loss, quantization errors, constant channels and gradients of `diagnosis.json`."""
    figure, (split, errors, firing, gradients) = _figure(2, 2, title)
    figure.set_size_inches(11, 6.5)
    _split(split, values)
    rows = values["errors"]
    for start, colour, share in (("clipped", EFFECTIVE, "clipped"), ("rounded", SPIKES, "rounded")):
        heights = [100 * (r["clipped"] if share == "clipped" else r["error"] - r["clipped"]) for r in rows]
        below = [100 * r["clipped"] if share == "rounded" else 0.0 for r in rows]
        errors.bar(range(len(rows)), heights, 0.7, bottom=below, color=colour, label=start)
    _names(errors, [r["name"] for r in rows])
    errors.set_title("quantization error, % of the mean square", fontsize=9.5)
    errors.legend(frameon=False, fontsize=7)
    rows = values["levels"]
    places = range(len(rows))
    firing.bar(places, [100 * r["rate"] for r in rows], 0.7, color=DENSE, label="neurons that fire")
    for kind, colour, side in (("dead", INK, -0.15), ("saturated", EFFECTIVE, 0.15)):
        shares = [100 * r[kind] / r["channels"] for r in rows]
        firing.bar([p + side for p in places], shares, 0.3, color=colour, label=f"{kind} channels")
    _names(firing, [r["name"] for r in rows])
    firing.set_ylim(0, 100)
    firing.set_title("firing neurons, dead and saturated channels, %", fontsize=9.5)
    firing.legend(frameon=False, fontsize=7)
    rows = values["gradients"]
    for what, colour, side in (("slope", SPIKES, -0.2), ("correlation", EFFECTIVE, 0.2)):
        gradients.bar([p + side for p in range(len(rows))], [r[what] for r in rows], 0.4, color=colour, label=what)
    gradients.axhline(1, color=DENSE, linewidth=0.8, linestyle=":")
    _names(gradients, [r["name"] for r in rows])
    gradients.set_title("gradient against finite differences (1: equal)", fontsize=9.5)
    gradients.legend(frameon=False, fontsize=7)
    return figure


def _split(axes: "Axes", values: Mapping[str, Any]) -> None:
    bars = [(row["label"], 100 * row["accuracy"], SPIKES) for row in values["switches"]]
    if values["twin"] is not None:
        bars.append(("float twin", 100 * values["twin"], DENSE))
    axes.barh(range(len(bars)), [height for _, height, _ in bars], 0.7, color=[colour for *_, colour in bars])
    for place, (_, height, _) in enumerate(bars):
        axes.text(height, place, f" {height:.1f}", va="center", fontsize=7, color=INK)
    axes.set_yticks(range(len(bars)), [label for label, *_ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(max(0, min(height for _, height, _ in bars) - 10), max(height for _, height, _ in bars) + 4)
    axes.set_title("accuracy with groups in float, %", fontsize=9.5)


def _names(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)


def save(figure: "Figure", path: Path) -> None:
    """Write the figure as PNG, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _figure(rows: int, columns: int, title: str) -> tuple["Figure", list["Axes"]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if rows < 1:
        raise MaqdError("there is nothing to draw: the network has no such layer")
    figure = Figure(figsize=(3.3 * max(columns, 2), 2.5 * rows + 0.7), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for place in axes:
        place.tick_params(labelsize=7.5)
        for side in ("top", "right"):
            place.spines[side].set_visible(False)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure, axes


def _blend(share: float) -> tuple[float, ...]:
    """Return a colour between that of the spikes and that of what is effective."""
    first, last = (tuple(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)) for c in (SPIKES, EFFECTIVE))
    return tuple((1 - share) * a + share * b for a, b in zip(first, last, strict=True))
