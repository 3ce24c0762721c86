"""Lava's netx files (HDF5) of integer networks: binary neurons of Loihi in thermometer form, one time step a layer.

A level in low..high is carried by m = high - low neurons for each unit, as in NIR (see `nir_export`): neuron i of
channel c is channel c*m + i, and level = sum_i sign_i * spike_i. A `CUBA` neuron with iDecay = vDecay = 4096 forgets
everything between steps and fires where a + bias > vThMant, with integers; vThMant is one number for the layer, the
bias one for a neuron. The first layer hears codes minus zero point as graded spikes, so a reader needs
`hdf5.Network(file, input_message_bits=...)`, which the file states in its dataset `maqd_snn`. The last layer never
fires: its voltage / 64 is the class score.

netx knows a chain of convolutions and dense layers. So sums of levels (pools, flattening) are folded into the product
that follows, a maximum of spikes is a layer of its own, and each copy of a unit has its own synapses: size grows with
m squared. What Loihi's integers do not hold is refused.

netx is legacy: Lava is archived. Source of the layout and of the limits: lava-dl 0.6.0 (`netx/hdf5.py`), lava-nc 0.10.0
(`proc/lif/models.py`, `proc/dense/models.py`).

Axis letters: C channels, O output channels, I input channels, H height, W width, m neurons per unit.
"""

import json
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from maqd_snn._version import __version__
from maqd_snn.errors import MaqdError
from maqd_snn.files import atomic_path
from maqd_snn.hdf5 import hdf5_file
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.geometry import Shape
from maqd_snn.integer.ops import Op, Pair
from maqd_snn.integer.storage import fingerprint

Array = NDArray[np.int64]

ATTRIBUTE = "maqd_snn"
# Of what that dataset states; older files state none. Raise it when a reader that knows only this one would be wrong.
FORMAT_VERSION = 1
FORGETS = 4096  # a decay of 4096 of 4096 in each step
LARGEST_WEIGHT = 127  # netx shifts weights up to 8 bits and sign; odd ones above lose their last bit
LARGEST_SUM = 2**17 - 1  # currents and voltages have 24 bits, 6 of them behind the point
LARGEST_THRESHOLD = 2**17 - 1
BIAS_LOW, BIAS_HIGH = -4096, 4095
MOST_GROUPS = 127  # lava-nc keeps their number in 8 bits with a sign: 256 are none, 128 to 255 less than none
ONE = (1, 1)


@dataclass(frozen=True)
class Layer:
    """A layer of the file: a product and the neurons behind it.

    Attributes:
        op: name of the op that the neurons stand for. weight: (O, I / groups, kh, kw), or (O, I) of a dense layer.
        bias: (O,). threshold: vThMant. signs: of the m neurons of a unit; () of the class scores.
        flatten: whether its input is flattened first. shape: of its output.
    """

    op: str
    weight: Array
    bias: Array
    threshold: int
    signs: tuple[int, ...]
    shape: Shape
    flatten: bool = False
    stride: Pair = ONE
    padding: Pair = (0, 0)
    groups: int = 1


@dataclass(frozen=True)
class _Product:
    """What the next neurons hear: a product of levels with plain weights, before units are copied."""

    weight: Array
    shape: Shape
    stride: Pair = ONE
    padding: Pair = (0, 0)
    groups: int = 1
    flatten: bool = False


@dataclass
class _Chain:
    """How far the network is read: the last spikes (or the input), and the linear ops behind them."""

    net: IntegerNetwork
    layers: list[Layer]
    shape: Shape  # of the last spikes, as levels
    signs: tuple[int, ...] = (1,)
    spikes: bool = False
    pool: ops.SumPool2d | None = None
    flat: bool = False
    product: _Product | None = None


def netx_layers(net: IntegerNetwork) -> list[Layer]:
    """Return the layers that compute what the network computes.

    Raises:
        MaqdError: an op, a branch or a number that netx or Loihi's integers cannot express; it names the op.
    """
    chain = _Chain(net, [], net.input.shape)
    for before, op in zip([None, *net.ops], net.ops, strict=False):
        if type(op) not in _ROWS:
            raise MaqdError(
                f"{op.name}: netx has no {type(op).__name__}: its networks are chains without branches; "
                "export as nir or onnx"
            )
        if before is not None and op.inputs != (before.name,):
            raise MaqdError(f"{op.name}: netx networks are chains, this op reads {', '.join(op.inputs)}; export as nir")
        _ROWS[type(op)](chain, op)
    if not chain.layers or chain.layers[-1].signs:
        raise MaqdError("netx needs a network that ends in a Readout; export as onnx")
    return [_in_few_groups(layer) for layer in chain.layers]


def _in_few_groups(layer: Layer) -> Layer:
    """Join neighbouring groups, with zeros between them, until lava-nc can count them."""
    if layer.groups <= MOST_GROUPS:
        return layer
    groups = max(count for count in range(1, MOST_GROUPS + 1) if layer.groups % count == 0)
    joined = layer.groups // groups
    outputs, inputs, *kernel = layer.weight.shape
    apart = layer.weight.reshape(groups, joined, outputs // layer.groups, inputs, *kernel)
    weight = np.zeros((*apart.shape[:3], joined, *apart.shape[3:]), np.int64)
    for each in range(joined):
        weight[:, each, :, each] = apart[:, each]
    return replace(layer, weight=weight.reshape(outputs, joined * inputs, *kernel), groups=groups)


def write_netx(net: IntegerNetwork, path: Path) -> None:
    """Write the layers of `netx_layers(net)` to `path`, atomically; raises as it does."""
    layers = netx_layers(net)
    statement = {
        "library": f"maqd-snn {__version__}",
        "format_version": FORMAT_VERSION,
        "form": "thermometer: level = sum of sign * spike over the m channels c*m .. c*m + m-1 of a unit",
        "input": "codes minus zero_point, as graded spikes: hdf5.Network(file, input_message_bits=...)",
        "zero_point": net.input.zero_point,
        "input_message_bits": message_bits(net.input),
        "output": "voltage / 64 of the last layer, which never fires",
        "layers": [{"op": layer.op, "signs": list(layer.signs)} for layer in layers],
        "fingerprint": fingerprint(net),
        "provenance": json.dumps(net.provenance, sort_keys=True),
    }
    with atomic_path(path) as temporary, hdf5_file(temporary) as file:
        first = _group(file, 0, "input")
        first["shape"] = np.array(_flat_shape(net.input.shape) if layers[0].flatten else net.input.shape)
        index = 1
        for position, layer in enumerate(layers):
            if layer.flatten and position > 0:
                flat = _group(file, index, "flatten")
                flat["shape"] = np.array([layer.weight.shape[1], 1, 1])
                index += 1
            _write_layer(file, index, layer)
            index += 1
        # Too long for an attribute, which must fit 64 KiB.
        file.create_dataset(ATTRIBUTE, data=json.dumps(statement))


def message_bits(code: ops.Input) -> int:
    """Return the bits, a sign among them, of a graded spike of codes minus zero point.

    >>> message_bits(ops.Input("in", shape=(1,), high=255)), message_bits(ops.Input("in", shape=(1,), low=-2, high=1))
    (9, 3)
    """
    return max(abs(code.low - code.zero_point), abs(code.high - code.zero_point)).bit_length() + 1


def _flat_shape(shape: Shape) -> Shape:
    return (prod(shape),)


def _group(file: h5py.File, index: int, kind: str) -> h5py.Group:
    group = file.create_group(f"layer/{index}")
    group["type"] = np.array([kind], "S10")
    return group


def _write_layer(file: h5py.File, index: int, layer: Layer) -> None:
    dense = layer.weight.ndim == 2
    group = _group(file, index, "dense" if dense else "conv")
    group["shape"] = np.array(layer.shape)
    if dense:
        group["outFeatures"], group["inFeatures"] = layer.weight.shape
    else:
        group["inChannels"] = layer.weight.shape[1] * layer.groups
        group["outChannels"] = layer.weight.shape[0]
        group["kernelSize"] = np.array(layer.weight.shape[2:])
        group["stride"], group["padding"] = np.array(layer.stride), np.array(layer.padding)
        group["dilation"], group["groups"] = np.array(ONE), layer.groups
    group.create_dataset("weight", data=layer.weight.astype(np.float32), compression="gzip")
    group["bias"] = layer.bias.astype(np.int32)
    neuron = group.create_group("neuron")
    neuron["type"] = np.array(["CUBA"], "S10")
    neuron["iDecay"] = neuron["vDecay"] = FORGETS
    neuron["vThMant"], neuron["refDelay"], neuron["gradedSpike"] = layer.threshold, 1, False


def _input(chain: _Chain, op: ops.Input) -> None:
    pass


def _flatten(chain: _Chain, op: ops.Flatten) -> None:
    if chain.product is not None:
        raise MaqdError(f"{op.name}: netx flattens spikes only, these are accumulators; export as nir or onnx")
    chain.flat = chain.flat or len(chain.shape) > 1


def _sum_pool(chain: _Chain, op: ops.SumPool2d) -> None:
    if chain.product is not None:
        if op.padding != (0, 0):
            raise MaqdError(f"{op.name}: netx pools accumulators without padding only; export as nir or onnx")
        chain.product = _then_pooled(chain, op, chain.product)
    elif chain.pool is not None:
        raise MaqdError(f"{op.name}: netx has no pool of a pool; export as nir or onnx")
    else:
        chain.pool = op


def _then_pooled(chain: _Chain, op: ops.SumPool2d, product: _Product) -> _Product:
    if product.weight.ndim == 2:
        raise MaqdError(f"{op.name}: netx has no pool of features; export as onnx")
    weight = _compose(product.weight, np.ones(op.kernel, np.int64), product.stride)
    stride = (product.stride[0] * op.stride[0], product.stride[1] * op.stride[1])
    return replace(product, weight=weight, stride=stride, shape=chain.net.shapes[op.name])


def _compose(first: Array, second: Array, stride: Pair) -> Array:
    """Return the kernel of `first` (..., h, w), at this stride, followed by one channel of `second` (..., H, W).

    >>> _compose(np.array([[[[1, 2]]]]), np.ones((1, 2), np.int64), (1, 1)).tolist()
    [[[[1, 3, 2]]]]
    """
    (h, w), (high, wide) = first.shape[-2:], second.shape[-2:]
    size = ((high - 1) * stride[0] + h, (wide - 1) * stride[1] + w)
    outer = np.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    kernel = np.zeros((*outer, *size), np.int64)
    for y in range(high):
        for x in range(wide):
            top, left = y * stride[0], x * stride[1]
            kernel[..., top : top + h, left : left + w] += first * second[..., y, x][..., None, None]
    return kernel


def _dilated(weight: Array, dilation: Pair) -> Array:
    size = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    wide = np.zeros((*weight.shape[:2], *size), np.int64)
    wide[:, :, :: dilation[0], :: dilation[1]] = weight
    return wide


def _conv2d(chain: _Chain, op: ops.Conv2d) -> None:
    _first_product(chain, op)
    weight, stride, padding = _dilated(op.weight.numpy(), op.dilation), op.stride, op.padding
    if chain.pool is not None:
        pool, size = chain.pool, chain.shape[1:]
        tiles = pool.kernel == pool.stride and all(n % k == 0 for n, k in zip(size, pool.kernel, strict=True))
        if pool.padding != (0, 0) or (padding != (0, 0) and not tiles):
            raise MaqdError(f"{pool.name}: netx needs sum-pools whose windows tile the image; export as nir or onnx")
        # Zeros around the pooled image are windows of zeros around the image.
        weight = _compose(np.ones((1, 1, *pool.kernel), np.int64), weight, pool.stride)
        stride = (stride[0] * pool.stride[0], stride[1] * pool.stride[1])
        padding = (padding[0] * pool.stride[0], padding[1] * pool.stride[1])
        chain.pool = None
    chain.product = _Product(weight, chain.net.shapes[op.name], stride, padding, op.groups)


def _linear(chain: _Chain, op: ops.Linear) -> None:
    _first_product(chain, op)
    weight = op.weight.numpy()
    if chain.pool is not None:
        weight = _unpooled(weight, chain.shape, chain.pool)
        chain.pool = None
    chain.product = _Product(weight, chain.net.shapes[op.name], flatten=chain.flat)


def _unpooled(weight: Array, shape: Shape, pool: ops.SumPool2d) -> Array:
    """Return the weight (O, C*H*W) on an image for a weight (O, C*h*w) on its sum-pooled values."""
    (channels, height, width), (pad_h, pad_w) = shape, pool.padding
    wide = np.zeros((len(weight), channels, height + 2 * pad_h, width + 2 * pad_w), np.int64)
    rows, columns = (
        (size + 2 * p - k) // s + 1
        for size, p, k, s in zip(shape[1:], pool.padding, pool.kernel, pool.stride, strict=True)
    )
    pooled = weight.reshape(len(weight), channels, rows, columns)
    for y in range(pool.kernel[0]):
        for x in range(pool.kernel[1]):
            window = wide[:, :, y :: pool.stride[0], x :: pool.stride[1]]
            window[:, :, :rows, :columns] += pooled
    return wide[:, :, pad_h : pad_h + height, pad_w : pad_w + width].reshape(len(weight), -1)


def _first_product(chain: _Chain, op: Op) -> None:
    if chain.product is not None:
        raise MaqdError(f"{op.name}: netx needs spikes between two products; export as nir or onnx")


def _heard(chain: _Chain, op: Op) -> _Product:
    """Return the product that the neurons of the op hear: the values themselves where there is none."""
    if chain.product is not None:
        return chain.product
    if len(chain.shape) == 1 or chain.flat:
        raise MaqdError(f"{op.name}: netx needs a product before neurons of features; export as nir or onnx")
    channels = chain.shape[0]
    if chain.pool is None:
        return _Product(np.ones((channels, 1, 1, 1), np.int64), chain.shape, groups=channels)
    return _window(chain, chain.pool)


def _window(chain: _Chain, pool: ops.SumPool2d | ops.MaxPool2d) -> _Product:
    channels = chain.shape[0]
    ones = np.ones((channels, 1, *pool.kernel), np.int64)
    return _Product(ones, chain.net.shapes[pool.name], pool.stride, pool.padding, channels)


def _threshold(chain: _Chain, op: ops.Threshold) -> None:
    high = op.low + op.levels
    if not op.low <= 0 <= high:
        raise MaqdError(f"{op.name}: in netx, silence is level 0, not among {op.low}..{high}; export as onnx")
    bound = chain.net.bounds[op.inputs[0]]
    signs = np.where(np.arange(op.low, high) >= 0, 1, -1)  # (m,), of the levels low + 1 .. high
    direction = op.direction.numpy()[:, None]
    turned = direction * op.thresholds.numpy()
    # Level j is reached where direction * z >= turned, and is not where -direction * z >= 1 - turned.
    least = np.where(signs > 0, turned, 1 - turned)
    _emit(chain, op, _heard(chain, op), signs * direction, least, bound, tuple(signs.tolist()))


def _max_pool(chain: _Chain, op: ops.MaxPool2d) -> None:
    if not chain.spikes or chain.product is not None or chain.pool is not None or chain.flat:
        raise MaqdError(f"{op.name}: netx has a maximum of spikes only; pool after the spikes, or export as onnx")
    if min(chain.signs) < 0 and op.padding != (0, 0):
        raise MaqdError(f"{op.name}: netx has no padding for the maximum of signed levels; export as onnx")
    spikes, area = chain.shape[0] * len(chain.signs), op.kernel[0] * op.kernel[1]
    # The maximum reaches j > 0 where any level of the window does; it is below j <= 0 where all levels are.
    least = np.tile(np.where(np.array(chain.signs) > 0, 1, area), chain.shape[0])[:, None]
    signs, chain.signs, chain.shape = chain.signs, (1,), (spikes, *chain.shape[1:])
    heard = replace(_window(chain, op), shape=(spikes, *chain.net.shapes[op.name][1:]))
    _emit(chain, op, heard, np.ones_like(least), least, area, signs)


def _readout(chain: _Chain, op: ops.Readout) -> None:
    product, bias = _heard(chain, op), op.bias.numpy()
    if bias.min() < BIAS_LOW or bias.max() > BIAS_HIGH:
        raise MaqdError(f"{op.name}: a class bias has 13 bits in netx, got {bias.min()}..{bias.max()}; export as nir")
    _check_sum(op, max(chain.net.bounds[op.name], chain.net.bounds[op.inputs[0]]))
    weight = _on_copies(chain, product)
    _check_weight(op, weight)
    chain.layers.append(Layer(op.name, weight, bias, LARGEST_THRESHOLD, (), product.shape, product.flatten))


def _emit(
    chain: _Chain, op: Op, product: _Product, factor: Array, least: Array, bound: int, signs: tuple[int, ...]
) -> None:
    """Add neurons, number c*m + i of which fires where factor[c, i] * z_c >= least[c, i], for abs(z) <= bound."""
    _check_sum(op, bound)
    never, always = (least > bound).reshape(-1), (least <= -bound).reshape(-1)
    varies = ~(never | always)
    reached = least.reshape(-1)[varies]
    # bias = threshold + 1 - least must fit, and what always fires has the largest bias and no synapses.
    low, high = 0, LARGEST_THRESHOLD
    if reached.size:
        low, high = max(low, int(reached.max()) - 1 + BIAS_LOW), min(high, int(reached.min()) - 1 + BIAS_HIGH)
    if always.any():
        high = min(high, BIAS_HIGH - 1)
    if low > high:
        raise MaqdError(
            f"{op.name}: its thresholds lie between {reached.min()} and {reached.max()}, but a layer in netx has one "
            f"threshold from 0 on and biases of 13 bits; use fewer states in that layer, or export as nir"
        )
    threshold = (low + high) // 2 if reached.size else 0
    bias = np.where(never, -1, np.where(always, BIAS_HIGH, threshold + 1 - least.reshape(-1)))
    copies = factor.shape[1]
    weight = np.repeat(_on_copies(chain, product), copies, axis=0)
    weight = weight * np.where(varies, factor.reshape(-1), 0).reshape(-1, *(1,) * (weight.ndim - 1))
    _check_weight(op, weight)
    shape = (product.shape[0] * copies, *product.shape[1:])
    chain.layers.append(
        Layer(
            op.name,
            weight,
            bias,
            threshold,
            signs,
            shape,
            product.flatten,
            product.stride,
            product.padding,
            product.groups,
        )
    )
    chain.shape, chain.signs, chain.spikes = chain.net.shapes[op.name], signs, True
    chain.product, chain.pool, chain.flat = None, None, False


def _on_copies(chain: _Chain, product: _Product) -> Array:
    """Return the weight of the product on the m copies of every unit, each with its sign."""
    signs, weight = np.array(chain.signs), product.weight
    if weight.ndim == 4:
        copied: Array = np.repeat(weight, len(signs), axis=1) * np.tile(signs, weight.shape[1])[None, :, None, None]
        return copied
    units = weight.reshape(len(weight), chain.shape[0], 1, -1)  # a channel's positions stand together
    spread: Array = (units * signs[None, None, :, None]).reshape(len(weight), -1)
    return spread


def _check_sum(op: Op, bound: int) -> None:
    if bound > LARGEST_SUM:
        raise MaqdError(
            f"{op.name}: its accumulators can reach {bound}, but Loihi's neurons hold sums up to {LARGEST_SUM}; "
            "use fewer states or narrower layers, or export as nir"
        )


def _check_weight(op: Op, weight: Array) -> None:
    largest = int(np.abs(weight).max())
    if largest > LARGEST_WEIGHT:
        raise MaqdError(f"{op.name}: netx holds weights up to {LARGEST_WEIGHT}, got {largest}; export as nir")
    if largest == 0:
        raise MaqdError(f"{op.name}: all its neurons are constant, and lava-dl fails on a layer without synapses")


_ROWS: dict[type[Op], Any] = {
    ops.Input: _input,
    ops.Conv2d: _conv2d,
    ops.Linear: _linear,
    ops.Threshold: _threshold,
    ops.MaxPool2d: _max_pool,
    ops.SumPool2d: _sum_pool,
    ops.Flatten: _flatten,
    ops.Readout: _readout,
}
