"""Reading the old pickles of a dataset as plain data, with no way to run anything that is in them.

A pickle is a program. The standard unpickler, however narrowed, still calls what it is given, fills a memo as large as
the file says, and hashes what the file nests. The few opcodes that the official files use need none of this: here they
only push data. A call in the file (`GLOBAL`, `REDUCE`, `BUILD`) becomes a record of its names and arguments, for the
reader to compare with what the format has.
"""

import os
import pickletools
import warnings
from dataclasses import dataclass
from typing import Any

from maqd_snn.errors import MaqdError


@dataclass(frozen=True)
class Global:
    """A name that the file mentions, such as `numpy ndarray`: only the name, nothing is imported."""

    name: str


@dataclass
class Call:
    """A call that the file asks for and that is never made; `state` is what the file would set on the result."""

    function: Any
    arguments: Any
    state: Any = None


def read_inert(data: bytes, path: str | os.PathLike[str]) -> Any:
    """Return what the Python 2 pickle `data` describes: dict, list, tuple, str (latin-1), int, bool, None, `Call`.

    Args:
        data: the whole pickle.
        path: where it is from, for the messages.

    Raises:
        MaqdError: an opcode that the datasets do not use, a program that does not work out, or bytes behind its end.

    >>> read_inert(b"}U\\x01aK\\x07s.", "demo")
    {'a': 7}
    >>> read_inert(b"cos\\nsystem\\nU\\x04evil\\x85R.", "demo")
    Call(function=Global(name='os system'), arguments=('evil',), state=None)
    """
    try:
        # pickletools warns of odd escapes in a damaged name, which no comparison will take anyway
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            return _run(data)
    except (ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise MaqdError(f"{str(path)!r} is no pickle of plain data ({error}); get the official file") from error


def _run(data: bytes) -> Any:
    stack: list[Any] = []
    marked: list[list[Any]] = []
    memo: dict[int, Any] = {}
    argument: Any
    position: Any
    for opcode, argument, position in pickletools.genops(data):
        match opcode.name:
            case "PROTO":
                pass
            case "MARK":
                marked.append(stack)
                stack = []
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "SHORT_BINSTRING" | "BINSTRING" | "BININT" | "BININT1" | "BININT2":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE":
                items, stack = stack, marked.pop()
                stack.append(tuple(items))
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items, stack = stack, marked.pop()
                stack[-1].extend(items)
            case "SETITEM":
                _set_items(stack[-3], stack[-2:])
                del stack[-2:]
            case "SETITEMS":
                items, stack = stack, marked.pop()
                _set_items(stack[-1], items)
            case "GLOBAL":
                stack.append(Global(argument))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(Call(stack.pop(), arguments))
            case "BUILD":
                state = stack.pop()
                stack[-1].state = state
            case "STOP":
                break
            case name:
                raise ValueError(f"unexpected {name} at byte {position}")
    if position + 1 != len(data):
        raise ValueError(f"{len(data) - position - 1} bytes behind its end")
    return stack.pop()


def _set_items(target: Any, items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str):  # hashing a deeply nested key could take for ever
            raise TypeError(f"expected a str as key, got {type(key).__name__}")
        target[key] = value
