"""Problems that a task makes itself, held out by what they are rather than by chance."""

import random
from collections.abc import Callable, Iterator
from itertools import islice

from stages.core.params import Source
from stages.tasks.problem import Problem

Make = Callable[[random.Random], Problem]
HeldOut = Callable[[Problem], bool]


def distinct(make: Make, held_out: HeldOut, rng: random.Random, test: bool) -> Iterator[Problem]:
    """Problems of one side of the split without end, no question twice."""
    seen = set()
    while True:
        made = make(rng)
        if held_out(made) == test and made.question not in seen:
            seen.add(made.question)
            yield made


def load(
    make: Make, held_out: HeldOut, task: Source, seed: int
) -> tuple[Iterator[Problem], Iterator[Problem]]:
    """Training problems (all splits of them together) and held-out ones, from the seed."""
    train = distinct(make, held_out, random.Random(f"train {seed}"), test=False)
    test = distinct(make, held_out, random.Random(f"test {seed}"), test=True)
    return islice(train, task.training), islice(test, task.test or 0)
