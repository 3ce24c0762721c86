"""Loading by name: counts, fixed splits, the data root, and the errors that people meet first."""

import gzip
import hashlib
import shutil
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from maqd_snn.datasets import DATASETS, Card, ImageDataset, Splits, data_root, load, load_splits
from maqd_snn.datasets.mnist import MNIST
from maqd_snn.errors import MaqdError, MissingExtraError

CARD = DATASETS["digits"].card
T10K = [f"{file.name}.gz" for file in MNIST.test]


@pytest.fixture
def t10k() -> Path:
    folder = data_root() / "mnist"
    if not all((folder / name).is_file() for name in T10K):
        pytest.skip("needs MNIST's test files in mnist/ under the data root (MAQD_DATA_ROOT)")
    return folder


def digest(part: ImageDataset) -> str:
    return hashlib.sha256(part.labels.byte().numpy().tobytes()).hexdigest()[:16]


def images(*parts: ImageDataset) -> list[bytes]:
    return sorted(image.numpy().tobytes() for part in parts for image in part.codes)


def check_splits(name: str, splits: Splits, digests: tuple[str, str, str], duplicates: int) -> None:
    """Check the counts, the pinned labels, and that the parts together are every image once."""
    card = DATASETS[name].card
    parts = (splits.train, splits.validation, splits.test)
    assert tuple(len(part) for part in parts) == (card.train, card.validation, card.test)
    assert tuple(part.part for part in parts) == ("train", "validation", "test")
    assert tuple(digest(part) for part in parts) == digests
    train, test = load(name)
    assert images(splits.train, splits.validation) == images(train)
    assert images(splits.test) == images(test)
    assert len(set(images(train, test))) == len(train) + len(test) - duplicates


def test_digits() -> None:
    digests = ("29d5276fe22a16d5", "a9631daff48514e7", "bea1576f69ea034c")
    check_splits("digits", load_splits("digits"), digests, duplicates=0)
    train, _ = load("digits")
    assert train.codes.max() == 16
    assert train.codes.shape[1:] == CARD.shape


def test_mnist10k(t10k: Path) -> None:
    digests = ("22f1305564e74c3b", "4033af85e0fc67be", "64fba02991dbbeb9")
    check_splits("mnist10k", load_splits("mnist10k"), digests, duplicates=0)


def test_mnist_with_its_test_part_only_points_to_mnist10k(t10k: Path) -> None:
    with pytest.raises(
        MaqdError, match=r"'mnist' is not under .*only its test part is: load 'mnist10k'.* put train-im"
    ):
        DATASETS["mnist"].read(t10k.parent, download=False)


@pytest.mark.parametrize("unpacked", [False, True])
def test_the_other_folder_and_unpacked_files_are_found(t10k: Path, tmp_path: Path, unpacked: bool) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in T10K:
        if unpacked:
            (folder / name.removesuffix(".gz")).write_bytes(gzip.decompress((t10k / name).read_bytes()))
        else:
            shutil.copy(t10k / name, folder)
    here, there = load("mnist10k"), load("mnist10k", tmp_path)
    assert all(
        torch.equal(a.codes, b.codes) and torch.equal(a.labels, b.labels) for a, b in zip(here, there, strict=True)
    )


def test_a_foreign_gz_is_refused(t10k: Path, tmp_path: Path) -> None:
    shutil.copytree(t10k, tmp_path / "mnist")
    shutil.copy(t10k / T10K[1], tmp_path / "mnist" / T10K[0])
    with pytest.raises(MaqdError, match=f"{T10K[0]}' is not the official file: expected md5 9fb629c4"):
        load("mnist10k", tmp_path)


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(
        MaqdError, match=r"unknown dataset 'cifar', did you mean 'cifar10'.* cifar10, cifar10-dvs, cifar100, digits, "
    ):
        load("cifar")
    with pytest.raises(MaqdError, match="unknown dataset 'nothing'"):
        load_splits("nothing")


def test_the_root_is_the_argument_then_the_variable_then_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAQD_DATA_ROOT", "/from/variable")
    assert data_root("/from/argument") == Path("/from/argument")
    assert data_root() == Path("/from/variable")
    monkeypatch.setenv("MAQD_DATA_ROOT", "")
    assert data_root().name == "maqd-snn"
    assert data_root("~/x") == Path.home() / "x"


def test_a_root_that_is_not_there_says_what_to_put_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MAQD_DATA_ROOT", str(tmp_path / "none"))
    message = r"'cifar10' is not under '.*none': put the folder .*cifar-10-batches-py/ .*MAQD_DATA_ROOT.*download=True"
    with pytest.raises(MaqdError, match=message):
        load("cifar10")


def test_digits_are_those_that_scikit_learn_loads() -> None:
    train, test = load("digits")
    scans = load_digits()
    expected = sorted(zip(map(bytes, scans.images.astype("uint8").reshape(-1, 64)), scans.target, strict=True))
    ours = [
        (bytes(image.numpy()), label)
        for part in (train, test)
        for image, label in zip(part.codes, part.labels, strict=True)
    ]
    assert sorted(ours) == expected


@pytest.mark.parametrize("name", ["PACKAGE", "TABLE"])
def test_digits_without_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(f"maqd_snn.datasets.digits.{name}", "not-there")
    with pytest.raises(MissingExtraError, match=r"'digits' needs the package 'scikit-learn'.*maqd-snn\[train\]"):
        load("digits")


def test_every_entry_is_under_its_own_name() -> None:
    assert {name: entry.card.name for name, entry in DATASETS.items()} == {name: name for name in DATASETS}
    assert len(DATASETS["cifar100"].card.classes) == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("0",)}, "two or more different classes"),
        ({"classes": ("0", "0")}, "two or more different classes"),
        ({"shape": (8, 8)}, r"expected shape \(C, H, W\)"),
        ({"shape": (1, 0, 8)}, r"expected shape \(C, H, W\)"),
        ({"low": 16}, "0 <= low < high <= 255, got 16..16"),
        ({"high": 256}, "0 <= low < high <= 255, got 0..256"),
        ({"low": -1}, "0 <= low < high <= 255, got -1..16"),
        ({"kind": "frames"}, "expected kind 'analog' or 'events', got 'frames'"),
        ({"validation": 0}, "at least one image in each part"),
    ],
)
def test_a_wrong_card_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(MaqdError, match=message):
        replace(CARD, **change)


CODES = torch.full((2, 1, 8, 8), 16, dtype=torch.uint8)
LABELS = torch.tensor([0, 9])


@pytest.mark.parametrize(
    ("codes", "labels", "message"),
    [
        (CODES.float(), LABELS, r"expected codes of torch.uint8 and shape \(2, 1, 8, 8\), got torch.float32"),
        (CODES[:, 0], LABELS, r"expected codes of .* shape \(2, 1, 8, 8\), got torch.uint8 and \(2, 8, 8\)"),
        (CODES[0, 0, 0, 0], LABELS, r"expected codes of .*, got torch.uint8 and \(\)"),
        (CODES, LABELS.int(), r"expected labels of torch.int64 and shape \(2,\), got torch.int32"),
        (CODES, LABELS[:1], r"expected labels of torch.int64 and shape \(2,\), got torch.int64 and \(1,\)"),
        (CODES + 1, LABELS, r"expected codes in 0..16, got 17..17"),
        (CODES, LABELS + 1, r"expected labels in 0..9, got 1..10"),
        (CODES, LABELS - 1, r"expected labels in 0..9, got -1..8"),
        (CODES[:0], LABELS[:0], "expected at least one image"),
    ],
)
def test_wrong_images_are_refused(codes: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(MaqdError, match=r"digits \(test\): " + message):
        ImageDataset(CARD, "test", codes, labels)


def test_a_good_part_is_kept_as_it_is() -> None:
    part = ImageDataset(CARD, "test", CODES, LABELS)
    assert (len(part), part.card.name) == (2, "digits")
    with pytest.raises(FrozenInstanceError):
        part.part = "train"  # type: ignore[misc]
    assert isinstance(CARD, Card)
