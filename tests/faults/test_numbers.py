"""NaN and inf, from a user's reward or in a model's weights: a sentence, and no output."""

import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.conftest import Project, merged
from tests.faults.harness import OUTPUTS, Tally, finish, forget, nothing_was_lost, twin
from tests.faults.test_damage import complete

REWARDS = """
calls = 0

def variety(completions, **_):
    global calls
    calls += 1
    if calls > {good}:
        return [float("{value}")] * len(completions)
    return [float(len(set(c[-1]["content"]))) for c in completions]
"""


def changed(project: Project, changes: dict) -> None:
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    project.write(merged(params, changes))


def no_output(project: Project, stage: str) -> bool:
    """Rollouts apart: there one reads what went wrong."""
    names = [name for name in OUTPUTS[stage] if not name.startswith("rollouts")]
    return not any((project.folder / name).exists() for name in names)


@pytest.mark.parametrize("value", [
    pytest.param("nan", marks=pytest.mark.long),
    pytest.param("inf", marks=pytest.mark.nightly),
    pytest.param("-inf", marks=pytest.mark.nightly),
])  # fmt: skip
def test_a_reward_that_is_no_number_stops_grpo(done, tmp_path, value):
    project = twin(done.project, tmp_path / "p")
    forget(project, "grpo")
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["grpo"]["rewards"] = {"variety": params["grpo"]["rewards"]["variety"]}
    project.write(params)
    (project.folder / "my_rewards.py").write_text(REWARDS.format(good=10, value=value))
    output = project.stage("stages.grpo", ok=False)
    assert f"grpo: mean_reward is {value} at step" in output or "grpo: loss is" in output, output
    assert "training stopped. " in output and "Traceback" not in output
    assert no_output(project, "grpo")
    assert complete(project, "grpo"), "the last good one is kept"


@pytest.mark.long
def test_a_training_that_runs_away_stops_and_keeps_its_last_good_checkpoint(done, tmp_path):
    project = twin(done.project, tmp_path / "p")
    forget(project, "sft")
    wild = {"optimizer": "adamw", "learning_rate": 1e38,
            "trainer": {"logging_steps": 1, "warmup_steps": 0}}  # fmt: skip
    changed(project, {"sft": wild})
    output = project.stage("stages.sft", ok=False)
    assert "sft: loss is " in output or "sft: grad_norm is " in output, output
    assert "lower sft.learning_rate (now 1e+38)" in output and "Traceback" not in output
    assert no_output(project, "sft")
    assert all("NaN" not in (c / "extras.json").read_text() for c in complete(project, "sft"))


@pytest.mark.parametrize(("model", "stage"), [
    pytest.param("base", "sft", marks=pytest.mark.nightly),
    pytest.param("sft", "grpo", marks=pytest.mark.nightly),
    pytest.param("grpo", "distill", marks=pytest.mark.nightly),
    pytest.param("student", "evaluate@student", marks=pytest.mark.long),
])  # fmt: skip
def test_a_model_with_a_weight_that_is_no_number_is_refused(done, tmp_path, model, stage):
    project, tally = twin(done.project, tmp_path / "p"), Tally()
    path = project.folder / "models" / model / "model.safetensors"
    whole = path.read_bytes()
    weights = load_file(path)
    name = sorted(weights)[-1]
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    forget(project, stage)
    module, *words = stage.split("@")
    output = project.stage(f"stages.{module}", *words, ok=False)
    assert f"{stage}: the model of models/{model} has weights that are no numbers" in output
    assert name in output and "Traceback" not in output
    assert no_output(project, stage)
    if stage == "evaluate@student":
        path.write_bytes(whole)
        finish(project, stage, done, tally)
        nothing_was_lost(tally)
