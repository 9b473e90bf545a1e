"""grpo: group relative policy optimisation of the SFT model (https://arxiv.org/abs/2402.03300).

For each prompt a group of completions is sampled; each one's advantage is its reward against its
group's. A fresh LoRA adapter on the frozen SFT model is trained, so that the model with the adapter
off is the reference of the KL penalty.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import rewards
from stages.answers import worker
from stages.answers.format import Format
from stages.core import doctor, stage
from stages.core.curriculum import in_stages, pass_rates, worth_training
from stages.core.errors import UserError
from stages.core.files import read_rows, write_rows
from stages.core.grade import grades
from stages.core.params import Grpo, Params
from stages.core.stage import Run, log

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl import GRPOConfig

SFT, ROWS = Path("models/sft"), Path("data/grpo.jsonl")
ADAPTER, ROLLOUTS, CURVE = (
    Path("models/adapter"), Path("rollouts/grpo.jsonl"), Path("plots/grpo.csv")
)  # fmt: skip

# TRL's metric names -> those that users know; the others keep TRL's.
METRICS = {
    "reward": "mean_reward",
    "kl": "kl_div",
    "clip_ratio/region_mean": "clip_fraction",
    "frac_reward_zero_std": "dead_groups",
    "completions/clipped_ratio": "truncated",
    "completions/mean_length": "completion_length",
}
HIGH_REWARD = 0.8


def body(params: Params, run: Run) -> dict:
    from datasets import Dataset

    from stages.core import checkpoints, lora, models, training

    grpo = params.grpo
    functions, weights = rewards.load(grpo.rewards, params.format.tags)
    run.dataset(ROWS, "training")
    tokenizer = models.load_tokenizer(SFT)
    rows = list(read_rows(ROWS))
    short = fitting(rows, tokenizer, grpo)
    require_a_batch(short, grpo)
    model = models.load_model(
        SFT,
        params.base.attn_implementation,
        training.frozen_dtype(grpo.precision),
        grpo.quantize == "nf4",
    )
    config = configuration(grpo, params.seed, checkpoints.folder(run.name), weights)
    chosen = in_order(short, grpo, config, params.seed)
    trainer = recording_trainer()(
        fmt=params.format.tags,
        model=model,
        reward_funcs=functions,
        args=config,
        train_dataset=Dataset.from_list(chosen),
        processing_class=tokenizer,
        peft_config=lora.config(grpo.lora),
        callbacks=[
            diagnosis := training.Doctor(run, grpo, METRICS),
            training.Report(run, METRICS, note="mean_reward"),
        ],
    )
    try:
        training.train(trainer, run, grpo)
    finally:  # what went wrong can be read there
        write_rows(ROLLOUTS, trainer.rollouts)
        run.artifact(ROLLOUTS)
    save_adapter(trainer.model)
    run.write_curve(CURVE)
    targets = doctor.targets(diagnosis.curve)
    log.info("grpo: targets: %s", doctor.in_words(targets))
    final = run.last("mean_reward", "accuracy", "format_compliance_rate", "high_reward_rate",
                     "kl_div", "entropy", "truncated", "dead_groups", "tokens")  # fmt: skip
    return {"prompts_too_long": len(rows) - len(short), **final, "targets": targets,
            "findings": run.findings, **worker.trouble()}  # fmt: skip


def fitting(rows: list[dict], tokenizer: "PreTrainedTokenizerBase", grpo: Grpo) -> list[dict]:
    """Rows whose prompt has at most `max_prompt_length` tokens; how many are left out is said."""
    if grpo.max_prompt_length is None:
        return rows
    texts = [tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True,
                                           tokenize=False) for row in rows]  # fmt: skip
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    kept = [r for r, n in zip(rows, lengths, strict=True) if n <= grpo.max_prompt_length]
    if len(kept) < len(rows):
        log.warning("grpo: %d of %d prompts have over max_prompt_length %d tokens: left out",
                    len(rows) - len(kept), len(rows), grpo.max_prompt_length)  # fmt: skip
    return kept


def in_order(rows: list[dict], grpo: Grpo, config: "GRPOConfig", seed: int) -> list[dict]:
    """The rows worth training on; under a curriculum as many as training takes, in its order."""
    settings = grpo.curriculum
    rates = pass_rates(read_rows(Path(settings.rollouts))) if settings.rollouts else {}
    rows = worth_training(rows, rates, settings)
    if settings.by == "none":
        return rows
    steps = config.steps_per_generation * config.num_iterations
    generations = -(-config.max_steps * config.gradient_accumulation_steps // steps)
    prompts = generations * config.generation_batch_size // config.num_generations
    config.shuffle_dataset = False
    return in_stages(rows, rates, settings, prompts, seed)


def require_a_batch(rows: list[dict], grpo: Grpo) -> None:
    """TRL drops an incomplete generation batch: too few prompts train nothing, and exit with 0."""
    needed = grpo.batch_size * grpo.gradient_accumulation_steps // grpo.group_size
    if len(rows) < needed:
        raise UserError(
            f"{ROWS} holds {len(rows)} prompts, one step takes {needed} (grpo.batch_size x "
            "grpo.gradient_accumulation_steps / grpo.group_size): lower them or raise task.pool"
        )


def configuration(grpo: Grpo, seed: int, folder: Path, weights: list[float]) -> "GRPOConfig":
    from trl import GRPOConfig

    from stages.core import training

    try:
        return GRPOConfig(
            **training.arguments(grpo, seed, folder),
            beta=grpo.kl_coef,
            epsilon=grpo.clip_epsilon,
            num_generations=grpo.group_size,
            temperature=grpo.temperature,
            top_p=grpo.top_p,
            max_completion_length=grpo.max_completion_length,
            reward_weights=weights,
        )
    except ValueError as error:
        raise UserError(f"grpo.trainer: {error}") from None


def recording_trainer() -> type:
    """TRL's trainer, which also keeps every rollout. A function, because trl imports late."""
    from trl import GRPOTrainer
    from trl.trainer.utils import RepeatSampler

    class EpochSampler(RepeatSampler):
        """TRL's, whose order hangs on the epoch: resumed in a later one, TRL's own begins anew."""

        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self):
            if self.shuffle:
                self.generator.manual_seed(self.seed + self.epoch)
            return super().__iter__()

    class RecordingTrainer(GRPOTrainer):
        def __init__(self, fmt: Format, **arguments: Any):
            super().__init__(**arguments)
            self.fmt = fmt
            self.rollouts: list[dict] = []

        def _get_train_sampler(self, dataset=None):
            own = super()._get_train_sampler(dataset)
            return EpochSampler(own.data_source, own.mini_repeat_count, own.batch_size,
                                own.repeat_count, own.shuffle, own.seed)  # fmt: skip

        def _generate(self, *arguments, **named):
            with self.timed("generation"):
                return super()._generate(*arguments, **named)

        def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
            with self.timed("rewards"):
                scores = super()._calculate_rewards(
                    inputs, prompts, completions, completion_ids_list
                )
            first = self.accelerator.process_index * len(inputs)  # scores are all processes'
            self.record(inputs, completions, scores[first : first + len(inputs)].tolist())
            return scores

        @contextmanager
        def timed(self, part: str) -> Iterator[None]:
            """Seconds of a part of each rollout, for the diagnosis."""
            began = time.perf_counter()
            yield
            self._log_metric(f"profiling/{part}", time.perf_counter() - began)

        def record(self, inputs: list[dict], completions: list, scores: list[list[float]]) -> None:
            """Rows of this step, and the rates that users know by name."""
            weights = self.reward_weights.tolist()
            names = self.reward_func_names
            contents = [completion[-1]["content"] for completion in completions]
            verdicts = grades(contents, inputs, self.fmt)
            for row, content, verdict, score in zip(
                inputs, contents, verdicts, scores, strict=True
            ):
                reward = sum(w * s for w, s in zip(weights, score, strict=True) if s == s)
                self._log_metric("accuracy", float(bool(verdict.correct)))
                self._log_metric("format_compliance_rate", float(verdict.compliant))
                self._log_metric("shows_working", float(verdict.shows_working))
                self._log_metric("high_reward_rate", float(reward > HIGH_REWARD))
                self._log_metric("unjudged", float(any(s != s for s in score)))  # None, as NaN
                self.rollouts.append({
                    "step": self.state.global_step + 1,
                    "task": row["task"],
                    "question": row["question"],
                    "gold": row["gold"],
                    "completion": content,
                    "correct": verdict.correct,
                    "reward": reward,
                    "rewards": dict(zip(names, score, strict=True)),
                })  # fmt: skip

    return RecordingTrainer


def save_adapter(model: Any) -> None:
    from stages.core.files import replacing
    from stages.core.models import require_numbers

    require_numbers(model, ADAPTER)
    for config in model.peft_config.values():
        if isinstance(config.target_modules, set):  # it would be written in another order each time
            config.target_modules = sorted(config.target_modules)
    with replacing(ADAPTER) as beside:
        model.save_pretrained(beside)


if __name__ == "__main__":
    stage.main("grpo", body)
