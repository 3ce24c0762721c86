"""A plain interpreter of NIR graphs: one time step from rest, float32, every node as the NIR specification words it.

It shares no code with the export and knows nothing of integer networks, so it can judge a file by itself. One
convention is added, the graded form of `nir_export.py`: an IF with metadata `thresholds` gives levels, a SumPool2d with
metadata `maximum` gives maxima.
Axis letters: B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.errors import MaqdError


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.tensor(np.asarray(array), dtype=torch.float32)


def _pair(value: Any) -> tuple[int, int]:
    height, width = np.broadcast_to(np.asarray(value), 2)
    return int(height), int(width)


def _affine(node: Any, x: Tensor) -> Tensor:
    return x @ _tensor(node.weight).T + _tensor(node.bias)


def _linear(node: Any, x: Tensor) -> Tensor:
    return x @ _tensor(node.weight).T


def _conv2d(node: Any, x: Tensor) -> Tensor:
    stride, padding, dilation = _pair(node.stride), _pair(node.padding), _pair(node.dilation)
    return F.conv2d(x, _tensor(node.weight), _tensor(node.bias), stride, padding, dilation, int(node.groups))


def _sum_pool2d(node: Any, x: Tensor) -> Tensor:
    (height, width), (pad_h, pad_w) = _pair(node.kernel_size), _pair(node.padding)
    maximum = "maximum" in node.metadata
    padded = F.pad(x, (pad_w, pad_w, pad_h, pad_h), value=-torch.inf if maximum else 0.0)
    stride_h, stride_w = _pair(node.stride)
    windows = padded.unfold(2, height, stride_h).unfold(3, width, stride_w)
    return windows.amax((-2, -1)) if maximum else windows.sum((-2, -1))


def _flatten(node: Any, x: Tensor) -> Tensor:
    # NIR's axes do not count the batch.
    start, end = (int(axis) + 1 if axis >= 0 else int(axis) for axis in (node.start_dim, node.end_dim))
    return x.flatten(start, end)


def is_graded(node: Any) -> bool:
    """Return whether a node computes, by the convention of this library, something else than NIR says."""
    return "thresholds" in node.metadata or "maximum" in node.metadata


def _levels(node: Any, x: Tensor) -> Tensor:
    """low + number of thresholds t of the channel with r * x >= t, for x (B, C, ...) and thresholds (C, levels)."""
    thresholds, low, levels = (np.asarray(node.metadata.get(key, np.nan)) for key in ("thresholds", "low", "levels"))
    whole = all(value.dtype.kind == "i" for value in (thresholds, low, levels))
    channels = node.v_threshold.shape[0]
    if not whole or low.shape or levels.shape or levels < 1 or thresholds.shape != (channels, int(levels)):
        raise MaqdError(
            f"a graded IF needs metadata of whole numbers: low, levels and thresholds ({channels}, levels); got low of "
            f"{low.dtype}, levels of {levels.dtype}, thresholds {thresholds.shape} of {thresholds.dtype}"
        )
    per_channel = (-1, *(1,) * (node.v_threshold.ndim - 1))
    first = (thresholds[:, :1] - 0.5).astype(np.float32).reshape(per_channel)
    if (np.diff(thresholds) < 0).any() or (node.v_threshold != first).any() or (np.abs(node.r) != 1).any():
        raise MaqdError("a graded IF needs rising thresholds, the first of them less 1/2 as v_threshold, r of 1 or -1")
    u = _tensor(node.r) * x
    reached = torch.full(x.shape, float(low))
    for column in thresholds.T:
        reached += u >= _tensor(column.reshape(per_channel))
    return reached


def _integrate_and_fire(node: Any, x: Tensor) -> Tensor:
    if "thresholds" in node.metadata:
        return _levels(node, x)
    # From rest, one step of dv/dt = r x leaves v = r x; what it is reset to no longer matters.
    return (_tensor(node.r) * x > _tensor(node.v_threshold)).to(torch.float32)


# By node type name, so that reading graphs needs no import of `nir`.
NODES: Mapping[str, Callable[[Any, Tensor], Tensor]] = MappingProxyType(
    {
        "Input": lambda node, x: x,
        "Output": lambda node, x: x,
        "Affine": _affine,
        "Linear": _linear,
        "Conv2d": _conv2d,
        "SumPool2d": _sum_pool2d,
        "Flatten": _flatten,
        "IF": _integrate_and_fire,
    }
)


Shape = tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """What a node takes for one sample.

    Attributes:
        shape: of its output. work: values beside it: the sum of its inputs and, of a window's op, the padded image and
        the columns, each pixel as often as windows hold it.
    """

    shape: Shape
    work: int


def _product_size(node: Any, shape: Shape) -> Size:
    weight = np.shape(node.weight)
    bias = np.shape(node.bias) if type(node).__name__ == "Affine" else weight[:1]
    if len(weight) != 2 or shape != weight[1:] or bias != weight[:1]:
        raise MaqdError(f"a weight {weight} and a bias {bias} do not fit inputs {shape}")
    return Size(weight[:1], prod(shape))


def _window_size(node: Any, shape: Shape, channels: int, kernel: Shape, dilation: tuple[int, int]) -> Size:
    stride, padding = _pair(node.stride), _pair(node.padding)
    padded = [n + 2 * p for n, p in zip(shape[1:], padding, strict=True)]
    size = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(padded, kernel, stride, dilation, strict=True)]
    if min(size) < 1 or min(padding) < 0 or min(kernel) < 1:
        raise MaqdError(f"a kernel {kernel}, padding {padding} and stride {stride} do not fit inputs {shape}")
    columns = prod(kernel) * prod(size)
    return Size((channels, *size), prod(shape) + shape[0] * (prod(padded) + columns))


def _conv2d_size(node: Any, shape: Shape) -> Size:
    weight, bias = np.shape(node.weight), np.shape(node.bias)
    if len(weight) != 4 or len(shape) != 3 or shape[0] != weight[1] * int(node.groups) or bias != weight[:1]:
        raise MaqdError(f"a weight {weight} and a bias {bias} do not fit inputs {shape}")
    return _window_size(node, shape, weight[0], weight[2:], _pair(node.dilation))


def _sum_pool2d_size(node: Any, shape: Shape) -> Size:
    if len(shape) != 3:
        raise MaqdError(f"a SumPool2d needs images (C, H, W), got inputs {shape}")
    return _window_size(node, shape, shape[0], _pair(node.kernel_size), (1, 1))


def _if_size(node: Any, shape: Shape) -> Size:
    if np.shape(node.r) != shape or np.shape(node.v_threshold) != shape:
        raise MaqdError(f"r {np.shape(node.r)} and v_threshold {np.shape(node.v_threshold)} do not fit inputs {shape}")
    return Size(shape, 2 * prod(shape))


def _flatten_size(node: Any, shape: Shape) -> Size:
    start, end = (int(axis) if axis >= 0 else len(shape) + int(axis) for axis in (node.start_dim, node.end_dim))
    if not 0 <= start <= end < len(shape):
        raise MaqdError(f"start_dim {node.start_dim} and end_dim {node.end_dim} do not fit inputs {shape}")
    return Size((*shape[:start], prod(shape[start : end + 1]), *shape[end + 1 :]), prod(shape))


# By node type name: (node, shape of its inputs) -> what it takes, or MaqdError where its arrays do not fit.
SIZES: Mapping[str, Callable[[Any, Shape], Size]] = MappingProxyType(
    {
        "Input": lambda node, shape: Size(shape, 0),
        "Output": lambda node, shape: Size(shape, prod(shape)),
        "Affine": _product_size,
        "Linear": _product_size,
        "Conv2d": _conv2d_size,
        "SumPool2d": _sum_pool2d_size,
        "Flatten": _flatten_size,
        "IF": _if_size,
    }
)


def sizes(graph: Any) -> dict[str, Size]:
    """Return what every node of a `nir.NIRGraph` takes for one sample, by name, without running anything.

    Raises:
        MaqdError: a graph that is not feed-forward, or arrays that do not fit what they are fed; it names the node.
    """
    found: dict[str, Size] = {}
    order, feeding = topological_order(graph), _sources(graph)
    for name in order:
        node = graph.nodes[name]
        kind = type(node).__name__
        if kind == "Input":
            shape = tuple(int(length) for length in next(iter(node.output_type.values())))
        else:
            shapes = {found[source].shape for source in feeding[name]}
            if len(shapes) != 1:
                raise MaqdError(f"node {name!r} adds up inputs of the shapes {sorted(shapes)[:4]}")
            (shape,) = shapes
        try:
            found[name] = SIZES[kind](node, shape)
        except MaqdError as error:
            raise MaqdError(f"node {name!r}: {error}") from error
    return found


def _sources(graph: Any) -> dict[str, list[str]]:
    feeding: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        feeding[target].append(source)
    return feeding


def topological_order(graph: Any) -> list[str]:
    """Return the names of the nodes of a `nir.NIRGraph`, each after all nodes that feed it.

    Raises:
        MaqdError: an edge to or from no node; a cycle; a node other than the Input that nothing feeds.
    """
    feeding: dict[str, set[str]] = {name: set() for name in graph.nodes}
    for source, target in graph.edges:
        if source not in feeding or target not in feeding:
            raise MaqdError(f"the NIR graph has an edge {source!r} -> {target!r} to or from a node that does not exist")
        feeding[target].add(source)
    for name, sources in feeding.items():
        if not sources and type(graph.nodes[name]).__name__ != "Input":
            raise MaqdError(f"the node {name!r} of the NIR graph has no input")
    order: list[str] = []
    while feeding:
        ready = [name for name, sources in feeding.items() if not sources]
        if not ready:
            raise MaqdError("the NIR graph has a cycle; only feed-forward graphs can be run in a single step")
        order += ready
        for name in ready:
            del feeding[name]
        for sources in feeding.values():
            sources.difference_update(ready)
    return order


@torch.no_grad()
def run_nir(graph: Any, inputs: Tensor) -> dict[str, Tensor]:
    """Return the output of every node by name, for one step from rest; edges into one node add up.

    Args:
        graph: a `nir.NIRGraph` of the node types in `NODES`.
        inputs: (B, *input shape), what the Input node is fed.

    Raises:
        MaqdError: a node type that is not in `NODES`; a graph that is not feed-forward.
    """
    outputs: dict[str, Tensor] = {}
    order, feeding = topological_order(graph), _sources(graph)
    for name in order:
        node = graph.nodes[name]
        kind = type(node).__name__
        if kind not in NODES:
            raise MaqdError(f"node {name!r} is a {kind}; maqd-snn's NIR interpreter runs only: {', '.join(NODES)}")
        outputs[name] = NODES[kind](node, inputs.to(torch.float32) if kind == "Input" else _sum(name, feeding, outputs))
    return outputs


def _sum(name: str, feeding: Mapping[str, list[str]], outputs: Mapping[str, Tensor]) -> Tensor:
    first, *rest = (outputs[source] for source in feeding[name])
    for other in rest:
        if other.shape != first.shape:
            raise MaqdError(f"node {name!r} adds up inputs of the shapes {tuple(first.shape)} and {tuple(other.shape)}")
        first = first + other
    return first
