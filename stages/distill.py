"""distill: a smaller student learns from what the teacher gets right.

The GRPO model answers training prompts; the reward's own verdict decides which completions are
kept (verified sequence-level distillation, after https://arxiv.org/abs/1606.07947). Teacher and
student need no common tokenizer.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core import launch, resume, stage
from stages.core.batches import Batches, Ids, seed_at
from stages.core.errors import UserError
from stages.core.files import read_rows, write_rows
from stages.core.grade import grades
from stages.core.params import Distill, Params
from stages.core.stage import Run

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

TEACHER, OUT = Path("models/grpo"), Path("models/student")
DEMONSTRATIONS, POOL = Path("data/sft.jsonl"), Path("data/grpo.jsonl")
SAMPLES, CURVE = Path("rollouts/teacher.jsonl"), Path("plots/distill.csv")
BATCH = 128  # prompts sampled at once


def body(params: Params, run: Run) -> dict:
    from stages.core import models, training

    distill = params.distill
    if distill.student.source != "scratch":  # before the teacher samples for hours
        models.load_tokenizer(distill.student.source, distill.student.revision)
    rows = [*read_rows(DEMONSTRATIONS), *read_rows(POOL)]
    chosen = random.Random(params.seed).sample(rows, min(distill.num_samples, len(rows)))
    teacher_tokenizer = models.load_tokenizer(TEACHER)
    pairs = list(sampled(chosen, teacher_tokenizer, params, run))
    samples = launch.once(lambda: verified(pairs, params))
    if launch.first():
        write_rows(SAMPLES, samples)
    run.artifact(SAMPLES)
    kept = distinct([sample for sample in samples if sample["correct"]])
    lessons = enough(kept, distill)

    student, tokenizer = new_student(params, teacher_tokenizer)
    run.progress.restart()
    trained = training.supervised(student, tokenizer, lessons, distill, run, params.seed)
    if not launch.first():
        return {}
    models.save_model(trained, tokenizer, OUT)
    run.write_curve(CURVE)
    return {
        "parameters": models.parameters(trained),
        "sampled": len(samples),
        "verified": sum(sample["correct"] for sample in samples),
        "kept": len(kept),
        **run.last("loss", "tokens"),
        "findings": run.findings,
    }


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

        done.append((start, kept.get(start, encoded["input_ids"].tolist(), seeded)))
        run.progress.update(min(start + BATCH, len(rows)), len(rows), "teacher samples")
    for start, ids in sorted(launch.gathered(done)):
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        yield from ((rows[start + i // n], text) for i, text in enumerate(texts))


def prompts(rows: list[dict], tokenizer: "PreTrainedTokenizerBase") -> "BatchEncoding":
    """The rows' prompts as token ids, (rows, length), padded on the left."""
    texts = [
        tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        for row in rows
    ]
    return tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)


def complete(
    teacher: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    encoded: "BatchEncoding",
    distill: Distill,
) -> Ids:
    """`samples_per_prompt` completions of each prompt, one after the other."""
    output = teacher.generate(
        **encoded.to(teacher.device),
        do_sample=True,
        temperature=distill.temperature,
        top_k=0,
        num_return_sequences=distill.samples_per_prompt,
        max_new_tokens=distill.max_completion_length,
        pad_token_id=tokenizer.pad_token_id,
    )
    return output[:, encoded["input_ids"].shape[1] :].tolist()


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


def distinct(samples: list[dict]) -> list[dict]:
    """Each prompt and completion once."""
    seen = {(s["prompt"][-1]["content"], s["completion"][0]["content"]): s for s in samples}
    return list(seen.values())


def enough(kept: list[dict], distill: Distill) -> list[dict]:
    """The verified samples, or what params.yaml says where they are too few.

    Raises:
        UserError: fewer than `min_samples`, and `if_fewer` is `fail`.
    """
    if len(kept) >= distill.min_samples:
        return kept
    if distill.if_fewer == "demonstrations":
        return list(read_rows(DEMONSTRATIONS))
    raise UserError(
        f"the teacher got {len(kept)} samples right, distill.min_samples asks for "
        f"{distill.min_samples}: raise distill.num_samples or samples_per_prompt, train the "
        "teacher longer, or set distill.if_fewer to demonstrations"
    )


def new_student(
    params: Params, teacher_tokenizer: "PreTrainedTokenizerBase"
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    from stages.core import models

    student = params.distill.student
    if student.source == "scratch":
        model = models.from_scratch(student.scratch, teacher_tokenizer, params.seed)
        model.set_attn_implementation(params.base.attn_implementation)
        return model.to(models.device()), teacher_tokenizer
    attn = params.base.attn_implementation
    model = models.load_model(student.source, attn, revision=student.revision)
    return model, models.load_tokenizer(student.source, student.revision)


if __name__ == "__main__":
    stage.main("distill", body)
