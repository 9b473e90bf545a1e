r"""Deciding whether two answers are equal: text, then exact numbers, then algebra in a worker.

Never by rounding, and never by running anything a model wrote.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from stages.answers import choices, compare, worker
from stages.answers.latex import MAX_LENGTH, tidy, too_deep
from stages.answers.number import number

Percent = Literal["unit", "value", "either"]


def equal(
    gold: str,
    answer: str | None,
    percent: Percent = "unit",
    options: Sequence[str] | None = None,
) -> bool:
    r"""Does the answer equal the gold?

    Args:
        gold: the right answer. Where it states a unit, an answer with another unit is wrong, and
            one with the same may abbreviate it (`58m`); an answer without one, or with one where
            the gold has none, is judged by its amount. A list is the set of its values.
        answer: what a model gave, or None for nothing.
        percent: what a percent sign is. "unit": a unit like others, so that 50% is 50 and not 0.5;
            "value": a hundredth, so that 50% is 0.5 and not 50; "either": both are right.
        options: the texts of a multiple-choice question's options, in order; then the letter, the
            letter with its text, or the text alone will do.

    Not equal to one value: a list, alternatives (`5 or 6`, `5\pm0`), a chain (`6=5`), a rounded
    value (24999 for 25000, .333 for 1/3), the same digits in another base. Not equal to a number: a
    sum, difference, product or whole quotient of its value that is left to work out (48+24 or 144/2
    for 72). A score, range or date (3-1, 8/10/2020) equals the same numbers in the same places
    alone.

    >>> equal("1080", "$1,080.00"), equal("5", "x = 5"), equal("1/3", "0.333"), equal("5", "5 or 6")
    (True, True, False, False)
    >>> equal("B", "(b) 22", options=["21", "22"]), equal("50", "50%"), equal("50", "50%", "value")
    (True, True, False)
    """
    if answer is None or max(len(gold), len(answer)) > MAX_LENGTH:
        return False
    if options:
        return same_option(gold, answer, percent, options)
    return same(gold, answer, percent)


def same_option(gold: str, answer: str, percent: Percent, options: Sequence[str]) -> bool:
    """Do both mean the same option? An answer that means none is compared as it stands."""

    def meant(text: str) -> int | None:
        plain = compare.TEXT.sub(r"\1", tidy(text))
        return choices.resolved(plain, options, lambda one, other: same(one, other, percent))

    right = meant(gold)
    return same(gold, answer, percent) if right is None else right == meant(answer)


@lru_cache(maxsize=65_536)
def same(gold: str, answer: str, percent: Percent) -> bool:
    """The same for one pair without options; kept, since golds and answers recur in training."""
    gold, answer = tidy(gold), tidy(answer)
    if not gold or not answer:
        return False
    if gold == answer:
        return True
    value, other = number(gold), number(answer)
    if value is not None and other is not None:
        divided = compare.undivided(gold, value) or not compare.undivided(answer, other)
        return value == other and divided
    if too_deep(gold) or too_deep(answer):
        return False
    try:
        return compare.same(gold, answer, percent, undecided)
    except compare.Undecided:
        return worker.same(gold, answer, percent)


def undecided(kind: str, gold: str, answer: str) -> bool:
    raise compare.Undecided
