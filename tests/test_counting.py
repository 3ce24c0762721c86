"""Counts against brute force over every (spike, synapse) pair, and against published truth values."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maqd_snn import MaqdError
from maqd_snn.counting import COUNT_NAMES, Counts, ceilings, fixed_counts, flowing_values, layers_of
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.geometry import output_size
from maqd_snn.simulation import simulate
from maqd_snn.streaming import Statistics

# The seven spikes of the published truth table: (row, column) on 5 x 5.
SEVEN = ((0, 0), (0, 4), (2, 2), (3, 1), (4, 4), (4, 0), (1, 2))


def image(channels, positions, size=(5, 5), levels=None):
    """Return (1, C, H, W) with a spike at each position, cycling through the channels."""
    x = torch.zeros(1, channels, *size, dtype=torch.int64)
    for index, (row, column) in enumerate(positions):
        x[0, index % channels, row, column] = 1 if levels is None else levels[index]
    return x


def ones(*shape):
    return torch.ones(*shape, dtype=torch.int64)


def layer_of(x, op, kind="events", low=-8, high=8):
    """Simulate one op that is fed `x` and return its entry."""
    source = ops.Input("input", shape=tuple(x.shape[1:]), low=low, high=high, kind=kind)
    return simulate(IntegerNetwork([source, op]), [x]).layers[0]


def conv(weight, stride=1, padding=0, dilation=1, groups=1):
    return ops.Conv2d("conv", ("input",), weight, *((v, v) for v in (stride, padding, dilation)), groups)


# A2 and E2 are A and E with a bias, which is no synapse; B3 is B with the padding called 'same'.
TRUTH = {
    "A": (image(2, SEVEN), conv(ones(3, 2, 3, 3), 2, 1), 33),
    "A3": (
        torch.cat([image(2, SEVEN), image(2, ((1, 1),))]),
        conv(ones(3, 2, 3, 3), 2, 1),
        45,
    ),
    "B": (image(2, SEVEN), conv(ones(3, 2, 3, 3), 1, 1), 129),
    "B3": (image(2, SEVEN), conv(ones(3, 2, 3, 3), 1, (3 - 1) // 2), 129),  # padding 'same'
    "B2": (image(2, SEVEN), conv(ones(3, 2, 3, 3), 1, 0), 69),
    "B5": (image(2, SEVEN), conv(ones(3, 2, 3, 3), 1, 2, 2), 105),
    "C": (
        image(4, ((0, 0), (0, 4), (4, 0), (0, 2), (2, 0), (1, 1), (2, 2))),
        conv(ones(6, 2, 3, 3), 1, 1, groups=2),
        126,
    ),
    "C2": (
        image(4, ((0, 0), (0, 4), (4, 0), (0, 2), (2, 0), (1, 1), (2, 2))),
        conv(ones(4, 1, 3, 3), 1, 1, groups=4),
        42,
    ),
    "D": (image(1, ((0, 0), (1, 4), (2, 2), (5, 5)), (6, 6)), conv(ones(1, 1, 2, 2), 3), 2),
    "F": (
        image(2, ((0, 0), (0, 1), (0, 2)), (1, 7)),
        ops.Conv2d("conv", ("input",), ones(3, 2, 1, 3), (1, 2), (0, 1)),
        12,
    ),
}


@pytest.mark.parametrize("case", TRUTH)
def test_published_truth(case):
    x, op, synops = TRUTH[case]
    entry = layer_of(x, op)
    assert entry.synops == entry.effective_synops == entry.unit_spike_acs == entry.bit_serial_adds == synops
    assert entry.events == int((x != 0).sum())
    assert entry.macs == 0


def test_zero_weights_are_left_out_of_effective_synops():  # row A4
    weight = ones(3, 2, 3, 3)
    weight.view(-1)[: weight.numel() // 2] = 0
    entry = layer_of(image(2, SEVEN), conv(weight, 2, 1))
    assert (entry.synops, entry.dense_macs) == (33, 294)
    assert entry.effective_synops == brute_force(image(2, SEVEN), conv(weight, 2, 1)).effective_synops < 33
    # 33, of which 6 at nonzero weights: one input channel's weights are zero, and the other is hit by (1, 2) alone.
    half = ones(3, 2, 3, 3)
    half[:, 1] = 0
    x = torch.zeros(1, 2, 5, 5, dtype=torch.int64)
    for row, column in SEVEN:
        x[0, 0 if (row, column) == (1, 2) else 1, row, column] = 1
    entry = layer_of(x, conv(half, 2, 1))
    assert (entry.synops, entry.effective_synops, entry.dense_macs) == (33, 6, 294)
    only_corner = torch.zeros(3, 2, 3, 3, dtype=torch.int64)
    only_corner[:, :, 0, 0] = 1
    # Tap (0, 0) of an output reads only odd positions (stride 2, padding 1): of the seven spikes (3, 1) alone.
    assert layer_of(image(2, SEVEN), conv(only_corner, 2, 1)).effective_synops == 3


def test_graded_levels_count_as_events_and_as_unit_spikes():  # rows A5, A6 with integer levels
    entry = layer_of(image(2, SEVEN, levels=(2, 2, 2, 3, 1, 1, 3)), conv(ones(3, 2, 3, 3), 2, 1))
    assert (entry.events, entry.synops, entry.unit_spike_acs) == (7, 33, 78)
    # popcount: 1, 1, 1, 2, 1, 1, 2 times the fan-outs 1, 1, 1, 4, 1, 1, 2, times 3 channels
    assert entry.bit_serial_adds == 3 * (1 + 1 + 1 + 8 + 1 + 1 + 4)


def test_analog_input_is_charged_as_dense_macs():  # row A7
    entry = layer_of(image(2, SEVEN), conv(ones(3, 2, 3, 3), 2, 1), kind="analog")
    assert (entry.dense_macs, entry.macs) == (294, 294)
    assert (entry.events, entry.synops, entry.unit_spike_acs, entry.weight_bytes) == (0, 0, 0, 0)
    assert not entry.spiking


def test_signed_levels_do_not_cancel():  # row A8
    entry = layer_of(image(2, SEVEN, levels=(1, -1, 1, -1, 1, -1, 1)), conv(ones(3, 2, 3, 3), 2, 1))
    assert entry.synops == entry.unit_spike_acs == 33


@pytest.mark.parametrize(("rows", "synops"), [([3], 12), ([3, 5], 32)])  # E, E2 (a bias is no synapse), E3
def test_linear_truth(rows, synops):
    x = torch.zeros(len(rows), 10, dtype=torch.int64)
    for sample, spikes in enumerate(rows):
        x[sample, :spikes] = 1
    assert layer_of(x, ops.Linear("fc", ("input",), ones(4, 10))).synops == synops
    bias = ops.Readout("readout", ("fc",), torch.tensor([1, 0, -2, 3]))
    source = ops.Input("input", shape=(10,), high=1, kind="events")
    net = IntegerNetwork([source, ops.Linear("fc", ("input",), ones(4, 10)), bias])
    report = simulate(net, [x])
    assert (report.layers[0].synops, report.layers[1].adds) == (synops, 3 * len(rows))


def test_graded_linear():  # row E4 with integer levels
    x = torch.tensor([[3, 0, 0, 1, 0, 0, 2, 0, 0, 0]])
    entry = layer_of(x, ops.Linear("fc", ("input",), ones(4, 10)))
    assert (entry.synops, entry.unit_spike_acs, entry.bit_serial_adds) == (12, 24, 16)


def test_circular_padding_is_refused():  # row B4
    with pytest.raises(MaqdError, match="circular"):
        ops.Conv2d("conv", ("input",), ones(3, 2, 3, 3), padding="circular")


@dataclass(frozen=True, eq=False)
class ConvTranspose2d(ops.Op):
    weight: torch.Tensor


def test_transposed_convolution_is_refused():  # row G
    source = ops.Input("input", shape=(2, 5, 5), kind="events")
    with pytest.raises(MaqdError, match="up: there is no shape rule for a ConvTranspose2d"):
        IntegerNetwork([source, ConvTranspose2d("up", ("input",), ones(2, 3, 3, 3))])


def test_an_op_without_a_counting_rule_is_an_error(monkeypatch):
    from maqd_snn import counting

    net = IntegerNetwork([ops.Input("input", shape=(2, 5, 5), kind="events"), conv(ones(3, 2, 3, 3))])
    rules = {kind: rule for kind, rule in counting.COUNTS.items() if kind is not ops.Conv2d}
    monkeypatch.setattr("maqd_snn.simulation.COUNTS", rules)
    with pytest.raises(MaqdError, match="conv: there is no counting rule for a Conv2d"):
        simulate(net, [image(2, SEVEN)])


@dataclass
class Brute:
    events: int = 0
    synops: int = 0
    effective_synops: int = 0
    unit_spike_acs: int = 0
    bit_serial_adds: int = 0
    dense_macs: int = 0


def brute_force(x, op):
    """Visit every (input value, output position, tap) and ask whether that tap reads that value."""
    counts = Brute()
    x, weight = x.numpy(), op.weight.numpy()
    out, per_group, kernel_h, kernel_w = weight.shape
    height, width = output_size(x.shape[2:], (kernel_h, kernel_w), op.stride, op.padding, op.dilation)
    counts.events = int(np.count_nonzero(x))
    for o, oy, ox in itertools.product(range(out), range(height), range(width)):
        group = o // (out // op.groups)
        for i, ty, tx in itertools.product(range(per_group), range(kernel_h), range(kernel_w)):
            y = oy * op.stride[0] - op.padding[0] + ty * op.dilation[0]
            z = ox * op.stride[1] - op.padding[1] + tx * op.dilation[1]
            if not (0 <= y < x.shape[2] and 0 <= z < x.shape[3]):
                continue
            for level in (int(sample[group * per_group + i, y, z]) for sample in x):
                counts.dense_macs += 1
                counts.synops += level != 0
                counts.effective_synops += level != 0 and weight[o, i, ty, tx] != 0
                counts.unit_spike_acs += abs(level)
                counts.bit_serial_adds += abs(level).bit_count()
    return counts


@st.composite
def geometries(draw):
    groups = draw(st.integers(1, 3))
    in_per_group, out_per_group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    pairs = {
        "kernel": (1, 3),
        "stride": (1, 4),  # larger than the kernel too: then some pixels are read by no tap
        "padding": (0, 2),
        "dilation": (1, 2),
    }
    chosen = {name: (draw(st.integers(*bounds)), draw(st.integers(*bounds))) for name, bounds in pairs.items()}
    size = tuple(
        draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), 6))
        for k, p, d in zip(chosen["kernel"], chosen["padding"], chosen["dilation"], strict=True)
    )
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    largest = draw(st.sampled_from([1, 3, 8]))
    signed = draw(st.booleans())
    shape = (draw(st.integers(1, 2)), groups * in_per_group, *size)
    x = torch.from_numpy(rng.integers(-largest if signed else 0, largest + 1, shape) * (rng.random(shape) < 0.5))
    weight = torch.from_numpy(rng.integers(-1, 2, (groups * out_per_group, in_per_group, *chosen["kernel"])))
    return x, ops.Conv2d("conv", ("input",), weight, chosen["stride"], chosen["padding"], chosen["dilation"], groups)


@settings(max_examples=150, deadline=None)
@given(geometries())
def test_random_convolutions_equal_brute_force(case):
    x, op = case
    entry, truth = layer_of(x, op), brute_force(x, op)
    for name in vars(truth):
        assert getattr(entry, name) == getattr(truth, name), name


@pytest.mark.parametrize("kind", [ops.MaxPool2d, ops.SumPool2d])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kernel=st.integers(1, 3), stride=st.integers(1, 3), size=st.integers(3, 6))
def test_pools_charge_one_operation_per_nonzero_term(kind, seed, kernel, stride, size):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.integers(0, 3, (2, 2, size, size)))
    padding = kernel // 2
    entry = layer_of(x, kind("pool", ("input",), (kernel,) * 2, (stride,) * 2, (padding,) * 2))
    windows = torch.nn.functional.unfold((x != 0).float(), kernel, padding=padding, stride=stride)
    charged, other = ("compares", "adds") if kind is ops.MaxPool2d else ("adds", "compares")
    assert getattr(entry, charged) == int(windows.sum())
    assert getattr(entry, other) == entry.synops == entry.macs == 0


def residual_network():
    """Events -> two products -> Add -> product (no threshold between), and Add -> Threshold -> product."""
    weight = torch.tensor([[1, -1, 0, 1], [0, 1, 1, -1]])
    after = torch.tensor([[1, -1], [1, 1], [0, 1]])
    return IntegerNetwork(
        [
            ops.Input("input", shape=(4,), high=3, kind="events"),
            ops.Linear("left", ("input",), weight),
            ops.Linear("right", ("input",), weight.flip(1)),
            ops.Add("sum", ("left", "right")),
            ops.Linear("dense", ("sum",), after),
            ops.Threshold("spike", ("sum",), torch.tensor([[1, 3], [-1, -2]]), torch.tensor([1, -1])),
            ops.Linear("sparse", ("spike",), after),
            ops.Add("scores", ("dense", "sparse")),
            ops.Readout("readout", ("scores",), torch.tensor([0, 5, 0])),
        ]
    )


def test_a_product_behind_an_add_is_charged_dense():
    net = residual_network()
    x = torch.tensor([[3, 0, 1, 2], [0, 0, 0, 0], [1, 1, 1, 1]])
    report = simulate(net, [x])
    trace = net.trace(x)
    dense, sparse = report.layer("dense"), report.layer("sparse")
    assert (dense.spiking, dense.input_kind, dense.macs, dense.synops) == (False, "accumulators", 18, 0)
    assert (sparse.spiking, sparse.macs) == (True, 0)
    assert sparse.synops == 3 * int((trace["spike"] != 0).sum())
    terms = torch.stack([trace["left"], trace["right"]])
    assert report.layer("sum").adds == int((terms != 0).sum())
    assert report.layer("readout").adds == 3
    spike = report.layer("spike")
    assert (spike.neurons, spike.levels, spike.neuron_updates, spike.threshold_tests) == (2, 2, 6, 12)
    assert spike.spikes == int((trace["spike"] != 0).sum())
    assert spike.unit_spikes == int(trace["spike"].sum())
    assert spike.histogram == tuple(torch.bincount(trace["spike"].flatten(), minlength=3).tolist())


def test_a_product_behind_a_sum_of_spikes_is_charged_dense():
    source = ops.Input("input", shape=(4,), high=3, kind="events")
    net = IntegerNetwork([source, ops.Add("twice", ("input", "input")), ops.Linear("fc", ("twice",), ones(2, 4))])
    entry = simulate(net, [torch.tensor([[1, 0, 2, 0]])]).layer("fc")
    assert (entry.spiking, entry.macs, entry.synops) == (False, 8, 0)


def test_spiking_is_a_property_of_the_graph_not_of_the_values():
    binary = torch.ones(2, 4, dtype=torch.int64)
    product = ops.Linear("fc", ("input",), ones(2, 4))
    assert layer_of(binary, product, kind="analog", low=0, high=255).synops == 0
    assert layer_of(binary * 200, product, kind="events", low=0, high=255).synops == 16
    assert {name: value.kind for name, value in flowing_values(residual_network()).items()} == {
        "input": "spikes",
        "left": "accumulators",
        "right": "accumulators",
        "sum": "accumulators",
        "dense": "accumulators",
        "spike": "spikes",
        "sparse": "accumulators",
        "scores": "accumulators",
        "readout": "accumulators",
    }


@pytest.mark.parametrize(
    ("weight", "bits"),
    [([[-1, 1]], 1), ([[0, 1]], 2), ([[-3, 1]], 2), ([[2, -2]], 3), ([[7, 0]], 4), ([[127, 0]], 8)],
)
def test_weight_bits_follow_from_the_number_of_states(weight, bits):
    entry = layer_of(torch.ones(1, 2, dtype=torch.int64), ops.Linear("fc", ("input",), torch.tensor(weight)))
    assert entry.weight_bits == bits


def test_bytes_and_bit_operations_of_an_event_driven_core():
    x = torch.zeros(1, 300, dtype=torch.int64)
    x[0, :5] = torch.tensor([1, 3, 2, 1, 1])
    entry = layer_of(x, ops.Linear("fc", ("input",), ones(4, 300) * 3), low=0, high=3)
    # 5 events, 20 synops; codes +-3 are 4 states: 2 bits, one byte each; sums reach 2700: 13 bits, two bytes, read and
    # written; a message holds 9 address bits and 2 level bits: two bytes.
    assert (entry.weight_bits, entry.input_bits, entry.accumulator_bits) == (2, 2, 13)
    assert (entry.weight_bytes, entry.membrane_bytes, entry.message_bytes) == (20, 80, 10)
    assert entry.bytes == 110
    assert entry.bit_ops == 20 * 2 * 2


def test_the_batch_size_cannot_matter(make_model):
    from maqd_snn import fold

    net = fold(make_model("resnet", 4, 3, plan="4-8"))
    shape = net.input.shape
    codes = torch.randint(0, 256, (13, *shape), generator=torch.Generator().manual_seed(5))
    labels = torch.arange(13) % 5
    reports = [
        simulate(net, [(codes[i : i + size], labels[i : i + size]) for i in range(0, 13, size)]) for size in (1, 4, 13)
    ]
    assert reports[0] == reports[1] == reports[2]
    one_by_one = [simulate(net, [codes[i : i + 1]]).total for i in range(13)]
    for name in COUNT_NAMES:
        values = np.array([getattr(total, name) for total in one_by_one], dtype=np.float64)
        spread = reports[0].total.per_sample[name]
        assert spread.mean == pytest.approx(values.mean(), rel=1e-12)
        assert spread.deviation == pytest.approx(values.std(), rel=1e-9, abs=1e-9)
    predictions = net(codes).argmax(1)
    assert reports[0].accuracy == pytest.approx(float((predictions == labels).double().mean()))
    assert np.trace(np.array(reports[0].confusion)) == int((predictions == labels).sum())


def resnet_and_labelled_codes(make_model, samples):
    from maqd_snn import fold

    net = fold(make_model("resnet", 4, 3, plan="4-8"))
    codes = torch.randint(0, 256, (samples, *net.input.shape), generator=torch.Generator().manual_seed(6))
    return net, codes, torch.arange(samples) % 3


def test_statistics_over_samples_equal_those_of_the_samples_one_by_one(make_model):
    net, codes, labels = resnet_and_labelled_codes(make_model, 40)
    report = simulate(net, [(codes[:7], labels[:7]), (codes[7:], labels[7:])])
    single = [simulate(net, [codes[i : i + 1]]) for i in range(len(codes))]
    binned = 0
    for index, entry in enumerate((*report.layers, report.total)):
        entries = [(*one.layers, one.total)[index] for one in single]
        for name in COUNT_NAMES:
            values = sorted(getattr(e, name) for e in entries)
            spread = entry.per_sample[name]
            assert (spread.smallest, spread.largest) == (values[0], values[-1])
            binned += spread.bin_width > 1
            for percent in (5, 25, 50, 75, 95):
                exact = values[max(1, -(-percent * len(values) // 100)) - 1]  # nearest rank
                found = getattr(spread, f"p{percent:02d}")
                assert found <= exact < found + spread.bin_width
                assert found % spread.bin_width == 0
    assert binned > 0  # both kinds of bins were met
    worst = max(range(len(codes)), key=lambda i: (single[i].total.synops, -i))
    assert report.worst_sample.index == worst
    assert report.worst_sample.label == int(labels[worst])
    assert report.worst_sample.counts == Counts(**{name: getattr(single[worst].total, name) for name in COUNT_NAMES})
    assert report.worst_sample.layer_synops == {
        e.name: e.synops for e in single[worst].layers if e.spiking and e.weights
    }


def test_counts_by_label_and_by_channel(make_model):
    net, codes, labels = resnet_and_labelled_codes(make_model, 20)
    report = simulate(net, [(codes[i : i + 6], labels[i : i + 6]) for i in range(0, 20, 6)])
    classes = net.shapes[net.ops[-1].name][0]
    assert report.class_samples == tuple(int((labels == k).sum()) for k in range(classes))
    trace = net.trace(codes)
    for k in range(3):
        alone = simulate(net, [codes[labels == k]])
        for entry, of_class in zip((*report.layers, report.total), (*alone.layers, alone.total), strict=True):
            assert entry.class_synops[k] == of_class.synops
            assert entry.class_spikes[k] == of_class.spikes
    for entry in report.layers:
        assert sum(entry.class_synops) == entry.synops
        if entry.op == "Threshold":
            levels = trace[entry.name].transpose(0, 1).flatten(1)
            assert entry.channel_spikes == tuple((levels != 0).sum(1).tolist())
            assert sum(entry.channel_spikes) == entry.spikes
        else:
            assert entry.channel_spikes == ()
    unlabelled = simulate(net, [codes])
    assert unlabelled.class_samples == unlabelled.total.class_synops == unlabelled.layers[0].class_spikes == ()
    assert unlabelled.worst_sample.label is None


def test_the_first_of_equal_samples_is_the_worst():
    x = torch.tensor([[0, 1, 0], [1, 1, 0], [0, 1, 1], [1, 0, 0]])
    source = ops.Input("input", shape=(3,), high=1, kind="events")
    net = IntegerNetwork([source, ops.Linear("fc", ("input",), ones(2, 3))])
    for size in (1, 2, 4):
        worst = simulate(net, [x[i : i + size] for i in range(0, 4, size)]).worst_sample
        assert (worst.index, worst.counts.synops, worst.layer_synops) == (1, 4, {"fc": 4})
    silent = simulate(
        IntegerNetwork([ops.Input("input", shape=(3,), high=1), ops.Linear("fc", ("input",), ones(2, 3))]), [x]
    )
    assert (silent.worst_sample.index, silent.worst_sample.counts.macs) == (0, 6)


def test_totals_are_the_sums_of_the_layers(make_model):
    from maqd_snn import fold

    net = fold(make_model("vgg", 3, 4, plan="4-M-8-S"))
    report = simulate(net, [torch.randint(0, 256, (6, *net.input.shape))])
    for name in COUNT_NAMES:
        assert getattr(report.total, name) == sum(getattr(entry, name) for entry in report.layers)
    assert report.total.synops > 0


def test_every_count_is_fixed_or_below_its_ceiling(make_model):
    net, codes, _ = resnet_and_labelled_codes(make_model, 6)
    report = simulate(net, [codes])
    for layer in layers_of(net)[1:]:
        entry, most, fixed = report.layer(layer.op.name), ceilings(layer), fixed_counts(layer)
        assert not most.keys() & fixed.keys()
        for name in COUNT_NAMES:
            spread = entry.per_sample[name]
            if name in most:
                assert spread.largest <= most[name]
            else:
                assert spread.smallest == spread.largest == spread.p50 == fixed.get(name, 0)
    # A full batch reaches the ceilings.
    op = ops.Conv2d("conv", ("input",), ones(3, 2, 3, 3), (2, 1), (1, 0))
    source = ops.Input("input", shape=(2, 5, 5), high=7, kind="events")
    full = IntegerNetwork([source, op])
    entry = simulate(full, [torch.full((2, 2, 5, 5), 7)]).layers[0]
    for name, most_of in ceilings(layers_of(full)[1]).items():
        assert getattr(entry, name) == 2 * most_of, name


@settings(max_examples=60, deadline=None)
@given(
    ceiling=st.sampled_from([0, 1, 1023, 1024, 5000, 2**45, 2**52 - 1, 2**52]),
    sizes=st.lists(st.one_of(st.integers(1, 5), st.sampled_from([1023, 1024, 2100])), min_size=1, max_size=4),
    compiled=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_statistics_in_constant_memory_equal_those_of_all_values(ceiling, sizes, compiled, seed):
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setenv("MAQD_NO_NUMBA", "1")
        _compare_statistics(ceiling, sizes, seed)


def _compare_statistics(ceiling, sizes, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, ceiling + 1, (2, size)) for size in sizes]
    statistics = Statistics([ceiling, ceiling])
    for part in parts:
        statistics.add(part)
    values = np.concatenate(parts, axis=1)
    for row in range(2):
        spread, exact = statistics.spread(row), [int(v) for v in values[row]]
        n = len(exact)
        assert statistics.sum(row) == sum(exact)
        assert statistics.sum_of_squares(row) == sum(v * v for v in exact)
        assert spread.mean == sum(exact) / n
        assert spread.bin_width == -(-(ceiling + 1) // 1024)
        assert (spread.smallest, spread.largest) == (min(exact), max(exact))
        assert spread.p50 <= sorted(exact)[-(-n // 2) - 1] < spread.p50 + spread.bin_width


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "got no samples"),
        ([torch.zeros(0, 10, dtype=torch.int64)], "got no samples"),
        ([torch.zeros(1, 9, dtype=torch.int64)], r"must have shape \(batch, 10\), got \(1, 9\)"),
        ([torch.zeros(1, 10)], "must be an integer tensor, got torch.float32"),
        ([torch.full((1, 10), 9)], r"must lie in 0\.\.3, got values in 9\.\.9"),
        ([(torch.zeros(1, 10, dtype=torch.int64), torch.tensor([7]))], r"labels must lie in 0\.\.3, got 7\.\.7"),
        ([(torch.zeros(1, 10, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))], r"shape \(1,\), got"),
        (
            [torch.zeros(1, 10, dtype=torch.int64), (torch.zeros(1, 10, dtype=torch.int64), torch.tensor([0]))],
            "labels for 1 of 2 samples",
        ),
        (["codes"], "a tensor of codes or a pair"),
        ([5], "a tensor of codes or a pair"),
        (torch.zeros(1, 10, dtype=torch.int64), r"got one tensor; put it into a list: \[codes\]"),
    ],
)
def test_bad_batches(batches, message):
    net = IntegerNetwork(
        [ops.Input("input", shape=(10,), high=3, kind="events"), ops.Linear("fc", ("input",), ones(4, 10))]
    )
    with pytest.raises(MaqdError, match=message):
        simulate(net, batches)


def test_a_layer_report_says_the_geometry_of_its_op():
    convolution = layer_of(image(4, SEVEN), conv(ones(6, 2, 3, 3), 2, 1, groups=2))
    assert (convolution.input_shape, convolution.output_shape) == ((4, 5, 5), (6, 3, 3))
    assert (convolution.kernel, convolution.stride, convolution.groups) == ((3, 3), (2, 2), 2)
    pool = layer_of(image(4, SEVEN), ops.MaxPool2d("pool", ("input",), (3, 2), (2, 1)))
    assert (pool.input_shape, pool.kernel, pool.stride, pool.groups) == ((4, 5, 5), (3, 2), (2, 1), 1)
    linear = layer_of(ones(1, 10), ops.Linear("fc", ("input",), ones(4, 10)))
    assert (linear.input_shape, linear.kernel, linear.stride, linear.groups) == ((10,), (1, 1), (1, 1), 1)
