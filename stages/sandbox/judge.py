"""Runs a candidate against its tests: the parent between the two jails, a relay of bytes."""

import functools
import json
import subprocess
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from stages.sandbox import jail, options
from stages.sandbox.jail import Gone, JailFailed
from stages.sandbox.limits import Asserts, Limits, Pairs, Verdict

Tests = Asserts | Pairs
REASON = 300  # characters of a verdict's reason


def human_eval(test: str, entry_point: str, prompt: str = "") -> Asserts:
    """HumanEval's tests, one in all: `test` defines check(candidate).

    `prompt` gives the tests its helper functions (`poly`, `encode_cyclic`) in their own jail.
    """
    return Asserts((f"{test}\ncheck({entry_point})",), prompt, entry_point)


def run_many(
    jobs: Iterable[tuple[str, Tests]], limits: Limits | None = None, threads: int = 2
) -> list[Verdict]:
    """Verdicts of (code, tests) in their order, `threads` candidates at a time."""
    limits = limits or Limits()
    options.choose()
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda job: run_tests(*job, limits), jobs))


def run_tests(code: str, tests: Tests, limits: Limits | None = None, option: str = "") -> Verdict:
    """Counts the tests that a candidate passes. SandboxError where this machine has no jail."""
    limits, option = limits or Limits(), option or options.choose()
    total = len(tests.pairs if isinstance(tests, Pairs) else tests.tests)
    run = run_pairs if isinstance(tests, Pairs) else run_asserts
    try:
        passed, reason = run(code, tests, limits, option)
    except (JailFailed, OSError) as error:
        return Verdict(None, total, tidy(f"the sandbox failed: {error}"))
    return Verdict(passed, total, tidy(reason))


def tidy(reason: str) -> str:
    """Printable: what hostile code said may end up in a log."""
    return "".join(c if c.isprintable() else " " for c in reason[:REASON])


def run_asserts(code: str, tests: Asserts, limits: Limits, option: str) -> tuple[int, str]:
    """The tests' jail starts once the candidate has come through: broken code costs one jail."""
    start = functools.partial(options.command, option, limits=limits)
    with jail.jail(*start("candidate")) as candidate:
        jail.await_ready(candidate, limits)
        deadline = time.monotonic() + limits.wall_seconds
        try:
            jail.send(candidate, json.dumps({"code": code}).encode(), deadline)
            names = jail.receive(candidate, deadline, limits.output_bytes)
        except Gone as gone:
            return 0, f"the candidate: {gone}"
        left = deadline - time.monotonic()
        with jail.jail(*start("tests")) as judge:
            jail.await_ready(judge, limits)
            deadline = time.monotonic() + left
            order = {"setup": tests.setup, "entry_point": tests.entry_point, "tests": tests.tests}
            try:
                jail.send(judge, json.dumps(order).encode(), deadline)
                jail.send(judge, names, deadline)
            except Gone as gone:
                return 0, f"the tests: {gone}"
            return relay(candidate, judge, len(tests.tests), deadline, limits)


def relay(
    candidate: subprocess.Popen,
    judge: subprocess.Popen,
    total: int,
    deadline: float,
    limits: Limits,
) -> tuple[int, str]:
    """Passes calls and replies on until every test is decided, or the tests' jail is gone.

    A test's jail that dies (of the memory that a returned value takes, say) fails the rest: a
    candidate must not be able to turn its failure into a skipped sample.
    """
    passed, reason, gone = 0, "", ""
    while total:
        try:
            frame = jail.receive(judge, deadline, limits.output_bytes)
            if frame[:1] == b"C":
                gone, reply = exchange(candidate, frame[1:], gone, deadline, limits)
                jail.send(judge, reply, deadline)
                continue
        except Gone as end:
            return passed, reason or gone or f"the tests: {end}"
        total -= 1
        passed += frame == b"1"
        reason = reason or frame[1:].decode(errors="replace")
    return passed, reason


def exchange(
    candidate: subprocess.Popen, call: bytes, gone: str, deadline: float, limits: Limits
) -> tuple[str, bytes]:
    """Why the candidate is gone (empty: it is not), and the frame for the tests' jail."""
    try:
        if not gone:
            jail.send(candidate, call, deadline)
            return "", b"V" + jail.receive(candidate, deadline, limits.output_bytes)
    except Gone as end:
        gone = f"the candidate: {end}"
    return gone, b"G" + gone.encode()


def run_pairs(code: str, tests: Pairs, limits: Limits, option: str) -> tuple[int, str]:
    """Every pair in a jail of its own; they share the wall time."""
    passed, first, left = 0, "", limits.wall_seconds
    for number, (given, expected) in enumerate(tests.pairs, 1):
        started = time.monotonic()
        output, reason = run_program(code, given, limits, option, left)
        left = max(0.0, left - (time.monotonic() - started))
        if not reason and lines(output) != lines(expected):
            reason = "another output than expected"
        passed += not reason
        first = first or (reason and f"test {number}: {reason}")
    return passed, first


def run_program(
    code: str, given: str, limits: Limits, option: str, seconds: float
) -> tuple[str, str]:
    """Standard output, and why the run does not count (empty: it does)."""
    with jail.jail(*options.command(option, "program", limits)) as process:
        jail.await_ready(process, limits)
        deadline = time.monotonic() + seconds
        try:
            jail.send(process, json.dumps({"code": code}).encode(), deadline)
            output = jail.converse(
                process, given.encode(errors="replace"), deadline, limits.output_bytes
            )
        except Gone as gone:
            return "", str(gone)
        ended = jail.how_it_ended(process)
    return output.decode(errors="replace"), "" if process.returncode == 0 else ended


def lines(text: str) -> list[str]:
    """Trailing blanks and empty lines at the end do not count."""
    return [line.rstrip() for line in text.rstrip().splitlines()]
