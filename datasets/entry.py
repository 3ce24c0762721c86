"""What the table of datasets holds: a card, and how to read the official two parts."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from maqd_snn.datasets.cards import Card, ImageDataset


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
