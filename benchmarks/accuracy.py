"""Accuracy of few states beside the float twin: whole trainings of a recipe, or short ones that compare methods.

    maqd bench accuracy [--recipe cifar10-small] [--folder DIR] [--only NAME ...] [--records FILE [--kept]] [--out FILE]
    maqd bench accuracy --methods [--folder DIR] [--only NAME ...] [--records FILE [--kept]] [--out FILE] [--quick]

The first trains each network of `NETWORKS` with each of its seeds as `maqd train` does, takes test accuracy, SynOps and
energy from the integer network (`maqd report`), and checks the lines of `CLAIMS`. The second trains each variant of
`METHODS` on the first 10,000 training images for six epochs and compares validation images; the test images are not
touched. A training that is finished in the folder is not repeated, one that was stopped goes on; with --records, nor is
one whose row a file of an earlier call holds, so that the trainings may run on several days and machines. Exit code 1
where a claim fails or a value of a folded network differs.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from maqd_snn.benchmarks.document import replace_between
from maqd_snn.datasets import ImageDataset, Splits, load_splits
from maqd_snn.errors import unknown_name
from maqd_snn.files import write_text
from maqd_snn.reporting.units import energy_text, quantity
from maqd_snn.runs import REPORT_JSON, machine, read_recipe
from maqd_snn.training import Execution, Recipe, fit, get_recipe

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Network:
    """One network: options of `maqd train`, and its seeds."""

    options: tuple[str, ...]
    seeds: tuple[int, ...]


def _states(activations: int, weights: int) -> tuple[str, ...]:
    return ("--act-states", str(activations), "--weight-states", str(weights))


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "2": Network(_states(2, 3), (0, 1)),
        "twin": Network(("--twin",), (0, 1)),
        "4": Network(_states(4, 3), (0, 1)),
        "16": Network(_states(16, 15), (0,)),
    }
)


@dataclass(frozen=True)
class Claim:
    """What a network of a recipe is to reach: a mean test accuracy, and at most so many points below the twin."""

    network: str
    least: float
    behind: float


CLAIMS: Mapping[str, tuple[Claim, ...]] = MappingProxyType(
    {
        "cifar10-small": (Claim("2", 79, 7), Claim("4", 84, 3), Claim("16", 0, 1)),
        "digits": (Claim("2", 0, 0.5),),
        "mnist10k": (Claim("2", 0, 0.5),),
    }
)
_AXES: Mapping[str, Any] = MappingProxyType({"act_states": 2, "weight_states": 3, "seed": 0})
BEGIN, END = "<!-- networks: maqd bench accuracy, {} -->", "<!-- end of networks, {} -->"

METHOD_IMAGES, METHOD_VALIDATION, METHOD_EPOCHS = 10_000, 2_500, 6
# The fields in which the compared trainings stand apart from the recipe of today, so that they stay what they were.
REFERENCE: Mapping[str, Any] = MappingProxyType(
    {
        "plan": "32-M-64-64-M-128-128-M",
        "norm": "lbn-channel-mean",
        "pool_first": True,
        "surrogate": "triangle",
        "gain": None,
        "optimizer": "muon",
        "lr": 0.1,
        "warmup": 0.25,
        "momentum": 0.6,
        "augment": "crop-flip",
    }
)
_ADAMW = {"optimizer": "adamw", "lr": 6e-3, "gain": 1.0}
_FAST = {"lr": 0.2, "gain": 1.0}
_RESIDUAL = {"model": "resnet", "plan": "16-16-32-32-64-64"}
_BEFORE = {"norm": "lbn", "surrogate": "rectangle"}
METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "AdamW, rate 0.006, gains from 1, pools behind the spikes": {**_ADAMW, "pool_first": False},
        "AdamW, rate 0.006, gains from 1": _ADAMW,
        "AdamW, rate 0.006": {**_ADAMW, "gain": None},
        "Muon, rate 0.4, gains from 1": {**_FAST, "lr": 0.4},
        "Muon, rate 0.2, gains from 1": _FAST,
        "Muon, rate 0.2, gains from 1, batches of 64": {**_FAST, "batch_size": 64},
        "Muon, rate 0.2, gains from 1, surrogate twice as wide": {**_FAST, "surrogate_width": 2.0},
        "Muon, rate 0.2": {"lr": 0.2},
        "**Muon, rate 0.1: the reference**": {},
        "surrogate: rectangle": {"surrogate": "rectangle"},
        "LBN, layer reading": {"norm": "lbn"},
        "BatchNorm": {"norm": "batchnorm"},
        "momentum 0.9": {"momentum": 0.9},
        "64-M-64-64-M-128-128-M": {"plan": "64-M-64-64-M-128-128-M"},
        "64-M-64-M-128-128-M": {"plan": "64-M-64-M-128-128-M"},
        "96-M-64-M-128-128-M": {"plan": "96-M-64-M-128-128-M"},
        "64-M-64-M-128-M-256-M": {"plan": "64-M-64-M-128-M-256-M"},
        "32-M-64-64-M-128-128": {"plan": "32-M-64-64-M-128-128"},
        "4 activation states": {"act_states": 4},
        "16 activation states in the first half": {"act_states_first": 16, "act_states_from": 0.5},
        "float activations in the first half": {"act_states_from": 0.5},
        "float weights in the first half": {"weight_states_from": 0.5},
        "surrogate from twice to half as wide": {"surrogate_width": 2.0, "surrogate_width_end": 0.5},
        "learned weight steps, one a layer": {"learned_step": "layer"},
        "learned weight steps, one a channel": {"learned_step": "channel"},
        "averaged parameters, decay 0.99": {"ema": 0.99},
        "residual, 16-32-64": {**_RESIDUAL},
        "residual, 16-32-64, AdamW, rate 0.006, gains from 1": {**_RESIDUAL, **_ADAMW},
        "residual, 16-32-64, AdamW, rate 0.006, gains from 1, LBN, rectangle": {**_RESIDUAL, **_ADAMW, **_BEFORE},
        "float weights": {"weight_states": None},
        "float activations": {"act_states": None},
        "float twin": {"act_states": None, "weight_states": None},
    }
)
METHOD_BEGIN, METHOD_END = "<!-- methods: maqd bench accuracy --methods -->", "<!-- end of methods -->"


def train_network(recipe: str, name: str, seed: int, folder: Path, further: Sequence[str]) -> dict[str, Any]:
    """Train one network as a user does, or go on where it stopped, and return its row."""
    run = folder / f"{recipe}-{name}-{seed}"
    options = [*NETWORKS[name].options, "--seed", str(seed), *further]
    _maqd("train", recipe, "--out", run, "--resume", "--quiet", "--json", folder / f"{run.name}.json", *options)
    history = json.loads((folder / f"{run.name}.json").read_text())["history"]
    best = min(history, key=lambda row: row["validation_loss"])
    row = {
        "network": name,
        "seed": seed,
        "epoch": best["epoch"],
        "epochs": len(history),
        "validation": best["validation_accuracy"],
        "seconds": sum(entry["seconds"] for entry in history),
        "when": _when(),
        "recipe": asdict(read_recipe(run)),
    }
    if name == "twin":
        _maqd("eval", run, "--json", folder / "eval.json")
        return {**row, "test": json.loads((folder / "eval.json").read_text())["accuracy"]}
    _maqd("report", run, "--profile", "cmos45-int8")
    report = json.loads((run / REPORT_JSON).read_text())
    simulation = report["simulation"]
    total, samples = simulation["total"], simulation["samples"]
    return {
        **row,
        "test": report["accuracy"]["test"],
        "mismatches": report["provenance"]["fold_check"]["mismatches"],
        "compared": report["provenance"]["fold_check"]["values"],
        "macs": total["dense_macs"] / samples,
        "synops": total["synops"] / samples,
        "energy_pj": report["energy"]["cmos45-int8"]["total_pj"],
        "dense_pj": {baseline["name"]: baseline["energy_pj"] for baseline in report["baselines"]},
    }


def read_records(path: Path | None) -> dict[str, dict[str, Any]]:
    """Return the rows of earlier calls by recipe, name and seed; none where there is no file."""
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}
    return found


def _keep(kept: dict[str, dict[str, Any]], key: str, row: dict[str, Any], records: Path | None) -> None:
    """Put a row among those of `read_records`, and write them all if there is a file for them."""
    kept[key] = row
    if records:
        write_text(records, json.dumps(kept, indent=1) + "\n")


def of_today(row: Row, recipe: str, where: Path | None) -> bool:
    """Whether a row was trained with today's fields of the recipe, whatever its states and seed."""
    return replace(Recipe.from_dict(row["recipe"], str(where)), **_AXES) == replace(get_recipe(recipe), **_AXES)


def _maqd(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "maqd_snn", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def network_table(rows: Sequence[Row]) -> list[str]:
    """Return a row for each training."""
    lines = [
        "| activation / weight states | seed | test | validation | epoch | training, min "
        "| fold check: values that differ | dense MACs | SynOps | spikes | dense low-bit | dense int8 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        options = NETWORKS[row["network"]].options
        states = "float twin" if row["network"] == "twin" else f"{options[1]} / {options[3]}"
        start = (
            f"| {states} | {row['seed']} | {100 * row['test']:.2f} % | {100 * row['validation']:.2f} % "
            f"| {row['epoch']} of {row['epochs']} | {row['seconds'] / 60:.1f} |"
        )
        if row["network"] == "twin":
            lines.append(f"{start} | | | | | |")
            continue
        dense = row["dense_pj"]
        lines.append(
            f"{start} {row['mismatches']} of {row['compared']:,} | {quantity(row['macs'])} | {quantity(row['synops'])} "
            f"| {energy_text(row['energy_pj'])} | {energy_text(dense['dense-low-bit'])} "
            f"| {energy_text(dense['dense-int8'])} |"
        )
    return lines


@dataclass(frozen=True)
class Verdict:
    """A claim, the means over seeds that it is about, and whether they meet it."""

    claim: Claim
    test: float
    twin: float

    @property
    def met(self) -> bool:
        """Whether both limits hold."""
        return self.test >= self.claim.least and self.twin - self.test <= self.claim.behind


def verdicts(recipe: str, rows: Sequence[Row]) -> list[Verdict]:
    """Return the recipe's claims that these trainings can judge: those of networks that are there beside a twin.

    >>> rows = [{"network": n, "test": t} for n, t in (("2", 0.80), ("2", 0.79), ("twin", 0.86))]
    >>> [(round(v.test, 6), v.met) for v in verdicts("cifar10-small", rows)]
    [(79.5, True)]
    """

    def mean(network: str) -> float | None:
        found = [100 * row["test"] for row in rows if row["network"] == network]
        return statistics.mean(found) if found else None

    twin = mean("twin")
    pairs = [(claim, mean(claim.network)) for claim in CLAIMS.get(recipe, ())]
    return [Verdict(claim, test, twin) for claim, test in pairs if test is not None and twin is not None]


def verdict_table(found: Sequence[Verdict]) -> list[str]:
    """Return a row for each claim."""
    return [
        "| activation states | mean test accuracy | at least | behind the twin | at most | |",
        "|---|---|---|---|---|---|",
        *(
            f"| {v.claim.network} | {v.test:.2f} % | {v.claim.least:g} % | {v.twin - v.test:.2f} points "
            f"| {v.claim.behind:g} | {'yes' if v.met else '**no**'} |"
            for v in found
        ),
    ]


def method_row(name: str, recipe: Recipe, splits: Splits, folder: Path) -> dict[str, Any]:
    """Train one variant, or read what its training left, and return its row."""
    run = folder / re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
    result = run / "result.json"
    if result.is_file():
        row: dict[str, Any] = json.loads(result.read_text())
        return row
    run.mkdir(parents=True, exist_ok=True)
    torch._dynamo.reset()
    execution = Execution(accelerator="cpu", quiet=True, checkpoint_seconds=0)
    history = fit(recipe, splits, run, resume=True, execution=execution).history
    last = history[-1]
    row = {
        "method": name,
        "accuracy": last.validation_accuracy,
        "train": last.train_accuracy,
        "rate": last.spike_rate,
        "seconds": sum(entry.seconds for entry in history),
        "when": _when(),
        "images": len(splits.train.codes),
        "recipe": asdict(recipe),
    }
    write_text(result, json.dumps(row, indent=1))
    return row


def method_table(rows: Sequence[Row]) -> list[str]:
    """Return a row for each variant."""
    return [
        "| variant | validation accuracy | training accuracy | neurons that fire |",
        "|---|---|---|---|",
        *(
            f"| {row['method']} | {100 * row['accuracy']:.1f} % | {100 * row['train']:.1f} % "
            f"| {100 * row['rate']:.0f} % |"
            for row in rows
        ),
    ]


def _first(data: ImageDataset, count: int) -> ImageDataset:
    return replace(data, codes=data.codes[:count], labels=data.labels[:count])


def _methods(options: argparse.Namespace) -> tuple[list[str], bool]:
    splits = load_splits("cifar10")
    images = 256 if options.quick else METHOD_IMAGES
    splits = replace(
        splits, train=_first(splits.train, images), validation=_first(splits.validation, METHOD_VALIDATION)
    )
    base = replace(get_recipe("cifar10-small"), epochs=1 if options.quick else METHOD_EPOCHS, **REFERENCE)
    if options.quick:
        base = replace(base, compile=False)
    kept, rows, missing = read_records(options.records), list[Row](), list[str]()
    for name in _chosen(options.only, METHODS):
        recipe = replace(base, **METHODS[name])
        row = kept.get(name)
        if row is None or Recipe.from_dict(row["recipe"], str(options.records)) != recipe or row["images"] != images:
            if options.kept:
                missing.append(name)
                continue
            row = method_row(name, recipe, splits, options.folder or Path("runs/methods"))
            _keep(kept, name, row, options.records)
        print(method_table([row])[-1], flush=True)
        rows.append(row)
    chance = 100 * (0.68 * 0.32 / METHOD_VALIDATION) ** 0.5
    head = (
        "`cifar10-small` with the fields of `REFERENCE` in `benchmarks/accuracy.py`, 2 activation and 3 weight states "
        f"unless the row says otherwise; the first {images:,} training images, {base.epochs} epochs, one seed; the "
        f"first {METHOD_VALIDATION:,} validation images, where one deviation of chance is about {chance:.1f} points."
    )
    text = [*dict.fromkeys(row["when"] for row in rows), "", head, "", *method_table(rows)]
    return text + (["", f"Still to be trained: {'; '.join(missing)}."] if missing else []), True


def _networks(options: argparse.Namespace) -> tuple[list[str], bool]:
    folder = options.folder or Path("runs/accuracy")
    folder.mkdir(parents=True, exist_ok=True)
    further = ["--max-steps", "2", "--compile", "false"] if options.quick else []
    kept, rows, missing = read_records(options.records), list[dict[str, Any]](), list[str]()
    for name in _chosen(options.only, NETWORKS):
        for seed in NETWORKS[name].seeds[: 1 if options.quick else None]:
            key = f"{options.recipe} {name} {seed}"
            if key not in kept or not of_today(kept[key], options.recipe, options.records):
                if options.kept:
                    missing.append(f"{name}, seed {seed}")
                    continue
                row = train_network(options.recipe, name, seed, folder, further)
                _keep(kept, key, row, options.records)
            rows.append(kept[key])
            print(network_table(rows)[-1], flush=True)
    found = verdicts(options.recipe, rows)
    text = [*dict.fromkeys(row["when"] for row in rows), "", *network_table(rows)]
    if missing:
        text += ["", f"Still to be trained: {'; '.join(missing)}."]
    if found:
        text += ["", *verdict_table(found)]
        print("\n".join(verdict_table(found)))
    exact = all(row.get("mismatches", 0) == 0 for row in rows)
    return text, exact and (options.quick or all(verdict.met for verdict in found))


def _when() -> str:
    where = machine()
    return f"{date.today()}, {where['system']}, {where['threads']} threads, torch {where['torch']}."


def _chosen(only: Sequence[str] | None, table: Mapping[str, Any]) -> list[str]:
    for name in only or ():
        if name not in table:
            raise unknown_name("network or variant", name, table)
    return [name for name in table if not only or name in only]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is not trained yet, print the tables, and write them between the markers of a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="cifar10-small")
    parser.add_argument("--methods", action="store_true", help="short trainings of variants, on validation images")
    parser.add_argument("--folder", type=Path, help="where the runs are (default: runs/accuracy or runs/methods)")
    parser.add_argument("--records", type=Path, metavar="FILE", help="JSON file that keeps the row of each training")
    parser.add_argument("--kept", action="store_true", help="train nothing: tables of the rows on record")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these networks or variants alone")
    parser.add_argument("--out", type=Path, help="Markdown file with the markers")
    parser.add_argument("--quick", action="store_true", help="two steps, or 256 images: shows that it runs")
    options = parser.parse_args(arguments)
    if options.kept and not options.records:
        parser.error("--kept needs --records FILE, where the rows are")
    text, good = _methods(options) if options.methods else _networks(options)
    if options.out:
        begin, end = (
            (METHOD_BEGIN, METHOD_END)
            if options.methods
            else (BEGIN.format(options.recipe), END.format(options.recipe))
        )
        replace_between(options.out, begin, end, "\n".join(text))
    return 0 if good else 1
