"""The one grader: the reward of training and the score of evaluation are the same function.

What a row holds decides how it is graded: `tests` run the completion's code, `aliases` compare
words, `numbers` ask for an expression that uses them, all else compares the answer with the gold,
with `options` as a multiple choice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pydantic import TypeAdapter, ValidationError

from stages.answers.equality import Percent, equal
from stages.answers.expression import reaches, same_expression
from stages.answers.find import final_answer, last_number
from stages.answers.format import Format
from stages.answers.words import same_words
from stages.core import code
from stages.core.errors import UserError

JUDGED_BY = ("gold", "percent", "options", "aliases", "tests", "numbers")  # columns of a row
TYPES = {  # what stands in a column that is not null, as a type and in words
    "percent": (TypeAdapter(Percent), "unit, value or either"),
    "options": (TypeAdapter(list[str]), "a list of texts"),
    "aliases": (TypeAdapter(list[str]), "a list of texts"),
    "tests": (TypeAdapter(dict | list), code.SHAPES),
    "numbers": (TypeAdapter(list[int]), "a list of whole numbers"),
}
MAX_TESTS = 10_000  # characters that are kept with each sample
UNSAID = (None, "unit")  # what a column that is not there stands for
Answer = str | None


@dataclass(frozen=True)
class Grade:
    """What a completion is worth: the extracted answer and the verdicts.

    `correct` is None where the sandbox itself failed, so that nothing can be said.
    """

    answer: Answer
    correct: bool | None
    compliant: bool
    shows_working: bool


def grade(completion: str, row: dict, fmt: Format) -> Grade:
    """Grades one completion against its row in the given format."""
    return grades([completion], [row], fmt)[0]


def grades(completions: Sequence[str], rows: Sequence[dict], fmt: Format) -> list[Grade]:
    """Grades completions, those with code side by side.

    Args:
        completions: one per row, as text.
        rows: each with its `gold` and what else it is judged by, see `JUDGED_BY`.
        fmt: where the answer stands.

    Raises:
        UserError: code is to run and this machine has no sandbox.
    """
    found = [plainly(c, row, fmt) for c, row in zip(completions, rows, strict=True)]
    at = [i for i, row in enumerate(rows) if row.get("tests") and found[i].answer is not None]
    verdicts = code.run([(found[i].answer, rows[i]["tests"]) for i in at])
    for i, verdict in zip(at, verdicts, strict=True):
        right = None if verdict.passed is None else verdict.passed == verdict.total
        found[i] = replace(found[i], correct=right)
    return found


def plainly(completion: str, row: dict, fmt: Format) -> Grade:
    """The grade of a completion before any code has run."""
    is_code = bool(row.get("tests"))
    answer = code.program(completion, fmt) if is_code else fmt.answer(completion)
    return Grade(
        answer=answer,
        correct=not is_code and right(answer, row),
        compliant=fmt.compliant(completion),
        shows_working=fmt.shows_working(completion),
    )


def right(answer: Answer, row: dict) -> bool:
    """Is an extracted answer the row's? Not for code."""
    if row.get("numbers"):
        return reaches(row["gold"], answer, row["numbers"])
    if row.get("aliases") is not None:
        return same_words([row["gold"], *row["aliases"]], answer)
    return equal(row["gold"], answer, row.get("percent") or "unit", row.get("options"))


def judged_by(row: dict) -> dict[str, Any]:
    """The columns besides `gold` that a row is judged by, without those that say nothing."""
    return {name: row[name] for name in JUDGED_BY[1:] if row.get(name) not in UNSAID}


def kept(row: dict) -> dict[str, Any]:
    """As `judged_by`, for files with a row a sample: long tests would stand there with each one."""
    columns = judged_by(row)
    if (size := characters(columns.get("tests"))) > MAX_TESTS:
        columns["tests"] = f"left out: {size:,} characters"  # which scoring refuses
    return columns


def characters(value: Any) -> int:
    """Of all texts in lists and dicts.

    >>> characters({"inputs": ["1 2", "3"], "outputs": ["3", "3"]})
    6
    """
    if isinstance(value, dict | list):
        return sum(map(characters, value.values() if isinstance(value, dict) else value))
    return len(value) if isinstance(value, str) else 0


def require_types(row: dict, place: str) -> None:
    """Raises UserError where a column that a row is judged by holds what it cannot."""
    for name, (kind, words) in TYPES.items():
        if row.get(name) is None:
            continue
        try:
            kind.validate_python(row[name], strict=True)
            if name == "tests":
                code.normal(row[name])
        except (ValidationError, UserError):
            raise UserError(f'{place}: "{name}" is {words}: mend it, or take it out') from None


def comparison(row: dict) -> Callable[[str, str], bool]:
    """Are two answers to a row one and the same, in the way that its verdict compares them?

    Aliases are not drawn upon: they say which answers are right, which no vote can know.
    """
    if row.get("tests"):
        return str.__eq__
    if row.get("numbers"):
        return same_expression
    if row.get("aliases") is not None:
        return lambda one, other: same_words([one], other)
    return partial(equal, percent=row.get("percent") or "unit", options=row.get("options"))


def flexible(completion: str, row: dict, fmt: Format) -> bool | None:
    """Right wherever the answer stands: in the format, else boxed, marked, or the last number.

    Beside the strict verdict it tells a wrong answer from one in the wrong place.
    """
    strict = grade(completion, row, fmt)
    if strict.correct or strict.answer is not None or row.get("tests"):
        return strict.correct
    behind = fmt.after_thinking(completion)
    behind = completion if behind is None else behind
    return right(final_answer(behind) or last_number(behind), row)
