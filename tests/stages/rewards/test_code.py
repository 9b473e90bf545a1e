"""The share of tests passed, in the real sandbox."""

import pytest

from stages.answers.format import Format
from stages.core.errors import UserError
from stages.rewards.code import unit_tests

FMT = Format()
ASSERTS = ["assert double(2) == 4", "assert double(0) == 0", "assert double(-1) == -2"]
ECHO = [{"input": "3\n", "output": "6\n"}, {"input": "0\n", "output": "0\n"}]


def fenced(source: str) -> str:
    return FMT.render(f"```python\n{source}\n```", "Easy.")


def score(*completions, tests, **options):
    return unit_tests(list(completions), tests=[tests] * len(completions), fmt=FMT, **options)


def test_the_share_of_asserts_that_pass():
    right, half, broken = "return 2 * n", "return n * n", "return ("
    completions = [fenced(f"def double(n):\n    {body}") for body in (right, half, broken)]
    assert score(*completions, tests=ASSERTS) == [1.0, pytest.approx(2 / 3), 0.0]
    assert score(*completions, tests=ASSERTS, strict=True) == [1.0, 0.0, 0.0]
    assert score("no code", "", FMT.render("", "w"), tests=ASSERTS) == [0.0, 0.0, 0.0]


def test_programs_that_read_and_print():
    right, wrong = "print(2 * int(input()))", "print(int(input()))"
    assert score(fenced(right), fenced(wrong), tests=ECHO) == [1.0, 0.5]


@pytest.mark.parametrize(
    "source",
    [
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "class Any:\n    def __eq__(self, other): return True\ndef double(n): return Any()",
        "def double(n):\n    while True: pass",
    ],
)
def test_cheating_earns_nothing(source):
    assert score(fenced(source), tests=ASSERTS, seconds=3) == [0.0]


def test_rows_without_tests_in_a_mixture_cannot_be_judged():
    columns = {"tests": [{"asserts": ASSERTS, "inputs": None}, None], "fmt": FMT}
    right = fenced("def double(n): return 2 * n")
    assert unit_tests([right, right], **columns) == [1.0, None]


def test_no_tests_at_all_is_a_mistake():
    for tests in (None, [None], [[]]):
        with pytest.raises(UserError, match='needs a column "tests"'):
            unit_tests([""], fmt=FMT, tests=tests)
