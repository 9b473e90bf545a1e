"""prepare: raw problems -> checked, deduplicated, decontaminated rows for SFT, GRPO and evaluation.

Every row holds its prompt as chat messages and what it is judged by; rows for SFT also the
completion to learn.
"""

import math
import random
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stages import tasks
from stages.core import stage
from stages.core.errors import UserError
from stages.core.files import Rows, in_parts, kept_rows, read_rows, write_json, write_rows
from stages.core.grade import grades, right
from stages.core.overlap import Index, normalised
from stages.core.params import GENERATED, MAX_SHOTS, Params, Source, Task
from stages.core.stage import Run, log
from stages.tasks.problem import Problem, text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BASE = Path("models/base")
SFT, GRPO, SHOTS, DEV, TEST = (
    Path(f"data/{name}.jsonl") for name in ("sft", "grpo", "shots", "dev", "test")
)
REPORT, CONTAMINATION = Path("data/report.json"), Path("data/contamination.jsonl")


CHUNK = 1000  # problems graded, or prompts tokenized, at once


class Sides(NamedTuple):
    """A task's problems by what they serve for; no problem serves for two things."""

    demonstrations: Rows
    pool: Rows
    dev: Rows
    test: Rows


def body(params: Params, run: Run) -> dict:
    parts = params.task.parts
    # all of it is read before anything else is done: a row that will not do shows at once
    read = {name: [on_disk(side) for side in tasks.load(part, params.seed)]
            for name, part in parts.items()}  # fmt: skip
    index = Index(evaluated({name: test for name, (_, test) in read.items()}, params.task))
    sides, dropped, seen = {}, {}, set()
    for name, part in parts.items():
        dropped[f"{name} test"] = lost = {}
        test = on_disk(clean(from_disk(read[name][1]), part, params, seen, lost))
        none = test[:0]
        sides[name] = Sides(none, none, none, test[: part.test])
    found: list[dict] = []
    for name, part in parts.items():
        dropped[f"{name} train"] = lost = {}
        fresh = decontaminated(from_disk(read[name][0]), name, part, index, found)
        own = on_disk(fitting(clean(fresh, part, params, seen, lost), name, params, lost))
        left_out = {**lost, "asked by an evaluation": taken_out(found, name)}
        sides[name] = sides[name]._replace(**split(own, part, params.seed, left_out))
    require_some(sides, params)

    write(SFT, demonstrations(sides, params), params.seed)
    write(GRPO, rows("pool", sides, params, working=True), params.seed)
    write(SHOTS, shots(sides, params), None)
    write(DEV, rows("dev", sides, params), None)
    write(TEST, rows("test", sides, params), None)
    write_rows(CONTAMINATION, found)
    report = summary(sides, dropped, found) | {"matched_exactly_only": index.exact_only}
    if index.exact_only and any(part.name not in GENERATED for part in parts.values()):
        log.info("prepare: %d of %d evaluation questions are too short, or too like many others, "
                 "to be found in training data but as exact copies",
                 index.exact_only, len(index.texts))  # fmt: skip
    write_json(REPORT, report)
    return report


def on_disk(problems: Iterable[Problem]) -> Rows:
    """Problems for `from_disk` to read: there may be more than fit into memory."""
    return kept_rows(map(vars, problems))


def from_disk(rows: Iterable[dict]) -> Iterator[Problem]:
    return (Problem(**row) for row in rows)


def evaluated(tests: dict[str, Rows], task: Task) -> Iterator[tuple[str, int, str]]:
    """Every text that some evaluation asks: all test questions, and `task.decontaminate`."""
    for name, test in tests.items():
        yield from ((f"{name} test", row, p["question"]) for row, p in enumerate(test, 1))
    for file in task.decontaminate:
        for number, raw in enumerate(read_rows(Path(file).expanduser()), 1):
            place = f"{file}, row {number}"
            yield file, number, text_of(raw, tasks.rows.NAMES["question"], place)


def decontaminated(
    problems: Iterable[Problem], name: str, task: Source, index: Index, found: list[dict]
) -> Iterator[Problem]:
    """Training problems without those that an evaluation asks, or nearly; these go to `found`.

    Made problems share their templates' n-grams and are held out by their arithmetic or their
    steps: of them only equal questions are taken away.
    """
    for row, problem in enumerate(problems, 1):
        match = index.match(problem.question)
        if match and (match.by == "exact" or task.name not in GENERATED):
            found.append({"task": name, "row": row, "question": problem.question,
                          "by": match.by, "share": round(match.share, 3),
                          "found_in": match.name, "found_row": match.row})  # fmt: skip
        else:
            yield problem


def clean(
    problems: Iterable[Problem],
    task: Source,
    params: Params,
    seen: set[bytes],
    dropped: dict[str, int],
) -> Iterator[Problem]:
    """Problems whose question is new and whose gold is right.

    Args:
        problems: of one task.
        task: for its percent policy.
        params: for the format.
        seen: hashes of the questions met so far; grows.
        dropped: how many were dropped why; counts on.
    """
    dropped |= {"duplicate": 0, "gold unusable": 0, "trace not right": 0}
    for chunk in in_parts(new(problems, task, seen, dropped), CHUNK):
        if task.name in GENERATED:
            yield from chunk  # right by construction, which the tasks' tests check
            continue
        golds = [params.format.tags.render(problem.gold) for problem in chunk]
        judged_by = [tasks.judged_by(problem, task) for problem in chunk]
        verdicts = grades(golds, judged_by, params.format.tags)
        usable = [problem for problem, verdict in zip(chunk, verdicts, strict=True)
                  if verdict.correct or unsolved(problem)]  # fmt: skip
        dropped["gold unusable"] += len(chunk) - len(usable)
        yield from usable


def new(
    problems: Iterable[Problem], task: Source, seen: set[bytes], dropped: dict[str, int]
) -> Iterator[Problem]:
    """Problems that were not met before and claim nothing wrong."""
    for problem in problems:
        question = fingerprint(problem.question)
        if question in seen:
            dropped["duplicate"] += 1
        elif not claims_right(problem, task):
            dropped["trace not right"] += 1
        else:
            seen.add(question)
            yield problem


def fingerprint(question: str) -> bytes:
    """16 bytes in place of a text, the same for what is equal once normalised."""
    return blake2b(normalised(question).encode(errors="surrogatepass"), digest_size=16).digest()


def claims_right(problem: Problem, task: Source) -> bool:
    """False for a trace whose own answer is not right, whatever it says of itself."""
    return problem.claimed is None or right(problem.claimed, tasks.judged_by(problem, task))


def unsolved(problem: Problem) -> bool:
    """A programming problem without a reference solution: nothing to check, nor to demonstrate."""
    return bool(problem.tests) and not problem.gold


def taken_out(found: list[dict], task: str) -> int:
    return sum(row["task"] == task for row in found)


def fitting(
    problems: Iterable[Problem], task: str, params: Params, dropped: dict[str, int]
) -> Iterator[Problem]:
    """Problems whose prompt has at most `task.max_prompt_length` tokens; counts the others.

    Raises:
        UserError: not one is left.
    """
    from stages.core import models

    limit, shortest = params.task.max_prompt_length, math.inf
    dropped["prompt too long"] = 0
    if limit is None:
        yield from problems
        return
    tokenizer = models.load_tokenizer(BASE)
    for chunk in in_parts(problems, CHUNK):
        lengths = prompt_lengths(chunk, task, params, tokenizer)
        fits = [problem for problem, n in zip(chunk, lengths, strict=True) if n <= limit]
        dropped["prompt too long"] += len(chunk) - len(fits)
        shortest = min(shortest, *lengths)
        yield from fits
    if limit < shortest < math.inf:
        raise UserError(
            f"task.max_prompt_length {limit}: the shortest prompt of {task} has {shortest} "
            "tokens; raise it, or set null for no limit"
        )


def prompt_lengths(
    problems: list[Problem], task: str, params: Params, tokenizer: "PreTrainedTokenizerBase"
) -> list[int]:
    """Tokens of each prompt as the base model reads it, chat template included."""
    rows = (tasks.row(p, task, params.task.parts[task], params.format) for p in problems)
    texts = [
        tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        for row in rows
    ]
    return list(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))


def split(train: Rows, task: Source, seed: int, lost: dict[str, int]) -> dict[str, Rows]:
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
    marks = [(problem["dev"], bool(problem["gold"])) for problem in train]
    # what a task makes itself for dev; of other tasks' rows none
    reserved = [i for i, (dev, _) in enumerate(marks) if dev]
    has_gold = [gold and not dev for dev, gold in marks]
    if (golds := sum(has_gold)) < (task.demonstrations or 0):
        raise UserError(
            f"task.demonstrations asks for {task.demonstrations} problems, {golds} have a solution "
            f"to show ({task.name}): lower it, or give more solutions"
        )
    shuffled = random.Random(f"split {seed}").sample(range(len(train)), len(train))
    # what is to be demonstrated needs a gold
    shown = [i for i in shuffled if has_gold[i]][: task.demonstrations or 0]
    taken = {*reserved, *shown}
    left = [i for i in shuffled if i not in taken]
    more = task.dev - len(reserved)
    dev, pool = [*reserved, *left[:more]], left[more:][: task.pool]
    return {"demonstrations": train.take(shown), "dev": train.take(dev), "pool": train.take(pool)}


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
        for problem in from_disk(getattr(side, what)):
            shown = {"working": problem.working} if working else {}
            yield {**tasks.row(problem, task, part, params.format), **shown}


def demonstrations(sides: dict[str, Sides], params: Params) -> Iterator[dict]:
    """Rows with their completion; a share of each level carries the answer without the working."""
    chosen = random.Random(f"answer only {params.seed}")
    for task, side in sides.items():
        for problem in from_disk(side.demonstrations):
            hidden = chosen.random() < params.task.answer_only.get(problem.level or "", 0.0)
            yield demonstration(problem, task, params, None if hidden else problem.working)


def demonstration(problem: Problem, task: str, params: Params, working: str | None) -> dict:
    content = params.format.tags.render(problem.shown or problem.gold, working)
    completion = [{"role": "assistant", "content": content}]
    part = params.task.parts[task]
    row = tasks.row(problem, task, part, params.format)
    is_right = problem.shown is None or right(problem.shown, tasks.judged_by(problem, part))
    return {**row, "completion": completion, "right": is_right}


def shots(sides: dict[str, Sides], params: Params) -> Iterator[dict]:
    """The first demonstrations of each task in turn, with their working: for few-shot prompts."""
    turns = zip_longest(*(from_disk(s.demonstrations[:MAX_SHOTS]) for s in sides.values()))
    named = [pair for turn in turns for pair in zip(sides, turn, strict=True) if pair[1]]
    for task, problem in named[:MAX_SHOTS]:
        yield demonstration(problem, task, params, problem.working)


def write(path: Path, made: Iterable[dict], seed: int | None) -> None:
    """Rows to a file, without the columns that none of them fills; mixed by the seed."""
    names, used = set(), set()
    empty = {"percent": "unit", "options": None, "aliases": None, "tests": None, "numbers": None,
             "right": True}  # fmt: skip

    def noted() -> Iterator[dict]:
        for row in made:
            names.add(row["task"])
            used.update(name for name, value in empty.items() if row.get(name, value) != value)
            yield row

    kept = kept_rows(noted())
    if seed is not None and len(names) > 1:
        order = list(range(len(kept)))
        random.Random(f"mix {seed}").shuffle(order)
        kept = kept.take(order)
    unused = empty.keys() - used
    write_rows(path, ({k: v for k, v in row.items() if k not in unused} for row in kept))


def summary(sides: dict[str, Sides], dropped: dict[str, dict[str, int]], found: list[dict]) -> dict:
    counts = {w: sum(len(getattr(s, w)) for s in sides.values()) for w in Sides._fields}
    test = chain.from_iterable(side.test for side in sides.values())
    train = chain.from_iterable(chain(s.demonstrations, s.pool) for s in sides.values())
    return {
        **counts,
        **({"tasks": {name: {w: len(getattr(side, w)) for w in Sides._fields}
                      for name, side in sides.items()}} if len(sides) > 1 else {}),
        "dropped": {where: {why: n for why, n in reasons.items() if n}
                    for where, reasons in dropped.items() if any(reasons.values())},
        "contaminated": len(found),
        "test_chains_seen_in_training": share_of_chains_seen(test, train),
    }  # fmt: skip


def share_of_chains_seen(test: Iterable[dict], train: Iterable[dict]) -> float | None:
    """The share of test problems whose exact working occurs in training, names apart."""
    tested = list(chains(test))
    wanted = set(tested)
    seen = {working for working in chains(train) if working in wanted}
    return sum(working in seen for working in tested) / len(tested) if tested else None


def chains(problems: Iterable[dict]) -> Iterator[str]:
    return ("".join(p["working"].split()) for p in problems if p["working"])


if __name__ == "__main__":
    stage.main("prepare", body)
