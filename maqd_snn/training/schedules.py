"""What changes while a training runs. Each is a pure function of its progress, so there is nothing to resume."""

from maqd_snn.tape import Stage
from maqd_snn.training.config import Recipe


def stage_at(recipe: Recipe, progress: float) -> Stage:
    """Return what is still in float at `progress` in [0, 1): the share of the steps that are done.

    >>> recipe = Recipe(name="late", dataset="digits", weight_states_from=0.2, act_states_from=0.5)
    >>> [stage_at(recipe, progress) for progress in (0.0, 0.2, 0.5)]  # doctest: +NORMALIZE_WHITESPACE
    [Stage(float_acts=True, float_weights=True, states=None), Stage(float_acts=True, float_weights=False, states=None),
     Stage(float_acts=False, float_weights=False, states=None)]
    >>> fine = Recipe(name="fine", dataset="digits", act_states_from=0.5, act_states_first=16)
    >>> stage_at(fine, 0.0).states
    16
    """
    return Stage(progress < recipe.act_states_from, progress < recipe.weight_states_from, recipe.act_states_first)


def width_at(recipe: Recipe, progress: float) -> float:
    """Return how wide the surrogate is at `progress`: on a line from `surrogate_width` to `surrogate_width_end`.

    >>> recipe = Recipe(name="narrower", dataset="digits", surrogate_width=2.0, surrogate_width_end=0.5)
    >>> [width_at(recipe, progress) for progress in (0.0, 0.5)]
    [2.0, 1.25]
    """
    start, end = recipe.surrogate_width, recipe.last_surrogate_width
    return start + (end - start) * progress
