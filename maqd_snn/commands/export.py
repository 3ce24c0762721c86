"""`maqd export`: a run's integer network in another format."""

import argparse
from pathlib import Path

from maqd_snn.commands.common import Command, Options, chosen_formats, data_options, formats_text
from maqd_snn.commands.map import chip_options, chosen_plan, mapped_run
from maqd_snn.errors import MaqdError

CHIP_JSON = "chip-json"


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or a network.h5")
    parser.add_argument("--format", required=True, help="see the choices below")
    parser.add_argument("--out", type=Path, help="file to write (default: in the folder of the network)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    chip_options(parser, required=False)
    parser.add_argument("--samples", type=int, default=100, help="chip-json: test images to place by (default: 100)")
    data_options(parser)
    parser.epilog = f"{formats_text()}\n  {CHIP_JSON:20s} the network placed on a chip, core by core; needs --chip"


def _export_chip(options: Options) -> int:
    from maqd_snn.neuromorphic.hardware import write_description
    from maqd_snn.neuromorphic.hardware.text import verdict

    if options.chip is None:
        raise MaqdError("--format chip-json needs a chip: give --chip NAME; maqd chips lists them")
    folder = options.run if options.run.is_dir() else options.run.parent
    mapped = mapped_run(options, chosen_plan(options))
    if mapped.cost is None:
        raise MaqdError(f"the network {verdict(mapped.plan)}; see: maqd map {options.run} --chip {options.chip}")
    target = options.out or folder / f"network.{mapped.plan.chip.name}.json"
    if target.exists() and not options.overwrite:
        raise MaqdError(f"{str(target)!r} exists; give --overwrite or another --out")
    write_description(mapped.cost.placement, target)
    print(f"wrote {target} ({target.stat().st_size} bytes): {verdict(mapped.plan)}")
    return 0


def _run(options: Options) -> int:
    if options.format == CHIP_JSON:
        return _export_chip(options)
    if options.chip is not None:
        raise MaqdError(f"--chip belongs to --format {CHIP_JSON}, got --format {options.format}")
    from maqd_snn.files import size_of
    from maqd_snn.neuromorphic import FORMATS, export
    from maqd_snn.runs import FILE_OF_FORMAT, read_network

    names = chosen_formats(options) or []
    if len(names) != 1:
        raise MaqdError(f"export writes one format at a time, got {', '.join(names)}")
    net = read_network(options.run)
    folder = options.run if options.run.is_dir() else options.run.parent
    target = options.out or folder / FILE_OF_FORMAT[names[0]]
    export(net, target, names[0], options.overwrite)
    for path in FORMATS[names[0]].files(target):
        print(f"wrote {path} ({size_of(path)} bytes)")
    return 0


COMMAND = Command("write a run's integer network in another format", _add_options, _run)
