"""A handful of samples to look at: input, spike maps of every layer, class scores; small enough for one page.

Axis letters: C channels, H height, W width.
"""

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.reporting.png import Colour, png

SAMPLES = 6
WRONG_SAMPLES = 2  # of them, if there are so many
SEARCHED = 500  # samples that are looked through for them
CHANNELS = 32  # shown of a layer
PIXELS = 40_000  # of a map; a larger channel is thinned out
SAMPLE_BYTES = 100_000  # of all pictures of a sample; layers beyond are left out

SPIKE, NEGATIVE, SILENT, GAP = (14, 138, 148), (201, 130, 43), (128, 136, 148, 40), (0, 0, 0, 0)


def sample_records(net: IntegerNetwork, codes: Tensor, labels: Tensor | None) -> list[dict[str, Any]]:
    """Return plain values of a few samples: right ones of different classes, and wrong ones if there are any.

    Args:
        net: the network. codes: (B, *input shape). labels: (B,), or None.

    Each record has `index`, `label` (or None), `prediction`, `scores`, `input` and `layers`; a picture has `width`,
    `height` and `png` (base64). Maps show the first `CHANNELS` channels as tiles, the level as opacity.
    """
    codes = codes[:SEARCHED]
    labels = None if labels is None else labels[:SEARCHED]
    chosen = _chosen(net, codes, labels)
    if not chosen:
        return []
    trace = net.trace(codes[chosen])
    scores = trace[net.ops[-1].name]
    return [
        {
            "index": index,
            "label": None if labels is None else int(labels[index]),
            "prediction": int(scores[row].argmax()),
            "scores": scores[row].flatten().tolist(),
            "input": _input_picture(net.input, codes[index].numpy()),
            "layers": _layers(net, trace, row),
        }
        for row, index in enumerate(chosen)
    ]


@torch.no_grad()
def _chosen(net: IntegerNetwork, codes: Tensor, labels: Tensor | None) -> list[int]:
    if labels is None or labels.numel() == 0:
        return list(range(min(SAMPLES, len(codes))))
    said = torch.cat([net(part) for part in torch.split(codes, 100)])
    if said.ndim != 2:
        return list(range(min(SAMPLES, len(codes))))
    right = (said.argmax(1) == labels).tolist()
    wrong = [index for index, good in enumerate(right) if not good][:WRONG_SAMPLES]
    seen: set[int] = set()
    others: list[int] = []
    for index, good in enumerate(right):  # of new classes first
        if good and int(labels[index]) not in seen:
            seen.add(int(labels[index]))
            others.append(index)
    others += [index for index, good in enumerate(right) if good and index not in others]
    return sorted(wrong + others[: SAMPLES - len(wrong)])


def _layers(net: IntegerNetwork, trace: dict[str, Tensor], row: int) -> list[dict[str, Any]]:
    left, shown = SAMPLE_BYTES, []
    for op in net.ops:
        if not isinstance(op, ops.Threshold):
            continue
        levels = trace[op.name][row].numpy()
        picture = spike_map(levels, op.low, op.low + op.levels)
        left -= len(picture["png"])
        shown.append(
            {
                "name": op.name,
                "shape": list(levels.shape),
                "rate": float((levels != 0).mean()),
                "channels": min(CHANNELS, levels.shape[0]) if levels.ndim == 3 else levels.shape[0],
                "picture": picture if left >= 0 else None,
            }
        )
    return shown


def spike_map(levels: NDArray[np.int64], low: int, high: int) -> dict[str, Any]:
    """Return the picture of the levels (C, H, W) or (N,) of one layer: channels as tiles, or neurons as a square.

    >>> spike_map(np.array([0, 1, 2, 0]), 0, 2)["width"]
    2
    """
    grid = _tiled(levels)
    largest = max(abs(low), abs(high), 1)
    # Index 0 is the gap, 1 silence, then levels 1.., then -1..; beyond 120 levels neighbours share a colour.
    steps = min(largest, 120)
    scaled = np.where(grid == _EMPTY, 0, np.ceil(np.abs(grid) * steps / largest)).astype(np.int64)
    index = np.where(scaled == 0, 1, 1 + scaled + np.where(grid < 0, steps, 0))
    index = np.where(grid == _EMPTY, 0, index).astype(np.uint8)
    palette: list[Colour] = [GAP, SILENT]
    for red, green, blue in (SPIKE, NEGATIVE):
        palette += [(red, green, blue, round(80 + 175 * step / steps)) for step in range(1, steps + 1)]
    return _picture(index, palette)


_EMPTY = np.iinfo(np.int64).min


def _tiled(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (C, H, W) as tiles with gaps of one pixel, or (N,) as a square, holes `_EMPTY`."""
    if values.ndim == 1:
        side = math.ceil(math.sqrt(len(values)))
        square = np.full(side * math.ceil(len(values) / side), _EMPTY, np.int64)
        square[: len(values)] = values
        return square.reshape(-1, side)
    shown = values[:CHANNELS]
    step = 1
    while shown[:, ::step, ::step].size > PIXELS:
        step += 1
    shown = shown[:, ::step, ::step]
    channels, height, width = shown.shape
    across = max(1, round(math.sqrt(channels * height / width)))
    down = math.ceil(channels / across)
    tiles = np.full((down * (height + 1) - 1, across * (width + 1) - 1), _EMPTY, np.int64)
    for channel in range(channels):
        top, left = channel // across * (height + 1), channel % across * (width + 1)
        tiles[top : top + height, left : left + width] = shown[channel]
    return tiles


def _input_picture(source: ops.Input, codes: NDArray[Any]) -> dict[str, Any]:
    """Return the input: three channels as a colour image, one as a grey one, others as tiles of grey."""
    span = max(source.high - source.low, 1)
    if codes.ndim == 3 and len(codes) == 3:
        shares = (codes.astype(np.float64) - source.low) / span
        return _picture((255 * shares).round().astype(np.uint8).transpose(1, 2, 0), None)
    grid = _tiled(codes.astype(np.int64))
    grey = np.where(grid == _EMPTY, 0, 1 + np.round((grid - source.low) * 253 / span)).astype(np.uint8)
    shades: list[Colour] = [GAP, *((round(level * 255 / 253),) * 3 + (255,) for level in range(254))]
    return _picture(grey, shades)


def _picture(pixels: NDArray[np.uint8], palette: Sequence[Colour] | None) -> dict[str, Any]:
    return {
        "width": int(pixels.shape[1]),
        "height": int(pixels.shape[0]),
        "png": base64.b64encode(png(np.ascontiguousarray(pixels), palette)).decode("ascii"),
    }
