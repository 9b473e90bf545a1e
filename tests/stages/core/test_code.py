"""The code of a completion and its tests, in the real sandbox."""

import pytest

from stages.answers.format import Format
from stages.core import code
from stages.core.code import normal, program
from stages.core.errors import UserError

FMT = Format()
ASSERTS = ["assert double(2) == 4", "assert double(0) == 0"]
RIGHT, WRONG = "def double(n): return 2 * n", "def double(n): return n * n + 1"


@pytest.mark.parametrize(
    ("completion", "wanted"),
    [
        (FMT.render("x = 1", "w"), "x = 1"),
        (FMT.render("first ```python\na\n``` then\n```\nb\n```", "w"), "b\n"),
        ("<think>w</think>\n```py\nc\n```\n", "c\n"),
        ("<think>```python\nnot this\n```</think> none", None),
        ("<answer>never ends", None),
        ("", None),
        (FMT.render("x = 1\n" * 1000, "w"), ("x = 1\n" * 1000).strip()),
        (FMT.render("x = 1\n" * 10_000, "w"), None),
    ],
)
def test_the_code_of_a_completion(completion, wanted):
    assert program(completion, FMT) == wanted


def test_code_without_answer_tags_is_the_last_fenced_block():
    fmt = Format("<think>", "</think>", "", "")
    assert program("<think>w</think>\n```python\nx\n```", fmt) == "x\n"
    assert program("<think>```\nx\n```", fmt) is None


@pytest.mark.parametrize(
    ("tests", "wanted"),
    [
        (ASSERTS, {"asserts": ASSERTS}),
        ([{"input": "1", "output": "2"}], {"inputs": ["1"], "outputs": ["2"]}),
        ({"inputs": ["1"], "outputs": ["2"], "asserts": None}, {"inputs": ["1"], "outputs": ["2"]}),
        ({"asserts": ["a"], "setup": "s", "inputs": None}, {"asserts": ["a"], "setup": "s"}),
    ],
)
def test_every_shape_of_tests_becomes_one(tests, wanted):
    assert normal(tests) == wanted


@pytest.mark.parametrize(
    "tests",
    [[], [1], [{"input": "1"}], ["assert True", {"input": ""}], {}, {"inputs": ["1"]}, "assert 1",
     {"inputs": ["1"], "outputs": []}, None],
)  # fmt: skip
def test_tests_of_no_known_shape_are_a_mistake(tests):
    with pytest.raises(UserError, match="tests of code are"):
        normal(tests)


def test_what_was_judged_is_not_run_again():
    jobs = [(RIGHT, ASSERTS), (WRONG, ASSERTS), (RIGHT, ASSERTS)]
    first = code.run(jobs)
    assert [v.score for v in first] == [1.0, 0.0, 1.0]
    assert all(a is b for a, b in zip(first, code.run(jobs), strict=True))


def test_a_bare_function_body_is_completed_by_its_prefix():
    prompt = 'def double(n):\n    """Twice n."""\n'
    tests = {"asserts": ASSERTS, "prefix": prompt, "entry_point": "double"}
    assert [v.score for v in code.run([("    return 2 * n", tests), (RIGHT, tests)])] == [1.0, 1.0]
