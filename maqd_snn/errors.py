"""The library's own exceptions: each says what was expected, what came and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class MaqdError(ValueError):
    """An input that the library cannot work with; the command line prints it as one sentence and exits with code 2."""


class MissingExtraError(MaqdError, ImportError):
    """An optional package is not installed; the message names the extra to install."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}; install it with: pip install 'maqd-snn[{extra}]'")


class MissingToolError(MissingExtraError):
    """A program that no extra installs is not on this machine; the message says what to do."""

    def __init__(self, message: str) -> None:
        MaqdError.__init__(self, message)


def unknown_name(kind: str, name: object, choices: Iterable[str]) -> MaqdError:
    """Return the error for a failed look-up: it lists the choices, the likeliest one first.

    >>> print(unknown_name("dataset", "cifar", ["digits", "cifar10"]))
    unknown dataset 'cifar', did you mean 'cifar10'? The choices are: cifar10, digits
    """
    names = sorted(choices)
    near = get_close_matches(str(name), names, n=1)
    hint = f", did you mean {near[0]!r}? The" if near else "; the"
    return MaqdError(f"unknown {kind} {name!r}{hint} choices are: {', '.join(names)}")
