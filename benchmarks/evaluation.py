"""An evaluation beside lm-eval's own: python -m benchmarks.evaluation.

    dvc repro merge                            # what is evaluated, and on what
    python -m benchmarks.evaluation [--rounds 5] [--model models/grpo] [--samples 4] [--shots 0]

lm-eval's Hugging Face model and ours answer the same task, params.yaml's test problems, greedily
and then several times each, by turns. lm-eval's batch size is the best of BATCHES, found first.
Loading is left out; what both answer greedily is compared.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from benchmarks.clock import Turn, by_turns, show
from stages import evaluate
from stages.core import harness, models, stage
from stages.core import params as parameters
from stages.core.batches import Batches
from stages.core.files import read_rows

if TYPE_CHECKING:
    from lm_eval.api.model import LM

BATCHES = (16, 64, 128, 256)
ROWS = Path("data/test.jsonl")


def lm_evals(folder: Path, params: parameters.Params, batch: int) -> "LM":
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=models.load_model(folder, params.base.attn_implementation, dtype="auto").eval(),
        tokenizer=models.load_tokenizer(folder), batch_size=batch, add_bos_token=False,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path, default=Path("models/grpo"))
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--shots", type=int, default=0, help="worked examples before each problem")
    chosen = parser.parse_args()
    rows = list(read_rows(ROWS))
    for repeats in (0, chosen.samples):
        compare(chosen.model, rows, changed(samples_per_prompt=repeats, few_shot=chosen.shots),
                chosen.rounds)  # fmt: skip


def compare(folder: Path, rows: list[dict], params: parameters.Params, rounds: int) -> None:
    answers: dict[str, list[str]] = {}

    def turn(name: str, answer: Callable[[], list[str]]) -> Callable[[], Turn]:
        def timed() -> Turn:
            wall, cpu = time.perf_counter(), time.process_time()
            answers[name] = answer()
            return time.perf_counter() - wall, time.process_time() - cpu

        return timed

    theirs = {n: partial(plain, lm_evals(folder, params, n), rows, params) for n in BATCHES}
    best = min(BATCHES, key=lambda n: turn("", theirs[n])()[0])
    model = harness.language_model(folder, params, shown=lambda done: None)
    names = f"lm-eval, batches of {best}", "the stage"
    answer = theirs[best], partial(own, model, rows, params)
    measured = by_turns({n: turn(n, a) for n, a in zip(names, answer, strict=True)}, rounds)
    repeats = params.evaluate.samples_per_prompt
    show(measured, len(rows) * (1 + repeats), f"completions ({repeats} samples a problem)")
    alike = sum(a == b for a, b in zip(*(answers[name] for name in names), strict=True))
    print(f"greedy completions alike: {alike} of {len(rows)}\n")


def plain(model: "LM", rows: list[dict], params: parameters.Params) -> list[str]:
    """As lm-eval's documentation has it."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    tasks = [harness.graded(rows, shots(params), params)]
    if params.evaluate.samples_per_prompt:
        tasks.append(harness.sampled(tasks[0], params))
    results = simple_evaluate(
        model=model, tasks=tasks, task_manager=TaskManager(include_defaults=False),
        apply_chat_template=True, fewshot_as_multiturn=True, bootstrap_iters=0, log_samples=True,
    )  # fmt: skip
    return [sample["resps"][0][0] for sample in results["samples"]["graded"]]


def own(model: "LM", rows: list[dict], params: parameters.Params) -> list[str]:
    model.done, model.batches = 0, Batches()  # nothing is known
    return harness.run(model, rows, shots(params), params).greedy


def shots(params: parameters.Params) -> list[dict]:
    return list(read_rows(evaluate.SHOTS))[: params.evaluate.few_shot]


def changed(**settings: int) -> parameters.Params:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["evaluate"] |= settings
    return parameters.validate(raw, "params.yaml")


if __name__ == "__main__":
    stage.set_environment()
    main()
