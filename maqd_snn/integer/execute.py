"""The fast executor in torch: integers held in floating point wherever that is proved exact, on any device.

Axis letters: B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from maqd_snn.errors import MaqdError
from maqd_snn.integer import ops
from maqd_snn.integer.geometry import FLOAT32_EXACT, row
from maqd_snn.integer.ops import Op, check_codes
from maqd_snn.integer.reference import evaluate

Watch = Callable[[Op, Sequence[Tensor], Tensor], None]


class Prepared:
    """An op with its tensors on the device, in the number type that holds its worst case exactly."""

    def __init__(self, op: Op, bound: int, input_bounds: Sequence[int], device: torch.device) -> None:
        self.op = op
        self.device = device
        self.input_bounds = tuple(input_bounds)
        self.checked: set[tuple[int, ...]] = set()
        self.tensors: dict[str, Tensor] = {}
        self.use(torch.float32 if max(bound, *input_bounds, 0) < FLOAT32_EXACT else torch.float64)

    def use(self, dtype: torch.dtype) -> None:
        """Hold the op's tensors as `dtype`."""
        self.dtype = dtype
        op = self.op
        if isinstance(op, ops.Conv2d | ops.Linear):
            self.tensors = {"weight": op.weight.to(self.device, dtype)}
        elif isinstance(op, ops.Threshold):
            # Clipped to one beyond the reachable range, thresholds are exact in `dtype`, and never/always stay so.
            limit = self.input_bounds[0] + 1
            oriented = op.thresholds.clamp(-limit, limit) * op.direction[:, None]
            self.tensors = {"theta": oriented.to(self.device, dtype)}
            if bool((op.direction < 0).any()):
                self.tensors["direction"] = op.direction.to(self.device, dtype)
        elif isinstance(op, ops.Readout):
            self.tensors = {"bias": op.bias.to(self.device)}


def _input(p: Prepared, values: Sequence[Tensor]) -> Tensor:
    op, codes = p.op, values[0]
    assert isinstance(op, ops.Input)
    if tuple(codes.shape[1:]) != op.shape:
        raise MaqdError(
            f"{op.name}: input codes must have shape (batch, {', '.join(map(str, op.shape))}), got {tuple(codes.shape)}"
        )
    if codes.is_floating_point() or codes.dtype == torch.bool:
        raise MaqdError(f"{op.name}: input codes must be an integer tensor, got {codes.dtype}")
    # As int64 first: torch compares no other unsigned type than uint8, and only differences are sure to fit `dtype`.
    codes = codes.to(p.device, torch.int64)
    if codes.numel():
        check_codes(int(codes.min()), int(codes.max()), op.low, op.high)
    return (codes - op.zero_point).to(p.dtype)


def _conv2d(p: Prepared, values: Sequence[Tensor]) -> Tensor:
    op = p.op
    assert isinstance(op, ops.Conv2d)
    return F.conv2d(values[0], p.tensors["weight"], None, op.stride, op.padding, op.dilation, op.groups)


def _threshold(p: Prepared, values: Sequence[Tensor]) -> Tensor:
    op, z = p.op, values[0]
    assert isinstance(op, ops.Threshold)
    per_channel = (-1, *(1,) * (z.ndim - 2))
    if "direction" in p.tensors:
        z = z * p.tensors["direction"].view(per_channel)
    first, *rest = (theta.view(per_channel) for theta in p.tensors["theta"].unbind(1))
    level = (z >= first).to(torch.float32)
    for theta in rest:
        level += z >= theta
    return level + op.low if op.low else level


def _max_pool(p: Prepared, values: Sequence[Tensor]) -> Tensor:
    op = p.op
    assert isinstance(op, ops.MaxPool2d)
    return F.max_pool2d(values[0], op.kernel, op.stride, op.padding)


def _sum_pool(p: Prepared, values: Sequence[Tensor]) -> Tensor:
    op = p.op
    assert isinstance(op, ops.SumPool2d)
    return F.avg_pool2d(values[0], op.kernel, op.stride, op.padding, divisor_override=1)


def _add(p: Prepared, values: Sequence[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


TORCH: Mapping[type[Op], Callable[[Prepared, Sequence[Tensor]], Tensor]] = MappingProxyType(
    {
        ops.Input: _input,
        ops.Conv2d: _conv2d,
        ops.Linear: lambda p, values: F.linear(values[0], p.tensors["weight"]),
        ops.Threshold: _threshold,
        ops.MaxPool2d: _max_pool,
        ops.SumPool2d: _sum_pool,
        ops.Add: _add,
        ops.Flatten: lambda p, values: values[0].flatten(1),
        ops.Readout: lambda p, values: values[0].to(torch.int64) + p.tensors["bias"],
    }
)

PRODUCTS = (ops.Conv2d, ops.Linear)


class TorchExecutor:
    """Runs a list of ops on one device.

    A product runs in float32 where its worst case, sum|w| * max|x|, stays below 2^24, else in float64. That is exact
    for any order of summation; an algorithm that is no plain summation (Winograd, FFT, reduced precision) is found out
    by comparing one random sample with int64, once per op and input shape, and answered by float64, then by an error.
    """

    def __init__(self, graph: Sequence[Op], bounds: Mapping[str, int], device: torch.device) -> None:
        self.device = device
        self.graph = [Prepared(op, bounds[op.name], [bounds[name] for name in op.inputs], device) for op in graph]
        self.last_use = {name: op.name for op in graph for name in op.inputs}

    @torch.no_grad()
    def run(self, codes: Tensor, watch: Watch | None = None) -> Tensor:
        """Return the last op's output; `watch(op, inputs, output)` is called for every op in turn."""
        values: dict[str, Tensor] = {}
        output = codes
        with torch.autocast(self.device.type, enabled=False):
            for p in self.graph:
                op = p.op
                inputs = [values[name] for name in op.inputs]
                output = self._evaluate(p, inputs if op.inputs else [codes])
                if watch is not None:
                    watch(op, inputs, output)
                values[op.name] = output
                for name in op.inputs:
                    if self.last_use[name] == op.name:
                        values.pop(name, None)
        return output

    def _evaluate(self, p: Prepared, inputs: list[Tensor]) -> Tensor:
        if isinstance(p.op, ops.Input):
            return TORCH[ops.Input](p, inputs)
        function = row(TORCH, p.op, "torch")
        if isinstance(p.op, PRODUCTS):
            self._check(p, tuple(inputs[0].shape[1:]))
        return function(p, [value.to(p.dtype) for value in inputs])

    def _check(self, p: Prepared, shape: tuple[int, ...]) -> None:
        if shape in p.checked:
            return
        generator = torch.Generator().manual_seed(0)
        largest = p.input_bounds[0]
        sample = torch.randint(-largest, largest + 1, (1, *shape), generator=generator)
        expected = torch.from_numpy(evaluate(p.op, [sample.numpy()])).double()
        for dtype in dict.fromkeys((p.dtype, torch.float64)):
            p.use(dtype)
            got = TORCH[type(p.op)](p, [sample.to(self.device, dtype)])
            if torch.equal(got.to("cpu", torch.float64), expected):
                p.checked.add(shape)
                return
        raise MaqdError(
            f"{p.op.name}: this device's {type(p.op).__name__} is not exact on integers, even in float64; "
            "run the network on the CPU"
        )
