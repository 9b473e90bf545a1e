"""One grader for every kind of task."""

import pytest

from stages.answers.format import Format
from stages.core.errors import UserError
from stages.core.grade import flexible, grade, grades, kept, require_types

FMT = Format()
CODE = {
    "gold": "def f(n): return n",
    "tests": {"asserts": ["assert f(1) == 1", "assert f(2) == 2"]},
}


@pytest.mark.parametrize(
    ("row", "answer", "correct"),
    [
        ({"gold": "1,080"}, "$1080", True),
        ({"gold": "50"}, "50%", True),
        ({"gold": "50", "percent": "value"}, "50%", False),
        ({"gold": "0.5", "percent": "value"}, "50%", True),
        ({"gold": "B", "options": ["21", "22"]}, "22", True),
        ({"gold": "B", "options": ["21", "22"]}, "(b) 22", True),
        ({"gold": "B", "options": ["21", "22"]}, "21", False),
        ({"gold": "Zürich", "aliases": ["Turicum"]}, "the zurich", True),
        ({"gold": "Zürich", "aliases": ["Turicum"]}, "turicum", True),
        ({"gold": "Zürich", "aliases": []}, "Bern", False),
        (CODE, "def f(n): return n", True),
        (CODE, "def f(n): return 1", False),
        (CODE, "def f(n): return", False),
    ],
)
def test_what_the_row_holds_decides(row, answer, correct):
    verdict = grade(FMT.render(answer, "w"), row, FMT)
    assert verdict.correct is correct and verdict.compliant and verdict.answer == answer


def test_a_mixture_keeps_its_order():
    rows = [CODE, {"gold": "5", "tests": None}, CODE, {"gold": "6"}]
    texts = [FMT.render(a) for a in ("def f(n): return n", "5", "5", "5")]
    assert [g.correct for g in grades(texts, rows, FMT)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<think>w</think><answer>5</answer>", True),
        ("<think>5</think><answer>6</answer>", False),
        ("<think>w</think>so it is 5", True),
        (r"<think>w</think>\boxed{5} and 6", True),
        ("it is 6, then 5", True),
        ("it is 5, then 6", False),
        ("", False),
    ],
)
def test_the_flexible_verdict_looks_beyond_the_format(text, right):
    assert flexible(text, {"gold": "5"}, FMT) is right


def test_what_a_sample_is_judged_by_stays_with_it_but_for_long_tests_which_scoring_refuses():
    assert kept(CODE) == {"tests": CODE["tests"]}
    assert kept({"gold": "5", "percent": "unit", "options": None}) == {}
    long = kept({"gold": "", "tests": {"inputs": ["1\n" * 10_000], "outputs": ["1\n"]}})
    assert long == {"tests": "left out: 20,002 characters"}
    with pytest.raises(UserError, match='row 3: "tests" is'):
        require_types(long, "row 3")
