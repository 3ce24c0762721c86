"""The fast executor in torch: integers held in the smallest type that is proved exact, on any device.

Axis letters: B batch, C channels, H height, W width.

Levels and codes are held as uint8, int8 or int16 where their range fits; sums are held in float32 or float64. A product
takes the first of its routes that is possible and passes the check against int64:

* `compiled`: no product's but the whole network's: one program of machine code, on the CPU (`program.py`), where numba
  is installed, every op has an exact form there, and the network is large enough to be worth it;
* `int8`: uint8 levels times int8 weights, on the CPU (`int8.py`);
* `float32`: where the worst case sum|w| * max|x| stays below 2^24;
* `float64`: always.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from maqd_snn.compiled import fast
from maqd_snn.errors import MaqdError
from maqd_snn.integer import int8, ops
from maqd_snn.integer.geometry import FLOAT32_EXACT, Range, Shape, output_range, output_shape, output_size, row
from maqd_snn.integer.ops import Op, check_codes
from maqd_snn.integer.program import NO_TALLY, Program, Result, Tally
from maqd_snn.integer.reference import evaluate

Watch = Callable[[Op, Sequence[Tensor], Tensor], None]
Observe = Callable[[str, Tensor], None]

COMPILED = "compiled"
PRODUCT_ROUTES = ("int8", "float32", "float64")
ROUTES = (COMPILED, *PRODUCT_ROUTES)
WORTH_COMPILING = 2**20  # connections; a smaller network takes less time than it takes to load machine code
SMALL = (torch.uint8, torch.int8, torch.int16)
CHECKED_VALUES = 512
TRIED_SAMPLES = 2
SLICED_WINDOW = 16  # taps; larger windows are pooled in floating point
# Types that torch compares; others become int64 first.
COMPARED = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def small_type(low: int, high: int) -> torch.dtype | None:
    """Return the smallest of uint8, int8 and int16 that holds low..high, or None."""
    for dtype in SMALL:
        if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max:
            return dtype
    return None


class Prepared:
    """An op with its tensors on the device, in the number types that hold its worst case exactly.

    Attributes:
        low, high: the range of the output. input_ranges: those of its inputs.
        routes: the routes still open to a product, best first; `route` is the one in use.
        dtype: the floating type of its sums. level_dtype: the type of its levels, None where they stay sums.
    """

    def __init__(
        self,
        op: Op,
        bound: int,
        input_bounds: Sequence[int],
        sources: Sequence["Prepared"],
        device: torch.device,
        routes: Collection[str] = PRODUCT_ROUTES,
    ) -> None:
        self.op = op
        self.device = device
        self.bound = bound
        self.input_bounds = tuple(input_bounds)
        self.input_ranges: tuple[Range, ...] = tuple((source.low, source.high) for source in sources)
        self.low: int
        self.high: int
        self.low, self.high = output_range(op, self.input_ranges, bound)
        self.checked: set[tuple[int, ...]] = set()
        self.tensors: dict[str, Tensor] = {}
        self.conv: int8.Int8Conv | None = None
        self.fused: int8.Int8Conv | None = None
        self.threshold: ops.Threshold | None = None
        fits = max(bound, *input_bounds, 0) < FLOAT32_EXACT
        possible = {"int8": fits and self._takes_int8(), "float32": fits, "float64": True}
        self.routes = [name for name in PRODUCT_ROUTES if name in routes and possible[name]]
        if not self.routes:
            raise MaqdError(f"{op.name}: none of the routes {', '.join(routes)} is exact here; allow float64")
        # What passes on its input (a pool, say) passes on its kind: sums stay floating, whatever their range.
        sums = any(source.level_dtype is None for source in sources) and not isinstance(op, ops.Threshold)
        sums |= isinstance(op, ops.Add | ops.Readout | PRODUCTS)
        self.level_dtype: torch.dtype | None = None if sums else small_type(self.low, self.high)
        self.use(self.routes[0])

    def _takes_int8(self) -> bool:
        op = self.op
        return (
            isinstance(op, ops.Conv2d)
            and small_type(*self.input_ranges[0]) is not None  # sums of such a range are fine, too
            and int8.supported(op, *self.input_ranges[0], self.device)
        )

    def use(self, route: str) -> None:
        """Hold the op's tensors as this route needs them."""
        self.route = route
        self.dtype = torch.float64 if route == "float64" else torch.float32
        self.conv = self.fused = None
        op = self.op
        if isinstance(op, PRODUCTS):
            self.tensors = {"weight": op.weight.to(self.device, self.dtype)}
            if route == "int8":
                assert isinstance(op, ops.Conv2d)
                self.conv = int8.Int8Conv(op, *self.input_ranges[0])
                if self.threshold is not None:
                    self.fused = int8.Int8Conv(op, *self.input_ranges[0], self.threshold)
        elif isinstance(op, ops.Threshold):
            # Clipped to one beyond the reachable range, thresholds are exact in `dtype`, and never/always stay so.
            theta = clipped(op, self.input_bounds[0]).thresholds
            falling = op.direction < 0
            # z <= theta is not z >= theta + 1: a falling channel counts what is not reached.
            self.tensors = {"theta": (theta + falling[:, None]).to(self.device, self.dtype)}
            if bool(falling.any()):
                self.tensors["falling"] = falling.to(self.device)
        elif isinstance(op, ops.Readout):
            self.tensors = {"bias": op.bias.to(self.device)}

    def fuse(self, threshold: ops.Threshold) -> None:
        """Let the comparison of the threshold op behind this convolution be its last step, where that is exact."""
        binary = threshold.levels == 1 and threshold.low == 0
        if isinstance(self.op, ops.Conv2d) and binary and 2 * self.bound + 2 < FLOAT32_EXACT:
            self.threshold = clipped(threshold, self.bound)
            self.use(self.route)


def clipped(op: ops.Threshold, bound: int) -> ops.Threshold:
    """Return the op with its thresholds at most one beyond what accumulators can reach."""
    limit = bound + 1
    return ops.Threshold(op.name, op.inputs, op.thresholds.clamp(-limit, limit), op.direction, op.low)


def check_input(op: Op, codes: Tensor) -> None:
    """Raise MaqdError unless these are codes that the `Input` op takes."""
    assert isinstance(op, ops.Input)
    if tuple(codes.shape[1:]) != op.shape:
        raise MaqdError(
            f"{op.name}: input codes must have shape (batch, {', '.join(map(str, op.shape))}), got {tuple(codes.shape)}"
        )
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise MaqdError(f"{op.name}: input codes must be an integer tensor, got {codes.dtype}")
    limits = torch.iinfo(codes.dtype)
    if codes.numel() and not (op.low <= limits.min and limits.max <= op.high):
        smallest, largest = _limits(codes)
        check_codes(smallest, largest, op.low, op.high)


def _limits(codes: Tensor) -> tuple[int, int]:
    if codes.device.type == "cpu":  # not by torch, whose threads would go on spinning beside those of a program
        array = codes.numpy()
        return int(array.min()), int(array.max())
    smallest, largest = torch.aminmax(codes if codes.dtype in COMPARED else codes.to(torch.int64))
    return int(smallest), int(largest)


def _input(p: Prepared, values: Sequence[Tensor]) -> Tensor:
    op, codes = p.op, values[0].to(p.device)
    assert isinstance(op, ops.Input)
    check_input(op, codes)
    if codes.dtype not in COMPARED:
        codes = codes.to(torch.int64)
    # Only differences are sure to fit a small type: int16 holds those of bytes, all others are taken in int64.
    wide = codes.to(torch.int16 if codes.dtype == torch.uint8 and abs(op.zero_point) < 2**14 else torch.int64)
    return (wide - op.zero_point).to(p.level_dtype or p.dtype)


def _conv2d(p: Prepared, values: Sequence[Tensor]) -> Tensor:
    op = p.op
    assert isinstance(op, ops.Conv2d)
    if p.conv is not None:
        return p.conv(values[0])
    x = values[0].to(p.dtype)
    return F.conv2d(x, p.tensors["weight"], None, op.stride, op.padding, op.dilation, op.groups)


def _linear(p: Prepared, values: Sequence[Tensor]) -> Tensor:
    return F.linear(values[0].to(p.dtype), p.tensors["weight"])


def _threshold(p: Prepared, values: Sequence[Tensor]) -> Tensor:
    op, z = p.op, values[0].to(p.dtype)
    assert isinstance(op, ops.Threshold)
    per_channel = (-1, *(1,) * (z.ndim - 2))
    first, *rest = (theta.view(per_channel) for theta in p.tensors["theta"].unbind(1))
    count = (z >= first).view(torch.uint8)
    if op.levels > 255:
        count = count.to(torch.int32)
    for theta in rest:
        count += (z >= theta).view(torch.uint8)
    if "falling" in p.tensors:
        count = torch.where(p.tensors["falling"].view(per_channel), op.levels - count, count)
    if p.level_dtype is None:
        return count.to(p.dtype) + op.low
    if op.low:
        return (count.to(torch.int16 if op.levels <= 2**14 else torch.int32) + op.low).to(p.level_dtype)
    return count.to(p.level_dtype)


def _windows(p: Prepared, x: Tensor, fill: int) -> list[Tensor]:
    """Return the values (B, C, H', W') that each tap of a pool reads."""
    op = p.op
    assert isinstance(op, ops.MaxPool2d | ops.SumPool2d)
    height, width = output_size((x.shape[2], x.shape[3]), op.kernel, op.stride, op.padding)
    if any(op.padding):
        pad_h, pad_w = op.padding
        x = F.pad(x, (pad_w, pad_w, pad_h, pad_h), value=fill)
    return [
        x[
            :,
            :,
            dy : dy + (height - 1) * op.stride[0] + 1 : op.stride[0],
            dx : dx + (width - 1) * op.stride[1] + 1 : op.stride[1],
        ]
        for dy in range(op.kernel[0])
        for dx in range(op.kernel[1])
    ]


def _max_pool(p: Prepared, values: Sequence[Tensor]) -> Tensor:
    op, x = p.op, values[0]
    assert isinstance(op, ops.MaxPool2d)
    if x.is_floating_point():
        return F.max_pool2d(x, op.kernel, op.stride, op.padding)
    # Every window holds at least one value, so that a padding of the smallest possible value never wins.
    largest, *rest = _windows(p, x, p.low)
    for read in rest:
        largest = torch.maximum(largest, read)
    return largest


def _sum_pool(p: Prepared, values: Sequence[Tensor]) -> Tensor:
    op, x = p.op, values[0]
    assert isinstance(op, ops.SumPool2d)
    if p.level_dtype is None or op.kernel[0] * op.kernel[1] > SLICED_WINDOW:
        total = F.avg_pool2d(x.to(p.dtype), op.kernel, op.stride, op.padding, divisor_override=1)
        return total.to(p.level_dtype or p.dtype)
    first, *rest = _windows(p, x, 0)
    total = first.to(p.level_dtype, copy=True)
    for read in rest:
        total += read
    return total


def _add(p: Prepared, values: Sequence[Tensor]) -> Tensor:
    total = values[0].to(p.dtype)
    for value in values[1:]:
        total = total + value.to(p.dtype)
    return total


TORCH: Mapping[type[Op], Callable[[Prepared, Sequence[Tensor]], Tensor]] = MappingProxyType(
    {
        ops.Input: _input,
        ops.Conv2d: _conv2d,
        ops.Linear: _linear,
        ops.Threshold: _threshold,
        ops.MaxPool2d: _max_pool,
        ops.SumPool2d: _sum_pool,
        ops.Add: _add,
        ops.Flatten: lambda p, values: values[0].flatten(1),
        ops.Readout: lambda p, values: values[0].to(torch.int64) + p.tensors["bias"],
    }
)

PRODUCTS = ops.Conv2d | ops.Linear


def _why_not_compiled(
    graph: Sequence[Op], shapes: Mapping[str, Shape], device: torch.device, routes: Collection[str]
) -> str:
    """Return why a network is not compiled here, as far as that is known before it is tried, or an empty text."""
    if COMPILED not in routes:
        return f"the route is one of {', '.join(routes)}"
    if device.type != "cpu":
        return f"a compiled program runs on the CPU, not on {device}"
    if not fast():
        return "numba, which compiles, is not installed (pip install 'maqd-snn[fast]') or turned off by MAQD_NO_NUMBA"
    if set(routes) == {COMPILED}:
        return ""
    connections = sum(
        math.prod(shapes[op.name]) * math.prod(op.weight.shape[1:]) for op in graph if isinstance(op, PRODUCTS)
    )
    if connections < WORTH_COMPILING:
        return f"{connections} connections are too few to be worth it"
    return ""


class TorchExecutor:
    """Runs a list of ops on one device.

    A float product is exact for any order of summation; an algorithm that is no plain summation (Winograd, FFT, reduced
    precision, saturation) is found out by comparing a random sample with int64, once per op and input shape, and
    answered by the op's next route, at last by an error.

    The compiled program is compared with the other routes on random samples before its first batch; it gives the last
    op's output, and counts (`program`). Where single outputs are asked for, the ops run one by one.

    Args:
        graph: the ops, in order. shapes, bounds: output shape and largest magnitude of each op's sums, by name.
        routes: the routes that products may take, of `ROUTES`. `compiled` alone asks for the program, however small the
            network is.

    Attributes:
        why_not_compiled: why there is no program, or an empty text.

    Raises:
        MaqdError: unknown routes, or routes of which none is exact here.
    """

    def __init__(
        self,
        graph: Sequence[Op],
        shapes: Mapping[str, Shape],
        bounds: Mapping[str, int],
        device: torch.device,
        routes: Collection[str] = ROUTES,
    ) -> None:
        self.device = device
        unknown = sorted(set(routes) - set(ROUTES))
        if unknown or not routes:
            raise MaqdError(f"unknown routes {unknown}; the choices are: {', '.join(ROUTES)}")
        alone = set(routes) == {COMPILED}
        self._program: Program | None = None
        self._trusted = False
        self.why_not_compiled = _why_not_compiled(graph, shapes, device, routes)
        if not self.why_not_compiled:
            try:
                self._program = Program(graph, shapes, bounds)
            except MaqdError as error:
                self.why_not_compiled = str(error)
        if alone and self.why_not_compiled:
            raise MaqdError(f"{self.why_not_compiled}; allow other routes")
        self._alone = alone
        if alone:
            routes = PRODUCT_ROUTES
        prepared: dict[str, Prepared] = {}
        for op in graph:
            sources = [prepared[name] for name in op.inputs]
            input_bounds = [bounds[name] for name in op.inputs]
            prepared[op.name] = Prepared(op, bounds[op.name], input_bounds, sources, device, routes)
        self.graph = list(prepared.values())
        self.last_use = {name: op.name for op in graph for name in op.inputs}
        takers = [name for op in graph for name in op.inputs]
        for op in graph:
            if isinstance(op, ops.Threshold) and takers.count(op.inputs[0]) == 1:
                prepared[op.inputs[0]].fuse(op)

    @property
    def program(self) -> Program | None:
        """The compiled program, once it has given what the other routes give on random samples; else None."""
        if self._program is not None and not self._trusted:
            self._try(self._program)
        return self._program

    def _try(self, program: Program) -> None:
        generator = torch.Generator().manual_seed(0)
        entry = next(p for p in self.graph if isinstance(p.op, ops.Input))
        assert isinstance(entry.op, ops.Input)
        size = (TRIED_SAMPLES, *entry.op.shape)
        codes = torch.randint(entry.op.low, entry.op.high + 1, size, generator=generator)
        found = program.run(codes, program.observable).outputs
        wrong: list[str] = []

        def compare(op: Op, inputs: Sequence[Tensor], output: Tensor) -> None:
            if op.name in found and not torch.equal(found[op.name], output.to(torch.int64)):
                wrong.append(op.name)

        self.run(codes, compare)
        self._trusted = True
        if wrong:
            self._program = None
            self.why_not_compiled = f"the compiled program was wrong at {wrong[0]}"
            if self._alone:
                raise MaqdError(f"{self.why_not_compiled}; allow other routes")

    @torch.no_grad()
    def run(
        self,
        codes: Tensor,
        watch: Watch | None = None,
        observe: Observe | None = None,
        names: Collection[str] = (),
    ) -> Tensor:
        """Return the last op's output.

        `watch(op, inputs, output)` is called for every op in turn. `observe(name, output)` is called for the ops in
        `names` alone, and then, as without either, a convolution that is not among them may be done together with the
        threshold op behind it.
        """
        if watch is None and not names and self.program is not None:
            return self.run_program(codes)[0]
        values: dict[str, Tensor] = {}
        output = codes
        with torch.autocast(self.device.type, enabled=False):
            for p in self.graph:
                op = p.op
                if op.name in values:  # done with the convolution before it
                    output = values[op.name]
                else:
                    inputs = [values[name] for name in op.inputs]
                    fused = self._fused(p, inputs) if watch is None and op.name not in names else None
                    if fused is not None and p.threshold is not None:
                        values[p.threshold.name] = fused
                    else:
                        output = self._evaluate(p, inputs if op.inputs else [codes])
                        values[op.name] = output
                        if watch is not None:
                            watch(op, inputs, output)
                if observe is not None and op.name in names:
                    observe(op.name, output)
                for name in op.inputs:
                    if self.last_use[name] == op.name:
                        values.pop(name, None)
        return output

    def run_program(self, codes: Tensor, tally: Tally = NO_TALLY) -> tuple[Tensor, Result]:
        """Return the last op's output and what the program counted; ask `program` first whether there is one."""
        assert self._program is not None
        check_input(self.graph[0].op, codes)
        op = self.graph[-1].op
        last = op.inputs[0] if isinstance(op, ops.Readout) else op.name
        result = self._program.run(codes, (last,), tally)
        output = result.outputs[last]
        return (output + op.bias if isinstance(op, ops.Readout) else output), result

    def _fused(self, p: Prepared, inputs: list[Tensor]) -> Tensor | None:
        if p.fused is None:
            return None
        self._check(p, tuple(inputs[0].shape[1:]))
        return None if p.fused is None else p.fused(inputs[0])

    def _evaluate(self, p: Prepared, inputs: list[Tensor]) -> Tensor:
        function = row(TORCH, p.op, "torch")
        if isinstance(p.op, PRODUCTS):
            self._check(p, tuple(inputs[0].shape[1:]))
        return function(p, inputs)

    def _check(self, p: Prepared, shape: tuple[int, ...]) -> None:
        if shape in p.checked:
            return
        generator = torch.Generator().manual_seed(0)
        low, high = p.input_ranges[0]
        size = output_shape(p.op, [shape])
        samples = max(1, CHECKED_VALUES // math.prod(size))  # many of a small output: one would compare too little
        sample = torch.randint(low, high + 1, (samples, *shape), generator=generator)
        expected = evaluate(p.op, [sample.numpy()])
        levels = None if p.threshold is None else evaluate(p.threshold, [expected])
        given = sample.to(self.device, small_type(low, high) or torch.float64)
        while True:
            if self._agrees(p, given, torch.from_numpy(expected), None if levels is None else torch.from_numpy(levels)):
                p.checked.add(shape)
                return
            del p.routes[0]
            if not p.routes:
                raise MaqdError(
                    f"{p.op.name}: this device's {type(p.op).__name__} is not exact on integers, even in float64; "
                    "run the network on the CPU"
                )
            p.checked.clear()
            p.use(p.routes[0])

    def _agrees(self, p: Prepared, given: Tensor, expected: Tensor, levels: Tensor | None) -> bool:
        try:
            same = torch.equal(TORCH[type(p.op)](p, [given]).to("cpu", torch.float64), expected.double())
            if same and p.fused is not None and levels is not None:
                same = torch.equal(p.fused(given).to(torch.int64), levels)
        except RuntimeError:
            if p.route != "int8":
                raise
            return False  # this processor has no such kernel
        for conv in (p.conv, p.fused):
            if conv is not None:
                conv.packed.clear()  # packed anew for the size of real batches
        return same
