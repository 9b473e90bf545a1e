"""Checkpoints of a training: gone on from exactly, or not at all.

They lie in the stage's folder of its present inputs (stages/core/resume.py). A checkpoint counts
once its marker with the hash of each of its files is written; one that is damaged is passed over.

What transformers' checkpoint does not hold is kept with it: the curve, the count of tokens, and how
much of `rollouts.jsonl`, which grows beside the checkpoints, is theirs, with a hash of it.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from stages.core import launch
from stages.core.files import kept_rows, remove, sha256, write_json

if TYPE_CHECKING:
    from transformers import Trainer

    from stages.core.stage import Run

log = logging.getLogger("stages")

MARKER, EXTRAS, ROLLOUTS = "complete.json", "extras.json", "rollouts.jsonl"
KEPT = 2  # newest checkpoints of a training
NEARLY = 1e-6  # of an epoch: a sum of parts may fall short of a whole one


def newest(where: Path) -> Path | None:
    """The newest complete checkpoint; damaged ones are passed over, with a line that says so."""
    for checkpoint in sorted(where.glob("checkpoint-*"), key=step, reverse=True):
        if damage := damaged(checkpoint):
            log.warning("%s: %s: passed over", checkpoint.name, damage)
        else:
            return checkpoint
    return None


def step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def damaged(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, if anything."""
    try:
        hashes = json.loads((checkpoint / MARKER).read_bytes())
    except FileNotFoundError:
        return "was not finished"
    except ValueError:  # no JSON, or no text at all
        return f"{MARKER} is damaged"
    if not isinstance(hashes, dict) or EXTRAS not in hashes:
        return f"{MARKER} is damaged"
    for name, known in hashes.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if sha256(checkpoint / name) != known:
            return f"{name} is damaged"
    rollouts = json.loads((checkpoint / EXTRAS).read_text())["rollouts"]
    if first(rollouts["bytes"], checkpoint.with_name(ROLLOUTS)).hexdigest() != rollouts["sha256"]:
        return f"{ROLLOUTS} is damaged"
    return None


def first(count: int, path: Path) -> "hashlib._Hash":
    """The SHA-256 of a file's first bytes, to be gone on with; of fewer where it has fewer."""
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            while part := file.read(min(count, 2**20)):
                digest.update(part)
                count -= len(part)
    return digest


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
        self.hash = hashlib.sha256()  # of the file

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any):
        """What was passed over goes: it would count among those that transformers keeps."""
        if launch.first():
            for checkpoint in self.where.glob("checkpoint-*"):
                if step(checkpoint) > state.global_step:
                    remove(checkpoint)

    def on_epoch_begin(
        self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any
    ):
        """Tells the sampler its epoch; rows in their own order need none.

        In several processes accelerate does not reach it where batches are skipped, so that a later
        epoch would go on in the first one's order (huggingface/accelerate#4071 mends one process).
        """
        sampler = innermost(train_dataloader)
        if not isinstance(sampler, SequentialSampler):
            sampler.set_epoch(int(state.epoch + NEARLY))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any):
        apart = state.global_step % args.logging_steps == 0 and between_batches(self.trainer)
        if not apart or state.global_step >= state.max_steps:
            return
        waited = time.monotonic() - self.last
        if launch.once(lambda: waited >= self.run.checkpoint_seconds):
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any):
        self.last = time.monotonic()
        launch.together()  # each process writes files of its own
        if not launch.first():
            return
        checkpoint = self.where / f"checkpoint-{state.global_step}"
        extras = {"curve": self.run.curve, "tokens": self.trainer._total_train_tokens,
                  "rollouts": self.append(getattr(self.trainer, "rollouts", []))}  # fmt: skip
        write_json(checkpoint / EXTRAS, extras)
        files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file())
        hashes = {path.relative_to(checkpoint).as_posix(): sha256(path) for path in files}
        write_json(checkpoint / MARKER, hashes)

    def append(self, rollouts: Sequence[dict]) -> dict:
        """Writes rollouts that are not in the file yet; says what it holds by now."""
        with (self.where / ROLLOUTS).open("ab") as file:
            for row in rollouts[self.written :]:
                line = json.dumps(row).encode() + b"\n"
                file.write(line)
                self.hash.update(line)
            size = file.tell()
        self.written = len(rollouts)
        return {"bytes": size, "sha256": self.hash.hexdigest()}

    def restore(self) -> Path | None:
        """The checkpoint to go on from, with what is kept beside it put back in place."""
        checkpoint = launch.once(lambda: newest(self.where))
        if checkpoint is None:
            if launch.first():
                self.begin()
            launch.together()
            return None
        extras = json.loads((checkpoint / EXTRAS).read_text())
        self.run.restore(extras["curve"])
        self.trainer._total_train_tokens = extras["tokens"]
        self.restore_rollouts(extras["rollouts"]["bytes"])
        log.info("%s: going on from step %d", self.run.name, step(checkpoint))
        return checkpoint

    def begin(self) -> None:
        """An empty place."""
        self.where.mkdir(parents=True, exist_ok=True)
        for unfinished in self.where.glob("checkpoint-*"):
            remove(unfinished)
        remove(self.where / ROLLOUTS)

    def restore_rollouts(self, size: int) -> None:
        """Those up to the checkpoint; what lies behind was sampled after it, or is cut off."""
        if not launch.first():
            return
        path = self.where / ROLLOUTS
        if not size:
            remove(path)
            return
        os.truncate(path, size)
        self.hash = first(size, path)
        with path.open() as file:
            self.trainer.rollouts = kept_rows(map(json.loads, file))
        self.written = len(self.trainer.rollouts)


def innermost(loader: Any) -> Any:
    """The sampler of rows below what accelerate has laid round it."""
    while below := getattr(loader, "batch_sampler", None):
        loader = below
    return loader.sampler


def between_batches(trainer: "Trainer") -> bool:
    """Whether the last batch of rollouts is used up; always so where there are none."""
    args = trainer.args
    passes = getattr(args, "num_iterations", 1) * getattr(args, "steps_per_generation", 1)
    return getattr(trainer, "_step", 0) % passes == 0
