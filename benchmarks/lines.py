"""What a row of a benchmark table is: a function of a setting that returns measured lines."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter


@dataclass(frozen=True)
class Setting:
    """What a row may use: `quick` asks for small inputs and few repeats, `folder` is empty and goes away afterwards."""

    quick: bool
    folder: Path

    def best(self, work: Callable[[], object], repeats: int = 5) -> float:
        """Return the seconds of the fastest of several runs, after one that is not counted."""
        work()
        times = []
        for _ in range(1 if self.quick else repeats):
            start = perf_counter()
            work()
            times.append(perf_counter() - start)
        return min(times)


@dataclass(frozen=True)
class Line:
    """One measurement: what was done, who did it, how fast or slow, in which unit; `note` says what else to know."""

    what: str
    who: str
    value: float
    unit: str
    note: str = ""


Row = Callable[[Setting], Iterable[Line]]
