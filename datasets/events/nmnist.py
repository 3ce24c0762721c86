"""`nmnist`: N-MNIST, one 5-byte file a recording, `Train/<digit>/<index>.bin` and `Test/<digit>/<index>.bin`."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from maqd_snn.datasets.cards import Card
from maqd_snn.datasets.events.frames import FrameScheme
from maqd_snn.datasets.events.sets import TEST, TRAIN, EventSet, Source, first_folder, in_folder

FOLDERS = ("nmnist", "NMNIST", "N-MNIST")


@final
@dataclass(frozen=True)
class NMnist(EventSet):
    """The reader; the split is the official one."""

    def find(self, root: Path) -> list[Source]:
        """Return the recordings, digit by digit; part of the dataset will do."""
        folder = first_folder(root, FOLDERS)
        found: list[Source] = []
        for name, part in (("Train", TRAIN), ("Test", TEST)):
            for label, digit in enumerate(self.card.classes):
                inside = folder / name / digit if folder else None
                for file in in_folder(inside, (".bin",)) if inside and inside.is_dir() else ():
                    found.append(Source(str(file.relative_to(root)), label, part, len(found)))
        return found

    def expected(self) -> str:
        """Return which files to put where."""
        return "the unpacked folders Train/ and Test/ of N-MNIST, as nmnist/Train/0/*.bin ... nmnist/Test/9/*.bin"


N_MNIST = NMnist(
    Card(
        name="nmnist",
        title="N-MNIST",
        classes=tuple("0123456789"),
        shape=(8, 34, 34),
        low=0,
        high=1,
        kind="events",
        train=54_000,
        validation=6_000,
        test=10_000,
        licence="CC BY-SA 4.0",
        citation="G. Orchard, A. Jayawant, G. K. Cohen, N. Thakor: Converting static image datasets to spiking "
        "neuromorphic datasets using saccades. Frontiers in Neuroscience 9, 2015. doi:10.3389/fnins.2015.00437",
        url="https://www.garrickorchard.com/datasets/n-mnist",
    ),
    sensor=(34, 34),
    scheme=FrameScheme(slices=3, largest=3),
)
