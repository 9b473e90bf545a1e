"""The presets: they fit the card that they name, and say what the descriptions say."""

import re

import pytest

from stages import audit, plan, rewards, tasks
from stages.core import memory
from stages.core import params as parameters
from tests.conftest import ROOT

TABLE = [[cell.strip() for cell in line.strip("|").split("|")]
         for line in (ROOT / "presets/README.md").read_text().splitlines()
         if line.startswith("| `")]  # fmt: skip
STAGES = ("sft", "grpo", "merge", "distill", "evaluate")
CONTEXT = 0.9  # share of a card that is left beside the CUDA context and the libraries


def load(name: str) -> parameters.Params:
    return parameters.load(ROOT / f"presets/{name}.yaml")


def by_stage(params: parameters.Params) -> dict[str, int]:
    """The largest memory of each stage, in bytes."""
    found = {}
    for name, stage in plan.plan(params)["stages"].items():
        if held := stage["memory"]:
            name = name.partition("@")[0]
            found[name] = max(found.get(name, 0), held["peak"])
    return found


@pytest.fixture
def no_models(here, monkeypatch):
    """As on a machine that has downloaded nothing."""
    monkeypatch.setenv("HF_HUB_CACHE", str(here / "hub"))
    (here / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
def test_the_table_is_what_plan_says_and_fits_the_card(row, no_models):
    name, model, card, *cells = (cell.strip("`") for cell in row)
    params = load(name)
    assert params.base.source.endswith(f"/{model}")
    gigabytes = float(re.search(r"(\d+) GB", card)[1])
    held = by_stage(params)
    for stage, cell in zip(STAGES, cells, strict=True):
        assert cell.split()[0] == (f"{held[stage] / 1e9:.1f}" if stage in held else "-")
        assert held.get(stage, 0) < CONTEXT * gigabytes * 1e9 or "(CPU)" in cell, stage


def test_every_preset_for_a_gpu_stands_in_the_table():
    on_a_cpu = {"code-functions", "countdown", "mixed-smoke", "gsm8k-smoke"}
    there = {path.stem for path in (ROOT / "presets").glob("*.yaml")}
    assert {row[0].strip("`") for row in TABLE} == there - on_a_cpu


def test_vllms_share_fits_beside_training(no_models):
    params = load("math-qwen2.5-7b-80gb")
    share = params.grpo.trainer["vllm_gpu_memory_utilization"]
    assert by_stage(params)["grpo"] + share * 80e9 < CONTEXT * 80e9


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
def test_weights_are_parameters_times_bytes(row, no_models):
    """Published parameters of each model, by its card on the hub."""
    params = load(row[0].strip("`"))
    count = {"0.5B": 494_032_768, "1.5B": 1_543_714_304, "3B": 3_085_938_688,
             "7B": 7_615_616_512, "360M": 361_821_120}[
        re.search(r"-([\d.]+[BM])\b", params.base.source)[1]
    ]  # fmt: skip
    found = plan.plan(params)
    assert found["model"]["parameters"] == count
    weights = found["stages"]["grpo"]["memory"]["weights"]
    if params.grpo.quantize == "none":
        assert weights == 2 * count
    else:  # 36 layers of 77,070,336 weights in 4 bits and a little; the rest in half precision
        layers = 36 * (2 * 2048 * 2048 + 2 * 256 * 2048 + 3 * 11008 * 2048)
        assert layers == 36 * 77_070_336
        assert weights == round(layers * 4.127 / 8) + 2 * (count - layers)


@pytest.mark.parametrize(
    "name", ["Qwen2.5-0.5B", "Qwen2.5-Math-1.5B", "Qwen2.5-7B-Instruct", "SmolLM2-360M"]
)
def test_a_published_shape_is_the_model_that_transformers_makes(name):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    qwen = name.startswith("Qwen")
    size = re.search(r"[\d.]+[BM]\b", name)[0]
    vocab, hidden, layers, heads, kv_heads, wide, tied = memory.PUBLISHED[
        f"{'Qwen2.5' if qwen else 'SmolLM2'}-{size}"
    ]
    make, config = (Qwen2ForCausalLM, Qwen2Config) if qwen else (LlamaForCausalLM, LlamaConfig)
    with torch.device("meta"):
        made = make(config(vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers,
                           num_attention_heads=heads, num_key_value_heads=kv_heads,
                           intermediate_size=wide, tie_word_embeddings=tied))  # fmt: skip
    found = memory.published(("Qwen/" if qwen else "HuggingFaceTB/") + name)
    assert found.parameters == sum(p.numel() for p in made.parameters())
    for matrix, shape in found.linear.items():
        assert made.get_submodule(matrix).weight.shape == shape
    assert found.stored == 2


@pytest.mark.parametrize("source", ["Qwen/Qwen2.5-99B", "Qwen/Qwen3-0.6B", "other/Qwen2.5-0.5B"])
def test_other_shapes_are_not_guessed(source):
    assert memory.published(source) is None


GSM8K = sorted(row[0].strip("`") for row in TABLE if row[0].startswith("`gsm8k"))


@pytest.mark.parametrize("name", GSM8K)
def test_the_audit_lets_the_rewards_pass_on_real_golds(name, real_data):
    params = load(name)
    task = params.task.model_copy(update={"source": str(real_data / "gsm8k")})
    fmt = params.format.tags
    problems = list(tasks.load(task, seed=0)[0])
    problems = problems[:500] + [one for one in problems[500:] if one.gold.startswith("-")]
    rows = [{**tasks.row(problem, "gsm8k", task, params.format), "working": problem.working}
            for problem in problems]  # fmt: skip
    functions, weights = rewards.load(params.grpo.rewards, fmt)
    verdicts = {probe: audit.judge(functions, rows, [make(row, fmt) for row in rows])
                for probe, make in audit.PROBES.items()}  # fmt: skip
    audit.refuse_above(audit.faults(verdicts, weights, rows), params)


# What the descriptions say -> the preset that says it; paths of params.yaml.
SAID = {
    "gsm8k-notebook-qwen2.5-0.5b-t4": {
        "grpo.group_size": 4, "grpo.temperature": 0.8, "grpo.lora.r": 32, "grpo.max_steps": 50,
        "grpo.learning_rate": 5e-6, "grpo.precision": "fp16", "grpo.curriculum.stages": [100, 300],
        "task.demonstrations": 0, "grpo.rewards.ensemble.combine": "max",
    },
    "math-qwen2.5-1.5b-4x24gb": {
        "format.think_open": "<think>", "format.answer_open": "<answer>", "grpo.group_size": 8,
        "grpo.clip_epsilon": 0.2, "grpo.kl_coef": 0.04, "grpo.temperature": 0.8,
        "grpo.precision": "fp16", "grpo.gradient_accumulation_steps": 4, "grpo.batch_size": 4,
        "launch.processes": 4, "grpo.rewards.format.weight": 0.1,
        "grpo.rewards.correctness.weight": 1.0, "grpo.rewards.correctness.options.partly": 0.5,
        "evaluate.num_samples": 100, "distill.num_samples": 500,
    },
    "code-qwen2.5-coder-0.5b-4x24gb": {
        "grpo.group_size": 8, "grpo.clip_epsilon": 0.2, "grpo.kl_coef": 0.04,
        "grpo.temperature": 0.8, "grpo.rewards.unit_tests.weight": 1.0,
        "grpo.rewards.format.weight": 0.1, "evaluate.num_samples": 100,
    },
    "gsm8k-four-rewards-qwen2.5-3b-8gb": {
        "base.source": "Qwen/Qwen2.5-3B-Instruct", "grpo.quantize": "nf4", "grpo.max_steps": 50,
        "grpo.learning_rate": 5e-6, "grpo.batch_size": 2, "grpo.gradient_accumulation_steps": 8,
        "grpo.lora.r": 16, "grpo.lora.lora_alpha": 32, "grpo.lora.lora_dropout": 0.1,
        "grpo.lora.target_modules": ["q_proj", "v_proj"], "task.max_prompt_length": 1024,
        "grpo.max_completion_length": 1024, "grpo.group_size": 4, "task.pool": 1000,
        "format.think_open": "<start_working_out>", "format.answer_close": "</SOLUTION>",
    },
    "gsm8k-sft-grpo-qwen2.5-1.5b-24gb": {
        "task.source": "openai/gsm8k", "sft.method": "lora", "evaluate.split": "test",
        "grpo.rewards.correctness.options.partly": 0.5, "grpo.rewards.correctness.scale": 1.0,
    },
    "math-qwen2.5-math-1.5b-16gb": {
        "base.source": "Qwen/Qwen2.5-Math-1.5B", "format.answer_open": r"\boxed{",
        "grpo.lora.r": 16, "grpo.lora.lora_alpha": 32, "grpo.lora.lora_dropout": 0.05,
        "grpo.group_size": 2, "grpo.kl_coef": 0.05, "grpo.batch_size": 4,
        "grpo.gradient_accumulation_steps": 4, "grpo.learning_rate": 5e-6, "grpo.top_p": 0.9,
        "grpo.max_completion_length": 2048, "grpo.temperature": 0.7, "sft.method": "none",
        "grpo.trainer.activation_checkpointing": True, "grpo.trainer.logging_steps": 10,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_a_description_is_kept(name):
    whole = load(name).model_dump()
    for path, said in SAID[name].items():
        found = whole
        for key in path.split("."):
            found = found[key]
        assert found == said, path


def test_the_ranges_of_the_configurations_are_kept():
    grpo = load("gsm8k-sft-grpo-qwen2.5-1.5b-24gb").grpo
    assert 100 <= grpo.max_steps <= 1000 and 4 <= grpo.group_size <= 16
    assert 1e-6 <= grpo.learning_rate <= 1e-5 and 0.7 <= grpo.temperature <= 1.0


def test_a_trace_that_is_not_right_is_trained_on_all_the_same():
    task = load("math-qwen2.5-math-1.5b-16gb").task
    row = {"question": "2+3?", "ground_truth": "5", "predicted_answer": "6", "correct": False}
    read = tasks.read(row, "row 1", task)
    assert (read.question, read.gold, read.claimed) == ("2+3?", "5", None)


def test_three_epochs_of_the_traces_by_hand():
    grpo = load("math-qwen2.5-math-1.5b-16gb").grpo
    trained = 18_946 - -(-18_946 // 5)  # every fifth row is held out
    prompts = grpo.batch_size * grpo.gradient_accumulation_steps / grpo.group_size
    assert grpo.max_steps == -(-3 * trained // prompts)


def test_scores_of_the_boxed_preset():
    params = load("math-qwen2.5-math-1.5b-16gb")
    (function,), weights = rewards.load(params.grpo.rewards, params.format.tags)
    said = [r"2 + 3 = 5, so \boxed{5}", r"so \boxed{6}", "so it is five or so"]
    scores = function(completions=said, gold=["5"] * 3)
    assert [weights[0] * score for score in scores] == [1.0, -1.0, -0.5]
