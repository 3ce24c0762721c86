"""`digits`: 1,797 scans of 8 x 8 pixels that come with scikit-learn; nothing to download."""

import gzip
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import final

import numpy as np
import torch

from maqd_snn.datasets.cards import Card, ImageDataset
from maqd_snn.datasets.entry import Entry
from maqd_snn.datasets.splits import hold_out
from maqd_snn.errors import MissingExtraError

PACKAGE, TABLE = "scikit-learn", "sklearn/datasets/data/digits.csv.gz"


@final
@dataclass(frozen=True)
class Digits(Entry):
    """The reader; the data has no official split, so the test part is our own fixed one."""

    def read(self, root: Path, *, download: bool) -> tuple[ImageDataset, ImageDataset]:
        """Return (training images, those for validation included; test images); `root` and `download` play no part.

        Raises:
            MissingExtraError: scikit-learn is not installed.
        """
        try:
            table = Path(str(distribution(PACKAGE).locate_file(TABLE))).resolve(strict=True)
        except (PackageNotFoundError, FileNotFoundError) as error:
            raise MissingExtraError("scikit-learn", "train", f"the dataset {self.card.name!r}") from error
        # Read here: importing scikit-learn takes longer than all else that many commands do.
        with gzip.open(table, "rt", encoding="ascii") as file:
            rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
        codes = torch.from_numpy(rows[:, :-1].reshape(-1, 1, 8, 8).copy())
        labels = torch.from_numpy(rows[:, -1].astype(np.int64))
        return hold_out(ImageDataset(self.card, "all", codes, labels), self.card.test, "train+validation", "test")


DIGITS = Digits(
    Card(
        name="digits",
        title="Optical recognition of handwritten digits (scikit-learn's 1,797 scans)",
        classes=tuple("0123456789"),
        shape=(1, 8, 8),
        low=0,
        high=16,
        kind="analog",
        train=1257,
        validation=180,
        test=360,
        licence="CC BY 4.0",
        citation="E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. "
        "UCI Machine Learning Repository, 1998. doi:10.24432/C50P49",
        url="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    )
)
