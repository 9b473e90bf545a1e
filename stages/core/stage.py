"""The frame around every stage: parameters, log, tracking, metrics, exit code.

A stage's file holds its recipe as a function `body(params, run) -> metrics`; `main` runs it. The
same frame serves `dvc repro`, an experiment and the Prefect flow: the stage does not know which.
"""

import gc
import logging
import math
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from stages.core import forkserver, launch, libraries, modules, resume, tracking
from stages.core import params as parameters
from stages.core.errors import UserError
from stages.core.files import (
    full_disk_said,
    root,
    writable,
    write_csv,
    write_json,
)
from stages.core.graph import of_stage
from stages.core.params import Params
from stages.core.progress import Progress

log = logging.getLogger("stages")

Body = Callable[[Params, "Run"], dict[str, Any]]

AGAIN = 1.0  # seconds in which a signal that comes twice is one, sent to the group and passed on


class Run:
    """What a stage's recipe may ask of its frame."""

    def __init__(self, name: str, params: Params, spool: tracking.Spool):
        self.name = name
        self.progress = Progress(name, params.run.log_every_seconds)
        self.checkpoint_seconds = params.run.checkpoint_seconds
        self.curve: list[dict] = []
        self._spool = spool
        self.findings: list[dict] = []  # of the diagnosis (stages/core/doctor.py)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of one step: a row of the curve, and to the trackers."""
        self.curve.append({"step": step, **metrics})
        self._spool.metrics(metrics, step)

    def restore(self, curve: list[dict]) -> None:
        """The curve of an interrupted run that this one goes on from; it is reported again."""
        for row in curve:
            self.log(row["step"], {name: value for name, value in row.items() if name != "step"})

    def summary(self, metrics: dict[str, float]) -> None:
        """Results of the whole pipeline run: they stand on the parent run, too."""
        self._spool.summary(metrics)

    def artifact(self, path: Path) -> None:
        """Hands a finished file or folder to the trackers."""
        self._spool.artifact(path)

    def table(self, name: str, rows: list[dict]) -> None:
        """Hands results to the trackers as a table, one row each, under a name ending in .json."""
        self._spool.table(name, rows)

    def dataset(self, path: Path, role: str) -> None:
        """Names a file as an input data set of this run."""
        self._spool.dataset(path, role)

    def register(self, model: str, folder: Path) -> None:
        """Registers a model folder under a name, without copying its weights."""
        self._spool.register(model, folder)

    def last(self, *names: str) -> dict[str, float]:
        """The latest logged values of these metrics."""
        latest = {name: value for row in self.curve for name, value in row.items()}
        return {name: latest[name] for name in names if name in latest}

    def not_in_curve(self, metrics: dict[str, float]) -> dict[str, float]:
        """Results that a curve does not hold already; a second value would bend it."""
        logged = {name for row in self.curve for name in row}
        return {name: value for name, value in metrics.items() if name not in logged}

    def write_curve(self, path: Path) -> None:
        write_csv(path, self.curve)


def main(name: str, body: Body, needs: Sequence[str] = (), later: Sequence[str] = ()) -> None:
    """Runs a stage and exits: 0, or 1 with one line where the user can mend it.

    Args:
        needs: modules of heavy libraries that the body loads; it may be forked from a process that
            has them (stages/core/forkserver.py).
        later: modules that the stages below it load.
    """
    stage = os.environ.get("DVC_STAGE", name)
    set_environment()
    end_by_signals()
    end_with_pipeline()
    try:
        with full_disk_said():
            set_up_log(stage)
            refuse_arguments(stage)
            params = ready(stage)
            if launch.to_start(stage, params.launch):
                launch.check_engine(stage, params)
                sys.exit(launch.start(stage, params.launch))
            libraries.leave_out(params)
            if needs and (code := forked(needs, later)) is not None:
                sys.exit(code)
            launch.join(stage, params.launch)
            seed_everything(params.seed)
            with resume.alone(stage):
                execute(stage, params, body)
            gc.freeze()  # the interpreter would go through all of it once more, for a second
    except UserError as error:
        if not log.handlers:
            sys.exit(f"{stage}: {error}")  # it is the log that cannot be written
        launch.leave_it_to_first()
        log.error("%s: %s", stage, error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def end_by_signals() -> None:
    """Lets SIGTERM and SIGINT end the stage in order.

    The same one within a second is the same: it came to the process group, and was passed on.
    """
    last: dict[int, float] = {}

    def end(number: int, _: object) -> None:
        now, before = time.monotonic(), last.get(number, -math.inf)
        last[number] = now
        if now - before < AGAIN:
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not in a shell's background
        signal.signal(signal.SIGINT, end)


def forked(needs: Sequence[str], later: Sequence[str]) -> int | None:
    """The exit code of the stage, run by a process that had its libraries; None: run it here."""
    pipeline = tracking.pipeline()
    if not pipeline or not forkserver.may_run():
        return None
    forkserver.meanwhile(pipeline[0], tracking.LIBRARIES, trackers=True)
    return forkserver.run(pipeline[0], needs, later)


def refuse_arguments(stage: str) -> None:
    """A stage would take no notice of them."""
    if given := sys.argv[1 + ("@" in stage) :]:
        raise UserError(
            f"a stage takes no arguments (given: {' '.join(given)}): set what you want in "
            "params.yaml, or try it by `dvc exp run -S KEY=VALUE`"
        )


def ready(stage: str) -> Params:
    """The parameters, once all that the stage needs is there.

    Raises:
        UserError: something is not; nothing heavy has been loaded yet.
    """
    params = parameters.load()
    parameters.require_here(params)
    tracking.require_installed(params.tracking)
    if launch.first():
        modules.renew(launch.module(stage))
    for path in of_stage(stage, params.model_dump()).deps:
        if not modules.is_list(path) and not Path(path).exists():
            raise UserError(f"{path} is missing: run the stage that makes it (`dvc repro {stage}`)")
    return params


def execute(stage: str, params: Params, body: Body) -> None:
    with tracking.tracked(stage, params) as spool:
        run = Run(stage, params, spool)
        metrics = body(params, run)
        if not launch.first():
            return
        seconds = time.time() - forkserver.asker().create_time()
        metrics = {**metrics, "seconds": round(seconds, 2), **peak_memory()}
        write_json(metrics_path(stage), metrics)
        spool.metrics(run.not_in_curve(tracking.numbers(metrics)), step=0)
    resume.finished(stage)
    log.info("%s: done in %.1f s", stage, seconds)


def peak_memory() -> dict[str, int]:
    """The most memory that this process held, and on a GPU its tensors, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    peak = {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 10**6}
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        peak["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() // 10**6
    return peak


def metrics_path(stage: str) -> Path:
    """`evaluate@grpo` -> metrics/evaluate/grpo.json; not the report's, which hangs on metrics/."""
    folder = "reports" if stage == "report" else "metrics"
    return Path(folder, *stage.split("@")).with_suffix(".json")


def set_environment() -> None:
    """Settings that libraries read when they are imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' bars; Progress shows one of ours
    # trl imports mlflow just to see whether it is there: 1 s. Tracking has a process of its own.
    os.environ.setdefault("DISABLE_MLFLOW_INTEGRATION", "TRUE")
    # On a CPU each new shape of a bf16 product is compiled, which takes as long as ten products.
    # Sampling has more shapes than oneDNN keeps (1,024), the same in each step; of some 40 KB each.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")


def set_up_log(stage: str) -> None:
    """The stage's lines on stderr; these and the libraries' in logs/STAGE.log."""
    folder = root() / "logs" / os.environ.get("DVC_EXP_NAME", "")
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / launch.apart(f"{stage}.log")
        path.write_text("")
        file = LogFile(path, mode="a")  # which the process that starts this one has open, too
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter("%(message)s"))
    console.setLevel(logging.INFO if launch.first() else logging.ERROR)
    logging.basicConfig(level=logging.WARNING, handlers=[file], force=True)
    logging.captureWarnings(True)  # the libraries' deprecations: to the file
    log.setLevel(logging.INFO)
    log.addHandler(console)
    # what is no user's mistake is a defect: its traceback belongs into the log as well
    sys.excepthook = launch.failed_unexpectedly(
        lambda *error: log.critical("%s failed", stage, exc_info=error)
    )


class LogFile(logging.FileHandler):
    """A log that a full disk keeps from growing is not what the stage fails of."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def seed_everything(seed: int) -> None:
    """Python's generator; torch's and numpy's are seeded where they are first used."""
    random.seed(seed)


def end_with_pipeline() -> None:
    """Ends this process when the DVC or Prefect process that started it is gone.

    SIGKILL to `dvc repro` reaches neither its shell nor the training process; the next `dvc repro`
    would start a second one beside it.
    """
    if forkserver.FORKED_FOR in os.environ:
        return  # it ends with the process that asked for it, which watches
    watched = tracking.pipeline()
    if "WORLD_SIZE" in os.environ:
        watched.append(psutil.Process().parent())  # the launcher of this process

    def watch() -> None:
        while all(process.is_running() for process in watched):
            time.sleep(1)
        log.error("the pipeline's process is gone: stopping")
        os.kill(os.getpid(), signal.SIGTERM)

    if watched:
        threading.Thread(target=watch, daemon=True).start()
