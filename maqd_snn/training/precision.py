"""The training forward of a network in a chosen precision, compiled or not.

Axis letters: B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FunctionType, MappingProxyType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.graph import INPUT, SpikingNetwork, Watch
from maqd_snn.layers import NormSpike
from maqd_snn.normalization import FoldableNorm, GroupNorm, SumOverProcesses
from maqd_snn.tape import QUANTIZED, Operands, Stage, Tape, Tensors, tape_of
from maqd_snn.training.stop import children_deaf


@dataclass(frozen=True)
class Precision:
    """In which numbers the products of a training step run; parameters, statistics and elementwise work are float32."""

    text: str
    operands: Operands = Operands()  # noqa: RUF009 - frozen


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        "fp32": Precision(
            "float32; on the CPU forward convolutions of levels and codes run in 8 bits wherever that is exact",
            Operands(int8=True),
        ),
        "fp32-float": Precision("the numbers of fp32, every product in float32"),
        "bf16-mixed": Precision(
            "products in bfloat16: integer operands are exact, sums above 256 and gradients are rounded",
            Operands(torch.bfloat16),
        ),
    }
)


def cpu_has_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 (AVX512_BF16, AMX_BF16, or Arm's BF16).

    Without it torch's bfloat16 is right, and several times slower than float32; the training step then rounds float32
    to bfloat16 instead.
    """
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-any-return]
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def cpp_compiler() -> str | None:
    """Return the C++ compiler that `torch.compile` would use on a CPU, or None where there is none."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return str(get_cpp_compiler())
    except InvalidCxxCompiler:
        return None


def rounded_share(sums: Tensor) -> float:
    """Return the share of product sums that bfloat16 changes: of integers, none up to 256 and every odd one above.

    >>> rounded_share(torch.tensor([3.0, -256.0, 257.0, 258.0]))
    0.25
    """
    return float((sums != sums.to(torch.bfloat16)).float().mean())


class PlainForward(nn.Module):
    """The forward of the parts themselves, with the interface of `TrainingForward`; see `prepare`."""

    def __init__(self, model: SpikingNetwork) -> None:
        super().__init__()
        self.model = model
        self.rounded_shares: dict[str, float] = {}

    def forward(self, codes: Tensor, watch: Watch | None = None) -> Tensor:
        logits: Tensor = self.model(codes, watch)
        return logits


def written_out(model: SpikingNetwork) -> bool:
    """Return whether the model's training step can be written out; group normalization alone is not."""
    parts = map(model.part, model.names)
    return not any(isinstance(part, NormSpike) and isinstance(part.norm, GroupNorm) for part in parts)


class TrainingForward(nn.Module):
    """codes (B, C, H, W) -> logits (B, classes) of the model in training mode; see `prepare`.

    `stage` may be set between two steps. `rounded_shares` holds, for every product in bfloat16 of a step that was
    watched, the share of its sums that bfloat16 changes; it is not for the last product, which is one in float32.
    """

    def __init__(
        self, model: SpikingNetwork, precision: str, compiled: bool, penalty: float = 0.0, target: float = 0.0
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
        self.model = model
        self.precision = PRECISIONS[precision]
        self.compiled = compiled
        self.penalty, self.target = penalty, target
        self.stage = QUANTIZED
        self.rounded_shares: dict[str, float] = {}
        self._tape: Tape | None = None
        self._written_for: tuple[str, Stage, list[Any]] | None = None
        self._weights: tuple[list[tuple[int, int]], list[Tensor]] | None = None
        norms = (part.norm if isinstance(part, NormSpike) else None for part in map(model.part, model.names))
        self._norms = [norm if isinstance(norm, FoldableNorm) else None for norm in norms]
        tape_of(model, Operands())  # refuses what it cannot train, now and not at the first step

    def forward(self, codes: Tensor, watch: Watch | None = None) -> Tensor:
        if not self.model.training:
            raise MaqdError("the training forward needs model.train(); call the model itself to evaluate it")
        x = self.model.centred(codes).float()
        if watch is not None:
            watch(INPUT, x)
        logits: Tensor = _Run.apply(self, x, watch, *self.model.parameters())  # type: ignore[no-untyped-call]
        return logits

    def operands_on(self, device: str) -> Operands:
        """Return the numbers of products on this type of device."""
        operands = self.precision.operands
        if operands.dtype == torch.bfloat16 and device == "cpu" and not cpu_has_bfloat16():
            return Operands(rounded=True)
        if operands.int8 and device != "cpu":
            return replace(operands, int8=False)
        return operands

    @property
    def device_type(self) -> str:
        """Of the device that the model is on."""
        return next(self.model.parameters()).device.type

    @property
    def runs_compiled(self) -> bool:
        """Whether steps that are not watched run compiled; with statistics of several processes they do not."""
        return self.compiled and not any(self._sums_over_processes())

    def _sums_over_processes(self) -> list[SumOverProcesses | None]:
        return [norm and norm.sum_over_processes for norm in self._norms]

    def tape(self) -> Tape:
        """Return the steps; written anew for another device or stage, or statistics now of several processes."""
        written_for = self.device_type, self.stage, self._sums_over_processes()
        if self._tape is None or self._written_for != written_for:
            operands = self.operands_on(self.device_type)
            self._tape = tape_of(self.model, operands, self.penalty, self.target, self.stage)
            self._written_for = written_for
            self._functions = _Functions.of(self._tape, self.runs_compiled)
            self._weights = None
        return self._tape

    def operands(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return the weight codes and the other parameters; computed once for the same state of the parameters."""
        state = [(parameter.data_ptr(), parameter._version) for parameter in parameters]
        if self._weights is None or self._weights[0] != state:
            self._weights = state, self._functions.operands(parameters)
        return self._weights[1]

    def observe(self, extras: Sequence[Tensors], batch: int) -> None:
        """Take the statistics of a step into the running ones."""
        for norm, extra in zip(self._norms, extras, strict=True):
            if norm is not None:
                first, second, _, _, _, _, *samples = extra
                norm.observe(first, second, samples[0] if samples else batch)

    def note_sums(self, name: str, sums: Tensor) -> None:
        """Take the sums of a product, before they are rounded, into `rounded_shares`."""
        self.rounded_shares[name] = rounded_share(sums)


@dataclass(frozen=True)
class _Functions:
    """The three functions of a tape, compiled or as they are; a watched step runs as it is."""

    operands: Callable[..., list[Tensor]]
    forward: Callable[..., tuple[Tensor, list[Tensor], list[Tensors]]]
    backward: Callable[..., list[Tensor]]

    @classmethod
    def of(cls, tape: Tape, compiled: bool) -> "_Functions":
        if not compiled:
            return cls(tape.operands, tape.forward, tape.backward)

        # In the order of the tape: the compiler would put the gradients of weights off to the end, where they are read,
        # and so keep what they are computed from.
        options: dict[str, Any] = {"reorder_for_locality": False}

        def fused(function: Callable[..., Any]) -> Callable[..., Any]:
            return _first_undisturbed(
                torch.compile(_with_own_code(function), fullgraph=True, dynamic=False, options=options)
            )

        return cls(fused(tape.operands), fused(tape.forward), fused(tape.backward))


def _first_undisturbed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function; its first call, which compiles, hides signals to stop from the compiler."""
    called = False

    def call(*arguments: Any) -> Any:
        nonlocal called
        if called:
            return function(*arguments)
        with children_deaf():
            called = True
            return function(*arguments)

    return call


def _with_own_code(method: Any) -> MethodType:
    """Return the bound method with a code object of its own.

    The compiler keeps what it compiles with the code, and of one code compiles eight networks and no ninth.
    """
    of = method.__func__
    copy = FunctionType(of.__code__.replace(), of.__globals__, of.__name__, of.__defaults__, of.__closure__)
    return MethodType(copy, method.__self__)


class _Run(torch.autograd.Function):
    """The whole network as one function, whose backward pass is the tape's."""

    @staticmethod
    def forward(ctx, run, x, watch, *parameters):  # type: ignore[no-untyped-def]
        tape = run.tape()
        operands = run.operands(parameters)
        function = run._functions.forward if watch is None else tape.forward
        logits, kept, extras = function(x, operands, *(() if watch is None else (watch, run.note_sums)))
        run.observe(extras, len(x))
        flat = [tensor for extra in extras for tensor in extra]
        ctx.save_for_backward(*kept, *flat, *operands, *parameters)
        ctx.lengths = len(kept), [len(extra) for extra in extras], len(operands)
        ctx.of_tape = tape.backward if watch is not None else run._functions.backward
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        saved = iter(ctx.saved_tensors)
        ctx.maybe_clear_saved_tensors()  # unless the graph is retained, so that the tape can let go of them one by one
        of_kept, of_extras, of_operands = ctx.lengths
        kept = [next(saved) for _ in range(of_kept)]
        extras = [tuple(next(saved) for _ in range(length)) for length in of_extras]
        operands = [next(saved) for _ in range(of_operands)]
        return None, None, None, *ctx.of_tape(grad, kept, extras, operands, list(saved))


def prepare(
    model: SpikingNetwork, precision: str = "fp32", compiled: bool = False, penalty: float = 0.0, target: float = 0.0
) -> TrainingForward | PlainForward:
    """Return the training forward of the model: (codes, watch or None) -> logits, on the device of the model.

    It is a module that holds the model, so that it can be handed to DistributedDataParallel. The model must be in
    training mode. Activations lie channels-last; what the backward pass needs of them is kept in few bits. Weights are
    standardized and rounded once for each state of the parameters, not once per call. That state is where they lie and
    torch's count of changes, which writing through `.data` does not move: write under `torch.no_grad()` instead. A call
    with `watch` runs uncompiled, since it hands out every node's output; so does one with statistics of several
    processes (see `TrainingForward.runs_compiled`). A model with group normalization (see `written_out`) runs through
    its parts instead, in float32 and not compiled.

    Args:
        precision: a name of `PRECISIONS`.
        compiled: run through `torch.compile`; the first step takes a minute or so.
        penalty: weight of the share of connections that carry a spike, see `maqd_snn.penalty`. Its gradient is added to
            that of whatever mean over the batch is the loss. target: the share up to which there is nothing to pay.

    Raises:
        MaqdError: an unknown precision; a part without a training step; a penalty with group normalization.

    >>> from maqd_snn import build
    >>> model = build("mlp", input_shape=(1, 4, 4), classes=3, plan="8")
    >>> prepare(model, "fp32")(torch.randint(0, 256, (5, 1, 4, 4))).shape
    torch.Size([5, 3])
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if written_out(model):
        return TrainingForward(model, precision, compiled, penalty, target)
    if penalty:
        raise MaqdError("a penalty on SynOps needs a training step that is written out; group normalization has none")
    return PlainForward(model)
