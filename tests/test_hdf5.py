"""Writers of HDF5 files where the disk is full: one sentence, nothing left behind, and the process lives on."""

import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from maqd_snn.hdf5 import hdf5_file
from maqd_snn.integer import IntegerNetwork, ops

# In a process of its own: where HDF5 itself meets a full disk, the process dies of it, some time later.
WRITE = """
import resource, sys
from pathlib import Path
import numpy as np
import maqd_snn
from maqd_snn.datasets.events import EVENT_DTYPE
from maqd_snn.datasets.events.store import Sample, write_store
from maqd_snn.datasets.events.writing import write_events
from maqd_snn.neuromorphic import FORMATS

what, source, target, limit = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
net = maqd_snn.load(source)

def recording(seed):
    events = np.zeros(600_000, EVENT_DTYPE)  # more than the store appends at once
    events["t"] = np.sort(np.random.default_rng(seed).integers(0, 10**6, len(events)))
    return events

write = {
    "network": lambda: net.save(target),
    "events": lambda: write_events(target, recording(0)),
    "store": lambda: write_store(target, (8, 8), {}, (Sample(recording(i), 0, 0, 0, f"{i}") for i in range(3))),
}.get(what, lambda: FORMATS[what].write(net, target))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write()
except maqd_snn.MaqdError as error:
    print(error)
"""


def small():
    weight = torch.ones(3, 4, dtype=torch.int64)
    graph = [
        ops.Input("input", shape=(4,), high=3),
        ops.Linear("fc", ("input",), weight),
        ops.Threshold("spike", ("fc",), torch.tensor([[2], [3], [4]]), torch.ones(3, dtype=torch.int64)),
        ops.Linear("classifier", ("spike",), weight[:, :3]),
        ops.Readout("readout", ("classifier",), torch.zeros(3, dtype=torch.int64)),
    ]
    return IntegerNetwork(graph)


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        *((what, 2000) for what in ("network", "nir", "nir-events", "netx", "events", "store")),
        ("store", 500_000),  # full within a recording that is not the first
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(what, limit, tmp_path):
    small().save(tmp_path / "source.h5")
    (tmp_path / "new").mkdir()
    target = tmp_path / "new" / "a.h5"
    command = [sys.executable, "-c", WRITE, what, str(tmp_path / "source.h5"), str(target), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = f"cannot write '{target}': File too large; the previous file, if any, is unchanged\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("userblock_size", [0, 512])
def test_the_bytes_are_those_of_a_file_on_the_disk(userblock_size, tmp_path):
    def fill(file):
        file.create_group("a/b").create_dataset("c", data=np.arange(5000), chunks=(5000,), compression="gzip")
        file["text"] = "x" * 1000

    with h5py.File(tmp_path / "disk.h5", "w", userblock_size=userblock_size) as file:
        fill(file)
    with hdf5_file(tmp_path / "memory.h5", userblock_size) as file:
        fill(file)
    assert (tmp_path / "memory.h5").read_bytes() == (tmp_path / "disk.h5").read_bytes()
