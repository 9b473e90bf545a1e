"""A list of the system calls that a computing Python needs; every other fails with EPERM.

A list of what is allowed needs no upkeep when a kernel gains a new way out (io_uring came thus).
Not on it, among others: sockets, fork and threads, execve, kill, ptrace, namespaces, mount, bpf,
keyctl, perf, io_uring, pipes, memfd, setsid, chmod, prlimit of others.
Source: seccomp(2), https://docs.kernel.org/userspace-api/seccomp_filter.html, unistd_64.h.
"""

import ctypes
import struct

from .landlock import call

SECCOMP, SET_MODE_FILTER = 317, 1
X86_64 = 0xC000003E  # AUDIT_ARCH_X86_64; x32 calls carry bit 30 and so match no number below
CLONE3, PRLIMIT, FCNTL, IOCTL = 435, 302, 72, 16

# File descriptors and files; Landlock or the mounts say which files.
FILES = (
    *(0, 1, 2, 3, 4, 5, 6, 7, 8),  # read write open close stat fstat lstat poll lseek
    *(17, 18, 19, 20, 21, 23),  # pread64 pwrite64 readv writev access select
    *(32, 33, 292, 78, 217, 79, 89),  # dup dup2 dup3 getdents getdents64 getcwd readlink
    *(257, 262, 267, 269, 439, 332),  # openat newfstatat readlinkat faccessat faccessat2 statx
    *(270, 271, 221, 295, 95),  # pselect6 ppoll fadvise64 preadv umask
)
MEMORY = (9, 10, 11, 12, 25, 28)  # mmap mprotect munmap brk mremap madvise
SIGNALS = (13, 14, 15, 127, 131, 219)  # rt_sig{action,procmask,return,pending} sigaltstack restart
TIME = (35, 36, 37, 38, 96, 100, 201, 228, 229, 230)  # sleeps, timers, clocks
SELF = (
    *(24, 39, 60, 63, 97, 98, 99),  # sched_yield getpid exit uname getrlimit getrusage sysinfo
    *(102, 104, 107, 108, 110, 111, 115, 118, 120, 121, 124),  # get{uid,gid,...,pgid,sid}
    *(186, 202, 204, 231, 273, 309, 318, 334),  # gettid futex sched_getaffinity exit_group ...
)
ALLOWED = (*FILES, *MEMORY, *SIGNALS, *TIME, *SELF)

# F_SETOWN would direct signals at others, F_SETPIPE_SZ takes memory that no limit counts.
FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)  # F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_DUPFD_CLOEXEC
IOCTL_COMMANDS = (0x5401, 0x5413, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONCLEX FIOCLEX

LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data; argument i is at 16 + 8 * i
ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x00050001, 0x00050026  # SECCOMP_RET_ERRNO with 1 and 38


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def answer(number: int, result: int) -> list[bytes]:
    """One system call's fixed result."""
    return [step(EQUAL, number, 0, 1), step(RETURN, result)]


def if_argument(number: int, index: int, values: tuple[int, ...]) -> list[bytes]:
    """Allows a system call where the lower half of an argument is among these values."""
    body = [step(LOAD, 16 + 8 * index)]
    for value in values:
        body += answer(value, ALLOW)
    body.append(step(RETURN, EPERM))
    return [step(EQUAL, number, 0, len(body)), *body]


def read_only_prlimit() -> list[bytes]:
    """prlimit64 with a null pointer for the new limit: both halves of argument 2 are zero."""
    body = [
        *(step(LOAD, 32), step(EQUAL, 0, 0, 3), step(LOAD, 36)),
        *(step(EQUAL, 0, 0, 1), step(RETURN, ALLOW), step(RETURN, EPERM)),
    ]
    return [step(EQUAL, PRLIMIT, 0, len(body)), *body]


def program() -> bytes:
    lines = [step(LOAD, ARCHITECTURE), step(EQUAL, X86_64, 1, 0), step(RETURN, KILL)]
    lines.append(step(LOAD, NUMBER))
    for number in ALLOWED:
        lines += answer(number, ALLOW)
    lines += answer(CLONE3, ENOSYS)  # glibc then tries clone, which gets EPERM
    lines += if_argument(FCNTL, 1, FCNTL_COMMANDS)
    lines += if_argument(IOCTL, 1, IOCTL_COMMANDS)
    lines += read_only_prlimit()
    return b"".join([*lines, step(RETURN, EPERM)])


def restrict() -> None:
    """Puts this thread under the filter for good; needs `no_new_privs`."""
    code = program()
    rules = Program(len(code) // 8, code)
    call(SECCOMP, ctypes.c_uint(SET_MODE_FILTER), ctypes.c_uint(0), ctypes.byref(rules))
