"""What benchmarks read and write: tables between two markers of a document, JSON files, when and where they ran."""

import json
from datetime import date
from pathlib import Path
from typing import Any

from maqd_snn.errors import MaqdError
from maqd_snn.files import write_text
from maqd_snn.runs import machine


def around(path: Path, begin: str, end: str) -> tuple[str, str]:
    """Return what stands before the line `begin` and behind the line `end` of the document.

    Raises:
        MaqdError: the document does not hold each marker once.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1:
        raise MaqdError(f"{str(path)!r} has no place for the table: expected the lines {begin} and {end} in it")
    before, rest = text.split(begin)
    return before, rest.split(end)[1]


def replace_between(path: Path, begin: str, end: str, text: str) -> None:
    """Write `text` between the lines `begin` and `end` of the document, atomically; raises as `around` does."""
    before, after = around(path, begin, end)
    write_text(path, f"{before}{begin}\n{text}\n{end}{after}")


def when() -> str:
    """Return the day, the machine and its threads, for a table's head."""
    where = machine()
    return f"{date.today()}, {where['system']}, {where['threads']} threads, torch {where['torch']}."


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        MaqdError: it is no JSON text.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise MaqdError(
            f"{str(path)!r} is damaged: it is no JSON text ({error}); mend it, or remove it to begin anew"
        ) from error
