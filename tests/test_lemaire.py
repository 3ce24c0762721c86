"""The model of Lemaire et al. against published energies, against SpikingJelly's implementation, and by hand."""

import math

import pytest
import torch

from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.lemaire import dense_synapses, layer_work, neurons, spiking_synapses, work_pj
from maqd_snn.pricing import energy
from maqd_snn.profiles import PROFILES
from maqd_snn.simulation import simulate

MEMORIES = PROFILES["lemaire"].memories

# Published with SpikingJelly: docs/source/_static/tutorials/op_counter/energy_model_validation.csv, computed from
# "paper equations (1)-(20)" of arXiv 2210.13107v1. Rows l0.. are of commit a688b400, rows a.. (l08, l09, l10, l12) of
# a4df7d07. Each layer has a bias and one step; convolutions are padded to the input's size.
# kind, inputs, outputs, size, kernel, input spikes, output spikes, leaky, paper's pJ, SpikingJelly's pJ as printed.
PUBLISHED = {
    "l040": ("linear", 128, 32, 1, 1, 64, 32, True, "29475.6166667", "29478.8166667"),
    "l041": ("linear", 256, 64, 1, 1, 16, 64, False, "25871.5024194", "25877.9024194"),
    "l047": ("linear", 256, 64, 1, 1, 128, 64, False, "194334.558065", "194340.958065"),
    "l048": ("linear", 256, 64, 1, 1, 128, 64, True, "194539.358065", "194545.758065"),
    "l049": ("conv", 4, 8, 5, 1, 6, 0, False, "630.109375", "630.109375"),
    "l050": ("conv", 4, 8, 5, 1, 6, 0, True, "1270.109375", "1270.109375"),
    "l061": ("conv", 4, 8, 5, 3, 25, 72, False, "7817.7078125", "7817.7078125"),
    "l064": ("conv", 4, 8, 5, 3, 50, 72, True, "15216.965625", "15216.965625"),
    "l073": ("conv", 4, 8, 8, 3, 16, 8, False, "11226.9875", "11226.9875"),
    "l079": ("conv", 4, 8, 8, 3, 128, 512, False, "68589.8", "68589.8"),
    "a08": ("conv", 8, 16, 10, 3, 200, 704, True, "665179.4625", "665179.4625"),
    "a09": ("conv", 16, 16, 8, 1, 384, 272, False, "88219.125", "88219.125"),
    "a10": ("conv", 16, 32, 8, 3, 512, 2048, True, "5168071.2", "5168071.2"),
    "a12": ("conv", 32, 64, 5, 3, 100, 1536, True, "2326743.17157", "2326743.17157"),
}


@pytest.mark.parametrize("row", PUBLISHED)
def test_published_energies_to_the_printed_digits(row):
    kind, inputs, outputs, size, kernel, arrived, sent, leaky, paper, spikingjelly = PUBLISHED[row]
    number = outputs * size * size
    synapses = spiking_synapses(
        arrived, number, outputs, (kernel, kernel), (1, 1), 1, inputs * outputs * kernel**2, kind == "conv", bias=True
    )
    total = sum(work_pj(synapses, MEMORIES).values()) + sum(work_pj(neurons(number, sent, leaky), MEMORIES).values())
    assert f"{total:.12g}" == spikingjelly
    # The paper adds the resets of emitted spikes (0.1 pJ each) to convolutions only.
    assert f"{total - (0.1 * sent if kind == 'linear' else 0):.12g}" == paper


def small(kind="events", high=1, levels=1):
    """Ten inputs -> four sums -> four neurons -> three sums, as in the tests of pricing."""
    thresholds = torch.arange(1, levels + 1).repeat(4, 1)
    return IntegerNetwork(
        [
            ops.Input("input", shape=(10,), high=high, kind=kind),
            ops.Linear("fc1", ("input",), torch.ones(4, 10, dtype=torch.int64)),
            ops.Threshold("spike", ("fc1",), thresholds, torch.ones(4, dtype=torch.int64)),
            ops.Linear("fc2", ("spike",), torch.tensor([[1, -1, 0, 1]] * 3)),
            ops.Readout("readout", ("fc2",), torch.tensor([0, 2, -1])),
        ]
    )


def test_a_network_by_hand():
    x = torch.zeros(1, 10, dtype=torch.int64)
    x[0, :3] = 1  # 3 spikes in, 4 neurons fire
    result = energy(simulate(small(), [x]), "lemaire")
    terms = {layer.name: dict(layer.terms) for layer in result.layers}

    def word(words):  # linear through (0, 0) and (8 KB, 10 pJ) below 8 KB
        return 10 * words * 4 / 8192

    assert terms["fc1"] == pytest.approx(
        {
            "operations": 12 * 0.1,
            "addressing": 12 * 0.1,
            "parameters": 12 * word(40),
            "potentials": 24 * word(4),
            "in_out": 3 * word(1000),
        }
    )
    assert terms["spike"] == pytest.approx(
        {
            "operations": 4 * 0.1,
            "addressing": 0,
            "parameters": 0,
            "potentials": 8 * word(4),
            "in_out": 4 * word(1000),
        }
    )
    assert terms["fc2"]["parameters"] == pytest.approx(12 * word(12))
    assert terms["readout"] == {"add": pytest.approx(2 * 0.1)}
    assert result.total_pj == pytest.approx(sum(sum(values.values()) for values in terms.values()))


def test_levels_above_one_are_the_dense_layer():
    x = torch.ones(2, 10, dtype=torch.int64)
    report = simulate(small(high=3, levels=2), [x])
    terms = {layer.name: dict(layer.terms) for layer in energy(report, "lemaire").layers}
    work = dense_synapses(12, inputs=4, outputs=3, taps=0, weights=12, convolution=False)
    assert terms["fc2"] == pytest.approx(work_pj(work, MEMORIES))  # per sample


@pytest.mark.parametrize("samples", [1, 3])
def test_samples_add_up(samples):
    x = torch.ones(1, 10, dtype=torch.int64)
    once, often = simulate(small("analog"), [x]), simulate(small("analog"), [x.repeat(samples, 1)])
    assert energy(often, "lemaire").total_pj == pytest.approx(energy(once, "lemaire").total_pj)


def test_ops_that_the_model_does_not_know_have_no_work():
    report = simulate(small(), [torch.ones(1, 10, dtype=torch.int64)])
    assert layer_work(report.layers[-1], 1, MEMORIES) is None


@pytest.mark.filterwarnings("ignore")  # what SpikingJelly imports warns
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("spikes", [True, False])
def test_spikingjelly_prices_the_same_convolution_the_same(stride, groups, kernel, spikes):
    counter = pytest.importorskip("spikingjelly.activation_based.op_counter", exc_type=ImportError)
    from spikingjelly.activation_based import neuron

    generator = torch.Generator().manual_seed(stride * 10 + groups)
    x = (torch.rand(2, 4, 9, 8, generator=generator) > 0.6).float() * (1 if spikes else 0.5)
    layer = torch.nn.Conv2d(4, 6, kernel, stride, padding=1, groups=groups, bias=False)
    model = torch.nn.Sequential(layer, neuron.IFNode(v_threshold=0.1)).eval()
    with torch.no_grad():
        sent = int(model(x).count_nonzero())
    theirs = counter.estimate_lemaire_energy(torch.nn.Sequential(layer, neuron.IFNode(v_threshold=0.1)).eval(), x)
    height, width = layer(x).shape[2:]
    outputs, weights = 6 * height * width, layer.weight.numel()
    if spikes:
        work = spiking_synapses(int(x.sum()), outputs, 6, kernel, (stride, stride), groups, weights, True)
    else:
        taps = 6 * math.prod(kernel)
        work = dense_synapses(2 * weights * height * width, 4 * 9 * 8, outputs, taps, weights, True, samples=2)
    ours = work_pj(work, MEMORIES)
    cells = work_pj(neurons(outputs, sent, samples=2), MEMORIES)
    total = sum(ours.values()) + sum(cells.values())
    if spikes:  # SpikingJelly takes the whole batch for the potentials of one sample: a memory twice as large
        batch = work_pj(neurons(2 * outputs, sent), MEMORIES)
        twice = MEMORIES.bits_pj(work.potentials * 32, 2 * outputs * 4)
        total = sum(ours.values()) - ours["potentials"] + twice + sum(batch.values())
    else:  # and for the inputs and addresses of a dense layer
        whole = dense_synapses(work.macs, 2 * 4 * 9 * 8, 2 * outputs, math.prod(kernel) * 6, weights, True)
        total = sum(work_pj(whole, MEMORIES).values()) + sum(work_pj(neurons(2 * outputs, sent), MEMORIES).values())
    assert total == pytest.approx(theirs.total_pj, rel=1e-12)
