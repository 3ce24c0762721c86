"""Atomic writing: a file either has its whole new content or keeps the old one."""

import fcntl
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from maqd_snn.errors import MaqdError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, on any error it is removed.

    The temporary file keeps the suffix of `path`, since some writers look at it.

    Raises:
        MaqdError: the folder does not exist, or cannot be written.

    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text(), [p.name for p in target.parent.iterdir()]
    ('whole', ['a.txt'])
    """
    target = Path(os.path.realpath(path))  # a link stays a link; what it points to is replaced
    if target.is_dir():
        raise MaqdError(f"expected a file name to write to, but {str(target)!r} is a folder; give a name inside it")
    if target.exists() and not target.is_file():
        raise MaqdError(f"expected a file name to write to, but {str(target)!r} is a device or a pipe")
    if not target.parent.is_dir():
        raise MaqdError(
            f"cannot write {str(target)!r}: the folder {str(target.parent)!r} does not exist; create it first"
        )
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp{target.suffix}")
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # some writers make files that only their owner can read
        _sync(temporary)
        os.replace(temporary, target)
    except OSError as error:
        # not the error's own text, which names the temporary file
        raise MaqdError(
            f"cannot write {str(target)!r}: {error.strerror or error}; the previous file, if any, is unchanged"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 to `path`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write several files, the last of them last: each is named when all are on disk, so that an error leaves none.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_texts({folder / "a.h": "1", folder / "a.c": "2"})
    >>> sorted(path.name for path in folder.iterdir())
    ['a.c', 'a.h']
    """
    with ExitStack() as stack:
        for path, text in reversed(list(texts.items())):  # contexts end, and files get their names, last in first out
            stack.enter_context(atomic_path(path)).write_text(text, encoding="utf-8")


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(size_of(below) for below in path.iterdir())


def remove_temporaries(folder: str | os.PathLike[str]) -> None:
    """Remove what a process that was killed while it wrote has left in `folder`; no other may be writing there."""
    for path in Path(folder).iterdir():
        if re.fullmatch(r"\.[0-9a-f]{16}\.tmp(\..*)?", path.name) and path.is_file():
            path.unlink(missing_ok=True)


_CLAIMS: Counter[tuple[int, int]] = Counter()  # how often this process has a folder, by device and inode


@contextmanager
def claimed(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes that ask, too, out of `folder` meanwhile; the system takes the claim back from the dead.

    A process that has the folder may ask for it again. Nothing is written. Where a file system knows no locks, there
    are none.

    Raises:
        MaqdError: another process has it, or there is no such folder.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with claimed(folder), claimed(folder):
    ...     pass
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise MaqdError(f"cannot open the folder {str(folder)!r}: {error.strerror}; create it first") from error
    try:
        status = os.fstat(descriptor)
        key = status.st_dev, status.st_ino
        if not _CLAIMS[key]:
            _lock(descriptor, folder)
        _CLAIMS[key] += 1
        try:
            yield
        finally:
            _CLAIMS[key] -= 1
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: str | os.PathLike[str]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise MaqdError(f"another process is writing in {str(folder)!r}; let it end, or give another folder") from error
    except OSError:
        pass


def _umask() -> int:
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
