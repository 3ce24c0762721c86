"""The table of datasets, and loading by name."""

import os

from maqd_snn.datasets.cards import ImageDataset
from maqd_snn.datasets.cifar import CIFAR10, CIFAR100
from maqd_snn.datasets.digits import DIGITS
from maqd_snn.datasets.entry import Entry
from maqd_snn.datasets.mnist import FASHION_MNIST, MNIST, MNIST10K
from maqd_snn.datasets.root import data_root
from maqd_snn.datasets.splits import Splits, hold_out
from maqd_snn.errors import MaqdError, unknown_name

DATASETS: dict[str, Entry] = {
    entry.card.name: entry for entry in (DIGITS, MNIST10K, MNIST, FASHION_MNIST, CIFAR10, CIFAR100)
}


def load(
    name: str, root: str | os.PathLike[str] | None = None, *, download: bool = False
) -> tuple[ImageDataset, ImageDataset]:
    """Return the official two parts of a dataset: (training images, those for validation included; test images).

    Args:
        name: a key of `DATASETS`.
        root: the data root; see `data_root` for what holds without it.
        download: fetch what is missing into the root, checksums checked.

    Raises:
        MaqdError: the name is unknown; files are missing, or not what they should be; the download failed.
        MissingExtraError: `digits` without scikit-learn.

    >>> train, test = load("digits")
    >>> len(train), len(test), tuple(test.codes.shape[1:])
    (1437, 360, (1, 8, 8))
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    entry = DATASETS[name]
    train, test = entry.read(data_root(root), download=download)
    expected = (entry.card.train + entry.card.validation, entry.card.test)
    if (len(train), len(test)) != expected:
        raise MaqdError(
            f"dataset {name!r}: expected {expected[0]} training and {expected[1]} test images, "
            f"got {len(train)} and {len(test)}; the files are not the official ones, get them again"
        )
    return train, test


def load_splits(name: str, root: str | os.PathLike[str] | None = None, *, download: bool = False) -> Splits:
    """Return the three parts of a dataset; the validation part is a fixed part of the official training images.

    Arguments and errors are those of `load`.

    >>> parts = load_splits("digits")
    >>> len(parts.train), len(parts.validation), len(parts.test)
    (1257, 180, 360)
    """
    both, test = load(name, root, download=download)
    train, validation = hold_out(both, both.card.validation, "train", "validation")
    return Splits(train, validation, test)
