"""The command line. Each command is a thin shell over the library; wrong input is one sentence and exit code 2."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maqd_snn._version import __version__
from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.files import write_text
from maqd_snn.training.config import FIELD_TYPES, Recipe, override, parse_field
from maqd_snn.training.recipes import RECIPES, get_recipe

SETTABLE = tuple(name for name in FIELD_TYPES if name != "name")

Command = argparse.Namespace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 a check failed, 2 wrong input, 130 interrupted."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        _check_json(options)
        code: int = options.function(options)
    except MaqdError as error:
        print(f"maqd {options.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename!r}: " if error.filename else ""
        print(
            f"maqd {options.command}: {where}{error.strerror or error}; check the path and its rights", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        training = "recipe" in options
        print(f"maqd {options.command}: interrupted" + "; continue with --resume" * training, file=sys.stderr)
        return 130
    return code


def _check_json(options: Command) -> None:
    # Before the work, not after it.
    target: Path | None = getattr(options, "json", None)
    if target is not None and (target.is_dir() or not target.parent.is_dir()):
        raise MaqdError(f"--json expects a file in an existing folder, got {str(target)!r}")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="maqd",
        description="Train single-step spiking networks, fold them into integers exactly, count, price, export.",
        epilog="`maqd COMMAND --help` tells more. Start with: maqd run digits",
    )
    parser.add_argument("--version", action="version", version=f"maqd-snn {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    run = _command(commands, "run", _run, "train, fold, simulate, price, export, verify and report: the main job")
    _training_options(run)
    _report_options(run)
    run.add_argument("--format", help="export formats, joined by commas (default: every one that can be written)")

    train = _command(commands, "train", _train, "train a recipe and fold it into an integer network")
    _training_options(train)

    evaluate = _command(commands, "eval", _eval, "accuracy of a run's integer network (or float twin)")
    evaluate.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    evaluate.add_argument("--part", default="test", help="train, validation or test (default: test)")
    _data_options(evaluate)
    _json_option(evaluate)

    report = _command(commands, "report", _report, "simulate and price a run, write report.html and report.json")
    report.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    _report_options(report)
    _data_options(report)
    _json_option(report)

    export = _command(commands, "export", _export, "write a run's integer network in another format")
    export.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or a network.h5")
    export.add_argument("--format", required=True, help="see the choices below")
    export.add_argument("--out", type=Path, help="file to write (default: in the folder of the network)")
    export.epilog = _formats_text()

    verify = _command(commands, "verify", _verify, "run an exported file in a foreign runtime and compare class scores")
    verify.add_argument("file", type=Path, metavar="FILE", help="an exported file")
    verify.add_argument("--against", type=Path, help="folder of a run or network.h5 (default: beside FILE)")
    verify.add_argument("--samples", type=int, default=100, help="test images to compare (default: 100)")
    _data_options(verify)
    _json_option(verify)
    return parser


def _command(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(function=function)
    return parser


def _data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-root", type=Path, help="folder of the datasets (default: $MAQD_DATA_ROOT, else a cache)"
    )
    parser.add_argument("--download", action="store_true", help="fetch a dataset that is missing")


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON, too")


def _training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help=", ".join(RECIPES))
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="continue what the folder holds, if anything")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that the folder holds")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    _data_options(parser)
    _json_option(parser)
    for name in SETTABLE:
        parser.add_argument(_flag(name), dest=f"set_{name}", help=argparse.SUPPRESS)
    lines: list[str] = []
    line = ""
    for name in SETTABLE:
        if len(line) + len(_flag(name)) > 76:
            lines, line = [*lines, line], ""
        line += f"  {_flag(name)}"
    parser.epilog = "Every field of the recipe can be set, states to 'none' for the float twin:\n" + "\n".join(
        [*lines, line]
    )


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", help="energy profiles, joined by commas (default: all)")
    parser.add_argument("--samples", type=int, default=100, help="test images to verify exports on (default: 100)")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _formats_text() -> str:
    from maqd_snn.neuromorphic import FORMATS

    return "\n".join(["Formats:", *(f"  {name:8s} {entry.title}" for name, entry in FORMATS.items())])


def _recipe(options: Command) -> Recipe:
    texts = {name: getattr(options, f"set_{name}") for name in SETTABLE}
    values = {name: parse_field(name, text) for name, text in texts.items() if text is not None}
    return override(get_recipe(options.recipe), values)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _positive(value: int, flag: str) -> int:
    if value < 1:
        raise MaqdError(f"{flag} must be at least 1, got {value}")
    return value


def _write_json(options: Command, values: Any) -> None:
    if options.json is not None:
        write_text(options.json, json.dumps(values, indent=1))


def _profiles(options: Command) -> list[str]:
    from maqd_snn.pricing import get_profile
    from maqd_snn.profiles import PROFILES

    names = _names(options.profile) or list(PROFILES)
    return [get_profile(name).name for name in names]


def _formats(options: Command) -> list[str] | None:
    from maqd_snn.neuromorphic import FORMATS

    names = _names(options.format)
    if names == []:
        raise MaqdError(f"--format names no format; the choices are: {', '.join(FORMATS)}")
    for name in names or []:
        if name not in FORMATS:
            raise unknown_name("export format", name, FORMATS)
    return names


def _start(options: Command) -> tuple[Recipe, Any, Path]:
    from maqd_snn.datasets import load_splits
    from maqd_snn.runs import open_run
    from maqd_snn.training import build_model

    recipe = _recipe(options)
    if options.command == "run" and not recipe.foldable:
        raise MaqdError(
            "a float twin (states 'none') has no integer network; train it with: maqd train, then maqd eval"
        )
    splits = load_splits(recipe.dataset, options.data_root, download=options.download)
    build_model(recipe, splits)  # an impossible network is refused before anything is written
    out: Path = options.out or Path("runs") / recipe.name
    open_run(out, recipe, options.resume, options.overwrite)
    return recipe, splits, out


def _train(options: Command) -> int:
    from maqd_snn.runs import fold_run, train

    recipe, splits, out = _start(options)
    result = train(recipe, splits, out, options.resume, options.quiet)
    kind = "float twin, nothing to fold"
    if recipe.foldable:
        fold_run(recipe, splits, result, out)
        kind = "folded"
    best = result.best
    print(
        f"{recipe.name}: validation accuracy {best.validation_accuracy:.4f}, best epoch {best.epoch}; {kind}; in {out}"
    )
    _write_json(options, {"recipe": asdict(recipe), "history": [asdict(entry) for entry in result.history]})
    return 0


def _run(options: Command) -> int:
    from maqd_snn.runs import export_run, fold_run, simulate_run, train

    started = time.perf_counter()
    profiles, formats, samples = _profiles(options), _formats(options), _positive(options.samples, "--samples")
    recipe, splits, out = _start(options)
    net = fold_run(recipe, splits, train(recipe, splits, out, options.resume, options.quiet), out)
    simulation = simulate_run(net, splits)
    exports = export_run(net, out, splits.test.codes[:samples], formats)
    report = _write_report(options, net, splits, simulation, exports, profiles, out)
    print(f"{time.perf_counter() - started:.0f} s, everything in {out}")
    return _exit_code(report)


def _report(options: Command) -> int:
    from maqd_snn.datasets import load_splits
    from maqd_snn.runs import read_network, read_recipe, simulate_run, verify_run

    profiles, samples = _profiles(options), _positive(options.samples, "--samples")
    recipe = read_recipe(options.run)
    net = read_network(options.run)
    splits = load_splits(recipe.dataset, options.data_root, download=options.download)
    simulation = simulate_run(net, splits)
    exports = verify_run(net, options.run, splits.test.codes[:samples])
    return _exit_code(_write_report(options, net, splits, simulation, exports, profiles, options.run))


def _write_report(
    options: Command, net: Any, splits: Any, simulation: Any, exports: Any, profiles: Any, out: Path
) -> Any:
    from maqd_snn.reporting.html import html_report
    from maqd_snn.reporting.text import text_report
    from maqd_snn.runs import REPORT_HTML, REPORT_JSON, make_report

    report = make_report(net, splits, simulation, exports, profiles)
    write_text(out / REPORT_JSON, json.dumps(report, indent=1))
    write_text(out / REPORT_HTML, html_report(report))
    print(text_report(report))
    _write_json(options, report)
    return report


def _exit_code(report: Any) -> int:
    failed = any(entry["failed"] for entry in report["exports"])
    folded = report["provenance"].get("fold_check", {}).get("mismatches", 0) == 0
    return 0 if folded and not failed else 1


def _eval(options: Command) -> int:
    from maqd_snn.datasets import load_splits
    from maqd_snn.runs import count_right, read_recipe

    recipe = read_recipe(options.run)
    splits = load_splits(recipe.dataset, options.data_root, download=options.download)
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    if options.part not in parts:
        raise unknown_name("part", options.part, parts)
    right = count_right(options.run, recipe, splits, data := parts[options.part])
    kind = "integer network" if recipe.foldable else "float twin"
    print(f"{recipe.name}, {kind}, {options.part}: {right} of {len(data)} right, accuracy {right / len(data):.4f}")
    result = {"part": options.part, "right": right, "samples": len(data), "accuracy": right / len(data)}
    _write_json(options, {**result, "recipe": asdict(recipe)})
    return 0


def _export(options: Command) -> int:
    from maqd_snn.neuromorphic import export
    from maqd_snn.runs import FILE_OF_FORMAT, read_network

    names = _formats(options) or []
    if len(names) != 1:
        raise MaqdError(f"export writes one format at a time, got {', '.join(names)}")
    net = read_network(options.run)
    folder = options.run if options.run.is_dir() else options.run.parent
    target = options.out or folder / FILE_OF_FORMAT[names[0]]
    export(net, target, names[0])
    print(f"wrote {target} ({target.stat().st_size} bytes)")
    return 0


def _verify(options: Command) -> int:
    from maqd_snn.datasets import load_splits
    from maqd_snn.neuromorphic import verify
    from maqd_snn.runs import read_network

    samples = _positive(options.samples, "--samples")
    if not options.file.is_file():
        raise MaqdError(
            f"there is no exported file {str(options.file)!r}; write it with: maqd export RUN --format NAME"
        )
    net = read_network(options.against or options.file.parent)
    recipe = Recipe.from_dict(net.provenance.get("recipe"), "the network's provenance")
    splits = load_splits(recipe.dataset, options.data_root, download=options.download)
    check = verify(options.file, net, splits.test.codes[:samples])
    verdict = "OK" if check.ok else "FAILED"
    print(
        f"{verdict}: {check.mismatches} of {check.scores} class scores differ on {check.samples} samples, "
        f"{check.format} in {check.runtime}" + (f" ({check.note})" if check.note else "")
    )
    _write_json(options, check.to_dict())
    return 0 if check.ok else 1
