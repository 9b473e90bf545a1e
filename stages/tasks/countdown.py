"""The numbers game: reach a target from given numbers, each used once, by + - *.

Nothing is downloaded. A puzzle is held out by its numbers, in whatever order, and its target. Most
of its demonstrations are honest attempts rather than solutions: legal, worked out rightly, and
mostly beside the target, so that imitation alone leaves much to find.
"""

import random
from collections.abc import Iterator
from functools import partial
from itertools import islice

from stages.core.params import Source
from stages.tasks import generated
from stages.tasks.problem import Problem

LARGEST = 25  # of the numbers
BETWEEN = range(1, 100)  # every result on the way
LEAST = 10  # of the targets
SOLVED = 0.3  # of the demonstrations; of the other attempts one in five hits the target by chance

Attempt = tuple[list[str], str, int]  # its lines, as one expression, what it comes to


def attempt(rng: random.Random, numbers: list[int]) -> Attempt:
    """A random legal way from the numbers to one result."""
    while True:
        left, lines = [(number, str(number)) for number in numbers], []
        while len(left) > 1:
            (a, one), (b, other) = (left.pop(rng.randrange(len(left))) for _ in range(2))
            sign = rng.choice("+-*")
            value = a + b if sign == "+" else a - b if sign == "-" else a * b
            lines.append(f"{a}{sign}{b}={value}")
            left.append((value, f"{bracketed(one, sign)}{sign}{bracketed(other, sign)}"))
            if value not in BETWEEN:
                break
        else:
            return lines, left[0][1], left[0][0]


def bracketed(expression: str, sign: str) -> str:
    return expression if expression.isdigit() else f"({expression})"


def problem(rng: random.Random, count: int = 3) -> Problem:
    """One puzzle of so many numbers; its demonstration is a solution or another attempt."""
    while True:
        numbers = [rng.randint(1, LARGEST) for _ in range(count)]
        lines, gold, target = attempt(rng, numbers)
        if target >= LEAST:
            break
    shown = gold
    if rng.random() >= SOLVED:
        lines, shown, _ = attempt(rng, numbers)
    return Problem(
        f"Make {target} from {', '.join(map(str, numbers))}.",
        gold,
        "\n".join(lines),
        level=str(count),
        numbers=numbers,
        shown=shown,
    )


def key(made: Problem) -> str:
    """Its numbers, in ascending order, and its target."""
    target = made.question.split()[1]
    return f"{sorted(made.numbers)} {target}"


def load(task: Source, seed: int) -> tuple[Iterator[Problem], Iterator[Problem]]:
    """Training puzzles, of which some ask the same in another order; no two held-out ones do."""
    counts = [int(level) for level in task.levels] or [3]
    make = partial(of_some, counts=counts)
    return generated.load(make, key, task, seed, once=key)


def of_some(rng: random.Random, counts: list[int]) -> Problem:
    return problem(rng, rng.choice(counts))


def corpus(seed: int, size: int) -> Iterator[str]:
    """Texts to learn a tokenizer from: chats about training puzzles, with their working."""
    rng = random.Random(f"corpus {seed}")
    for made in islice(generated.distinct(problem, key, rng, generated.TRAINING), size):
        yield f"user\n{made.question}\nassistant\n{made.working}\n{made.shown}"
