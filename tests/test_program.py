"""The compiled program against the NumPy oracle: every output that it can give, and the scores."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from maqd_snn import MaqdError, build, fold
from maqd_snn.compiled import numba_found
from maqd_snn.compiled_counting import Counter
from maqd_snn.counting import ceilings, counted_values, layers_of
from maqd_snn.eventdriven import run_events
from maqd_snn.integer import IntegerNetwork, execute, ops, program
from maqd_snn.integer.execute import PRODUCT_ROUTES, ROUTES
from maqd_snn.integer.geometry import output_size
from maqd_snn.integer.ops import Op
from maqd_snn.integer.program import LOOK_UP_8, LOOK_UP_16, MULTIPLY, Form, product_form
from maqd_snn.simulation import simulate

needs_numba = pytest.mark.skipif(not numba_found(), reason="numba (the extra 'fast') is not installed")

CPU = torch.device("cpu")
COMPILED = ("compiled",)


def assert_program_is_right(net: IntegerNetwork, codes: Tensor, wanted: tuple[str, ...] = ()) -> program.Program:
    executor = net.executor(CPU, COMPILED)
    assert executor.program is not None
    found = executor.program.run(codes, executor.program.observable).outputs
    oracle = net.reference_trace(codes.numpy())
    assert set(wanted) <= set(found)
    for name, output in found.items():
        np.testing.assert_array_equal(output.numpy(), oracle[name], err_msg=name)
    scores = executor.run(codes)
    np.testing.assert_array_equal(scores.numpy(), oracle[net.ops[-1].name])
    return executor.program


def random_threshold(rng: Any, name: str, source: str, channels: int, levels: int, reach: int) -> ops.Threshold:
    direction = rng.choice([-1, 1], channels)
    theta = np.sort(rng.integers(-reach, reach + 1, (channels, levels)), axis=1)
    theta = np.where(direction[:, None] > 0, theta, theta[:, ::-1])
    return ops.Threshold(name, (source,), torch.from_numpy(theta.copy()), torch.from_numpy(direction))


pairs = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))  # noqa: E731


@needs_numba
@settings(max_examples=80)
@given(
    groups=st.integers(1, 3),
    per_group=st.tuples(st.integers(1, 11), st.sampled_from([1, 3, 16, 17, 33, 64, 70])),
    kernel=pairs(1, 3),
    stride=pairs(1, 3),
    padding=pairs(0, 2),
    dilation=pairs(1, 2),
    size=pairs(1, 9),
    largest=st.sampled_from([1, 2, 3, 15, 16, 255]),
    code=st.sampled_from([1, 2, 7, 31, 32, 127]),
    levels=st.sampled_from([0, 1, 3, 200]),
    seed=st.integers(0, 2**32 - 1),
)
def test_products_of_levels(
    groups, per_group, kernel, stride, padding, dilation, size, largest, code, levels, seed
) -> None:
    rng = np.random.default_rng(seed)
    inputs, outputs = per_group
    shape = (groups * inputs, *size)
    assume(min(output_size(size, kernel, stride, padding, dilation)) >= 1)
    weight = torch.from_numpy(rng.integers(-code, code + 1, (groups * outputs, inputs, *kernel)))
    weight[0], weight[-1] = -code, code  # the largest sums that there are
    graph: list[Op] = [
        ops.Input("input", shape=shape, high=largest, kind="events"),
        ops.Conv2d("conv", ("input",), weight, stride, padding, dilation, groups),
    ]
    if levels:
        reach = max(1, int(weight.abs().sum() // len(weight)) * largest // 4)
        graph.append(random_threshold(rng, "spike", "conv", len(weight), levels, reach))
    net = IntegerNetwork(graph)
    codes = torch.from_numpy(rng.integers(0, largest + 1, (3, *shape)) * rng.integers(0, 2, (3, *shape)))
    codes[0] = largest
    form = product_form(graph[1], (0, largest), net.bounds["conv"])
    if form == Form(MULTIPLY):
        with pytest.raises(MaqdError, match=r"^the network has no compiled program: \d+ of \d+ connections would be"):
            net.executor(CPU, COMPILED)
        return
    assert_program_is_right(net, codes, (graph[-1].name,))


def shallow(rng: Any, levels: int, code: int, low: int, pool: type[Op], stem: int = 4) -> IntegerNetwork:
    """Return a network with every op: pixels, two branches that add up, pools, a flattened image, scores."""
    draw = lambda *size: torch.from_numpy(rng.integers(-code, code + 1, size))  # noqa: E731
    graph: list[Op] = [
        ops.Input("input", shape=(2, 9, 7), zero_point=0, low=low, high=9),
        ops.Conv2d("stem", ("input",), draw(stem, 2, 1, 1)),
        random_threshold(rng, "spike1", "stem", stem, levels, 5 * code),
        ops.Conv2d("conv2", ("spike1",), draw(20, stem, 3, 3), padding=(1, 1)),
        ops.Conv2d("short", ("spike1",), draw(20, stem, 1, 1)),
        ops.Add("sum", ("short", "conv2")),
        random_threshold(rng, "spike2", "sum", 20, levels, 6 * code),
        pool("pool", ("spike2",), (3, 2), (2, 2), (1, 0)),
        ops.Conv2d("conv3", ("pool",), draw(9, 20, 3, 3), padding=(1, 1)),
        random_threshold(rng, "spike3", "conv3", 9, levels, 20 * code),
        ops.Add("again", ("spike3", "spike3")),
        random_threshold(rng, "spike4", "again", 9, levels, levels),
        ops.Flatten("flat", ("spike4",)),
        ops.Linear("fc", ("flat",), draw(5, 9 * 5 * 3)),
        ops.Readout("scores", ("fc",), torch.from_numpy(rng.integers(-(2**40), 2**40, 5))),
    ]
    return IntegerNetwork(graph)


@needs_numba
@settings(max_examples=60)
@given(
    levels=st.sampled_from([1, 2, 3, 7, 15]),
    code=st.sampled_from([1, 3, 127]),
    low=st.sampled_from([0, -9]),
    pool=st.sampled_from([ops.MaxPool2d, ops.SumPool2d]),
    seed=st.integers(0, 2**32 - 1),
)
def test_networks_with_every_op(levels, code, low, pool, seed) -> None:
    rng = np.random.default_rng(seed)
    net = shallow(rng, levels, code, low, pool)
    codes = torch.from_numpy(rng.integers(low, 10, (5, 2, 9, 7)))
    if pool is ops.SumPool2d and 6 * levels > 15:  # of more than four bits
        with pytest.raises(MaqdError, match=r"\d+ of \d+ connections would be products in float32"):
            net.executor(CPU, COMPILED)
        return
    made = assert_program_is_right(net, codes)
    assert set(made.observable) == {op.name for op in net.ops} - {"stem", "conv3", "flat", "scores"}


@needs_numba
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("vgg", {"plan": "16-16-M-24-S"}),
        ("resnet", {"plan": "16-16-32"}),
        ("vgg", {"plan": "16-M-16", "pool_first": True}),
    ],
)
@pytest.mark.parametrize("states", [2, 4])
def test_models(make_model, random_codes, family, options, states) -> None:
    model = make_model(family, states, 3, input_shape=(1, 8, 8), **options)
    net = fold(model)
    assert_program_is_right(net, random_codes(model))


@needs_numba
@pytest.mark.parametrize("batch", [0, 1, 2, 7])
def test_batches_of_any_size_give_the_same(batch: int) -> None:
    net = shallow(np.random.default_rng(0), 3, 7, 0, ops.MaxPool2d)
    codes = torch.randint(0, 10, (7, 2, 9, 7), generator=torch.Generator().manual_seed(0))
    executor = net.executor(CPU, COMPILED)
    assert torch.equal(executor.run(codes[:batch]), executor.run(codes)[:batch])
    for dtype in (torch.uint8, torch.int16, torch.int64):
        assert torch.equal(executor.run(codes.to(dtype)), executor.run(codes))


# Counts: those of the program against those of tallies, and against the event-driven executor's counters.


def assert_counts_are_right(net: IntegerNetwork, codes: Tensor) -> None:
    labels = torch.arange(len(codes)) % net.shapes[net.ops[-1].name][0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "WORTH_COMPILING", 0)
        report = simulate(net, [(codes, labels)])
        executor = net.executor(CPU)
        assert executor.program is not None
        asked = [(layer.op.name, name) for layer in layers_of(net) for name in ceilings(layer)]
        counter = Counter(net, layers_of(net), counted_values(net), asked)
        counter.run(codes)
        assert counter.in_program(executor)
    plain = IntegerNetwork(net.ops)
    assert plain.executor(CPU, PRODUCT_ROUTES).program is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAQD_NO_NUMBA", "1")
        assert simulate(plain, [(codes[:1], labels[:1]), (codes[1:], labels[1:])]) == report
    events = run_events(net, codes)
    for entry in report.layers:
        for name, counted in events.layer(entry.name).counts.items():
            if hasattr(entry, name):
                assert int(counted.sum()) == getattr(entry, name), (entry.name, name)


@needs_numba
@settings(max_examples=25)
@given(
    levels=st.sampled_from([1, 2, 3, 15]),
    pool=st.sampled_from([ops.MaxPool2d, ops.SumPool2d]),
    low=st.sampled_from([0, -9]),
    seed=st.integers(0, 2**32 - 1),
)
def test_counts_of_networks_with_every_op(levels, pool, low, seed) -> None:
    assume(pool is ops.MaxPool2d or 6 * levels <= 15)
    rng = np.random.default_rng(seed)
    net = shallow(rng, levels, 3, low, pool)
    assert_counts_are_right(net, torch.from_numpy(rng.integers(low, 10, (3, 2, 9, 7))))


@needs_numba
@pytest.mark.parametrize("states", [2, 4])
def test_counts_of_a_residual_network(make_model, random_codes, states) -> None:
    model = make_model("resnet", states, 3, input_shape=(1, 8, 8), plan="16-16-32")
    assert_counts_are_right(fold(model), random_codes(model))


@needs_numba
def test_levels_that_the_program_cannot_count_are_tallied(monkeypatch) -> None:
    graph = [
        ops.Input("input", shape=(4, 5, 5), zero_point=1, low=0, high=3, kind="events"),  # values -1..2
        ops.Threshold("spike", ("input",), torch.ones(4, 1, dtype=torch.int64), torch.ones(4, dtype=torch.int64)),
        ops.Conv2d("conv", ("spike",), torch.ones(8, 4, 3, 3, dtype=torch.int64)),
        ops.MaxPool2d("pool", ("input",), (2, 2), (2, 2)),
        ops.Conv2d("other", ("pool",), torch.ones(8, 4, 1, 1, dtype=torch.int64), padding=(1, 1)),
        ops.SumPool2d("small", ("conv",), (2, 2), (1, 1)),
        ops.SumPool2d("large", ("other",), (3, 3), (1, 1)),
        ops.Add("sum", ("small", "large")),
    ]
    monkeypatch.setattr(execute, "WORTH_COMPILING", 0)
    net = IntegerNetwork(graph)
    codes = torch.randint(0, 4, (3, 4, 5, 5), generator=torch.Generator().manual_seed(0))
    report = simulate(net, [codes])
    assert net.executor(CPU).program is not None
    events = run_events(net, codes)
    for entry in report.layers:
        for name, counted in events.layer(entry.name).counts.items():
            assert int(counted.sum()) == getattr(entry, name, int(counted.sum()))


# The form of a product follows from its bounds, never from a batch.


@pytest.mark.parametrize(
    ("inputs", "code", "largest", "bound", "expected"),
    [
        (4, 1, 1, 36, Form(LOOK_UP_8, 1, 31)),
        (4, 31, 1, 1116, Form(LOOK_UP_8, 1, 1)),
        (4, 32, 1, 1152, Form(LOOK_UP_16, 1, 255)),
        (4, 31, 2, 2232, Form(LOOK_UP_16, 2, 132)),
        (4, 1, 15, 540, Form(LOOK_UP_8, 4, 3)),
        (4, 1, 16, 576, Form(MULTIPLY)),
        (4, 1, 1, 32765, Form(LOOK_UP_8, 1, 31)),
        (4, 1, 1, 32766, Form(LOOK_UP_16, 1, 8191)),
        (4, 8192, 1, 2**20, Form(MULTIPLY)),
        (4, 1, 255, 2**24 - 2, Form(MULTIPLY)),
        (4, 1, 255, 2**24 - 1, None),
    ],
)
def test_form_follows_from_the_bounds(inputs, code, largest, bound, expected) -> None:
    op = ops.Conv2d("conv", ("x",), torch.full((2, inputs, 3, 3), code))
    assert product_form(op, (0, largest), bound) == expected


def test_levels_below_zero_have_no_tables() -> None:
    op = ops.Linear("fc", ("x",), torch.ones(2, 4, dtype=torch.int64))
    assert product_form(op, (-1, 1), 4) == Form(MULTIPLY)


# The choice of the route.


def wide_network(size: int = 64) -> IntegerNetwork:
    """Return a network of size^2 * 16 * 36 connections."""
    weight = torch.ones(4, 4, 3, 3, dtype=torch.int64)
    graph = [
        ops.Input("input", shape=(4, size, size), high=1, kind="events"),
        ops.Conv2d("conv", ("input",), weight, padding=(1, 1)),
        ops.SumPool2d("pool", ("conv",), (size, size), (size, size)),
        ops.Flatten("flat", ("pool",)),
        ops.Linear("fc", ("flat",), torch.ones(3, 4, dtype=torch.int64)),
    ]
    return IntegerNetwork(graph)


@needs_numba
def test_a_large_network_is_compiled_by_itself_and_a_small_one_is_not() -> None:
    assert wide_network(86).executor(CPU).why_not_compiled == ""
    assert wide_network(86).executor(CPU).program is not None
    assert "connections are too few to be worth it" in wide_network(8).executor(CPU).why_not_compiled
    assert wide_network(8).executor(CPU, COMPILED).program is not None
    assert "the route is one of int8" in wide_network(86).executor(CPU, PRODUCT_ROUTES).why_not_compiled


def test_without_numba_the_network_runs_as_before(monkeypatch) -> None:
    monkeypatch.setenv("MAQD_NO_NUMBA", "1")
    net = wide_network(86)
    codes = torch.randint(0, 2, (2, 4, 86, 86))
    assert net.executor(CPU, ROUTES).program is None
    np.testing.assert_array_equal(net(codes).numpy(), net.reference(codes.numpy()))
    with pytest.raises(MaqdError, match=r"numba, which compiles, is not installed .* allow other routes"):
        net.executor(CPU, COMPILED)


@needs_numba
def test_a_program_that_is_wrong_is_found_and_left_aside(monkeypatch) -> None:
    right = program._rows

    def wrong(op: ops.Conv2d, form: Form, start: int, stop: int, tile: int) -> Any:
        rows = right(op, form, start, stop, tile).copy()
        rows.reshape(-1)[-tile] += 1
        return rows

    monkeypatch.setattr(program, "_rows", wrong)
    net = wide_network(86)
    codes = torch.randint(0, 2, (2, 4, 86, 86), generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(net(codes).numpy(), net.reference(codes.numpy()))
    assert net.executor(CPU).program is None
    assert net.executor(CPU).why_not_compiled == "the compiled program was wrong at conv"
    with pytest.raises(MaqdError, match="the compiled program was wrong at conv; allow other routes"):
        net.executor(CPU, COMPILED).run(codes)


@needs_numba
@pytest.mark.parametrize(
    ("last", "message"),
    [
        (ops.Flatten("last", ("conv",)), "last is not followed by Linear alone"),
        (
            ops.Threshold("last", ("conv",), torch.zeros(2, 1, dtype=torch.int64), torch.tensor([1, 1]), low=-1),
            "last gives levels -1..0, expected 0..255 at most",
        ),
        (ops.Conv2d("last", ("conv",), torch.full((1, 2, 1, 1), 2**30)), "sums of last reach"),
        (ops.Add("last", ("conv", "conv", "conv")), "last adds up 3 values, expected 2"),
    ],
)
def test_why_a_network_has_no_program(last: Op, message: str) -> None:
    graph = [
        ops.Input("input", shape=(2, 3, 3), high=1, kind="events"),
        ops.Conv2d("conv", ("input",), torch.ones(2, 2, 1, 1, dtype=torch.int64)),
        last,
    ]
    with pytest.raises(MaqdError, match=message):
        IntegerNetwork(graph).executor(CPU, COMPILED)


@needs_numba
def test_codes_are_checked_before_the_program_sees_them() -> None:
    executor = wide_network(8).executor(CPU, COMPILED)
    with pytest.raises(MaqdError, match=r"input codes must have shape \(batch, 4, 8, 8\), got \(1, 4, 8, 9\)"):
        executor.run(torch.zeros(1, 4, 8, 9, dtype=torch.int64))
    with pytest.raises(MaqdError, match=r"input codes must lie in 0\.\.1, got values in 0\.\.2"):
        executor.run(torch.full((1, 4, 8, 8), 2) * torch.eye(8, dtype=torch.int64))
    with pytest.raises(MaqdError, match="input codes must be an integer tensor, got torch.float32"):
        executor.run(torch.zeros(1, 4, 8, 8))


def test_model_of_the_benchmark_has_a_program() -> None:
    model = build("vgg", input_shape=(3, 32, 32), classes=10, zero_point=128, plan="64-64-M-128-128-M-256-256-M").eval()
    net = fold(model)
    made = program.Program(net.ops, net.shapes, net.bounds)
    assert [form.kind for form in made.forms.values()] == [MULTIPLY, *[LOOK_UP_8] * 5, LOOK_UP_16]
