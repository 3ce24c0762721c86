"""Looking at a recording: equal windows of time as small images, on one sheet, as an animation, or on a page.

Axis letters: N windows, H height, W width.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.events.page import page
from maqd_snn.datasets.events.recording import Events
from maqd_snn.errors import MaqdError
from maqd_snn.files import atomic_path, write_text

BACKGROUND, BRIGHTER, DARKER = (255, 255, 255), (31, 95, 175), (200, 60, 40)
SUFFIXES = (".png", ".gif", ".html")
_SIDE = 256  # pixels that a small image is enlarged to
_MAX_PIXELS = 2**26  # of all images of a recording, 3 bytes each
_GAP = 6  # pixels between the images of a sheet


@final
@dataclass(frozen=True)
class Windows:
    """A recording in N equal parts of its time, each an image when it is asked for: one at a time is in memory.

    Attributes:
        events: in order of time. bounds: (N + 1,) their numbers at which parts begin and end.
        begin, end: of the recording, the end excluded, in us. size: (width, height) of an image.
        full: events of one sign on a pixel that have the full colour.
    """

    events: Events
    bounds: NDArray[np.int64]
    begin: int
    end: int
    size: tuple[int, int]
    full: float

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def span(self, number: int) -> tuple[int, int]:
        """Return (begin, end) of a part, the end excluded, in us."""
        edges = _edges(self.begin, self.end, len(self))
        return edges[number], edges[number + 1]

    def strengths(self) -> Iterator[NDArray[np.float64]]:
        """Yield how strong each pixel (H, W) is in each part: 0..1 where brighter events prevail, below 0 darker."""
        for number in range(len(self)):
            values = _balance(self.events[self.bounds[number] : self.bounds[number + 1]], self.size)
            yield np.sign(values) * np.clip(np.abs(values) / self.full, 0, 1) ** 0.7

    def images(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the images (H, W, 3) of the parts on white: a pixel with more brighter events is blue, else red."""
        for strength in self.strengths():
            colour = np.where(strength[..., None] > 0, BRIGHTER, DARKER)
            share = np.abs(strength)[..., None]
            yield np.round(share * colour + (1 - share) * np.array(BACKGROUND)).astype(np.uint8)


def cut_windows(events: Events, count: int, sensor: tuple[int, int] | None, enlarged: bool = False) -> Windows:
    """Return the recording in `count` equal parts of its time.

    A pixel is the stronger the more events it has (full at the 99th percentile of all busy pixels). Without a sensor
    the events' own extent is taken.

    Raises:
        MaqdError: no events; more pixels in all images than are drawn, `enlarged` ones where they will be.
    """
    if len(events) == 0:
        raise MaqdError("there are no events to look at")
    width, height = sensor or (int(events["x"].max()) + 1, int(events["y"].max()) + 1)
    factor = _factor((width, height)) if enlarged else 1
    largest = _MAX_PIXELS // (width * height * factor**2)
    if largest < 1:
        raise MaqdError(f"a sensor of {width} x {height} is too large to draw; give --sensor of the part that is used")
    if count > largest:
        raise MaqdError(
            f"expected at most {largest} windows of {width} x {height} pixels, got {count}; draw fewer, or give the "
            "sensor of the part that is used"
        )
    times = events["t"]
    if len(times) > 1 and bool((times[1:] < times[:-1]).any()):
        events = events[np.argsort(times, kind="stable")]
    begin, end = int(events["t"][0]), int(events["t"][-1]) + 1
    bounds = np.zeros(count + 1, np.int64)
    bounds[1:-1] = np.searchsorted(events["t"], np.array(_edges(begin, end, count)[1:-1], np.int64))
    bounds[-1] = len(events)
    busy = []
    for start, stop in pairwise(bounds.tolist()):
        values = np.abs(_balance(events[start:stop], (width, height)))
        busy.append(values[values != 0])
    together = np.concatenate(busy)
    full = float(np.percentile(together, 99)) if len(together) else 1.0
    return Windows(events, bounds, begin, end, (width, height), full)


def _edges(begin: int, end: int, count: int) -> list[int]:
    """Return the first time of each of `count` parts, and `end`; in whole numbers, since a gap may be beyond 2^53."""
    return [begin - (-number * (end - begin) // count) for number in range(count + 1)]


def _balance(events: Events, size: tuple[int, int]) -> NDArray[np.float64]:
    """Return brighter minus darker events of each pixel, (H, W)."""
    width, height = size
    pixel = events["y"].astype(np.int64) * width + events["x"]
    sign = events["p"].astype(np.float64) * 2 - 1
    counts: NDArray[np.float64] = np.bincount(pixel, sign, width * height).astype(np.float64)
    return counts.reshape(height, width)


def _factor(size: tuple[int, int]) -> int:
    return max(1, _SIDE // max(size))


def windows(events: Events, count: int, sensor: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Return `count` images (N, H, W, 3) of equal parts of the recording's time; see `cut_windows` and `Windows`."""
    return np.stack(list(cut_windows(events, count, sensor).images()))


def check_picture_name(path: str | os.PathLike[str]) -> None:
    """Raise MaqdError unless a picture can be written to a file of this name."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise MaqdError(
            f"cannot draw {str(path)!r}: expected a name that ends in .png (a sheet), .gif (an animation) or .html (a "
            "page)"
        )


def save_picture(
    path: str | os.PathLike[str],
    events: Events,
    sensor: tuple[int, int] | None = None,
    count: int = 12,
    title: str = "Recording",
) -> None:
    """Write a contact sheet (.png), an animation (.gif) or a page with `title` (.html) of a recording, atomically.

    Raises:
        MaqdError: another suffix; no events; more pixels than are drawn.
    """
    check_picture_name(path)
    suffix = Path(path).suffix.lower()
    if suffix == ".html":
        parts = cut_windows(events, count, sensor)
        spans = [parts.span(number) for number in range(count)]
        write_text(path, page(title, parts.size, spans, np.diff(parts.bounds).tolist(), parts.strengths()))
        return
    from PIL import Image

    parts = cut_windows(events, count, sensor, enlarged=True)
    factor = _factor(parts.size)
    images = (image.repeat(factor, axis=0).repeat(factor, axis=1) for image in parts.images())
    with atomic_path(path) as temporary:
        if suffix == ".png":
            size = parts.size[1] * factor, parts.size[0] * factor
            Image.fromarray(_sheet(images, count, size)).save(temporary)
        else:
            frames = (Image.fromarray(image) for image in images)
            next(frames).save(temporary, save_all=True, append_images=frames, duration=100, loop=0)


def _sheet(images: Iterator[NDArray[np.uint8]], count: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size
    columns = min(4, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 210, np.uint8)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        top, left = _GAP + row * (height + _GAP), _GAP + column * (width + _GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet
