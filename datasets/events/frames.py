"""From events to what a single-step network takes: counts of events per slice, polarity and pixel, clipped to levels.

Axis letters: E events, T slices, H height, W width. Nothing here keeps state or changes its input.
"""

from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, cast, get_type_hints

import numpy as np
from numpy.typing import NDArray

from maqd_snn.compiled import Kernel, in_parts
from maqd_snn.datasets.events.compiled import compiled, fast
from maqd_snn.datasets.events.recording import EVENT_DTYPE, Events
from maqd_snn.errors import MaqdError, unknown_name

LARGEST_SLICES = 1024
EVENTS_A_THREAD = 2**17  # fewer take less time than to wake a thread
OUTSIDE_SPAN = -2
LARGEST_CELLS = 2**28  # of one sample's frames, one byte each


@dataclass(frozen=True)
class FrameScheme:
    """How a recording becomes integer codes: the input scheme of a network.

    Its text form is what a dataset name carries behind a colon, such as `nmnist:slices=3,largest=1`.

    Attributes:
        slices: T, the number of slices of a recording.
        by: `time` cuts the recording into T spans of equal duration, `count` into T parts of equally many events,
            `window` into T spans of `window_us` from its first event on (later events are left out).
        window_us: duration of a slice in microseconds, with by=window.
        largest: counts above this are clipped to it; 1 gives binary input spikes, up to 255.
        downsample: this many pixels in each direction become one, their events summed.
        layout: `channels` is one sample of 2T channels (slice by slice, darker then brighter), `stream` is T samples of
            two channels, each classified in one step.
        kind: `events` makes the first layer spiking, `analog` charges it as a dense one.
        denoise_us: leave out events without another event of the 8 neighbours in this time before; 0 keeps all.

    Raises:
        MaqdError: a value is outside its legal range.

    >>> scheme = FrameScheme.parse("slices=3,by=count,largest=1")
    >>> scheme.slices, scheme.shape((34, 34))
    (3, (6, 34, 34))
    >>> FrameScheme.parse(str(scheme)) == scheme
    True
    """

    slices: int = 4
    by: str = "time"
    window_us: int = 0
    largest: int = 1
    downsample: int = 1
    layout: str = "channels"
    kind: Literal["events", "analog"] = "events"
    denoise_us: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("slices", 1, LARGEST_SLICES),
            ("largest", 1, 255),
            ("downsample", 1, 2**16),
            ("window_us", 0, 2**40),
            ("denoise_us", 0, 2**40),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise MaqdError(f"input scheme: {name} must be a whole number in {low}..{high}, got {value!r}")
        for name, choices in (
            ("by", ("time", "count", "window")),
            ("layout", ("channels", "stream")),
            ("kind", ("events", "analog")),
        ):
            if getattr(self, name) not in choices:
                raise MaqdError(f"input scheme: {unknown_name(name, getattr(self, name), choices)}")
        if (self.by == "window") != (self.window_us > 0):
            raise MaqdError(
                f"input scheme: by=window and window_us above 0 go together, got by={self.by}, "
                f"window_us={self.window_us}"
            )

    @staticmethod
    def parse(text: str) -> "FrameScheme":
        """Return the scheme of a text `field=value,...`; fields left out have their defaults. Raises as `updated`."""
        return FrameScheme().updated(text)

    def updated(self, text: str) -> "FrameScheme":
        """Return this scheme with the fields that a text `field=value,...` names.

        Raises:
            MaqdError: an unknown field, a field twice, or a value that construction refuses.
        """
        values: dict[str, Any] = {}
        for part in text.split(",") if text else ():
            name, equals, value = part.partition("=")
            if name not in _TYPES or not equals:
                raise MaqdError(f"input scheme: {unknown_name('field', part, (f'{n}=...' for n in _TYPES))}")
            if name in values:
                raise MaqdError(f"input scheme: {name} is given twice in {text!r}")
            if _TYPES[name] is int:
                if not (value.isascii() and value.isdecimal() and len(value) <= 18):
                    raise MaqdError(f"input scheme: {name} expects a whole number, got {value!r}")
                values[name] = int(value)
            else:
                values[name] = value
        return replace(self, **values)

    def __str__(self) -> str:
        """Return the text form: the fields that differ from their defaults."""
        return ",".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) != f.default)

    def shape(self, sensor: tuple[int, int]) -> tuple[int, int, int]:
        """Return (C, H, W) of one sample from a sensor of (width, height) pixels."""
        width, height = (-(-size // self.downsample) for size in sensor)
        return (2 if self.layout == "stream" else 2 * self.slices), height, width


_TYPES = {name: kind for name, kind in get_type_hints(FrameScheme).items() if name in FrameScheme.__match_args__}


def check_events(events: Events) -> None:
    """Raise MaqdError unless `events` is a one-dimensional array of EVENT_DTYPE."""
    if not isinstance(events, np.ndarray) or events.dtype != EVENT_DTYPE or events.ndim != 1:
        found = f"{events.dtype} {events.shape}" if isinstance(events, np.ndarray) else type(events).__name__
        raise MaqdError(f"expected a one-dimensional array of EVENT_DTYPE (t, x, y, p), got {found}")


def slice_by_time(
    events: Events,
    sensor: tuple[int, int],
    slices: int = 1,
    *,
    span: tuple[int, int] | None = None,
    largest: int = 255,
    downsample: int = 1,
) -> NDArray[np.uint8]:
    """Return the counts (T, 2, H, W), uint8, of `slices` spans of equal duration.

    The event at time t falls into slice floor((t - begin) * T / (end - begin)); a count above `largest` is `largest`.
    The pixel (x, y) is counted at (floor(x / downsample), floor(y / downsample)).

    Args:
        events: (E,) of EVENT_DTYPE, in any order of time.
        sensor: (width, height) in pixels.
        slices: T.
        span: (begin, end) in microseconds, the end excluded, events outside left out; None is from the first time to
            just behind the last.
        largest: 1..255.
        downsample: at least 1.

    Raises:
        MaqdError: another type; coordinates outside the sensor; polarities other than 0 and 1; an empty span.

    >>> events = np.array([(0, 1, 0, 1), (5, 1, 0, 1), (9, 0, 1, 0)], EVENT_DTYPE)
    >>> slice_by_time(events, (2, 2), 2).tolist()
    [[[[0, 0], [0, 0]], [[0, 1], [0, 0]]], [[[0, 0], [1, 0]], [[0, 1], [0, 0]]]]
    """
    check_events(events)
    longest = 2**62 // max(slices, 1)
    if span is None and len(events):
        first, last = int(events[0]["t"]), int(events[-1]["t"])
        if 0 <= last - first < longest:  # so it is where times grow; they are counted on trust
            with suppress(_OutsideSpanError):
                return _count(events, sensor, slices, first, last - first + 1, largest, downsample, whole=True)
        span = int(events["t"].min()), int(events["t"].max()) + 1
    begin, end = span or (0, 1)
    if end <= begin:
        raise MaqdError(f"expected a span (begin, end) with begin < end, got {span}")
    if end - begin > longest:
        raise MaqdError(f"a span of {end - begin} microseconds is no recording; give span=(begin, end)")
    return _count(events, sensor, slices, begin, end - begin, largest, downsample)


def slice_by_count(
    events: Events, sensor: tuple[int, int], slices: int = 1, *, largest: int = 255, downsample: int = 1
) -> NDArray[np.uint8]:
    """Return the counts (T, 2, H, W), uint8, of `slices` parts of equally many events.

    Event number i of E falls into slice floor(i * T / E). Arguments and errors are those of `slice_by_time`.

    >>> events = np.array([(0, 1, 0, 1), (1, 1, 0, 1), (9, 0, 0, 0)], EVENT_DTYPE)
    >>> slice_by_count(events, (2, 1), 3).reshape(3, 4).tolist()
    [[0, 0, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0]]
    """
    check_events(events)
    return _count(events, sensor, slices, 0, 0, largest, downsample)


def to_frames(events: Events, sensor: tuple[int, int], scheme: FrameScheme) -> NDArray[np.uint8]:
    """Return the input codes of one recording: (2T, H, W), or (T, 2, H, W) with layout=stream.

    Raises:
        MaqdError: see `slice_by_time`.

    >>> events = np.array([(0, 1, 0, 1), (5, 1, 0, 1)], EVENT_DTYPE)
    >>> to_frames(events, (2, 1), FrameScheme(slices=2)).tolist()
    [[[0, 0]], [[0, 1]], [[0, 0]], [[0, 1]]]
    """
    if scheme.denoise_us:
        from maqd_snn.datasets.events.transforms import denoise

        events = denoise(events, sensor, scheme.denoise_us)
    levels = {"largest": scheme.largest, "downsample": scheme.downsample}
    if scheme.by == "count":
        frames = slice_by_count(events, sensor, scheme.slices, **levels)
    else:
        span = None
        if scheme.by == "window" and len(events):
            begin = int(events["t"].min())
            span = (begin, begin + scheme.slices * scheme.window_us)
        frames = slice_by_time(events, sensor, scheme.slices, span=span, **levels)
    return frames if scheme.layout == "stream" else frames.reshape(-1, *frames.shape[2:])


class _OutsideSpanError(Exception):
    """An event lies outside the span in which all were expected."""


def _parts(events: int, cells: int = 0) -> int:
    """Return into how many parts to cut the work: each worth a thread and, where it has cells of its own, those too."""
    return max(1, events // max(EVENTS_A_THREAD, cells))


def _count(
    events: Events,
    sensor: tuple[int, int],
    slices: int,
    begin: int,
    span: int,
    largest: int,
    downsample: int,
    whole: bool = False,
) -> NDArray[np.uint8]:
    """Count by time where `span` is above 0, else by count; compiled where numba is installed.

    With `whole`, raises _OutsideSpanError if an event lies outside the span.
    """
    width, height = sensor
    for name, value, low, high in (
        ("sensor width", width, 1, 2**16),
        ("sensor height", height, 1, 2**16),
        ("slices", slices, 1, LARGEST_SLICES),
        ("largest", largest, 1, 255),
        ("downsample", downsample, 1, 2**16),
    ):
        if not low <= value <= high:
            raise MaqdError(f"{name} must lie in {low}..{high}, got {value}")
    shape = (slices, 2, -(-height // downsample), -(-width // downsample))
    if int(np.prod(shape, dtype=np.int64)) > LARGEST_CELLS:
        raise MaqdError(
            f"frames of shape {shape} have more than {LARGEST_CELLS} cells; use fewer slices, or downsample"
        )
    if not (events.flags.c_contiguous and events.flags.writeable):  # what the compiled kernel takes
        events = events.copy()
    bad, frames = _count_in_parts(
        events, (int(whole), width, height, begin, span, largest, downsample, slices, *shape[2:]), shape, largest
    )
    if bad == OUTSIDE_SPAN:
        raise _OutsideSpanError
    if bad >= 0:
        event = events[bad]
        raise MaqdError(
            f"event {bad} is (t={event['t']}, x={event['x']}, y={event['y']}, p={event['p']}), outside the sensor of "
            f"{width} x {height} pixels with polarities 0 and 1; give the right sensor, or crop first"
        )
    return frames


def _count_in_parts(
    events: Events, arguments: tuple[int, ...], shape: tuple[int, int, int, int], largest: int
) -> tuple[int, NDArray[np.uint8]]:
    """Return the first event outside the sensor, else -1, or OUTSIDE_SPAN if any part saw one, and the counts."""
    if not fast() or len(events) == 0:
        frames, count = np.zeros(shape, np.uint8), cast(Kernel, count_numpy)
        return count(events, *arguments, frames.reshape(-1)), frames
    kernel = compiled(count_kernel, "iieiiiiiiiiiib")

    def part(start: int, stop: int) -> tuple[int, NDArray[np.uint8]]:
        counts = np.zeros(shape, np.uint8)
        return kernel(start, stop, events, *arguments, counts.reshape(-1)), counts

    (bad, frames), *others = in_parts(part, len(events), _parts(len(events), int(np.prod(shape))))
    for found, counts in others:
        if found == OUTSIDE_SPAN or bad == -1:
            bad = found
        frames += np.minimum(counts, largest - frames)  # neither is above largest: nothing wraps
    return bad, frames


def count_numpy(
    events: Events,
    whole: int,
    width: int,
    height: int,
    begin: int,
    span: int,
    largest: int,
    downsample: int,
    slices: int,
    rows: int,
    columns: int,
    cells: NDArray[np.uint8],
) -> int:
    """Set `cells` (T * 2 * H * W) to the counts and return -1, or the number of the first event outside the sensor.

    With `whole` not 0, return OUTSIDE_SPAN if an event lies outside the span.
    """
    x, y, p = (events[name].astype(np.int64) for name in ("x", "y", "p"))
    outside = (x >= width) | (y >= height) | (p > 1)
    if outside.any():
        return int(outside.argmax())
    if span > 0:
        t = events["t"] - begin
        kept = (t >= 0) & (t < span)
        if not kept.all():
            if whole:
                return OUTSIDE_SPAN
            t, x, y, p = t[kept], x[kept], y[kept], p[kept]
        number = t * slices // span
    else:
        number = np.arange(len(events), dtype=np.int64) * slices // max(len(events), 1)
    cell = ((number * 2 + p) * rows + y // downsample) * columns + x // downsample
    cells[:] = np.minimum(np.bincount(cell, minlength=len(cells)), largest)
    return -1


def count_kernel(  # type: ignore[no-untyped-def]
    start, stop, events, whole, width, height, begin, span, largest, downsample, slices, rows, columns, cells
):
    """Add the counts of events[start:stop] to `cells`, all zero; as `count_numpy`, an event at a time, for numba."""
    total = len(events)
    low, high, base = 0, 0, 0  # of the slice that the last event fell into: times or numbers, and its first cell
    for index in range(start, stop):
        event = events[index]
        x, y, p = np.int64(event.x), np.int64(event.y), np.int64(event.p)
        if x >= width or y >= height or p > 1:
            return index
        if span > 0:
            t = event.t - begin
            if t < low or t >= high:  # rarely: times mostly grow
                if t < 0 or t >= span:
                    if whole:
                        return OUTSIDE_SPAN
                    continue
                number = t * slices // span
                low = -((-number * span) // slices)
                high = -((-(number + 1) * span) // slices)
                base = number * 2 * rows * columns
        elif index >= high:
            number = index * slices // total
            high = -((-(number + 1) * total) // slices)
            base = number * 2 * rows * columns
        if downsample > 1:
            x //= downsample
            y //= downsample
        cell = base + (p * rows + y) * columns + x
        if cells[cell] < largest:
            cells[cell] += 1
    return -1
