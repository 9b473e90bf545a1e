"""The grpo stage with given completions in place of sampled ones, in as many processes as started.

`python -m tests.replayed`, by itself or under torchrun, in a folder of `small_grpo.project`.
"""

import os
from pathlib import Path

from stages import grpo
from stages.core import launch, shared_prompt, stage
from stages.core import params as parameters
from stages.core.tracking import Spool

TEXTS = (
    "<think>1+1=2</think><answer>2</answer>", "<answer>8</answer>", "2 2 2",
    "<think>5+3=8\n</think><answer>4</answer>",
)  # fmt: skip


def replaying() -> type:
    class Replaying(RECORDING()):
        def _generate_single_turn(self, prompt_ids, *_, **__):
            """What the completions of a group are hangs on their place in it alone."""
            first = self.accelerator.process_index * len(prompt_ids)
            end = self.processing_class.eos_token
            texts = [TEXTS[(first + i) % len(TEXTS)] + end for i in range(len(prompt_ids))]
            return self.processing_class(texts, add_special_tokens=False)["input_ids"], None

    return Replaying


RECORDING = grpo.recording_trainer

if __name__ == "__main__":
    stage.set_environment()
    params = parameters.load()
    launch.join("grpo", params.launch)
    stage.seed_everything(params.seed)
    grpo.recording_trainer = replaying
    shared_prompt.WORTH = 0  # a dead group goes forward only, however little it is
    grpo.body(params, stage.Run("grpo", params, Spool(Path(os.devnull))))
