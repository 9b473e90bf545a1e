"""Folders of checkpoints: whose they are, how long they are kept, and one process at a time."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stages.core import resume
from stages.core.errors import UserError
from tests.conftest import ROOT


@contextmanager
def another(code: str) -> Iterator[subprocess.Popen]:
    """Another process in this folder that has run `code`, and then stays."""
    code = f"from stages.core import resume\n{code}\nprint(flush=True)\ninput()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == b"\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_stage_runs_once_in_a_folder_until_its_process_dies(here, monkeypatch):
    monkeypatch.setattr(resume, "PATIENCE", 0.2)
    with another("held = resume.alone('sft'); held.__enter__()") as other:
        with pytest.raises(UserError, match="runs in this folder already"), resume.alone("sft"):
            pass
        with resume.alone("grpo"):
            pass
        other.kill()
        other.wait()
        with resume.alone("sft"), pytest.raises(UserError), resume.alone("sft"):
            pass
        with resume.alone("sft"):
            pass


def checkpoints(stage: str, count: int) -> list[Path]:
    """Folders of other inputs, the newest first, an hour between two."""
    made = []
    for hours in range(count):
        folder = resume.cache_dir(f"checkpoints/{stage}") / f"key{hours}"
        (folder / "checkpoint-1").mkdir(parents=True)
        os.utime(folder, (time.time() - 3600 * hours,) * 2)
        made.append(folder)
    return made


def test_folders_of_other_inputs_are_pruned_by_count_and_age_unless_somebody_works_there(here):
    made = checkpoints("sft", 6)
    old = time.time() - 8 * 24 * 3600
    os.utime(made[1], (old, old))
    with another("lock = resume.lock_of('sft-key4'); lock.acquire()"):
        resume.prune(made[0].parent)
    assert [f.name for f in made if f.exists()] == ["key0", "key2", "key3", "key4"]


def test_the_same_inputs_elsewhere_are_waited_for(here, monkeypatch, caplog):
    monkeypatch.setattr(resume, "key", lambda stage: "same")
    caplog.set_level("INFO")
    code = "resume.key = lambda stage: 'same'\nresume.folder('sft')"
    with another(code) as other:
        timer = subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {other.pid}"])
        began = time.monotonic()
        ours = resume.folder("sft")
        assert time.monotonic() - began > 0.5
        timer.wait()
    assert "another process does the same" in caplog.text
    ours.mkdir(parents=True)
    assert resume.folder("sft") == ours
    resume.finished("sft")
    assert not ours.exists() and ours not in resume.held
