"""The grpo stage on a model that has half learnt two answers by heart: in seconds."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors.torch import load_file

from stages import base, grpo, rewards, tasks
from stages.core import lora, models, tracking
from stages.core import params as parameters
from stages.core.files import read_rows, write_rows
from stages.core.stage import Run, seed_everything
from tests.conftest import ROOT, copy, merged
from tests.known import KNOWN, SHAPE, learn

OTHERS = {f"Ada has {n} {'new ' * n}coins. She finds {n + 2}. How many now?": str(2 * n + 2)
          for n in range(6)}  # fmt: skip
QUESTIONS = {question: gold for question, (_, gold) in KNOWN.items()} | OTHERS
CHANGES = {
    "grpo": {
        "learning_rate": 0.01, "max_steps": 2, "batch_size": 16, "group_size": 4,
        "precision": "fp32", "max_completion_length": 24,
        "rewards": {"correctness": {}, "format": {"weight": 0.5, "options": {"partial": True}}},
        "lora": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
        "trainer": {"warmup_steps": 0, "lr_scheduler_type": "constant"},
    },
}  # fmt: skip


class Trained(NamedTuple):
    metrics: dict[str, Any]
    curve: list[dict]
    rollouts: list[dict]
    weights: dict[str, torch.Tensor]  # of models/adapter

    def column(self, name: str) -> list[float]:
        return [row[name] for row in self.curve if name in row]


def project(folder: Path, rounds: int = 18) -> Path:
    """A folder with data/grpo.jsonl and models/sft, which has seen KNOWN so many times: after 17
    to 19 half of the groups are dead; after 20 on some processors all of a batch are.
    """
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    params = parameters.validate(merged(raw, CHANGES), "params.yaml")
    for name in ("dvc.yaml", "stages"):
        copy(ROOT / name, folder / name)
    tokenizer = base.make_tokenizer(params)
    model = models.from_scratch(SHAPE, tokenizer, seed=0)
    learn(model, tokenizer, params, rounds)
    models.save_model(model, tokenizer, folder / "models/sft")
    write_rows(folder / "data/grpo.jsonl", [
        {"prompt": tasks.prompt(question, params.format), "question": question, "gold": gold,
         "working": "1+1=2", "task": "arithmetic", "level": str(len(question))}
        for question, gold in QUESTIONS.items()
    ])  # fmt: skip
    (folder / "data/audit.json").write_text("{}")
    (folder / "data/raw").mkdir()
    (folder / "data/raw/README.md").write_text("")
    return folder


def params_with(changes: dict) -> parameters.Params:
    """What is read from params.yaml, here, with these changes made in it as a user makes them."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump(merged(merged(raw, CHANGES), changes)))
    return parameters.load()


def train(changes: dict | None = None, **others: dict) -> Trained:
    """Runs the grpo stage's recipe in the working folder, in this process.

    Args:
        changes: in the section `grpo` of params.yaml.
        others: changes in other sections.
    """
    params = params_with({"grpo": changes or {}, **others})
    seed_everything(params.seed)
    run = Run("grpo", params, tracking.Spool(Path("events.jsonl")))
    metrics = grpo.body(params, run)
    (weights,) = grpo.ADAPTER.glob("*.safetensors")
    rollouts = [json.loads(line) for line in grpo.ROLLOUTS.read_text().splitlines()]
    return Trained(metrics, run.curve, rollouts, load_file(weights))


def trainer(changes: dict | None = None, functions: list | None = None):
    """The stage's trainer, ready to train, for looking inside."""
    from datasets import Dataset

    params = params_with({"grpo": changes or {}})
    own, weights = rewards.load(params.grpo.rewards, params.format.tags)
    adapter = params.grpo.lora
    quantize = params.grpo.quantize == "nf4"
    made = grpo.recording_trainer()(
        fmt=params.format.tags,
        pass_at=params.grpo.pass_at,
        rounds=params.grpo.dynamic_sampling,
        shared=params.grpo.shared_prompt,
        model=models.load_model(grpo.SFT, "eager", torch.float32, quantize),
        reward_funcs=functions or own,
        args=grpo.configuration(params.grpo, 0, Path("out"), [1.0] if functions else weights),
        train_dataset=Dataset.from_list(list(read_rows(grpo.ROWS))),
        processing_class=models.load_tokenizer(grpo.SFT),
        peft_config=None if adapter is None else lora.config(adapter),
    )
    made.current_gradient_accumulation_steps = 1  # what training sets
    return made


def batch(made) -> list[dict]:
    """What its data loader gives it first."""
    return next(iter(made.get_train_dataloader()))


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of two sets of weights."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)
