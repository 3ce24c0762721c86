"""Who works on a trial, and whether that process is gone for certain.

A process is known by its machine's boot, its process namespace, its number and when it started: whoever sees the same
boot and namespace can tell at once that it is gone. Others go by its heartbeat.
"""

import os
import socket
from pathlib import Path

UNKNOWN = ""


def this_process() -> str:
    """Return the name of this process."""
    return f"{socket.gethostname()} {_place()} {os.getpid()} {_started(os.getpid())}"


def host_of(owner: str) -> str:
    """Return the machine's name in the name of a process.

    >>> host_of("node7 abc/pid:[1] 12 99")
    'node7'
    """
    return owner.split(" ", 1)[0]


def certainly_gone(owner: str) -> bool:
    """Return whether the process ran here and runs no more; False where this machine cannot tell.

    >>> certainly_gone(this_process()), certainly_gone("elsewhere x/y 1 1"), certainly_gone("")
    (False, False, False)
    """
    parts = owner.split(" ")
    if len(parts) != 4 or parts[1] != _place() or parts[1] == UNKNOWN or not parts[2].isdecimal():
        return False
    return _started(int(parts[2])) != parts[3]


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return UNKNOWN


def _started(number: int) -> str:
    """Return when a process started, in ticks since the boot; a zombie is gone."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return UNKNOWN
    return UNKNOWN if fields[0] in "ZX" else fields[19]
