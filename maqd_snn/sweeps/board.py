"""The shared record of a study, on a journal file or in an SQL database; everything that touches Optuna is here.

Every change is one call on the storage, and each of them may be the last one of a process: what is half done is
finished, or done again, by whoever looks next (`Board.tidy`).
"""

import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from maqd_snn.errors import MaqdError, MissingExtraError
from maqd_snn.sweeps import rows as words
from maqd_snn.sweeps.journal import JournalFile
from maqd_snn.sweeps.owner import certainly_gone, this_process
from maqd_snn.sweeps.rows import LASTING, TWIN, Row, attempts, is_surplus, open_slots
from maqd_snn.sweeps.space import OBJECTIVES, Axis, Spec, difference

GRACE_SECONDS = 60.0  # without a heartbeat for so long a worker elsewhere is taken for dead
BEAT_SECONDS = 10.0
PATIENCE_SECONDS = 120.0  # how long a worker waits for a storage that has gone away
DEFAULT_TRIALS = 30
STARTUP_TRIALS = 8  # drawn at random before TPE begins
SPEC, TARGET = "maqd-spec", "maqd-trials"

T = TypeVar("T")


def _optuna() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
    except ImportError as error:
        raise MissingExtraError("optuna", "sweep", "a sweep") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _is_url(storage: str) -> bool:
    return "://" in storage


def open_storage(storage: str) -> Any:
    """Return Optuna's storage for a journal file's path or an SQL URL, as SQLAlchemy writes them.

    Raises:
        MaqdError: it cannot be reached, is locked, or the driver in the URL is not installed.
    """
    optuna = _optuna()
    with reached(storage), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not _is_url(storage):
            try:
                return optuna.storages.JournalStorage(JournalFile(Path(storage)))
            except (AssertionError, KeyError, TypeError, ValueError) as error:
                raise MaqdError(
                    f"{storage!r} is damaged, or no journal of a study ({error!r}); give another --storage or --out"
                ) from error
        connect = {"timeout": 60} if storage.startswith("sqlite") else {}
        try:
            return optuna.storages.RDBStorage(storage, engine_kwargs={"pool_pre_ping": True, "connect_args": connect})
        except ImportError as error:
            raise MaqdError(
                f"the storage {hidden(storage)!r} needs a driver that is not installed; for PostgreSQL install "
                "'maqd-snn[sweep]' and write postgresql+pg8000://USER@HOST/DATABASE"
            ) from error


def hidden(storage: str) -> str:
    """Return the storage without its password.

    >>> hidden("postgresql+pg8000://me:secret@host/db"), hidden("sweeps/a/journal.log")
    ('postgresql+pg8000://me:***@host/db', 'sweeps/a/journal.log')
    """
    scheme, mark, rest = storage.partition("://")
    user, at, where = rest.rpartition("@")
    if not mark or not at or ":" not in user:
        return storage
    return f"{scheme}://{user.split(':', 1)[0]}:***@{where}"


def _storage_errors() -> tuple[type[Exception], ...]:
    optuna = _optuna()
    import sqlalchemy.exc

    return (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError, OSError)


@contextmanager
def reached(storage: str) -> Iterator[None]:
    """Turn the errors of a storage into a MaqdError."""
    try:
        yield
    except MaqdError:
        raise
    except Exception as error:
        if not isinstance(error, _storage_errors()):
            raise
        root: BaseException = error
        while root.__cause__ is not None or getattr(root, "orig", None) is not None:
            root = getattr(root, "orig", None) or root.__cause__ or root
        said = " ".join(str(root).split())[:200]
        state = "is locked" if "locked" in said else "cannot be used"
        raise StorageError(
            f"the storage {hidden(storage)!r} {state}: {said}; see that it can be reached and written, or give another "
            "--storage"
        ) from error


class StorageError(MaqdError):
    """A storage that cannot be reached, is locked, or cannot be written."""


@dataclass(frozen=True)
class Task:
    """A trial that this process has taken on.

    Attributes:
        number, slot, point: as of `Row`. previous: the number of the attempt before, whose folder it goes on from.
    """

    number: int
    slot: str
    point: Mapping[str, Any]
    previous: int | None


class Board:
    """A study that any number of workers share.

    Args:
        storage: a journal file's path or an SQL URL. name: of the study in it.
        spec: what the study is to be; it is made if there is none. None takes the study as it is.

    Raises:
        MaqdError: no such study, one of another space, or a storage that cannot be used.
    """

    def __init__(self, storage: str, name: str, spec: Spec | None = None) -> None:
        self.optuna = _optuna()
        self.where, self.name = storage, name
        if spec is None and not _is_url(storage) and not Path(storage).is_file():
            raise MaqdError(f"there is no study in {storage!r}; start one with: maqd sweep {name}")
        self._storage = open_storage(storage)
        with reached(storage):
            self._study = self._open(spec)
        self.spec = self._stored(spec)
        self._seen: dict[int, tuple[int, float]] = {}  # last heartbeat of others, and when it changed
        self._looked = time.monotonic()

    def _open(self, spec: Spec | None) -> Any:
        optuna = self.optuna
        if spec is not None:
            directions = [OBJECTIVES[name] for name in spec.objectives]
            try:
                study = optuna.create_study(storage=self._storage, study_name=self.name, directions=directions)
                study.set_user_attr(SPEC, spec.to_json())
                return study
            except optuna.exceptions.DuplicatedStudyError:
                pass
        try:
            return optuna.load_study(storage=self._storage, study_name=self.name)
        except KeyError as error:
            names = ", ".join(optuna.get_all_study_names(self._storage)) or "none"
            raise MaqdError(
                f"the storage {hidden(self.where)!r} holds no study {self.name!r}; it holds: {names}"
            ) from error

    def _stored(self, spec: Spec | None) -> Spec:
        until = time.monotonic() + 5
        with reached(self.where):
            while (text := self._study.user_attrs.get(SPEC)) is None:
                if time.monotonic() > until:
                    if spec is None or self._study.get_trials(deepcopy=False):
                        raise MaqdError(f"the study {self.name!r} is none of `maqd sweep`; give another name")
                    self._study.set_user_attr(SPEC, spec.to_json())  # its maker was killed in between
                time.sleep(0.1)
        stored = Spec.from_json(text)
        if spec is not None and (words_ := difference(stored, spec)):
            raise MaqdError(
                f"the study {self.name!r} exists with another space: {words_}; give the same options, or another name "
                "with --name"
            )
        return stored

    def close(self) -> None:
        """Close the connections to a database."""
        if _is_url(self.where):
            self._storage.remove_session()
            self._storage.engine.dispose()

    @property
    def target(self) -> int:
        """How many trials the study is to have, without the twin."""
        with reached(self.where):
            return int(self._study.user_attrs.get(TARGET, 0))

    @property
    def slots(self) -> list[str]:
        """What the study asks for."""
        return [TWIN] * self.spec.twin + [str(index) for index in range(self.target)]

    def extend(self, trials: int | None) -> None:
        """Let the study have this many trials, never fewer than before; None for the whole grid, or a default."""
        points = self.spec.points
        wanted = trials if trials is not None else (points or max(self.target, DEFAULT_TRIALS))
        if points is not None:
            wanted = min(wanted, points)
        if wanted > self.target:
            with reached(self.where):
                self._study.set_user_attr(TARGET, wanted)
        self.tidy()

    def rows(self) -> list[Row]:
        """Return all trials."""
        with reached(self.where):
            return [self._row(trial) for trial in self._study.get_trials(deepcopy=False)]

    def _row(self, trial: Any) -> Row:
        state, attributes = trial.state.name, trial.user_attrs
        outcome = {"RUNNING": words.RUNNING, "WAITING": words.WAITING}.get(state) or attributes.get(
            "outcome", words.LOST
        )
        fixed = trial.system_attrs.get("fixed_params", {})
        begun, ended = trial.datetime_start, trial.datetime_complete
        return Row(
            number=trial.number,
            slot=str(attributes.get("slot", "")),
            outcome=outcome,
            point=dict(trial.params) or dict(fixed),
            result=attributes.get("result", {}),
            reason=attributes.get("reason", ""),
            owner=attributes.get("owner", ""),
            beat=int(attributes.get("beat", 0)),
            seconds=attributes.get("seconds") or ((ended - begun).total_seconds() if begun and ended else None),
            curve=tuple((int(e), float(a), float(w)) for e, a, w in attributes.get("curve", ())),
        )

    def tidy(self) -> list[Row]:
        """Take trials from workers that are gone, give every slot that needs one a new trial, and return all trials."""
        now = time.monotonic()
        if now - self._looked > GRACE_SECONDS:  # whoever has not looked cannot tell; all may have been asleep
            self._seen.clear()
        self._looked = now
        for row in self.rows():
            if row.outcome == words.RUNNING and self._is_stale(row, now):
                self._bury(row)
        rows = self.rows()
        points = list(self.spec.space.grid()) if self.spec.points is not None else None
        with reached(self.where):
            for slot in open_slots(rows, self.slots):
                before = [row for row in attempts(rows, slot) if row.outcome in (words.LOST, words.STOPPED)]
                point: Mapping[str, Any] = {}
                if before:
                    point = before[-1].point
                elif points is not None and slot != TWIN:
                    point = points[int(slot)]
                attributes = {"slot": slot, **({"previous": before[-1].number} if before else {})}
                self._study.enqueue_trial(dict(point), user_attrs=attributes)
        return self.rows()

    def adopt(self, rows: Sequence[Row]) -> int:
        """Take over trials that were settled elsewhere, for slots that are neither under way nor settled here.

        Returns:
            How many. What waits for such a slot is surplus from then on.
        """
        taken = {row.slot for row in self.rows() if row.outcome in (words.RUNNING, *LASTING)}
        create, state = self.optuna.trial.create_trial, self.optuna.trial.TrialState
        known = {axis.name: _distribution(self.optuna.distributions, axis) for axis in self.spec.space.axes}
        new = [row for row in rows if row.slot not in taken]
        for row in new:
            values = self._values(row.slot, row.result) if row.outcome == words.DONE else None
            attributes = {
                "slot": row.slot,
                "outcome": row.outcome,
                "result": dict(row.result),
                "reason": row.reason,
                "seconds": row.seconds,
                "curve": [list(entry) for entry in row.curve],
            }
            trial = create(
                state=state.FAIL if values is None else state.COMPLETE,
                values=values,
                params=dict(row.point),
                distributions={name: known[name] for name in row.point},
                user_attrs=attributes,
            )
            with reached(self.where):
                self._study.add_trial(trial)
        return len(new)

    def _values(self, slot: str, result: Mapping[str, Any]) -> list[float] | None:
        """What the sampler is told of a trial: the objectives, where each of them has a value."""
        values = [result.get(name) for name in self.spec.objectives]
        known = [float(value) for value in values if value is not None]
        return None if slot == TWIN or len(known) < len(values) else known

    def _is_stale(self, row: Row, now: float) -> bool:
        beat, since = self._seen.get(row.number, (-1, now))
        if beat != row.beat:
            since = now
        self._seen[row.number] = row.beat, since
        return certainly_gone(row.owner) or now - since > GRACE_SECONDS

    def _bury(self, row: Row) -> None:
        trial = self._trial(row.number)
        if trial.user_attrs.get("outcome") == words.DONE:  # it died between its result and the last word
            self._tell(row.number, trial.user_attrs.get("values"))
            return
        if "outcome" not in trial.user_attrs:
            self._note(row.number, reason="its worker is gone", outcome=words.LOST)
        self._tell(row.number, None)

    def _trial(self, number: int) -> Any:
        return self._study.get_trials(deepcopy=False)[number]

    def claim(self, draw: str) -> Task | None:
        """Take on the next waiting trial, or return None where none waits.

        `draw` names the random numbers of the sampler: each worker and each of its trials has its own.
        """
        while any(row.outcome == words.WAITING for row in self.rows()):
            with reached(self.where), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._study.sampler = self._sampler(random.Random(f"{self.spec.seed}/{draw}").getrandbits(31))
                trial = self._study.ask()
                slot = trial.user_attrs.get("slot")
                if slot is None or is_surplus(self.rows(), Row(trial.number, slot, words.RUNNING)):
                    self._note(trial.number, outcome=words.SURPLUS)
                    self._tell(trial.number, None)
                    continue
                self._note(trial.number, owner=this_process(), beat=1)
                point = {} if slot == TWIN else {axis.name: _suggest(trial, axis) for axis in self.spec.space.axes}
                return Task(trial.number, slot, point, trial.user_attrs.get("previous"))
        return None

    def _sampler(self, seed: int) -> Any:
        samplers = self.optuna.samplers
        if self.spec.sampler == "nsga2":
            return samplers.NSGAIISampler(population_size=max(4, min(50, self.target // 5)), seed=seed)
        if self.spec.sampler == "tpe":
            return samplers.TPESampler(
                n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True, seed=seed
            )
        return samplers.RandomSampler(seed=seed)  # every point of a grid is given

    # What a worker says of its trial. Each waits for a storage that has gone away.

    def beat(self, task: Task, count: int) -> None:
        """Say that the worker lives."""
        self._note(task.number, beat=count)

    def report(self, task: Task, curve: Sequence[tuple[int, float, float]]) -> None:
        """Note the epochs so far."""
        _patiently(lambda: self._note(task.number, curve=[list(entry) for entry in curve]))

    def done(self, task: Task, result: Mapping[str, Any]) -> None:
        """Note a finished trial."""
        known = self._values(task.slot, result)
        self._end(task, known, {"result": dict(result), "values": known, "outcome": words.DONE})

    def ended(self, task: Task, outcome: str, reason: str) -> None:
        """Note a trial that ended without a result: pruned, skipped, failed or stopped."""
        self._end(task, None, {"reason": reason, "outcome": outcome})

    def _end(self, task: Task, values: Sequence[Any] | None, attributes: Mapping[str, Any]) -> None:
        def end() -> None:
            state = self._trial(task.number).state
            if state.is_finished():  # somebody took it for lost, or the storage said less than it did
                return
            self._note(task.number, **attributes)
            self._tell(task.number, values)

        _patiently(end)

    def _note(self, number: int, **attributes: Any) -> None:
        with reached(self.where):
            identity = self._trial(number)._trial_id
            try:
                for name, value in attributes.items():
                    self._storage.set_trial_user_attr(identity, name, value)
            except self.optuna.exceptions.UpdateFinishedTrialError:
                pass

    def _tell(self, number: int, values: Sequence[Any] | None) -> None:
        state = self.optuna.trial.TrialState
        with reached(self.where), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if values is None:
                self._study.tell(number, state=state.FAIL, skip_if_finished=True)
            else:
                self._study.tell(number, [float(value) for value in values], skip_if_finished=True)


def _suggest(trial: Any, axis: Axis) -> Any:
    if axis.choices:
        return trial.suggest_categorical(axis.name, list(axis.choices))
    if isinstance(axis.low, int) and isinstance(axis.high, int):
        return trial.suggest_int(axis.name, axis.low, axis.high, log=axis.log)
    return trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)


def _distribution(distributions: Any, axis: Axis) -> Any:
    if axis.choices:
        return distributions.CategoricalDistribution(list(axis.choices))
    whole = isinstance(axis.low, int) and isinstance(axis.high, int)
    kind = distributions.IntDistribution if whole else distributions.FloatDistribution
    return kind(axis.low, axis.high, log=axis.log)


def _patiently(act: Callable[[], T]) -> T:
    """Return what `act` does; while the storage is away, try again for a while."""
    until, pause = time.monotonic() + PATIENCE_SECONDS, 0.2
    while True:
        try:
            return act()
        except StorageError:
            if time.monotonic() + pause > until:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 10)
