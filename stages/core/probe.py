"""What the preflight samples and measures, with the very trainer that is to train.

It happens as training begins, when all is in place: precision, activation checkpointing, adapter.
Afterwards everything is as it was: training gives the same bits as without.
"""

import json
import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy
import torch
from transformers import TrainerCallback

from stages.core import launch, memory, preflight
from stages.core.errors import UserError
from stages.core.files import write_json
from stages.core.grade import grades
from stages.core.params import Grpo
from stages.core.preflight import Costs, Sample
from stages.core.stage import Run, peak_memory
from stages.core.training import Doctor

if TYPE_CHECKING:
    from trl import GRPOTrainer

log = logging.getLogger("stages")

PROMPTS = 32
FEWEST = 8  # prompts that are sampled however long it takes
PATIENCE = 60.0  # seconds after which no further prompts are begun
KEPT = "preflight.json"  # beside the checkpoints

# rows, completions and their token ids -> the reward of each, None where nothing judged it
Reward = Callable[[list[dict], list[str], list[list[int]]], list[float | None]]


class Preflight(TrainerCallback):
    """Looks whether training can work before its first step; says what it found.

    What was found lies beside the checkpoints: a training that goes on from one looks no second
    time, and ends with the metrics of one that was never stopped.

    Args:
        trainer: about to train; it has the `fmt` of its completions.
        diagnosis: whose findings these are put before.
        reward: training's own.

    Raises:
        UserError: training cannot work, and `grpo.preflight` is `refuse`.
    """

    def __init__(
        self, trainer: "GRPOTrainer", run: Run, grpo: Grpo, diagnosis: Doctor, reward: Reward
    ):
        self.trainer, self.run, self.grpo = trainer, run, grpo
        self.diagnosis, self.reward = diagnosis, reward
        self.metrics: dict[str, dict[str, float]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any):
        kept = Path(args.output_dir) / KEPT
        if self.grpo.preflight == "off":
            return
        if state.global_step:
            log.info("%s: preflight: left out, as training goes on", self.run.name)
            found = json.loads(kept.read_text()) if kept.exists() else {"metrics": {}}
            self.metrics = found["metrics"]
            self.diagnosis.findings[:0] = found.get("findings", [])
            return
        self.look()
        if launch.first():
            write_json(kept, {"metrics": self.metrics, "findings": self.diagnosis.findings})
        self.run.progress.restart()

    def look(self) -> None:
        began = time.perf_counter()
        with undisturbed(self.trainer.model):
            seeded(self.trainer.args.seed)
            # each process samples the same; what the first one finds holds for all
            here = measured(self.trainer, self.grpo, self.reward)
            groups, costs = launch.once(lambda: here)
        figures = preflight.figures(groups)
        found = preflight.examine(figures, self.grpo)
        seconds = round(time.perf_counter() - began, 2)
        shares = figures._asdict()
        expected = {**preflight.expected(costs, self.grpo), "seconds": seconds}
        self.metrics = {"preflight": shares, "preflight_costs": expected}
        log.info("%s: preflight: %s", self.run.name, preflight.in_words(figures, costs, self.grpo))
        self.run.table("preflight.json", [{**shares, **expected}])
        self.diagnosis.findings[:0] = map(asdict, found)
        self.diagnosis.hand_over()
        self.tell(found)

    def tell(self, found: list[preflight.Finding]) -> None:
        for finding in found:
            if finding.severity == "stop":
                raise UserError(
                    f"preflight: {finding.what}: training cannot work and does not start. Remedy: "
                    f"{finding.remedy}. `grpo.preflight: warn` trains all the same"
                )
        for finding in found:
            log.warning("%s: preflight: %s. Remedy: %s", self.run.name, finding.what,
                        finding.remedy)  # fmt: skip


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Generators, modes and gradients (none before a step) are afterwards as they were."""
    modes = [(module, module.training) for module in model.modules()]
    pythons, numpys = random.getstate(), numpy.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(pythons)
        numpy.random.set_state(numpys)
        for module, training in modes:
            module.training = training
        model.zero_grad(set_to_none=True)


def seeded(seed: int) -> None:
    """The same in each process, so that all of them refuse, or none."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def measured(
    trainer: "GRPOTrainer", grpo: Grpo, reward: Reward
) -> tuple[list[list[Sample]], Costs]:
    """Samples of some prompts, a group each, and what training costs."""
    trainer.model.train()  # as TRL samples
    rows = list(trainer.train_dataset)
    chosen = random.sample(rows, min(PROMPTS, len(rows)))
    batches = sampled(trainer, chosen, grpo, reward)
    timed = warmed_up(batches)
    samples = [sample for batch in timed for group in batch.groups for sample in group]
    sampling, judging = sum(b.sampling for b in timed), sum(b.judging for b in timed)
    width = sum(batch.width for batch in batches) / len(batches)
    forward, update, full = updated(trainer, preflight.longest(rows), grpo)
    peak = peak_memory()
    on_gpu = "peak_gpu_memory_mb" in peak
    held = 10**6 * peak["peak_gpu_memory_mb" if on_gpu else "peak_memory_mb"]
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    return [group for batch in batches for group in batch.groups], Costs(
        tokens_per_second=launch.world() * sum(sample.tokens for sample in samples) / sampling,
        sampling_seconds=(sampling + judging) / len(samples) / launch.world(),
        forward_seconds=forward,
        update_seconds=update,
        filled=min(1.0, width / full),
        memory=held + memory.optimizer_state(trained, str(trainer.args.optim)),
        of="GPU memory" if on_gpu else "memory",
    )


class Batch(NamedTuple):
    """Groups that were sampled at once."""

    groups: list[list[Sample]]
    sampling: float  # seconds
    judging: float
    width: int  # tokens of the longest prompt and completion together


def warmed_up(batches: list[Batch]) -> list[Batch]:
    """Those that tell how fast training samples: not the first one, which finds and warms up the
    kernels, unless what follows it is smaller: a few rows take nearly as long as many.
    """
    first, *further = batches
    enough = sum(len(batch.groups) for batch in further) >= len(first.groups)
    return further if enough else batches


def sampled(trainer: "GRPOTrainer", rows: list[dict], grpo: Grpo, reward: Reward) -> list[Batch]:
    """A group of samples for each row, as many at once as in training.

    Where it takes long, FEWEST rows have to do; not with several processes, which must agree.
    """
    n = grpo.group_size
    at_once = max(1, grpo.batch_size * grpo.sampled_batches // launch.world() // n)
    patience = PATIENCE if trainer.accelerator.num_processes == 1 else math.inf
    batches: list[Batch] = []
    done, taken = 0, 0.0
    while done < len(rows) and (done < FEWEST or taken < patience):
        repeated = [row for row in rows[done : done + at_once] for _ in range(n)]
        began = time.perf_counter()
        prompts, images, fields = trainer._tokenize_prompts([row["prompt"] for row in repeated])
        ids, _ = trainer._generate_single_turn(prompts, images, fields, n)
        drawn = time.perf_counter()
        samples = judged(trainer, repeated, ids, reward)
        ended = time.perf_counter()
        groups = [samples[i : i + n] for i in range(0, len(samples), n)]
        width = max(map(len, prompts)) + max(map(len, ids))
        batches.append(Batch(groups, drawn - began, ended - drawn, width))
        done, taken = done + at_once, taken + ended - began
    return batches


def judged(
    trainer: "GRPOTrainer", rows: list[dict], ids: list[list[int]], reward: Reward
) -> list[Sample]:
    texts = trainer.processing_class.batch_decode(ids, skip_special_tokens=True)
    verdicts = grades(texts, rows, trainer.fmt)
    ends = {*trainer.eos_token_ids, trainer.processing_class.pad_token_id}
    return [
        Sample(verdict.correct, total, bool(tokens) and tokens[-1] in ends,
               verdict.answer is not None, len(tokens))
        for verdict, total, tokens in zip(verdicts, reward(rows, texts, ids), ids, strict=True)
    ]  # fmt: skip


def updated(trainer: "GRPOTrainer", rows: list[dict], grpo: Grpo) -> tuple[float, float, int]:
    """Seconds of a forward pass, and of forward and backward, over a micro-batch; its length.

    All of it is the longest prompt with completions of full length, in groups and no two alike: no
    other batch needs more memory. The first of two passes finds and warms up the kernels (on a CPU
    it took up to twice as long) and is not counted.
    """
    prompts, _, _ = trainer._tokenize_prompts([row["prompt"] for row in rows])
    prompt, new = max(prompts, key=len), grpo.max_completion_length
    batch = torch.tensor(
        [turned(prompt, i // grpo.group_size) + (turned(prompt, i) * new)[:new]
         for i in range(grpo.batch_size // launch.world())], device=trainer.accelerator.device,
    )  # fmt: skip
    for _ in range(2):
        began = now(batch)
        scored, *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model, batch, torch.ones_like(batch), new, compute_entropy=True
        )
        forward = now(batch) - began
        scored.mean().backward()
        update = now(batch) - began
    return forward, update, len(prompt) + new


def turned(tokens: list[int], by: int) -> list[int]:
    """The same tokens from another one on: what is alike need not be computed twice."""
    by %= len(tokens)
    return tokens[by:] + tokens[:by]


def now(on: torch.Tensor) -> float:
    """The time when all work on that tensor's device is done."""
    if on.is_cuda:
        torch.cuda.synchronize(on.device)
    return time.perf_counter()
