"""The same network with its spikes before its pools.

max(z_1, z_2, ...) >= theta holds where any z_i >= theta, so a threshold of direction +1 and a maximum can change
places: the level of the largest accumulator is the largest level. What is pooled then is spikes, which is what spiking
formats and chips know.
"""

from dataclasses import replace

from maqd_snn.integer.network import IntegerNetwork
from maqd_snn.integer.ops import MaxPool2d, Op, Threshold


def spikes_before_pools(net: IntegerNetwork) -> IntegerNetwork:
    """Return a network of the same outputs in which no threshold of direction +1 stands behind a max-pool of its own.

    A pair stays as it is where a channel's direction is -1 (a negative gain: there the level of the largest accumulator
    is the smallest one), or where something else reads the pool. Names go with the ops: the pool's output is then what
    the threshold's was.

    >>> import torch
    >>> from maqd_snn import build, fold
    >>> net = fold(build("vgg", input_shape=(3, 8, 8), classes=4, plan="8-M-8", pool_first=True))
    >>> [op.name for op in net.ops], [op.name for op in spikes_before_pools(net).ops]
    ... # doctest: +NORMALIZE_WHITESPACE
    (['input', 'conv1', 'pool1', 'spike1', 'conv2', 'spike2', 'flatten', 'classifier', 'readout'],
     ['input', 'conv1', 'spike1', 'pool1', 'conv2', 'spike2', 'flatten', 'classifier', 'readout'])
    """
    graph = list(net.ops)
    while pair := _next_pair(graph):
        pool, threshold = pair
        swapped: dict[str, list[Op]] = {
            pool.name: [replace(threshold, inputs=pool.inputs), replace(pool, inputs=(threshold.name,))],
            threshold.name: [],
        }
        graph = [new for op in graph for new in swapped.get(op.name, [_reading(op, threshold.name, pool.name)])]
    return IntegerNetwork(graph, net.provenance)


def _next_pair(graph: list[Op]) -> tuple[MaxPool2d, Threshold] | None:
    for pool in graph:
        readers = [op for op in graph if pool.name in op.inputs]
        if isinstance(pool, MaxPool2d) and len(readers) == 1:
            reader = readers[0]
            if isinstance(reader, Threshold) and bool((reader.direction == 1).all()):
                return pool, reader
    return None


def _reading(op: Op, old: str, new: str) -> Op:
    return replace(op, inputs=tuple(new if name == old else name for name in op.inputs)) if old in op.inputs else op
