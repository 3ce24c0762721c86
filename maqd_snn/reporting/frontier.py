"""The front of a study: a page, a picture and tables from plain values.

Values: `name`, `dataset`, `profile`, `chip`, `samples` (validation images), `library`, `created`, `command`; `twin`,
the float twin's accuracy or None; `counts`, how many trials had which outcome; `networks`, a list of tables with
`number`, `point` (axis -> value), `accuracy`, `energy` (pJ), `synops`, `bytes`, `cores`, `dense_low_bit` (pJ),
`dense_macs`, `fronts` (names of costs), `test` (accuracy on the test images, where it was measured).
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup

from maqd_snn.errors import MaqdError
from maqd_snn.files import atomic_path
from maqd_snn.reporting.figures import DENSE, EFFECTIVE, INK, SPIKES, tidy
from maqd_snn.reporting.html import page_environment, page_script
from maqd_snn.reporting.tables import csv_text, escape_latex, latex_table
from maqd_snn.reporting.units import energy_text, quantity

Values = Mapping[str, Any]

TEMPLATE, SCRIPTS = "frontier.html.j2", ("report.js", "frontier.js")
TITLES = {"energy": "Energy", "synops": "SynOps", "bytes": "Weight memory", "cores": "Cores"}
# What the same network costs with every connection computed, where that differs.
DENSE_OF = {"energy": "dense_low_bit", "synops": "dense_macs"}
STYLES = ("synops", "validation", "charged", "messages", "sums", "thresholds")
HEIGHT, TOP, BOTTOM, LEFT, RIGHT = 380, 16, 44, 9.0, 97.0  # pixels; per cent of the width


def cost_text(cost: str, value: float | None) -> str:
    """Return a cost with its unit; None is an empty text.

    >>> cost_text("energy", 1500.0), cost_text("bytes", 2048), cost_text("cores", None)
    ('1.50 nJ', '2.05 kB', '')
    """
    if value is None:
        return ""
    return energy_text(value) if cost == "energy" else quantity(value, "B" if cost == "bytes" else "")


def point_text(point: Values) -> str:
    """Return a point of the space in words."""
    return ", ".join(f"{name} {'float' if value is None else value}" for name, value in point.items())


def frontier_html(values: Values) -> str:
    """Return the page: nothing is fetched, light and dark, for screen, phone and paper."""
    script, digest = page_script(*SCRIPTS)
    costs = [cost for cost in TITLES if any(row.get(cost) is not None for row in values["networks"])]
    groups = _groups(values)
    text = page_environment().get_template(TEMPLATE).render(
        script=Markup(script),
        digest=digest,
        values=values,
        charts=[
            {"cost": cost, "title": TITLES[cost], "svg": Markup(_chart(values, cost, groups))}
            for cost in costs
        ],
        legend=[(style, name) for name, style in groups.items()],
        rows=[_row(row) for row in table_rows(values)],
        costs=[(cost, TITLES[cost]) for cost in costs],
        twin="" if values["twin"] is None else f"{100 * values['twin']:.2f} %",
        counts=", ".join(f"{count} {outcome}" for outcome, count in values["counts"].items()),
        tested=any(row.get("test") is not None for row in values["networks"]),
    )  # fmt: skip
    return text.encode("utf-8", "replace").decode("utf-8")


def table_rows(values: Values) -> list[Values]:
    """Return the networks that stand in a front, by falling accuracy."""
    return sorted(
        (row for row in values["networks"] if row["fronts"]), key=lambda row: (-row["accuracy"], row["number"])
    )


def _row(row: Values) -> dict[str, Any]:
    return {
        "number": row["number"],
        "point": point_text(row["point"]),
        "accuracy": f"{100 * row['accuracy']:.2f} %",
        "test": "" if row.get("test") is None else f"{100 * row['test']:.2f} %",
        "costs": [(row.get(cost), cost_text(cost, row.get(cost)), cost in row["fronts"]) for cost in TITLES],
        "low_bit": cost_text("energy", row.get("dense_low_bit")),
        "raw": row,
    }


def _groups(values: Values) -> dict[str, str]:
    """Return a style for each value of the first axis, the last style for all further ones."""
    names = list(dict.fromkeys(_group(row) for row in values["networks"]))
    return {name: STYLES[min(index, len(STYLES) - 1)] for index, name in enumerate(names)}


def _group(row: Values) -> str:
    name, value = next(iter(row["point"].items()), ("", ""))
    return f"{name} {'float' if value is None else value}".strip()


def _range(values: Values, cost: str) -> tuple[float, float, float, float]:
    """Return the ends of both axes: the logarithm of the cost, and the accuracy."""
    rows = [row for row in values["networks"] if row.get(cost) is not None]
    costs = [row[key] for row in rows for key in (cost, DENSE_OF.get(cost, cost)) if row.get(key)]
    low, high = math.log10(min(costs, default=1) or 1), math.log10(max(costs, default=10) or 10)
    pad = max(0.06 * (high - low), 0.04)
    accuracies = [row["accuracy"] for row in rows] + [values["twin"]] * (values["twin"] is not None)
    least, most = min(accuracies, default=0), max(accuracies, default=1)
    above = max(0.08 * (most - least), 0.002)
    return low - pad, high + pad, least - above, most + above


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers from low to high, at most `most` or so.

    >>> ticks(0.83, 0.92, 4)
    [0.85, 0.9]
    """
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return numbers 1, 2, 5 x 10^k between 10^low and 10^high, fewer where there are many, round ones where few.

    >>> log_ticks(2.9, 4.1), log_ticks(0.1, 0.5)
    ([1000, 2000, 5000, 10000], [1.5, 2.0, 2.5, 3.0])
    """
    digits = (1, 2, 5) if high - low < 3 else (1,)
    found = [d * 10**k for k in range(math.floor(low) - 1, math.ceil(high) + 1) for d in digits]
    found = [value for value in found if low <= math.log10(value) <= high]
    return found if len(found) > 2 else ticks(10**low, 10**high, 5)


def _chart(values: Values, cost: str, groups: Mapping[str, str]) -> str:
    left, right, bottom, top = _range(values, cost)

    def x(value: float) -> str:
        return f"{LEFT + (RIGHT - LEFT) * (math.log10(max(value, 1e-12)) - left) / (right - left):.2f}%"

    def y(value: float) -> str:
        return f"{TOP + (HEIGHT - TOP - BOTTOM) * (top - value) / (top - bottom):.1f}"

    floor = HEIGHT - BOTTOM
    parts = []
    for tick in ticks(bottom, top):
        parts.append(f'<line class="grid" x1="{LEFT}%" x2="{RIGHT}%" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 1}%" y="{y(tick)}" dy="4" text-anchor="end">{100 * tick:g}%</text>'
        )
    for tick in log_ticks(left, right):
        parts.append(f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{TOP}" y2="{floor}"/>')
        label = escape(cost_text(cost, tick).replace(".00", "").replace(".0 ", " "))
        parts.append(f'<text class="tick" x="{x(tick)}" y="{floor + 18}" text-anchor="middle">{label}</text>')
    if values["twin"] is not None:
        at = y(values["twin"])
        parts.append(f'<line class="mark" x1="{LEFT}%" x2="{RIGHT}%" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="note halo" x="{RIGHT}%" y="{at}" dy="-5" text-anchor="end">float twin</text>')
    rows = [row for row in values["networks"] if row.get(cost) is not None]
    on = sorted((row for row in rows if cost in row["fronts"]), key=lambda row: row[cost])
    dense = DENSE_OF.get(cost)
    for row in on:
        if dense is not None and row.get(dense):
            at = y(row["accuracy"])
            say = escape(f"trial {row['number']}, every connection computed: {_dense_text(cost, row[dense])}")
            parts.append(f'<line class="rail" x1="{x(row[cost])}" x2="{x(row[dense])}" y1="{at}" y2="{at}"/>')
            parts.append(f'<circle class="dense" cx="{x(row[dense])}" cy="{at}" r="4"><title>{say}</title></circle>')
    for before, after in pairwise(on):
        x1, x2, y1, y2 = x(before[cost]), x(after[cost]), y(before["accuracy"]), y(after["accuracy"])
        parts.append(f'<line class="line synops" x1="{x1}" x2="{x2}" y1="{y1}" y2="{y1}"/>')
        parts.append(f'<line class="line synops" x1="{x2}" x2="{x2}" y1="{y1}" y2="{y2}"/>')
    for row in sorted(rows, key=lambda row: cost in row["fronts"]):
        radius, dim = (7, "") if cost in row["fronts"] else (5, " dim")
        style, say = groups[_group(row)] + dim, escape(say_of(row))
        parts.append(
            f'<circle class="{style} dot" cx="{x(row[cost])}" cy="{y(row["accuracy"])}" r="{radius}" tabindex="0" '
            f'data-say="{say}"><title>{say}</title></circle>'
        )
    label = escape(f"{TITLES[cost]} per image" if cost in ("energy", "synops") else TITLES[cost])
    parts.append(f'<text class="note" x="{RIGHT}%" y="{HEIGHT - 6}" text-anchor="end">{label}, logarithmic</text>')
    return (
        f'<svg class="chart" role="img" aria-label="Accuracy against {label}" width="100%" height="{HEIGHT}">'
        + "".join(parts)
        + "</svg>"
    )


def _dense_text(cost: str, value: float) -> str:
    return energy_text(value) if cost == "energy" else f"{quantity(value)} MACs"


def say_of(row: Values) -> str:
    """Return what a trial says when it is pointed at."""
    parts = [f"trial {row['number']}: {point_text(row['point'])}", f"{100 * row['accuracy']:.2f} % of validation"]
    if row.get("test") is not None:
        parts.append(f"{100 * row['test']:.2f} % of test")
    parts += [f"{TITLES[cost]} {cost_text(cost, row.get(cost))}" for cost in TITLES if row.get(cost) is not None]
    if row.get("dense_low_bit") is not None:
        parts.append(f"dense low-bit {energy_text(row['dense_low_bit'])}")
    return " · ".join(parts)


def save_frontier_figure(values: Values, path: str | Path, cost: str = "energy") -> None:
    """Draw accuracy against one cost and write it to `path` (.png, .svg or .pdf), atomically.

    Raises:
        MaqdError: no network has the cost; an unknown suffix, or a path that cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = Path(path)
    if target.suffix not in (".png", ".svg", ".pdf"):
        raise MaqdError(f"a figure is written as .png, .svg or .pdf, got {target.name!r}")
    rows = [row for row in values["networks"] if row.get(cost) is not None]
    if not rows:
        raise MaqdError(f"no network of the study has a figure for {cost}; choose another with --cost")
    figure = Figure(figsize=(7.6, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    groups = list(_groups(values))
    markers = "osD^vP"
    for group in groups:
        mine = [row for row in rows if _group(row) == group]
        colour = _colour(groups.index(group), len(groups))
        axes.scatter([r[cost] for r in mine], [100 * r["accuracy"] for r in mine], s=46, color=colour, zorder=3,
                     marker=markers[min(groups.index(group), len(markers) - 1)], label=group)  # fmt: skip
    on = sorted((row for row in rows if cost in row["fronts"]), key=lambda row: row[cost])
    axes.step(
        [r[cost] for r in on], [100 * r["accuracy"] for r in on], where="post", color=INK, linewidth=1.2, zorder=2
    )
    dense = DENSE_OF.get(cost)
    if dense is not None:
        for row in on:
            axes.plot([row[cost], row[dense]], [100 * row["accuracy"]] * 2, color=DENSE, linewidth=1, zorder=1)
        heights = [100 * row["accuracy"] for row in on]
        label, points = "front, every connection computed", [row[dense] for row in on]
        axes.scatter(points, heights, s=30, facecolors="white", edgecolors=DENSE, zorder=2, label=label)
    if values["twin"] is not None:
        axes.axhline(100 * values["twin"], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="float twin")
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xticks(log_ticks(math.log10(low), math.log10(high)))
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: cost_text(cost, value).replace(".00", "").replace(".0 ", " "))
    axes.set_xlabel(TITLES[cost] + (" per image" if cost in DENSE_OF else ""), fontsize=9.5, color=INK)
    axes.set_ylabel("validation accuracy, %", fontsize=9.5, color=INK)
    axes.set_title(f"{values['name']}: {len(rows)} networks, line: their front", fontsize=10.5, color=INK)
    axes.grid(color="#e7eaef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8.5)
    tidy(axes)
    with atomic_path(target) as temporary:
        figure.savefig(temporary)


def _colour(index: int, of: int) -> Any:
    named = (SPIKES, EFFECTIVE, "#3aa676", "#c2476f", "#7a5cc2", "#5b8a99")
    return named[min(index, len(named) - 1)]


# Tables

COLUMNS = ("accuracy", "test", "energy", "synops", "bytes", "cores", "dense_low_bit", "dense_int8")


def frontier_csv(values: Values) -> str:
    """Return one line a network, all of them, energies in pJ; `fronts` names the costs in whose front it stands."""
    axes = list(dict.fromkeys(name for row in values["networks"] for name in row["point"]))
    lines: list[Sequence[object]] = [["trial", *axes, *COLUMNS, "fronts"]]
    for row in values["networks"]:
        cells = [row["point"].get(name) for name in axes] + [row.get(name) for name in COLUMNS]
        lines.append([row["number"], *("" if cell is None else cell for cell in cells), " ".join(row["fronts"])])
    return csv_text(lines)


HEAD = ("network", "accuracy", "energy", "SynOps", "weights", "cores", "dense low-bit")


def _cells(row: Values) -> list[str]:
    costs = [cost_text(cost, row.get(cost)) or "-" for cost in TITLES]
    return [f"{100 * row['accuracy']:.2f} %", *costs, cost_text("energy", row.get("dense_low_bit")) or "-"]


def frontier_markdown(values: Values) -> str:
    """Return the networks of all fronts as a Markdown table."""
    lines = [f"| {' | '.join(HEAD)} | front of |", "|---" * (len(HEAD) + 1) + "|"]
    if values["twin"] is not None:
        lines.append(f"| float twin | {100 * values['twin']:.2f} % |" + " |" * len(HEAD[1:]))
    for row in table_rows(values):
        name = f"{row['number']}: {point_text(row['point'])}".replace("|", "/")
        lines.append(f"| {name} | {' | '.join(_cells(row))} | {', '.join(row['fronts'])} |")
    return "\n".join(lines) + "\n"


def frontier_latex(values: Values) -> str:
    """Return the networks of all fronts as a table for a paper, with the package booktabs."""
    rows = [
        [escape_latex(point_text(row["point"])), *(escape_latex(c).replace(" uJ", r" $\mu$J") for c in _cells(row))]
        for row in table_rows(values)
    ]
    twin = [] if values["twin"] is None else ["float twin", escape_latex(f"{100 * values['twin']:.2f} %"), *[""] * 5]
    caption = (
        f"Networks of the study {escape_latex(values['name'])} that no other beats in accuracy "
        f"({values['samples']:,} validation images) and a cost together; energy per image under "
        f"{escape_latex(values['profile'])}."
    )
    return "% needs \\usepackage{booktabs}\n" + latex_table("lrrrrrr", list(HEAD), rows, twin, caption, "front")
