"""`ncars`: N-CARS, one Prophesee DAT file a recording, `n-cars_train/{cars,background}/*.dat` and `n-cars_test/`."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from maqd_snn.datasets.cards import Card
from maqd_snn.datasets.events.frames import FrameScheme
from maqd_snn.datasets.events.sets import TEST, TRAIN, EventSet, Source, first_folder, in_folder

FOLDERS = ("Prophesee_Dataset_n_cars", "n-cars", "ncars", "N-CARS", "NCARS")
PARTS = {TRAIN: ("n-cars_train", "train"), TEST: ("n-cars_test", "test")}


@final
@dataclass(frozen=True)
class NCars(EventSet):
    """The reader; the split is the official one."""

    def find(self, root: Path) -> list[Source]:
        """Return the recordings, class by class; part of the dataset will do."""
        folder = first_folder(root, FOLDERS)
        found: list[Source] = []
        for part, names in PARTS.items():
            inside = first_folder(folder, names) if folder else None
            for label, name in enumerate(self.card.classes):
                files = in_folder(inside / name, (".dat",)) if inside and (inside / name).is_dir() else ()
                for file in files:
                    found.append(Source(str(file.relative_to(root)), label, part, len(found)))
        return found

    def expected(self) -> str:
        """Return which files to put where."""
        return (
            "the unpacked archive of N-CARS, as Prophesee_Dataset_n_cars/n-cars_train/cars/*.dat, .../background/*.dat "
            "and n-cars_test/ likewise"
        )


N_CARS = NCars(
    Card(
        name="ncars",
        title="N-CARS",
        classes=("background", "cars"),
        shape=(8, 100, 120),
        low=0,
        high=1,
        kind="events",
        train=13_880,
        validation=1_542,
        test=8_607,
        licence="none stated with the archive",
        citation="A. Sironi, M. Brambilla, N. Bourdis, X. Lagorce, R. Benosman: HATS: histograms of averaged time "
        "surfaces for robust event-based object classification. CVPR 2018",
        url="https://www.prophesee.ai/2018/03/13/dataset-n-cars/",
    ),
    sensor=(120, 100),
    scheme=FrameScheme(slices=2, largest=3, downsample=2),
)
