"""The memory model of an event-driven core: what each op reads and writes, and in memories of which size.

Per synaptic operation one weight fetch and one read and one write of a neuron's sum; per event one message written by
its source and read by the layer; per neuron its sum read and reset, and its thresholds read. Words are packed: a word
of b bits costs b bits. Caches and reuse are not modelled. A layer that is not fed spikes reads a weight for every
connection, but each input once (its sums stay in registers): so does the dense rival, which is thereby given perfect
reuse of its inputs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from maqd_snn.errors import MaqdError
from maqd_snn.simulation import LayerReport
from maqd_snn.sram import Memories


@dataclass(frozen=True)
class Access:
    """Traffic of one kind of memory.

    Attributes:
        bits: moved in and out, over all samples. capacity_bits: what the layer needs to hold.
    """

    bits: int
    capacity_bits: int


Accesses = dict[str, Access]


def message_bits(layer: LayerReport) -> int:
    """Return the bits of one event that arrives at a layer: its address, and its level unless it can only be 1.

    >>> message_bits(LayerReport(input_shape=(4, 8, 8), input_bits=1, largest_input=1))
    8
    >>> message_bits(LayerReport(input_shape=(4, 8, 8), input_bits=2, largest_input=3))
    10
    """
    payload = 0 if layer.largest_input == 1 and layer.input_bits == 1 else layer.input_bits
    return (math.prod(layer.input_shape) - 1).bit_length() + payload


def dense_product(layer: LayerReport, samples: int, weight_bits: int, input_bits: int, sum_bits: int) -> Accesses:
    """Return the accesses of a product that computes every connection: weights, each input once, each sum once."""
    inputs, outputs = math.prod(layer.input_shape), math.prod(layer.output_shape)
    return {
        "weight_fetch": Access(layer.dense_macs * weight_bits, layer.weights * weight_bits),
        "message": Access(samples * inputs * input_bits, inputs * input_bits),
        "accumulator": Access(samples * outputs * sum_bits, outputs * sum_bits),
    }


def spiking_product(layer: LayerReport, operations: int) -> Accesses:
    """Return the accesses of a product that is fed events, for a number of synaptic operations."""
    outputs = math.prod(layer.output_shape)
    message = message_bits(layer)
    return {
        "weight_fetch": Access(operations * layer.weight_bits, layer.weights * layer.weight_bits),
        "accumulator": Access(operations * 2 * layer.accumulator_bits, outputs * layer.accumulator_bits),
        "message": Access(layer.events * 2 * message, math.prod(layer.input_shape) * message),
    }


def _product(layer: LayerReport, samples: int) -> Accesses:
    if layer.spiking:
        return spiking_product(layer, layer.synops)
    return dense_product(layer, samples, layer.weight_bits, layer.input_bits, layer.accumulator_bits)


def _threshold(layer: LayerReport, samples: int) -> Accesses:
    bits = layer.input_bits  # those of the sums that arrive
    channels = layer.output_shape[0]
    return {
        "accumulator": Access(layer.neuron_updates * 2 * bits, layer.neurons * bits),
        "threshold_read": Access(layer.threshold_tests * bits, channels * layer.levels * bits),
    }


def _terms(layer: LayerReport, samples: int) -> Accesses:
    """Each term is added to, or compared with, a value that is read and written."""
    outputs = math.prod(layer.output_shape)
    bits = layer.accumulator_bits
    return {"accumulator": Access((layer.adds + layer.compares) * 2 * bits, outputs * bits)}


ACCESSES: Mapping[str, Callable[[LayerReport, int], Accesses]] = MappingProxyType(
    {
        "Conv2d": _product,
        "Linear": _product,
        "Threshold": _threshold,
        "MaxPool2d": _terms,
        "SumPool2d": _terms,
        "Add": _terms,
        "Readout": _terms,
        "Flatten": lambda layer, samples: {},
    }
)


def accesses(layer: LayerReport, samples: int) -> Accesses:
    """Return the traffic of one op over all samples, by the memory terms of `profiles.MODELLED`.

    Raises:
        MaqdError: an op without a rule.
    """
    if layer.op not in ACCESSES:
        raise MaqdError(f"{layer.name}: there is no rule for the memory traffic of a {layer.op}")
    return ACCESSES[layer.op](layer, samples)


def traffic_pj(traffic: Accesses, memories: Memories) -> dict[str, float]:
    """Return the energy of this traffic by term, each memory of its given size or else as large as the layer needs."""
    sizes = {
        "weight_fetch": memories.weight_bytes,
        "accumulator": memories.accumulator_bytes,
        "threshold_read": memories.threshold_bytes,
        "message": memories.message_bytes,
    }
    priced = {}
    for name, access in traffic.items():
        size = sizes[name]
        capacity = access.capacity_bits / 8 if size is None else size
        priced[name] = memories.bits_pj(access.bits, capacity)
    return priced
