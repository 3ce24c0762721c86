"""CIFAR: the real files, the two versions against each other and against pickle, hostile files that must not run."""

import hashlib
import os
import pickle
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maqd_snn.datasets import ImageDataset, data_root, load
from maqd_snn.datasets.cifar import CIFAR10, CIFAR100, Batch
from maqd_snn.datasets.cifar_files import read_cifar_binary, read_cifar_python
from maqd_snn.datasets.inert_pickle import read_inert
from maqd_snn.datasets.splits import hold_out
from maqd_snn.errors import MaqdError

CODES = np.random.RandomState(1).randint(0, 256, (3, 3, 32, 32)).astype(np.uint8)
LABELS = [7, 0, 9]


def text(value: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(value)) + value


def python_batch(key: bytes = b"labels", rows: int = 3, extra: bytes = b"", codes: bytes = CODES.tobytes()) -> bytes:
    """A batch as Python 2 wrote the official ones: protocol 2, opcode by opcode; `extra` is one more key and value."""
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in LABELS) + b"e"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nK\0\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    state = b"(K\x01J" + struct.pack("<i", rows) + b"M\0\x0c\x86" + dtype + b"\x89" + text(codes) + b"tb"
    return b"\x80\x02}(" + text(key) + labels + extra + text(b"data") + array + state + b"u."


def binary_batch(codes: np.ndarray, labels: list[int], coarse: bytes = b"") -> bytes:
    return b"".join(coarse + bytes([label]) + image.tobytes() for image, label in zip(codes, labels, strict=True))


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.fixture(scope="session")
def real() -> tuple[ImageDataset, ImageDataset]:
    if not (data_root() / CIFAR10.python).is_dir():
        pytest.skip(f"needs {CIFAR10.python}/ under the data root (MAQD_DATA_ROOT)")
    return load("cifar10")


def test_the_real_images_and_labels(real) -> None:
    train, test = real
    assert (len(train), len(test)) == (50_000, 10_000)
    assert train.labels.bincount().tolist() == [5_000] * 10
    assert test.labels.bincount().tolist() == [1_000] * 10
    assert train.labels[:5].tolist() == [6, 9, 9, 4, 1]  # frog, truck, truck, deer, automobile
    assert train.codes[0, :, 0, :3].tolist() == [[59, 43, 50], [62, 46, 48], [63, 45, 43]]
    assert test.labels[:5].tolist() == [3, 8, 8, 0, 6]  # cat, ship, ship, airplane, frog
    # the mean colour that everybody normalizes with
    mean = train.codes.sum((0, 2, 3)) / (255 * 50_000 * 32 * 32)
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=5e-5, rtol=0)


def test_the_real_class_names(real) -> None:
    file = data_root() / CIFAR10.python / CIFAR10.names
    assert tuple(read_inert(file.read_bytes(), file)["label_names"]) == CIFAR10.card.classes


def test_the_real_validation_part_is_fixed_and_apart(real) -> None:
    train, validation = hold_out(real[0], CIFAR10.card.validation, "train", "validation")
    assert (len(train), len(validation)) == (45_000, 5_000)
    digest = hashlib.sha256(validation.labels.byte().numpy().tobytes()).hexdigest()
    assert digest.startswith("8cf348794522d739")
    together = torch.cat([train.labels, validation.labels]).bincount()
    assert torch.equal(together, real[0].labels.bincount())


def test_the_real_file_equals_what_pickle_reads(real) -> None:
    file = data_root() / CIFAR10.python / "test_batch"  # its md5 was checked by `real`
    reference = pickle.loads(file.read_bytes(), encoding="latin1")  # noqa: S301
    np.testing.assert_array_equal(real[1].codes.numpy().reshape(10_000, -1), reference["data"])
    assert real[1].labels.tolist() == reference["labels"]


def test_the_binary_version_equals_the_python_version(real, tmp_path: Path) -> None:
    codes, labels = real[1].codes[:300], real[1].labels[:300]
    file = write(tmp_path / "test_batch.bin", binary_batch(codes.numpy(), labels.tolist()))
    read_codes, read_labels = read_cifar_binary(file)
    np.testing.assert_array_equal(read_codes, codes)
    np.testing.assert_array_equal(read_labels, labels)


def test_the_synthetic_batch_is_a_true_pickle_and_is_read(tmp_path: Path) -> None:
    reference = pickle.loads(python_batch(), encoding="latin1")  # noqa: S301
    np.testing.assert_array_equal(reference["data"], CODES.reshape(3, -1))
    codes, labels = read_cifar_python(write(tmp_path / "batch", python_batch()))
    np.testing.assert_array_equal(codes, CODES)
    assert labels.tolist() == LABELS
    assert (codes.dtype, labels.dtype) == (np.uint8, np.int64)


def entry_of(base, **changes):
    """The entry of a dataset of the same form with three images in each batch."""
    md5 = hashlib.md5(python_batch(base.labels.encode())).hexdigest()
    batches = {"train": tuple(Batch(b.name, md5) for b in base.train), "test": Batch(base.test.name, md5)}
    return replace(base, **batches, **changes)


@pytest.mark.parametrize("base", [CIFAR10, CIFAR100], ids=lambda entry: entry.card.name)
def test_each_version_alone_is_enough(tmp_path: Path, base) -> None:
    entry = entry_of(base)
    parts = []
    for folder, suffix, content in (
        (base.binary, ".bin", binary_batch(CODES, LABELS, b"\5" * (base.label_bytes - 1))),
        (base.python, "", python_batch(base.labels.encode())),
    ):
        (tmp_path / folder).mkdir()
        for batch in (*base.train, base.test):
            write(tmp_path / folder / f"{batch.name}{suffix}", content)
        parts.append(entry.read(tmp_path, download=False))
    for part, count in ((0, 3 * len(base.train)), (1, 3)):
        assert [len(version[part]) for version in parts] == [count, count]
        assert torch.equal(parts[0][part].codes, parts[1][part].codes)
        assert torch.equal(parts[0][part].labels, parts[1][part].labels)


def test_a_batch_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / CIFAR10.python).mkdir()
    write(tmp_path / CIFAR10.python / "data_batch_1", python_batch())
    with pytest.raises(
        MaqdError, match=r"dataset 'cifar10' is not under .* put the folder cifar-10-batches-py/ with data_b"
    ):
        load("cifar10", tmp_path)


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / CIFAR10.binary).mkdir()
    for batch in (*CIFAR10.train, CIFAR10.test):
        write(tmp_path / CIFAR10.binary / f"{batch.name}.bin", binary_batch(CODES, LABELS))
    with pytest.raises(MaqdError, match="expected 50000 training and 10000 test images, got 15 and 3"):
        load("cifar10", tmp_path)


class Evil:
    def __init__(self, sentinel: Path) -> None:
        self.command = f"touch {sentinel}"

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_pickle_does_not_run(tmp_path: Path, protocol: int) -> None:
    sentinel = tmp_path / "ran"
    data = pickle.dumps({"data": Evil(sentinel), "labels": LABELS}, protocol)
    with pytest.raises(MaqdError, match=r"no pickle of plain data|expected the key 'data'"):
        read_cifar_python(write(tmp_path / "batch", data))
    assert not sentinel.exists()
    pickle.loads(data)  # noqa: S301  (it is really poisonous)
    assert sentinel.exists()


def test_code_beside_good_data_does_not_run(tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    call = text(b"extra") + b"cos\nsystem\n" + text(f"touch {sentinel}".encode()) + b"\x85R"
    data = python_batch(extra=call)
    codes, _ = read_cifar_python(write(tmp_path / "batch", data))
    np.testing.assert_array_equal(codes, CODES)
    assert not sentinel.exists()
    pickle.loads(data, encoding="latin1")  # noqa: S301  (it is really poisonous)
    assert sentinel.exists()


DEEP = b"N" + b"\x85" * 100_000  # hashing it would overflow the stack
WIDE = b"N" + b"q\0h\0\x86" * 60  # a tuple of twice the last one, 60 times: hashing it would not end


HOSTILE = {
    "huge shape": python_batch(rows=2**31 - 1),
    "negative shape": python_batch(rows=-1),
    "too few bytes": python_batch(codes=CODES.tobytes()[:-1]),
    "too many bytes": python_batch(codes=CODES.tobytes() + b"x"),
    "no images": python_batch(rows=0, codes=b""),
    "array of objects": python_batch().replace(b"u1", b"O8"),
    "Fortran order": python_batch().replace(b"\x89T", b"\x88T"),
    "another class": python_batch().replace(b"cnumpy\nndarray", b"cnumpy\nmemmap."),
    "another width": python_batch().replace(b"M\0\x0c", b"M\0\x0b"),
    "memo of 2^32 places": b"\x80\x02}r\xff\xff\xff\xff.",
    "string of 2 GiB": b"\x80\x02T\xff\xff\xff\x7fabc.",
    "deep key": b"\x80\x02}" + DEEP + b"Ns.",
    "wide key": b"\x80\x02}" + WIDE + b"Ns.",
    "deep": b"\x80\x02" + DEEP + b".",
    "dict as key": b"\x80\x02}}s.",
    "key without value": b"\x80\x02}(K\1u.",
    "state of an integer": b"\x80\x02K\1K\2b.",
    "no such memo": b"\x80\x02h\7.",
    "empty stack": b"\x80\x02.",
    "no mark": b"\x80\x02]t.",
    "empty": b"",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_pickles_are_refused_in_little_memory(tmp_path: Path, data: bytes) -> None:
    file = write(tmp_path / "batch", data)
    tracemalloc.start()
    try:
        with pytest.raises(MaqdError, match=r"no pickle of plain data|expected the key 'data'"):
            read_cifar_python(file)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (python_batch(key=b"fine_labels"), "expected the key 'labels' with 3 labels"),
        (python_batch().replace(b"K\x07K\x00K\x09e", b"K\x07K\x00e"), "expected the key 'labels' with 3 labels"),
        (python_batch().replace(b"K\x07K\x00K\x09e", b"K\x07K\x00Ne"), "expected the key 'labels' with 3 labels"),
        (python_batch().replace(b"K\x07K\x00K\x09e", b"K\x07K\x00M\x00\x01e"), "integers in 0..255"),
        (python_batch() + b"x", "1 bytes behind its end"),
    ],
    ids=lambda value: "data" if isinstance(value, bytes) else value,
)
def test_wrong_labels_and_trailing_bytes_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(MaqdError, match=message):
        read_cifar_python(write(tmp_path / "batch", data))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = python_batch()
    for size in [*range(300), *range(300, len(whole), 97), len(whole) - 1]:
        with pytest.raises(MaqdError, match="no pickle of plain data"):
            read_cifar_python(write(tmp_path / "batch", whole[:size]))
    records = binary_batch(CODES, LABELS)
    for size in (0, 1, 3072, 3074, len(records) - 1):
        with pytest.raises(MaqdError, match=f"expected records of 3073 bytes, got {size} bytes"):
            read_cifar_binary(write(tmp_path / "batch.bin", records[:size]))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 120), st.integers(0, 255), st.booleans())
def test_a_changed_byte_gives_a_batch_or_the_error(tmp_path_factory, place: int, value: int, behind: bool) -> None:
    data = bytearray(python_batch())
    data[-place - 1 if behind else place] = value
    try:
        codes, labels = read_cifar_python(write(tmp_path_factory.getbasetemp() / "changed", bytes(data)))
    except MaqdError:
        return
    assert codes.shape == (len(labels), 3, 32, 32)


def test_the_checksum_comes_before_the_pickle(tmp_path: Path) -> None:
    file = write(tmp_path / "batch", b"not a pickle")
    with pytest.raises(MaqdError, match=r"is not the official file: expected md5 c99c.*download=True"):
        read_cifar_python(file, md5=CIFAR10.train[0].md5)
    with pytest.raises(MaqdError, match="no pickle of plain data"):
        read_cifar_python(file)


def test_the_loader_checks_the_checksum(tmp_path: Path) -> None:
    (tmp_path / CIFAR10.python).mkdir()
    for batch in (*CIFAR10.train, CIFAR10.test):
        write(tmp_path / CIFAR10.python / batch.name, python_batch())
    with pytest.raises(MaqdError, match="data_batch_1' is not the official file"):
        load("cifar10", tmp_path)
