"""The trainable network: a graph of parts, evaluated in topological order.

Axis letters: B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maqd_snn.errors import MaqdError
from maqd_snn.integer.geometry import FLOAT32_EXACT
from maqd_snn.integer.ops import check_codes
from maqd_snn.layers import NormSpike, Part, Readout

INPUT = "input"

Watch = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class InputSpec:
    """What the network is fed: integer codes low..high of shape (C, H, W), of which `zero_point` stands for zero.

    `kind` is `analog` (pixels: charged as dense products) or `events` (event counts: spikes).

    >>> InputSpec((1, 8, 8), zero_point=5, low=0, high=16).largest
    11
    """

    shape: tuple[int, int, int]
    zero_point: int = 0
    low: int = 0
    high: int = 255
    kind: str = "analog"

    def __post_init__(self) -> None:
        shape = self.shape
        if not isinstance(shape, tuple) or len(shape) != 3 or any(type(n) is not int or n < 1 for n in shape):
            raise MaqdError(
                f"input_shape must be whole numbers (channels, height, width), each at least 1, got {shape!r}"
            )
        if any(type(value) is not int for value in (self.zero_point, self.low, self.high)) or self.low >= self.high:
            raise MaqdError(
                f"input codes must be whole numbers low < high with a whole zero point, got {self.low}..{self.high} "
                f"and {self.zero_point}"
            )
        if self.kind not in ("analog", "events"):
            raise MaqdError(f"input kind must be 'analog' or 'events', got {self.kind!r}")
        if not self.low <= self.zero_point <= self.high:
            raise MaqdError(f"zero_point must lie in {self.low}..{self.high}, got {self.zero_point}")

    @property
    def largest(self) -> int:
        """The largest magnitude of a code minus the zero point."""
        return max(self.high - self.zero_point, self.zero_point - self.low)

    @property
    def wide(self) -> bool:
        """Whether float32 does not hold every code exactly."""
        return max(abs(self.low), abs(self.high)) >= FLOAT32_EXACT


@dataclass(frozen=True)
class Node:
    """One part of the graph: its name, the part, and the names of the nodes whose outputs it takes."""

    name: str
    part: Part
    inputs: tuple[str, ...]


class SpikingNetwork(nn.Module):
    """A single-step spiking network as a graph of parts; the last node's output is the network's.

    In training mode it returns logits. In eval mode it returns the integer class scores z + r, exactly, whatever
    autocast says. `trace` returns every node's output by name.

    Args:
        input_spec: shape, range, zero point and kind of the input codes.
        nodes: the parts in topological order; the name `input` stands for the codes minus the zero point.

    Raises:
        MaqdError: a name used twice or before it is defined; codes of a wrong shape or outside their range.
    """

    def __init__(self, input_spec: InputSpec, nodes: Sequence[Node]) -> None:
        super().__init__()
        self.input_spec = input_spec
        self.names: tuple[str, ...] = tuple(node.name for node in nodes)
        self.inputs_of: dict[str, tuple[str, ...]] = {}
        self.parts = nn.ModuleDict()
        bounds: dict[str, int | None] = {INPUT: input_spec.largest}
        for node in nodes:
            if node.name in bounds:
                raise MaqdError(f"two parts are named {node.name!r}; give each its own name")
            for name in node.inputs:
                if name not in bounds:
                    raise MaqdError(f"part {node.name!r} takes {name!r}, which is not defined before it")
            try:
                bounds[node.name] = node.part.plan(*(bounds[name] for name in node.inputs))
            except MaqdError as error:
                raise MaqdError(f"{node.name}: {error}") from error
            if isinstance(node.part, NormSpike):
                node.part.norm.label = node.name
            try:
                self.parts[node.name] = node.part
            except KeyError as error:
                raise MaqdError(f"a part cannot be named {node.name!r} ({error.args[0]}); use another name") from error
            self.inputs_of[node.name] = node.inputs
        if not nodes:
            raise MaqdError("a network needs at least one part")
        self.last_use = {name: node.name for node in nodes for name in node.inputs}

    def part(self, name: str) -> Part:
        """Return the part called `name`."""
        part = self.parts[name]
        assert isinstance(part, Part)  # ModuleDict forgets the type; only parts are ever put in
        return part

    @property
    def readout(self) -> Readout:
        """The last part, which must be a `Readout` for a network that is to be trained."""
        part = self.part(self.names[-1])
        if not isinstance(part, Readout):
            raise MaqdError(f"the last part must be a Readout, but {self.names[-1]!r} is a {type(part).__name__}")
        return part

    def spiking_names(self) -> list[str]:
        """Return the names of the parts that emit spikes."""
        return [name for name in self.names if isinstance(self.part(name), NormSpike)]

    def wide_parts(self) -> list[str]:
        """Return the names of the parts whose worst case reaches 2^24, so that eval runs them in float64."""
        return [name for name in self.names if self.part(name).wide]

    def forward(self, codes: Tensor, watch: Watch | None = None) -> Tensor:
        """Return logits (training) or integer class scores (eval), (B, classes), for codes (B, C, H, W).

        `watch` is called with every node's name and output, the input's included.
        """
        if self.training:
            return self._run(codes, watch)
        with torch.autocast(codes.device.type, enabled=False):
            return self._run(codes, watch)

    def _run(self, codes: Tensor, watch: Watch | None) -> Tensor:
        values = {INPUT: self.centred(codes)}
        if watch is not None:
            watch(INPUT, values[INPUT])
        for name in self.names:
            inputs = self.inputs_of[name]
            values[name] = self.part(name)(*(values[used] for used in inputs))
            if watch is not None:
                watch(name, values[name])
            for used in inputs:
                if self.last_use[used] == name:
                    values.pop(used, None)
        return values[self.names[-1]]

    def centred(self, codes: Tensor) -> Tensor:
        """Return the codes minus the zero point in floating point, (B, C, H, W).

        The range of the codes is checked, except where their type guarantees it (uint8 codes of a range 0..255) and in
        compiled code, which cannot look at values.

        Raises:
            MaqdError: codes of a wrong shape, outside their range, or no whole numbers.
        """
        spec = self.input_spec
        if codes.ndim != 4 or tuple(codes.shape[1:]) != spec.shape:
            raise MaqdError(
                f"input codes must have shape (batch, {', '.join(map(str, spec.shape))}), got {tuple(codes.shape)}"
            )
        guaranteed = codes.dtype == torch.uint8 and spec.low <= 0 and spec.high >= 255
        if not (guaranteed or torch.compiler.is_compiling()):
            codes = self._checked(codes)
        return codes.to(torch.float64 if spec.wide else torch.float32) - spec.zero_point

    def _checked(self, codes: Tensor) -> Tensor:
        spec = self.input_spec
        if codes.is_floating_point():
            if not bool((codes == codes.round()).all()):  # NaN is not equal to itself
                raise MaqdError("input codes must be whole numbers, got fractions or NaN; feed the integer codes")
        else:
            codes = codes.to(torch.int64)  # torch compares no other unsigned type than uint8
        if codes.numel():
            low, high = torch.aminmax(codes)
            check_codes(int(low), int(high), spec.low, spec.high)
        return codes

    def trace(self, codes: Tensor) -> dict[str, Tensor]:
        """Return every node's output by name, the input's included."""
        outputs: dict[str, Tensor] = {}
        self(codes, watch=outputs.__setitem__)
        return outputs
