"""The ops of an integer network: oracle and fast executor against loops over every output and tap; what is refused."""

import copy
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn import fold
from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork, execute, int8, ops
from maqd_snn.integer.execute import ROUTES, TORCH
from maqd_snn.integer.geometry import BOUNDS, SHAPES, output_bound, output_shape, output_size
from maqd_snn.integer.ops import OPS, Op
from maqd_snn.integer.reference import REFERENCE, evaluate

Array = NDArray[np.int64]
Pair = tuple[int, int]


needs_int8 = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qconv2d_pointwise")),
    reason="this torch has no quantized convolution of oneDNN",
)

# Brute force: Python integers, one output at a time.


def size_of(n: int, k: int, s: int, p: int, d: int) -> int:
    """How many windows fit: positions 0, s, 2s, ... of the padded axis whose last tap is still on it."""
    return sum(1 for start in range(0, n + 2 * p, s) if start + d * (k - 1) < n + 2 * p)


def taps(x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, at: Pair) -> list[tuple[Pair, Pair]]:
    """Return ((dy, dx), (row, column)) of the taps of output position `at` that do not fall into the padding."""
    found = []
    for dy, dx in product(range(kernel[0]), range(kernel[1])):
        row = at[0] * stride[0] + dy * dilation[0] - padding[0]
        column = at[1] * stride[1] + dx * dilation[1] - padding[1]
        if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
            found.append(((dy, dx), (row, column)))
    return found


def brute_conv(op: ops.Conv2d, x: Array) -> Array:
    weight = op.weight.tolist()
    out, per_group, kernel = len(weight), op.weight.shape[1], tuple(op.weight.shape[2:])
    size = tuple(size_of(*a) for a in zip(x.shape[2:], kernel, op.stride, op.padding, op.dilation, strict=True))
    z = np.zeros((len(x), out, *size), np.int64)
    for b, o, y, column in np.ndindex(*z.shape):
        first = o // (out // op.groups) * per_group
        total = 0
        for (dy, dx), (r, c) in taps(x, kernel, op.stride, op.padding, op.dilation, (y, column)):
            for i in range(per_group):
                total += weight[o][i][dy][dx] * int(x[b, first + i, r, c])
        z[b, o, y, column] = total
    return z


def brute_pool(op: ops.MaxPool2d | ops.SumPool2d, x: Array) -> Array:
    of = max if isinstance(op, ops.MaxPool2d) else sum
    size = tuple(size_of(*a, 1) for a in zip(x.shape[2:], op.kernel, op.stride, op.padding, strict=True))
    z = np.zeros((*x.shape[:2], *size), np.int64)
    for b, c, y, column in np.ndindex(*z.shape):
        read = taps(x, op.kernel, op.stride, op.padding, (1, 1), (y, column))
        z[b, c, y, column] = of([int(x[b, c, row, col]) for _, (row, col) in read])
    return z


def brute_linear(op: ops.Linear, x: Array) -> Array:
    return np.array(
        [[sum(w * int(v) for w, v in zip(row, sample, strict=True)) for row in op.weight.tolist()] for sample in x]
    )


def brute_threshold(op: ops.Threshold, x: Array) -> Array:
    level = np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        rising = int(op.direction[at[1]]) == 1
        reached = [int(x[at]) >= t if rising else int(x[at]) <= t for t in op.thresholds[at[1]].tolist()]
        level[at] = op.low + sum(reached)
    return level


CPU = torch.device("cpu")
FLOATS = ("float32", "float64")


def assert_executors_agree(graph: list[Op], codes: Array, expected: Array) -> IntegerNetwork:
    net = IntegerNetwork(graph)
    oracle = net.reference_trace(codes)
    fast = net.trace(torch.from_numpy(codes))
    assert list(oracle) == list(fast) == [op.name for op in graph]
    for routes in (ROUTES, FLOATS, ("float64",)):
        forced = net.executor(CPU, routes)
        outputs: dict[str, Tensor] = {}
        scores = forced.run(
            torch.from_numpy(codes), lambda op, inputs, output, kept=outputs: kept.update({op.name: output})
        )
        for name in oracle:
            np.testing.assert_array_equal(
                outputs[name].to(torch.int64).numpy(), oracle[name], err_msg=f"{name} {routes}"
            )
        np.testing.assert_array_equal(forced.run(torch.from_numpy(codes)).to(torch.int64), scores.to(torch.int64))
    for name in oracle:
        np.testing.assert_array_equal(fast[name].numpy(), oracle[name], err_msg=name)
        assert oracle[name].dtype == np.int64
        assert oracle[name].shape[1:] == net.shapes[name]
        assert np.abs(oracle[name]).max() <= net.bounds[name]
    np.testing.assert_array_equal(oracle[graph[-1].name], expected)
    scores = net(torch.from_numpy(codes))
    assert scores.dtype == torch.int64
    np.testing.assert_array_equal(scores.numpy(), expected)
    np.testing.assert_array_equal(net.reference(codes), expected)
    return net


def image_input(shape: tuple[int, ...], low: int = -20, high: int = 20) -> ops.Input:
    return ops.Input("input", shape=shape, zero_point=0, low=low, high=high)


pairs = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))  # noqa: E731
seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=120)
@given(
    groups=st.integers(1, 3),
    per_group=pairs(1, 3),
    kernel=pairs(1, 4),
    stride=pairs(1, 3),
    padding=pairs(0, 3),
    dilation=pairs(1, 3),
    size=pairs(1, 7),
    seed=seeds,
)
def test_conv2d_equals_brute_force(groups, per_group, kernel, stride, padding, dilation, size, seed) -> None:
    rng = np.random.default_rng(seed)
    inputs, outputs = per_group
    weight = torch.from_numpy(rng.integers(-127, 128, (groups * outputs, inputs, *kernel)))
    op = ops.Conv2d("conv", ("input",), weight, stride, padding, dilation, groups)
    shape = (groups * inputs, *size)
    if min(size_of(*a) for a in zip(size, kernel, stride, padding, dilation, strict=True)) < 1:
        with pytest.raises(MaqdError, match=r"^conv: the input is smaller than the kernel, the output would be"):
            IntegerNetwork([image_input(shape), op])
        return
    x = rng.integers(-20, 21, (2, *shape))
    assert_executors_agree([image_input(shape), op], x, brute_conv(op, x))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "size"),
    [
        ((2, 1), (3, 3), (3, 2), (3, 2), (3, 1)),
        ((3, 1), (2, 2), (2, 1), (1, 2), (6, 1)),
        ((3, 2), (3, 2), (2, 3), (3, 2), (5, 1)),
    ],
)
def test_windows_in_the_padding_alone_do_not_end_the_process(kernel, stride, padding, dilation, size) -> None:
    # oneDNN's 8-bit convolution did, on processors with AVX512 VNNI.
    rng = np.random.default_rng(0)
    op = ops.Conv2d(
        "conv", ("input",), torch.from_numpy(rng.integers(-127, 128, (6, 2, *kernel))), stride, padding, dilation, 3
    )
    assert not int8.supported(op, -20, 20, CPU)
    assert int8.supported(replace(op, padding=(0, 0)), -20, 20, CPU)
    x = rng.integers(-20, 21, (2, 6, *size))
    assert_executors_agree([image_input((6, *size)), op], x, brute_conv(op, x))


@settings(max_examples=40)
@given(channels=st.integers(1, 6), multiplier=st.integers(1, 2), stride=pairs(1, 2), padding=pairs(0, 2), seed=seeds)
def test_depthwise_conv2d_equals_brute_force(channels, multiplier, stride, padding, seed) -> None:
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.integers(-3, 4, (channels * multiplier, 1, 3, 3)))
    op = ops.Conv2d("conv", ("input",), weight, stride, padding, groups=channels)
    x = rng.integers(-20, 21, (2, channels, 5, 4))
    assert_executors_agree([image_input((channels, 5, 4)), op], x, brute_conv(op, x))


@settings(max_examples=100)
@given(
    kind=st.sampled_from([ops.MaxPool2d, ops.SumPool2d]),
    kernel=pairs(1, 5),
    stride=pairs(1, 4),
    data=st.data(),
    size=pairs(1, 7),
    seed=seeds,
)
def test_pools_equal_brute_force(kind, kernel, stride, data, size, seed) -> None:
    padding = data.draw(st.tuples(*(st.integers(0, k // 2) for k in kernel)))
    assume(min(size_of(*a, 1) for a in zip(size, kernel, stride, padding, strict=True)) >= 1)
    rng = np.random.default_rng(seed)
    op = kind("pool", ("input",), kernel, stride, padding)
    x = rng.integers(-20, 21, (2, 3, *size))
    # All negative too, where a padding of zero would win a maximum.
    for values in (x, -np.abs(x) - 1):
        assert_executors_agree([image_input((3, *size), low=-21), op], values, brute_pool(op, values))


@settings(max_examples=50)
@given(inputs=st.integers(1, 9), outputs=st.integers(1, 9), seed=seeds)
def test_linear_equals_brute_force(inputs, outputs, seed) -> None:
    rng = np.random.default_rng(seed)
    op = ops.Linear("fc", ("input",), torch.from_numpy(rng.integers(-127, 128, (outputs, inputs))))
    x = rng.integers(-20, 21, (3, inputs))
    assert_executors_agree([image_input((inputs,)), op], x, brute_linear(op, x))


@settings(max_examples=100)
@given(
    channels=st.integers(1, 5),
    levels=st.integers(1, 8),
    low=st.integers(-8, 3),
    image=st.booleans(),
    reach=st.sampled_from([3, 25, 2**40, 2**62]),
    seed=seeds,
)
def test_threshold_equals_brute_force(channels, levels, low, image, reach, seed) -> None:
    rng = np.random.default_rng(seed)
    direction = rng.choice([-1, 1], channels)
    theta = np.sort(rng.integers(-reach, reach + 1, (channels, levels)), axis=1)
    theta = np.where(direction[:, None] > 0, theta, theta[:, ::-1])
    op = ops.Threshold("spike", ("input",), torch.from_numpy(theta.copy()), torch.from_numpy(direction), low)
    shape = (channels, 3, 2) if image else (channels,)
    x = rng.integers(-20, 21, (4, *shape))
    assert_executors_agree([image_input(shape), op], x, brute_threshold(op, x))


@pytest.mark.parametrize("direction", [1, -1])
def test_threshold_at_every_accumulator_there_is(direction: int) -> None:
    thresholds = torch.tensor([[-3, -3, 0, 2]]) * direction
    op = ops.Threshold("spike", ("input",), thresholds, torch.tensor([direction]), low=-1)
    x = np.arange(-20, 21)[:, None]
    expected = np.array([-1 + sum(direction * int(v) >= t for t in (-3, -3, 0, 2)) for v in x[:, 0]])[:, None]
    assert_executors_agree([image_input((1,)), op], x, expected)


@settings(max_examples=30)
@given(zero_point=st.integers(-5, 5), seed=seeds)
def test_input_add_flatten_readout_equal_brute_force(zero_point, seed) -> None:
    rng = np.random.default_rng(seed)
    bias = rng.integers(-(2**40), 2**40, 12)
    graph = [
        ops.Input("input", shape=(2, 3, 2), zero_point=zero_point, low=-6, high=9, kind="events"),
        ops.Threshold("spike", ("input",), torch.tensor([[1], [2]]), torch.tensor([1, -1])),
        ops.Add("sum", ("input", "spike", "input")),
        ops.Flatten("flat", ("sum",)),
        ops.Readout("readout", ("flat",), torch.from_numpy(bias)),
    ]
    codes = rng.integers(-6, 10, (4, 2, 3, 2))
    expected = np.zeros((4, 12), np.int64)
    for b, c, y, x in np.ndindex(*codes.shape):
        z = int(codes[b, c, y, x]) - zero_point
        spike = int(z >= 1) if c == 0 else int(z <= 2)
        expected[b, (c * 3 + y) * 2 + x] = 2 * z + spike + int(bias[(c * 3 + y) * 2 + x])
    assert_executors_agree(graph, codes, expected)


@given(n=st.integers(1, 40), k=st.integers(1, 9), s=st.integers(1, 7), p=st.integers(0, 9), d=st.integers(1, 5))
def test_output_size_counts_the_windows(n, k, s, p, d) -> None:
    assert max(output_size((n, n), (k, k), (s, s), (p, p), (d, d))[0], 0) == size_of(n, k, s, p, d)


# Number types: float32 below 2^24, else float64, never wrong.


@pytest.mark.parametrize(
    ("largest_weight", "dtype"),
    [(2**24 - 2, torch.float32), (2**24 - 1, torch.float64), (2**24 + 1, torch.float64), (2**53 - 2, torch.float64)],
)
def test_number_type_holds_the_worst_case(largest_weight: int, dtype: torch.dtype) -> None:
    weight = torch.tensor([[largest_weight, 1], [-largest_weight, -1], [largest_weight, -1]])
    graph = [image_input((2,), low=0, high=1), ops.Linear("fc", ("input",), weight)]
    codes = np.array([[1, 1], [1, 0], [0, 1]])
    net = assert_executors_agree(graph, codes, codes @ weight.numpy().T)
    assert net.bounds["fc"] == largest_weight + 1
    assert net.executor(torch.device("cpu")).graph[1].dtype == dtype


def test_bound_of_2_to_the_53_is_refused() -> None:
    graph = [image_input((2,), low=0, high=1), ops.Linear("fc", ("input",), torch.tensor([[2**53 - 1, 1]]))]
    with pytest.raises(
        MaqdError, match=rf"^fc: accumulators can reach {2**53}, above 2\^53; use fewer states or inputs"
    ):
        IntegerNetwork(graph)


@pytest.mark.parametrize(
    "op",
    [
        ops.Linear("op", ("input",), torch.tensor([[2**62] * 4])),
        ops.Linear("op", ("input",), torch.tensor([[-(2**63), 0, 0, 0]])),
        ops.Conv2d("op", ("input",), torch.full((1, 4, 1, 1), 2**62)),
        ops.Readout("op", ("input",), torch.tensor([-(2**63), 0, 0, 0])),
    ],
    ids=lambda op: type(op).__name__,
)
def test_bound_does_not_overflow(op: Op) -> None:
    shape = (4, 1, 1) if isinstance(op, ops.Conv2d) else (4,)
    with pytest.raises(MaqdError, match=r"^op: accumulators can reach \d+, above 2\^53"):
        IntegerNetwork([image_input(shape), op])


def test_sums_and_pools_add_their_bounds() -> None:
    graph = [
        image_input((1, 4, 4), low=-3, high=5),
        ops.SumPool2d("pool", ("input",), (2, 2), (2, 2)),
        ops.Conv2d("conv", ("pool",), torch.tensor([[[[-3]]], [[[2]]]])),
        ops.Add("sum", ("conv", "conv")),
        ops.MaxPool2d("max", ("sum",), (2, 2), (1, 1)),
        ops.Flatten("flat", ("max",)),
        ops.Readout("readout", ("flat",), torch.tensor([-7, 1])),
    ]
    net = IntegerNetwork(graph)
    assert list(net.bounds.values()) == [5, 20, 60, 120, 120, 120, 127]


# The exactness check: an algorithm that is no plain summation is found out.


def conv_network() -> tuple[IntegerNetwork, Array]:
    rng = np.random.default_rng(0)
    graph = [
        image_input((2, 5, 5)),
        ops.Conv2d("conv", ("input",), torch.from_numpy(rng.integers(-7, 8, (3, 2, 3, 3)))),
        ops.Flatten("flat", ("conv",)),
        ops.Linear("fc", ("flat",), torch.from_numpy(rng.integers(-7, 8, (4, 27)))),
    ]
    return IntegerNetwork(graph), rng.integers(-20, 21, (6, 2, 5, 5))


@pytest.mark.parametrize(("function", "name"), [("conv2d", "conv"), ("linear", "fc")])
def test_wrong_float32_product_falls_back_to_float64(monkeypatch, function: str, name: str) -> None:
    net, codes = conv_network()
    right = getattr(execute.F, function)

    def wrong_in_float32(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        z = right(x, weight, *rest)
        return z + (z == z.amax()) if x.dtype == torch.float32 else z  # off by one, in one place

    monkeypatch.setattr(execute.F, function, wrong_in_float32)
    executor = net.executor(CPU, FLOATS)
    np.testing.assert_array_equal(executor.run(torch.from_numpy(codes)).numpy(), net.reference(codes))
    dtypes = {p.op.name: p.dtype for p in executor.graph}
    assert {n for n, dtype in dtypes.items() if dtype == torch.float64} == {name}


@pytest.mark.parametrize(("function", "name"), [("conv2d", "conv"), ("linear", "fc")])
def test_product_that_is_wrong_in_float64_too_is_an_error(monkeypatch, function: str, name: str) -> None:
    net, codes = conv_network()
    right = getattr(execute.F, function)
    monkeypatch.setattr(execute.F, function, lambda *given: right(*given) + 1e-3 + 1)
    with pytest.raises(
        MaqdError, match=rf"^{name}: this device's \w+ is not exact on integers, even in float64; .* CPU"
    ):
        net.executor(CPU, FLOATS).run(torch.from_numpy(codes))


def test_product_that_is_off_by_a_fraction_is_found(monkeypatch) -> None:
    net, codes = conv_network()
    right = execute.F.conv2d

    def rough_in_float32(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        z = right(x, weight, *rest)
        return z + 0.25 * z.sign() if x.dtype == torch.float32 else z

    monkeypatch.setattr(execute.F, "conv2d", rough_in_float32)
    net.executor(CPU, FLOATS).run(torch.from_numpy(codes))
    assert net.executor(CPU, FLOATS).graph[1].dtype == torch.float64


@needs_int8
@pytest.mark.parametrize("broken", ["wrong", "missing"])
def test_int8_product_that_is_wrong_or_missing_falls_back_to_float32(monkeypatch, broken: str) -> None:
    net, codes = conv_network()
    right = int8.Int8Conv.__call__

    def call(conv: int8.Int8Conv, x: Tensor) -> Tensor:
        if broken == "missing":
            raise RuntimeError("could not create a primitive descriptor")
        z = right(conv, x)
        return z + (z == z.amax())

    monkeypatch.setattr(int8.Int8Conv, "__call__", call)
    np.testing.assert_array_equal(net(torch.from_numpy(codes)).numpy(), net.reference(codes))
    assert {p.op.name: p.route for p in net.executor(CPU).graph}["conv"] == "float32"


@needs_int8
def test_fused_threshold_that_is_wrong_is_found(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    graph = [
        image_input((2, 5, 5)),
        ops.Conv2d("conv", ("input",), torch.from_numpy(rng.integers(-7, 8, (3, 2, 3, 3)))),
        ops.Threshold("spike", ("conv",), torch.tensor([[5], [-4], [0]]), torch.tensor([1, -1, -1])),
    ]
    codes = torch.from_numpy(rng.integers(-20, 21, (4, 2, 5, 5)))
    net, wrong = IntegerNetwork(graph), IntegerNetwork(graph)
    assert torch.equal(net(codes), torch.from_numpy(net.reference(codes.numpy())))
    assert net.executor(CPU).graph[1].fused is not None  # it was in use
    fused = wrong.executor(CPU).graph[1].fused
    fused.bias = fused.bias + 30
    assert torch.equal(wrong(codes), net(codes))
    assert wrong.executor(CPU).graph[1].route == "float32"


@needs_int8
def test_values_are_split_where_pairs_of_products_would_saturate() -> None:
    # 255 * 127 twice is beyond 32767: all inputs at their largest, all weights at theirs, with both signs.
    weight = torch.full((4, 6, 3, 3), 127)
    weight[1], weight[2, ::2], weight[3, :, 1] = -127, -127, -127
    for low, high, zero_point in ((0, 255, 0), (0, 255, 121), (0, 255, 255), (-127, 127, 0), (-255, 255, 0)):
        source = ops.Input("input", shape=(6, 4, 4), low=low, high=high, zero_point=zero_point)
        net = IntegerNetwork([source, ops.Conv2d("conv", ("input",), weight, (1, 1), (1, 1))])
        codes = torch.stack(
            [torch.full((6, 4, 4), low), torch.full((6, 4, 4), high), torch.full((6, 4, 4), zero_point)]
        )
        codes = torch.cat([codes, torch.randint(low, high + 1, (3, 6, 4, 4))])
        assert torch.equal(net(codes), torch.from_numpy(net.reference(codes.numpy())))
        prepared = net.executor(CPU).graph[1]
        assert prepared.route == "int8"
        parts = prepared.conv.split(codes - zero_point)
        signs = torch.tensor([sign for sign, _ in prepared.conv.parts])
        assert 2 * int(parts.max()) * 127 <= 32767
        total = (parts.view(6, len(signs), 6, 4, 4).long() * signs.view(1, -1, 1, 1, 1)).sum(1)
        assert torch.equal(total, codes - zero_point)


def test_routes_are_checked() -> None:
    net, _ = conv_network()
    with pytest.raises(
        MaqdError, match=r"unknown routes \['int4'\]; the choices are: compiled, int8, float32, float64"
    ):
        net.executor(CPU, ("int4",))
    big = IntegerNetwork([image_input((2,), 0, 1), ops.Linear("fc", ("input",), torch.tensor([[2**24, 1]]))])
    with pytest.raises(MaqdError, match="fc: none of the routes int8, float32 is exact here; allow float64"):
        big.executor(CPU, ("int8", "float32"))


EXACT_UNDER_ISA = """
import torch
from maqd_snn import build, fold
from maqd_snn.integer import IntegerNetwork, ops
torch.manual_seed(0)
nets = [
    fold(build("vgg", input_shape=(3, 12, 12), classes=4, act_states=states, weight_states=weights, plan="16-24-M-40",
               zero_point=zero))
    for states, weights, zero in ((2, 3, 121), (4, 255, 0), (256, 255, 255))
]
source = ops.Input("input", shape=(8, 6, 6))
nets.append(IntegerNetwork([source, ops.Conv2d("conv", ("input",), torch.full((5, 8, 3, 3), 127), (1, 1), (1, 1))]))
for net in nets:
    codes = torch.randint(0, 256, (5, *net.input.shape))
    codes[0], codes[1] = 255, 0
    truth = net.reference_trace(codes.numpy())
    for name, value in net.trace(codes).items():
        assert torch.equal(value, torch.from_numpy(truth[name])), name
    assert torch.equal(net(codes), torch.from_numpy(truth[net.ops[-1].name]))
    print(*[p.route for p in net.executor(codes.device).graph if p.op.name.startswith("conv")])
"""


@needs_int8
@pytest.mark.parametrize("isa", ["SSE41", "AVX2", "DEFAULT"])
def test_executors_agree_on_every_kind_of_processor(isa: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EXACT_UNDER_ISA],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split().count("int8") >= 5, done.stdout


def test_check_runs_once_per_op(monkeypatch) -> None:
    net, codes = conv_network()
    calls: list[str] = []
    monkeypatch.setattr(execute, "evaluate", lambda op, values: calls.append(op.name) or evaluate(op, values))
    for batch in (1, 6, 3):
        net(torch.from_numpy(codes[:batch]))
    assert calls == ["conv", "fc"]


def test_executor_runs_in_full_precision_under_autocast() -> None:
    net, codes = conv_network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(net(torch.from_numpy(codes)).numpy(), net.reference(codes))


# Tables: one row per op.


def test_every_op_has_a_row_in_every_table() -> None:
    for table in (SHAPES, BOUNDS, TORCH, REFERENCE):
        assert set(table) == set(OPS.values())


@dataclass(frozen=True, eq=False)
class Negate(Op):
    """An op that no table knows."""


def test_op_without_a_row_is_an_error() -> None:
    op = Negate("minus", ("input",))
    with pytest.raises(MaqdError, match="^minus: there is no shape rule for a Negate"):
        output_shape(op, [(3,)])
    with pytest.raises(MaqdError, match="^minus: there is no bound rule for a Negate"):
        output_bound(op, [3])
    with pytest.raises(MaqdError, match="^minus: there is no reference rule for a Negate"):
        evaluate(op, [np.zeros(3, np.int64)])
    with pytest.raises(MaqdError, match="^minus: there is no shape rule"):
        IntegerNetwork([image_input((3,)), op])


# Ops validate themselves.

W2, W4 = torch.ones(2, 3, dtype=torch.int64), torch.ones(4, 2, 3, 3, dtype=torch.int64)
ONE = torch.tensor([1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ops.Linear("", ("x",), W2), "an op needs a name without '/', got ''"),
        (lambda: ops.Linear("a/b", ("x",), W2), "an op needs a name without '/', got 'a/b'"),
        (lambda: ops.Linear("fc", (), W2), r"fc: Linear takes 1 input\(s\), got 0"),
        (lambda: ops.Linear("fc", ("x", "y"), W2), r"fc: Linear takes 1 input\(s\), got 2"),
        (lambda: ops.Add("sum", ("x",)), "sum: Add takes 2 or more inputs, got 1"),
        (lambda: ops.Linear("fc", ("x",), W2.float()), "fc: weight must be an integer tensor, got torch.float32; fold"),
        (lambda: ops.Linear("fc", ("x",), W2 > 0), "fc: weight must be an integer tensor, got torch.bool"),
        (lambda: ops.Linear("fc", ("x",), W2.to(torch.complex64)), "fc: weight must be an integer tensor, got"),
        (lambda: ops.Linear("fc", ("x",), W2.numpy()), "fc: weight must be an integer tensor, got ndarray"),
        (lambda: ops.Linear("fc", ("x",), W4), r"fc: weight must have 2 axes and no empty one, got \(4, 2, 3, 3\)"),
        (lambda: ops.Linear("fc", ("x",), W2[:0]), r"fc: weight must have 2 axes and no empty one, got \(0, 3\)"),
        (lambda: ops.Conv2d("c", ("x",), W2), r"c: weight must have 4 axes and no empty one, got \(2, 3\)"),
        (lambda: ops.Conv2d("c", ("x",), W4, stride=(0, 1)), "c: stride must be two whole numbers of at least 1"),
        (lambda: ops.Conv2d("c", ("x",), W4, stride=2), "c: stride must be two whole numbers of at least 1, got 2"),
        (lambda: ops.Conv2d("c", ("x",), W4, stride=(1, 1, 1)), "c: stride must be two whole numbers"),
        (lambda: ops.Conv2d("c", ("x",), W4, stride=(1.0, 1)), "c: stride must be two whole numbers"),
        (lambda: ops.Conv2d("c", ("x",), W4, stride=(True, 1)), "c: stride must be two whole numbers"),
        (lambda: ops.Conv2d("c", ("x",), W4, padding=(-1, 0)), "c: padding must be two whole numbers of at least 0"),
        (lambda: ops.Conv2d("c", ("x",), W4, padding="same"), "c: padding must .*; circular, reflecting or named"),
        (lambda: ops.Conv2d("c", ("x",), W4, dilation=(1, 0)), "c: dilation must be two whole numbers of at least 1"),
        (lambda: ops.Conv2d("c", ("x",), W4, dilation=(1, 2**40)), "c: dilation must be two whole numbers"),
        (lambda: ops.Conv2d("c", ("x",), W4, groups=0), "c: 4 channels cannot be split into 0 groups"),
        (lambda: ops.Conv2d("c", ("x",), W4, groups=3), "c: 4 channels cannot be split into 3 groups"),
        (lambda: ops.MaxPool2d("p", ("x",), (0, 2), (1, 1)), "p: kernel must be two whole numbers of at least 1"),
        (lambda: ops.SumPool2d("p", ("x",), (2, 2), (1, 1), (2, 0)), r"p: padding must be at most half the kernel"),
        (lambda: ops.Threshold("s", ("x",), ONE, ONE), r"s: thresholds must have 2 axes and no empty one, got \(1,\)"),
        (lambda: ops.Threshold("s", ("x",), W2[:, :0], ONE), "s: thresholds must have 2 axes and no empty one"),
        (lambda: ops.Threshold("s", ("x",), W2, ONE), r"s: direction must hold \+1 or -1 for each of 2 channels"),
        (lambda: ops.Threshold("s", ("x",), W2, torch.tensor([1, 0])), r"s: direction must hold \+1 or -1"),
        (lambda: ops.Threshold("s", ("x",), W2, torch.tensor([1, 2])), r"s: direction must hold \+1 or -1"),
        (lambda: ops.Threshold("s", ("x",), torch.tensor([[2, 1]]), ONE), "s: the thresholds of a channel must rise"),
        (lambda: ops.Threshold("s", ("x",), torch.tensor([[1, 2]]), -ONE), r"s: the thresholds .* or fall \(-1\)"),
        (lambda: ops.Readout("r", ("x",), W2), r"r: bias must have 1 axes and no empty one, got \(2, 3\)"),
        (lambda: ops.Input("i", shape=()), r"i: shape must be \(C, H, W\) or \(features,\), each at least 1, got \(\)"),
        (lambda: ops.Input("i", shape=(3, 4)), "i: shape must be"),
        (lambda: ops.Input("i", shape=(3, 0, 4)), "i: shape must be"),
        (lambda: ops.Input("i", shape=(2.0,)), "i: shape must be"),
        (lambda: ops.Input("i", shape=(2,), kind="video"), "i: kind must be 'analog' or 'events', got 'video'"),
        (lambda: ops.Input("i", shape=(2,), zero_point=256), r"i: zero_point must lie in 0\.\.255, got 256"),
        (lambda: ops.Input("i", shape=(2,), low=9, high=3), r"i: zero_point must lie in 9\.\.3"),
    ],
)
def test_op_refuses(make, message: str) -> None:
    with pytest.raises(MaqdError, match=f"^{message}"):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ops.Threshold("op", ("x",), W2, torch.tensor([1, 1]), low=0.5),
        lambda: ops.Threshold("op", ("x",), W2, torch.tensor([1, 1]), low=True),
        lambda: ops.Input("op", shape=(2,), zero_point=0.5),
        lambda: ops.Input("op", shape=(2,), high=3.5),
        lambda: ops.Input("op", shape=(2,), low=False),
        lambda: ops.Conv2d("op", ("x",), W4, groups=2.0),
        lambda: ops.Conv2d("op", ("x",), W4, groups=True),
    ],
    ids=["low half", "low bool", "zero_point", "high", "low input bool", "groups float", "groups bool"],
)
def test_op_refuses_numbers_that_are_no_integers(make) -> None:
    with pytest.raises(MaqdError, match="^op: .*whole number"):
        make()


def test_ops_are_frozen_and_keep_one_integer_type() -> None:
    op = ops.Linear("fc", ("x",), W2.to(torch.int8).t())
    assert op.weight.dtype == torch.int64
    assert op.weight.is_contiguous()
    with pytest.raises(FrozenInstanceError):
        op.weight = W2


def test_op_does_not_follow_the_callers_tensor() -> None:
    weight = W2.clone()
    op = ops.Linear("fc", ("x",), weight)
    weight[0, 0] = 99
    assert int(op.weight[0, 0]) == 1


# The graph.

IN = image_input((3,))
FC = ops.Linear("fc", ("input",), W2)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ([IN, FC, FC], "two ops are named 'fc'; give each its own name"),
        ([IN, ops.Linear("fc", ("nothing",), W2)], "fc: takes 'nothing', which is not defined before it"),
        ([FC, IN], "fc: takes 'input', which is not defined before it"),
        ([], "needs one Input and at least one other op, got 0 Inputs"),
        ([IN], "needs one Input and at least one other op, got 1 Inputs"),
        ([IN, ops.Input("second", shape=(3,)), ops.Add("sum", ("input", "second"))], "one Input .* got 2 Inputs"),
        ([IN, FC, ops.Linear("fc2", ("input",), W2)], "the outputs of fc are never used; remove these ops"),
        ([IN, ops.Linear("fc", ("input",), W2.T)], r"fc: the weight expects \(2,\) inputs, got \(3,\)"),
        ([IN, ops.Conv2d("c", ("input",), W4)], r"c: Conv2d expects an input \(C, H, W\), got \(3,\)"),
        ([IN, ops.MaxPool2d("p", ("input",), (1, 1), (1, 1))], r"p: MaxPool2d expects an input \(C, H, W\)"),
        ([image_input((3, 4, 4)), ops.Conv2d("c", ("input",), W4)], "c: the weight expects 2 input channels, got 3"),
        ([image_input((2, 2, 4)), ops.Conv2d("c", ("input",), W4)], r"c: the input is smaller .* be \(4, 0, 2\)"),
        ([image_input((2, 2, 4)), FC], r"fc: the weight expects \(3,\) inputs, got \(2, 2, 4\)"),
        ([image_input((2, 2, 2)), ops.SumPool2d("p", ("input",), (3, 1), (1, 1))], "p: the input is smaller"),
        ([IN, ops.Threshold("s", ("input",), W2, torch.tensor([1, 1]))], "s: thresholds for 2 channels, but .* has 3"),
        ([IN, ops.Readout("r", ("input",), torch.tensor([1, 2]))], r"r: the bias has 2 classes, but .* shape \(3,\)"),
        ([IN, FC, ops.Add("sum", ("input", "fc"))], r"sum: the summands must have one shape, got \[\(3,\), \(2,\)\]"),
    ],
)
def test_graph_refuses(graph: list[Op], message: str) -> None:
    with pytest.raises(MaqdError, match=message):
        IntegerNetwork(graph)


def test_consumers_and_listing() -> None:
    second = ops.Linear("fc2", ("input",), W2)
    net = IntegerNetwork([IN, FC, second, ops.Add("sum", ("fc", "fc2"))])
    assert [op.name for op in net.consumers("input")] == ["fc", "fc2"]
    assert net.consumers("sum") == []
    assert net.shapes == {"input": (3,), "fc": (2,), "fc2": (2,), "sum": (2,)}
    assert "fc2: Linear -> (2,)" in repr(net)


# Codes.

NET = IntegerNetwork(
    [ops.Input("input", shape=(2, 3, 3), zero_point=7, low=-1, high=9), ops.Flatten("flat", ("input",))]
)
GOOD = torch.full((4, 2, 3, 3), 3)


@pytest.mark.parametrize("value", [-2, 10, 300, -(2**40)])
def test_codes_outside_the_range_are_refused(value: int) -> None:
    codes = GOOD.clone()
    codes[2, 1, 0, 2] = value
    for run in (NET, NET.trace, lambda c: NET.reference(c.numpy()), lambda c: NET.reference_trace(c.numpy())):
        with pytest.raises(
            MaqdError, match=rf"input codes must lie in -1\.\.9, got values in {min(3, value)}\.\.{max(3, value)}"
        ):
            run(codes)


@pytest.mark.parametrize("shape", [(2, 3, 3), (4, 2, 3), (4, 2, 3, 4), (4, 1, 3, 3), (4, 18), (1, 4, 2, 3, 3)])
def test_codes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    codes = torch.zeros(shape, dtype=torch.int64)
    for run in (NET, lambda c: NET.reference(c.numpy())):
        with pytest.raises(MaqdError, match=r"^input: input codes must have shape \(batch, .*2, 3, 3\)?\), got \("):
            run(codes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool])
def test_codes_that_are_no_integers_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(MaqdError, match=rf"^input: input codes must be an integer tensor, got {dtype}"):
        NET(GOOD.to(dtype))
    with pytest.raises(MaqdError, match=r"^input: input codes must be integers, got (float|bool)"):
        NET.reference(GOOD.to(dtype).numpy())


@pytest.mark.parametrize(
    "dtype",
    [*(torch.int8, torch.int16, torch.int32, torch.int64), *(torch.uint8, torch.uint16, torch.uint32, torch.uint64)],
    ids=str,
)
def test_every_integer_type_of_codes_gives_the_same(dtype: torch.dtype) -> None:
    codes = torch.arange(4 * 18).view(4, 2, 3, 3) % 10
    expected = codes.flatten(1) - 7
    assert torch.equal(NET(codes.to(dtype)), expected)
    np.testing.assert_array_equal(NET.reference(codes.to(dtype).numpy()), expected.numpy())


def test_a_network_that_has_run_can_be_copied(make_model: Any, random_codes: Any) -> None:
    net = fold(make_model("vgg", 2, 3))
    codes = random_codes(net, 3)
    scores = net(codes)
    other = copy.deepcopy(net)
    assert other is not net
    assert torch.equal(other(codes), scores)
    other.provenance["recipe"] = "another"
    assert "recipe" not in net.provenance
