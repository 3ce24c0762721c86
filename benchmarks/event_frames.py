"""Rows of `maqd bench events`: events to frames beside tonic's `ToFrame`, and random access to the event store."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from maqd_snn.benchmarks.lines import Line, Row, Setting
from maqd_snn.datasets.events.frames import slice_by_count, slice_by_time
from maqd_snn.datasets.events.recording import EVENT_DTYPE, Events
from maqd_snn.datasets.events.store import EventStore, Sample, write_store

OURS = "maqd-snn"
SLICES, SENSOR = 8, (128, 128)
RECORDINGS, EVENTS_EACH = 1000, 4000  # N-MNIST's sizes


def random_events(count: int, sensor: tuple[int, int], span_us: int, seed: int = 0) -> Events:
    """Return events at random places, in order of time."""
    generator = np.random.default_rng(seed)
    events = np.zeros(count, EVENT_DTYPE)
    events["t"] = np.sort(generator.integers(0, span_us, count))
    events["x"], events["y"] = generator.integers(0, sensor[0], count), generator.integers(0, sensor[1], count)
    events["p"] = generator.integers(0, 2, count)
    return events


def frames(setting: Setting) -> Iterable[Line]:
    """Eight slices of 128 x 128 pixels and two polarities."""
    count = 10**5 if setting.quick else 10**7
    events = random_events(count, SENSOR, count)
    note = f"{count / 1e6:.1f} M events, {SLICES} x 2 x {SENSOR[1]} x {SENSOR[0]}"
    for name, work in (("by time", slice_by_time), ("by count", slice_by_count)):
        seconds = setting.best(lambda work=work: work(events, SENSOR, SLICES))  # type: ignore[misc]
        yield Line(f"events to frames, {name}", OURS, count / seconds / 1e6, "M events/s", note)
    try:
        from tonic.transforms import ToFrame
    except ImportError:
        return
    to_frame: Any = ToFrame(sensor_size=(*SENSOR, 2), n_time_bins=SLICES)
    part = events[: min(count, 10**6)]  # it is slower
    seconds = setting.best(lambda: to_frame(part), 3)
    yield Line("events to frames, by time", "tonic ToFrame", len(part) / seconds / 1e6, "M events/s")


def store(setting: Setting) -> Iterable[Line]:
    """A random recording of a store of N-MNIST's sizes."""
    count = 50 if setting.quick else RECORDINGS
    path = setting.folder / "store.h5"
    recordings = [random_events(EVENTS_EACH, (34, 34), 300_000, seed) for seed in range(count)]
    write_store(path, (34, 34), {}, (Sample(events, 0, 0, 0, str(i)) for i, events in enumerate(recordings)))
    order = np.random.default_rng(0).permutation(count).tolist()
    with EventStore(path) as opened:
        seconds = setting.best(lambda: [opened[index] for index in order]) / count
    ratio = 5 * EVENTS_EACH * count / path.stat().st_size
    note = f"{EVENTS_EACH} random events; {ratio:.2f} times smaller than 5 bytes an event"
    yield Line("a random recording of the store", OURS, seconds * 1e3, "ms", note)


FRAME_ROWS: Mapping[str, Row] = MappingProxyType({"frames": frames, "store": store})
