r"""Arithmetic expressions over plain numbers: worked out term by term, never run as code."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_LENGTH = 200  # characters of an answer
SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "$": " "})  # noqa: RUF001
_TOKEN = re.compile(r"\s*(?:(\d{1,15}(?:\.\d{1,9})?)|([-+*/()]))", re.ASCII)
_LATEX = re.compile(r"\\(times|cdot|div|left|right)(?![A-Za-z])")
_MEANING = {"times": "*", "cdot": "*", "div": "/", "left": "", "right": ""}


@dataclass(frozen=True)
class Expression:
    """Its exact value and the numbers in it, in ascending order."""

    value: Fraction
    numbers: tuple[int, ...]


def read(text: str) -> Expression | None:
    r"""An expression over whole numbers; None for anything else.

    `= value` may stand behind it, if that is what it comes to.

    >>> read(r"(25-18) \times 15 = 105")
    Expression(value=Fraction(105, 1), numbers=(15, 18, 25))
    >>> read("25-18=8"), read("2/(3-3)"), read("2**9")
    (None, None, None)
    """
    return None if len(text) > MAX_LENGTH else parsed(text)


@lru_cache(maxsize=4096)  # the samples of a group repeat each other, and all have one gold
def parsed(text: str) -> Expression | None:
    plain = _LATEX.sub(lambda sign: _MEANING[sign[1]], text).translate(SIGNS)
    left, equals, right = plain.partition("=")
    found = value(left)
    if found is None or (equals and value(right) != found):
        return None
    used = [token for token in tokenise(left) if token[0].isdigit()]
    if not all(token.isdigit() for token in used):
        return None
    return Expression(found, tuple(sorted(map(int, used))))


def legal(answer: str | None, numbers: list[int]) -> bool:
    """Does it use each of the numbers once, and no other?"""
    found = None if answer is None else read(answer)
    return found is not None and found.numbers == tuple(sorted(numbers))


def same_expression(one: str, other: str) -> bool:
    """The same value from the same numbers, or the same text."""
    found = read(one)
    return one == other or (found is not None and found == read(other))


def reaches(gold: str, answer: str | None, numbers: list[int]) -> bool:
    """Is it legal, and worth what the gold is worth (an expression, or the target itself)?

    >>> reaches("22", "(25-18)+15", [18, 25, 15]), reaches("22", "22", [18, 25, 15])
    (True, False)
    """
    target = read(gold)
    return legal(answer, numbers) and target is not None and read(answer).value == target.value


def value(expression: str) -> Fraction | None:
    """The exact value of `+ - * /` and parentheses over plain numbers; None for all else.

    Computed here, term by term: nothing of a model's text is evaluated as code.

    >>> value("2*(3+4)"), value("1/0"), value("2**9")
    (Fraction(14, 1), None, None)
    """
    tokens = tokenise(expression)
    if tokens is None:
        return None
    try:
        result, rest = total(tokens)
    except (IndexError, ValueError, ZeroDivisionError):
        return None
    return None if rest else result


def tokenise(expression: str) -> list[str] | None:
    tokens, at = [], 0
    stripped = expression.strip()
    while at < len(stripped):
        found = _TOKEN.match(stripped, at)
        if not found or len(tokens) > 60:
            return None
        tokens.append(found[1] or found[2])
        at = found.end()
    return tokens


def total(tokens: list[str]) -> tuple[Fraction, list[str]]:
    result, rest = term(tokens)
    while rest and rest[0] in "+-":
        operator = rest[0]
        other, rest = term(rest[1:])
        result = result + other if operator == "+" else result - other
    return result, rest


def term(tokens: list[str]) -> tuple[Fraction, list[str]]:
    result, rest = factor(tokens)
    while rest and rest[0] in "*/":
        operator = rest[0]
        other, rest = factor(rest[1:])
        result = result * other if operator == "*" else result / other
    return result, rest


def factor(tokens: list[str]) -> tuple[Fraction, list[str]]:
    first, rest = tokens[0], tokens[1:]
    if first == "-":
        result, rest = factor(rest)
        return -result, rest
    if first == "(":
        result, rest = total(rest)
        if rest[0] != ")":
            raise ValueError("an open parenthesis")
        return result, rest[1:]
    return Fraction(first), rest
