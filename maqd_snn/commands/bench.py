"""`maqd bench`: the measurements behind the documents, on this machine."""

import argparse
from importlib import import_module

from maqd_snn.benchmarks.table import BENCHES
from maqd_snn.commands.common import Command, Options
from maqd_snn.errors import unknown_name


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument(
        "rest", metavar="arguments", nargs=argparse.REMAINDER, help="of the benchmark; see: maqd bench NAME --help"
    )
    parser.epilog = "\n".join(f"{name:10s} {bench.text}" for name, bench in BENCHES.items())


def _run(options: Options) -> int:
    if options.name not in BENCHES:
        raise unknown_name("benchmark", options.name, BENCHES)
    # As it was typed: argparse leaves out a "--" that stands first.
    rest = options.arguments[options.arguments.index(options.name) + 1 :]
    code: int = import_module(f"maqd_snn.benchmarks.{BENCHES[options.name].module}").main(rest)
    return code


COMMAND = Command("run a benchmark of this library beside its peers", _add_options, _run)
