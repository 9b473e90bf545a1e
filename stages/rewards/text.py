"""What the rewards read of a completion: its text, its working, its equations."""

import re
from collections.abc import Iterator
from fractions import Fraction

from stages.answers.expression import SIGNS, value
from stages.answers.find import NUMBER, NUMBERS
from stages.answers.format import Format
from stages.core.grade import JUDGED_BY

MAX_CHARS = 20_000  # of a completion that is looked at; bounds the work on hostile text

# the longest run of arithmetic before an equals sign, and the number behind it
_EQUATION = re.compile(
    rf"(?P<left>[-\d(][-\d+*/(). ]{{0,80}})=\s*(?P<right>{NUMBER})(?![\d.]*\d)", re.ASCII
)
# `1. `, `2) `, `- ` before a line's text; `**` around a number or sum, but not in `2**3`
_MARKS = re.compile(
    r"^[ \t]*(?:[-*]|\d{1,3}[.)])[ \t]+|(?<![\d)])\*\*(?=[-\d(])|(?<=[\d)])\*\*(?![ \t]*[\d(])",
    re.ASCII | re.MULTILINE,
)
_STARTS = re.compile(r"(?:^|(?<=[\d.)])\s+)(?=[-\d(])", re.ASCII)  # no operator before


def text(completion: str | list[dict]) -> str:
    """A completion's text; TRL hands over chat messages where the prompt is one."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def as_rows(**columns) -> list[dict]:
    """The columns that completions are judged by, as one row a sample."""
    judged = {name: columns[name] for name in JUDGED_BY if columns.get(name) is not None}
    return [dict(zip(judged, row, strict=True)) for row in zip(*judged.values(), strict=True)]


def stand_in_ids(content: str) -> list[int]:
    """About as many token ids as a text has, with no tokenizer at hand: one for 3 characters."""
    return [0] * (len(content) // 3)


def working(completion: str | list[dict], fmt: Format) -> str:
    """What stands before the final answer: the thinking, or all where nothing is marked."""
    content = text(completion)[:MAX_CHARS]
    if fmt.think_open and fmt.think_open in content:
        content = content.partition(fmt.think_open)[2]
    for end in filter(None, (fmt.think_close, fmt.opening)):
        content = content.partition(end)[0]
    return content


def numbers(content: str) -> list[Fraction]:
    """Every number of a text, as exact values in order; digits inside words are none."""
    found = NUMBERS.findall(content[:MAX_CHARS])
    return [Fraction(number.replace(",", "")) for number in found]


def equations(content: str) -> Iterator[tuple[Fraction | None, Fraction]]:
    """The two sides of each `12 + 4 = 16`; the left one is None where it has no value.

    GSM8K's calculator notes (`<<12+4=16>>16`) count once; list marks and bold are no part of it.
    """
    plain = re.sub(r"<<[^<>\n]{0,200}>>", "", content[:MAX_CHARS]).translate(SIGNS)
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", _MARKS.sub("", plain))
    for found in _EQUATION.finditer(plain):
        yield left_value(found["left"]), Fraction(found["right"])


def left_value(run: str) -> Fraction | None:
    """The value of the longest end of a run of arithmetic; a number before it is another text's.

    No end begins behind an operator: `1/0+3` has no value, though 3 has.

    >>> left_value("2 3+4"), left_value("3 (3+4"), left_value("1/0+3")
    (Fraction(7, 1), Fraction(7, 1), None)
    """
    for start in _STARTS.finditer(run):
        end = run[start.end() :]
        unclosed = end.count("(") - end.count(")")
        if unclosed > 0 and end.startswith("(" * unclosed):
            end = end[unclosed:]
        if (found := value(end)) is not None:
            return found
    return None
