"""`maqd verify`: an exported file in the runtimes that read its format."""

import argparse
from pathlib import Path

from maqd_snn.commands.common import Command, Options, data_options, json_option, positive, write_json
from maqd_snn.errors import MaqdError
from maqd_snn.training.config import Recipe


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="an exported file")
    parser.add_argument("--against", type=Path, help="folder of a run or network.h5 (default: beside FILE)")
    parser.add_argument("--samples", type=int, default=100, help="test images to compare (default: 100)")
    data_options(parser)
    json_option(parser)


def _run(options: Options) -> int:
    from maqd_snn.datasets import load_splits
    from maqd_snn.neuromorphic import verify
    from maqd_snn.runs import read_network

    samples = positive(options.samples, "--samples")
    if not options.file.is_file():
        raise MaqdError(
            f"there is no exported file {str(options.file)!r}; write it with: maqd export RUN --format NAME"
        )
    net = read_network(options.against or options.file.parent)
    recipe = Recipe.from_dict(net.provenance.get("recipe"), "the network's provenance")
    splits = load_splits(recipe.dataset, options.data_root, download=options.download)
    found = verify(options.file, net, splits.test.codes[:samples])
    for check in found.checks:
        if not check.ran:
            print(f"not run in {check.runtime}: {check.problem}")
            continue
        verdict = "OK" if check.ok else "FAILED"
        print(
            f"{verdict}: {check.mismatches} of {check.scores} class scores differ on {check.samples} samples, "
            f"{check.format} in {check.runtime}" + (f" ({check.note})" if check.note else "")
        )
        wrong = [layer for layer in check.layers if layer.mismatches]
        if wrong:
            print(f"  the first op that differs: {wrong[0].name}, {wrong[0].mismatches} of {wrong[0].values} values")
    write_json(options, found.to_dict())
    return 0 if found.ok else 1


COMMAND = Command("run an exported file where it would run, and compare every class score", _add_options, _run)
