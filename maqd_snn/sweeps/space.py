"""Search spaces: which fields of a recipe vary and how, and what is optimized.

Beside the fields of a recipe there are two axes: `width` multiplies every width of the plan, `depth` repeats every
layer.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from types import MappingProxyType

from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.training.config import FIELD_TYPES, Recipe, parse_field

Choice = int | float | str | bool | None

FIXED_FIELDS = ("name", "dataset")
PLAN_AXES = ("width", "depth")
SAMPLERS = ("grid", "tpe", "nsga2")
OBJECTIVES: Mapping[str, str] = MappingProxyType(
    {
        "accuracy": "maximize",
        "energy": "minimize",
        "synops": "minimize",
        "bytes": "minimize",
        "cores": "minimize",
    }
)
MOST_POINTS = 100_000


def scaled_plan(plan: str, width: float, depth: int) -> str:
    """Return the plan with every width multiplied, rounded half up and at least 1, and every layer repeated.

    >>> scaled_plan("32-64-M-128", 0.5, 1), scaled_plan("8-M-16", 1, 2)
    ('16-32-M-64', '8-8-M-16-16')
    """
    steps: list[str] = []
    for step in plan.split("-"):
        if step.isdecimal():
            steps += [str(max(1, math.floor(int(step) * width + 0.5)))] * depth
        else:
            steps.append(step)
    return "-".join(steps)


@dataclass(frozen=True)
class Axis:
    """One direction of a search space: choices, or numbers from `low` to `high`.

    Attributes:
        name: a field of a recipe, `width` or `depth`. choices: the values, or empty for a range. low, high: of a range,
        both included; whole numbers stay whole. log: drawn evenly in the logarithm.
    """

    name: str
    choices: tuple[Choice, ...] = ()
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        names = [*(name for name in FIELD_TYPES if name not in FIXED_FIELDS), *PLAN_AXES]
        if self.name not in names:
            raise unknown_name("field to vary", self.name, names)
        if self.choices:
            if len(set(map(repr, self.choices))) != len(self.choices):
                raise MaqdError(f"--vary {self.name} names a value twice: {self.choices}")
            return
        if self.low is None or self.high is None or not self.low < self.high < math.inf:
            raise MaqdError(f"--vary {self.name} expects a range low..high with low < high, or values")
        if self.log and self.low <= 0:
            raise MaqdError(f"--vary {self.name} has the logarithmic range {self.low}..{self.high}; start it above 0")


def parse_axis(text: str) -> Axis:
    """Return the axis that `FIELD=VALUES` stands for: values joined by commas, or `low..high`, `low..high:log`.

    >>> parse_axis("act_states=2,3,none").choices
    (2, 3, None)
    >>> parse_axis("lr=0.01..0.3:log")
    Axis(name='lr', choices=(), low=0.01, high=0.3, log=True)
    """
    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not values.strip():
        raise MaqdError(f"--vary expects FIELD=VALUE,VALUE,... or FIELD=LOW..HIGH, got {text!r}")
    span = re.fullmatch(r"\s*([^.,:]+(?:\.\d+)?)\.\.([^,:]+?)(:log)?\s*", values)
    if span:
        low, high = (_value(name, part) for part in span.group(1, 2))
        if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high)):
            raise MaqdError(f"--vary {name} has the range {values!r}, but {name} is no number; give its values")
        return Axis(name, low=low, high=high, log=span.group(3) is not None)  # type: ignore[arg-type]
    return Axis(name, tuple(_value(name, part.strip()) for part in values.split(",") if part.strip()))


def _value(name: str, text: str) -> Choice:
    if name in FIELD_TYPES:
        value: Choice = parse_field(name, text)
        return value
    if name not in PLAN_AXES:
        return Axis(name, (1,)).choices[0]  # raises, with the choices
    try:
        value = int(text) if name == "depth" else float(text)
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        raise MaqdError(f"--vary {name} expects numbers above 0, got {text!r}")
    return value


@dataclass(frozen=True)
class Space:
    """A base recipe and the axes along which it varies.

    With `scale_lr` the learning rate follows a varied batch size: lr = lr of the recipe * sqrt(B / B of the recipe).
    """

    recipe: Recipe
    axes: tuple[Axis, ...]
    scale_lr: bool = False

    def __post_init__(self) -> None:
        names = [axis.name for axis in self.axes]
        for name in names:
            if names.count(name) > 1:
                raise MaqdError(f"{name} is varied twice; give one --vary with all its values")
        if not self.axes:
            raise MaqdError("a sweep varies at least one field; give --vary FIELD=VALUES")

    def grid(self) -> Iterator[dict[str, Choice]]:
        """Yield every point; the last axis moves fastest.

        Raises:
            MaqdError: an axis is a range; there are more than 100,000 points.
        """
        for axis in self.axes:
            if not axis.choices:
                raise MaqdError(
                    f"a grid needs values, but {axis.name} has the range {axis.low}..{axis.high}; list values, or use "
                    "--sampler tpe or nsga2"
                )
        points = math.prod(len(axis.choices) for axis in self.axes)
        if points > MOST_POINTS:
            raise MaqdError(f"the grid has {points:,} points, more than {MOST_POINTS:,}; use --sampler tpe or nsga2")
        for values in product(*(axis.choices for axis in self.axes)):
            yield dict(zip((axis.name for axis in self.axes), values, strict=True))

    def at(self, point: Mapping[str, Choice]) -> Recipe:
        """Return the recipe of a point.

        Raises:
            MaqdError: no such network or training; the message says why.
        """
        values = {name: value for name, value in point.items() if name not in PLAN_AXES}
        recipe = replace(self.recipe, **values)  # type: ignore[arg-type]
        if self.scale_lr:
            recipe = replace(recipe, lr=recipe.lr * math.sqrt(recipe.batch_size / self.recipe.batch_size))
        if set(PLAN_AXES) & set(point):
            if recipe.plan is None:
                raise MaqdError("width and depth vary the plan, but the recipe has none; give --plan")
            width, depth = point.get("width", 1), point.get("depth", 1)
            assert isinstance(width, int | float)
            assert isinstance(depth, int)
            recipe = replace(recipe, plan=scaled_plan(recipe.plan, width, depth))
        return recipe


@dataclass(frozen=True)
class Spec:
    """What a study is; two workers join one study only if theirs is the same.

    Attributes:
        space: what varies. objectives: names of `OBJECTIVES`. sampler: grid, tpe or nsga2. profile: prices of `energy`.
        chip: whose cores are counted, or empty. seed: of the sampler. prune: stop hopeless trials early.
        twin: the float twin of the base recipe is trained, too, as a reference. images: train on the first so many
        images alone, or None for all.
    """

    space: Space
    objectives: tuple[str, ...] = ("accuracy", "energy")
    sampler: str = "grid"
    profile: str = "cmos45-int8"
    chip: str = ""
    seed: int = 0
    prune: bool = False
    twin: bool = True
    images: int | None = None

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise unknown_name("sampler", self.sampler, SAMPLERS)
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise unknown_name("objective", name, OBJECTIVES)
        if not self.objectives or len(set(self.objectives)) != len(self.objectives):
            raise MaqdError(f"--objectives expects different names, got {', '.join(self.objectives) or 'none'}")
        if "cores" in self.objectives and not self.chip:
            raise MaqdError("the objective cores needs a chip; give --chip (see: maqd chips)")
        if self.images is not None and self.images < 1:
            raise MaqdError(f"--images must be at least 1, got {self.images}")
        if self.sampler == "grid":
            next(self.space.grid())

    @property
    def points(self) -> int | None:
        """How many points the grid has; None without one."""
        if self.sampler != "grid":
            return None
        return math.prod(len(axis.choices) for axis in self.space.axes)

    def to_json(self) -> str:
        """Return the fields as JSON text, the same for the same study."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Spec":
        """Return what `to_json` wrote; raises MaqdError where the text is none of this version."""
        try:
            values = json.loads(text)
            space = values.pop("space")
            axes = tuple(Axis(**{**axis, "choices": tuple(axis["choices"])}) for axis in space["axes"])
            recipe = Recipe.from_dict(space["recipe"], "the study")
            values["objectives"] = tuple(values["objectives"])
            return Spec(Space(recipe, axes, space.get("scale_lr", False)), **values)
        except MaqdError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MaqdError(f"the storage holds a study that this version cannot read ({error})") from error


def difference(stored: Spec, given: Spec) -> str:
    """Return in words where two studies differ, or an empty text.

    >>> a = Spec(Space(Recipe("x", "digits"), (Axis("act_states", (2, 3)),)))
    >>> difference(a, replace(a, seed=1, space=replace(a.space, axes=(Axis("act_states", (2, 4)),))))
    'seed (0 there, 1 here), act_states (2,3 there, 2,4 here)'
    """
    words = [
        f"{name} ({getattr(stored, name)} there, {getattr(given, name)} here)"
        for name in Spec.__dataclass_fields__
        if name != "space" and getattr(stored, name) != getattr(given, name)
    ]
    mine, theirs = (asdict(spec.space.recipe) for spec in (given, stored))
    words += [f"{name} ({theirs[name]} there, {mine[name]} here)" for name in mine if mine[name] != theirs[name]]
    there, here = ({axis.name: _axis_text(axis) for axis in spec.space.axes} for spec in (stored, given))
    for name in dict.fromkeys([*there, *here]):
        if there.get(name) != here.get(name):
            words.append(f"{name} ({there.get(name, 'fixed')} there, {here.get(name, 'fixed')} here)")
    if not words and stored != given:
        words.append("the order of its axes")
    return ", ".join(words)


def _axis_text(axis: Axis) -> str:
    if axis.choices:
        return ",".join("none" if value is None else str(value) for value in axis.choices)
    return f"{axis.low}..{axis.high}" + ":log" * axis.log
