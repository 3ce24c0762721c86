"""The workers of one machine: processes of their own, watched until the study has nothing left to do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from maqd_snn.sweeps.board import Board, StorageError
from maqd_snn.sweeps.progress import progress_line, remaining

LOOK_SECONDS = 1.0
SAY_SECONDS = 60.0  # at least one line in so long


def run_crew(
    board: Board, arguments: Sequence[str], workers: int, threads: int, say: Callable[[str], None]
) -> tuple[int, int]:
    """Start the workers, say how far the study is, and return (trials left, signal that stopped it or 0).

    A signal is passed on: each worker saves, gives its trial back and leaves; so does one whose parent is gone. A
    worker that dies is not replaced: the others take its trial over. When all are gone the rest is left to the next
    start.

    Args:
        arguments: of this very command line; a worker is the same command with `--worker NAME`.
        threads: of each worker. say: prints a line.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "maqd_snn", *arguments]
    slots = len(board.slots)
    said, last = "", 0.0
    with _forwarding() as passed:
        crew = {}
        for index in range(workers):
            name = f"{os.getpid()}.{index}"
            # A session of its own: a Ctrl-C at the terminal comes once, from here.
            crew[name] = subprocess.Popen(
                [*command, "--worker", name, "--parent", str(os.getpid())], env=environment, start_new_session=True
            )
            passed.append(crew[name])
        told: set[str] = set()
        while True:
            alive = [name for name, process in crew.items() if process.poll() is None]
            for name in crew.keys() - set(alive) - told:
                told.add(name)
                code = crew[name].returncode
                if code < 0 and not passed.number:
                    say(f"worker {name} was ended by {signal.Signals(-code).name}; its trial will be done again")
            if not passed.number:
                try:
                    line = progress_line(board.rows(), slots, board.spec.objectives)
                except StorageError:
                    line = said  # the workers are patient, too
                now = time.monotonic()
                if _settled(line) != _settled(said) or now - last > SAY_SECONDS:
                    say(line)
                    said, last = line, now
            if not alive:
                break
            time.sleep(LOOK_SECONDS)
    return remaining(board.tidy(), slots), passed.number


def _settled(line: str) -> str:
    return line.split(" trials")[0]


class _Passed(list[subprocess.Popen[bytes]]):
    """The processes to pass signals on to, and the signal that came."""

    number = 0


@contextmanager
def _forwarding() -> Iterator[_Passed]:
    passed = _Passed()

    def forward(number: int, frame: FrameType | None) -> None:
        again = passed.number != 0
        passed.number = passed.number or number
        for process in passed:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL if again and number == signal.SIGINT else number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
