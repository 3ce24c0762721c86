"""`ncaltech101`: N-Caltech101, one 5-byte file a recording, `Caltech101/<class>/image_0001.bin`."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from maqd_snn.datasets.cards import Card
from maqd_snn.datasets.events.frames import FrameScheme
from maqd_snn.datasets.events.sets import EventSet, Source, first_folder, in_folder
from maqd_snn.datasets.events.tenth import last_tenth

FOLDERS = ("Caltech101", "N-Caltech101/Caltech101", "N-Caltech101", "ncaltech101/Caltech101", "ncaltech101")

_CLASSES = """
    BACKGROUND_Google Faces_easy Leopards Motorbikes accordion airplanes anchor ant barrel bass beaver binocular bonsai
    brain brontosaurus buddha butterfly camera cannon car_side ceiling_fan cellphone chair chandelier cougar_body
    cougar_face crab crayfish crocodile crocodile_head cup dalmatian dollar_bill dolphin dragonfly electric_guitar
    elephant emu euphonium ewer ferry flamingo flamingo_head garfield gerenuk gramophone grand_piano hawksbill headphone
    hedgehog helicopter ibis inline_skate joshua_tree kangaroo ketch lamp laptop llama lobster lotus mandolin mayfly
    menorah metronome minaret nautilus octopus okapi pagoda panda pigeon pizza platypus pyramid revolver rhino rooster
    saxophone schooner scissors scorpion sea_horse snoopy soccer_ball stapler starfish stegosaurus stop_sign strawberry
    sunflower tick trilobite umbrella watch water_lilly wheelchair wild_cat windsor_chair wrench yin_yang
"""


@final
@dataclass(frozen=True)
class NCaltech101(EventSet):
    """The reader; there is no official split, so the last tenth of each class, in natural order, is the test part."""

    def find(self, root: Path) -> list[Source]:
        """Return the recordings, class by class; part of the dataset will do."""
        folder = first_folder(root, FOLDERS)
        found: list[Source] = []
        for label, name in enumerate(self.card.classes):
            if folder and (folder / name).is_dir():
                found += last_tenth(root, in_folder(folder / name, (".bin",)), label, len(found))
        return found

    def expected(self) -> str:
        """Return which files to put where."""
        return (
            "the unpacked folder Caltech101/ of N-Caltech101, as N-Caltech101/Caltech101/airplanes/image_0001.bin ..."
        )


N_CALTECH101 = NCaltech101(
    Card(
        name="ncaltech101",
        title="N-Caltech101",
        classes=tuple(_CLASSES.split()),
        shape=(8, 180, 240),
        low=0,
        high=1,
        kind="events",
        train=7_002,
        validation=778,
        test=929,
        licence="CC BY 4.0",
        citation="G. Orchard, A. Jayawant, G. K. Cohen, N. Thakor: Converting static image datasets to spiking "
        "neuromorphic datasets using saccades. Frontiers in Neuroscience 9, 2015. doi:10.3389/fnins.2015.00437",
        url="https://www.garrickorchard.com/datasets/n-caltech101",
    ),
    sensor=(240, 180),
    scheme=FrameScheme(slices=3, largest=3, downsample=4),
)
