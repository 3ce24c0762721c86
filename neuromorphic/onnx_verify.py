"""Running ONNX files that `onnx_export` wrote: standard operators in onnxruntime, QONNX in qonnx's own executor.

A file is data, never trusted: only the operators that the exporter writes are run, nothing is read from other files, no
tensor may be larger than the network's own, and names of domains, which qonnx would import as Python modules, are
compared with the known ones first.
"""

from collections.abc import Callable
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maqd_snn.errors import MaqdError, MissingExtraError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.neuromorphic.check import Check, compare
from maqd_snn.neuromorphic.onnx_export import QONNX_DOMAIN, onnx_package

# What protobuf can hold in one message; the exporter writes no file of several parts.
LARGEST_FILE = 2**31 - 1

# Elements of the largest tensor of a batch: 64 MiB in float32.
BATCH_ELEMENTS = 2**24

STANDARD = frozenset(
    {
        "Add",
        "Cast",
        "Clip",
        "Conv",
        "Flatten",
        "GreaterOrEqual",
        "MatMul",
        "MaxPool",
        "Mul",
        "ReduceSum",
        "Relu",
        "Sub",
        "Unsqueeze",
    }
)
QONNX = frozenset({"Quant", "MultiThreshold"})

Scores = NDArray[Any]
Run = Callable[[NDArray[Any]], Scores]


def verify_onnx(path: Path, codes: NDArray[np.int64], expected: NDArray[np.int64], net: IntegerNetwork) -> Check:
    """Run the file on `codes` and compare every class score with `expected`.

    A file of standard operators runs in onnxruntime on the CPU, one with QONNX operators in qonnx's executor.

    Args:
        path: a file that `write_onnx` or `write_qonnx` wrote.
        codes: (B, *input shape) input codes.
        expected: (B, classes) the integer network's scores.
        net: the network that the file should be.

    Raises:
        MaqdError: a damaged, truncated or foreign file, or one with operators that the exporter does not write.
            MissingExtraError: the runtime is not installed.
    """
    try:
        model = _load(path)
        name, number = _input(model, codes)
        largest = _largest_tensor(net)
        model = _sized(model, largest)
        qonnx = any(node.domain == QONNX_DOMAIN for node in model.graph.node)
        batch = max(1, min(len(codes), BATCH_ELEMENTS // largest))
        run = _qonnx(model, name) if qonnx else _onnxruntime(model, name)
        parts = []
        for start in range(0, len(codes), batch):
            part = run(codes[start : start + batch].astype(number))
            if part.shape != expected[start : start + batch].shape:
                raise MaqdError(
                    f"it gives class scores of shape {part.shape} for {len(codes[start : start + batch])} samples, "
                    f"expected {expected.shape[1:]} each: it was not exported from this network"
                )
            parts.append(part)
    except MissingExtraError:
        raise
    except MaqdError as error:
        raise MaqdError(f"{str(path)!r} is not a usable ONNX file: {error}") from error
    runtime = f"qonnx {version('qonnx')}" if qonnx else f"onnxruntime {version('onnxruntime')}"
    note = "executed node by node" if qonnx else "CPUExecutionProvider"
    return compare("qonnx" if qonnx else "onnx", runtime, np.concatenate(parts), expected, note)


def _refused(what: str, error: Exception) -> MaqdError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return MaqdError(f"{what} ({lines[0][:200]})")


def _load(path: Path) -> Any:
    """Return the `ModelProto`, checked; what it does not contain itself is refused, not followed."""
    onnx = onnx_package()
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise MaqdError(f"it has {size} bytes, more than one ONNX file can hold")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise _refused("it cannot be read", error) from error
    except Exception as error:  # protobuf's own exceptions are not onnx's
        raise _refused("it is damaged, truncated or no ONNX", error) from error
    if model.functions:
        raise MaqdError("it defines functions of its own, which maqd-snn does not write")
    for node in model.graph.node:
        allowed = {"": STANDARD, "ai.onnx": STANDARD, QONNX_DOMAIN: QONNX}.get(node.domain, frozenset())
        if node.op_type not in allowed:
            kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise MaqdError(f"it has a node {kind[:80]!r}, which maqd-snn does not write; export the network again")
        # Operators of the list take numbers and lists of numbers only: no graphs, and no tensors beside constants.
        if any(attribute.HasField("g") or attribute.HasField("t") for attribute in node.attribute):
            raise MaqdError(f"its node {node.name[:80]!r} holds a graph or tensor, which maqd-snn does not write")
    if model.graph.sparse_initializer:
        raise MaqdError("it has sparse constants, which maqd-snn does not write")
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise MaqdError(f"its constant {tensor.name[:80]!r} lies in another file; only whole files are read")
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker raises its own and protobuf's exceptions
        raise _refused("it is damaged, truncated or no ONNX", error) from error
    return model


def _input(model: Any, codes: NDArray[np.int64]) -> tuple[str, np.dtype[Any]]:
    """Return the name and number type of the file's one input, which must take these codes."""
    onnx = onnx_package()
    if len(model.graph.input) != 1 or len(model.graph.output) != 1:
        found = f"{len(model.graph.input)} inputs and {len(model.graph.output)} outputs"
        raise MaqdError(f"it has {found}, expected one each")
    info = model.graph.input[0]
    kind = info.type.tensor_type.elem_type
    if kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8, onnx.TensorProto.INT64):
        raise MaqdError("its input is neither float32, uint8 nor int64")
    shape = tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)[1:]
    if shape != codes.shape[1:]:
        raise MaqdError(
            f"it takes codes of shape {shape}, expected {codes.shape[1:]}: it was not exported from this network"
        )
    number = onnx.helper.tensor_dtype_to_np_dtype(kind)
    if not np.array_equal(codes.astype(number).astype(np.int64), codes):
        raise MaqdError(f"its input, {number}, cannot hold these codes; it was not exported from this network")
    return info.name, number


def _largest_tensor(net: IntegerNetwork) -> int:
    """Return the number of elements, per sample, of the largest tensor in a file that was exported from `net`."""
    sizes = [prod(shape) for shape in net.shapes.values()]
    for op in net.ops:
        if isinstance(op, ops.Threshold):  # the comparisons of all levels along one axis
            sizes.append(prod(net.shapes[op.name]) * op.levels)
        elif isinstance(op, ops.Conv2d | ops.Linear):
            sizes.append(op.weight.numel())
        elif isinstance(op, ops.SumPool2d):  # a convolution of ones
            sizes.append(net.shapes[op.name][0] * prod(op.kernel))
    return max(sizes)


def _sized(model: Any, largest: int) -> Any:
    """Return the model with the shapes that follow from its nodes, none of more than `largest` elements per sample.

    What the file itself says of its shapes is believed only for QONNX nodes, whose outputs have their input's shape.
    """
    onnx = onnx_package()
    foreign = {name for node in model.graph.node if node.domain == QONNX_DOMAIN for name in node.output}
    stated = [info for info in model.graph.value_info if info.name in foreign]
    del model.graph.value_info[:]
    model.graph.value_info.extend(stated)
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except Exception as error:  # onnx raises its own and C++ exceptions
        raise _refused("its shapes do not fit", error) from error
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for info in (*graph.input, *graph.value_info, *graph.output):
        shapes[info.name] = tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)  # 0 where it has no value
    for node in graph.node:
        for name in node.output:
            if name not in shapes or shapes[name].count(0) > 1:
                raise MaqdError(f"the shape of {name[:80]!r} cannot be told")
            if node.domain == QONNX_DOMAIN and shapes[name] != shapes.get(node.input[0]):
                raise MaqdError(f"the shape of {name[:80]!r} is not that of its {node.op_type}'s input")
    for name, shape in shapes.items():
        if prod(size or 1 for size in shape) > largest:
            raise MaqdError(f"{name[:80]!r} has the shape {shape}, more than any tensor of this network")
    return model


def _onnxruntime(model: Any, name: str) -> Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx", "verifying ONNX files") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; nothing is printed beside it
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common class below Exception
        raise _refused("onnxruntime cannot load it", error) from error

    def run(codes: NDArray[Any]) -> Scores:
        try:
            return _numbers(session.run(None, {name: codes})[0])
        except Exception as error:
            raise _refused("onnxruntime cannot run it", error) from error

    return run


def _qonnx(model: Any, name: str) -> Run:
    try:
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx
    except ImportError as error:
        raise MissingExtraError("qonnx", "onnx", "verifying QONNX files") from error
    graph = model.graph
    # The executor makes a buffer per tensor before it runs, so every shape must be known: the batch is written in.
    batch_axes = [
        dim
        for info in (*graph.input, *graph.value_info, *graph.output)
        for dim in info.type.tensor_type.shape.dim
        if not dim.HasField("dim_value")
    ]

    def run(codes: NDArray[Any]) -> Scores:
        for dim in batch_axes:
            dim.dim_value = len(codes)
        try:
            return _numbers(execute_onnx(ModelWrapper(model), {name: codes})[graph.output[0].name])
        except Exception as error:  # qonnx raises plain Exceptions
            raise _refused("qonnx cannot run it", error) from error

    return run


def _numbers(output: Any) -> Scores:
    scores = np.asarray(output)
    if scores.dtype.kind not in "iuf":
        raise MaqdError(f"its output is {scores.dtype}, expected numbers")
    return scores
