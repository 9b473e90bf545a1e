"""The tracker with a real MLflow store: outages, dead stages, what is sent and how often."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from stages.core import tracker, tracking
from stages.core.errors import UserError
from stages.core.files import cache_dir
from stages.core.graph import md5
from stages.core.tracking import flat, numbers
from tests.conftest import ROOT


def runs(uri: str) -> dict:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("grpo-pipeline")
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    return {run.info.run_name: run for run in found}


@contextmanager
def server(
    port: int, folder: Path, store: str | None = None, artifacts: tuple = (), **environment: str
) -> Iterator[str]:
    """A real MLflow server on stores of its own, or on the database and by the options given."""
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1",
               "--backend-store-uri", store or f"sqlite:///{folder}/server.db",
               *(artifacts or ("--artifacts-destination", str(folder / "artifacts")))]  # fmt: skip
    process = subprocess.Popen(command, env={**os.environ, **environment}, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        for _ in range(240):
            with suppress(OSError):
                urllib.request.urlopen(f"{uri}/health")
                break
            time.sleep(0.5)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_a_lost_server_costs_nothing_and_gets_everything_later(params, here, caplog):
    port = free_port()
    there = params(f"http://127.0.0.1:{port}")
    with tracking.tracked("sft", there) as spool:
        spool.metrics({"loss": 1.0}, step=1)
    assert "kept in" in caplog.text
    assert len(list(here.glob(".cache/tracking/*.jsonl"))) == 1

    with server(port, here) as uri:
        with tracking.tracked("grpo", there) as spool:
            spool.metrics({"mean_reward": 0.5}, step=1)
            spool.artifact(Path(__file__))
        found = runs(uri)
    assert found["sft"].data.metrics == {"loss": 1.0}
    assert found["grpo"].data.metrics == {"mean_reward": 0.5}
    parent = found["grpo"].data.tags["mlflow.parentRunId"]
    assert found["sft"].data.tags["mlflow.parentRunId"] == parent, "one pipeline, one parent"
    assert not list(here.glob(".cache/tracking/*.jsonl"))


def test_a_file_cut_off_and_sent_again_adds_nothing(params, here):
    """The tracker died after the metric had arrived: the next one sends the file from its start."""
    lost, uri = f"http://127.0.0.1:{free_port()}", f"sqlite:///{here}/store.db"
    with tracking.tracked("sft", params(lost)) as spool:
        spool.metrics({"loss": 1.0}, step=1)
    [left] = here.glob(".cache/tracking/*.jsonl")
    text = left.read_text().replace(lost, uri)
    run_file = left.with_suffix(".run")
    for again in range(3):
        left.write_text(text)
        if again == 2:  # nor had it come to write the id down
            run_file.unlink()
        command = [sys.executable, "-m", "stages.core.tracker", str(left), str(os.getpid())]
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
        run_file.write_text(runs(uri)["sft"].info.run_id)  # as if it had not come to delete it
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("grpo-pipeline").experiment_id
    assert len(client.search_runs([experiment])) == 2, "the stage's run and its parent"
    history = client.get_metric_history(runs(uri)["sft"].info.run_id, "loss")
    assert [m.value for m in history] == [1.0]


def test_metrics_of_a_burst_are_sent_together_and_once(params, here):
    uri = f"sqlite:///{here}/store.db"
    with tracking.tracked("sft", params(uri)):
        pass
    run, client = runs(uri)["sft"].info.run_id, MlflowClient(uri)
    sending = tracker.MlflowRun(here / "sent.jsonl", start_of("sft", uri, run))

    def steps() -> list[int]:
        return [m.step for m in client.get_metric_history(run, "loss")]

    for _ in range(2):  # the second time as a file that is sent again
        for step in range(tracker.AT_ONCE + 500):
            sending.handle({"event": "metrics", "values": {"loss": 1.0}, "step": step, "time": 1})
        assert len(steps()) >= tracker.AT_ONCE
        sending.handle(tracker.PAUSE)
        assert sorted(steps()) == [*range(tracker.AT_ONCE + 500)]


def test_a_table_is_mlflows_own_and_arrives_once(params, here):
    uri = f"sqlite:///{here}/store.db"
    rows = [{"model": "sft", "accuracy": 0.5}, {"model": "grpo", "accuracy": 0.75, "pass@8": 0.9}]
    with tracking.tracked("report", params(uri)) as spool:
        spool.table("results.json", rows)
    run = runs(uri)["report"]
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "results.json", "type": "table"}
    ]
    client = MlflowClient(uri)
    table = json.loads(Path(client.download_artifacts(run.info.run_id, "results.json")).read_text())
    assert table["columns"] == ["model", "accuracy", "pass@8"]
    assert table["data"] == [["sft", 0.5, None], ["grpo", 0.75, 0.9]]

    again = tracker.MlflowRun(here / "sent.jsonl", start_of("report", uri, run.info.run_id))
    again.handle({"event": "table", "name": "results.json", "rows": rows})
    table = json.loads(Path(client.download_artifacts(run.info.run_id, "results.json")).read_text())
    assert len(table["data"]) == 2, "MLflow's own log_table would have added the rows again"


def test_a_model_is_registered_by_what_dvc_calls_it_where_a_server_refuses_files(params, here):
    (here / "models").mkdir()
    (here / "models/weights").write_text("0")
    with server(free_port(), here) as uri:
        with tracking.tracked("report", params(uri)) as spool:
            spool.register("policy", Path("models"))
        version = MlflowClient(uri).get_model_version_by_alias("policy", "final")
    assert version.source == f"dvc:/models#{md5(Path('models'))}"
    assert version.tags["dvc.path"] == "models"
    assert not list(here.glob(".cache/tracking/*.jsonl"))


def test_what_cannot_be_sent_keeps_nothing_else_back(params, here):
    lost, uri = f"http://127.0.0.1:{free_port()}", f"sqlite:///{here}/store.db"
    with tracking.tracked("audit", params(lost)) as spool:
        spool.metrics({"loss": 1.0}, step=1)
    [first] = here.glob(".cache/tracking/*.jsonl")
    first.with_name("later.jsonl").write_text(first.read_text().replace(lost, uri))
    with pytest.raises(MlflowException):
        tracker.send_missed()
    assert list(here.glob(".cache/tracking/*.jsonl")) == [first]
    assert runs(uri)["audit"].data.metrics == {"loss": 1.0}


def test_an_artifact_that_is_another_by_now_is_not_taken_for_the_runs(params, here):
    lost, uri = f"http://127.0.0.1:{free_port()}", f"sqlite:///{here}/store.db"
    for name in ("same", "changed", "gone"):
        Path(name).write_text("1")
    with tracking.tracked("report", params(lost)) as spool:
        for name in ("same", "changed", "gone"):
            spool.artifact(Path(name))
    Path("changed").write_text("2")
    Path("gone").unlink()
    [left] = here.glob(".cache/tracking/*.jsonl")
    left.write_text(left.read_text().replace(lost, uri))
    tracker.send_missed()
    run = runs(uri)["report"].info
    assert [a.path for a in MlflowClient(uri).list_artifacts(run.run_id)] == ["same"]
    assert run.status == "FINISHED" and not list(here.glob(".cache/tracking/*.jsonl"))


def test_artifacts_on_s3_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"pip install \.\[s3\]"):
        tracker.require_client("s3://team/mlflow/1")
    tracker.require_client("mlflow-artifacts:/1")


def start_of(stage: str, uri: str, run: str) -> dict:
    """The first event of a file whose run is there already."""
    Path("sent.run").write_text(run)
    return {"id": "1", "stage": stage, "pipeline": "p", "started": "now", "time": 1, "tags": {},
            "params": {}, "tracking": {"uri": uri, "also": []}}  # fmt: skip


def test_a_file_without_its_first_line_keeps_nothing_back(here):
    for name, text in (("empty", ""), ("cut", '{"event": "st'), ("torn", "\0\0\n")):
        path = Path(f"{name}.jsonl")
        path.write_text(text)
        tracker.report(path, tracker.read(path))
        assert not path.exists()


def test_what_a_living_stage_writes_is_left_to_its_own_tracker(here):
    """That one may hold no lock yet: it has only just started."""
    stage = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    now = time.strftime("%Y%m%d-%H%M%S")
    for began, left in ((now, True), ("20200101-000000", False)):  # then another had the number
        path = cache_dir("tracking") / f"evaluate@grpo-{began}-{stage.pid}.jsonl"
        path.write_text("")
        tracker.send_missed()
        assert path.exists() == left
    stage.communicate()
    tracker.send_missed()
    assert not list(cache_dir("tracking").glob("*.jsonl"))


def test_a_line_is_read_when_all_of_it_is_written(here):
    path, gone = Path("grows.jsonl"), threading.Event()
    path.write_text('{"event": "start"}\n{"event": "metrics", "val')
    events = (event for event in tracker.follow(path, gone) if event != tracker.PAUSE)
    assert next(events) == {"event": "start"}

    def go_on() -> None:
        time.sleep(0.7)
        with path.open("a") as file:
            file.write('ues": {}}\n{"event": "cut off')
        gone.set()

    threading.Thread(target=go_on).start()
    assert next(events) == {"event": "metrics", "values": {}}
    assert [event["status"] for event in events] == ["KILLED"]


def trackers(folder: Path) -> list[psutil.Process]:
    """Those at work in a folder."""
    found = psutil.process_iter(["cmdline", "cwd"])
    return [process for process in found if process.info["cwd"] == str(folder)
            and "stages.core.tracker" in (process.info["cmdline"] or [])]  # fmt: skip


def test_a_stage_that_fails_or_dies_is_marked(params, here):
    uri = f"sqlite:///{here}/store.db"
    with pytest.raises(RuntimeError), tracking.tracked("sft", params(uri)):
        raise RuntimeError
    script = (
        "import os; from stages.core import params, tracking\n"
        "from pathlib import Path\n"
        "with tracking.tracked('grpo', params.load(Path('p.yaml'))) as spool:\n"
        "    spool.metrics({'mean_reward': 1.0}, step=1); os._exit(9)"
    )
    import yaml

    Path("p.yaml").write_text(yaml.safe_dump(json.loads(params(uri).model_dump_json())))
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    while trackers(here):
        time.sleep(0.1)
    with tracking.tracked("merge", params(uri)):
        pass  # its tracker sends what the dead stage's had no time for
    found = runs(uri)
    assert found["sft"].info.status == "FAILED"
    assert found["merge"].info.status == "FINISHED"
    assert found["grpo"].info.status == "KILLED"
    assert found["grpo"].data.metrics == {"mean_reward": 1.0}


def test_flat_and_numbers():
    nested = {"a": {"b": 1, "c": {}}, "d": True, "e": "x", "f": float("nan")}
    assert flat(nested) == {"a.b": 1, "a.c": {}, "d": True, "e": "x", "f": nested["f"]}
    assert numbers(nested) == {"a.b": 1.0, "d": 1.0}


def test_what_no_server_can_fork_is_a_process_of_its_own(params, here, monkeypatch):
    """As on a kernel whose processes have no descriptors: the server ends as soon as it starts."""
    Path("sitecustomize.py").write_text(
        "import os, sys\nif '-m' in sys.orig_argv and 'stages.core.forkserver' in sys.orig_argv:\n"
        "    open('tried', 'w').close()\n    del os.pidfd_open\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{here}:{ROOT}")
    monkeypatch.setenv("GRPO_PIPELINE_PID", str(os.getpid()))
    uri = f"sqlite:///{here}/store.db"
    there = params(uri)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with tracking.tracked("sft", there) as spool:
        spool.metrics({"loss": 1.0}, step=1)
    assert Path("tried").exists()
    assert runs(uri)["sft"].data.metrics == {"loss": 1.0}


@pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel's idea of when it started, in Linux"
)
def test_a_clock_that_is_set_does_not_part_the_stages_of_a_run(monkeypatch):
    """Linux tells its start in whole seconds of the time of day, and now and then another one."""
    monkeypatch.delenv("GRPO_PIPELINE_RUN", raising=False)
    before, began = tracking.pipeline_key(), psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: began + 1)
    assert tracking.pipeline_key() == before
