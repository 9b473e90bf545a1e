r"""MATH and MATH-500 (Hendrycks et al. 2021, https://arxiv.org/abs/2103.03874).

Rows `{"problem", "solution", "level", "type"}`; the gold is what the solution's last box holds (204
of 12,500 items have several). MATH-500 has `answer` and `subject`. Where there is no gold (two
items have an empty box) the row is dropped, and counted as unusable.
"""

import re

from stages.answers.find import BOX, braced, last_box
from stages.tasks.problem import Problem, maybe, text_of


def read(row: dict, place: str) -> Problem:
    solution = text_of(row, ("solution",), place)
    gold = maybe(row, ("answer",), place) or last_box(solution) or ""
    level = maybe(row, ("level",), place)
    return Problem(
        text_of(row, ("problem",), place),
        gold,
        unbox(solution),
        level and level.removeprefix("Level").strip(),
        maybe(row, ("subject", "type"), place),
    )


def unbox(solution: str) -> str:
    r"""A solution without its boxes, whose content stays: the answer stands behind the working.

    >>> unbox(r"so $x = \boxed{\frac{1}{2}}$.")
    'so $x = \\frac{1}{2}$.'
    """
    kept, at = "", 0
    for mark in BOX.finditer(solution):
        if mark.start() < at:
            continue
        rest = solution[mark.end() :]
        content = braced(rest.lstrip()) if rest.lstrip().startswith("{") else None
        kept += solution[at : mark.start()]
        at = mark.end()
        if content is not None:
            kept += re.sub(BOX, "", content)
            at += len(rest) - len(rest.lstrip()) + len(content) + 2
    return kept + solution[at:]
