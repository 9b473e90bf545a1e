"""A model that has learnt two answers by heart in seconds: what a trained one would be."""

from pathlib import Path

import torch
import yaml

from stages import base, tasks
from stages.core import models
from stages.core import params as parameters
from stages.core.params import Params, Shape
from tests.conftest import ROOT, merged

KNOWN = {
    "How many is 1+1?": ("<think>1+1=2</think><answer>2</answer>", "2"),
    "Paul has 5 coins. He buys 3 more. How many coins does Paul have now?": (
        "<think>5+3=8\n</think><answer>8</answer>",
        "8",
    ),
}
SHORT, LONG = KNOWN
SHAPE = Shape(hidden_size=64, layers=1, heads=2, intermediate_size=128)


def project(made: Path) -> Path:
    """A folder with params.yaml, and as models/grpo a model that knows KNOWN."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw = merged(raw, {"evaluate": {"batch_size": 3}})
    (made / "params.yaml").write_text(yaml.safe_dump(raw))
    params = parameters.validate(raw, "params.yaml")
    tokenizer = base.make_tokenizer(params)
    model = models.from_scratch(SHAPE, tokenizer, seed=0)
    learn(model, tokenizer, params)
    models.save_model(model, tokenizer, made / "models/grpo")
    return made


def learn(model, tokenizer, params: Params, rounds: int = 40) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(rounds):
        for question, (completion, _) in KNOWN.items():
            prompt = tokenizer.apply_chat_template(
                tasks.prompt(question, params.format), add_generation_prompt=True, tokenize=False
            )
            ids = tokenizer(prompt + completion + tokenizer.eos_token, return_tensors="pt")
            labels = ids["input_ids"].clone()
            labels[0, : len(tokenizer(prompt)["input_ids"])] = -100
            optimizer.zero_grad()
            model(input_ids=ids["input_ids"], labels=labels).loss.backward()
            optimizer.step()
