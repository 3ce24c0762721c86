"""Constant memory: the peak of `simulate` over 10,000 and over 1,000,000 samples, each in a process of its own.

    maqd bench stream-memory [--quick] [--out docs/simulator.md]

The network is that of the `digits` recipe with untrained weights; the samples are one batch of random codes, again and
again. Exit code 1 where the larger peak is more than 10 % above the smaller one.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

from maqd_snn import build, fold, simulate
from maqd_snn.benchmarks.document import replace_between
from maqd_snn.runs import machine
from maqd_snn.training.recipes import get_recipe

BATCH = 500
ALLOWED = 0.10
BEGIN, END = "<!-- memory: maqd bench stream-memory -->", "<!-- end of memory -->"


def stream(samples: int) -> tuple[float, float]:
    """Return (peak of this process in MiB, seconds) of simulating that many samples."""
    torch.manual_seed(0)
    plan = get_recipe("digits").plan
    net = fold(build("vgg", input_shape=(1, 8, 8), classes=10, plan=plan, input_range=(0, 16)))
    codes, labels = torch.randint(0, 17, (BATCH, 1, 8, 8)), torch.arange(BATCH) % 10
    started = time.perf_counter()
    report = simulate(net, ((codes, labels) for _ in range(samples // BATCH)))
    assert report.samples == samples
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write the table between the markers of a Markdown file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2,000 and 20,000 samples")
    parser.add_argument("--out", type=Path, help="Markdown file with the markers")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # this process measures that many samples
    options = parser.parse_args(arguments)
    if options.one is not None:
        print(*stream(options.one))
        return 0
    peaks, rows = [], ["| samples | peak of the process, MiB | seconds |", "|---|---|---|"]
    for samples in (2_000, 20_000) if options.quick else (10_000, 1_000_000):
        command = [sys.executable, "-m", __spec__.name, "--one", str(samples)]
        peak, seconds = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
        peaks.append(peak)
        rows.append(f"| {samples:,} | {peak:.1f} | {seconds:.1f} |")
        print(rows[-1], flush=True)
    where = machine()
    rows += [
        "",
        f"From `maqd bench stream-memory`, {date.today()}, {where['cores']} CPU cores, torch {where['torch']}.",
    ]
    if options.out:
        replace_between(options.out, BEGIN, END, "\n".join(rows))
    return int(peaks[1] > peaks[0] * (1 + ALLOWED))


if __name__ == "__main__":
    sys.exit(main())
