"""The simulator: runs the integer network over any number of samples and counts, in constant memory.

Axis letters: B batch.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.compiled_counting import Counter
from maqd_snn.counting import (
    COUNT_NAMES,
    COUNTS,
    Counts,
    Layer,
    ceilings,
    counted_values,
    fixed_counts,
    layers_of,
)
from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.geometry import row
from maqd_snn.streaming import TOGETHER, Spread, Statistics, constant

Array = NDArray[np.int64]

SCHEMA_VERSION = 2
CLASS_COUNTS = ("synops", "spikes")


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
        channel_spikes: nonzero levels emitted by each channel, of a threshold op.
        class_synops, class_spikes: the counts of the samples of each label, empty without labels.
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
    channel_spikes: tuple[int, ...] = ()
    class_synops: tuple[int, ...] = ()
    class_spikes: tuple[int, ...] = ()
    per_sample: dict[str, Spread] = field(default_factory=dict)

    def spike_rate(self, samples: int) -> float:
        """Return the share of neurons that emit a nonzero level, of a threshold op."""
        return self.spikes / (self.neurons * samples) if self.neurons and samples else 0.0


@dataclass(frozen=True)
class TotalReport(Counts):
    """The counts summed over all ops and samples, for the samples of each label, and their spread over the samples."""

    class_synops: tuple[int, ...] = ()
    class_spikes: tuple[int, ...] = ()
    per_sample: dict[str, Spread] = field(default_factory=dict)


@dataclass(frozen=True)
class WorstSample:
    """The sample with the most synops, the first of them where several have as many.

    Attributes:
        index: its place in the stream of samples, from 0. label: its label, or None. counts: its counts over all ops.
        layer_synops: its synops by the name of the op.
    """

    index: int
    label: int | None
    counts: Counts
    layer_synops: dict[str, int]


@dataclass(frozen=True)
class SimulationReport:
    """What a network did on a set of samples.

    Attributes:
        samples: number of samples. layers: one entry per op, in order, the input left out. total: the sums.
        worst_sample: the sample with the most synops. class_samples: samples of each label, empty without labels.
        accuracy: share of samples whose largest score is the label's, or None without labels.
        confusion: rows are labels, columns predictions, or None without labels.
    """

    samples: int
    layers: tuple[LayerReport, ...]
    total: TotalReport
    worst_sample: WorstSample
    class_samples: tuple[int, ...] = ()
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


class _Record:
    """All counts of a network over a stream of samples: one row per (op, count) that the data decide, then the totals.

    Attributes:
        rows: (name of the op, name of the count) of each row; the rows of the totals come last, without an op.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.fixed = {layer.op.name: fixed_counts(layer) for layer in layers}
        most = {layer.op.name: ceilings(layer) for layer in layers}
        self.of_layers = [(op, name) for op, names in most.items() for name in names]
        self.row_of = {key: index for index, key in enumerate(self.of_layers)}
        self.fixed_total = {name: sum(fixed.get(name, 0) for fixed in self.fixed.values()) for name in COUNT_NAMES}
        self.total_names = [name for name in COUNT_NAMES if any(name == key[1] for key in self.of_layers)]
        self.total_row = {name: len(self.of_layers) + index for index, name in enumerate(self.total_names)}
        # The rows of layers in the order of the totals that add them up, and where each total begins.
        in_order = sorted(
            range(len(self.of_layers)), key=lambda index: self.total_names.index(self.of_layers[index][1])
        )
        self.in_order = np.array(in_order, np.int64)
        names = [self.of_layers[index][1] for index in in_order]
        self.begin_of_total = np.array([names.index(name) for name in self.total_names], np.int64)
        largest = [most[op][name] for op, name in self.of_layers]
        totals = [
            self.fixed_total[name] + sum(m for m, key in zip(largest, self.of_layers, strict=True) if key[1] == name)
            for name in self.total_names
        ]
        self.statistics = Statistics([*largest, *totals])
        self.classed = [index for index, key in enumerate(self.of_layers) if key[1] in CLASS_COUNTS]
        self.by_class: Array | None = None
        self.class_samples: Array | None = None
        self.worst: WorstSample | None = None
        self.classes = 0
        self._waiting: list[tuple[Array, Array | None]] = []
        self._waiting_samples = 0

    def add(self, values: Array, labels: Tensor | None, classes: int) -> None:
        """Take in a batch: its counts (R, B), in the order of `of_layers`, and the labels if there are any."""
        self.classes = classes
        self._waiting.append((values, None if labels is None else labels.cpu().numpy().astype(np.int64)))
        self._waiting_samples += values.shape[1]
        if self._waiting_samples >= TOGETHER:
            self.work()

    def work(self) -> None:
        """Work on the batches that were taken in: they wait for each other, since small ones cost as much as large."""
        if not self._waiting:
            return
        values = np.ascontiguousarray(np.concatenate([counts.T for counts, _ in self._waiting]).T)
        all_labels = [labels for _, labels in self._waiting if labels is not None]
        labels = np.concatenate(all_labels) if len(all_labels) == len(self._waiting) else None
        self._waiting, self._waiting_samples = [], 0
        before, size = self.statistics.samples, values.shape[1]
        offset = np.array([[self.fixed_total[name]] for name in self.total_names], np.int64)
        totals = np.zeros((0, size), np.int64)
        if self.total_names:
            totals = np.add.reduceat(values[self.in_order], self.begin_of_total, axis=0) + offset
        everything = np.concatenate([values, totals])
        self.statistics.add(everything)
        if labels is not None:
            if self.by_class is None or self.class_samples is None:
                self.by_class = np.zeros((len(self.classed), self.classes), np.int64)
                self.class_samples = np.zeros(self.classes, np.int64)
            one_hot = (labels[:, None] == np.arange(self.classes)).astype(np.int64)  # (B, classes)
            self.by_class += values[self.classed] @ one_hot
            self.class_samples += one_hot.sum(0)
        synops = everything[self.total_row["synops"]] if "synops" in self.total_row else np.zeros(size, np.int64)
        highest = int(synops.argmax())
        if self.worst is None or int(synops[highest]) > self.worst.counts.synops:
            sample = everything[:, highest]
            of_data = {name: int(sample[self.total_row[name]]) for name in self.total_names}
            self.worst = WorstSample(
                index=before + highest,
                label=None if labels is None else int(labels[highest]),
                counts=Counts(**{**self.fixed_total, **of_data}),
                layer_synops={op: int(sample[i]) for i, (op, name) in enumerate(self.of_layers) if name == "synops"},
            )

    def sums(self, op: str | None) -> dict[str, int]:
        """Return every count of one op, or of the totals, over all samples."""
        samples = self.statistics.samples
        fixed = self.fixed_total if op is None else self.fixed[op]
        sums = {name: fixed.get(name, 0) * samples for name in COUNT_NAMES}
        for name in COUNT_NAMES:
            index = self._row(op, name)
            if index is not None:
                sums[name] = self.statistics.sum(index)
        return sums

    def spreads(self, op: str | None) -> dict[str, Spread]:
        """Return the spread of every count of one op, or of the totals."""
        fixed = self.fixed_total if op is None else self.fixed[op]
        spreads = {}
        for name in COUNT_NAMES:
            index = self._row(op, name)
            spreads[name] = constant(fixed.get(name, 0)) if index is None else self.statistics.spread(index)
        return spreads

    def _row(self, op: str | None, name: str) -> int | None:
        return self.total_row.get(name) if op is None else self.row_of.get((op, name))

    def by_label(self, op: str | None, name: str) -> tuple[int, ...]:
        """Return a count of `CLASS_COUNTS` of one op, or of all, for the samples of each label; () without labels."""
        if self.by_class is None:
            return ()
        found = np.zeros(self.by_class.shape[1], np.int64)
        for line, index in zip(self.by_class, self.classed, strict=True):
            of, count_name = self.of_layers[index]
            if count_name == name and op in (None, of):
                found += line
        return tuple(found.tolist())


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
    counted = counted_values(net)
    layers = layers_of(net, counted)
    for layer in layers:
        row(COUNTS, layer.op, "counting")  # an op without a rule is refused before the first batch
    record = _Record(layers)
    counter = Counter(net, layers, counted, record.of_layers)
    channel_sums = np.zeros(sum(len(op.thresholds) for op in counter.thresholds), np.int64)
    level_sums = np.zeros(sum(op.levels + 1 for op in counter.thresholds), np.int64)
    confusion: Tensor | None = None
    samples = labelled = 0

    for batch in batches:
        codes, labels = _codes_and_labels(batch)
        size = len(codes)
        if size == 0:
            continue
        found = counter.run(codes)
        channel_sums += found.channels
        level_sums += found.levels
        if labels is not None:
            labelled += size
            confusion = _confuse(confusion, found.scores, labels)
        record.add(found.counts, labels, found.scores.shape[-1])
        samples += size
    record.work()
    if record.worst is None:
        raise MaqdError("simulate got no samples; give at least one batch of codes")
    if labelled not in (0, samples):
        raise MaqdError(f"simulate got labels for {labelled} of {samples} samples; give them with all batches or none")
    channels, histograms = counter.split(channel_sums, level_sums)
    return SimulationReport(
        samples=samples,
        layers=tuple(
            _layer_report(layer, record, histograms.get(layer.op.name), channels.get(layer.op.name))
            for layer in layers
            if not isinstance(layer.op, ops.Input)
        ),
        total=TotalReport(
            **record.sums(None),
            class_synops=record.by_label(None, "synops"),
            class_spikes=record.by_label(None, "spikes"),
            per_sample=record.spreads(None),
        ),
        worst_sample=record.worst,
        class_samples=() if record.class_samples is None else tuple(record.class_samples.tolist()),
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


def _layer_report(layer: Layer, record: _Record, histogram: Array | None, channels: Array | None) -> LayerReport:
    op, weight = layer.op, layer.weight
    threshold = op if isinstance(op, ops.Threshold) else None
    pool = op if isinstance(op, ops.MaxPool2d | ops.SumPool2d) else None
    conv = op if isinstance(op, ops.Conv2d) else None
    height, width = (1, 1) if conv is None else conv.weight.shape[2:]
    return LayerReport(
        **record.sums(op.name),
        class_synops=record.by_label(op.name, "synops"),
        class_spikes=record.by_label(op.name, "spikes"),
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
        channel_spikes=() if channels is None else tuple(channels.tolist()),
        per_sample=record.spreads(op.name),
    )
