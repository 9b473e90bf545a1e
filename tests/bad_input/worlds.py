"""Projects with something wrong in them: the good one that all start from, and what is done to it.

Each function below takes the project's folder and spoils one thing; a case names it in `world`.
"""

import json
import shutil
from pathlib import Path

import yaml

from tests.conftest import MY_REWARDS, ROOT, TINY, merged

GOOD = {
    "rows": '{{"question": "What is {n}+1?", "answer": "{m}"}}',
    "gsm8k": '{{"question": "What is {n}+1?", "answer": "#### {m}"}}',
    "math": '{{"problem": "What is {n}+1?", "solution": "It is \\\\boxed{{{m}}}."}}',
}
LINES = 40


def tiny() -> dict:
    return merged(yaml.safe_load((ROOT / "params.yaml").read_text()), TINY)


def good(folder: Path) -> None:
    """A project in which prepare, base and a GRPO of no steps have run: rows, models, adapter."""
    from peft import LoraConfig, get_peft_model

    from stages import base
    from stages.core import lora, models
    from stages.core import params as parameters

    params = parameters.validate(tiny(), "params.yaml")
    tokenizer = base.make_tokenizer(params)
    model = models.from_scratch(params.base.scratch, tokenizer, params.seed)
    for name in ("base", "sft", "grpo"):
        models.save_model(model, tokenizer, folder / "models" / name)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    adapted.save_pretrained(folder / "models/adapter")
    trained_on = models.fingerprint(folder / "models/sft")
    (folder / "models/adapter" / lora.TRAINED_ON).write_text(json.dumps(trained_on))
    (folder / "data/raw").mkdir(parents=True)
    shutil.copy(ROOT / "data/raw/README.md", folder / "data/raw")
    row = {"prompt": [{"role": "user", "content": "1+1?"}], "question": "1+1?", "gold": "2",
           "level": None, "task": "rows", "working": "1+1=2"}  # fmt: skip
    shown = {**row, "completion": [{"role": "assistant", "content": "<answer>2</answer>"}]}
    for name, made in (("sft", shown), ("grpo", row), ("test", row), ("shots", shown)):
        (folder / f"data/{name}.jsonl").write_text((json.dumps(made) + "\n") * 8)
    (folder / "rollouts").mkdir()
    (folder / "rollouts/grpo.jsonl").write_text("")
    (folder / "my_rewards.py").write_text(MY_REWARDS)
    declared = (ROOT / "dvc.yaml").read_text()
    for stage in ("audit", "grpo"):
        command = f"cmd: python -m stages.{stage}\n    deps:\n"
        declared = declared.replace(command, f"{command}    - my_rewards.py\n")
    (folder / "dvc.yaml").write_text(declared)


def raw_rows(folder: Path, case: dict) -> dict:
    """Writes a case's data file; returns the task that reads it."""
    source = case.get("source", "data/raw/rows.jsonl")
    good = GOOD.get(case["task"])
    lines = [case.get("each", good or "").format(n=n, m=n + 1) for n in range(LINES)]
    if "line" in case:
        lines = [*(lines[:2] if good else []), case["line"]]
    if "text" in case:
        (folder / source).write_text(case["text"])
    elif "hex" in case:
        (folder / source).write_bytes(bytes.fromhex(case["hex"]))
    elif "source" not in case and not case.get("missing"):
        (folder / source).write_text("\n".join(lines) + "\n")
    named = {key: case[key] for key in ("fields", "levels", "decontaminate") if key in case}
    return {"name": case["task"], "source": source, "watch": "data/raw", "pool": 8, "test": 4,
            "demonstrations": case.get("demonstrations", 8), **named}  # fmt: skip


def other_tokenizer(folder: Path) -> None:
    """A student whose tokenizer is not its teacher's."""
    shutil.copytree(folder / "models/base", folder / "other")
    spelt = json.loads((folder / "other/tokenizer.json").read_text())
    one, other = list(spelt["model"]["vocab"])[10:12]
    vocab = spelt["model"]["vocab"]
    vocab[one], vocab[other] = vocab[other], vocab[one]
    (folder / "other/tokenizer.json").write_text(json.dumps(spelt))


def params_is_a_folder(folder: Path) -> None:
    (folder / "params.yaml").unlink()
    (folder / "params.yaml").mkdir()


def no_params(folder: Path) -> None:
    (folder / "params.yaml").unlink()


def no_config(folder: Path) -> None:
    (folder / "models/base/config.json").unlink()


def no_tokenizer(folder: Path) -> None:
    for file in (folder / "models/base").glob("tokenizer*"):
        file.unlink()


def no_weights(folder: Path) -> None:
    (folder / "models/base/model.safetensors").unlink()


def torn_weights(folder: Path) -> None:
    file = folder / "models/base/model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def empty_weights(folder: Path) -> None:
    (folder / "models/base/model.safetensors").write_bytes(b"")


def shard_missing(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "models/base/model.safetensors.index.json").write_text(json.dumps(index))


def broken_config(folder: Path) -> None:
    (folder / "models/base/config.json").write_text('{"model_type": ')


def changed_config(folder: Path, **changes) -> None:
    file = folder / "models/base/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def unknown_architecture(folder: Path) -> None:
    changed_config(folder, model_type="lama", architectures=["LamaForCausalLM"])


def no_language_model(folder: Path) -> None:
    changed_config(folder, model_type="vit", architectures=["ViTModel"])


def other_sizes(folder: Path) -> None:
    changed_config(folder, hidden_size=48, intermediate_size=96)


def broken_tokenizer(folder: Path) -> None:
    (folder / "models/base/tokenizer.json").write_text("{")


def broken_template(folder: Path) -> None:
    file = folder / "models/base/chat_template.jinja"
    file.write_text("{% for message in messages %}{{ message.content }}")


def stripping_template(folder: Path) -> None:
    file = folder / "models/base/chat_template.jinja"
    file.write_text("{% for m in messages %}{{ m.content.split('<answer>')[-1] }}{% endfor %}")


def moved_source(folder: Path) -> None:
    shutil.rmtree(folder / "models/base")
    (folder / "models/base").mkdir()
    manifest = {"source": "./weights/qwen", "revision": None, "files": {}}
    (folder / "models/base/manifest.json").write_text(json.dumps(manifest))


def broken_manifest(folder: Path) -> None:
    (folder / "models/base/manifest.json").write_text("{")


def no_adapter(folder: Path) -> None:
    shutil.rmtree(folder / "models/adapter")


def torn_adapter(folder: Path) -> None:
    file = folder / "models/adapter/adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def adapter_of_another_model(folder: Path) -> None:
    file = folder / "models/adapter/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 4}))


def another_sft_model(folder: Path) -> None:
    file = folder / "models/sft/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")


def no_record_of_the_base(folder: Path) -> None:
    (folder / "models/adapter/trained_on.json").unlink()


def no_sft(folder: Path) -> None:
    shutil.rmtree(folder / "models/sft")


def no_teacher(folder: Path) -> None:
    shutil.rmtree(folder / "models/grpo")


def nothing_run(folder: Path) -> None:
    shutil.rmtree(folder / "models")
    for file in (folder / "data").glob("*.jsonl"):
        file.unlink()


def no_rows(folder: Path) -> None:
    for file in (folder / "data").glob("*.jsonl"):
        file.write_text("\n")


def data_is_a_file(folder: Path) -> None:
    shutil.rmtree(folder / "data")
    (folder / "data").write_text("")


def models_is_a_file(folder: Path) -> None:
    shutil.rmtree(folder / "models")
    (folder / "models").write_text("")


def logs_is_a_file(folder: Path) -> None:
    (folder / "logs").write_text("")


def no_dvc_yaml(folder: Path) -> None:
    (folder / "dvc.yaml").unlink()


def broken_dvc_yaml(folder: Path) -> None:
    (folder / "dvc.yaml").write_text("stages: [")


def broken_module(folder: Path) -> None:
    (folder / "stages").mkdir()
    (folder / "stages/sft.py").write_text("def main(: stage.main('sft', body)")


def dvc_yaml_without_sft(folder: Path) -> None:
    declared = yaml.safe_load((folder / "dvc.yaml").read_text())
    del declared["stages"]["sft"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump(declared))


def dvc_yaml_without_the_reward(folder: Path) -> None:
    text = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(text.replace("    - my_rewards.py\n", ""))


def dvc_yaml_without_parameters(folder: Path) -> None:
    declared = yaml.safe_load((folder / "dvc.yaml").read_text())
    del declared["stages"]["grpo"]["deps"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump(declared))


def broken_metrics(folder: Path) -> None:
    for model in ("base", "sft", "control", "grpo", "student"):
        file = folder / f"metrics/evaluate/{model}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('{"arithmetic": ')
    (folder / "samples").mkdir()
    (folder / "plots").mkdir()
    for stage in ("sft", "grpo", "distill"):
        (folder / f"plots/{stage}.csv").write_text("step,loss\n")


def reward_that_fails(folder: Path) -> None:
    (folder / "my_rewards.py").write_text("import nothing_of_that_name\n")


def reward_without_the_function(folder: Path) -> None:
    (folder / "my_rewards.py").write_text("def other(completions, **_): return []\n")


def reward_of_one_number(folder: Path) -> None:
    (folder / "my_rewards.py").write_text("def variety(completions, **_): return 1.0\n")


def reward_of_texts(folder: Path) -> None:
    (folder / "my_rewards.py").write_text(
        "def variety(completions, **_): return ['good'] * len(completions)\n"
    )


def reward_that_raises(folder: Path) -> None:
    (folder / "my_rewards.py").write_text("def variety(completions, **_): return 1 / 0\n")


def completions_not_utf8(folder: Path) -> None:
    (folder / "data/raw/c.jsonl").write_bytes(b'{"completion": "caf\xe9", "answer": "2"}\n')
