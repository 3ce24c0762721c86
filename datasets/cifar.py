"""`cifar10` and `cifar100`, each from its python version or, where that is not there, its binary version."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from maqd_snn.datasets.cards import Card, ImageDataset
from maqd_snn.datasets.cifar_files import read_cifar_binary, read_cifar_python
from maqd_snn.datasets.entry import Entry
from maqd_snn.datasets.fetch import fetch_archive
from maqd_snn.datasets.root import not_found

_Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]  # codes, labels


@final
@dataclass(frozen=True)
class Batch:
    """One official file of the python version and its md5; in the binary version it has the same name and `.bin`."""

    name: str
    md5: str


@final
@dataclass(frozen=True)
class Cifar(Entry):
    """The reader of CIFAR-10 and CIFAR-100.

    Args:
        card: the facts.
        python, binary: the folder of each version under the data root.
        train: the training batches, in order.
        test: the test batch.
        names: the file with the class names; fetched for other readers, not read.
        labels: the key of the labels in the python version.
        label_bytes: bytes before each image in the binary version.
        url, md5: the archive of the python version.
    """

    python: str
    binary: str
    train: tuple[Batch, ...]
    test: Batch
    names: str
    labels: str
    label_bytes: int
    url: str
    md5: str

    def read(self, root: Path, *, download: bool) -> tuple[ImageDataset, ImageDataset]:
        """Return (training images, those for validation included; test images), from either version under `root`.

        Raises:
            MaqdError: files are missing (and `download` is false, or fails), or are not what they should be.
        """
        batches = (*self.train, self.test)
        python = all((root / self.python / batch.name).is_file() for batch in batches)
        binary = all((root / self.binary / f"{batch.name}.bin").is_file() for batch in batches)
        if not (python or binary):
            if not download:
                names = ", ".join(batch.name for batch in batches)
                expected = f"the folder {self.python}/ with {names} (or {self.binary}/ with the same as .bin)"
                raise not_found(self.card.name, root, expected)
            fetch_archive(self.url, self.md5, root, self.python, (*(batch.name for batch in batches), self.names))
            python = True
        read = self._read_python if python else self._read_binary
        train = [read(root, batch) for batch in self.train]
        return self._part("train+validation", train), self._part("test", [read(root, self.test)])

    def _read_python(self, root: Path, batch: Batch) -> _Arrays:
        return read_cifar_python(root / self.python / batch.name, self.labels, batch.md5)

    def _read_binary(self, root: Path, batch: Batch) -> _Arrays:
        return read_cifar_binary(root / self.binary / f"{batch.name}.bin", self.label_bytes)

    def _part(self, part: str, batches: list[_Arrays]) -> ImageDataset:
        codes, labels = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*batches, strict=True))
        return ImageDataset(self.card, part, codes, labels)


CIFAR10 = Cifar(
    Card(
        name="cifar10",
        title="CIFAR-10",
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        shape=(3, 32, 32),
        low=0,
        high=255,
        kind="analog",
        train=45_000,
        validation=5_000,
        test=10_000,
        licence="none stated by its authors",
        citation="A. Krizhevsky: Learning multiple layers of features from tiny images. "
        "Technical report, University of Toronto, 2009",
        url="https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    python="cifar-10-batches-py",
    binary="cifar-10-batches-bin",
    train=(
        Batch("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        Batch("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        Batch("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        Batch("data_batch_4", "634d18415352ddfa80567beed471001a"),
        Batch("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
    ),
    test=Batch("test_batch", "40351d587109b95175f43aff81a1287e"),
    names="batches.meta",
    labels="labels",
    label_bytes=1,
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
)

_CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CIFAR100 = Cifar(
    replace(
        CIFAR10.card, name="cifar100", title="CIFAR-100 (100 fine classes)", classes=tuple(_CIFAR100_CLASSES.split())
    ),
    python="cifar-100-python",
    binary="cifar-100-binary",
    train=(Batch("train", "16019d7e3df5f24257cddd939b257f8d"),),
    test=Batch("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
    names="meta",
    labels="fine_labels",
    label_bytes=2,
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
)
