"""What commands share that read a recording of an event camera: options, and errors that name these options."""

import argparse
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

from maqd_snn.commands.common import Options
from maqd_snn.errors import MaqdError

DEFAULT_GB = 8


def reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how to read a recording, but for --sensor, whose default differs."""
    parser.add_argument(
        "--format",
        dest="event_format",
        metavar="NAME",
        help="format of the file (default: found from content and name)",
    )
    parser.add_argument("--skip-damaged", action="store_true", help="leave out damaged parts")
    parser.add_argument(
        "--max-gb",
        type=float,
        metavar="GB",
        default=DEFAULT_GB,
        help=f"limit of the decoded events at a time, 13 bytes each, in units of 2^30 bytes (default: {DEFAULT_GB})",
    )


def chosen_sensor(options: Options) -> tuple[int, int] | None:
    """Return the (width, height) of --sensor, None where it was not given."""
    if options.sensor is None:
        return None
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", options.sensor.lower())
    if match is None:
        raise MaqdError(f"--sensor expects WIDTHxHEIGHT in pixels, as 128x128, got {options.sensor!r}")
    return int(match[1]), int(match[2])


def chosen_limit(options: Options) -> int:
    """Return the bytes of --max-gb."""
    if not (math.isfinite(options.max_gb) and 0 < options.max_gb <= 2**20):
        raise MaqdError(f"--max-gb expects a number above 0 and up to {2**20}, got {options.max_gb:g}")
    return int(options.max_gb * 2**30)


def left_out(skipped_bytes: int, skipped_events: int) -> str:
    """Return the end of a line that says what was left out of a recording, nothing where nothing was.

    >>> left_out(0, 3), left_out(0, 0)
    ('; left out: 0 bytes, 3 events', '')
    """
    return f"; left out: {skipped_bytes} bytes, {skipped_events} events" if skipped_bytes or skipped_events else ""


@contextmanager
def advice_in_options(unordered: bool) -> Iterator[None]:
    """Raise errors of readers with the names of options in place of Python's; --unordered where the command has it."""
    from maqd_snn.datasets.events import EventFileError
    from maqd_snn.datasets.events.advice import KEEP, LIMIT, SKIP, reworded

    words = {SKIP: "--skip-damaged", LIMIT: "--max-gb"} | ({KEEP: "--unordered"} if unordered else {})
    try:
        yield
    except EventFileError as error:
        raise reworded(error, words) from error
