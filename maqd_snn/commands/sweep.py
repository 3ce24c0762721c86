"""`maqd sweep`: one question, many trainings, any number of workers."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from maqd_snn.commands.common import (
    SETTABLE,
    Command,
    Options,
    data_options,
    flag,
    json_option,
    positive,
    recipe_fields_text,
    split_names,
    write_json,
)
from maqd_snn.errors import MaqdError

DEFAULT_SPACE = ("act_states=2,3,4,8", "weight_states=2,3,15")
DEFAULT_OBJECTIVES = "accuracy,energy"
JOURNAL = "journal.log"


def storage_options(parser: argparse.ArgumentParser) -> None:
    """Add where a study is."""
    parser.add_argument("--name", help="of the study in its storage (default: STUDY)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the study (default: sweeps/NAME)")
    parser.add_argument(
        "--storage",
        metavar="FILE|URL",
        help="journal file, or SQL URL as SQLAlchemy writes it (default: in the folder)",
    )
    parser.add_argument(
        "--records",
        type=Path,
        metavar="FILE",
        help="JSON file that keeps finished trials; those in it are not repeated",
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = f"{parser.prog} STUDY [options]"
    parser.add_argument("study", metavar="STUDY", help="a recipe, or any name with --recipe")
    parser.add_argument("--recipe", help="the recipe that varies (default: STUDY)")
    parser.add_argument(
        "--vary",
        action="append",
        metavar="FIELD=VALUES",
        help="a field and its values (2,3,4 or low..high or low..high:log); `width` multiplies the widths of the plan, "
        f"`depth` repeats its layers; repeatable (default: {' '.join(DEFAULT_SPACE)})",
    )
    parser.add_argument(
        "--objectives",
        default=DEFAULT_OBJECTIVES,
        help="accuracy, energy, synops, bytes, cores, joined by commas (default: accuracy,energy)",
    )
    parser.add_argument("--sampler", default="grid", help="grid, tpe or nsga2 (default: grid)")
    parser.add_argument("--trials", type=int, metavar="N", help="how many; more than before extends the study")
    parser.add_argument("--prune", action="store_true", help="stop trials that cannot win any more")
    parser.add_argument("--profile", default="cmos45-int8", help="prices of the energy (default: cmos45-int8)")
    parser.add_argument("--chip", default="", help="count the cores on this chip (see: maqd chips)")
    parser.add_argument("--no-twin", action="store_true", help="without the float twin as a reference")
    parser.add_argument("--images", type=int, metavar="N", help="train on the first N training images alone")
    parser.add_argument("--sampler-seed", type=int, default=0, metavar="N", help="of the sampler (default: 0)")
    worker_options(parser)
    storage_options(parser)
    data_options(parser)
    json_option(parser)
    for name in SETTABLE:
        parser.add_argument(flag(name), dest=f"set_{name}", help=argparse.SUPPRESS)
    parser.epilog = recipe_fields_text()


def worker_options(parser: argparse.ArgumentParser) -> None:
    """Add how many workers there are, and how they run."""
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes on this machine (default: 1)")
    parser.add_argument("--threads", type=int, metavar="N", help="of each worker (default: cores / workers)")
    parser.add_argument("--accelerator", default="auto", metavar="KIND", help="auto, cpu or cuda (auto: a GPU if any)")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)


def place_of(options: Options) -> tuple[str, Path, str]:
    """Return the name, the folder and the storage of a study."""
    name = options.name or options.study
    if not name or "/" in name or name in (".", ".."):
        raise MaqdError(f"a study needs a plain name, got {name!r}; give one with --name")
    folder: Path = options.out or Path("sweeps") / name
    return name, folder, options.storage or str(folder / JOURNAL)


def _spec(options: Options) -> Any:
    from maqd_snn.commands.common import field_overrides
    from maqd_snn.neuromorphic.hardware import get_chip
    from maqd_snn.pricing import get_profile
    from maqd_snn.sweeps.space import Space, Spec, parse_axis
    from maqd_snn.training.config import override
    from maqd_snn.training.recipes import get_recipe

    recipe = override(get_recipe(options.recipe or options.study), field_overrides(options))
    get_profile(options.profile)
    if options.chip:
        get_chip(options.chip)
    return Spec(
        Space(recipe, tuple(parse_axis(text) for text in options.vary or DEFAULT_SPACE)),
        objectives=tuple(split_names(options.objectives) or ()),
        sampler=options.sampler,
        profile=options.profile,
        chip=options.chip,
        seed=options.sampler_seed,
        prune=options.prune,
        twin=not options.no_twin,
        images=options.images,
    )


def _run(options: Options) -> int:
    if options.trials is not None:
        positive(options.trials, "--trials")
    return run_study(options, _spec(options))


def run_study(options: Options, spec: Any) -> int:
    """Work on a study, as a worker or as the one who starts them, and return the exit code."""
    from maqd_snn.datasets import load_splits
    from maqd_snn.sweeps.board import Board
    from maqd_snn.sweeps.trial import first_images
    from maqd_snn.training import Execution

    name, folder, storage = place_of(options)
    workers = positive(options.workers, "--workers")
    threads = positive(options.threads or max(1, (os.cpu_count() or 1) // workers), "--threads")
    execution = Execution(accelerator=options.accelerator, quiet=True)
    splits = first_images(load_splits(spec.space.recipe.dataset, options.data_root, download=options.download),
                          spec.images)  # fmt: skip
    make_folder(folder)
    board = Board(storage, name, spec)
    if options.worker is not None:
        import torch

        from maqd_snn.sweeps.worker import work

        torch.set_num_threads(threads)
        work(board, splits, folder, execution, options.worker, options.parent)
        return 0
    return _lead(options, board, folder, workers, threads)


def make_folder(folder: Path) -> None:
    """Make the folder of a study; raises MaqdError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MaqdError(
            f"cannot create the folder {str(folder)!r}: {error.strerror}; give another with --out"
        ) from error


def _lead(options: Options, board: Any, folder: Path, workers: int, threads: int) -> int:
    from maqd_snn.sweeps.crew import run_crew
    from maqd_snn.sweeps.progress import progress_line
    from maqd_snn.sweeps.records import records_of, write_records

    if options.records:
        board.adopt(records_of(options.records, board.spec))
    board.extend(options.trials)
    say = (lambda line: None) if options.quiet else (lambda line: print(line, file=sys.stderr, flush=True))
    left, number = run_crew(board, options.arguments, workers, threads, say)
    rows = board.rows()
    if options.records:
        write_records(options.records, board.spec, rows)
    print(f"{progress_line(rows, len(board.slots), board.spec.objectives)}; in {folder}")
    for row in rows:
        if row.outcome in ("skipped", "failed"):
            print(f"  trial {row.number} {point_text(row.point)} {row.outcome}: {row.reason}")
    write_json(options, {"rows": [_plain(row) for row in rows], "left": left})
    if number:
        print(f"maqd {options.command}: stopped; the same command goes on", file=sys.stderr)
        return 128 + number
    if left:
        print(
            f"maqd {options.command}: {left} trials are left, but no worker; the same command goes on", file=sys.stderr
        )
        return 1
    if failed := len({row.slot for row in rows if row.outcome == "failed"} - {row.slot for row in rows if row.result}):
        print(
            f"maqd {options.command}: {failed} trials failed, and are not tried again here; another study (--name) "
            "tries them, with the same --records for what is finished",
            file=sys.stderr,
        )
        return 1
    return 0


def point_text(point: Any) -> str:
    """Return a point of the space in words.

    >>> point_text({"act_states": 2, "weight_states": None})
    'act_states=2 weight_states=float'
    """
    return " ".join(f"{name}={'float' if value is None else value}" for name, value in point.items())


def _plain(row: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(row)


COMMAND = Command("train many networks of one space, with any number of workers on one storage", _add_options, _run)
