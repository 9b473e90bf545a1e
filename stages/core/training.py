"""What the training stages share: trainer arguments, precision, reporting, supervised training."""

import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from transformers import PrinterCallback, TrainerCallback

from stages.core import checkpoints, doctor, launch, padding_free, resume
from stages.core.errors import UserError
from stages.core.files import in_parts
from stages.core.models import device
from stages.core.params import Distill, Sft, Training
from stages.core.stage import Run

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
    from trl import SFTTrainer

log = logging.getLogger("stages")

CHUNK = 1000  # rows tokenized at once
SAMPLING = "_generate_single_turn"  # the method of TRL's GRPOTrainer that samples completions


def precision(wanted: str) -> str:
    """What `auto` means here: bf16 where the hardware has it, else fp16 on a GPU, else fp32."""
    if wanted == "fp16" and device() == "cpu":
        raise UserError("precision: fp16 needs a GPU: say bf16, fp32 or auto")
    if wanted != "auto":
        return wanted
    if device() == "cpu":
        return "bf16"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def frozen_dtype(wanted: str) -> torch.dtype:
    """The dtype of weights that are not trained (under LoRA): half the memory where possible.

    FSDP spreads a layer's weights together, and they need one dtype.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false") == "true":
        return torch.float32
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision(wanted)]


def arguments(section: Training, seed: int, output_dir: Path) -> dict[str, Any]:
    """Trainer arguments that follow from a section of params.yaml; `trainer:` comes on top.

    The batch is divided among the processes.
    """
    chosen = precision(section.precision)
    return {
        "output_dir": str(output_dir),
        "save_total_limit": checkpoints.KEPT,
        "learning_rate": section.learning_rate,
        "max_steps": section.max_steps,
        "per_device_train_batch_size": section.batch_size // launch.world(),
        "gradient_accumulation_steps": section.gradient_accumulation_steps,
        "bf16": chosen == "bf16",
        "fp16": chosen == "fp16",
        "use_cpu": device() == "cpu",
        "ddp_find_unused_parameters": False,  # there are none; the search costs time
        "seed": seed,
        "report_to": "none",
        "save_strategy": "no",  # `checkpoints.Keeper` says when
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,  # it would log a NaN loss as 0.0
        **section.trainer,
    }


class Doctor(TrainerCallback):
    """Looks at every log line for what is going wrong; says so once, and stops where it must.

    Raises:
        UserError: a finding leaves nothing to be hoped for.
    """

    def __init__(self, run: Run, section: Training, names: dict[str, str] | None = None):
        self.run = run
        self.section = section
        self.names = names or {}
        self.curve: list[dict] = []
        self.findings: list[dict] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any):
        """Where a killed training goes on, what was found before is found again, unsaid."""
        for row in self.run.curve:
            self.curve.append(row)
            known = {finding["name"] for finding in self.findings}
            self.findings += map(asdict, doctor.diagnose(self.curve, self.section, known))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any):
        metrics = {self.names.get(name, name): value for name, value in (logs or {}).items()}
        self.curve.append({"step": state.global_step, **metrics})
        known = {finding["name"] for finding in self.findings}
        found = launch.once(lambda: doctor.diagnose(self.curve, self.section, known))
        self.findings += map(asdict, found)
        for finding in found:
            if finding.severity == "stop":
                self.hand_over()
                raise UserError(
                    f"{finding.what} at step {finding.step}: training stopped. {finding.remedy}"
                )
            level = logging.WARNING if finding.severity == "warning" else logging.INFO
            log.log(level, "%s: doctor: step %d: %s. Remedy: %s", self.run.name, finding.step,
                    finding.what, finding.remedy)  # fmt: skip

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any):
        self.hand_over()

    def hand_over(self) -> None:
        """The findings to the run's metrics, and as a table to the trackers."""
        self.run.findings = self.findings
        if self.findings:
            self.run.table("findings.json", self.findings)


class Report(TrainerCallback):
    """Hands the trainer's log lines to the run."""

    TIMINGS = ("train_", "step_time", "total_flos", "epoch", "num_input_tokens", "profiling/")

    def __init__(self, run: Run, names: dict[str, str] | None = None, note: str = "loss"):
        self.run = run
        self.names = {"num_tokens": "tokens", **(names or {})}
        self.note = note
        self.last: dict[str, float] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any):
        metrics = {
            self.names.get(name, name): value
            for name, value in (logs or {}).items()
            if isinstance(value, int | float) and not name.startswith(self.TIMINGS)
        }
        if metrics:
            self.last = metrics
            self.run.log(state.global_step, metrics)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any):
        value = self.last.get(self.note)
        note = "" if value is None else f"{self.note} {value:.3f}"
        self.run.progress.update(state.global_step, state.max_steps, note)


def supervisor(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[dict],
    section: Sft | Distill,
    run: Run,
    seed: int,
    peft_config: "LoraConfig | None" = None,
) -> "SFTTrainer":
    """What trains on the completions of prompt-completion rows.

    Raises:
        UserError: no row fits `max_length`.
    """
    from pyarrow.compute import list_value_length
    from trl import SFTConfig, SFTTrainer

    from stages.core import lean

    lean.passes(model)
    folder = resume.folder(run.name)
    whole = section.trainer.get("completion_only_loss") is False
    data = tokenised(rows, tokenizer, section.max_length, run.name, whole)
    packing = section.trainer.get("packing", False)
    flash = "flash" in model.config._attn_implementation
    free = section.padding_free and not packing  # which leaves no padding either
    trainer_class = padding_free.trainer() if free and not flash else SFTTrainer
    trainer = trainer_class(
        model=model,
        args=SFTConfig(
            **{"completion_only_loss": True, **arguments(section, seed, folder)},
            max_length=section.max_length if packing else None,  # all rows fit: nothing to cut
            padding_free=free and flash,  # TRL does it itself
        ),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=peft_config,
        optimizers=(optimizer(model, section), None),
    )
    if trainer_class is not SFTTrainer:
        lengths = list_value_length(trainer.train_dataset.data["input_ids"]).to_pylist()
        at_once, hidden = trainer.args.per_device_train_batch_size, model.config.hidden_size
        width = padding_free.best_width(lengths, at_once, hidden)
        trainer.data_collator = padding_free.Together(width, tokenizer.pad_token_id)
    return trainer


def supervised(trainer: "SFTTrainer", run: Run, section: Sft | Distill) -> "PreTrainedModel":
    """Trains; returns the trained model."""
    for callback in (Doctor(run, section), Report(run)):
        trainer.add_callback(callback)
    train(trainer, run, section)
    return whole(trainer)


def whole(trainer: "Trainer") -> "PreTrainedModel":
    """The trained model; where its weights are spread over processes (FSDP, ZeRO-3), a copy with
    all of them, in the first process.
    """
    accelerator = trainer.accelerator
    if accelerator.distributed_type not in ("FSDP", "DEEPSPEED"):
        return trainer.model
    weights = accelerator.get_state_dict(trainer.model_wrapped)  # all of them have to call it
    model = accelerator.unwrap_model(trainer.model_wrapped)
    return rebuilt(model, weights) if launch.first() else model


def rebuilt(model: "PreTrainedModel", weights: dict[str, torch.Tensor]) -> "PreTrainedModel":
    """A model of the same shape, adapter included, with these weights, on the CPU."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    adapters = getattr(model, "peft_config", None)
    made = AutoModelForCausalLM.from_config((model.get_base_model() if adapters else model).config)
    if adapters:
        made = get_peft_model(made, adapters["default"])
    made.load_state_dict({name: weight.to(torch.float32) for name, weight in weights.items()})
    return made


def train(trainer: "Trainer", run: Run, section: Training) -> None:
    """Trains, from the newest checkpoint where there is one.

    Our progress lines stand in place of the trainer's printed dictionaries.

    Raises:
        UserError: the GPU's memory does not suffice; says what to lower.
    """
    trainer.remove_callback(PrinterCallback)
    keeper = checkpoints.Keeper(trainer, run, Path(trainer.args.output_dir))
    trainer.add_callback(keeper)
    checkpoint = keeper.restore()
    expect_no_tied_weights(trainer.model)
    train_in_float32(trainer.model)
    with memory_advised(section):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def expect_no_tied_weights(model: torch.nn.Module) -> None:
    """A checkpoint holds tied weights once: resuming need not warn that one is missing."""
    if tied := getattr(model, "all_tied_weights_keys", None):
        model._keys_to_ignore_on_save = {*(model._keys_to_ignore_on_save or ()), *tied}


def train_in_float32(model: torch.nn.Module) -> None:
    """Weights that are trained, whatever dtype the frozen ones have.

    TRL makes the adapter of a 4-bit model bf16, where a step of 1e-6 on a weight of 1e-2 is rounded
    away.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


@contextmanager
def memory_advised(section: Training) -> Iterator[None]:
    """Where the GPU's memory does not suffice: what to lower, in this run's numbers."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        frames = traceback.extract_tb(error.__traceback__)
        sampling = any(frame.name == SAMPLING for frame in frames)
        raise UserError(
            f"out of GPU memory{' while sampling' if sampling else ''} "
            f"({str(error).splitlines()[0]}). In this order, until it fits: "
            f"{doctor.memory_advice(section, sampling)}"
        ) from error


def optimizer(model: "PreTrainedModel", section: Sft | Distill) -> torch.optim.Optimizer | None:
    """None leaves it to the trainer (`trainer.optim`)."""
    if section.optimizer == "adamw":
        return None
    from stages.core.optim import MuonAdamW

    return MuonAdamW(model, section.learning_rate)


def fitting(
    rows: Sequence[dict], tokenizer: "PreTrainedTokenizerBase", limit: int, name: str
) -> list[dict]:
    """Rows of at most `limit` tokens; TRL would cut or drop the others without a word."""
    kept, shortest = [], sys.maxsize
    for part in in_parts(rows, CHUNK):
        texts = [
            tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
            for row in part
        ]
        lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
        kept += [row for row, length in zip(part, lengths, strict=True) if length <= limit]
        shortest = min(shortest, *lengths)
    say_left_out(len(rows), len(kept), shortest, limit, name)
    return kept


def say_left_out(rows: int, kept: int, shortest: int, limit: int, name: str) -> None:
    """Warns of rows over the limit.

    Raises:
        UserError: none is left.
    """
    if not kept:
        raise UserError(
            f"{name}.max_length {limit}: the shortest row has {shortest} tokens: raise it"
        )
    if kept < rows:
        log.warning("%s: %d of %d rows are longer than max_length %d: left out",
                    name, rows - kept, rows, limit)  # fmt: skip


def tokenised(
    rows: Sequence[dict],
    tokenizer: "PreTrainedTokenizerBase",
    limit: int,
    name: str,
    whole: bool = False,
) -> "Dataset":
    """Token ids of prompt and completion, and labels: as TRL would make them, which takes the rows
    one by one, three times over. Of rows of at most `limit` tokens.

    Args:
        whole: the prompt is learned, too; else its labels are -100.

    Raises:
        UserError: none is that short, or the chat template leaves out some of a completion.
    """
    from datasets import Dataset, Features, List, Value, concatenate_datasets

    features = Features(input_ids=List(Value("int32")), labels=List(Value("int64")))
    parts, shortest = [], sys.maxsize
    for part in in_parts(rows, CHUNK):
        columns = token_columns(part, tokenizer, whole)
        shortest = min(shortest, *(len(row["input_ids"]) for row in columns))
        fits = [row for row in columns if len(row["input_ids"]) <= limit]
        parts += [Dataset.from_list(fits, features=features)] if fits else []
    say_left_out(len(rows), sum(map(len, parts)), shortest, limit, name)
    return concatenate_datasets(parts)


def token_columns(
    rows: list[dict], tokenizer: "PreTrainedTokenizerBase", whole: bool = False
) -> list[dict[str, list[int]]]:
    from trl.data_utils import common_prefix_length

    def texts(messages: list[list[dict]], **named: bool) -> list[str]:
        return tokenizer.apply_chat_template(messages, tokenize=False, **named)

    def ids(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False)["input_ids"]

    prompts = ids(texts([row["prompt"] for row in rows], add_generation_prompt=True))
    rendered = texts([row["prompt"] + row["completion"] for row in rows])
    require_completions(rows, rendered, tokenizer)
    columns = []
    for prompt, row in zip(prompts, ids(rendered), strict=True):
        # where tokens merge across the border, the completion begins where the two part
        shared = 0 if whole else common_prefix_length(prompt, row)
        columns.append({"input_ids": row, "labels": [-100] * shared + row[shared:]})
    return columns


def require_completions(
    rows: list[dict], rendered: list[str], tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Templates of reasoning models take the working out of earlier turns; some, out of the last.

    Raises:
        UserError: a rendered row lacks some of its completion, other than spaces and line breaks.
    """
    for row, text in zip(rows, rendered, strict=True):
        said = row["completion"][-1]["content"]
        if said not in text and "".join(said.split()) not in "".join(text.split()):
            raise UserError(
                f"the chat template of {tokenizer.name_or_path} leaves out some of the completion "
                f"{said[:40]!r}, which would not be trained on: mend chat_template.jinja in a copy "
                "of the model and name that folder, or choose other tags in `format`"
            )


def dataset(rows: Sequence[dict]) -> "Dataset":
    """`Dataset.from_list`, which would hold each row as a Python object as well."""
    import pyarrow
    from datasets import Dataset
    from datasets.table import InMemoryTable

    parts = [pyarrow.Table.from_pylist(part) for part in in_parts(rows, CHUNK)]
    # what one part leaves empty another may fill
    table = pyarrow.concat_tables(parts, promote_options="permissive")
    # without a name for it, datasets would hash a copy of it all
    return Dataset(InMemoryTable(table), fingerprint=uuid4().hex)


def epoch_sampler() -> type:
    """TRL's sampler, of which a training that goes on needs more. Trl imports late."""
    from trl.trainer.utils import RepeatSampler

    class EpochSampler(RepeatSampler):
        """TRL's, whose order hangs on the epoch: resumed in a later one, TRL's own begins anew."""

        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self):
            if self.shuffle:
                self.generator.manual_seed(self.seed + self.epoch)
            return super().__iter__()

    return EpochSampler
