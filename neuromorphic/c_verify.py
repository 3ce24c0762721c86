"""Verifies C files: compiles them with this machine's compiler, runs both forms, compares scores and counters.

A C file is a program, so nothing foreign is ever run: the three files must be, byte for byte, what `write_c` writes for
the network.
"""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maqd_snn.counting import count, counted_values, layers_of, run_and_tally
from maqd_snn.errors import MaqdError, MissingToolError
from maqd_snn.integer import IntegerNetwork
from maqd_snn.neuromorphic.c_export import Source, c_source, code_type, paths
from maqd_snn.neuromorphic.check import Check, LayerCheck, compare

FLAGS = ("-std=c99", "-O2", "-ftree-vectorize", "-Wall", "-Wextra", "-Werror", "-pedantic")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
COMPILERS = ("cc", "gcc", "clang")
BATCH = 100
FORMS = {"dense": "dense", "events": "event-driven"}


def find_compiler() -> list[str]:
    """Return the command of the C compiler: $CC, else the first of `COMPILERS` on the PATH.

    Raises:
        MissingToolError: there is none, or $CC has a quotation that does not end.
    """
    stated = os.environ.get("CC", "")
    try:
        given = shlex.split(stated)
    except ValueError as error:
        raise MissingToolError(f"verifying C files needs a C compiler, but $CC is {stated!r}: {error}") from error
    for command in [given] if given else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    tried = f"$CC is {given[0]!r}, which is not there" if given else f"none of {', '.join(COMPILERS)} is on the PATH"
    raise MissingToolError(f"verifying C files needs a C compiler, but {tried}; install one, or set CC")


def verify_c(path: Path, codes: NDArray[np.int64], expected: NDArray[np.int64], net: IntegerNetwork) -> list[Check]:
    """Compile the exported C program, run it on `codes` in both forms, and compare every class score.

    The event-driven form's counters must equal the events and effective SynOps of `maqd_snn.simulate`, layer by layer.

    Args:
        path: `NAME.c`, with `NAME.h` and `NAME_main.c` beside it. codes: (B, *input shape). expected: (B, classes).
        net: the network that the files must have been exported from.

    Raises:
        MaqdError: a file is missing or differs from what the network's export is; it does not compile; it fails.
            MissingToolError: no compiler.
    """
    source = c_source(net, path.stem)
    for file, suffix in zip(paths(path), (".h", "_main.c", ".c"), strict=True):
        if not file.is_file():
            raise MaqdError(f"{str(file)!r} is missing, which belongs to {str(path)!r}; export it again")
        text = source.files[suffix].encode()
        if file.stat().st_size != len(text) or file.read_bytes() != text:
            raise MaqdError(
                f"{str(file)!r} is not what this version of maqd-snn writes for this network, so it is not run; "
                "export it again"
            )
    return run_c(source, path.stem, codes, expected, net)


def run_c(
    source: Source,
    stem: str,
    codes: NDArray[np.int64],
    expected: NDArray[np.int64],
    net: IntegerNetwork,
    flags: Sequence[str] = FLAGS,
) -> list[Check]:
    """Compile and run the program of `source`, which is trusted; return the checks of both forms."""
    compiler = find_compiler()
    with tempfile.TemporaryDirectory(prefix="maqd-c-") as name:
        folder = Path(name)
        for suffix, text in source.files.items():
            (folder / f"{stem}{suffix}").write_text(text, encoding="ascii")
        _call([*compiler, *flags, "-c", f"{stem}.c", "-o", "network.o"], folder, "compile")
        _call([*compiler, *flags, f"{stem}_main.c", "network.o", "-o", "program"], folder, "compile")
        _call([str(folder / "program")], folder, "run on its built-in samples")
        data = np.ascontiguousarray(codes.astype(code_type(net.input).removesuffix("_t"))).tobytes()
        with ThreadPoolExecutor(len(FORMS)) as pool:
            arguments = [[str(folder / "program"), form] for form in FORMS]
            outputs = list(pool.map(lambda call: _call(call, folder, "run", data), arguments))
        figures = {**source.sizes.to_dict(), **_object_size(folder / "network.o")}
    checks = []
    for form, output in zip(FORMS, outputs, strict=True):
        lines = output.splitlines()
        scores = [line.split() for line in lines if not line.startswith("#")]
        counted = [line.split()[1:] for line in lines if line.startswith("#")]
        layers = _compare_counters(net, codes, counted) if form == "events" else []
        note = "events and effective SynOps of each spiking layer counted, too" if layers else ""
        got = np.array(scores, np.int64).reshape(len(scores), -1)
        runtime = f"{_version(compiler)}, {FORMS[form]}"
        checks.append(compare("c", runtime, got, expected, note, layers, figures))
    return checks


def _call(command: Sequence[str], folder: Path, what: str, data: bytes = b"") -> str:
    done = subprocess.run(command, cwd=folder, input=data, capture_output=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        reason = next(
            (line for line in said if "error" in line.lower()), said[0] if said else f"code {done.returncode}"
        )
        raise MaqdError(f"the C files do not {what}: {reason[:300]}")
    return done.stdout.decode(errors="replace")


def _version(compiler: Sequence[str]) -> str:
    said = subprocess.run([*compiler, "--version"], capture_output=True, check=False).stdout.decode(errors="replace")
    first = said.splitlines()[0] if said else compiler[0]
    number = re.search(r"\d+\.\d+(\.\d+)?", first)
    kind = (
        "clang"
        if "clang" in first.lower()
        else "gcc"
        if "gcc" in said.lower() or "free software" in said.lower()
        else ""
    )
    return f"{kind or Path(compiler[0]).name} {number.group(0) if number else ''}".strip()


def _object_size(file: Path) -> dict[str, Any]:
    """Return the bytes of the object file's sections, on this machine, where the tool `size` is there."""
    if not shutil.which("size"):
        return {}
    said = subprocess.run(["size", str(file)], capture_output=True, check=False).stdout.decode().splitlines()
    text, data, bss = (int(word) for word in said[1].split()[:3])
    return {"host_code_and_constants": text, "host_static": data + bss}


def counted_events(net: IntegerNetwork, codes: NDArray[np.int64]) -> dict[str, tuple[int, int]]:
    """Return (events, effective SynOps) of every spiking product by name, over all samples."""
    layers = {layer.op.name: layer for layer in layers_of(net) if layer.spiking and layer.weight is not None}
    totals = {name: np.zeros(2, np.int64) for name in layers}

    counted = counted_values(net)
    for start in range(0, len(codes), BATCH):
        _, tallies = run_and_tally(net, torch.from_numpy(codes[start : start + BATCH]), counted)
        for name, layer in layers.items():
            counts = count(layer, tallies)
            totals[name] += [int(counts[key].sum()) for key in ("events", "effective_synops")]
    return {name: (int(total[0]), int(total[1])) for name, total in totals.items()}


def _compare_counters(
    net: IntegerNetwork, codes: NDArray[np.int64], counted: Sequence[Sequence[str]]
) -> list[LayerCheck]:
    expected = counted_events(net, codes)
    if [name for name, *_ in counted] != list(expected):
        raise MaqdError(f"the C program counts the layers {[name for name, *_ in counted]}, expected {list(expected)}")
    return [
        LayerCheck(name, 2, sum(int(got) != want for got, want in zip(numbers, expected[name], strict=True)))
        for name, *numbers in counted
    ]
