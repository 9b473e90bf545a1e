"""What a sandbox run may use, and what it returns."""

from dataclasses import dataclass


class SandboxError(Exception):
    """No jail can be built on this machine; the message is one sentence that says why."""


@dataclass(frozen=True)
class Limits:
    """Limits of one jail. A candidate and its tests have a jail each, with the same limits."""

    cpu_seconds: int = 5  # processor time of one process
    wall_seconds: float = 10.0  # all the tests of one candidate, without the jails' start
    memory_mib: int = 512  # address space, the interpreter's own 20 to 30 MiB included
    output_bytes: int = 1 << 20  # one message (arguments, returned value), or a program's output
    start_seconds: float = 30.0  # a jail that takes longer to start is an infrastructure failure


@dataclass(frozen=True)
class Asserts:
    """Tests in Python; each string is one test, passed when it runs through.

    `setup` is trusted more than the candidate and runs before the tests, in their jail: imports, or
    the prompt with its helper functions. What it defines hides the candidate's functions of the
    same name, so that a candidate cannot bend a helper; `entry_point` alone is always the
    candidate's, even where it is named like a builtin (`sum`).
    """

    tests: tuple[str, ...]
    setup: str = ""
    entry_point: str = ""


@dataclass(frozen=True)
class Pairs:
    """Programs' tests: (standard input, expected standard output)."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Verdict:
    """How many tests passed; `passed` is None where the sandbox itself failed."""

    passed: int | None
    total: int
    reason: str = ""  # of the first failed test, or of the sandbox's failure

    @property
    def score(self) -> float | None:
        """passed / total. None, for a sample to skip: the sandbox failed, or there is no test."""
        return None if self.passed is None or not self.total else self.passed / self.total
