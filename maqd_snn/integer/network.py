"""The integer network: the one object that is executed, counted, priced, exported and verified.

Axis letters: B batch, C channels, H height, W width.
"""

import copy
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.errors import MaqdError
from maqd_snn.integer import ops
from maqd_snn.integer.execute import ROUTES, Observe, TorchExecutor, Watch
from maqd_snn.integer.geometry import Shape, output_bound, output_shape
from maqd_snn.integer.ops import Op
from maqd_snn.integer.reference import Array, evaluate


class IntegerNetwork:
    """A frozen graph of integer ops, in topological order, from one `Input` to the last op's output.

    Args:
        graph: the ops; each takes only ops before it, exactly one is an `Input`, every output but the last is used.
        provenance: plain values that say where the network comes from (recipe, accuracy, library version); JSON types.

    Attributes:
        ops: the ops. shapes: output shape of each op by name, without the batch axis. bounds: the largest magnitude of
        each op's output and partial sums, by name.

    Raises:
        MaqdError: a graph that is not of this form, or shapes that do not fit.

    >>> net = IntegerNetwork([
    ...     ops.Input("input", shape=(2,), high=3),
    ...     ops.Linear("fc", ("input",), weight=torch.tensor([[1, -2], [3, 0]])),
    ... ])
    >>> net(torch.tensor([[3, 1]])).tolist()
    [[1, 9]]
    """

    def __init__(self, graph: Iterable[Op], provenance: Mapping[str, Any] | None = None) -> None:
        self.ops: tuple[Op, ...] = tuple(graph)
        self.provenance: dict[str, Any] = dict(provenance or {})
        try:
            json.dumps(self.provenance, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise MaqdError(f"provenance must be plain values that JSON can hold: {error}") from error
        self.shapes: dict[str, Shape] = {}
        self.bounds: dict[str, int] = {}
        used: set[str] = set()
        for op in self.ops:
            if op.name in self.shapes:
                raise MaqdError(f"two ops are named {op.name!r}; give each its own name")
            for name in op.inputs:
                if name not in self.shapes:
                    raise MaqdError(f"{op.name}: takes {name!r}, which is not defined before it")
            used.update(op.inputs)
            self.shapes[op.name] = output_shape(op, [self.shapes[name] for name in op.inputs])
            self.bounds[op.name] = output_bound(op, [self.bounds[name] for name in op.inputs])
        inputs = [op for op in self.ops if isinstance(op, ops.Input)]
        if len(inputs) != 1 or len(self.ops) < 2:
            raise MaqdError(f"an integer network needs one Input and at least one other op, got {len(inputs)} Inputs")
        unused = [op.name for op in self.ops[:-1] if op.name not in used]
        if unused:
            raise MaqdError(f"the outputs of {', '.join(unused)} are never used; remove these ops")
        self.input: ops.Input = inputs[0]
        self._executors: dict[tuple[torch.device, tuple[str, ...]], TorchExecutor] = {}

    def __repr__(self) -> str:
        lines = [f"  {op.name}: {type(op).__name__} -> {self.shapes[op.name]}" for op in self.ops]
        return "IntegerNetwork(\n" + "\n".join(lines) + "\n)"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the network without what it has prepared to run; ops are frozen, so they are shared."""
        return type(self)(self.ops, copy.deepcopy(self.provenance, memo))

    def __call__(self, codes: Tensor) -> Tensor:
        """Return the integer class scores (B, classes), int64, for integer codes (B, *input shape), on their device.

        Raises:
            MaqdError: codes of the wrong shape or type, or outside the input's range.
        """
        return self.executor(codes.device).run(codes).to(torch.int64)

    def executor(self, device: torch.device, routes: tuple[str, ...] = ROUTES) -> TorchExecutor:
        """Return the torch executor for this device, its products kept to some `routes`; it is made once."""
        if (device, routes) not in self._executors:
            self._executors[device, routes] = TorchExecutor(self.ops, self.shapes, self.bounds, device, routes)
        return self._executors[device, routes]

    def watch(self, codes: Tensor, function: Watch) -> Tensor:
        """Run on `codes`, calling `function(op, inputs, output)` for every op in turn.

        The tensors hold integers, of a small integer type where they are levels or codes, else of a floating type.
        """
        return self.executor(codes.device).run(codes, function)

    def observe(self, codes: Tensor, names: Collection[str], function: Observe) -> Tensor:
        """Run on `codes`, calling `function(name, output)` for the ops in `names`: faster than to watch them all."""
        return self.executor(codes.device).run(codes, observe=function, names=names)

    def trace(self, codes: Tensor) -> dict[str, Tensor]:
        """Return every op's output by name, int64."""
        outputs: dict[str, Tensor] = {}

        def keep(op: Op, inputs: Sequence[Tensor], output: Tensor) -> None:
            outputs[op.name] = output.to(torch.int64)

        self.watch(codes, keep)
        return outputs

    def reference(self, codes: NDArray[Any]) -> Array:
        """Return what `__call__` returns, computed in plain NumPy int64."""
        return self.reference_trace(codes)[self.ops[-1].name]

    def reference_trace(self, codes: NDArray[Any]) -> dict[str, Array]:
        """Return what `trace` returns, computed in plain NumPy int64."""
        if not np.issubdtype(codes.dtype, np.integer):
            raise MaqdError(f"{self.input.name}: input codes must be integers, got {codes.dtype}")
        outputs: dict[str, Array] = {}
        for op in self.ops:
            inputs = [outputs[name] for name in op.inputs] if op.inputs else [codes.astype(np.int64)]
            outputs[op.name] = evaluate(op, inputs)
        return outputs

    def consumers(self, name: str) -> list[Op]:
        """Return the ops that take the output of `name`."""
        return [op for op in self.ops if name in op.inputs]

    def save(self, path: str | Path) -> None:
        """Write the network to an HDF5 file, atomically; `maqd_snn.load` reads it back."""
        from maqd_snn.integer.storage import save  # storage needs this class

        save(self, path)
