"""Coverage-guided fuzzing of every event reader with atheris, from a corpus that is kept.

    python tests/fuzzing.py [FORMAT ...] --seconds 30 [--corpus DIR] [--jobs 2] [--slice 120] [--table FILE]

Each FORMAT (all, unless named) is fuzzed for so many seconds in processes of its own, in turns of `--slice` seconds.
With `--corpus` what was found interesting is kept, and the seconds of all sittings add up in its ledger.json; `--table`
writes the ledger into docs/events-fuzzing.md. An input is read strictly and leniently, by machine code and by NumPy,
whole and in windows. A finding is any exception but EventFileError, a warning, a crash, an input that takes more than
20 seconds, a result that differs between these ways or from a plain decoder, and a reading whose peak of resident
memory is above twice the decoded array (13 bytes an event) plus 64 MB. Findings are kept beside the corpus; exit code 1
where there is one.

HDF5, AEDAT 4 and Event Stream are read as always by a worker process under a limit of memory; here it is forked from a
process that has its libraries, so that inputs need milliseconds each.
"""

import argparse
import contextlib
import inspect
import io
import itertools
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import event_files as files
import numpy as np

from maqd_snn.benchmarks.document import replace_between
from maqd_snn.compiled import NO_NUMBA
from maqd_snn.datasets.events import (
    EVENT_DTYPE,
    FORMATS,
    EventFileError,
    Events,
    foreign,
    foreign_worker,
    read_recording,
    stream_events,
)
from maqd_snn.files import write_text
from maqd_snn.runs import machine

SPARE = 64 * 2**20  # bytes beyond twice the decoded array
LONGEST = 20  # seconds for one input
LARGEST = 4096  # bytes of one input that atheris makes
RESTARTS = 20  # of a turn that ended with a finding
BEGIN, END = "<!-- fuzzing: tests/fuzzing.py -->", "<!-- end of fuzzing -->"
# Plain decoders, and the header with which they can be trusted: they know sound ones only.
PLAIN: dict[str, tuple[Callable[[bytes], list[files.Row]], bytes]] = {
    "5-byte": (files.plain_five, b""),
    "aedat2": (files.plain_aedat2, files.DVS128_HEADER),
    "aedat3": (files.plain_aedat3, files.AEDAT3_HEADER.replace(b"#Source 1: DVS128\r\n", b"")),
    "evt2": (files.plain_evt2, files.EVT2_HEADER),
    "evt3": (files.plain_evt3, files.EVT3_HEADER),
    "dat": (files.plain_dat, b"% Data file containing CD events.\n% Version 2\n\x0c\x08"),
}


class FindingError(Exception):
    """A reader did what it must not do."""


def suffix_of(name: str) -> str:
    """Return a suffix that the format's files have."""
    return (FORMATS[name].suffixes or {"aedat3": (".aedat",)}.get(name, (".raw",)))[0]


# ---------------------------------------------------------------------------------------------- seeds


def seeds(name: str) -> list[bytes]:
    """Return small sound files of a format, with all that it can hold."""
    generator = random.Random(0)
    rows, t = [], 0
    for _ in range(40):
        t += generator.choice([0, 0, 1, 50, 5000])
        rows.append((t, generator.randrange(120), generator.randrange(120), generator.randrange(2)))
    bursts = [(t, x + 3 * i, y, p) for t, x, y, p in rows[:12] for i in range(4)]
    late = [(t + 2**24, *rest) for t, *rest in rows[:5]]
    makers: dict[str, Callable[[], list[bytes]]] = {
        "5-byte": lambda: [files.five_bytes(rows), files.five_bytes(late)],
        "aedat2": lambda: [
            files.aedat2(rows),
            files.aedat2([*rows, (2**32 - 9, 1, 2, 1), (2**32 + 5, 1, 2, 1)], specials=True),
            files.aedat2(rows, "davis240", specials=True),
        ],
        "aedat3": lambda: [files.aedat3(rows), files.aedat3([*rows[:4], (2**31 + 9, 3, 4, 1)], 2, extras=True)],
        "evt2": lambda: [files.evt2(rows), files.evt2(rows, extras=True)],
        "evt2.1": lambda: [files.evt21(bursts), files.evt21(bursts, upper_first=True)],
        "evt3": lambda: [files.evt3(bursts), files.evt3(rows, vectors=False, extras=True), files.evt3(late)],
        "dat": lambda: [files.dat(rows), files.dat(rows, 1)],
        "csv": lambda: [b"1,2,3,0\n4,5,6,1\n", b"# c\n0.0000015 3 4 0\n12.5 5 6 -1\n", b"x;y;p;t\r\n1;2;1;30\r\n"],
        "npy": lambda: [_saved(np.array(rows, EVENT_DTYPE)), _saved(np.array(rows, np.int64))],
        "npz": lambda: [_archive(rows, zipfile.ZIP_STORED), _archive(rows, zipfile.ZIP_DEFLATED)],
        "hdf5": lambda: [_hdf5(rows, **how) for how in ({}, {"chunks": True}, {"compression": "gzip"})],
        "aedat4": lambda: _through_faery(rows, "aedat4"),
        "es": lambda: _through_faery(rows, "es"),
    }
    return makers[name]()


def _saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _archive(rows: Sequence[files.Row], method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, column in zip("txyp", zip(*rows, strict=True), strict=True):
            archive.writestr(f"{name}.npy", _saved(np.array(column)))
    return file.getvalue()


def _hdf5(rows: Sequence[files.Row], **storage: Any) -> bytes:
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w", libver="earliest") as out:
        for name, column in zip("txyp", zip(*rows, strict=True), strict=True):
            out.create_dataset(f"events/{name}", data=np.array(column), **storage)
        if not storage:
            out["t_offset"] = np.int64(57)
    return file.getvalue()


def _through_faery(rows: Sequence[files.Row], name: str) -> list[bytes]:
    import faery

    events = np.array(rows, faery.EVENTS_DTYPE)
    found = []
    for compression in (None, ("lz4", 1), ("zstd", 1)) if name == "aedat4" else (None,):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"a.{name}"
            faery.events_stream_from_array(events, (128, 128)).to_file(path, compression=compression, zero_t0=False)
            found.append(path.read_bytes())
    return found


# ---------------------------------------------------------------------------------------------- one input


def check(name: str, path: Path) -> int:
    """Read a file in all ways and return the largest peak of memory beyond twice the events, or raise FindingError."""
    data = path.read_bytes()
    worst = 0
    own = not isinstance(FORMATS[name], foreign.ForeignFormat)
    for lenient in (False, True):
        found = []
        for numba in (True, False) if own else (True,):
            os.environ[NO_NUMBA] = "" if numba else "1"
            events, error, peak = _read(name, path, lenient)
            worst = max(worst, peak)
            found.append((events, error))
        if own and not _same(*found):
            raise FindingError(f"machine code and NumPy differ: {found}")
        if lenient:
            continue
        _compare_windows(name, path, *found[0])
        plain, header = PLAIN.get(name, (None, b""))
        if (
            plain
            and found[0][0] is not None
            and data.startswith(header)
            and data[len(header) :][:1] not in (b"%", b"#")
        ):
            rows = np.array(plain(data), EVENT_DTYPE)
            if not np.array_equal(rows, found[0][0]):
                raise FindingError(f"the plain decoder differs: {rows[:5]} ... and {found[0][0][:5]} ...")
    return worst


def _read(name: str, path: Path, lenient: bool) -> tuple[Events | None, str | None, int]:
    before = _reset_peak()
    events, error = None, None
    try:
        events = read_recording(path, format=name, skip_damaged=lenient, unordered=lenient).events
    except EventFileError as refused:
        error = str(refused)
    beyond = _peak() - before - 2 * (0 if events is None else events.nbytes)
    if beyond > SPARE:
        raise FindingError(f"{beyond} bytes beyond twice the {0 if events is None else len(events)} events")
    return events, error, beyond


def _same(one: tuple[Events | None, str | None], other: tuple[Events | None, str | None]) -> bool:
    if one[0] is None or other[0] is None:
        return one[0] is other[0] and one[1] == other[1]
    return np.array_equal(one[0], other[0])


def _compare_windows(name: str, path: Path, events: Events | None, error: str | None) -> None:
    """Windows together are the whole; what the whole refuses, some window does."""
    window = 1000 if events is None or not len(events) else (int(events["t"][-1]) - int(events["t"][0])) // 7 + 1
    try:
        parts = list(itertools.islice(stream_events(path, window, format=name), 10_000))
    except EventFileError as refused:
        if error is None:
            raise FindingError(f"read whole, but not in windows: {refused}") from refused
        return
    if error is not None and len(parts) < 10_000:
        raise FindingError(f"read in windows, but not whole: {error}")
    if events is not None and not np.array_equal(np.concatenate([*parts, events[:0]]), events):
        raise FindingError("windows together are not the whole")


def _reset_peak() -> int:
    """Set the process's peak of resident memory to what it has now, and return that."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    peak, now = _status("VmHWM"), _status("VmRSS")
    if peak > now + SPARE // 2:
        raise OSError(f"expected a peak of resident memory near the {now} bytes of now, got {peak}")
    return peak


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))


class Forked:
    """The worker of foreign formats as a fork, with what `foreign` uses of subprocess.Popen."""

    def __init__(self, command: Sequence[str], *, env: dict[str, str], **_: Any) -> None:
        output, errors = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            for number in range(1, signal.NSIG):
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.environ.update(env)
            os.dup2(output[1], 1)
            os.dup2(errors[1], 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            code = 1
            try:
                code = foreign_worker.main(*command[3:])
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        os.close(output[1])
        os.close(errors[1])
        self.stdout, self.stderr = os.fdopen(output[0], "rb", buffering=0), os.fdopen(errors[0], "rb")
        self.code: int | None = None

    def kill(self) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code


FORKING = type("Forking", (), {"Popen": Forked, "PIPE": subprocess.PIPE, "DEVNULL": subprocess.DEVNULL})


# ---------------------------------------------------------------------------------------------- one process


def target(name: str, corpus: Path, findings: Path, seconds: int, stats: Path) -> None:
    """Fuzz one format; ends the process."""
    import atheris

    warnings.simplefilter("error")
    path = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)) / f"a{suffix_of(name)}"
    foreign.subprocess = FORKING
    if isinstance(FORMATS[name], foreign.ForeignFormat):
        __import__(FORMATS[name].package)
    for data in seeds(name):
        path.write_bytes(data)
        if not len(read_recording(path, format=name).events):
            raise AssertionError(f"a seed of {name} has no events")
    check(name, path)
    _instrument(atheris)

    state: dict[str, Any] = {"executions": 0, "worst": 0, "seconds": 0.0}
    began = written = time.monotonic()

    def one(data: bytes) -> None:
        nonlocal written
        path.write_bytes(data)
        state["worst"] = max(state["worst"], check(name, path))
        state["executions"] += 1
        now = time.monotonic()
        if now - written > 0.5:
            written, state["seconds"] = now, now - began
            write_text(stats, json.dumps(state))

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={LONGEST}",
        f"-max_len={LARGEST}",
        "-rss_limit_mb=4096",
        "-print_final_stats=0",
        "-verbosity=0",
        f"-artifact_prefix={findings}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def _instrument(atheris: Any) -> None:
    """Count the branches of all functions of the readers, but not of kernels: numba compiles them."""
    package = "maqd_snn.datasets.events"
    modules = {k: v for k, v in sys.modules.items() if k.startswith(package) and not k.endswith("foreign_worker")}
    kernels = {
        name for module in modules.values() for name in re.findall(r"compiled\((\w+),", inspect.getsource(module))
    }
    for name, module in modules.items():
        for owner in [module, *(v for v in vars(module).values() if isinstance(v, type) and v.__module__ == name)]:
            for value in list(vars(owner).values()):
                function = getattr(value, "__func__", getattr(value, "fget", value))
                inside = getattr(function, "__module__", "") == name and hasattr(function, "__code__")
                if inside and not hasattr(function, "__wrapped__") and function.__name__ not in kernels:
                    atheris.instrument_func(function)


# ---------------------------------------------------------------------------------------------- all of it


def fuzz(name: str, folder: Path, seconds: int) -> dict[str, Any]:
    """Fuzz one format for so long in processes of its own, and return what was done."""
    corpus, findings = folder / name, folder / "findings" / name
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(data)
    total: dict[str, Any] = {"seconds": 0.0, "executions": 0, "worst": 0, "findings": 0}
    for _ in range(RESTARTS):
        left = seconds - total["seconds"]
        if left < 1:
            break
        with tempfile.TemporaryDirectory() as scratch:
            stats = Path(scratch) / "stats.json"
            command = [
                sys.executable,
                __file__,
                "--target",
                name,
                str(corpus),
                str(findings),
                str(int(left)),
                str(stats),
            ]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            state = json.loads(stats.read_text()) if stats.exists() else {"seconds": 0.0, "executions": 0, "worst": 0}
        for key in ("seconds", "executions"):
            total[key] += state[key]
        total["worst"] = max(total["worst"], state["worst"])
        if done.returncode == 0:
            break
        total["findings"] += 1
        (findings / f"log-{time.time_ns()}.txt").write_text(done.stdout[-5000:] + done.stderr[-20000:])
        print(f"{name}: a finding, see {findings}\n{done.stderr[-3000:]}", file=sys.stderr, flush=True)
        if not stats_moved(state):
            break
    return total


def stats_moved(state: dict[str, Any]) -> bool:
    """Return whether the process got as far as to fuzz."""
    return bool(state["executions"])


def add(ledger: Path, name: str, done: dict[str, Any]) -> dict[str, Any]:
    """Add what was done to the ledger and return the format's entry."""
    entries = json.loads(ledger.read_text()) if ledger.exists() else {}
    old = entries.get(name, {"seconds": 0.0, "executions": 0, "worst": 0, "findings": 0})
    entry = {key: old[key] + done[key] for key in ("seconds", "executions", "findings")}
    entries[name] = {**entry, "worst": max(old["worst"], done["worst"]), "last": str(date.today())}
    write_text(ledger, json.dumps(entries, indent=1))
    return dict(entries[name])


def table(ledger: Path) -> str:
    """Return the ledger as Markdown."""
    entries = json.loads(ledger.read_text())
    where = machine()
    lines = [
        "| format | minutes | inputs | findings open | most memory beyond twice the events | last |",
        "|---|---|---|---|---|---|",
        *(
            f"| {FORMATS[name].title} | {entry['seconds'] / 60:.1f} | {entry['executions']:,} | {entry['findings']} "
            f"| {entry['worst'] / 2**20:.1f} MB | {entry['last']} |"
            for name in FORMATS
            if (entry := entries.get(name))
        ),
        "",
        f"From `tests/fuzzing.py`, {where['system']}, one thread a process.",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz in turns, keep the ledger, and write its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=f"of {', '.join(FORMATS)}")
    parser.add_argument("--seconds", type=int, default=30, help="for each format (default: 30)")
    parser.add_argument("--slice", type=int, default=120, help="seconds of one turn (default: 120)")
    parser.add_argument("--corpus", type=Path, help="folder that is kept (default: none is)")
    parser.add_argument("--jobs", type=int, default=2, help="formats at the same time (default: 2)")
    parser.add_argument("--table", type=Path, help="Markdown file with the markers")
    parser.add_argument("--target", nargs=5, metavar="X", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.target:
        name, corpus, findings, seconds, stats = options.target
        target(name, Path(corpus), Path(findings), int(seconds), Path(stats))
    for name in options.formats:
        if name not in FORMATS:
            parser.error(f"unknown format {name!r}; the formats are: {', '.join(FORMATS)}")
    names = options.formats or list(FORMATS)
    found = 0
    with contextlib.ExitStack() as stack:
        folder = options.corpus or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        ledger = folder / "ledger.json"
        left = dict.fromkeys(names, options.seconds)
        while any(left.values()):
            turns = {name: min(rest, options.slice) for name, rest in left.items() if rest}
            with ThreadPoolExecutor(options.jobs) as pool:
                waiting = {name: pool.submit(fuzz, name, folder, seconds) for name, seconds in turns.items()}
                for name, future in waiting.items():
                    done = future.result()
                    entry = add(ledger, name, done)
                    left[name] -= turns[name]
                    found += done["findings"]
                    what = f"{done['seconds']:6.0f} s {done['executions']:9,} inputs {done['findings']} findings"
                    print(f"{name:8} {what}, {entry['seconds'] / 60:.1f} min in all", flush=True)
        if options.table:
            replace_between(options.table, BEGIN, END, table(ledger))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
