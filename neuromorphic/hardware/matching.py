"""Assignments by SciPy, which is imported here alone, on use."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maqd_snn.errors import MissingExtraError


def _optimize() -> Any:
    try:
        from scipy import optimize
    except ImportError as error:
        raise MissingExtraError("scipy", "map", "placing layers on cores") from error
    return optimize


def assign(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return, for every row, the column of the assignment of least total cost; there are at least as many columns."""
    _, columns = _optimize().linear_sum_assignment(cost)
    return np.asarray(columns, np.int64)


def match(fitting: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return a largest matching of names to the cores that fit them, the lower core first where there is a choice.

    >>> match({"a": [0, 1], "b": [0]})
    {'a': 1, 'b': 0}
    """
    names = list(fitting)
    width = max((max(cores) for cores in fitting.values()), default=-1) + 1
    if not width:
        return {}
    # Not fitting costs more than any choice among fitting cores; the small part prefers low cores.
    spare = len(names)
    cost = np.full((len(names), width + spare), 1e6)
    for index, cores in enumerate(fitting.values()):
        for core in cores:
            cost[index, core] = core
    columns = assign(cost)
    return {name: int(core) for name, core in zip(names, columns, strict=True) if core in fitting[name]}


def relaxed(flow: NDArray[np.float64], apart: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the place of each row by SciPy's relaxation of the quadratic assignment ("fast approximate QAP")."""
    # A generator of its own: without one SciPy looks at the state of the global one.
    options = {"maxiter": 20, "rng": np.random.default_rng(0)}
    result = _optimize().quadratic_assignment(flow, apart, method="faq", options=options)
    return np.asarray(result.col_ind, np.int64)
