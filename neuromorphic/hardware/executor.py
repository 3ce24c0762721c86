"""Runs a chip description core by core: each core knows its program, and of other cores what their messages bring it.

Axis letters: B batch, C channels, H height, W width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maqd_snn.errors import MaqdError
from maqd_snn.integer import ops
from maqd_snn.integer.ops import Op
from maqd_snn.integer.reference import evaluate
from maqd_snn.neuromorphic.hardware.description import read_array

Array = NDArray[np.int64]
LOWEST = int(np.iinfo(np.int64).min)


def run_cores(body: Mapping[str, Any], codes: NDArray[Any]) -> dict[str, Array]:
    """Return what every stage emits, put together from its cores, for integer codes (B, *input shape).

    A core starts with silence (level 0) in the boxes that it reads, adds the spikes that other cores send it, runs its
    program, and sends what it emits to the cores of its routing. In the encoding `thermometer` a level is sent as one
    binary spike for each level reached above 0, and for each level not reached up to 0, which counts -1.

    Args:
        body: of `read_description` or `describe`. codes: integers in the input's range.

    Raises:
        MaqdError: codes of the wrong shape or range, or a description whose sizes do not fit together.
    """
    entry = body["input"]
    if not np.issubdtype(codes.dtype, np.integer) or codes.shape[1:] != tuple(entry["shape"]):
        raise MaqdError(f"expected integer codes (B, {entry['shape']}), got {codes.dtype} {codes.shape}")
    if codes.size and (codes.min() < entry["low"] or codes.max() > entry["high"]):
        raise MaqdError(f"input codes must lie in {entry['low']}..{entry['high']}, got {codes.min()}..{codes.max()}")
    batch = len(codes)
    pixels = (codes.astype(np.int64) - entry["zero_point"]).reshape(batch, *_image(entry["shape"]))
    arrays = {name: read_array(stored, name) for name, stored in body["arrays"].items()}
    mail: dict[int, list[tuple[str, Any, list[Array]]]] = {core["id"]: [] for core in body["cores"]}
    emitted = {name: np.zeros((batch, *shape), np.int64) for name, shape in body["values"].items()}
    for core in body["cores"]:
        values: dict[str, tuple[Any, Array]] = {}
        for value in core["receives"]:
            box = value["box"]
            state = np.zeros((batch, *(high - low for low, high in box)), np.int64)
            if value["value"] == entry["name"]:
                state += _cut(pixels, [[0, n] for n in pixels.shape[1:]], box)
            for name, sent, spikes in mail[core["id"]]:
                if name == value["value"]:
                    _deliver(state, box, sent, spikes)
            values[value["value"]] = (box, state)
        for step in core["program"]:
            try:
                values[step["name"]] = (step["box"], _run(step, values, arrays))
            except (ValueError, IndexError, RuntimeError) as error:
                raise MaqdError(
                    f"core {core['id']}: {step['name']}: the sizes do not fit together ({error})"
                ) from error
        out = values[core["program"][-1]["name"]][1]
        _cut(emitted[core["stage"]], [[0, n] for n in emitted[core["stage"]].shape[1:]], core["emits"])[...] = out
        spikes = _encode(out, core["levels"], body["encoding"])
        for target in core["sends_to"]:
            mail[target].append((core["stage"], core["emits"], spikes))
    return emitted


def scores(body: Mapping[str, Any], codes: NDArray[Any]) -> Array:
    """Return the class scores (B, classes) of a description."""
    return run_cores(body, codes)[body["scores"]].reshape(len(codes), -1)


def _image(shape: Sequence[int]) -> Sequence[int]:
    return shape if len(shape) == 3 else (shape[0], 1, 1)


def _cut(values: Array, of: Any, box: Any) -> Array:
    """Return the part (B, C, H, W) of values that stand for the box `of` that another box cuts out; a view."""
    c, r, x = (slice(low - start, high - start) for (low, high), (start, _) in zip(box, of, strict=True))
    return values[:, c, r, x]


def _encode(out: Array, levels: list[int] | None, encoding: str) -> list[Array]:
    """Return the messages of an output: its levels, or one array of signed binary spikes per threshold neuron."""
    if levels is None or encoding == "levels":
        return [out]
    low, number = levels
    above = [(out >= level).astype(np.int64) for level in range(max(low, 0) + 1, low + number + 1)]
    below = [-(out < level).astype(np.int64) for level in range(low + 1, min(0, low + number) + 1)]
    constant = [np.full_like(out, low)] if low > 0 else []
    return above + below + constant


def _deliver(state: Array, box: Any, sent: Any, spikes: list[Array]) -> None:
    both = [[max(a[0], b[0]), min(a[1], b[1])] for a, b in zip(box, sent, strict=True)]
    if all(low < high for low, high in both):
        for spike in spikes:
            _cut(state, box, both)[...] += _cut(spike, sent, both)


def _run(step: Mapping[str, Any], values: Mapping[str, tuple[Any, Array]], arrays: Mapping[str, Array]) -> Array:
    """Evaluate one step with the integer network's own rules on the boxes cut out of its inputs."""
    read = [_cut(values[entry["name"]][1], values[entry["name"]][0], entry["box"]) for entry in step["inputs"]]
    names = tuple(f"input{index}" for index in range(len(read)))
    kind, name = step["op"], step["name"]
    if kind in ("Conv2d", "MaxPool2d", "SumPool2d"):
        read = [_pad(read[0], step["pad"], LOWEST if kind == "MaxPool2d" else 0)]
    size = tuple(high - low for low, high in step["box"])
    op: Op
    if kind == "Conv2d":
        stride, dilation = tuple(step["stride"]), tuple(step["dilation"])
        op = ops.Conv2d(name, names, torch.from_numpy(arrays[step["weight"]]), stride, (0, 0), dilation)
    elif kind in ("MaxPool2d", "SumPool2d"):
        pool = ops.MaxPool2d if kind == "MaxPool2d" else ops.SumPool2d
        op = pool(name, names, tuple(step["kernel"]), tuple(step["stride"]))
    elif kind == "Threshold":
        thresholds, direction = (torch.from_numpy(arrays[step[key]]) for key in ("thresholds", "direction"))
        op = ops.Threshold(name, names, thresholds, direction, step["low"])
    elif kind == "Flatten":
        return read[0].reshape(len(read[0]), *size)
    elif kind == "Add":
        total: Array = np.sum(read, axis=0)
        return total
    elif kind == "Linear":
        op = ops.Linear(name, names, torch.from_numpy(arrays[step["weight"]]))
        return evaluate(op, [read[0].reshape(len(read[0]), -1)]).reshape(len(read[0]), *size)
    else:
        return read[0] + arrays[step["bias"]].reshape(1, -1, 1, 1)
    return evaluate(op, read).reshape(len(read[0]), *size)


def _pad(values: Array, pad: list[int], fill: int) -> Array:
    """Return images (B, C, H, W) padded by [above, below, left, right]; a negative number takes away."""
    above, below, left, right = pad
    grown = np.pad(
        values,
        ((0, 0), (0, 0), (max(above, 0), max(below, 0)), (max(left, 0), max(right, 0))),
        constant_values=fill,
    )
    rows = slice(max(-above, 0), grown.shape[2] - max(-below, 0))
    return grown[:, :, rows, max(-left, 0) : grown.shape[3] - max(-right, 0)]
