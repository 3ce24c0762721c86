"""`dvs128-gesture`: DVS128 Gesture, AEDAT 3.1 recordings that their label files cut into gestures.

`DvsGesture/userNN_LIGHT.aedat` beside `userNN_LIGHT_labels.csv` (class, startTime_usec, endTime_usec; classes from 1),
and the official split in `trials_to_train.txt` and `trials_to_test.txt`, a file name a line.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import final

from maqd_snn.datasets.cards import Card
from maqd_snn.datasets.events.frames import FrameScheme
from maqd_snn.datasets.events.sets import TEST, TRAIN, EventSet, Source, first_folder
from maqd_snn.errors import MaqdError

FOLDERS = ("DvsGesture", "dvs128-gesture", "DVS128Gesture", "ibmGestureTrain")
LISTS = {TRAIN: "trials_to_train.txt", TEST: "trials_to_test.txt"}
HEADER = "class,startTime_usec,endTime_usec"
LARGEST_TEXT = 2**20  # bytes of a label file or list


@final
@dataclass(frozen=True)
class Dvs128Gesture(EventSet):
    """The reader; one group is one person, so validation holds people whom training never saw, as the test part."""

    def find(self, root: Path) -> list[Source]:
        """Return the gestures, recording by recording in the order of the lists.

        Raises:
            MaqdError: a list, label file or recording is missing, or a label file is malformed.
        """
        folder = first_folder(root, FOLDERS)
        if folder is None or not any((folder / name).is_file() for name in LISTS.values()):
            return []
        found: list[Source] = []
        for part, name in LISTS.items():
            for trial in _lines(folder / name):
                if not re.fullmatch(r"[\w-]+\.aedat", trial):
                    raise MaqdError(
                        f"{str(folder / name)!r} lists {trial[:80]!r}, expected names such as user01_led.aedat"
                    )
                if not (folder / trial).is_file():
                    raise MaqdError(f"{str(folder / name)!r} lists {trial!r}, which is not beside it; get it again")
                found += self._gestures(root, folder / trial, part)
        return found

    def _gestures(self, root: Path, recording: Path, part: int) -> list[Source]:
        labels = recording.with_name(f"{recording.stem}_labels.csv")
        user = re.match(r"user(\d{1,6})", recording.name)
        if user is None:
            raise MaqdError(
                f"{str(recording)!r}: expected a name that starts with user and a number, as user01_led.aedat"
            )
        found = []
        for number, line in enumerate(_lines(labels), start=1):
            if number == 1 and line.replace(" ", "").lower() == HEADER.lower():
                continue
            numbers = [int(text) for text in line.split(",")] if re.fullmatch(r"\d{1,3}(,\d{1,15}){2}", line) else []
            if not numbers or not 1 <= numbers[0] <= len(self.card.classes) or numbers[1] >= numbers[2]:
                raise MaqdError(
                    f"{str(labels)!r}, line {number}: expected a class in 1..{len(self.card.classes)} and times "
                    f"begin < end, got {line[:80]!r}"
                )
            label, begin, end = numbers
            where = f"line {number} of {labels.name}"
            path = str(recording.relative_to(root))
            found.append(Source(path, label - 1, part, int(user[1]), (begin, end), where))
        return found

    def expected(self) -> str:
        """Return which files to put where."""
        return (
            "the unpacked archive DvsGesture.tar.gz: the folder DvsGesture/ with userNN_LIGHT.aedat, "
            "userNN_LIGHT_labels.csv, trials_to_train.txt and trials_to_test.txt"
        )


def _lines(path: Path) -> list[str]:
    """Return the lines of a small text file without blanks and empty ones."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_TEXT + 1)
    except OSError as error:
        raise MaqdError(f"cannot read {str(path)!r}: {error.strerror}; it comes with the dataset") from error
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError as error:
        raise MaqdError(f"{str(path)!r} is no text file (byte {error.start}); get it again") from error
    if len(content) > LARGEST_TEXT:
        raise MaqdError(f"{str(path)!r} has more than {LARGEST_TEXT} bytes; it is no file of the dataset")
    return [line.strip() for line in text.splitlines() if line.strip()]


DVS128_GESTURE = Dvs128Gesture(
    Card(
        name="dvs128-gesture",
        title="DVS128 Gesture",
        classes=(
            "hand clapping",
            "right hand wave",
            "left hand wave",
            "right arm clockwise",
            "right arm counter clockwise",
            "left arm clockwise",
            "left arm counter clockwise",
            "arm roll",
            "air drums",
            "air guitar",
            "other gestures",
        ),
        shape=(8, 128, 128),
        low=0,
        high=1,
        kind="events",
        train=1_058,
        validation=118,
        test=288,
        licence="CC BY 4.0",
        citation="A. Amir et al.: A low power, fully event-based gesture recognition system. CVPR 2017",
        url="https://research.ibm.com/interactive/dvsgesture/",
    ),
    sensor=(128, 128),
    scheme=FrameScheme(slices=6, largest=3, downsample=4),
)
