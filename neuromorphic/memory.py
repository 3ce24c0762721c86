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
from collections.abc import Iterator, Mapping, Sequence
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
from maqd_snn.neuromorphic.packing import PACKED_BITS, Packed, pack, unpack

DESCRIPTION, MAP = "maqd-snn hardware description", "maqd-snn memory map"
VERSION = 1
LARGEST_FILE = 2**26  # bytes of a description or map
LARGEST_IMAGE = 2**28  # bytes of an image, which is text
WORD_BITS = (8, 16, 32, 64)


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


def hex_paths(path: Path) -> tuple[Path, Path]:
    """Return what an export to `path` writes: the folder of the images, and the map."""
    return image_folder(path), path


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
        MaqdError: the folder exists and holds anything but images of such names; an image beyond `LARGEST_IMAGE`; an
            unwritable path.
    """
    entries, files = _images(net)
    folder = image_folder(path)
    if folder.exists() and (folder.is_symlink() or not folder.is_dir() or not all(map(_is_image, folder.iterdir()))):
        raise MaqdError(f"{str(folder)!r} exists and holds more than images of an export; give another name")
    for name, text in files.items():
        if len(text) > LARGEST_IMAGE:
            raise MaqdError(f"the image {name!r} would have {len(text)} bytes, more than {LARGEST_IMAGE}")
    temporary = folder.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.mkdir()
        for name, text in files.items():
            (temporary / name).write_text(text, encoding="ascii")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except OSError as error:
        raise MaqdError(f"cannot write {str(folder)!r}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary)
    contents = {**describe(net), "format": MAP, "folder": folder.name, "memories": entries}
    write_text(path, json.dumps(contents, indent=1))


def _is_image(path: Path) -> bool:
    """Whether a file has a name that `_images` gives."""
    name = re.fullmatch(r"\d{2,}_[A-Za-z0-9_]+_(weight|thresholds|direction|bias)\.hex", path.name, re.ASCII)
    return name is not None and path.is_file() and not path.is_symlink()


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
    if type(version) is not int or version < 1:
        raise MaqdError(f"its version is {str(version)[:20]!r}, expected a whole number from 1 to {VERSION}")
    if version > VERSION:
        raise MaqdError(f"its version {version} is newer than {VERSION}; update maqd-snn")
    return contents


def read_hex(path: Path, contents: Mapping[str, Any]) -> IntegerNetwork:
    """Return the network that a memory map and its images hold.

    Raises:
        MaqdError: a missing, damaged or foreign image; values that make no network, or another one than the map
            describes.
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
        net = IntegerNetwork(graph)
    except MaqdError:
        raise
    except _DAMAGE as error:
        raise MaqdError(f"it is damaged ({type(error).__name__}: {str(error)[:200]})") from error
    described = {**describe(net), "format": contents["format"]}
    wrong = _different(described, {key: value for key, value in contents.items() if key not in ("folder", "memories")})
    if wrong:
        raise MaqdError(f"it states {wrong[0]}, which is not so by its images ({len(wrong)} such values)")
    return net


_DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError, OSError)


def _different(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return the places at which two descriptions differ, whatever library wrote them."""
    ours, theirs = dict(_leaves(wanted)), dict(_leaves(found))
    return [name for name in sorted({*ours, *theirs}) if name != "library" and not _same(ours, theirs, name)]


def _same(ours: Mapping[str, Any], theirs: Mapping[str, Any], name: str) -> bool:
    if name not in ours or name not in theirs:
        return False
    return type(ours[name]) is type(theirs[name]) and bool(ours[name] == theirs[name])  # True is not 1 here


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
    numbers = [words, *shape] if isinstance(shape, list) and len(shape) <= 8 else [None]
    if bits not in WORD_BITS or not all(type(number) is int and number > 0 for number in numbers):
        raise MaqdError(f"{file}: expected words of 8, 16, 32 or 64 bits, got {str(words)[:20]} of {str(bits)[:20]}")
    packed = entry["encoding"] == "packed"
    packing = [entry["code_bits"], entry["step"], entry["offset"]] if packed else [8, 1, 0]
    if not all(type(number) is int and abs(number) < 2**31 for number in packing) or packing[0] not in PACKED_BITS:
        raise MaqdError(f"{file}: expected codes of 1, 2, 4 or 8 bits, a step and an offset, got {str(packing)[:80]}")
    count = prod(shape)
    needed = -(-count * packing[0] // 8) if packed else count
    if words != needed:
        raise MaqdError(f"{file}: {count} values take {needed} words, it states {words}")
    raw = _words(folder / file, words, bits)
    if packed:
        code_bits, step, offset = packing
        values = unpack(Packed(code_bits, step, offset, count, raw.astype(np.uint8)))
    else:
        values = raw.astype(f"<u{bits // 8}").view(f"<i{bits // 8}").astype(np.int64)
    tensor = torch.from_numpy(np.ascontiguousarray(values.reshape(shape)))
    if _sha256(tensor) != entry["sha256"]:
        raise MaqdError(f"{file}: its values do not have the checksum that the map states")
    return tensor


def _words(source: Path, words: int, bits: int) -> NDArray[np.uint64]:
    """Return the words of an image: a comment, then as many lines of bits/4 hexadecimal digits."""
    if source.is_symlink() or not source.is_file():
        raise MaqdError(f"the image {source.name!r} is missing or a link")
    digits, size = bits // 4, source.stat().st_size
    wrong = f"{source.name}: expected a comment and {words} words of {digits} hexadecimal digits, a line each"
    if not words * (digits + 1) <= size <= min(words * (digits + 1) + 10_000, LARGEST_IMAGE):
        raise MaqdError(f"{wrong}; it has {size} bytes")
    text = source.read_bytes()
    comment, body = text[: -words * (digits + 1)], text[-words * (digits + 1) :]
    if not re.fullmatch(rb"//[^\n]*\n", comment):
        raise MaqdError(f"{wrong}, got others")
    lines = np.frombuffer(body, np.uint8).reshape(words, digits + 1)
    codes = _HEX[lines[:, :-1]]
    if (lines[:, -1] != ord("\n")).any() or (codes > 15).any():
        raise MaqdError(f"{wrong}, got others")
    found = np.zeros(words, np.uint64)
    for column in codes.T:
        found = (found << np.uint64(4)) | column
    return found


_HEX = np.full(256, 255, np.uint8)
_HEX[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


def verify_json(path: Path, codes: NDArray[np.int64], expected: NDArray[np.int64], net: IntegerNetwork) -> list[Check]:
    """Re-read a memory map and run the network that it holds, or re-read a hardware description and compare it.

    A memory map must be of the network, to the last value; its class scores and every op's output are then compared, in
    NumPy int64. Of a description every value is compared, and nothing run.

    Raises:
        MaqdError: a damaged, newer or foreign file or image; a memory map of another network.
    """
    try:
        contents = _read(path)
        if contents["format"] == DESCRIPTION:
            wanted = describe(net)
            count = len({name for name, _ in [*_leaves(wanted), *_leaves(contents)]} - {"library"})
            wrong = len(_different(wanted, contents))
            return [Check("json", "maqd-snn JSON reader", 0, count, wrong, 0.0, compared="values", inputs="")]
        rebuilt = read_hex(path, contents)
        if fingerprint(rebuilt) != fingerprint(net):
            raise MaqdError("it holds another network than the one it is compared with")
        got = rebuilt.reference_trace(codes)
        layers: Sequence[LayerCheck] = [
            LayerCheck(name, value.numel(), int((value.numpy() != got[name]).sum()))
            for name, value in net.trace(torch.from_numpy(codes)).items()
        ]
        last = rebuilt.ops[-1].name
        return [compare("hex", "maqd-snn image reader, NumPy int64", got[last], expected, "", layers)]
    except MaqdError as error:
        raise MaqdError(f"{str(path)!r} is not usable: {error}") from error


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every plain value with its place, and the length of every list; values may be nested to any depth."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        at, item = waiting.pop()
        if isinstance(item, dict):
            waiting += [(f"{at}.{key}" if at else str(key), below) for key, below in item.items()]
        elif isinstance(item, list):
            yield f"{at}.length", len(item)
            waiting += [(f"{at}[{index}]", below) for index, below in enumerate(item)]
        else:
            yield at, item
