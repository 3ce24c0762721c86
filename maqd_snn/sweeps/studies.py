"""The studies of the method: named spaces on the engine of the sweeps, with seeds; and what their cells come to."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from types import MappingProxyType
from typing import Any

from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.sweeps.rows import DONE, TWIN, Row
from maqd_snn.sweeps.space import Axis, Space, Spec
from maqd_snn.training.recipes import get_recipe

PLANS: Mapping[str, str] = MappingProxyType(  # of the default size, for each model
    {"vgg": "16-M-32-M-64", "resnet": "16-32-64", "mlp": "64-64"}
)


@dataclass(frozen=True)
class Study:
    """A question about the method.

    Attributes:
        title: the question. axes: what varies, the rows of its table first, then its columns. images, epochs: of the
        default size, for CPU cores, with the plan of `PLANS`; the full size is the recipe's own. scale_lr: see `Space`.
    """

    title: str
    axes: tuple[Axis, ...]
    images: int = 10_000
    epochs: int = 4
    scale_lr: bool = False


STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        "states": Study(
            "activation and weight states",
            (Axis("act_states", (2, 3, 4, 8, 16, None)), Axis("weight_states", (2, 3, 4, 15, None))),
        ),
        "normalization": Study(
            "normalizations at batch sizes from 1 to 128",
            (
                Axis("norm", ("lbn", "lbn-sample", "lbn-channel-mean", "batchnorm", "groupnorm")),
                Axis("batch_size", (1, 2, 8, 32, 128)),
            ),
            images=20_000,
            scale_lr=True,
        ),
        "surrogate": Study(
            "surrogates and their widths",
            (
                Axis("surrogate", ("rectangle", "triangle", "sigmoid", "arctan", "s3nn")),
                Axis("surrogate_width", (0.5, 1.0, 2.0)),
            ),
        ),
        "first-last": Study(
            "weight states of the first and last layer",
            (Axis("act_states", (2, 4)), Axis("edge_states", (2, 3, 15, 255))),
        ),
    }
)


def study_spec(name: str, recipe: str, seeds: int, full: bool, fields: Mapping[str, Any], images: int | None) -> Spec:
    """Return what a named study is on a recipe; `fields` of the recipe and `images` win over the study's size.

    Raises:
        MaqdError: no such study or recipe, or a field that the study varies itself.
    """
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES)
    study = STUDIES[name]
    axes = (*study.axes, Axis("seed", tuple(range(seeds))))
    for axis in axes:
        if axis.name in fields:
            raise MaqdError(
                f"the study {name!r} varies {axis.name} itself; leave it out, or ask your own question with maqd sweep"
            )
    base = get_recipe(recipe)
    if not full:
        base = replace(base, epochs=study.epochs, plan=PLANS.get(fields.get("model", base.model)))
        images = study.images if images is None else images
    space = Space(replace(base, **fields), axes, study.scale_lr)
    return Spec(space, objectives=("accuracy",), twin=False, images=images)


@dataclass(frozen=True)
class Cell:
    """The trainings of one point with all its seeds.

    Attributes:
        point: the values of the axes without the seed. count: seeds that are finished. mean, deviation: of the
        validation accuracy, the deviation None for one seed. energy, synops: means per image in pJ and number, None
        without an integer network. reason: why a training of the cell came to nothing.
    """

    point: Mapping[str, Any]
    count: int
    mean: float | None
    deviation: float | None
    energy: float | None
    synops: float | None
    reason: str = ""


def cells(rows: Sequence[Row], grid: Iterable[Mapping[str, Any]] = ()) -> list[Cell]:
    """Return the cells of a study in the order of its grid; with `grid`, the points, also those without a trial."""
    groups: dict[tuple[tuple[str, Any], ...], list[Row]] = {_key(point): [] for point in grid}
    ordered = sorted((row for row in rows if row.slot not in ("", TWIN)), key=lambda row: (int(row.slot), row.number))
    for row in ordered:
        groups.setdefault(_key(row.point), []).append(row)
    return [_cell(dict(key), group) for key, group in groups.items()]


def _key(point: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, value) for name, value in point.items() if name != "seed")


def _cell(point: Mapping[str, Any], group: Sequence[Row]) -> Cell:
    done = [row.result for row in group if row.outcome == DONE]
    finished = {row.slot for row in group if row.outcome == DONE}
    accuracies = [result["accuracy"] for result in done]
    return Cell(
        point,
        len(done),
        mean(accuracies) if done else None,
        stdev(accuracies) if len(done) > 1 else None,
        _mean(done, "energy"),
        _mean(done, "synops"),
        next((row.reason for row in group if row.reason and row.slot not in finished), ""),
    )


def _mean(done: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [result.get(name) for result in done]
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None
