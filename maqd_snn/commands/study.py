"""`maqd study`: a named study of the method, with seeds, on the engine of `maqd sweep`; its tables and heat map."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maqd_snn.commands.common import (
    SETTABLE,
    Command,
    Options,
    data_options,
    field_overrides,
    flag,
    json_option,
    positive,
    recipe_fields_text,
    write_json,
)
from maqd_snn.commands.sweep import make_folder, place_of, run_study, storage_options, worker_options

DEFAULT_RECIPE = "cifar10-small"
FILES = ("study.csv", "study.md", "study.tex", "study.json", "study.png")


def _add_options(parser: argparse.ArgumentParser) -> None:
    from maqd_snn.sweeps.studies import STUDIES

    parser.usage = f"{parser.prog} STUDY [options]"
    parser.add_argument("study", metavar="STUDY", help="; ".join(f"{n}: {s.title}" for n, s in STUDIES.items()))
    parser.add_argument("--recipe", default=DEFAULT_RECIPE, help=f"what is trained (default: {DEFAULT_RECIPE})")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="trainings of each cell (default: 2)")
    parser.add_argument("--full", action="store_true", help="the recipe's own size, for a GPU")
    parser.add_argument("--images", type=int, metavar="N", help="train on the first N training images alone")
    parser.add_argument(
        "--tables", action="store_true", help="train nothing; tables of any study as far as it is, or of --records"
    )
    worker_options(parser)
    storage_options(parser)
    data_options(parser)
    json_option(parser)
    for name in SETTABLE:
        parser.add_argument(flag(name), dest=f"set_{name}", help=argparse.SUPPRESS)
    parser.epilog = recipe_fields_text()


def _run(options: Options) -> int:
    from maqd_snn.sweeps.studies import study_spec

    options.trials = None
    if options.out is None and options.name is None and options.recipe != DEFAULT_RECIPE:
        options.out = Path("sweeps") / f"{options.study}-{options.recipe}"
    if options.tables:
        return _tables(options)
    seeds = positive(options.seeds, "--seeds")
    spec = study_spec(options.study, options.recipe, seeds, options.full, field_overrides(options), options.images)
    code = run_study(options, spec)
    if options.worker is not None or code:
        return code
    return _tables(options)


def _tables(options: Options) -> int:
    from maqd_snn.errors import MaqdError
    from maqd_snn.sweeps.board import Board
    from maqd_snn.sweeps.records import read_records
    from maqd_snn.sweeps.studies import STUDIES, cells

    name, folder, storage = place_of(options)
    if options.records and options.tables:
        spec, rows = read_records(options.records)
    else:
        board = Board(storage, name)
        spec, rows = board.spec, board.rows()
    axes = [axis.name for axis in spec.space.axes if axis.name != "seed"]
    if options.study in STUDIES and axes != (asked := [axis.name for axis in STUDIES[options.study].axes]):
        raise MaqdError(
            f"these trainings vary {', '.join(axes)}; the study {options.study!r} varies {', '.join(asked)}: give the "
            "name, --out or --records of the same study"
        )
    found = [asdict(cell) for cell in cells(rows, () if spec.points is None else spec.space.grid())]
    if not any(cell["count"] for cell in found):
        reasons = dict.fromkeys(cell["reason"] for cell in found if cell["reason"])
        raise MaqdError(
            f"no training of the study {name!r} is finished"
            + (f": {'; '.join(reasons)}" if reasons else " yet; let it go on")
        )
    make_folder(folder)
    for path in write_tables(found, _title(name, spec, sum(cell["count"] for cell in found)), folder):
        print(path)
    print((folder / FILES[1]).read_text(encoding="utf-8"))
    write_json(options, found)
    return 0


def _title(name: str, spec: Any, done: int) -> str:
    recipe = spec.space.recipe
    images = f", up to {spec.images:,} images" if spec.images else ""
    missing = f", {done} of {spec.points} trainings" if spec.points not in (None, done) else ""
    return f"{name}: {recipe.name} {recipe.plan}, {recipe.epochs} epochs{images}{missing}"


def write_tables(cells: Any, title: str, folder: Path) -> list[Path]:
    """Write the tables, and the heat map where the study has two axes; return where they are."""
    from maqd_snn.files import write_text
    from maqd_snn.reporting import study_tables

    csv, markdown, latex, plain, picture = (folder / file for file in FILES)
    write_text(csv, study_tables.study_csv(cells))
    write_text(markdown, study_tables.study_markdown(cells, title))
    write_text(latex, study_tables.study_latex(cells, title))
    write_text(plain, json.dumps({"title": title, "cells": cells}, indent=1))
    if len(cells[0]["point"]) != 2:
        return [csv, markdown, latex, plain]
    study_tables.save_heat_map(cells, title, picture)
    return [csv, markdown, latex, plain, picture]


COMMAND = Command("a named study of the method, with seeds: tables and a heat map", _add_options, _run)
