"""What is left when the process that started a stage is killed."""

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import Project, merged
from tests.faults.harness import stage_processes, wait


def running(project: Project, module: str) -> int:
    return sum(module in process.cmdline() for process in stage_processes(project))


@pytest.mark.long
def test_a_killed_dvc_takes_its_stage_along(tmp_path, tiny):
    project = Project(tmp_path / "project", merged(tiny, {"sft": {"max_steps": 100_000}}))
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "sft"], cwd=project.folder,
        env=project.environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    log = project.folder / "logs" / "sft.log"
    assert wait(lambda: log.exists() and "/100000" in log.read_text()), "sft began to train"
    assert wait(lambda: running(project, "stages.core.forkserver") == 4), (
        "the server of stages and that of trackers, and what is forked from each"
    )
    assert running(project, "stages.sft") == 1, "who waits for the stage"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    try:
        assert wait(lambda: not stage_processes(project)), "the stage outlived dvc"
    finally:
        for left in stage_processes(project):
            left.kill()
    assert not (project.folder / "models/sft").exists()
