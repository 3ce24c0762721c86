"""The table of datasets, and loading by name."""

import os
from pathlib import Path

from maqd_snn.datasets.cards import Card, ImageDataset
from maqd_snn.datasets.cifar import CIFAR10, CIFAR100
from maqd_snn.datasets.digits import DIGITS
from maqd_snn.datasets.entry import Entry
from maqd_snn.datasets.events.cifar10_dvs import CIFAR10_DVS
from maqd_snn.datasets.events.dvs128_gesture import DVS128_GESTURE
from maqd_snn.datasets.events.folder import FOLDER, folder_set
from maqd_snn.datasets.events.ncaltech101 import N_CALTECH101
from maqd_snn.datasets.events.ncars import N_CARS
from maqd_snn.datasets.events.nmnist import N_MNIST
from maqd_snn.datasets.mnist import FASHION_MNIST, MNIST, MNIST10K
from maqd_snn.datasets.root import data_root
from maqd_snn.datasets.splits import Splits
from maqd_snn.errors import MaqdError, unknown_name

DATASETS: dict[str, Entry] = {
    entry.card.name: entry
    for entry in (
        *(DIGITS, MNIST10K, MNIST, FASHION_MNIST, CIFAR10, CIFAR100),
        *(N_MNIST, DVS128_GESTURE, CIFAR10_DVS, N_CALTECH101, N_CARS),
    )
}


def check_name(name: str) -> None:
    """Raise MaqdError unless `name` is one that `load` takes."""
    base, colon, options = name.partition(":")
    if base == FOLDER:
        folder_set(options, None)
    elif base not in DATASETS:
        raise unknown_name("dataset", base, DATASETS)
    elif colon:
        DATASETS[base].configured(options)


def find_entry(name: str, root: Path) -> Entry:
    """Return the entry of a dataset name, its options applied; `root` is the data root, which `folder` looks at.

    >>> find_entry("nmnist:slices=5", Path("nowhere")).card.shape
    (10, 34, 34)
    """
    check_name(name)
    base, colon, options = name.partition(":")
    if base == FOLDER:
        return folder_set(options, root)
    return DATASETS[base].configured(options) if colon else DATASETS[base]


def load(
    name: str, root: str | os.PathLike[str] | None = None, *, download: bool = False
) -> tuple[ImageDataset, ImageDataset]:
    """Return the official two parts of a dataset: (training images, those for validation included; test images).

    Args:
        name: a key of `DATASETS`; one of event recordings may be followed by its input scheme, as in
            `nmnist:slices=3,largest=3` (see `FrameScheme`), and by `damaged=skip`. `folder:path=NAME,...` is any folder
            of recordings per class (see `folder_set`).
        root: the data root; see `data_root` for what holds without it.
        download: fetch what is missing into the root, checksums checked.

    Raises:
        MaqdError: the name is unknown; files are missing, or not what they should be; the download failed.
        MissingExtraError: `digits` without scikit-learn.

    >>> train, test = load("digits")
    >>> len(train), len(test), tuple(test.codes.shape[1:])
    (1437, 360, (1, 8, 8))
    """
    place = data_root(root)
    train, test = find_entry(name, place).read(place, download=download)
    _check_counts(name, train.card, len(train), len(test))
    return train, test


def _check_counts(name: str, card: Card, both: int, test: int) -> None:
    # The cards of event recordings say what was found, and in their titles of how many: parts of them are in use.
    if (both, test) != (card.train + card.validation, card.test):
        raise MaqdError(
            f"dataset {name!r}: expected {card.train + card.validation} training and {card.test} test images, "
            f"got {both} and {test}; the files are not the official ones, get them again"
        )


def load_splits(name: str, root: str | os.PathLike[str] | None = None, *, download: bool = False) -> Splits:
    """Return the three parts of a dataset; the validation part is a fixed part of the official training images.

    Arguments and errors are those of `load`.

    >>> parts = load_splits("digits")
    >>> len(parts.train), len(parts.validation), len(parts.test)
    (1257, 180, 360)
    """
    place = data_root(root)
    parts = find_entry(name, place).splits(place, download=download)
    _check_counts(name, parts.test.card, len(parts.train) + len(parts.validation), len(parts.test))
    return parts
