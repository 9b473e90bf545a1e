import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.answers.format import Format
from stages.rewards.text import MAX_CHARS, equations, numbers, value, working


@given(st.text())
def test_any_text_is_read_without_error(content):
    assert all(isinstance(n, Fraction) for n in numbers(content))
    assert all(isinstance(right, Fraction) for _, right in equations(content))
    assert value(content) is None or isinstance(value(content), Fraction)


@given(st.integers(-999, 999), st.integers(-999, 999), st.sampled_from("+-*"))
def test_a_term_has_its_exact_value(a, b, operator):
    wanted = {"+": a + b, "-": a - b, "*": a * b}[operator]
    assert value(f"{a} {operator} ({b})") == wanted


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [("2*(3+4)", 14), ("12/8", Fraction(3, 2)), ("-3--4", 1), ("0.1+0.2", Fraction(3, 10)),
     ("1/0", None), ("2**9", None), ("9^9", None), ("(1", None), ("", None), ("1 2", None),
     ("__import__('os')", None), ("(" * 500, None)],
)  # fmt: skip
def test_value(expression, wanted):
    assert value(expression) == wanted


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("12+4=16\n16-3=13", [(16, 16), (13, 13)]),
        ("She has 3 \u00d7 $4 = $12 now.", [(12, 12)]),
        ("48/2 = <<48/2=24>>24 clips", [(24, 24)]),
        ("1,000 + 1 = 1,001", [(1001, 1001)]),
        ("2+2=5", [(4, 5)]),
        ("x = 5 and y=z", []),
        ("1. 3+4=7\n2. 7+2=9", [(7, 7), (9, 9)]),
        ("1) 3+4=7\n 10) 7+2=9", [(7, 7), (9, 9)]),
        ("- 3+4=7\n* 7+2=9", [(7, 7), (9, 9)]),
        ("3+4 = **7**\n**7+2** = 9\n**9-(1) = 8**", [(7, 7), (9, 9), (8, 8)]),
        ("He has 3 (3+4=7), then 2 ((1+1)=2)", [(7, 7), (2, 2)]),
        ("On day 2 3+4=7, on day 3. 7+2=9", [(7, 7), (9, 9)]),
        ("-3+4=1", [(1, 1)]),
        ("1. 3+4=8, on day 2 3+4=6", [(7, 8), (7, 6)]),
        ("2**3=3, 2 ** 3 = 3, 1/0+3=3, 5*(3=3, 2+ 3=3", [(None, 3)] * 4 + [(5, 3)]),
        ("12 16 13", []),
    ],
)
def test_equations(content, wanted):
    assert list(equations(content)) == wanted


def test_numbers_inside_words_are_none():
    assert numbers("Room B12 has 1,200 seats, 3.5 m, -4 °C and v2.") == [1200, Fraction(7, 2), -4]


def test_the_working_ends_where_the_answer_begins():
    fmt = Format()
    assert working("<think>1+1=2</think><answer>2</answer>", fmt) == "1+1=2"
    assert working("1+1=2 <answer>2</answer>", fmt) == "1+1=2 "
    assert working("<think>never ends", fmt) == "never ends"


def test_a_huge_completion_costs_no_more_than_its_head():
    hostile = "1+" * 500_000 + "=" + "(" * 500_000
    assert len(list(equations(hostile))) < MAX_CHARS
    assert len(numbers("1 " * 500_000)) <= MAX_CHARS
    for line in ("1 " * 40 + "=1\n", "(" * 80 + "=1\n", "\n", " \t", "**", "1. "):
        began = time.perf_counter()
        assert len(list(equations(line * 20_000))) < MAX_CHARS
        assert time.perf_counter() - began < 2, line
