"""The analytical energy model of Lemaire et al. 2022 (arXiv 2210.13107, doi 10.1007/978-3-031-30105-6_48).

All words are 32 bits. Letters: T_in, T_out input and output spikes of a layer, N_in, N_out its inputs and outputs, k
taps of the kernel, S stride, g groups, C_out output channels. A layer is fed spikes (all values 0 or 1) or is a dense
layer; borders are ignored. Equation 2 of the paper multiplies the fan-out of a fully connected layer by N_in once more,
which contradicts its own definition of T_in and its equations 8, 10, 15 and 17; like SpikingJelly 2.0.0 we count T_in *
N_out.
"""

import math
from dataclasses import dataclass

from maqd_snn.simulation import LayerReport
from maqd_snn.sram import Memories

ADD_PJ, MULTIPLY_PJ = 0.1, 3.1  # 32-bit integers, 45 nm: Horowitz, ISSCC 2014
MAC_PJ = ADD_PJ + MULTIPLY_PJ
WORD_BITS, WORD_BYTES = 32, 4


@dataclass(frozen=True)
class Work:
    """What a layer does, in 32-bit words and operations.

    Attributes:
        adds, macs: of the computation. address_adds, address_macs: to find where inputs and spikes go.
        parameters, potentials, in_out: words read and written. parameter_words, potential_words, in_out_words: sizes of
        the memories that hold them.
    """

    adds: int = 0
    macs: int = 0
    address_adds: int = 0
    address_macs: int = 0
    parameters: int = 0
    potentials: int = 0
    in_out: int = 0
    parameter_words: int = 0
    potential_words: int = 0
    in_out_words: int = 0


def spiking_synapses(
    spikes: int,
    outputs: int,
    channels_out: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    groups: int,
    weights: int,
    convolution: bool,
    bias: bool = False,
    fifo: int = 1000,
    samples: int = 1,
) -> Work:
    """Return the work of a layer that is fed binary spikes.

    Operations: T_in * C_out/g * ceil(kh/S) * ceil(kw/S) additions (fully connected: T_in * N_out). Addresses,
    parameters and
    potentials: T_in * C_out/g * kh * kw each (T_in * N_out), potentials read and written; a convolution also takes two
    multiplications to place a spike. A bias adds N_out additions and reads.

    >>> work = spiking_synapses(72, 8 * 12 * 12, 8, (3, 3), (1, 1), 1, 4 * 8 * 9, True)
    >>> work.adds, work.address_macs, work.parameters, work.potentials
    (5184, 144, 5184, 10368)
    """
    if convolution:
        fan_out = channels_out // groups
        touched = spikes * fan_out * kernel[0] * kernel[1]
        adds = spikes * fan_out * math.ceil(kernel[0] / stride[0]) * math.ceil(kernel[1] / stride[1])
    else:
        touched = adds = spikes * outputs
    biases = outputs * samples if bias else 0
    return Work(
        adds=adds + biases,
        address_adds=touched,
        address_macs=2 * spikes if convolution else 0,
        parameters=touched + biases,
        potentials=2 * touched,
        in_out=spikes,
        parameter_words=weights + (channels_out if bias else 0),
        potential_words=outputs,
        in_out_words=fifo,
    )


def dense_synapses(
    macs: int,
    inputs: int,
    outputs: int,
    taps: int,
    weights: int,
    convolution: bool,
    last: bool = False,
    samples: int = 1,
) -> Work:
    """Return the work of a dense layer: MACs, each with a weight read (and an input read in a convolution).

    Addresses: N_in + N_out additions, and C_out * kh * kw (`taps`) in a convolution.

    >>> dense_synapses(12, inputs=4, outputs=3, taps=0, weights=12, convolution=False).address_adds
    7
    """
    return Work(
        macs=macs,
        address_adds=samples * (inputs + outputs + (taps if convolution else 0)),
        parameters=macs,
        in_out=(macs if convolution else samples * inputs) + (samples * outputs if last else 0),
        parameter_words=weights,
        in_out_words=inputs,
    )


def neurons(outputs: int, spikes: int, leaky: bool = False, fifo: int = 1000, samples: int = 1) -> Work:
    """Return the work of N_out neurons: potentials read and written, T_out resets, T_out spikes written.

    >>> neurons(10, spikes=3, leaky=True)
    Work(adds=3, macs=10, address_adds=0, address_macs=0, parameters=0, potentials=20, in_out=3, parameter_words=0, \
potential_words=10, in_out_words=1000)
    """
    return Work(
        adds=spikes,
        macs=samples * outputs if leaky else 0,
        potentials=2 * samples * outputs,
        in_out=spikes,
        potential_words=outputs,
        in_out_words=fifo,
    )


def work_pj(work: Work, memories: Memories) -> dict[str, float]:
    """Return the energy of a layer's work by the terms of `profiles.MODELLED`."""
    return {
        "operations": work.adds * ADD_PJ + work.macs * MAC_PJ,
        "addressing": work.address_adds * ADD_PJ + work.address_macs * MAC_PJ,
        "parameters": memories.bits_pj(work.parameters * WORD_BITS, work.parameter_words * WORD_BYTES),
        "potentials": memories.bits_pj(work.potentials * WORD_BITS, work.potential_words * WORD_BYTES),
        "in_out": memories.bits_pj(work.in_out * WORD_BITS, work.in_out_words * WORD_BYTES),
    }


def layer_work(layer: LayerReport, samples: int, memories: Memories) -> Work | None:
    """Return the work of an op over all samples; None for ops that the model does not know (pools, sums, the readout).

    Spikes with levels above 1 are no spikes of this model: such a layer is the dense layer.
    """
    fifo = (memories.message_bytes or 4000) // WORD_BYTES
    outputs = math.prod(layer.output_shape)
    if layer.op == "Threshold":
        return neurons(outputs, layer.spikes, fifo=fifo, samples=samples)
    if layer.op not in ("Conv2d", "Linear"):
        return None
    convolution, channels = layer.op == "Conv2d", layer.output_shape[0]
    if layer.spiking and layer.input_bits == 1:
        return spiking_synapses(
            layer.events, outputs, channels, layer.kernel, layer.stride, layer.groups, layer.weights, convolution,
            fifo=fifo, samples=samples,
        )  # fmt: skip
    return dense_work(layer, samples)


def dense_work(layer: LayerReport, samples: int) -> Work:
    """Return the work of a product over all samples as a dense layer."""
    convolution, channels = layer.op == "Conv2d", layer.output_shape[0]
    macs = samples * layer.weights * math.prod(layer.output_shape[1:])  # borders are ignored
    taps = channels * layer.kernel[0] * layer.kernel[1]
    inputs, outputs = math.prod(layer.input_shape), math.prod(layer.output_shape)
    return dense_synapses(macs, inputs, outputs, taps, layer.weights, convolution, samples=samples)
