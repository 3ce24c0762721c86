"""Which events are impossible: outside the sensor, or before their predecessor; and dropping them."""

from typing import no_type_check

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.events.compiled import PACKED_DTYPE, compiled, fast
from maqd_snn.datasets.events.recording import Events

State = NDArray[np.int64]

_SLICE = 2**16  # events at a time in NumPy, so that temporaries stay small
BEGINNING = -(2**63)  # no time is before it


def limits_of(sensor: tuple[int, int], unordered: bool) -> State:
    """Return what events are checked against: [width, height, whether time must not run backwards]."""
    return np.array([*sensor, not unordered], np.int64)


def first_impossible(events: Events, limits: State, last: int) -> int:
    """Return the index of the first event outside the sensor or before its predecessor; -1 where there is none.

    Args:
        events: array of EVENT_DTYPE. limits: of `limits_of`. last: time of the event before the first, in us.
    """
    if fast():
        return int(compiled(_first_impossible, "Esi")(events.view(PACKED_DTYPE), limits, last))
    for start in range(0, len(events), _SLICE):
        part = events[start : start + _SLICE]
        bad = ~_inside(part, limits)
        if limits[2]:
            times = np.concatenate([np.array([last], np.int64), part["t"]])
            bad |= times[1:] < times[:-1]
        if bad.any():
            return start + int(np.argmax(bad))
        last = int(part["t"][-1])
    return -1


def drop_impossible(events: Events, limits: State, last: int) -> int:
    """Move the possible events to the front, in their order, and return their number.

    An event is dropped where it lies outside the sensor, or before an event that was kept.
    """
    if fast():
        return int(compiled(_drop_impossible, "Esi")(events.view(PACKED_DTYPE), limits, last))
    kept = 0
    for start in range(0, len(events), _SLICE):
        part = events[start : start + _SLICE]
        part = part[_inside(part, limits)]
        if limits[2] and len(part):
            newest = np.maximum.accumulate(np.maximum(part["t"], last))
            part = part[part["t"] >= newest]
            last = int(newest[-1])
        events[kept : kept + len(part)] = part
        kept += len(part)
    return kept


def _inside(events: Events, limits: State) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (events["x"] < limits[0]) & (events["y"] < limits[1])
    return inside


@no_type_check
def _first_impossible(events, limits, last):
    width, height, ordered = np.uint32(limits[0]), np.uint32(limits[1]), limits[2] != 0
    ahead, checked = last, np.uint64(0)
    while checked < len(events):  # without branches, a part at a time, up to the part that holds one
        end = min(checked + np.uint64(1024), np.uint64(len(events)))
        bad = False
        for i in range(checked, end):
            t, xy = events[i].t, events[i].xy
            bad |= ((xy & 0xFFFF) >= width) | ((xy >> 16) >= height) | (ordered & (t < ahead))
            ahead = t
        if bad:
            break
        checked, last = end, ahead
    for i in range(checked, len(events)):
        t, xy = events[i].t, events[i].xy
        if (xy & 0xFFFF) >= width or (xy >> 16) >= height or (ordered and t < last):
            return i
        last = t
    return -1


@no_type_check
def _drop_impossible(events, limits, last):
    width, height, ordered = np.uint32(limits[0]), np.uint32(limits[1]), limits[2] != 0
    kept = 0
    for i in range(len(events)):
        t, xy = events[i].t, events[i].xy
        if (xy & 0xFFFF) < width and (xy >> 16) < height and not (ordered and t < last):
            last = t
            events[kept] = events[i]
            kept += 1
    return kept
