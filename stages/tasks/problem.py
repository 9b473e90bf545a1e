"""A problem, whatever task it comes from, and reading one's fields from a raw row."""

import json
import math
from dataclasses import dataclass
from typing import Any

from stages.core.errors import UserError


@dataclass(frozen=True)
class Problem:
    """A question and its gold; what else there is depends on the task.

    The gold is the answer, the letter of the right option, or a reference solution that passes the
    `tests`. `working` is a worked solution without the answer, `claimed` the answer that a trace
    gave: the problem is kept only where that is right. `numbers` are those that an expression has
    to use, `shown` the answer of a demonstration that is an attempt, not the gold. What is marked
    as `dev` is held out as test problems are, and serves for dev alone.
    """

    question: str
    gold: str
    working: str | None = None
    level: str | None = None
    topic: str | None = None
    options: list[str] | None = None
    aliases: list[str] | None = None
    tests: dict | None = None
    claimed: str | None = None
    numbers: list[int] | None = None
    shown: str | None = None
    dev: bool = False


def wrong(place: str, what: str) -> UserError:
    """The error of a row that will not do."""
    return UserError(f"{place}: {what}: mend the row, or take it out")


def encodable(problem: Problem, place: str) -> Problem:
    r"""A problem as it is.

    Raises:
        UserError: half a character stands in it (`"\ud800"`), as JSON allows; names the row.
    """
    try:
        for value in vars(problem).values():
            if value:
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                text.encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("ascii", "backslashreplace").decode()
        raise wrong(place, f"{half} is half a character, which UTF-8 cannot hold") from None
    return problem


def text_of(row: dict, names: tuple[str, ...], place: str) -> str:
    """The first of these fields that there is, as text; a number becomes its digits.

    Raises:
        UserError: none of them holds text; names the row.
    """
    for name in names:
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            value = repr(value)
        if isinstance(value, str) and value.strip():
            return value.strip()
    there = [repr(row[name])[:40] for name in names if name in row]
    given = f" (given: {there[0]})" if there else ""
    named = "" if len(names) == 1 else ", or say in task.fields what your rows call it"
    error = wrong(place, f"no text in {' or '.join(map(repr, names))}{given}")
    raise UserError(f"{error}{named}")


def maybe(row: dict, names: tuple[str, ...], place: str) -> str | None:
    """As `text_of`, None where there is none."""
    known = [name for name in names if row.get(name) not in (None, "")]
    return text_of(row, tuple(known), place) if known else None


def texts_of(value: Any, what: str, place: str) -> list[str]:
    """A list of texts.

    Raises:
        UserError: it is none; names the row.
    """
    if not isinstance(value, list) or not all(isinstance(v, str | int | float) for v in value):
        raise wrong(place, f"{what} is no list of texts")
    return [str(v) for v in value]
