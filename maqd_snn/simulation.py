"""The simulator: runs the integer network over any number of samples and counts, in constant memory.

Axis letters: B batch.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from maqd_snn.counting import COUNT_NAMES, COUNTS, Counts, Layer, PerSample, count, layers_of
from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.geometry import row
from maqd_snn.integer.ops import Op

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Spread:
    """Mean and population standard deviation over the samples."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class LayerReport(Counts):
    """The counts of one op over all samples (totals), with what is known of the op.

    Attributes (besides those of `Counts`):
        name, op: name and type. spiking: whether its inputs are spikes. input_kind: `spikes`, `analog`, `accumulators`.
        input_shape (of the first input), output_shape: without the batch axis. weights, nonzero_weights: number of
            weights. kernel, stride, groups: of a convolution or pool, else (1, 1), (1, 1) and 1.
        weight_bits, input_bits, accumulator_bits: bit widths. largest_input: largest magnitude that can arrive.
        levels: levels above the lowest, of a threshold op. neurons: of a threshold op.
        histogram: how often each level, from the lowest up, was emitted, of a threshold op.
        per_sample: spread of every count over the samples, by name.
    """

    name: str = ""
    op: str = ""
    spiking: bool = False
    input_kind: str = ""
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    weights: int = 0
    nonzero_weights: int = 0
    weight_bits: int = 0
    input_bits: int = 0
    accumulator_bits: int = 0
    largest_input: int = 0
    levels: int = 0
    lowest_level: int = 0
    neurons: int = 0
    histogram: tuple[int, ...] = ()
    per_sample: dict[str, Spread] = field(default_factory=dict)

    def spike_rate(self, samples: int) -> float:
        """Return the share of neurons that emit a nonzero level, of a threshold op."""
        return self.spikes / (self.neurons * samples) if self.neurons and samples else 0.0


@dataclass(frozen=True)
class TotalReport(Counts):
    """The counts summed over all ops and samples, and their spread over the samples."""

    per_sample: dict[str, Spread] = field(default_factory=dict)


@dataclass(frozen=True)
class SimulationReport:
    """What a network did on a set of samples.

    Attributes:
        samples: number of samples. layers: one entry per op, in order, the input left out. total: the sums.
        accuracy: share of samples whose largest score is the label's, or None without labels.
        confusion: rows are labels, columns predictions, or None without labels.
    """

    samples: int
    layers: tuple[LayerReport, ...]
    total: TotalReport
    accuracy: float | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None

    def layer(self, name: str) -> LayerReport:
        """Return the entry of the op called `name`."""
        for entry in self.layers:
            if entry.name == name:
                return entry
        raise MaqdError(f"no layer is named {name!r}; the layers are: {', '.join(e.name for e in self.layers)}")

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain values, with the schema version."""
        return {"schema": SCHEMA_VERSION, **asdict(self)}

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=1)


class _Stream:
    """Sums and sums of squares of per-sample counts, as unbounded integers."""

    def __init__(self) -> None:
        self.sums = dict.fromkeys(COUNT_NAMES, 0)
        self.squares = dict.fromkeys(COUNT_NAMES, 0)

    def add(self, counts: PerSample, batch: int) -> None:
        for name, value in counts.items():
            if isinstance(value, Tensor):
                self.sums[name] += int(value.sum())
                # Squares of counts beyond 2^31 would overflow int64 as tensors.
                self.squares[name] += sum(v * v for v in value.tolist())
            else:
                self.sums[name] += value * batch
                self.squares[name] += value * value * batch

    def spreads(self, samples: int) -> dict[str, Spread]:
        spreads = {}
        for name in COUNT_NAMES:
            variance = samples * self.squares[name] - self.sums[name] ** 2  # times samples^2, exactly
            spreads[name] = Spread(self.sums[name] / samples, math.sqrt(variance) / samples)
        return spreads


def simulate(net: IntegerNetwork, batches: Iterable[Tensor | Sequence[Tensor]]) -> SimulationReport:
    """Run the network on every sample and return exact counts per layer, their spread, and the accuracy.

    Sums are integers: the result does not depend on how the samples are cut into batches. Memory does not grow with the
    number of samples.

    Args:
        net: the integer network.
        batches: iterable of integer codes (B, *input shape), or of pairs (codes, labels (B,)).

    Raises:
        MaqdError: no samples; codes of the wrong shape, type or range; labels that do not fit; an op without a counting
            rule.

    >>> from maqd_snn.integer import IntegerNetwork, ops
    >>> net = IntegerNetwork([
    ...     ops.Input("input", shape=(10,), high=1, kind="events"),
    ...     ops.Linear("fc", ("input",), weight=torch.ones(4, 10, dtype=torch.int64)),
    ... ])
    >>> codes = torch.tensor([[0, 1, 0, 1, 0, 0, 0, 1, 0, 0]])
    >>> simulate(net, [codes]).layers[0].synops
    12
    """
    if isinstance(batches, Tensor):
        raise MaqdError("simulate takes an iterable of batches, got one tensor; put it into a list: [codes]")
    layers = layers_of(net)
    by_name = {layer.op.name: layer for layer in layers}
    for layer in layers:
        row(COUNTS, layer.op, "counting")  # an op without a rule is refused before the first batch
    streams = {layer.op.name: _Stream() for layer in layers}
    total = _Stream()
    histograms = {
        layer.op.name: torch.zeros(layer.op.levels + 1, dtype=torch.int64)
        for layer in layers
        if isinstance(layer.op, ops.Threshold)
    }
    confusion: Tensor | None = None
    samples = labelled = 0

    for batch in batches:
        codes, labels = _codes_and_labels(batch)
        size = len(codes)
        if size == 0:
            continue
        in_batch: dict[str, Tensor] = {}

        def observe(
            op: Op, inputs: Sequence[Tensor], output: Tensor, size: int = size, in_batch: dict[str, Tensor] = in_batch
        ) -> None:
            counts = count(by_name[op.name], inputs, output)
            streams[op.name].add(counts, size)
            for name, value in counts.items():
                in_batch[name] = in_batch.get(name, torch.zeros(size, dtype=torch.int64)) + value
            if isinstance(op, ops.Threshold):
                level = (output - op.low).flatten().to("cpu", torch.int64)
                histograms[op.name] += torch.bincount(level, minlength=op.levels + 1)

        scores = net.watch(codes, observe)
        total.add(dict(in_batch), size)
        samples += size
        if labels is not None:
            labelled += size
            confusion = _confuse(confusion, scores, labels)
    if samples == 0:
        raise MaqdError("simulate got no samples; give at least one batch of codes")
    if labelled not in (0, samples):
        raise MaqdError(f"simulate got labels for {labelled} of {samples} samples; give them with all batches or none")
    return SimulationReport(
        samples=samples,
        layers=tuple(
            _layer_report(layer, streams[layer.op.name], samples, histograms.get(layer.op.name))
            for layer in layers
            if not isinstance(layer.op, ops.Input)
        ),
        total=TotalReport(**total.sums, per_sample=total.spreads(samples)),
        accuracy=None if confusion is None else int(confusion.diagonal().sum()) / samples,
        confusion=None if confusion is None else tuple(tuple(line) for line in confusion.tolist()),
    )


def _codes_and_labels(batch: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        codes, labels = batch
        if labels.shape != (len(codes),) or labels.is_floating_point():
            raise MaqdError(
                f"labels must be integers of shape ({len(codes)},), got {labels.dtype} {tuple(labels.shape)}"
            )
        return codes, labels
    raise MaqdError("each batch must be a tensor of codes or a pair (codes, labels)")


def _confuse(confusion: Tensor | None, scores: Tensor, labels: Tensor) -> Tensor:
    if scores.ndim != 2:
        raise MaqdError(f"labels need class scores (B, classes), but the network gives {tuple(scores.shape)}")
    classes = scores.shape[1]
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise MaqdError(f"labels must lie in 0..{classes - 1}, got {int(labels.min())}..{int(labels.max())}")
    cells = labels.cpu().to(torch.int64) * classes + scores.argmax(1).cpu()
    table = torch.bincount(cells, minlength=classes * classes).view(classes, classes)
    return table if confusion is None else confusion + table


def _layer_report(layer: Layer, stream: _Stream, samples: int, histogram: Tensor | None) -> LayerReport:
    op, weight = layer.op, layer.weight
    threshold = op if isinstance(op, ops.Threshold) else None
    pool = op if isinstance(op, ops.MaxPool2d | ops.SumPool2d) else None
    conv = op if isinstance(op, ops.Conv2d) else None
    height, width = (1, 1) if conv is None else conv.weight.shape[2:]
    return LayerReport(
        **stream.sums,
        name=op.name,
        op=type(op).__name__,
        spiking=layer.spiking,
        input_kind=layer.inputs[0].kind,
        input_shape=layer.in_shapes[0],
        output_shape=layer.out_shape,
        kernel=(height, width) if pool is None else pool.kernel,
        stride=pool.stride if pool is not None else conv.stride if conv is not None else (1, 1),
        groups=1 if conv is None else conv.groups,
        weights=0 if weight is None else weight.numel(),
        nonzero_weights=0 if weight is None else int((weight != 0).sum()),
        weight_bits=layer.weight_bits,
        input_bits=layer.inputs[0].bits,
        accumulator_bits=(2 * layer.bound).bit_length(),
        largest_input=layer.inputs[0].largest,
        levels=0 if threshold is None else threshold.levels,
        lowest_level=0 if threshold is None else threshold.low,
        neurons=0 if threshold is None else math.prod(layer.out_shape),
        histogram=() if histogram is None else tuple(histogram.tolist()),
        per_sample=stream.spreads(samples),
    )
