"""`maqd report`: counts, prices and the page of a run."""

import argparse
from pathlib import Path

from maqd_snn.commands.common import (
    Command,
    Options,
    chosen_profiles,
    data_options,
    exit_code,
    json_option,
    positive,
    report_options,
    write_report,
)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    report_options(parser)
    data_options(parser)
    json_option(parser)


def _run(options: Options) -> int:
    from maqd_snn.datasets import load_splits
    from maqd_snn.runs import read_network, read_recipe, simulate_run, verify_run

    profiles, samples = chosen_profiles(options), positive(options.samples, "--samples")
    recipe = read_recipe(options.run)
    net = read_network(options.run)
    splits = load_splits(recipe.dataset, options.data_root, download=options.download)
    simulation = simulate_run(net, splits)
    exports = verify_run(net, options.run, splits.test.codes[:samples])
    return exit_code(write_report(options, net, splits, simulation, exports, profiles, options.run))


COMMAND = Command("simulate and price a run, write report.html and report.json", _add_options, _run)
