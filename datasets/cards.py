"""What a dataset is: a card with its facts, and one part of it in memory as integer codes.

Axes: N images, C channels, H height, W width.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from maqd_snn.errors import MaqdError


@dataclass(frozen=True)
class Card:
    """The facts of one dataset, those of the first layer (`shape`, `low`, `high`, `kind`) included.

    Args:
        name: the name that `load` takes.
        title: the name for people.
        classes: the class names, in the order of the labels.
        shape: (C, H, W) of one image.
        low, high: the range of the codes, both included, within 0..255.
        kind: `analog` for pixel intensities, `events` for event counts.
        train, validation, test: how many images each part has.
        licence, citation, url: whose work it is and where it is from.

    Raises:
        MaqdError: a value is outside its legal range.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    low: int
    high: int
    kind: Literal["analog", "events"]
    train: int
    validation: int
    test: int
    licence: str
    citation: str
    url: str

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise MaqdError(f"card {self.name!r}: expected two or more different classes, got {self.classes}")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise MaqdError(f"card {self.name!r}: expected shape (C, H, W), each at least 1, got {self.shape}")
        if not 0 <= self.low < self.high <= 255:
            raise MaqdError(
                f"card {self.name!r}: expected codes with 0 <= low < high <= 255, got {self.low}..{self.high}"
            )
        if self.kind not in ("analog", "events"):
            raise MaqdError(f"card {self.name!r}: expected kind 'analog' or 'events', got {self.kind!r}")
        if min(self.train, self.validation, self.test) < 1:
            raise MaqdError(
                f"card {self.name!r}: expected at least one image in each part, "
                f"got {self.train} train, {self.validation} validation, {self.test} test"
            )


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """One part of a dataset, whole in memory.

    Args:
        card: the facts of the dataset.
        part: which part this is, such as `train` or `test`.
        codes: (N, C, H, W) torch.uint8, each in `card.low..card.high`.
        labels: (N,) torch.int64, each in `0..len(card.classes) - 1`.

    Raises:
        MaqdError: a type, a shape or a value is not as above.

    >>> from maqd_snn.datasets import DATASETS
    >>> card = DATASETS["digits"].card
    >>> len(ImageDataset(card, "test", torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 9])))
    3
    """

    card: Card
    part: str
    codes: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        where = f"{self.card.name} ({self.part})"
        _require(where, "codes", self.codes, torch.uint8, (*self.codes.shape[:1], *self.card.shape))
        _require(where, "labels", self.labels, torch.int64, (len(self.codes),))
        _require_range(where, "codes", self.codes, self.card.low, self.card.high)
        _require_range(where, "labels", self.labels, 0, len(self.card.classes) - 1)

    def __len__(self) -> int:
        return len(self.codes)


def _require(where: str, what: str, tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tensor.shape != shape:
        raise MaqdError(
            f"{where}: expected {what} of {dtype} and shape {shape}, got {tensor.dtype} and {tuple(tensor.shape)}"
        )


def _require_range(where: str, what: str, tensor: torch.Tensor, low: int, high: int) -> None:
    if len(tensor) == 0:
        raise MaqdError(f"{where}: expected at least one image, got none")
    least, most = (int(value) for value in tensor.aminmax())
    if least < low or most > high:
        raise MaqdError(f"{where}: expected {what} in {low}..{high}, got {least}..{most}; the data is not {where}'s")
