"""A JSON description of the hardware that a network asks for, and memory images for HDL that hold its numbers.

- `json`: one file: layers with neurons, synapses, bit widths, thresholds, and the sha256 of every weight tensor (int64,
  little endian, C order). Its schema is `docs/hardware-description.schema.json`.
- `hex`: the same file with an address map, and beside it a folder of images, one for each memory, as `$readmemh` reads
  them: one word a line, hexadecimal, two's complement, after a comment. Word number = address. Weights are packed (see
  `packing`), thresholds and biases signed words of whole bytes. The network can be rebuilt from these files alone.

Reading trusts nothing: sizes are checked before memory is taken, names lead to no other folder.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn._version import __version__
from maqd_snn.counting import layers_of
from maqd_snn.errors import MaqdError
from maqd_snn.files import write_text
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.ops import OPS
from maqd_snn.integer.storage import fingerprint
from maqd_snn.neuromorphic.check import Check, LayerCheck, compare
from maqd_snn.neuromorphic.packing import Packed, pack, unpack

DESCRIPTION, MAP = "maqd-snn hardware description", "maqd-snn memory map"
VERSION = 1
LARGEST_FILE = 2**30


def describe(net: IntegerNetwork) -> dict[str, Any]:
    """Return the hardware description of a network as plain values; see `docs/hardware-description.schema.json`."""
    layers = []
    for layer in layers_of(net):
        op = layer.op
        bound = net.bounds[op.name]
        entry: dict[str, Any] = {
            "name": op.name,
            "op": type(op).__name__,
            "inputs": list(op.inputs),
            "shape": list(net.shapes[op.name]),
            "spiking_input": layer.spiking,
            "accumulator_bits": (2 * bound).bit_length(),
            "attributes": {key: value for key, value in _plain(op).items() if key not in ("name", "inputs")},
        }
        if isinstance(op, ops.Conv2d | ops.Linear):
            packed = pack(op.weight.numpy())
            entry |= {
                "synapses": layer.connections,
                "weights": op.weight.numel(),
                "nonzero_weights": int((op.weight != 0).sum()),
                "weight_bits": 64 if packed is None else packed.bits,
                "weight_shape": list(op.weight.shape),
                "weight_sha256": _sha256(op.weight),
                "input_bits": layer.inputs[0].bits,
            }
        if isinstance(op, ops.Threshold):
            entry |= {
                "neurons": prod(net.shapes[op.name]),
                "levels": op.levels + 1,
                "thresholds": op.thresholds.tolist(),
                "direction": op.direction.tolist(),
            }
        if isinstance(op, ops.Readout):
            entry["bias"] = op.bias.tolist()
        layers.append(entry)
    return {
        "format": DESCRIPTION,
        "version": VERSION,
        "library": f"maqd-snn {__version__}",
        "network": fingerprint(net),
        "layers": layers,
        "total": {
            "neurons": sum(entry.get("neurons", 0) for entry in layers),
            "synapses": sum(entry.get("synapses", 0) for entry in layers),
            "weights": sum(entry.get("weights", 0) for entry in layers),
            "weight_bits": sum(entry.get("weights", 0) * entry.get("weight_bits", 0) for entry in layers),
        },
    }


def _plain(op: ops.Op) -> dict[str, Any]:
    values = {each.name: getattr(op, each.name) for each in fields(op) if each.init or each.name == "inputs"}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if not isinstance(value, Tensor)
    }


def _sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().astype("<i8").tobytes()).hexdigest()


def write_json_description(net: IntegerNetwork, path: Path) -> None:
    """Write `describe(net)` to `path`, atomically."""
    write_text(path, json.dumps(describe(net), indent=1))


def image_folder(path: Path) -> Path:
    """Return the folder of the images of a memory map."""
    return path.with_name(f"{path.name.removesuffix('.json')}.images")


def _images(net: IntegerNetwork) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the entries of the address map, and the text of every image by file name."""
    entries: list[dict[str, Any]] = []
    files: dict[str, str] = {}
    for index, op in enumerate(net.ops):
        for name in ("weight", "thresholds", "direction", "bias"):
            tensor = getattr(op, name, None)
            if not isinstance(tensor, Tensor):
                continue
            packed = pack(tensor.numpy()) if name == "weight" else None
            label = re.sub(r"[^A-Za-z0-9_]", "_", op.name, flags=re.ASCII)
            file = f"{index:02d}_{label}_{name}.hex"
            entry: dict[str, Any] = {"op": op.name, "field": name, "file": file, "shape": list(tensor.shape)}
            if packed is None:
                width = _word_bytes(tensor)
                words = (tensor.numpy().reshape(-1) & (2 ** (8 * width) - 1 if width < 8 else -1)).astype(np.uint64)
                entry |= {"encoding": "signed", "word_bits": 8 * width}
            else:
                width, words = 1, packed.data.astype(np.uint64)
                entry |= {"encoding": "packed", "word_bits": 8, "code_bits": packed.bits}
                entry |= {"step": packed.step, "offset": packed.offset}
            entry |= {"words": len(words), "sha256": _sha256(tensor)}
            comment = f"// {op.name.encode('unicode_escape').decode('ascii')}, {name}: {len(words)} words"
            digits = 2 * width
            files[file] = "\n".join([comment, *(f"{int(word):0{digits}x}" for word in words), ""])
            entries.append(entry)
    return entries, files


def _word_bytes(tensor: Tensor) -> int:
    low, high = int(tensor.min()), int(tensor.max())
    return next(size for size in (1, 2, 4, 8) if -(2 ** (8 * size - 1)) <= low and high < 2 ** (8 * size - 1))


def write_hex(net: IntegerNetwork, path: Path) -> None:
    """Write the memory map to `path` and the images into the folder beside it; the map, written last, completes them.

    Raises:
        MaqdError: the folder exists and holds something else; an unwritable path.
    """
    entries, files = _images(net)
    folder = image_folder(path)
    if folder.exists() and (not folder.is_dir() or any(file.suffix != ".hex" for file in folder.iterdir())):
        raise MaqdError(f"{str(folder)!r} exists and holds more than images; give another name")
    temporary = folder.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.mkdir()
        for name, text in files.items():
            (temporary / name).write_text(text, encoding="ascii")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except OSError as error:
        raise MaqdError(f"cannot write {str(folder)!r}: {error}") from error
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary)
    contents = {**describe(net), "format": MAP, "folder": folder.name, "memories": entries}
    write_text(path, json.dumps(contents, indent=1))


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST_FILE:
        raise MaqdError(f"it has {path.stat().st_size} bytes, more than any export")
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise MaqdError(f"it is no JSON text ({error})") from error
    if not isinstance(contents, dict) or contents.get("format") not in (DESCRIPTION, MAP):
        raise MaqdError(f"it is no {DESCRIPTION} and no {MAP}")
    version = contents.get("version")
    if type(version) is not int or version > VERSION:
        raise MaqdError(f"its version {version!r} is newer than {VERSION} or none; update maqd-snn")
    return contents


def read_hex(path: Path, contents: Mapping[str, Any]) -> IntegerNetwork:
    """Return the network that a memory map and its images hold.

    Raises:
        MaqdError: a missing, damaged or foreign image; values that make no network.
    """
    try:
        tensors: dict[tuple[str, str], Tensor] = {}
        for entry in contents["memories"]:
            tensors[entry["op"], entry["field"]] = _tensor(image_folder(path), entry)
        graph = []
        for layer in contents["layers"]:
            kind = OPS[layer["op"]]
            known = {each.name for each in fields(kind) if each.init}
            given = {key: tuple(v) if isinstance(v, list) else v for key, v in layer["attributes"].items()}
            own = {field: tensor for (op, field), tensor in tensors.items() if op == layer["name"]}
            values = {"name": layer["name"], "inputs": tuple(layer["inputs"]), **given, **own}
            graph.append(kind(**{key: value for key, value in values.items() if key in known}))
        return IntegerNetwork(graph)
    except MaqdError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        raise MaqdError(f"it is damaged ({type(error).__name__}: {str(error)[:200]})") from error


def load_map(path: Path) -> IntegerNetwork:
    """Return the network of a memory map and its images; raises MaqdError as `read_hex`, and for a description."""
    try:
        contents = _read(path)
        if contents["format"] != MAP:
            raise MaqdError("it is a hardware description, which holds no weights; export with format hex")
        return read_hex(path, contents)
    except MaqdError as error:
        raise MaqdError(f"{str(path)!r} is not usable: {error}") from error


def _tensor(folder: Path, entry: Mapping[str, Any]) -> Tensor:
    file, shape, words, bits = entry["file"], entry["shape"], entry["words"], entry["word_bits"]
    if not isinstance(file, str) or not re.fullmatch(r"[A-Za-z0-9_]{1,250}\.hex", file):
        raise MaqdError(f"{str(file)[:80]!r} is no name of an image")
    source = folder / file
    if source.is_symlink() or not source.is_file():
        raise MaqdError(f"the image {file!r} is missing or a link")
    if bits not in (8, 16, 32, 64) or type(words) is not int or words < 1:
        raise MaqdError(f"{file}: expected words of 8, 16, 32 or 64 bits, got {str(words)[:20]} of {str(bits)[:20]}")
    if source.stat().st_size > words * (bits // 4 + 1) + 10_000:
        raise MaqdError(f"{file}: it has {source.stat().st_size} bytes, more than {words} words of {bits} bits take")
    lines = [line for line in source.read_text(encoding="ascii").splitlines() if not line.startswith("//")]
    if len(lines) != words or not all(re.fullmatch(r"[0-9a-f]+", line) and len(line) == bits // 4 for line in lines):
        raise MaqdError(f"{file}: expected {words} words of {bits // 4} hexadecimal digits, got others")
    raw = np.array([int(line, 16) for line in lines], np.uint64)
    if entry["encoding"] == "packed":
        count = prod(int(size) for size in shape)
        packed = Packed(entry["code_bits"], entry["step"], entry["offset"], count, raw.astype(np.uint8))
        values = unpack(packed)
    else:
        values = raw.astype(f"<u{bits // 8}").view(f"<i{bits // 8}").astype(np.int64)
    tensor = torch.from_numpy(np.ascontiguousarray(values.reshape(shape)))
    if _sha256(tensor) != entry["sha256"]:
        raise MaqdError(f"{file}: its values do not have the checksum that the map states")
    return tensor


def verify_json(path: Path, codes: NDArray[np.int64], expected: NDArray[np.int64], net: IntegerNetwork) -> list[Check]:
    """Re-read a memory map and run the network that it holds, or re-read a hardware description and compare it.

    Of a memory map the class scores and every op's output are compared, in NumPy int64; of a description every value.

    Raises:
        MaqdError: a damaged, newer or foreign file or image.
    """
    try:
        contents = _read(path)
        if contents["format"] == DESCRIPTION:
            wanted, found = dict(_leaves(describe(net))), dict(_leaves(contents))
            names = [name for name in sorted({*wanted, *found}) if name != "library"]
            wrong = sum(wanted.get(name, KeyError) != found.get(name, KeyError) for name in names)
            note = "values of the description compared, not class scores"
            return [Check("json", "maqd-snn JSON reader", len(codes), len(names), wrong, 0.0, note)]
        rebuilt = read_hex(path, contents)
        got = rebuilt.reference_trace(codes)
        truth = net.trace(torch.from_numpy(codes))
        last = rebuilt.ops[-1].name
        layers: Sequence[LayerCheck] = [
            LayerCheck(name, value.numel(), int((value.numpy() != got[name]).sum()))
            for name, value in truth.items()
            if name in got and got[name].shape == tuple(value.shape)
        ]
        return [compare("hex", "maqd-snn image reader, NumPy int64", got[last], expected, "", layers)]
    except MaqdError as error:
        raise MaqdError(f"{str(path)!r} is not usable: {error}") from error


def _leaves(value: Any, at: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in _leaves(item, f"{at}.{key}" if at else str(key))]
    if isinstance(value, list):
        leaves = [leaf for index, item in enumerate(value) for leaf in _leaves(item, f"{at}[{index}]")]
        return [(f"{at}.length", len(value)), *leaves]
    return [(at, value)]
