"""`maqd chips`: the chip descriptions, with the source of every figure."""

import argparse
from dataclasses import asdict

from maqd_snn.commands.common import Command, Options, json_option, write_json


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="a chip, or a TOML file (default: list all)")
    json_option(parser)


def _run(options: Options) -> int:
    from maqd_snn.neuromorphic.hardware import CHIPS, get_chip
    from maqd_snn.neuromorphic.hardware.text import text_chip

    if options.name is not None:
        chip = get_chip(options.name)
        print(text_chip(chip))
        figures = {key: asdict(figure) for key, figure in chip.figures.items()}
        write_json(options, {"name": chip.name, "title": chip.title, "figures": figures, "caveats": list(chip.caveats)})
        return 0
    chips = [get_chip(name) for name in CHIPS]
    for chip in chips:
        unknown = sum(figure.value is None for figure in chip.figures.values())
        print(f"{chip.name:16s} {chip.title:44s} {len(chip.figures):3d} figures, {unknown} of them unknown")
    write_json(options, [{"name": chip.name, "title": chip.title} for chip in chips])
    return 0


COMMAND = Command("list chips, or show one with the source of every figure", _add_options, _run)
