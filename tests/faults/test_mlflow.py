"""A real MLflow server that is down before a stage, killed in the midst of one, and back later."""

import subprocess
import sys

import pytest
import yaml

from tests.conftest import merged
from tests.faults.harness import (
    Tally,
    check,
    check_points,
    finish,
    forget,
    keep_spools,
    nothing_was_lost,
    start,
    twin,
    wait,
)
from tests.faults.test_damage import complete
from tests.stages.core.test_tracking import free_port, server


@pytest.mark.long
def test_a_lost_mlflow_server_costs_no_point_no_weight_and_no_exit_code(done, tmp_path, count):
    project, tally, port = twin(done.project, tmp_path / "p"), Tally(), free_port()
    store = tmp_path / "server.db"  # where `server` keeps it
    (project.folder / "mlflow.db").symlink_to(store)
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    project.write(merged(params, {"tracking": {"uri": f"http://127.0.0.1:{port}"}}))
    for stage in ("sft", "grpo"):
        forget(project, stage)

    before = finish(project, "sft", done, tally, told=False)
    assert "not reported" in before, "it was down from the start"
    with server(port, tmp_path):
        grpo = start(project, "grpo")
        assert wait(lambda: len(complete(project, "grpo")) >= 1 or grpo.poll() is not None)
        keep_spools(project)
    assert grpo.poll() is None, "killed in the midst of it"
    with server(port, tmp_path):
        assert grpo.wait(300) == 0
        flush = [sys.executable, "-c", "from stages.core.tracker import send_missed; send_missed()"]
        for _ in range(2):  # what is sent again is not there twice
            subprocess.run(flush, cwd=project.folder, env=project.environment(), check=True)
    check(project, "grpo", done, tally)
    check_points(project, tally)
    count("MLflow's server", tally)
    assert tally.points > 100
    nothing_was_lost(tally)
