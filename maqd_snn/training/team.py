"""The processes that train together: one alone, or several that torchrun started, one per device.

Several are set up by Lightning Fabric, imported here and nowhere else. Each holds a replica of the model and the whole
dataset, trains on its own share of every batch, and averages the gradients with the others. Only the writer writes.
"""

import atexit
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import Any, final

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from maqd_snn.errors import MaqdError, MissingExtraError
from maqd_snn.training.execution import Execution


class Team(ABC):
    """What a training asks of the processes around it.

    `rank` of `size` processes trains on `device`; the one of rank 0 is the `writer`.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device

    @property
    def writer(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @abstractmethod
    def replicate(
        self, forward: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return the module whose backward pass averages gradients over the processes, and its optimizer."""

    @abstractmethod
    def gradients_stay(self, forward: nn.Module) -> AbstractContextManager[Any]:
        """Return a context in which a backward pass leaves the gradients where they are: more is to be added."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Run the backward pass."""

    @abstractmethod
    def noticing_losses(self) -> AbstractContextManager[Any]:
        """Return a context in which it is a MaqdError that another process has gone."""

    @abstractmethod
    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all processes, stacked by rank, on every one of them."""

    @abstractmethod
    def gather_texts(self, text: str) -> list[str]:
        """Return the texts of all processes by rank, on every one of them."""

    @property
    @abstractmethod
    def sum_over_processes(self) -> Callable[[Tensor], Tensor] | None:
        """A differentiable sum over the processes, or None where there is but one."""

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over the processes."""
        return self.gather(tensor).sum(0)

    def largest(self, *values: int) -> list[int]:
        """Return the largest of each number over the processes."""
        if self.size == 1:
            return list(values)
        mine = torch.tensor(values, dtype=torch.int64, device=self.device)
        return [int(value) for value in self.gather(mine).amax(0)]


@final
class Alone(Team):
    """One process."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(0, 1, device)

    def replicate(
        self, forward: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        return forward, optimizer

    def gradients_stay(self, forward: nn.Module) -> AbstractContextManager[Any]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def noticing_losses(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor.unsqueeze(0)

    def gather_texts(self, text: str) -> list[str]:
        return [text]

    @property
    def sum_over_processes(self) -> None:
        return None


class _Sum(torch.autograd.Function):
    """The sum over the processes, each of which has a loss of its own: so the gradient is a sum over them, too."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        total = grad.clone()
        distributed.all_reduce(total)
        return total


@final
class Several(Team):
    """The processes that torchrun started; gloo between CPUs, NCCL between GPUs.

    Raises:
        MissingExtraError: Lightning Fabric is not installed.
    """

    def __init__(self, kind: str, local: int, nodes: int) -> None:
        try:
            from lightning_fabric import Fabric
            from lightning_fabric.strategies import DDPStrategy
        except ImportError as error:
            raise MissingExtraError("lightning-fabric", "distributed", "training on several devices") from error
        logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
        # Statistics of the normalizations are each process's own: DDP must not send those of rank 0 around. What says
        # so has had another name since torch 2.13.
        known = signature(DistributedDataParallel.__init__).parameters
        send = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        strategy = DDPStrategy(**{send: False})
        self.fabric = Fabric(accelerator=kind, devices=local, num_nodes=nodes, strategy=strategy, precision="32-true")
        self.fabric.launch()
        atexit.register(_leave)
        super().__init__(self.fabric.global_rank, self.fabric.world_size, self.fabric.device)

    def replicate(
        self, forward: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        replica, stepper = self.fabric.setup(forward, optimizer)
        return replica, stepper

    def gradients_stay(self, forward: nn.Module) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.fabric.no_backward_sync(forward)
        return context

    def backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss)

    @contextmanager
    def noticing_losses(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if "gloo" not in str(error) and not isinstance(error, distributed.DistError):
                raise
            raise MaqdError(
                f"the process of rank {self.rank} lost another one, which has ended, was killed or does not answer; "
                "continue with --resume"
            ) from error

    def gather(self, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    def gather_texts(self, text: str) -> list[str]:
        texts = [""] * self.size
        distributed.all_gather_object(texts, text)
        return texts

    @property
    def sum_over_processes(self) -> Callable[[Tensor], Tensor]:
        return lambda tensor: _Sum.apply(tensor)  # type: ignore[no-untyped-call]


def _leave() -> None:
    """End gloo's threads while the interpreter still stands: one that outlives it may abort the process."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def started_by_torchrun() -> bool:
    """Return whether this process is one of several that torchrun (or what speaks its language) started."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def writes() -> bool:
    """Return whether this process is the one that writes; known before the processes have met."""
    return not started_by_torchrun() or os.environ.get("RANK", "0") == "0"


def join(execution: Execution) -> Team:
    """Return the team that this process is in.

    Raises:
        MaqdError: other numbers than torchrun started; several processes asked for without torchrun.
    """
    if not started_by_torchrun():
        if execution.processes > 1:
            raise MaqdError(
                f"{execution.processes} processes were asked for, but this is one alone; start them with: "
                + torchrun_command(execution)
            )
        return Alone(torch.device(execution.kind))
    world = int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    nodes = world // local
    if (execution.devices or local, execution.nodes or nodes) != (local, nodes) or world != local * nodes:
        raise MaqdError(
            f"torchrun started {world} processes, {local} on this machine, but --devices {execution.devices or local} "
            f"--nodes {execution.nodes or nodes} ask for {(execution.devices or local) * (execution.nodes or nodes)}; "
            "leave both out, or start with: " + torchrun_command(execution)
        )
    return Several(execution.kind, local, nodes)


def torchrun_command(execution: Execution) -> str:
    """Return the command that starts the processes of this execution on each of its machines."""
    return (
        f"torchrun --nnodes {execution.nodes or 1} --nproc-per-node {execution.devices or 1} --rdzv-backend c10d "
        "--rdzv-endpoint HOST:29500 -m maqd_snn train ... (on every machine, HOST being one of them)"
    )
