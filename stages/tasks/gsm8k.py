"""GSM8K: grade-school word problems (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168).

Rows `{"question", "answer"}`; the answer holds the working with `<<48/2=24>>` annotations and ends
in `#### GOLD`. The last annotation differs from the gold in 470 of 8,792 items, so that the gold is
only ever what follows `####`.
"""

import re

from stages.core.errors import UserError
from stages.core.params import Task
from stages.tasks.problem import Problem
from stages.tasks.source import splits

HUB_CONFIG = "main"  # openai/gsm8k has `main` and `socratic`


def load(task: Task, seed: int) -> tuple[list[Problem], list[Problem]]:
    """The source's own train and test split, in their order."""
    train, test = splits(task, HUB_CONFIG)
    return (
        [read(row, f"{task.source} train") for row in train],
        [read(row, f"{task.source} test") for row in test],
    )


def read(row: dict, where: str) -> Problem:
    """A row as a problem.

    Raises:
        UserError: no question, no answer, or no `####` gold; names the row.
    """
    place = f"{where}, row {row['_row']}"
    for field in ("question", "answer"):
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise UserError(f"{place}: no text in {field!r} (GSM8K rows have question and answer)")
    working, mark, gold = row["answer"].rpartition("####")
    if not mark or not gold.strip():
        raise UserError(f"{place}: no gold: the answer must end in `#### NUMBER`")
    working = re.sub(r"<<.*?>>", "", working).strip()
    return Problem(row["question"].strip(), gold.strip().replace(",", ""), working)
