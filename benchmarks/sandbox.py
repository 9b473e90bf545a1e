"""Sandbox runs a second against a bare subprocess: python -m benchmarks.sandbox [RUNS]."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from stages.sandbox import Asserts, Limits, options, probes, run_tests
from stages.sandbox.judge import run_program

CODE = "def f(x): return x + 1"
TESTS = Asserts(("assert f(1) == 2", "assert f(2) == 3", "assert f(3) == 4"))
THREADS = 2


def bare() -> None:
    """What an unprotected grader does: code and tests in one process, by exit code."""
    source = "\n".join([CODE, *TESTS.tests])
    interpreter = [os.path.realpath(sys.executable), "-I", "-S", "-c", source]
    assert subprocess.run(interpreter, capture_output=True).returncode == 0


def asserts(option: str) -> None:
    assert run_tests(CODE, TESTS, option=option).score == 1


def program(option: str) -> None:
    assert run_program("print(1)", "", Limits(), option, 10.0) == ("1\n", "")


def rate(run: Callable[[], None], runs: int) -> float:
    """Runs a second, THREADS at a time."""
    started = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(run) for _ in range(runs)]:
            done.result()
    return runs / (time.perf_counter() - started)


def main(runs: int) -> None:
    base = rate(bare, runs)
    print(f"{'':34}{'runs/s':>8}{'of bare':>9}\n{'bare subprocess':34}{base:8.1f}{1:9.2f}")
    for option in (options.BUBBLEWRAP, options.LANDLOCK):
        if reason := options.missing(option) or probes.failure(option):
            print(f"{option}: {reason}")
            continue
        for name, run in (("tests, two jails", asserts), ("program, one jail", program)):
            found = rate(partial(run, option), runs)
            print(f"{option + ': ' + name:34}{found:8.1f}{found / base:9.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
