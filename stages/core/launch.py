"""A stage in several processes: started, counted, and made to agree.

`launch` of params.yaml says how many. The stage's command stays as it is: a process that finds
itself alone starts all of them by torchrun or `accelerate launch`, and ends as they end. Only the
first of them speaks, tracks and writes; batch sizes are of all of them together.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stages.core.errors import UserError

if TYPE_CHECKING:
    from stages.core.params import Launch, Params

STAGES = ("sft", "grpo", "distill", "evaluate")  # the others always run in one process
STARTED = "GRPO_LAUNCHED"  # set for what `start` starts
PATIENCE = timedelta(days=1)  # of a process for the slowest one
GRACE = 20.0  # seconds in which the first process ends, after it has said what all of them found

T = TypeVar("T")


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def first() -> bool:
    return rank() == 0


def own(parts: Sequence[T]) -> Sequence[T]:
    """This process's share of what all of them have before them."""
    return parts[rank() :: world()]


def apart(name: str) -> str:
    """A file name of this process's own: `batches.jsonl`, `batches.1.jsonl`."""
    return name if first() else f"{Path(name).stem}.{rank()}{Path(name).suffix}"


def gathered(items: list[T]) -> list[T]:
    """All processes' items, on each of them, the first process's first. All have to call it."""
    if world() == 1:
        return items
    import torch.distributed as dist

    parts: list[list[T]] = [[] for _ in range(world())]
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def once(find: Callable[[], T]) -> T:
    """What the first process finds, on each of them. All have to call it."""
    if world() == 1:
        return find()
    import torch.distributed as dist

    found = [find() if first() else None]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def together() -> None:
    """Waits until all processes are here."""
    gathered([])


def engine(asked: "Launch") -> str:
    """How accelerate's file spreads the work: DDP, FSDP, ZERO2 ...; without one, DDP.

    Raises:
        UserError: accelerate cannot read the file.
    """
    if asked.accelerate is None:
        return "DDP"
    import yaml
    from accelerate.commands.config import load_config_from_file

    try:
        config = load_config_from_file(asked.accelerate)
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"launch.accelerate: {asked.accelerate} is no configuration of accelerate ({reason}): "
            "take one of presets/accelerate"
        ) from None
    kind = config.distributed_type.value
    if kind == "DEEPSPEED":
        return f"ZERO{config.deepspeed_config.get('zero_stage')}"
    return kind if kind == "FSDP" else "DDP"


def check_engine(stage: str, params: "Params") -> None:
    """Refuses what cannot work with the engine that is asked for.

    Raises:
        UserError: says what.
    """
    file, kind = params.launch.accelerate, engine(params.launch)
    if kind.startswith("ZERO") and find_spec("deepspeed") is None:
        raise UserError(
            f"launch.accelerate: {file}, but deepspeed is not installed: `pip install deepspeed`, "
            "or name another file"
        )
    if kind not in ("FSDP", "ZERO3"):
        return
    section = getattr(params, stage, None)
    if getattr(section, "optimizer", None) == "muon":
        raise UserError(
            f"{stage}.optimizer: muon needs whole matrices, and {file} spreads them over "
            "processes: say adamw"
        )
    if getattr(section, "method", None) == "qlora" or getattr(section, "quantize", None) == "nf4":
        raise UserError(
            f"{stage}: {file} spreads weights over processes, and 4-bit ones cannot be: say lora "
            "without 4 bits, or take presets/accelerate/multi_gpu.yaml"
        )


def to_start(stage: str, asked: "Launch") -> bool:
    """Whether this process is to start the stage's processes rather than to be one of them."""
    here = "WORLD_SIZE" in os.environ or STARTED in os.environ
    several = asked.processes > 1 or asked.accelerate is not None
    return module(stage) in STAGES and several and not here


def module(stage: str) -> str:
    """The file of stages/ that is a stage's recipe: `distill_also@logits` is distill, too."""
    return stage.partition("@")[0].partition("_")[0]


def start(stage: str, asked: "Launch") -> int:
    """Runs the stage in all its processes; returns the exit code that they end with.

    torch's own launcher runs in this process: it ends the others when one fails, or when this one
    is ended. What failed has said so itself.
    """
    os.environ[STARTED] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # it would say that it sets this
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    program = ["-m", f"stages.{module(stage)}", *sys.argv[1:]]
    try:
        if asked.accelerate is None:
            torchrun(asked.processes, program)
        else:
            accelerate(asked.accelerate, asked.processes, program)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        return next((code if code > 0 else 128 - code for code in codes if code), 1)
    except SignalException as error:
        return 128 + error.sigval
    return 0


def torchrun(processes: int, program: list[str]) -> None:
    from torch.distributed import run

    run.run(run.parse_args(["--standalone", "--nproc-per-node", str(processes), *program]))


def accelerate(file: str, processes: int, program: list[str]) -> None:
    from accelerate.commands.launch import launch_command, launch_command_parser

    options = ["--config_file", file, "--num_processes", str(processes),
               "--main_process_port", "0"]  # fmt: skip
    launch_command(launch_command_parser().parse_args([*options, *program]))


def join(stage: str, asked: "Launch") -> None:
    """Becomes one of the stage's processes.

    Raises:
        UserError: there are more or fewer of them than were asked for, or than there are GPUs.
    """
    expected = asked.processes if module(stage) in STAGES else 1
    if world() != expected:
        raise UserError(
            f"launch.processes asks for {expected}, and {world()} started: set it to {world()}, or "
            f"start {expected}"
            if module(stage) in STAGES
            else f"it runs in one process, and {world()} started: start it without torchrun"
        )
    if world() == 1 and asked.accelerate is None:
        return
    import torch
    import torch.distributed as dist

    gpus, here = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if gpus and here > gpus:
        raise UserError(
            f"launch.processes: {here} processes on this machine, which has {gpus} GPUs: lower it"
        )
    if asked.accelerate and not gpus:
        raise UserError(
            f"launch.accelerate: {asked.accelerate} is for GPUs, and torch finds none here: set it "
            "to null"
        )
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)


def leave_it_to_first() -> None:
    """What all processes find is said once: the end of the first one ends the others meanwhile."""
    if not first():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(GRACE)


def failed_unexpectedly(said: Callable[..., Any]) -> Callable[..., None]:
    """An `excepthook`: in the others it is mostly the loss of the first process."""

    def hook(*error: Any) -> None:
        leave_it_to_first()
        said(*error)
        sys.stderr.flush()

    return hook
