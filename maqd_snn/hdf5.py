"""Writing HDF5 files, made in memory first: the HDF5 library takes the process down where a disk is full."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py


@contextmanager
def hdf5_errors() -> Iterator[None]:
    """Raise what HDF5 raises as RuntimeError as OSError, in one line."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error).splitlines()[0]) from error


@contextmanager
def hdf5_file(path: Path, userblock_size: int = 0) -> Iterator[h5py.File]:
    """Yield an empty HDF5 file in memory; on success it is written to `path`, a temporary one of `files.atomic_path`.

    Its bytes are those that HDF5 would have written there, with zeros for the user block.

    Raises:
        OSError: it cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.h5"
    >>> with hdf5_file(path) as file:
    ...     file["x"] = 7
    >>> with h5py.File(path) as file:
    ...     int(file["x"][()])
    7
    """
    with (
        hdf5_errors(),
        h5py.File("memory", "w", driver="core", backing_store=False, userblock_size=userblock_size) as file,
    ):
        yield file
        file.flush()
        image = file.id.get_file_image()
    path.write_bytes(bytes(userblock_size) + image)
