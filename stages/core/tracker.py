"""The tracker: a process beside a stage that reports its event file to MLflow.

`python -m stages.core.tracker FILE` follows the file until its `end` event, or until stdin closes
because the stage died. It then sends whatever files earlier trackers could not. Sending a file
again is harmless: its run is found by the id saved beside it, and MLflow drops a metric that has
the same key, time, step and value.
"""

import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from stages.core.files import cache_dir, root, write_text

EXPERIMENT = "grpo-pipeline"
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "lm_eval", "dvc", "mlflow")


def main(path: Path) -> None:
    # Ctrl-C and TERM reach the whole process group: the stage says how it ended, then we end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    with FileLock(f"{path}.lock"):
        report(path, follow(path, stage_is_gone()))
    for missed in sorted(cache_dir("tracking").glob("*.jsonl")):
        try:
            with FileLock(f"{missed}.lock", timeout=0):
                if missed.exists():
                    report(missed, read(missed))
        except Timeout:
            continue  # another stage's tracker is at it


def stage_is_gone() -> threading.Event:
    gone = threading.Event()

    def watch() -> None:
        sys.stdin.buffer.read()
        gone.set()

    threading.Thread(target=watch, daemon=True).start()
    return gone


def follow(path: Path, gone: threading.Event) -> Iterator[dict]:
    """The file's events as they come, up to `end`; a stage that died without one was killed."""
    with path.open() as file:
        while True:
            last_look = gone.is_set()  # before reading: what was written until then is read now
            while line := file.readline():
                event = json.loads(line)
                yield event
                if event["event"] == "end":
                    return
            if last_look:
                yield killed(path)
                return
            yield {"event": "flush"}
            gone.wait(0.5)


def read(path: Path) -> Iterator[dict]:
    """All events of a finished file; a line cut off by a crash is dropped."""
    ended = False
    for line in path.read_text().splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        ended |= event["event"] == "end"
        yield event
    if not ended:
        yield killed(path)


def killed(path: Path) -> dict:
    return {"event": "end", "status": "KILLED", "time": int(path.stat().st_mtime * 1000)}


def report(path: Path, events: Iterator[dict]) -> None:
    """Sends a file's events and deletes the file once all have arrived."""
    start = next(events)
    reporters = [MlflowRun(path, start), *(also(name, start) for name in start["tracking"]["also"])]
    for event in events:
        for reporter in reporters:
            handle = getattr(reporter, event.pop("event") if False else event["event"], None)
            if handle:
                handle(**{k: v for k, v in event.items() if k != "event"})
    path.unlink()
    path.with_suffix(".run").unlink(missing_ok=True)
