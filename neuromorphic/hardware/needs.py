"""What a core, a layer or a network needs of a chip, in numbers: one table for each, figure -> rule.

A level k of a binary chip is k of n neurons (thermometer), so everything of a unit counts n times there. Where a chip's
neuron emits several events a step, or a message carries a level, a unit is one neuron.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.neuromorphic.hardware.chip import Chip
from maqd_snn.neuromorphic.hardware.stages import Box, Branch, Reach, Stage, box_read, image, size

Counts = NDArray[np.int64]
Kept = TypeVar("Kept")

# nengo-loihi, nengo_loihi/block.py: SynapseConfig.WEIGHT_BITS_MAP, INDEX_BITS_MAP, bits_per_axon, set_weights.
LOIHI_WEIGHT_BITS = (1, 2, 3, 4, 5, 6, 8)
LOIHI_INDEX_BITS = (6, 7, 8, 9, 10, 11, 12)
LOIHI_BLOCK, LOIHI_HEADER, LOIHI_WORD = 64, 10, 64  # synapses of a block; bits of its header; bits of a memory word
LOIHI_BIAS_SPAN = 8191  # biases of 13 bits move a threshold by -4096..4095
POPULATION_SLOTS = 2  # output axon entries of one population axon (pop32)


def bits_per_axon(synapses: int, weight_bits: int, index_bits: int = 0, delay_bits: int = 0, tag_bits: int = 0) -> int:
    """Return the bits of synapse memory of a Loihi 1 axon: blocks of up to 64 synapses, each in whole 64-bit words.

    A block of n synapses takes ceil64(n * (weight + delay + tag + index bits) + 10). Index bits are those of the
    sparse format; the dense one has none.

    Source: nengo-loihi, nengo_loihi/block.py, SynapseConfig.bits_per_axon.

    >>> bits_per_axon(65, 8)  # ceil64(64 * 8 + 10) + ceil64(1 * 8 + 10) = 576 + 64
    640
    """
    total = 0
    for first in range(0, synapses, LOIHI_BLOCK):
        n = min(LOIHI_BLOCK, synapses - first)
        bits = n * (weight_bits + delay_bits + tag_bits + index_bits) + LOIHI_HEADER
        total += -(-bits // LOIHI_WORD) * LOIHI_WORD
    return total


def kernel_words(inputs: int, outputs: int, kernel: tuple[int, int]) -> int:
    """Return a DYNAP-CNN layer's words of kernel memory, I * 2^(ceil(log2(kh kw)) + ceil(log2 O)).

    Source: sinabs, docs/speck/overview.md and validate_memory_speck.py.

    >>> kernel_words(16, 32, (3, 3))  # 16 * 2^(4 + 5)
    8192
    """
    return inputs << (_log2(kernel[0] * kernel[1]) + _log2(outputs))


def neuron_words(outputs: int, size: tuple[int, int]) -> int:
    """Return a DYNAP-CNN layer's words of neuron memory, O * 2^(ceil(log2 H) + ceil(log2 W)).

    Source: sinabs, validate_memory_speck.py.

    >>> neuron_words(32, (64, 64))
    131072
    """
    return outputs << (_log2(size[0]) + _log2(size[1]))


def _log2(n: int) -> int:
    return (n - 1).bit_length()


def signed_bits(low: int, high: int) -> int:
    """Return the bits of two's complement that hold low..high, at least 1.

    >>> [signed_bits(*span) for span in ((-1, 1), (-1, 0), (0, 1), (-128, 127), (-129, 0))]
    [2, 1, 2, 8, 9]
    """
    return max(max(high, 0).bit_length() + 1 if high > 0 else 1, (-low - 1).bit_length() + 1 if low < 0 else 1)


@cache
def weight_range(stage: Stage) -> tuple[int, int]:
    """Return the smallest and largest weight of a stage; pools and sums are synapses of weight 1."""
    products = stage.weights
    low = min((int(op.weight.numpy().min()) for op in products), default=1)
    high = max((int(op.weight.numpy().max()) for op in products), default=1)
    if any(branch.product is None for branch in stage.branches):
        high = max(high, 1)
    return low, high


@cache
def axons_per_source(stage: Stage) -> int:
    """Return the crossbar axons that a source needs so that binary connections of typed axons make every weight.

    One axon where all weights are 0 or one same value; else b axons for weights of b bits in two's complement, whose
    types weigh 1, 2, 4, .. and -2^(b-1).
    """
    low, high = weight_range(stage)
    values = {int(w) for op in stage.weights for w in op.weight.flatten().tolist()} - {0}
    return 1 if len(values) <= 1 else signed_bits(low, high)


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a stage that sits on one core: a box of what leaves, and the box of neurons behind it."""

    stage: Stage
    box: Box
    neurons: Box


@dataclass(eq=False)
class Job:
    """A network on its way onto a chip: what sits on the host, and the pieces of each stage cut so far."""

    net: IntegerNetwork
    chip: Chip
    stages: Sequence[Stage]
    host: frozenset[str]
    pieces: dict[str, list[Piece]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_name = {stage.name: stage for stage in self.stages}
        self._kept: dict[tuple[str, str, int], Any] = {}

    def once(self, what: str, stage: Stage, rule: "Callable[[Job, Stage], Kept]") -> "Kept":
        """Return rule(self, stage), computed once for the pieces that the stage's readers have been cut into."""
        key = (what, stage.name, sum(len(self.pieces.get(reader.name, [])) for reader in self.readers(stage.name)))
        if key not in self._kept:
            self._kept[key] = rule(self, stage)
        kept: Kept = self._kept[key]
        return kept

    @property
    def placed(self) -> list[Stage]:
        """The stages that are not on the host."""
        return [stage for stage in self.stages if stage.name not in self.host]

    def copies(self, value: str) -> int:
        """Return the neurons that carry one unit of a travelling value: n on a thermometer, else 1."""
        stage = self.by_name.get(value)
        if stage is None or not stage.spiking or not self.thermometer:
            return 1
        return stage.levels

    @property
    def thermometer(self) -> bool:
        """Whether a level travels as binary spikes of n neurons."""
        binary: bool = self.chip.value("spikes") == "binary" and self.chip.value("own_thresholds") != "even"
        return binary

    def readers(self, value: str) -> list[Stage]:
        """Return the stages that take a travelling value."""
        return [stage for stage in self.stages if value in stage.sources]

    def piece(self, stage: Stage, box: Box) -> Piece:
        """Return the piece of a stage that emits this box."""
        return Piece(stage, box, stage.neurons_of(box, self.net.shapes))

    def pool_neurons(self, stage: Stage) -> bool:
        """Whether the stage's max-pools are neurons of their own."""
        return bool(stage.pools) and self.chip.value("max_pool") in ("neurons", None)


def counts(reach: Reach, box: Box) -> tuple[Counts, Counts, Counts]:
    """Return how many channels, rows and columns of a box of outputs each input channel, row and column reaches.

    The product of the three is the number of neurons of the box that an input unit reaches.
    """
    c, r, x = (
        mask[low:high].sum(0, dtype=np.int64)
        for mask, (low, high) in zip((reach.channels, reach.rows, reach.columns), box, strict=True)
    )
    return c, r, x


def sources_mask(piece: Piece, value: str) -> NDArray[np.bool_]:
    """Return which units (C, H, W) of an arriving value reach a piece at all."""
    mask: NDArray[np.bool_] | None = None
    for branch in piece.stage.branches:
        if branch.source == value:
            c, r, x = (count > 0 for count in counts(branch.reach, piece.neurons))
            one = c[:, None, None] & r[:, None] & x
            mask = one if mask is None else mask | one
    assert mask is not None
    return mask


def _population(branch: Branch) -> bool:
    """Whether the branch is one plain convolution, whose weights population axons can share."""
    product = branch.product
    plain = (ops.Conv2d, ops.Add, ops.Threshold, ops.Readout)
    return isinstance(product, ops.Conv2d) and product.groups == 1 and all(isinstance(op, plain) for op in branch.steps)


def _pool_windows(piece: Piece, mapping: Job) -> list[tuple[Box, Box, ops.MaxPool2d]]:
    """Return (box of inputs, box of outputs, op) of each max-pool behind the threshold, in order."""
    found = []
    box = piece.box
    for op in reversed(piece.stage.pools):
        before = box_read(op, box, mapping.net.shapes[op.inputs[0]])
        found.append((before, box, op))
        box = before
    return found[::-1]


# Core: (mapping, piece) -> need.


def neurons(m: Job, piece: Piece) -> int:
    """Neurons of the piece, those of its max-pools included."""
    total = size(piece.neurons)
    if m.pool_neurons(piece.stage):
        total += sum(size(box) for _, box, _ in _pool_windows(piece, m))
    return total * m.copies(piece.stage.name)


def _pool_axons(m: Job, piece: Piece) -> int:
    if not m.pool_neurons(piece.stage):
        return 0
    return m.copies(piece.stage.name) * sum(size(before) for before, _, _ in _pool_windows(piece, m))


def in_axons(m: Job, piece: Piece) -> int:
    """Input axons: one per source pixel for a shared convolution, else one per source neuron; pools read their own."""
    total = _pool_axons(m, piece)
    for branch in piece.stage.branches:
        c, r, x = counts(branch.reach, piece.neurons)
        pixels = int((r > 0).sum()) * int((x > 0).sum())
        total += m.copies(branch.source) * (pixels if _shared(m, branch) else pixels * int((c > 0).sum()))
    return total


def _shared(m: Job, branch: Branch) -> bool:
    return m.chip.value("weight_sharing") == "yes" and _population(branch)


def out_axons(m: Job, piece: Piece) -> int:
    """Output axon entries: for each target core one per source neuron, or two per source pixel of a population."""
    copies, total = m.copies(piece.stage.name), _pool_axons(m, piece)
    (c0, c1), (r0, r1), (x0, x1) = piece.box
    by_unit, by_pixel = m.once("out_axons", piece.stage, _out_entries)
    return total + copies * int(by_unit[c0:c1, r0:r1, x0:x1].sum() + by_pixel[r0:r1, x0:x1].sum())


def _out_entries(m: Job, stage: Stage) -> tuple[Counts, Counts]:
    """Return the output axon entries of each unit (C, H, W), and those of each pixel (H, W) for its population."""
    by_unit = np.zeros(stage.shape, np.int64)
    by_pixel = np.zeros(stage.shape[1:], np.int64)
    for reader in m.readers(stage.name):
        for target in m.pieces.get(reader.name, []):
            for branch in reader.branches:
                if branch.source == stage.name:
                    c, r, x = (count > 0 for count in counts(branch.reach, target.neurons))
                    if _shared(m, branch):
                        by_pixel += POPULATION_SLOTS * np.multiply.outer(r, x)
                    else:
                        by_unit += c[:, None, None] & r[:, None] & x
    return by_unit, by_pixel


def _tap_patterns(piece: Piece, branch: Branch) -> tuple[dict[tuple[int, ...], int], dict[tuple[int, ...], int]]:
    """Return the distinct sets of kernel rows, and of columns, through which source pixels reach the piece."""
    conv = branch.product
    assert isinstance(conv, ops.Conv2d)
    found: list[dict[tuple[int, ...], int]] = []
    for axis, mask in ((0, branch.reach.rows), (1, branch.reach.columns)):
        low, high = piece.neurons[1 + axis]
        patterns: dict[tuple[int, ...], int] = {}
        for y in range(mask.shape[1]):
            taps = []
            for tap in range(conv.weight.shape[2 + axis]):
                place, rest = divmod(y + conv.padding[axis] - tap * conv.dilation[axis], conv.stride[axis])
                if rest == 0 and low <= place < high:
                    taps.append(tap)
            if taps:
                patterns[tuple(taps)] = patterns.get(tuple(taps), 0) + 1
        found.append(patterns)
    return found[0], found[1]


def synapse_bits(m: Job, piece: Piece) -> int:
    """Bits of synapse memory by Loihi 1's blocks: a convolution's weights once per pattern of taps, else per axon."""
    copies = m.copies(piece.stage.name)
    own = neurons(m, piece)
    index = next((bits for bits in LOIHI_INDEX_BITS if own <= 1 << bits), LOIHI_INDEX_BITS[-1])
    needed = signed_bits(*weight_range(piece.stage))
    width = next((bits for bits in LOIHI_WEIGHT_BITS if needed <= bits), needed)
    total = 0
    for branch in piece.stage.branches:
        c, r, x = counts(branch.reach, piece.neurons)
        if _shared(m, branch):
            by_row, by_column = _tap_patterns(piece, branch)
            channels = int((c > 0).sum()) * (piece.neurons[0][1] - piece.neurons[0][0]) * copies
            sizes = (channels * len(tr) * len(tc) for tr in by_row for tc in by_column)
            total += sum(bits_per_axon(n, width, index) for n in sizes)
        else:
            per_unit, times = np.unique(np.multiply.outer(np.multiply.outer(c, r), x), return_counts=True)
            for n, number in zip(per_unit.tolist(), times.tolist(), strict=True):
                dense = n == size(piece.neurons)
                bits = bits_per_axon(n * copies, width, 0 if dense else index)
                total += m.copies(branch.source) * number * bits
    if m.pool_neurons(piece.stage):
        for before, box, op in _pool_windows(piece, m):
            for reached, number in _windows(before, box, op).items():
                total += copies * number * bits_per_axon(reached, width, index)
    return total


def _windows(before: Box, box: Box, op: ops.MaxPool2d) -> dict[int, int]:
    """Return, of the inputs of a max-pool, how many lie in so many of its windows."""
    per_axis = []
    for axis in (0, 1):
        (i0, i1), (o0, o1) = before[1 + axis], box[1 + axis]
        starts = np.arange(o0, o1) * op.stride[axis] - op.padding[axis]
        places = np.arange(i0, i1)[:, None]
        per_axis.append(((places >= starts) & (places < starts + op.kernel[axis])).sum(1))
    reached, times = np.unique(np.multiply.outer(per_axis[0], per_axis[1]), return_counts=True)
    channels = box[0][1] - box[0][0]
    return {int(n): int(t) * channels for n, t in zip(reached, times, strict=True) if n}


def threshold_groups(m: Job, piece: Piece) -> int:
    """Threshold settings: the fewest spans of 8191 that cover the piece's thresholds, biases reaching the rest."""
    op = piece.stage.neuron
    if not isinstance(op, ops.Threshold):
        return 1
    low, high = piece.neurons[0]
    values = (op.thresholds[low:high] * op.direction[low:high, None]).flatten().tolist()
    groups, end = 0, None
    for value in sorted({*values, 1} if m.pool_neurons(piece.stage) else set(values)):
        if end is None or value > end:
            groups, end = groups + 1, value + LOIHI_BIAS_SPAN
    return groups


def crossbar_axons(m: Job, piece: Piece) -> int:
    """Axons: each source neuron as often as its weights need types; pools read their own neurons."""
    total = _pool_axons(m, piece)
    for value in piece.stage.sources:
        total += int(sources_mask(piece, value).sum()) * m.copies(value) * axons_per_source(piece.stage)
    return total


def crossbar_neurons(m: Job, piece: Piece) -> int:
    """Neurons, each doubled for every axon that it drives: on every target core as many as its weights need types."""
    if not m.readers(piece.stage.name):
        return neurons(m, piece)
    driven = m.once("driven", piece.stage, _driven)
    (c0, c1), (r0, r1), (x0, x1) = piece.box
    leaving = int(np.maximum(driven[c0:c1, r0:r1, x0:x1], 1).sum())
    inner = sum(size(before) for before, _, _ in _pool_windows(piece, m)) if m.pool_neurons(piece.stage) else 0
    return (leaving + inner) * m.copies(piece.stage.name)


def _driven(m: Job, stage: Stage) -> Counts:
    """Return the axons (C, H, W) that each unit drives."""
    driven = np.zeros(stage.shape, np.int64)
    for reader in m.readers(stage.name):
        if reader.name in m.host:
            driven += 1
        axons = axons_per_source(reader)
        for target in m.pieces.get(reader.name, []):
            driven += sources_mask(target, stage.name) * axons
    return driven


def stored_weights(m: Job, piece: Piece) -> int:
    """Weights that the piece holds: once each where a convolution is shared, else one per synapse."""
    total = 0
    for branch in piece.stage.branches:
        c, r, x = counts(branch.reach, piece.neurons)
        product = branch.product
        if isinstance(product, ops.Conv2d) and m.chip.value("weight_sharing") == "yes":
            kernel = product.weight.shape[1] * product.weight.shape[2] * product.weight.shape[3]
            total += (piece.neurons[0][1] - piece.neurons[0][0]) * kernel
        elif product is not None or m.chip.value("weight_sharing") != "yes":
            total += int(c.sum()) * int(r.sum()) * int(x.sum())
    return total


def _bytes(bits: int) -> int:
    return -(-bits // 8)


def _thresholds(piece: Piece) -> int:
    op = piece.stage.neuron
    per_channel = op.levels if isinstance(op, ops.Threshold) else 1
    return per_channel * (piece.neurons[0][1] - piece.neurons[0][0])


def state_bits(m: Job, stage: Stage) -> int:
    """Bits of a stored accumulator: the chip's, or those that the stage needs where the chip names none."""
    return m.chip.value("state_bits") or signed_bits(-stage.bound, stage.bound)


def memory_bytes(m: Job, piece: Piece) -> int:
    """Bytes for weights, thresholds and accumulators, each in whole bytes."""
    width = _bytes(signed_bits(*weight_range(piece.stage)))
    state = _bytes(state_bits(m, piece.stage))
    return stored_weights(m, piece) * width + (_thresholds(piece) + neurons(m, piece)) * state


def weight_memory_bits(m: Job, piece: Piece) -> int:
    """Bits of weight memory, in words of the chip's weight bits."""
    word = m.chip.value("weight_bits") or signed_bits(*weight_range(piece.stage))
    return stored_weights(m, piece) * word


def state_memory_bits(m: Job, piece: Piece) -> int:
    """Bits of accumulator memory."""
    return neurons(m, piece) * state_bits(m, piece.stage)


def _equivalent_kernel(m: Job, stage: Stage) -> tuple[int, int, tuple[int, int]]:
    """Return (inputs, outputs, kernel) of a stage as one convolution: a product of all features has their size."""
    branch = stage.branches[0]
    product = branch.product
    if isinstance(product, ops.Conv2d):
        return (
            product.weight.shape[1] * product.groups,
            product.weight.shape[0],
            (product.weight.shape[2], product.weight.shape[3]),
        )
    c, h, w = _arriving(m, stage)
    return c, stage.neuron_shape[0], (h, w)


def _arriving(m: Job, stage: Stage) -> tuple[int, int, int]:
    """Return (C, H, W) of what the first product reads, pools on the way included."""
    branch = stage.branches[0]
    shape = image(m.net.shapes[branch.source])
    for op in branch.steps:
        if isinstance(op, ops.SumPool2d):
            shape = image(m.net.shapes[op.name])
        if isinstance(op, ops.Conv2d | ops.Linear):
            break
    return shape


CORE: Mapping[str, Callable[[Job, Piece], int]] = MappingProxyType(
    {
        "neurons": neurons,
        "in_axons": in_axons,
        "out_axons": out_axons,
        "synapse_bits": synapse_bits,
        "threshold_groups": threshold_groups,
        "crossbar_axons": crossbar_axons,
        "crossbar_neurons": crossbar_neurons,
        "memory_bytes": memory_bytes,
        "weight_memory_bits": weight_memory_bits,
        "state_memory_bits": state_memory_bits,
        "kernel_words": lambda m, piece: kernel_words(*_equivalent_kernel(m, piece.stage)),
        "neuron_words": lambda m, piece: neuron_words(piece.stage.neuron_shape[0], piece.stage.neuron_shape[1:]),
        "bias_words": lambda m, piece: piece.stage.neuron_shape[0],
    }
)


# Layer: (mapping, stage) -> need, None where the stage has no such thing.


def _convs(stage: Stage) -> list[ops.Conv2d]:
    return [op for op in stage.weights if isinstance(op, ops.Conv2d)]


def _payload(m: Job, stage: Stage) -> int | None:
    """Bits of the levels that leave, and of the input codes that arrive."""
    if m.chip.value("spikes") != "graded":
        return None
    spans = [(stage.low, stage.low + stage.levels)] if stage.spiking else []
    if m.net.input.name in stage.sources:
        spans.append((m.net.input.low - m.net.input.zero_point, m.net.input.high - m.net.input.zero_point))
    return max((high.bit_length() if low >= 0 else signed_bits(low, high) for low, high in spans), default=None)


def _threshold_magnitude(m: Job, stage: Stage) -> int | None:
    op = stage.neuron
    return int(op.thresholds.abs().max()) if isinstance(op, ops.Threshold) else None


def fan_in(m: Job, stage: Stage) -> int:
    """Synapses of the neuron that has most."""
    total: int = 0
    for branch in stage.branches:
        c, r, x = (mask.sum(1).max() for mask in (branch.reach.channels, branch.reach.rows, branch.reach.columns))
        total += int(c) * int(r) * int(x) * m.copies(branch.source)
    return total


def fan_out_map(m: Job, value: str) -> Counts:
    """Return the synapses (C, H, W) that each unit of a travelling value drives on the chip."""
    total = np.zeros(image(m.net.shapes[value]), np.int64)
    for reader in m.readers(value):
        if reader.name in m.host:
            continue
        for branch in reader.branches:
            if branch.source == value:
                c, r, x = (
                    mask.sum(0, dtype=np.int64)
                    for mask in (branch.reach.channels, branch.reach.rows, branch.reach.columns)
                )
                total += np.multiply.outer(np.multiply.outer(c, r), x) * m.copies(reader.name)
    return total


def even_thresholds(stage: Stage) -> bool:
    """Whether the thresholds of every channel are evenly spaced, as one neuron that fires several times has them."""
    op = stage.neuron
    if not isinstance(op, ops.Threshold) or op.levels == 1:
        return True
    steps = op.thresholds.diff(dim=1)
    return bool((steps == steps[:, :1]).all()) and bool((steps != 0).all())


def _pools(stage: Stage) -> list[ops.SumPool2d]:
    return [op for op in stage.steps if isinstance(op, ops.SumPool2d)]


def _strides(m: Job, stage: Stage) -> tuple[int, ...] | None:
    return tuple(sorted({s for op in _convs(stage) for s in op.stride})) or None


def _pool_sizes(m: Job, stage: Stage) -> tuple[int, ...] | None:
    return tuple(sorted({s for op in _pools(stage) for s in (*op.kernel, *op.stride)})) or None


LAYER: Mapping[str, Callable[[Job, Stage], int | tuple[int, ...] | None]] = MappingProxyType(
    {
        "weight_bits": lambda m, stage: signed_bits(*weight_range(stage)),
        "accumulator_bits": lambda m, stage: signed_bits(-stage.bound, stage.bound),
        "threshold_magnitude": _threshold_magnitude,
        "payload_bits": _payload,
        "events_per_step": lambda m, stage: max(abs(stage.low), abs(stage.low + stage.levels)) or None,
        "axon_types": lambda m, stage: axons_per_source(stage),
        "fan_in": fan_in,
        "fan_out": lambda m, stage: int(fan_out_map(m, stage.name).max()) or None,
        "kernel": lambda m, stage: max(_equivalent_kernel(m, stage)[2]) if stage.weights else None,
        "strides": _strides,
        "padding": lambda m, stage: max((p for op in _convs(stage) for p in op.padding), default=None),
        "input_size": lambda m, stage: max(_arriving(m, stage)[1:]),
        "output_size": lambda m, stage: max(stage.neuron_shape[1:]),
        "channels": lambda m, stage: stage.neuron_shape[0],
        "pool_sizes": _pool_sizes,
        "destinations": lambda m, stage: len(m.readers(stage.name)) or None,
    }
)


# Network: mapping -> need, None where it has no such thing.


def _on_chip(m: Job) -> list[Stage]:
    return [stage for stage in m.stages if stage.name not in m.host]


def _reads_input(m: Job) -> bool:
    return any(m.net.input.name in stage.sources for stage in _on_chip(m))


def _classes(m: Job) -> int | None:
    last = m.stages[-1]
    return None if last.spiking or last.name in m.host else last.neuron_shape[0]


def _mean_fan_out(m: Job) -> int | None:
    hidden = [stage for stage in _on_chip(m) if stage.spiking]
    if not hidden:
        return None
    units = sum(stage.neuron_shape[0] * stage.neuron_shape[1] * stage.neuron_shape[2] for stage in hidden)
    return -(-sum(int(fan_out_map(m, stage.name).sum()) for stage in hidden) // units)


def _synapses(m: Job) -> int:
    total = 0
    for stage in _on_chip(m):
        for branch in stage.branches:
            c, r, x = (int(mask.sum()) for mask in (branch.reach.channels, branch.reach.rows, branch.reach.columns))
            total += c * r * x * m.copies(branch.source) * m.copies(stage.name)
    return total


def _flash(m: Job) -> int:
    total = 0
    for stage in m.stages:
        width = _bytes(signed_bits(*weight_range(stage)))
        total += sum(op.weight.numel() for op in stage.weights) * width
        thresholds = stage.neuron.thresholds.numel() if isinstance(stage.neuron, ops.Threshold) else stage.shape[0]
        total += thresholds * _bytes(state_bits(m, stage))
    return total


def _ram(m: Job) -> int:
    """Bytes at the fullest moment: the values that later stages still read, and the accumulators of one stage."""
    names = [m.net.input.name, *(stage.name for stage in m.stages)]
    last_use = {name: index for index, stage in enumerate(m.stages) for name in stage.sources}
    most = 0
    for index, stage in enumerate(m.stages):
        alive = sum(
            int(np.prod(m.net.shapes[name]))
            for position, name in enumerate(names[: index + 1])
            if last_use.get(name, -1) >= index and position <= index
        )
        own = int(np.prod(stage.neuron_shape)) * _bytes(state_bits(m, stage))
        most = max(most, alive + own)
    return most


NETWORK: Mapping[str, Callable[[Job], int | None]] = MappingProxyType(
    {
        "classes": _classes,
        "input_channels": lambda m: int(np.prod(m.net.input.shape)) if _reads_input(m) else None,
        "input_events": lambda m: m.net.input.high - m.net.input.zero_point if _reads_input(m) else None,
        "hidden_neurons": lambda m: (
            sum(int(np.prod(stage.neuron_shape)) for stage in _on_chip(m) if stage.spiking) or None
        ),
        "output_neurons": _classes,
        "mean_fan_out": _mean_fan_out,
        "synapses": _synapses,
        "flash_bytes": _flash,
        "ram_bytes": _ram,
    }
)
