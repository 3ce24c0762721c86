"""The result of a verification: what ran where, and how many class scores differ."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maqd_snn._version import __version__
from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork
from maqd_snn.integer.storage import fingerprint

RECORD_SCHEMA = 1


@dataclass(frozen=True)
class LayerCheck:
    """One op's values, as a runtime shows them, against the integer network's."""

    name: str
    values: int
    mismatches: int


@dataclass(frozen=True)
class Check:
    """Class scores of a written file, run in one runtime, against the integer network's.

    Attributes:
        format: name of the format. runtime: name and version of what ran the file. samples: number of inputs.
        scores: number of class scores compared. mismatches: how many differ at all. largest_difference: in score units.
        note: what a reader should know about the runtime, or an empty string.
        problem: why nothing was compared: a documented fault of the runtime, or its absence; else an empty string.
        failed: whether the problem is a verdict on the file, and not one on the runtime.
        layers: of the ops whose values the runtime shows. figures: further plain values, such as sizes.
        compared: what the scores are. inputs: sha256 of the input codes, int64 in C order, where the file was not run
        on those that were given: its own, or an empty string for none.
    """

    format: str
    runtime: str
    samples: int
    scores: int
    mismatches: int
    largest_difference: float
    note: str = ""
    problem: str = ""
    failed: bool = False
    layers: tuple[LayerCheck, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    compared: str = "class scores"
    inputs: str | None = None

    @property
    def ran(self) -> bool:
        """True where something was compared."""
        return self.scores > 0

    @property
    def ok(self) -> bool:
        """True where something was compared and nothing differs, in no layer."""
        return self.ran and self.mismatches == 0 and not any(layer.mismatches for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and `ok` as plain values; None is a difference that is no finite number."""
        return {**asdict(self), "largest_difference": _finite(self.largest_difference), "ok": self.ok}


@dataclass(frozen=True)
class Verification:
    """The record of one file in every runtime that reads its format; `ok` and `mismatches` sum it up.

    Attributes:
        format: name of the format. file: its name. sha256: of the file. network: fingerprint of the integer network.
        inputs: sha256 of the input codes that the file was run on, int64 in C order; empty where it was not run.
        samples: number of them. checks: one for each runtime, also those that did not run. created: UTC, ISO 8601.
        library: what verified.
    """

    format: str
    file: str
    sha256: str
    network: str
    inputs: str
    samples: int
    checks: tuple[Check, ...]
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    library: str = f"maqd-snn {__version__}"

    @property
    def ran(self) -> tuple[Check, ...]:
        """The checks of the runtimes that ran the file."""
        return tuple(check for check in self.checks if check.ran)

    @property
    def ok(self) -> bool:
        """True where a runtime ran the file, nothing differs in any, and none refused the file unexpectedly."""
        return bool(self.ran) and all(check.ok for check in self.ran) and not any(c.failed for c in self.checks)

    @property
    def runtime(self) -> str:
        """The runtimes that ran the file, with their versions."""
        return ", ".join(check.runtime for check in self.ran)

    @property
    def compared(self) -> str:
        """What was compared: class scores, unless the format holds no network to run."""
        return next((check.compared for check in self.ran), "class scores")

    @property
    def scores(self) -> int:
        """Number of class scores that were compared in each runtime."""
        return max((check.scores for check in self.ran), default=0)

    @property
    def mismatches(self) -> int:
        """Number of class scores that differ, in the runtime where most do."""
        return max((check.mismatches for check in self.ran), default=0)

    @property
    def largest_difference(self) -> float:
        """Largest difference of a class score in any runtime."""
        return max((check.largest_difference for check in self.ran), default=0.0)

    @property
    def note(self) -> str:
        """What the checks have to say, each after its runtime where there is more than one."""
        said = [(check.runtime, check.note or check.problem) for check in self.checks]
        several = len(self.checks) > 1
        return "; ".join(f"{runtime}: {text}" if several else text for runtime, text in said if text)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values; `digest` is the sha256 of all the rest as JSON with sorted keys."""
        record = {
            "schema": RECORD_SCHEMA,
            **{name: getattr(self, name) for name in ("format", "file", "sha256", "network", "inputs", "samples")},
            **{name: getattr(self, name) for name in ("runtime", "compared", "scores", "mismatches")},
            "largest_difference": _finite(self.largest_difference),
            "note": self.note,
            "ok": self.ok,
            "checks": [json.loads(json.dumps(check.to_dict())) for check in self.checks],
            "created": self.created,
            "library": self.library,
        }
        return {**record, "digest": hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()}


def record(path: Path, net: IntegerNetwork, codes: NDArray[np.int64], checks: Sequence[Check]) -> Verification:
    """Return the record of these checks of the file, on these codes unless a check states inputs of its own."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    given = hashlib.sha256(np.ascontiguousarray(codes).tobytes()).hexdigest(), len(codes)
    own = ((check.inputs, check.samples) for check in checks if check.inputs is not None)
    inputs, samples = next(own, given)
    return Verification(checks[0].format, path.name, digest, fingerprint(net), inputs, samples, tuple(checks))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def not_run(format_name: str, runtime: str, problem: str, failed: bool = False) -> Check:
    """Return the `Check` of a runtime that compared nothing, with the reason."""
    return Check(format_name, runtime, 0, 0, 0, 0.0, problem=problem, failed=failed)


def compare(
    format_name: str,
    runtime: str,
    got: NDArray[Any],
    expected: NDArray[np.int64],
    note: str = "",
    layers: Sequence[LayerCheck] = (),
    figures: Mapping[str, Any] | None = None,
) -> Check:
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
    return Check(
        format_name,
        runtime,
        len(expected),
        int(expected.size),
        mismatches,
        largest,
        note,
        layers=tuple(layers),
        figures=dict(figures or {}),
    )
