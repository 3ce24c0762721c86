"""What a study's storage holds, as plain records; which slots still need a trial; which running trials are hopeless.

A *slot* is one training that the study asks for: a point of the grid, one draw of a sampler, or the float twin. A
*trial* is one attempt at a slot.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

TWIN = "twin"
WAITING, RUNNING = "waiting", "running"
DONE, PRUNED, SKIPPED, FAILED = "done", "pruned", "skipped", "failed"
STOPPED, LOST, SURPLUS = "stopped", "lost", "surplus"
LASTING = (DONE, PRUNED, SKIPPED)  # holds in every storage; what failed may be tried again in another
SETTLED = (*LASTING, FAILED)  # nothing is left to do for the slot
ATTEMPTS = 3  # a slot whose process was lost so often is given up
HEADSTART = 0.02  # by so much accuracy another must be ahead at the same epoch


@dataclass(frozen=True)
class Row:
    """One trial.

    Attributes:
        number: of the trial, from 0. slot: what it is an attempt at. outcome: one of this file's words. point: the
        values of the axes. result: what was measured, of a trial that is done. reason: in words, of one that is not.
        owner: the process that works on it. beat: its last heartbeat. seconds: how long it took.
        curve: (epoch, validation accuracy, work) of every epoch so far.
    """

    number: int
    slot: str
    outcome: str
    point: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    owner: str = ""
    beat: int = 0
    seconds: float | None = None
    curve: tuple[tuple[int, float, float], ...] = ()

    @property
    def folder(self) -> str:
        """The name of the trial's run folder."""
        return f"{self.number:05d}"


def attempts(rows: Iterable[Row], slot: str) -> list[Row]:
    """Return the trials of a slot, surplus ones left out."""
    return [row for row in rows if row.slot == slot and row.outcome != SURPLUS]


def open_slots(rows: Sequence[Row], slots: Iterable[str]) -> list[str]:
    """Return the slots that have no trial which waits, runs or is settled, and were not lost too often.

    >>> rows = [Row(0, "0", LOST), Row(1, "1", DONE), Row(2, "0", RUNNING), Row(3, "2", STOPPED)]
    >>> open_slots(rows, ["0", "1", "2", "3"])
    ['2', '3']
    """
    found = []
    by_slot: dict[str, list[Row]] = {}
    for row in rows:
        by_slot.setdefault(row.slot, []).append(row)
    for slot in slots:
        mine = [row.outcome for row in by_slot.get(slot, ()) if row.outcome != SURPLUS]
        if not any(outcome in (WAITING, RUNNING, *SETTLED) for outcome in mine) and mine.count(LOST) < ATTEMPTS:
            found.append(slot)
    return found


def is_surplus(rows: Iterable[Row], mine: Row) -> bool:
    """Return whether another trial of the same slot is settled, or an earlier one waits or runs.

    >>> rows = [Row(0, "0", WAITING), Row(1, "0", RUNNING), Row(2, "1", RUNNING), Row(3, "1", DONE)]
    >>> [is_surplus(rows, row) for row in rows[:3]]
    [False, True, True]
    """
    others = [row for row in rows if row.slot == mine.slot and row.number != mine.number]
    earlier = [row for row in others if row.number < mine.number]
    return any(row.outcome in SETTLED for row in others) or any(row.outcome in (WAITING, RUNNING) for row in earlier)


def hopeless(curve: Sequence[tuple[int, float, float]], others: Iterable[Row], epochs: int, costs: bool) -> str:
    """Return in words why a running trial cannot win, or an empty text.

    It is looked at after a quarter of its epochs. Where a cost is an objective, too, it is hopeless when a finished
    trial was `HEADSTART` more accurate at the same epoch with no more work (SynOps and dense MACs by its spike rate);
    else when it is below the median accuracy of at least four finished trials at that epoch.

    >>> done = Row(1, "1", DONE, curve=((1, 0.5, 10.0), (2, 0.9, 10.0)))
    >>> hopeless([(1, 0.4, 12.0), (2, 0.8, 12.0)], [done], 4, costs=True)
    'trial 1 had 90.0 % against 80.0 % after epoch 2, with no more work'
    >>> hopeless([(2, 0.8, 9.0)], [done], 4, costs=True)
    ''
    """
    if not curve:
        return ""
    epoch, accuracy, work = curve[-1]
    if epoch * 4 < epochs or epoch >= epochs:
        return ""
    rivals = []
    for row in others:
        at = next((entry for entry in row.curve if entry[0] == epoch), None) if row.outcome == DONE else None
        if at is None or row.slot == TWIN:
            continue
        rivals.append(at[1])
        if costs and at[1] >= accuracy + HEADSTART and at[2] <= work:
            return (
                f"trial {row.number} had {100 * at[1]:.1f} % against {100 * accuracy:.1f} % after epoch {epoch}, "
                "with no more work"
            )
    if not costs and len(rivals) >= 4 and accuracy < median(rivals):
        return f"{100 * accuracy:.1f} % after epoch {epoch} is below the median of {len(rivals)} finished trials"
    return ""
