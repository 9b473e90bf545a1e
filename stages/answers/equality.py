"""Deciding whether two answers are equal: normalised text, then exact rational numbers."""

import re
from fractions import Fraction

MAX_LENGTH = 200  # a longer answer is no short answer; it also bounds the work on hostile text

# ASCII digits only: int() would also take other scripts' digits, underscores and signs.
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?", re.ASCII)
_RATIO = re.compile(r"([+-]?\d+)/(\d+)", re.ASCII)


def normalise(answer: str) -> str:
    """Whitespace folded, a currency sign, a closing full stop and `$…$` taken off."""
    text = " ".join(answer.split()).strip("$").strip()
    return text.removesuffix(".").strip()


def number(answer: str) -> Fraction | None:
    """The exact value of an integer, decimal (thousands in commas) or ratio; None otherwise.

    >>> number("1,080"), number("-2.50"), number("3/4"), number("4 apples")
    (Fraction(1080, 1), Fraction(-5, 2), Fraction(3, 4), None)
    """
    text = normalise(answer).replace("-$", "-")
    if len(text) > MAX_LENGTH:
        return None
    if ratio := _RATIO.fullmatch(text):
        numerator, denominator = int(ratio[1]), int(ratio[2])
        return Fraction(numerator, denominator) if denominator else None
    match = _NUMBER.fullmatch(text)
    if not match or not (match[1] or match[3]):
        return None
    return Fraction(text.replace(",", ""))


def equal(gold: str, answer: str | None) -> bool:
    """Does the answer equal the gold? As text, or exactly as a number; never by rounding."""
    if answer is None or len(answer) > MAX_LENGTH:
        return False
    if normalise(gold) == normalise(answer):
        return True
    gold_value = number(gold)
    return gold_value is not None and gold_value == number(answer)
