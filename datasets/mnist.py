"""`mnist` and `fashion-mnist`; and `mnist10k`, MNIST's 10,000 test images alone, split anew."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch

from maqd_snn.datasets.cards import Card, ImageDataset
from maqd_snn.datasets.entry import Entry
from maqd_snn.datasets.fetch import fetch_file
from maqd_snn.datasets.idx import read_idx
from maqd_snn.datasets.root import not_found
from maqd_snn.datasets.splits import hold_out
from maqd_snn.errors import MaqdError


@final
@dataclass(frozen=True)
class IdxFile:
    """One official file: its unpacked name, the md5 of the published .gz, and the shape that its header states."""

    name: str
    md5: str
    shape: tuple[int, ...]


@final
@dataclass(frozen=True)
class Mnist(Entry):
    """The reader of MNIST and of what has its form.

    Args:
        card: the facts.
        folders: where the files may lie under the data root, as .gz or unpacked; downloads go to the first.
        url: where the .gz files are published, a slash at the end.
        test: images and labels of the official test part.
        train: those of the training part; None splits the test part instead.
        alone: the name of the dataset that needs the test part only, if there is one.
    """

    folders: tuple[str, ...]
    url: str
    test: tuple[IdxFile, IdxFile]
    train: tuple[IdxFile, IdxFile] | None = None
    alone: str | None = None

    def read(self, root: Path, *, download: bool) -> tuple[ImageDataset, ImageDataset]:
        """Return (training images, those for validation included; test images), from the idx files under `root`.

        Raises:
            MaqdError: files are missing (and `download` is false, or fails), or are not what they should be.
        """
        missing = [file for file in (*(self.train or ()), *self.test) if not self._path(root, file).is_file()]
        if missing and not download:
            raise self._not_found(root, missing)
        for file in missing:
            fetch_file(f"{self.url}{file.name}.gz", file.md5, root, self._path(root, file))
        if self.train is None:
            return hold_out(self._part(root, "all", self.test), self.card.test, "train+validation", "test")
        return self._part(root, "train+validation", self.train), self._part(root, "test", self.test)

    def _not_found(self, root: Path, missing: list[IdxFile]) -> MaqdError:
        names = ", ".join(f"{file.name}.gz" for file in missing)
        expected = f"{names} (or unpacked) in {' or '.join(f'{folder}/' for folder in self.folders)}"
        test_is_there = not set(missing) & set(self.test)
        hint = f" (only its test part is: load {self.alone!r} for that)" if self.alone and test_is_there else ""
        return not_found(self.card.name, root, expected, hint)

    def _part(self, root: Path, part: str, pair: tuple[IdxFile, IdxFile]) -> ImageDataset:
        codes, labels = (self._read(root, file) for file in pair)
        return ImageDataset(self.card, part, codes.unsqueeze(1), labels.long())

    def _read(self, root: Path, file: IdxFile) -> torch.Tensor:
        path = self._path(root, file)
        # Unpacked files have no published checksum; a .gz of another compressor is not the official file.
        return torch.from_numpy(read_idx(path, file.shape, file.md5 if path.suffix == ".gz" else None))

    def _path(self, root: Path, file: IdxFile) -> Path:
        """Return where the file is; where it is not anywhere, the place for its download."""
        candidates = [root / folder / name for folder in self.folders for name in (f"{file.name}.gz", file.name)]
        return next((path for path in candidates if path.is_file()), candidates[0])


def _pair(part: str, count: int, images_md5: str, labels_md5: str) -> tuple[IdxFile, IdxFile]:
    return (
        IdxFile(f"{part}-images-idx3-ubyte", images_md5, (count, 28, 28)),
        IdxFile(f"{part}-labels-idx1-ubyte", labels_md5, (count,)),
    )


MNIST = Mnist(
    Card(
        name="mnist",
        title="MNIST handwritten digits",
        classes=tuple("0123456789"),
        shape=(1, 28, 28),
        low=0,
        high=255,
        kind="analog",
        train=55_000,
        validation=5_000,
        test=10_000,
        licence="CC BY-SA 3.0",
        citation="Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document recognition. "
        "Proceedings of the IEEE 86(11), 1998",
        url="http://yann.lecun.com/exdb/mnist/",
    ),
    folders=("mnist", "MNIST/raw"),
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    train=_pair("train", 60_000, "f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"),
    test=_pair("t10k", 10_000, "9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
    alone="mnist10k",
)

MNIST10K = replace(
    MNIST,
    card=replace(
        MNIST.card,
        name="mnist10k",
        title="MNIST's 10,000 test images alone, split anew",
        train=8_000,
        validation=1_000,
        test=1_000,
    ),
    train=None,
    alone=None,
)

FASHION_MNIST = Mnist(
    Card(
        name="fashion-mnist",
        title="Fashion-MNIST",
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        shape=(1, 28, 28),
        low=0,
        high=255,
        kind="analog",
        train=55_000,
        validation=5_000,
        test=10_000,
        licence="MIT",
        citation="H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST: a novel image dataset for benchmarking machine "
        "learning algorithms. arXiv:1708.07747, 2017",
        url="https://github.com/zalandoresearch/fashion-mnist",
    ),
    folders=("fashion-mnist", "FashionMNIST/raw"),
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    train=_pair("train", 60_000, "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"),
    test=_pair("t10k", 10_000, "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
)
