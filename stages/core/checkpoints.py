"""Checkpoints of a training: gone on from exactly, or not at all.

They lie in `.cache/checkpoints/STAGE/KEY`. The key is a hash of the stage's command, parameters,
code and inputs, so that nothing else ever goes on from them. A checkpoint counts once its marker
with the hash of each of its files is written; one that is damaged is passed over. The
frame of a stage that succeeds removes its own.

What transformers' checkpoint does not hold is kept beside it: the curve, the rollouts, the count of
tokens.
"""

import json
import logging
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from transformers import TrainerCallback

from stages.core.files import cache_dir, read_rows, remove, sha256, write_json
from stages.core.graph import digest, md5, of_stage, value_at

if TYPE_CHECKING:
    from transformers import Trainer

    from stages.core.stage import Run

log = logging.getLogger("stages")

MARKER, EXTRAS, ROLLOUTS = "complete.json", "extras.json", "rollouts.jsonl"
KEPT = 2  # newest checkpoints of a training


def folder(stage: str) -> Path:
    """Where this stage's checkpoints lie for exactly its present inputs; others are removed."""
    ours = cache_dir(f"checkpoints/{stage}") / key(stage)
    for other in ours.parent.iterdir():
        if other != ours:
            remove(other)
    return ours


def key(stage: str) -> str:
    """A hash of all that a stage's outcome hangs on, as dvc.yaml says it."""
    values = yaml.safe_load(Path("params.yaml").read_text())
    node = of_stage(stage, values)
    return digest({
        "command": node.command,
        "params": {name: value_at(values, name) for name in node.keys},
        "deps": {path: md5(Path(path)) for path in node.deps},
    })  # fmt: skip


def newest(where: Path) -> Path | None:
    """The newest complete checkpoint; damaged ones are passed over, with a line that says so."""
    found = sorted(where.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    for checkpoint in found:
        if damage := damaged(checkpoint):
            log.warning("%s: %s: passed over", checkpoint.name, damage)
        else:
            return checkpoint
    return None


def damaged(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, if anything."""
    try:
        hashes = json.loads((checkpoint / MARKER).read_text())
    except FileNotFoundError:
        return "was not finished"
    except json.JSONDecodeError:
        return f"{MARKER} is damaged"
    for name, known in hashes.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if sha256(checkpoint / name) != known:
            return f"{name} is damaged"
    return None


class Keeper(TrainerCallback):
    """Saves every so often, where a training can be cut without a trace, and marks it complete.

    That is where nothing is under way: after a log line, and for GRPO after the last update on a
    batch of rollouts.

    Args:
        trainer: whose `rollouts`, if it has any, are kept as well.
        run: whose curve is kept; its `checkpoint_seconds` say how often.
    """

    def __init__(self, trainer: "Trainer", run: "Run", where: Path):
        self.trainer, self.run, self.where = trainer, run, where
        self.last = time.monotonic()
        self.written = 0  # rollouts in the file

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any):
        due = time.monotonic() - self.last >= self.run.checkpoint_seconds
        apart = state.global_step % args.logging_steps == 0 and between_batches(self.trainer)
        if due and apart and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any):
        self.last = time.monotonic()
        if not state.is_world_process_zero:
            return
        checkpoint = self.where / f"checkpoint-{state.global_step}"
        extras = {"curve": self.run.curve, "tokens": self.trainer._total_train_tokens,
                  "rollouts": self.append(getattr(self.trainer, "rollouts", []))}  # fmt: skip
        write_json(checkpoint / EXTRAS, extras)
        files = (path for path in sorted(checkpoint.iterdir()) if path.is_file())
        write_json(checkpoint / MARKER, {path.name: sha256(path) for path in files})

    def append(self, rollouts: list[dict]) -> int:
        """Rollouts that are not in the file yet; returns how many there are."""
        with (self.where / ROLLOUTS).open("a") as file:
            for row in rollouts[self.written :]:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.written = len(rollouts)
        return self.written

    def restore(self) -> Path | None:
        """The checkpoint to go on from, with what is kept beside it put back in place."""
        checkpoint = newest(self.where)
        if checkpoint is None:
            self.where.mkdir(parents=True, exist_ok=True)
            for unfinished in self.where.glob("checkpoint-*"):
                remove(unfinished)
            self.rewrite([])
            return None
        extras = json.loads((checkpoint / EXTRAS).read_text())
        self.run.restore(extras["curve"])
        self.trainer._total_train_tokens = extras["tokens"]
        if extras["rollouts"]:  # what lies behind these was sampled after the checkpoint
            kept = islice(read_rows(self.where / ROLLOUTS), extras["rollouts"])
            self.trainer.rollouts = list(kept)
        self.rewrite(getattr(self.trainer, "rollouts", []))
        log.info("%s: going on from step %s", self.run.name, checkpoint.name.rpartition("-")[2])
        return checkpoint

    def rewrite(self, rollouts: list[dict]) -> None:
        """The file without what was sampled after the checkpoint, and perhaps cut off."""
        remove(self.where / ROLLOUTS)
        self.written = 0
        self.append(rollouts)


def between_batches(trainer: "Trainer") -> bool:
    """Whether the last batch of rollouts is used up; always so where there are none."""
    args = trainer.args
    passes = getattr(args, "num_iterations", 1) * getattr(args, "steps_per_generation", 1)
    return getattr(trainer, "_step", 0) % passes == 0
