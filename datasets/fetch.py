"""Downloading with checksums: files are whole and right under their names, or not there."""

import gzip
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pooch

from maqd_snn.datasets.checked import MAX_BYTES
from maqd_snn.errors import MaqdError


def fetch_file(url: str, md5: str, root: Path, target: Path) -> None:
    """Download `url` to the file `target`, which is somewhere under the data root `root`.

    Raises:
        MaqdError: the download failed, came with another checksum, or cannot be written; nothing has changed then.
    """
    with _downloaded(url, md5, root) as file:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)


def fetch_archive(url: str, md5: str, root: Path, folder: str, names: Iterable[str]) -> None:
    """Download the .tar.gz at `url` and put its files `folder/name` under `root`, all of them or none.

    Raises:
        MaqdError: as `fetch_file` and `unpack`; or `root/folder` is already there.
    """
    if (root / folder).exists():
        raise MaqdError(f"{str(root / folder)!r} is there but incomplete; move it away, then fetch the dataset again")
    with _downloaded(url, md5, root) as archive:
        unpacked = archive.with_name(folder)
        unpack(archive, folder, names, unpacked)
        os.replace(unpacked, root / folder)


def unpack(archive: Path, folder: str, names: Iterable[str], into: Path) -> None:
    """Write the regular files `folder/name` of a .tar.gz to the new folder `into`.

    Files are looked up by the names we expect; no path, link or mode of the archive is used: none can lead elsewhere.

    Raises:
        MaqdError: a damaged archive, or one without such a file of at most `MAX_BYTES` bytes.
    """
    into.mkdir()
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for name in names:
                member = tar.getmember(f"{folder}/{name}")
                source = tar.extractfile(member) if member.isreg() and member.size <= MAX_BYTES else None
                if source is None:
                    raise tarfile.ExtractError(f"{member.name} is no regular file of at most {MAX_BYTES} bytes")
                with source, open(into / name, "wb") as target:
                    shutil.copyfileobj(source, target)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, KeyError) as error:
        raise MaqdError(f"{archive.name!r} is not the expected archive ({error}); get the official one") from error


@contextmanager
def _downloaded(url: str, md5: str, root: Path) -> Iterator[Path]:
    """Yield the downloaded and checked file in a folder of its own under `root`, which is removed in the end."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".download-", dir=root) as temporary:
            yield _retrieve(url, md5, temporary)
    except OSError as error:
        raise MaqdError(f"cannot write under {str(root)!r} ({error.strerror}); name another data root") from error


def _retrieve(url: str, md5: str, folder: str) -> Path:
    name = url.rsplit("/", 1)[-1]
    try:
        return Path(pooch.retrieve(url, f"md5:{md5}", name, folder, progressbar=sys.stderr.isatty()))
    except OSError as error:  # the exceptions of requests are among these
        raise MaqdError(
            f"could not download {url} ({type(error).__name__}); check the connection, or get it by other means and "
            "put it under the data root (an archive: unpacked)"
        ) from error
    except ValueError as error:
        raise MaqdError(f"what came from {url} has not the official md5 {md5}; nothing was kept, try again") from error
