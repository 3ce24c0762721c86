"""`maqd verify`: an exported file in the runtimes that read its format."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from maqd_snn.commands.common import Command, Options, data_options, json_option, positive, write_json
from maqd_snn.errors import MaqdError
from maqd_snn.training.config import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from maqd_snn.integer import IntegerNetwork


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="an exported file")
    parser.add_argument(
        "--against", type=Path, help="folder of a run, or a file that maqd_snn.load reads (default: beside FILE)"
    )
    parser.add_argument(
        "--data", metavar="NAME|FILE.npy", help="dataset, or array of integer codes (default: the network's dataset)"
    )
    parser.add_argument("--samples", type=int, default=100, help="first test images or codes to compare (default: 100)")
    data_options(parser)
    json_option(parser)


def _codes(options: Options, net: "IntegerNetwork", samples: int) -> "Tensor":
    """Return the first input codes of what the options name."""
    from maqd_snn.datasets import load_splits

    if options.data is not None and options.data.endswith(".npy"):
        return _array(Path(options.data), samples)
    if options.data is None and net.provenance.get("recipe") is None:
        raise MaqdError("the network does not say what it was trained on; give --data NAME or --data CODES.npy")
    dataset = options.data or Recipe.from_dict(net.provenance["recipe"], "the network's provenance").dataset
    return load_splits(dataset, options.data_root, download=options.download).test.codes[:samples]


def _array(path: Path, samples: int) -> "Tensor":
    import numpy as np
    import torch

    try:
        codes = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MaqdError(f"{str(path)!r} is not there, damaged or no .npy array: {str(error)[:200]}") from error
    if codes.dtype.kind not in "iu" or codes.dtype.itemsize > 8 or codes.ndim == 0:
        raise MaqdError(f"{str(path)!r} holds {codes.dtype} of shape {codes.shape}, expected integer codes, one a row")
    return torch.from_numpy(codes[:samples].astype(np.int64))


def _run(options: Options) -> int:
    from maqd_snn.neuromorphic import verify
    from maqd_snn.runs import read_network

    samples = positive(options.samples, "--samples")
    if not options.file.is_file():
        raise MaqdError(
            f"there is no exported file {str(options.file)!r}; write it with: maqd export RUN --format NAME"
        )
    net = read_network(options.against or options.file.parent)
    found = verify(options.file, net, _codes(options, net, samples))
    for check in found.checks:
        if not check.ran:
            print(f"not run in {check.runtime}: {check.problem}")
            continue
        verdict = "OK" if check.ok else "FAILED"
        print(
            f"{verdict}: {check.mismatches} of {check.scores} {check.compared} differ on {check.samples} samples, "
            f"{check.format} in {check.runtime}" + (f" ({check.note})" if check.note else "")
        )
        wrong = [layer for layer in check.layers if layer.mismatches]
        if wrong:
            print(f"  the first op that differs: {wrong[0].name}, {wrong[0].mismatches} of {wrong[0].values} values")
    write_json(options, found.to_dict())
    return 0 if found.ok else 1


COMMAND = Command("run an exported file where it would run, and compare every class score", _add_options, _run)
