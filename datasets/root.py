"""Where the datasets lie."""

import os
from pathlib import Path

import pooch

from maqd_snn.errors import MaqdError

ROOT_VARIABLE = "MAQD_DATA_ROOT"


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds the datasets: `root`, else `$MAQD_DATA_ROOT`, else the user's cache folder.

    >>> data_root("data").as_posix()
    'data'
    """
    return Path(root or os.environ.get(ROOT_VARIABLE) or pooch.os_cache("maqd-snn")).expanduser()


def not_found(name: str, root: Path, expected: str, hint: str = "", source: str | None = None) -> MaqdError:
    """Return the error for a dataset whose files are not under `root`; `expected` says what should be there.

    `source` is where people get what cannot be fetched.
    """
    by_hand = f"put {expected} there, or name another data root (argument root, environment variable {ROOT_VARIABLE})"
    fetch = (
        "or fetch it with download=True (--download)" if source is None else f"it cannot be fetched, but is {source}"
    )
    return MaqdError(f"dataset {name!r} is not under {str(root)!r}{hint}: {by_hand}; {fetch}")
