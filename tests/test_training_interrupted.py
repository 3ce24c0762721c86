"""A training that is killed, stopped, or cannot write, in processes of its own."""

import ctypes
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from maqd_snn.runs import NETWORK, RECIPE, REPORT_JSON
from maqd_snn.training.checkpoint import MODEL, previous, read_tensors
from maqd_snn.training.loop import CHECKPOINT

TRAIN = [sys.executable, "-m", "maqd_snn", "train", "digits", "--plan", "4-M-8-M", "--epochs", "6", "--quiet"]


def start(out, *options, **popen):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*TRAIN, "--out", str(out), "--resume", *options], env=environment, stderr=subprocess.PIPE, text=True, **popen
    )


def finish(process):
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def start_and_wait(out):
    """Start, and return the process when it has written a checkpoint within an epoch."""
    path = out / CHECKPOINT
    before = path.stat().st_mtime_ns if path.exists() else 0
    process = start(out, "--checkpoint-steps", "3")
    while not path.exists() or path.stat().st_mtime_ns == before:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    return process


def model(out):
    return read_tensors(out / MODEL)[0]


def small_files():
    """Let the system refuse to let a file grow beyond this, as it does on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_killed_stopped_and_without_disk_it_ends_with_the_same_bits(tmp_path):
    whole, out, moments = tmp_path / "whole", tmp_path / "run", random.Random(0)
    assert finish(start(whole)) == (0, "")

    process = start_and_wait(out)
    time.sleep(moments.uniform(0, 0.3))
    process.send_signal(signal.SIGSTOP)
    for options in ((), ("--lr", "0.5", "--overwrite")):  # a second one in the same folder changes nothing
        before = {path: path.read_bytes() for path in out.iterdir()}
        said = f"maqd train: another process is writing in {str(out)!r}; let it end, or give another folder\n"
        assert finish(start(out, *options)) == (2, said)
        assert {path: path.read_bytes() for path in out.iterdir()} == before
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    for path in (out / CHECKPOINT, previous(out / CHECKPOINT)):
        assert not path.exists() or read_tensors(path)  # whole
    (out / f".{'0' * 16}.tmp.safetensors").write_bytes(b"half")  # what a kill within a save leaves

    for number in (signal.SIGTERM, signal.SIGINT):
        process = start_and_wait(out)
        process.send_signal(number)
        code, errors = finish(process)
        assert code == 128 + number
        state = read_tensors(out / CHECKPOINT)[1]
        where = f"in epoch {state['epoch']} after step {state['step']}"
        assert errors == f"maqd train: stopped by {number.name} {where}; everything is saved; continue with --resume\n"

    before = (out / CHECKPOINT).read_bytes()
    code, errors = finish(start(out, "--checkpoint-steps", "3", preexec_fn=small_files))
    assert code == 2
    assert errors.startswith(f"maqd train: cannot write '{out / CHECKPOINT}'")
    assert errors.endswith("the previous file, if any, is unchanged\n")
    assert errors.count("\n") == 1
    assert (out / CHECKPOINT).read_bytes() == before

    assert finish(start(out)) == (0, "")
    expected, result = model(whole), model(out)
    assert expected.keys() == result.keys()
    assert all(torch.equal(result[name], tensor) for name, tensor in expected.items())
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


def test_of_two_processes_without_disk_one_says_so(tmp_path):
    options = ["--devices", "2", "--batch-size", "16", "--epochs", "1", "--checkpoint-steps", "3"]
    code, errors = finish(start(tmp_path, *options, preexec_fn=small_files))
    assert code == 2
    assert errors.startswith(f"maqd train: cannot write '{tmp_path / CHECKPOINT}'")
    assert errors.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {RECIPE}


def test_a_run_has_its_folder_to_itself_to_the_end(tmp_path):
    out = tmp_path / "run"
    command = [*TRAIN[:3], "run", "digits", *TRAIN[5:], "--epochs", "1", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (out / NETWORK).exists():  # trained and folded, not yet simulated, exported and reported
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)
    code, errors = finish(start(out, "--lr", "0.5", "--overwrite"))
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=300)
    assert (code, process.returncode) == (2, 0)
    assert "another process is writing in" in errors
    assert (out / REPORT_JSON).exists()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_ctrl_c_while_a_step_is_being_compiled_ends_after_that_step(tmp_path):
    """From a terminal it goes to the compiler, too; this one sends it to the whole group itself."""
    compiler, sent = tmp_path / "compiler", tmp_path / "sent"
    compiler.write_text(
        f"#!{sys.executable}\n"
        "import os, signal, sys\n"
        f"if any('.main.cpp' in word for word in sys.argv) and not os.path.exists({str(sent)!r}):\n"
        f"    os.mkdir({str(sent)!r})\n"
        "    os.kill(0, signal.SIGINT)\n"
        "os.execvp('g++', ['g++', *sys.argv[1:]])\n"
    )
    compiler.chmod(0o755)
    out, cache = tmp_path / "run", str(tmp_path / "cache")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": cache}
    command = [*TRAIN[:5], "--model", "mlp", "--plan", "8", "--compile", "true", "--quiet", "--out", str(out)]
    code, errors = finish(
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    )
    assert sent.exists()
    assert code == 128 + signal.SIGINT
    state = read_tensors(out / CHECKPOINT)[1]
    where = f"in epoch {state['epoch']} after step {state['step']}"
    assert errors == f"maqd train: stopped by SIGINT {where}; everything is saved; continue with --resume\n"


def test_ctrl_c_while_torch_is_being_imported_is_one_line():
    command = [sys.executable, "-X", "importtime", "-m", "maqd_snn", "train", "digits"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.rstrip().endswith(" torch._utils"):  # it is within
                process.send_signal(signal.SIGINT)
                break
        errors = [line for line in process.stderr if not line.startswith("import time:")]
        assert process.wait(timeout=60) == 130
    assert errors == ["maqd: interrupted\n"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_access_is_one_sentence(tmp_path):
    out = tmp_path / "run"
    out.mkdir(mode=0o500)
    code, errors = finish(start(out))
    assert code == 2
    assert "cannot write" in errors
    assert errors.count("\n") == 1


def without_rights_of_root():
    """Take from root the right to write where a folder's mode says no (CAP_DAC_OVERRIDE, at the next exec)."""
    if ctypes.CDLL(None, use_errno=True).prctl(24, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot drop a capability")


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="root on Linux; the test above is for others")
def test_a_folder_without_write_access_is_one_sentence_for_a_root_that_is_held_to_it(tmp_path):
    out = tmp_path / "run"
    out.mkdir(mode=0o500)
    code, errors = finish(start(out, preexec_fn=without_rights_of_root))
    assert code == 2
    assert errors.startswith(f"maqd train: cannot write '{out / RECIPE}': Permission denied;")
    assert errors.count("\n") == 1
