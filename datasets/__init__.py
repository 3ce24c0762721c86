"""Datasets as integer codes: a dict of loaders, fixed splits, files checked before they are believed."""

from maqd_snn.datasets.cards import Card, ImageDataset
from maqd_snn.datasets.events.registry import read_events
from maqd_snn.datasets.registry import DATASETS, check_name, load, load_splits
from maqd_snn.datasets.root import data_root
from maqd_snn.datasets.splits import Splits

__all__ = [
    "DATASETS",
    "Card",
    "ImageDataset",
    "Splits",
    "check_name",
    "data_root",
    "load",
    "load_splits",
    "read_events",
]
