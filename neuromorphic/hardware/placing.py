"""Pieces onto cores: by order, by matching, or on a mesh by descent on message hops, with a lower bound. Deterministic.

The traffic of a placement is sum_ij F[i, j] * D[slot i, slot j], F the messages between pieces and D the hops between
cores: a quadratic assignment. The placement is a descent by the best exchange of two slots from several starts, the
in-order placement among them; so it is never above that.
"""

from dataclasses import dataclass
from itertools import count
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from maqd_snn.errors import MaqdError
from maqd_snn.neuromorphic.hardware.chip import Chip
from maqd_snn.neuromorphic.hardware.fitting import Plan
from maqd_snn.neuromorphic.hardware.matching import assign, relaxed

Matrix = NDArray[np.float64]
Slots = NDArray[np.int64]

LARGEST_EXCHANGE = 512  # slots beyond which exchanges are not searched
EXCHANGES = 4  # per slot, at most


@dataclass(frozen=True)
class Mesh:
    """Tiles of several cores on a rectangle, chips beside chips in rows.

    Attributes:
        width, height, per_tile: tiles of a chip, cores of a tile. chips: how many. across: chips in a row.
    """

    width: int
    height: int
    per_tile: int
    chips: int
    across: int

    @property
    def slots(self) -> int:
        """Cores of all chips."""
        return self.chips * self.width * self.height * self.per_tile

    def tiles(self, slots: Slots) -> tuple[Slots, Slots]:
        """Return column and row of the tile of each slot, over all chips; slots count chip, tile row, tile, core."""
        chip, rest = np.divmod(slots, self.width * self.height * self.per_tile)
        tile = rest // self.per_tile
        x = chip % self.across * self.width + tile % self.width
        y = chip // self.across * self.height + tile // self.width
        return x, y

    def hops(self, slots: Slots) -> Matrix:
        """Return the links between the tiles of every two slots."""
        x, y = self.tiles(slots)
        apart: Matrix = np.abs(x[:, None] - x) + np.abs(y[:, None] - y)
        return apart.astype(np.float64)


def mesh_of(chip: Chip, chips: int) -> Mesh | None:
    """Return the mesh of so many chips, None where the chip has none or its size is unknown."""
    sides = [chip.value(key) for key in ("mesh_width", "mesh_height", "cores_per_tile")]
    if chip.value("topology") != "mesh" or None in sides:
        return None
    across = isqrt(chips - 1) + 1
    return Mesh(sides[0], sides[1], sides[2], chips, across)


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the pieces are.

    Attributes:
        plan: the plan whose pieces are placed. slots: core of each piece, over all chips. mesh: None where hops cannot
        be told. traffic, in_order, bound: message hops of this placement, of the pieces in order, and of none below;
        None without a mesh. method: which start led here.
    """

    plan: Plan
    slots: tuple[int, ...]
    mesh: Mesh | None
    traffic: float | None = None
    in_order: float | None = None
    bound: float | None = None
    method: str = "in order"

    @property
    def gap(self) -> float | None:
        """Share by which the traffic can lie above the best one at most: traffic / bound - 1."""
        return None if not self.bound or self.traffic is None else self.traffic / self.bound - 1


def place(plan: Plan, flow: NDArray[np.int64]) -> Placement:
    """Return the pieces of a plan on cores.

    Args:
        plan: of `fit`, with every stage cut. flow: messages from piece to piece, in the order of `plan.pieces`.

    Raises:
        MaqdError: the plan has a layer that cannot be cut to fit. MissingExtraError: SciPy is not installed.
    """
    pieces = plan.pieces
    if plan.cores is None or plan.chips is None:
        raise MaqdError(
            f"{plan.chip.name}: a layer does not fit any core, so there is nothing to place; see the limits"
        )
    topology = plan.chip.value("topology")
    if topology == "single":
        return Placement(plan, (0,) * len(pieces), None)
    if topology == "switch":
        if len(plan.core_of) < len(pieces):
            raise MaqdError(f"{plan.chip.name}: not every layer has a core of its own; see the limits that fail")
        return Placement(plan, tuple(plan.core_of[piece.stage.name] for piece in pieces), None, method="matching")
    mesh = mesh_of(plan.chip, plan.chips)
    order = np.arange(len(pieces))
    if mesh is None:
        return Placement(plan, tuple(order.tolist()), None)
    symmetric = (flow + flow.T).astype(np.float64)
    np.fill_diagonal(symmetric, 0)
    free = near_square(mesh, len(pieces))
    best, method = order, "in order"
    least = in_order = cost(symmetric, mesh.hops(order))
    for name, start in _starts(symmetric, mesh, free, order):
        slots = descend(symmetric, mesh, free, start)
        traffic = cost(symmetric, mesh.hops(slots))
        if traffic < least:
            best, least, method = slots, traffic, name
    if mesh.slots <= LARGEST_EXCHANGE:
        bound = lower_bound(symmetric, mesh.hops(np.arange(mesh.slots)))
    else:
        bound = boundless_bound(symmetric, mesh.per_tile)
    return Placement(plan, tuple(best.tolist()), mesh, least, in_order, min(bound, least), method)


def cost(symmetric: Matrix, hops: Matrix) -> float:
    """Return the message hops, for messages F + F^T between pieces and the hops between their slots."""
    return float((symmetric * hops).sum()) / 2


def near_square(mesh: Mesh, pieces: int) -> Slots:
    """Return the slots that placements are searched on: a corner with half as many again as there are pieces."""
    slots = np.arange(mesh.slots)
    x, y = mesh.tiles(slots)
    wanted = min(pieces + pieces // 2, mesh.slots)
    side = 1
    while ((x < side) & (y < side)).sum() < wanted:
        side += 1
    return slots[(x < side) & (y < side)]


def _starts(symmetric: Matrix, mesh: Mesh, free: Slots, order: Slots) -> list[tuple[str, Slots]]:
    starts = [("in order", order if set(order.tolist()) <= set(free.tolist()) else free[: len(order)])]
    starts.append(("serpentine", _serpentine(mesh, free)[: len(order)]))
    starts.append(("grown", _grown(symmetric, mesh, free)))
    if len(free) <= 256:
        hops = mesh.hops(free)
        padded = np.zeros_like(hops)
        padded[: len(order), : len(order)] = symmetric
        starts.append(("relaxed", free[relaxed(padded, hops)[: len(order)]]))
    return starts


def _serpentine(mesh: Mesh, free: Slots) -> Slots:
    x, y = mesh.tiles(free)
    ordered: Slots = free[np.lexsort((np.where(y % 2, -x, x), y))]
    return ordered


def _grown(symmetric: Matrix, mesh: Mesh, free: Slots) -> Slots:
    """Place the piece with most messages to the placed ones next, where they cost least."""
    hops = mesh.hops(free)
    placed = np.full(len(symmetric), -1)
    taken = np.zeros(len(free), np.bool_)
    attached = np.zeros(len(symmetric))
    for _ in range(len(symmetric)):
        attached[placed >= 0] = -1
        piece = int(attached.argmax()) if attached.max() > 0 else int((placed < 0).argmax())
        there = placed >= 0
        costs = hops[:, placed[there]] @ symmetric[piece, there]
        if not there.any():
            costs = hops.sum(1)  # the first one in the middle
        costs[taken] = np.inf
        placed[piece] = int(costs.argmin())
        taken[placed[piece]] = True
        attached = symmetric[:, placed >= 0].sum(1)
    found: Slots = free[placed]
    return found


def descend(symmetric: Matrix, mesh: Mesh, free: Slots, start: Slots) -> Slots:
    """Return the slots after exchanging the best two (one may be empty) until no exchange helps."""
    pieces, n = len(symmetric), len(free)
    if n > LARGEST_EXCHANGE:
        return start
    hops = mesh.hops(free)
    index = {int(slot): i for i, slot in enumerate(free)}
    used = [index[int(slot)] for slot in start]
    spare = sorted(set(range(n)) - set(used))
    at = np.array(used + spare)  # the slot of every piece, and of every empty one
    flow = np.zeros((n, n))
    flow[:pieces, :pieces] = symmetric
    for _ in range(EXCHANGES * n):
        apart = hops[np.ix_(at, at)]
        pull = flow @ apart  # pull[i, j]: cost of piece i at the slot of j
        own = pull.diagonal()
        change = pull + pull.T - own[:, None] - own + 2 * flow * apart
        change = change[:pieces]
        i, j = np.unravel_index(int(change.argmin()), change.shape)
        if change[i, j] > -1e-6:
            break
        at[i], at[j] = at[j], at[i]
    found: Slots = free[at[:pieces]]
    return found


def lower_bound(symmetric: Matrix, hops: Matrix) -> float:
    """Return message hops that no placement is below: Gilmore and Lawler's bound of the quadratic assignment.

    Piece i at slot p costs at least its messages, the most first, times the distances from p, the nearest first; the
    cheapest assignment of these costs bounds the sum.

    >>> lower_bound(np.array([[0.0, 3.0], [3.0, 0.0]]), np.array([[0.0, 2.0], [2.0, 0.0]]))
    6.0
    """
    pieces = len(symmetric)
    if pieces < 2:
        return 0.0
    rows = -np.sort(-symmetric, axis=1)[:, : pieces - 1]
    others = hops + np.diag(np.full(len(hops), np.inf))
    near = np.sort(others, axis=1)[:, : pieces - 1]
    costs = rows @ near.T
    chosen = assign(costs)
    return float(costs[np.arange(pieces), chosen].sum()) / 2


def boundless_bound(symmetric: Matrix, per_tile: int) -> float:
    """Return the same bound on a mesh without borders, where all places are alike: below that of any mesh.

    >>> boundless_bound(np.array([[0.0, 3.0], [3.0, 0.0]]), per_tile=1)
    3.0
    """
    pieces = len(symmetric)
    near = [0] * (per_tile - 1)
    for distance in count(1):
        if len(near) >= pieces - 1:
            break
        near += [distance] * (4 * distance * per_tile)
    rows = -np.sort(-symmetric, axis=1)[:, : pieces - 1]
    return float((rows * np.array(near[: pieces - 1])).sum()) / 2


def random_traffic(placement: Placement, flow: NDArray[np.int64], draws: int, seed: int) -> list[float]:
    """Return the message hops of so many random placements on the same cores."""
    assert placement.mesh is not None
    symmetric = (flow + flow.T).astype(np.float64)
    np.fill_diagonal(symmetric, 0)
    generator = np.random.default_rng(seed)
    slots = np.arange(placement.mesh.slots)
    return [
        cost(symmetric, placement.mesh.hops(generator.permutation(slots)[: len(placement.slots)])) for _ in range(draws)
    ]
