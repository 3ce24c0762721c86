"""The two file formats of CIFAR-10 and CIFAR-100: the python version (pickles) and the binary version.

Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Dataset layout".
"""

import os

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.checked import read_checked
from maqd_snn.datasets.inert_pickle import Call, Global, read_inert
from maqd_snn.errors import MaqdError

_PIXELS = 3 * 32 * 32  # red plane, green plane, blue plane, each row by row


def read_cifar_python(
    path: str | os.PathLike[str], labels: str = "labels", md5: str | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return (codes (N, 3, 32, 32), labels (N,)) of one batch of the python version; nothing in the file is run.

    Args:
        path: the batch.
        labels: the key of the labels: `labels`, or CIFAR-100's `fine_labels` and `coarse_labels`.
        md5: the checksum of the file; compared before anything looks inside.

    Raises:
        MaqdError: another checksum, or anything but N images of 3,072 unsigned bytes and N labels.
    """
    tree = read_inert(read_checked(path, md5), path)
    match tree:
        case {
            "data": Call(
                Global("numpy.core.multiarray _reconstruct"),
                (Global("numpy ndarray"), (0,), "b"),
                (1, (int(rows), 3072), Call(Global("numpy dtype"), ("u1", 0, 1)), False, str(raw)),
            )
        } if len(raw) == rows * _PIXELS > 0:
            codes = np.frombuffer(bytearray(raw, "latin-1"), np.uint8)
        case _:
            raise MaqdError(
                f"{str(path)!r}: expected the key 'data' with unsigned bytes of shape (N, {_PIXELS}) "
                "as in CIFAR's python version; get the official file"
            )
    values = tree.get(labels)
    if not isinstance(values, list) or len(values) != rows or not all(type(v) is int and 0 <= v < 256 for v in values):
        raise MaqdError(
            f"{str(path)!r}: expected the key {labels!r} with {rows} labels, integers in 0..255; get the official file"
        )
    return codes.reshape(rows, 3, 32, 32), np.array(values, np.int64)


def read_cifar_binary(
    path: str | os.PathLike[str], label_bytes: int = 1, md5: str | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return (codes (N, 3, 32, 32), labels (N,)) of one file of the binary version.

    Args:
        path: the file.
        label_bytes: bytes before each image: 1, or CIFAR-100's 2 (coarse, fine); the last one is the label.
        md5: the checksum of the file.

    Raises:
        MaqdError: another checksum, or anything but a whole number of records.
    """
    data = read_checked(path, md5)
    record = label_bytes + _PIXELS
    if not data or len(data) % record:
        raise MaqdError(
            f"{str(path)!r}: expected records of {record} bytes, got {len(data)} bytes; "
            "the file is truncated or another version, get it again"
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    return rows[:, label_bytes:].copy().reshape(-1, 3, 32, 32), rows[:, label_bytes - 1].astype(np.int64)
