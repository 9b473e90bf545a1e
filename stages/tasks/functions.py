"""Generated programming problems: a small function in one to three steps, with unit tests.

Nothing is downloaded. As in arithmetic, held-out problems use step sequences of their own: a
sequence (`a + b; x * 2`) belongs to the test split or to the training splits by its hash.
"""

import random
from collections.abc import Callable, Iterator
from itertools import islice

from stages.core.params import Source
from stages.tasks import generated
from stages.tasks.problem import Problem

TESTS = 6  # asserts of a problem

# text, code, and the same in Python for the tests' expected values
PAIR: list[tuple[str, str, Callable]] = [
    ("adds a and b", "a + b", lambda a, b: a + b),
    ("subtracts b from a", "a - b", lambda a, b: a - b),
    ("multiplies a by b", "a * b", lambda a, b: a * b),
    ("takes the larger of a and b", "max(a, b)", max),
    ("takes the smaller of a and b", "min(a, b)", min),
    ("takes the distance of a and b", "abs(a - b)", lambda a, b: abs(a - b)),
]
LIST: list[tuple[str, str, Callable]] = [
    ("sums xs", "sum(xs)", sum),
    ("takes the largest of xs", "max(xs)", max),
    ("takes the smallest of xs", "min(xs)", min),
    ("counts xs", "len(xs)", len),
    ("takes the first of xs", "xs[0]", lambda xs: xs[0]),
    ("takes the last of xs", "xs[-1]", lambda xs: xs[-1]),
]
THEN: list[tuple[str, str, Callable]] = [
    ("doubles it", "x * 2", lambda x, n: x * 2),
    ("squares it", "x * x", lambda x, n: x * x),
    ("negates it", "-x", lambda x, n: -x),
    ("drops its sign", "abs(x)", lambda x, n: abs(x)),
    ("adds {n}", "x + {n}", lambda x, n: x + n),
    ("subtracts {n}", "x - {n}", lambda x, n: x - n),
    ("multiplies it by {n}", "x * {n}", lambda x, n: x * n),
    ("takes the remainder by {n}", "x % {n}", lambda x, n: x % n),
    ("caps it at {n}", "min(x, {n})", lambda x, n: min(x, n)),
]


def problem(rng: random.Random) -> Problem:
    """One random problem; its working names the steps, its gold is the function."""
    pair = rng.random() < 0.5
    text, expression, start = rng.choice(PAIR if pair else LIST)
    phrases, lines, functions = [text], [expression], []
    for _ in range(rng.randint(0, 2)):
        then, code, function = rng.choice(THEN)
        n = rng.randint(2, 9)
        phrases.append(then.format(n=n))
        lines.append(code.format(n=n))
        functions.append((function, n))
    arguments = "a, b" if pair else "xs"
    body = "".join(f"    x = {line}\n" for line in lines)
    return Problem(
        f"Write f({arguments}) which {' then '.join(phrases)}.",
        f"def f({arguments}):\n{body}    return x",
        "\n".join(lines),
        level=str(len(lines)),
        tests={"asserts": asserts(rng, pair, start, functions)},
    )


def asserts(rng: random.Random, pair: bool, start: Callable, functions: list) -> list[str]:
    """Calls with distinct arguments, negative ones among them, and what they must return."""
    lines: list[str] = []
    while len(lines) < TESTS:
        given = [rng.randint(-9, 9) for _ in range(2 if pair else rng.randint(1, 5))]
        x = start(*given) if pair else start(given)
        for function, n in functions:
            x = function(x, n)
        call = f"f({given[0]}, {given[1]})" if pair else f"f({given})"
        line = f"assert {call} == {x}"
        lines += [line] if line not in lines else []
    return lines


def steps(made: Problem) -> str:
    """What the function does, one operation a line."""
    return made.working


def load(task: Source, seed: int) -> tuple[Iterator[Problem], Iterator[Problem]]:
    return generated.load(problem, steps, task, seed)


def corpus(seed: int, size: int) -> Iterator[str]:
    """Texts to learn a tokenizer from: chats about training problems, with working and code."""
    rng = random.Random(f"corpus {seed}")
    every = generated.distinct(problem, steps, rng, generated.training())
    for made in islice(every, min(size, 1000)):
        yield f"user\n{made.question}\nassistant\n{made.working}\n{made.gold}"
