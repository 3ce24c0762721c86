"""The result of a verification: what ran where, and how many class scores differ."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maqd_snn.errors import MaqdError


@dataclass(frozen=True)
class Check:
    """Class scores of a written file, run in a foreign runtime, against the integer network's.

    Attributes:
        format: name of the format. runtime: name and version of what ran the file. samples: number of inputs.
        scores: number of class scores compared. mismatches: how many differ at all. largest_difference: in score units.
        note: what a reader should know about the runtime, or an empty string.
    """

    format: str
    runtime: str
    samples: int
    scores: int
    mismatches: int
    largest_difference: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """True where something was compared and nothing differs."""
        return self.scores > 0 and self.mismatches == 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and `ok` as plain values."""
        return {**asdict(self), "ok": self.ok}


def compare(format_name: str, runtime: str, got: NDArray[Any], expected: NDArray[np.int64], note: str = "") -> Check:
    """Return the `Check` of scores (samples, classes); any difference, also a fractional one, is a mismatch.

    Raises:
        MaqdError: the file's output has another shape.
    """
    if got.shape != expected.shape:
        raise MaqdError(
            f"the {format_name} file gives class scores of shape {got.shape}, expected {expected.shape}: "
            "it was not exported from this network"
        )
    difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    mismatches = int((difference != 0).sum())  # NaN differs too: NaN != 0
    largest = float(np.max(difference)) if difference.size else 0.0
    return Check(format_name, runtime, len(expected), int(expected.size), mismatches, largest, note)
