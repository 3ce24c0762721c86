"""The mapper on trained networks: verdict, time, traffic against other placements, and the placed network's exactness.

    maqd bench map RUN [RUN ...] [--chips loihi1,...] [--samples 100] [--out docs/mapping.md] [--quick]

Each RUN is the folder of a `maqd run`. Traffic is message hops per test image; in order, and the median of 20 random
placements, are on the same cores. The placed network is written, read back and run core by core; every value of every
stage is compared with the integer network's. --quick takes 10 images. Exit code 1 where a value differs.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from torch import Tensor

from maqd_snn.datasets import load_splits
from maqd_snn.files import write_text
from maqd_snn.integer import IntegerNetwork
from maqd_snn.neuromorphic.hardware import (
    CHIPS,
    Placement,
    activity,
    fit,
    flows,
    place,
    read_description,
    run_cores,
    write_description,
)
from maqd_snn.neuromorphic.hardware.placing import random_traffic
from maqd_snn.runs import machine, read_network, read_recipe

DRAWS = 20


@dataclass(frozen=True)
class Entry:
    """One network on one chip; numbers per image, None where the chip has no known mesh or does not fit."""

    run: str
    chip: str
    fits: bool | None
    cores: int | None
    seconds: float
    messages: float | None = None
    hops: float | None = None
    in_order: float | None = None
    median: float | None = None
    bound: float | None = None
    values: int = 0
    mismatches: int = 0


def measure(name: str, net: IntegerNetwork, chip: str, codes: Tensor) -> Entry:
    """Map a network onto a chip, and compare the placed network with the integer network."""
    started = time.perf_counter()
    plan = fit(net, chip, advise=False)
    if plan.fits is False:
        return Entry(name, chip, False, plan.cores, time.perf_counter() - started)
    sent = activity(plan, codes.split(50))  # type: ignore[no-untyped-call]
    flow = flows(plan, sent)
    placement = place(plan, flow)
    seconds = time.perf_counter() - started
    values, mismatches = differences(net, placement, codes)
    n, median = len(codes), None
    if placement.mesh is not None:
        median = statistics.median(random_traffic(placement, flow, DRAWS, seed=0)) / n

    def per_image(value: float | None) -> float | None:
        return None if value is None else value / n

    return Entry(
        run=name,
        chip=chip,
        fits=plan.fits,
        cores=plan.cores,
        seconds=seconds,
        messages=float(flow.sum()) / n,
        hops=per_image(placement.traffic),
        in_order=per_image(placement.in_order),
        median=median,
        bound=per_image(placement.bound),
        values=values,
        mismatches=mismatches,
    )


def differences(net: IntegerNetwork, placement: Placement, codes: Tensor) -> tuple[int, int]:
    """Return how many values of the stages were compared, and how many differ, from a written description."""
    with tempfile.TemporaryDirectory() as folder:
        write_description(placement, Path(folder) / "network.json")
        body = read_description(Path(folder) / "network.json")
    values = mismatches = 0
    for first in range(0, len(codes), 20):
        part = codes[first : first + 20]
        expected = net.trace(part)
        for name, got in run_cores(body, part.numpy()).items():
            mismatches += int(np.sum(got.reshape(len(part), -1) != expected[name].reshape(len(part), -1).numpy()))
            values += got.size
    return values, mismatches


def row(entry: Entry) -> str:
    """Return the table row of one entry."""
    verdict = {True: "fits", False: "does not fit", None: "cannot tell"}[entry.fits]
    cores = "" if entry.fits is False else str(entry.cores)

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}"

    below = "" if not entry.median or entry.hops is None else f"{1 - entry.hops / entry.median:.0%}"
    gap = "" if not entry.bound or entry.hops is None else f"{entry.hops / entry.bound - 1:.0%}"
    exact = "" if entry.fits is False else f"{entry.mismatches} of {entry.values:,}"
    return (
        f"| `{entry.run}` | {entry.chip} | {verdict} | {cores} | {entry.seconds:.1f} s | {number(entry.messages)} "
        f"| {number(entry.hops)} | {number(entry.in_order)} | {number(entry.median)} | {below} | {gap} | {exact} |"
    )


def table(entries: Sequence[Entry], samples: int) -> str:
    """Return the page."""
    about = machine()
    return "\n".join(
        [
            "# The mapper, measured",
            "",
            "| run | chip | verdict | cores | fit and place | messages | hops | in order | random, median "
            "| below random | gap to bound | values that differ |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
            *map(row, entries),
            "",
            f"Messages and hops per test image, over {samples} of them; in order and random ({DRAWS} draws) on the "
            "same chip; the gap is to Gilmore and Lawler's bound, which no placement is below and the best one may be "
            "far above. Empty hops: the chip has no mesh, or its size is unknown. Values: of every stage, from the "
            "written description run core by core, against the integer network.",
            "",
            f"From `maqd bench map`, {date.today()}, {about['cores']} CPU cores, torch {about['torch']}.",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="maqd bench map", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--chips", default=",".join(CHIPS), help="names, joined by commas (default: all)")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/mapping.md"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    samples = 10 if options.quick else options.samples
    entries = []
    for run in options.runs:
        net = read_network(run)
        codes = load_splits(read_recipe(run).dataset, options.data_root).test.codes[:samples]
        for chip in options.chips.split(","):
            entries.append(measure(run.name, net, chip, codes))
            print(row(entries[-1]), flush=True)
    write_text(options.out, table(entries, samples))
    return int(any(entry.mismatches for entry in entries))
