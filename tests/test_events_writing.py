"""What written files keep beside the events."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from maqd_snn.datasets.events import EVENT_DTYPE, EventFileError, read_events, read_recording
from maqd_snn.datasets.events.writing import WRITERS, write_events


@pytest.mark.parametrize("suffix", WRITERS)
def test_hdf5_keeps_the_sensor_and_the_others_read_as_before(suffix: str, tmp_path: Path) -> None:
    events = np.array([(7, 3, 4, 1), (9, 5, 6, 0)], EVENT_DTYPE)
    path = tmp_path / f"a{suffix}"
    write_events(path, events, (128, 96))
    np.testing.assert_array_equal(read_events(path), events)
    if suffix in (".h5", ".hdf5"):
        with h5py.File(path) as file:
            assert file.attrs["geometry"] == b"128x96"
        assert read_recording(path).sensor == (128, 96)
        write_events(path, events)
        with h5py.File(path) as file:
            assert "geometry" not in file.attrs
        assert read_recording(path).sensor is None


@pytest.mark.parametrize("stated", [np.bytes_("128x"), np.bytes_("1" * 17 + "x9"), "128x96", 7, np.zeros(3)])
def test_a_geometry_that_is_none_is_ignored(stated: object, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_events(path, np.array([(7, 3, 4, 1)], EVENT_DTYPE))
    with h5py.File(path, "a") as file:
        file.attrs["geometry"] = stated
    assert read_recording(path).sensor is None


def test_events_outside_the_stated_sensor_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_events(path, np.array([(7, 3, 4, 1), (8, 200, 4, 1)], EVENT_DTYPE), (128, 96))
    with pytest.raises(EventFileError, match="outside the sensor of 128 x 96"):
        read_recording(path)
