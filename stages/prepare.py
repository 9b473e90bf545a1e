"""prepare: raw problems -> checked, deduplicated, decontaminated rows for SFT, GRPO and evaluation.

Every row holds its prompt as chat messages and its gold; rows for SFT also the completion to learn.
"""

import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from stages import tasks
from stages.answers.equality import equal
from stages.core import stage
from stages.core.errors import UserError
from stages.core.files import write_json, write_rows
from stages.core.params import Params
from stages.core.stage import Run
from stages.tasks.problem import Problem

SFT, GRPO, TEST = (Path(f"data/{name}.jsonl") for name in ("sft", "grpo", "test"))
REPORT = Path("data/report.json")


def body(params: Params, run: Run) -> dict:
    train, test = tasks.load(params)
    test, test_dropped = clean(test, seen=set())
    train, dropped = clean(train, seen={key(p.question) for p in test})
    demonstrations, pool = split(train, params)
    test = test[: params.task.test]
    for name, rows in (("demonstrations", demonstrations), ("pool", pool), ("test", test)):
        if not rows and not (name == "demonstrations" and params.task.demonstrations == 0):
            raise UserError(f"task: no {name} left of {params.task.source or params.task.name}")

    chosen = random.Random(f"answer only {params.seed}")
    write_rows(SFT, (demonstration(p, params, chosen) for p in demonstrations))
    write_rows(GRPO, ({**row(p, params), "working": p.working} for p in pool))
    write_rows(TEST, (row(p, params) for p in test))
    report = {
        "demonstrations": len(demonstrations),
        "pool": len(pool),
        "test": len(test),
        "dropped_train": dropped,
        "dropped_test": test_dropped,
        "test_chains_seen_in_training": share_of_chains_seen(test, demonstrations + pool),
    }
    write_json(REPORT, report)
    return report


def clean(problems: list[Problem], seen: set[str]) -> tuple[list[Problem], dict[str, int]]:
    """Problems whose question is new and whose gold equals itself; and what was dropped why."""
    kept, in_test = [], frozenset(seen)
    dropped = {"duplicate": 0, "also in test": 0, "gold unusable": 0}
    for problem in problems:
        question = key(problem.question)
        if question in seen:
            dropped["also in test" if question in in_test else "duplicate"] += 1
        elif not equal(problem.gold, problem.gold):
            dropped["gold unusable"] += 1
        else:
            seen.add(question)
            kept.append(problem)
    return kept, dropped


def key(question: str) -> str:
    """A question with case, accents' form, punctuation and spacing taken away."""
    text = unicodedata.normalize("NFKC", question).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in text).split())


def split(train: list[Problem], params: Params) -> tuple[list[Problem], list[Problem]]:
    """Disjoint demonstrations and pool, shuffled by the seed.

    Raises:
        UserError: more are asked for than there are.
    """
    asked = (params.task.demonstrations or 0) + (params.task.pool or 0)
    if asked > len(train):
        raise UserError(
            f"task.demonstrations + task.pool ask for {asked} problems, {len(train)} are there: "
            "lower them, or set task.pool to null for all that are left"
        )
    shuffled = random.Random(f"split {params.seed}").sample(train, len(train))
    count = params.task.demonstrations or 0
    end = count + params.task.pool if params.task.pool else None
    return shuffled[:count], shuffled[count:end]


def row(problem: Problem, params: Params) -> dict:
    return {
        "prompt": tasks.prompt(problem.question, params.format),
        "question": problem.question,
        "gold": problem.gold,
        "level": problem.level,
        "task": params.task.name,
    }


def demonstration(problem: Problem, params: Params, chosen: random.Random) -> dict:
    """A row with its completion; a share of each level carries the answer without the working."""
    hidden = chosen.random() < params.task.answer_only.get(problem.level or "", 0.0)
    working = None if hidden else problem.working
    content = params.format.tags.render(problem.gold, working)
    return {
        **row(problem, params),
        "completion": [{"role": "assistant", "content": content}],
    }


def share_of_chains_seen(test: list[Problem], train: list[Problem]) -> float | None:
    """The share of test problems whose exact working occurs in training, names apart."""
    workings = set(chains(train))
    tested = list(chains(test))
    return sum(c in workings for c in tested) / len(tested) if tested else None


def chains(problems: list[Problem]) -> Iterator[str]:
    return ("".join(p.working.split()) for p in problems if p.working)


if __name__ == "__main__":
    stage.main("prepare", body)
