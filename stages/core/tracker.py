"""The tracker: a process beside a stage that reports its event file to MLflow.

`python -m stages.core.tracker FILE` follows the file until its `end` event, or until stdin closes
because the stage died; then it sends whatever files earlier trackers could not. Sending a file
again does no harm: its run is found by the id saved beside it or by its tag, and MLflow drops a
metric that has the same key, time, step and value. A stage that is gone is outlived by seconds.
Artifacts come last: they may lie in another store (S3), whose loss must not keep metrics back.
"""

import gc
import json
import os
import platform
import re
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from filelock import FileLock, Timeout

from stages.core.errors import UserError
from stages.core.files import cache_dir, replacing, root, write_text
from stages.core.graph import loaded, md5
from stages.core.libraries import uncollected

if TYPE_CHECKING:
    from mlflow.entities import Metric

EXPERIMENT = "grpo-pipeline"
PAUSE = {"event": "pause"}  # all that has been written by now has been read
AT_ONCE = 1000  # metrics that MLflow takes in one call; a call costs as much as a hundred of them
GRACE = 5  # seconds to go on sending when the stage is gone; the rest is sent with the next stage
HOST = platform.node()
HOW_TO_GET = (
    "`git log --all --reverse -S {md5} -- dvc.lock` names its commit first; "
    "`dvc get REPOSITORY {path} --rev COMMIT` fetches it"
)
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "lm_eval", "dvc", "mlflow")


def main(path: Path, stage: int) -> None:
    """Reports the file of the stage that runs as process `stage`, then those left behind."""
    # Ctrl-C and TERM reach the whole process group: the stage says how it ended, then we end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with FileLock(f"{path}.lock"):
        report(path, follow(path, stage_is_gone(stage)))
    send_missed(stage)


def send_missed(stage: int | None = None) -> None:
    """Sends what earlier trackers could not. Each file is tried; the last error is raised.

    Args:
        stage: the process that this one has reported for; without one, this itself.
    """
    with ExitStack() as trials:
        for missed in sorted(cache_dir("tracking").glob("*.jsonl"), reverse=True):
            trials.callback(send, missed, stage or os.getpid())  # called in the opposite order


def send(missed: Path, stage: int) -> None:
    if is_written(missed, stage):
        return  # by a stage whose own tracker has only just started, and holds no lock yet
    try:
        with FileLock(f"{missed}.lock", timeout=0):
            if missed.exists():
                report(missed, read(missed))
    except Timeout:
        return  # another stage's tracker is at it


def is_written(path: Path, ours: int) -> bool:
    """Whether the stage that a file is named for lives, on this host; another one than ours,
    which has one file at a time.
    """
    named = re.search(r"-(\d{8}-\d{6})-(\d+)$", path.stem)
    if not named or int(named[2]) == ours:
        return False
    began = time.mktime(time.strptime(named[1], "%Y%m%d-%H%M%S"))
    try:
        process = psutil.Process(int(named[2]))
        older = process.create_time() < began + 1  # a later one only has the number
        return older and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def stage_is_gone(stage: int) -> threading.Event:
    """Set when the stage has closed our stdin: it ends, and waits for us, or it is dead."""
    gone = threading.Event()

    def watch() -> None:
        sys.stdin.buffer.read()
        gone.set()
        while is_alive(stage):
            time.sleep(0.1)
        time.sleep(GRACE)
        os._exit(1)  # at any moment: what has arrived is found again

    threading.Thread(target=watch, daemon=True).start()
    return gone


def is_alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def follow(path: Path, gone: threading.Event) -> Iterator[dict]:
    """The file's events as they come, up to `end`, and PAUSE where the next one is waited for.

    A stage that died without an end was killed.
    """
    text = ""
    with path.open() as file:
        while True:
            last_look = gone.is_set()  # asked before reading: all that was written is read now
            while line := file.readline():
                text += line
                if not text.endswith("\n"):
                    continue  # the rest of this line is still to be written
                event, text = json.loads(text), ""
                yield event
                if event["event"] == "end":
                    return
            if last_look:
                yield killed(path)
                return
            yield PAUSE
            gone.wait(0.5)


def read(path: Path) -> Iterator[dict]:
    """All events of a file left behind; a line cut off by a crash is dropped."""
    with path.open(errors="replace") as file:
        for line in file:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue
            yield event
            if event["event"] == "end":
                return
    yield killed(path)


def killed(path: Path) -> dict:
    return {"event": "end", "status": "KILLED", "time": int(path.stat().st_mtime * 1000)}


def report(path: Path, events: Iterator[dict]) -> None:
    """Sends a file's events, and deletes the file once all have arrived.

    A stage that was killed before it had written its first line has nothing to report.
    """
    start = next(event for event in events if event != PAUSE)
    if start["event"] == "start":
        handlers = [MlflowRun(path, start).handle]
        handlers += [also(name, start) for name in start["tracking"]["also"]]
        for event in events:
            for handle in handlers:
                handle(event)
    for done in (path, path.with_suffix(".run"), Path(f"{path}.lock")):
        done.unlink(missing_ok=True)


class Store:
    """The project's experiment in MLflow, and the runs in it."""

    def __init__(self, uri: str | None):
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient

        self.uri = uri or f"sqlite:///{root()}/mlflow.db"
        require_database(self.uri)
        with FileLock(cache_dir("tracking") / "experiment.lock"):  # one of several makes it
            make_database(self.uri)
            self.client = MlflowClient(self.uri)
            self.experiment = self.experiment_id()

    def experiment_id(self) -> str:
        if found := self.client.get_experiment_by_name(EXPERIMENT):
            return found.experiment_id
        server = self.uri.startswith("http")  # it has a place of its own
        place = None if server else (root() / "mlartifacts").as_uri()
        kind = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens on training
        return self.client.create_experiment(EXPERIMENT, artifact_location=place, tags=kind)

    def new_run(self, name: str, tags: dict, params: dict, time: int) -> str:
        """A run's id. Its tag `made.for` names what it stands for, so that none is made twice."""
        query = f"tags.`made.for` = '{tags['made.for']}'"
        if found := self.client.search_runs([self.experiment], query, max_results=1):
            run = found[0]
        else:
            run = self.client.create_run(self.experiment, time, tags, run_name=name)
        self.log_params(run.info.run_id, params)
        return run.info.run_id

    def log_params(self, run_id: str, params: dict) -> None:
        from mlflow.entities import Param

        entities = [Param(name, str(value)[:6000]) for name, value in params.items()]
        for i in range(0, len(entities), 100):
            self.client.log_batch(run_id, params=entities[i : i + 100])

    def link(self, parent: str, finished: dict[str, dict]) -> None:
        """Tags a parent with the runs of finished stages, also of those that DVC did not rerun.

        Args:
            parent: a run id.
            finished: entries of a dvc.lock, by stage.
        """
        known = self.client.get_run(parent).data.tags
        for stage, entry in finished.items():
            if stage_tag(stage) not in known and (run := self.run_with(key(entry))):
                self.client.set_tag(parent, stage_tag(stage), run)

    def run_with(self, stage_key: str) -> str | None:
        """The newest finished run of a stage with the same command, inputs and parameters."""
        query = f"tags.`stage.key` = '{stage_key}' and attributes.status = 'FINISHED'"
        found = self.client.search_runs([self.experiment], query, max_results=1)
        return found[0].info.run_id if found else None

    def log_metrics(self, run: str, values: dict[str, float], step: int, time: int) -> None:
        self.send(run, as_metrics(values, step, time))

    def send(self, run: str, metrics: list["Metric"]) -> None:
        for i in range(0, len(metrics), AT_ONCE):
            self.client.log_batch(run, metrics=metrics[i : i + AT_ONCE])


def as_metrics(values: dict[str, float], step: int, time: int) -> list["Metric"]:
    from mlflow.entities import Metric

    return [Metric(name.replace("@", "."), v, time, step) for name, v in values.items()]


def require_database(uri: str) -> None:
    """Fails where a database server does not answer; MLflow would try for minutes."""
    if uri.startswith(("http", "sqlite")):
        return
    from sqlalchemy import create_engine

    create_engine(uri).connect().close()


def make_database(uri: str) -> None:
    """A sqlite store, all its tables or nothing: one that was cut off is of no use to MLflow."""
    from mlflow import MlflowClient

    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.exists():
        with replacing(path) as beside:
            MlflowClient(f"sqlite:///{beside}").search_experiments()


def stage_tag(stage: str) -> str:
    return f"stage.{stage}".replace("@", ".")


class MlflowRun:
    """One stage's run in MLflow, below its pipeline's parent run."""

    def __init__(self, spool: Path, start: dict):
        self.stage = start["stage"]
        with uncollected():  # while mlflow, sqlalchemy and dvc load
            self.store = Store(start["tracking"]["uri"])
            self.lineage = lineage(self.stage)
        self.client = self.store.client
        self.artifacts: list[dict] = []  # events that wait for the end
        self.metrics: dict[str, list[Metric]] = defaultdict(list)  # run -> those yet to be sent
        with FileLock(cache_dir("tracking") / "parent.lock"):  # side-by-side stages make it once
            self.parent = self.saved(
                cache_dir("tracking") / f"{start['pipeline']}.parent",
                lambda: self.new_parent(start),
            )
        self.run = self.saved(spool.with_suffix(".run"), lambda: self.new_run(start))
        self.client.set_tag(self.parent, stage_tag(self.stage), self.run)
        self.store.link(self.parent, finished_stages())

    def saved(self, path: Path, make: Any) -> str:
        """A run id from a file, or a new run whose id is written there."""
        if not path.exists():
            write_text(path, make())
        return path.read_text()

    def new_parent(self, start: dict) -> str:
        name = start["tags"].get("dvc.experiment") or start["started"]
        tags = {**start["tags"], "pipeline": start["pipeline"],
                "made.for": f"{start['pipeline']} on {HOST}"}  # fmt: skip
        tags.pop("dvc.stage", None)
        return self.store.new_run(name, tags, start["params"], start["time"])

    def new_run(self, start: dict) -> str:
        tags = {
            **start["tags"],
            **environment(),
            **{f"input.{path}": md5 for path, md5 in inputs(self.lineage).items()},
            "mlflow.parentRunId": self.parent,
            "pipeline": start["pipeline"],
            "made.for": start["id"],
            "stage.key": key(self.lineage),
        }
        return self.store.new_run(self.stage, tags, start["params"], start["time"])

    def handle(self, event: dict) -> None:
        if event["event"] == "metrics":
            self.log_metrics(event)
            return
        self.send_metrics()
        match event:
            case {"event": "dataset"}:
                self.log_dataset(event["path"], event["role"])
            case {"event": "artifact" | "table" | "register"}:
                self.artifacts.append(event)
            case {"event": "end", "status": status, "time": time}:
                self.client.set_terminated(self.run, status, time)
                self.client.set_terminated(self.parent, status, time)
                self.store_artifacts()

    def store_artifacts(self) -> None:
        if self.artifacts:
            require_client(self.client.get_run(self.run).info.artifact_uri)
        for event in self.artifacts:
            match event:
                case {"event": "artifact"}:
                    self.log_artifact(Path(event["path"]), event.get("md5"))
                case {"event": "table", "name": name, "rows": rows}:
                    self.log_table(name, rows)
                case {"event": "register"}:
                    self.register(event)

    def log_artifact(self, path: Path, digest: str | None) -> None:
        """Unless it is gone or another by now: this file may be sent hours after its stage."""
        if digest and md5(path) != digest:
            print(f"{path} is no longer that of {self.stage}'s run: not sent", file=sys.stderr)
            return
        log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        log(self.run, str(path))

    def log_metrics(self, event: dict) -> None:
        for run in [self.run, self.parent] if event.get("parent") else [self.run]:
            self.metrics[run] += as_metrics(event["values"], event["step"], event["time"])
            if len(self.metrics[run]) >= AT_ONCE:
                self.send_metrics()

    def send_metrics(self) -> None:
        while self.metrics:
            self.store.send(*self.metrics.popitem())

    def log_table(self, name: str, rows: list[dict]) -> None:
        """A table of MLflow's own; what is missing in a row is empty. MLflow would append to it."""
        if name in {artifact.path for artifact in self.client.list_artifacts(self.run)}:
            return  # this file was sent before
        columns = dict.fromkeys(column for row in rows for column in row)
        table = {column: [row.get(column) for row in rows] for column in columns}
        self.client.log_table(self.run, table, name)

    def log_dataset(self, path: str, role: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        digest = inputs(self.lineage).get(path, "unknown")
        dataset = Dataset(path, digest, "local", json.dumps({"uri": path}))
        role = InputTag("mlflow.data.context", role)
        self.client.log_inputs(self.run, [DatasetInput(dataset, [role])])

    def register(self, event: dict) -> None:
        """A model version that points at the folder; the weights are not copied.

        A server refuses what lies on another machine, so that there it is DVC's: path and hash.
        """
        model, path, digest = event["model"], event["path"], event["md5"]
        if not self.client.search_registered_models(f"name = '{model}'"):
            self.client.create_registered_model(model)
        if self.client.search_model_versions(f"name = '{model}' and run_id = '{self.run}'"):
            return  # this file was sent before
        server = self.store.uri.startswith("http")
        source = f"dvc:/{path}#{digest}" if server else Path(event["folder"]).as_uri()
        made = self.client.create_model_version(
            model, source, self.run, tags={"dvc.path": path, "dvc.md5": digest, "host": HOST},
            description=HOW_TO_GET.format(path=path, md5=digest),
        )  # fmt: skip
        self.client.set_registered_model_alias(model, "final", made.version)


def require_client(artifacts: str) -> None:
    """What this machine needs for the place where a run's artifacts go; a server needs nothing."""
    if artifacts.startswith("s3:") and find_spec("boto3") is None:
        raise UserError(
            f"artifacts go to {artifacts}, and boto3 is not installed: `pip install .[s3]`"
        )


def also(name: str, start: dict) -> Any:
    """The same to wandb or trackio, whose calls agree."""
    from importlib import import_module

    tracker = import_module(name)
    tracker.init(project=EXPERIMENT, name=f"{start['stage']} {start['started']}",
                 group=start["pipeline"], config=start["params"])  # fmt: skip

    def handle(event: dict) -> None:
        if event["event"] == "metrics":
            tracker.log(event["values"], step=event["step"])
        elif event["event"] == "end":
            tracker.finish()

    return handle


def lineage(stage: str) -> dict:
    """A stage's command, input hashes and parameters, in the form of its entry in dvc.lock.

    Empty outside DVC. The stage is running: its inputs do not change while we hash them.
    """
    if "DVC_STAGE" not in os.environ:
        return {}
    from dvc.repo import Repo
    from dvc.stage.serialize import to_single_stage_lockfile

    with Repo() as repo:
        loaded = repo.stage.load_one(name=stage)
        loaded.save_deps()
        return to_single_stage_lockfile(loaded)


def finished_stages() -> dict[str, dict]:
    """The entries of dvc.lock: the last run of each stage."""
    lock = Path("dvc.lock")
    return loaded(lock)["stages"] if lock.exists() else {}


def key(entry: dict) -> str:
    """One hash of a stage's command, input hashes and parameters."""
    parts = [entry.get("cmd"), inputs(entry), entry.get("params")]
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def inputs(entry: dict) -> dict[str, str]:
    return {dep["path"]: dep.get("md5", "") for dep in entry.get("deps", [])}


def environment() -> dict[str, str]:
    tags = {f"version.{package}": version(package) for package in PACKAGES}
    return {**tags, "python": platform.python_version(), "platform": platform.platform()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
    gc.freeze()  # as at the end of a stage, which waits for this one
