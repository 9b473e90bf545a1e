"""distill: a smaller student learns from what the teacher gets right.

By default the GRPO model answers training prompts, and the reward's own verdict decides which
completions are kept (verified sequence-level distillation, after https://arxiv.org/abs/1606.07947);
teacher and student need no common tokenizer. The other methods: docs/distillation.md.

As a stage: `python -m stages.distill`; `python -m stages.distill METHOD` teaches the same student
by a method of report.compare, for the report.
"""

import copy
import random
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core import launch, libraries, resume, stage
from stages.core.batches import Batches, Ids, seed_at
from stages.core.errors import UserError
from stages.core.files import indexed_rows, read_rows, write_rows
from stages.core.grade import grades
from stages.core.params import MATCHED, METHODS, Distill, Method, Params
from stages.core.stage import Run, log

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEACHER, OUT = Path("models/grpo"), Path("models/student")
DEMONSTRATIONS, POOL = Path("data/sft.jsonl"), Path("data/grpo.jsonl")
ROLLOUTS = Path("rollouts/grpo.jsonl")
SAMPLES, CURVE = Path("rollouts/teacher.jsonl"), Path("plots/distill.csv")
LIBRARIES = ("trl.trainer.sft_trainer", "transformers.models.llama.modeling_llama")
BATCH = 128  # prompts sampled at once
LATE = 0.25  # share of grpo's steps whose rollouts are used again
OF_SAMPLES = ("verified", "unverified", "logits")  # methods for which the teacher samples


def body(params: Params, run: Run, suffix: str = "") -> dict:
    """`suffix` is what the names of all that is written end in."""
    libraries.load(*LIBRARIES)
    from stages.core import models, student

    distill = params.distill
    tokenizer = models.load_tokenizer(TEACHER)
    student.require_fitting(params, TEACHER, tokenizer)
    lessons, counts = material(params, run, tokenizer, suffix)
    pupil, own_tokenizer = student.new(params, TEACHER, tokenizer)
    run.progress.restart()
    trained = train(pupil, own_tokenizer, lessons, params, run)
    if not launch.first():
        return {}
    models.save_model(trained, own_tokenizer, OUT.with_stem(OUT.stem + suffix))
    run.write_curve(CURVE.with_stem(CURVE.stem + suffix))
    return {
        "parameters": models.parameters(trained),
        "method": distill.method,
        **counts,
        "rows": len(lessons),
        **run.last("loss", "tokens"),
        "findings": run.findings,
    }


def otherwise(method: Method, params: Params, run: Run) -> dict:
    """The same student by another method; all else is as it is."""
    distill = params.distill.model_copy(update={"method": method})
    return body(params.model_copy(update={"distill": distill}), run, f"-{method}")


def material(
    params: Params, run: Run, tokenizer: "PreTrainedTokenizerBase", suffix: str = ""
) -> tuple[Sequence[dict], dict[str, int]]:
    """The rows that the student is trained on, and what the teacher's sampling gave."""
    distill, samples = params.distill, []
    if distill.method == "demonstrations":
        lessons = indexed_rows(DEMONSTRATIONS)
    else:
        lessons = chosen(distill.num_samples, params.seed)
    if distill.method in OF_SAMPLES:
        pairs = list(sampled(lessons, tokenizer, params, run))
        samples = launch.once(lambda: verified(pairs, params))
    path = SAMPLES.with_stem(SAMPLES.stem + suffix)
    if launch.first():
        write_rows(path, samples)
    run.artifact(path)
    counts = {"sampled": len(samples), "verified": sum(sample["correct"] for sample in samples)}
    if distill.method in OF_SAMPLES:
        taken = [s for s in samples if s["correct"] or distill.method != "verified"]
        if distill.rollouts and distill.method == "verified":
            taken += (again := list(reused()))
            counts["reused"] = len(again)
        lessons = at_most(distinct(taken), distill)
    counts["kept"] = len(lessons)
    if distill.method == "verified":
        counts["fell_back"] = int(len(lessons) < distill.min_samples)
        lessons = enough(lessons, distill)
    return lessons, counts


def chosen(count: int, seed: int) -> list[dict]:
    """That many of the demonstrations and the pool, or all; in an order of the seed's."""
    shown, pool = indexed_rows(DEMONSTRATIONS), indexed_rows(POOL)
    there = len(shown) + len(pool)
    numbers = random.Random(seed).sample(range(there), min(count, there))
    return [shown[i] if i < len(shown) else pool[i - len(shown)] for i in numbers]


def train(
    student: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    lessons: Sequence[dict],
    params: Params,
    run: Run,
) -> "PreTrainedModel":
    from stages.core import matching, models, training

    distill = params.distill
    if distill.method not in MATCHED:
        trainer = training.supervisor(student, tokenizer, lessons, distill, run, params.seed)
        return training.supervised(trainer, run, distill)
    teacher = models.load_model(TEACHER, params.base.attn_implementation, dtype="auto")
    return matching.matched(student, teacher, tokenizer, lessons, distill, run, params.seed)


def sampled(
    rows: list[dict], tokenizer: "PreTrainedTokenizerBase", params: Params, run: Run
) -> Iterator[tuple[dict, str]]:
    """Rows with one of the teacher's completions each, `samples_per_prompt` times.

    Each process samples its share of the batches; what they hold does not hang on that.
    """
    import torch

    from stages.core import models

    distill, n = params.distill, params.distill.samples_per_prompt
    teacher = models.load_model(TEACHER, params.base.attn_implementation, dtype="auto").eval()
    kept = Batches(resume.folder(run.name) / launch.apart("batches.jsonl"))
    done = []
    for start in launch.own(range(0, len(rows), BATCH)):
        batch = rows[start : start + BATCH]
        encoded = prompts(batch, tokenizer)

        def seeded(encoded=encoded, start=start) -> Ids:
            torch.manual_seed(seed_at(params.seed, start))
            return complete(teacher, tokenizer, encoded, distill)

        done.append((start, kept.get(start, encoded, seeded)))
        run.progress.update(min(start + BATCH, len(rows)), len(rows), "teacher samples")
    for start, ids in sorted(launch.gathered(done)):
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        yield from ((rows[start + i // n], text) for i, text in enumerate(texts))


def prompts(rows: list[dict], tokenizer: "PreTrainedTokenizerBase") -> Ids:
    """The rows' prompts as token ids."""
    texts = [
        tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        for row in rows
    ]
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def complete(
    teacher: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompts: Ids, distill: Distill
) -> Ids:
    """`samples_per_prompt` completions of each prompt, one after the other."""
    from stages.core.sampling import completed, in_halves

    repeated = [prompt for prompt in prompts for _ in range(distill.samples_per_prompt)]
    config = copy.deepcopy(teacher.generation_config)
    config.update(do_sample=True, temperature=distill.temperature, top_k=0)
    return in_halves(
        lambda some: completed(teacher, tokenizer, some, config, distill.max_completion_length),
        repeated,
    )


def verified(pairs: list[tuple[dict, str]], params: Params) -> list[dict]:
    rows, completions = zip(*pairs, strict=True)
    verdicts = grades(completions, rows, params.format.tags)
    return [
        {
            "prompt": row["prompt"],
            "gold": row["gold"],
            "completion": [{"role": "assistant", "content": completion}],
            "correct": bool(verdict.correct),
        }
        for row, completion, verdict in zip(rows, completions, verdicts, strict=True)
    ]


def reused() -> Iterator[dict]:
    """Right completions of grpo's rollouts, of the LATE steps: what the policy says by then."""
    rollouts = list(read_rows(ROLLOUTS))
    asked = {(rollout["task"], rollout["question"]) for rollout in rollouts}
    prompts = {(row["task"], row["question"]): row["prompt"] for row in read_rows(POOL)
               if (row["task"], row["question"]) in asked}  # fmt: skip
    late = (1 - LATE) * max((rollout["step"] for rollout in rollouts), default=0)
    for rollout in rollouts:
        prompt = prompts.get((rollout["task"], rollout["question"]))
        if rollout["correct"] and rollout["step"] > late and prompt:
            completion = [{"role": "assistant", "content": rollout["completion"]}]
            yield {"prompt": prompt, "gold": rollout["gold"], "completion": completion,
                   "correct": True}  # fmt: skip


def distinct(samples: list[dict]) -> list[dict]:
    """Each prompt and completion once."""
    seen = {(s["prompt"][-1]["content"], s["completion"][0]["content"]): s for s in samples}
    return list(seen.values())


def at_most(samples: list[dict], distill: Distill) -> list[dict]:
    """`keep` samples of each prompt, or all; in the order of the prompts."""
    if distill.keep is None:
        return samples
    by_prompt: dict[str, list[dict]] = {}
    for one in samples:
        by_prompt.setdefault(one["prompt"][-1]["content"], []).append(one)
    chosen = diverse if distill.choose == "diverse" else shortest
    return [one for same in by_prompt.values() for one in chosen(same, distill.keep)]


def shortest(samples: list[dict], count: int) -> list[dict]:
    return sorted(samples, key=lambda one: len(one["completion"][0]["content"]))[:count]


def diverse(samples: list[dict], count: int) -> list[dict]:
    """From the shortest on, each time the one that is least like any taken so far."""
    first, *rest = shortest(samples, len(samples))
    taken = [first]
    while rest and len(taken) < count:
        farthest = min(rest, key=lambda one: max(likeness(one, other) for other in taken))
        rest.remove(farthest)
        taken.append(farthest)
    return taken


def likeness(one: dict, other: dict) -> float:
    """Words and signs that two completions share, of all that they have (Jaccard's index)."""
    a, b = (set(re.findall(r"\w+|[^\w\s]", s["completion"][0]["content"])) for s in (one, other))
    return len(a & b) / max(1, len(a | b))


def enough(kept: list[dict], distill: Distill) -> Sequence[dict]:
    """The verified samples, or what params.yaml says where they are too few.

    Raises:
        UserError: fewer than `min_samples`, and `if_fewer` is `fail`.
    """
    if len(kept) >= distill.min_samples:
        return kept
    if distill.if_fewer == "demonstrations":
        log.warning("distill: the teacher got %d samples right, distill.min_samples asks for %d: "
                    "the student learns from the demonstrations, not from the teacher",
                    len(kept), distill.min_samples)  # fmt: skip
        return indexed_rows(DEMONSTRATIONS)
    raise UserError(
        f"the teacher got {len(kept)} samples right, distill.min_samples asks for "
        f"{distill.min_samples}: raise distill.num_samples or samples_per_prompt, train the "
        "teacher longer, or set distill.if_fewer to demonstrations"
    )


def main() -> None:
    if len(sys.argv) == 2 and (method := sys.argv[1]) in METHODS:
        stage.main(f"distill_also@{method}", partial(otherwise, method), LIBRARIES)
    else:
        stage.main("distill", body, LIBRARIES)


if __name__ == "__main__":
    main()
