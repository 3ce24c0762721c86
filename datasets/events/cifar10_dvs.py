"""`cifar10-dvs`: CIFAR10-DVS, one AEDAT 2.0 file a recording, `CIFAR10DVS/<class>/cifar10_<class>_<index>.aedat`."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from maqd_snn.datasets.cards import Card
from maqd_snn.datasets.cifar import CIFAR10
from maqd_snn.datasets.events.frames import FrameScheme
from maqd_snn.datasets.events.sets import EventSet, Source, first_folder, in_folder
from maqd_snn.datasets.events.tenth import last_tenth

FOLDERS = ("CIFAR10DVS", "cifar10-dvs", "CIFAR10-DVS")


@final
@dataclass(frozen=True)
class Cifar10Dvs(EventSet):
    """The reader; there is no official split, so the last tenth of each class, in natural order, is the test part."""

    def find(self, root: Path) -> list[Source]:
        """Return the recordings, class by class; part of the dataset will do."""
        folder = first_folder(root, FOLDERS)
        found: list[Source] = []
        for label, name in enumerate(self.card.classes):
            if folder and (folder / name).is_dir():
                found += last_tenth(root, in_folder(folder / name, (".aedat",)), label, len(found))
        return found

    def expected(self) -> str:
        """Return which files to put where."""
        return (
            "the ten unpacked archives of CIFAR10-DVS, as CIFAR10DVS/airplane/cifar10_airplane_0.aedat ... "
            "CIFAR10DVS/truck/cifar10_truck_999.aedat"
        )


CIFAR10_DVS = Cifar10Dvs(
    Card(
        name="cifar10-dvs",
        title="CIFAR10-DVS",
        classes=CIFAR10.card.classes,
        shape=(8, 128, 128),
        low=0,
        high=1,
        kind="events",
        train=8_100,
        validation=900,
        test=1_000,
        licence="CC BY 4.0",
        citation="H. Li, H. Liu, X. Ji, G. Li, L. Shi: CIFAR10-DVS: an event-stream dataset for object classification. "
        "Frontiers in Neuroscience 11, 2017. doi:10.3389/fnins.2017.00309",
        url="https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671",
    ),
    sensor=(128, 128),
    scheme=FrameScheme(slices=4, largest=3, downsample=2),
)
