"""The same student by other methods (report.compare), each against the one of distill.method.

All have the same size, first weights, steps and seed; only what they are taught from differs.
"""

from typing import NamedTuple

from stages.reporting import pairs, scores
from stages.reporting.page import Cell, Link, anchor
from stages.reporting.pairs import Pair

MAIN = "student"  # the one of distill.method


class Taught(NamedTuple):
    """How a student was taught, and from how many rows (None: not recorded)."""

    method: str
    rows: int | None


def taught(training: dict) -> Taught:
    """As its training's metrics say; too few verified samples make demonstrations of them."""
    method, rows = training["method"], training.get("rows")
    if training.get("fell_back"):
        method = f"{method} (too few: demonstrations)"
    return Taught(method, rows)


def against_main(samples: dict[str, dict[str, list[dict]]], others: list[str]) -> list[Pair]:
    """Each of the others against the main student, task by task.

    Args:
        samples: task -> model -> rows.
    """
    found = [pairs.compared(task, MAIN, other, models)
             for task, models in samples.items() for other in others]  # fmt: skip
    return [pair for pair in found if pair]


def table(
    found: dict[str, dict], tasks: list[str], students: dict[str, Taught], against: list[Pair]
) -> list[list[Cell]]:
    """A row a student, the main one first: its scores, and the difference to the main one.

    Args:
        found: model -> its metrics.
        students: model -> how it was taught.
    """
    head = ["taught by", "training rows", "accuracy", "95 % interval", "difference [95 %]",
            "gained", "lost", "McNemar p"]  # fmt: skip
    pair_of = {(pair.task, pair.after): pair for pair in against}
    listed = scores.entries({model: found[model] for model in students}, tasks)
    rows: list[list[Cell]] = [head]
    for task, model, score in listed:
        method, given = students[model]
        rows.append([
            method, "" if given is None else f"{given:,}", f"{score['accuracy']:.3f}",
            f"[{score['low']:.3f}, {score['high']:.3f}]", *difference(pair_of.get((task, model))),
        ])  # fmt: skip
    return scores.with_task(rows, [task for task, _, _ in listed])


def difference(pair: Pair | None) -> list[Cell]:
    if pair is None:
        return ["", "", "", ""]
    flips = [Link(str(len(both)), anchor(pair, kind))
             for kind, both in (("gained", pair.gained), ("lost", pair.lost))]  # fmt: skip
    return [pairs.points(pair), *flips, f"{pair.p:.2g}"]


def verdicts(students: dict[str, Taught], against: list[Pair]) -> list[tuple[str, str]]:
    """(verdict, one sentence) on each of the others."""
    main, said = students[MAIN].method, {"within noise": "not shown to differ"}
    return [
        (pair.verdict, f"Taught by the method {students[pair.after].method} rather than {main}, "
                       f"the same student is {said.get(pair.verdict, pair.verdict)} on "
                       f"{pair.task}: {pairs.points(pair)}.")
        for pair in against
    ]  # fmt: skip
