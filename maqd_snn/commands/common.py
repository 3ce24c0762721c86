"""What several commands share: options, and what the options stand for."""

import argparse
import json
import textwrap
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.files import write_text
from maqd_snn.training.config import FIELD_TYPES, Recipe, override, parse_field
from maqd_snn.training.recipes import RECIPES, get_recipe

SETTABLE = tuple(name for name in FIELD_TYPES if name != "name")

Options = argparse.Namespace


@dataclass(frozen=True)
class Command:
    """One command of the command line.

    Attributes:
        text: one line for the list of commands. add_options: declares its arguments. run: does it, returns the exit
        code (0 done, 1 a check failed). Heavy imports belong into `run`, so that `maqd --help` is quick.
    """

    text: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Options], int]


def data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where datasets are."""
    parser.add_argument(
        "--data-root", type=Path, metavar="DIR", help="folder of the datasets (default: $MAQD_DATA_ROOT, else a cache)"
    )
    parser.add_argument("--download", action="store_true", help="fetch a dataset that is missing")


def json_option(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON, too")


def training_options(parser: argparse.ArgumentParser) -> None:
    """Add a recipe, every field of it, the folder of the run, and where and how to train."""
    parser.usage = f"{parser.prog} RECIPE [options]"
    parser.add_argument(
        "recipe", metavar="RECIPE", help=", ".join(RECIPES) + "; docs/training.md tells of them and of their fields"
    )
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="continue what the folder holds, if anything")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that the folder holds")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    data_options(parser)
    json_option(parser)
    parser.add_argument("--twin", action="store_true", help="the float twin: float weights, ReLU, nothing to fold")
    parser.add_argument(
        "--devices", type=int, metavar="N", help="train on this many devices of this machine (default: 1)"
    )
    # Rare ones are told of in docs/training.md alone.
    parser.add_argument("--nodes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--accelerator", default="auto", metavar="KIND", help="auto, cpu or cuda (auto: a GPU if any)")
    parser.add_argument("--checkpoint-seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint-steps", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard's files, too")
    for name in SETTABLE:
        parser.add_argument(flag(name), dest=f"set_{name}", help=argparse.SUPPRESS)
    parser.epilog = recipe_fields_text()


def recipe_fields_text() -> str:
    """Return the names of all fields of a recipe, each of which is a flag."""
    names = " ".join(flag(name).removeprefix("--") for name in SETTABLE)
    text = f"Recipe fields (--FIELD VALUE): {names}"
    return textwrap.fill(text, 100, break_on_hyphens=False)


def report_options(parser: argparse.ArgumentParser) -> None:
    """Add what a report needs to know."""
    parser.add_argument("--profile", help="energy profiles: names, or TOML files, joined by commas (default: all)")
    parser.add_argument(
        "--samples", type=int, default=100, help="test images to verify exports and to compare on (default: 100)"
    )
    parser.add_argument(
        "--compare", action="store_true", help="stand NeuroBench's and SpikingJelly's numbers beside ours"
    )
    parser.add_argument("--csv", action="store_true", help="write counts.csv and energy.csv, too")
    parser.add_argument("--latex", action="store_true", help="write report.tex, too: tables for a paper")


def flag(name: str) -> str:
    """Return the command line flag of a recipe field."""
    return "--" + name.replace("_", "-")


def formats_text() -> str:
    """Return the list of export formats."""
    from maqd_snn.neuromorphic import FORMATS

    return "\n".join(["Formats:", *(f"  {name:20s} {entry.title}" for name, entry in FORMATS.items())])


def chosen_recipe(options: Options) -> Recipe:
    """Return the recipe with the fields that the command line sets."""
    fields = field_overrides(options)
    recipe = override(get_recipe(options.recipe), fields)
    if not options.twin:
        return recipe
    twin = recipe.twin()
    lost = [name for name in fields if getattr(twin, name) != getattr(recipe, name)]
    if lost:
        raise MaqdError(f"--twin trains float weights and ReLU, untaught; leave out {flag(lost[0])}")
    return twin


def field_overrides(options: Options) -> dict[str, Any]:
    """Return the fields of the recipe that the command line sets."""
    texts = {name: getattr(options, f"set_{name}") for name in SETTABLE}
    return {name: parse_field(name, text) for name, text in texts.items() if text is not None}


def chosen_execution(options: Options) -> Any:
    """Return where and how to train."""
    from maqd_snn.training import Execution

    every = options.checkpoint_seconds
    return Execution(
        accelerator=options.accelerator,
        devices=options.devices,
        nodes=options.nodes,
        checkpoint_seconds=Execution.checkpoint_seconds if every is None else every,
        checkpoint_steps=options.checkpoint_steps,
        tensorboard=options.tensorboard,
        quiet=options.quiet,
    )


def split_names(text: str | None) -> list[str] | None:
    """Return the names in a comma-joined text, or None for None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def positive(value: int, flag: str) -> int:
    """Return `value` if it is at least 1, else raise MaqdError."""
    if value < 1:
        raise MaqdError(f"{flag} must be at least 1, got {value}")
    return value


def write_json(options: Options, values: Any) -> None:
    """Write `values` where --json says, if it was given."""
    if options.json is not None:
        write_text(options.json, json.dumps(values, indent=1))


def chosen_profiles(options: Options) -> list[Any]:
    """Return the energy profiles, by name or from TOML files, all built-in ones where none was chosen."""
    from maqd_snn.pricing import get_profile
    from maqd_snn.profiles import PROFILES

    profiles = [get_profile(name) for name in split_names(options.profile) or PROFILES]
    names = [profile.name for profile in profiles]
    for name in names:
        if names.count(name) > 1:
            raise MaqdError(f"two energy profiles are named {name!r}; give each its own name")
    return profiles


def chosen_formats(options: Options) -> list[str] | None:
    """Return the chosen export formats, or None for all."""
    from maqd_snn.neuromorphic import FORMATS

    names = split_names(options.format)
    if names == []:
        raise MaqdError(f"--format names no format; the choices are: {', '.join(FORMATS)}")
    for name in names or []:
        if name not in FORMATS:
            raise unknown_name("export format", name, FORMATS)
    return names


@dataclass(frozen=True)
class Started:
    """A run that can begin: its recipe, data and folder, the processes that train it, and the claim on the folder."""

    recipe: Recipe
    splits: Any
    out: Path
    execution: Any
    team: Any
    claim: ExitStack


def start_run(options: Options) -> Started | int:
    """Check everything, open the folder of the run, and join the processes that train it.

    Where several devices of this machine are asked for, the processes are started here: the result is their exit code.
    """
    from maqd_snn.datasets import load_splits
    from maqd_snn.runs import opened_run
    from maqd_snn.training import build_model
    from maqd_snn.training.launch import launch
    from maqd_snn.training.loop import shares
    from maqd_snn.training.teacher import load_teacher
    from maqd_snn.training.team import join, started_by_torchrun, writes

    recipe, execution = chosen_recipe(options), chosen_execution(options)
    if options.command == "run" and not recipe.foldable:
        raise MaqdError(
            "a float twin (--twin, states 'none') has no integer network, nor has group normalization; train it with: "
            "maqd train, then maqd eval"
        )
    splits = load_splits(recipe.dataset, options.data_root, download=options.download)
    build_model(recipe, splits)  # what is impossible is refused before anything is written
    load_teacher(recipe, splits)
    out: Path = options.out or Path("runs") / (recipe.name + "-twin" * options.twin)
    several = execution.processes > 1 and execution.nodes in (None, 1) and not started_by_torchrun()
    team = None if several else join(execution)
    shares(recipe, len(splits.train), execution.processes if team is None else team.size)
    with ExitStack() as claim:
        if writes():
            claim.enter_context(opened_run(out, recipe, options.resume, options.overwrite))
        if not several:
            return Started(recipe, splits, out, execution, team, claim.pop_all())
    arguments = [argument for argument in options.arguments if argument != "--overwrite"]
    return launch([*arguments, "--resume"], execution)


def write_report(
    options: Options, net: Any, splits: Any, simulation: Any, exports: Any, profiles: Any, out: Path
) -> Any:
    """Write report.json, report.html and the tables asked for into the run, print the report, and return it."""
    from maqd_snn.reporting.compare import compare
    from maqd_snn.reporting.html import html_report
    from maqd_snn.reporting.tables import counts_csv, energy_csv, latex_tables
    from maqd_snn.reporting.text import text_report
    from maqd_snn.runs import COUNTS_CSV, ENERGY_CSV, REPORT_HTML, REPORT_JSON, REPORT_TEX, kept_mapping, make_report

    report = make_report(net, splits, simulation, exports, profiles)
    if options.compare:
        report["compare"] = compare(net, splits.test.codes[: options.samples])
    if mapping := kept_mapping(out, net):
        report["mapping"] = mapping
    if options.csv:
        write_text(out / COUNTS_CSV, counts_csv(report))
        write_text(out / ENERGY_CSV, energy_csv(report))
    if options.latex:
        write_text(out / REPORT_TEX, latex_tables(report))
    write_text(out / REPORT_JSON, json.dumps(report, indent=1))
    write_text(out / REPORT_HTML, html_report(report))
    print(text_report(report))
    write_json(options, report)
    return report


def exit_code(report: Any) -> int:
    """Return 1 where an export or the fold check failed, else 0."""
    failed = any(entry["failed"] for entry in report["exports"])
    folded = report["provenance"].get("fold_check", {}).get("mismatches", 0) == 0
    return 0 if folded and not failed else 1
