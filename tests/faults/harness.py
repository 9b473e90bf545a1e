"""What the tests of faults share: stages that are stopped at any moment, and what must be equal.

A project whose stages have run without a stop is the reference. Copies of it lose a stage's
outputs, and the stage is run again under faults: weights, curves, rollouts, samples and metrics
must come out the same to the bit, timings and memory apart, and every metric point that reached a
local file must stand in MLflow, once.
"""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.conftest import Project

# GRPO's second epoch begins at step 5 of 16: its batches are in another order than the first's.
CHANGES = {
    "task": {"pool": 8},
    "sft": {"max_steps": 48, "trainer": {"logging_steps": 2}},
    "grpo": {"max_steps": 16, "trainer": {"logging_steps": 2}},
    "distill": {"max_steps": 48, "trainer": {"logging_steps": 2}},
    "evaluate": {"batch_size": 2, "samples_per_prompt": 2},
    "run": {"checkpoint_seconds": 0},
}
OUTPUTS = {
    "sft": ["models/sft", "plots/sft.csv"],
    "grpo": ["models/adapter", "plots/grpo.csv", "rollouts/grpo.jsonl"],
    "distill": ["models/student", "plots/distill.csv", "rollouts/teacher.jsonl"],
    "evaluate@student": ["samples/student.jsonl", "samples/student.json"],
}
UNLIKE = ("seconds", "peak_memory_mb", "peak_gpu_memory_mb", "preflight_costs")  # from run to run
GONE = 60.0  # seconds within which nothing of a stopped stage runs, on a busy machine
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass
class Reference:
    """A project that ran without a stop: outputs, metric points and seconds of each stage."""

    project: Project
    outputs: dict[str, dict[str, bytes]]
    points: dict[str, dict[tuple[str, int], float]]
    seconds: dict[str, float]


@dataclass
class Tally:
    """What was counted; the last lines of the test run say it."""

    kills: int = 0
    runs: int = 0
    resumed: int = 0
    differing: list[str] = field(default_factory=list)
    points: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    outlived: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.runs} runs finished ({self.resumed} from a checkpoint),"
            f" {len(self.differing)} files differ, {len(self.lost)} of {self.points} metric "
            f"points lost, {len(self.twice)} twice, {len(self.outlived)} processes left"
        )


def command(stage: str) -> list[str]:
    """`evaluate@student` -> python -m stages.evaluate student"""
    module, *model = stage.split("@")
    return [sys.executable, "-m", f"stages.{module}", *model]


def reference(project: Project) -> Reference:
    """Runs the stages; the SFT model stands in for the merged one, which saves a stage."""
    seconds = {}
    for stage in ("base", "prepare", "sft", "audit", "grpo", "distill", "evaluate@student"):
        if stage == "distill":
            shutil.copytree(project.folder / "models/sft", project.folder / "models/grpo")
        began = time.monotonic()
        project.run(*command(stage))
        seconds[stage] = time.monotonic() - began
    found = {stage: made(project, stage) for stage in OUTPUTS}
    return Reference(project, found, {s: points_of_newest(project, s) for s in OUTPUTS}, seconds)


def twin(project: Project, folder: Path) -> Project:
    """A copy of a project, with nothing in MLflow yet."""
    left_out = shutil.ignore_patterns(
        "mlflow.db*", "mlartifacts", "tracking", "logs", "__pycache__"
    )
    shutil.copytree(project.folder, folder, symlinks=True, ignore=left_out, dirs_exist_ok=True)
    copied = object.__new__(Project)
    copied.folder = folder
    return copied


def made(project: Project, stage: str) -> dict[str, bytes]:
    """What a stage has made, file by file; its metrics without what differs between any two runs.

    A model's README.md names the moment it was made.
    """
    found = {}
    for name in OUTPUTS[stage]:
        path = project.folder / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and file.name != "README.md":
                found[str(file.relative_to(project.folder))] = file.read_bytes()
    metrics = metrics_file(project, stage)
    if metrics.exists():
        kept = {k: v for k, v in json.loads(metrics.read_text()).items() if k not in UNLIKE}
        found[str(metrics.relative_to(project.folder))] = json.dumps(kept).encode()
    return found


def metrics_file(project: Project, stage: str) -> Path:
    return project.folder.joinpath("metrics", *stage.split("@")).with_suffix(".json")


def forget(project: Project, stage: str) -> None:
    """The outputs go, as DVC removes them before it runs a stage."""
    for path in (*(project.folder / name for name in OUTPUTS[stage]), metrics_file(project, stage)):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def differing(project: Project, stage: str, wanted: Reference) -> list[str]:
    """Names of outputs that are not as in the reference, or missing, or too many."""
    got, want = made(project, stage), wanted.outputs[stage]
    return [name for name in sorted(got.keys() | want.keys()) if got.get(name) != want.get(name)]


def left_over(project: Project, stage: str) -> list[str]:
    """Half-written files and checkpoints that a finished stage should have removed."""
    checkpoints = (project.folder / ".cache/checkpoints" / stage).glob("**/*")
    return [str(path) for path in (*project.folder.rglob(".*.new"), *checkpoints)]


# MLflow


def points(project: Project) -> Counter:
    """(run's id, its key `made.for`, stage, metric, step, value) -> how often it stands there."""
    with sqlite3.connect(f"file:{project.folder}/mlflow.db?mode=ro", uri=True) as store:
        return Counter(store.execute(
            "select m.run_uuid, t.value, r.name, m.key, m.step, m.value from metrics m"
            " join runs r on r.run_uuid = m.run_uuid"
            " join tags t on t.run_uuid = m.run_uuid and t.key = 'made.for'"
        ))  # fmt: skip


def points_of_newest(project: Project, stage: str) -> dict[tuple[str, int], float]:
    """The newest run's metric points, timings and memory apart."""
    with sqlite3.connect(f"file:{project.folder}/mlflow.db?mode=ro", uri=True) as store:
        [run] = store.execute(
            "select run_uuid from runs where name = ? order by start_time desc limit 1", [stage]
        ).fetchone()
    return {(key, step): value for (of, _, _, key, step, value) in points(project)
            if of == run and not key.startswith(UNLIKE)}  # fmt: skip


def told_twice(project: Project) -> list[str]:
    """Points whose key and step stand in one run more than once, with whatever value."""
    counted = Counter(
        (run, key, step)
        for (run, _, _, key, step, _), n in points(project).items()
        for _ in "x" * n
    )
    return [f"{key} at step {step} of {run}" for (run, key, step), n in counted.items() if n > 1]


def expected(spool: Path) -> set[tuple[str, str, int, float]]:
    """(the file's id, metric, step, value) of every line that was wholly written."""
    lines = []
    for line in spool.read_text().splitlines():
        with suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    if not lines or lines[0]["event"] != "start":
        return set()
    return {(lines[0]["id"], name.replace("@", "."), event["step"], value)
            for event in lines if event["event"] == "metrics"
            for name, value in event["values"].items()}  # fmt: skip


def keep_spools(project: Project) -> None:
    """A second link to each event file: its tracker deletes the first one."""
    kept = project.folder / ".cache/kept"
    kept.mkdir(parents=True, exist_ok=True)
    for path in (project.folder / ".cache/tracking").glob("*.jsonl"):
        with suppress(FileExistsError, FileNotFoundError):
            os.link(path, kept / path.name)


def check_points(project: Project, tally: Tally) -> None:
    """Every point of every event file stands in MLflow, and once."""
    told = {(made_for, key, step, value) for (_, made_for, _, key, step, value) in points(project)}
    for spool in (project.folder / ".cache/kept").glob("*.jsonl"):
        wanted = {(i, k, s, 0.0 if v != v else v) for i, k, s, v in expected(spool)}
        tally.points += len(wanted)
        tally.lost += [f"{spool.name}: {point}" for point in wanted - told]
    tally.twice += told_twice(project)
    waiting = [path.name for path in (project.folder / ".cache/tracking").glob("*.jsonl")]
    tally.lost += [f"{name} was not sent" for name in waiting]


# Processes


def stage_processes(project: Project) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        line = " ".join(process.info["cmdline"] or [])
        if "-m stages." in line and process.info["cwd"] == str(project.folder):
            found.append(process)
    return found


def wait(condition: Callable[[], object], seconds: float = 300) -> bool:
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True


def start(project: Project, stage: str, **environment: str) -> subprocess.Popen:
    """A stage in a process group of its own."""
    return subprocess.Popen(
        command(stage), cwd=project.folder, env={**project.environment(), **environment},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        process_group=0,
    )  # fmt: skip


def family(process: subprocess.Popen) -> list[psutil.Process]:
    """The process group: what is forked for a stage is in it, and no child of the stage."""
    found = []
    for other in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getpgid(other.pid) == process.pid:
                found.append(other)
    return found


def has_work_to_lose(project: Project, stage: str) -> bool:
    """Whether a checkpoint is complete, or a batch of samples kept."""
    where = project.folder / ".cache/checkpoints" / stage
    return any(where.glob("*/*/complete.json")) or any(
        path.stat().st_size for path in where.glob("*/batches.jsonl")
    )


def stop_after(project: Project, stage: str, seconds: float, working: bool, rng: random.Random,
               tally: Tally) -> bool:  # fmt: skip
    """Starts a stage and stops it some seconds later; False if it had ended by itself.

    Args:
        seconds: after its start, or, if `working`, after there is something to go on from.
    """
    # in a pipeline it is forked from a process that has the libraries, by itself it is not
    pipeline = {"GRPO_PIPELINE_PID": str(os.getpid())} if tally.kills % 2 else {}
    process, ends = start(project, stage, **pipeline), time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < ends:
        if working and not has_work_to_lose(project, stage):
            ends = time.monotonic() + seconds
        keep_spools(project)
        time.sleep(0.02)
    kin, how, whole_group = family(process), rng.choice(SIGNALS), rng.random() < 0.5
    if process.poll() is not None:
        assert process.returncode == 0, f"{stage} failed by itself"
        return False
    (os.killpg if whole_group else os.kill)(process.pid, how)
    tally.kills += 1
    try:
        process.wait(300)
    except subprocess.TimeoutExpired:
        tally.outlived.append(f"{stage} itself, after {how.name}")
        os.killpg(process.pid, signal.SIGKILL)
    keep_spools(project)
    if rng.random() < 0.3:
        return True  # the next one starts while this one's tracker may still be there
    _, alive = psutil.wait_procs(kin, timeout=GONE)
    tally.outlived += [f"{stage}: {' '.join(p.cmdline())}" for p in alive if p.is_running()]
    return True


def finish(project: Project, stage: str, wanted: Reference, tally: Tally, told: bool = True) -> str:
    """The same command, left alone: it ends well, and with the same bits; returns its log."""
    process = start(project, stage)
    while process.poll() is None:
        keep_spools(project)
        time.sleep(0.05)
    log = said(project, stage)
    assert process.returncode == 0, log
    check(project, stage, wanted, tally, told)
    return log


def said(project: Project, stage: str) -> str:
    """By its newest run."""
    return (project.folder / "logs" / f"{stage}.log").read_text()


def check(project: Project, stage: str, wanted: Reference, tally: Tally, told: bool = True) -> None:
    """A finished run's files; and its metric points, where MLflow was told."""
    tally.runs += 1
    tally.resumed += "going on" in said(project, stage)
    tally.differing += differing(project, stage, wanted) + left_over(project, stage)
    if not told:
        return
    newest = points_of_newest(project, stage)
    tally.lost += [f"{point} of {stage}" for point in wanted.points[stage].items() - newest.items()]
    tally.twice += [f"{p} of {stage}" for p in newest.items() - wanted.points[stage].items()]


def kill_again_and_again(
    project: Project, stage: str, wanted: Reference, kills: int, seed: int
) -> Tally:
    """Runs of a stage, each killed several times in succession before it may end."""
    rng, tally = random.Random(f"{seed} {stage}"), Tally()
    longest = wanted.seconds[stage]
    while tally.kills < kills:
        forget(project, stage)
        for _ in range(rng.randint(2, 4)):
            if tally.kills == kills:
                break
            # of a life this short the imports are the half: most kills come later, the first surely
            first = tally.kills == 0
            working = first or rng.random() < 0.7
            moment = 0.1 if first else rng.uniform(0, 0.2 if working else 1.05) * longest
            if not stop_after(project, stage, moment, working, rng, tally):
                check(project, stage, wanted, tally)
                forget(project, stage)
                longest *= 0.8  # the machine is quieter than it was
        began = time.monotonic()
        finish(project, stage, wanted, tally)
        longest = max(longest, time.monotonic() - began)
    check_points(project, tally)
    return tally


def nothing_was_lost(tally: Tally) -> None:
    assert not tally.differing, tally.differing
    assert not tally.lost, tally.lost[:20]
    assert not tally.twice, tally.twice[:20]
    assert not tally.outlived, tally.outlived
