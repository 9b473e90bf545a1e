"""lm-eval as the project uses it: its models, its task loop, our rows and our grader."""

import difflib
import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from stages.core import launch
from stages.core.batches import Batches
from stages.core.errors import UserError
from stages.core.grade import grade, grades
from stages.core.params import Params

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

log = logging.getLogger("stages")

TASK_FILE = Path(__file__).parents[1] / "tasks" / "graded.yaml"
RATES = {"accuracy": "correct", "format_compliance_rate": "compliant",
         "shows_working": "shows_working"}  # fmt: skip


class Completion(NamedTuple):
    """A completion's text, its tokens, and whether it ended by itself rather than by its limit."""

    text: str
    tokens: int
    ended: bool


class Outcome(NamedTuple):
    """What lm-eval gave: a record a row, in the rows' order, and its own figures."""

    prompts: list[str]
    greedy: list[str]
    sampled: list[list[str]]
    figures: dict[str, dict[str, float]]


def language_model(
    folder: Path,
    params: Params,
    bar_answer: bool = False,
    shown: Callable[[int], None] = print,
    batches: Batches | None = None,
) -> "LM":
    """The model as lm-eval takes it, with the project's tokenizer settings.

    Args:
        folder: of the model.
        params: for the format, the attention, the backend and the batch size.
        bar_answer: whether a completion may not open with the answer (never under vLLM).
        shown: told how many prompts are done.
        batches: those of an interrupted run; None keeps none (nor does vLLM).

    Raises:
        UserError: the backend is vLLM, and it is not installed.
    """
    if params.evaluate.backend == "vllm" and not bar_answer:
        return vllm_model(folder, params)
    from stages.core.lm import Model

    return Model(folder, params, bar_answer, shown, batches or Batches())


def vllm_model(folder: Path, params: Params) -> "LM":
    if find_spec("vllm") is None:
        raise UserError("evaluate.backend: vllm is not installed: `pip install vllm`, or say hf")
    from lm_eval.models.vllm_causallms import VLLM

    from stages.core import models

    where = models.located(folder)
    return VLLM(
        pretrained=where["pretrained_model_name_or_path"],
        revision=where.get("revision", "main"),
        dtype="auto",
        batch_size="auto",
        seed=params.seed,
        add_bos_token=False,
    )


def completion(model: "LM", text: str, limit: int) -> Completion:
    """A text with its length; where the backend kept none, the tokenizer's count stands for it."""
    if text in getattr(model, "lengths", {}):
        return Completion(text, *model.lengths[text])
    count = len(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    return Completion(text, count, count < limit)


def entropies(model: "LM", outcome: Outcome, params: Params) -> list[float]:
    """Of the first sample of each problem; none where none was drawn, or the model is vLLM's."""
    if not outcome.sampled or not hasattr(model, "entropies"):
        return []
    first = [texts[0] for texts in outcome.sampled]
    return model.entropies(outcome.prompts, first, params.evaluate.temperature)


def prompts_cut(model: "LM", prompts: list[str], limit: int) -> int:
    """How many prompts lm-eval cut at their beginning, to leave room for `limit` new tokens."""
    room = model.max_length - limit
    encoded = model.tokenizer(prompts, add_special_tokens=False)["input_ids"]
    cut = sum(len(ids) > room for ids in encoded)
    if cut:
        log.warning("evaluate: %d of %d prompts have more than the %d tokens that the model has "
                    "room for, and were cut", cut, len(prompts), room)  # fmt: skip
    return cut


def run(model: "LM", rows: list[dict], shots: list[dict], params: Params) -> Outcome | None:
    """Every row answered greedily, and `samples_per_prompt` times at the temperature.

    None in a process that only generates for the first one.

    Args:
        model: from `language_model`.
        rows: prepared rows; each is a document of the lm-eval task.
        shots: demonstrations for few-shot prompts, `evaluate.few_shot` of them.
        params: for evaluation's settings and the format.
    """
    from lm_eval import evaluate  # simple_evaluate runs pip and git for a description
    from lm_eval.tasks import TaskManager

    tasks = [graded(rows, shots, params)]
    if params.evaluate.samples_per_prompt:
        tasks.append(sampled(tasks[0], params))
    loaded = TaskManager(include_defaults=False).load(tasks)
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seed=params.seed)
    results = evaluate(
        lm=model,
        task_dict=loaded,
        system_instruction=system(rows),
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        bootstrap_iters=0,
        log_samples=True,
    )
    if not launch.first():
        return None
    greedy = results["samples"]["graded"]
    repeated = results["samples"].get("sampled", [])
    return Outcome(
        prompts=[sample["arguments"][0][0] for sample in greedy],
        greedy=[sample["resps"][0][0] for sample in greedy],
        sampled=[sample["resps"][0] for sample in repeated],
        figures=results["results"],
    )


def seeds(seed: int) -> dict[str, int]:
    names = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    return dict.fromkeys(names, seed)


def system(rows: list[dict]) -> str | None:
    found = [m["content"] for m in rows[0]["prompt"] if m["role"] == "system"]
    return found[0] if found else None


def graded(rows: list[dict], shots: list[dict], params: Params) -> dict[str, Any]:
    """The lm-eval task of these rows, greedy."""
    from datasets import Dataset

    def process_results(doc: dict, completions: list[str]) -> dict[str, float]:
        verdict = grade(completions[0], doc, params.format.tags)
        return {rate: float(bool(getattr(verdict, name))) for rate, name in RATES.items()}

    task = yaml.safe_load(TASK_FILE.read_text())
    task["custom_dataset"] = lambda **_: {"test": Dataset.from_list(rows)}
    task["generation_kwargs"]["max_gen_toks"] = params.evaluate.max_completion_length
    task["process_results"] = process_results
    task["num_fewshot"] = params.evaluate.few_shot
    if params.evaluate.few_shot:
        task["fewshot_config"] = {
            "sampler": "first_n",
            "samples": [{**row, "shown": row["completion"][0]["content"]} for row in shots],
            "doc_to_target": lambda doc: doc["shown"],
        }
    return task


def sampled(task: dict[str, Any], params: Params) -> dict[str, Any]:
    """The same task, several samples a row."""
    k = params.evaluate.samples_per_prompt

    def process_results(doc: dict, completions: list[list[str]]) -> dict[str, float]:
        verdicts = grades(completions[0], [doc] * k, params.format.tags)
        return {"accuracy": sum(bool(v.correct) for v in verdicts) / k}

    return {
        **task,
        "task": "sampled",
        "repeats": k,
        "generation_kwargs": {
            **task["generation_kwargs"], "do_sample": True, "top_k": 0, "top_p": 1.0,
            "temperature": params.evaluate.temperature,
        },
        "filter_list": [{"name": "all", "filter": [{"function": "take_first_k", "k": k}]}],
        "process_results": process_results,
        "metric_list": [m for m in task["metric_list"] if m["metric"] == "accuracy"],
    }  # fmt: skip


def official_tasks(params: Params) -> tuple["TaskManager", list[str]]:
    """lm-eval's index and the names in it of `evaluate.tasks`.

    Raises:
        UserError: a file is missing, or lm-eval has no such task.
    """
    from lm_eval.tasks import TaskManager

    names = params.evaluate.tasks
    files = [Path(name) for name in names if name.endswith(".yaml")]
    for file in files:
        if not file.is_file():
            raise UserError(f"evaluate.tasks: {file} is not there: put it there, or name another")
    folders = [str(file.parent) for file in files]
    manager = TaskManager(include_path=folders or None, include_defaults=len(folders) < len(names))
    wanted = [Path(name).stem if name.endswith(".yaml") else name for name in names]
    if unknown := [name for name in wanted if name not in manager.all_tasks]:
        near = difflib.get_close_matches(unknown[0], manager.all_tasks, n=1)
        hint = f"; did you mean {near[0]}?" if near else ": `lm-eval ls tasks` lists them"
        raise UserError(f"evaluate.tasks: lm-eval has no task {', '.join(unknown)}{hint}")
    return manager, wanted


def official(model: "LM", params: Params) -> dict[str, dict[str, float]]:
    """lm-eval's own tasks of `evaluate.tasks`, as published: their prompts, their extraction.

    Raises:
        UserError: lm-eval has no such task, or its data cannot be had.
    """
    from lm_eval import simple_evaluate

    if not params.evaluate.tasks:
        return {}
    manager, wanted = official_tasks(params)
    try:
        results = simple_evaluate(
            model=model,
            tasks=wanted,
            task_manager=manager,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            limit=params.evaluate.num_samples,
            bootstrap_iters=0,
            **seeds(params.seed),
        )
    except OSError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"evaluate.tasks: the data of {', '.join(wanted)} cannot be had ({reason})"
        ) from error
    if not launch.first():
        return {}
    return {task: numbers(figures) for task, figures in results["results"].items()}


def numbers(figures: dict[str, Any]) -> dict[str, float]:
    """lm-eval's `exact_match,strict-match` -> `exact_match.strict-match`."""
    return {name.replace(",", "."): value for name, value in figures.items()
            if isinstance(value, int | float)}  # fmt: skip
