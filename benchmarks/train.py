"""One training step beside its float twin and its peers: time, saved activations, memory.

    maqd bench train [--quick] [--only NAME,...] [--rounds N] [--parts time,saved,memory] [--device cpu|cuda]

All networks have one shape, VGG 64-64-M-128-128-M-256-256-M with batches of 64 images 3x32x32; ours has 2 activation
states and ternary weights. A step is forward, cross-entropy, backward and SGD with momentum. Steps are timed in turn,
one of each network per round, and the median over the rounds counts. Saved bytes are those of the unique tensor
storages that autograd keeps between forward and backward, parameters and buffers left out. Memory is measured in a
process for each network: the peak of its steps above what the process holds between them. The tables go into
docs/training-speed.md, between its two markers; --out FILE writes them elsewhere. The parts can be measured one by one:
the figures of earlier calls are kept in --results FILE.
"""

import argparse
import ctypes
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maqd_snn.benchmarks.document import replace_between
from maqd_snn.benchmarks.train_networks import NETWORKS, Ready, Setting
from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.files import write_text
from maqd_snn.runs import machine

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "training-speed.md"
BEGIN, END = "<!-- figures: maqd bench train -->", "<!-- end of figures -->"
PARTS = ("time", "saved", "memory")
WARM_UP = 2
PEERS = ("brevitas", "snntorch", "spikingjelly")

Figures = dict[str, dict[str, float]]  # network -> ms, saved_bytes, step_peak_bytes, process_peak_bytes


@dataclass(frozen=True)
class Claim:
    """A ratio that is to hold: `ours` over `other`, of one figure, at most `limit`."""

    text: str
    figure: str
    ours: str
    other: str
    limit: float


CLAIMS = (
    Claim("fp32 compiled / float twin eager", "ms", "fp32-compiled", "twin", 0.95),
    Claim("fp32 compiled / float twin compiled", "ms", "fp32-compiled", "twin-compiled", 1.0),
    Claim("bf16 compiled / float twin eager in float32", "ms", "bf16-compiled", "twin", 0.6),
    Claim("fastest / Brevitas", "ms", "fastest", "brevitas", 0.4),
    Claim("fastest / snnTorch T = 4", "ms", "fastest", "snntorch-4", 0.3),
    Claim("fastest / SpikingJelly T = 4", "ms", "fastest", "spikingjelly-4", 0.2),
    Claim("saved activations, fp32 / float twin", "saved_bytes", "fp32", "twin", 0.35),
    Claim("saved activations, fp32 compiled / float twin", "saved_bytes", "fp32-compiled", "twin", 0.35),
    Claim("memory of a step, eager / float twin eager", "step_peak_bytes", "fp32", "twin", 1.0),
    Claim("memory of a step, compiled / float twin compiled", "step_peak_bytes", "fp32-compiled", "twin-compiled", 1.0),
)


def stepper(ready: Ready, labels: Tensor) -> Callable[[], None]:
    """Return one training step of the network."""
    optimizer = torch.optim.SGD(ready.module.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(ready.forward(ready.inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def saved_bytes(ready: Ready, labels: Tensor) -> int:
    """Return the bytes of unique storages that autograd saves in one forward pass, without parameters and buffers."""
    own = {t.untyped_storage().data_ptr() for t in (*ready.module.parameters(), *ready.module.buffers())}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = F.cross_entropy(ready.forward(ready.inputs), labels)
    total = sum(tensor.untyped_storage().nbytes() for tensor in found.values())
    loss.backward()  # type: ignore[no-untyped-call]
    return total


def measure(names: Sequence[str], setting: Setting, rounds: int, parts: Sequence[str]) -> Figures:
    """Return ms per step and saved bytes of the networks, measured in turn in this process."""
    labels = setting.labels().to(setting.device)
    figures: Figures = {name: {} for name in names}
    steps: dict[str, Callable[[], None]] = {}
    for name in names:
        torch.manual_seed(0)
        ready = NETWORKS[name].make(setting)
        steps[name] = stepper(ready, labels)
        for _ in range(WARM_UP):
            steps[name]()
        if "saved" in parts and not NETWORKS[name].timed:
            figures[name]["saved_bytes"] = saved_bytes(ready, labels)
        print(f"{name}: ready", file=sys.stderr, flush=True)
    if "time" in parts:
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                _wait(setting)
                started = time.perf_counter()
                steps[name]()
                _wait(setting)
                times[name].append(1e3 * (time.perf_counter() - started))
        for name, found in times.items():
            figures[name]["ms"] = statistics.median(found)
    return figures


def _wait(setting: Setting) -> None:
    if setting.device == "cuda":
        torch.cuda.synchronize()


def memory(name: str, setting: Setting) -> dict[str, float]:
    """Return the peak bytes of steps above what is held between them, and those of this whole process."""
    labels = setting.labels().to(setting.device)
    torch.manual_seed(0)
    step = stepper(NETWORKS[name].make(setting), labels)
    for _ in range(WARM_UP):
        step()
    gc.collect()
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step()
        peak = torch.cuda.max_memory_allocated()
        return {"step_peak_bytes": peak - held, "process_peak_bytes": peak}
    try:
        before = _status("VmHWM")  # not ru_maxrss, which a process takes over from the one that started it
        resident = _reset_peak()
    except OSError:
        return {"process_peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    for _ in range(3):
        step()
    peak = _status("VmHWM")
    return {"step_peak_bytes": peak - resident, "process_peak_bytes": max(before, peak)}


def _reset_peak() -> int:
    """Start a new peak of this process's memory and return its memory now; OSError where the system is not Linux."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def measure_memory(names: Sequence[str], setting: Setting) -> Figures:
    """Return `memory` of every network, each in a process of its own."""
    figures: Figures = {}
    for name in names:
        if NETWORKS[name].timed:
            continue
        call = [sys.executable, "-m", "maqd_snn.benchmarks.train", "--memory-of", name, "--setting"]
        done = subprocess.run(
            [*call, json.dumps(asdict(setting)), "--threads", str(torch.get_num_threads())],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise MaqdError(f"the memory of {name} could not be measured: {done.stderr[-2000:]}")
        figures[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: memory", file=sys.stderr, flush=True)
    return figures


def fastest(figures: Mapping[str, Mapping[str, float]]) -> str | None:
    """Return the name of our fastest network."""
    ours = [name for name, found in figures.items() if NETWORKS[name].ours and "ms" in found]
    return min(ours, key=lambda name: figures[name]["ms"], default=None)


def table(figures: Mapping[str, Mapping[str, float]], missing: Mapping[str, str]) -> list[str]:
    """Return the lines of the table of figures; ratios are to the eager float twin in its default layout."""
    lines = [
        "| network | ms per step | to the twin | saved activations, MB | to the twin | memory of a step, MB | "
        "peak of the process, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    twin = figures.get("twin", {})
    for name, network in NETWORKS.items():
        if name in missing:
            lines.append(f"| {network.text} | {missing[name]} | | | | | |")
        elif found := figures.get(name):
            cells = [
                _cell(found.get("ms"), 1, 0),
                _cell(_ratio(found, twin, "ms"), 1, 2),
                _cell(found.get("saved_bytes"), 1e-6, 1),
                _cell(_ratio(found, twin, "saved_bytes"), 1, 2),
                _cell(found.get("step_peak_bytes"), 1e-6, 0),
                _cell(found.get("process_peak_bytes"), 1e-6, 0),
            ]
            lines.append(f"| {network.text} | " + " | ".join(cells) + " |")
    return lines


def _cell(value: float | None, factor: float, digits: int) -> str:
    return "" if value is None else f"{value * factor:.{digits}f}"


def _ratio(found: Mapping[str, float], other: Mapping[str, float], figure: str) -> float | None:
    return found[figure] / other[figure] if figure in found and figure in other else None


def claims(figures: Mapping[str, Mapping[str, float]], missing: Mapping[str, str]) -> list[str]:
    """Return the lines of the table of ratios that are to hold."""
    lines = ["| ratio | measured | at most | |", "|---|---|---|---|"]
    best = fastest(figures)
    for claim in CLAIMS:
        ours = best if claim.ours == "fastest" else claim.ours
        ratio = _ratio(figures.get(ours or "", {}), figures.get(claim.other, {}), claim.figure)
        text = claim.text + (f" (`{best}`)" if claim.ours == "fastest" and best else "")
        if ratio is None:
            why = missing.get(ours or "") or missing.get(claim.other) or "not measured"
            lines.append(f"| {text} | {why} | {claim.limit:g} | |")
        else:
            lines.append(f"| {text} | {ratio:.2f} | {claim.limit:g} | {'yes' if ratio <= claim.limit else '**no**'} |")
    return lines


def report(
    setting: Setting, rounds: int, figures: Mapping[str, Mapping[str, float]], missing: Mapping[str, str]
) -> str:
    """Return the Markdown between the markers."""
    where = machine()
    peers = ", ".join(f"{name} {found}" for name in PEERS if (found := _version(name)))
    device = torch.cuda.get_device_name() if setting.device == "cuda" else f"{processor()}, {where['threads']} threads"
    return "\n".join(
        [
            f"{datetime.now(UTC).date()}: {device}, {where['system']}, torch {where['torch']}; {peers or 'no peers'}. "
            f"VGG {setting.plan}, batches of {setting.batch} images 3x{setting.size}x{setting.size}; medians of "
            f"{rounds} rounds, in turn.",
            "",
            *table(figures, missing),
            "",
            *claims(figures, missing),
        ]
    )


def processor() -> str:
    """Return the processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "CPU"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the document."""
    parser = argparse.ArgumentParser(
        prog="maqd bench train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small network, few rounds; prints, writes no document")
    parser.add_argument("--only", default=",".join(NETWORKS), help=f"of {','.join(NETWORKS)}")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="of torch (default: as it chooses)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help=f"Markdown file (default: {DOCUMENT.name} of a source tree)")
    parser.add_argument("--results", type=Path, help="JSON file that keeps the figures of earlier calls")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.memory_of is not None:
        print(json.dumps(memory(options.memory_of, Setting(**json.loads(options.setting)))))
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        raise MaqdError("torch sees no CUDA device here; leave --device out to measure on the CPU")
    if options.rounds < 1:
        raise MaqdError(f"--rounds must be at least 1, got {options.rounds}")
    names, parts = options.only.split(","), options.parts.split(",")
    for what, given, known in (("network", names, NETWORKS), ("part", parts, dict.fromkeys(PARTS))):
        for name in given:
            if name not in known:
                raise unknown_name(what, name, known)
    setting = Setting("64-64-M-128-128-M-256-256-M", 32, 64, options.device)
    rounds: int = options.rounds
    if options.quick:
        setting, rounds = Setting("8-M-16-M", 16, 8, options.device), 3
    missing = {name: why for name in names if (why := NETWORKS[name].missing(setting))}
    names = [name for name in names if name not in missing]
    figures = _read(options.results)
    if {"time", "saved"} & set(parts):
        _merge(figures, measure(names, setting, rounds, parts))
    if "memory" in parts:
        _merge(figures, measure_memory(names, setting))
    if options.results is not None:
        write_text(options.results, json.dumps(figures, indent=1))
    text = report(setting, rounds, figures, missing)
    print(text)
    if options.out is not None or not options.quick:
        document = options.out or DOCUMENT
        if not document.is_file():
            write_text(document, f"{BEGIN}\n{END}\n")
        replace_between(document, BEGIN, END, text)
    return 0


def _read(results: Path | None) -> dict[str, dict[str, Any]]:
    if results is None or not results.is_file():
        return {}
    found: dict[str, dict[str, Any]] = json.loads(results.read_text(encoding="utf-8"))
    return {name: row for name, row in found.items() if name in NETWORKS}


def _merge(figures: dict[str, dict[str, Any]], new: Figures) -> None:
    for name, row in new.items():
        figures.setdefault(name, {}).update(row)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MaqdError as error:
        sys.exit(f"train: {error}")
