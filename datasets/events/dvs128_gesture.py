"""`dvs128-gesture`: DVS128 Gesture, AEDAT 3.1 recordings that their label files cut into gestures.

`DvsGesture/userNN_LIGHT.aedat` beside `userNN_LIGHT_labels.csv` (class, startTime_usec, endTime_usec; classes from 1),
and the official split in `trials_to_train.txt` and `trials_to_test.txt`, a file name a line.
"""

import re
from dataclasses import dataclass, replace
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
            MaqdError: a list is missing, malformed, or names a recording that was named before: then a network would be
                tested on what it was trained on. Unless `skip_damaged`: a recording or label file is missing, or a line
                of a label file is malformed.
        """
        folder = first_folder(root, FOLDERS)
        if folder is None or not any((folder / name).is_file() for name in LISTS.values()):
            return []
        found: list[Source] = []
        lists: dict[str, Path] = {}  # of each recording, the list that names it
        for part, name in LISTS.items():
            for trial in _lines(folder / name):
                user = re.fullmatch(r"user([0-9]{1,6})(?:[A-Za-z_-][A-Za-z0-9_-]*)?\.aedat", trial)
                if user is None:
                    raise MaqdError(
                        f"{str(folder / name)!r} lists {trial[:80]!r}, expected names such as user01_led.aedat"
                    )
                if trial in lists:
                    where = "twice" if lists[trial] == folder / name else f"as {str(lists[trial])!r} does"
                    raise MaqdError(
                        f"{str(folder / name)!r} lists {trial!r} {where}; a recording belongs to one part, once: "
                        "remove one of the lines, or get the lists again"
                    )
                lists[trial] = folder / name
                found += self._gestures(root, folder / trial, part, int(user[1]), folder / name)
        return found

    def _gestures(self, root: Path, recording: Path, part: int, user: int, listed: Path) -> list[Source]:
        whole = Source(str(recording.relative_to(root)), 0, part, user)
        if not recording.is_file():
            return [
                self._wrong(whole, f"{str(listed)!r} lists {recording.name!r}, which is not beside it; get it again")
            ]
        labels = recording.with_name(f"{recording.stem}_labels.csv")
        try:
            lines = _lines(labels)
        except MaqdError as error:
            return [self._wrong(whole, str(error))]
        found = []
        for number, line in enumerate(lines, start=1):
            if number == 1 and line.replace(" ", "").lower() == HEADER.lower():
                continue
            source = replace(whole, where=f"line {number} of {labels.name}")
            numbers = (
                [int(text) for text in line.split(",")] if re.fullmatch(r"[0-9]{1,3}(,[0-9]{1,15}){2}", line) else []
            )
            if not numbers or not 1 <= numbers[0] <= len(self.card.classes) or numbers[1] >= numbers[2]:
                problem = (
                    f"{str(labels)!r}, line {number}: expected a class in 1..{len(self.card.classes)} and times "
                    f"begin < end, got {line[:80]!r}"
                )
                found.append(self._wrong(source, problem))
                continue
            label, begin, end = numbers
            found.append(replace(source, label=label - 1, span=(begin, end)))
        return found

    def _wrong(self, source: Source, problem: str) -> Source:
        """Return the source with its problem, or raise it."""
        if not self.skip_damaged:
            raise MaqdError(f"{problem}; {self.hint}")
        return replace(source, problem=problem)

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
