"""Where and how a training runs: devices, checkpoints, what is shown. Nothing here is part of the recipe."""

import math
from dataclasses import dataclass

import torch

from maqd_snn.errors import MaqdError, unknown_name

ACCELERATORS = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Execution:
    """Where a training runs, when it saves, and what it shows.

    Attributes:
        accelerator: `cpu`, `cuda`, or `auto`: a GPU where there is one.
        devices: processes on this machine, one per device; with more than one, or more `nodes`, they are started by
        torchrun, which then says how many they are (None).
        nodes: machines.
        checkpoint_seconds: a checkpoint is written at the end of every epoch, and within it whenever this long has
        passed; 0 for none. checkpoint_steps: the same, counted in steps; None for none.
        tensorboard: write TensorBoard's files, too. quiet: no progress.

    Raises:
        MaqdError: a value outside its range; a GPU asked for where there is none.
    """

    accelerator: str = "auto"
    devices: int | None = None
    nodes: int | None = None
    checkpoint_seconds: float = 120.0
    checkpoint_steps: int | None = None
    tensorboard: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.accelerator not in ACCELERATORS:
            raise unknown_name("accelerator", self.accelerator, ACCELERATORS)
        if self.accelerator == "cuda" and not torch.cuda.is_available():
            raise MaqdError("this torch finds no CUDA device; use --accelerator cpu, or install a CUDA build of torch")
        for name in ("devices", "nodes", "checkpoint_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MaqdError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.checkpoint_seconds < math.inf:
            raise MaqdError(f"checkpoint_seconds must be a finite number from 0, got {self.checkpoint_seconds}")

    @property
    def kind(self) -> str:
        """`cpu` or `cuda`."""
        if self.accelerator == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.accelerator

    @property
    def processes(self) -> int:
        """How many processes were asked for."""
        return (self.devices or 1) * (self.nodes or 1)
