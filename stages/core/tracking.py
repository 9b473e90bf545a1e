"""Tracking, as a stage sees it: events go to a local file, a process of its own sends them on.

The stage imports no tracking library and waits for no server. Each event is a line of JSON in
`.cache/tracking/STAGE-TIME-PID.jsonl`; `python -m stages.core.tracker` reads that file while it
grows and reports to MLflow (and wandb, trackio). What a lost server missed stays in the file and
is sent by the next stage's tracker. A tracker that fails never fails its stage.
"""

import json
import logging
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from uuid import uuid4

import psutil

from stages.core import forkserver, launch
from stages.core.errors import UserError
from stages.core.files import cache_dir
from stages.core.graph import md5
from stages.core.params import Params, Tracking

log = logging.getLogger("stages")

PATIENCE = 60  # seconds that a finished stage waits for its tracker
LIBRARIES = ("mlflow.tracking.client", "mlflow.store.tracking.sqlalchemy_store", "dvc.repo",
             "dvc.stage.serialize", "dvc.scm", "ruamel.yaml",
             "sqlalchemy.dialects.sqlite")  # fmt: skip


class Spool:
    """The event file of one stage's run. Event times are in milliseconds, as in MLflow."""

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("a", buffering=1)

    def write(self, event: str, **fields: Any) -> None:
        line = {"event": event, "time": time.time_ns() // 1_000_000, **fields}
        self._file.write(json.dumps(line) + "\n")

    def metrics(self, values: dict[str, float], step: int) -> None:
        self.write("metrics", values=values, step=step)

    def summary(self, values: dict[str, float]) -> None:
        """Metrics of the whole pipeline run: they also stand on the parent run."""
        self.write("metrics", values=values, step=0, parent=True)

    def artifact(self, path: Path) -> None:
        self.write("artifact", path=str(path.resolve()), md5=md5(path))

    def table(self, name: str, rows: list[dict]) -> None:
        self.write("table", name=name, rows=rows)

    def dataset(self, path: Path, role: str) -> None:
        self.write("dataset", path=str(path), role=role)

    def register(self, model: str, folder: Path) -> None:
        self.write("register", model=model, folder=str(folder.resolve()), path=str(folder),
                   md5=md5(folder))  # fmt: skip


@contextmanager
def tracked(stage: str, params: Params) -> Iterator[Spool]:
    """A spool with its tracker process; the run's status follows from how the block ends.

    Of several processes only the first one reports.
    """
    if not launch.first():
        yield Spool(Path(os.devnull))
        return
    name = f"{stage}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
    spool = Spool(cache_dir("tracking") / name)
    spool.write("start", id=uuid4().hex, stage=stage, params=flat(params.model_dump()), tags=tags(),
                pipeline=pipeline_key(), started=time.strftime("%Y-%m-%d %H:%M:%S"),
                tracking=params.tracking.model_dump())  # fmt: skip
    tracker = start_tracker(spool.path, next(iter(pipeline()), None))
    status = "FAILED"
    try:
        yield spool
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        try:
            spool.write("end", status=status)
        finally:  # also where the disk is full
            await_tracker(tracker, spool.path)


def require_installed(tracking: Tracking) -> None:
    for name in tracking.also:
        if find_spec(name) is None:
            raise UserError(
                f"tracking.also: {name} is not installed: `pip install {name}`, or take it out"
            )
    if (tracking.uri or "").startswith("postgresql") and find_spec("psycopg2") is None:
        raise UserError("tracking.uri: psycopg2 is not installed: `pip install .[postgres]`")


class Tracker(NamedTuple):
    """The tracker's process, and its stdin."""

    process: subprocess.Popen | forkserver.Forked
    stdin: BinaryIO


def start_tracker(path: Path, owner: psutil.Process | None) -> Tracker:
    """The tracker follows the file until it reads `end`, or until its stdin closes with us.

    Args:
        owner: of a process that it may be forked from.
    """
    module, arguments = "stages.core.tracker", [str(path), str(os.getpid())]
    stdin, ours = os.pipe()
    with (cache_dir("tracking") / "tracker.log").open("a") as file, open(stdin, "rb"):
        process = None
        if owner and forkserver.of_use():
            files = [stdin, file.fileno(), file.fileno()]
            process = forkserver.start(owner, module, arguments, files, LIBRARIES, outlives=True)
        if process is None:
            command = [sys.executable, "-m", module, *arguments]
            process = subprocess.Popen(command, stdin=stdin, stdout=file, stderr=file)
        return Tracker(process, open(ours, "wb"))


def await_tracker(tracker: Tracker, path: Path) -> None:
    tracker.stdin.close()
    forked = isinstance(tracker.process, forkserver.Forked)
    try:
        if forked and not tracker.process.has_begun(PATIENCE):  # the server came to nothing
            tracker = start_tracker(path, None)
            tracker.stdin.close()
        code = tracker.process.wait(PATIENCE)
    except (subprocess.TimeoutExpired, TimeoutError):
        tracker.process.send_signal(signal.SIGKILL)
        code = forkserver.KILLED
    if code:
        log.warning("tracking: not reported (see %s); kept in %s and sent with the next stage",
                    path.with_name("tracker.log"), path.name)  # fmt: skip


def pipeline_key() -> str:
    """What the stages of one pipeline run have in common.

    The Prefect flow names it; under a plain `dvc repro` or `dvc exp run` it is the DVC process: its
    number, and psutil's hash of when it began, counted from the machine's start, as the time of day
    of that moment changes by a second now and then.
    """
    if given := os.environ.get("GRPO_PIPELINE_RUN"):
        return given
    dvc = next(filter(is_dvc, forkserver.asker().parents()), forkserver.asker())
    parts = [os.environ.get("DVC_EXP_NAME"), f"{dvc.pid}-{hash(dvc) & 0xFFFFFFFF:08x}"]
    return "-".join(filter(None, parts))


def pipeline() -> list[psutil.Process]:
    """The processes that this stage is to end with, the longest-lived first: the flow's, DVC's."""
    flow = os.environ.get("GRPO_PIPELINE_PID")
    found = [psutil.Process(int(flow))] if flow and psutil.pid_exists(int(flow)) else []
    return found + [p for p in forkserver.asker().parents() if is_dvc(p)][:1]


def is_dvc(process: psutil.Process) -> bool:
    try:
        return any(Path(part).name == "dvc" for part in process.cmdline()[:3])
    except psutil.Error:
        return False


def tags() -> dict[str, str]:
    """Where a run's numbers come from: commit, dirtiness, experiment, stage, host, who."""
    changed = git("status", "--porcelain", "--untracked-files=no")
    found = {
        "git.commit": git("rev-parse", "HEAD"),
        "git.dirty": "" if changed is None else str(bool(changed)).lower(),
        "dvc.stage": os.environ.get("DVC_STAGE"),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME"),
        "host": platform.node(),
        "mlflow.user": git("config", "user.name"),
        "prefect.flow_run": os.environ.get("GRPO_PIPELINE_RUN"),
    }
    return {key: value for key, value in found.items() if value}


def git(*arguments: str) -> str | None:
    """A git command's output; None outside a repository."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    return None if done.returncode else done.stdout.strip()


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """`{"grpo": {"kl_coef": 0}}` -> `{"grpo.kl_coef": 0}`"""
    if not isinstance(value, dict) or not value:
        return {path: value}
    joined = {key: f"{path}.{key}" if path else str(key) for key in value}
    return {k: v for key, inner in value.items() for k, v in flat(inner, joined[key]).items()}


def numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of nested metrics, flattened."""
    return {
        key: float(value)
        for key, value in flat(metrics).items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
