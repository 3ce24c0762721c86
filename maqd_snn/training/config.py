"""The configuration of a run: one frozen record, validated on construction; every field can be set by name."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from maqd_snn.datasets import check_name
from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.models import MODELS, Quantization
from maqd_snn.spike import check_activation_states
from maqd_snn.surrogate import SURROGATES
from maqd_snn.training.augment import AUGMENTATIONS
from maqd_snn.training.optimize import OPTIMIZERS, SCHEDULES
from maqd_snn.training.precision import PRECISIONS

# Values of fields that have another name today, in files of before.
FORMER: Mapping[str, Mapping[str, str]] = MappingProxyType({"precision": {"int8-forward": "fp32"}})
# What was done before there was the field, where it is not the default.
BEFORE: Mapping[str, Any] = MappingProxyType({"gain": 1.0})


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, and how; recipes are named functions.

    The defaults are the settings of docs/accuracy.md, those of `build` the method's. `lr` and `momentum` are Muon's:
    give AdamW a rate of its own, 6e-3 say.

    Attributes:
        name: of the recipe. dataset, model: names of a dataset (see `datasets.load`) and of
        `models.MODELS`. plan: layer widths.
        act_states, weight_states, edge_states: activation states, weight states of hidden and of first and last
        layers; None is the float twin. signed, norm, surrogate, surrogate_width, gain, bias, weight_step, learned_step,
        zero_sum, pool_first: see `build`. surrogate_width_end: to what the width changes evenly over the training.
        act_states_from, weight_states_from: the share of the steps, in [0, 1), that activations and weights are first
        trained in float, see `tape.Stage`; what is validated, kept and folded always has its states. act_states_first:
        how many states activations have in that share instead of float ones.
        zero_point: input code that stands for zero; None takes the mean code of the training images.
        epochs, seed: of the training. optimizer, lr, weight_decay (not Muon's), momentum (not AdamW's): of the updates.
        schedule: `onecycle` or `cosine`. warmup: share of the steps in which the learning rate rises.
        label_smoothing: in [0, 1). ema: decay of a moving average of the parameters, in [0, 1), which is then what is
        validated and kept, see `training.averaging`; 0 for none. teacher: folder of the run of a trained network for
        the same dataset. distillation: the share of the loss, up to 1, that its outputs have in place of the labels.
        temperature: what both logits are divided by for it, see `training.teacher`; the losses that are shown are those
        to the labels. augment: a name of `AUGMENTATIONS`.
        batch_size: of one step, over all devices together. accumulate: in how many parts, one after the other, each
        device takes its share of it; normalizations then see the samples of one part.
        sync_stats: normalizations take the statistics of all devices' samples together; else each those of its own.
        synops_penalty: weight of the share of connections that carry a spike in the loss, from 0, see
        `maqd_snn.penalty`; the losses that are shown are those without it. synops_target: the share, in [0, 1), up to
        which there is nothing to pay.
        precision: a name of `PRECISIONS`. compile: run training steps through `torch.compile`. deterministic: on a GPU,
        only convolutions that give the same bits each time.
        max_steps: end after this many steps, however many epochs that is.
    """

    name: str
    dataset: str
    model: str = "vgg"
    plan: str | None = None
    act_states: int | None = 2
    weight_states: int | None = 3
    edge_states: int | None = 255
    signed: bool = False
    norm: str = "lbn-channel-mean"
    surrogate: str = "triangle"
    surrogate_width: float = 1.0
    surrogate_width_end: float | None = None
    gain: float | None = None
    bias: float = 0.0
    weight_step: float | None = None
    learned_step: str | None = None
    zero_sum: bool = False
    pool_first: bool = True
    act_states_from: float = 0.0
    act_states_first: int | None = None
    weight_states_from: float = 0.0
    zero_point: int | None = None
    epochs: int = 10
    batch_size: int = 128
    seed: int = 0
    optimizer: str = "muon"
    lr: float = 0.1
    weight_decay: float = 1e-4
    momentum: float = 0.6
    schedule: str = "onecycle"
    warmup: float = 0.25
    label_smoothing: float = 0.1
    ema: float = 0.0
    teacher: str | None = None
    distillation: float = 0.0
    temperature: float = 4.0
    augment: str = "none"
    accumulate: int = 1
    sync_stats: bool = False
    synops_penalty: float = 0.0
    synops_target: float = 0.0
    precision: str = "fp32"
    compile: bool = False
    deterministic: bool = True
    max_steps: int | None = None

    def __post_init__(self) -> None:
        check_name(self.dataset)
        for kind, name, choices in (
            ("model", self.model, MODELS),
            ("surrogate", self.surrogate, SURROGATES),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("augmentation", self.augment, AUGMENTATIONS),
            ("precision", self.precision, PRECISIONS),
        ):
            if name not in choices:
                raise unknown_name(kind, name, choices)
        self.quantization()
        for field_name, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("max_steps", 1), ("seed", 0)):
            value = getattr(self, field_name)
            if value is not None and value < least:
                raise MaqdError(f"{field_name} must be at least {least}, got {value}")
        if self.batch_size % self.accumulate:
            raise MaqdError(f"batch_size must be a multiple of accumulate, got {self.batch_size} and {self.accumulate}")
        if self.seed >= 2**40:
            raise MaqdError(f"seed must be below 2^40, got {self.seed}")
        if not 0 < self.lr < math.inf:
            raise MaqdError(f"lr must be a finite number above 0, got {self.lr}")
        if not 0 <= self.synops_penalty < math.inf:
            raise MaqdError(f"synops_penalty must be a finite number from 0, got {self.synops_penalty}")
        if self.synops_target and not self.synops_penalty:
            raise MaqdError(f"synops_target {self.synops_target} needs a synops_penalty above 0 that acts beyond it")
        if not 0 < self.last_surrogate_width < math.inf:
            raise MaqdError(
                f"surrogate_width_end must be a finite number above 0, or none, got {self.surrogate_width_end}"
            )
        if not 0 <= self.distillation <= 1:
            raise MaqdError(f"distillation must lie in [0, 1], got {self.distillation}")
        if (self.teacher is None) != (self.distillation == 0):
            raise MaqdError(
                f"teacher and distillation go together: a run folder and a share above 0, got {self.teacher!r} and "
                f"{self.distillation}"
            )
        if not 0 < self.temperature < math.inf:
            raise MaqdError(f"temperature must be a finite number above 0, got {self.temperature}")
        for field_name in ("synops_penalty", "act_states_from", "weight_states_from"):
            if getattr(self, field_name) and self.norm == "groupnorm":
                raise MaqdError(f"{field_name} needs a normalization that folds, got groupnorm")
        for field_name in (
            *("weight_decay", "momentum", "warmup", "label_smoothing", "ema"),
            *("act_states_from", "weight_states_from", "synops_target"),
        ):
            if not 0 <= getattr(self, field_name) < 1:
                raise MaqdError(f"{field_name} must lie in [0, 1), got {getattr(self, field_name)}")
        if self.act_states_first is not None:
            self._check_first_states(check_activation_states(self.act_states_first))

    def _check_first_states(self, first: int) -> None:
        if not self.act_states_from:
            raise MaqdError(f"act_states_first {first} needs an act_states_from above 0: for what share of the steps")
        if self.act_states is None or first <= self.act_states:
            raise MaqdError(f"act_states_first must be above act_states, got {first} and {self.act_states}")

    @property
    def last_surrogate_width(self) -> float:
        """How wide the surrogate is in the end."""
        return self.surrogate_width if self.surrogate_width_end is None else self.surrogate_width_end

    @property
    def foldable(self) -> bool:
        """Whether the network folds: integer states throughout, a normalization that folds."""
        states = (self.act_states, self.weight_states, self.edge_states)
        return None not in states and self.norm != "groupnorm"

    @property
    def kind(self) -> str:
        """`integer network`, or in words what there is instead of one."""
        if self.foldable:
            return "integer network"
        if self.act_states is None and self.weight_states is None:
            return "float twin"
        return "group normalization" if self.norm == "groupnorm" else "partly float"

    def twin(self) -> "Recipe":
        """Return the float twin: the same network with float weights and ReLU, trained in the same way, untaught."""
        return replace(self, act_states=None, weight_states=None, act_states_first=None, teacher=None, distillation=0.0)

    def quantization(self) -> Quantization:
        """Return the states, normalization and surrogate that the model is built with; raises MaqdError."""
        return Quantization(
            act_states=self.act_states,
            weight_states=self.weight_states,
            edge_states=self.edge_states,
            signed=self.signed,
            norm=self.norm,
            surrogate=self.surrogate,
            surrogate_width=self.surrogate_width,
            gain=self.gain,
            bias=self.bias,
            weight_step=self.weight_step,
            learned_step=self.learned_step,
            zero_sum=self.zero_sum,
            pool_first=self.pool_first,
        )

    def to_json(self) -> str:
        """Return the fields as JSON text."""
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_dict(values: Any, where: str) -> "Recipe":
        """Return the recipe of plain values, as `to_json` writes them; `where` is named in errors.

        Raises:
            MaqdError: not a table of this form, a wrong type, or a value that construction refuses.
        """
        if not isinstance(values, dict):
            raise MaqdError(f"{where} holds no recipe")
        unknown = sorted(set(values) - set(FIELD_TYPES))
        if unknown or not {"name", "dataset"} <= set(values):
            raise MaqdError(f"{where} holds no recipe of this version (unknown or missing fields: {unknown})")
        for name, value in values.items():
            if not _fits(value, FIELD_TYPES[name]):
                raise MaqdError(f"{where}: the recipe's {name} has the value {value!r}, expected {_words(name)}")
        return Recipe(**of_today(values))


def of_today(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain values of a recipe as of today: under today's names, with what was done before a field.

    >>> of_today({"precision": "int8-forward"})
    {'gain': 1.0, 'precision': 'fp32'}
    """
    former = {name: FORMER.get(name, {}) for name in values}
    renamed = {
        name: former[name].get(value, value) if isinstance(value, str) else value for name, value in values.items()
    }
    return {**BEFORE, **renamed}


FIELD_TYPES: dict[str, tuple[type, ...]] = {
    name: get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for name, hint in get_type_hints(Recipe).items()
    if name in {f.name for f in fields(Recipe)}
}


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)


def _words(name: str) -> str:
    words = {int: "a whole number", float: "a number", str: "a name", bool: "true or false", type(None): "'none'"}
    return " or ".join(words[kind] for kind in FIELD_TYPES[name])


def parse_field(name: str, text: str) -> Any:
    """Return the value of the recipe field `name` that a command line's `text` stands for.

    >>> parse_field("act_states", "none"), parse_field("lr", "1e-3"), parse_field("signed", "true")
    (None, 0.001, True)
    """
    kinds = FIELD_TYPES[name]
    if type(None) in kinds and text.lower() == "none":
        return None
    if bool in kinds:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
    elif int in kinds or float in kinds:
        kind = int if int in kinds else float
        try:
            return kind(text)
        except ValueError:
            pass
    else:
        return text
    raise MaqdError(f"--{name.replace('_', '-')} expects {_words(name)}, got {text!r}")


def override(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """Return the recipe with some fields replaced."""
    return replace(recipe, **values)
