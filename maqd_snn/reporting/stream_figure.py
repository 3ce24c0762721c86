"""The figure of a streamed recording: which class leads, and what each window costs.

matplotlib is imported on use.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maqd_snn.errors import MaqdError
from maqd_snn.files import atomic_path
from maqd_snn.reporting.figures import DENSE, EFFECTIVE, INK, SPIKES, tidy
from maqd_snn.reporting.units import quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from maqd_snn.windows import Window

LARGEST_LEGEND = 6  # classes that get a colour and a name
COLOURS = ("#2f6fde", "#f2a33a", "#3aa676", "#c2476f", "#7a5cc2", "#5b8a99")
RIGHT, WRONG = "#2b303a", "#dfe3ea"  # dark and light, so that it can be told without colours
SUFFIXES = (".png", ".svg", ".pdf")


def check_figure_name(path: str | Path) -> None:
    """Raise MaqdError unless `path` has a suffix that a figure is written as."""
    if Path(path).suffix not in SUFFIXES:
        raise MaqdError(f"a figure is written as .png, .svg or .pdf, got {Path(path).name!r}")


def save_stream_figure(
    windows: "Sequence[Window]",
    classes: Sequence[str],
    stable: int | None,
    title: str,
    path: str | Path,
    label: int | None = None,
) -> None:
    """Draw a streamed recording and write it to `path` (.png, .svg or .pdf), atomically.

    Above: the summed score of each class, as its distance from the mean of all classes, divided by the windows so far;
    a strip shows the winner of each window alone, the line the moment from which the answer stays. With the true class,
    a second strip shows when the sum is right, and a curve the share of the windows so far in which it was. Below:
    events and SynOps of each window.

    Args:
        windows: at least one. classes: names by class. stable: number of the window of a stable answer. label: the true
            class.

    Raises:
        MaqdError: no windows; an unknown suffix, or a path that cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = Path(path)
    check_figure_name(target)
    if not windows:
        raise MaqdError("a figure needs at least one window")
    known = label is not None
    figure = Figure(figsize=(9, 5.6 + 1.4 * known), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    ratios = (3, 0.28, *((0.28, 1.1) if known else ()), 2)
    above, strip, *right, below = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
    first = windows[0].begin_us
    ends = np.array([window.end_us - first for window in windows]) / 1000
    edges = np.array([windows[0].begin_us - first, *(w.end_us - first for w in windows)]) / 1000
    colours = _colours(windows)
    _scores(above, windows, classes, colours, ends)
    _strip(strip, [colours.get(window.winner, DENSE) for window in windows], edges, "window alone")
    if known:
        correct = [window.total_winner == label for window in windows]
        _strip(right[0], [RIGHT if is_right else WRONG for is_right in correct], edges, "sum is right")
        _accuracy(right[1], correct, ends)
    _costs(below, windows, edges)
    if stable is not None:
        for axes in (above, strip, *right, below):
            axes.axvline(ends[stable], color=INK, linewidth=1, linestyle=":")
        above.annotate(
            f"stable after {ends[stable]:.0f} ms",
            (ends[stable], 1.0),
            (4, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            fontsize=8.5,
            color=INK,
        )
    figure.suptitle(title, fontsize=10.5, color=INK)
    with atomic_path(target) as temporary:
        figure.savefig(temporary)


def _colours(windows: "Sequence[Window]") -> dict[int, str]:
    """Return the colours of the classes that matter: by how often they lead or win, the most frequent first."""
    wins = np.bincount(
        [w.total_winner for w in windows] + [w.winner for w in windows], minlength=len(windows[0].scores)
    )
    order = [int(label) for label in np.argsort(-wins, kind="stable") if wins[label]]
    return dict(zip(order[:LARGEST_LEGEND], COLOURS, strict=False))


def _scores(
    axes: "Axes", windows: "Sequence[Window]", classes: Sequence[str], colours: dict[int, str], ends: np.ndarray
) -> None:
    totals = np.array([window.total for window in windows], np.float64)
    means = (totals - totals.mean(1, keepdims=True)) / np.arange(1, len(windows) + 1)[:, None]
    for label in range(len(classes)):
        if label not in colours:
            axes.plot(ends, means[:, label], color=DENSE, linewidth=0.8, zorder=1)
    for label, colour in colours.items():
        axes.plot(ends, means[:, label], color=colour, linewidth=1.8, label=classes[label], zorder=2)
    axes.margins(y=0.12)  # room for the note on the stable answer
    axes.set_ylabel("mean score so far", fontsize=9, color=INK)
    axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    tidy(axes)


def _strip(axes: "Axes", colours: Sequence[str], edges: np.ndarray, name: str) -> None:
    from matplotlib.colors import to_rgb

    # One mesh: as a patch each, the windows of a long recording would take minutes.
    axes.pcolormesh(edges, [0, 1], np.array([[to_rgb(colour) for colour in colours]]), linewidth=0, rasterized=True)
    axes.set_yticks([0.5], [name])
    axes.set_ylim(0, 1)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(labelsize=8.5, colors=INK, length=0)


def _accuracy(axes: "Axes", correct: Sequence[bool], ends: np.ndarray) -> None:
    shares = 100 * np.cumsum(correct) / np.arange(1, len(correct) + 1)
    axes.plot(ends, shares, color=INK, linewidth=1.5)
    axes.annotate(
        f"{shares[-1]:.0f} %",
        (1.0, shares[-1]),
        (4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=INK,
    )
    axes.set_ylim(-4, 104)
    axes.set_yticks([0, 50, 100])
    axes.set_ylabel("right so far, %", fontsize=9, color=INK)
    tidy(axes)


def _costs(axes: "Axes", windows: "Sequence[Window]", edges: np.ndarray) -> None:
    axes.stairs([window.synops for window in windows], edges, color=SPIKES, fill=True, alpha=0.85)
    axes.set_ylabel("SynOps a window", fontsize=9, color=SPIKES)
    axes.yaxis.set_major_formatter(lambda value, _: quantity(value).replace(".00", ""))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("time since the first event, ms", fontsize=9, color=INK)
    axes.set_xlim(edges[0], edges[-1])
    right = axes.twinx()
    right.stairs([window.events for window in windows], edges, color=EFFECTIVE, linewidth=1.3)
    right.set_ylabel("events a window", fontsize=9, color=EFFECTIVE)
    right.yaxis.set_major_formatter(lambda value, _: quantity(value).replace(".00", ""))
    right.set_ylim(bottom=0)
    right.spines[["top"]].set_visible(False)
    right.tick_params(labelsize=8.5, colors=INK)
    tidy(axes)
