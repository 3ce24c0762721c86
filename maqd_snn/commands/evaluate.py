"""`maqd eval`: the accuracy of a run."""

import argparse
from dataclasses import asdict
from pathlib import Path

from maqd_snn.commands.common import Command, Options, data_options, json_option, write_json
from maqd_snn.errors import unknown_name


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--part", default="test", help="train, validation or test (default: test)")
    data_options(parser)
    json_option(parser)


def _run(options: Options) -> int:
    from maqd_snn.datasets import load_splits
    from maqd_snn.datasets.registry import find_entry
    from maqd_snn.datasets.root import data_root
    from maqd_snn.runs import count_recordings, count_right, read_recipe

    recipe = read_recipe(options.run)
    splits = load_splits(recipe.dataset, options.data_root, download=options.download)
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    if options.part not in parts:
        raise unknown_name("part", options.part, parts)
    right = count_right(options.run, recipe, splits, data := parts[options.part])
    print(
        f"{recipe.name}, {recipe.kind}, {options.part}: {right} of {len(data)} right, accuracy {right / len(data):.4f}"
    )
    result = {"part": options.part, "right": right, "samples": len(data), "accuracy": right / len(data)}
    frames = getattr(find_entry(recipe.dataset, data_root(options.data_root)), "frames", 1)
    if frames > 1:  # a recording is a stream of them, classified one step each
        recordings = len(data) // frames
        right = count_recordings(options.run, recipe, splits, data, frames)
        print(
            f"by the sum of {frames} steps: {right} of {recordings} recordings right, accuracy {right / recordings:.4f}"
        )
        result |= {"recordings": recordings, "recordings_right": right}
    write_json(options, {**result, "recipe": asdict(recipe)})
    return 0


COMMAND = Command("accuracy of a run's integer network (or float twin)", _add_options, _run)
