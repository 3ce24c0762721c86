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

    It is 128 plus the number of a signal that ended a process, else that of the process that failed first, or 0. A
    signal that comes here is passed on to all of them.
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
        killed = {rank: -failure.exitcode for rank, failure in error.failures.items() if failure.exitcode < 0}
        if not killed:
            return int(error.get_first_failure()[1].exitcode)
        rank, number = min(killed.items(), key=lambda of: of[1] == signal.SIGTERM)  # torchrun ends the others with it
        print(
            f"maqd: the process of rank {rank} was ended by signal {number}"
            f"{', SIGKILL (is the memory enough?)' if number == signal.SIGKILL else ''}; continue with --resume",
            file=sys.stderr,
        )
        return 128 + int(number)
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
