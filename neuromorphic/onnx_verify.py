"""Running ONNX files that `onnx_export` wrote: standard operators in onnxruntime, QONNX in qonnx's own executor.

A file is data, never trusted: only the operators that the exporter writes are run, nothing is read from other files, and
names of domains, which qonnx would import as Python modules, are compared with the two known ones first.
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
from maqd_snn.neuromorphic.onnx_export import BATCH, QONNX_DOMAIN, onnx_package

# What protobuf can hold in one message; the exporter writes no file of several parts.
LARGEST_FILE = 2**31 - 1

# Elements of a batch's largest tensor: 64 MiB in float32.
LARGEST_TENSOR = 2**24

STANDARD = frozenset(
    "Add Cast Clip Conv Flatten GreaterOrEqual MatMul MaxPool Mul ReduceSum Relu Sub Unsqueeze".split()
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
        qonnx = any(node.domain == QONNX_DOMAIN for node in model.graph.node)
        name, number = _input(model, codes)
        # The comparisons of all levels along an axis make the largest tensor.
        sizes = [prod(net.shapes[op.name]) * (op.levels if isinstance(op, ops.Threshold) else 1) for op in net.ops]
        batch = max(1, min(len(codes), LARGEST_TENSOR // max(sizes)))
        run = _qonnx(model, name) if qonnx else _onnxruntime(model, name)
        parts = [run(codes[start : start + batch].astype(number)) for start in range(0, len(codes), batch)]
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


def _onnxruntime(model: Any, name: str) -> Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx", "verifying ONNX files") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; nothing is printed beside it
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
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
    first_axes = [
        info.type.tensor_type.shape.dim[0]
        for info in (*graph.input, *graph.value_info, *graph.output)
        if info.type.tensor_type.shape.dim and info.type.tensor_type.shape.dim[0].dim_param == BATCH
    ]

    def run(codes: NDArray[Any]) -> Scores:
        for axis in first_axes:
            axis.dim_value = len(codes)
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
