"""A GRPO step in which half of the groups earn the same, with and without their backward pass:

    dvc repro base prepare
    python -m benchmarks.dead_groups [--rounds 3] [--steps 5]

A Llama of 57 M parameters as it is made, all weights trained, 64 completions of 30 tokens a step.
Of each turn the median step counts, without the first two.
"""

import argparse
import math
import os
import tempfile
from pathlib import Path

import yaml

from benchmarks.clock import Turn, by_turns, show, timed
from stages import grpo
from stages.core import models, shared_prompt, stage
from stages.core import params as parameters
from stages.core.params import Shape
from stages.core.stage import Run
from stages.core.tracking import Spool

SHAPE = Shape(hidden_size=768, layers=8, heads=12, intermediate_size=2048)
COMPLETIONS = 64


def changed(steps: int) -> parameters.Params:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["grpo"] |= {"max_steps": steps, "batch_size": COMPLETIONS, "lora": None,
                    "learning_rate": 1e-5, "kl_coef": 0.0}  # fmt: skip
    return parameters.validate(raw, "params.yaml")


def turn(params: parameters.Params, worth: float) -> Turn:
    """Of a training in which a backward pass has to be worth so many operations to be spared."""
    shared_prompt.WORTH = worth
    group = params.grpo.group_size

    def reward(completions: list, **_) -> list[float]:
        """The same for every second group; else each completion its own."""
        return [float(i // group % 2 and i) for i in range(len(completions))]

    run = Run("grpo", params, Spool(Path(os.devnull)))
    return timed(grpo.trainer_of(params, run, [reward], [1.0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    chosen = parser.parse_args()
    params, worth = changed(chosen.steps), shared_prompt.WORTH
    tokenizer = models.load_tokenizer(Path("models/base"))
    with tempfile.TemporaryDirectory() as folder:
        grpo.SFT = Path(folder, "sft")
        model = models.from_scratch(SHAPE, tokenizer, params.seed)
        models.save_model(model, tokenizer, grpo.SFT)
        measured = by_turns(
            {
                "all of them backward": lambda: turn(params, math.inf),
                "what has a gradient": lambda: turn(params, worth),
            },
            chosen.rounds,
        )
    show(measured, COMPLETIONS, "completions")


if __name__ == "__main__":
    stage.set_environment()
    main()
