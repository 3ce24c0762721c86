"""What the spikes of a network cost on a placement: messages, copies, hops, links, operations, energy, time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork
from maqd_snn.integer.ops import Op
from maqd_snn.neuromorphic.hardware.fitting import Plan
from maqd_snn.neuromorphic.hardware.needs import (
    Counts,
    Job,
    Piece,
    counts,
    neurons,
    sources_mask,
    state_memory_bits,
    stored_weights,
)
from maqd_snn.neuromorphic.hardware.placing import Placement
from maqd_snn.neuromorphic.hardware.stages import image

Link = tuple[int, int, int, int]  # from tile (x, y) to its neighbour (x, y)


@dataclass(frozen=True, eq=False)
class Activity:
    """Messages that every unit sends to one reader, summed over samples.

    Attributes:
        samples: how many. messages: (C, H, W) by the name of the op, for all values that travel and all thresholds.
        measured: False where no data was at hand and every unit is taken to send one message.
    """

    samples: int
    messages: Mapping[str, Counts]
    measured: bool = True


def _watched(job: Job) -> set[str]:
    return {job.net.input.name, *(s.name for s in job.stages), *(s.neuron.name for s in job.stages)}


def activity(plan: Plan, batches: Iterable[Tensor]) -> Activity:
    """Run the network and return what each unit sends: abs(level) messages where a level is several spikes, else one.

    Args:
        plan: of `fit`. batches: integer codes (B, *input shape).

    Raises:
        MaqdError: no samples, or codes that do not fit the network.
    """
    net: IntegerNetwork = plan.job.net
    several = plan.chip.value("spikes") == "binary" or plan.chip.value("own_thresholds") == "even"
    totals = {name: np.zeros(image(net.shapes[name]), np.int64) for name in _watched(plan.job)}
    samples = 0

    def add(op: Op, inputs: Sequence[Tensor], output: Tensor) -> None:
        if op.name in totals:
            sent = output.abs() if several else output != 0
            totals[op.name] += sent.double().sum(0).cpu().numpy().astype(np.int64).reshape(totals[op.name].shape)

    for codes in batches:
        net.watch(codes, add)
        samples += len(codes)
    if samples == 0:
        raise MaqdError("the traffic needs at least one sample, got none")
    return Activity(samples, MappingProxyType(totals))


def every_unit_once(plan: Plan) -> Activity:
    """Return the activity in which every unit sends one message: what is left without data."""
    shapes = plan.job.net.shapes
    ones = {name: np.ones(image(shapes[name]), np.int64) for name in _watched(plan.job)}
    return Activity(1, MappingProxyType(ones), measured=False)


def flows(plan: Plan, sent: Activity) -> NDArray[np.int64]:
    """Return the messages from piece to piece, in the order of `plan.pieces`; the diagonal holds a core's own."""
    pieces = plan.pieces
    matrix = np.zeros((len(pieces), len(pieces)), np.int64)
    by_stage: dict[str, list[int]] = {}
    for index, piece in enumerate(pieces):
        by_stage.setdefault(piece.stage.name, []).append(index)
    for j, target in enumerate(pieces):
        for value in target.stage.sources:
            if value in by_stage:
                arriving = sources_mask(target, value) * sent.messages[value]
                for i in by_stage[value]:
                    (c0, c1), (r0, r1), (x0, x1) = pieces[i].box
                    matrix[i, j] += arriving[c0:c1, r0:r1, x0:x1].sum()
    for i, piece in enumerate(pieces):
        if plan.job.pool_neurons(piece.stage):  # from the neurons to those of the pools, on the same core
            (c0, c1), (r0, r1), (x0, x1) = piece.neurons
            matrix[i, i] += sent.messages[piece.stage.neuron.name][c0:c1, r0:r1, x0:x1].sum()
    return matrix


def synops_of(plan: Plan, piece: Piece, sent: Activity) -> int:
    """Return the synaptic operations of a piece: messages times the neurons that each reaches."""
    total = 0
    for branch in piece.stage.branches:
        c, r, x = counts(branch.reach, piece.neurons)
        targets = np.multiply.outer(np.multiply.outer(c, r), x) * plan.job.copies(piece.stage.name)
        total += int((targets * sent.messages[branch.source]).sum())
    return total


@dataclass(frozen=True)
class CoreLoad:
    """One core's share.

    Attributes:
        slot, chip, stage: where it is, and of what. neurons, weights, state_bits: what it holds, the last for
        accumulators. messages_in, messages_out, synops: of all samples.
    """

    slot: int
    chip: int
    stage: str
    neurons: int
    weights: int
    state_bits: int
    messages_in: int
    messages_out: int
    synops: int


@dataclass(frozen=True)
class LayerTime:
    """A layer's time in ns per sample at the chip's time of one operation: its busiest core works through them."""

    stage: str
    busiest_synops: float
    bound_ns: float | None


@dataclass(frozen=True, eq=False)
class Traffic:
    """What the samples cost on a placement; sums over all samples.

    Attributes:
        placement, flow, sent: what it was counted from. messages: delivered to cores by cores. local: of these within
        a core or tile. hops: links crossed, None where the mesh is unknown; of these hops_x, hops_y within chips and
        crossings from chip to chip. links: messages on each link. from_host, to_host: messages between the host and the
        cores. spikes: sent by units that have readers on the chip. copies_mean, copies_max: cores that one spike goes
        to. energy_pj: of all messages, None where a price is unknown; priced_pj: of those that have a price; unpriced:
        what has none. cores, layers: by core and by layer.
    """

    placement: Placement
    flow: NDArray[np.int64]
    sent: Activity
    messages: int
    local: int
    hops: int | None
    hops_x: int
    hops_y: int
    crossings: int
    links: Mapping[Link, int]
    from_host: int
    to_host: int
    spikes: int
    copies_max: int
    energy_pj: float | None
    priced_pj: float
    unpriced: tuple[str, ...]
    cores: tuple[CoreLoad, ...]
    layers: tuple[LayerTime, ...]

    @property
    def copies_mean(self) -> float:
        """Cores that a spike goes to, on average."""
        own = int(self.flow.diagonal().sum())
        return (self.messages - own) / self.spikes if self.spikes else 0.0

    @property
    def busiest_link(self) -> tuple[Link, int] | None:
        """The link with most messages."""
        return max(self.links.items(), key=lambda item: (item[1], item[0]), default=None)

    @property
    def busiest_core(self) -> CoreLoad:
        """The core with most synaptic operations."""
        return max(self.cores, key=lambda core: (core.synops, -core.slot))

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain values, per sample where they say so."""
        n = self.sent.samples
        place = self.placement
        busiest = self.busiest_link
        return {
            "samples": n,
            "measured": self.sent.measured,
            "messages_per_sample": self.messages / n,
            "local_per_sample": self.local / n,
            "hops_per_sample": None if self.hops is None else self.hops / n,
            "crossings_per_sample": self.crossings / n,
            "from_host_per_sample": self.from_host / n,
            "to_host_per_sample": self.to_host / n,
            "copies_mean": self.copies_mean,
            "copies_max": self.copies_max,
            "energy_pj_per_sample": None if self.energy_pj is None else self.energy_pj / n,
            "priced_pj_per_sample": self.priced_pj / n,
            "unpriced": list(self.unpriced),
            "busiest_link": None if busiest is None else {"link": list(busiest[0]), "per_sample": busiest[1] / n},
            "busiest_core": self.busiest_core.slot,
            "placement": {
                "method": place.method,
                "hops_per_sample": None if place.traffic is None else place.traffic / n,
                "in_order_per_sample": None if place.in_order is None else place.in_order / n,
                "bound_per_sample": None if place.bound is None else place.bound / n,
                "gap": place.gap,
            },
            "cores": [vars(core) for core in self.cores],
            "layers": [vars(layer) for layer in self.layers],
        }


def route(x0: int, y0: int, x1: int, y1: int) -> list[Link]:
    """Return the links from tile to tile, first along x, then along y.

    >>> route(0, 0, 2, 1)
    [(0, 0, 1, 0), (1, 0, 2, 0), (2, 0, 2, 1)]
    """
    links = []
    while (x0, y0) != (x1, y1):
        x, y = (x0 + (1 if x1 > x0 else -1), y0) if x0 != x1 else (x0, y0 + (1 if y1 > y0 else -1))
        links.append((x0, y0, x, y))
        x0, y0 = x, y
    return links


def traffic(placement: Placement, sent: Activity, flow: NDArray[np.int64] | None = None) -> Traffic:
    """Return what the activity costs on a placement.

    Energy: a message within a tile costs the chip's `local_pj`, another one its links, `hop_x_pj` and `hop_y_pj` each,
    and `chip_hop_pj` for a link between chips. Time: the operations of a layer's busiest core times `synop_ns`,
    on average over the samples; what its messages take on the way (`hop_ns`) is not in it.
    """
    plan, chip = placement.plan, placement.plan.chip
    flow = flows(plan, sent) if flow is None else flow
    links: dict[Link, int] = {}
    hops_x = hops_y = crossings = local = 0
    if placement.mesh is not None:
        mesh = placement.mesh
        xs, ys = mesh.tiles(np.array(placement.slots))
        for i, j in np.argwhere(flow):
            number = int(flow[i, j])
            way = route(int(xs[i]), int(ys[i]), int(xs[j]), int(ys[j]))
            local += number if not way else 0
            for link in way:
                links[link] = links.get(link, 0) + number
                if link[0] // mesh.width != link[2] // mesh.width or link[1] // mesh.height != link[3] // mesh.height:
                    crossings += number
                elif link[0] != link[2]:
                    hops_x += number
                else:
                    hops_y += number
    else:
        local = int(sum(flow[i, j] for i, j in np.argwhere(flow) if placement.slots[i] == placement.slots[j]))
    messages = int(flow.sum())
    moved = {"local_pj": local, "hop_x_pj": hops_x, "hop_y_pj": hops_y, "chip_hop_pj": crossings}
    priced, unpriced = 0.0, []
    for key, number in moved.items():
        price = chip.value(key)
        if number and price is None:
            unpriced.append(f"{key}: {number / sent.samples:,.1f} messages per sample")
        elif number:
            priced += number * price
    if placement.mesh is None and messages > local:
        unpriced.append(f"messages between cores: {(messages - local) / sent.samples:,.1f} per sample, hops unknown")
    from_host, to_host = _host_messages(plan, sent)
    spikes, copies_max = _copies(plan, sent)
    cores = _core_loads(placement, flow, sent)
    return Traffic(
        placement, flow, sent, messages, local,
        hops_x + hops_y + crossings if placement.mesh is not None else None,
        hops_x, hops_y, crossings, MappingProxyType(links), from_host, to_host, spikes, copies_max,
        None if unpriced else priced, priced, tuple(unpriced), cores, _layer_times(plan, cores, sent),
    )  # fmt: skip


def _host_messages(plan: Plan, sent: Activity) -> tuple[int, int]:
    job = plan.job
    given = {job.net.input.name, *job.host}
    inward = sum(
        int((sources_mask(piece, value) * sent.messages[value]).sum())
        for piece in plan.pieces
        for value in piece.stage.sources
        if value in given
    )
    read = {name for stage in job.stages if stage.name in job.host for name in stage.sources}
    outward = sum(int(sent.messages[stage.name].sum()) for stage in job.placed if stage.name in read)
    return inward, outward


def _copies(plan: Plan, sent: Activity) -> tuple[int, int]:
    """Return the spikes that have readers on the chip, and the most cores that one unit sends to."""
    spikes = most = 0
    for stage in plan.job.placed:
        targets = np.zeros(stage.shape, np.int64)
        for reader in plan.job.readers(stage.name):
            for target in plan.job.pieces.get(reader.name, []):
                targets += sources_mask(target, stage.name)
        if targets.any():
            spikes += int(sent.messages[stage.name][targets > 0].sum())
            most = max(most, int(targets.max()))
    return spikes, most


def _core_loads(placement: Placement, flow: NDArray[np.int64], sent: Activity) -> tuple[CoreLoad, ...]:
    plan = placement.plan
    per_chip = plan.chip.value("cores")
    return tuple(
        CoreLoad(
            slot=slot,
            chip=slot // per_chip,
            stage=piece.stage.name,
            neurons=neurons(plan.job, piece),
            weights=stored_weights(plan.job, piece),
            state_bits=state_memory_bits(plan.job, piece),
            messages_in=int(flow[:, index].sum()),
            messages_out=int(flow[index].sum()),
            synops=synops_of(plan, piece, sent),
        )
        for index, (piece, slot) in enumerate(zip(plan.pieces, placement.slots, strict=True))
    )


def _layer_times(plan: Plan, cores: Sequence[CoreLoad], sent: Activity) -> tuple[LayerTime, ...]:
    price = plan.chip.value("synop_ns")
    found = []
    for stage in plan.job.placed:
        busiest = max(core.synops for core in cores if core.stage == stage.name) / sent.samples
        found.append(LayerTime(stage.name, busiest, None if price is None else busiest * price))
    return tuple(found)
