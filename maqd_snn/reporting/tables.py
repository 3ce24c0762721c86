"""The report as tables for other programs: CSV of layers and of energies, LaTeX for papers.

Names in a report may come from anybody: in CSV a text that a spreadsheet would take for a formula is quoted by an
apostrophe, in LaTeX every special letter is escaped.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from maqd_snn.counting import COUNT_NAMES
from maqd_snn.reporting.energy_view import HEADLINE_PROFILE
from maqd_snn.reporting.units import energy_text, quantity

LAYER_COLUMNS = (
    "name", "op", "spiking", "input_kind", "output_shape", "weights", "nonzero_weights", "weight_bits", "input_bits",
    "accumulator_bits", "levels", "neurons",
)  # fmt: skip


def counts_csv(report: dict[str, Any]) -> str:
    """Return one line per op: what is known of it, and every count as the mean per sample."""
    simulation = report["simulation"]
    samples = simulation["samples"]
    lines: list[list[object]] = [[*LAYER_COLUMNS, *COUNT_NAMES]]
    for layer in simulation["layers"]:
        known = [layer.get(name, "") for name in LAYER_COLUMNS]
        known[LAYER_COLUMNS.index("output_shape")] = "x".join(str(size) for size in layer["output_shape"])
        lines.append([*known, *(layer[name] / samples for name in COUNT_NAMES)])
    return csv_text(lines)


def energy_csv(report: dict[str, Any]) -> str:
    """Return one line per profile, layer and term with its energy per sample in pJ; a missing price has no number.

    The totals of profiles and the baselines are lines without a layer.
    """
    lines: list[list[object]] = [["profile", "scope", "node", "voltage", "basis", "layer", "op", "term", "energy_pj"]]
    for entry in (report.get("energy") or {}).values():
        profile = entry["profile"]
        bases = "; ".join(dict.fromkeys(price["basis"] for price in profile["prices"].values()))
        head = [profile["name"], profile.get("scope", ""), profile["node"], profile["voltage"], bases]
        lines.append([*head, "", "", "total", "" if entry["total_pj"] is None else entry["total_pj"]])
        for layer in entry["layers"]:
            lines += [[*head, layer["name"], layer["op"], term, value] for term, value in layer["terms"].items()]
            lines += [[*head, layer["name"], layer["op"], term, ""] for term in layer["missing"]]
    for baseline in report.get("baselines") or ():
        head = [baseline["name"], baseline.get("scope", "arithmetic"), "45 nm", "0.9 V", baseline["basis"]]
        lines.append([*head, "", "", "baseline", baseline["energy_pj"]])
    return csv_text(lines)


def csv_text(lines: Iterable[Sequence[object]]) -> str:
    """Return lines of cells as CSV; no text in it is a formula to a spreadsheet."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_inert(cell) for cell in line] for line in lines])
    return text.getvalue()


def _inert(cell: object) -> object:
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + cell
    return cell


SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip


def escape_latex(text: object) -> str:
    """Return a text as LaTeX shows it; control characters become spaces.

    >>> print(escape_latex("50 % of a_b"))
    50 \\% of a\\_b
    """
    return "".join(SPECIAL.get(letter, letter if letter.isprintable() else " ") for letter in str(text))


def latex_tables(report: dict[str, Any]) -> str:
    """Return two tables for a paper, with the package booktabs: the layers, and the energies beside the baselines."""
    simulation, recipe = report["simulation"], report.get("recipe") or {}
    name = escape_latex(recipe.get("name") or "the network")
    samples = simulation["samples"]
    rows = []
    for layer in simulation["layers"]:
        if not layer["dense_macs"]:
            continue
        counts = [quantity(layer[key] / samples) for key in ("events", "synops", "effective_synops", "dense_macs")]
        if not layer["spiking"]:
            counts[:3] = ["--"] * 3
        share = f"{100 * layer['synops'] / layer['dense_macs']:.1f}" if layer["spiking"] else "--"
        bits = f"{layer['weight_bits']}/{layer['input_bits']}"
        rows.append([escape_latex(layer["name"]), bits, *counts, share])
    total = simulation["total"]
    sums = [quantity(total[key] / samples) for key in ("events", "synops", "effective_synops", "dense_macs")]
    layers = latex_table(
        "lrrrrrr",
        ["layer", "bits", "events", "SynOps", "effective", "dense MACs", r"used (\%)"],
        rows,
        ["total", "", *sums, ""],
        f"Work of {name} per sample, mean of {samples:,} samples. Bits are those of weight and input; used is the "
        "share of connections that carry an event.",
        "layers",
    )
    energies = []
    for entry in (report.get("energy") or {}).values():
        profile = entry["profile"]
        bases = ", ".join(dict.fromkeys(price["basis"] for price in profile["prices"].values())) or "--"
        node = ", ".join(part for part in (profile["node"], profile["voltage"]) if part) or "--"
        cells = [escape_latex(profile["name"]), _energy(entry), escape_latex(node), escape_latex(bases)]
        energies.append(cells)
    for baseline in report.get("baselines") or ():
        value = _micro(energy_text(baseline["energy_pj"]))
        energies.append([escape_latex(baseline["name"]), value, "45 nm, 0.9 V", escape_latex(baseline["basis"])])
    prices = latex_table(
        "lrll",
        ["profile or baseline", "energy", "node, voltage", "basis"],
        energies,
        [],
        f"Energy of {name} per sample. Only totals of one node and scope compare (headline: "
        f"{escape_latex(HEADLINE_PROFILE)}); no total where a price was never published.",
        "energy",
    )
    library = escape_latex(report.get("library") or "maqd-snn")
    return f"% {library}; needs \\usepackage{{booktabs}}\n{layers}\n{prices}"


def _energy(entry: dict[str, Any]) -> str:
    return "no total" if entry["total_pj"] is None else _micro(energy_text(entry["total_pj"]))


def _micro(text: str) -> str:
    return text.replace(" uJ", r" $\mu$J")


def latex_table(
    columns: str, head: Sequence[str], rows: Sequence[Sequence[str]], foot: Sequence[str], caption: str, label: str
) -> str:
    """Return a table for a paper, with the package booktabs; cells and caption are LaTeX already."""

    def line(cells: Sequence[str]) -> str:
        return "  " + " & ".join(cells) + r" \\"

    body = [line(row) for row in rows]
    if foot:
        body += [r"  \midrule", line(foot)]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{caption}}}",
            rf"  \label{{tab:{label}}}",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"  \toprule",
            line(head),
            r"  \midrule",
            *body,
            r"  \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )
