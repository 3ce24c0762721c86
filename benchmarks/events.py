"""Speed of event data, beside the peers, in one run: docs/events-speed.md.

    maqd bench events [--quick] [--only NAME,...] [--out docs/events-speed.md]

Every row is a function that returns its lines; files are read from the page cache, the best of several runs counts. A
peer that is not installed is left out.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType

from maqd_snn.benchmarks.event_frames import FRAME_ROWS
from maqd_snn.benchmarks.event_readers import READER_ROWS
from maqd_snn.benchmarks.lines import Line, Row, Setting
from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.files import write_text

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "events-speed.md"
PEERS = ("numba", "numpy", "tonic", "expelliarmus", "faery", "h5py")  # whose versions the document names


ROWS: Mapping[str, Row] = MappingProxyType({**READER_ROWS, **FRAME_ROWS})


def table(lines: Sequence[Line], quick: bool) -> str:
    """Return the document."""
    versions = ", ".join(f"{name} {found}" for name in PEERS if (found := _version(name)))
    day = datetime.now(UTC).date()
    return "\n".join(
        [
            "# Speed of event data",
            "",
            f"From `maqd bench events{' --quick' if quick else ''}` (`benchmarks/events.py`), {day}: "
            f"{os.cpu_count()} cores, {platform.machine()}; {versions}. All rows in one run; the best of several runs, "
            "files in the page cache.",
            "",
            "| what | who | result | note |",
            "|---|---|---|---|",
            *(f"| {line.what} | {line.who} | {line.value:.3g} {line.unit} | {line.note} |" for line in lines),
            "",
        ]
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows and write the document."""
    parser = argparse.ArgumentParser(
        prog="maqd bench events", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small inputs, one repeat")
    parser.add_argument("--only", help=f"rows, joined by commas, of: {', '.join(ROWS)}")
    parser.add_argument("--out", type=Path, help="document to write (default: docs/events-speed.md; none if quick)")
    options = parser.parse_args(arguments)
    names = options.only.split(",") if options.only else list(ROWS)
    for name in names:
        if name not in ROWS:
            raise unknown_name("row", name, ROWS)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            inside = Path(folder) / name
            inside.mkdir()
            for line in ROWS[name](Setting(options.quick, inside)):
                print(f"{line.what:34s} {line.who:22s} {line.value:10.3g} {line.unit} {line.note}", flush=True)
                lines.append(line)
    out = options.out or (None if options.quick or options.only else DOCUMENT)
    if out is not None:
        write_text(out, table(lines, options.quick))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MaqdError as error:
        sys.exit(f"events: {error}")
