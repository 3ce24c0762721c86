"""Every limit of every chip by hand: one below, at, and one above; the arithmetic stands beside each case."""

from itertools import pairwise

import pytest
import torch

import maqd_snn
from maqd_snn import IntegerNetwork, MaqdError
from maqd_snn.integer import ops
from maqd_snn.neuromorphic.hardware import CHIPS, get_chip
from maqd_snn.neuromorphic.hardware.needs import CORE, LAYER, NETWORK, bits_per_axon, signed_bits


def dense(inputs, outputs, weight=1, *, levels=1, thresholds=None, high=1, spikes=True):
    """Events -> Linear of one weight -> Threshold (or class scores)."""
    graph = [
        ops.Input("input", shape=(inputs,), high=high, kind="events"),
        ops.Linear("fc", ("input",), weight=torch.full((outputs, inputs), weight)),
    ]
    if spikes:
        theta = torch.arange(1, levels + 1).expand(outputs, levels) if thresholds is None else thresholds
        graph.append(ops.Threshold("spike", ("fc",), theta, torch.ones(outputs, dtype=torch.int64)))
    return IntegerNetwork(graph)


def chain(sizes, weight=1, *, levels=1, high=1):
    """Events -> Linear -> Threshold -> ... -> Linear (scores), of these sizes."""
    graph = [ops.Input("input", shape=(sizes[0],), high=high, kind="events")]
    for index, (into, out) in enumerate(pairwise(sizes), start=1):
        graph.append(ops.Linear(f"fc{index}", (graph[-1].name,), weight=torch.full((out, into), weight)))
        if index < len(sizes) - 1:
            theta = torch.arange(1, levels + 1).expand(out, levels)
            graph.append(ops.Threshold(f"spike{index}", (graph[-1].name,), theta, torch.ones(out, dtype=torch.int64)))
    return IntegerNetwork(graph)


def conv(channels, size, out, kernel, *, stride=1, padding=0, pool=0, weight=1, scores=0):
    """Events (channels, size, size) -> Conv2d -> Threshold [-> SumPool2d] [-> Linear scores]."""
    graph = [
        ops.Input("input", shape=(channels, size, size), high=1, kind="events"),
        ops.Conv2d(
            "conv",
            ("input",),
            torch.full((out, channels, kernel, kernel), weight),
            (stride, stride),
            (padding, padding),
        ),
        ops.Threshold("spike", ("conv",), torch.ones((out, 1), dtype=torch.int64), torch.ones(out, dtype=torch.int64)),
    ]
    if pool or scores:
        side = (size + 2 * padding - kernel) // stride + 1
        if pool:
            graph.append(ops.SumPool2d("pool", ("spike",), (pool, pool), (pool, pool)))
            side = (side - pool) // pool + 1
        graph.append(ops.Flatten("flatten", (graph[-1].name,)))
        graph.append(ops.Linear("fc", ("flatten",), torch.ones((max(scores, 1), out * side * side), dtype=torch.int64)))
    return IntegerNetwork(graph)


def row_of(plan, figure, layer=None):
    """The one row of a figure (and layer)."""
    rows = [row for row in plan.rows if row.figure == figure and layer in (None, row.layer)]
    assert rows, (figure, [row.figure for row in plan.rows])
    return rows[0]


def plan_of(net, chip, **parameters):
    return maqd_snn.fit(net, chip, parameters or None, advise=False)


def names(value):
    return value if isinstance(value, str) else ""


ONES = torch.ones


# (chip, figure, k at the limit, net of k, need of k). A net of k-1 or k holds; k+1 fails, or takes a second core.
UNCUT = [
    # k inputs, one output neuron: k input axons, whatever the cut.
    ("loihi1", "in_axons", 4096, lambda k: dense(k, 1), lambda k: k),
    # one neuron of threshold k.
    ("loihi1", "threshold_magnitude", 131071, lambda k: dense(1, 1, thresholds=torch.tensor([[k]])), lambda k: k),
    # graded, one neuron of one level: k weights of 1 byte, 1 threshold and 1 accumulator of 24 bits: k + 3 + 3 bytes.
    ("loihi2", "memory_bytes", 196602, lambda k: dense(k, 1), lambda k: k + 6),
    # codes up to k on one weight 1: sums up to k, two's complement of k: 2^23 - 1 takes 24 bits, 2^23 takes 25.
    ("loihi2", "accumulator_bits", 2**23 - 1, lambda k: dense(1, 1, high=k), lambda k: k.bit_length() + 1),
    # codes up to k are the payload of their messages: 2^24 - 1 takes 24 bits, 2^24 takes 25.
    ("loihi2", "payload_bits", 2**24 - 1, lambda k: dense(1, 1, high=k), lambda k: k.bit_length()),
    # k inputs of weight 1 (one axon each) to one neuron.
    ("truenorth", "crossbar_axons", 256, lambda k: dense(k, 1), lambda k: k),
    # k x 64 weights: k * 2^(ceil log2 9 + ceil log2 64) = k * 2^10 words; the largest core has 2^16.
    ("speck2f", "kernel_words", 64, lambda k: conv(k, 8, 64, 3), lambda k: k * 1024),
    # k channels of 32 x 32 neurons: k * 2^(5 + 5) words; the largest core has 2^16 = 64 * 2^10.
    ("speck2f", "neuron_words", 64, lambda k: conv(1, 32, k, 1), lambda k: k * 1024),
    ("speck2f", "bias_words", 1024, lambda k: conv(1, 1, k, 1), lambda k: k),
    ("speck2f", "channels", 1024, lambda k: conv(1, 1, k, 1), lambda k: k),
    ("speck2f", "kernel", 16, lambda k: conv(1, 17, 1, k), lambda k: k),
    ("speck2f", "padding", 7, lambda k: conv(1, 4, 1, 3, padding=k), lambda k: k),
    ("speck2f", "input_size", 128, lambda k: conv(1, k, 1, 3, stride=4), lambda k: k),
    ("speck2f", "output_size", 64, lambda k: conv(1, k, 1, 1), lambda k: k),
    ("speck2f", "classes", 15, lambda k: chain((4, 4, k)), lambda k: k),
    # k inputs of weight 1, each 0 or 1: sums up to k, 2^15 - 1 takes 16 bits, 2^15 takes 17.
    ("speck2f", "accumulator_bits", 2**15 - 1, lambda k: dense(1, 1, high=k), lambda k: k.bit_length() + 1),
    # one neuron: k weights of 1 byte, a threshold and an accumulator of 4 bytes: k + 8 bytes.
    ("spinnaker2", "memory_bytes", 131064, lambda k: dense(k, 1), lambda k: k + 8),
    ("spinnaker2", "accumulator_bits", 2**31 - 1, lambda k: dense(1, 1, high=k), lambda k: k.bit_length() + 1),
    ("xylo-audio2", "input_channels", 16, lambda k: dense(k, 2), lambda k: k),
    ("xylo-audio2", "input_events", 15, lambda k: dense(2, 2, high=k), lambda k: k),
    ("xylo-audio2", "events_per_step", 31, lambda k: dense(2, 2, levels=k), lambda k: k),
    ("xylo-audio2", "hidden_neurons", 1000, lambda k: chain((1, k, 1)), lambda k: k),
    ("xylo-audio2", "output_neurons", 8, lambda k: chain((1, 2, k)), lambda k: k),
    # hidden neurons of the first layer drive the k of the second.
    ("xylo-audio2", "fan_out", 64, lambda k: chain((1, 2, k, 1)), lambda k: k),
    # 2 neurons drive k each, and these k drive 1: (2 k + k) / (2 + k) synapses on average, rounded up; for two layers
    # of one size n and k outputs it is k.
    ("xylo-audio2", "mean_fan_out", 32, lambda k: chain((1, 2, k)), lambda k: k),
    ("xylo-audio3", "hidden_neurons", 992, lambda k: chain((1, k, 1)), lambda k: k),
    ("xylo-audio3", "output_neurons", 32, lambda k: chain((1, 2, k)), lambda k: k),
    ("xylo-audio3", "fan_out", 1024, lambda k: chain((1, 2, k, 1)), lambda k: k),
    ("xylo-imu", "hidden_neurons", 496, lambda k: chain((1, k, 1)), lambda k: k),
    ("xylo-imu", "output_neurons", 16, lambda k: chain((1, 2, k)), lambda k: k),
    ("xylo-imu", "fan_out", 512, lambda k: chain((1, 2, k, 1)), lambda k: k),
    ("xylo-imu", "mean_fan_out", 64, lambda k: chain((1, 2, k)), lambda k: k),
    ("brainscales2", "fan_in", 256, lambda k: dense(k, 1), lambda k: k),
    # one layer on the single core: all its neurons.
    ("brainscales2", "neurons", 512, lambda k: dense(1, k), lambda k: k),
    # k inputs to each of 512 neurons: 512 k synapses, 256 * 512 = 131072.
    ("brainscales2", "synapses", 256, lambda k: dense(k, 512), lambda k: 512 * k),
    # k words of 8 bits: 65536 * 8 = 524288 bits, one neuron.
    ("accelerator", "weight_memory_bits", 65536, lambda k: dense(k, 1), lambda k: 8 * k),
    ("accelerator", "accumulator_bits", 2**23 - 1, lambda k: dense(1, 1, high=k), lambda k: k.bit_length() + 1),
    ("accelerator", "payload_bits", 255, lambda k: dense(1, 1, high=k), lambda k: k.bit_length()),
    # k weights of 1 byte and one threshold of 4: k + 4 bytes of flash.
    ("microcontroller", "flash_bytes", 1048572, lambda k: dense(k, 1), lambda k: k + 4),
    # k input values of 1 byte and one accumulator of 4.
    ("microcontroller", "ram_bytes", 262140, lambda k: dense(k, 1), lambda k: k + 4),
    ("microcontroller", "accumulator_bits", 2**31 - 1, lambda k: dense(1, 1, high=k), lambda k: k.bit_length() + 1),
    ("microcontroller", "payload_bits", 255, lambda k: dense(1, 1, high=k), lambda k: k.bit_length()),
]
# Bits of a weight: -m..m takes ceil(log2(m + 1)) + 1 bits; 63 takes 7, 127 takes 8, 128 takes 9.
UNCUT += [
    (chip, "weight_bits", 127, lambda k: dense(1, 1, k), lambda k: k.bit_length() + 1)
    for chip in CHIPS
    if get_chip(chip).value("weight_bits") == 8 and not chip.startswith("speck2e")
]
UNCUT += [
    # 6 bits hold -32..31.
    ("brainscales2", "weight_bits", 31, lambda k: dense(1, 1, k), lambda k: k.bit_length() + 1),
]
UNCUT += [("speck2e", *case[1:]) for case in UNCUT if case[0] == "speck2f"]


@pytest.mark.parametrize(("chip", "figure", "limit", "net", "need"), UNCUT, ids=names)
def test_a_limit_that_no_cut_relieves(chip, figure, limit, net, need):
    for k, verdict in ((limit - 1, "holds"), (limit, "holds"), (limit + 1, "fails")):
        row = row_of(plan_of(net(k), chip), figure)
        assert (row.need, row.verdict) == (need(k), verdict), (k, row)


# (chip, figure, k at the limit, net of k, need of the fullest core at the limit). A net of k+1 takes a second core.
CUT = [
    ("loihi1", "neurons", 1024, lambda k: dense(1, k), 1024),
    # Axons of 118 8-bit synapses: ceil64(64 * 8 + 10) + ceil64(54 * 8 + 10) = 576 + 448 = 1024 bits; 2^10 of them.
    ("loihi1", "synapse_bits", 1024, lambda k: dense(k, 118, 127), 2**20),
    # Thresholds 8192 apart: biases reach 8191 beyond one, so each is a group; 16 * 8192 - 1 = 131071 is largest.
    (
        "loihi1",
        "threshold_groups",
        16,
        lambda k: dense(1, k, thresholds=torch.arange(k)[:, None] * 8192 - 1),
        16,
    ),
    ("loihi2", "neurons", 8192, lambda k: dense(1, k), 8192),
    ("truenorth", "crossbar_neurons", 256, lambda k: dense(1, k), 256),
    ("spinnaker2", "neurons", 1000, lambda k: dense(1, k), 1000),
    ("accelerator", "neurons", 2048, lambda k: dense(1, k), 2048),
]


@pytest.mark.parametrize(("chip", "figure", "limit", "net", "need"), CUT, ids=names)
def test_a_limit_that_a_second_core_relieves(chip, figure, limit, net, need):
    for k, cores in ((limit - 1, 1), (limit, 1), (limit + 1, 2)):
        plan = plan_of(net(k), chip)
        assert plan.cores == cores, k
        assert row_of(plan, figure).verdict == "holds"
        if k == limit:
            assert row_of(plan, figure).need == need


def test_state_memory_of_the_accelerator():
    # 65536 bits of 24-bit accumulators: 2730 * 24 = 65520 hold, 2731 * 24 = 65544 take two cores; neurons are set free.
    for k, cores, need in ((2729, 1, 65496), (2730, 1, 65520), (2731, 2, 1366 * 24)):
        plan = plan_of(dense(1, k), "accelerator", neurons=4096)
        assert (plan.cores, row_of(plan, "state_memory_bits").need) == (cores, need)


def test_output_axons_of_loihi_1():
    # A reader core holds 347 neurons of 1024 inputs: axons of 347 2-bit synapses take 5 * ceil64(64 * 2 + 10)
    # + ceil64(27 * 2 + 10) = 960 + 64 = 1024 bits, and 1024 * 1024 = 2^20. So 1388 readers take 4 cores, and the 1024
    # neurons 4 * 1024 = 4096 entries. 1389 readers take 5 cores, 5120 entries: two cores for the neurons.
    for readers, targets, cores in ((1387, 4, 1), (1388, 4, 1), (1389, 5, 2)):
        plan = plan_of(chain((1, 1024, readers, 1)), "loihi1")
        assert (len(plan.job.pieces["spike2"]), len(plan.job.pieces["spike1"])) == (targets, cores)
    assert row_of(plan_of(chain((1, 1024, 1388, 1)), "loihi1"), "out_axons", "spike1").need == 4096


# (chip, cores, chips, net of so many full cores, what more cores mean): whole channels of the neurons of one core.
SEVERAL = [
    ("loihi1", 128, lambda k: conv(1, 32, k, 1), "holds"),  # 32 * 32 = 1024; goes on over chips
    ("loihi2", 128, lambda k: conv(1, 64, 2 * k, 1), "holds"),  # 2 * 64 * 64 = 8192
    ("truenorth", 4096, lambda k: conv(1, 16, k, 1), "holds"),  # 16 * 16 = 256, and as many axons
    ("spinnaker2", 152, lambda k: conv(1, 10, 10 * k, 1), "unknown"),  # 10 * 10 * 10 = 1000; whether it goes on, too
    ("accelerator", 64, lambda k: conv(1, 32, 2 * k, 1), "fails"),  # 2 * 32 * 32 = 2048
]


@pytest.mark.parametrize(("chip", "cores", "net", "beyond"), SEVERAL, ids=names)
def test_cores_of_every_chip_that_has_several(chip, cores, net, beyond):
    for k, chips, verdict in ((cores - 1, 1, "holds"), (cores, 1, "holds"), (cores + 1, 2, beyond)):
        plan = plan_of(net(k), chip)
        row = row_of(plan, "cores")
        assert (row.need, plan.chips, row.verdict) == (k, chips, verdict)


def test_axon_types_of_truenorth():
    # Weights m and -m and 0: m = 7 takes 4 bits (types 1, 2, 4, -8), 3 takes 3, 8 takes 5.
    for m, bits, verdict in ((3, 3, "holds"), (7, 4, "holds"), (8, 5, "fails")):
        net = dense(3, 1)
        weight = torch.tensor([[m, -m, 0]])
        net = IntegerNetwork([net.ops[0], ops.Linear("fc", ("input",), weight), net.ops[2]])
        row = row_of(plan_of(net, "truenorth"), "axon_types")
        assert (row.need, row.verdict) == (bits, verdict)
        # Three sources, each on so many axons.
        assert row_of(plan_of(net, "truenorth"), "crossbar_axons").need == 3 * bits


def test_a_neuron_of_truenorth_drives_one_axon():
    # 128 hidden neurons read by 256 neurons of one core: one axon each. 257 readers take two cores: each is doubled.
    for readers, need in ((255, 128), (256, 128), (257, 256)):
        plan = plan_of(chain((1, 128, readers, 1)), "truenorth")
        assert row_of(plan, "crossbar_neurons", "spike1").need == need


@pytest.mark.parametrize("chip", ["speck2e", "speck2f"])
def test_sets_of_sizes_on_speck(chip):
    for stride, verdict in ((1, "holds"), (2, "holds"), (3, "fails"), (4, "holds"), (5, "fails"), (8, "holds")):
        assert row_of(plan_of(conv(1, 16, 1, 3, stride=stride), chip), "strides").verdict == verdict
    for pool, verdict in ((1, "holds"), (2, "holds"), (3, "fails"), (4, "holds"), (5, "fails")):
        assert row_of(plan_of(conv(1, 20, 1, 1, pool=pool), chip), "pool_sizes").verdict == verdict


@pytest.mark.parametrize("chip", ["speck2e", "speck2f"])
def test_destinations_and_cores_of_speck(chip):
    for readers, verdict in ((1, "holds"), (2, "holds"), (3, "fails")):
        graph = list(dense(2, 2).ops)
        for index in range(readers):
            graph.append(ops.Linear(f"r{index}", ("spike",), torch.ones((2, 2), dtype=torch.int64)))
            threshold = ONES((2, 1), dtype=torch.int64), ONES(2, dtype=torch.int64)
            graph.append(ops.Threshold(f"s{index}", (f"r{index}",), *threshold))
        tops = [f"s{index}" for index in range(readers)]
        if readers > 1:
            graph.append(ops.Add("sum", tuple(tops)))
        row = row_of(plan_of(IntegerNetwork(graph), chip), "destinations", "spike")
        assert (row.need, row.verdict) == (readers, verdict)
    for layers, verdict in ((8, "holds"), (9, "holds"), (10, "fails")):
        plan = plan_of(chain((2,) * (layers + 1)), chip)
        row = row_of(plan, "cores")
        assert (row.need, row.verdict) == (layers, verdict)
        assert len(plan.core_of) == min(layers, 9)


def test_memories_of_one_speck_core_go_together():
    # 2^15 kernel words and 2^15 neuron words meet on cores 3 and 4; twice either has no core.
    def net(kernels, neurons):  # kernels * 2^(0 + 5) words of kernel; 32 channels of 2^neurons neurons
        return conv(kernels, 1 << neurons // 2, 32, 1)

    good = plan_of(net(1024, 10), "speck2f")  # 1024 * 32 = 2^15; 32 * 2^10 = 2^15
    assert good.core_of == {"spike": 3}
    bad = plan_of(net(1025, 10), "speck2f")  # 32800 words need cores 5 or 6, which hold 2^14 neurons
    assert [row.figure for row in bad.problems] == ["kernel_words", "neuron_words", "bias_words"]
    assert "no core has all of it at once" in bad.problems[0].text()


def test_a_matching_of_layers_and_cores_is_found_or_refused():
    # 32 channels of 32 x 32 neurons are 2^15 words: cores 0..4 hold them, so 5 such layers match and 6 do not.
    def tower(layers):
        graph = list(conv(32, 32, 32, 1).ops)
        for index in range(layers - 1):
            graph.append(ops.Conv2d(f"c{index}", (graph[-1].name,), ONES((32, 32, 1, 1), dtype=torch.int64)))
            theta = ONES((32, 1), dtype=torch.int64), ONES(32, dtype=torch.int64)
            graph.append(ops.Threshold(f"s{index}", (graph[-1].name,), *theta))
        return IntegerNetwork(graph)

    assert sorted(plan_of(tower(5), "speck2f").core_of.values()) == [0, 1, 2, 3, 4]
    refused = plan_of(tower(6), "speck2f")
    assert refused.fits is False
    assert "the best matching of memories places 5" in refused.problems[0].text()


def test_max_pools_and_residual_sums_on_speck():
    graph = list(conv(1, 4, 1, 1).ops)
    pooled = IntegerNetwork([*graph, ops.MaxPool2d("pool", ("spike",), (2, 2), (2, 2))])
    assert row_of(plan_of(pooled, "speck2f"), "max_pool").verdict == "fails"
    assert row_of(plan_of(pooled, "loihi1"), "max_pool").verdict == "holds"
    weight = ONES((1, 1, 1, 1), dtype=torch.int64)
    more = [
        ops.Conv2d("a", ("spike",), weight),
        ops.Conv2d("b", ("spike",), weight),
        ops.Add("sum", ("a", "b")),
        ops.Threshold("end", ("sum",), ONES((1, 1), dtype=torch.int64), ONES(1, dtype=torch.int64)),
    ]
    problems = plan_of(IntegerNetwork([*graph, *more]), "speck2f").problems
    assert [row.need for row in problems] == ["2 ways lead into one layer (a residual sum)"]


def test_convolutions_on_xylo_and_uneven_thresholds():
    assert row_of(plan_of(conv(1, 4, 1, 1), "xylo-imu"), "convolution").verdict == "fails"
    for thresholds, verdict in (([[1, 3, 5]], "holds"), ([[1, 3, 6]], "fails")):
        for chip in ("xylo-audio2", "xylo-audio3", "xylo-imu", "speck2e", "speck2f"):
            plan = plan_of(dense(9, 1, thresholds=torch.tensor(thresholds)), chip)
            assert row_of(plan, "own_thresholds").verdict == verdict


def test_levels_are_neurons_where_spikes_are_binary():
    # 341 units of 3 levels are 1023 neurons of one Loihi core; 342 are 1026. On Loihi 2 a unit is one neuron.
    for units, cores in ((341, 1), (342, 2)):
        assert plan_of(dense(1, units, levels=3), "loihi1").cores == cores
    assert row_of(plan_of(dense(1, 342, levels=3), "loihi2"), "neurons").need == 342
    # A reader has an input axon for each of the 3 neurons of each of 10 units.
    plan = plan_of(chain((1, 10, 1), levels=3), "loihi1")
    assert row_of(plan, "in_axons", "fc2").need == 30


def test_a_shared_kernel_on_loihi_1():
    # 3x3 over 4x4, padding 1, 2 -> 3 channels, all on one core. A row of pixels is reached through taps {0,1} (first),
    # {0,1,2} (two inner rows), {1,2} (last): 3 patterns of 2, 3, 2 taps; so 9 weight tables, 2 * 3 * (2+3+2)^2 = 294
    # weights. Each is one axon of the sparse format: 2 bits of weight (1 in two's complement), 6 of index (48 neurons).
    sizes = [2 * 3 * a * b for a in (2, 3, 2) for b in (2, 3, 2)]
    expected = sum(-(-(n * 8 + 10) // 64) * 64 for n in sizes)  # all tables have at most 54 synapses: one block
    plan = plan_of(conv(2, 4, 3, 3, padding=1), "loihi1")
    assert row_of(plan, "synapse_bits").need == expected
    assert row_of(plan, "in_axons").need == 16  # one per pixel, its channels are atoms
    # Two entries for each of 16 pixels of a population axon.
    graph = list(conv(2, 4, 3, 3, padding=1).ops)
    graph.append(ops.Conv2d("next", ("spike",), ONES((1, 3, 3, 3), dtype=torch.int64)))
    assert row_of(plan_of(IntegerNetwork(graph), "loihi1"), "out_axons", "spike").need == 32


def published_bits(n_weights, weight_bits, index_bits):
    """nengo-loihi's SynapseConfig.bits_per_axon, restated: 63 + 1 synapses a block, 4 + 6 bits of header."""
    bits = 0
    while n_weights > 0:
        n = min(n_weights, 63 + 1)
        block = n * (weight_bits + index_bits) + 4 + 6
        while block % 64:
            block += 1
        bits += block
        n_weights -= n
    return bits


def test_bits_per_axon_is_the_published_formula():
    for weight_bits in (1, 2, 3, 4, 5, 6, 8):
        for index_bits in (0, 6, 7, 8, 9, 10, 11, 12):
            for n in [*range(1, 200), 255, 256, 257, 1023, 1024, 1025]:
                assert bits_per_axon(n, weight_bits, index_bits) == published_bits(n, weight_bits, index_bits)
    # 1 * 8 + 10 = 18 -> 64; 6 * 8 + 10 = 58 -> 64; 7 * 8 + 10 = 66 -> 128; 64 * 8 + 10 = 522 -> 576; one more: + 64.
    assert [bits_per_axon(n, 8) for n in (0, 1, 6, 7, 64, 65)] == [0, 64, 64, 128, 576, 640]


def test_signed_bits_hold_their_range_and_no_fewer_do():
    for low in range(-70, 1):
        for high in range(0, 70):
            bits = signed_bits(low, high)
            assert -(1 << bits - 1) <= low
            assert high < 1 << bits - 1 or (low, high) == (0, 0)
            assert bits == 1 or low < -(1 << bits - 2) or high >= 1 << bits - 2


def test_every_limit_of_every_chip_has_a_rule_and_a_case():
    rules = {*CORE, *LAYER, *NETWORK}
    covered = {(case[0], case[1]) for case in (*UNCUT, *CUT)}
    own = {
        ("accelerator", "state_memory_bits"),
        ("loihi1", "out_axons"),
        ("truenorth", "axon_types"),
        ("loihi2", "synapses"),
        ("xylo-audio3", "mean_fan_out"),
    }
    own |= {(chip, figure) for chip in ("speck2e", "speck2f") for figure in ("strides", "pool_sizes", "destinations")}
    shared = {"input_channels", "input_events", "events_per_step"}  # the same number on the three Xylo chips
    for chip in CHIPS:
        for figure in rules & set(get_chip(chip).figures):
            if get_chip(chip).value(figure) is not None and not (chip.startswith("xylo") and figure in shared):
                assert (chip, figure) in covered | own, (chip, figure)


def test_what_is_one_number_on_the_xylo_chips():
    for figure in ("input_channels", "input_events", "events_per_step"):
        assert len({get_chip(chip).value(figure) for chip in CHIPS if chip.startswith("xylo")}) == 1


def test_average_fan_out_of_xylo_audio_3():
    # Two hidden neurons that drive k outputs each: k on average.
    for k, verdict in ((31, "holds"), (32, "holds"), (33, "fails")):
        row = row_of(plan_of(chain((1, 2, k)), "xylo-audio3"), "mean_fan_out")
        assert (row.need, row.verdict) == (k, verdict)


def test_synapses_of_loihi_2():
    # 1x1 over 100 channels of 100 x 100: 100 * 100 * 100 synapses for each output channel; 120 channels are 120 M.
    for outputs, verdict in ((119, "holds"), (120, "holds"), (121, "fails")):
        row = row_of(plan_of(conv(100, 100, outputs, 1), "loihi2"), "synapses")
        assert (row.need, row.verdict) == (1_000_000 * outputs, verdict)


def test_an_unknown_figure_is_no_guess():
    plan = plan_of(chain((4, 4, 2)), "loihi2")
    assert plan.fits is None
    assert {row.figure for row in plan.unknowns} == {"in_axons", "out_axons"}
    assert all(row.limit is None for row in plan.unknowns)


def test_a_network_that_can_never_fit_names_its_smallest_bound():
    row = row_of(plan_of(dense(5000, 10), "loihi1"), "in_axons")
    assert "5,000, beyond 4,096 (even for a single unit)" in row.text()
    with pytest.raises(MaqdError, match="nothing of this network would be on truenorth: every layer is fed by pixel"):
        plan_of(
            IntegerNetwork([ops.Input("input", shape=(2,)), ops.Linear("fc", ("input",), ONES((2, 2)).long())]),
            "truenorth",
        )
