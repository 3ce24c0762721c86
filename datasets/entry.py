"""What the table of datasets holds: a card, and how to read the official two parts."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from maqd_snn.datasets.cards import Card, ImageDataset
from maqd_snn.datasets.splits import Splits, hold_out
from maqd_snn.errors import MaqdError


@dataclass(frozen=True)
class Entry(ABC):
    """One dataset that can be loaded by name."""

    card: Card

    @abstractmethod
    def read(self, root: Path, *, download: bool) -> tuple[ImageDataset, ImageDataset]:
        """Return (training images, those for validation included; test images), from files under `root`.

        Raises:
            MaqdError: files are missing (and `download` is false, or fails), or are not what they should be.
        """

    def splits(self, root: Path, *, download: bool) -> Splits:
        """Return the three parts; validation is a fixed part of the training images. Raises as `read`."""
        both, test = self.read(root, download=download)
        return Splits(*hold_out(both, both.card.validation, "train", "validation"), test)

    def configured(self, options: str) -> "Entry":
        """Return the entry with the options that follow the colon of a dataset name.

        Raises:
            MaqdError: it takes no options, or other ones.
        """
        raise MaqdError(f"dataset {self.card.name!r} takes no options, got {options!r} behind the colon")
