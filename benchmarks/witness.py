"""The event-driven executor against `simulate`: every counter both have, per layer, on real test images.

    maqd bench witness RUN [RUN ...] [--images 1000] [--quick] [--out docs/simulator.md]

RUN is the folder of a run. Counters are compared for every 50 images, class scores for every image. Exit code 1 where
anything differs.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
from tqdm import tqdm

from maqd_snn.benchmarks.document import replace_between
from maqd_snn.datasets import load_splits
from maqd_snn.eventdriven import run_events
from maqd_snn.runs import machine, read_network, read_recipe
from maqd_snn.simulation import simulate

CHUNK = 50
BEGIN, END = "<!-- witness: maqd bench witness -->", "<!-- end of witness -->"


def witness(run: Path, images: int) -> dict[str, int]:
    """Return how many images, counter sums and scores of a run were compared, and how many sums and scores differ."""
    net = read_network(run)
    codes = load_splits(read_recipe(run).dataset).test.codes[:images]
    done = dict.fromkeys(("images", "counters", "differ", "scores", "scores_differ"), 0)
    for start in tqdm(range(0, len(codes), CHUNK), desc=run.name, disable=None):
        part = codes[start : start + CHUNK]
        events, report = run_events(net, part), simulate(net, [part])
        for entry in report.layers:
            for name, counted in events.layer(entry.name).counts.items():
                if hasattr(entry, name):
                    done["counters"] += 1
                    done["differ"] += int(counted.sum()) != getattr(entry, name)
        scores = torch.as_tensor(events.scores)
        done["scores"] += scores.numel()
        done["scores_differ"] += int((scores != net(part)).sum())
        done["images"] += len(part)
    return done


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and write the table between the markers of a Markdown file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--images", type=int, default=1000, help="test images (default: 1000)")
    parser.add_argument("--quick", action="store_true", help="50 images")
    parser.add_argument("--out", type=Path, help="Markdown file with the markers")
    options = parser.parse_args(arguments)
    rows = ["| network | images | counter sums | differ | scores | differ |", "|---|---|---|---|---|---|"]
    failed = False
    for run in options.runs:
        done = witness(run, CHUNK if options.quick else options.images)
        failed |= bool(done["differ"] or done["scores_differ"]) or not done["counters"]
        recipe = read_recipe(run)
        rows.append(
            f"| `{recipe.model}` {recipe.plan}, {recipe.act_states} / {recipe.weight_states} states "
            f"| {done['images']:,} | {done['counters']:,} | **{done['differ']}** | {done['scores']:,} "
            f"| **{done['scores_differ']}** |"
        )
        print(rows[-1], flush=True)
    where = machine()
    rows += ["", f"From `maqd bench witness`, {date.today()}, {where['cores']} CPU cores, torch {where['torch']}."]
    if options.out:
        replace_between(options.out, BEGIN, END, "\n".join(rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
