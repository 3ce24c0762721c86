"""Event datasets: recordings in their original layout on disk, an event store made of them once, and codes on demand.

A subclass says where recordings lie (`find`); what it yields is read, checked and stored by `EventSet`, and becomes an
`ImageDataset` through the input scheme. A dataset name may carry the scheme: `nmnist:slices=3,largest=3,downsample=2`.

Axis letters: N samples, C channels, H height, W width.
"""

import hashlib
import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pooch
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from maqd_snn.datasets.cards import Card, ImageDataset
from maqd_snn.datasets.entry import Entry
from maqd_snn.datasets.events.advice import reworded
from maqd_snn.datasets.events.frames import FrameScheme, to_frames
from maqd_snn.datasets.events.recording import EventFileError, Events
from maqd_snn.datasets.events.registry import read_recording
from maqd_snn.datasets.events.store import VERSION, EventStore, Sample, far_apart, write_store
from maqd_snn.datasets.root import not_found
from maqd_snn.datasets.splits import SPLIT_SEED, Splits
from maqd_snn.errors import MaqdError

TRAIN, TEST = 0, 1
STORES = "stores"  # folder of the stores under the data root
LABEL_SLACK_US = 10**6  # a label may begin or end this long before the first or after the last event
LARGEST_LIST = 10  # names of damaged recordings in messages
LARGEST_CODES = 2**34  # bytes of a dataset's codes, which are in memory

# What the readers make of the bytes of a file. A store that other readers filled is not used: raise it where the events
# of a format change. 2: polarity and orientation of AEDAT 2.0.
DECODING = 2


@dataclass(frozen=True)
class Source:
    """One recording of a layout.

    Attributes:
        path: the file, relative to the data root. label: its class. part: TRAIN or TEST.
        group: recordings of one group (a person, say) are never split between training and validation.
        span: (begin, end) in microseconds of the part of the file that it is, end excluded; None is all of it.
        where: the line of the label file that says so, for messages.
        problem: why it cannot be read, where the layout alone tells; such sources are only found with `skip_damaged`.
    """

    path: str
    label: int
    part: int
    group: int
    span: tuple[int, int] | None = None
    where: str = ""
    problem: str = ""

    @property
    def name(self) -> str:
        """The recording, for messages and in the store."""
        if self.problem and self.where:
            return f"{self.path} ({self.where})"
        return self.path + (f" {self.span[0]}-{self.span[1]}" if self.span else "")


@dataclass(frozen=True)
class EventSet(Entry, ABC):
    """One event dataset that can be loaded by name.

    Attributes:
        card: the facts; `train`, `validation` and `test` are those of the complete dataset.
        sensor: (width, height) in pixels.
        scheme: how a recording becomes codes.
        skip_damaged: leave out recordings that cannot be read, and count them, instead of raising.
    """

    sensor: tuple[int, int]
    scheme: FrameScheme = field(default_factory=FrameScheme)
    skip_damaged: bool = False

    def __post_init__(self) -> None:
        scheme = self.scheme
        # So that card and scheme always agree.
        shape = scheme.shape(self.sensor)
        card = replace(self.card, shape=shape, low=0, high=scheme.largest, kind=scheme.kind)
        object.__setattr__(self, "card", card)

    @abstractmethod
    def find(self, root: Path) -> list[Source]:
        """Return the recordings under `root` in a fixed order; an empty list where the dataset is not there.

        Raises:
            MaqdError: a layout that is there but wrong. With `skip_damaged`, what is wrong with one recording alone is
                the `problem` of its source.
        """

    @abstractmethod
    def expected(self) -> str:
        """Return which files to put where, for people."""

    def configured(self, options: str) -> "EventSet":
        """Return the dataset with the input scheme, and `damaged=skip`, that follow the colon of its name.

        Raises:
            MaqdError: an unknown or impossible option.
        """
        scheme, skip = with_options(self.scheme, options)
        card = replace(self.card, name=f"{self.base}:{options}")
        return replace(self, card=card, scheme=scheme, skip_damaged=skip)

    @property
    def base(self) -> str:
        """The name without options."""
        return self.card.name.partition(":")[0]

    @property
    def frames(self) -> int:
        """How many samples a recording is, which follow each other in every part."""
        return self.scheme.slices if self.scheme.layout == "stream" else 1

    @property
    def hint(self) -> str:
        """How to load it without its damaged recordings, for messages."""
        name = self.card.name.removesuffix(":")
        return f"load '{name}{',' if ':' in name else ':'}damaged=skip' to leave such recordings out"

    def read(self, root: Path, *, download: bool) -> tuple[ImageDataset, ImageDataset]:
        """Return (training samples, those for validation included; test samples)."""
        with self.store(root) as store:
            card = self.found_card(store)
            return (
                self.codes(store, card, "train+validation", np.flatnonzero(store.parts == TRAIN)),
                self.codes(store, card, "test", np.flatnonzero(store.parts == TEST)),
            )

    def splits(self, root: Path, *, download: bool) -> Splits:
        """Return the three parts; whole groups of the training recordings are held out for validation."""
        with self.store(root) as store:
            card = self.found_card(store)
            train, validation = self.hold_out(store)
            return Splits(
                self.codes(store, card, "train", train),
                self.codes(store, card, "validation", validation),
                self.codes(store, card, "test", np.flatnonzero(store.parts == TEST)),
            )

    def hold_out(self, store: EventStore) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the recordings of (train, validation), in the order of the store."""
        both = np.flatnonzero(store.parts == TRAIN)
        return hold_out_groups(both, store.groups[both], self._validation(len(both)))

    def _validation(self, count: int) -> int:
        share = self.card.validation / (self.card.train + self.card.validation)
        return max(1, int(count * share + 0.5))

    def found_card(self, store: EventStore) -> Card:
        """Return the card with the counts and the title of what was found."""
        train, validation = (len(part) for part in self.hold_out(store))
        test = int((store.parts == TEST).sum())
        if min(train, validation, test) < 1:
            raise MaqdError(
                f"dataset {self.base!r}: expected recordings for training, validation and test, got {train}, "
                f"{validation} and {test}"
            )
        both, expected = train + validation, self.card.train + self.card.validation
        notes = []
        if (both, test) != (expected, self.card.test):
            notes.append(f"{both:,} of {expected:,} training and {test:,} of {self.card.test:,} test recordings")
        if skipped := len(store.facts.get("skipped", ())):
            notes.append(f"{skipped:,} damaged left out")
        title = self.card.title + (f" ({'; '.join(notes)})" if notes else "")
        frames = self.frames
        return replace(self.card, title=title, train=train * frames, validation=validation * frames, test=test * frames)

    def codes(self, store: EventStore, card: Card, part: str, chosen: NDArray[np.int64]) -> ImageDataset:
        """Return some recordings of the store as codes: a sample each, or with layout=stream a sample a slice."""
        frames = self.frames
        codes = np.empty((len(chosen), frames, *card.shape), np.uint8)
        for row, index in enumerate(chosen):
            codes[row] = to_frames(store[int(index)], self.sensor, self.scheme).reshape(codes.shape[1:])
        labels = torch.from_numpy(np.repeat(store.labels[chosen].astype(np.int64), frames))
        return ImageDataset(card, part, torch.from_numpy(codes).flatten(0, 1), labels)

    def store(self, root: Path) -> EventStore:
        """Return the store of the recordings under `root`; it is written where there is none that fits them.

        Where the recordings are gone, a store that is still there is used, if it is of this sensor and these readers.

        Raises:
            MaqdError: neither recordings nor store; a damaged recording, unless `skip_damaged`; more codes than fit.
        """
        path = self._store_path(root)
        sources = self.find(root)
        self._check_codes(len(sources))
        mark = fingerprint(root, sources, self.sensor, self.skip_damaged)
        if path.is_file():
            try:
                store = EventStore(path)
            except MaqdError:
                if not sources:
                    raise
            else:
                if store.facts.get("fingerprint") == mark:
                    return store
                try:
                    if not sources:
                        self._check_orphan(store)
                        return store
                except BaseException:
                    store.close()
                    raise
                store.close()
        if not sources:
            raise not_found(self.base, root, self.expected(), source=f"at {self.card.url}")
        skipped: list[list[str]] = []
        facts = {
            "dataset": self.base,
            "card": asdict(self.card),
            "fingerprint": mark,
            "decoding": DECODING,
            "skipped": skipped,  # filled while the recordings are read, written behind them
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "library": f"maqd-snn {version('maqd-snn')}",
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MaqdError(f"cannot create the folder {str(path.parent)!r}: {error.strerror}") from error
        write_store(path, self.sensor, facts, self._samples(root, sources, skipped))
        if skipped:
            names = ", ".join(name for name, _ in skipped[:LARGEST_LIST]) + (", ..." * (len(skipped) > LARGEST_LIST))
            tqdm.write(f"{self.base}: left out {len(skipped)} damaged recordings: {names}", file=sys.stderr)
        return EventStore(path)

    def _check_codes(self, recordings: int) -> None:
        """Refuse a scheme whose codes are beyond any memory, before any is taken."""
        frames = self.frames
        size = recordings * frames * math.prod(self.card.shape)
        if size > LARGEST_CODES:
            raise MaqdError(
                f"dataset {self.card.name!r}: {recordings:,} recordings as codes of shape "
                f"{(frames, *self.card.shape) if frames > 1 else self.card.shape} are {size / 2**30:,.0f} GiB, beyond "
                f"the limit of {LARGEST_CODES // 2**30}; take fewer slices, or downsample=2 or more"
            )

    def _check_orphan(self, store: EventStore) -> None:
        """Refuse a store that cannot be made again, if it holds other events than these readers would give."""
        self._check_codes(len(store))
        if store.sensor == self.sensor and store.facts.get("decoding") == DECODING:
            return
        made = "for a sensor of {} x {} pixels".format(*store.sensor)
        why = made if store.sensor != self.sensor else "by an earlier version, whose readers gave other events"
        raise MaqdError(
            f"{str(store.path)!r} was made {why}, and the recordings that it was made of are gone; get "
            f"them again: {self.expected()}"
        )

    def _store_path(self, root: Path) -> Path:
        name = f"{self.base}{'-undamaged' if self.skip_damaged else ''}.h5"
        if os.access(root, os.W_OK):
            return root / STORES / name
        key = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
        return Path(pooch.os_cache("maqd-snn")) / STORES / key / name

    def _samples(self, root: Path, sources: Sequence[Source], skipped: list[list[str]]) -> Iterator[Sample]:
        last: tuple[str, Events] | None = None  # a file of several recordings is read once
        bar = tqdm(sources, desc=f"{self.base}: recordings into the store", disable=None, leave=False)
        for source in bar:
            try:
                if source.problem:
                    raise EventFileError(root / source.path, source.problem)
                if last is None or last[0] != source.path:
                    last = source.path, self.decode(root / source.path)
                events = cut(root / source.path, last[1], source)
            except EventFileError as error:
                error = reworded(error, {})  # of its advice none is for a dataset
                if not self.skip_damaged:
                    raise EventFileError(error.path, f"{error.reason}; {self.hint}", error.offset) from error
                skipped.append([source.name, str(error)])
                continue
            yield Sample(events, source.label, source.part, source.group, source.name)

    def decode(self, path: Path) -> Events:
        """Return the events of one file; raises EventFileError."""
        return read_recording(path, sensor=self.sensor).events


def with_options(scheme: FrameScheme, options: str) -> tuple[FrameScheme, bool]:
    """Return the scheme changed by the options of a dataset name, and whether they hold `damaged=skip`."""
    parts = options.split(",") if options else []
    skip = "damaged=skip" in parts
    return scheme.updated(",".join(part for part in parts if part != "damaged=skip")), skip


def cut(path: Path, events: Events, source: Source) -> Events:
    """Return the events of a recording that `source` means.

    Raises:
        EventFileError: there are none, they are too far apart in time, or its span is not inside the recording.
    """
    inside = events if source.span is None else _inside(path, events, source, source.span)
    if not len(inside):
        raise EventFileError(path, "the recording holds no events")
    if apart := far_apart(inside):
        raise EventFileError(path, apart)
    return inside


def _inside(path: Path, events: Events, source: Source, span: tuple[int, int]) -> Events:
    begin, end = span
    first, last = (int(events["t"][0]), int(events["t"][-1])) if len(events) else (0, 0)
    if not (first - LABEL_SLACK_US <= begin < end <= last + LABEL_SLACK_US):
        raise EventFileError(
            path,
            f"{source.where} names the times {begin}..{end} us, but the recording has events in {first}..{last} us",
        )
    inside = events[np.searchsorted(events["t"], begin) : np.searchsorted(events["t"], end)]
    if not len(inside):
        raise EventFileError(path, f"{source.where} names the times {begin}..{end} us, which hold no events")
    return inside


def fingerprint(root: Path, sources: Sequence[Source], sensor: tuple[int, int], skip_damaged: bool) -> str:
    """Return a digest of what a store is made of.

    The files' names, sizes and times of change, and their labels; the sensor; the versions of store and readers.
    """
    digest = hashlib.sha256(repr((VERSION, DECODING, sensor, skip_damaged)).encode())
    status: dict[str, tuple[int, int] | None] = {}
    for source in sources:
        if source.path not in status:
            try:
                of = os.stat(root / source.path)
            except FileNotFoundError:
                status[source.path] = None
            else:
                status[source.path] = of.st_size, of.st_mtime_ns
        digest.update(repr((source, status[source.path])).encode())
    return digest.hexdigest()


def hold_out_groups(
    chosen: NDArray[np.int64], groups: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (kept, held): the last groups of a fixed permutation, until they have `count` members, are held out.

    Both keep the order of `chosen`. Where there is only one group, its members are held out one by one.

    >>> kept, held = hold_out_groups(np.arange(6), np.array([1, 1, 2, 2, 3, 3]), 2)
    >>> kept.tolist(), held.tolist()
    ([2, 3, 4, 5], [0, 1])
    """
    names = np.unique(groups)
    if len(names) < 2:
        groups, names = np.arange(len(chosen)), np.arange(len(chosen))
    order = names[np.random.RandomState(SPLIT_SEED).permutation(len(names))]
    held = np.zeros(len(chosen), np.bool_)
    for name in order[:0:-1]:  # one group is always kept
        if held.sum() >= count:
            break
        held |= groups == name
    return chosen[~held], chosen[held]


def first_folder(root: Path, names: Sequence[str]) -> Path | None:
    """Return the first of the folders `names` under `root` that is there."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def in_folder(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files of a folder with one of the suffixes (lower case), in natural order: 2 before 10."""
    return sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file()), key=natural
    )


def natural(path: Path) -> list[tuple[int, str]]:
    """Return the key by which file names sort as people count.

    >>> [path.name for path in sorted(map(Path, ["a10", "a2", "b1"]), key=natural)]
    ['a2', 'a10', 'b1']
    """
    parts: list[tuple[int, str]] = []
    for digits, group in _runs(path.name):
        parts.append((int(group), "") if digits else (-1, group))
    return parts


def _runs(text: str) -> Iterator[tuple[bool, str]]:
    begin = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or ("0" <= text[at] <= "9") != ("0" <= text[begin] <= "9"):
            yield "0" <= text[begin] <= "9", text[begin:at]
            begin = at
