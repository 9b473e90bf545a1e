"""Where a stage that is stopped leaves what it goes on from, and who may write there.

`.cache/checkpoints/STAGE/KEY` is of exactly one set of inputs: KEY is a hash of the stage's
command, parameters, code and inputs, so that nothing else ever goes on from it. Who works there
holds a lock. A stage that succeeds removes its folder; those of other inputs are pruned by count
and age.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from stages.core import launch
from stages.core.errors import UserError
from stages.core.files import cache_dir, remove
from stages.core.graph import digest, loaded, md5, of_stage, value_at

log = logging.getLogger("stages")

KEPT_FOLDERS, KEPT_DAYS = 3, 7  # of a stage's other inputs
PATIENCE = 15.0  # seconds; what was forked by a killed stage holds its lock a little longer

held: dict[Path, FileLock] = {}


@contextmanager
def alone(stage: str) -> Iterator[None]:
    """This stage runs once in this folder at a time.

    Raises:
        UserError: another one is at it.
    """
    if not launch.first():
        yield
        return
    lock = lock_of(f"{stage}-in-{digest(os.getcwd())[:12]}")
    if not acquired(lock):
        log.info("%s: runs in this folder already: waiting %d s for its end", stage, PATIENCE)
        if not acquired(lock, PATIENCE):
            raise UserError(
                "it runs in this folder already, in another process: wait for that one, or stop it"
            )
    try:
        yield
    finally:
        lock.release()


def folder(stage: str) -> Path:
    """This process's folder for exactly the present inputs.

    Where another process (an experiment beside this one) works on the same, its end is waited for.
    """
    ours = cache_dir(f"checkpoints/{stage}") / key(stage)
    if ours not in held and launch.first():
        held[ours] = lock = lock_of(f"{stage}-{ours.name}")
        if not acquired(lock):
            log.info("%s: another process does the same with the same inputs: waiting", stage)
            lock.acquire()
        prune(ours.parent)
    return ours


def finished(stage: str) -> None:
    """Nothing is left to go on from."""
    for ours in [path for path in held if path.parent.name == stage]:
        remove(ours)
        held.pop(ours).release()


def prune(stage_folder: Path) -> None:
    """Removes folders of other inputs that are old, or too many, and that nobody works in."""
    others = [path for path in stage_folder.iterdir() if path not in held]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for place, other in enumerate(others):
        lock = lock_of(f"{stage_folder.name}-{other.name}")
        if (place >= KEPT_FOLDERS or older(other)) and acquired(lock):
            remove(other)
            lock.release()
    for path in cache_dir("locks").glob(f"{stage_folder.name}-*.lock"):
        lock = FileLock(path)
        if older(path) and acquired(lock):
            path.unlink()
            lock.release()


def older(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > KEPT_DAYS * 24 * 3600


def key(stage: str) -> str:
    """A hash of all that a stage's outcome hangs on, as dvc.yaml says it, and of its processes.

    They hang on the number of processes only by rounding; but a checkpoint holds a state of each.
    """
    values = loaded(Path("params.yaml"))
    node = of_stage(stage, values)
    return digest({
        "command": node.command,
        "launch": values.get("launch"),
        "params": {name: value_at(values, name) for name in node.keys},
        "deps": {path: md5(Path(path)) for path in node.deps},
    })  # fmt: skip


def acquired(lock: FileLock, seconds: float = 0) -> bool:
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    return True


def lock_of(name: str) -> FileLock:
    return FileLock(cache_dir("locks") / f"{name}.lock")
