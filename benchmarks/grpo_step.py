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
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import yaml
from trl import GRPOTrainer

from benchmarks.clock import Turn, by_turns, show, timed
from stages import grpo, rewards
from stages.core import lean, lora, models, stage
from stages.core import params as parameters
from stages.core.files import read_rows
from stages.core.stage import Run
from stages.core.tracking import Spool


def plain(params: parameters.Params) -> GRPOTrainer:
    from datasets import Dataset

    functions, weights = rewards.load(params.grpo.rewards, params.format.tags)
    return GRPOTrainer(
        model=models.load_model(grpo.SFT, "eager"),
        reward_funcs=functions,
        args=grpo.configuration(params.grpo, params.seed, Path("out"), weights),
        train_dataset=Dataset.from_list(list(read_rows(grpo.ROWS))),
        processing_class=models.load_tokenizer(grpo.SFT),
        peft_config=None if params.grpo.lora is None else lora.config(params.grpo.lora),
    )


def own(params: parameters.Params) -> GRPOTrainer:
    functions, weights = rewards.load(params.grpo.rewards, params.format.tags)
    run = Run("grpo", params, Spool(Path(os.devnull)))
    return grpo.trainer_of(params, run, functions, weights)


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
    measured = by_turns(
        {
            "plain TRL": lambda: turn(plain, params),
            "the stage, shared_prompt: false": lambda: turn(own, unshared),
            "the stage": lambda: turn(own, params),
        },
        chosen.rounds,
    )
    show(measured, params.grpo.batch_size * params.grpo.sampled_batches, "completions")


def turn(make: Callable[[parameters.Params], GRPOTrainer], params: parameters.Params) -> Turn:
    stage.seed_everything(params.seed)
    trainer = make(params)
    with lean.as_trl_does() if make is plain else nullcontext():
        return timed(trainer)


if __name__ == "__main__":
    stage.set_environment()
    main()
