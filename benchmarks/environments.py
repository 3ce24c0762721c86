"""Environments of the readers that need their own: sinabs (it pins nir 1.0.4) and Lava (Python 3.10).

`maqd bench exports --environments DIR` calls this: it builds what DIR does not hold yet, and returns the interpreters.
What cannot be built is an error that the page of results quotes.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork
from maqd_snn.neuromorphic.check import Check, compare, not_run
from maqd_snn.neuromorphic.nir_runtimes import norse_faults
from maqd_snn.neuromorphic.nir_verify import read_nir

BATCH = 100


@dataclass(frozen=True)
class Environment:
    """What an environment holds.

    Attributes:
        python: names of interpreters that may make it, the first that is there does. installs: arguments of pip, one
        call each. imports: the module whose import shows that it is whole.
    """

    python: tuple[str, ...]
    installs: tuple[tuple[str, ...], ...]
    imports: str


ENVIRONMENTS: Mapping[str, Environment] = MappingProxyType(
    {
        # torch comes from wherever pip is told to.
        "sinabs": Environment(
            (sys.executable,), (("torch", "sinabs==3.1.3", "nir==1.0.4", "nirtorch==2.0.2"),), "sinabs"
        ),
        # netx itself needs none of lava-dl's other packages.
        "lava": Environment(
            ("python3.10",),
            (("lava-nc==0.10.0", "h5py"), ("--no-deps", "lava-dl==0.6.0")),
            "lava.magma.core",
        ),
    }
)

SINABS = """
import sys, warnings
warnings.simplefilter("ignore")
import nir, numpy as np, sinabs.nir, torch
from importlib.metadata import version
graph, inputs, outputs, batch = sys.argv[1:]
x, scores = torch.from_numpy(np.load(inputs)).float(), []
for start in range(0, len(x), int(batch)):
    part = x[start : start + int(batch)]
    model = sinabs.nir.from_nir(nir.read(graph), batch_size=len(part))  # anew: from rest
    with torch.no_grad():
        output = model(part)
    scores.append((output[0] if isinstance(output, tuple) else output).numpy())
np.save(outputs, np.concatenate(scores))
print("sinabs", version("sinabs"), "with nir", version("nir"))
"""


def build(name: str, folder: Path) -> Path:
    """Return the interpreter of the environment `folder`/`name`; it is built first where it is not there.

    Raises:
        MaqdError: no interpreter of the version that it needs, or pip's last word.
    """
    needs, place = ENVIRONMENTS[name], folder / name
    interpreter = place / "bin" / "python"
    if _imports(interpreter, needs.imports):
        return interpreter
    python = next((found for each in needs.python if (found := shutil.which(each))), None)
    if python is None:
        raise MaqdError(f"the environment {name!r} needs {' or '.join(needs.python)} on the PATH; it is not there")
    _run([python, "-m", "venv", "--clear", str(place)], name)
    for packages in needs.installs:
        _run([str(interpreter), "-m", "pip", "install", "--quiet", *packages], name)
    if not _imports(interpreter, needs.imports):
        raise MaqdError(f"the environment {name!r} was built, but {needs.imports} cannot be imported in it")
    return interpreter


def _imports(interpreter: Path, module: str) -> bool:
    if not interpreter.is_file():
        return False
    return (
        subprocess.run([str(interpreter), "-c", f"import {module}"], capture_output=True, check=False).returncode == 0
    )


def _run(command: list[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR")] or ["no reason given"]
        raise MaqdError(f"the environment {name!r} cannot be built: {said[-1][:300]}")


def in_sinabs(interpreter: Path, file: Path, net: IntegerNetwork, codes: NDArray[np.int64]) -> Check:
    """Run a NIR file in sinabs, and compare every class score."""
    # sinabs imports with the same `nirtorch.load` as norse.
    faults = [fault for fault in norse_faults(read_nir(file)) if "branch" in fault]
    if faults:
        return not_run("nir", "sinabs", faults[0])
    with tempfile.TemporaryDirectory() as name:
        inputs, outputs = Path(name) / "inputs.npy", Path(name) / "outputs.npy"
        np.save(inputs, codes - net.input.zero_point)
        command = [str(interpreter), "-c", SINABS, str(file), str(inputs), str(outputs), str(BATCH)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            return not_run("nir", "sinabs", f"fails on the file: {said[:300]}", failed=True)
        title, expected = done.stdout.strip().splitlines()[-1], net.reference(codes)
        return compare("nir", title, np.load(outputs), expected, "imported anew for every batch, from rest")
