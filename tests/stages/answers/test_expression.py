import ast
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.answers.expression import legal, reaches, read

LEAF = st.integers(0, 99).map(str)
TREE = st.recursive(
    LEAF, lambda of: st.builds("({}{}{})".format, of, st.sampled_from("+-*/"), of), max_leaves=8
)


def exactly(node: ast.expr) -> Fraction:
    """The value by Python's own grammar."""
    if isinstance(node, ast.Constant):
        return Fraction(node.value)
    left, right = exactly(node.left), exactly(node.right)
    match node.op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
    return left / right


@given(st.lists(TREE, min_size=1, max_size=3), st.lists(st.sampled_from("+-*/"), min_size=2))
def test_its_value_is_that_of_pythons_grammar(parts, signs):
    text = parts[0] + "".join(a + b for a, b in zip(signs, parts[1:], strict=False))
    try:
        value = exactly(ast.parse(text, mode="eval").body)
    except ZeroDivisionError:
        value = None
    found = read(text)
    assert (found.value if found else None) == value


@given(st.text(max_size=250))
def test_any_text_is_read_or_is_none(text):
    found = read(text)
    assert found is None or found.numbers


@pytest.mark.parametrize("text", [
    "", " ", "+", "3+", "+3", "3 4", "(3", "3)", "()", "3()", "(3)(4)", "3**4", "3//4",
    "3.5", "3.5+1", "3,4", "a", "3+a", "1e3", "0x10", "__import__('os')", "1/0", "1/(2-2)",
    "3=4", "3=", "=3",
    "3+4=7=7", "1234567890123456", "+".join("1" * 40), "(" * 150 + "1" + ")" * 49,
    "1+1\x00", "\uff13+4",
])  # fmt: skip
def test_what_is_no_expression_over_numbers(text):
    assert read(text) is None


@pytest.mark.parametrize(("text", "value"), [
    ("25-18+15", 22), ("(25-18)+15", 22), (" ( 25 - 18 ) + 15 ", 22), ("2+3*4", 14), ("2-3-4", -5),
    ("8/4/2", 1), ("2*(3+4)", 14), ("(2+3)*4", 20), (r"2 \times 3", 6), (r"2\cdot3", 6),
    (r"\left(6 \div 4\right)", Fraction(3, 2)), ("$2\u00d73\u22121$", 5), ("(25-18)+15 = 22", 22),
    ("((7))", 7), ("-3+4", 1),    ("3+4 = 2+5", 7), ("1/3", Fraction(1, 3)),
])  # fmt: skip
def test_what_it_is_worth(text, value):
    assert read(text).value == value


def test_each_number_is_used_once():
    numbers = [18, 25, 15]
    assert legal("(25-18)+15", numbers) and legal("15*18*25", numbers)
    for other in ("25-18", "25-18+15+15", "22", "25-18+16", "2518-15", None, ""):
        assert not legal(other, numbers)
    assert legal("5+5-5", [5, 5, 5]) and not legal("5+5", [5, 5, 5])


def test_the_target_is_reached_exactly():
    numbers = [18, 25, 15]
    assert reaches("(25-18)+15", "15+(25-18)", numbers) and reaches("22", "25-18+15", numbers)
    assert not reaches("22", "25+18-15", numbers) and not reaches("22", "22", numbers)
    assert not reaches("no gold", "25-18+15", numbers)


@pytest.mark.parametrize("hostile", ["(" * 10_000, "1+" * 10_000, "9" * 10_000, "1/(1-1)/" * 9_000])
def test_long_text_is_not_looked_at(hostile):
    assert read(hostile) is None
