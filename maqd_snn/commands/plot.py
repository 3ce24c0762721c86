"""`maqd plot`: pictures of a run."""

import argparse
from pathlib import Path

from maqd_snn.commands.common import Command, Options, data_options
from maqd_snn.errors import MaqdError

LEVEL_IMAGES = 200  # validation images whose levels are counted


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the pictures (default: RUN)")
    data_options(parser)


def _run(options: Options) -> int:
    from maqd_snn.datasets import load_splits
    from maqd_snn.reporting import plots
    from maqd_snn.runs import PLOTS, read_network, read_recipe
    from maqd_snn.training.watching import LAYERS, METRICS

    recipe = read_recipe(options.run)
    out: Path = options.out or options.run
    if not out.is_dir():
        raise MaqdError(f"--out expects an existing folder, got {str(out)!r}")
    tables = []
    for name in (METRICS, LAYERS):
        file = options.run / name
        if not file.is_file():
            raise MaqdError(f"{str(options.run)!r} has no {name} yet; train it for an epoch first")
        tables.append(plots.read_table(file.read_text(encoding="utf-8")))
    states = f"{recipe.act_states}-state spikes, {recipe.weight_states}-state weights"
    title = f"{recipe.name}, {states if recipe.foldable else recipe.kind}"
    try:
        figures = {"curves": plots.curves(tables[0], tables[1], title)}
    except (KeyError, TypeError) as error:
        raise MaqdError(
            f"the tables of {str(options.run)!r} are damaged ({error!r}); train on to write them"
        ) from error
    if recipe.foldable and recipe.act_states is not None:
        net = read_network(options.run)
        splits = load_splits(recipe.dataset, options.data_root, download=options.download)
        levels = plots.level_counts(net, splits.validation.codes[:LEVEL_IMAGES])
        figures["weights"] = plots.histograms(plots.weight_counts(net), f"{title}: weight codes", "code")
        figures["levels"] = plots.histograms(levels, f"{title}: levels on {LEVEL_IMAGES} validation images", "level")
        figures["surrogate"] = plots.surrogate_shape(
            recipe.surrogate, recipe.act_states, recipe.signed, title, recipe.last_surrogate_width
        )
    for name, figure in figures.items():
        plots.save(figure, out / PLOTS[name])
        print(out / PLOTS[name])
    if len(figures) == 1:
        print("a float twin has no weight codes, levels or surrogate to draw")
    return 0


COMMAND = Command("draw a run: curves, weight codes, levels, surrogate", _add_options, _run)
