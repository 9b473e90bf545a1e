"""What counts as passed, failed and neither, in real jails."""

import json
import time
from pathlib import Path

import pytest

from stages.sandbox import Asserts, Limits, Pairs, Verdict, choose, human_eval, run_many, run_tests
from stages.sandbox.judge import run_program

SHORT = Limits(cpu_seconds=1, wall_seconds=3.0)


def passed(code: str, *tests: str, **options: str) -> int | None:
    return run_tests(code, Asserts(tests, **options)).passed


def test_counts():
    verdict = run_tests("def f(x): return x + 1", Asserts(("assert f(1) == 2", "assert f(1) == 3")))
    assert verdict == Verdict(1, 2, "AssertionError")
    assert verdict.score == 0.5


def test_no_test_is_no_score():
    assert run_tests("x = 1", Asserts(())).score is None


@pytest.mark.parametrize(
    "value",
    [
        "(1, [2])",
        "{1: (2,)}",
        "{1, 2}",
        "b'x'",
        "1 + 2j",
        "10**50",
        "float('inf')",
        "None",
        "range(3)",
    ],
)
def test_values_keep_their_types(value: str):
    test = f"x = f(); assert x == {value} and type(x) is type({value})"
    assert passed(f"def f(): return {value}", test) == 1


def test_arguments_reach_the_candidate():
    code = "def f(a, *b, c=0, **d): return [a, b, c, d]"
    assert passed(code, "assert f((1,), 2, c={3}, e=4) == [(1,), (2,), {3}, {'e': 4}]") == 1


def test_arguments_changed_in_place():
    code = "def f(a, b, c): a.sort(); b[1] = 2; c.add(3)"
    assert passed(code, "a, b, c = [2, 1], {}, set(); f(a, b, c)\nassert (a, b, c) == ([1, 2], {1: 2}, {3})") == 1  # fmt: skip  # noqa: E501


def test_keyword_arguments_changed_in_place():
    code = "def f(n, xs=None, **more): xs.sort(); more['seen'].add(n)"
    test = "xs, seen = [2, 1], set(); f(3, seen=seen, xs=xs)\nassert (xs, seen) == ([1, 2], {3})"
    assert passed(code, test) == 1


def test_generator_stays_one():
    assert passed("def f(): yield from (1, 2)", "assert list(f()) == [1, 2]", "assert f() != [1, 2]") == 2  # fmt: skip  # noqa: E501


def test_exceptions_reach_the_tests():
    code = """
class Mine(ValueError): pass
def f(x):
    if x: raise Mine('odd', x)
    return {}[x]
"""
    value = "try: f(1)\nexcept ValueError as e: assert e.args == ('odd', 1)\nelse: assert False"
    key = "try: f(0)\nexcept KeyError as e: assert e.args == (0,)\nelse: assert False"
    assert passed(code, value, key, "f(1)") == 2


def test_unanswered_call_fails_even_where_a_test_swallows_it():
    code = "import os\ndef f(x): return print\ndef g(x): os._exit(0)"
    swallow = "try: {}(1)\nexcept: pass"
    assert passed(code, swallow.format("f"), swallow.format("g"), "f(print)", "pass") == 1


def test_state_of_the_candidate_stays():
    code = "n = 0\ndef f():\n    global n\n    n += 1\n    return n"
    assert passed(code, "assert f() == 1", "assert f() == 2") == 2


def test_one_test_does_not_see_anothers_names():
    assert passed("", "x = 1", "x") == 1


def test_main_block_does_not_run():
    assert passed("def f(): return 1\nif __name__ == '__main__': input()", "assert f() == 1") == 1


def test_helper_of_the_setup_is_not_the_candidates():
    code = "def poly(x): return 0\ndef solve(): return 1"
    setup = "def poly(x): return x * x - 4\ndef solve(): ..."
    test = "assert poly(solve()) == 0"
    assert passed(code, test) == 1
    assert passed(code, test, setup=setup, entry_point="solve") == 0


def test_entry_point_may_be_named_like_a_builtin():
    assert passed("def sum(a, b): return a * b", "assert sum(2, 3) == 6") == 0
    assert passed("def sum(a, b): return a * b", "assert sum(2, 3) == 6", entry_point="sum") == 1


def test_dataclasses_and_imports():
    code = """
from dataclasses import dataclass
from collections import Counter, namedtuple
import math, re, heapq, itertools, functools, typing, datetime, decimal, random
@dataclass
class Point: x: int
def f(x): return Point(x).x
def g(): return Counter('aab')
@functools.cache
def h(x): return namedtuple('P', 'a b')(x, 2)
"""
    tests = ("assert f(1) == 1", "assert g() == {'a': 2, 'b': 1}", "assert h(1) == (1, 2)")
    assert passed(code, *tests) == 3


def test_tests_are_jailed_too():
    outside = "open('/etc/passwd')"
    assert passed("", outside, "import os; os.fork()", "import sys; sys.exit(0)", "pass") == 1


def test_tests_that_die_or_hang_fail_the_rest():
    assert passed("", "pass", "import os; os._exit(0)", "pass") == 1
    verdict = run_tests("", Asserts(("pass", "while True: pass", "pass")), SHORT)
    assert verdict == Verdict(1, 3, "the tests: out of processor time")


def test_wall_time():
    started = time.monotonic()
    code = "import time\ndef f(): time.sleep(60)"
    verdict = run_tests(code, Asserts(("pass", "f()", "f()")), Limits(wall_seconds=1.0))
    assert verdict == Verdict(1, 3, "the candidate: out of wall time")
    assert time.monotonic() - started < 20


def test_pairs():
    code = "a, b = map(int, input().split())\nprint(a // b)"
    pairs = Pairs((("6 3\n", "2"), ("7 2\n", "3\n\n"), ("1 0\n", ""), ("4 2\n", "3\n")))
    verdict = run_tests(code, pairs)
    assert verdict == Verdict(2, 4, "test 3: it ended with exit code 1")


@pytest.mark.parametrize("leave", ["exit", "quit", "import sys; sys.exit"])
def test_a_program_may_end_early(leave):
    code = f"print(input())\n{leave}({{}})\nprint(0)"
    pairs = Pairs((("2\n", "2"),))
    assert run_tests(code.format(""), pairs) == Verdict(1, 1, "")
    assert run_tests(code.format(1), pairs) == Verdict(0, 1, "test 1: it ended with exit code 1")


@pytest.mark.parametrize("code", ["exit()", "def f(): exit()", "def f(): raise SystemExit"])
def test_a_function_that_ends_the_program_passes_nothing(code):
    assert passed(code, "f()", "try: f()\nexcept SystemExit: pass") == 0


def test_pairs_with_much_input_and_output():
    text = "".join(f"{number}\n" for number in range(50_000))
    code = "import sys\nfor line in sys.stdin: print(line, end='')"
    assert run_tests(code, Pairs(((text, text),))).score == 1
    assert run_tests("print('x')", Pairs(((text, "x"),))).score == 1  # it reads nothing


def test_pairs_share_the_wall_time():
    verdict = run_tests("import time; time.sleep(60)", Pairs((("", ""),) * 5), SHORT)
    assert verdict == Verdict(0, 5, "test 1: out of wall time")


def test_order_of_sets_is_the_same_on_every_run():
    code = "print(list({str(i) for i in range(20)}))"
    runs = {run_program(code, "", Limits(), choose(), 10.0) for _ in range(3)}
    assert len(runs) == 1 and all(output for output, _ in runs)


def test_many_at_once():
    right, wrong = "def f(x): return x + 1", "def f(x): return x"
    jobs = [(right if i % 3 else wrong, Asserts((f"assert f({i}) == {i + 1}",))) for i in range(12)]
    verdicts = run_many(jobs, threads=3)
    assert [verdict.passed for verdict in verdicts] == [int(bool(i % 3)) for i in range(12)]


def test_failed_infrastructure_is_none():
    late = Limits(start_seconds=0.0)  # no jail starts in no time
    verdict = run_tests("def f(): return 1", Asserts(("assert f() == 1",)), late)
    assert verdict.passed is None and verdict.score is None
    assert verdict.reason.startswith("the sandbox failed:")
    assert run_tests("", Pairs((("", ""),)), late).score is None


@pytest.mark.parametrize("option", ["bubblewrap", "landlock"])
def test_references_of_human_eval_pass(real_data: Path, option: str):
    available(option)
    rows = read_human_eval(real_data)
    jobs = [(row["prompt"] + row["canonical_solution"], human_eval_of(row)) for row in rows]
    verdicts = [run_tests(*job, option=option) for job in jobs]
    failed = [(r["task_id"], v) for r, v in zip(rows, verdicts, strict=True) if v.score != 1]
    assert len(rows) == 164 and failed == []


def test_empty_solutions_of_human_eval_fail(real_data: Path):
    rows = read_human_eval(real_data)
    jobs = [(row["prompt"] + "    return None\n", human_eval_of(row)) for row in rows]
    assert {verdict.score for verdict in run_many(jobs)} == {0.0}


def human_eval_of(row: dict) -> Asserts:
    return human_eval(row["test"], row["entry_point"], row["prompt"])


def read_human_eval(real_data: Path) -> list[dict]:
    lines = (real_data / "humaneval" / "HumanEval.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def available(option: str) -> None:
    from stages.sandbox import options, probes

    if reason := options.missing(option) or probes.failure(option):
        pytest.skip(f"{option}: {reason}")
