"""Running ONNX files that `onnx_export` wrote: in onnxruntime and in qonnx's own executor, which runs QONNX, too.

A file is data, never trusted: only the operators that the exporter writes are run, nothing is read from other files, no
tensor may be larger than the network's own, and names of domains, which qonnx would import as Python modules, are
compared with the known ones first.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maqd_snn.errors import MaqdError, MissingExtraError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.neuromorphic.check import Check, LayerCheck, compare, not_run
from maqd_snn.neuromorphic.onnx_export import (
    FORM_NAMES,
    FORMAT_VERSION,
    IR_VERSION,
    OPSET,
    QONNX_DOMAIN,
    QONNX_VERSION,
    WITH_FOREIGN_OPERATORS,
    onnx_package,
)

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
        "ConvInteger",
        "DequantizeLinear",
        "Flatten",
        "GreaterOrEqual",
        "MatMul",
        "MatMulInteger",
        "MaxPool",
        "Mul",
        "QuantizeLinear",
        "ReduceSum",
        "Relu",
        "Sub",
        "Unsqueeze",
    }
)
QONNX = frozenset({"Quant", "MultiThreshold"})

Scores = NDArray[Any]
# codes -> tensors by name: the file's output, and those named after ops of the network.
Run = Callable[[NDArray[Any]], dict[str, Scores]]


@dataclass(frozen=True)
class OnnxRuntime:
    """One runtime of ONNX files.

    Attributes:
        package: that must be installed. prepare: (model, name of its input, names of tensors to show) -> Run.
        foreign: whether it runs QONNX's operators. note: what a reader should know.
    """

    package: str
    prepare: Callable[[Any, str, list[str]], Run]
    foreign: bool
    note: str


def verify_onnx(path: Path, codes: NDArray[np.int64], expected: NDArray[np.int64], net: IntegerNetwork) -> list[Check]:
    """Run the file on `codes` in every runtime of `ONNX_RUNTIMES`, and compare every class score and every op's output.

    Files of standard operators run in onnxruntime on the CPU and in qonnx's executor, those with QONNX operators in the
    latter only.

    Args:
        path: a file that one of this package's ONNX exporters wrote.
        codes: (B, *input shape) input codes.
        expected: (B, classes) the integer network's scores.
        net: the network that the file should be.

    Raises:
        MaqdError: a damaged, truncated or foreign file, or one with operators that the exporter does not write.
            MissingExtraError: no runtime that could run it is installed.
    """
    try:
        model = _load(path)
        name, number = _input(model, codes)
        largest = _largest_tensor(net)
        model = _sized(model, largest)
        form = _form_of(model)
        batch = max(1, min(len(codes), BATCH_ELEMENTS // largest))
        checks: list[Check] = []
        missing: list[MissingExtraError] = []
        for entry in ONNX_RUNTIMES.values():
            if form in WITH_FOREIGN_OPERATORS and not entry.foreign:
                checks.append(not_run(form, entry.package, "it has no QONNX operators"))
                continue
            try:
                checks.append(_run(form, entry, model, name, codes.astype(number), expected, net, batch))
            except MissingExtraError as error:
                missing.append(error)
                checks.append(not_run(form, entry.package, f"not installed; {error}"))
        if missing and not any(check.ran for check in checks):
            raise missing[0]
        return checks
    except MissingExtraError:
        raise
    except MaqdError as error:
        raise MaqdError(f"{str(path)!r} is not a usable ONNX file: {error}") from error


def _form_of(model: Any) -> str:
    stated: str = {entry.key: entry.value for entry in model.metadata_props}.get("maqd_snn_form", "")
    foreign = any(node.domain == QONNX_DOMAIN for node in model.graph.node)
    if stated in FORM_NAMES and (stated in WITH_FOREIGN_OPERATORS) == foreign:
        return stated
    return "qonnx" if foreign else "onnx"


def _run(
    form: str,
    entry: OnnxRuntime,
    model: Any,
    name: str,
    codes: NDArray[Any],
    expected: NDArray[np.int64],
    net: IntegerNetwork,
    batch: int,
) -> Check:
    output = model.graph.output[0].name
    made = {produced for node in model.graph.node for produced in node.output} - {output}
    shown = [op.name for op in net.ops if op.name in made]
    run = entry.prepare(model, name, shown)
    values, wrong = dict.fromkeys(shown, 0), dict.fromkeys(shown, 0)
    parts = []
    for start in range(0, len(codes), batch):
        chunk = codes[start : start + batch]
        tensors = run(chunk)
        part = _numbers(tensors[output])
        if part.shape != expected[start : start + batch].shape:
            raise MaqdError(
                f"it gives class scores of shape {part.shape} for {len(chunk)} samples, "
                f"expected {expected.shape[1:]} each: it was not exported from this network"
            )
        parts.append(part)
        if shown:
            truth = net.trace(torch.from_numpy(chunk.astype(np.int64)))
            for op in shown:
                got = _numbers(tensors[op])
                if got.shape != tuple(truth[op].shape):
                    raise MaqdError(
                        f"its tensor {op!r} has the shape {got.shape}: it was not exported from this network"
                    )
                values[op] += got.size
                wrong[op] += int((got.astype(np.float64) != truth[op].numpy()).sum())
    layers = [LayerCheck(op, values[op], wrong[op]) for op in shown]
    title = f"{entry.package} {version(entry.package)}"
    return compare(form, title, np.concatenate(parts), expected, entry.note, layers)


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
    _check_versions(model)
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


def _check_versions(model: Any) -> None:
    """Raise MaqdError for a file of a newer ONNX, QONNX or maqd-snn than what this version writes."""
    stated = {entry.key: entry.value for entry in model.metadata_props}.get("maqd_snn_format_version", "1")
    # Protobuf gives bytes where it is no text.
    if not isinstance(stated, str) or not re.fullmatch(r"[0-9]{1,9}", stated):
        raise MaqdError(f"its format version is {stated[:20]!r}, expected a whole number from 1 to {FORMAT_VERSION}")
    known = {"": OPSET, "ai.onnx": OPSET, QONNX_DOMAIN: QONNX_VERSION}
    versions = [("format", int(stated), FORMAT_VERSION), ("IR", model.ir_version, IR_VERSION)]
    versions += [(f"{each.domain or 'ONNX'} operator", each.version, known[each.domain])
                 for each in model.opset_import if each.domain in known]  # fmt: skip
    for name, found, newest in versions:
        if found > newest:
            raise MaqdError(f"its {name} version {found} is newer than {newest}, the last one read; update maqd-snn")


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


def _onnxruntime(model: Any, name: str, shown: list[str]) -> Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx", "running ONNX files") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; nothing is printed beside it
    options.intra_op_num_threads = torch.get_num_threads()
    traced = type(model)()
    traced.CopyFrom(model)
    known = {info.name: info for info in traced.graph.value_info}
    traced.graph.output.extend(known[tensor] for tensor in shown)
    names = [output.name for output in traced.graph.output]
    try:
        session = onnxruntime.InferenceSession(traced.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common class below Exception
        raise _refused("onnxruntime cannot load it", error) from error

    def run(codes: NDArray[Any]) -> dict[str, Scores]:
        try:
            return dict(zip(names, session.run(names, {name: codes}), strict=True))
        except Exception as error:
            raise _refused("onnxruntime cannot run it", error) from error

    return run


def _qonnx(model: Any, name: str, shown: list[str]) -> Run:
    try:
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx
    except ImportError as error:
        raise MissingExtraError("qonnx", "onnx", "running QONNX files") from error
    sized = type(model)()
    sized.CopyFrom(model)
    graph = sized.graph
    names = [*shown, graph.output[0].name]
    # The executor makes a buffer per tensor before it runs, so every shape must be known: the batch is written in.
    batch_axes = [
        dim
        for info in (*graph.input, *graph.value_info, *graph.output)
        for dim in info.type.tensor_type.shape.dim
        if not dim.HasField("dim_value")
    ]

    def run(codes: NDArray[Any]) -> dict[str, Scores]:
        for dim in batch_axes:
            dim.dim_value = len(codes)
        try:
            tensors = execute_onnx(ModelWrapper(sized), {name: codes}, return_full_exec_context=True)
            return {tensor: tensors[tensor] for tensor in names}
        except Exception as error:  # qonnx raises plain Exceptions
            raise _refused("qonnx cannot run it", error) from error

    return run


ONNX_RUNTIMES: Mapping[str, OnnxRuntime] = MappingProxyType(
    {
        "onnxruntime": OnnxRuntime("onnxruntime", _onnxruntime, False, "CPUExecutionProvider"),
        "qonnx": OnnxRuntime("qonnx", _qonnx, True, "executed node by node"),
    }
)


def _numbers(output: Any) -> Scores:
    scores = np.asarray(output)
    if scores.dtype.kind not in "iuf":
        raise MaqdError(f"its output is {scores.dtype}, expected numbers")
    return scores
