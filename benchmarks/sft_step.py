"""A step of supervised training, the stage's beside others: python -m benchmarks.sft_step.

    dvc repro base prepare                     # what all train, and on what
    python -m benchmarks.sft_step [--rounds 5] [--steps 20]

All train params.yaml's model on its demonstrations with its batch size, in bf16, by turns. The bare
loop is no trainer at all: rows tokenised and padded beforehand, the model called with labels,
AdamW; it logs nothing. The stage is measured with its settings, and with others' one by one. Of
each turn the median step counts, without the first two.
"""

import argparse
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from trl import SFTConfig, SFTTrainer

from benchmarks.clock import Turn, by_turns, medians, show, timed
from stages import sft
from stages.core import lean, models, stage, training
from stages.core import params as parameters
from stages.core.files import read_rows
from stages.core.stage import Run
from stages.core.tracking import Spool


def defaults(params: parameters.Params) -> SFTTrainer:
    """What a user gets who names a model, a data set and a batch size."""
    from datasets import Dataset

    rows = [{k: row[k] for k in ("prompt", "completion")} for row in read_rows(sft.ROWS)]
    return SFTTrainer(
        model=models.load_model(sft.BASE, "sdpa"),
        args=SFTConfig(
            output_dir="out", per_device_train_batch_size=params.sft.batch_size,
            max_steps=params.sft.max_steps, max_length=params.sft.max_length, use_cpu=True,
            report_to="none", disable_tqdm=True, save_strategy="no",
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=models.load_tokenizer(sft.BASE),
    )  # fmt: skip


def untouched(trainer: SFTTrainer) -> Turn:
    with lean.as_trl_does():
        return timed(trainer)


def own(params: parameters.Params) -> SFTTrainer:
    model = models.load_model(sft.BASE, params.base.attn_implementation)
    run = Run("sft", params, Spool(Path(os.devnull)))
    tokenizer = models.load_tokenizer(sft.BASE)
    rows = list(read_rows(sft.ROWS))
    return training.supervisor(model, tokenizer, rows, params.sft, run, params.seed)


def bare(params: parameters.Params) -> Turn:
    model = models.load_model(sft.BASE, params.base.attn_implementation).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=params.sft.learning_rate)
    steps = []
    for ids, mask, labels in batches(params):
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps.append((time.perf_counter() - wall, time.process_time() - cpu))
    return medians(steps)


def batches(params: parameters.Params) -> Iterator[tuple[torch.Tensor, ...]]:
    tokenizer = models.load_tokenizer(sft.BASE)
    rows = list(read_rows(sft.ROWS))
    chosen = random.Random(params.seed)
    for _ in range(params.sft.max_steps):
        ids, labels = [], []
        for row in chosen.sample(rows, params.sft.batch_size):
            prompt = tokenizer.apply_chat_template(
                row["prompt"], add_generation_prompt=True, return_dict=False
            )
            whole = tokenizer.apply_chat_template(
                row["prompt"] + row["completion"], return_dict=False
            )
            ids.append(torch.tensor(whole))
            labels.append(torch.tensor([-100] * len(prompt) + whole[len(prompt) :]))
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-1)
        wanted = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
        yield padded.clamp(min=0), (padded >= 0).long(), wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args()
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["sft"] |= {"max_steps": chosen.steps}

    def stages(**settings: Any) -> Turn:
        given = {**raw, "sft": raw["sft"] | settings}
        return timed(own(parameters.validate(given, "params.yaml")))

    params = parameters.validate(raw, "params.yaml")
    stage.seed_everything(params.seed)
    measured = by_turns(
        {
            "a bare loop": lambda: bare(params),
            "SFTTrainer's defaults": lambda: untouched(defaults(params)),
            "the stage": stages,
            "  padding_free: false": lambda: stages(padding_free=False),
            "  optimizer: adamw": lambda: stages(optimizer="adamw"),
            "  both": lambda: stages(padding_free=False, optimizer="adamw"),
        },
        chosen.rounds,
    )
    show(measured, params.sft.batch_size, "sequences")


if __name__ == "__main__":
    stage.set_environment()
    main()
