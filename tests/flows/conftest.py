"""A real Prefect server, and a toy checkout with git, DVC, the flow and six stages in it.

      prepare -> left  -> evaluate@left  -> report
              -> right -> evaluate@right ->

A stage writes its parameter and its inputs, notes in .notes/ that it ran and when, and does what
.notes/ tells it to: fail, wait for another, or run until it is ended.
"""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import psutil
import pytest
import yaml
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter, LogFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

ROOT = Path(__file__).parent.parent.parent

PREFECT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.1",
    "DO_NOT_TRACK": "1",
}

DVC_YAML = """
stages:
  prepare:
    cmd: python stage.py
    params: [prepare]
    outs: [prepare.txt]
  left:
    cmd: python stage.py prepare.txt
    deps: [prepare.txt]
    params: [left]
    outs: [left.txt]
  right:
    cmd: python stage.py prepare.txt
    deps: [prepare.txt]
    params: [right]
    outs: [right.txt]
  evaluate:
    matrix:
      model: [left, right]
    cmd: python stage.py ${item.model}.txt
    deps: ["${item.model}.txt"]
    outs: ["evaluate-${item.model}.txt"]
  report:
    cmd: python stage.py evaluate-left.txt evaluate-right.txt
    deps: [evaluate-left.txt, evaluate-right.txt]
    outs: [reports/report.md]
"""

STAGE_PY = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

import yaml

name, inputs = os.environ["DVC_STAGE"], sys.argv[1:]
notes = Path(os.environ["DVC_ROOT"], ".notes")

def note(event, **more):
    line = {"stage": name, "event": event, "time": time.time(), **more}
    with (notes / "events.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\\n")

def told_to(do):
    return (notes / f"{name}.{do}").exists()

keys = ["GRPO_PIPELINE_RUN", "GRPO_PIPELINE_PID", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"]
note("start", pid=os.getpid(), env={key: os.environ[key] for key in keys if key in os.environ})
print(f"this is {name}")
if told_to("hang"):
    if told_to("ignore-term"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"])
    note("child", pid=child.pid)
    child.wait()
if told_to("meet"):
    other = (notes / f"{name}.meet").read_text()
    (notes / f"{name}.is-here").touch()
    deadline = time.time() + 30
    while not (notes / f"{other}.is-here").exists():
        assert time.time() < deadline, f"{other} does not come"
        time.sleep(0.05)
if told_to("fail") or told_to("fail-once"):
    (notes / f"{name}.fail-once").unlink(missing_ok=True)
    sys.exit(f"{name} has no luck")
params = yaml.safe_load(Path("params.yaml").read_text())
texts = [Path(path).read_text() for path in inputs]
out = Path("reports/report.md" if name == "report" else f"{name}.txt".replace("@", "-"))
out.parent.mkdir(exist_ok=True)
text = f"{name} {params.get(name)}\\n" + "".join(texts)
out.write_text(text + "\\n![accuracy](accuracy.png)\\nmore\\n" if name == "report" else text)
note("end")
"""


class Checkout:
    """The toy checkout, which is also the current folder."""

    def __init__(self, root: Path):
        self.root, self.notes = root, root / ".notes"

    def tell(self, stage: str, do: str, text: str = "") -> None:
        (self.notes / f"{stage}.{do}").write_text(text)

    def set(self, **params) -> None:
        path = self.root / "params.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | params))

    def events(self, event: str = "start") -> dict[str, dict]:
        """The last such event of each stage."""
        lines = (self.notes / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        return {each["stage"]: each for each in events if each["event"] == event}

    def processes(self, *stages: str) -> list[psutil.Process]:
        """The processes of stages that were told to hang, once they all run."""
        for _ in wait(f"{stages} to hang"):
            if set(stages) <= set(self.events("child")):
                break
        events = [self.events(event)[stage] for event in ("start", "child") for stage in stages]
        return [psutil.Process(event["pid"]) for event in events]

    def forget(self) -> None:
        (self.notes / "events.jsonl").write_text("")

    def command(self, *words: str) -> str:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    def until_it_says(self, text: str) -> None:
        """Wait until the command that was started says something."""
        for _ in wait(repr(text)):
            if text in (self.notes / "output.log").read_text():
                return

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen]:
        """Start a command that is ended on leaving."""
        with (self.notes / "output.log").open("w") as file:
            process = subprocess.Popen(words, stdout=file, stderr=file)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(120)


class Outcome:
    """A run of the flow, as the Prefect server tells it."""

    def __init__(self, flow_run_id: UUID):
        self.id = flow_run_id

    @property
    def run(self) -> FlowRun:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(self.id)

    @property
    def state(self) -> State:
        return self.run.state

    def end(self) -> State:
        """Wait for the run's final state."""
        for _ in wait("the end of the run"):
            if (state := self.state).is_final():
                return state

    @property
    def children(self) -> dict[str, FlowRun]:
        wanted = FlowRunFilter(parent_flow_run_id={"any_": [self.id]})
        with get_client(sync_client=True) as client:
            return {run.name: run for run in client.read_flow_runs(flow_run_filter=wanted)}

    @property
    def states(self) -> dict[str, str]:
        """Of the stages' runs; a cancelled one may end a little later than its parent."""
        for _ in wait("the end of the cancelled stages"):
            states = {name: run.state.name for name, run in self.children.items()}
            if "Cancelling" not in states.values():
                return states

    @property
    def shown(self) -> str:
        """The run's artifact: its report."""
        wanted = ArtifactFilter(flow_run_id={"any_": [self.id]})
        with get_client(sync_client=True) as client:
            [artifact] = client.read_artifacts(artifact_filter=wanted)
        assert (artifact.key, artifact.type) == ("report", "markdown")
        return artifact.data

    def log(self, stage: str, until: str) -> str:
        """The log of a stage's run; it comes a little later than the run's end."""
        wanted = LogFilter(flow_run_id={"any_": [self.children[stage].id]})
        with get_client(sync_client=True) as client:
            for _ in wait(f"{until!r} in the log of {stage}"):
                text = "\n".join(log.message for log in client.read_logs(wanted))
                if until in text:
                    return text


def wait(what: str, seconds: float = 300) -> Iterator[None]:
    """Iterate until the caller leaves the loop; fail after some seconds."""
    deadline = time.time() + seconds
    while time.time() < deadline:
        yield
        time.sleep(0.1)
    pytest.fail(f"waited {seconds} s in vain for {what}")


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[str]:
    """The API address of a Prefect server, which this process uses too."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    environment = os.environ | PREFECT | {"PREFECT_HOME": str(home)}
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in wait("the Prefect server"):
            if is_healthy(url):
                break
        with temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: home}):
            yield url
            APILogWorker.drain_all(timeout=10)  # or they look for the server when it is gone
            EventsWorker.drain_all(timeout=10)
    finally:
        process.terminate()
        process.wait(120)


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    """A toy checkout in which every stage has run."""
    root = tmp_path_factory.mktemp("toy") / "checkout"
    root.mkdir()
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "stage.py").write_text(STAGE_PY)
    params = {"run": {"max_parallel": 2}, "prepare": 1, "left": 1, "right": 1}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    (root / ".gitignore").write_text(".notes\n__pycache__\n")
    (root / ".notes").mkdir()
    shutil.copytree(ROOT / "flows", root / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", root)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command in (
        ["git", "init", "-q"],
        ["git", "config", "user.name", "toy"],
        ["git", "config", "user.email", "toy@example.org"],
        ["dvc", "init", "-q"],
        ["dvc", "config", "core.analytics", "false"],
        ["dvc", "repro", "-q"],
        ["git", "add", "-A"],
        ["git", "commit", "-q", "-m", "toy"],
    ):
        subprocess.run(command, cwd=root, check=True, env=os.environ | {"PATH": path})
    return root


@pytest.fixture
def checkout(toy: Path, tmp_path: Path, monkeypatch) -> Checkout:
    root = tmp_path / "checkout"
    shutil.copytree(toy, root, symlinks=True)
    monkeypatch.chdir(root)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    home = {"PREFECT_HOME": str(tmp_path / "prefect"), "PATH": path, "DVC_NO_ANALYTICS": "1"}
    for key, value in (PREFECT | home).items():
        monkeypatch.setenv(key, value)
    for key in ("PREFECT_API_URL", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(key, raising=False)
    checkout = Checkout(root)
    checkout.forget()
    return checkout


@pytest.fixture
def run(checkout: Checkout, server: str):
    """Run the flow in the toy checkout, in this process."""
    from flows.pipeline import grpo_pipeline

    def run(**parameters) -> Outcome:
        state = asyncio.run(grpo_pipeline(**parameters, return_state=True))
        return Outcome(state.state_details.flow_run_id)

    return run


@pytest.fixture
def online(checkout: Checkout, server: str, monkeypatch) -> Checkout:
    """The toy checkout, whose processes know the Prefect server."""
    monkeypatch.setenv("PREFECT_API_URL", server)
    return checkout


@pytest.fixture
def nightly(online: Checkout):
    """Start a run of the deployment."""

    def nightly() -> Outcome:
        text = online.command("prefect", "deployment", "run", "grpo-pipeline/nightly")
        return Outcome(UUID(re.search(r"UUID: (\S+)", text)[1]))

    return nightly
