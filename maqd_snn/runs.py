"""A run: one folder that holds a recipe, its training, its integer network, exports and report.

recipe.json  metrics.csv  layers.csv  checkpoint.safetensors (and .previous)  model.safetensors  network.h5
network.nir  network.onnx  network.qonnx.onnx  network.c and more (see `EXPORTED`)  report.json  report.html
counts.csv  energy.csv  report.tex
"""

import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maqd_snn._version import __version__
from maqd_snn.baselines import baselines, break_even
from maqd_snn.datasets import ImageDataset, Splits
from maqd_snn.errors import MaqdError, MissingExtraError
from maqd_snn.files import claimed, remove_temporaries, write_text
from maqd_snn.folding import fold
from maqd_snn.graph import SpikingNetwork
from maqd_snn.integer import IntegerNetwork
from maqd_snn.integer.ops import MaxPool2d
from maqd_snn.integer.reorder import spikes_before_pools
from maqd_snn.integer.storage import fingerprint
from maqd_snn.neuromorphic import FORMATS, Verification, export, load, verify
from maqd_snn.pricing import price_all
from maqd_snn.profiles import Profile
from maqd_snn.reporting.samples import sample_records
from maqd_snn.simulation import SimulationReport, simulate
from maqd_snn.training import Execution, Fit, Recipe, Team, fit
from maqd_snn.training.building import trained_model
from maqd_snn.training.checkpoint import MODEL, previous, read_tensors, write_tensors
from maqd_snn.training.loop import CHECKPOINT, AfterEpoch, batches, differences
from maqd_snn.training.watching import LAYERS, METRICS, TENSORBOARD
from maqd_snn.windows import count_recordings_right

RECIPE, NETWORK, REPORT_JSON, REPORT_HTML = "recipe.json", "network.h5", "report.json", "report.html"
DIAGNOSIS_JSON, DIAGNOSIS_PNG = "diagnosis.json", "diagnosis.png"
COUNTS_CSV, ENERGY_CSV, REPORT_TEX = "counts.csv", "energy.csv", "report.tex"
REPORT_SCHEMA = 1
SIMULATION_BATCH = 100
FILE_OF_FORMAT: Mapping[str, str] = {name: entry.file for name, entry in FORMATS.items()}
EXPORTED = {file.name for entry in FORMATS.values() for file in entry.files(Path(entry.file))}
PLOTS: Mapping[str, str] = {name: f"{name}.png" for name in ("curves", "weights", "levels", "surrogate")}
RUN_FILES = {
    *(RECIPE, METRICS, LAYERS, CHECKPOINT, previous(Path(CHECKPOINT)).name, MODEL, NETWORK),
    *(DIAGNOSIS_JSON, DIAGNOSIS_PNG),
    *(*EXPORTED, *PLOTS.values(), REPORT_JSON, REPORT_HTML, COUNTS_CSV, ENERGY_CSV, REPORT_TEX),
}
MAP_FILES = re.compile(r"map-.+\.(json|png)")  # of `maqd map`, one pair for each chip


def open_run(out: Path, recipe: Recipe, resume: bool, overwrite: bool) -> None:
    """Create the folder of a run and write its recipe, or accept an existing one; raises as `opened_run`."""
    with opened_run(out, recipe, resume, overwrite):
        pass


@contextmanager
def opened_run(out: Path, recipe: Recipe, resume: bool, overwrite: bool) -> Iterator[None]:
    """Create the folder of a run and write its recipe, or accept an existing one; no other process writes in it then.

    Raises:
        MaqdError: the folder holds a run and neither `resume` nor `overwrite` is given; `resume` with another recipe;
            the folder holds something else, or another process trains in it; it cannot be written; the run would be
            its own teacher.
    """
    if recipe.teacher is not None and os.path.realpath(recipe.teacher) == os.path.realpath(out):
        raise MaqdError(f"a run cannot be its own teacher, but both are {str(out)!r}; give another --out")
    if out.exists() and not out.is_dir():
        raise MaqdError(f"{str(out)!r} is a file; give a folder with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MaqdError(f"cannot create the folder {str(out)!r}: {error.strerror}; give another with --out") from error
    with claimed(out):
        _open_run(out, recipe, resume, overwrite)
        yield


def _open_run(out: Path, recipe: Recipe, resume: bool, overwrite: bool) -> None:
    file = out / RECIPE
    if file.is_file():
        remove_temporaries(out)
    # A recipe alone is a run that never got to its first checkpoint: nothing is lost with it.
    begun = file.is_file() and any(path.name != RECIPE for path in out.iterdir())
    if begun:
        if resume:
            differing = "; ".join(differences(asdict(read_recipe(out)), recipe))
            if differing:
                raise MaqdError(
                    f"{str(out)!r} holds a run of another recipe ({differing}); give its options, or another --out"
                )
            return
        if not overwrite:
            raise MaqdError(f"{str(out)!r} holds another run; give --resume, --overwrite or another --out")
        for path in out.iterdir():
            if path.is_file() and (path.name in RUN_FILES or MAP_FILES.fullmatch(path.name)):
                path.unlink()
            elif path.name == TENSORBOARD and path.is_dir():
                shutil.rmtree(path)
    elif not file.is_file() and any(out.iterdir()):
        raise MaqdError(f"{str(out)!r} is not empty and holds no run; give another folder with --out")
    write_text(file, recipe.to_json())


def read_recipe(run: Path) -> Recipe:
    """Return the recipe of a run; raises MaqdError where the folder holds none."""
    file = run / RECIPE
    if not file.is_file():
        raise MaqdError(
            f"{str(run)!r} holds no run (no {RECIPE}); give the folder that `maqd train` or `maqd run` wrote"
        )
    return Recipe.from_dict(_json(file), str(file))


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise MaqdError(f"{str(file)!r} is damaged: it is no JSON text ({error})") from error


def train(
    recipe: Recipe,
    splits: Splits,
    out: Path,
    resume: bool = False,
    quiet: bool = False,
    execution: Execution | None = None,
    team: Team | None = None,
    after_epoch: AfterEpoch | None = None,
) -> Fit:
    """Train, and write the model of the best epoch; of several processes that train together one writes."""
    result = fit(recipe, splits, out, resume, quiet, execution, team, after_epoch)
    history = [asdict(entry) for entry in result.history]
    if result.writer:
        zero_point = result.model.input_spec.zero_point
        state = {"recipe": asdict(recipe), "history": history, "zero_point": zero_point, **_teacher(result)}
        write_tensors(out / MODEL, result.model.state_dict(), state)
    return result


def fold_run(recipe: Recipe, splits: Splits, result: Fit, out: Path) -> IntegerNetwork:
    """Fold the trained model, check it against `model.eval()`, and write the integer network with its provenance.

    Spikes stand before their max-pools in it where they can, also where the model pools first: see
    `spikes_before_pools`.
    """
    net = spikes_before_pools(fold(result.model))
    check = check_folding(result.model, net, splits)
    net = IntegerNetwork(net.ops, _provenance(recipe, result, net, check))
    net.save(out / NETWORK)
    return net


@dataclass(frozen=True)
class FoldCheck:
    """Outputs of `model.eval()` against the integer network's, op by op: how many were compared, how many differ."""

    samples: int
    values: int
    mismatches: int


@torch.no_grad()
def check_folding(model: SpikingNetwork, net: IntegerNetwork, splits: Splits, samples: int = 100) -> FoldCheck:
    """Compare every value of every op on the first validation images.

    Where a pool and a spike have changed places, the spike is compared with the model's own part on what was pooled.
    """
    codes = splits.validation.codes[:samples]
    theirs, ours = model.eval().trace(codes), net.trace(codes)
    for op in reversed(net.ops):
        (source,) = op.inputs if isinstance(op, MaxPool2d) else ("",)
        if source in model.names and model.inputs_of[source] == (op.name,):
            theirs[op.name] = theirs[source]
            theirs[source] = model.part(source)(theirs[model.inputs_of[op.name][0]])
    mismatches = sum(int((theirs[name].double() != value.double()).sum()) for name, value in ours.items())
    return FoldCheck(len(codes), sum(value.numel() for value in ours.values()), mismatches)


def _provenance(recipe: Recipe, result: Fit, net: IntegerNetwork, check: FoldCheck) -> dict[str, Any]:
    return {
        **net.provenance,
        "recipe": asdict(recipe),
        **_teacher(result),
        "best_epoch": result.best.epoch,
        "validation_accuracy": result.best.validation_accuracy,
        "history": [asdict(entry) for entry in result.history],
        "fold_check": asdict(check),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _teacher(result: Fit) -> dict[str, Any]:
    """Return the fingerprint of the teacher, whose folder the recipe names; nothing where there was none."""
    return {} if result.teacher is None else {"teacher_sha256": result.teacher}


def simulate_run(net: IntegerNetwork, splits: Splits) -> SimulationReport:
    """Run the network on the whole test set."""
    return simulate(net, batches(splits.test, SIMULATION_BATCH))


@dataclass(frozen=True)
class Exported:
    """One exported file and its verification; or why there is none."""

    format: str
    file: str | None
    check: Verification | None
    problem: str = ""
    skipped: bool = False  # the runtime that would verify it is not installed

    @property
    def failed(self) -> bool:
        """True where a file was written and is not verified: a difference, or a runtime that refuses it."""
        return self.file is not None and not (self.check is not None and self.check.ok) and not self.skipped

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        check = None if self.check is None else self.check.to_dict()
        return {
            "format": self.format,
            "file": self.file,
            "check": check,
            "problem": self.problem,
            "failed": self.failed,
        }


def export_run(net: IntegerNetwork, out: Path, codes: Tensor, formats: Iterable[str] | None = None) -> list[Exported]:
    """Export to each format and verify each file on `codes`.

    With formats None every usual format is tried, and a format that cannot be written (a missing package, an op that it
    cannot express) is returned as a problem; a format asked for by name raises instead.
    """
    results = []
    for name in (name for name, entry in FORMATS.items() if entry.usual) if formats is None else formats:
        target = out / FILE_OF_FORMAT[name]
        try:
            export(net, target, name, overwrite=True)  # the folder is the run's own
        except MaqdError as error:
            if formats is not None:
                raise
            results.append(Exported(name, None, None, str(error)))
        else:
            results.append(verify_file(name, target, net, codes))
    return results


def verify_run(net: IntegerNetwork, run: Path, codes: Tensor) -> list[Exported]:
    """Verify the exported files that the folder of a run holds."""
    present = {name: run / FILE_OF_FORMAT[name] for name in FORMATS if (run / FILE_OF_FORMAT[name]).is_file()}
    return [verify_file(name, path, net, codes) for name, path in present.items()]


def verify_file(name: str, path: Path, net: IntegerNetwork, codes: Tensor) -> Exported:
    """Verify one exported file; a file that the runtime refuses has failed, a missing runtime is no verdict."""
    try:
        return Exported(name, path.name, verify(path, net, codes))
    except MissingExtraError as error:
        return Exported(name, path.name, None, f"not verified: {error}", skipped=True)
    except MaqdError as error:
        return Exported(name, path.name, None, f"verification failed: {error}")


def make_report(
    net: IntegerNetwork,
    splits: Splits,
    simulation: SimulationReport,
    exports: list[Exported],
    profiles: Iterable[str | Profile],
) -> dict[str, Any]:
    """Return everything that `report.json` holds, as plain values."""
    provenance = dict(net.provenance)
    history = provenance.pop("history", [])
    priced = price_all(simulation, profiles)
    return {
        "schema": REPORT_SCHEMA,
        "library": f"maqd-snn {__version__}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "dataset": asdict(splits.test.card),
        "recipe": provenance.pop("recipe", {}),
        "provenance": provenance,
        "history": history,
        "accuracy": {"test": simulation.accuracy, "validation": provenance.get("validation_accuracy")},
        "simulation": simulation.to_dict(),
        "energy": {name: entry.to_dict() for name, entry in priced.items()},
        "baselines": [asdict(baseline) for baseline in baselines(simulation)],
        "break_even": [{**asdict(entry), "pays": entry.pays} for entry in break_even(simulation, priced.values())],
        "samples": sample_records(net, splits.test.codes, splits.test.labels),
        "exports": [entry.to_dict() for entry in exports],
    }


def kept_mapping(run: Path, net: IntegerNetwork) -> dict[str, Any] | None:
    """Return the mapping in the report of a run, where it is one of this very network; else None."""
    try:
        mapping = read_report(run).get("mapping")
    except MaqdError:  # no report yet, or one that is about to be replaced
        return None
    return mapping if isinstance(mapping, dict) and mapping.get("network") == fingerprint(net) else None


def machine() -> dict[str, Any]:
    """Return what figures depend on: versions, processor count and threads."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def read_model(run: Path, splits: Splits) -> SpikingNetwork:
    """Return the trained model of a run, in eval mode."""
    tensors, state = read_tensors(run / MODEL)
    return trained_model(read_recipe(run), splits, tensors, state, str(run / MODEL))


def _trained(run: Path, recipe: Recipe, splits: Splits) -> Callable[[Tensor], Tensor]:
    """Return the run's integer network, or its float twin."""
    return read_network(run) if recipe.foldable else read_model(run, splits)


@torch.no_grad()
def count_right(run: Path, recipe: Recipe, splits: Splits, data: ImageDataset) -> int:
    """Return how many images the run's integer network (or its float twin) classifies right."""
    network = _trained(run, recipe, splits)
    return sum(int((network(codes).argmax(1) == labels).sum()) for codes, labels in batches(data, SIMULATION_BATCH))


@torch.no_grad()
def count_recordings(run: Path, recipe: Recipe, splits: Splits, data: ImageDataset, frames: int) -> int:
    """Return how many recordings, of so many samples each, it classifies right by the sum of their scores."""
    return count_recordings_right(_trained(run, recipe, splits), data.codes, data.labels, frames)


def read_network(run_or_file: Path) -> IntegerNetwork:
    """Return the integer network of a run folder, or of a file that `maqd_snn.load` reads."""
    if run_or_file.is_dir() and (run_or_file / RECIPE).is_file() and not read_recipe(run_or_file).foldable:
        raise MaqdError(
            f"{str(run_or_file)!r} holds no integer network ({read_recipe(run_or_file).kind}); give a run with states"
        )
    return load(run_or_file / NETWORK if run_or_file.is_dir() else run_or_file)


def read_report(run: Path) -> dict[str, Any]:
    """Return `report.json` of a run.

    Raises:
        MaqdError: there is none, or it is damaged or of a newer schema.
    """
    file = run / REPORT_JSON
    if not file.is_file():
        raise MaqdError(f"{str(run)!r} has no {REPORT_JSON} yet; make it with: maqd report {run}")
    values = _json(file)
    if not isinstance(values, dict) or values.get("schema") != REPORT_SCHEMA:
        raise MaqdError(
            f"{str(file)!r} is not a report of schema {REPORT_SCHEMA}; make it again with: maqd report {run}"
        )
    return values
