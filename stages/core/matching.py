"""A student that learns its teacher's distributions over the next token, by TRL's trainer.

On its own completions (on-policy, https://arxiv.org/abs/2306.13649), or on given ones. The loss is
the generalised Jensen-Shannon divergence; neither model's logits are ever held whole.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from stages.core import resume, training
from stages.core.errors import UserError
from stages.core.params import Distill
from stages.core.stage import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import DistillationConfig


def matched(
    student: "PreTrainedModel",
    teacher: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: list[dict],
    distill: Distill,
    run: Run,
    seed: int,
) -> "PreTrainedModel":
    """Trains on rows of a prompt and, unless the method is on_policy, a completion.

    Raises:
        UserError: too few rows for a batch, or none that fits `max_length`.
    """
    from datasets import Dataset

    from stages.core import lean

    lean.passes(student)
    if distill.method == "on_policy":
        columns = [{"prompt": row["prompt"]} for row in rows]
    else:
        rows = training.fitting(rows, tokenizer, distill.max_length, run.name)
        columns = [
            {"prompt": row["prompt"], "completion_ids": completion_ids(row, tokenizer)}
            for row in rows
        ]
    require_a_batch(columns, distill)
    trainer = matching_trainer()(
        model=student,
        teacher_model=teacher.eval().requires_grad_(False),
        args=configuration(distill, seed, resume.folder(run.name)),
        train_dataset=Dataset.from_list(columns),
        processing_class=tokenizer,
        callbacks=[training.Doctor(run, distill), training.Report(run)],
        optimizers=(training.optimizer(student, distill), None),
    )
    training.train(trainer, run, distill)
    return trainer.model


def configuration(distill: Distill, seed: int, folder: Path) -> "DistillationConfig":
    from trl import DistillationConfig

    try:
        return DistillationConfig(
            **training.arguments(distill, seed, folder),
            beta=distill.beta,
            temperature=distill.temperature,
            max_completion_length=distill.max_completion_length,
        )
    except ValueError as error:
        raise UserError(f"distill.trainer: {error}") from None


def completion_ids(row: dict, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """As the teacher would have sampled them, with the end token."""
    text = row["completion"][0]["content"] + tokenizer.eos_token
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def require_a_batch(rows: list[dict], distill: Distill) -> None:
    """TRL drops an incomplete batch: too few rows train nothing, and exit with 0."""
    needed = distill.batch_size * distill.gradient_accumulation_steps
    if len(rows) < needed:
        raise UserError(
            f"{len(rows)} rows to train on, and a step takes {needed} (distill.batch_size x "
            "distill.gradient_accumulation_steps): lower them, or raise distill.num_samples"
        )


def matching_trainer() -> type:
    """TRL's trainer, which also takes completions. A function, because trl imports late."""
    from trl import DistillationTrainer

    ordered = training.epoch_sampler()

    class MatchingTrainer(DistillationTrainer):
        def _get_train_sampler(self, dataset=None):
            own = super()._get_train_sampler(dataset)
            return ordered(own.data_source, own.mini_repeat_count, own.batch_size,
                           own.repeat_count, own.shuffle, own.seed)  # fmt: skip

        def _generate_and_score_completions(self, inputs):
            self.given = [row.get("completion_ids") for row in inputs]
            return super()._generate_and_score_completions(inputs)

        def _generate_single_turn(self, *arguments, **named):
            if self.given[0] is None:
                return super()._generate_single_turn(*arguments, **named)
            return self.given

        def _compute_loss(self, *arguments):
            # TRL calls the backbones past the wrapper that accelerate put around `forward`
            with self.accelerator.autocast():
                return super()._compute_loss(*arguments)

    return MatchingTrainer
