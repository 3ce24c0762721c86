"""Reading a file whole: of bounded size, and of the right checksum, before anything looks inside."""

import hashlib
import os

from maqd_snn.errors import MaqdError

# More than the largest file of any dataset here (CIFAR-100's training images, 155 MB).
MAX_BYTES = 200_000_000


def read_checked(path: str | os.PathLike[str], md5: str | None = None) -> bytes:
    """Return the bytes of `path`.

    MD5 is what the publishers of the datasets state; it tells a damaged or foreign file, not a forger.

    Raises:
        MaqdError: the file cannot be read, has more than `MAX_BYTES` bytes, or another checksum than `md5`.
    """
    try:
        with open(path, "rb") as file:
            # read() reserves what it is asked for: ask for no more than the file has, and one to see that it grows
            data = file.read(min(os.fstat(file.fileno()).st_size, MAX_BYTES) + 1)
    except OSError as error:
        raise MaqdError(f"cannot read {str(path)!r}: {error.strerror}; expected a dataset file there") from error
    if len(data) > MAX_BYTES:
        raise MaqdError(f"{str(path)!r} is no dataset file: expected at most {MAX_BYTES} bytes; get the official file")
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if md5 not in (None, found):
        raise MaqdError(
            f"{str(path)!r} is not the official file: expected md5 {md5}, got {found}; "
            "remove it and get it again (download=True or --download)"
        )
    return data
