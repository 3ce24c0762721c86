"""The idx format of MNIST: a big-endian header with the sizes, then the bytes.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", section "File formats".
"""

import gzip
import math
import os
import struct
import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from maqd_snn.datasets.checked import read_checked
from maqd_snn.errors import MaqdError

_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_MAX_RATIO = 1032  # no deflate stream grows more: 258 bytes for 2 bits
_UNSIGNED_BYTE = 8


def read_idx(
    path: str | os.PathLike[str], shape: tuple[int, ...] | None = None, md5: str | None = None
) -> NDArray[np.uint8]:
    """Return the array of an idx file of unsigned bytes, gzip-compressed or not.

    Nothing is allocated for the header's word alone: at most one byte more than it promises is ever inflated, and
    nothing at all if the file is too small to hold that.

    Args:
        path: the file.
        shape: what the header must say; None takes any of 1 to 4 axes.
        md5: the checksum of the file as it lies on the disk.

    Raises:
        MaqdError: another type or shape, a truncated or damaged file, bytes behind the end, another checksum.

    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "labels-idx1-ubyte"
    >>> _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    >>> read_idx(file)
    array([7, 2, 1], dtype=uint8)
    """
    data = read_checked(path, md5)
    packed = data.startswith(_GZIP_MAGIC)
    capacity = len(data) * (_DEFLATE_MAX_RATIO if packed else 1)
    try:
        with gzip.GzipFile(fileobj=BytesIO(data)) if packed else BytesIO(data) as stream:
            zero, kind, rank = struct.unpack(">HBB", stream.read(4))
            if zero != 0 or kind != _UNSIGNED_BYTE or not 1 <= rank <= 4:
                raise MaqdError(
                    f"{str(path)!r} is no idx file of unsigned bytes: expected it to begin with 0000 08 and 01 to 04, "
                    f"got {zero:04x} {kind:02x} {rank:02x}; get the official file"
                )
            found = struct.unpack(f">{rank}I", stream.read(4 * rank))
            if shape not in (None, found):
                raise MaqdError(
                    f"{str(path)!r}: expected shape {shape}, its header says {found}; get the official file"
                )
            promised = math.prod(found)
            body = stream.read(promised + 1) if promised <= capacity else b""
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise MaqdError(f"{str(path)!r} is truncated or damaged ({error}); get it again") from error
    if len(body) != promised:
        came = "more" if len(body) > promised else "fewer"
        raise MaqdError(f"{str(path)!r}: expected {promised} bytes after the header {found}, {came} came; get it again")
    return np.frombuffer(bytearray(body), np.uint8).reshape(found)
