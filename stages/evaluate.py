"""evaluate: one model on the held-out problems, through lm-eval.

As a stage: `python -m stages.evaluate MODEL`, where MODEL is base, sft, control, grpo, student, or
one of report.compare: `student-demonstrations`.
`control` is the SFT model made to show its working: its completion is barred from opening with the
answer. With options instead, any model on any rows (stages/standalone.py).

Greedy; with `samples_per_prompt` also k samples a problem. Every sample's row is kept.
"""

import runpy
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from stages import rewards
from stages.answers import worker
from stages.answers.equality import equal
from stages.answers.expression import legal
from stages.core import harness, launch, libraries, resume, stage
from stages.core.batches import Batches
from stages.core.errors import UserError
from stages.core.files import read_rows, write_json, write_rows
from stages.core.grade import Grade, comparison, flexible, grades, kept
from stages.core.harness import Completion
from stages.core.params import CONTROLS, METHODS, Params
from stages.core.progress import Progress
from stages.core.stage import Run, log
from stages.core.statistics import (
    alike,
    commonest,
    maj_at_k,
    mean_interval,
    pass_at_k,
    standard_error,
    wilson,
)

FOLDERS = {"base": "base", "sft": "sft", "control": "sft", "grpo": "grpo", "student": "student"}
# models that report.compare and report.controls may name -> the stage that evaluates them
ALSO = {f"student-{method}": f"evaluate_also@{method}" for method in METHODS}
ALSO |= {f"sft-{control}": f"evaluate_control@{control}" for control in CONTROLS}
SHOTS = Path("data/shots.jsonl")
HIGH_REWARD = 0.8
LIBRARIES = ("lm_eval.evaluator", "lm_eval.models.huggingface",
             "transformers.models.llama.modeling_llama")  # fmt: skip


class Result(NamedTuple):
    """Rows of samples, and for each task its measures with their errors and intervals."""

    samples: list[dict]
    measures: dict[str, dict[str, dict[str, float]]]
    metrics: dict[str, Any]


def body(model: str, params: Params, run: Run) -> dict:
    data = Path(f"data/{params.evaluate.split}.jsonl")
    run.dataset(data, params.evaluate.split)
    rows = list(islice(read_rows(data), params.evaluate.num_samples))
    if not rows:
        raise UserError(f"{data} has no rows: raise task.{params.evaluate.split} in params.yaml")
    libraries.load(*LIBRARIES)
    folder = Path("models", FOLDERS.get(model, model))
    batches = Batches(resume.folder(run.name) / launch.apart("batches.jsonl"))
    result = evaluated(folder, rows, params, run.progress, model == "control", batches)
    if result is None:
        return {}
    save(result, Path("samples"), model)
    run.artifact(Path("samples", f"{model}.jsonl"))
    run.summary({f"{model}.{task}.{name}": measure["value"]
                 for task, measures in result.measures.items()
                 for name, measure in measures.items()})  # fmt: skip
    return result.metrics


def evaluated(
    folder: Path,
    rows: list[dict],
    params: Params,
    progress: Progress,
    bar_answer: bool = False,
    batches: Batches | None = None,
) -> Result | None:
    """A model's answers to prepared rows, judged; `batches` as `harness.language_model` has it.

    None in a process that only generates for the first one.
    """
    from stages.core import models

    # what is wrong with these shows before the model has answered
    rewards.load(params.evaluate.rewards, params.format.tags, "evaluate")
    if params.evaluate.tasks:
        harness.official_tasks(params)
    total = len(rows) * (1 + params.evaluate.samples_per_prompt)
    model = harness.language_model(
        folder, params, bar_answer, partial(progress.update, total=total), batches
    )
    shots = list(read_rows(SHOTS))[: params.evaluate.few_shot] if params.evaluate.few_shot else []
    outcome = harness.run(model, rows, shots, params)
    if outcome is None:
        harness.official(model, params)
        return None
    samples = judged(rows, outcome, model, params)
    by_task = {task: [s for s in samples if s["task"] == task] for task in tasks_of(rows)}
    measures = {task: measured(own, params) for task, own in by_task.items()}
    metrics = {
        "parameters": models.count_parameters(folder),
        "prompts_cut": harness.prompts_cut(
            model, outcome.prompts, params.evaluate.max_completion_length
        ),
        "tokens": sum(sample["tokens"] for sample in samples),
        **{task: point_values(own, measures[task]) for task, own in by_task.items()},
        **worker.trouble(),
    }
    if official := harness.official(model, params):
        metrics["lm_eval"] = official
    return Result(samples, measures, metrics)


def tasks_of(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(row["task"] for row in rows))


def judged(
    rows: list[dict], outcome: harness.Outcome, model: Any, params: Params
) -> list[dict[str, Any]]:
    """A row for each greedy completion; where problems were sampled, with their samples."""
    fmt, limit = params.format.tags, params.evaluate.max_completion_length
    functions, weights = rewards.load(params.evaluate.rewards, fmt, "evaluate")
    scores = rewards.judge(functions, rows, outcome.greedy)
    samples = []
    for row, prompt, text, verdict, score in zip(
        rows, outcome.prompts, outcome.greedy, grades(outcome.greedy, rows, fmt), scores,
        strict=True,
    ):  # fmt: skip
        completion = harness.completion(model, text, limit)
        loose = bool(flexible(text, row, fmt))
        samples.append({
            "task": row["task"], "question": row["question"], "gold": row["gold"],
            "level": row["level"], "prompt": prompt, "completion": text, "answer": verdict.answer,
            "correct": bool(verdict.correct), "flexible": loose, "compliant": verdict.compliant,
            "shows_working": verdict.shows_working, "reward": rewards.total(score, weights),
            "tokens": completion.tokens, "truncated": not completion.ended,
            "error": error(verdict, loose, completion), **kept(row),
        })  # fmt: skip
        if row.get("numbers"):
            samples[-1]["legal"] = legal(verdict.answer, row["numbers"])
    for sample, entropy in zip(samples, harness.entropies(model, outcome, params), strict=False):
        sample["entropy"] = entropy
    for sample, row, texts in zip(samples, rows, outcome.sampled, strict=False):
        verdicts = grades(texts, [row] * len(texts), fmt)
        sample["samples"] = [{"completion": text, "answer": v.answer, "correct": bool(v.correct)}
                             for text, v in zip(texts, verdicts, strict=True)]  # fmt: skip
    return samples


def error(verdict: Grade, loose: bool, completion: Completion) -> str | None:
    """Why a completion is not right: the first of these that holds.

    truncation: cut off at its limit; extraction: the right answer, in the wrong place; format: no
    answer that could be read; reasoning: a wrong answer; sandbox: its code could not be run.
    """
    if verdict.correct:
        return None
    if verdict.correct is None:
        return "sandbox"
    if not completion.ended:
        return "truncation"
    if verdict.answer is None:
        return "extraction" if loose else "format"
    return "reasoning"


def measured(samples: list[dict], params: Params) -> dict[str, dict[str, float]]:
    """measure -> value, standard error and 95 % interval over one task's problems.

    The accuracies are those of the problems that were judged, see `error`.
    """
    rates = {
        "format_compliance_rate": "compliant",
        "shows_working": "shows_working",
        "truncated": "truncated",
    }
    if all("legal" in sample for sample in samples):
        rates["legality"] = "legal"
    known = with_verdict(samples)
    found = {
        "accuracy": measure([float(s["correct"]) for s in known]),
        "flexible_accuracy": measure([float(s["flexible"]) for s in known]),
        **{name: measure([float(s[of]) for s in samples]) for name, of in rates.items()},
    }
    judged = [s["reward"] for s in samples if s["reward"] is not None]
    if judged:
        found["mean_reward"] = measure(judged, bounds=None)
        found["high_reward_rate"] = measure([float(r > HIGH_REWARD) for r in judged])
    if k := params.evaluate.samples_per_prompt:
        right = [sum(s["correct"] for s in sample["samples"]) for sample in samples]
        for n in sorted({1, k}):
            found[f"pass@{n}"] = measure([pass_at_k(k, c, n) for c in right])
        votes = [majority(s["samples"], comparison(s)) for s in samples]
        found[f"maj@{k}"] = measure(votes)
    if all("entropy" in sample for sample in samples):
        found["entropy"] = measure([sample["entropy"] for sample in samples], bounds=None)
    return found


def with_verdict(samples: list[dict]) -> list[dict]:
    """Those of a task's samples that were judged.

    Raises:
        UserError: there is none.
    """
    task, count = samples[0]["task"], len(samples)
    known = [sample for sample in samples if sample["error"] != "sandbox"]
    if not known:
        raise UserError(
            f"{task}: the sandbox failed on all {count} programs, so that none is judged: see that "
            "memory and processes are to spare, and run it again"
        )
    if failed := count - len(known):
        log.warning(
            "evaluate: %s: the sandbox failed on %d of %d programs: they are in no accuracy",
            task, failed, count,
        )  # fmt: skip
    return known


def measure(
    values: Sequence[float], bounds: tuple[float, float] | None = (0.0, 1.0)
) -> dict[str, float]:
    value = sum(values) / len(values)
    if set(values) <= {0.0, 1.0}:
        low, high = wilson(round(sum(values)), len(values))
    else:
        low, high = mean_interval(values, bounds)
    return {"value": value, "stderr": standard_error(values), "low": low, "high": high}


def majority(samples: list[dict], same: Callable[[str, str], bool] = equal) -> float:
    """maj@k of one problem: answers that are the same vote together, no answer does not vote.

    A group is right where its commonest spelling is.
    """
    groups = alike((sample["answer"] for sample in samples), same)
    votes = [at for at, group in enumerate(groups) for _ in range(group.total())]
    right = {sample["answer"] for sample in samples if sample["correct"]}
    return maj_at_k(votes, {at for at, group in enumerate(groups) if commonest(group) in right})


def point_values(samples: list[dict], measures: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What the metrics file holds of a task; errors and intervals of all stand beside samples."""
    values = {name: found["value"] for name, found in measures.items()}
    accuracy = measures["accuracy"]
    return {
        "n": len(samples),
        "accuracy": values.pop("accuracy"),
        "low": accuracy["low"],
        "high": accuracy["high"],
        "stderr": accuracy["stderr"],
        **values,
        "errors": dict(Counter(s["error"] for s in samples if s["error"])),
    }


def save(result: Result, folder: Path, name: str) -> None:
    write_rows(folder / f"{name}.jsonl", result.samples)
    write_json(folder / f"{name}.json", result.measures)


def main() -> None:
    if len(sys.argv) == 2 and (model := sys.argv[1]) in (*FOLDERS, *ALSO):
        stage.main(ALSO.get(model, f"evaluate@{model}"), partial(body, model), LIBRARIES)
    elif len(sys.argv) == 2 and not sys.argv[1].startswith("-"):
        sys.exit(f"evaluate: there is no model {sys.argv[1]}: say {', '.join(FOLDERS)}, or --help")
    else:  # no import: what the stage makes does not hang on that file
        runpy.run_module("stages.standalone", run_name="__main__")


if __name__ == "__main__":
    main()
