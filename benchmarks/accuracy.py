"""Accuracy of few states beside the float twin: whole trainings of a recipe, or short ones that compare methods.

    maqd bench accuracy [--recipe cifar10-small] [--folder DIR] [--only NAME ...] [--records FILE [--kept]] [--out FILE]
    maqd bench accuracy --methods [--folder DIR] [--only NAME ...] [--records FILE [--kept]] [--out FILE] [--quick]

The first trains the networks that the lines of `CLAIMS` about the recipe need, and the twin (all of `NETWORKS` where it
has no such lines), with each of their seeds as `maqd train` does, takes test accuracy, SynOps and energy from the
integer network (`maqd report`), and checks those lines. The second trains each variant of `METHODS` on the first 10,000
training images for six epochs and compares validation images, on which what folds is counted and priced; the test
images are not touched. A training that is finished in the folder is not repeated, one that was stopped goes on; with
--records, nor is one whose row a file of an earlier call holds, so that the trainings may run on several days and
machines. Exit code 1 where a claim fails, a row that judges it is not on record, or a folded network has a value that
differs.
"""

import argparse
import fcntl
import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from maqd_snn.benchmarks.document import around, read_json, replace_between, when
from maqd_snn.datasets import ImageDataset, Splits, load_splits
from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.files import write_text
from maqd_snn.reporting.units import energy_text, quantity
from maqd_snn.runs import REPORT_JSON, fold_run, read_recipe
from maqd_snn.spike import least_squares_gain
from maqd_snn.sweeps.trial import measure
from maqd_snn.training import Execution, Recipe, fit, get_recipe

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Network:
    """One network: its states, None for the float twin, and its usual seeds."""

    act_states: int | None
    weight_states: int | None
    seeds: tuple[int, ...]


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "2": Network(2, 3, (0, 1)),
        "twin": Network(None, None, (0, 1)),
        "4": Network(4, 3, (0, 1)),
        "16": Network(16, 15, (0,)),
    }
)

# Where two would say little: one test scan of the digits is 0.28 points.
MORE_SEEDS: Mapping[str, tuple[int, ...]] = MappingProxyType({"digits": (0, 1, 2, 3)})


@dataclass(frozen=True)
class Claim:
    """What a network of a recipe is to reach: a mean test accuracy, at most so many points below its twin.

    Each of its trainings and of the twin's is to take at most so many minutes.
    """

    network: str
    least: float
    behind: float
    minutes: float = math.inf


CLAIMS: Mapping[str, tuple[Claim, ...]] = MappingProxyType(
    {
        "cifar10-small": (Claim("2", 79, 7, 15), Claim("4", 84, 3, 15), Claim("16", 0, 1, 15)),
        "digits": (Claim("2", 0, 0.5),),
        "mnist10k": (Claim("2", 0, 0.5),),
    }
)
BEGIN, END = "<!-- networks: maqd bench accuracy, {} -->", "<!-- end of networks, {} -->"

PROFILE = "cmos45-int8"
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
_FAST, _SLOW = {"lr": 0.2, "gain": 1.0}, {"lr": 0.04, "warmup": 0.15}
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
        "Muon, rate 0.04, warm-up of 15 %": _SLOW,
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
        "256 activation states between the bounds of 2": {"act_states": 256, "gain": least_squares_gain(1)},
        "256 activation states between the bounds of 4": {"act_states": 256, "gain": least_squares_gain(3)},
        "16 activation states in the first half": {"act_states_first": 16, "act_states_from": 0.5},
        "float activations in the first half": {"act_states_from": 0.5},
        "float weights in the first half": {"weight_states_from": 0.5},
        "surrogate from twice to half as wide": {"surrogate_width": 2.0, "surrogate_width_end": 0.5},
        "learned weight steps, one a layer": {"learned_step": "layer"},
        "learned weight steps, one a channel": {"learned_step": "channel"},
        "weights of sum zero": {"zero_sum": True},
        "weights of sum zero, LBN": {"zero_sum": True, "norm": "lbn"},
        "averaged parameters, decay 0.99": {"ema": 0.99},
        "residual, 16-32-64": {**_RESIDUAL},
        "residual, 16-32-64, Muon, rate 0.04, warm-up of 15 %": {**_RESIDUAL, **_SLOW},
        "residual, 16-32-64, AdamW, rate 0.006, gains from 1": {**_RESIDUAL, **_ADAMW},
        "residual, 16-32-64, AdamW, rate 0.006, gains from 1, LBN, rectangle": {**_RESIDUAL, **_ADAMW, **_BEFORE},
        "float weights": {"weight_states": None},
        "float activations": {"act_states": None},
        "float twin": {"act_states": None, "weight_states": None},
    }
)
METHOD_BEGIN, METHOD_END = "<!-- methods: maqd bench accuracy --methods -->", "<!-- end of methods -->"


def networks_of(recipe: str) -> list[str]:
    """Return the networks that the claims about a recipe need; all of them where there are none.

    >>> networks_of("digits")
    ['2', 'twin']
    """
    needed = {claim.network for claim in CLAIMS.get(recipe, ())}
    return [name for name in NETWORKS if not needed or name == "twin" or name in needed]


def seeds_of(recipe: str, name: str) -> tuple[int, ...]:
    """Return the seeds with which a network of a recipe is trained.

    >>> seeds_of("mnist10k", "2"), seeds_of("digits", "2")
    ((0, 1), (0, 1, 2, 3))
    """
    return MORE_SEEDS.get(recipe, NETWORKS[name].seeds)


def recipe_of(recipe: str, name: str, seed: int, quick: bool = False) -> Recipe:
    """Return what a network of a recipe is trained with."""
    network, base = NETWORKS[name], replace(get_recipe(recipe), seed=seed)
    if quick:
        base = replace(base, max_steps=2, compile=False)
    if network.act_states is None:
        return base.twin()
    return replace(base, act_states=network.act_states, weight_states=network.weight_states)


def train_network(recipe: str, name: str, seed: int, folder: Path, quick: bool) -> dict[str, Any]:
    """Train one network as a user does, or go on where it stopped, and return its row."""
    network, run = NETWORKS[name], folder / f"{recipe}-{name}-{seed}"
    options = ["--seed", str(seed), *(["--max-steps", "2", "--compile", "false"] if quick else [])]
    if network.act_states is None:
        options += ["--twin"]
    else:
        options += ["--act-states", str(network.act_states), "--weight-states", str(network.weight_states)]
    folder.mkdir(parents=True, exist_ok=True)
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
        "when": when(),
        "recipe": asdict(read_recipe(run)),
    }
    if name == "twin":
        result = folder / f"{run.name}-eval.json"
        _maqd("eval", run, "--json", result)
        return {**row, "test": json.loads(result.read_text())["accuracy"]}
    _maqd("report", run, "--profile", PROFILE)
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
        "energy_pj": report["energy"][PROFILE]["total_pj"],
        "dense_pj": {baseline["name"]: baseline["energy_pj"] for baseline in report["baselines"]},
    }


_NUMBER = (int, float)
_EVERY: Mapping[str, Any] = MappingProxyType({"seconds": _NUMBER, "when": str, "recipe": dict})
# What a row holds for tables and comparisons, by its kind; counts are not the twin's.
_VARIANT: Mapping[str, Any] = MappingProxyType(
    {**_EVERY, "method": str, **dict.fromkeys(("images", "epoch"), int)}
    | dict.fromkeys(("accuracy", "train", "rate"), _NUMBER)
)
_FOLDED: Mapping[str, Any] = MappingProxyType(
    dict.fromkeys(("synops", "energy_pj"), _NUMBER) | dict.fromkeys(("mismatches", "compared"), int)
)
_TWIN: Mapping[str, Any] = MappingProxyType(
    {**_EVERY, **dict.fromkeys(("seed", "epoch", "epochs"), int), "validation": _NUMBER, "test": _NUMBER}
)
_COUNTED: Mapping[str, Any] = MappingProxyType(
    {
        **_TWIN,
        **_FOLDED,
        **{"network": str, "dense_pj": dict},
        **dict.fromkeys(("macs", "dense-low-bit", "dense-int8"), _NUMBER),
    }
)


def _lack(row: Any) -> str | None:
    """Return the first field that a row lacks, or has of another kind; None where it is whole."""
    if not isinstance(row, dict):
        return "recipe"
    if "method" in row:
        kinds = {**_VARIANT, **_FOLDED} if _FOLDED.keys() & row else _VARIANT
    else:
        kinds = _TWIN if row.get("network") == "twin" else _COUNTED
    dense = row.get("dense_pj")
    values = {**row, **dense} if isinstance(dense, dict) else row
    return next((name for name, kind in kinds.items() if not isinstance(values.get(name), kind)), None)


def read_records(path: Path | None) -> dict[str, dict[str, Any]]:
    """Return the rows of earlier calls by recipe, name and seed; none where there is no file.

    Raises:
        MaqdError: the file holds something else, or a row that is not whole.
    """
    if path is None or not path.is_file():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise MaqdError(f"{str(path)!r} holds no rows by name; give another --records, or remove the file")
    for key, row in found.items():
        if lack := _lack(row):
            raise MaqdError(
                f"{str(path)!r} is damaged: the row {key!r} has no {lack!r}, or one of another kind; remove the row to "
                "train it anew"
            )
    return found


def _keep(records: Path | None, key: str, row: Row) -> None:
    """Put a row into the file, if there is to be one, beside the rows that other calls have written meanwhile."""
    if records:
        with _alone(records.resolve().parent):
            write_text(records, json.dumps({**read_records(records), key: row}, indent=1) + "\n")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for others who ask, too, and keep them waiting; where a file system knows no locks, there are none."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # gives the lock back


def same_training(row: Row, recipe: Recipe, **fields: object) -> bool:
    """Whether a row is of a training with this recipe and these fields; a recipe of another version is another."""
    try:
        trained = Recipe.from_dict(row["recipe"], "the row")
    except MaqdError:
        return False
    return trained == recipe and all(row.get(name) == value for name, value in fields.items())


def _maqd(*arguments: str | Path) -> None:
    """Run a command in a process of its own; raises MaqdError with its last word where it fails."""
    texts = [str(argument) for argument in arguments]
    command = [sys.executable, "-m", "maqd_snn", *texts]
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise MaqdError(f"{said[-1]} (exit code {done.returncode} of `maqd {shlex.join(texts)}`)")
    sys.stderr.write(done.stderr)


def network_table(rows: Sequence[Row]) -> list[str]:
    """Return a row for each training."""
    lines = [
        "| activation / weight states | seed | test | validation | epoch | training, min "
        "| fold check: values that differ | dense MACs | SynOps | spikes | dense low-bit | dense int8 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        network = NETWORKS[row["network"]]
        states = "float twin" if network.act_states is None else f"{network.act_states} / {network.weight_states}"
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
    """A claim, the means over seeds that it is about, and whether they meet it; or what is missing to judge it.

    `minutes` are those of the longest training among them.
    """

    claim: Claim
    missing: tuple[str, ...]
    test: float = math.nan
    twin: float = math.nan
    minutes: float = math.nan

    @property
    def met(self) -> bool:
        """Whether all limits hold; False where it is not judged."""
        claim = self.claim
        return self.test >= claim.least and self.twin - self.test <= claim.behind and self.minutes <= claim.minutes


def _named(network: str, seed: int) -> str:
    return f"{network}, seed {seed}"


def verdicts(recipe: str, rows: Sequence[Row]) -> list[Verdict]:
    """Return the recipe's claims, each judged where all seeds of its network and the same of the twin are there.

    >>> tests = {("2", 0): 0.80, ("2", 1): 0.79, ("twin", 0): 0.86, ("twin", 1): 0.85}
    >>> rows = [{"network": name, "seed": seed, "test": test, "seconds": 600} for (name, seed), test in tests.items()]
    >>> [(round(v.test, 6), v.minutes, v.met, v.missing) for v in verdicts("cifar10-small", rows)][0]
    (79.5, 10.0, True, ())
    >>> [v.missing for v in verdicts("mnist10k", rows[1:])]
    [('2, seed 0',)]
    """
    trained = {(row["network"], row["seed"]): row for row in rows}
    found = []
    for claim in CLAIMS.get(recipe, ()):
        pair = [[(name, seed) for seed in seeds_of(recipe, claim.network)] for name in (claim.network, "twin")]
        missing = tuple(_named(*key) for keys in pair for key in keys if key not in trained)
        if missing:
            found.append(Verdict(claim, missing))
            continue
        test, twin = (statistics.mean(100 * trained[key]["test"] for key in keys) for keys in pair)
        minutes = max(trained[key]["seconds"] for keys in pair for key in keys) / 60
        found.append(Verdict(claim, missing, test, twin, minutes))
    return found


def verdict_table(found: Sequence[Verdict]) -> list[str]:
    """Return a row for each claim."""
    lines = [
        "| activation states | mean test accuracy | at least | behind the twin | at most | longest training, min "
        "| at most | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for v in found:
        claim = v.claim
        limit = f"{claim.minutes:g}" if claim.minutes < math.inf else "no limit"
        if v.missing:
            said = f"not judged, missing: {'; '.join(v.missing)}"
            lines.append(f"| {claim.network} | | {claim.least:g} % | | {claim.behind:g} | | {limit} | {said} |")
            continue
        lines.append(
            f"| {claim.network} | {v.test:.2f} % | {claim.least:g} % | {v.twin - v.test:.2f} points "
            f"| {claim.behind:g} | {v.minutes:.1f} | {limit} | {'yes' if v.met else '**no**'} |"
        )
    return lines


def method_row(name: str, recipe: Recipe, splits: Splits, folder: Path) -> dict[str, Any]:
    """Train one variant, or read what its training left, and return its row.

    Raises:
        MaqdError: the folder holds the result of another training.
    """
    run = folder / re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
    result, images = run / "result.json", len(splits.train.codes)
    if result.is_file():
        before: dict[str, Any] = read_json(result)
        if _lack(before) or not same_training(before, recipe, method=name, images=images):
            raise MaqdError(
                f"{str(run)!r} holds a training of another recipe or of other images; give another --folder"
            )
        return before
    run.mkdir(parents=True, exist_ok=True)
    torch._dynamo.reset()
    execution = Execution(accelerator="cpu", quiet=True, checkpoint_seconds=0)
    trained = fit(recipe, splits, run, resume=True, execution=execution)
    best = trained.best
    row = {
        "method": name,
        "accuracy": best.validation_accuracy,
        "train": best.train_accuracy,
        "rate": best.spike_rate,
        "epoch": best.epoch,
        "seconds": sum(entry.seconds for entry in trained.history),
        "when": when(),
        "images": images,
        "recipe": asdict(recipe),
    }
    if recipe.foldable:
        net = fold_run(recipe, splits, trained, run)
        figures, check = measure(net, splits.validation, PROFILE), net.provenance["fold_check"]
        row |= {"synops": figures["synops"], "energy_pj": figures["energy"]}
        row |= {"mismatches": check["mismatches"], "compared": check["values"]}
    write_text(result, json.dumps(row, indent=1))
    return row


def method_table(rows: Sequence[Row]) -> list[str]:
    """Return a row for each variant."""
    lines = [
        "| variant | validation accuracy | training accuracy | neurons that fire | fold check: values that differ "
        "| SynOps | energy |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        counts = "| | | |"  # what stays in float has none
        if "synops" in row:
            check = f"{row['mismatches']} of {row['compared']:,}"
            counts = f"| {check} | {quantity(row['synops'])} | {energy_text(row['energy_pj'])} |"
        lines.append(
            f"| {row['method']} | {100 * row['accuracy']:.1f} % | {100 * row['train']:.1f} % "
            f"| {100 * row['rate']:.0f} % {counts}"
        )
    return lines


def _first(data: ImageDataset, count: int) -> ImageDataset:
    return replace(data, codes=data.codes[:count], labels=data.labels[:count])


def _few(images: int) -> Splits:
    splits = load_splits("cifar10")
    return replace(splits, train=_first(splits.train, images), validation=_first(splits.validation, METHOD_VALIDATION))


def _methods(options: argparse.Namespace) -> tuple[list[str], bool]:
    images = 256 if options.quick else METHOD_IMAGES
    names = _chosen(options.only or METHODS, METHODS)
    splits = None if options.kept else _few(images)  # what is on record needs no images
    base = replace(get_recipe("cifar10-small"), epochs=1 if options.quick else METHOD_EPOCHS, **REFERENCE)
    if options.quick:
        base = replace(base, compile=False)
    rows, missing = list[Row](), list[str]()
    for name in names:
        recipe, key = replace(base, **METHODS[name]), _key(name, options.quick)
        row = read_records(options.records).get(key)
        if row is None or not same_training(row, recipe, method=name, images=images):
            if splits is None:
                missing.append(name)
                continue
            row = method_row(name, recipe, splits, _folder(options, "runs/methods"))
            _keep(options.records, key, row)
        print(method_table([row])[-1], flush=True)
        rows.append(row)
    _check_rows(rows, options)
    chance = 100 * (0.68 * 0.32 / METHOD_VALIDATION) ** 0.5
    head = (
        "`cifar10-small` with the fields of `REFERENCE` in `benchmarks/accuracy.py`, 2 activation and 3 weight states "
        f"unless the row says otherwise; the first {images:,} training images, {base.epochs} epochs, one seed; the "
        f"first {METHOD_VALIDATION:,} validation images, where one deviation of chance is about {chance:.1f} points. "
        f"Of each training the epoch of the lowest loss on them; SynOps and energy (`{PROFILE}`) are of one image."
    )
    text = [*dict.fromkeys(row["when"] for row in rows), "", head, "", *method_table(rows)]
    text += ["", f"Still to be trained: {'; '.join(missing)}."] if missing else []
    return text, bool(rows) and _exact(rows)


def _networks(options: argparse.Namespace) -> tuple[list[str], bool]:
    names = _chosen(options.only or networks_of(options.recipe), NETWORKS)
    rows, missing = list[Row](), list[str]()
    for name in names:
        for seed in seeds_of(options.recipe, name)[: 1 if options.quick else None]:
            key = _key(f"{options.recipe} {name} {seed}", options.quick)
            row = read_records(options.records).get(key)
            recipe = recipe_of(options.recipe, name, seed, options.quick)
            if row is None or not same_training(row, recipe, network=name, seed=seed):
                if options.kept:
                    missing.append(_named(name, seed))
                    continue
                folder = _folder(options, "runs/accuracy")
                row = train_network(options.recipe, name, seed, folder, options.quick)
                _keep(options.records, key, row)
            rows.append(row)
            print(network_table(rows)[-1], flush=True)
    _check_rows(rows, options)
    found = [verdict for verdict in verdicts(options.recipe, rows) if verdict.claim.network in names]
    text = [*dict.fromkeys(row["when"] for row in rows), "", *network_table(rows)]
    if missing:
        text += ["", f"Still to be trained: {'; '.join(missing)}."]
    if found:
        text += ["", *verdict_table(found)]
        print("\n".join(verdict_table(found)))
    # What --only or --quick left out is not judged, and no failure.
    met = options.quick or all(verdict.met for verdict in found if not verdict.missing)
    return text, _exact(rows) and met and not missing


def _exact(rows: Sequence[Row]) -> bool:
    return all(row.get("mismatches", 0) == 0 for row in rows)


def _key(name: str, quick: bool) -> str:
    return f"{name}, quick" if quick else name


def _folder(options: argparse.Namespace, usual: str) -> Path:
    folder = options.folder or Path(usual)
    return folder / "quick" if options.quick else folder


def _check_rows(rows: Sequence[Row], options: argparse.Namespace) -> None:
    if options.out and not rows:
        raise MaqdError(
            f"{str(options.records)!r} has no row for this table, so {str(options.out)!r} stays as it is; train "
            "without --kept first, or give another --records"
        )


def _check_place(path: Path, option: str) -> None:
    target = path.resolve()
    if (target.exists() and not target.is_file()) or not os.access(target.parent, os.W_OK):
        raise MaqdError(f"{option} expects a file in a folder that can be written, got {str(path)!r}")


def _chosen(names: Collection[str], table: Mapping[str, Any]) -> list[str]:
    for name in names:
        if name not in table:
            raise unknown_name("network or variant", name, table)
    return [name for name in table if name in names]


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
    begin, end = METHOD_BEGIN, METHOD_END
    if not options.methods:
        get_recipe(options.recipe)
        begin, end = BEGIN.format(options.recipe), END.format(options.recipe)
    # What could not be read or written in the end is said before the work.
    read_records(options.records)
    if options.records and not options.kept:
        _check_place(options.records, "--records")
    if options.out:
        _check_place(options.out, "--out")
        around(options.out, begin, end)
    text, good = _methods(options) if options.methods else _networks(options)
    if options.out:
        replace_between(options.out, begin, end, "\n".join(text))
    return 0 if good else 1
