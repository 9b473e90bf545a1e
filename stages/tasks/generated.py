"""Problems that a task makes itself, held out by what they are rather than by chance.

A task says of a problem what it is (`Key`: its arithmetic, say, whatever names and things stand in
its question). A hash of that puts it into one of `PARTS` parts, whatever the seed: one is for test,
one for dev where dev problems are asked for, the others are for training.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice

from stages.core.errors import UserError
from stages.core.params import Source
from stages.tasks.problem import Problem

Make = Callable[[random.Random], Problem]
Key = Callable[[Problem], str]

PARTS = 5
PATIENCE = 100_000  # problems in vain; by then all but a few in 100,000 have come up
TEST, DEV = frozenset({0}), frozenset({1})


def part(key: str) -> int:
    return hashlib.sha256(key.encode()).digest()[0] % PARTS


def training(test: frozenset[int] = TEST) -> frozenset[int]:
    """The parts that are not held out for test."""
    return frozenset(range(PARTS)) - test


def question(made: Problem) -> str:
    return made.question


def distinct(
    make: Make, key: Key, rng: random.Random, parts: frozenset[int], once: Key = question
) -> Iterator[Problem]:
    """Problems of these parts, none that is `once` the same as another.

    Raises:
        UserError: there seem to be no others.
    """
    seen, misses = set(), 0
    while misses < PATIENCE:
        made = make(rng)
        misses += 1
        if part(key(made)) in parts and once(made) not in seen:
            seen.add(once(made))
            misses = 0
            yield made
    raise UserError(
        f"task: after {len(seen):,} problems {PATIENCE:,} more were made, and none was new: lower "
        "task.demonstrations, task.pool, task.dev or task.test"
    )


def of_levels(make: Make, levels: list[str]) -> Make:
    def some(rng: random.Random) -> Problem:
        while (made := make(rng)).level not in levels:
            pass
        return made

    return some


def load(
    make: Make,
    key: Key,
    task: Source,
    seed: int,
    once: Key = question,
    test: frozenset[int] = TEST,
) -> tuple[Iterator[Problem], Iterator[Problem]]:
    """Training problems (dev problems behind them, marked) and test problems, from the seed.

    Args:
        once: what no two problems of an evaluation may have in common.
        test: the parts that are held out for test.
    """

    def some(name: str, parts: frozenset[int], once: Key, count: int) -> Iterator[Problem]:
        wanted = of_levels(make, task.levels) if task.levels else make
        made = distinct(wanted, key, random.Random(f"{name} {seed}"), parts, once)
        return islice(made, count)

    parts = training(test) - DEV if task.dev else training(test)
    train = some("train", parts, question, task.training - task.dev)
    dev = (replace(made, dev=True) for made in some("dev", DEV, once, task.dev))
    return chain(train, dev), some("test", test, once, task.test or 0)
