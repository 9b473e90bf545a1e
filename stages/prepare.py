"""prepare: raw problems -> checked, deduplicated, decontaminated rows for SFT, GRPO and evaluation.

Every row holds its prompt as chat messages and what it is judged by; rows for SFT also the
completion to learn.
"""

import random
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from stages import tasks
from stages.core import stage
from stages.core.errors import UserError
from stages.core.files import read_rows, write_json, write_rows
from stages.core.grade import grades, right
from stages.core.overlap import Index, normalised
from stages.core.params import GENERATED, MAX_SHOTS, Params, Source, Task
from stages.core.stage import Run
from stages.tasks.problem import Problem, text_of

BASE = Path("models/base")
SFT, GRPO, SHOTS, DEV, TEST = (
    Path(f"data/{name}.jsonl") for name in ("sft", "grpo", "shots", "dev", "test")
)
REPORT, CONTAMINATION = Path("data/report.json"), Path("data/contamination.jsonl")


CHUNK = 1000  # prompts tokenized at once


class Sides(NamedTuple):
    """A task's problems by what they serve for; no problem serves for two things."""

    demonstrations: list[Problem]
    pool: list[Problem]
    dev: list[Problem]
    test: list[Problem]


def body(params: Params, run: Run) -> dict:
    parts = params.task.parts
    loaded = {name: tasks.load(part, params.seed) for name, part in parts.items()}
    sides, dropped, seen = {}, {}, set()
    for name, part in parts.items():
        test, dropped[f"{name} test"] = clean(loaded[name][1], part, params, seen)
        sides[name] = Sides([], [], [], test[: part.test])
    index = Index(evaluated(loaded, params.task))
    found: list[dict] = []
    for name, part in parts.items():
        train = decontaminated(loaded[name][0], name, part, index, found)
        train, dropped[f"{name} train"] = clean(train, part, params, seen)
        train, dropped[f"{name} train"]["prompt too long"] = fitting(train, name, params)
        lost = {**dropped[f"{name} train"], "asked by an evaluation": taken_out(found, name)}
        sides[name] = sides[name]._replace(**split(train, part, params.seed, lost))
    require_some(sides, params)

    write(SFT, demonstrations(sides, params), params.seed)
    write(GRPO, rows("pool", sides, params, working=True), params.seed)
    write(SHOTS, shots(sides, params), None)
    write(DEV, rows("dev", sides, params), None)
    write(TEST, rows("test", sides, params), None)
    write_rows(CONTAMINATION, found)
    report = summary(sides, dropped, found)
    write_json(REPORT, report)
    return report


def evaluated(
    loaded: dict[str, tuple[list[Problem], list[Problem]]], task: Task
) -> Iterator[tuple[str, int, str]]:
    """Every text that some evaluation asks: all test questions, and `task.decontaminate`."""
    for name, (_, test) in loaded.items():
        yield from ((f"{name} test", row, p.question) for row, p in enumerate(test, 1))
    for file in task.decontaminate:
        for number, raw in enumerate(read_rows(Path(file).expanduser()), 1):
            place = f"{file}, row {number}"
            yield file, number, text_of(raw, tasks.rows.NAMES["question"], place)


def decontaminated(
    problems: list[Problem], name: str, task: Source, index: Index, found: list[dict]
) -> list[Problem]:
    """Training problems without those that an evaluation asks, or nearly; these go to `found`.

    Made problems share their templates' n-grams and are held out by their arithmetic or their
    steps: of them only equal questions are taken away.
    """
    kept = []
    for row, problem in enumerate(problems, 1):
        match = index.match(problem.question)
        if match and (match.by == "exact" or task.name not in GENERATED):
            found.append({"task": name, "row": row, "question": problem.question,
                          "by": match.by, "share": round(match.share, 3),
                          "found_in": match.name, "found_row": match.row})  # fmt: skip
        else:
            kept.append(problem)
    return kept


def clean(
    problems: list[Problem], task: Source, params: Params, seen: set[str]
) -> tuple[list[Problem], dict[str, int]]:
    """Problems whose question is new and whose gold is right; and what was dropped why.

    Args:
        problems: of one task.
        task: for its percent policy.
        params: for the format.
        seen: normalised questions met so far; grows.
    """
    dropped = {"duplicate": 0, "gold unusable": 0, "trace not right": 0}
    fresh = []
    for problem in problems:
        question = normalised(problem.question)
        if question in seen:
            dropped["duplicate"] += 1
        elif not claims_right(problem, task):
            dropped["trace not right"] += 1
        else:
            seen.add(question)
            fresh.append(problem)
    if task.name in GENERATED:
        return fresh, dropped  # right by construction, which the tasks' tests check
    golds = [params.format.tags.render(problem.gold) for problem in fresh]
    judged_by = [tasks.judged_by(problem, task) for problem in fresh]
    verdicts = grades(golds, judged_by, params.format.tags)
    kept = [problem for problem, verdict in zip(fresh, verdicts, strict=True)
            if verdict.correct or unsolved(problem)]  # fmt: skip
    dropped["gold unusable"] = len(fresh) - len(kept)
    return kept, dropped


def claims_right(problem: Problem, task: Source) -> bool:
    """False for a trace whose own answer is not right, whatever it says of itself."""
    return problem.claimed is None or right(problem.claimed, tasks.judged_by(problem, task))


def unsolved(problem: Problem) -> bool:
    """A programming problem without a reference solution: nothing to check, nor to demonstrate."""
    return bool(problem.tests) and not problem.gold


def taken_out(found: list[dict], task: str) -> int:
    return sum(row["task"] == task for row in found)


def fitting(problems: list[Problem], task: str, params: Params) -> tuple[list[Problem], int]:
    """Problems whose prompt has at most `task.max_prompt_length` tokens; how many have more.

    Raises:
        UserError: not one is left.
    """
    limit = params.task.max_prompt_length
    if limit is None or not problems:
        return problems, 0
    lengths = list(prompt_lengths(problems, task, params))
    kept = [problem for problem, n in zip(problems, lengths, strict=True) if n <= limit]
    if not kept:
        raise UserError(
            f"task.max_prompt_length {limit}: the shortest prompt of {task} has {min(lengths)} "
            "tokens; raise it, or set null for no limit"
        )
    return kept, len(problems) - len(kept)


def prompt_lengths(problems: list[Problem], task: str, params: Params) -> Iterator[int]:
    """Tokens of each prompt as the base model reads it, chat template included."""
    from stages.core import models

    tokenizer = models.load_tokenizer(BASE)
    for start in range(0, len(problems), CHUNK):
        chunk = problems[start : start + CHUNK]
        rows = (tasks.row(p, task, params.task.parts[task], params.format) for p in chunk)
        texts = [
            tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
            for row in rows
        ]
        yield from map(len, tokenizer(texts, add_special_tokens=False)["input_ids"])


def split(
    train: list[Problem], task: Source, seed: int, lost: dict[str, int]
) -> dict[str, list[Problem]]:
    """Disjoint demonstrations, dev problems and pool, shuffled by the seed.

    Args:
        train: problems that may be trained on.
        task: how many of them serve for what.
        seed: of the shuffling.
        lost: why others were left out -> how many; for the message.

    Raises:
        UserError: more are asked for than there are.
    """
    if task.training > len(train):
        why = ", ".join(f"{count} {reason}" for reason, count in lost.items() if count)
        raise UserError(
            f"task.demonstrations + task.dev + task.pool ask for {task.training} problems, "
            f"{len(train)} are there ({task.name}{'; left out: ' + why if why else ''}): lower "
            "them, give more rows, or set task.pool to null for all that are left"
        )
    if (golds := sum(bool(p.gold) for p in train)) < (task.demonstrations or 0):
        raise UserError(
            f"task.demonstrations asks for {task.demonstrations} problems, {golds} have a solution "
            f"to show ({task.name}): lower it, or give more solutions"
        )
    shuffled = random.Random(f"split {seed}").sample(train, len(train))
    # what is to be demonstrated needs a gold
    shown = [p for p in shuffled if p.gold][: task.demonstrations or 0]
    taken = {id(problem) for problem in shown}
    left = [problem for problem in shuffled if id(problem) not in taken]
    dev, pool = left[: task.dev], left[task.dev :]
    return {"demonstrations": shown, "dev": dev, "pool": pool[: task.pool]}


def require_some(sides: dict[str, Sides], params: Params) -> None:
    for name, side in sides.items():
        part = params.task.parts[name]
        for what in ("demonstrations", "pool", "test"):
            if not getattr(side, what) and getattr(part, what) != 0:
                raise UserError(
                    f"task.{what}: no problem is left of {part.source or name}: lower the other "
                    "counts, or give more rows"
                )


def rows(
    what: str, sides: dict[str, Sides], params: Params, working: bool = False
) -> Iterator[dict]:
    for task, side in sides.items():
        part = params.task.parts[task]
        for problem in getattr(side, what):
            shown = {"working": problem.working} if working else {}
            yield {**tasks.row(problem, task, part, params.format), **shown}


def demonstrations(sides: dict[str, Sides], params: Params) -> Iterator[dict]:
    """Rows with their completion; a share of each level carries the answer without the working."""
    chosen = random.Random(f"answer only {params.seed}")
    for task, side in sides.items():
        for problem in side.demonstrations:
            hidden = chosen.random() < params.task.answer_only.get(problem.level or "", 0.0)
            yield demonstration(problem, task, params, None if hidden else problem.working)


def demonstration(problem: Problem, task: str, params: Params, working: str | None) -> dict:
    content = params.format.tags.render(problem.shown or problem.gold, working)
    completion = [{"role": "assistant", "content": content}]
    row = tasks.row(problem, task, params.task.parts[task], params.format)
    return {**row, "completion": completion}


def shots(sides: dict[str, Sides], params: Params) -> Iterator[dict]:
    """The first demonstrations of each task in turn, with their working: for few-shot prompts."""
    turns = zip_longest(*(side.demonstrations[:MAX_SHOTS] for side in sides.values()))
    named = [pair for turn in turns for pair in zip(sides, turn, strict=True) if pair[1]]
    for task, problem in named[:MAX_SHOTS]:
        yield demonstration(problem, task, params, problem.working)


def write(path: Path, made: Iterable[dict], seed: int | None) -> None:
    """Rows to a file, without the columns that none of them fills; mixed by the seed."""
    made = list(made)
    if seed is not None and len({row["task"] for row in made}) > 1:
        random.Random(f"mix {seed}").shuffle(made)
    empty = {"percent": "unit", "options": None, "aliases": None, "tests": None, "numbers": None}
    unused = [name for name, value in empty.items() if all(row[name] == value for row in made)]
    write_rows(path, ({k: v for k, v in row.items() if k not in unused} for row in made))


def summary(sides: dict[str, Sides], dropped: dict[str, dict[str, int]], found: list[dict]) -> dict:
    counts = {w: sum(len(getattr(s, w)) for s in sides.values()) for w in Sides._fields}
    test = [problem for side in sides.values() for problem in side.test]
    train = [p for side in sides.values() for p in side.demonstrations + side.pool]
    return {
        **counts,
        **({"tasks": {name: {w: len(getattr(side, w)) for w in Sides._fields}
                      for name, side in sides.items()}} if len(sides) > 1 else {}),
        "dropped": {where: {why: n for why, n in reasons.items() if n}
                    for where, reasons in dropped.items() if any(reasons.values())},
        "contaminated": len(found),
        "test_chains_seen_in_training": share_of_chains_seen(test, train),
    }  # fmt: skip


def share_of_chains_seen(test: list[Problem], train: list[Problem]) -> float | None:
    """The share of test problems whose exact working occurs in training, names apart."""
    workings = set(chains(train))
    tested = list(chains(test))
    return sum(c in workings for c in tested) / len(tested) if tested else None


def chains(problems: list[Problem]) -> Iterator[str]:
    return ("".join(p.working.split()) for p in problems if p.working)


if __name__ == "__main__":
    stage.main("prepare", body)
