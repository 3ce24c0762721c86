"""`maqd run`: the main job."""

import argparse
import time
from typing import Any

from maqd_snn.commands.common import (
    Command,
    Options,
    Started,
    chosen_formats,
    chosen_profiles,
    exit_code,
    positive,
    report_options,
    start_run,
    training_options,
    write_report,
)


def _add_options(parser: argparse.ArgumentParser) -> None:
    training_options(parser)
    report_options(parser)
    parser.add_argument("--format", help="export formats, joined by commas (default: every one that can be written)")


def _run(options: Options) -> int:
    begun = time.perf_counter()
    profiles, formats = chosen_profiles(options), chosen_formats(options)
    samples = positive(options.samples, "--samples")
    started = start_run(options)
    if isinstance(started, int):
        return started
    with started.claim:
        return _work(options, started, begun, profiles, formats, samples)


def _work(options: Options, started: Started, begun: float, profiles: Any, formats: Any, samples: int) -> int:
    from maqd_snn.runs import export_run, fold_run, simulate_run, train

    recipe, splits, out = started.recipe, started.splits, started.out
    result = train(recipe, splits, out, options.resume, options.quiet, started.execution, started.team)
    if not result.writer:
        return 0
    net = fold_run(recipe, splits, result, out)
    simulation = simulate_run(net, splits)
    exports = export_run(net, out, splits.test.codes[:samples], formats)
    report = write_report(options, net, splits, simulation, exports, profiles, out)
    print(f"{time.perf_counter() - begun:.0f} s, everything in {out}")
    return exit_code(report)


COMMAND = Command("train, fold, simulate, price, export, verify and report: the main job", _add_options, _run)
