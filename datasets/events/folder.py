"""`folder:path=NAME,...`: any folder of recordings per class, in any format that `read_events` knows."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from maqd_snn.datasets.cards import Card
from maqd_snn.datasets.events.frames import FrameScheme
from maqd_snn.datasets.events.registry import FORMATS
from maqd_snn.datasets.events.sets import TEST, TRAIN, EventSet, Source, in_folder, with_options
from maqd_snn.datasets.events.store import place_bytes
from maqd_snn.datasets.events.tenth import last_tenth
from maqd_snn.datasets.root import not_found
from maqd_snn.errors import MaqdError

FOLDER = "folder"
_EXAMPLE = "folder:path=gestures,sensor=128x128,slices=4"


@final
@dataclass(frozen=True)
class FolderPerClass(EventSet):
    """The reader of `PATH/<class>/*` (the last tenth of each class is the test part) or `PATH/{train,test}/<class>/*`.

    Attributes:
        path: the folder, relative to the data root.
    """

    path: str = ""

    def find(self, root: Path) -> list[Source]:
        """Return the recordings, class by class in alphabetic order."""
        folder, found = root / self.path, list[Source]()
        if not folder.is_dir():
            return found
        if split := _split(folder):
            for name, part in split.items():
                for label, title in enumerate(self.card.classes):
                    inside = folder / name / title
                    for file in in_folder(inside, _suffixes()) if inside.is_dir() else ():
                        found.append(Source(str(file.relative_to(root)), label, part, len(found)))
            return found
        for label, title in enumerate(self.card.classes):
            found += last_tenth(root, in_folder(folder / title, _suffixes()), label, len(found))
        return found

    def expected(self) -> str:
        """Return which files to put where."""
        return f"recordings as {self.path}/CLASS/*, or {self.path}/train/CLASS/* and {self.path}/test/CLASS/*"

    def configured(self, options: str) -> "EventSet":
        """Refuse: `folder_set` takes the options."""
        raise MaqdError(f"give all options at once, as in {_EXAMPLE!r}")

    @property
    def base(self) -> str:
        """The name of the store: that of the folder, told apart from the datasets that have names."""
        return f"{FOLDER}-{self.path.replace('/', '-')}"


def folder_set(options: str, root: Path | None) -> FolderPerClass:
    """Return the dataset of a folder under `root`; with root None the options are checked alone.

    Args:
        options: `path=NAME` (relative, below the data root) and `sensor=WIDTHxHEIGHT`, then those of an input scheme.

    Raises:
        MaqdError: other options; fewer than two class folders.
    """
    rest: list[str] = []
    own: dict[str, str] = {}
    for part in options.split(",") if options else ():
        name, _, value = part.partition("=")
        if name in ("path", "sensor"):
            own[name] = value
        else:
            rest.append(part)
    path, sensor = own.get("path", ""), re.fullmatch(r"(\d{1,5})x(\d{1,5})", own.get("sensor", ""))
    if not path or Path(path).is_absolute() or ".." in Path(path).parts or sensor is None:
        raise MaqdError(
            f"dataset 'folder' needs path=NAME, a folder below the data root, and sensor=WIDTHxHEIGHT, as in "
            f"{_EXAMPLE!r}; got {options!r}"
        )
    size = int(sensor[1]), int(sensor[2])
    place_bytes(size)  # refuses a sensor that no store takes
    scheme, skip = with_options(FrameScheme(), ",".join(rest))
    card = Card(
        name=f"{FOLDER}:{options}",
        title=f"recordings in {path}",
        classes=("first class", "second class") if root is None else _classes(root, path),
        shape=scheme.shape(size),
        low=0,
        high=scheme.largest,
        kind="events",
        train=1,
        validation=1,
        test=1,
        licence="not stated",
        citation="not stated",
        url="not stated",
    )
    entry = FolderPerClass(card, size, scheme, skip, path)
    if root is None:
        return entry
    found = entry.find(root)  # nobody else knows how many there should be
    test = sum(source.part == TEST for source in found)
    validation = max(1, (len(found) - test + 5) // 10)
    train = max(1, len(found) - test - validation)
    return replace(entry, card=replace(card, train=train, validation=validation, test=max(1, test)))


def _classes(root: Path, path: str) -> tuple[str, ...]:
    folder = root / path
    inside = [folder / name for name in _split(folder)] or [folder]
    entries = [entry for part in inside if part.is_dir() for entry in part.iterdir() if entry.is_dir()]
    names = sorted({entry.name for entry in entries if not entry.name.startswith(".")})  # .git is no class
    if len(names) < 2:
        raise not_found(
            FOLDER,
            root,
            f"two or more folders of recordings, one a class, in {path}/ (or {path}/train/ and {path}/test/)",
            source="your own data",
        )
    return tuple(names)


def _split(folder: Path) -> dict[str, int]:
    """Return the folders of an official split and their parts, or none."""
    parts = {"train": TRAIN, "test": TEST}
    return parts if all((folder / name).is_dir() for name in parts) else {}


def _suffixes() -> tuple[str, ...]:
    return tuple(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
