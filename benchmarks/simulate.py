"""Images per second: the integer executor and the simulator beside the float twin, NeuroBench and SpikingJelly.

    maqd bench simulate RUN [RUN ...] [--images 10000] [--rounds 3] [--threads 2] [--quick] [--out docs/simulator.md]

RUN is the folder of a run on images, as `maqd train` makes one (`maqd train cifar10-vgg --epochs 1` will do: what
is timed are trained weights, not their accuracy). Everything is run in turn, round after round, and medians are given;
what is slow takes a part of the images. The ratio is to the float twin in plain torch modules: convolution, BatchNorm,
ReLU, eager `eval()` in float32 and the default memory layout. A tool's own cost is given against the same module
without it. Exit code 1 where the executor is less than 3 times as fast as the twin, or counting adds more than 10 %.

Axis letters: B batch.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from maqd_snn import build
from maqd_snn.benchmarks.document import replace_between
from maqd_snn.datasets import load_splits
from maqd_snn.errors import MissingExtraError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.execute import PRODUCT_ROUTES
from maqd_snn.neuromorphic.peer_counters import neurobench_runs, spikingjelly_runs
from maqd_snn.neuromorphic.peer_modules import TorchNetwork, as_torch
from maqd_snn.runs import machine, read_network, read_recipe
from maqd_snn.simulation import simulate
from maqd_snn.training import Recipe

BATCH = 64
FASTER, DEARER = 3.0, 0.10  # what is asked for
BEGIN, END = "<!-- simulate: maqd bench simulate -->", "<!-- end of simulate -->"

TWIN, TWIN_LAST, TWIN_OURS = "float twin, torch modules", "the same, channels last", "float twin, `maqd.build`"
PRODUCTS, EXECUTOR, COUNTED = "executor, without the program", "**integer executor**", "**`simulate`: all counts**"
MODULE, NEUROBENCH, SPIKINGJELLY = (
    "integer network as torch modules",
    "the same in NeuroBench",
    "the same in SpikingJelly",
)
AGAINST = {COUNTED: EXECUTOR, NEUROBENCH: MODULE, SPIKINGJELLY: MODULE}


@dataclass(frozen=True)
class Item:
    """One row: what runs a stream of batches, and the share of the images that it is given."""

    text: str
    run: Callable[[list[Tensor]], object]
    share: float = 1.0


def float_twin(net: IntegerNetwork) -> nn.Module:
    """Return the network's shape in plain modules: a threshold becomes BatchNorm and ReLU, weights are random."""
    module = TorchNetwork(net)
    shapes = net.shapes
    for index, op in enumerate(module.graph):
        part: nn.Module | None = None
        if isinstance(op, ops.Threshold):
            norm = nn.BatchNorm2d if len(shapes[op.name]) == 3 else nn.BatchNorm1d
            part = nn.Sequential(norm(len(op.thresholds)), nn.ReLU())
        elif isinstance(op, ops.Conv2d):
            outputs, inputs, *kernel = op.weight.shape
            layout = (op.stride, op.padding, op.dilation, op.groups)
            part = nn.Conv2d(inputs * op.groups, outputs, (kernel[0], kernel[1]), *layout, bias=False)
        elif isinstance(op, ops.Linear):
            part = nn.Linear(op.weight.shape[1], op.weight.shape[0])
        elif isinstance(op, ops.MaxPool2d):
            part = nn.MaxPool2d(op.kernel, op.stride, op.padding)
        elif isinstance(op, ops.SumPool2d):
            part = nn.AvgPool2d(op.kernel, op.stride, op.padding)
        elif isinstance(op, ops.Add):
            part = _Add()
        elif isinstance(op, ops.Readout):
            part = nn.Identity()  # the bias is the Linear's
        if part is not None:
            module.parts[index] = part
    return module.requires_grad_(False).eval()


class _Add(nn.Module):
    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = first + other
        return first


def items(net: IntegerNetwork, recipe: Recipe) -> list[Item]:
    """Return all rows for one network."""
    twin, last = float_twin(net), float_twin(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ours = build(
        recipe.model,
        input_shape=net.input.shape,  # type: ignore[arg-type]
        classes=net.shapes[net.ops[-1].name][0],
        plan=recipe.plan,
        act_states=None,
        weight_states=None,
    ).eval()

    def each(function: Callable[[Tensor], object]) -> Callable[[list[Tensor]], object]:
        def run(batches: list[Tensor]) -> None:
            with torch.no_grad():
                for codes in batches:
                    function(codes)

        return run

    def channels_last(codes: Tensor) -> Tensor:
        scores: Tensor = last(codes.contiguous(memory_format=torch.channels_last))
        return scores

    found = [
        Item(TWIN, each(twin), 1 / 16),
        Item(TWIN_LAST, each(channels_last), 1 / 16),
        Item(TWIN_OURS, each(ours), 1 / 16),
        Item(PRODUCTS, each(net.executor(torch.device("cpu"), PRODUCT_ROUTES).run), 1 / 16),
        Item(EXECUTOR, each(net)),
        Item(COUNTED, lambda batches: simulate(net, batches)),
        Item(MODULE, each(as_torch(net, torch.float32)), 1 / 40),
    ]
    for text, runs in ((NEUROBENCH, neurobench_runs), (SPIKINGJELLY, spikingjelly_runs)):
        try:
            found.append(Item(text, each(runs(net)), 1 / 40))
        except MissingExtraError as error:
            print(f"{text}: {error}", file=sys.stderr)
    return found


def rates(rows: Sequence[Item], codes: Tensor, rounds: int, name: str) -> dict[str, list[float]]:
    """Return the images per second of every row in every round; one round before them is not counted."""
    batches = list(torch.split(codes, BATCH))
    found: dict[str, list[float]] = {item.text: [] for item in rows}
    for number in tqdm(range(rounds + 1), desc=name, disable=None):
        for item in rows:
            part = batches[: max(1, round(len(batches) * item.share))]
            start = time.perf_counter()
            item.run(part)
            seconds = time.perf_counter() - start
            if number:
                found[item.text].append(sum(map(len, part)) / seconds)
    return found


def table(name: str, found: dict[str, list[float]]) -> tuple[list[str], float, float]:
    """Return the lines of one network, how many times the twin the executor is, and the share that counting adds."""
    lines = []
    twin = statistics.median(found[TWIN])
    for text, speeds in found.items():
        median = statistics.median(speeds)
        against = AGAINST.get(text)
        own = "" if against is None else f"{_cost(found[against], speeds):+.1%}"
        lines.append(f"| {name} | {text} | {median:,.0f} | {median / twin:.2f} | {own} |")
        name = ""
    return lines, statistics.median(found[EXECUTOR]) / twin, _cost(found[EXECUTOR], found[COUNTED])


def _cost(without: Sequence[float], with_it: Sequence[float]) -> float:
    """Return the share of time that is added: the median over rounds."""
    return statistics.median(a / b - 1 for a, b in zip(without, with_it, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write the table between the markers of a Markdown file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--images", type=int, default=10_000, help="test images (default: 10000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that are counted (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and of the program (default: 2)")
    parser.add_argument("--quick", action="store_true", help="128 images, one round")
    parser.add_argument("--out", type=Path, help="Markdown file with the markers")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    images, rounds = (2 * BATCH, 1) if options.quick else (options.images, options.rounds)
    rows = [
        "| network | what | images/s | times the twin | adds |",
        "|---|---|---|---|---|",
    ]
    failed = False
    for run in options.runs:
        net, recipe = read_network(run), read_recipe(run)
        reason = net.executor(torch.device("cpu")).why_not_compiled
        if reason:
            print(f"{run}: not compiled: {reason}", file=sys.stderr)
        codes = load_splits(recipe.dataset).test.codes[:images]
        name = f"`{recipe.model}` {recipe.plan}, {recipe.act_states} / {recipe.weight_states} states"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages that are compared
            lines, times, adds = table(name, rates(items(net, recipe), codes, rounds, run.name))
        failed |= times < FASTER or adds > DEARER
        rows += lines
        print("\n".join(lines), flush=True)
    where = machine()
    rows += [
        "",
        f"From `maqd bench simulate`, {date.today()}, {options.threads} threads on {where['cores']} CPU cores, torch "
        f"{where['torch']}, batches of {BATCH}, medians of {rounds} rounds; {images:,} images for the executor and "
        f"`simulate`, a sixteenth of them for the other networks, a fortieth for other tools.",
    ]
    if options.out:
        replace_between(options.out, BEGIN, END, "\n".join(rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
