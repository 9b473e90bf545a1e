"""Which problems GRPO trains on, and in which order: easy ones first, and none that teach nothing.

A group whose completions are all right, or all wrong, has no advantage; rollouts that were kept
from an earlier run say which problems make such groups.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice, pairwise

from stages.core.errors import UserError
from stages.core.params import Curriculum

# words that data sets have for levels, easiest first
NAMED = ("introductory", "easy", "interview", "medium", "competition", "hard")
UNKNOWN = 0.5  # pass rate of a problem that no rollout answers


def pass_rates(rollouts: Iterable[dict]) -> dict[str, float]:
    """Question -> share of its rollouts that are right."""
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for rollout in rollouts:
        if not {"question", "correct"} <= rollout.keys():
            raise UserError(
                "grpo.curriculum.rollouts: a row has no question and correct: name a copy of a "
                "rollouts/grpo.jsonl that the stage grpo wrote"
            )
        verdicts[rollout["question"]].append(bool(rollout["correct"]))
    return {question: sum(right) / len(right) for question, right in verdicts.items()}


def worth_training(
    rows: Sequence[dict], rates: dict[str, float], settings: Curriculum
) -> Sequence[dict]:
    """Rows whose measured pass rate lies within `keep`; what was not measured stays.

    Raises:
        UserError: none is left.
    """
    low, high = settings.keep
    if not rates and low <= UNKNOWN <= high:
        return rows
    kept = [row for row in rows if low <= rates.get(row["question"], UNKNOWN) <= high]
    if not kept:
        raise UserError(
            f"grpo.curriculum.keep: no problem's pass rate lies within {low} to {high}: widen it"
        )
    return kept


def in_stages(
    rows: Sequence[dict], rates: dict[str, float], settings: Curriculum, count: int, seed: int
) -> list[dict]:
    """`count` rows in training order: the easy stage's, then the next one's, shuffled within each.

    Each stage gets an equal share of the training; a stage with fewer problems than that sees them
    again, a stage with more a part of them.

    Args:
        rows: problems.
        rates: of them; for `by: pass_rate`.
        settings: by what they are ordered, and the stages: how many, or where they end.
        count: prompts that training will take.
        seed: of the shuffling.

    Raises:
        UserError: the rows lack what they are to be ordered by, or are fewer than the stages.
    """
    keys = list(map(difficulty(rows, rates, settings), rows))
    ordered = sorted(range(len(rows)), key=keys.__getitem__)
    ends = stage_ends(len(ordered), settings.stages)
    shares = [round(count * (i + 1) / len(ends)) for i in range(len(ends))]
    generator = random.Random(f"curriculum {seed}")
    taken: list[int] = []
    for (start, end), share in zip(pairwise([0, *ends]), shares, strict=True):
        taken += islice(passes(ordered[start:end], generator), share - len(taken))
    return [rows[i] for i in taken]


def passes(numbers: list[int], generator: random.Random) -> Iterable[int]:
    return chain.from_iterable(generator.sample(numbers, len(numbers)) for _ in iter(int, 1))


def stage_ends(n: int, stages: int | list[int]) -> list[int]:
    """Where each stage ends among n ordered problems.

    >>> stage_ends(500, 3), stage_ends(500, [100, 300])
    ([167, 333, 500], [100, 300, 500])

    Raises:
        UserError: a stage has no problem.
    """
    if isinstance(stages, int):
        if stages > n:
            raise UserError(
                f"grpo.curriculum.stages: {stages} stages, but only {n} problems: lower it, or "
                "raise task.pool, or widen grpo.curriculum.keep"
            )
        return [round(n * (i + 1) / stages) for i in range(stages)]
    if stages[-1] >= n:
        raise UserError(
            f"grpo.curriculum.stages: the last begins at {stages[-1]}, of {n} problems: lower it"
        )
    return [*stages, n]


def difficulty(
    rows: Sequence[dict], rates: dict[str, float], settings: Curriculum
) -> Callable[[dict], tuple]:
    """The key that puts easier rows first."""
    if settings.by == "pass_rate":
        return lambda row: (-rates.get(row["question"], UNKNOWN),)
    if settings.by == "length":
        return lambda row: (len(row["question"]),)
    lacking = "level" if settings.by == "level" else "working"
    if missing := sum(not row.get(lacking) for row in rows):
        raise UserError(
            f"grpo.curriculum.by: {settings.by}, but {missing} of {len(rows)} rows have no "
            f"{lacking}; order them by length, or by pass_rate"
        )
    if settings.by == "level":
        return lambda row: level(row["level"])
    return lambda row: (len(row["working"].split("\n")),)


def level(name: str) -> tuple:
    """Numbers as numbers, known words in their order, others by their spelling, behind them.

    >>> sorted(["hard", "10", "easy", "9", "x"], key=level)
    ['9', '10', 'easy', 'hard', 'x']
    """
    if digits := re.search(r"\d+", name):
        return 0, int(digits[0]), name
    place = NAMED.index(name.lower()) if name.lower() in NAMED else len(NAMED)
    return 1, place, name
