"""The settled trials of a study as a file of plain JSON: to keep, and to go on from where the storage is not."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from maqd_snn.errors import MaqdError
from maqd_snn.files import write_text
from maqd_snn.sweeps.rows import DONE, LASTING, TWIN, Row
from maqd_snn.sweeps.space import OBJECTIVES, Axis, Spec, difference

KEPT = ("slot", "outcome", "point", "result", "reason", "seconds", "curve")  # of a row: what is the same everywhere
LARGEST = 1 << 26  # bytes of a file


def write_records(path: Path, spec: Spec, rows: Iterable[Row]) -> None:
    """Write the space of a study and its settled trials, one a line, in the order of their slots.

    Trials of the file that the study has not stay in it: another machine may have written them meanwhile.

    Raises:
        MaqdError: as `records_of`.
    """
    by_slot = {row.slot: row for row in records_of(path, spec)}
    by_slot.update((row.slot, row) for row in rows if row.slot and row.outcome in LASTING)
    settled = sorted(by_slot.values(), key=lambda row: (len(row.slot), row.slot))
    kept = [{name: value for name, value in asdict(row).items() if name in KEPT} for row in settled]
    lines = ",\n  ".join(json.dumps(row) for row in kept)
    write_text(path, f'{{"spec": {spec.to_json()},\n "rows": [\n  {lines}\n]}}\n')


def read_records(path: Path) -> tuple[Spec, list[Row]]:
    """Return the study and the trials that `write_records` kept; a row's number says nothing.

    Raises:
        MaqdError: there is no such file, or it is none of `write_records`.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise MaqdError(f"{str(path)!r} has more than {LARGEST >> 20} MiB; is it a file of --records?")
        values = json.loads(path.read_text(encoding="utf-8"))
        spec, rows = Spec.from_json(json.dumps(values["spec"])), [_row(entry) for entry in values["rows"]]
        points = None if spec.points is None else list(spec.space.grid())
        for row in rows:
            _check(row, points, spec)
        if len({row.slot for row in rows}) < len(rows):
            raise ValueError("two trials of one slot")
        return spec, rows
    except OSError as error:
        raise MaqdError(f"cannot read {str(path)!r}: {error.strerror}; give another with --records") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MaqdError(
            f"{str(path)!r} holds no records of a study ({error!r}); give another with --records"
        ) from error


def records_of(path: Path, spec: Spec) -> list[Row]:
    """Return the trials of `read_records` for the study `spec`; none where there is no file.

    A grid that has grown, by seeds say, keeps the trials of its points.

    Raises:
        MaqdError: as `read_records`, or the file has trials that are none of this study.
    """
    if not path.exists():
        return []
    stored, rows = read_records(path)
    if words := difference(stored, spec):
        moved = _in_larger_grid(stored, rows, spec)
        if moved is not None:
            return moved
        raise MaqdError(
            f"{str(path)!r} is of a study with another space: {words}; give the same options, or another --records"
        )
    return rows


def _in_larger_grid(stored: Spec, rows: Sequence[Row], spec: Spec) -> list[Row] | None:
    """Return the rows with the slots of `spec`; None where more than the values of the axes differs, or one is lost."""
    same_axes = replace(stored, space=replace(stored.space, axes=spec.space.axes))
    if spec.points is None or stored.points is None or difference(same_axes, spec):
        return None
    slots = {tuple(sorted(point.items())): str(index) for index, point in enumerate(spec.space.grid())}
    found = [
        row if row.slot == TWIN else replace(row, slot=slots.get(tuple(sorted(row.point.items())), "")) for row in rows
    ]
    return found if all(row.slot for row in found) else None


def _check(row: Row, points: Sequence[Mapping[str, Any]] | None, spec: Spec) -> None:
    """Raise ValueError where the study has no such trial; `points` are those of a grid."""
    if row.slot == TWIN:
        right = spec.twin and not row.point
    elif points is not None:
        right = row.slot in map(str, range(len(points))) and row.point == points[int(row.slot)]
    else:
        right = row.slot.isdecimal() and set(row.point) == {axis.name for axis in spec.space.axes}
        right = right and all(_possible(axis, row.point[axis.name]) for axis in spec.space.axes)
    if not right:
        raise ValueError(f"slot {row.slot!r} has no point {dict(row.point)}")
    accuracy = row.result.get("accuracy")
    if row.outcome == DONE and not (isinstance(accuracy, float) and 0 <= accuracy <= 1):
        raise ValueError(f"slot {row.slot!r} has the accuracy {accuracy!r}")
    for name in OBJECTIVES:
        value = row.result.get(name)
        if value is not None and not (type(value) in (int, float) and math.isfinite(value)):
            raise ValueError(f"slot {row.slot!r} has the {name} {value!r}")


def _possible(axis: Axis, value: Any) -> bool:
    if axis.choices:
        return value in axis.choices
    assert axis.low is not None
    assert axis.high is not None
    return type(value) in (int, float) and axis.low <= value <= axis.high


def _row(entry: dict[str, Any]) -> Row:
    row = Row(number=-1, **{name: entry[name] for name in KEPT})
    if not isinstance(row.slot, str) or row.outcome not in LASTING or not isinstance(row.reason, str):
        raise ValueError(f"a trial of slot {row.slot!r} with outcome {row.outcome!r}")
    if not isinstance(row.point, dict) or not isinstance(row.result, dict):
        raise ValueError(f"slot {row.slot!r} has no table of its point or its result")
    if not (row.seconds is None or isinstance(row.seconds, int | float)):
        raise ValueError(f"slot {row.slot!r} took {row.seconds!r} seconds")
    return replace(row, curve=tuple((int(e), float(a), float(w)) for e, a, w in row.curve))
