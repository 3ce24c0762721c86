"""Starting several processes on this machine, as torchrun does: each runs the same command line."""

import logging
import signal
import sys
import uuid
from collections.abc import Sequence

from maqd_snn.training.execution import Execution

GRACE_SECONDS = 30  # torchrun's own: what has not saved by then is killed, and goes on from the checkpoint before


def launch(arguments: Sequence[str], execution: Execution) -> int:
    """Run `python -m maqd_snn ARGUMENTS` in one process per device of this machine; return the exit code.

    It is 128 plus the number of a signal that ended a process, else that of the process that failed first, or 0; a
    SIGTERM counts only where no process failed otherwise. A signal that comes here is passed on to all of them.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):  # each has a level of its own
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the processes speak for themselves
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=execution.devices or 1,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "maqd_snn", *arguments)
    except ChildFailedError as error:
        # torchrun ends the others with SIGTERM, where they are: one that dies of it says nothing where another failed.
        failures = error.failures.items()
        by_itself = [(rank, failure) for rank, failure in failures if failure.exitcode != -signal.SIGTERM]
        # One that a signal ended comes first: without it the others fail, too.
        rank, first = min(by_itself or failures, key=lambda of: (of[1].exitcode > 0, of[1].timestamp))
        if first.exitcode > 0:
            return int(first.exitcode)
        number = -first.exitcode
        print(
            f"maqd: the process of rank {rank} was ended by signal {number}"
            f"{', SIGKILL (is the memory enough?)' if number == signal.SIGKILL else ''}; continue with --resume",
            file=sys.stderr,
        )
        return 128 + int(number)
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
