"""`maqd export`: a run's integer network in another format."""

import argparse
from pathlib import Path

from maqd_snn.commands.common import Command, Options, chosen_formats, formats_text
from maqd_snn.errors import MaqdError


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or a network.h5")
    parser.add_argument("--format", required=True, help="see the choices below")
    parser.add_argument("--out", type=Path, help="file to write (default: in the folder of the network)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.epilog = formats_text()


def _run(options: Options) -> int:
    from maqd_snn.neuromorphic import FORMATS, export
    from maqd_snn.runs import FILE_OF_FORMAT, read_network

    names = chosen_formats(options) or []
    if len(names) != 1:
        raise MaqdError(f"export writes one format at a time, got {', '.join(names)}")
    net = read_network(options.run)
    folder = options.run if options.run.is_dir() else options.run.parent
    target = options.out or folder / FILE_OF_FORMAT[names[0]]
    export(net, target, names[0], options.overwrite)
    for file in FORMATS[names[0]].files(target):
        print(f"wrote {file} ({file.stat().st_size} bytes)")
    return 0


COMMAND = Command("write a run's integer network in another format", _add_options, _run)
