"""Generated grade-school word problems of one to three steps: the embedded default's data.

Nothing is downloaded. Held-out problems use arithmetic chains (`12+4=16;16-3=13`) of their own:
see stages/tasks/generated.py.
"""

import random
from collections.abc import Iterator

from stages.core.params import Source
from stages.tasks import generated
from stages.tasks.problem import Problem

NAMES = {
    "Ada": "She", "Ben": "He", "Cleo": "She", "Dan": "He", "Eva": "She", "Finn": "He",
    "Gia": "She", "Hugo": "He", "Ida": "She", "Jack": "He", "Kim": "She", "Leo": "He",
    "Mia": "She", "Noah": "He", "Ola": "She", "Paul": "He",
}  # fmt: skip
THINGS = [
    "apples", "shells", "cards", "books", "coins", "pens",
    "stamps", "beads", "plums", "stones", "eggs", "cups",
]  # fmt: skip
BOXES = ["boxes", "bags", "jars", "trays"]
GAINS = ["buys {n} more", "finds {n} more", "gets {n} from {friend}", "makes {n} more"]
LOSSES = ["loses {n}", "sells {n}", "gives {n} to {friend}", "breaks {n}"]


def chain_of(problem: Problem) -> str:
    """The exact arithmetic of a problem's working, which names and things leave unchanged."""
    return problem.working.replace("\n", ";")


def problem(rng: random.Random) -> Problem:
    """One random problem: a start or a product, then gains and losses, never below zero."""
    name, friend = rng.sample(list(NAMES), 2)
    things = rng.choice(THINGS)
    steps = rng.randint(1, 3)
    lines = []
    if rng.random() < 0.3:
        boxes, each = rng.randint(2, 5), rng.randint(2, 5)
        total = boxes * each
        lines.append(f"{boxes}*{each}={total}")
        text = [f"{name} has {boxes} {rng.choice(BOXES)} with {each} {things} each."]
    else:
        total = rng.randint(3, 15)
        text = [f"{name} has {total} {things}."]
    while len(lines) < steps:
        n = rng.randint(1, 6)
        gain = rng.random() < 0.5 or n > total
        after = total + n if gain else total - n
        lines.append(f"{total}{'+' if gain else '-'}{n}={after}")
        phrase = rng.choice(GAINS if gain else LOSSES).format(n=n, friend=friend)
        text.append(f"{NAMES[name]} {phrase}.")
        total = after
    text.append(f"How many {things} does {name} have now?")
    return Problem(" ".join(text), str(total), "\n".join(lines), level=str(steps))


def load(task: Source, seed: int) -> tuple[Iterator[Problem], Iterator[Problem]]:
    return generated.load(problem, chain_of, task, seed)


def corpus(seed: int, size: int) -> Iterator[str]:
    """Texts to learn a tokenizer from: chats about training problems, with their working."""
    rng = random.Random(f"corpus {seed}")
    for _ in range(size):
        made = problem(rng)
        yield f"user\n{made.question}\nassistant\n{made.working}"
