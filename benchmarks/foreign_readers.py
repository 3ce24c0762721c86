"""NIR files in sinabs, which needs an environment of its own (it pins nir 1.0.4): builds it, runs the files, compares.

    python benchmarks/foreign_readers.py --env DIR [--python PYTHON] [--folder runs/exports] [--images 1000]

DIR is the environment; it is made with PYTHON and filled by pip where it does not exist yet. The folder is that of
`maqd bench exports`: every network of it is run, and the record kept beside its others, so that the next
`maqd bench exports` puts it into docs/exports.md. Exit code 1 where anything differs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maqd_snn.benchmarks.exports import images
from maqd_snn.errors import MaqdError
from maqd_snn.files import write_text
from maqd_snn.integer import IntegerNetwork, load
from maqd_snn.neuromorphic.check import Check, compare, not_run, record
from maqd_snn.neuromorphic.nir_runtimes import norse_faults
from maqd_snn.neuromorphic.nir_verify import read_nir
from maqd_snn.runs import NETWORK

# The newest that read each other; torch is installed first, from wherever pip is told to.
PACKAGES = ("torch", "sinabs==3.1.3", "nir==1.0.4", "nirtorch==2.0.2")
BATCH = 100

READER = """
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


def environment(folder: Path, python: str) -> Path:
    """Return the interpreter of the environment; it is built first where it is not there."""
    interpreter = folder / "bin" / "python"
    if not interpreter.is_file():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(interpreter), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return interpreter


def run(interpreter: Path, folder: Path, count: int) -> bool:
    """Run one network's NIR file and keep the record; return whether all is well."""
    net, file = load(folder / NETWORK), folder / "network.nir"
    codes = images(count).numpy().astype(np.int64)
    # sinabs imports with the same `nirtorch.load` as norse.
    faults = [fault for fault in norse_faults(read_nir(file)) if "branch" in fault]
    if faults:
        check = not_run("nir", "sinabs", faults[0])
    else:
        with tempfile.TemporaryDirectory() as name:
            inputs, outputs = Path(name) / "inputs.npy", Path(name) / "outputs.npy"
            np.save(inputs, codes - net.input.zero_point)
            command = [str(interpreter), "-c", READER, str(file), str(inputs), str(outputs), str(BATCH)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                check = not_run("nir", "sinabs", f"fails on the file: {said[:300]}", failed=True)
            else:
                title, expected = done.stdout.strip().splitlines()[-1], net.reference(codes)
                check = compare("nir", title, np.load(outputs), expected, "imported anew for every batch, from rest")
    return keep(folder, check, net, codes)


def keep(folder: Path, check: Check, net: IntegerNetwork, codes: NDArray[np.int64]) -> bool:
    """Write the record beside the others of the network."""
    found = record(folder / "network.nir", net, codes, [check]).to_dict()
    write_text(folder / "foreign-sinabs.json", json.dumps({**found, "ok": check.ok or not check.failed}, indent=1))
    verdict = f"{check.mismatches} of {check.scores} differ" if check.ran else check.problem
    print(f"{folder.name}: {check.runtime}: {verdict}", flush=True)
    return not check.failed and not (check.ran and not check.ok)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", type=Path, required=True, help="folder of the environment")
    parser.add_argument("--python", default=sys.executable, help="that makes it (default: this one)")
    parser.add_argument("--folder", type=Path, default=Path("runs/exports"), help="of `maqd bench exports`")
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args(arguments)
    folders = sorted(path.parent for path in options.folder.glob(f"*/{NETWORK}"))
    networks = [folder for folder in folders if (folder / "network.nir").is_file()]
    if not networks:
        raise MaqdError(f"{str(options.folder)!r} holds no exported networks; run first: maqd bench exports")
    interpreter = environment(options.env, options.python)
    results = [run(interpreter, folder, options.images) for folder in networks]
    return int(not all(results))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MaqdError as error:
        sys.exit(f"foreign_readers: {error}")
