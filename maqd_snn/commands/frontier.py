"""`maqd frontier`: the networks of a study that no other beats, as a page, a picture and tables; and one of them."""

import argparse
import json
from pathlib import Path
from typing import Any

from maqd_snn.commands.common import Command, Options, data_options, json_option, write_json
from maqd_snn.commands.sweep import place_of, storage_options
from maqd_snn.errors import MaqdError, unknown_name

FILES = ("frontier.html", "frontier.png", "frontier.csv", "frontier.md", "frontier.tex", "frontier.json")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", help="name of a study")
    parser.add_argument("--cost", help="of the picture: energy, synops, bytes or cores (default: the study's)")
    parser.add_argument("--test", action="store_true", help="look at the test images with the networks of the fronts")
    parser.add_argument(
        "--check", action="store_true", help="fold, verify and count the networks of the fronts anew from their files"
    )
    parser.add_argument("--pick", metavar="BOUNDS", help='export one, as in --pick "energy<1uJ,accuracy>=90%%"')
    parser.add_argument("--format", help="of the picked network (default: a copy of its network.h5)")
    parser.add_argument("--to", type=Path, metavar="FILE", help="where the picked network goes (default: the study)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of a picked network")
    storage_options(parser)
    data_options(parser)
    json_option(parser)


def _run(options: Options) -> int:
    from maqd_snn.sweeps.board import Board
    from maqd_snn.sweeps.front import COSTS, front, fronts, networks

    if options.cost is not None and options.cost not in COSTS:
        raise unknown_name("cost", options.cost, COSTS)
    name, folder, storage = place_of(options)
    board = Board(storage, name)
    rows = board.rows()
    cost: str = options.cost or next((o for o in board.spec.objectives if o in COSTS), "energy")
    if not networks(rows):
        raise MaqdError(
            f"the study {name!r} has no finished network yet ({len(rows)} trials); let `maqd sweep {name}` go on"
        )
    if options.pick is not None:
        return _pick(options, rows, folder, cost)
    standing = [row for row in networks(rows) if row.number in fronts(rows)]
    checked = _look(options, board.spec, standing, folder) if options.test or options.check else {}
    values = frontier_values(name, board.spec, rows, checked)
    folder.mkdir(parents=True, exist_ok=True)
    for line in write_files(values, folder, cost):
        print(line)
    for row in front(rows, cost):
        print(f"  trial {row.number:4d}  {_figures(row, cost)}  {_point(row)}")
    write_json(options, values)
    failed = [number for number, found in checked.items() if not found.get("ok", True)]
    return 1 if failed else 0


def _figures(row: Any, cost: str) -> str:
    from maqd_snn.sweeps.progress import value_text

    return f"{value_text('accuracy', row.result['accuracy'])}  {value_text(cost, row.result[cost])}"


def _point(row: Any) -> str:
    from maqd_snn.reporting.frontier import point_text

    return point_text(row.point)


def frontier_values(name: str, spec: Any, rows: Any, checked: Any) -> dict[str, Any]:
    """Return everything that the page, the picture and the tables show, as plain values."""
    from collections import Counter
    from datetime import UTC, datetime

    from maqd_snn._version import __version__
    from maqd_snn.datasets import DATASETS
    from maqd_snn.sweeps.front import fronts, networks
    from maqd_snn.sweeps.rows import DONE, SURPLUS, TWIN

    standing = fronts(rows)
    found = networks(rows)
    twin = next((row.result["accuracy"] for row in rows if row.slot == TWIN and row.outcome == DONE), None)
    keys = ["accuracy", "energy", "synops", "effective_synops", "bytes", "cores", "weights", "dense_macs"]
    keys += ["dense_low_bit", "dense_int8", "network"]
    return {
        "name": name,
        "dataset": DATASETS[spec.space.recipe.dataset].card.title,
        "profile": spec.profile,
        "chip": spec.chip,
        "samples": found[0].result["samples"],
        "library": f"maqd-snn {__version__}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"{spec.space.recipe.name}, {spec.sampler}, {spec.space.recipe.epochs} epochs"
        + (f", the first {spec.images:,} training images" if spec.images else ""),
        "twin": twin,
        "counts": dict(Counter(row.outcome for row in rows if row.outcome != SURPLUS)),
        "networks": [
            {
                "number": row.number,
                "point": dict(row.point),
                **{key: row.result.get(key) for key in keys},
                "fronts": standing.get(row.number, []),
                "test": checked.get(row.number, {}).get("test"),
            }
            for row in found
        ],
    }


def write_files(values: Any, folder: Path, cost: str) -> list[Path]:
    """Write the page, the picture and the tables, and return where they are."""
    from maqd_snn.files import write_text
    from maqd_snn.reporting import frontier

    page, picture, csv, markdown, latex, plain = (folder / file for file in FILES)
    frontier.save_frontier_figure(values, picture, cost)
    write_text(page, frontier.frontier_html(values))
    write_text(csv, frontier.frontier_csv(values))
    write_text(markdown, frontier.frontier_markdown(values))
    write_text(latex, frontier.frontier_latex(values))
    write_text(plain, json.dumps(values, indent=1))
    return [page, picture, csv, markdown, latex, plain]


def _look(options: Options, spec: Any, rows: Any, folder: Path) -> dict[int, dict[str, Any]]:
    """Return, by number, what the files of the networks say: test accuracy, and whether all is as it was noted."""
    from maqd_snn.datasets import load_splits
    from maqd_snn.sweeps.checking import accuracy_on_test, check_network
    from maqd_snn.sweeps.trial import first_images

    recipe = spec.space.recipe
    splits = first_images(load_splits(recipe.dataset, options.data_root, download=options.download), spec.images)
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        run = run_folder(row, folder)
        found[row.number] = {}
        if options.test:
            found[row.number]["test"] = accuracy_on_test(run, splits)
        if options.check:
            said = check_network(run, row.result, spec, splits)
            found[row.number]["ok"] = said.ok
            print(f"trial {row.number}: {said.text}")
    return found


def run_folder(row: Any, folder: Path) -> Path:
    """Return the run folder of a finished trial.

    Raises:
        MaqdError: it is not here; the machine that trained it is named.
    """
    from maqd_snn.runs import NETWORK
    from maqd_snn.sweeps.owner import host_of
    from maqd_snn.sweeps.worker import TRIALS

    run: Path = folder / TRIALS / row.folder
    if not (run / NETWORK).is_file():
        missing = f"the network of trial {row.number} is not in {str(run)!r}; it "
        if not row.owner:
            raise MaqdError(missing + "was taken over from --records, which keep figures alone: train it without them")
        raise MaqdError(
            f"{missing}was trained on {host_of(row.owner)!r}: bring that folder here, or name the study's with --out"
        )
    return run


def _pick(options: Options, rows: Any, folder: Path, cost: str) -> int:
    import shutil

    from maqd_snn.files import atomic_path
    from maqd_snn.neuromorphic import FORMATS, export
    from maqd_snn.runs import FILE_OF_FORMAT, NETWORK, read_network
    from maqd_snn.sweeps.front import parse_conditions, pick

    if options.format is not None and options.format not in FORMATS:
        raise unknown_name("export format", options.format, FORMATS)
    row = pick(rows, parse_conditions(options.pick), cost)
    run = run_folder(row, folder)
    target = options.to or folder / (NETWORK if options.format is None else FILE_OF_FORMAT[options.format])
    if target.exists() and not options.overwrite:
        raise MaqdError(f"{str(target)!r} exists; give --overwrite or another --to")
    if options.format is None:
        with atomic_path(target) as temporary:
            shutil.copyfile(run / NETWORK, temporary)
    else:
        export(read_network(run), target, options.format, options.overwrite)
    print(f"trial {row.number}: {_point(row)}; {_figures(row, cost)}; its run is {run}")
    print(f"wrote {target} ({target.stat().st_size} bytes)")
    return 0


COMMAND = Command("the networks of a study that no other beats: page, picture, tables", _add_options, _run)
