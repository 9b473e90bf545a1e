"""params.yaml, validated whole before anything heavy is loaded.

A section for each stage, in users' words; under `trainer:` and `lora:` any option of the installed
TRL and peft classes (stages/core/schema.py). A wrong key is refused with its path and the nearest
right name.
"""

import difflib
import math
import os
from collections.abc import Iterator
from dataclasses import astuple
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from stages.answers.format import Format
from stages.core import schema
from stages.core.errors import UserError
from stages.core.explain import explain
from stages.core.graph import EVALUATING, require_dependency

PARAMS = Path("params.yaml")

AUTO_BATCH = 128
MAX_SHOTS = 8  # demonstrations that prepare keeps for few-shot prompts


def no_boolean(value: Any) -> Any:
    """pydantic would take `true` for 1."""
    return str(value).lower() if isinstance(value, bool) else value


Whole = Annotated[int, BeforeValidator(no_boolean)]
Number = Annotated[float, BeforeValidator(no_boolean)]
Count = Annotated[Whole, Field(ge=1)]
Share = Annotated[Number, Field(ge=0, le=1)]
Positive = Annotated[Number, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[Number, Field(ge=0, allow_inf_nan=False)]
Precision = Literal["auto", "bf16", "fp16", "fp32"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


GENERATED = ("arithmetic", "countdown", "functions")
# the steps of a problem; of a puzzle the numbers: with more, few attempts stay within its bounds
LEVELS = {"arithmetic": "123", "countdown": "23456", "functions": "123"}
Name = Literal[
    "arithmetic", "countdown", "functions", "gsm8k", "math", "aqua", "arc", "logiqa", "humaneval",
    "mbpp", "apps", "code_contests", "rows", "mix",
]  # fmt: skip
RowField = Literal["question", "answer", "solution", "context", "level", "topic", "options",
                   "aliases", "tests", "predicted"]  # fmt: skip


class Splits(Section):
    train: str = "train"
    test: str = "test"


class Source(Section):
    """A data set, and how many of its problems serve for what."""

    name: Name
    source: str | None = None
    revision: str | None = None
    config: str | None = None
    splits: Splits = Splits()
    fields: dict[RowField, str] = {}
    levels: list[str] = []
    topics: list[str] = []
    percent: Literal["unit", "value", "either"] = "unit"
    tries: Count = 1
    demonstrations: Whole | None = Field(None, ge=0)
    pool: Whole | None = Field(None, ge=1)
    dev: Whole = Field(0, ge=0)
    test: Whole | None = Field(None, ge=1)

    @property
    def training(self) -> int:
        """Problems asked for of the training side; what is null counts as none."""
        return (self.demonstrations or 0) + (self.pool or 0) + self.dev


class Part(Source):
    """One task of a mixture; the counts of the whole are divided by the weights."""

    weight: Positive = 1.0


class Task(Source):
    watch: str
    max_prompt_length: Count | None = None
    answer_only: dict[str, Share] = {}
    decontaminate: list[str] = []
    of: dict[str, Part] = {}

    @property
    def parts(self) -> dict[str, Source]:
        """Task name -> its data set: itself, or those that it mixes, with their own counts."""
        if self.name != "mix":
            return {self.name: self}
        whole = sum(part.weight for part in self.of.values())
        return {name: part.model_copy(update=self.counts(part, whole))
                for name, part in self.of.items()}  # fmt: skip

    def counts(self, part: Part, whole: float) -> dict[str, int | None]:
        """A part's counts: its own where it names one, else its share of the mixture's."""
        own = part.model_dump(exclude_unset=True)
        asked = {name: getattr(self, name) for name in ("demonstrations", "pool", "dev", "test")}
        return {
            name: own[name] if name in own else count and max(1, round(count * part.weight / whole))
            for name, count in asked.items()
        }


class OutputFormat(Section):
    think_open: str
    think_close: str
    answer_open: str
    answer_close: str
    system: str = ""

    @property
    def tags(self) -> Format:
        return Format(self.think_open, self.think_close, self.answer_open, self.answer_close)


class Shape(Section):
    """A Llama-architecture decoder made from scratch."""

    hidden_size: Count
    layers: Count
    heads: Count
    intermediate_size: Count

    @model_validator(mode="after")
    def heads_divide(self) -> "Shape":
        if self.hidden_size % self.heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}: "
                "change one"
            )
        if self.hidden_size // self.heads % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} / heads {self.heads} is odd, and rotary positions "
                "go in pairs: change one"
            )
        return self


class Base(Section):
    source: str
    revision: str | None = None
    watch: str
    attn_implementation: str = "sdpa"
    vocab_size: Whole = Field(512, ge=300)
    numbers: Literal["digits", "whole"] = "digits"
    scratch: Shape | None = None


class Training(Section):
    """What SFT, GRPO and distillation have in common. Batches are of all processes together."""

    learning_rate: Positive
    max_steps: Count
    batch_size: Count
    gradient_accumulation_steps: Count = 1
    precision: Precision = "auto"
    trainer: dict[str, Any] = {}


class Sft(Training):
    method: Literal["full", "lora", "qlora", "none"]
    demonstrations: Literal["all", "verified"] = "all"
    optimizer: Literal["adamw", "muon"] = "adamw"
    max_length: Count
    padding_free: bool = False
    lora: dict[str, Any] = {}


class Reward(Section):
    weight: Number = Field(1.0, allow_inf_nan=False)
    function: str | None = None
    options: dict[str, Any] = {}
    combine: Literal["sum", "mean", "max", "min", "majority", "product", "gate"] | None = None
    of: dict[str, "Reward"] = {}
    scale: Number = Field(1.0, allow_inf_nan=False)
    clip: tuple[float, float] | None = None

    @model_validator(mode="after")
    def one_kind(self) -> "Reward":
        if bool(self.combine) != bool(self.of):
            raise ValueError("`combine` says how the rewards under `of` become one: give both")
        if self.combine and (self.function or self.options):
            raise ValueError(
                "a combination has no `function` or `options` of its own: give them to its parts"
            )
        if self.clip and self.clip[0] >= self.clip[1]:
            raise ValueError(f"clip {list(self.clip)} is empty: say [low, high]")
        return self


class Curriculum(Section):
    """Order and choice of GRPO's problems."""

    by: Literal["none", "level", "steps", "length", "pass_rate"] = "none"
    stages: Count | list[Count] = 3
    rollouts: str | None = None
    watch: str
    keep: tuple[Share, Share] = (0.0, 1.0)

    @model_validator(mode="after")
    def measured(self) -> "Curriculum":
        if self.rollouts is None and (self.by == "pass_rate" or self.keep != (0.0, 1.0)):
            raise ValueError("pass rates are measured on `rollouts`: name a file of them")
        if self.keep[0] > self.keep[1]:
            raise ValueError(f"keep {list(self.keep)} is empty: say [low, high]")
        if isinstance(self.stages, list) and (
            not self.stages or self.stages != sorted(set(self.stages))
        ):
            raise ValueError("`stages` says where each but the last ends, in rising order")
        return self


class Grpo(Training):
    preflight: Literal["refuse", "warn", "off"] = "refuse"
    quantize: Literal["none", "nf4"] = "none"
    group_size: Whole = Field(ge=2)
    kl_coef: NotNegative
    max_kl: Positive | None = None
    clip_epsilon: Positive
    temperature: Positive
    top_p: Number = Field(1.0, gt=0, le=1)
    pass_at: Count = 1
    dynamic_sampling: Whole = Field(0, ge=0)
    shared_prompt: bool = True
    max_completion_length: Count
    curriculum: Curriculum
    rewards: dict[str, Reward] = Field(min_length=1)
    lora: dict[str, Any] | None = {}

    @field_validator("preflight", mode="before")
    @classmethod
    def off_is_a_word(cls, given: Any) -> Any:
        """PyYAML reads a bare `off` as false."""
        return "off" if given is False else given

    @property
    def sampled_batches(self) -> int:
        """Micro-batches whose completions are sampled at once (TRL: steps_per_generation)."""
        if batch := self.trainer.get("generation_batch_size"):
            return max(1, batch // self.batch_size)
        return self.trainer.get("steps_per_generation") or self.gradient_accumulation_steps

    @property
    def rollout_every(self) -> int:
        """Micro-batches from one generation to the next."""
        return self.sampled_batches * (self.trainer.get("num_iterations") or 1)

    @property
    def generations(self) -> int:
        """How often completions are sampled in the whole training."""
        return -(-self.max_steps * self.gradient_accumulation_steps // self.rollout_every)


class Audit(Section):
    max_false_negative_rate: Share = 0.0
    max_false_positive_rate: Share = 0.0


class Merge(Section):
    """Bounds that are None are the dtype's own (stages/merge.py)."""

    prompts: Count
    max_logit_diff: Positive | None = None
    min_top1_agreement: Share | None = None
    min_greedy_agreement: Share | None = None
    max_shard_gb: Positive = 5.0


class Student(Section):
    source: str
    revision: str | None = None
    watch: str
    scratch: Shape | None = None
    layers: Count | list[Annotated[Whole, Field(ge=0)]] | None = None

    @model_validator(mode="after")
    def layers_rise(self) -> "Student":
        if isinstance(self.layers, list) and (
            not self.layers or self.layers != sorted(set(self.layers))
        ):
            raise ValueError(
                "name the `layers` that are kept in rising order, each once, from 0 on"
            )
        return self


Method = Literal["verified", "unverified", "demonstrations", "logits", "on_policy"]
METHODS = get_args(Method)
Control = Literal["longer", "verified", "all"]
CONTROLS = get_args(Control)
MATCHED = ("logits", "on_policy")  # methods that compare distributions over the next token


class Distill(Training):
    method: Method = "verified"
    student: Student
    samples_per_prompt: Count
    keep: Count | None = None
    choose: Literal["shortest", "diverse"] = "shortest"
    rollouts: bool = False
    beta: Share = 0.5
    num_samples: Count
    min_samples: Count
    if_fewer: Literal["fail", "demonstrations"] = "fail"
    temperature: Positive
    max_completion_length: Count
    optimizer: Literal["adamw", "muon"] = "adamw"
    max_length: Count
    padding_free: bool = False


class Evaluate(Section):
    split: Literal["test", "dev"] = "test"
    num_samples: Whole | None = Field(None, ge=1)
    batch_size: Count | Literal["auto"] = "auto"
    max_completion_length: Count
    samples_per_prompt: Whole = Field(0, ge=0)
    temperature: Positive = 1.0
    few_shot: Whole = Field(0, ge=0, le=MAX_SHOTS)
    backend: Literal["hf", "vllm"] = "hf"
    tasks: list[str] = []
    rewards: dict[str, Reward] = {"correctness": Reward()}

    @property
    def at_once(self) -> int:
        """Prompts generated at once; `auto` is halved where the GPU's memory does not suffice."""
        return AUTO_BATCH if self.batch_size == "auto" else self.batch_size


class Report(Section):
    fail_if_worse: bool = False
    compare: list[Method] = []
    controls: list[Control] = []

    @field_validator("compare", "controls")
    @classmethod
    def each_once(cls, given: list[str]) -> list[str]:
        for method in given:
            if given.count(method) > 1:
                raise ValueError(f"{method} stands there twice: say it once")
        return given

    @property
    def students(self) -> dict[str, Method]:
        """The students that are taught otherwise -> how: `student-logits` -> `logits`."""
        return {f"student-{method}": method for method in self.compare}

    @property
    def trained_otherwise(self) -> dict[str, Control]:
        """The SFT models that GRPO is compared with besides -> how: `sft-longer` -> `longer`."""
        return {f"sft-{control}": control for control in self.controls}


class Run(Section):
    max_parallel: Count | Literal["auto"] = "auto"
    log_every_seconds: Positive = 10
    checkpoint_seconds: NotNegative = 60


class Launch(Section):
    """In how many processes SFT, GRPO, evaluation and distillation run."""

    processes: Count = 1
    accelerate: str | None = None


class Tracking(Section):
    uri: str | None = None
    also: list[Literal["wandb", "trackio"]] = []


class Params(Section):
    seed: Whole = Field(ge=0, lt=2**32)
    task: Task
    format: OutputFormat
    base: Base
    sft: Sft
    audit: Audit = Audit()
    grpo: Grpo
    merge: Merge
    distill: Distill
    evaluate: Evaluate
    report: Report = Report()
    run: Run = Run()
    launch: Launch = Launch()
    tracking: Tracking = Tracking()

    def with_control(self, kind: Control) -> "Params":
        """As the SFT model of that name in `report.controls` is trained."""
        changes = {
            "longer": {"max_steps": 2 * self.sft.max_steps},
            "verified": {"demonstrations": "verified"},
            "all": {"demonstrations": "all"},
        }
        return self.model_copy(update={"sft": self.sft.model_copy(update=changes[kind])})

    @model_validator(mode="after")
    def cross_field(self) -> "Params":
        for check in (
            mixtures_have_parts,
            mixtures_leave_reading_to_their_parts,
            tasks_have_data,
            endless_tasks_have_counts,
            demonstrations_are_there,
            a_search_is_countdowns,
            made_levels_are_known,
            local_sources_are_watched,
            made_models_have_a_shape,
            tags_differ,
            batch_holds_whole_groups,
            kl_is_measured,
            grpo_choices,
            cispo_has_its_bound,
            only_an_adapter_on_4_bits,
            best_of_a_group,
            one_process_resamples,
            batches_divide,
            vllm_evaluates_alone,
            lora_only_where_used,
            one_optimizer,
            order_is_found_again,
            rewards_are_known,
            something_is_paid,
            enough_is_sampled,
            compared_with_another,
            attention_is_known,
            tracker_is_an_address,
        ):
            check(self)
        return self


def mixtures_have_parts(p: Params) -> None:
    if (p.task.name == "mix") != bool(p.task.of):
        raise ValueError("task.of holds the tasks that task.name: mix mixes: give both, or neither")
    for name, part in p.task.of.items():
        if part.name == "mix":
            raise ValueError(
                f"task.of.{name}: a mixture mixes tasks, not mixtures: name its parts here"
            )


def mixtures_leave_reading_to_their_parts(p: Params) -> None:
    parts = ", ".join(f"task.of.{name}" for name in p.task.of)
    for name in ("source", "revision", "config", "splits", "fields", "levels", "topics", "percent",
                 "tries"):  # fmt: skip
        if p.task.of and getattr(p.task, name) != Task.model_fields[name].default:
            raise ValueError(
                f"task.{name}: the parts of a mixture do not take it from there: give it to those "
                f"that it is meant for ({parts})"
            )


def named_parts(task: Task) -> Iterator[tuple[str, Source]]:
    """The task, or each of its parts, under its path in params.yaml."""
    for name, part in task.parts.items():
        yield f"task.of.{name}" if task.of else "task", part


def tasks_have_data(p: Params) -> None:
    for path, part in named_parts(p.task):
        if part.name in GENERATED and part.source:
            raise ValueError(
                f"{path}.source is {part.source}, but {part.name} makes its own problems: set it "
                f"to null, or {path}.name to the task of that data (rows: your own)"
            )
        if part.name not in GENERATED and not part.source:
            raise ValueError(
                f"{path}.source is null, but {part.name} needs one: a hub id, a folder with "
                "train.jsonl and test.jsonl, or a JSONL or JSON file"
            )


def endless_tasks_have_counts(p: Params) -> None:
    for path, part in named_parts(p.task):
        for count in ("pool", "test"):
            if part.name in GENERATED and getattr(part, count) is None:
                raise ValueError(
                    f"{path}.{count}: null means all that are left, and {part.name} makes problems "
                    "without end: give a number"
                )


def demonstrations_are_there(p: Params) -> None:
    """Each user of what `task.demonstrations` and `task.dev` set apart would fail hours later."""
    parts = p.task.parts.values()
    if not any(part.demonstrations for part in parts):
        if p.sft.method != "none":
            raise ValueError(
                f"sft.method: {p.sft.method} has nothing to train on, for task.demonstrations is "
                "0: raise it, or set sft.method to none"
            )
        if p.evaluate.few_shot:
            raise ValueError(
                f"evaluate.few_shot: {p.evaluate.few_shot} examples, but task.demonstrations is 0: "
                "raise it, or set few_shot to 0"
            )
    if p.evaluate.split == "dev" and not any(part.dev for part in parts):
        raise ValueError("evaluate.split: dev, but task.dev is 0: raise it, or evaluate on test")


def a_search_is_countdowns(p: Params) -> None:
    for name, part in named_parts(p.task):
        if part.tries != 1 and part.name != "countdown":
            raise ValueError(
                f"{name}.tries: demonstrations of {part.name} show one attempt, those of countdown "
                "alone can show more: take it out"
            )


def made_levels_are_known(p: Params) -> None:
    for path, part in named_parts(p.task):
        if part.name not in GENERATED:
            continue  # what levels its rows have shows when they are read
        if part.topics:
            raise ValueError(f"{path}.topics: problems of {part.name} have none: take it out")
        if unknown := [level for level in part.levels if level not in tuple(LEVELS[part.name])]:
            raise ValueError(
                f"{path}.levels: {part.name} makes no problem of {', '.join(unknown)}: name some "
                f"of {', '.join(LEVELS[part.name])}, or none"
            )


def local_sources_are_watched(p: Params) -> None:
    """DVC reruns what hangs on a local source only if it watches that very path, or one above."""
    sections = {"task": p.task, "base": p.base, "distill.student": p.distill.student}
    named = [(f"{name}.source", s.source, name, s.watch) for name, s in sections.items()]
    named += [(f"task.of.{name}.source", part.source, "task", p.task.watch)
              for name, part in p.task.of.items()]  # fmt: skip
    named.append(("grpo.curriculum.rollouts", p.grpo.curriculum.rollouts, "grpo.curriculum",
                  p.grpo.curriculum.watch))  # fmt: skip
    named += [("task.decontaminate", file, "task", p.task.watch) for file in p.task.decontaminate]
    for name, source, section, watch in named:
        if source and is_local(source) and not within(source, watch):
            raise ValueError(
                f"{name} is the local path {source}: set {section}.watch to the same path, or to "
                "a folder above it, so that DVC reruns what hangs on it when it changes"
            )


def within(source: str, watch: str) -> bool:
    return Path(os.path.normpath(source)).is_relative_to(os.path.normpath(watch))


def is_local(source: str) -> bool:
    """A path rather than a hub id: it exists, or it is written as one."""
    return source not in ("scratch", "layers") and (
        source.startswith(("/", "./", "../", "~"))
        or source.endswith((".jsonl", ".json"))
        or source.count("/") > 1  # a hub id has one at the most
        or Path(source).exists()
    )


def made_models_have_a_shape(p: Params) -> None:
    for name, section in (("base", p.base), ("distill.student", p.distill.student)):
        if (section.source == "scratch") != (section.scratch is not None):
            raise ValueError(
                f"{name}.scratch (a shape) goes with {name}.source: scratch, and null with any "
                "other"
            )
    student = p.distill.student
    if (student.source == "layers") != (student.layers is not None):
        raise ValueError(
            "distill.student.layers (how many of the teacher's, or which) goes with "
            "distill.student.source: layers, and null with any other"
        )


def tags_differ(p: Params) -> None:
    tags = list(filter(None, astuple(p.format.tags)))
    if len(set(tags)) < len(tags):
        twice = next(tag for tag in tags if tags.count(tag) > 1)
        raise ValueError(f"format: {twice} stands for two tags, and they must differ: change one")
    if bool(p.format.think_open) != bool(p.format.think_close):
        raise ValueError("format: think_open and think_close go together: give both, or neither")
    if p.format.answer_close and not p.format.answer_open:
        raise ValueError("format: answer_close is given without answer_open: give both, or neither")


def batch_holds_whole_groups(p: Params) -> None:
    """TRL's generation batch (one accumulation cycle) must hold whole groups (trl#2858)."""
    g = p.grpo
    batch = g.batch_size * g.gradient_accumulation_steps
    if batch % g.group_size:
        raise ValueError(
            f"grpo.batch_size {g.batch_size} x grpo.gradient_accumulation_steps "
            f"{g.gradient_accumulation_steps} = {batch} completions is not a multiple of "
            f"grpo.group_size {g.group_size}: change one of them"
        )


def kl_is_measured(p: Params) -> None:
    if p.grpo.max_kl is not None and p.grpo.kl_coef == 0:
        raise ValueError(
            "grpo.max_kl: TRL measures the KL only where grpo.kl_coef is over 0: raise that "
            "(1e-3), or set max_kl to null"
        )


# TRL looks at these only after the first rollout.
CHOICES = {
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "importance_sampling_level": ("token", "sequence"),
    "vllm_mode": ("colocate", "server"),
}


def grpo_choices(p: Params) -> None:
    for option, choices in CHOICES.items():
        given = p.grpo.trainer.get(option, choices[0])
        if given not in choices:
            known = ", ".join(map(str, choices))
            raise ValueError(f"grpo.trainer.{option} must be {known} (given: {given!r})")


def cispo_has_its_bound(p: Params) -> None:
    """TRL's epsilon_high is CISPO's bound of the weights itself, not its distance from 1."""
    trainer = p.grpo.trainer
    if trainer.get("loss_type") == "cispo" and float(trainer.get("epsilon_high") or 0) < 1:
        raise ValueError(
            "grpo.trainer.loss_type cispo: trainer.epsilon_high is then the largest importance "
            "weight, and by default would hold them all down to clip_epsilon: say epsilon_high: 5.0"
        )


def only_an_adapter_on_4_bits(p: Params) -> None:
    if p.grpo.lora is None and p.grpo.quantize == "nf4":
        raise ValueError("grpo.lora is null (all weights), but 4-bit weights cannot be trained")


def best_of_a_group(p: Params) -> None:
    """What else scales an advantage has no meaning beside it."""
    k, trainer = p.grpo.pass_at, p.grpo.trainer
    if k >= p.grpo.group_size:
        raise ValueError(
            f"grpo.pass_at {k}: the best of {k} tells completions apart in larger groups only, and "
            f"grpo.group_size is {p.grpo.group_size}: lower it, or raise that"
        )
    plain = trainer.get("scale_rewards", "group") in ("none", False)
    if k > 1 and not (plain and "multi_objective_aggregation" not in trainer):
        raise ValueError(
            "grpo.pass_at: over 1 it needs grpo.trainer.scale_rewards none, and no "
            "multi_objective_aggregation: say so, or set it to 1"
        )


def one_process_resamples(p: Params) -> None:
    if p.grpo.dynamic_sampling and p.launch.processes > 1:
        raise ValueError(
            "grpo.dynamic_sampling: for one process only: set it to 0, or launch.processes to 1"
        )


def batches_divide(p: Params) -> None:
    sections = {"sft": p.sft, "grpo": p.grpo, "distill": p.distill}
    for name, section in sections.items():
        if section.batch_size % p.launch.processes:
            raise ValueError(
                f"{name}.batch_size {section.batch_size} is not a multiple of launch.processes "
                f"{p.launch.processes}, and each process takes an equal share: change one of them"
            )


def vllm_evaluates_alone(p: Params) -> None:
    if p.evaluate.backend == "vllm" and p.launch.processes > 1:
        raise ValueError(
            "evaluate.backend: vllm runs in one process: say hf, or set launch.processes to 1"
        )


def lora_only_where_used(p: Params) -> None:
    if p.sft.lora and p.sft.method in ("full", "none"):
        raise ValueError(
            f"sft.lora has options but sft.method is {p.sft.method}: empty it, or say lora"
        )


def one_optimizer(p: Params) -> None:
    for name, section in (("sft", p.sft), ("distill", p.distill)):
        if section.optimizer == "muon" and "optim" in section.trainer:
            raise ValueError(
                f"{name}.optimizer: muon and {name}.trainer.optim name two optimizers: take one "
                "out, or say adamw"
            )
    if p.sft.optimizer == "muon" and p.sft.method in ("lora", "qlora"):
        raise ValueError(
            f"sft.optimizer: muon trains whole matrices, and sft.method {p.sft.method} freezes "
            "them: say adamw"
        )


def order_is_found_again(p: Params) -> None:
    """Where a killed training goes on, its rows come in the order they would have come in."""
    option = "train_sampling_strategy"
    for name, section in (("sft", p.sft), ("distill", p.distill)):
        if (given := section.trainer.get(option)) in ("group_by_length", "batch_rebalance"):
            raise ValueError(
                f"{name}.trainer.{option}: {given} draws an order that a killed training could not "
                "go on in: say random or sequential"
            )
    if p.grpo.trainer.get(option, "random") != "random":
        raise ValueError(
            f"grpo.trainer.{option} has no effect, as GRPO draws whole groups: take it out "
            "(grpo.curriculum orders the prompts)"
        )


REWARDS = (
    "correctness", "closeness", "factual", "choice", "unit_tests", "format", "steps",
    "equations_hold", "step_structure", "overlong", "length_cosine", "repetition", "script",
    "match_format_exactly", "match_format_approximately", "check_answer_correctness",
    "check_numbers_extraction",
)  # fmt: skip


def rewards_are_known(p: Params) -> None:
    """By their names alone; the stages that call them say what else is wrong with them."""
    for section, rewards in (("grpo", p.grpo.rewards), ("evaluate", p.evaluate.rewards)):
        for path, reward in leaves(rewards, f"{section}.rewards"):
            own = path.rpartition(".")[2]
            if reward.function is None:
                if own not in REWARDS:
                    raise ValueError(f"{path}: {unknown(own)}")
            elif ":" not in reward.function and reward.function not in REWARDS:
                raise ValueError(f"{path}.function: {unknown(reward.function)}")


def leaves(rewards: dict[str, Reward], path: str) -> Iterator[tuple[str, Reward]]:
    """Path -> each reward that is no combination."""
    for name, reward in rewards.items():
        if reward.of:
            yield from leaves(reward.of, f"{path}.{name}.of")
        else:
            yield f"{path}.{name}", reward


def unknown(name: str) -> str:
    near = difflib.get_close_matches(name, REWARDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "docs/rewards.md lists them."
    return f"no reward is called {name}; {hint} For your own say `function: package.module:name`"


def something_is_paid(p: Params) -> None:
    if not any(reward.weight for reward in p.grpo.rewards.values()):
        raise ValueError("grpo.rewards: all weights are 0, so that nothing is learnt: raise one")


def enough_is_sampled(p: Params) -> None:
    d = p.distill
    most = d.num_samples * d.samples_per_prompt
    asked = "verified" in (d.method, *p.report.compare)
    if asked and d.if_fewer == "fail" and d.min_samples > most:
        raise ValueError(
            f"distill.min_samples {d.min_samples} is more than distill.num_samples "
            f"{d.num_samples} x distill.samples_per_prompt {d.samples_per_prompt} = {most}: lower "
            "it, or raise one of these"
        )


def compared_with_another(p: Params) -> None:
    if p.distill.method in p.report.compare:
        raise ValueError(
            f"report.compare: {p.distill.method} is distill.method itself, and the report has that "
            "student anyway: take it out"
        )


ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


def attention_is_known(p: Params) -> None:
    given = p.base.attn_implementation
    if given not in ATTENTIONS and "/" not in given:  # a kernel of the hub has one
        raise ValueError(
            f"base.attn_implementation: {given!r} is none of {', '.join(ATTENTIONS)}, nor a "
            "kernel's hub id"
        )


URIS = ("http://", "https://", "sqlite:///", "postgresql", "mysql", "mssql", "file:", "databricks")


def tracker_is_an_address(p: Params) -> None:
    uri = p.tracking.uri
    if uri is not None and not uri.startswith(URIS):
        raise ValueError(
            f"tracking.uri: {uri!r} is no address of MLflow: say null (mlflow.db in the project's "
            "root), http://HOST:5000 or sqlite:///FILE.db"
        )


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML as it is, but for a key that stands twice: YAML's own rule forbids it, PyYAML does not.

    Raises:
        yaml.MarkedYAMLError: there is one.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value} stands here a second time", problem_mark=key.start_mark
                )
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def load(path: Path = PARAMS) -> Params:
    """The validated parameters of a file.

    Raises:
        UserError: the file is missing, is no YAML, or says something wrong; the message names
            the key's path and the nearest right name.
    """
    copy = f"`cp presets/NAME.yaml {path}`"
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run from the project's root, or {copy}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no UTF-8 text: save it as UTF-8, or {copy}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): mend that, or {copy}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {where_in_yaml(error)}: mend it") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no sections: {copy}")
    return validate(raw, str(path))


def where_in_yaml(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = " ".join((getattr(error, "problem", None) or str(error)).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def validate(raw: dict, where: str) -> Params:
    """Parameters from their raw form; `where` names the source in error messages."""
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error.errors(), Params)}") from None
    checked = {}
    for section, group, owner in passed_through(params):
        given = getattr(getattr(params, section), group)
        if given is None:
            continue
        refuse_said_twice(section, group, given, where)
        refuse_out_of_range(section, group, given, where)
        try:
            values = schema.check(owner, given)
        except schema.WrongOption as error:
            raise UserError(f"{where}: {section}.{group}.{error}") from None
        checked.setdefault(section, {})[group] = values
    return params.model_copy(
        update={s: getattr(params, s).model_copy(update=groups) for s, groups in checked.items()}
    )


def passed_through(params: Params) -> tuple[tuple[str, str, str], ...]:
    """(section, group, the class whose options it takes)

    Students that are taught otherwise may have another trainer, which gets the same options.
    """
    own, *others = (
        "trl.DistillationConfig" if method in MATCHED else "trl.SFTConfig"
        for method in (params.distill.method, *params.report.compare)
    )
    return (
        ("sft", "trainer", "trl.SFTConfig"),
        ("sft", "lora", "peft.LoraConfig"),
        ("grpo", "trainer", "trl.GRPOConfig"),
        ("grpo", "lora", "peft.LoraConfig"),
        *(("distill", "trainer", other) for other in set(others) - {own}),
        ("distill", "trainer", own),
    )


# Options of the trainers that a key of ours already decides.
DECIDED = {
    "beta": "grpo.kl_coef", "epsilon": "grpo.clip_epsilon", "num_generations": "grpo.group_size",
    "temperature": "grpo.temperature", "top_p": "grpo.top_p", "reward_weights": "grpo.rewards",
    "max_completion_length": "grpo.max_completion_length", "max_length": "SECTION.max_length",
    "padding_free": "SECTION.padding_free",
    "learning_rate": "SECTION.learning_rate", "max_steps": "SECTION.max_steps",
    "num_train_epochs": "SECTION.max_steps", "bf16": "SECTION.precision",
    "fp16": "SECTION.precision", "per_device_train_batch_size": "SECTION.batch_size",
    "gradient_accumulation_steps": "SECTION.gradient_accumulation_steps", "seed": "seed",
    "data_seed": "seed", "report_to": "tracking.also", "output_dir": "the stage itself",
    "model_init_kwargs": "base.attn_implementation", "use_cpu": "the machine",
    "save_strategy": "run.checkpoint_seconds", "save_steps": "run.checkpoint_seconds",
    "eval_strategy": "the stage evaluate", "disable_tqdm": "run.log_every_seconds",
}  # fmt: skip
OF_DISTILL = {
    "beta": "distill.beta", "temperature": "distill.temperature", "top_p": "",
    "max_completion_length": "distill.max_completion_length",
    "teacher_model_name_or_path": "models/grpo",
}  # fmt: skip


def refuse_said_twice(section: str, group: str, given: dict, where: str) -> None:
    decided = {**DECIDED, **OF_DISTILL} if section == "distill" else DECIDED
    for key in given if group == "trainer" else ():
        if ours := decided.get(key, "").replace("SECTION", section):
            raise UserError(
                f"{where}: {section}.trainer.{key} is already decided by {ours}: keep that one"
            )
    if {"activation_checkpointing", "gradient_checkpointing"} <= given.keys():
        raise UserError(
            f"{where}: {section}.trainer.gradient_checkpointing is the old name of "
            "activation_checkpointing, which stands beside it and alone counts: keep that one"
        )


# Options that TRL and peft look at late or not at all: the least and the most that they may be.
AT_LEAST_0, AT_LEAST_1 = (0, math.inf, "0 or more"), (1, math.inf, "1 or more")
RANGES = {
    "r": AT_LEAST_1, "lora_alpha": AT_LEAST_0, "lora_dropout": (0, 1, "0 to 1"),
    "logging_steps": (1e-9, math.inf, "over 0"), "warmup_steps": AT_LEAST_0,
    "weight_decay": AT_LEAST_0, "max_grad_norm": AT_LEAST_0, "num_iterations": AT_LEAST_1,
    "steps_per_generation": AT_LEAST_1, "epsilon_high": AT_LEAST_0,
}  # fmt: skip


def refuse_out_of_range(section: str, group: str, given: dict, where: str) -> None:
    for name, (low, high, asked) in RANGES.items():
        value = given.get(name)
        if isinstance(value, int | float) and not low <= value <= high:
            raise UserError(f"{where}: {section}.{group}.{name} must be {asked} (given: {value})")


def require_here(params: Params) -> None:
    """What the stages need of this machine, looked for before the first of them runs.

    Raises:
        UserError: a local source, or a package that is asked for, is not there; or DVC does not
            watch an lm-eval task's file.
    """
    task, student = params.task, params.distill.student
    sources = [(f"{path}.source", part.source) for path, part in named_parts(task)]
    sources += [("task.decontaminate", file) for file in task.decontaminate]
    sources += [("base.source", params.base.source), ("distill.student.source", student.source),
                ("grpo.curriculum.rollouts", params.grpo.curriculum.rollouts)]  # fmt: skip
    for key, source in sources:
        if source and is_local(source) and not Path(source).expanduser().exists():
            raise UserError(f"{key}: {source} is not there: put it there, or name another")
    for file in params.evaluate.tasks:
        if file.endswith(".yaml") and Path(file).is_file():
            require_dependency(os.path.normpath(file), EVALUATING, "evaluate.tasks")
    accelerate = params.launch.accelerate
    if accelerate and not Path(accelerate).is_file():
        raise UserError(
            f"launch.accelerate: {accelerate} is not there: name a file of presets/accelerate, or "
            "your own"
        )
    wanted = {"evaluate.backend: vllm": params.evaluate.backend == "vllm",
              "grpo.trainer.use_vllm": bool(params.grpo.trainer.get("use_vllm"))}  # fmt: skip
    for key, asked in wanted.items():
        if asked and find_spec("vllm") is None:
            raise UserError(
                f"{key}, but vllm is not installed: `pip install vllm`, or leave it out"
            )
