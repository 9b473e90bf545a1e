"""`python -m stages.plan`: its figures against ones worked out by hand."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages import plan
from stages.core import last_run
from stages.core import params as parameters
from stages.core.files import write_rows
from tests.conftest import ROOT, merged

EVALUATED = ["base", "sft", "control", "grpo", "student"]


@pytest.fixture
def here(here) -> Path:
    shutil.copy(ROOT / "dvc.yaml", here / "dvc.yaml")
    return here


def planned(raw: dict, changes: dict | None = None) -> dict:
    return plan.plan(parameters.validate(merged(raw, changes or {}), "params.yaml"))


def rows(name: str, count: int) -> None:
    message = {"role": "user", "content": "How many?"}
    write_rows(Path(f"data/{name}.jsonl"), [{"prompt": [message]}] * count)


def test_the_embedded_default_by_hand(here, raw):
    stages = planned(raw)["stages"]
    assert list(stages) == [
        "prepare", "base", "sft", "audit", "grpo", "merge", "distill",
        *(f"evaluate@{name}" for name in EVALUATED), "report",
    ]  # fmt: skip
    assert stages["sft"]["settings"] == {
        "method": "full", "optimiser_steps": 280, "sequences_a_step": 48, "batch_size": 48,
        "gradient_accumulation_steps": 1, "tokens_a_step_at_most": 48 * 128,
    }  # fmt: skip
    assert stages["grpo"]["settings"] == {
        "optimiser_steps": 24, "batch_size": 128, "gradient_accumulation_steps": 1,
        "tokens_a_step_at_most": 128 * (128 + 40), "completions_a_step": 128,
        "prompts_a_step": 16.0, "group_size": 8, "generations": 24,
        "completions_a_generation": 128, "completions": 24 * 128,
    }  # fmt: skip
    assert stages["evaluate@grpo"]["settings"] == {
        "problems": 600, "completions": 600, "batch_size": 100, "batches": 6,
        "tokens_generated_at_most": 600 * 40,
    }  # fmt: skip
    assert stages["distill"]["settings"]["teacher_batches"] == 28  # 3,500 in batches of 128
    assert stages["distill"]["settings"]["optimiser_steps"] == 320
    assert all(stage["time"] == {"last": None, "estimate": None} for stage in stages.values())


def test_defaults_are_filled_in_and_the_trainers_options_kept(here, raw):
    del raw["grpo"]["top_p"]
    found = planned(raw, {"sft": {"trainer": {"weight_decay": "1e-2"}}})["params"]
    assert found["grpo"]["top_p"] == 1.0
    assert found["sft"]["trainer"]["weight_decay"] == 0.01
    json.dumps(found)


def test_epochs_over_the_data_there_is(here, raw):
    rows("sft", 1000)
    rows("grpo", 96)
    rows("test", 50)
    stages = planned(raw, {"evaluate": {"num_samples": 70, "samples_per_prompt": 3}})["stages"]
    assert stages["sft"]["settings"]["epochs"] == 280 * 48 / 1000
    assert stages["grpo"]["settings"]["epochs"] == 24 * 16 / 96
    assert stages["distill"]["settings"]["prompts"] == 1096
    assert stages["evaluate@sft"]["settings"]["completions"] == 50 * 4
    assert stages["audit"]["settings"] == {"golds": 96}


def test_what_each_method_of_distillation_does_and_holds(here, raw):
    rows("sft", 1000)
    rows("grpo", 96)

    def of(method: str, **changes) -> tuple[dict, dict]:
        stage = planned(raw, {"distill": {"method": method, **changes}})["stages"]["distill"]
        return stage["settings"], stage["memory"]

    verified, held = of("verified", keep=1, samples_per_prompt=4, rollouts=False)
    assert verified["teacher_samples"] == 4 * 1096
    assert verified["epochs_at_least"] == round(320 * 48 / 1096, 2)
    assert "epochs_at_least" not in of("verified", rollouts=True)[0]
    assert of("demonstrations")[0]["epochs"] == 320 * 48 / 1000
    assert "teacher_samples" not in of("demonstrations")[0]
    on_policy, beside = of("on_policy", precision="fp32")
    assert on_policy["completions"] == 320 * 48
    assert on_policy["tokens_a_step_at_most"] == 48 * (128 + 40)
    assert beside["teacher"] == 4 * planned(raw)["model"]["parameters"] and "teacher" not in held


def test_students_that_are_taught_otherwise_are_trained_and_evaluated(here, raw):
    stages = planned(raw, {"report": {"compare": ["demonstrations", "logits"]}})["stages"]
    also = [f"{what}_also@{how}" for what in ("distill", "evaluate")
            for how in ("demonstrations", "logits")]  # fmt: skip
    assert [name for name in stages if "_also" in name] == also
    alone = planned(raw, {"distill": {"method": "logits"}})["stages"]["distill"]
    assert stages["distill_also@logits"] == alone != stages["distill"]
    assert stages["evaluate_also@logits"] == stages["evaluate@student"]


def test_controls_are_trained_and_evaluated(here, raw):
    stages = planned(raw, {"report": {"controls": ["verified", "longer"]}})["stages"]
    names = list(stages)
    at = names.index("sft") + 1
    assert names[at : at + 2] == ["sft_also@verified", "sft_also@longer"]
    assert stages["sft_also@verified"] == stages["sft"]
    steps = [stages[name]["settings"]["optimiser_steps"] for name in ("sft", "sft_also@longer")]
    assert steps[1] == 2 * steps[0]
    assert stages["evaluate_control@longer"] == stages["evaluate@sft"]


def test_a_student_of_layers_by_hand(here, raw):
    own = {"source": "layers", "layers": [0], "scratch": None}
    found = planned(raw, {"distill": {"student": own}})
    one = planned(raw, {"base": {"scratch": {"layers": 1}}})
    assert found["student"]["parameters"] == one["model"]["parameters"]


@pytest.mark.parametrize(
    "trainer, generations, sampled",
    [
        ({}, 24, 4 * 128),  # one generation a step: 4 micro-batches
        ({"steps_per_generation": 8}, 12, 8 * 128),
        ({"num_iterations": 2}, 12, 4 * 128),
        ({"generation_batch_size": 256}, 48, 256),
        ({"steps_per_generation": 5}, 20, 5 * 128),  # 96 micro-batches, the last generation in part
    ],
)
def test_generations_by_hand(here, raw, trainer, generations, sampled):
    found = planned(raw, {"grpo": {"gradient_accumulation_steps": 4, "trainer": trainer}})
    settings = found["stages"]["grpo"]["settings"]
    assert settings["generations"] == generations
    assert settings["completions_a_generation"] == sampled
    assert settings["completions"] == generations * sampled
    assert settings["completions_a_step"] == 512 and settings["prompts_a_step"] == 64


def test_grpo_of_all_weights_and_with_further_rounds_by_hand(here, raw):
    count = planned(raw)["model"]["parameters"]
    changes = {"lora": None, "kl_coef": 0.1, "dynamic_sampling": 3}
    grpo = planned(raw, {"grpo": changes})["stages"]["grpo"]
    assert grpo["settings"]["completions_at_most"] == 4 * grpo["settings"]["completions"]
    assert grpo["memory"]["weights"] == grpo["memory"]["reference"] == 4 * count
    assert grpo["memory"]["optimizer"] == 8 * count
    del changes["kl_coef"]
    assert "reference" not in planned(raw, {"grpo": changes})["stages"]["grpo"]["memory"]


def test_sft_left_out_takes_nothing(here, raw):
    found = planned(raw, {"sft": {"method": "none"}})["stages"]["sft"]
    assert found["settings"] == {"method": "none", "optimiser_steps": 0}
    assert found["memory"] is None


def test_memory_by_hand(here, raw):
    found = planned(raw)
    count = 512 * 160 + 2 * (4 * 160 * 160 + 3 * 160 * 480) + 5 * 160
    assert found["model"]["parameters"] == count == 748_320
    stages = found["stages"]
    matrices = 2 * (4 * 160 * 160 + 3 * 160 * 480)
    sft = stages["sft"]["memory"]
    assert sft["weights"] == sft["gradients"] == 4 * count
    assert sft["optimizer"] == 4 * matrices + 8 * (count - matrices)
    assert sft["half_copies"] == 2 * matrices
    values = 14 * 160 + 4 * 480 + 2 * 160
    assert sft["activations"] == 2 * 48 * 128 * (2 * values + 4 * 128 * 6)
    assert sft["peak"] == sum(value for name, value in sft.items() if name != "peak")
    grpo = stages["grpo"]["memory"]
    adapter = 2 * 16 * (4 * 2 * 160 + 3 * (160 + 480))
    assert grpo["weights"] == 2 * count and grpo["adapter"] == 4 * adapter
    assert grpo["optimizer"] == 8 * adapter
    assert grpo["activations"] == 2 * 128 * 168 * (2 * values + 4 * 168 * 6)
    assert stages["merge"]["memory"]["peak"] == 3 * 4 * count
    evaluate = stages["evaluate@grpo"]["memory"]
    assert evaluate["kv_cache"] == 2 * 2 * 160 * 100 * (128 + 40) * 4
    assert stages["prepare"]["memory"] is stages["report"]["memory"] is None


def test_what_lowers_memory(here, raw):
    def peak(stage: str, changes: dict) -> int:
        return planned(raw, changes)["stages"][stage]["memory"]["peak"]

    assert peak("grpo", {"grpo": {"batch_size": 64}}) < peak("grpo", {})
    assert peak("grpo", {"grpo": {"trainer": {"activation_checkpointing": True}}}) < peak(
        "grpo", {}
    )
    lora = {"sft": {"method": "lora", "optimizer": "adamw", "batch_size": 1}}
    qlora = merged(lora, {"sft": {"method": "qlora"}})
    small = {"sft": {"batch_size": 1}}
    assert peak("sft", qlora) < peak("sft", lora) < peak("sft", small)


def test_a_hub_model_that_is_not_here_is_unknown(here, raw, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(here / "hub"))
    base = {"source": "some/model", "scratch": None}
    found = planned({**raw, "base": {**raw["base"], **base}})
    assert found["model"] == {"parameters": None, "from": "unknown: downloads first"}
    assert found["stages"]["grpo"]["memory"] is None
    assert found["stages"]["evaluate@student"]["memory"] is not None
    assert "parameters unknown: downloads first" in plan.text(found)


def test_a_local_model_is_read_from_its_files(here, raw):
    from transformers import LlamaConfig, LlamaForCausalLM

    made = LlamaForCausalLM(LlamaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2,
                                        intermediate_size=64, num_attention_heads=2))  # fmt: skip
    made.save_pretrained("mine")
    base = {"source": "./mine", "watch": "mine", "scratch": None}
    raw = {**raw, "base": {**raw["base"], **base}}
    found = planned(raw)["model"]
    assert found == {"parameters": sum(p.numel() for p in made.parameters()), "from": "mine"}
    Path("mine/config.json").write_text("{}")
    assert planned(raw)["model"] == {"parameters": None, "from": "unknown: mine does not say"}


def test_the_made_base_counts_with_the_tokens_that_its_tokenizer_found(here, raw):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(vocab_size=442, hidden_size=160, num_hidden_layers=2, intermediate_size=480,
                        num_attention_heads=4, tie_word_embeddings=True)  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained("models/base")
    assert planned(raw)["model"]["parameters"] == 737_120
    other = {"base": {"scratch": {"layers": 3}}}
    assert planned(raw, other)["model"]["from"].startswith("arithmetic")


# --- time -----------------------------------------------------------------------------------------


def ran(stage: str, recorded: dict, **metrics) -> None:
    """What a run of a stage leaves: its metrics, and its entry in dvc.lock."""
    path = last_run.metrics_path(stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(metrics))
    lock = Path("dvc.lock")
    stages = yaml.safe_load(lock.read_text())["stages"] if lock.exists() else {}
    stages[stage] = {"params": {"params.yaml": recorded},
                     "outs": [{"path": path.as_posix(), "md5": last_run.md5(path)}]}  # fmt: skip
    lock.write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def test_the_time_is_the_last_runs_in_proportion(here, raw):
    ran("sft", {"sft": raw["sft"]}, seconds=80.0)
    ran("evaluate@grpo", {"evaluate": raw["evaluate"]}, seconds=6.0, arithmetic={"n": 600})
    ran("report", {}, seconds=1.5)
    changes = {"sft": {"max_steps": 140, "gradient_accumulation_steps": 3},
               "evaluate": {"samples_per_prompt": 4}}  # fmt: skip
    found = planned(raw, changes)
    assert found["stages"]["sft"]["time"] == {"last": 80.0, "estimate": 80.0 * 0.5 * 3}
    assert found["stages"]["evaluate@grpo"]["time"] == {"last": 6.0, "estimate": 30.0}
    assert found["stages"]["report"]["time"] == {"last": 1.5, "estimate": 1.5}
    assert "about 2:00 min (last time 1:20 min)" in plan.text(found)
    assert (
        plan.text(found)
        .splitlines()[-1]
        .startswith("all stages: about 2:32 min and 10 stages not known")
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"sft": {"max_length": 256}},
        {"base": {"scratch": {"layers": 4}}},
        {"task": {"demonstrations": 100}},
        {"sft": {"trainer": {"activation_checkpointing": True}}},
    ],
)
def test_no_estimate_from_a_run_with_another_model_data_or_length(here, raw, changes):
    ran("prepare", {"task": raw["task"]}, seconds=1.0)
    ran("base", {"base": raw["base"]}, seconds=5.0)
    ran("sft", {"sft": raw["sft"]}, seconds=80.0)
    assert planned(raw)["stages"]["sft"]["time"]["estimate"] == 80.0
    assert planned(raw, changes)["stages"]["sft"]["time"] == {"last": 80.0, "estimate": None}


def test_no_estimate_from_metrics_that_dvc_lock_does_not_know(here, raw):
    ran("sft", {"sft": raw["sft"]}, seconds=80.0)
    Path("metrics/sft.json").write_text('{"seconds": 5.0}')
    assert planned(raw)["stages"]["sft"]["time"] == {"last": 5.0, "estimate": None}


def test_data_of_other_parameters_does_not_count(here, raw):
    rows("sft", 1000)
    ran("prepare", {"task": raw["task"]}, seconds=1.0)
    assert planned(raw)["stages"]["sft"]["settings"]["rows"] == 1000
    found = planned(raw, {"task": {"demonstrations": 10}})
    assert "rows" not in found["stages"]["sft"]["settings"]


# --- the command ----------------------------------------------------------------------------------


def run(*command: str, folder: Path) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True,
                          text=True)  # fmt: skip


def test_the_command_loads_no_torch(here, raw):
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    done = run("-c", "from stages.core import schema; schema.accepted()", folder=here)
    assert done.returncode == 0, done.stderr
    code = ("import sys; from stages import plan; sys.argv = ['plan', '--json']; plan.main(); "
            "assert not {'torch', 'transformers', 'trl'} & set(sys.modules)")  # fmt: skip
    done = run("-c", code, folder=here)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == planned(raw)


def test_the_command_in_a_terminal(here, raw):
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    done = run("-m", "stages.plan", folder=here)
    assert done.returncode == 0, done.stderr
    settings, _, rest = done.stdout.partition("\ndevice ")
    assert yaml.safe_load(settings) == planned(raw)["params"]
    assert "748,320 parameters" in rest and "generations 24" in rest
    Path("params.yaml").unlink()
    done = run("-m", "stages.plan", folder=here)
    assert done.returncode == 1 and done.stderr.startswith("plan: params.yaml is missing")


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_preset_has_a_plan(here, preset):
    for folder in ("gsm8k", "math"):
        Path("data/raw", folder).mkdir(parents=True)
    assert plan.text(plan.plan(parameters.load(preset)))


def test_several_processes_share_the_batch_and_its_memory(here, raw):
    one, two = (planned(raw, {"launch": {"processes": n}}) for n in (1, 2))
    for name in ("sft", "grpo", "distill"):
        of_one, of_two = (found["stages"][name] for found in (one, two))
        assert of_one["settings"] == of_two["settings"]
        assert of_one["memory"]["peak"] >= of_two["memory"]["peak"]
    assert one["stages"]["sft"]["memory"]["activations"] == 147_849_216
    assert two["stages"]["sft"]["memory"]["activations"] == 147_849_216 // 2
    assert "2 processes share each batch" in plan.text(two)
    assert "processes share" not in plan.text(one)
