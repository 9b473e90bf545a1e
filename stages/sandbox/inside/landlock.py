"""Landlock by ctypes: no file but the named ones, no TCP, no signal or abstract socket outside.

Source: https://docs.kernel.org/userspace-api/landlock.html and linux/landlock.h.
"""

import ctypes
import os
from collections.abc import Iterable

NEEDED = 6  # the first ABI that scopes signals and abstract Unix sockets

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
VERSION_FLAG, PATH_BENEATH = 1, 1
WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
ALL_FILE_RIGHTS = (1 << 16) - 1  # ABI 5: up to LANDLOCK_ACCESS_FS_IOCTL_DEV
ALL_TCP_RIGHTS = 3  # ABI 4: bind and connect
ALL_SCOPES = 3  # ABI 6: abstract Unix sockets and signals

libc = ctypes.CDLL(None, use_errno=True)


class Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class Path(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("fd", ctypes.c_int32))


def call(number: int, *arguments: object) -> int:
    """A system call's result; OSError where it fails."""
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"system call {number}: {os.strerror(error)}")
    return result


def abi() -> int:
    """The kernel's Landlock version; 0 where Landlock is missing or switched off."""
    try:
        return call(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(VERSION_FLAG))
    except OSError:
        return 0


def ruleset(readable: Iterable[str]) -> int:
    """A descriptor for `restrict`: these files and folders can be read, /dev/null written."""
    rules = Ruleset(ALL_FILE_RIGHTS, ALL_TCP_RIGHTS, ALL_SCOPES)
    size = ctypes.c_size_t(ctypes.sizeof(rules))
    fd = call(CREATE_RULESET, ctypes.byref(rules), size, ctypes.c_uint32(0))
    for path in readable:
        allow(fd, path, READ_FILE | (READ_DIR if os.path.isdir(path) else 0))
    allow(fd, "/dev/null", READ_FILE | WRITE_FILE)
    return fd


def allow(fd: int, path: str, rights: int) -> None:
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = Path(rights, beneath)
    call(ADD_RULE, fd, ctypes.c_int(PATH_BENEATH), ctypes.byref(rule), ctypes.c_uint32(0))
    os.close(beneath)


def restrict(fd: int) -> None:
    """Puts this thread under the rules for good; needs `no_new_privs`."""
    call(RESTRICT_SELF, fd, ctypes.c_uint32(0))
    os.close(fd)
