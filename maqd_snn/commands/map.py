"""`maqd map`: does a run's network fit a chip, on which cores, and what does its traffic cost."""

import argparse
import json
from pathlib import Path
from typing import Any

from maqd_snn.commands.common import Command, Options, data_options, json_option, positive, write_json


def chip_options(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add the options that choose a chip."""
    parser.add_argument("--chip", required=required, help="name of a chip (see: maqd chips), or a TOML file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of a generic chip; repeatable"
    )


def chosen_plan(options: Options) -> Any:
    """Return the plan of the chosen network on the chosen chip, and the network."""
    from maqd_snn.neuromorphic.hardware import fit
    from maqd_snn.neuromorphic.hardware.chip import get_chip, parse_parameters
    from maqd_snn.runs import read_network

    positive(options.samples, "--samples")
    chip = get_chip(options.chip, parse_parameters(options.set))
    return fit(read_network(options.run), chip, advise=False)


def mapped_run(options: Options, plan: Any) -> Any:
    """Return a plan with its traffic on the data of the network; without its data, with one message a unit."""
    from maqd_snn.neuromorphic.hardware.report import map_network

    return map_network(plan, None if plan.fits is False else _codes(options, plan.job.net, options.samples))


def _codes(options: Options, net: Any, samples: int) -> Any:
    from maqd_snn.datasets import load_splits
    from maqd_snn.errors import MaqdError
    from maqd_snn.training.config import Recipe

    try:
        recipe = Recipe.from_dict(net.provenance.get("recipe"), "the network's provenance")
        codes = load_splits(recipe.dataset, options.data_root, download=options.download).test.codes[:samples]
    except MaqdError as error:
        print(f"\n  no data for the traffic: {error}")
        return None
    return [codes[first : first + 100] for first in range(0, len(codes), 100)]


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or a network.h5")
    chip_options(parser, required=True)
    parser.add_argument("--samples", type=int, default=100, help="test images to count traffic on (default: 100)")
    parser.add_argument("--no-figures", action="store_true", help="print only, write nothing into the run's folder")
    data_options(parser)
    json_option(parser)


def _into_report(folder: Path, mapped: Any, figure: Path | None) -> list[Path]:
    """Add the mapping to the report of a run, if there is one."""
    from maqd_snn.files import write_text
    from maqd_snn.neuromorphic.hardware.report import section
    from maqd_snn.reporting.html import html_report
    from maqd_snn.runs import REPORT_HTML, REPORT_JSON, read_report

    if not (folder / REPORT_JSON).is_file():
        return []
    report = read_report(folder)
    report["mapping"] = section(mapped, None if figure is None else figure.read_bytes(), report.get("mapping"))
    write_text(folder / REPORT_JSON, json.dumps(report, indent=1))
    write_text(folder / REPORT_HTML, html_report(report))
    return [folder / REPORT_HTML]


def _run(options: Options) -> int:
    from maqd_snn.files import write_text
    from maqd_snn.neuromorphic.hardware.fitting import advised
    from maqd_snn.neuromorphic.hardware.text import text_plan, text_remedies, text_traffic

    plan = chosen_plan(options)
    print(text_plan(plan), flush=True)  # the verdict waits neither for what would help, nor for the data
    if plan.fits is False:
        plan = advised(plan)
        print(f"\n{text_remedies(plan)}")
    mapped = mapped_run(options, plan)
    if mapped.cost is not None:
        print(f"\n{text_traffic(plan, mapped.cost)}")
    write_json(options, mapped.to_dict())
    if not options.no_figures:
        folder = options.run if options.run.is_dir() else options.run.parent
        name = mapped.plan.chip.name
        target = folder / f"map-{name}.json"
        write_text(target, json.dumps(mapped.to_dict(), indent=1))
        written = [target]
        if mapped.cost is not None:
            written.append(folder / f"map-{name}.png")
            from maqd_snn.neuromorphic.hardware.drawing import draw

            draw(mapped.cost, written[-1])
        written += _into_report(folder, mapped, written[-1] if mapped.cost is not None else None)
        print(f"\nwrote {', '.join(map(str, written))}")
    return 1 if mapped.plan.fits is False else 0


COMMAND = Command("does a run's network fit a chip: limits, cores, traffic", _add_options, _run)
