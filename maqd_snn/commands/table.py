"""The table of commands, in the order that `maqd --help` prints."""

from collections.abc import Mapping
from types import MappingProxyType

from maqd_snn.commands import (
    bench,
    chips,
    data,
    diagnose,
    evaluate,
    export,
    frontier,
    map,
    plot,
    report,
    run,
    stream,
    study,
    sweep,
    train,
    verify,
)
from maqd_snn.commands.common import Command

COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "run": run.COMMAND,
        "train": train.COMMAND,
        "eval": evaluate.COMMAND,
        "report": report.COMMAND,
        "export": export.COMMAND,
        "verify": verify.COMMAND,
        "chips": chips.COMMAND,
        "map": map.COMMAND,
        "data": data.COMMAND,
        "stream": stream.COMMAND,
        "plot": plot.COMMAND,
        "diagnose": diagnose.COMMAND,
        "sweep": sweep.COMMAND,
        "frontier": frontier.COMMAND,
        "study": study.COMMAND,
        "bench": bench.COMMAND,
    }
)
