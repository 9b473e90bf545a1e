from pathlib import Path

import pytest
import yaml

from stages.core import explain, params, schema
from stages.core.errors import UserError
from tests.conftest import ROOT, merged, watching


def refusal(raw: dict, changes: dict) -> str:
    with pytest.raises(UserError) as caught:
        params.validate(merged(raw, changes), "params.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_numbers_that_yaml_reads_as_text(raw):
    raw["grpo"]["learning_rate"] = "1e-05"
    raw["grpo"]["trainer"]["weight_decay"] = "1e-2"
    loaded = params.validate(raw, "params.yaml").grpo
    assert loaded.learning_rate == 1e-5
    assert loaded.trainer["weight_decay"] == 0.01


@pytest.mark.parametrize("path", sorted(Path(ROOT, "presets").glob("*.yaml")), ids=lambda p: p.stem)
def test_presets_are_whole_and_valid(path, here, raw):
    raw_preset = yaml.safe_load(path.read_text())
    Path("data/raw/gsm8k").mkdir(parents=True)
    assert raw_preset.keys() == raw.keys()
    params.load(path)


@pytest.mark.parametrize(
    "path", [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))], ids=lambda p: p.stem
)
def test_every_key_carries_a_comment(path):
    lines = path.read_text().splitlines()
    for line in lines:
        section = line and not line.startswith((" ", "#"))
        if ":" in line and not line.strip().startswith("#") and not section:
            name, _, value = line.strip().partition(":")
            mapping = not value.strip()
            trainer_option = name in (
                "lr_scheduler_type",
                "warmup_steps",
                "logging_steps",
                "r",
                "activation_checkpointing",
                "lora_alpha",
                "target_modules",
            )
            listed = name in ('"2"', '"3"', "layers", "heads", "intermediate_size", "hidden_size")
            assert "#" in line or mapping or trainer_option or listed, line


def test_the_shared_names_of_the_field_are_all_pointed_somewhere(raw):
    for name in explain.POINTERS:
        assert "say " in refusal(raw, {"grpo": {name: 1}})


def test_the_rewards_known_by_name_are_those_there_are():
    from stages import rewards

    assert tuple(rewards.OWN) == params.REWARDS


def test_every_bounded_option_is_one_of_trls_or_pefts():
    options = set().union(*schema.accepted().values())
    assert params.RANGES.keys() <= options and params.DECIDED.keys() <= options


def test_a_schedule_is_one_that_transformers_has(raw):
    raw["sft"]["trainer"]["lr_scheduler_type"] = "constant_with_warmup"
    params.validate(raw, "params.yaml")


def test_an_edited_task_of_lm_eval_reruns_all_that_evaluate(here, raw):
    Path("my_task.yaml").write_text("task: mine")
    raw["evaluate"]["tasks"] = ["gsm8k", "./my_task.yaml"]
    given = params.validate(raw, "params.yaml")
    watching("my_task.yaml", by=("evaluate",))
    with pytest.raises(UserError, match=r"`- my_task\.yaml` to stages\.evaluate_also\.do"):
        params.require_here(given)
    watching("my_task.yaml", by=("evaluate", "evaluate_also", "evaluate_control"))
    params.require_here(given)
