"""The share of tests passed, in the real sandbox."""

import pytest

from stages.answers.format import Format
from stages.core.errors import UserError
from stages.rewards.code import as_tests, code, unit_tests

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


@pytest.mark.parametrize(
    ("completion", "wanted"),
    [
        (FMT.render("x = 1", "w"), "x = 1"),
        (FMT.render("first ```python\na\n``` then\n```\nb\n```", "w"), "b\n"),
        ("<think>w</think>\n```py\nc\n```\n", "c\n"),
        ("<think>```python\nnot this\n```</think> none", None),
        ("<answer>never ends", None),
        ("", None),
    ],
)
def test_the_code_of_a_completion(completion, wanted):
    assert code(completion, FMT) == wanted


@pytest.mark.parametrize("tests", [[], [1], [{"input": "1"}], ["assert True", {"input": ""}]])
def test_a_row_without_tests_is_a_mistake(tests):
    with pytest.raises(UserError, match='needs a column "tests"'):
        as_tests(tests)
