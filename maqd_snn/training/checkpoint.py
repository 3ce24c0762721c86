"""Checkpoints in safetensors: tensors and JSON, never pickle; written atomically, the one before it kept.

A file holds named tensors (`model.*`, `average.*`, `best.*`, `optimizer.<parameter>.<state>`, `random.*`, `ranks`) and
one JSON text under the metadata key `state`.
"""

import copy
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from maqd_snn.errors import MaqdError
from maqd_snn.files import atomic_path

VERSION = 1
MODEL = "model.safetensors"  # the trained model in the folder of a run


def write_tensors(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and a JSON state to `path`, atomically."""
    _write(path, tensors, state, keep=None)


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: bool = True) -> None:
    """Write a checkpoint as `write_tensors` does; the one that `path` held is kept beside it, see `previous`.

    At every moment `path` is a whole checkpoint, from the first one on. Where what it held is known to be damaged,
    `keep` False keeps the one before it.
    """
    _write(path, tensors, state, keep=previous(path) if keep and path.is_file() else None)


def previous(path: Path) -> Path:
    """Return where the checkpoint before the one at `path` is kept.

    >>> previous(Path("run/checkpoint.safetensors")).name
    'checkpoint.previous.safetensors'
    """
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], Path]:
    """Return what `write_checkpoint` wrote last and the file it is from.

    That is the previous one where the last is missing, damaged, or of a network that is not finite.

    Raises:
        MaqdError: neither is usable.
    """
    errors = []
    for file in [file for file in (path, previous(path)) if file.exists()] or [path]:
        try:
            return *_read_finite(file), file
        except MaqdError as error:
            errors.append(error)
    reasons = "; ".join(map(str, errors))
    raise MaqdError(f"{reasons}; train anew with --overwrite, or give another --out") from errors[-1].__cause__


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor of a network in a checkpoint that is not finite, or None."""
    for name, tensor in tensors.items():
        of_network = name.startswith(("model.", "average.", "best.")) and tensor.dtype in (torch.float32, torch.float64)
        if of_network and not bool(tensor.isfinite().all()):
            return name
    return None


def _read_finite(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, state = read_tensors(path)
    name = not_finite(tensors)
    if name is not None:
        raise MaqdError(f"{str(path)!r} is not a usable checkpoint: {name!r} in it is not finite")
    return tensors, state


def _write(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: Path | None) -> None:
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps({"version": VERSION, **state})
    try:
        with atomic_path(path) as temporary:
            save_file(plain, temporary, metadata={"state": text})
            if keep is not None:
                with atomic_path(keep) as link:
                    _link(path, link)
    except SafetensorError as error:  # what it makes of a full disk or a folder without write access
        raise MaqdError(f"cannot write {str(path)!r}: {error}; the previous file, if any, is unchanged") from error


def _link(path: Path, link: Path) -> None:
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, link)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `write_tensors` wrote.

    Raises:
        MaqdError: no such file; damaged, truncated, foreign, or from a newer version.
    """
    if not path.is_file():
        raise MaqdError(f"there is no checkpoint {str(path)!r}; train first, or give the folder of a run")
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:  # torch's, where it was replaced
        raise MaqdError(f"{str(path)!r} is not a usable checkpoint: it is damaged or foreign ({error})") from error
    if not isinstance(state, dict) or not isinstance(state.get("version"), int):
        raise MaqdError(f"{str(path)!r} is not a usable checkpoint: its state is damaged")
    if state["version"] > VERSION:
        raise MaqdError(
            f"{str(path)!r} has checkpoint version {state['version']}, newer than {VERSION}; update maqd-snn"
        )
    return tensors, state


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under `prefix.` names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix.`, without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as `<parameter number>.<name>` tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": torch.as_tensor(v)
        for number, slots in state.items()
        for name, v in slots.items()
        if v is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], where: str) -> None:
    """Restore what `optimizer_tensors` returned; learning rates and decay stay those of the optimizer.

    Raises:
        MaqdError: tensors that are not those of this optimizer after a step; `where` is named.
    """
    expected = _after_a_step(optimizer)
    state: dict[int, dict[str, Tensor]] = {}
    for name in sorted(expected.keys() - tensors.keys()):
        raise MaqdError(f"{where} lacks the optimizer state {name!r}; train again")
    for name, tensor in tensors.items():
        if name not in expected:
            raise MaqdError(f"{where} has an optimizer state {name!r} that fits no parameter; train again")
        if tensor.dtype != expected[name].dtype or tensor.shape != expected[name].shape:
            raise MaqdError(f"{where} has an optimizer state {name!r} that is none of its parameter; train again")
        number, _, slot = name.partition(".")
        if slot in ("step", "steps") and not 0 <= float(tensor) < math.inf:
            raise MaqdError(f"{where} has an optimizer state {name!r} that is no number of steps; train again")
        state.setdefault(int(number), {})[slot] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _after_a_step(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state that such an optimizer has once it has taken a step."""
    fresh = copy.deepcopy(optimizer)
    for group in fresh.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    fresh.step()
    return optimizer_tensors(fresh)


def load_model(model: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load the tensors into the model; names and shapes must be the model's. `where` is named in errors."""
    for name, own in model.state_dict().items():
        if name in tensors and tensors[name].dtype != own.dtype:
            raise MaqdError(f"{where} does not fit the model of its recipe: {name} has {tensors[name].dtype}")
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise MaqdError(
            f"{where} does not fit the model of its recipe: {str(error).splitlines()[-1].strip()}"
        ) from error
