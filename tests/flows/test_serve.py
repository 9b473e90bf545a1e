"""The deployment `nightly`, served from one process or by a worker, and how its runs are ended."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter

from tests.flows.conftest import wait

SERVE = [sys.executable, "-m", "flows.serve"]
FLOW = "import asyncio; from flows.pipeline import grpo_pipeline; asyncio.run(grpo_pipeline())"


def hang(checkout, *stages: str) -> None:
    for stage in stages:
        checkout.set(**{stage: 2})
        checkout.tell(stage, "hang")


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return psutil.wait_procs(processes, timeout=120)[1]


def test_serving_without_a_server_is_refused(checkout, monkeypatch):
    def refusal() -> str:
        done = subprocess.run(SERVE, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr

    assert refusal().startswith("No Prefect server is configured: run `prefect server start`")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert refusal().startswith("No Prefect server answers at http://127.0.0.1:9/api")


def test_a_cancelled_run_ends_its_stages_and_lets_the_next_one_start(online, nightly):
    hang(online, "left", "right")
    with online.started(*SERVE):
        online.until_it_says("Serving: ")
        run = nightly()
        stages = online.processes("left", "right")
        queued = nightly()
        (online.notes / "left.hang").unlink()
        (online.notes / "right.hang").unlink()
        assert not queued.state.is_running()
        online.command("prefect", "flow-run", "cancel", str(run.id))
        assert alive(stages) == []
        assert run.end().is_cancelled()
        assert run.states == {"prepare": "Cached", "left": "Cancelled", "right": "Cancelled"}
        assert queued.end().is_completed()
        assert queued.states["left"] == "Completed"


def test_the_deployment_has_the_schedule_and_the_folder_of_prefect_yaml(online):
    with online.started(*SERVE), get_client(sync_client=True) as client:
        online.until_it_says("Serving: ")
        deployment = client.read_deployment_by_name("grpo-pipeline/nightly")
    [schedule] = deployment.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 2 * * *", "UTC")
    assert schedule.active
    assert not deployment.paused
    assert deployment.parameters == {
        "overrides": [], "targets": [], "force": False, "retries": 0, "pull": False,
    }  # fmt: skip
    [step] = deployment.pull_steps
    assert step["prefect.deployments.steps.set_working_directory"]["directory"] == str(online.root)


def test_the_server_plans_the_nightly_runs(online):
    """Prefect's scheduler says what keeps it from planning only in the server's own log."""
    with online.started(*SERVE), get_client(sync_client=True) as client:
        online.until_it_says("Serving: ")
        for _ in wait("a planned run"):
            planned = client.read_flow_runs(
                flow_run_filter=FlowRunFilter(state={"type": {"any_": ["SCHEDULED"]}})
            )
            if planned:
                break
    assert {(run.expected_start_time.hour, run.expected_start_time.minute) for run in planned} == {
        (2, 0)
    }


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_flow_ends_its_stages(online, ending):
    hang(online, "left", "right")
    with online.started(sys.executable, "-c", FLOW) as flow:
        stages = online.processes("left", "right")
        flow.send_signal(ending)
        assert alive([*stages, psutil.Process(flow.pid)]) == []
        assert flow.returncode != 0


def test_a_signal_to_an_experiment_ends_its_stages(online, run):
    online.tell("left", "hang")
    flow = FLOW.replace("grpo_pipeline())", "grpo_pipeline(overrides=['left=7']))")
    with online.started(sys.executable, "-c", flow) as process:
        stages = online.processes("left")
        process.send_signal(signal.SIGTERM)
        assert alive([*stages, psutil.Process(process.pid)]) == []
    assert list(Path(".dvc/tmp/exps/standalone").glob("tmp*")) == []
    (online.notes / "left.hang").unlink()
    assert run(overrides=["left=7"]).state.is_completed()
    assert online.command("git", "status", "--porcelain") == ""


def test_stopping_to_serve_ends_the_stages(online, nightly):
    hang(online, "left")
    with online.started(*SERVE) as server:
        online.until_it_says("Serving: ")
        run = nightly()
        stages = online.processes("left")
        server.terminate()
        assert alive(stages) == []
        assert run.end().is_crashed()


@pytest.mark.long
def test_what_ignores_the_signal_is_killed(online):
    hang(online, "left")
    online.tell("left", "ignore-term")
    with online.started(sys.executable, "-c", FLOW) as flow:
        stages = online.processes("left")
        flow.terminate()
        assert alive([*stages, psutil.Process(flow.pid)]) == []


@pytest.mark.long
def test_a_worker_runs_the_deployment_in_its_folder(online, nightly):
    online.command("prefect", "work-pool", "create", "local", "--type", "process")
    online.command("prefect", "--no-prompt", "deploy", "--all")
    with online.started("prefect", "worker", "start", "--pool", "local"):
        run = nightly()
        assert run.end().is_completed()
        assert run.states["report"] == "Cached"
