"""Does a network fit a chip: every limit with its numbers, the cut into cores, what would make it fit."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.neuromorphic.hardware.chip import KEYS, Chip, Figure, get_chip
from maqd_snn.neuromorphic.hardware.matching import match
from maqd_snn.neuromorphic.hardware.needs import CORE, LAYER, NETWORK, Job, Piece, even_thresholds, weight_range
from maqd_snn.neuromorphic.hardware.remedies import Remedy, remedies
from maqd_snn.neuromorphic.hardware.stages import Image, Stage, cut, stages_of

HOLDS, FAILS, UNKNOWN = "holds", "fails", "unknown"
Need = int | tuple[int, ...] | str


@dataclass(frozen=True)
class Row:
    """One limit: what is needed against what there is.

    Attributes:
        layer: name of the stage, or an empty text for the network. figure: the chip's figure, one of `KEYS`.
        need, limit: the numbers, or what is asked for in words. verdict: `holds`, `fails` or `unknown`.
        note: what the need stands for, or an empty text. tag, source: of the figure.
    """

    layer: str
    figure: str
    need: Need
    limit: Need | None
    verdict: str
    note: str
    tag: str
    source: str

    def text(self) -> str:
        """Return the row as a sentence."""
        of = f"{self.layer}: " if self.layer else ""
        limit = "unknown" if self.limit is None else in_words(self.limit)
        sign = {HOLDS: "within", FAILS: "beyond", UNKNOWN: "against"}[self.verdict]
        note = f" ({self.note})" if self.note else ""
        return f"{of}{KEYS[self.figure].text}: {in_words(self.need)}, {sign} {limit}{note}"


def in_words(need: Any) -> str:
    """Return a need or a limit as text."""
    if isinstance(need, tuple):
        return " or ".join(map(str, need))
    return f"{need:,}" if isinstance(need, int) else str(need)


@dataclass(frozen=True, eq=False)
class Plan:
    """The answer of `fit`.

    Attributes:
        chip: the chip. job: the network's stages, what is on the host, and the pieces by stage. rows: every limit.
        cores, chips: how many are taken, None where a layer cannot be cut to fit. core_of: for a chip whose cores
        differ, the core of each stage. remedies: what would make it fit, tried out.
    """

    chip: Chip
    job: Job
    rows: tuple[Row, ...]
    cores: int | None
    chips: int | None
    core_of: Mapping[str, int]
    remedies: tuple[Remedy, ...] = ()

    @property
    def fits(self) -> bool | None:
        """True, False, or None where a figure that matters is unknown."""
        if self.problems:
            return False
        return None if self.unknowns else True

    @property
    def problems(self) -> list[Row]:
        """The limits that fail."""
        return [row for row in self.rows if row.verdict == FAILS]

    @property
    def unknowns(self) -> list[Row]:
        """The limits that cannot be told."""
        return [row for row in self.rows if row.verdict == UNKNOWN]

    @property
    def host(self) -> list[str]:
        """Names of the stages that run on the host."""
        return [stage.name for stage in self.job.stages if stage.name in self.job.host]

    @property
    def pieces(self) -> list[Piece]:
        """The pieces of all stages on the chip, in order."""
        return [piece for stage in self.job.stages for piece in self.job.pieces.get(stage.name, [])]

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as plain values."""
        return {
            "chip": self.chip.name,
            "title": self.chip.title,
            "fits": self.fits,
            "cores": self.cores,
            "chips": self.chips,
            "host": self.host,
            "pieces": {name: len(pieces) for name, pieces in self.job.pieces.items()},
            "rows": [asdict(row) for row in self.rows],
            "remedies": [asdict(remedy) for remedy in self.remedies],
            "caveats": list(self.chip.caveats),
        }


def fit(
    net: IntegerNetwork, chip: str | Path | Chip, parameters: Mapping[str, Any] | None = None, *, advise: bool = True
) -> Plan:
    """Return whether the network fits the chip, with the numbers of every limit and the cut into cores.

    Args:
        net: the integer network. chip: a name of `CHIPS`, the path of a TOML file, or a `Chip`. parameters: values of
        figures that are parameters. advise: search for what would make it fit.

    Raises:
        MaqdError: an unknown chip, a bad chip file, or a network of which nothing would be on the chip.

    >>> import torch
    >>> net = IntegerNetwork([
    ...     ops.Input("input", shape=(4,), high=1, kind="events"),
    ...     ops.Linear("fc", ("input",), weight=torch.ones(3, 4, dtype=torch.int64)),
    ... ])
    >>> plan = fit(net, "loihi1")
    >>> plan.fits, plan.cores
    (True, 1)
    """
    plan = _fit(net, get_chip(chip, parameters))
    return advised(plan) if advise else plan


def advised(plan: Plan) -> Plan:
    """Return a plan that does not fit with the changes of the network that would; another plan as it is."""
    if plan.fits is not False:
        return plan
    failing = {row.figure for row in plan.problems}
    found = remedies(plan.job.net, failing, lambda variant: _attempt(variant, plan.chip))
    return replace(plan, remedies=tuple(found))


def _attempt(net: IntegerNetwork, chip: Chip) -> tuple[bool, int | None]:
    """Return whether no limit fails, and the cores taken; the first limit that fails ends it."""
    job, core_of = _start(net, chip), dict[str, int]()
    ok = all(row.verdict != FAILS for row in _rows(job, core_of))
    return ok, _cores(job) if ok else None


def _fit(net: IntegerNetwork, chip: Chip) -> Plan:
    job, core_of = _start(net, chip), dict[str, int]()
    rows = list(_rows(job, core_of))
    cores = _cores(job)
    chips = None if cores is None else ceil(cores / chip.value("cores"))
    order = {stage.name: index for index, stage in enumerate(job.stages)}
    rows.sort(key=lambda row: order.get(row.layer, len(order)))
    return Plan(chip, job, tuple(rows), cores, chips, core_of)


def _start(net: IntegerNetwork, chip: Chip) -> Job:
    stages = stages_of(net)
    job = Job(net, chip, stages, _on_host(net, chip, stages))
    if not job.placed:
        raise MaqdError(
            f"nothing of this network would be on {chip.name}: every layer is fed by pixel codes or gives class "
            "scores, which run on the host; use a network with hidden spikes"
        )
    return job


def _rows(job: Job, core_of: dict[str, int]) -> Iterator[Row]:
    """Check every limit, cutting the stages into pieces on the way; cheap limits come first."""
    for stage in job.placed:
        yield from _layer_rows(job, stage)
    yield from _network_rows(job)
    if job.chip.value("topology") == "mesh":
        yield from _cut_rows(job)
    else:
        for stage in job.placed:
            job.pieces[stage.name] = [job.piece(stage, cut(stage.shape, (1, 1, 1))[0])]
        yield from _switch_rows(job, core_of) if job.chip.value("topology") == "switch" else _single_rows(job)
    cores = _cores(job)
    if cores is not None:
        yield _core_row(job, cores, ceil(cores / job.chip.value("cores")))


def _cores(job: Job) -> int | None:
    if any(stage.name not in job.pieces for stage in job.placed):
        return None
    return 1 if job.chip.value("topology") == "single" else sum(map(len, job.pieces.values()))


def _on_host(net: IntegerNetwork, chip: Chip, stages: list[Stage]) -> frozenset[str]:
    """What the cores cannot be fed, or cannot give out."""
    how, entry = chip.value("input"), net.input
    bits = entry.high - entry.low <= 1 and entry.kind == "events" and entry.zero_point == entry.low
    enters = how in ("codes", None) or bits or (how == "unit-events" and entry.zero_point == entry.low)
    host = {stage.name for stage in stages if entry.name in stage.sources and not enters}
    host |= {stage.name for stage in stages if not stage.spiking and chip.value("scores") == "no"}
    return frozenset(host)


def _row(chip: Chip, layer: str, key: str, need: Need, verdict: str, note: str = "", limit: Need | None = None) -> Row:
    figure = chip.figures[key]
    return Row(layer, key, need, limit if limit is not None else figure.value, verdict, note, figure.tag, figure.source)


def compare(need: Need, figure: Figure) -> str:
    """Return whether a need holds against a figure: at most the limit, or all among the allowed sizes."""
    limit = figure.value
    if limit is None:
        return UNKNOWN
    if isinstance(limit, tuple):
        wanted = need if isinstance(need, tuple) else (need,)
        return HOLDS if set(wanted) <= set(limit) else FAILS
    assert isinstance(need, int)
    return HOLDS if need <= limit else FAILS


def _layer_rows(job: Job, stage: Stage) -> Iterator[Row]:
    chip = job.chip
    yield from _form_rows(job, stage)
    for key, rule in LAYER.items():
        if chip.has(key) and _applies(job, stage, key):
            need = rule(job, stage)
            if need is not None:
                yield _row(chip, stage.name, key, need, compare(need, chip.figures[key]))


def _applies(job: Job, stage: Stage, key: str) -> bool:
    # A stage that is no single convolution has no kernel: its form fails already.
    return key not in ("kernel", "input_size") or _one_kernel(stage) == ""


def _one_kernel(stage: Stage) -> str:
    """Return why a stage is no single square convolution, or an empty text."""
    if len(stage.branches) > 1:
        return f"{len(stage.branches)} ways lead into one layer (a residual sum)"
    products = stage.weights
    if len(products) != 1:
        return f"{len(products)} products in one layer"
    op = products[0]
    before = stage.branches[0].steps[: stage.branches[0].steps.index(op)]
    after = stage.branches[0].steps[stage.branches[0].steps.index(op) + 1 :]
    if any(isinstance(step, ops.MaxPool2d | ops.SumPool2d) for step in after):
        return "accumulators are pooled before the threshold"
    if any(isinstance(step, ops.MaxPool2d) for step in before):
        return "a max-pool in front of the layer"
    if isinstance(op, ops.Conv2d):
        if op.weight.shape[2] != op.weight.shape[3] or op.stride[0] != op.stride[1] or op.padding[0] != op.padding[1]:
            return "its kernel, stride or padding is not square"
        if op.dilation != (1, 1):
            return f"a dilation of {op.dilation}"
    return ""


def _form_rows(job: Job, stage: Stage) -> Iterator[Row]:
    chip = job.chip

    def verdict(key: str, wanted: tuple[str, ...]) -> str:
        value = chip.value(key)
        return UNKNOWN if value is None else HOLDS if value in wanted else FAILS

    if any(isinstance(op, ops.Conv2d | ops.SumPool2d | ops.MaxPool2d) for op in stage.steps) and chip.has(
        "convolution"
    ):
        yield _row(chip, stage.name, "convolution", "yes", verdict("convolution", ("yes",)))
    if any(isinstance(op, ops.MaxPool2d) for op in stage.steps):
        # Neurons can only tell whether any input fires: one neuron per level, behind the threshold.
        behind = len(stage.pools) == sum(isinstance(op, ops.MaxPool2d) for op in stage.steps)
        binary = job.thermometer or stage.levels == 1
        wanted = ("core", "neurons") if behind and binary else ("core",)
        note = "" if behind else "of accumulators, or of spikes that others read too"
        if not (verdict("max_pool", wanted) == UNKNOWN and behind and stage.levels == 1):
            yield _row(chip, stage.name, "max_pool", "max-pool", verdict("max_pool", wanted), note)
        else:
            yield _row(
                chip,
                stage.name,
                "max_pool",
                "max-pool",
                HOLDS,
                "of binary spikes: neurons that fire where any input does",
                limit="not needed",
            )
    if chip.has("signed_weights") and weight_range(stage)[0] < 0:
        yield _row(chip, stage.name, "signed_weights", "yes", verdict("signed_weights", ("yes",)))
    if not stage.spiking:
        yield _row(chip, stage.name, "scores", "yes", verdict("scores", ("yes",)))
    if chip.value("own_thresholds") == "even":
        if not even_thresholds(stage):
            yield _row(chip, stage.name, "own_thresholds", "uneven thresholds", FAILS, f"{stage.levels} levels")
        elif stage.spiking:
            yield _row(chip, stage.name, "own_thresholds", "even thresholds", HOLDS, f"{stage.levels} levels")
        if stage.low < 0:
            yield _row(chip, stage.name, "own_thresholds", "negative levels", FAILS, "events have no sign")
    if chip.value("topology") == "switch":
        problem = _one_kernel(stage)
        if problem:
            yield _row(chip, stage.name, "convolution", problem, FAILS, limit="one square kernel a core")


def _network_rows(job: Job) -> Iterator[Row]:
    for key, rule in NETWORK.items():
        if job.chip.has(key):
            need = rule(job)
            if need is not None:
                yield _row(job.chip, "", key, need, compare(need, job.chip.figures[key]))


def core_figures(chip: Chip) -> list[str]:
    """Return the names of the limits of a core that a chip has."""
    return [key for key in CORE if chip.has(key)]


def chunk_counts(length: int) -> list[int]:
    """Return the numbers of parts that give different longest parts, the fewest for each.

    >>> chunk_counts(10)  # longest parts 10, 5, 4, 3, 2, 1
    [1, 2, 3, 4, 5, 10]
    """
    found: dict[int, int] = {}
    for parts in range(1, length + 1):
        found.setdefault(-(-length // parts), parts)
    return list(found.values())


def cuts_of(shape: Image) -> list[tuple[int, int, int]]:
    """Return the ways to cut a value, fewest parts first; rows rather than channels, these rather than columns."""
    ways = [(c, r, x) for c in chunk_counts(shape[0]) for r in chunk_counts(shape[1]) for x in chunk_counts(shape[2])]
    return sorted(ways, key=lambda way: (way[0] * way[1] * way[2], way[2], way[0]))


def _too_much(job: Job, piece: Piece, keys: list[str]) -> str:
    """Return the first limit that a piece exceeds, or an empty text."""
    for key in keys:
        if compare(CORE[key](job, piece), job.chip.figures[key]) == FAILS:
            return key
    return ""


def _cut_rows(job: Job) -> Iterator[Row]:
    """Cut every stage into the fewest pieces that hold, the last first: a piece's outputs depend on its readers."""
    chip = job.chip
    keys = core_figures(chip)
    known = [key for key in keys if chip.value(key) is not None]
    for stage in reversed(job.placed):
        smallest = job.piece(stage, cut(stage.shape, stage.shape)[0])
        middle = job.piece(stage, _middle(stage.shape))
        beyond = {key for piece in (smallest, middle) if (key := _too_much(job, piece, known))}
        pieces = None if beyond else _fewest(job, stage, known)
        if pieces is not None:
            job.pieces[stage.name] = pieces
            worst = {key: max(CORE[key](job, piece) for piece in pieces) for key in keys}
            note = f"the fullest of {len(pieces)} cores" if len(pieces) > 1 else ""
        else:
            worst = {key: CORE[key](job, middle) for key in keys}
            note = "even for a single unit"
        for key in keys:
            yield _row(chip, stage.name, key, worst[key], compare(worst[key], chip.figures[key]), note)


def _middle(shape: Image) -> Any:
    c, r, x = ((n // 2, n // 2 + 1) for n in shape)
    return c, r, x


def _fewest(job: Job, stage: Stage, keys: list[str]) -> list[Piece] | None:
    # One more neuron never needs less: the neurons alone bound the number of pieces from below.
    least = 1
    for key in ("neurons", "crossbar_neurons", "state_memory_bits"):
        if key in keys:
            everything = job.piece(stage, cut(stage.shape, (1, 1, 1))[0])
            least = max(least, ceil(CORE[key](job, everything) / job.chip.value(key)))
    for way in cuts_of(stage.shape):
        if way[0] * way[1] * way[2] < least:
            continue
        boxes = cut(stage.shape, way)
        # Most cuts fail at their first piece, or at one in the middle, which borders do not relieve.
        order = [len(boxes) // 2, 0, *range(1, len(boxes))]
        if all(not _too_much(job, job.piece(stage, boxes[index]), keys) for index in order):
            return [job.piece(stage, box) for box in boxes]
    return None


def _switch_rows(job: Job, core_of: dict[str, int]) -> Iterator[Row]:
    """Every layer takes one core; which, is a matching of layers and cores."""
    chip, placed = job.chip, job.placed
    keys = core_figures(chip)
    fitting: dict[str, list[int]] = {}
    for stage in placed:
        if _one_kernel(stage):
            continue
        needs = {key: CORE[key](job, job.pieces[stage.name][0]) for key in keys}
        limits = {key: chip.value(key) or (0,) * chip.value("cores") for key in keys}
        cores = [i for i in range(chip.value("cores")) if all(needs[key] <= limits[key][i] for key in keys)]
        for key in keys:
            most = max(limits[key])
            both = needs[key] <= most and not cores
            note = "no core has all of it at once" if both and all(needs[k] <= max(limits[k]) for k in keys) else ""
            verdict = FAILS if needs[key] > most or note else HOLDS
            yield _row(chip, stage.name, key, needs[key], verdict, note or "the largest core", limit=most)
        fitting[stage.name] = cores
    if len(fitting) == len(placed) and all(fitting.values()):
        found = match(fitting)
        core_of.update(found)
        if len(found) < len(placed) <= chip.value("cores"):
            yield _row(
                chip,
                "",
                "cores",
                f"a core of its own for each of {len(placed)} layers",
                FAILS,
                f"the best matching of memories places {len(found)}",
            )


def _single_rows(job: Job) -> Iterator[Row]:
    for key in core_figures(job.chip):
        need = sum(CORE[key](job, piece) for pieces in job.pieces.values() for piece in pieces)
        yield _row(job.chip, "", key, need, compare(need, job.chip.figures[key]), "all layers together")


def _core_row(job: Job, cores: int, chips: int) -> Row:
    chip = job.chip
    if chips == 1:
        return _row(chip, "", "cores", cores, HOLDS)
    more = chip.value("many_chips") if chip.has("many_chips") else "no"
    verdict = UNKNOWN if more is None else HOLDS if more == "yes" else FAILS
    note = f"{chips} chips" if more == "yes" else "more than one chip"
    limit = f"{chips} x {chip.value('cores'):,}" if more == "yes" else None
    return _row(chip, "", "cores", cores, verdict, note, limit)
