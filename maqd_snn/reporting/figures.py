"""The figure of a run, for papers and slides: where the synaptic operations are, and what they cost beside rivals.

matplotlib is imported here alone, on use.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from maqd_snn.errors import MaqdError
from maqd_snn.files import atomic_path
from maqd_snn.reporting.units import energy_text, quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DENSE, SPIKES, EFFECTIVE, INK = "#aab2c0", "#2f6fde", "#f2a33a", "#2b303a"


def save_figure(report: dict[str, Any], path: str | Path) -> None:
    """Draw the values of `report.json` as two panels and write them to `path` (.png, .svg or .pdf), atomically.

    Left: dense MACs, SynOps and effective SynOps per image of every layer with weights. Right: energy per image, on a
    logarithmic axis, of the dense baselines and of the spikes under every profile that has a total.

    Raises:
        MaqdError: an unknown suffix, or a path that cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = Path(path)
    if target.suffix not in (".png", ".svg", ".pdf"):
        raise MaqdError(f"a figure is written as .png, .svg or .pdf, got {target.name!r}")
    figure = Figure(figsize=(10, 3.7), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _layers(left, report["simulation"])
    _energies(right, report)
    recipe, accuracy = report["recipe"], report["accuracy"]["test"]
    figure.suptitle(
        f"{report['dataset']['title']}, {recipe['model']} {recipe['plan']}: {recipe['act_states']}-state spikes, "
        f"{recipe['weight_states']}-state weights, {100 * accuracy:.1f} % right",
        fontsize=10.5,
        color=INK,
    )
    with atomic_path(target) as temporary:
        figure.savefig(temporary)


def _layers(axes: "Axes", simulation: dict[str, Any]) -> None:
    layers = [layer for layer in simulation["layers"] if layer["dense_macs"]]
    samples = simulation["samples"]
    bars = (
        ("dense MACs", "dense_macs", DENSE),
        ("SynOps", "synops", SPIKES),
        ("effective", "effective_synops", EFFECTIVE),
    )
    for index, (label, name, colour) in enumerate(bars):
        heights = [layer[name] / samples for layer in layers]
        axes.bar([x + (index - 1) * 0.27 for x in range(len(layers))], heights, 0.27, label=label, color=colour)
    axes.set_xticks(range(len(layers)), [layer["name"] for layer in layers], rotation=30, ha="right")
    axes.yaxis.set_major_formatter(lambda value, _: quantity(value).replace(".00", ""))
    axes.set_title("connections used per image", fontsize=9.5, color=INK)
    axes.legend(frameon=False, fontsize=8.5)
    tidy(axes)


def _energies(axes: "Axes", report: dict[str, Any]) -> None:
    rows = [
        (entry["name"].replace("dense-", "dense "), entry["energy_pj"], DENSE)
        for entry in report["baselines"]
        if entry["scope"] == "arithmetic"
    ]
    rows += [
        (f"spikes, {name}", entry["total_pj"], SPIKES)
        for name, entry in report["energy"].items()
        if entry["total_pj"] is not None
        and entry["profile"]["scope"] == "arithmetic"  # that of the baselines
        and entry["profile"]["node"] == "45 nm"
    ]
    rows.sort(key=lambda row: -row[1])
    smallest, largest = min(row[1] for row in rows), max(row[1] for row in rows)
    for index, (_, energy_pj, colour) in enumerate(rows):
        # Dots: the length of a bar means nothing on a logarithmic axis.
        axes.axhline(index, color="#e7eaef", linewidth=1, zorder=0)
        axes.plot(energy_pj, index, "o", markersize=9, color=colour)
        axes.text(energy_pj * 1.25, index, energy_text(energy_pj), va="center", fontsize=8.5, color=INK)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_xscale("log")
    axes.set_xlim(smallest / 3, largest * 6)
    axes.xaxis.set_major_formatter(lambda value, _: energy_text(value))
    axes.minorticks_off()
    axes.set_title("arithmetic energy per image, 45 nm", fontsize=9.5, color=INK)
    tidy(axes)


def tidy(axes: "Axes") -> None:
    """Give axes the look of all figures."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5, colors=INK)
