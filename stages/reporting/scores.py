"""What the evaluations say: results, results by level, kinds of error.

Metrics that an evaluation does not have leave their columns out.
"""

import re
from typing import Any

from stages.core.tracking import flat
from stages.reporting.pairs import was_judged

MODELS = {
    "base": "before any training, the prompt alone",
    "sft": "after supervised training on demonstrations",
    "control": "the SFT model made to show its working",
    "grpo": "after GRPO",
    "student": "distilled from the GRPO model (distill.method)",
}
# the models that report.controls may name
CONTROLS = {
    "sft-longer": "as sft, for twice the steps",
    "sft-verified": "as sft, on the right demonstrations alone",
    "sft-all": "as sft, on all demonstrations, the wrong ones among them",
}
WHAT = MODELS | CONTROLS
FELL_BACK = "trained on the demonstrations, as the teacher got too few samples right"
SAMPLED = r"(pass|maj)@\d+|entropy"
ORDER = ("pass", "maj", "entropy")
ERRORS = ("reasoning", "extraction", "truncation", "format", "sandbox")

Rows = list[list[Any]]


def tasks_of(scores: dict[str, dict]) -> list[str]:
    """The tasks that were evaluated: an entry of a model's metrics that has an accuracy."""
    return list(
        dict.fromkeys(
            name
            for score in scores.values()
            for name, entry in score.items()
            if isinstance(entry, dict) and "accuracy" in entry
        )
    )


def entries(scores: dict[str, dict], tasks: list[str]) -> list[tuple[str, str, dict]]:
    """(task, model, its scores), task by task."""
    return [
        (task, model, score[task])
        for task in tasks
        for model, score in scores.items()
        if task in score
    ]


def brief(scores: dict[str, dict], tasks: list[str], what: dict[str, str] = WHAT) -> Rows:
    """The table for the terminal; a column says the task where there is more than one.

    Args:
        scores: model -> its metrics.
        tasks: those of the table.
        what: model -> what it is.
    """
    rows: Rows = [["model", "parameters", "accuracy", "95 % interval", "format", "what it is"]]
    found = entries(scores, tasks)
    for _, model, s in found:
        rows.append([
            model, f"{scores[model]['parameters']:,}", f"{s['accuracy']:.3f}",
            f"[{s['low']:.3f}, {s['high']:.3f}]", number(s.get("format_compliance_rate")),
            what.get(model) or f"the same student taught by {model.removeprefix('student-')}",
        ])  # fmt: skip
    return with_task(rows, [task for task, _, _ in found])


def with_task(rows: Rows, tasks: list[str]) -> Rows:
    """`rows` with a first column that names each row's task, unless all have the same."""
    if len(set(tasks)) < 2:
        return rows
    return [[first, *row] for first, row in zip(["task", *tasks], rows, strict=True)]


def full(scores: dict[str, dict], tasks: list[str]) -> Rows:
    """`brief` with the further rates of one completion a problem, and without what a model is."""
    further = {"flexible_accuracy": "answer anywhere", "legality": "legal",
               "shows_working": "shows working",
               "mean_reward": "mean reward", "high_reward_rate": "high reward",
               "truncated": "truncated"}  # fmt: skip
    found = entries(scores, tasks)
    there = [key for key in further if any(entry.get(key) is not None for _, _, entry in found)]
    cells = [[number(entry.get(key)) for key in there] for _, _, entry in found]
    return [
        [*row[:-1], *more]
        for row, more in zip(
            brief(scores, tasks), [[further[key] for key in there], *cells], strict=True
        )
    ]


def sampled(scores: dict[str, dict], tasks: list[str]) -> Rows | None:
    """pass@k, maj@k and entropy with their intervals; None where there was one completion each."""
    found = entries(scores, tasks)
    keys = {key for _, _, entry in found for key in entry if re.fullmatch(SAMPLED, key)}
    if not keys:
        return None
    ordered = sorted(keys, key=lambda key: (ORDER.index(key.partition("@")[0]), natural(key)))
    rows: Rows = [["model", *ordered]]
    rows += [[model, *(with_interval(entry, key) for key in ordered)] for _, model, entry in found]
    return with_task(rows, [task for task, _, _ in found])


def official(scores: dict[str, dict]) -> Rows | None:
    """What lm-eval's own tasks gave, as published; None where none was asked for."""
    found = {model: flat(score["lm_eval"]) for model, score in scores.items()
             if score.get("lm_eval")}  # fmt: skip
    if not found:
        return None
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    cells = [[model, *(number(values.get(name)) for name in names)]
             for model, values in found.items()]  # fmt: skip
    return [["model", *(name.replace(".", " ", 1) for name in names)], *cells]


def with_interval(entry: dict, key: str) -> str:
    low, high = entry.get(f"{key}_low"), entry.get(f"{key}_high")
    interval = f" [{number(low)}, {number(high)}]" if low is not None and high is not None else ""
    return number(entry.get(key)) + interval


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def by_level(samples: dict[str, list[dict]]) -> Rows | None:
    """One task's accuracy on each level for each model; None where its problems have no levels.

    Args:
        samples: model -> its rows of one task.
    """
    levels = {row.get("level") for rows in samples.values() for row in rows} - {None}
    if not levels:
        return None
    table: Rows = [["level", "problems", *samples]]
    for level in sorted(levels, key=lambda level: natural(str(level))):
        parts = [[row["correct"] for row in rows if row.get("level") == level and was_judged(row)]
                 for rows in samples.values()]  # fmt: skip
        shares = [number(sum(part) / len(part)) if part else "" for part in parts]
        table.append([str(level), str(max(map(len, parts))), *shares])
    return table


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts `level 10` behind `level 9`."""
    parts = re.split(r"(\d+)", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def errors(samples: dict[str, dict[str, list[dict]]]) -> Rows | None:
    """Share of each kind of error in all of a model's completions; None where none is recorded.

    Args:
        samples: task -> model -> rows.
    """
    found = [
        (task, model, rows)
        for task, models in samples.items()
        for model, rows in models.items()
        if rows and all("error" in row for row in rows)
    ]
    if not found:
        return None
    seen = {row["error"] for _, _, rows in found for row in rows} - {None}
    kinds = [*ERRORS, *sorted(str(kind) for kind in seen - set(ERRORS))]
    table: Rows = [["model", "completions", "no error", *kinds]]
    for _, model, rows in found:
        given = [row["error"] for row in rows]
        shares = [f"{given.count(kind) / len(given):.1%}" for kind in (None, *kinds)]
        table.append([model, str(len(given)), *shares])
    return with_task(table, [task for task, _, _ in found])
