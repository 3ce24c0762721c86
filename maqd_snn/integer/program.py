"""A whole integer network as one compiled program: levels in bytes, products by tables, on the CPU, by numba.

Axis letters: B batch, C channels, I input channels of a group, O output channels, H height, W width, P positions, T
output channels of a tile.

A product takes the first of these forms that is exact for it:

* `tables of 8 bits`: the inputs are levels 0..n. A level is a few bits; four inputs' bits of one place value are a
  pattern, and a table holds what the four weights add up to for each of the 16 patterns. Tables are int8: up to `limit`
  rows are added in int8, `limit` times the largest entry being at most 127, and then in int16, which holds the worst
  case of the layer and one more, a threshold that is never reached;
* `tables of 16 bits`: the same with int16 tables (at most 32767) and int32 sums;
* `products in float32`: any inputs, where the worst case stays below 2^24.

Nothing is measured or tried: the form follows from the graph, its codes and its bounds. A network has a program where
every op has a form and products in float32 are at most a quarter of all connections.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.compiled import over_batch
from maqd_snn.errors import MaqdError
from maqd_snn.integer import ops
from maqd_snn.integer.geometry import FLOAT32_EXACT, Range, Shape, output_range
from maqd_snn.integer.ops import Op, Pair

Array = NDArray[Any]

CODES, LOOK_UP_8, LOOK_UP_16, MULTIPLY, THRESHOLD, MAX_POOL, SUM_POOL, ADD = range(8)
NONE = -1

BYTE = 255
LARGEST_8, LARGEST_16 = 127, 32767
LARGEST_32 = 2**31 - 2
PLANES = 4  # bits of a level that tables are made for
TABLE_BYTES = 2**26
FLOAT_SHARE = 4  # products in float32 are at most one of so many connections
POSITIONS = 4  # outputs that a block computes at once, see `blocks.py`
LANES = 16  # channels of a position take up a multiple of this many numbers
TALLIED_POSITIONS = 65535

FORMS = {LOOK_UP_8: "tables of 8 bits", LOOK_UP_16: "tables of 16 bits", MULTIPLY: "products in float32"}

# One step: what it does, where its values lie (in bytes or in int32 sums), geometry, and where its constants begin.
STEP = np.dtype(
    [
        (name, np.int64)
        for name in (
            "kind",
            *("in_wide", "in_at", "in_stride", "height", "width", "channels"),
            *("second_wide", "second_at", "second_stride"),
            *("out_wide", "out_at", "out_stride", "out_height", "out_width", "out_channels"),
            *("step_h", "step_w", "pad_h", "pad_w", "kernel_h", "kernel_w", "groups"),
            *("planes", "per_position", "padded_width", "image", "count", "limit", "tile", "tiles", "tiles_to"),
            *("levels", "theta", "theta_step", "flip", "zero_point", "kept", "entry", "entry_to", "adds"),
        )
    ]
)
# One tile of output channels: where its tables or weights, offsets of taps and thresholds begin, and its first channel.
TILE = np.dtype([(name, np.int64) for name in ("weight", "taps", "theta", "out")])
# A value that is counted, and a count as a sum over zones; see `Tally`.
ENTRY = np.dtype(
    [
        (name, np.int64)
        for name in ("positions", "zones", "runs", "runs_to", "largest", "channels", "histogram", "rows", "rows_to")
    ]
)
# Positions of one zone: first + line * line_step + k * step.
RUN = np.dtype([(name, np.int64) for name in ("first", "line_step", "lines", "step", "number", "zone")])
ROW = np.dtype([(name, np.int64) for name in ("target", "per_zone", "effective")])


@dataclass(frozen=True)
class Form:
    """How a product is computed: its kind, the bits of a level, and how many rows its table type adds up."""

    kind: int
    planes: int = 1
    limit: int = 1


def product_form(op: ops.Conv2d | ops.Linear, values: Range, bound: int) -> Form | None:
    """Return the first form that is exact for inputs in this range and sums up to `bound`, or None.

    >>> weight = torch.tensor([[[[1]], [[-1]], [[0]], [[1]], [[1]]]])  # one output of five inputs
    >>> product_form(ops.Conv2d("conv", ("x",), weight), (0, 1), 4)
    Form(kind=1, planes=1, limit=63)
    """
    low, high = values
    planes = high.bit_length()
    if low == 0 and 1 <= planes <= PLANES:
        entry = largest_entry(op) << (planes - 1)
        inputs = prod(op.weight.shape[1:]) + 3 * prod(op.weight.shape[2:])
        rows = planes * inputs * (op.weight.shape[0] + 3 * LANES) * 4  # 16 entries for each 4 inputs
        if entry <= LARGEST_8 and bound < LARGEST_16 - 1 and rows <= TABLE_BYTES:
            return Form(LOOK_UP_8, planes, LARGEST_8 // max(1, entry))
        if entry <= LARGEST_16 and bound < LARGEST_32 and 2 * rows <= TABLE_BYTES:
            return Form(LOOK_UP_16, planes, LARGEST_16 // max(1, entry))
    if bound + 1 < FLOAT32_EXACT:
        return Form(MULTIPLY)
    return None


def fours(op: ops.Conv2d | ops.Linear) -> Array:
    """Return the weights (O, kh, kw, I/4, 4): four input channels beside each other, the last filled up with zeros."""
    weight = op.weight.numpy()
    image = weight if weight.ndim == 4 else weight[:, :, None, None]
    filled = np.pad(image, ((0, 0), (0, -image.shape[1] % 4), (0, 0), (0, 0)))
    out, inputs, height, width = filled.shape
    return filled.transpose(0, 2, 3, 1).reshape(out, height, width, inputs // 4, 4)


def largest_entry(op: ops.Conv2d | ops.Linear) -> int:
    """Return the largest magnitude that a part of four weights can add up to."""
    four = fours(op)
    return int(max(np.maximum(four, 0).sum(-1).max(), np.maximum(-four, 0).sum(-1).max()))


@dataclass(frozen=True)
class Place:
    """Where the output of an op lies: in int32 (`wide`) or bytes, from `at`, `stride` numbers a position."""

    wide: bool
    at: int
    shape: tuple[int, int, int]
    stride: int

    @property
    def size(self) -> int:
        """Numbers that it takes up; a block may write a few positions too many."""
        return _up(self.shape[1] * self.shape[2] * self.stride + (POSITIONS + 1) * self.stride + 64, 64)


@dataclass(frozen=True, eq=False)
class Tally:
    """What a program counts on the way, by the names of ops.

    Attributes:
        entries, runs, rows: records of `ENTRY`, `RUN` and `ROW`.
        per_zone: for each row (1, Z) factors of nonzero values; of levels above 1 (3, Z): of their magnitudes and of
        the ones of their binary form, too. effective: (Z, C) factors of nonzero values.
        entry_of: (first, behind the last) of the entries of a step, by its name.
        adds: where an `Add` op's nonzero terms go, by its name. sums: the target that each count comes from, and times:
        the factor.
        channels, levels: sizes of the results.
    """

    entries: Array
    runs: Array
    rows: Array
    per_zone: Array
    effective: Array
    entry_of: Mapping[str, tuple[int, int]]
    adds: Mapping[str, int]
    sums: NDArray[np.int64]
    times: NDArray[np.int64]
    channels: int
    levels: int


NO_TALLY = Tally(
    np.zeros(0, ENTRY),
    np.zeros(0, RUN),
    np.zeros(0, ROW),
    np.zeros(0, np.int64),
    np.zeros(0, np.int64),
    {},
    {},
    np.zeros(0, np.int64),
    np.zeros(0, np.int64),
    0,
    0,
)


@dataclass(frozen=True)
class Result:
    """What a program gives for a batch: kept outputs by name, (B, *shape) int64, and what its `Tally` asked for.

    Attributes:
        counts: (B, counts). channels: (channels,) nonzero values. levels: (levels,) how often each was met.
    """

    outputs: Mapping[str, Tensor]
    counts: NDArray[np.int64]
    channels: NDArray[np.int64]
    levels: NDArray[np.int64]


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _image(shape: Shape) -> tuple[int, int, int]:
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (shape[0], 1, 1)


class Program:
    """The program of a network: `run` computes what the torch executor computes.

    Args:
        graph, shapes, bounds: of the network.

    Raises:
        MaqdError: the network has no program; the message says why.
    """

    def __init__(self, graph: Sequence[Op], shapes: Mapping[str, Shape], bounds: Mapping[str, int]) -> None:
        self.graph = tuple(graph)
        self.shapes = dict(shapes)
        self.bounds = dict(bounds)
        self.ranges: dict[str, Range] = {}
        for op in self.graph:
            self.ranges[op.name] = output_range(op, [self.ranges[name] for name in op.inputs], bounds[op.name])
        self.takers = {op.name: [other for other in self.graph if op.name in other.inputs] for op in self.graph}
        self.forms: dict[str, Form] = {}
        self._last: tuple[tuple[str, ...], Tally, tuple[Array, dict[str, int], int, Array]] | None = None
        # A product and the threshold op that alone takes it are one step, under the name of the threshold op.
        self.fused: dict[str, ops.Conv2d | ops.Linear] = {}
        reason = self._why_not()
        if reason:
            raise MaqdError(f"the network has no compiled program: {reason}")
        self._lay_out()

    def _why_not(self) -> str:
        floats = connections = 0
        for op in self.graph:
            if isinstance(op, ops.Conv2d | ops.Linear):
                form = product_form(op, self.ranges[op.inputs[0]], self.bounds[op.name])
                if form is None:
                    return f"sums of {op.name} reach {self.bounds[op.name]}"
                self.forms[op.name] = form
                size = prod(self.shapes[op.name]) * prod(op.weight.shape[1:])
                connections += size
                floats += size * (form.kind == MULTIPLY)
            elif isinstance(op, ops.Threshold):
                if op.low or op.levels > BYTE:
                    return f"{op.name} gives levels {op.low}..{op.low + op.levels}, expected 0..255 at most"
            elif isinstance(op, ops.Flatten):
                if any(not isinstance(taker, ops.Linear) for taker in self.takers[op.name]) or op is self.graph[-1]:
                    return f"{op.name} is not followed by Linear alone"
            elif type(op) not in (ops.Input, ops.MaxPool2d, ops.SumPool2d, ops.Add, ops.Readout):
                return f"{op.name} is a {type(op).__name__}"
            elif isinstance(op, ops.Add) and len(op.inputs) != 2:
                return f"{op.name} adds up {len(op.inputs)} values, expected 2"
            if self.bounds[op.name] > LARGEST_32 and not isinstance(op, ops.Readout):
                return f"values of {op.name} reach {self.bounds[op.name]}"
            if isinstance(op, ops.Readout) and op is not self.graph[-1]:
                return f"{op.name} is not the last op"
        if FLOAT_SHARE * floats > connections:
            return f"{floats} of {connections} connections would be products in float32"
        for op in self.graph:
            if isinstance(op, ops.Threshold):
                source = next(other for other in self.graph if other.name == op.inputs[0])
                if isinstance(source, ops.Conv2d | ops.Linear) and len(self.takers[source.name]) == 1:
                    self.fused[op.name] = source
        return ""

    def _wide(self, op: Op) -> bool:
        low, high = self.ranges[op.name]
        return isinstance(op, ops.Conv2d | ops.Linear | ops.Add) or low < 0 or high > BYTE

    @cached_property
    def steps_of(self) -> list[Op]:
        """The ops that are steps of the program, in order."""
        within = {product.name for product in self.fused.values()}
        return [op for op in self.graph if op.name not in within and not isinstance(op, ops.Flatten | ops.Readout)]

    def source(self, name: str) -> str:
        """Return the op whose output is read where `name` is asked for: nothing is done to flatten it."""
        op = next(op for op in self.graph if op.name == name)
        return self.source(op.inputs[0]) if isinstance(op, ops.Flatten) else name

    def _inputs(self, op: Op) -> list[str]:
        return [self.source(name) for name in (self.fused.get(op.name, op)).inputs]

    def _lay_out(self) -> None:
        """Give every output a place, memory being used again, and collect the constants."""
        self.places: dict[str, Place] = {}
        self.tables_8: list[Array] = []
        self.tables_16: list[Array] = []
        self.weights: list[Array] = []
        self.theta_8: list[Array] = []
        self.theta_16: list[Array] = []
        self.theta_float: list[Array] = []
        self.taps: list[Array] = []
        self.flip: list[Array] = []
        self.base: list[Array] = []
        self.tiles: list[tuple[int, int, int, int]] = []
        self.patterns = self.floats = 0
        last_use = {name: index for index, op in enumerate(self.steps_of) for name in self._inputs(op)}
        free: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        ends = {False: 0, True: 0}
        steps = np.zeros(len(self.steps_of), STEP)
        for index, op in enumerate(self.steps_of):
            wide = self._wide(op)
            image = _image(self.shapes[op.name])
            product = self.fused.get(op.name, op)
            stride = _up(image[0], LANES)
            if isinstance(product, ops.Conv2d | ops.Linear):
                stride = _stride(product, self._tile(product))
            place = Place(wide, 0, image, stride)
            at = next((at for at, size in free[wide] if size >= place.size), None)
            if at is None:
                at, ends[wide] = ends[wide], ends[wide] + place.size
            else:
                slot = next(slot for slot in free[wide] if slot[0] == at)
                free[wide].remove(slot)
                if slot[1] > place.size:
                    free[wide].append((at + place.size, slot[1] - place.size))
            self.places[op.name] = Place(wide, at, image, stride)
            self._fill(steps[index : index + 1], op)
            for name in set(self._inputs(op)):
                if last_use[name] == index:
                    gone = self.places[name]
                    free[gone.wide].append((gone.at, gone.size))
        self.steps = steps
        self.sizes = [ends[False] + 64, ends[True] + 64, self.patterns + 64, self.floats + 64]
        self.constants = (
            np.array(self.tiles, np.int64).reshape(-1, 4).ravel().view(TILE),
            _joined(self.taps, np.uint32),
            _joined(self.tables_8, np.int8),
            _joined(self.tables_16, np.int16),
            _joined(self.weights, np.float32),
            _joined(self.theta_8, np.int16),
            _joined(self.theta_16, np.int32),
            _joined(self.theta_float, np.float32),
            _joined(self.flip, np.uint8),
            _joined(self.base, np.uint8),
        )

    def _fill(self, line: Array, op: Op) -> None:
        """Write the record of one step."""
        out = self.places[op.name]
        step: dict[str, Any] = {"kept": NONE, "adds": NONE, "groups": 1, "planes": 1}
        step |= {"out_wide": out.wide, "out_at": out.at, "out_stride": out.stride}
        step |= dict(zip(("out_channels", "out_height", "out_width"), out.shape, strict=True))
        inputs = [self.places[name] for name in self._inputs(op)]
        if inputs:
            step |= {"in_wide": inputs[0].wide, "in_at": inputs[0].at, "in_stride": inputs[0].stride}
            step |= dict(zip(("channels", "height", "width"), inputs[0].shape, strict=True))
        if isinstance(op, ops.Input):
            step |= {"kind": CODES, "zero_point": op.zero_point}
            step |= dict(zip(("channels", "height", "width"), out.shape, strict=True))
        elif op.name in self.fused:
            assert isinstance(op, ops.Threshold)
            step |= self._product(self.fused[op.name], inputs[0], op)
        elif isinstance(op, ops.Conv2d | ops.Linear):
            step |= self._product(op, inputs[0], None)
        elif isinstance(op, ops.Threshold):
            bound = self.bounds[op.inputs[0]] + 1
            theta = op.thresholds.clamp(-bound, bound).numpy()
            falling = (op.direction < 0).numpy()
            width = _up(len(theta), LANES)
            step |= {"kind": THRESHOLD, "levels": op.levels, "theta": _size(self.theta_16), "theta_step": width}
            step["flip"] = _size(self.flip)
            # z <= theta is not z >= theta + 1: a falling channel counts what is not reached, levels - n, in bytes
            # (n ^ 255) + levels + 1.
            filled = ((0, 0), (0, width - len(theta)))
            self.theta_16.append(np.pad((theta + falling[:, None]).T, filled))
            self.flip.append(np.pad(np.where(falling, BYTE, 0), filled[1]))
            self.base.append(np.pad(np.where(falling, (op.levels + 1) % (BYTE + 1), 0), filled[1]))
        elif isinstance(op, ops.MaxPool2d | ops.SumPool2d):
            step |= {"kind": MAX_POOL if isinstance(op, ops.MaxPool2d) else SUM_POOL}
            step |= _pairs(kernel=op.kernel, step=op.stride, pad=op.padding)
        else:
            assert isinstance(op, ops.Add)
            second = inputs[1]
            step |= {"kind": ADD, "second_wide": second.wide, "second_at": second.at, "second_stride": second.stride}
        for name, value in step.items():
            line[name] = value

    def _tile(self, op: ops.Conv2d | ops.Linear) -> int:
        largest = {LOOK_UP_8: 64, LOOK_UP_16: 32, MULTIPLY: 16}[self.forms[op.name].kind]
        groups = op.groups if isinstance(op, ops.Conv2d) else 1
        lanes = _up(len(op.weight) // groups, LANES)
        return next(tile for tile in (64, 32, 16) if tile <= largest and lanes % tile == 0)

    def _product(self, op: ops.Conv2d | ops.Linear, x: Place, threshold: ops.Threshold | None) -> dict[str, Any]:
        form, tile = self.forms[op.name], self._tile(op)
        conv = _as_conv(op, x.shape)
        out_width = _image(self.shapes[op.name])[2]
        kernel = conv.weight.shape[2], conv.weight.shape[3]
        per_group = conv.weight.shape[1]
        of_group = per_group if form.kind == MULTIPLY else form.planes * (-(-per_group // 4))
        per_position = of_group * conv.groups
        furthest = (_up(out_width, POSITIONS) - 1) * conv.stride[1] + (kernel[1] - 1) * conv.dilation[1] + 1
        padded_width = max(x.shape[2] + 2 * conv.padding[1], furthest)
        image = (x.shape[1] + 2 * conv.padding[0]) * padded_width * per_position
        rows = np.arange(kernel[0])[:, None, None] * conv.dilation[0] * padded_width
        columns = np.arange(kernel[1])[None, :, None] * conv.dilation[1]
        step = {
            "kind": form.kind,
            **_pairs(kernel=kernel, step=conv.stride, pad=conv.padding),
            "groups": conv.groups,
            "planes": form.planes,
            "per_position": per_position,
            "padded_width": padded_width,
            "image": image,
            "count": kernel[0] * kernel[1] * of_group,
            "limit": form.limit,
            "tile": tile,
            "tiles": len(self.tiles),
            "levels": 0 if threshold is None else threshold.levels,
        }
        weight = conv.weight
        theta: Array = np.zeros((len(weight), 0), np.int64)
        if threshold is not None:
            bound = self.bounds[op.name] + 1
            weight = weight * threshold.direction.view(-1, 1, 1, 1)
            theta = (threshold.thresholds * threshold.direction[:, None]).clamp(-bound, bound).numpy()
        signed = ops.Conv2d(op.name, op.inputs, weight)
        tables, thetas, never = self._constants(form.kind)
        group_out = len(weight) // conv.groups
        for group in range(conv.groups):
            within = np.arange(of_group).reshape(form.planes, -1)
            if form.kind == MULTIPLY:
                inside = group * of_group + within
            else:  # the planes of all groups lie beside each other
                inside = within + (np.arange(form.planes)[:, None] * (conv.groups - 1) + group) * within.shape[1]
            offsets = (rows + columns) * per_position + inside.reshape(1, 1, -1)
            taps_from = _size(self.taps)
            self.taps.append(offsets)
            for start in range(group * group_out, (group + 1) * group_out, tile):
                stop = min(start + tile, (group + 1) * group_out)
                self.tiles.append((_size(tables), taps_from, _size(thetas), start))
                tables.append(_rows(signed, form, start, stop, tile))
                filled = np.full((tile, theta.shape[1]), never)
                filled[: stop - start] = theta[start:stop]
                thetas.append(filled.T)
        if form.kind == MULTIPLY:
            self.floats = max(self.floats, image)
        else:
            self.patterns = max(self.patterns, image)
        return {**step, "tiles_to": len(self.tiles)}

    def _constants(self, kind: int) -> tuple[list[Array], list[Array], int]:
        """Return where constants of a form are collected, and a threshold that its sums do not reach."""
        if kind == LOOK_UP_8:
            return self.tables_8, self.theta_8, LARGEST_16
        if kind == LOOK_UP_16:
            return self.tables_16, self.theta_16, 2**31 - 1
        return self.weights, self.theta_float, FLOAT32_EXACT

    @cached_property
    def observable(self) -> tuple[str, ...]:
        """The ops whose outputs `run` can keep: all but products that are one step with their threshold op."""
        return tuple(op.name for op in self.steps_of)

    def run(self, codes: Tensor, kept: Collection[str] = (), tally: Tally = NO_TALLY) -> Result:
        """Run checked codes (B, *input shape) of any integer type.

        Args:
            codes: on the CPU. kept: ops whose outputs are asked for, of `observable`. tally: what is counted.
        """
        from maqd_snn.integer.steps import run

        steps, offsets, width, sizes = self._set_up(tuple(kept), tally)
        # Not by torch: its threads would go on spinning, and take the cores from those of the program.
        flat = codes.numpy().astype(np.int32).reshape(len(codes), prod(codes.shape[1:]))
        batch = len(flat)
        outputs = np.zeros((batch, width), np.int32)
        sums = np.zeros((batch, int(tally.sums.max(initial=-1)) + 1), np.int64)
        channels, levels = np.zeros((batch, tally.channels), np.int32), np.zeros((batch, tally.levels), np.int64)
        if batch:
            over_batch(
                run, batch, flat, steps, *self.constants, sizes, outputs, tally.entries, tally.runs, tally.rows,
                tally.per_zone, tally.effective, sums, channels, levels,
            )  # fmt: skip
        found = {
            name: torch.from_numpy(outputs[:, at : at + prod(self.shapes[name])])
            .to(torch.int64)
            .view(batch, *self.shapes[name])
            for name, at in offsets.items()
        }
        return Result(found, sums[:, tally.sums] * tally.times, channels.sum(0, dtype=np.int64), levels.sum(0))

    def _set_up(self, kept: tuple[str, ...], tally: Tally) -> tuple[Array, dict[str, int], int, Array]:
        """Return the steps with what is asked for, where kept outputs begin, how many numbers they are, and sizes."""
        if self._last is not None and self._last[0] == kept and self._last[1] is tally:
            return self._last[2]
        steps = self.steps.copy()
        offsets, width = {}, 0
        for name in kept:
            offsets[name] = width
            steps["kept"][self.observable.index(name)] = width
            width += prod(self.shapes[name])
        for name, target in tally.adds.items():
            steps["adds"][self.observable.index(name)] = target
        entries, active = tally.entries, 0
        for name, (first, behind) in tally.entry_of.items():
            index = self.observable.index(name)
            steps["entry"][index], steps["entry_to"][index] = first, behind
            active = max(active, int(entries["zones"][first:behind].max()) * _up(self.places[name].shape[0], LANES))
        zones = int(entries["zones"].max(initial=0))
        ready = steps, offsets, width, np.array([*self.sizes, active, zones], np.int64)
        self._last = kept, tally, ready  # batch after batch asks for the same
        return ready


def _pairs(**pairs: Pair) -> dict[str, int]:
    return {f"{name}_{axis}": value for name, pair in pairs.items() for axis, value in zip("hw", pair, strict=True)}


def _size(parts: Sequence[Array]) -> int:
    return sum(part.size for part in parts)


def _joined(parts: Sequence[Array], dtype: Any) -> Array:
    flat = [np.ascontiguousarray(part).ravel().astype(dtype) for part in parts]
    return np.concatenate([*flat, np.zeros(64, dtype)])


def _stride(op: ops.Conv2d | ops.Linear, tile: int) -> int:
    """Return the numbers that a position takes up: blocks write whole tiles, in the order of their channels."""
    groups = op.groups if isinstance(op, ops.Conv2d) else 1
    of_group = len(op.weight) // groups
    last = (groups - 1) * of_group + (of_group - 1) // tile * tile
    return _up(last + tile, LANES)


def _as_conv(op: ops.Conv2d | ops.Linear, shape: tuple[int, int, int]) -> ops.Conv2d:
    """Return a Linear that takes a whole image as the convolution that it is."""
    return op if isinstance(op, ops.Conv2d) else ops.Conv2d(op.name, op.inputs, op.weight.view(-1, *shape))


def _rows(op: ops.Conv2d, form: Form, start: int, stop: int, tile: int) -> Array:
    """Return tables (count, 16, T) or weights (count, T) of output channels start..stop, filled up with zeros."""
    if form.kind == MULTIPLY:
        rows = op.weight[start:stop].permute(2, 3, 1, 0).numpy()
        return np.pad(rows, ((0, 0), (0, 0), (0, 0), (0, tile - rows.shape[3])))
    four = fours(op)[start:stop]  # (T, kh, kw, I/4, 4)
    bits = (np.arange(16)[:, None] >> np.arange(4)) & 1  # (16, 4)
    entries = np.moveaxis(four @ bits.T, 0, -1)  # (kh, kw, I/4, 16, T)
    entries = np.pad(entries, (*((0, 0),) * 4, (0, tile - entries.shape[4])))
    planes = [entries << plane for plane in range(form.planes)]
    return np.stack(planes, 2)  # (kh, kw, planes, I/4, 16, T)
