"""A worker: takes on one trial after the other until the study has none left."""

import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from safetensors import SafetensorError

from maqd_snn.datasets import Splits
from maqd_snn.errors import MaqdError
from maqd_snn.sweeps import rows as words
from maqd_snn.sweeps.board import BEAT_SECONDS, Board, StorageError, Task
from maqd_snn.sweeps.rows import Row, hopeless
from maqd_snn.sweeps.trial import Curve, check_possible, recipe_of, run_trial, take_over
from maqd_snn.training import Execution
from maqd_snn.training.stop import Stopped

LOOK_SECONDS = 1.0  # between two looks for a trial while others work
TRIALS = "trials"


class Pruned(Exception):  # noqa: N818 - no error
    """A trial that cannot win any more."""


def work(board: Board, splits: Splits, folder: Path, execution: Execution, name: str, parent: int | None) -> None:
    """Work until nothing is left to do, waiting for others' trials, which might come back.

    Args:
        board: the study. splits: its data. folder: where trials/ stands. name: of this worker among those of its
        machine. parent: the process that started it; the worker leaves when it is gone.

    Raises:
        Stopped: SIGINT or SIGTERM; the trial under way is given back, and goes on from its checkpoint.
        MaqdError: what would hit every trial: a storage that stays away, a full disk.
    """
    with _asked_to_stop():
        taken = 0
        while True:
            board.tidy()
            task = board.claim(f"{os.urandom(4).hex() if board.spec.points else name}/{taken}")
            if task is None:
                if not any(row.outcome in (words.RUNNING, words.WAITING) for row in board.rows()):
                    return
                time.sleep(LOOK_SECONDS)
                continue
            taken += 1
            with _heart(board, task, parent):
                _one(board, task, splits, folder / TRIALS, execution)
            torch.compiler.reset()  # the compiler would hold what it compiled for this network


def _one(board: Board, task: Task, splits: Splits, folder: Path, execution: Execution) -> None:
    spec = board.spec
    costs = len(spec.objectives) > 1

    def report(curve: Curve) -> None:
        board.report(task, curve)
        if spec.prune and task.slot != words.TWIN:
            why = hopeless(curve, board.rows(), recipe.epochs, costs)
            if why:
                raise Pruned(why)

    try:
        try:
            recipe = recipe_of(spec, task.slot, task.point)
            check_possible(recipe, splits)
        except MaqdError as error:
            board.ended(task, words.SKIPPED, str(error))
            return
        folder.mkdir(parents=True, exist_ok=True)
        before = None if task.previous is None else Row(task.previous, "", "").folder
        out = take_over(folder, before, Row(task.number, "", "").folder, recipe)
        board.done(task, run_trial(recipe, spec, splits, out, execution, report))
    except Pruned as pruned:
        board.ended(task, words.PRUNED, str(pruned))
    except StorageError:
        raise
    except KeyboardInterrupt as stopped:  # Stopped, too
        board.ended(task, words.STOPPED, str(stopped) or "interrupted")
        raise
    except MaqdError as error:
        if isinstance(error.__cause__, OSError | SafetensorError):  # a full disk would take all other trials, too
            board.ended(task, words.STOPPED, str(error))
            raise
        board.ended(task, words.FAILED, str(error))
    except OSError as error:
        board.ended(task, words.STOPPED, str(error))
        raise
    except Exception as error:  # a crash of one trial, such as too little memory, is not the end of the others
        traceback.print_exc()
        board.ended(task, words.LOST, f"{type(error).__name__}: {error}")


@contextmanager
def _heart(board: Board, task: Task, parent: int | None) -> Iterator[None]:
    """Beat while the context lasts, in a thread; leave when the parent is gone."""
    end = threading.Event()

    def run() -> None:
        count = 1
        while not end.wait(BEAT_SECONDS):
            count += 1
            if parent is not None and os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            try:
                board.beat(task, count)
            except StorageError:  # the next one may get through
                continue

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@contextmanager
def _asked_to_stop() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise `Stopped` where no training handles them itself."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise Stopped(f"stopped by {signal.Signals(number).name}", number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
