"""Length, repetition, language: what a completion is like, whatever its answer."""

import math
import unicodedata

from stages.answers.format import Format
from stages.core.grade import Grade, grades
from stages.core.params import Count
from stages.rewards.text import MAX_CHARS, as_rows, text


def overlong(
    completions: list, completion_ids: list[list[int]], limit: Count, buffer: Count, **_
) -> list[float]:
    """0.0 up to `limit - buffer` tokens, then in a line to -1.0 at `limit` and beyond.

    DAPO's soft overlong punishment (https://arxiv.org/abs/2503.14476).
    """

    def score(length: int) -> float:
        return -min(1.0, max(0.0, (length - (limit - buffer)) / buffer))

    return [score(len(ids)) for ids in completion_ids]


def length_cosine(
    completions: list, completion_ids: list[list[int]], gold: list[str], fmt: Format, limit: Count,
    right: tuple[float, float] = (1.0, 0.5), wrong: tuple[float, float] = (-1.0, -0.5), **columns,
) -> list[float | None]:  # fmt: skip
    """Right answers earn more when short, wrong ones lose less when long.

    A half cosine over 0 to `limit` tokens between the two values of each pair, for no token and for
    `limit` tokens (https://arxiv.org/abs/2502.03373).
    """

    def score(verdict: Grade, length: int) -> float | None:
        if verdict.correct is None:
            return None
        start, end = right if verdict.correct else wrong
        share = min(1.0, length / limit)
        return end + 0.5 * (start - end) * (1 + math.cos(math.pi * share))

    contents = [text(completion) for completion in completions]
    verdicts = grades(contents, as_rows(gold=gold, **columns), fmt)
    lengths = map(len, completion_ids)
    return [score(*sample) for sample in zip(verdicts, lengths, strict=True)]


def repetition(completions: list, words: Count = 3, most: float = 1.0, **_) -> list[float]:
    """0.0 where no run of `words` words occurs twice, down to `-most` where all are the same.

    `-most * (1 - distinct runs / runs)` (https://arxiv.org/abs/2502.03373).
    """

    def score(content: str) -> float:
        split = content[:MAX_CHARS].lower().split()
        runs = [tuple(split[i : i + words]) for i in range(len(split) - words + 1)]
        return -most * (1 - len(set(runs)) / len(runs)) if runs else 0.0

    return [score(text(c)) for c in completions]


def script(completions: list, name: str = "LATIN", **_) -> list[float]:
    """The share of a completion's letters that belong to a script; 1.0 where it has no letter.

    `name` is the first word of the letters' Unicode names: LATIN, CYRILLIC, CJK, ARABIC, ...
    """

    def score(content: str) -> float:
        letters = [c for c in content[:MAX_CHARS] if c.isalpha()]
        inside = sum(unicodedata.name(c, "").startswith(name) for c in letters)
        return inside / len(letters) if letters else 1.0

    return [score(text(c)) for c in completions]
