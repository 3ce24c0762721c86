"""Fixed splits: the same images in the same part, on every machine and with every version of NumPy."""

from dataclasses import dataclass

import numpy as np
import torch

from maqd_snn.datasets.cards import ImageDataset

# The legacy generator: its stream is frozen by NumPy's compatibility policy (NEP 19), that of default_rng is not.
SPLIT_SEED = 0


@dataclass(frozen=True)
class Splits:
    """The three parts: fit on `train`, choose on `validation`, report on `test`."""

    train: ImageDataset
    validation: ImageDataset
    test: ImageDataset


def hold_out(dataset: ImageDataset, count: int, kept: str, held: str) -> tuple[ImageDataset, ImageDataset]:
    """Return (part `kept`, part `held` of `count` images): the last `count` of a fixed permutation are held out.

    Both parts keep the order of the files.

    >>> import torch
    >>> from maqd_snn.datasets import DATASETS
    >>> ten = ImageDataset(DATASETS["digits"].card, "all", torch.zeros(10, 1, 8, 8).byte(), torch.arange(10))
    >>> [part.labels.tolist() for part in hold_out(ten, 3, "train", "test")]
    [[1, 2, 4, 6, 7, 8, 9], [0, 3, 5]]
    """
    order = torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(len(dataset)).astype(np.int64))
    bound = len(dataset) - count
    return _part(dataset, kept, order[:bound]), _part(dataset, held, order[bound:])


def _part(dataset: ImageDataset, part: str, order: torch.Tensor) -> ImageDataset:
    index = order.sort().values
    return ImageDataset(dataset.card, part, dataset.codes[index], dataset.labels[index])
