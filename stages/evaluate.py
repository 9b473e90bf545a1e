"""evaluate: one model on the held-out problems, through lm-eval, greedy.

`python -m stages.evaluate MODEL`, where MODEL is base, sft, control, grpo or student. `control` is
the SFT model made to show its working: its completion is barred from opening with the answer. Every
sample's row is kept.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stages.answers import worker
from stages.answers.format import Format
from stages.core import stage
from stages.core.errors import UserError
from stages.core.files import read_rows, write_rows
from stages.core.grade import grade
from stages.core.params import Params
from stages.core.stage import Run
from stages.core.statistics import wilson

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM

TEST = Path("data/test.jsonl")
FOLDERS = {"base": "base", "sft": "sft", "control": "sft", "grpo": "grpo", "student": "student"}
TASK_FILE = Path(__file__).parent / "tasks" / "graded.yaml"
RATES = {"accuracy": "correct", "format_compliance_rate": "compliant",
         "shows_working": "shows_working"}  # fmt: skip


def body(model: str, params: Params, run: Run) -> dict:
    from stages.core import models

    run.dataset(TEST, "test")
    folder = Path("models", FOLDERS[model])
    rows = list(read_rows(TEST))[: params.evaluate.num_samples]
    if not rows:
        raise UserError(f"{TEST} has no rows: look at `task` in params.yaml")
    shown = partial(run.progress.update, total=len(rows))
    language_model = load(folder, params, bar_answer=model == "control", shown=shown)
    samples = judged(language_model, rows, params)
    rows = [sample_row(sample, params.format.tags) for sample in samples]
    path = Path("samples", f"{model}.jsonl")
    write_rows(path, rows)
    run.artifact(path)
    scores = summary(rows)
    rates = {k: v for k, v in scores.items() if k != "n"}
    run.summary({f"{model}.{params.task.name}.{k}": v for k, v in rates.items()})
    return {"parameters": models.parameters(language_model.model), params.task.name: scores,
            **worker.trouble()}  # fmt: skip


def load(folder: Path, params: Params, bar_answer: bool, shown: Callable[[int], None]) -> "HFLM":
    """The model as lm-eval's own Hugging Face model, with the project's tokenizer settings.

    Args:
        folder: of the model.
        params: for the format, the attention and the batch size.
        bar_answer: whether a completion may not open with the answer.
        shown: told how many prompts are done.
    """
    from lm_eval.models.huggingface import HFLM
    from transformers import LogitsProcessorList

    from stages.core import models
    from stages.core.generation import BarredOpening

    tokenizer = models.load_tokenizer(folder)
    opening = tokenizer(params.format.tags.opening, add_special_tokens=False)["input_ids"]

    class Model(HFLM):
        done = 0

        def generate_until(self, requests, disable_tqdm=False):
            return super().generate_until(requests, disable_tqdm=True)  # `shown` instead

        def _model_generate(self, context, *arguments, **options):
            if bar_answer:
                barred = BarredOpening(context.shape[1], opening)
                options["logits_processor"] = LogitsProcessorList([barred])
            generated = super()._model_generate(context, *arguments, **options)
            self.done += len(context)
            shown(self.done)
            return generated

    return Model(
        pretrained=models.load_model(folder, params.base.attn_implementation, dtype="auto").eval(),
        tokenizer=tokenizer,
        backend="causal",
        batch_size=params.evaluate.batch_size,
        add_bos_token=False,  # the chat template writes it where the model has one (trl#1400)
    )


def judged(model: "HFLM", rows: list[dict], params: Params) -> list[dict]:
    """lm-eval's per-sample records of the `graded` task on these rows."""
    from datasets import Dataset
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    def process_results(doc: dict, completions: list[str]) -> dict[str, float]:
        verdict = grade(completions[0], doc, params.format.tags)
        return {rate: float(bool(getattr(verdict, name))) for rate, name in RATES.items()}

    system = [m["content"] for m in rows[0]["prompt"] if m["role"] == "system"]
    task = yaml.safe_load(TASK_FILE.read_text())
    task["custom_dataset"] = lambda **_: {"test": Dataset.from_list(rows)}
    task["generation_kwargs"]["max_gen_toks"] = params.evaluate.max_completion_length
    task["process_results"] = process_results
    results = simple_evaluate(
        model=model,
        tasks=[task],
        task_manager=TaskManager(include_defaults=False),
        system_instruction=system[0] if system else None,
        apply_chat_template=True,
        bootstrap_iters=0,
        log_samples=True,
    )
    return results["samples"]["graded"]


def sample_row(sample: dict, fmt: Format) -> dict[str, Any]:
    doc, completion = sample["doc"], sample["resps"][0][0]
    verdict = grade(completion, doc, fmt)
    return {
        "question": doc["question"],
        "gold": doc["gold"],
        "level": doc["level"],
        "prompt": sample["arguments"][0][0],
        "completion": completion,
        "answer": verdict.answer,
        "correct": bool(verdict.correct),
        "compliant": verdict.compliant,
        "shows_working": verdict.shows_working,
    }


def summary(rows: list[dict]) -> dict[str, float]:
    """Rates over all samples, accuracy with its 95 % interval."""
    n = len(rows)
    low, high = wilson(sum(row["correct"] for row in rows), n)
    return {
        "n": n,
        "accuracy": sum(row["correct"] for row in rows) / n,
        "low": low,
        "high": high,
        "format_compliance_rate": sum(row["compliant"] for row in rows) / n,
        "shows_working": sum(row["shows_working"] for row in rows) / n,
    }


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in FOLDERS:
        sys.exit(f"usage: python -m stages.evaluate {{{','.join(FOLDERS)}}}")
    name = sys.argv[1]
    stage.main(f"evaluate@{name}", lambda params, run: body(name, params, run))
