"""Two pipelines, started at once in one folder."""

import subprocess
import sys

import pytest

from tests.conftest import Project


@pytest.mark.long
def test_of_two_pipelines_one_runs_and_the_other_is_refused_in_a_sentence(project: Project):
    both = [
        subprocess.Popen([sys.executable, "-m", "dvc", "repro", "sft"], cwd=project.folder,
                         env=project.environment(), stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate()[0] for process in both]
    ended = [process.returncode for process in both]
    assert 0 in ended, said
    for code, output in zip(ended, said, strict=True):
        assert "Traceback" not in output
        if code:
            assert "is busy, it is being blocked by" in output or "Unable to acquire lock" in output
    assert "Data and pipelines are up to date" in project.dvc("repro", "sft")
