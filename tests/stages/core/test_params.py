from pathlib import Path

import pytest
import yaml

from stages.core import params
from stages.core.errors import UserError
from tests.conftest import ROOT, merged


def refusal(raw: dict, changes: dict) -> str:
    with pytest.raises(UserError) as caught:
        params.validate(merged(raw, changes), "params.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"grpo": {"kl_coeff": 0.1}}, "grpo.kl_coeff is not a key here; did you mean grpo.kl_coef"),
        ({"grpo": {"num_generations": 4}}, "not a key here: say grpo.group_size"),
        ({"grpo": {"lora_r": 4}}, "say grpo.lora.r"),
        ({"grpo": {"format_reward_weight": 0.1}}, "say grpo.rewards.format.weight"),
        ({"grpo": {"rewards": {"format": {"wieght": 1}}}}, "mean grpo.rewards.format.weight"),
        ({"grpo": {"trainer": {"beta": 0.1}}}, "trainer.beta is already decided by grpo.kl_coef"),
        ({"sft": {"trainer": {"seed": 1}}}, "sft.trainer.seed is already decided by seed"),
        ({"grpo": {"trainer": {"los_type": "dapo"}}}, "did you mean 'loss_type'"),
        ({"grpo": {"trainer": {"epsilon_high": "abc"}}}, "takes float or null (given: 'abc')"),
        ({"grpo": {"trainer": {"loss_type": "dapoo"}}}, "grpo.trainer.loss_type"),
        ({"grpo": {"lora": {"rank": 8}}}, "grpo.lora.rank is not an option of peft.LoraConfig"),
        ({"grpo": {"kl_coef": "abc"}}, "grpo.kl_coef: input should be a valid number"),
        ({"grpo": {"kl_coef": -1}}, "grpo.kl_coef"),
        ({"grpo": {"group_size": 7}}, "not a multiple of grpo.group_size 7"),
        ({"sft": {"learning_rate": float("nan")}}, "sft.learning_rate"),
        ({"sft": {"lora": {"r": 8}}}, "sft.lora has options but sft.method is full"),
        ({"sft": {"trainer": {"optim": "sgd"}}}, "name two optimizers"),
        ({"task": {"source": "./rows.jsonl"}}, "set task.watch to the same path"),
        ({"task": {"name": "gsm8k", "source": "data/raw/none"}}, "is the local path data/raw/none"),
        ({"task": {"name": "gsm9k"}}, "task.name"),
        ({"format": {"answer_open": "<think>"}}, "tags must differ"),
        ({"base": {"scratch": {"heads": 3}}}, "not a multiple of heads"),
        ({"tracking": {"also": ["tensorboard"]}}, "tracking.also"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_in_one_sentence_that_names_it(raw, changes, says):
    assert says in refusal(raw, changes)


def test_a_missing_section_is_named(raw):
    del raw["sft"]
    with pytest.raises(UserError, match="sft is missing"):
        params.validate(raw, "params.yaml")


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


def test_missing_and_malformed_files(here):
    with pytest.raises(UserError, match=r"params\.yaml is missing"):
        params.load()
    Path("params.yaml").write_text("seed: [1\n")
    with pytest.raises(UserError, match="not valid YAML"):
        params.load()
    Path("params.yaml").write_text("- a\n")
    with pytest.raises(UserError, match="holds no sections"):
        params.load()


def test_the_shared_names_of_the_field_are_all_pointed_somewhere(raw):
    for name in params.POINTERS:
        assert "say " in refusal(raw, {"grpo": {name: 1}})
