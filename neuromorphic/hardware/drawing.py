"""Figures of a placed network: floor plan with cores by layer, link loads, utilisation. matplotlib on use."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maqd_snn.errors import MaqdError
from maqd_snn.files import atomic_path
from maqd_snn.neuromorphic.hardware.costs import Traffic
from maqd_snn.neuromorphic.hardware.fitting import core_figures
from maqd_snn.neuromorphic.hardware.needs import CORE
from maqd_snn.neuromorphic.hardware.text import verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, EMPTY, LINE = "#2b303a", "#edf0f4", "#c3cad6"
# Distinct in lightness, too, for readers who do not see all hues.
COLOURS = ("#2f6fde", "#f2a33a", "#3aa57c", "#c2477f", "#7d5fd0", "#59b5d9", "#a0752c", "#e0664f", "#7f8b1f", "#505a6b")
LABELLED = 64  # cores up to which each carries its number


def draw(cost: Traffic, path: str | Path) -> None:
    """Draw a placed network and write it to `path` (.png, .svg or .pdf), atomically.

    Left: the cores, coloured by layer, on their tiles; without a mesh, in a row. Middle: messages per image on each
    link of the mesh, and without one from layer to layer. Right: the share of each limit that the cores take, the
    fullest core as a line.

    Raises:
        MaqdError: an unknown suffix, or a path that cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = Path(path)
    if target.suffix not in (".png", ".svg", ".pdf"):
        raise MaqdError(f"a figure is written as .png, .svg or .pdf, got {target.name!r}")
    figure = Figure(figsize=(15, 5.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3, width_ratios=(1.25, 1.25, 1))
    _floor(axes[0], cost)
    if cost.placement.mesh is not None:
        _links(axes[1], cost)
    else:
        _layers(axes[1], cost)
    _utilisation(axes[2], cost)
    figure.suptitle(f"{verdict(cost.placement.plan)}\n", fontsize=11, color=INK)  # the empty line parts it from titles
    with atomic_path(target) as temporary:
        figure.savefig(temporary)


def _palette(cost: Traffic) -> dict[str, str]:
    names = [stage.name for stage in cost.placement.plan.job.placed]
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}


def _spots(cost: Traffic) -> tuple[dict[int, tuple[float, float]], float, tuple[int, int]]:
    """Return where each core is drawn (by slot), its side, and the extent in tiles."""
    mesh, chip = cost.placement.mesh, cost.placement.plan.chip
    if mesh is None:
        total = max(chip.value("cores") if chip.value("topology") != "mesh" else 0, max(cost.placement.slots) + 1)
        across = int(np.ceil(np.sqrt(total)))
        spots = {slot: (float(slot % across), float(slot // across)) for slot in range(total)}
        return spots, 0.86, (across, -(-total // across))
    slots = np.arange(mesh.slots)
    x, y = mesh.tiles(slots)
    side = int(np.ceil(np.sqrt(mesh.per_tile)))
    inner = slots % mesh.per_tile
    step = 0.84 / side
    spots = {
        int(s): (float(a - 0.42 + step * (0.5 + k % side)), float(b - 0.42 + step * (0.5 + k // side)))
        for s, a, b, k in zip(slots, x, y, inner, strict=True)
    }
    return spots, step * 0.92, (int(x.max()) + 1, int(y.max()) + 1)


def _floor(axes: "Axes", cost: Traffic) -> None:
    from matplotlib.patches import Rectangle

    colours = _palette(cost)
    spots, side, extent = _spots(cost)
    single = cost.placement.plan.chip.value("topology") == "single"
    taken: dict[int, list[str]] = {}
    for core in cost.cores:
        taken.setdefault(core.slot, []).append(core.stage)
    extent = _zoom(cost, extent, spots)
    for slot, (x, y) in spots.items():
        if x > extent[0] or y > extent[1]:
            continue
        stages = list(dict.fromkeys(taken.get(slot, [])))
        axes.add_patch(Rectangle((x - side / 2, y - side / 2), side, side, facecolor=EMPTY, edgecolor=LINE, lw=0.4))
        for index, stage in enumerate(stages):  # several layers on one core share its square
            part = side / len(stages)
            axes.add_patch(Rectangle((x - side / 2, y - side / 2 + index * part), side, part, facecolor=colours[stage]))
            if single:
                axes.text(x, y - side / 2 + (index + 0.5) * part, stage, ha="center", va="center", color="white")
        if stages and not single and len(cost.cores) <= LABELLED:
            axes.text(x, y, str(slot), ha="center", va="center", fontsize=6.5, color="white")
    used = [name for name in colours if any(core.stage == name for core in cost.cores)]
    handles = [Rectangle((0, 0), 1, 1, facecolor=colours[name]) for name in used]
    labels = [f"{name} ({sum(core.stage == name for core in cost.cores)})" for name in used]
    axes.legend(
        handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=4, frameon=False, fontsize=8,
        labelcolor=INK,
    )  # fmt: skip
    mesh = cost.placement.mesh
    where = "tiles of the mesh" if mesh else "position has no meaning"
    _frame(axes, extent, f"cores by layer ({where})")
    if mesh and mesh.chips > 1:
        _chip_lines(axes, mesh.width, mesh.height, extent)


def _zoom(cost: Traffic, extent: tuple[int, int], spots: dict[int, tuple[float, float]]) -> tuple[int, int]:
    """Return the part of a very large mesh that is in use."""
    if extent[0] * extent[1] <= 1024:
        return extent
    used = [spots[slot] for slot in cost.placement.slots]
    return int(max(x for x, _ in used)) + 2, int(max(y for _, y in used)) + 2


def _chip_lines(axes: "Axes", width: int, height: int, extent: tuple[int, int]) -> None:
    for x in range(width, extent[0], width):
        axes.axvline(x - 0.5, color=INK, lw=1.2)
    for y in range(height, extent[1], height):
        axes.axhline(y - 0.5, color=INK, lw=1.2)


def _frame(axes: "Axes", extent: tuple[int, int], title: str) -> None:
    axes.set_xlim(-0.6, extent[0] - 0.4)
    axes.set_ylim(extent[1] - 0.4, -0.6)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.set_title(title, fontsize=9.5, color=INK, pad=10)


def _links(axes: "Axes", cost: Traffic) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize

    spots, _, extent = _spots(cost)
    mesh = cost.placement.mesh
    assert mesh is not None
    extent = _zoom(cost, extent, spots)
    n = cost.sent.samples
    tiles = [(x, y) for x in range(extent[0]) for y in range(extent[1])]
    axes.scatter([x for x, _ in tiles], [y for _, y in tiles], s=10, color=LINE, zorder=3)
    # The two directions of a link lie beside each other.
    segments, loads = [], []
    for (x0, y0, x1, y1), number in sorted(cost.links.items(), key=lambda item: item[1]):
        dx, dy = (y1 - y0) * 0.09, (x0 - x1) * 0.09
        segments.append([(x0 + dx, y0 + dy), (x1 + dx, y1 + dy)])
        loads.append(number / n)
    most = max(loads, default=1.0)
    scale = Normalize(0, most)
    axes.add_collection(
        LineCollection(
            segments, array=np.array(loads), cmap="viridis_r", norm=scale,
            linewidths=[1.2 + 3.5 * load / most for load in loads],
        )
    )  # fmt: skip
    if cost.busiest_link is not None:
        (x0, y0, x1, y1), number = cost.busiest_link
        axes.text(
            0.5, -0.02, f"busiest: tile ({x0}, {y0}) to ({x1}, {y1}), {number / n:,.0f} messages",
            transform=axes.transAxes, ha="center", va="top", fontsize=8, color=INK,
        )  # fmt: skip
    bar = axes.figure.colorbar(ScalarMappable(scale, "viridis_r"), ax=axes, fraction=0.035, pad=0.02, shrink=0.6)
    bar.ax.tick_params(labelsize=8, colors=INK)
    _frame(axes, extent, "messages per image on each link, by direction")
    if mesh.chips > 1:
        _chip_lines(axes, mesh.width, mesh.height, extent)


def _layers(axes: "Axes", cost: Traffic) -> None:
    """Draw the messages from layer to layer."""
    names = [stage.name for stage in cost.placement.plan.job.placed]
    index = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(names), len(names)))
    for i, a in enumerate(cost.cores):
        for j, b in enumerate(cost.cores):
            table[index[a.stage], index[b.stage]] += cost.flow[i, j] / cost.sent.samples
    shown: Any = np.ma.masked_equal(table, 0)
    axes.imshow(shown, cmap="viridis_r", vmin=0)
    for i, j in np.argwhere(table):
        light = table[i, j] < 0.45 * table.max()
        axes.text(j, i, f"{table[i, j]:,.0f}", ha="center", va="center", fontsize=8, color=INK if light else "white")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8, color=INK)
    axes.set_yticks(range(len(names)), names, fontsize=8, color=INK)
    axes.set_title("messages per image from layer (row) to layer (column)", fontsize=9.5, color=INK)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def utilisation(cost: Traffic) -> dict[str, list[float]]:
    """Return, by known limit of a core, the share of it that each used core takes."""
    plan = cost.placement.plan
    shares: dict[str, list[float]] = {}
    for key in core_figures(plan.chip):
        limit = plan.chip.value(key)
        if limit is None:
            continue
        by_slot: dict[int, int] = {}
        for piece, slot in zip(plan.pieces, cost.placement.slots, strict=True):
            by_slot[slot] = by_slot.get(slot, 0) + CORE[key](plan.job, piece)
        of = {slot: limit[slot] if isinstance(limit, tuple) else limit for slot in by_slot}
        shares[key] = [need / of[slot] for slot, need in by_slot.items()]
    if not shares:
        for row in plan.rows:  # no limits of a core: those of the network and, worst first, of its layers
            if isinstance(row.need, int) and isinstance(row.limit, int) and row.limit > 0:
                shares[row.figure] = [max(row.need / row.limit, *shares.get(row.figure, [0.0]))]
    return shares


def _utilisation(axes: "Axes", cost: Traffic) -> None:
    shares = utilisation(cost)
    for index, values in enumerate(shares.values()):
        mean, most = sum(values) / len(values), max(values)
        axes.barh(index, 1, 0.62, color=EMPTY)
        axes.barh(index, mean, 0.62, color=COLOURS[0])
        axes.plot([most, most], [index - 0.36, index + 0.36], color=COLOURS[1], lw=2.4)
        axes.text(1.02, index, f"{mean:.0%} / {most:.0%}", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(shares)), list(shares), fontsize=8, color=INK)
    axes.set_xlim(0, 1.3)
    axes.set_ylim(max(len(shares), 6) - 0.4, -0.6)
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"], fontsize=8, color=INK)
    axes.set_title("share of each limit: mean (bar) and fullest core (line)", fontsize=9.5, color=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
