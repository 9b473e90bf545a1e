"""Tasks: a data set, its prompt and its golds. The grader is stages/core/grade.py for all.

Each reader turns a raw row of its data set into a Problem; three tasks make their own problems.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from stages.core.errors import UserError
from stages.core.params import GENERATED, OutputFormat, Source
from stages.tasks import arithmetic, choice, code, countdown, functions, gsm8k, math, rows
from stages.tasks.problem import Problem, encodable
from stages.tasks.source import place, splits

MAKERS = {"arithmetic": arithmetic, "countdown": countdown, "functions": functions}
# task -> the reader of its rows and the hub's configuration of the data set
READERS = {
    "gsm8k": (gsm8k.read, "main"),  # the hub's also has `socratic`
    "math": (math.read, None),
    "aqua": (choice.aqua, "raw"),
    "arc": (choice.arc, "ARC-Challenge"),
    "logiqa": (choice.logiqa, None),
    "humaneval": (code.humaneval, None),
    "mbpp": (code.mbpp, "full"),
    "apps": (code.apps, None),
    "code_contests": (code.contests, None),
}


def load(task: Source, seed: int) -> tuple[Iterator[Problem], Iterator[Problem]]:
    """Training and held-out problems of a task that is no mixture, streamed in their order.

    Raises:
        UserError: the source cannot be read, or a row is not as it should be; names the row, when
            it is read.
    """
    if task.name in GENERATED:
        return MAKERS[task.name].load(task, seed)
    both = splits(task, READERS.get(task.name, (None, None))[1])
    names = task.splits.train, task.splits.test
    return tuple(problems(rows, split, task) for rows, split in zip(both, names, strict=True))


def problems(rows: Iterable[dict], split: str, task: Source) -> Iterator[Problem]:
    where = place(task, split)
    return chosen((read(row, f"{where}, row {row['_row']}", task) for row in rows), task)


def read(row: dict, place: str, task: Source) -> Problem:
    """One raw row of a task as a problem."""
    own = task.name == "rows"
    problem = rows.read(row, place, task.fields) if own else READERS[task.name][0](row, place)
    return encodable(problem, place)


def chosen(problems: Iterable[Problem], task: Source) -> Iterator[Problem]:
    """Those of the levels and topics that the task names, or all where it names none."""
    for name in ("levels", "topics"):
        if wanted := getattr(task, name):
            problems = those(problems, name, wanted)
    return iter(problems)


def those(problems: Iterable[Problem], name: str, wanted: list[str]) -> Iterator[Problem]:
    """Problems whose level (`levels`) or topic (`topics`) is wanted.

    Raises:
        UserError: there is none, which shows behind the last one.
    """
    known, found = set(), False
    for problem in problems:
        value = getattr(problem, name[:-1])
        known.add(value)
        if str(value) in wanted:
            found = True
            yield problem
    if not found:
        known.discard(None)
        raise UserError(
            f"task.{name}: no problem of {', '.join(wanted)} "
            f"({'there are ' + ', '.join(sorted(known)) if known else 'no row has one'}): "
            "name those there are, or none"
        )


def corpus(task: str, seed: int, size: int) -> Iterator[str]:
    """Texts to learn a tokenizer from; a task that reads its problems takes arithmetic's."""
    return MAKERS.get(task, arithmetic).corpus(seed, size)


def judged_by(problem: Problem, task: Source) -> dict[str, Any]:
    """The columns that a completion is judged by; the same ones whatever the task."""
    return {
        "gold": problem.gold,
        "percent": task.percent,
        "options": problem.options,
        "aliases": problem.aliases,
        "tests": problem.tests,
        "numbers": problem.numbers,
    }


def row(problem: Problem, name: str, task: Source, fmt: OutputFormat) -> dict[str, Any]:
    """A problem as the stages read it: its prompt, what it is judged by, what it is about."""
    return {
        "prompt": prompt(problem.question, fmt),
        "question": problem.question,
        **judged_by(problem, task),
        "level": problem.level,
        "task": name,
    }


def prompt(question: str, fmt: OutputFormat) -> list[dict[str, str]]:
    """The chat messages that put a question: the only place where a prompt is made."""
    system = fmt.system
    for tag in ("think_open", "think_close", "answer_open", "answer_close"):
        system = system.replace("{" + tag + "}", getattr(fmt, tag))
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": question}]
