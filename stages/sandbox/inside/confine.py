"""Locks this process in, for good. Order matters: every step takes a right that an earlier needs.

Source: prctl(2), capabilities(7), setrlimit(2).
"""

import ctypes
import os
import resource
import signal
import stat
import struct
from pathlib import Path

from . import landlock, seccomp

NOBODY = 65534
PRCTL, CAPSET = 157, 126
SET_DEATH_SIGNAL, KEEP_CAPABILITIES, NO_NEW_PRIVILEGES = 1, 8, 38
CAPABILITY_VERSION_3, READ_SEARCH = 0x20080522, 1 << 2


def confine(limits: dict, readable: list[str] | None) -> None:
    """`readable` are the Python runtime's paths for Landlock; None where bubblewrap hides files."""
    rules = None if readable is None else landlock.ruleset(readable)
    drop_user(keep_search=readable is not None and not all(map(reachable, readable)))
    prctl(NO_NEW_PRIVILEGES, 1)
    prctl(SET_DEATH_SIGNAL, signal.SIGKILL)  # a change of user clears it, so after that
    if rules is not None:
        landlock.restrict(rules)
    set_limits(limits)
    seccomp.restrict()


def prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    landlock.call(PRCTL, ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero)


def drop_user(keep_search: bool) -> None:
    """Root becomes nobody, without groups and capabilities; an ordinary user stays as it is.

    A Python under /root (mode 0700) would then find its own library no more. Under Landlock, which
    binds root as well, the right to pass folders may stay: it opens no file that the rules do not.
    """
    if os.geteuid():
        return
    if keep_search:
        prctl(KEEP_CAPABILITIES, 1)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    if keep_search:
        set_capabilities(READ_SEARCH)


def reachable(path: str) -> bool:
    """Whether everybody may pass the folders above a path."""
    folders = list(Path(os.path.realpath(path)).parents)
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in folders)


def set_capabilities(kept: int) -> None:
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    data = struct.pack("=6I", kept, kept, 0, 0, 0, 0)  # effective, permitted, inheritable; twice
    landlock.call(CAPSET, header, data)


def set_limits(limits: dict) -> None:
    memory = limits["memory_mib"] << 20
    for name, value in {
        "CPU": limits["cpu_seconds"],
        "AS": memory,
        "DATA": memory,
        "NOFILE": 32,
        "FSIZE": 0,
        "NPROC": 0,
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
    }.items():
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))
