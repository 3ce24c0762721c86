"""`maqd train`: a recipe becomes a trained, folded network."""

import argparse
from dataclasses import asdict

from maqd_snn.commands.common import Command, Options, Started, start_run, training_options, write_json


def _add_options(parser: argparse.ArgumentParser) -> None:
    training_options(parser)


def _run(options: Options) -> int:
    started = start_run(options)
    if isinstance(started, int):
        return started
    with started.claim:
        return _train(options, started)


def _train(options: Options, started: Started) -> int:
    from maqd_snn.runs import fold_run, train

    recipe, splits, out = started.recipe, started.splits, started.out
    result = train(recipe, splits, out, options.resume, options.quiet, started.execution, started.team)
    if not result.writer:
        return 0
    kind = f"{recipe.kind}, nothing to fold"
    if recipe.foldable:
        fold_run(recipe, splits, result, out)
        kind = "folded"
    best = result.best
    print(
        f"{recipe.name}: validation accuracy {best.validation_accuracy:.4f}, best epoch {best.epoch}; {kind}; in {out}"
    )
    write_json(options, {"recipe": asdict(recipe), "history": [asdict(entry) for entry in result.history]})
    return 0


COMMAND = Command("train a recipe and fold it into an integer network", _add_options, _run)
