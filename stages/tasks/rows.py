"""Rows of one's own: a question and an answer, under whatever names.

| field | where it is looked for | what it makes of the row |
|---|---|---|
| question | `question`, `problem`, `prompt` | |
| answer | `answer`, `ground_truth`, `gold` | |
| solution | `solution`, `rationale`, `working` | a worked one; with tests, the code |
| context | `context`, `passage` | stands before the question |
| level | `level`, `difficulty` | |
| topic | `topic`, `subject` | |
| options | `options` | multiple choice: the answer is a letter, an index or an option's text |
| aliases | `aliases` | an answer in words, with what else is right |
| tests | `tests` | a programming problem |
| predicted | `predicted_answer` | a trace: the row is kept where this is right |

`task.fields` maps a field to another name.
"""

import string
from typing import Any

from stages.answers.choices import own_texts
from stages.core import code
from stages.core.errors import UserError
from stages.tasks.problem import Problem, maybe, text_of, texts_of, wrong

NAMES = {
    "question": ("question", "problem", "prompt"),
    "answer": ("answer", "ground_truth", "gold"),
    "solution": ("solution", "rationale", "working"),
    "context": ("context", "passage"),
    "level": ("level", "difficulty"),
    "topic": ("topic", "subject"),
    "options": ("options",),
    "aliases": ("aliases",),
    "tests": ("tests",),
    "predicted": ("predicted_answer",),
}


def read(row: dict, place: str, fields: dict[str, str] | None = None) -> Problem:
    """A row as a problem.

    Raises:
        UserError: it lacks what it needs, or a field is of the wrong kind; names the row.
    """
    names = NAMES | {field: (name,) for field, name in (fields or {}).items()}
    question = text_of(row, names["question"], place)
    if context := maybe(row, names["context"], place):
        question = f"{context}\n{question}"
    options, aliases, tests = (row.get(names[f][0]) for f in ("options", "aliases", "tests"))
    solution = maybe(row, names["solution"], place)
    about = {name: maybe(row, names[name], place) for name in ("level", "topic")}
    if tests:
        return programming(question, tests, solution, place, **about)
    gold = text_of(row, names["answer"], place)
    if options:
        texts = texts_of(options, "options", place)
        return choice(question, texts, gold, place, working=solution, **about)
    return Problem(
        question,
        gold,
        solution,
        **about,
        aliases=None if aliases is None else texts_of(aliases, "aliases", place),
        claimed=maybe(row, names["predicted"], place),
    )


def programming(
    question: str, tests: Any, solution: str | None, place: str, **about: str | None
) -> Problem:
    try:
        return Problem(question, solution or "", tests=code.normal(tests), **about)
    except UserError as error:
        raise wrong(place, str(error)) from None


def choice(
    question: str, options: list[str], right: str, place: str, **about: str | None
) -> Problem:
    """A multiple choice whose options stand in the question, each behind its letter.

    Raises:
        UserError: `right` is neither a letter, nor a number from 0, nor one option's text.
    """
    letters = string.ascii_uppercase[: len(options)]
    if len(options) > len(letters):
        raise wrong(place, f"{len(options)} options, but letters for {len(letters)}")
    bare = own_texts(options)
    if right.strip().upper() in list(letters):
        gold = right.strip().upper()
    elif right.isdecimal() and int(right) < len(letters) and right not in bare:
        gold = letters[int(right)]
    elif bare.count(right) == 1:
        gold = letters[bare.index(right)]
    else:
        raise wrong(place, f"the answer {right!r} is none of the {len(options)} options")
    lines = [f"{letter}) {text}" for letter, text in zip(letters, bare, strict=True)]
    return Problem("\n".join([question, *lines]), gold, options=bare, **about)
