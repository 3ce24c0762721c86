"""`maqd plot`: pictures of a run."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from maqd_snn.commands.common import Command, Options, data_options
from maqd_snn.errors import MaqdError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVEL_IMAGES = 200  # so many validation images at most have their levels counted


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the pictures (default: RUN)")
    data_options(parser)


def _run(options: Options) -> int:
    from maqd_snn.datasets import load_splits
    from maqd_snn.reporting import plots
    from maqd_snn.runs import NETWORK, PLOTS, read_network, read_recipe
    from maqd_snn.training.watching import LAYERS, METRICS

    recipe = read_recipe(options.run)
    out: Path = options.out or options.run
    if not out.is_dir():
        raise MaqdError(f"--out expects an existing folder, got {str(out)!r}")
    tables = []
    for name, columns in ((METRICS, plots.EPOCH_COLUMNS), (LAYERS, plots.LAYER_COLUMNS)):
        file = options.run / name
        if not file.is_file():
            raise MaqdError(f"{str(options.run)!r} has no {name} yet; train it for an epoch first")
        tables.append(plots.read_drawn(file, columns))
    states = f"{recipe.act_states}-state spikes, {recipe.weight_states}-state weights"
    title = f"{recipe.name}, {states if recipe.foldable else recipe.kind}"

    def save(name: str, figure: "Figure") -> None:
        plots.save(figure, out / PLOTS[name])
        print(out / PLOTS[name])

    save("curves", plots.curves(tables[0], tables[1], title))
    if recipe.act_states is not None:
        surrogate = recipe.surrogate, recipe.act_states, recipe.signed, title, recipe.last_surrogate_width
        save("surrogate", plots.surrogate_shape(*surrogate))
    if not recipe.foldable:
        print(f"weight codes and levels are drawn of a folded network, and this one does not fold ({recipe.kind})")
        return 0
    if not (options.run / NETWORK).is_file():
        print(f"there is no {NETWORK} yet: weight codes and levels are drawn when the training has ended")
        return 0
    net = read_network(options.run)
    save("weights", plots.histograms(plots.weight_counts(net), f"{title}: weight codes", "code"))
    splits = load_splits(recipe.dataset, options.data_root, download=options.download)
    codes = splits.validation.codes[:LEVEL_IMAGES]
    on = f"levels in {NETWORK} on {len(codes)} validation images"
    save("levels", plots.histograms(plots.level_counts(net, codes), f"{title}: {on}", "level"))
    return 0


COMMAND = Command("draw a run: curves, weight codes, levels, surrogate", _add_options, _run)
