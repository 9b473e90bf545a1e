"""Runs model-written Python against unit tests; the code and the tests are taken to be hostile.

    >>> run_tests("def f(x): return x + 1", Asserts(("assert f(1) == 2", "assert f(1) == 3")))
    Verdict(passed=1, total=2, reason='AssertionError')

The candidate lives in a jail that answers calls with plain values. The tests live in another, where
the candidate's functions are proxies; this process relays bytes between the two and never parses
what the candidate sent. Linux on x86-64 only. Nothing of the rest of the project is imported.
"""

from stages.sandbox.judge import human_eval, run_many, run_tests
from stages.sandbox.limits import Asserts, Limits, Pairs, SandboxError, Verdict
from stages.sandbox.options import choose

__all__ = [
    "Asserts",
    "Limits",
    "Pairs",
    "SandboxError",
    "Verdict",
    "choose",
    "human_eval",
    "run_many",
    "run_tests",
]
