"""Classifying a recording window by window, as it would arrive: scores, spikes and SynOps of every window.

Axis letters: B windows of a batch, T slices of a sample, C channels, H height, W width.
"""

import csv
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.counting import count, counted_values, fixed_counts, layers_of
from maqd_snn.datasets.events.frames import FrameScheme, slice_by_count
from maqd_snn.datasets.events.recording import EVENT_DTYPE, Events
from maqd_snn.datasets.events.transforms import denoise
from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork
from maqd_snn.tallies import Tally, tally

BATCH = 64  # windows that are computed together; it changes no number


@dataclass(frozen=True)
class Window:
    """What the network made of one window.

    Attributes:
        begin_us, end_us: the window, its end excluded. events: how many it holds.
        scores: integer class scores. winner: the class with the largest, the first of equals.
        total: scores summed from the first window on. total_winner: the class that leads then.
        spikes, synops, effective_synops, macs: of this window's step; `macs` are of layers that are fed no spikes.
    """

    begin_us: int
    end_us: int
    events: int
    scores: tuple[int, ...]
    winner: int
    total: tuple[int, ...]
    total_winner: int
    spikes: int
    synops: int
    effective_synops: int
    macs: int


def classify_windows(
    net: IntegerNetwork,
    windows: Iterable[Events],
    sensor: tuple[int, int],
    scheme: FrameScheme,
    window_us: int,
    begin_us: int,
) -> Iterator[Window]:
    """Yield a `Window` for each array of events, which are consecutive windows of `window_us` from `begin_us` on.

    A network of 2T channels sees the last T windows as its slices, empty ones before the first: every window is one
    step. The scores of all steps add up. Denoising sees the events of earlier windows.

    Raises:
        MaqdError: network, sensor, scheme and window do not fit each other; events outside the sensor, or out of order
            where they are to be denoised.
    """
    check_scheme(net, sensor, scheme, window_us)
    channels, height, width = _input_shape(net)
    slices: deque[NDArray[np.uint8]] = deque(
        [np.zeros((2, height, width), np.uint8)] * (channels // 2), maxlen=channels // 2
    )
    clean = _Denoiser(sensor, scheme.denoise_us) if scheme.denoise_us else None
    total = np.zeros(0, np.int64)
    for number, batch in enumerate(_batches(windows)):
        codes = []
        for events in batch:
            seen = clean.of(events) if clean else events
            slices.append(slice_by_count(seen, sensor, largest=scheme.largest, downsample=scheme.downsample)[0])
            codes.append(np.concatenate(slices))
        scores, counts = _steps(net, torch.from_numpy(np.stack(codes)))
        total = np.zeros(scores.shape[1], np.int64) if number == 0 else total
        for row, events in enumerate(batch):
            total = total + scores[row]
            begin = begin_us + (number * BATCH + row) * window_us
            yield Window(
                begin_us=begin,
                end_us=begin + window_us,
                events=len(events),
                scores=tuple(scores[row].tolist()),
                winner=int(scores[row].argmax()),
                total=tuple(total.tolist()),
                total_winner=int(total.argmax()),
                spikes=counts["spikes"][row],
                synops=counts["synops"][row],
                effective_synops=counts["effective_synops"][row],
                macs=counts["macs"][row],
            )


def check_scheme(net: IntegerNetwork, sensor: tuple[int, int], scheme: FrameScheme, window_us: int) -> None:
    """Raise MaqdError unless windows of `window_us` can be to the network what the slices of the scheme were.

    Every field counts: sizes, levels, slices and layout against the network's input; a slice of a fixed duration
    against the window. Slices of equally many events are no windows of time.
    """
    channels, height, width = _input_shape(net)
    rows, columns = FrameScheme(downsample=scheme.downsample).shape(sensor)[1:]
    if channels % 2 or (height, width) != (rows, columns) or net.input.high != scheme.largest:
        raise MaqdError(
            f"the network takes codes 0..{net.input.high} of shape {tuple(net.input.shape)}, but windows of a sensor "
            f"of {sensor[0]} x {sensor[1]} pixels give 0..{scheme.largest} and (2T, {rows}, {columns}); "
            "give the sensor, and the input scheme that the network was trained with"
        )
    slices = 1 if scheme.layout == "stream" else scheme.slices
    if channels != 2 * slices:
        raise MaqdError(
            f"the network takes {channels} channels, {channels // 2} slices, but the input scheme (slices="
            f"{scheme.slices}, layout={scheme.layout}) gives a step {slices}; give the input scheme that the network "
            "was trained with"
        )
    if scheme.kind != net.input.kind:
        raise MaqdError(
            f"the network's input is of kind={net.input.kind}, but the input scheme says kind={scheme.kind}"
        )
    if scheme.by == "count" and scheme.slices > 1:
        raise MaqdError(
            "the input scheme cuts recordings into slices of equally many events (by=count), which no window of time "
            "is; train with by=time or by=window, or see what the network makes of windows with by=time"
        )
    if scheme.by == "window" and scheme.window_us != window_us:
        raise MaqdError(
            f"the network's slices last {scheme.window_us} us (by=window), but the window {window_us} us; give a "
            f"window of {scheme.window_us} us"
        )


class _Denoiser:
    """`denoise` of a recording that comes in parts: what it leaves of them all is what it leaves of the whole.

    Of the parts before, the newest event of each pixel is kept: that is all that `denoise` looks at.
    """

    def __init__(self, sensor: tuple[int, int], within_us: int) -> None:
        self._sensor, self._within_us = sensor, within_us
        self._before: Events = np.empty(0, EVENT_DTYPE)

    def of(self, events: Events) -> Events:
        """Return what is left of the next part."""
        both = np.concatenate([self._before, events])
        left = denoise(both, self._sensor, self._within_us)
        # Whether an event stays depends on those before it alone, so what is left of the parts before comes first.
        left = left[len(denoise(self._before, self._sensor, self._within_us)) :]
        if len(events):
            both = both[np.searchsorted(both["t"], int(events["t"][-1]) - self._within_us) :]
            pixels = both["y"].astype(np.int64) * self._sensor[0] + both["x"]
            newest = len(both) - 1 - np.unique(pixels[::-1], return_index=True)[1]
            self._before = both[np.sort(newest)]
        return left


def _input_shape(net: IntegerNetwork) -> tuple[int, int, int]:
    shape = tuple(net.input.shape)
    if len(shape) != 3:
        raise MaqdError(f"a network for events takes codes (C, H, W), this one {shape}")
    return shape[0], shape[1], shape[2]


def _batches(windows: Iterable[Events]) -> Iterator[list[Events]]:
    batch: list[Events] = []
    for events in windows:
        batch.append(events)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _steps(net: IntegerNetwork, codes: Tensor) -> tuple[NDArray[np.int64], dict[str, list[int]]]:
    """Return the scores (B, classes) of single steps, and counts of `Counts` by name for each."""
    layers, counted = layers_of(net), counted_values(net)
    tallies: dict[str, Tally] = {}

    def observe(name: str, value: Tensor) -> None:
        tallies[name] = tally(value, counted[name].zones, counted[name].levels)

    scores = net.observe(codes, counted, observe)
    sums = {name: np.zeros(len(codes), np.int64) for name in ("spikes", "synops", "effective_synops", "macs")}
    for layer in layers:
        fixed, of_data = fixed_counts(layer), count(layer, tallies)
        for name, values in sums.items():
            values += fixed.get(name, 0) + of_data.get(name, 0)
    return scores.cpu().numpy().astype(np.int64), {name: values.tolist() for name, values in sums.items()}


def count_recordings_right(net: Callable[[Tensor], Tensor], codes: Tensor, labels: Tensor, frames: int) -> int:
    """Return how many recordings are right by the summed scores of their frames.

    Args:
        net: from codes to scores (B, classes). codes: (N * T, C, H, W), the T frames of a recording one after the other
        (layout=stream). labels: (N * T,).
        frames: T.

    Raises:
        MaqdError: no whole recordings.
    """
    if frames < 1 or len(codes) % frames:
        raise MaqdError(f"expected recordings of {frames} frames each, got {len(codes)} frames")
    scores = torch.cat([net(codes[start : start + BATCH]) for start in range(0, len(codes), BATCH)])
    summed = scores.reshape(len(codes) // frames, frames, -1).sum(1)
    return int((summed.argmax(1) == labels[::frames]).sum())


def stable_from(windows: Sequence[Window]) -> int | None:
    """Return the number of the window from which on the leading class never changes again; None without windows.

    >>> leaders = [2, 1, 1, 3, 3, 3]
    >>> stable_from([Window(0, 1, 0, (0,), 0, (0,), leader, 0, 0, 0, 0) for leader in leaders])
    3
    """
    if not windows:
        return None
    last = windows[-1].total_winner
    changes = [number for number, window in enumerate(windows) if window.total_winner != last]
    return changes[-1] + 1 if changes else 0


def windows_csv(windows: Sequence[Window], classes: Sequence[str], label: int | None = None) -> str:
    """Return the windows as CSV text with a header: one column a class for scores, and one for their sums.

    Where the true class is given, `correct` is 1 in every window in which it leads, else 0.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ["begin_us", "end_us", "events", "winner", "total_winner", "spikes", "synops", "effective_synops", "macs"]
    names += ["correct"] * (label is not None)
    writer.writerow([*names, *(f"score {name}" for name in classes), *(f"total {name}" for name in classes)])
    for w in windows:
        numbers = [w.spikes, w.synops, w.effective_synops, w.macs]
        numbers += [int(w.total_winner == label)] * (label is not None)
        winners = classes[w.winner], classes[w.total_winner]
        writer.writerow([w.begin_us, w.end_us, w.events, *winners, *numbers, *w.scores, *w.total])
    return text.getvalue()
