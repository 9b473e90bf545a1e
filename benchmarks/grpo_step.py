"""A GRPO step of the stage beside one of a plain TRL script: python -m benchmarks.grpo_step.

    dvc repro sft prepare                      # what both train, and on what
    python -m benchmarks.grpo_step [--rounds 5] [--steps 8]

Both train params.yaml's model on its data with its rewards and settings, by turns. The plain script
is what a user would write who has read TRL's documentation: eager attention, no activation
checkpointing, bf16, one micro-batch; it keeps no rollouts and checks nothing. Of each turn the
median step counts, without the first two, which warm up.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from stages import grpo, rewards
from stages.core import lora, models, stage
from stages.core import params as parameters
from stages.core.files import read_rows
from stages.core.stage import Run
from stages.core.tracking import Spool

WARM_UP = 2


class Clock(TrainerCallback):
    """Seconds of each step, from wall clock and processor."""

    def __init__(self):
        self.steps: list[tuple[float, float]] = []

    def on_step_begin(self, *_, **__):
        self.began = time.perf_counter(), time.process_time()

    def on_step_end(self, *_, **__):
        wall, cpu = self.began
        self.steps.append((time.perf_counter() - wall, time.process_time() - cpu))

    def medians(self) -> tuple[float, float]:
        wall, cpu = zip(*self.steps[WARM_UP:], strict=True)
        return statistics.median(wall), statistics.median(cpu)


def plain(params: parameters.Params) -> GRPOTrainer:
    from datasets import Dataset

    functions, weights = rewards.load(params.grpo.rewards, params.format.tags)
    return GRPOTrainer(
        model=models.load_model(grpo.SFT, "eager"),
        reward_funcs=functions,
        args=grpo.configuration(params.grpo, params.seed, Path("out"), weights),
        train_dataset=Dataset.from_list(list(read_rows(grpo.ROWS))),
        processing_class=models.load_tokenizer(grpo.SFT),
        peft_config=lora.config(params.grpo.lora),
    )


def own(params: parameters.Params) -> GRPOTrainer:
    functions, weights = rewards.load(params.grpo.rewards, params.format.tags)
    run = Run("grpo", params, Spool(Path(os.devnull)))
    return grpo.trainer_of(params, run, functions, weights)


def timed(make: Callable[[parameters.Params], GRPOTrainer], params: parameters.Params):
    """Median seconds of a step: wall clock, processor."""
    stage.seed_everything(params.seed)
    trainer, clock = make(params), Clock()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock)
    with tempfile.TemporaryDirectory() as folder:
        trainer.args.output_dir = folder
        trainer.train()
    return clock.medians()


def changed(steps: int, shared: bool) -> parameters.Params:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["grpo"] |= {"max_steps": steps, "shared_prompt": shared}
    return parameters.validate(raw, "params.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    chosen = parser.parse_args()
    params, unshared = (changed(chosen.steps, shared) for shared in (True, False))
    variants = {
        "plain TRL": lambda: timed(plain, params),
        "the stage, shared_prompt: false": lambda: timed(own, unshared),
        "the stage": lambda: timed(own, params),
    }
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(chosen.rounds):
        for name, turn in variants.items():
            measured[name].append(turn())
    show(measured, params.grpo.batch_size * params.grpo.sampled_batches)


def show(measured: dict[str, list[tuple[float, float]]], samples: int) -> None:
    threads = torch.get_num_threads()
    print(f"{samples} completions a step, {threads} threads; medians, and the ratios' range")
    print(f"{'':34}{'ms':>7}{'samples/s':>11}{'ratio':>7}  {'':13}{'ratio by processor time'}")
    first = next(iter(measured.values()))
    for name, turns in measured.items():
        wall = statistics.median(turn[0] for turn in turns)
        ratios, by_cpu = ([a[i] / b[i] for a, b in zip(first, turns, strict=True)] for i in (0, 1))
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        print(f"{name:34}{1000 * wall:7.0f}{samples / wall:11.0f}{statistics.median(ratios):7.2f}"
              f"  {spread:13}{statistics.median(by_cpu):.2f}")  # fmt: skip


if __name__ == "__main__":
    stage.set_environment()
    main()
