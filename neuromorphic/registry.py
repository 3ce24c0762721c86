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
from maqd_snn.neuromorphic import c_export
from maqd_snn.neuromorphic.c_verify import verify_c
from maqd_snn.neuromorphic.check import Check, Verification, record
from maqd_snn.neuromorphic.memory import LARGEST_IMAGE, hex_paths, verify_json, write_hex, write_json_description
from maqd_snn.neuromorphic.netx_export import write_netx
from maqd_snn.neuromorphic.netx_verify import verify_netx
from maqd_snn.neuromorphic.nir_events import verify_nir_events, write_nir_events
from maqd_snn.neuromorphic.nir_export import write_nir, write_nir_graded
from maqd_snn.neuromorphic.nir_verify import verify_nir
from maqd_snn.neuromorphic.onnx_export import (
    write_integer,
    write_multi_threshold,
    write_onnx,
    write_qcdq,
    write_qonnx,
)
from maqd_snn.neuromorphic.onnx_verify import verify_onnx


def _alone(path: Path) -> tuple[Path, ...]:
    return (path,)


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        title: one line for lists. file: its name in the folder of a run. write: (network, path). extra: the extra that
        it needs, or an empty string. files: path -> all files and folders that `write` writes. usual: whether a run
        writes it unasked. cannot: what it cannot express, for lists.
    """

    title: str
    file: str
    write: Callable[[IntegerNetwork, Path], None]
    extra: str
    files: Callable[[Path], tuple[Path, ...]] = _alone
    usual: bool = False
    cannot: str = ""

    @property
    def suffix(self) -> str:
        """The suffix of its files."""
        return Path(self.file).suffix


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "nir": Format(
            "NIR graph, thermometer form: n binary neurons for n levels",
            "network.nir",
            write_nir,
            "nir",
            usual=True,
            cannot=(
                "max-pooling of accumulators or inputs, padded max-pooling of signed levels, levels that do not "
                "include 0, kernels whose sides differ by an odd number (of pools too, but sum-pools without "
                "padding whose area is a power of two), accumulators before spikes above 4,194,302, other sums "
                "above 2^24"
            ),
        ),
        "nir-graded": Format(
            "NIR graph, one IF for each unit: a convention, other readers see 2 states",
            "network.graded.nir",
            write_nir_graded,
            "nir",
            cannot=(
                "convolution kernels whose sides differ by an odd number (of sum-pools too, but those without "
                "padding whose area is a power of two), accumulators before spikes above 8,388,607, other sums "
                "above 2^24; other readers take it for a network of 2 states"
            ),
        ),
        "nir-events": Format(
            "golden events of the NIR graph: input, spikes, scores, as NIR data",
            "network.nirdata",
            write_nir_events,
            "nir",
            usual=True,
            cannot="what nir cannot; needs nir 1.0.8; 1 to 1,024 samples",
        ),
        "onnx": Format(
            "ONNX with standard operators only, for onnxruntime",
            "network.onnx",
            write_onnx,
            "onnx",
            usual=True,
            cannot="convolutions whose sums reach 2^24",
        ),
        "qonnx": Format(
            "QONNX with Quant nodes, for FINN and hls4ml",
            "network.qonnx.onnx",
            write_qonnx,
            "onnx",
            usual=True,
            cannot="sums of 2^24 and more",
        ),
        "qonnx-multithreshold": Format(
            "QONNX with every threshold as a MultiThreshold node, FINN's own form",
            "network.qonnx-multithreshold.onnx",
            write_multi_threshold,
            "onnx",
            cannot="sums of 2^24 and more",
        ),
        "onnx-qcdq": Format(
            "ONNX with QuantizeLinear, Clip and DequantizeLinear, for onnxruntime",
            "network.onnx-qcdq.onnx",
            write_qcdq,
            "onnx",
            cannot="sums of 2^24 and more, weights above 127, levels that 8 bits do not hold",
        ),
        "onnx-integer": Format(
            "ONNX with ConvInteger and MatMulInteger into int32, for onnxruntime",
            "network.onnx-integer.onnx",
            write_integer,
            "onnx",
            cannot="sums of 2^31 and more",
        ),
        "c": Format(
            "C99 source, header and host test program, for microcontrollers",
            "network.c",
            c_export.write_c,
            "",
            c_export.paths,
            usual=True,
            cannot="layers of 2^31 values, images wider than 65,535",
        ),
        "netx": Format(
            "Lava netx (HDF5), thermometer form with CUBA neurons (legacy)",
            "network.net",
            write_netx,
            "",
            cannot=(
                "branches and sums of them, a network without a Readout at its end, two products without spikes "
                "between, spikes of features without a product before, flattening of accumulators, padded pools "
                "of accumulators, pools of features, pools of pools, padded sum-pools before a convolution, "
                "sum-pools that do not tile the image before a padded convolution, max-pooling of anything but "
                "spikes, padded max-pooling of signed levels, levels that do not include 0, weights above 127 "
                "(folded with their pools), sums above 131,071, class biases outside -4,096..4,095, thresholds "
                "of a layer more than 8,191 apart or below -4,094 (or above 8,191 where a neuron of the layer "
                "always fires), layers of constant neurons only"
            ),
        ),
        "json": Format(
            "hardware description in JSON: layers, synapses, bits, thresholds, checksums",
            "network.hardware.json",
            write_json_description,
            "",
            cannot="weights: their checksums only",
        ),
        "hex": Format(
            "memory images for $readmemh, one a memory, with an address map in JSON",
            "network.hex.json",
            write_hex,
            "",
            hex_paths,
            cannot=f"images of more than {LARGEST_IMAGE // 2**20} MiB",
        ),
    }
)

Verifier = Callable[[Path, NDArray[np.int64], NDArray[np.int64], IntegerNetwork], list[Check]]

# By suffix: (path, codes (B, *input shape), expected scores (B, classes), network) -> one Check for each runtime.
VERIFIERS: Mapping[str, Verifier] = MappingProxyType(
    {
        ".nir": verify_nir,
        ".nirdata": verify_nir_events,
        ".onnx": verify_onnx,
        ".c": verify_c,
        ".net": verify_netx,
        ".json": verify_json,
    }
)


def format_of(path: Path) -> str:
    """Return the format whose files end like this one; of several with the same last suffix, the first in the table.

    Raises:
        MaqdError: a suffix of no format; the choices are listed.

    >>> [format_of(Path(name)) for name in ("a.onnx", "a.qonnx.onnx", "a.hex.json", "a.json", "a.nir")]
    ['onnx', 'qonnx', 'hex', 'json', 'nir']
    """
    whole = [name for name, entry in FORMATS.items() if path.name.endswith(entry.file.removeprefix("network"))]
    names = whole or [name for name, entry in FORMATS.items() if entry.suffix == path.suffix]
    if not names:
        raise MaqdError(f"{str(path)!r} has the suffix of no format; give one of: {', '.join(sorted(FORMATS))}")
    return max(names, key=lambda name: len(FORMATS[name].file)) if whole else names[0]


def export(net: IntegerNetwork, path: str | Path, format: str | None = None, overwrite: bool = False) -> None:
    """Write the integer network to `path` in one of `FORMATS`, atomically.

    Args:
        net: the integer network.
        path: the file to write; some formats put further files beside it.
        format: a name of `FORMATS`; None takes the one of `format_of`.
        overwrite: replace files that exist.

    Raises:
        MaqdError: an unknown format (the choices are listed) or a suffix of another one; an op that the format cannot
            express (op, format and what to do are named); a file that exists; an unwritable path. MissingExtraError:
            the format's package is not installed.
    """
    target = Path(path)
    if format is None:
        format = format_of(target)
    if format not in FORMATS:
        raise unknown_name("export format", format, FORMATS)
    if target.suffix != FORMATS[format].suffix:
        raise MaqdError(
            f"a file of format {format} ends in {FORMATS[format].suffix}, got {str(target)!r}; give a name like "
            f"{FORMATS[format].file!r}"
        )
    for file in FORMATS[format].files(target):
        if file.exists() and not overwrite:
            raise MaqdError(f"{str(file)!r} exists; remove it, give another name, or pass overwrite")
    FORMATS[format].write(net, target)


def verify(path: str | Path, net: IntegerNetwork, codes: Tensor) -> Verification:
    """Read the exported file back, run it in every runtime there is, and compare every class score with the network's.

    Args:
        path: a file that `export` wrote.
        net: the network that it should be.
        codes: integer input codes (B, *input shape), at least one sample.

    Returns:
        The record: `ok` and `mismatches` over all runtimes, and one `Check` for each, also for those that did not run.

    Raises:
        MaqdError: no such file, an unknown suffix, a damaged or foreign file, no samples.
            MissingExtraError: no runtime is installed.
    """
    source = Path(path)
    if source.suffix not in VERIFIERS:
        *others, last = VERIFIERS
        raise MaqdError(f"cannot verify {str(source)!r}; expected a file ending in {', '.join(others)} or {last}")
    if not source.is_file():
        raise MaqdError(f"there is no exported file {str(source)!r}; write it with maqd_snn.export first")
    if len(codes) == 0:
        raise MaqdError("verification needs at least one sample, got none")
    expected = net(codes).cpu().numpy()
    numbers = codes.cpu().numpy().astype(np.int64)
    return record(source, net, numbers, VERIFIERS[source.suffix](source, numbers, expected, net))
