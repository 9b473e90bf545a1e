"""Evaluation on its own: any model on any rows, beside its baseline on the same problems.

    python -m stages.evaluate --model MODEL --data FILE [--task NAME] [--baseline MODEL]
                              [--num-samples N] [--samples-per-prompt K] --output-dir DIR

The baseline of a model below models/ is models/base, unless one is named.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from stages import tasks
from stages.core import launch, stage
from stages.core import params as parameters
from stages.core.errors import UserError
from stages.core.files import full_disk_said, read_rows, write_json
from stages.core.params import Params, Source
from stages.core.progress import Progress
from stages.evaluate import Result, evaluated, save, tasks_of
from stages.reporting.pairs import Pair, as_metrics, compared, points

BASE = Path("models/base")
LOG_EVERY = 10  # seconds between two progress lines


def main() -> None:
    stage.set_environment()
    asked = arguments()
    try:
        stage.set_up_log("evaluate")
        check(asked)
        with full_disk_said():
            report(asked)
    except UserError as error:
        sys.exit(f"evaluate: {error}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.evaluate",
        description="A stage: python -m stages.evaluate base|sft|control|grpo|student. Any model:",
    )
    known = ", ".join(tasks.READERS)
    parser.add_argument("--model", required=True, help="model folder, or hub id")
    parser.add_argument("--data", required=True, type=Path, help="JSONL or JSON rows")
    parser.add_argument("--task", default="rows", help=f"how raw rows are read: rows, {known}")
    parser.add_argument(
        "--baseline", metavar="MODEL",
        help="answers the same prompts, for comparison; default: models/base for a model below "
        "models/, else none; `none` leaves it out",
    )  # fmt: skip
    parser.add_argument("--num-samples", type=int, metavar="N", help="problems; default: all")
    parser.add_argument("--samples-per-prompt", type=int, default=0, metavar="K")
    parser.add_argument("--max-completion-length", type=int, metavar="TOKENS")
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument("--params", type=Path, default=parameters.PARAMS, metavar="FILE")
    return parser.parse_args()


def check(asked: argparse.Namespace) -> None:
    """Raises UserError for a number out of range, or a place where nothing can be written."""
    if launch.world() > 1:
        raise UserError("with options it runs in one process: start it without torchrun")
    for option, least in (("num_samples", 1), ("samples_per_prompt", 0),
                          ("max_completion_length", 1)):  # fmt: skip
        given = getattr(asked, option)
        if given is not None and given < least:
            name = option.replace("_", "-")
            raise UserError(f"--{name} must be {least} or more (given: {given})")
    if asked.output_dir.exists() and not asked.output_dir.is_dir():
        raise UserError(f"--output-dir {asked.output_dir} is a file: name a folder")


def report(asked: argparse.Namespace) -> None:
    params = with_options(parameters.load(asked.params), asked)
    rows = rows_of(asked, params)
    model, baseline = located(asked.model), baseline_of(asked)
    found = {"model": evaluated(model, rows, params, Progress("evaluate", LOG_EVERY))}
    if baseline is not None:
        progress = Progress("evaluate, baseline", LOG_EVERY)
        found["baseline"] = evaluated(baseline, rows, params, progress)
    pairs = differences(found)
    metrics = dict(found["model"].metrics)
    save(found["model"], asked.output_dir, "samples")
    if baseline is not None:
        save(found["baseline"], asked.output_dir, "baseline")
        metrics |= {"baseline": found["baseline"].metrics, "against_baseline": as_metrics(pairs)}
    write_json(asked.output_dir / "metrics.json", metrics)
    print(table(found, pairs))
    if baseline is None:
        print("no baseline stands beside: name one with --baseline")
    print(f"every sample: {asked.output_dir / 'samples.jsonl'}")


def located(model: str) -> Path | str:
    return Path(model) if Path(model).is_dir() else model


def baseline_of(asked: argparse.Namespace) -> Path | str | None:
    """What is asked for, else the base of one of the pipeline's own models."""
    if asked.baseline:
        return None if asked.baseline == "none" else located(asked.baseline)
    model = Path(asked.model).resolve()
    own = model.is_relative_to(BASE.parent.resolve()) and model != BASE.resolve()
    return BASE if own and BASE.is_dir() else None


def with_options(params: Params, asked: argparse.Namespace) -> Params:
    changes: dict[str, Any] = {"samples_per_prompt": asked.samples_per_prompt}
    if asked.max_completion_length:
        changes["max_completion_length"] = asked.max_completion_length
    evaluate = params.evaluate.model_copy(update=changes)
    return params.model_copy(update={"evaluate": evaluate})


def rows_of(asked: argparse.Namespace, params: Params) -> list[dict]:
    """Prepared rows, whose prompt is a list of messages, as they are; raw ones as the task's.

    Raises:
        UserError: no such task, or a row that will not do; names it.
    """
    if asked.task not in (*tasks.READERS, "rows"):
        raise UserError(f"--task {asked.task} must be rows, {', '.join(tasks.READERS)}")
    task = source(asked.task, params)
    found = []
    for number, raw in enumerate(read_rows(asked.data), 1):
        if number > (asked.num_samples or number):
            break
        where = f"{asked.data}, row {number}"
        if isinstance(raw.get("prompt"), list) and "gold" in raw:
            found.append(raw)
        elif raw.keys() >= {"completion", "gold", "answer"}:
            raise UserError(
                f"{where} is a sample, whose answer is a model's: name the rows that were asked"
            )
        else:
            problem = tasks.read(raw, where, task)
            found.append(tasks.row(problem, asked.task, task, params.format))
    if not found:
        raise UserError(f"{asked.data} has no rows: name another file, or fill it")
    return found


def source(task: str, params: Params) -> Source:
    """How a task's raw rows are read: as params.yaml's where that is its task, or one of a mix.

    Of several parts of one name none can be meant.
    """
    known = [part for part in params.task.parts.values() if part.name == task]
    return known[0] if len(known) == 1 else Source(name=task)


def differences(found: dict[str, Result]) -> list[Pair]:
    """Model against baseline on each task; none without a baseline."""
    if "baseline" not in found:
        return []
    pairs = []
    for task in tasks_of(found["model"].samples):
        own = {name: [s for s in result.samples if s["task"] == task]
               for name, result in found.items()}  # fmt: skip
        pairs.append(compared(task, "baseline", "model", own))
    return [pair for pair in pairs if pair]


def table(found: dict[str, Result], pairs: list[Pair]) -> str:
    """Each task's measures with error and interval, the baseline beside, and the verdict."""
    measures = found["model"].measures
    beside = found["baseline"].measures if "baseline" in found else {}
    counts = {task: sum(s["task"] == task for s in found["model"].samples) for task in measures}
    verdicts = {pair.task: pair for pair in pairs}
    lines = []
    for task, own in measures.items():
        lines.append(f"{task}: {counts[task]} problems")
        for name, m in own.items():
            other = beside.get(task, {}).get(name)
            lines.append(
                f"  {name:<24}{m['value']:.3f}  +- {m['stderr']:.3f}"
                f"  [{m['low']:.3f}, {m['high']:.3f}]"
                + (f"  baseline {other['value']:.3f}" if other else "")
            )
        if pair := verdicts.get(task):
            lines.append(
                f"  accuracy against the baseline: {points(pair)}, {len(pair.gained)} gained, "
                f"{len(pair.lost)} lost, McNemar p = {pair.p:.2g}: {pair.verdict}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
