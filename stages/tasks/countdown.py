"""The numbers game: reach a target from given numbers, each used once, by + - *.

Nothing is downloaded. A puzzle is held out by its numbers, in whatever order, and its target. Most
of its demonstrations are honest attempts rather than solutions: legal, worked out rightly, and
mostly beside the target, so that imitation alone leaves much to find. They may show attempts that
missed before the one that they answer with, as a search does (after https://arxiv.org/abs/2404.03683).
"""

import random
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice

from stages.core.params import Source
from stages.tasks import generated
from stages.tasks.problem import Problem

LARGEST = 25  # of the numbers
BETWEEN = range(1, 100)  # every result on the way
LEAST = 10  # of the targets
# The held-out part: no puzzle of it was looked at while the preset's settings were chosen.
TEST = frozenset({2})
SOLVED = 0.3  # of the demonstrations; of the other attempts one in five hits the target by chance

Attempt = tuple[list[str], str, int]  # its lines, as one expression, what it comes to


def attempt(rng: random.Random, numbers: list[int]) -> Attempt:
    """A random legal way from the numbers to one result."""
    while True:
        left, lines = [(number, str(number)) for number in numbers], []
        while len(left) > 1:
            a, one = left.pop(rng.randrange(len(left)))
            b, other = left.pop(rng.randrange(len(left)))
            sign = rng.choice("+-*")
            value = a + b if sign == "+" else a - b if sign == "-" else a * b
            if value not in BETWEEN:
                break
            lines.append(f"{a}{sign}{b}={value}")
            left.append((value, f"{bracketed(one, sign)}{sign}{bracketed(other, sign)}"))
        else:
            return lines, left[0][1], left[0][0]


def bracketed(expression: str, sign: str) -> str:
    return expression if expression.isdigit() else f"({expression})"


def problem(rng: random.Random, count: int = 3, tries: int = 1) -> Problem:
    """One puzzle of so many numbers; its demonstration ends in a solution or another attempt, after
    fewer than `tries` that missed.
    """
    while True:
        numbers = [rng.randint(1, LARGEST) for _ in range(count)]
        lines, gold, target = attempt(rng, numbers)
        if target >= LEAST:
            break
    shown = gold
    if rng.random() >= SOLVED:
        lines, shown, _ = attempt(rng, numbers)
    missed = misses(rng, numbers, target, rng.randrange(tries)) if tries > 1 else []
    return Problem(
        f"Make {target} from {', '.join(map(str, numbers))}.",
        gold,
        "\n".join([*missed, *lines]),
        level=str(count),
        numbers=numbers,
        shown=shown,
    )


def misses(rng: random.Random, numbers: list[int], target: int, count: int) -> list[str]:
    """The lines of so many attempts beside the target, each with a no; fewer where few miss."""
    made = [attempt(rng, numbers) for _ in range(4 * count)]
    beside = [[*lines, "no"] for lines, _, value in made if value != target]
    return list(chain(*beside[:count]))


def key(made: Problem) -> str:
    """Its numbers, in ascending order, and its target."""
    target = made.question.split()[1]
    return f"{sorted(made.numbers)} {target}"


def load(task: Source, seed: int) -> tuple[Iterator[Problem], Iterator[Problem]]:
    """Training puzzles, of which some ask the same in another order; no two held-out ones do."""
    counts = [int(level) for level in task.levels] or [3]
    make = partial(of_some, counts=counts, tries=task.tries)
    return generated.load(make, key, task, seed, once=key, test=TEST)


def of_some(rng: random.Random, counts: list[int], tries: int) -> Problem:
    return problem(rng, rng.choice(counts), tries)


def corpus(seed: int, size: int) -> Iterator[str]:
    """Texts to learn a tokenizer from: chats about training puzzles, with their working."""
    rng = random.Random(f"corpus {seed}")
    training = generated.training(TEST)
    make = partial(problem, tries=2)  # whether or not the demonstrations do: the same tokenizer
    for made in islice(generated.distinct(make, key, rng, training), size):
        yield f"user\n{made.question}\nassistant\n{made.working}\n{made.shown}"
