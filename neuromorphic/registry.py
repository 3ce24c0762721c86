"""The export formats, in a visible table: what writes each, and what runs a written file to verify it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.integer import IntegerNetwork
from maqd_snn.neuromorphic.check import Check
from maqd_snn.neuromorphic.nir_export import write_nir
from maqd_snn.neuromorphic.nir_verify import verify_nir
from maqd_snn.neuromorphic.onnx_export import write_onnx, write_qonnx
from maqd_snn.neuromorphic.onnx_verify import verify_onnx


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        title: one line for lists. suffix: of the files. write: (network, path). extra: the extra that it needs.
    """

    title: str
    suffix: str
    write: Callable[[IntegerNetwork, Path], None]
    extra: str


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "nir": Format("NIR graph, thermometer form: n binary neurons for n levels", ".nir", write_nir, "nir"),
        "onnx": Format("ONNX with standard operators only, for onnxruntime", ".onnx", write_onnx, "onnx"),
        "qonnx": Format("QONNX with Quant nodes, for FINN and hls4ml", ".onnx", write_qonnx, "onnx"),
    }
)

# By suffix: (path, codes (B, *input shape), expected scores (B, classes), network) -> Check.
VERIFIERS: Mapping[str, Callable[[Path, NDArray[np.int64], NDArray[np.int64], IntegerNetwork], Check]] = (
    MappingProxyType({".nir": verify_nir, ".onnx": verify_onnx})
)


def export(net: IntegerNetwork, path: str | Path, format: str | None = None) -> None:
    """Write the integer network to `path` in one of `FORMATS`, atomically.

    Args:
        net: the integer network.
        path: the file to write.
        format: a name of `FORMATS`; None takes the one that has the suffix of `path` (`.onnx`: standard operators).

    Raises:
        MaqdError: an unknown format (the choices are listed); an op that the format cannot express (op, format and what
            to do are named); an unwritable path. MissingExtraError: the format's package is not installed.
    """
    target = Path(path)
    if format is None:
        names = [name for name, entry in FORMATS.items() if entry.suffix == target.suffix]
        if not names:
            raise MaqdError(f"{str(target)!r} has the suffix of no format; give one of: {', '.join(sorted(FORMATS))}")
        format = names[0]
    if format not in FORMATS:
        raise unknown_name("export format", format, FORMATS)
    FORMATS[format].write(net, target)


def verify(path: str | Path, net: IntegerNetwork, codes: Tensor) -> Check:
    """Read the exported file back, run it in a foreign runtime, and compare every class score with the network's.

    Args:
        path: a file that `export` wrote.
        net: the network that it should be.
        codes: integer input codes (B, *input shape), at least one sample.

    Raises:
        MaqdError: no such file, an unknown suffix, a damaged or foreign file, no samples.
            MissingExtraError: the runtime is not installed.
    """
    source = Path(path)
    if source.suffix not in VERIFIERS:
        raise MaqdError(f"cannot verify {str(source)!r}; expected a file ending in {' or '.join(VERIFIERS)}")
    if not source.is_file():
        raise MaqdError(f"there is no exported file {str(source)!r}; write it with maqd_snn.export first")
    if len(codes) == 0:
        raise MaqdError("verification needs at least one sample, got none")
    expected = net(codes).cpu().numpy()
    return VERIFIERS[source.suffix](source, codes.cpu().numpy().astype(np.int64), expected, net)
