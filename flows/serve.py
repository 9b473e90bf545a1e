"""Serve the deployments of prefect.yaml from one process: `python -m flows.serve`.

It runs them in the folder that it was started in, on their schedules and on
`prefect deployment run grpo-pipeline/nightly`, until it is stopped. Stopping it ends the runs and
pauses the schedules.
"""

import asyncio
import signal
import sys
from pathlib import Path

import psutil
import yaml
from prefect import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.runner.storage import LocalStorage
from prefect.schedules import Schedule
from prefect.settings import get_current_settings

END_S = 25  # what a run gets to end its stages, which get 15 themselves


def main() -> None:
    if problem := server_problem():
        sys.exit(problem)
    runner = Runner(pause_on_shutdown=True)
    for deployment in deployments(Path("prefect.yaml")):
        runner.add_deployment(deployment)
        print(f"Serving: prefect deployment run {deployment.full_name}", flush=True)
    runner.handle_sigterm = end_runs
    signal.signal(signal.SIGINT, end_runs)
    asyncio.run(runner.start())


def end_runs(signum: int, _frame: object) -> None:
    """Exit, but let the runs end their stages first: Prefect kills a run when it ends itself."""
    signal.signal(signum, signal.SIG_IGN)
    runs = psutil.Process().children()
    if runs:
        print(f"Stopping: what runs gets {END_S} s to end.", flush=True)
    if signum == signal.SIGTERM:  # a Ctrl-C has reached them already
        for run in runs:
            run.terminate()
    psutil.wait_procs(runs, timeout=END_S)
    sys.exit(0)


def server_problem() -> str | None:
    """Say in a sentence why there is no Prefect server to serve for; None if there is one.

    Prefect itself would start a server of its own, which nobody sees and which ends with us.
    """
    url = get_current_settings().api.url
    if not url:
        return (
            "No Prefect server is configured: run `prefect server start`, and in this shell"
            " `prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api`."
        )
    with get_client(sync_client=True) as client:
        if error := client.api_healthcheck():
            return f"No Prefect server answers at {url} ({error}): run `prefect server start`."
    return None


def deployments(path: Path) -> list[RunnerDeployment]:
    """Read the deployments of a prefect.yaml as `prefect deploy --all` does, less the work pool."""
    # Without a storage, a deployment that was last served from another folder would keep that
    # folder, and its runs would copy all of it over this one.
    here = LocalStorage(str(path.resolve().parent))
    return [
        RunnerDeployment.from_storage(
            storage=here,
            entrypoint=wanted["entrypoint"],
            name=wanted["name"],
            description=wanted["description"],
            parameters=wanted["parameters"],
            schedules=[Schedule(**schedule) for schedule in wanted["schedules"]],
            paused=False,  # it was paused when last it stopped
            concurrency_limit=ConcurrencyLimitConfig(**wanted["concurrency_limit"]),
        )
        for wanted in yaml.safe_load(path.read_text())["deployments"]
    ]


if __name__ == "__main__":
    main()
