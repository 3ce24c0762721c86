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

    It is that of the process that failed first, 128 plus its number after a signal, or 0. A signal that comes here is
    passed on to all of them.
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
        rank, failure = error.get_first_failure()
        code = int(failure.exitcode)
        if code > 0:
            return code
        print(
            f"maqd: the process of rank {rank} was ended by {signal.Signals(-code).name}"
            f"{' (is the memory enough?)' if -code == signal.SIGKILL else ''}; continue with --resume",
            file=sys.stderr,
        )
        return 128 - code
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
