"""Writing events to files that every reader here reads back: HDF5, .npz, .npy, CSV, and the 5-byte format."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from maqd_snn.datasets.events.five_byte import MAX_FIELD_US, OVERFLOW_ROW, OVERFLOW_US
from maqd_snn.datasets.events.recording import Events
from maqd_snn.errors import MaqdError
from maqd_snn.files import atomic_path
from maqd_snn.hdf5 import hdf5_file

Sensor = tuple[int, int]  # (width, height) in pixels
FIELDS = ("t", "x", "y", "p")
_SLICE = 2**16
_MOST_OVERFLOWS = 2**24  # words that only move the time on: 38 hours


def write_events(path: str | os.PathLike[str], events: Events, sensor: Sensor | None = None) -> None:
    """Write events, in the format that the name's suffix tells, atomically.

    Args:
        path: the file; its suffix is one of `WRITERS`. events: of EVENT_DTYPE.
        sensor: (width, height) where known. HDF5 keeps it in the attribute `geometry`, as `640x480`, the form that
            Prophesee's headers have; the other formats have no place for it.

    Raises:
        MaqdError: an unknown suffix; events that the format cannot hold; the file cannot be written.

    >>> import tempfile, pathlib
    >>> from maqd_snn.datasets.events import EVENT_DTYPE, read_events
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
    >>> write_events(file, np.array([(7, 3, 4, 1)], EVENT_DTYPE))
    >>> read_events(file).tolist()
    [(7, 3, 4, 1)]
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise MaqdError(f"cannot write {str(path)!r}: the suffixes that can be written are: {', '.join(WRITERS)}")
    with atomic_path(path) as temporary:
        WRITERS[suffix](temporary, events, sensor)


def _write_hdf5(path: Path, events: Events, sensor: Sensor | None) -> None:
    with hdf5_file(path) as file:
        if sensor:
            file.attrs["geometry"] = np.bytes_(f"{sensor[0]}x{sensor[1]}")
        group = file.create_group("events")
        for name in FIELDS:
            chunks = (min(max(len(events), 1), _SLICE),)
            group.create_dataset(name, data=events[name], chunks=chunks, compression="gzip", shuffle=True)


def _write_npz(path: Path, events: Events, sensor: Sensor | None) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, t=events["t"], x=events["x"], y=events["y"], p=events["p"])


def _write_npy(path: Path, events: Events, sensor: Sensor | None) -> None:
    with path.open("wb") as file:
        np.save(file, events, allow_pickle=False)


def _write_csv(path: Path, events: Events, sensor: Sensor | None) -> None:
    with path.open("w", encoding="ascii") as file:
        file.write(",".join(FIELDS) + "\n")
        for start in range(0, len(events), _SLICE):
            part = events[start : start + _SLICE]
            np.savetxt(file, np.stack([part[name].astype(np.int64) for name in FIELDS], axis=1), "%d", ",")


def _write_five_byte(path: Path, events: Events, sensor: Sensor | None) -> None:
    t = events["t"]
    if len(events) and (t.min() < 0 or (np.diff(t) < 0).any() or events["x"].max() > 255 or events["y"].max() > 255):
        raise MaqdError(
            "the 5-byte format holds x and y up to 255 and times from 0 on, in order; choose another suffix"
        )
    if (events["y"] == OVERFLOW_ROW).any():
        raise MaqdError(f"the 5-byte format has no row {OVERFLOW_ROW}; choose another suffix")
    # overflow words that must have come before each event
    needed = np.maximum(0, -(-(t - MAX_FIELD_US) // OVERFLOW_US))
    extra = np.diff(needed, prepend=0)
    if len(needed) and needed[-1] > _MOST_OVERFLOWS:
        raise MaqdError(f"times up to {t[-1]} us are too long for the 5-byte format; choose another suffix")
    words = np.zeros((len(events) + int(extra.sum()), 5), np.uint8)
    words[:, 1] = OVERFLOW_ROW
    place = np.arange(len(events)) + np.cumsum(extra)
    field = (t - OVERFLOW_US * needed).astype(np.uint32)
    columns = (
        events["x"],
        events["y"],
        events["p"] << 7 | (field >> 16).astype(np.uint8),
        field >> 8 & 255,
        field & 255,
    )
    for column, values in enumerate(columns):
        words[place, column] = values
    words.tofile(path)


WRITERS: Mapping[str, Callable[[Path, Events, Sensor | None], None]] = MappingProxyType(
    {
        ".h5": _write_hdf5,
        ".hdf5": _write_hdf5,
        ".npz": _write_npz,
        ".npy": _write_npy,
        ".csv": _write_csv,
        ".bin": _write_five_byte,
    }
)
