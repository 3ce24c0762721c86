"""A fixed 9:1 split, for datasets that have no official one."""

from collections.abc import Sequence
from pathlib import Path

from maqd_snn.datasets.events.sets import TEST, TRAIN, Source


def last_tenth(root: Path, files: Sequence[Path], label: int, first_group: int) -> list[Source]:
    """Return the recordings of one class: the last floor(n / 10) of n files, at least one of two, are the test part.

    Files come in natural order (2 before 10); each is a group of its own.

    >>> parts = last_tenth(Path(), [Path(f"{i}.aedat") for i in range(20)], 3, 0)
    >>> [source.path for source in parts if source.part == TEST]
    ['18.aedat', '19.aedat']
    """
    test = max(len(files) // 10, min(len(files) - 1, 1))
    return [
        Source(str(file.relative_to(root)), label, TEST if index >= len(files) - test else TRAIN, first_group + index)
        for index, file in enumerate(files)
    ]
