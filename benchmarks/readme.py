"""The README's table and figure, from the reports of finished runs.

    maqd run digits && maqd run cifar10-small ...
    python benchmarks/readme.py runs/digits runs/cifar10-small ... [--figure-of runs/cifar10-small] [--check]

Writes the table between the markers of README.md, and docs/overview.png. With --check nothing is written: exit code 1
where the table differs from what the reports say.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from maqd_snn.benchmarks.document import around, replace_between
from maqd_snn.errors import MaqdError
from maqd_snn.reporting.figures import save_figure
from maqd_snn.reporting.units import energy_text, quantity
from maqd_snn.runs import read_report

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results: benchmarks/readme.py -->", "<!-- end of results -->"


def row(report: dict[str, Any]) -> str:
    """Return the table row of one run."""
    recipe, simulation = report["recipe"], report["simulation"]
    samples, total = simulation["samples"], simulation["total"]
    energies = {baseline["name"]: baseline["energy_pj"] for baseline in report["baselines"]}
    checks = [entry["check"] for entry in report["exports"] if entry["check"]]
    verified = ", ".join(check["format"] if check["ok"] else f"{check['format']} FAILED" for check in checks)
    return (
        f"| `{recipe['name']}`, {recipe['epochs']} epochs | {recipe['act_states']} / {recipe['weight_states']} "
        f"| {100 * report['accuracy']['test']:.1f} % | {quantity(total['dense_macs'] / samples)} "
        f"| {quantity(total['synops'] / samples)} | {energy_text(report['energy']['cmos45-int8']['total_pj'])} "
        f"| {energy_text(energies['dense-low-bit'])} | {energy_text(energies['dense-int8'])} "
        f"| {energy_text(energies['dense-fp32'])} | {verified}: {sum(check['mismatches'] for check in checks)} of "
        f"{sum(check['scores'] for check in checks):,} scores differ |"
    )


def table(reports: list[dict[str, Any]]) -> str:
    """Return the table with its caption."""
    machine = reports[0]["machine"]
    day = max(datetime.fromisoformat(report["created"]) for report in reports).date()
    return "\n".join(
        [
            "| recipe | activation / weight states | test accuracy | dense MACs | SynOps | spikes | dense low-bit "
            "| dense int8 | dense fp32 | exports, verified |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *map(row, reports),
            "",
            f"Per image; energies are 45 nm arithmetic (`cmos45-int8` for the spikes), memory not included. One seed, "
            f"{day}, {machine['cores']} CPU cores, torch {machine['torch']}; accuracy is the integer network's. From "
            "`maqd run` and `benchmarks/readme.py`.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--figure-of", type=Path, help="run of the figure (default: the last)")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    readme = ROOT / "README.md"
    lines = table([read_report(run) for run in options.runs])
    before, after = around(readme, BEGIN, END)
    if options.check:
        return int(f"{before}{BEGIN}\n{lines}\n{END}{after}" != readme.read_text(encoding="utf-8"))
    replace_between(readme, BEGIN, END, lines)
    save_figure(read_report(options.figure_of or options.runs[-1]), ROOT / "docs" / "overview.png")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MaqdError as error:
        sys.exit(f"readme: {error}")
