"""n-step unit-spike modules of snnTorch and SpikingJelly beside the integer network: every layer's spike counts.

    maqd bench schedules [--folder runs/exports] [--images 100] [--quick]

Takes the networks of `maqd bench exports` with 15 weight states (they are trained where they are missing), and runs
both schedules: the exact one, which must have no difference, and the free-running one, whose error is reported for
each layer. The table goes into docs/exports.md. --quick: one network, 20 images, nothing is written to docs. Exit code
1 where the exact schedule differs.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from maqd_snn.benchmarks.document import replace_between
from maqd_snn.benchmarks.exports import ACT_STATES, PAGE, PLANS, images, network
from maqd_snn.errors import MaqdError
from maqd_snn.neuromorphic import to_snntorch, to_spikingjelly
from maqd_snn.neuromorphic.unit_spikes import schedule_errors

BEGIN, END = "<!-- results: maqd bench schedules -->", "<!-- end of schedules -->"
WEIGHT_STATES = 15
LIBRARIES = {"snnTorch": to_snntorch, "SpikingJelly": to_spikingjelly}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/exports"), help="of `maqd bench exports`")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="one network, 20 images, no page")
    options = parser.parse_args(arguments)
    codes = images(20 if options.quick else options.images)
    lines = [
        "| network | library | exact schedule | free schedule, each layer: differing values (mean difference) |",
        "|---|---|---|---|",
    ]
    failed = False
    cases = [(model, states) for states in ACT_STATES for model in PLANS]
    for model, states in cases[3:4] if options.quick else cases:
        folder = options.folder / f"{model}-{states}-{WEIGHT_STATES}"
        folder.mkdir(parents=True, exist_ok=True)
        net = network(folder, model, states, WEIGHT_STATES)
        for library, convert in LIBRARIES.items():
            exact = schedule_errors(convert(net, form="unit", schedule="exact"), codes)
            free = schedule_errors(convert(net, form="unit", schedule="free"), codes)
            wrong, values = sum(layer.mismatches for layer in exact), sum(layer.values for layer in exact)
            failed |= wrong > 0
            errors = ", ".join(
                f"{layer.name} {100 * layer.mismatches / layer.values:.1f} % ({layer.mean_difference:.3g})"
                for layer in free
            )
            lines.append(f"| `{model}`, {states} / {WEIGHT_STATES} | {library} | {wrong} of {values:,} | {errors} |")
            print(lines[-1], flush=True)
    if not options.quick:
        made = f"Made by `maqd bench schedules` on {date.today()}, {len(codes):,} scans of the digits each."
        replace_between(PAGE, BEGIN, END, "\n".join([made, "", *lines]))
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MaqdError as error:
        sys.exit(f"schedules: {error}")
