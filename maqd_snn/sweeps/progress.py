"""How far a study is, in words."""

from collections.abc import Sequence
from statistics import mean
from typing import Any

from maqd_snn.reporting.units import energy_text, quantity
from maqd_snn.sweeps import rows as words
from maqd_snn.sweeps.rows import ATTEMPTS, TWIN, Row
from maqd_snn.sweeps.space import OBJECTIVES


def remaining(rows: Sequence[Row], slots: int) -> int:
    """Return how many slots are not settled, those that were given up left out."""
    return slots - len({row.slot for row in rows if row.outcome in words.SETTLED}) - len(given_up(rows))


def given_up(rows: Sequence[Row]) -> list[str]:
    """Return the slots whose workers were lost too often."""
    settled = {row.slot for row in rows if row.outcome in (*words.SETTLED, words.RUNNING, words.WAITING)}
    lost = [row.slot for row in rows if row.outcome == words.LOST]
    return sorted({slot for slot in lost if lost.count(slot) >= ATTEMPTS} - settled)


def time_text(seconds: float) -> str:
    """Return a time to the minute or second.

    >>> time_text(42.4), time_text(150), time_text(4000)
    ('42 s', '2 min 30 s', '1 h 06 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def best_text(rows: Sequence[Row], objectives: Sequence[str]) -> str:
    """Return the best accuracy so far, and the least of every other objective among the networks of the space."""
    done = [row for row in rows if row.outcome == words.DONE and row.slot != TWIN]
    parts = []
    for name in objectives:
        values = [row.result[name] for row in done if row.result.get(name) is not None]
        if values:
            best = max(values) if OBJECTIVES[name] == "maximize" else min(values)
            parts.append(f"{name} {value_text(name, best)}")
    return ", ".join(parts)


def value_text(name: str, value: Any) -> str:
    """Return the value of an objective with its unit.

    >>> value_text("accuracy", 0.9876), value_text("energy", 1500.0), value_text("cores", None)
    ('98.76 %', '1.50 nJ', '')
    """
    if value is None:
        return ""
    if name == "accuracy":
        return f"{100 * value:.2f} %"
    if name == "energy":
        return energy_text(value)
    return quantity(value, "B" if name == "bytes" else "")


def progress_line(rows: Sequence[Row], slots: int, objectives: Sequence[str]) -> str:
    """Return one line: what is settled, what runs, the time left by the trials so far, the best so far."""
    count = {name: sum(row.outcome == name for row in rows) for name in (*words.SETTLED, words.RUNNING, words.LOST)}
    left = remaining(rows, slots)
    settled = slots - left
    parts = [f"{settled}/{slots} trials"]
    for name, text in (
        (words.RUNNING, "running"),
        (words.PRUNED, "pruned"),
        (words.SKIPPED, "skipped as impossible"),
        (words.FAILED, "failed"),
        (words.LOST, "lost with their workers"),
    ):
        if count[name]:
            parts.append(f"{count[name]} {text}")
    times = [row.seconds for row in rows if row.outcome in (words.DONE, words.PRUNED) and row.seconds]
    if left and times and count[words.RUNNING]:
        # What runs has half of its time behind it, in the mean.
        waiting = left - count[words.RUNNING] / 2
        parts.append(f"about {time_text(mean(times) * waiting / count[words.RUNNING])} left")
    if best := best_text(rows, objectives):
        parts.append(f"best so far: {best}")
    return "; ".join(parts)
