"""The idx reader: right on good files, one clear error and no memory spent on bad ones."""

import gzip
import hashlib
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maqd_snn.datasets import checked
from maqd_snn.datasets.idx import read_idx
from maqd_snn.errors import MaqdError


def idx(array: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


IMAGES = (np.arange(5 * 3 * 2) * 7 % 256).astype(np.uint8).reshape(5, 3, 2)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzip"])
@pytest.mark.parametrize("array", [IMAGES, IMAGES[:, 0, 0], IMAGES[:0], IMAGES[None]], ids=lambda a: str(a.shape))
def test_reads_what_was_written(tmp_path: Path, pack, array) -> None:
    file = tmp_path / "file"
    file.write_bytes(pack(idx(array)))
    read = read_idx(file)
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.uint8
    assert read.flags.writeable  # torch.from_numpy warns otherwise


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzip"])
def test_every_truncation_is_refused(tmp_path: Path, pack) -> None:
    whole = pack(idx(IMAGES))
    file = tmp_path / "file"
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(MaqdError, match=r"truncated|fewer came"):
            read_idx(file)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (idx(IMAGES) + b"x", "expected 30 bytes after the header .* more came"),
        (gzip.compress(idx(IMAGES) + b"x"), "expected 30 bytes after the header .* more came"),
        (gzip.compress(idx(IMAGES)) + b"x", "truncated or damaged"),
        (gzip.compress(idx(IMAGES))[:-8] + bytes(8), "truncated or damaged .*CRC"),
        (b"\0\0\x0d\3" + idx(IMAGES)[4:], "no idx file of unsigned bytes.* got 0000 0d 03"),
        (b"\0\0\x08\0", "no idx file of unsigned bytes.* got 0000 08 00"),
        (b"\0\0\x08\5" + bytes(24), "no idx file of unsigned bytes.* got 0000 08 05"),
        (b"PK\3\4" + bytes(24), "no idx file of unsigned bytes"),
    ],
    ids=lambda value: "data" if isinstance(value, bytes) else value,
)
def test_other_content_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    with pytest.raises(MaqdError, match=message):
        read_idx(file)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzip"])
@pytest.mark.parametrize(
    ("dims", "body"),
    [((2**32 - 1,) * 4, 100), ((2**20, 2**10, 2**10), 100), ((2**27,), 100), ((10,), 30_000_000)],
    ids=["2^128", "petabyte", "128 MiB", "bomb"],
)
def test_no_memory_for_what_the_header_or_the_stream_claims(tmp_path: Path, pack, dims, body) -> None:
    file = tmp_path / "file"
    data = pack(bytes([0, 0, 8, len(dims)]) + struct.pack(f">{len(dims)}I", *dims) + bytes(body))
    file.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(MaqdError, match=r"fewer came|more came"):
            read_idx(file)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data) + 1_000_000
    finally:
        tracemalloc.stop()


def test_shape_size_and_checksum_are_what_the_caller_expects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(idx(IMAGES))
    md5 = hashlib.md5(idx(IMAGES)).hexdigest()
    np.testing.assert_array_equal(read_idx(file, (5, 3, 2), md5), IMAGES)
    with pytest.raises(MaqdError, match=r"expected shape \(10, 3, 2\), its header says \(5, 3, 2\)"):
        read_idx(file, (10, 3, 2))
    with pytest.raises(MaqdError, match=f"is not the official file: expected md5 {'0' * 32}, got {md5}"):
        read_idx(file, md5="0" * 32)
    with pytest.raises(MaqdError, match=r"cannot read .*nothing.*No such file"):
        read_idx(tmp_path / "nothing")
    monkeypatch.setattr(checked, "MAX_BYTES", 45)
    with pytest.raises(MaqdError, match="expected at most 45 bytes"):
        read_idx(file)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(gzip.compress(idx(IMAGES))) - 1), st.integers(0, 255), st.booleans())
def test_a_changed_byte_gives_an_array_or_the_error(tmp_path_factory, position: int, value: int, packed: bool) -> None:
    data = bytearray(gzip.compress(idx(IMAGES)) if packed else idx(IMAGES))
    data[position % len(data)] = value
    file = tmp_path_factory.getbasetemp() / "changed"
    file.write_bytes(data)
    with suppress(MaqdError):
        assert read_idx(file).dtype == np.uint8
