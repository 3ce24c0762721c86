"""Cleaning and augmenting events: pure functions from events to events.

The input is never changed, no state is kept, and chance comes from the generator that is given. Order is kept, but for
`jitter_time` and `reverse_time`, which return events in order of time.

Axis letters: E events.
"""

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from maqd_snn.datasets.events.frames import check_events
from maqd_snn.datasets.events.recording import Events
from maqd_snn.errors import MaqdError

Sensor = tuple[int, int]  # (width, height) in pixels


def crop(events: Events, left: int, top: int, width: int, height: int) -> Events:
    """Return the events of the window of `width` x `height` pixels at (left, top), which becomes the new origin.

    >>> from maqd_snn.datasets.events.recording import EVENT_DTYPE
    >>> crop(np.array([(0, 1, 1, 1), (1, 5, 5, 0)], EVENT_DTYPE), 4, 5, 2, 2)[["x", "y"]].tolist()
    [(1, 0)]
    """
    check_events(events)
    if min(left, top) < 0 or min(width, height) < 1:
        raise MaqdError(
            f"expected a window of at least one pixel at (left, top) >= 0, got {(left, top, width, height)}"
        )
    x, y = events["x"].astype(np.int64) - left, events["y"].astype(np.int64) - top
    kept = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return _moved(events[kept], x[kept], y[kept])


def crop_time(events: Events, begin_us: int, end_us: int) -> Events:
    """Return the events with begin <= t < end; their times stay."""
    check_events(events)
    if end_us < begin_us:
        raise MaqdError(f"expected begin <= end, got {begin_us} and {end_us}")
    kept: Events = events[(events["t"] >= begin_us) & (events["t"] < end_us)]
    return kept


def downsample(events: Events, factor: int) -> Events:
    """Return the events with coordinates floor(x / factor), floor(y / factor)."""
    check_events(events)
    if factor < 1:
        raise MaqdError(f"expected a factor of at least 1, got {factor}")
    return _moved(events, events["x"] // factor, events["y"] // factor)


def flip_left_right(events: Events, sensor: Sensor) -> Events:
    """Return the events mirrored left to right."""
    _inside(events, sensor)
    return _moved(events, sensor[0] - 1 - events["x"].astype(np.int64), events["y"])


def flip_up_down(events: Events, sensor: Sensor) -> Events:
    """Return the events mirrored top to bottom."""
    _inside(events, sensor)
    return _moved(events, events["x"], sensor[1] - 1 - events["y"].astype(np.int64))


def flip_polarity(events: Events) -> Events:
    """Return the events with brighter and darker exchanged."""
    check_events(events)
    out = events.copy()
    out["p"] = 1 - events["p"]
    return out


def reverse_time(events: Events) -> Events:
    """Return the recording played backwards: times t_first + t_last - t, polarities exchanged, last event first."""
    check_events(events)
    if not len(events):
        return events.copy()
    out = flip_polarity(events)
    out["t"] = events["t"].min() + (events["t"].max() - events["t"])
    return _by_time(out[::-1])


def scale_time(events: Events, factor: float) -> Events:
    """Return the events with times t_first + floor((t - t_first) * factor): a faster or slower recording."""
    check_events(events)
    if not 0 < factor < 1e6:
        raise MaqdError(f"expected a factor above 0 and below 1e6, got {factor}")
    out = events.copy()
    if len(events):
        first, last = int(events["t"].min()), int(events["t"].max())
        if last - first >= 2**63 or first + math.floor((last - first) * factor) >= 2**63:
            raise MaqdError(
                f"expected scaled times of 64 bits, got {first}..{last} us times {factor}; take a smaller factor, or "
                "move the times near zero"
            )
        out["t"] = first + np.floor((events["t"] - first) * factor).astype(np.int64)
    return out


def shift(events: Events, sensor: Sensor, right: int, down: int) -> Events:
    """Return the events moved by whole pixels; what leaves the sensor is dropped."""
    _inside(events, sensor)
    return _kept_inside(events, sensor, events["x"].astype(np.int64) + right, events["y"].astype(np.int64) + down)


def random_shift(events: Events, sensor: Sensor, largest: int, generator: Generator) -> Events:
    """Return the events moved by up to `largest` pixels in both directions."""
    if not 0 <= largest <= 2**16:
        raise MaqdError(f"expected a largest shift of 0 to 65536 pixels, got {largest}")
    right, down = generator.integers(-largest, largest + 1, 2)
    return shift(events, sensor, int(right), int(down))


def warp(events: Events, sensor: Sensor, degrees: float = 0.0, zoom: float = 1.0) -> Events:
    """Return the events turned by `degrees` (clockwise as one sees it) and zoomed, around the middle of the sensor.

    Coordinates are rounded half up; what leaves the sensor is dropped.
    """
    _inside(events, sensor)
    if not 0 < zoom < 1e6:
        raise MaqdError(f"expected a zoom above 0 and below 1e6, got {zoom}")
    if not math.isfinite(degrees):
        raise MaqdError(f"expected a finite number of degrees, got {degrees}")
    middle_x, middle_y = (sensor[0] - 1) / 2, (sensor[1] - 1) / 2
    x, y = events["x"] - middle_x, events["y"] - middle_y
    cosine, sine = zoom * np.cos(np.radians(degrees)), zoom * np.sin(np.radians(degrees))
    new_x = np.floor(cosine * x - sine * y + middle_x + 0.5).astype(np.int64)
    new_y = np.floor(sine * x + cosine * y + middle_y + 0.5).astype(np.int64)
    return _kept_inside(events, sensor, new_x, new_y)


def random_warp(events: Events, sensor: Sensor, degrees: float, zoom: float, generator: Generator) -> Events:
    """Return the events turned by up to `degrees` either way and zoomed by 1 - zoom .. 1 + zoom."""
    turn, scale = generator.uniform(-1, 1, 2)
    return warp(events, sensor, degrees * float(turn), 1 + zoom * float(scale))


def jitter_space(events: Events, sensor: Sensor, deviation: float, generator: Generator) -> Events:
    """Return the events with normal noise of this deviation, in pixels, on x and y; what leaves is dropped."""
    _inside(events, sensor)
    x, y = (_rounded(deviation, len(events), generator) + events[name] for name in ("x", "y"))
    return _kept_inside(events, sensor, x, y)


def jitter_time(events: Events, deviation_us: float, generator: Generator) -> Events:
    """Return the events with normal noise of this deviation on their times, none before the first, in order again."""
    check_events(events)
    out = events.copy()
    if len(events):
        noisy = events["t"] + _rounded(deviation_us, len(events), generator)
        out["t"] = np.maximum(noisy, events["t"].min())
    return _by_time(out)


def drop(events: Events, share: float, generator: Generator) -> Events:
    """Return the events without each one with probability `share`."""
    check_events(events)
    _share(share)
    return events[generator.random(len(events)) >= share]


def drop_time(events: Events, share: float, generator: Generator) -> Events:
    """Return the events without those of one random span of time, `share` of the recording's duration long."""
    check_events(events)
    _share(share)
    if not len(events):
        return events.copy()
    first, last = int(events["t"].min()), int(events["t"].max())
    length = share * (last - first + 1)
    begin = first + generator.random() * (last - first + 1 - length)
    return events[(events["t"] < begin) | (events["t"] >= begin + length)]


def drop_area(events: Events, sensor: Sensor, share: float, generator: Generator) -> Events:
    """Return the events without those of one random window, `share` of the sensor's width and height."""
    _inside(events, sensor)
    _share(share)
    (left, right), (top, bottom) = (
        (begin, begin + share * size)
        for size, begin in ((size, generator.random() * (1 - share) * size) for size in sensor)
    )
    x, y = events["x"], events["y"]
    return events[(x < left) | (x >= right) | (y < top) | (y >= bottom)]


def hot_pixels(events: Events, sensor: Sensor, factor: float = 20.0) -> NDArray[np.bool_]:
    """Return the hot pixels (height, width): more than `factor` times as many events as the mean of pixels that fired.

    >>> from maqd_snn.datasets.events.recording import EVENT_DTYPE
    >>> events = np.zeros(40, EVENT_DTYPE)
    >>> events["x"][:15] = np.arange(15) % 3 + 1
    >>> hot_pixels(events, (4, 1), 2).tolist()
    [[True, False, False, False]]
    """
    _inside(events, sensor)
    if not factor > 1:
        raise MaqdError(f"expected a factor above 1, got {factor}")
    width, height = sensor
    counts = np.bincount(events["y"].astype(np.int64) * width + events["x"], minlength=width * height)
    fired = counts > 0
    limit = factor * float(counts[fired].mean()) if fired.any() else np.inf
    hot: NDArray[np.bool_] = counts > limit
    return hot.reshape(height, width)


def without_pixels(events: Events, pixels: NDArray[np.bool_]) -> Events:
    """Return the events of the other pixels; `pixels` (height, width) is true where events are left out."""
    if pixels.ndim != 2 or pixels.dtype != np.bool_:
        raise MaqdError(f"expected pixels as booleans (height, width), got {pixels.dtype} {pixels.shape}")
    _inside(events, (pixels.shape[1], pixels.shape[0]))
    kept: Events = events[~pixels[events["y"], events["x"]]]
    return kept


def denoise(events: Events, sensor: Sensor, within_us: int) -> Events:
    """Return the events with another one, of either polarity, in the 8 pixels around them in the last `within_us`.

    The background activity filter of Delbruck (2008): e stays where some event e' before it in the array has
    0 < max(|x - x'|, |y - y'|) <= 1 and t - t' <= within_us. Its times must not run backwards.

    Source: T. Delbruck, Frame-free dynamic digital vision. Int. Symp. on Secure-Life Electronics, 2008.

    >>> from maqd_snn.datasets.events.recording import EVENT_DTYPE
    >>> events = np.array([(0, 1, 1, 1), (5, 2, 2, 0), (6, 9, 9, 1), (50, 1, 1, 1)], EVENT_DTYPE)
    >>> denoise(events, (10, 10), 10)["t"].tolist()
    [5]
    """
    _inside(events, sensor)
    if within_us < 1:
        raise MaqdError(f"expected within_us of at least 1, got {within_us}")
    t = events["t"]
    if len(t) and np.diff(t).min(initial=0) < 0:
        raise MaqdError("denoise expects times that do not run backwards; sort the events by time first")
    if not len(t):
        return events.copy()
    # A key per event, (pixel, order): the newest event of a neighbouring pixel before event i is the entry left of
    # (pixel, i) among the sorted keys. Pixels of a frame one wider on every side, so that no neighbour needs a check.
    count, wide = len(events), sensor[0] + 2
    pixel = (events["y"].astype(np.int64) + 1) * wide + events["x"] + 1
    number = np.arange(count)
    keys = np.sort(pixel * count + number)
    kept = np.zeros(count, np.bool_)
    for step in (-wide - 1, -wide, -wide + 1, -1, 1, wide - 1, wide, wide + 1):
        of = pixel + step
        found = np.searchsorted(keys, of * count + number) - 1
        before = keys[np.maximum(found, 0)]
        same = (found >= 0) & (before // count == of)
        kept |= same & (t - t[before % count] <= within_us)
    return events[kept]


def _rounded(deviation: float, count: int, generator: Generator) -> NDArray[np.int64]:
    if not 0 <= deviation < 2**31:
        raise MaqdError(f"expected a deviation of at least 0, got {deviation}")
    return np.floor(generator.normal(0, deviation, count) + 0.5).astype(np.int64)


def _share(share: float) -> None:
    if not 0 <= share <= 1:
        raise MaqdError(f"expected a share in 0..1, got {share}")


def _inside(events: Events, sensor: Sensor) -> None:
    check_events(events)
    if len(events) and (events["x"].max() >= sensor[0] or events["y"].max() >= sensor[1]):
        raise MaqdError(
            f"events reach column {events['x'].max()} and row {events['y'].max()}, outside the sensor of "
            f"{sensor[0]} x {sensor[1]} pixels; give the right sensor, or crop first"
        )


def _moved(events: Events, x: NDArray[np.integer], y: NDArray[np.integer]) -> Events:
    out = events.copy()
    out["x"], out["y"] = x, y
    return out


def _kept_inside(events: Events, sensor: Sensor, x: NDArray[np.int64], y: NDArray[np.int64]) -> Events:
    kept = (x >= 0) & (x < sensor[0]) & (y >= 0) & (y < sensor[1])
    return _moved(events[kept], x[kept], y[kept])


def _by_time(events: Events) -> Events:
    return events[np.argsort(events["t"], kind="stable")]
