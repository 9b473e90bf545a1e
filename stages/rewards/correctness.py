"""Is the final answer right? All these stand on the verdict that evaluation uses, too."""

import string

from stages.answers.equality import equal, number
from stages.answers.find import last_number
from stages.answers.format import Format
from stages.answers.words import same_words
from stages.core.grade import Grade, grades
from stages.rewards.text import as_rows, text


def correctness(
    completions: list,
    gold: list[str],
    fmt: Format,
    right: float = 1.0,
    wrong: float = 0.0,
    missing: float | None = None,
    partly: float | None = None,
    **columns,
) -> list[float | None]:
    """`right` where the final answer is right, else `wrong`: evaluation's own verdict.

    Whatever the task: an answer that equals the gold, the right option, an alias in words, code
    that passes all its tests (None where the sandbox itself failed).

    | completion | score |
    |---|---|
    | the answer is right | right (1.0) |
    | no answer in the format, the last number after the thinking is the gold | partly (as wrong) |
    | no answer in the format | missing (as wrong) |
    | anything else | wrong (0.0) |

    Published scales: 1 / 0; +1 / -1 / -0.5 (right, wrong, missing); 1 / 0.5 / 0 and +1 / -0.5 / 0
    (right, partly, wrong).

    Args:
        completions: one per sample, text or chat messages.
        gold: the golds, one per sample (a column of the data set).
        fmt: where the answer stands.
        right: score of a right answer.
        wrong: score of a wrong one.
        missing: score where there is no answer; None: as `wrong`.
        partly: score of the right value in the wrong place; None: as `wrong`.
    """

    contents = [text(completion) for completion in completions]

    def score(content: str, truth: str, verdict: Grade) -> float | None:
        if verdict.correct is None:
            return None
        if verdict.correct:
            return right
        if verdict.answer is not None:
            return wrong
        if partly is not None and last_number_is(content, truth, fmt):
            return partly
        return wrong if missing is None else missing

    verdicts = grades(contents, as_rows(gold=gold, **columns), fmt)
    return [score(*sample) for sample in zip(contents, gold, verdicts, strict=True)]


def last_number_is(content: str, gold: str, fmt: Format) -> bool:
    """Only the last number counts: a completion that lists many earns nothing for it."""
    if fmt.think_close and fmt.think_close in content:
        content = content.rpartition(fmt.think_close)[2]
    found = last_number(content)
    return found is not None and number(found) == number(gold)


def closeness(
    completions: list, gold: list[str], fmt: Format, tolerance: float = 0.1, **_
) -> list[float | None]:
    """1.0 for the gold's value, falling in a line to 0.0 at a relative error of `tolerance`.

    For numbers only: None (cannot be judged) where the gold is none; 0.0 where the answer is none.
    A gold of 0 takes `tolerance` as an absolute error. Shaping: nearly right is wrong, so that it
    belongs behind a small weight or a gate.
    """

    def score(content: str, truth: str) -> float | None:
        wanted = number(truth)
        if wanted is None:
            return None
        given = number(fmt.answer(content) or "")
        if given is None:
            return 0.0
        error = abs(given - wanted) / (abs(wanted) or 1)
        if not tolerance or error >= tolerance:  # an exact error may be too large for a float
            return float(error == 0)
        return float(1 - error / tolerance)

    return [score(text(c), g) for c, g in zip(completions, gold, strict=True)]


def factual(
    completions: list,
    gold: list[str],
    fmt: Format,
    aliases: list[list[str] | None] | None = None,
    **_,
) -> list[float]:
    """1.0 where the answer is the gold or one of its aliases, else 0.0.

    Case, punctuation, articles and spacing apart, as in SQuAD's evaluation script; accents, too.

    Args:
        completions: one per sample.
        gold: the golds.
        fmt: where the answer stands.
        aliases: a column of further right answers, or None.
    """
    known = aliases or [None] * len(gold)

    return [
        float(same_words([g, *(a or [])], fmt.answer(text(c))))
        for c, g, a in zip(completions, gold, known, strict=True)
    ]


def choice(
    completions: list,
    gold: list[str],
    fmt: Format,
    options: list[list[str] | None] | None = None,
    **_,
) -> list[float]:
    """1.0 where the answer is the gold's letter, alone or with exactly that option's text.

    The verifier's verdict on choices: `B`, `(b)`, `B.` and, where the column `options` gives the
    texts in order (A first), `B) Paris` or `Paris`. A letter with another option's text is wrong.
    """
    known = options or [None] * len(gold)
    return [
        float(equal(g, fmt.answer(text(c)), options=o or string.ascii_uppercase))
        for c, g, o in zip(completions, gold, known, strict=True)
    ]
