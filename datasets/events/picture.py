"""Looking at a recording: equal windows of time as small images, on one sheet or as an animation."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.events.recording import Events
from maqd_snn.errors import MaqdError
from maqd_snn.files import atomic_path

BACKGROUND, BRIGHTER, DARKER = (255, 255, 255), (31, 95, 175), (200, 60, 40)
_MAX_PIXELS = 4_000_000  # of one image


def windows(events: Events, count: int, sensor: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Return `count` images (count, height, width, 3) of equal parts of the recording's time.

    A pixel with more brighter events is blue, with more darker ones red; it is the stronger the more there are (full at
    the 99th percentile of all busy pixels). Without a sensor the events' own extent is taken.
    """
    if len(events) == 0:
        raise MaqdError("there are no events to look at")
    width, height = sensor or (int(events["x"].max()) + 1, int(events["y"].max()) + 1)
    if width * height > _MAX_PIXELS:
        raise MaqdError(f"a sensor of {width} x {height} is too large to draw; give --sensor of the part that is used")
    begin, end = int(events["t"].min()), int(events["t"].max()) + 1
    number = (events["t"] - begin) * count // (end - begin)
    images = np.empty((count, height, width, 3), np.uint8)
    sums = []
    for which in range(count):
        part = events[number == which]
        pixel = part["y"].astype(np.int64) * width + part["x"]
        sign = part["p"].astype(np.float64) * 2 - 1
        sums.append(np.bincount(pixel, sign, width * height).reshape(height, width))
    busy = np.abs(np.concatenate([values[values != 0] for values in sums]))
    full = float(np.percentile(busy, 99)) if len(busy) else 1.0
    for which, values in enumerate(sums):
        strength = np.clip(np.abs(values) / full, 0, 1)[..., None] ** 0.7
        colour = np.where(values[..., None] > 0, BRIGHTER, DARKER)
        images[which] = np.round(strength * colour + (1 - strength) * np.array(BACKGROUND))
    return images


def save_picture(
    path: str | os.PathLike[str], events: Events, sensor: tuple[int, int] | None = None, count: int = 12
) -> None:
    """Write a contact sheet (.png) or an animation (.gif) of a recording, atomically.

    Raises:
        MaqdError: another suffix; no events; a sensor too large to draw.
    """
    from PIL import Image

    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".gif"):
        raise MaqdError(
            f"cannot draw {str(path)!r}: expected a name that ends in .png (a sheet) or .gif (an animation)"
        )
    images = windows(events, count, sensor)
    factor = max(1, 256 // max(images.shape[1:3]))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    with atomic_path(path) as temporary:
        if suffix == ".png":
            Image.fromarray(_sheet(images)).save(temporary)
        else:
            frames: list[Any] = [Image.fromarray(image) for image in images]
            frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=100, loop=0)


def _sheet(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    count, height, width, _ = images.shape
    columns = min(4, count)
    rows = -(-count // columns)
    gap = 6
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 210, np.uint8)
    for number, image in enumerate(images):
        top, left = (
            gap + place * (side + gap) for place, side in zip(divmod(number, columns), (height, width), strict=True)
        )
        sheet[top : top + height, left : left + width] = image
    return sheet
