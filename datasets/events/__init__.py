"""Event cameras: recordings of every format as one structured array, and what single-step networks take from them."""

from maqd_snn.datasets.events.recording import EVENT_DTYPE, EventFileError, Events, ReadOptions, Recording, Skipped
from maqd_snn.datasets.events.registry import FORMATS, find_format, read_events, read_recording, stream_events

__all__ = [
    "EVENT_DTYPE",
    "FORMATS",
    "EventFileError",
    "Events",
    "ReadOptions",
    "Recording",
    "Skipped",
    "find_format",
    "read_events",
    "read_recording",
    "stream_events",
]
