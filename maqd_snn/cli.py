"""The command line. Each command is a thin shell over the library; wrong input is one sentence and exit code 2."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import FrameType

from maqd_snn._version import __version__
from maqd_snn.errors import MaqdError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0 done, 1 a check failed, 2 wrong input, 130 interrupted, 143 asked to end by SIGTERM while training.
    """
    # Large pages for large tensors, where the system gives them when asked (Linux's `madvise`): page faults of
    # activations are a tenth of a training step. torch reads it once, before its first tensor.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with _leaving_at_once():
        # Importing torch takes a second; an exception within it, Ctrl-C's too, may come out as another one.
        from maqd_snn.commands.table import COMMANDS
        from maqd_snn.training.stop import Stopped
        from maqd_snn.training.team import writes
    parser = make_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        options.parser.error(_unknown_argument(unknown[0], options.parser))
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)  # for processes that do the same
    if options.command is None:
        parser.print_help()
        return 0
    try:
        _check_json(options)
        code: int = COMMANDS[options.command].run(options)
    except MaqdError as error:
        if writes():  # of several processes one speaks
            print(f"maqd {options.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename!r}: " if error.filename else ""
        print(
            f"maqd {options.command}: {where}{error.strerror or error}; check the path and its rights", file=sys.stderr
        )
        return 2
    except Stopped as stopped:
        if writes():
            print(f"maqd {options.command}: {stopped}; continue with --resume", file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        training = "recipe" in options
        print(f"maqd {options.command}: interrupted" + "; continue with --resume" * training, file=sys.stderr)
        return 130
    return code


@contextmanager
def _leaving_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process without a word from Python; nothing is open yet that could be left half done."""

    def leave(number: int, frame: FrameType | None) -> None:
        os.write(2, b"maqd: interrupted\n")
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _unknown_argument(argument: str, parser: argparse.ArgumentParser) -> str:
    name = argument.partition("=")[0]
    if name in parser._option_string_actions:
        return f"{name!r} stands in the wrong place: options come behind the command, and not behind '--'"
    near = get_close_matches(name, parser._option_string_actions, n=1, cutoff=0.75)
    hint = f", did you mean {near[0]!r}?" if near else ";"
    return f"unknown argument {argument!r}{hint} see: {parser.prog} --help"


def _check_json(options: argparse.Namespace) -> None:
    # Before the work, not after it.
    target: Path | None = getattr(options, "json", None)
    if target is None or target.is_file() or (not target.exists() and target.parent.is_dir()):
        return
    raise MaqdError(f"--json expects a file in an existing folder, no folder, device or pipe, got {str(target)!r}")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    from maqd_snn.commands.table import COMMANDS

    parser = argparse.ArgumentParser(
        prog="maqd",
        description="Train single-step spiking networks, fold them into integers exactly, count, price, export.",
        epilog="`maqd COMMAND --help` tells more. Start with: maqd run digits",
    )
    parser.add_argument("--version", action="version", version=f"maqd-snn {__version__}")
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        added = commands.add_parser(
            name,
            help=command.text,
            description=command.text[0].upper() + command.text[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(parser=added)
        command.add_options(added)
    return parser
