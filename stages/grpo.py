"""grpo: group relative policy optimisation of the SFT model (https://arxiv.org/abs/2402.03300).

For each prompt a group of completions is sampled; each one's advantage is its reward against its
group's. A fresh LoRA adapter on the frozen SFT model is trained, so that the model with the adapter
off is the reference of the KL penalty; without `grpo.lora` all weights are, and the reference is a
second copy.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import rewards
from stages.answers import worker
from stages.answers.format import Format
from stages.core import doctor, launch, libraries, stage
from stages.core.curriculum import in_stages, pass_rates, worth_training
from stages.core.errors import UserError
from stages.core.files import indexed_rows, kept_rows, read_rows, write_rows
from stages.core.grade import Grade, grades, kept
from stages.core.params import Grpo, Params
from stages.core.stage import Run, log

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl import GRPOConfig, GRPOTrainer

    from stages.core.probe import Reward

SFT, ROWS = Path("models/sft"), Path("data/grpo.jsonl")
ADAPTER, ROLLOUTS, CURVE = (
    Path("models/adapter"), Path("rollouts/grpo.jsonl"), Path("plots/grpo.csv")
)  # fmt: skip
LIBRARIES = ("trl.trainer.grpo_trainer", "transformers.models.llama.modeling_llama")

# TRL's metric names -> those that users know; the others keep TRL's.
METRICS = {
    "reward": "mean_reward",
    "kl": "kl_div",
    "clip_ratio/region_mean": "clip_fraction",
    "cispo_clip_ratio": "clip_fraction",
    "frac_reward_zero_std": "dead_groups",
    "completions/clipped_ratio": "truncated",
    "completions/mean_length": "completion_length",
}
HIGH_REWARD = 0.8


def body(params: Params, run: Run) -> dict:
    libraries.load(*LIBRARIES)
    from stages.core import models, probe, training

    grpo = params.grpo
    functions, weights = rewards.load(grpo.rewards, params.format.tags)
    run.dataset(ROWS, "training")
    trainer = trainer_of(params, run, functions, weights)
    diagnosis = training.Doctor(run, grpo, METRICS)
    check = probe.Preflight(trainer, run, grpo, diagnosis, reward_of(functions, weights))
    for callback in (diagnosis, training.Report(run, METRICS, note="mean_reward"), check):
        trainer.add_callback(callback)
    try:
        training.train(trainer, run, grpo)
    finally:  # what went wrong can be read there
        if trainer.rollouts and launch.first():
            write_rows(ROLLOUTS, trainer.rollouts)
            run.artifact(ROLLOUTS)
    trained = training.whole(trainer)
    if not launch.first():
        return {}
    save(trained, models.load_tokenizer(SFT))
    run.write_curve(CURVE)
    targets = doctor.targets(diagnosis.curve)
    log.info("grpo: targets: %s", doctor.in_words(targets))
    final = run.last("mean_reward", "accuracy", "format_compliance_rate", "high_reward_rate",
                     "kl_div", "entropy", "truncated", "dead_groups", "resampled_groups",
                     "further_groups", "tokens")  # fmt: skip
    return {**final, **check.metrics, "targets": targets, "findings": run.findings,
            **worker.trouble()}  # fmt: skip


def trainer_of(
    params: Params, run: Run, functions: list[Callable], weights: list[float]
) -> "GRPOTrainer":
    """The SFT model's trainer, ready to train."""
    from stages.core import lean, lora, models, resume, training

    grpo = params.grpo
    config = configuration(grpo, params.seed, resume.folder(run.name), weights)
    chosen = in_order(indexed_rows(ROWS), grpo, config, params.seed)
    require_a_batch(chosen, config)
    model = models.load_model(
        SFT,
        params.base.attn_implementation,
        training.frozen_dtype("fp32" if grpo.lora is None else grpo.precision),
        grpo.quantize == "nf4",
    )
    if grpo.lora is not None:
        lora.require_modules(model, grpo.lora, "grpo.lora")
    lean.passes(model)
    return recording_trainer()(
        fmt=params.format.tags,
        pass_at=grpo.pass_at,
        rounds=grpo.dynamic_sampling,
        shared=grpo.shared_prompt,
        model=model,
        reward_funcs=functions,
        args=config,
        train_dataset=training.dataset(chosen),
        processing_class=models.load_tokenizer(SFT),
        peft_config=None if grpo.lora is None else lora.config(grpo.lora),
    )


def reward_of(functions: list[Callable], weights: list[float]) -> "Reward":
    """Training's reward of completions that were sampled outside of it."""

    def reward(rows: list[dict], texts: list[str], ids: list[list[int]]) -> list[float | None]:
        scores = rewards.judge(functions, rows, texts, ids)
        return [rewards.total(sample, weights) for sample in scores]

    return reward


def in_order(rows: Sequence[dict], grpo: Grpo, config: "GRPOConfig", seed: int) -> Sequence[dict]:
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


def require_a_batch(rows: Sequence[dict], config: "GRPOConfig") -> None:
    """TRL drops an incomplete generation batch: too few prompts train nothing, and exit with 0."""
    needed = config.generation_batch_size // config.num_generations
    if len(rows) < needed:
        raise UserError(
            f"{ROWS} leaves {len(rows)} prompts, a batch of completions takes {needed} "
            "(grpo.batch_size x grpo.gradient_accumulation_steps, or trainer.steps_per_generation, "
            "/ grpo.group_size): lower them or raise task.pool"
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
            model_init_kwargs=reference(SFT) if grpo.lora is None and grpo.kl_coef else None,
        )
    except ValueError as error:
        raise UserError(f"grpo.trainer: {error}") from None


def reference(where: Path) -> dict[str, str]:
    """What TRL must know beside the name, where it loads the reference model itself."""
    from stages.core import models

    revision = models.located(where).get("revision")
    return {"revision": revision} if revision else {}


def recording_trainer() -> type:
    """TRL's trainer with all that is added to it. A function, because trl imports late."""
    from trl import GRPOTrainer

    from stages.core.dynamic import DynamicSampling
    from stages.core.pass_at import PassAt
    from stages.core.shared_prompt import SharedPrompt

    class WholeTrainer(PassAt, DynamicSampling, Recording, SharedPrompt, GRPOTrainer):
        """What dynamic sampling hands on as known already is neither recorded nor timed twice."""

    return WholeTrainer


class Recording:
    """Keeps every rollout. Goes before SharedPrompt and TRL's GRPOTrainer among a trainer's bases.

    Args:
        fmt: what a completion's answer is found by.
        pass_at, rounds, shared: of `PassAt`, `DynamicSampling` and `SharedPrompt`.
        arguments: of GRPOTrainer.
    """

    def __init__(
        self, fmt: Format, pass_at: int = 1, rounds: int = 0, shared: bool = True, **arguments: Any
    ):
        super().__init__(**arguments)
        self.fmt = fmt
        self.pass_at = pass_at
        self.rounds = rounds
        self.share(shared)
        self.rollouts = kept_rows()

    def _get_train_sampler(self, dataset=None):
        from stages.core.training import epoch_sampler

        own = super()._get_train_sampler(dataset)
        return epoch_sampler()(own.data_source, own.mini_repeat_count, own.batch_size,
                               own.repeat_count, own.shuffle, own.seed)  # fmt: skip

    def _generate(self, *arguments, **named):
        with self.timed("generation"):
            return super()._generate(*arguments, **named)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        with self.timed("rewards"):
            scores = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        first = self.accelerator.process_index * len(inputs)  # scores are all processes'
        self.record(inputs, completions, scores[first : first + len(inputs)].tolist())
        return scores

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Seconds of a part of each batch, all its rounds together, for the diagnosis."""
        began = time.perf_counter()
        yield
        before = self._pending_metrics.pop(f"profiling/{part}", [])
        self._log_metric(f"profiling/{part}", sum(before) + time.perf_counter() - began)

    def record(self, inputs: list[dict], completions: list, scores: list[list[float]]) -> None:
        """Rows of this step, all processes', and the rates that users know by name."""
        contents = [completion[-1]["content"] for completion in completions]
        verdicts = grades(contents, inputs, self.fmt)
        weights, step = self.reward_weights.tolist(), self.state.global_step + 1
        rows = []
        for row, content, verdict, score in zip(inputs, contents, verdicts, scores, strict=True):
            reward = sum(w * s for w, s in zip(weights, score, strict=True) if s == s)
            for name, value in rates(verdict, reward, score).items():
                self._log_metric(name, value)
            named = dict(zip(self.reward_func_names, score, strict=True))
            rows.append(rollout(step, row, content, verdict, reward, named))
        self.rollouts.extend(launch.gathered(rows))


def rates(verdict: Grade, reward: float, scores: list[float]) -> dict[str, float]:
    """What one completion adds to the rates that users know by name."""
    return {
        "accuracy": float(bool(verdict.correct)),
        "format_compliance_rate": float(verdict.compliant),
        "shows_working": float(verdict.shows_working),
        "high_reward_rate": float(reward > HIGH_REWARD),
        "unjudged": float(any(s != s for s in scores)),  # None, as NaN
    }


def rollout(
    step: int, row: dict, content: str, verdict: Grade, reward: float, scores: dict[str, float]
) -> dict:
    """A row of rollouts/grpo.jsonl, with all that a second scoring of it needs."""
    return {
        "step": step,
        "task": row["task"],
        "question": row["question"],
        "gold": row["gold"],
        **kept(row),
        "completion": content,
        "correct": verdict.correct,
        "reward": reward,
        "rewards": scores,
    }


def save(model: Any, tokenizer: "PreTrainedTokenizerBase") -> None:
    """The adapter and what it was trained on; where all weights were, the model itself."""
    from stages.core import lora, models
    from stages.core.files import replacing, write_json

    models.require_numbers(model, ADAPTER)
    if not hasattr(model, "peft_config"):
        models.neutral_generation(model)
        models.save_model(model, tokenizer, ADAPTER)
        return
    for config in model.peft_config.values():
        if isinstance(config.target_modules, set):  # it would be written in another order each time
            config.target_modules = sorted(config.target_modules)
    with replacing(ADAPTER) as beside:
        model.save_pretrained(beside)
        write_json(beside / lora.TRAINED_ON, models.fingerprint(SFT))


if __name__ == "__main__":
    stage.main("grpo", body, LIBRARIES)
