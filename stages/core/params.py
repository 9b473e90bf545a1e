"""params.yaml, validated whole before anything heavy is loaded.

A section for each stage, in users' words; under `trainer:` and `lora:` any option of the installed
TRL and peft classes (stages/core/schema.py). A wrong key is refused with its path and the nearest
right name.
"""

import difflib
import os
from dataclasses import astuple
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from stages.answers.format import Format
from stages.core import schema
from stages.core.errors import UserError

PARAMS = Path("params.yaml")

AUTO_BATCH = 128
MAX_SHOTS = 8  # demonstrations that prepare keeps for few-shot prompts

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Precision = Literal["auto", "bf16", "fp16", "fp32"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


GENERATED = ("arithmetic", "functions")
Name = Literal[
    "arithmetic", "functions", "gsm8k", "math", "aqua", "arc", "logiqa", "humaneval", "mbpp",
    "apps", "code_contests", "rows", "mix",
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
    demonstrations: int | None = Field(None, ge=0)
    pool: int | None = Field(None, ge=1)
    dev: int = Field(0, ge=0)
    test: int | None = Field(None, ge=1)

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
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of heads")
        return self


class Base(Section):
    source: str
    revision: str | None = None
    watch: str
    attn_implementation: str = "sdpa"
    vocab_size: int = Field(512, ge=300)
    scratch: Shape | None = None


class Training(Section):
    """What SFT, GRPO and distillation have in common. Batch sizes are per process."""

    learning_rate: Positive
    max_steps: Count
    batch_size: Count
    gradient_accumulation_steps: Count = 1
    precision: Precision = "auto"
    trainer: dict[str, Any] = {}


class Sft(Training):
    method: Literal["full", "lora", "qlora", "none"]
    optimizer: Literal["adamw", "muon"] = "adamw"
    max_length: Count
    lora: dict[str, Any] = {}


class Reward(Section):
    weight: float = Field(1.0, allow_inf_nan=False)
    function: str | None = None
    options: dict[str, Any] = {}
    combine: Literal["sum", "mean", "max", "min", "majority", "product", "gate"] | None = None
    of: dict[str, "Reward"] = {}
    scale: float = Field(1.0, allow_inf_nan=False)
    clip: tuple[float, float] | None = None

    @model_validator(mode="after")
    def one_kind(self) -> "Reward":
        if bool(self.combine) != bool(self.of):
            raise ValueError("`combine` says how the rewards under `of` become one: give both")
        if self.combine and (self.function or self.options):
            raise ValueError("a combination has no `function` or `options` of its own")
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
        if isinstance(self.stages, list) and (
            not self.stages or self.stages != sorted(set(self.stages))
        ):
            raise ValueError("`stages` says where each but the last ends, in rising order")
        return self


class Grpo(Training):
    preflight: Literal["refuse", "warn", "off"] = "refuse"
    quantize: Literal["none", "nf4"] = "none"
    group_size: int = Field(ge=2)
    kl_coef: NotNegative
    max_kl: Positive | None = None
    clip_epsilon: Positive
    temperature: Positive
    top_p: float = Field(1.0, gt=0, le=1)
    dynamic_sampling: int = Field(0, ge=0)
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
    prompts: Count
    max_logit_diff: Positive
    min_top1_agreement: Share


class Student(Section):
    source: str
    revision: str | None = None
    watch: str
    scratch: Shape | None = None


class Distill(Training):
    student: Student
    samples_per_prompt: Count
    num_samples: Count
    min_samples: Count
    if_fewer: Literal["fail", "demonstrations"] = "fail"
    temperature: Positive
    max_completion_length: Count
    optimizer: Literal["adamw", "muon"] = "adamw"
    max_length: Count


class Evaluate(Section):
    split: Literal["test", "dev"] = "test"
    num_samples: int | None = Field(None, ge=1)
    batch_size: Count | Literal["auto"] = "auto"
    max_completion_length: Count
    samples_per_prompt: int = Field(0, ge=0)
    temperature: Positive = 1.0
    few_shot: int = Field(0, ge=0, le=MAX_SHOTS)
    backend: Literal["hf", "vllm"] = "hf"
    tasks: list[str] = []
    rewards: dict[str, Reward] = {"correctness": Reward()}

    @property
    def at_once(self) -> int:
        """Prompts generated at once; `auto` is halved where the GPU's memory does not suffice."""
        return AUTO_BATCH if self.batch_size == "auto" else self.batch_size


class Report(Section):
    fail_if_worse: bool = False


class Run(Section):
    max_parallel: Count | Literal["auto"] = "auto"
    log_every_seconds: Positive = 10
    checkpoint_seconds: NotNegative = 60


class Tracking(Section):
    uri: str | None = None
    also: list[Literal["wandb", "trackio"]] = []


class Params(Section):
    seed: int = Field(ge=0, lt=2**32)
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
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def cross_field(self) -> "Params":
        for check in (
            mixtures_have_parts,
            local_sources_are_watched,
            made_models_have_a_shape,
            tags_differ,
            batch_holds_whole_groups,
            kl_is_measured,
            grpo_choices,
            cispo_has_its_bound,
            only_an_adapter_on_4_bits,
            one_process_resamples,
            lora_only_where_used,
            one_optimizer,
        ):
            check(self)
        return self


def mixtures_have_parts(p: Params) -> None:
    if (p.task.name == "mix") != bool(p.task.of):
        raise ValueError("task.of holds the tasks that task.name: mix mixes: give both")
    for name, part in p.task.of.items():
        if part.name == "mix":
            raise ValueError(f"task.of.{name}: a mixture mixes tasks, not mixtures")


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
    return source != "scratch" and (
        source.startswith(("/", "./", "../", "~"))
        or source.endswith((".jsonl", ".json"))
        or source.count("/") > 1  # a hub id has one at the most
        or Path(source).exists()
    )


def made_models_have_a_shape(p: Params) -> None:
    for name, section in (("base", p.base), ("distill.student", p.distill.student)):
        if (section.source == "scratch") != (section.scratch is not None):
            raise ValueError(f"{name}.scratch (the shape) goes with {name}.source: scratch")


def tags_differ(p: Params) -> None:
    tags = list(filter(None, astuple(p.format.tags)))
    if len(set(tags)) < len(tags):
        raise ValueError("format: the tags must differ from each other")
    if bool(p.format.think_open) != bool(p.format.think_close):
        raise ValueError("format: think_open and think_close go together: give both, or neither")
    if p.format.answer_close and not p.format.answer_open:
        raise ValueError("format: answer_close is given without answer_open")


def batch_holds_whole_groups(p: Params) -> None:
    """TRL's generation batch (one accumulation cycle) must hold whole groups (trl#2858)."""
    g = p.grpo
    batch = g.batch_size * g.gradient_accumulation_steps
    if batch % g.group_size and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        raise ValueError(
            f"grpo.batch_size {g.batch_size} x grpo.gradient_accumulation_steps "
            f"{g.gradient_accumulation_steps} = {batch} completions is not a multiple of "
            f"grpo.group_size {g.group_size}"
        )


def kl_is_measured(p: Params) -> None:
    if p.grpo.max_kl is not None and p.grpo.kl_coef == 0:
        raise ValueError("grpo.max_kl: TRL measures the KL only where grpo.kl_coef is over 0")


# TRL looks at these only after the first rollout.
CHOICES = {
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "importance_sampling_level": ("token", "sequence"),
}


def grpo_choices(p: Params) -> None:
    for option, choices in CHOICES.items():
        given = p.grpo.trainer.get(option, choices[0])
        if given not in choices:
            known = ", ".join(map(str, choices))
            raise ValueError(f"grpo.trainer.{option}: {given!r} is none of {known}")


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


def one_process_resamples(p: Params) -> None:
    if p.grpo.dynamic_sampling and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("grpo.dynamic_sampling: for one process only; say 0 with several")


def lora_only_where_used(p: Params) -> None:
    if p.sft.lora and p.sft.method in ("full", "none"):
        raise ValueError(f"sft.lora has options but sft.method is {p.sft.method}: empty it")


def one_optimizer(p: Params) -> None:
    for name, section in (("sft", p.sft), ("distill", p.distill)):
        if section.optimizer == "muon" and "optim" in section.trainer:
            raise ValueError(f"{name}.optimizer: muon and {name}.trainer.optim name two optimizers")


# What a user may also call a parameter (TRL's names, the field's), and what it is called here.
POINTERS = {
    "num_generations": "group_size", "num_return_sequences": "group_size", "beta": "kl_coef",
    "epsilon": "clip_epsilon", "max_new_tokens": "max_completion_length",
    "per_device_train_batch_size": "batch_size", "lora_r": "lora.r",
    "lora_alpha": "lora.lora_alpha", "lora_dropout": "lora.lora_dropout",
    "target_modules": "lora.target_modules",
    "format_reward_weight": "rewards.format.weight", "model_name": "base.source",
    "correct_reward_weight": "rewards.correctness.weight", "max_seq_length": "max_length",
    "max_examples": "task.pool", "max_samples": "evaluate.num_samples",
    "max_prompt_length": "task.max_prompt_length",
}  # fmt: skip


def load(path: Path = PARAMS) -> Params:
    """The validated parameters of a file.

    Raises:
        UserError: the file is missing, is no YAML, or says something wrong; the message names
            the key's path and the nearest right name.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: run from the project's root, or `cp presets/NAME.yaml {path}`"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no sections: copy a file of presets/ over it")
    return validate(raw, str(path))


def validate(raw: dict, where: str) -> Params:
    """Parameters from their raw form; `where` names the source in error messages."""
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error.errors())}") from None
    checked = {}
    for section, group, owner in PASSED_THROUGH:
        given = getattr(getattr(params, section), group)
        if given is None:
            continue
        refuse_said_twice(section, group, given, where)
        try:
            values = schema.check(owner, given)
        except schema.WrongOption as error:
            raise UserError(f"{where}: {section}.{group}.{error}") from None
        checked.setdefault(section, {})[group] = values
    return params.model_copy(
        update={s: getattr(params, s).model_copy(update=groups) for s, groups in checked.items()}
    )


PASSED_THROUGH = (
    ("sft", "trainer", "trl.SFTConfig"),
    ("sft", "lora", "peft.LoraConfig"),
    ("grpo", "trainer", "trl.GRPOConfig"),
    ("grpo", "lora", "peft.LoraConfig"),
    ("distill", "trainer", "trl.SFTConfig"),
)

# Options of the trainers that a key of ours already decides.
DECIDED = {
    "beta": "grpo.kl_coef", "epsilon": "grpo.clip_epsilon", "num_generations": "grpo.group_size",
    "temperature": "grpo.temperature", "top_p": "grpo.top_p", "reward_weights": "grpo.rewards",
    "max_completion_length": "grpo.max_completion_length", "max_length": "SECTION.max_length",
    "learning_rate": "SECTION.learning_rate", "max_steps": "SECTION.max_steps",
    "num_train_epochs": "SECTION.max_steps", "bf16": "SECTION.precision",
    "fp16": "SECTION.precision", "per_device_train_batch_size": "SECTION.batch_size",
    "gradient_accumulation_steps": "SECTION.gradient_accumulation_steps", "seed": "seed",
    "data_seed": "seed", "report_to": "tracking.also", "output_dir": "the stage itself",
    "model_init_kwargs": "base.attn_implementation", "use_cpu": "the machine",
}  # fmt: skip


def refuse_said_twice(section: str, group: str, given: dict, where: str) -> None:
    for key in given if group == "trainer" else ():
        if ours := DECIDED.get(key, "").replace("SECTION", section):
            raise UserError(
                f"{where}: {section}.trainer.{key} is already decided by {ours}: keep that one"
            )
    if {"activation_checkpointing", "gradient_checkpointing"} <= given.keys():
        raise UserError(
            f"{where}: {section}.trainer.gradient_checkpointing is the old name of "
            "activation_checkpointing, which stands beside it and alone counts: keep that one"
        )


def explain(errors: list[dict]) -> str:
    """pydantic's first error in one sentence, with the nearest right name for a wrong key."""
    error = errors[0]
    path = ".".join(str(part) for part in error["loc"])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if error["type"] == "extra_forbidden":
        return f"{path} is not a key here{hint(error['loc'])}{more}"
    if error["type"] == "missing":
        return f"{path} is missing{more}"
    message = error["msg"].removeprefix("Value error, ")
    if not path:
        return message + more
    return f"{path}: {message[0].lower()}{message[1:]} (given: {error['input']!r}){more}"


def hint(location: tuple) -> str:
    """Where a wrong key's meaning lives, or the nearest right name beside it."""
    *parents, key = location
    if pointer := POINTERS.get(key):
        own = f"{parents[0]}." if parents and "." not in pointer else ""
        if pointer.startswith(("lora.", "rewards.")) and parents:
            own = f"{parents[0]}."
        return f": say {own}{pointer}"
    near = difflib.get_close_matches(key, keys_at(parents), n=1, cutoff=0.5)
    return f"; did you mean {'.'.join([*map(str, parents), near[0]])}?" if near else ""


def keys_at(parents: list) -> list[str]:
    """The right names at a path of params.yaml; a map's own names lead on to its sections."""
    model: type[Section] = Params
    for name in parents:
        if name in model.model_fields:
            inner = sections_in(model.model_fields[name].annotation)
            model = inner[0] if inner else Section
    return list(model.model_fields)


def sections_in(annotation: Any) -> list[type[Section]]:
    return [a for a in (annotation, *getattr(annotation, "__args__", ())) if is_section(a)]


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)
