"""One MLflow for all: a server on PostgreSQL whose artifacts lie in S3, all real."""

import json
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from stages.core import tracking
from stages.core.graph import md5
from tests.stages.core.test_tracking import free_port, runs, server
from tests.team.conftest import BUCKET, S3, Team, s3_server
from tests.test_pipeline import ALL, MODELS


@pytest.fixture(autouse=True)
def without_keys(monkeypatch) -> None:
    """The client knows nothing of S3: where artifacts are proxied, only the server does."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ENDPOINT_URL_S3"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)


@pytest.mark.long
def test_a_run_of_the_pipeline_is_all_there_for_a_colleague(team: Team):
    client, found = MlflowClient(team.mlflow), runs(team.mlflow)
    assert set(found) >= ALL
    assert {found[stage].info.status for stage in ALL} == {"FINISHED"}
    grpo, report = found["grpo"], found["report"]
    assert grpo.data.params["grpo.kl_coef"] == "0.0" and grpo.data.tags["mlflow.user"] == "test"
    assert len(client.get_metric_history(grpo.info.run_id, "mean_reward")) == 3
    assert grpo.inputs.dataset_inputs[0].dataset.name == "data/grpo.jsonl"
    table = json.loads(
        Path(client.download_artifacts(report.info.run_id, "results.json")).read_text()
    )
    assert [row[table["columns"].index("model")] for row in table["data"]] == MODELS
    page = Path(client.download_artifacts(report.info.run_id, "report.html"))
    assert page.read_bytes() == (team.project.folder / "reports/report.html").read_bytes()

    inside = f"mlflow/{report.info.experiment_id}/{report.info.run_id}/artifacts"
    assert f"{inside}/report.html" in team.s3.names("mlflow/")
    assert not [name for name in team.s3.names("mlflow/") if name.endswith(".safetensors")]
    assert not list(team.project.folder.glob(".cache/tracking/*.jsonl"))


@pytest.mark.long
def test_a_registered_model_is_found_by_its_hash_and_fetched_from_s3(team: Team, tmp_path):
    client = MlflowClient(team.mlflow)
    for name, path in (("grpo-policy", "models/grpo"), ("grpo-student", "models/student")):
        version = client.get_model_version_by_alias(name, "final")
        made = md5(team.project.folder / path)
        assert version.source == f"dvc:/{path}#{made}" and version.tags["dvc.md5"] == made
        assert f"grpo/files/md5/{made[:2]}/{made[2:]}" in team.s3.names("grpo/")

        colleague = team.clone(tmp_path / name)
        log = ["git", "log", "--all", "--reverse", "--format=%H", "-S", made, "--", "dvc.lock"]
        assert " ".join(log[:2]) in version.description and made in version.description
        commit = colleague.run(*log).split()[0]
        colleague.dvc("get", str(team.origin), path, "--rev", commit, "-o", "fetched",
                      **team.s3.environment)  # fmt: skip
        assert md5(colleague.folder / "fetched") == made


@pytest.mark.nightly
def test_losing_s3_in_mid_run_loses_no_metric_and_fails_no_stage(params, here, caplog):
    with s3_server() as s3:
        artifacts = ("--artifacts-destination", f"s3://{BUCKET}/mlflow")
        quick = {"AWS_MAX_ATTEMPTS": "1"}
        with server(free_port(), here, None, artifacts, **s3.environment, **quick) as uri:
            there, kept = params(uri), Path("rollouts.jsonl")
            kept.write_text("{}\n")
            with tracking.tracked("grpo", there) as spool:
                spool.metrics({"loss": 0.5}, step=0)
                spool.artifact(kept)
                while "loss" not in history(uri):
                    time.sleep(0.2)
                s3.stop()
                spool.table("findings.json", [{"code": "kl"}])
                spool.metrics({"loss": 0.25}, step=1)
            assert "not reported" in caplog.text
            run = runs(uri)["grpo"]
            assert run.info.status == "FINISHED"
            points = MlflowClient(uri).get_metric_history(run.info.run_id, "loss")
            assert [(p.step, p.value) for p in points] == [(0, 0.5), (1, 0.25)]

            s3.start()
            with tracking.tracked("merge", there):
                pass
            inside = f"mlflow/{run.info.experiment_id}/{run.info.run_id}/artifacts"
            assert s3.names("mlflow/") == {f"{inside}/{n}" for n in (kept.name, "findings.json")}
            points = MlflowClient(uri).get_metric_history(run.info.run_id, "loss")
            assert len(points) == 2
    assert not list(here.glob(".cache/tracking/*.jsonl"))


def history(uri: str) -> dict[str, float]:
    run = runs(uri).get("grpo")
    return run.data.metrics if run else {}


@pytest.mark.nightly
def test_artifacts_straight_to_s3_need_the_keys_on_each_machine(params, here, s3: S3, monkeypatch):
    artifacts = ("--no-serve-artifacts", "--default-artifact-root", f"s3://{BUCKET}/direct")
    Path("report.md").write_text("1")
    with server(free_port(), here, None, artifacts) as uri:
        with tracking.tracked("prepare", params(uri)) as spool:
            spool.artifact(Path("report.md"))
        assert "Unable to locate credentials" in Path(".cache/tracking/tracker.log").read_text()
        assert runs(uri)["prepare"].info.status == "FINISHED"
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        with tracking.tracked("sft", params(uri)):
            pass
        assert [name.rsplit("/")[-1] for name in s3.names("direct/")] == ["report.md"]
