"""What one has trained, the others take from S3: git, DVC and an S3 server, all real."""

import re
import time

import pytest
import yaml

from stages.core.graph import md5
from tests.conftest import ROOT, Project
from tests.stages.core.test_tracking import free_port, runs
from tests.team.conftest import Team
from tests.test_pipeline import WHOLE, ran


def cached(output: str) -> set[str]:
    """The stages whose outcome DVC took from its run cache."""
    return set(re.findall(r"Stage '([^']+)' is cached", output))


def locked(project: Project) -> dict[str, str]:
    """`{output: its md5}` of a project's dvc.lock."""
    entries = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"].values()
    return {out["path"]: out["md5"] for entry in entries for out in entry["outs"]}


def lies_there(project: Project) -> dict[str, str | None]:
    return {path: md5(project.folder / path) for path in locked(project)}


def test_dvc_keeps_every_output():
    """One that it did not keep would make its stage run again in each clone."""
    declared = (ROOT / "dvc.yaml").read_text()
    assert "cache:" not in declared and "persist:" not in declared


@pytest.mark.long
def test_a_clone_takes_every_stage_from_s3_and_trains_nothing(team: Team, tmp_path):
    colleague, before = team.clone(tmp_path / "clone"), set(runs(team.mlflow))
    assert not (colleague.folder / "models").exists()
    started = time.monotonic()
    output = colleague.dvc("repro", "--pull", **team.s3.environment)
    seconds = time.monotonic() - started
    assert ran(output) == set() and len(re.findall("Pulling data for stage", output)) == len(WHOLE)
    assert lies_there(colleague) == locked(colleague) == locked(team.project)
    assert colleague.run("git", "status", "--porcelain") == ""
    assert not (colleague.folder / ".cache/tracking").exists() and set(runs(team.mlflow)) == before
    print(f"restored in {seconds:.1f} s, trained in {team.seconds:.1f} s")
    assert seconds < team.seconds / 2
    assert "up to date" in colleague.dvc("repro")
    forced = colleague.dvc("repro", "--single-item", "--force", "prepare")
    assert ran(forced) == {"prepare"}, "what is not to come from a cache"


@pytest.mark.long
def test_runs_that_no_commit_names_are_in_the_run_cache(team: Team, tmp_path):
    """As for somebody who sets the same parameters on a branch without this dvc.lock."""
    colleague = team.clone(tmp_path / "clone")
    (colleague.folder / "dvc.lock").unlink()
    output = colleague.dvc("repro", "--pull", **team.s3.environment)
    assert ran(output) == set() and cached(output) == WHOLE
    assert lies_there(colleague) == locked(colleague) == locked(team.project)


@pytest.mark.nightly
def test_an_experiment_pushes_itself_and_is_nobodys_to_run_again(team: Team, tmp_path):
    first, environment = team.project, team.s3.environment
    tried = ("--temp", "-S", "grpo.kl_coef=0.01")
    output = first.dvc("exp", "run", *tried, "-n", "kl", "grpo",
                       DVC_EXP_AUTO_PUSH="true", **environment)  # fmt: skip
    assert ran(output) == {"grpo"} and "WARNING" not in output
    assert "/kl" in first.run("git", "ls-remote", "origin", "refs/exps/*")

    second = team.clone(tmp_path / "second")
    output = second.dvc("exp", "run", *tried, "-n", "kl-too", "--pull", "grpo", **environment)
    assert ran(output) == set() and cached(output) == {"grpo"}

    third = team.clone(tmp_path / "third")
    third.dvc("exp", "pull", "origin", "kl", **environment)
    assert "0.01" in third.dvc("params", "diff", "main", "kl")
    third.dvc("exp", "apply", "kl")
    adapter = locked(third)["models/adapter"]
    assert md5(third.folder / "models/adapter") == adapter != locked(first)["models/adapter"]


@pytest.mark.long
def test_without_s3_or_its_keys_dvc_says_so_and_the_pipeline_needs_neither(team: Team):
    project, environment = team.project, team.s3.environment
    away = {**environment, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{free_port()}"}
    for command in (("pull",), ("repro", "--pull")):
        assert "Could not connect to the endpoint" in project.dvc(*command, ok=False, **away)
    nobody = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
              "AWS_ENDPOINT_URL_S3": environment["AWS_ENDPOINT_URL_S3"]}  # fmt: skip
    assert "Unable to locate credentials" in project.dvc("push", "-r", "team", ok=False, **nobody)
    assert ran(project.dvc("repro")) == set()
