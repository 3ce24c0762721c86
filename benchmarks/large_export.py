"""How long the export and the verification of a large network take, by format: a CIFAR-10 VGG of 5 M weights.

    maqd bench large-export [--images 10] [--quick] [--out docs/exports.md]

The network has untrained ternary weights, normalized by the statistics of 256 training images, and two activation
states. Every format is written once, and run on the first test images where it would run; a format that cannot carry
the network says why. --quick: a small network. Exit code 1 where a class score differs.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

from maqd_snn import build, fold
from maqd_snn.benchmarks.document import replace_between
from maqd_snn.datasets import Splits, load_splits
from maqd_snn.errors import MaqdError
from maqd_snn.files import size_of
from maqd_snn.integer import IntegerNetwork
from maqd_snn.neuromorphic import FORMATS, export, verify
from maqd_snn.runs import machine

PLAN, QUICK_PLAN = "144-144-M-272-272-M-528-528-M", "8-M-8-M-8-M"
BATCH, BATCHES = 64, 4
BEGIN, END = "<!-- large: maqd bench large-export -->", "<!-- end of large -->"


def large(plan: str, splits: Splits) -> IntegerNetwork:
    """Return the folded network of the plan."""
    torch.manual_seed(0)
    model = build("vgg", input_shape=(3, 32, 32), classes=10, plan=plan, input_range=(0, 255)).train()
    with torch.no_grad():
        for start in range(0, BATCH * BATCHES, BATCH):
            model(splits.train.codes[start : start + BATCH])
    return fold(model.eval())


def row(net: IntegerNetwork, name: str, codes: torch.Tensor, folder: Path) -> tuple[str, float, bool]:
    """Return a line of the table, the seconds, and whether every class score agrees."""
    target = folder / FORMATS[name].file
    started = time.perf_counter()
    try:
        export(net, target, name)
    except MaqdError as error:
        return f"| {name} | | | | not written: {error} |", 0.0, True
    written = time.perf_counter()
    record = verify(target, net, codes)
    done = time.perf_counter()
    what = "" if record.compared == "class scores" else f" {record.compared}"
    said = f"{record.mismatches} of {record.scores}{what} in {record.runtime}"
    size = f"{sum(map(size_of, FORMATS[name].files(target))) / 1e6:.1f}"
    line = f"| {name} | {written - started:.1f} | {done - written:.1f} | {size} | {said} |"
    return line, done - started, record.ok


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, verify, print, and write the table between the markers of a Markdown file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10, help="test images to verify on (default: 10)")
    parser.add_argument("--quick", action="store_true", help="a small network")
    parser.add_argument("--out", type=Path, help="Markdown file with the markers")
    options = parser.parse_args(arguments)
    plan = QUICK_PLAN if options.quick else PLAN
    splits = load_splits("cifar10")
    net = large(plan, splits)
    weights = sum(op.weight.numel() for op in net.ops if hasattr(op, "weight"))
    codes = splits.test.codes[: options.images]
    lines = ["| format | export, s | verification, s | MB | class scores that differ |", "|---|---|---|---|---|"]
    total, good = 0.0, True
    with tempfile.TemporaryDirectory() as folder:
        for name in FORMATS:
            line, seconds, ok = row(net, name, codes, Path(folder))
            print(line, flush=True)
            lines.append(line)
            total, good = total + seconds, good and ok
    where = machine()
    lines += [
        f"| **all** | | **{total:.1f}** in all | | |",
        "",
        f"From `maqd bench large-export`, {date.today()}, {torch.get_num_threads()} threads on {where['cores']} CPU "
        f"cores, torch {where['torch']}: VGG `{plan}`, {weights:,} weights, 2 / 3 states, {len(codes)} images.",
    ]
    print("\n".join(lines[-3:]))
    if options.out:
        replace_between(options.out, BEGIN, END, "\n".join(lines))
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MaqdError as error:
        sys.exit(f"large-export: {error}")
