"""The cells of a study as CSV, Markdown, LaTeX and a heat map.

A cell is a table with `point` (axis -> value), `count` (seeds), `mean` and `deviation` of the validation accuracy,
`energy` (pJ) and `synops` per image, and `reason`; what is missing is None or empty.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maqd_snn.errors import MaqdError
from maqd_snn.files import atomic_path
from maqd_snn.reporting.figures import INK, tidy
from maqd_snn.reporting.tables import csv_text, escape_latex, latex_table
from maqd_snn.reporting.units import energy_text, quantity

Cells = Sequence[Mapping[str, Any]]


def value_text(value: Any) -> str:
    """Return the value of an axis in words; None is the float."""
    return "float" if value is None else str(value)


def accuracy_text(cell: Mapping[str, Any]) -> str:
    """Return mean and deviation in per cent, and the number of seeds.

    >>> accuracy_text({"mean": 0.9, "deviation": 0.0123, "count": 3}), accuracy_text({"mean": None, "count": 0})
    ('90.00 ± 1.23 (3)', '-')
    """
    if cell["mean"] is None:
        return "-"
    spread = "" if cell["deviation"] is None else f" ± {100 * cell['deviation']:.2f}"
    return f"{100 * cell['mean']:.2f}{spread} ({cell['count']})"


def study_csv(cells: Cells) -> str:
    """Return one line a cell; accuracies are shares, energies pJ."""
    names = list(dict.fromkeys(name for cell in cells for name in cell["point"]))
    lines: list[list[object]] = [
        [*names, "seeds", "accuracy_mean", "accuracy_deviation", "energy_pj", "synops", "reason"]
    ]
    for cell in cells:
        figures = [cell["mean"], cell["deviation"], cell["energy"], cell["synops"]]
        lines.append(
            [
                *(value_text(cell["point"].get(name)) for name in names),
                cell["count"],
                *("" if figure is None else figure for figure in figures),
                cell["reason"],
            ]
        )
    return csv_text(lines)


def grid(cells: Cells) -> tuple[list[Any], list[Any], dict[tuple[Any, Any], Mapping[str, Any]]]:
    """Return the values of the first axis, of the second one, and the cell at each pair.

    Raises:
        MaqdError: the cells have not two axes.
    """
    axes = list(dict.fromkeys(name for cell in cells for name in cell["point"]))
    if len(axes) != 2:
        raise MaqdError(f"a grid has two axes beside the seed, this study has {len(axes)}: {', '.join(axes) or 'none'}")
    rows, columns = (list(dict.fromkeys(cell["point"][axis] for cell in cells)) for axis in axes)
    return rows, columns, {(cell["point"][axes[0]], cell["point"][axes[1]]): cell for cell in cells}


def study_markdown(cells: Cells, title: str) -> str:
    """Return the table of a study: a grid where it has two axes, else a line a cell."""
    axes = list(dict.fromkeys(name for cell in cells for name in cell["point"]))
    if len(axes) == 2:
        lines = _grid_lines(cells, accuracy_text)
    else:
        lines = ["| " + " | ".join([*axes, "accuracy", "energy", "SynOps"]) + " |", "|---" * (len(axes) + 3) + "|"]
        for cell in cells:
            point = [value_text(cell["point"].get(name)) for name in axes]
            lines.append("| " + " | ".join([*point, accuracy_text(cell), *_costs(cell)]) + " |")
    missing = sorted({cell["reason"] for cell in cells if cell["reason"]})
    notes = [f"\n{title}: validation accuracy in %, mean ± deviation (seeds)."]
    notes += [f"\n`-`, or fewer seeds: {reason}" for reason in missing]
    if len(axes) == 2 and any(cell["synops"] is not None for cell in cells):
        costs = _grid_lines(cells, lambda cell: ", ".join(dict.fromkeys(reversed(_costs(cell)))))
        notes += ["", *costs, f"\n{title}: SynOps and energy per image, means; `-`: no integer network."]
    return "\n".join([*lines, *notes]) + "\n"


def _grid_lines(cells: Cells, text: Callable[[Mapping[str, Any]], str]) -> list[str]:
    """The lines of a table of two axes, with a text for each cell."""
    axes = list(cells[0]["point"])
    rows, columns, at = grid(cells)
    lines = [f"| {axes[0]} \\ {axes[1]} | " + " | ".join(map(value_text, columns)) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for row in rows:
        found = [text(at[row, column]) if (row, column) in at else "-" for column in columns]
        lines.append(f"| {value_text(row)} | " + " | ".join(found) + " |")
    return lines


def _costs(cell: Mapping[str, Any]) -> list[str]:
    return [
        "-" if cell["energy"] is None else energy_text(cell["energy"]),
        "-" if cell["synops"] is None else quantity(cell["synops"]),
    ]


def study_latex(cells: Cells, title: str) -> str:
    """Return a line a cell as a table for a paper, with the package booktabs."""
    axes = list(dict.fromkeys(name for cell in cells for name in cell["point"]))
    rows = [
        [
            *(escape_latex(value_text(cell["point"].get(name))) for name in axes),
            escape_latex(accuracy_text(cell)).replace("±", r"$\pm$"),
            *(escape_latex(text).replace(" uJ", r" $\mu$J") for text in _costs(cell)),
        ]
        for cell in cells
    ]
    head = [*map(escape_latex, axes), r"accuracy (\%)", "energy", "SynOps"]
    caption = f"{escape_latex(title)}: validation accuracy, mean $\\pm$ deviation (seeds); costs per image."
    table = latex_table("l" * len(axes) + "rrr", head, rows, [], caption, "study")
    return "% needs \\usepackage{booktabs}\n" + table


def save_heat_map(cells: Cells, title: str, path: str | Path) -> None:
    """Draw the mean accuracies of a study with two axes and write them to `path` (.png, .svg or .pdf), atomically.

    Raises:
        MaqdError: not two axes, no finished cell, an unknown suffix, or a path that cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = Path(path)
    if target.suffix not in (".png", ".svg", ".pdf"):
        raise MaqdError(f"a figure is written as .png, .svg or .pdf, got {target.name!r}")
    rows, columns, at = grid(cells)
    axes_names = list(cells[0]["point"])
    means = np.array([[_percent(at.get((row, column))) for column in columns] for row in rows])
    if np.isnan(means).all():
        raise MaqdError("no cell of the study is finished yet; let it go on")
    figure = Figure(figsize=(1.6 + 1.15 * len(columns), 1.5 + 0.72 * len(rows)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    low, high = np.nanmin(means), np.nanmax(means)
    image = axes.imshow(means, cmap="viridis", aspect="auto", vmin=low, vmax=high)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            cell = at.get((row, column))
            if cell is None or cell["mean"] is None:
                axes.text(j, i, "-", ha="center", va="center", fontsize=9, color=INK)
                continue
            spread = "" if cell["deviation"] is None else f"\n± {100 * cell['deviation']:.2f}"
            dark = high > low and (means[i, j] - low) / (high - low) < 0.6
            colour = "white" if dark else INK
            text = f"{means[i, j]:.2f}{spread}"
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color=colour)
    axes.set_xticks(range(len(columns)), list(map(value_text, columns)))
    axes.set_yticks(range(len(rows)), list(map(value_text, rows)))
    axes.set_xlabel(axes_names[1], fontsize=9.5, color=INK)
    axes.set_ylabel(axes_names[0], fontsize=9.5, color=INK)
    axes.set_title(title, fontsize=10, color=INK)
    tidy(axes)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="validation accuracy, %", shrink=0.9)
    with atomic_path(target) as temporary:
        figure.savefig(temporary)


def _percent(cell: Mapping[str, Any] | None) -> float:
    return float("nan") if cell is None or cell["mean"] is None else 100 * float(cell["mean"])
