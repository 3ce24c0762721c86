"""What a message advises, in the words of who reads it: readers name keywords of Python, a command its options."""

from collections.abc import Mapping

from maqd_snn.datasets.events.recording import EventFileError

SKIP, KEEP, LIMIT, LAZILY = "skip_damaged=True", "unordered=True", "max_bytes", "stream_events"


def reworded(error: EventFileError, words: Mapping[str, str]) -> EventFileError:
    """Return the error with each of the keywords above as `words` has it; advice that names another one is left out.

    >>> from pathlib import Path
    >>> error = EventFileError(Path("a"), "time runs backwards; skip_damaged=True drops such events, unordered=True no")
    >>> print(reworded(error, {SKIP: "--skip-damaged"}))
    'a': time runs backwards; --skip-damaged drops such events
    """
    reason, *advice = error.reason.split("; ")
    clauses = [", ".join(_kept(clause.split(", "), words)) for clause in advice]
    text = "; ".join([reason, *(clause.removeprefix("or ") for clause in clauses if clause)])
    return EventFileError(error.path, text, error.offset)


def _kept(pieces: list[str], words: Mapping[str, str]) -> list[str]:
    kept = []
    for piece in pieces:
        named = [keyword for keyword in (SKIP, KEEP, LIMIT, LAZILY) if keyword in piece]
        if all(keyword in words for keyword in named):
            for keyword in named:
                piece = piece.replace(keyword, words[keyword])
            kept.append(piece)
    return kept
