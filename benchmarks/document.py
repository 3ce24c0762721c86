"""Tables of benchmarks in documents: what stands between two markers is replaced."""

from pathlib import Path

from maqd_snn.errors import MaqdError
from maqd_snn.files import write_text


def replace_between(path: Path, begin: str, end: str, text: str) -> None:
    """Write `text` between the lines `begin` and `end` of the document, atomically.

    Raises:
        MaqdError: the document does not hold each marker once.
    """
    old = path.read_text(encoding="utf-8")
    if old.count(begin) != 1 or old.count(end) != 1:
        raise MaqdError(f"{str(path)!r} has no place for the table: expected the lines {begin} and {end} once each")
    before, rest = old.split(begin)
    write_text(path, f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")
