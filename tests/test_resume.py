"""A training that is killed goes on from its last complete checkpoint, to the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, TINY, Project, merged

pytestmark = pytest.mark.long

# GRPO's second epoch begins at step 5 of 12: its batches are in another order than the first's.
CHANGES = {
    "task": {"pool": 8},
    "sft": {"max_steps": 24},
    "grpo": {"max_steps": 12, "trainer": {"logging_steps": 2}},
    "distill": {"max_steps": 12},
    "evaluate": {"batch_size": 2, "samples_per_prompt": 2},
    "run": {"checkpoint_seconds": 0},
}
OUTPUTS = {
    "sft": ["models/sft/model.safetensors", "plots/sft.csv"],
    "grpo": ["models/adapter/adapter_model.safetensors", "plots/grpo.csv", "rollouts/grpo.jsonl"],
    "distill": ["models/student/model.safetensors", "plots/distill.csv", "rollouts/teacher.jsonl"],
    "evaluate@grpo": ["samples/grpo.jsonl", "samples/grpo.json"],
}


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Project, dict[str, bytes]]:
    """A project whose stages have run without a stop, and what they made."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    project = Project(tmp_path_factory.mktemp("resume") / "p", merged(merged(raw, TINY), CHANGES))
    for stage in ("prepare", "base", "sft", "audit", "grpo", "merge", "distill"):
        project.stage(f"stages.{stage}")
    project.stage("stages.evaluate", "grpo")
    return project, {name: (project.folder / name).read_bytes()
                     for names in OUTPUTS.values() for name in names}  # fmt: skip


def checkpoints(project: Project, stage: str) -> list[Path]:
    found = (project.folder / ".cache/checkpoints" / stage).glob("*/checkpoint-*/complete.json")
    return sorted((path.parent for path in found), key=lambda p: int(p.name.split("-")[1]))


def command(stage: str) -> list[str]:
    """`evaluate@grpo` -> `-m stages.evaluate grpo`"""
    return ["-m", *f"stages.{stage}".split("@")]


def killed(project: Project, stage: str, after: int, how: int = signal.SIGKILL) -> int:
    """Starts a stage and kills it once a checkpoint of at least `after` steps is complete."""
    return killed_when(
        project,
        stage,
        lambda: any(int(c.name.split("-")[1]) >= after for c in checkpoints(project, stage)),
        how,
    )


def killed_when(
    project: Project, stage: str, due: Callable[[], bool], how: int = signal.SIGKILL
) -> int:
    environment = {k: v for k, v in project.environment().items() if not k.startswith("DVC_")}
    process = subprocess.Popen([sys.executable, *command(stage)], cwd=project.folder,
                               env=environment, stderr=subprocess.DEVNULL)  # fmt: skip
    while process.poll() is None:
        if due():
            os.kill(process.pid, how)
            break
        time.sleep(0.01)
    return process.wait()


def ends_with_the_same_bits(project: Project, stage: str, wanted: dict[str, bytes]) -> str:
    for name in OUTPUTS[stage]:
        (project.folder / name).unlink()
    output = project.run(sys.executable, *command(stage))
    for name in OUTPUTS[stage]:
        assert (project.folder / name).read_bytes() == wanted[name], name
    assert not (project.folder / ".cache/checkpoints" / stage).exists()
    return output


@pytest.mark.parametrize(("stage", "after"), [("sft", 3), ("grpo", 6), ("distill", 2)])
def test_a_killed_stage_goes_on_and_ends_with_the_same_bits(done, stage, after):
    project, wanted = done
    assert killed(project, stage, after) == -signal.SIGKILL
    output = ends_with_the_same_bits(project, stage, wanted)
    assert f"{stage}: going on from step" in output


@pytest.mark.parametrize("stage", ["distill", "evaluate@grpo"])
def test_a_killed_sampling_goes_on_after_its_last_batch(done, stage):
    project, wanted = done

    def sampled() -> bool:
        found = (project.folder / ".cache/checkpoints" / stage).glob("*/batches.jsonl")
        return any(path.read_bytes().count(b"\n") >= 1 for path in found)

    assert killed_when(project, stage, sampled) == -signal.SIGKILL
    assert "going on after" in ends_with_the_same_bits(project, stage, wanted)


def test_damaged_checkpoints_are_passed_over_and_a_changed_parameter_begins_anew(done):
    project, wanted = done
    assert killed(project, "grpo", 6, signal.SIGTERM) == 128 + signal.SIGTERM
    older, newer = checkpoints(project, "grpo")
    weights = newer / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    params = (project.folder / "params.yaml").read_text()
    output = ends_with_the_same_bits(project, "grpo", wanted)
    assert f"{newer.name}: adapter_model.safetensors is damaged: passed over" in output
    assert f"going on from step {older.name.split('-')[1]}" in output

    killed(project, "grpo", 2)
    project.write(merged(yaml.safe_load(params), {"grpo": {"kl_coef": 0.1}}))
    assert "going on" not in project.stage("stages.grpo")
    assert not list((project.folder / ".cache/checkpoints").rglob("complete.json"))
    (project.folder / "params.yaml").write_text(params)


def test_what_was_logged_before_the_stop_is_in_the_run_that_went_on(done):
    project, _ = done
    killed(project, "grpo", 6)
    project.stage("stages.grpo")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("grpo-pipeline").experiment_id
    newest = next(r for r in client.search_runs([experiment]) if r.info.run_name == "grpo")
    steps = [m.step for m in client.get_metric_history(newest.info.run_id, "mean_reward")]
    assert steps == [2, 4, 6, 8, 10, 12]
    assert json.loads((project.folder / "metrics/grpo.json").read_text())["tokens"] > 0
