"""GSM8K: grade-school word problems (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168).

Rows `{"question", "answer"}`; the answer holds the working with `<<48/2=24>>` annotations and ends
in `#### GOLD`. The last annotation differs from the gold in 470 of 8,792 items, so that the gold is
only ever what follows `####`.
"""

import re

from stages.tasks.problem import Problem, text_of, wrong


def read(row: dict, place: str) -> Problem:
    """A row as a problem.

    Raises:
        UserError: no question, no answer, or no `####` gold; names the row.
    """
    question, answer = (text_of(row, (field,), place) for field in ("question", "answer"))
    working, mark, gold = answer.rpartition("####")
    if not mark or not gold.strip():
        raise wrong(place, "no gold, for the answer must end in `#### NUMBER`")
    working = re.sub(r"<<.*?>>", "", working).strip()
    return Problem(question, gold.strip().replace(",", ""), working)
