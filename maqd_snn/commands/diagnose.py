"""`maqd diagnose`: where a trained network loses accuracy to its float twin, and what its layers do."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maqd_snn.commands.common import Command, Options, data_options, json_option, positive, write_json
from maqd_snn.errors import MaqdError

if TYPE_CHECKING:
    from maqd_snn.training import Recipe

BATCH = 250
PARTS = ("validation", "test")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run with states")
    parser.add_argument("--twin", type=Path, metavar="RUN", help="folder of its float twin (train it with --twin)")
    parser.add_argument("--part", default="validation", help="validation or test (default: validation)")
    parser.add_argument(
        "--images", type=int, default=2000, metavar="N", help="of that part, and of the training images"
    )
    parser.add_argument("--directions", type=int, default=24, metavar="N", help="random ones a layer (default: 24)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for diagnosis.json and .png (default: RUN)")
    data_options(parser)
    json_option(parser)


def _run(options: Options) -> int:
    from maqd_snn.files import write_text
    from maqd_snn.reporting import plots
    from maqd_snn.runs import DIAGNOSIS_JSON, DIAGNOSIS_PNG, read_recipe

    recipe = read_recipe(options.run)
    out: Path = options.out or options.run
    if not out.is_dir():
        raise MaqdError(f"--out expects an existing folder, got {str(out)!r}")
    values = diagnose(options)
    print(diagnosis_text(values))
    write_text(out / DIAGNOSIS_JSON, json.dumps(values, indent=1))
    write_json(options, values)
    states = f"{recipe.act_states or 'float'} activation and {recipe.weight_states or 'float'} weight states"
    plots.save(plots.diagnosis(values, f"{recipe.name}: {states}"), out / DIAGNOSIS_PNG)
    print(out / DIAGNOSIS_PNG)
    return 0


def batches(codes: Any, labels: Any) -> Any:
    """Yield both tensors, `BATCH` rows at a time."""
    for start in range(0, len(codes), BATCH):
        yield codes[start : start + BATCH], labels[start : start + BATCH]


def diagnose(options: Options) -> dict[str, Any]:
    """Return everything that `diagnosis.json` holds, as plain values."""
    import torch

    from maqd_snn import diagnosis
    from maqd_snn.datasets import load_splits
    from maqd_snn.errors import unknown_name
    from maqd_snn.runs import read_model, read_recipe

    recipe, images = read_recipe(options.run), positive(options.images, "--images")
    if options.part not in PARTS:
        raise unknown_name("part", options.part, PARTS)
    if recipe.act_states is None and recipe.weight_states is None:
        raise MaqdError(f"{str(options.run)!r} is a float twin, in which nothing is quantized; give a run with states")
    diagnosis.check_directions(options.directions)
    apart = None if options.twin is None else twin_differences(recipe, read_recipe(options.twin), str(options.twin))
    splits = load_splits(recipe.dataset, options.data_root, download=options.download)
    model = read_model(options.run, splits)
    data = splits.validation if options.part == "validation" else splits.test
    test = list(batches(data.codes[:images], data.labels[:images]))
    train = splits.train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:images]
    calibration = list(batches(train.codes[order], train.labels[order]))
    codes, labels = calibration[0]
    twin = None if options.twin is None else diagnosis.accuracy(read_model(options.twin, splits), test)
    switches = diagnosis.switches(model, calibration, test)
    return {
        "recipe": asdict(recipe),
        "part": options.part,
        "images": sum(len(labels) for _, labels in test),
        "accuracy": diagnosis.accuracy(model, test),
        "twin": twin,
        "twin_differences": apart,
        "switches": [{**asdict(switch), "label": label(switch.groups)} for switch in switches],
        "levels": [{**asdict(of), "rate": of.rate} for of in diagnosis.levels(model, test)],
        "errors": [asdict(of) for of in diagnosis.quantization_errors(model, test)],
        "gradients": [
            asdict(of)
            for of in diagnosis.gradient_agreement(
                model, codes, labels, options.directions, generator=torch.Generator().manual_seed(0)
            )
        ],
    }


def twin_differences(recipe: "Recipe", twin: "Recipe", where: str) -> list[str]:
    """Return the fields but the seed in which a float twin was trained in another way than that of `recipe` would be.

    Raises:
        MaqdError: no float twin, or that of another network.
    """
    if twin.dataset != recipe.dataset or twin.kind != "float twin":
        raise MaqdError(f"{where!r} is no float twin on {recipe.dataset}; train it with --twin")
    expected, found = asdict(recipe.twin()), asdict(twin)
    for name in ("model", "plan"):
        if found[name] != expected[name]:
            raise MaqdError(
                f"{where!r} is the float twin of another network: its {name} is {found[name]}, not {expected[name]}"
            )
    # The fields without which a float network trains just the same.
    ignored = {"name", "seed", "compile", "deterministic", "surrogate", "surrogate_width", "surrogate_width_end"}
    ignored |= {"weight_step", "learned_step", "zero_sum", "act_states_from", "weight_states_from", "signed"}
    ignored |= {"gain", "bias", "edge_states", "synops_penalty", "synops_target"}
    return [
        f"{name} {found[name]} in place of {value}"
        for name, value in expected.items()
        if name not in ignored and found[name] != value
    ]


def label(groups: tuple[str, ...]) -> str:
    """Return the words for the groups that are in float.

    >>> label(()), label(("weights", "first"))
    ('as trained', 'weights + first in float')
    """
    return " + ".join(groups) + " in float" if groups else "as trained"


def diagnosis_text(values: dict[str, Any]) -> str:
    """Return what is printed."""
    base = values["switches"][0]["accuracy"]
    lines = [f"accuracy on {values['images']} {values['part']} images (statistics taken anew), %"]
    rows = [(row["label"], row["accuracy"]) for row in values["switches"]]
    if values["twin"] is not None:
        rows.append(("float twin", values["twin"]))
    lines += [f"  {text:46s} {100 * of:6.2f}  {100 * (of - base):+6.2f}" for text, of in rows]
    if values["twin"] is not None:
        last = values["switches"][-1]["accuracy"]
        lines.append(
            f"loss to the twin {100 * (values['twin'] - base):.2f} points: rounding of the trained network "
            f"{100 * (last - base):.2f}, its training {100 * (values['twin'] - last):.2f}"
        )
    if values["twin_differences"]:
        lines.append(f"that twin was trained in another way: {', '.join(values['twin_differences'])}")
    lines.append("layer                 firing  dead  saturated  of channels")
    lines += [
        f"  {row['name']:18s} {100 * row['rate']:6.1f} % {row['dead']:5d} {row['saturated']:10d} {row['channels']:12d}"
        for row in values["levels"]
    ]
    lines.append("layer                 quantization error   by clipping")
    lines += [f"  {r['name']:18s} {100 * r['error']:17.2f} % {100 * r['clipped']:12.2f} %" for r in values["errors"]]
    lines.append("layer                 gradient: slope  correlation")
    lines += [
        f"  {row['name']:18s} {row['parameter']:8s} {row['slope']:7.2f} {row['correlation']:12.2f}"
        for row in values["gradients"]
    ]
    return "\n".join(lines)


COMMAND = Command("where a run loses accuracy: groups in float, levels, errors, gradients", _add_options, _run)
