"""plan: what params.yaml comes to, before anything runs. A command, no stage.

usage: python -m stages.plan
       python -m stages.plan --json

The configuration with its defaults filled in, and for each stage its steps, batches and tokens, an
estimate of its memory (stages/core/memory.py: arithmetic, without the libraries' own) and of its
time: the last run's, in proportion to the sequences trained on or the completions made, start-up
included; only where that run had the same data, model and lengths (dvc.lock), and as if on the same
machine and in as many processes. Memory is one process's (launch.processes), with its share of a
batch and all of the model. A hub model that is not here yet counts by its published shape, where
stages/core/memory.py has that. Loads no model, no torch.

`--json` writes {"params", "device", "model", "student", "stages"}. A stage has `settings`, `memory`
(bytes by what takes them, and `peak`: what is there at once; null: no model, or not known) and
`time` (`last` and `estimate` in seconds, or null).
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml
from pydantic import ValidationError

from stages.core import graph, last_run, launch, memory
from stages.core import params as parameters
from stages.core.errors import UserError
from stages.core.files import count_rows, read_rows
from stages.core.memory import Model
from stages.core.params import MATCHED, Distill, Grpo, Params, Section, Sft, Training, is_local
from stages.core.preflight import longest, prompt_text

TEACHER_BATCH = 128  # prompts that stages/distill.py samples at once
TEMPLATE = 32  # tokens that a chat template adds, about
BASE = Path("models/base")


class Device(NamedTuple):
    """Where the stages would run. `half`: what `precision: auto` means there."""

    name: str
    memory: int  # bytes
    half: str


class Fresh(NamedTuple):
    """Whether data/ and models/base are of these parameters, as far as dvc.lock says."""

    data: bool
    model: bool


class Setting(NamedTuple):
    """What the stages' arithmetic shares."""

    params: Params
    device: Device
    model: Model | None
    student: Model | None
    prompt: int  # tokens of the longest prompt
    rows: dict[str, int]  # of data/NAME.jsonl, where there is one


def main() -> None:
    made = argparse.ArgumentParser(
        prog="python -m stages.plan", description="What params.yaml comes to."
    )
    made.add_argument("--json", action="store_true", help="a JSON object, nothing else")
    options = made.parse_args()
    try:
        params = parameters.load()
        parameters.require_here(params)
        found = plan(params)
    except UserError as error:
        sys.exit(f"plan: {error}")
    whole = json.dumps(found, indent=2, ensure_ascii=False) if options.json else text(found)
    try:
        print(whole, flush=True)
    except BrokenPipeError:
        sys.stderr.close()  # `| head` has read enough


def plan(params: Params) -> dict[str, Any]:
    ran = last_run.recorded()
    fresh = Fresh(
        data=same(ran, "prepare", "task", params.task), model=same(ran, "base", "base", params.base)
    )
    model, where = sizes(params, params.base, params.base.vocab_size)
    vocab = model.vocab if model else params.base.vocab_size
    student, student_where = student_sizes(params, model, vocab)
    rows = {name: count_rows(path) for name in ("sft", "grpo", "dev", "test")
            if fresh.data and (path := Path(f"data/{name}.jsonl")).exists()}  # fmt: skip
    prompt, how = longest_prompt(params, fresh)
    given = Setting(params, device(), model, student, prompt, rows)
    return {
        "params": params.model_dump(mode="json"),
        "device": given.device._asdict(),
        "model": {"parameters": model and model.parameters, "from": where},
        "student": {"parameters": student and student.parameters, "from": student_where},
        "prompt": {"tokens_at_most": prompt, "from": how},
        "stages": {name: {**entry, "time": time(name, entry["settings"], ran.get(name, {}),
                                                params if all(fresh) else None)}
                   for name, entry in stages(given)},
    }  # fmt: skip


# --- the machine, the models, the data ------------------------------------------------------------


def device() -> Device:
    """The first GPU that torch would use, or the CPU, which computes in bf16."""
    cpu = Device("CPU", psutil.virtual_memory().total, "bf16")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if visible in ("", "-1") or "cpu" in version("torch") or not shutil.which("nvidia-smi"):
        return cpu
    asked = ["nvidia-smi", f"--id={visible}", "--format=csv,noheader,nounits",
             "--query-gpu=name,memory.total,compute_cap"]  # fmt: skip
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return gpu(done.stdout.strip()) if done.returncode == 0 and done.stdout.strip() else cpu


def gpu(line: str) -> Device:
    """
    >>> gpu("Tesla T4, 15360, 7.5")
    Device(name='Tesla T4', memory=16106127360, half='fp16')
    """
    name, mebibytes, capability = (part.strip() for part in line.rsplit(",", 2))
    return Device(name, int(mebibytes) * 2**20, "bf16" if float(capability) >= 8 else "fp16")


def sizes(params: Params, section: Any, vocab: int) -> tuple[Model | None, str]:
    """A base's or student's sizes and where they are from; None where they are not known here."""
    if section.source == "scratch":
        if section is params.base and (made := made_base(params)):
            return made, f"{BASE}, as made from base.scratch"
        return memory.scratch(section.scratch, vocab), f"arithmetic, {vocab} tokens at most"
    folder = local_folder(section.source, section.revision)
    if folder is None:
        if known_shape := memory.published(section.source):
            return known_shape, "arithmetic, from its published shape"
        return None, "unknown: downloads first"
    try:
        return memory.read(folder), str(folder)
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None, f"unknown: {folder} does not say"


def student_sizes(params: Params, teacher: Model | None, vocab: int) -> tuple[Model | None, str]:
    student = params.distill.student
    if student.source != "layers":
        return sizes(params, student, vocab)
    count = student.layers if isinstance(student.layers, int) else len(student.layers)
    if teacher is None or count > teacher.layers:
        return None, "unknown: layers of a teacher that is not known, or does not have them"
    return memory.of_layers(teacher, count), f"{count} of the teacher's {teacher.layers} layers"


def made_base(params: Params) -> Model | None:
    """models/base where it is what base.scratch says; its tokenizer may have found fewer tokens."""
    if not (BASE / "config.json").exists():
        return None
    made = memory.read(BASE)
    wanted = memory.scratch(params.base.scratch, made.vocab)
    return made if made == wanted and made.vocab <= params.base.vocab_size else None


def local_folder(source: str, revision: str | None) -> Path | None:
    """A local model's folder; of a hub model, where it lies once it was downloaded."""
    if is_local(source):
        return Path(source).expanduser()
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, "config.json", revision=revision)
    folder = Path(found).parent if isinstance(found, str) else None
    return folder if folder and any(folder.glob("*.safetensors")) else None


def same(ran: dict[str, dict], stage: str, name: str, section: Section) -> bool:
    """Whether a stage last ran with this section; true where nothing is known of that."""
    recorded = ran.get(stage, {}).get("params", {}).get("params.yaml", {}).get(name)
    return recorded is None or read_as(section, recorded) == section


def read_as(section: Section, recorded: dict) -> Section | None:
    """A recorded section with today's defaults; None where it is none of today's."""
    try:
        return type(section).model_validate(recorded)
    except ValidationError:
        return None


def longest_prompt(params: Params, fresh: Fresh) -> tuple[int, str]:
    """Tokens that GRPO's prompts have at most, and how that is known."""
    if params.task.max_prompt_length:
        return params.task.max_prompt_length, "task.max_prompt_length"
    data, tokenizer = Path("data/grpo.jsonl"), BASE / "tokenizer.json"
    if not (all(fresh) and data.exists() and tokenizer.exists()):
        return params.sft.max_length, "sft.max_length; measured once data and tokenizer are there"
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_file(str(tokenizer)).encode_batch(
        [prompt_text(row) for row in longest(read_rows(data))]
    )
    return max(len(one.ids) for one in encoded) + TEMPLATE, f"{data}, about"


# --- the stages -----------------------------------------------------------------------------------


def stages(given: Setting) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each stage's settings and memory, in the pipeline's order."""
    params = given.params
    task = params.task
    counts = {"demonstrations": task.demonstrations, "pool": task.pool, "dev": task.dev,
              "test": task.test}  # fmt: skip
    yield "prepare", {"settings": counts, "memory": None}
    made = params.base.source == "scratch" and given.model
    held = {"weights": 4 * given.model.parameters} if made else None
    yield "base", {"settings": {}, "memory": held and memory.peak(held)}
    yield "sft", {"settings": sft_settings(params.sft, given.rows.get("sft")),
                  "memory": given.model and sft_memory(given)}  # fmt: skip
    for name, other in controls(given).items():
        yield name, {"settings": sft_settings(other.params.sft, other.rows.get("sft")),
                     "memory": given.model and sft_memory(other)}  # fmt: skip
    yield "audit", {"settings": known({"golds": given.rows.get("grpo")}), "memory": None}
    yield "grpo", {"settings": grpo_settings(params.grpo, given.prompt, given.rows.get("grpo")),
                   "memory": given.model and grpo_memory(given)}  # fmt: skip
    yield "merge", {"settings": {"prompts_compared": params.merge.prompts},
                    "memory": given.model and merge_memory(given)}  # fmt: skip
    yield "distill", {"settings": distill_settings(params.distill, given),
                      "memory": given.model and distill_memory(given)}  # fmt: skip
    others = {f"distill_also@{method}": by(method, given) for method in params.report.compare}
    for name, other in others.items():
        yield name, {"settings": distill_settings(other.params.distill, other),
                     "memory": given.model and distill_memory(other)}  # fmt: skip
    for name, folder in evaluated(params).items():
        yield name, {"settings": evaluate_settings(given),
                     "memory": evaluate_memory(given, folder)}  # fmt: skip
    yield "report", {"settings": {}, "memory": None}


def by(method: str, given: Setting) -> Setting:
    """The same student, taught by another method."""
    distill = given.params.distill.model_copy(update={"method": method})
    return given._replace(params=given.params.model_copy(update={"distill": distill}))


def controls(given: Setting) -> dict[str, Setting]:
    """The SFT models of report.controls."""
    return {
        f"sft_also@{kind}": given._replace(params=given.params.with_control(kind))
        for kind in given.params.report.controls
    }


def known(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def training_settings(section: Training, length: int, rows: int | None) -> dict[str, Any]:
    a_step = section.batch_size * section.gradient_accumulation_steps
    return known({
        "optimiser_steps": section.max_steps,
        "sequences_a_step": a_step,
        "batch_size": section.batch_size,
        "gradient_accumulation_steps": section.gradient_accumulation_steps,
        "tokens_a_step_at_most": a_step * length,
        "rows": rows,
        "epochs": round(section.max_steps * a_step / rows, 2) if rows else None,
    })  # fmt: skip


def sft_settings(sft: Sft, rows: int | None) -> dict[str, Any]:
    if sft.method == "none":
        return {"method": "none", "optimiser_steps": 0}
    return {"method": sft.method, **training_settings(sft, sft.max_length, rows)}


def grpo_settings(grpo: Grpo, prompt: int, rows: int | None) -> dict[str, Any]:
    trained = training_settings(grpo, prompt + grpo.max_completion_length, None)
    completions = trained.pop("sequences_a_step")
    sampled, rounds = grpo.sampled_batches * grpo.batch_size, grpo.dynamic_sampling
    completions_in_all = grpo.generations * sampled
    prompts = completions_in_all // grpo.group_size
    return known({
        **trained,
        "completions_a_step": completions,
        "prompts_a_step": round(completions / grpo.group_size, 2),
        "group_size": grpo.group_size,
        "generations": grpo.generations,
        "completions_a_generation": sampled,
        "completions": completions_in_all,
        "completions_at_most": completions_in_all * (1 + rounds) if rounds else None,
        "rows": rows,
        "epochs": round(prompts / rows, 2) if rows else None,
    })  # fmt: skip


def distill_settings(distill: Distill, given: Setting) -> dict[str, Any]:
    """Epochs are over the samples that the teacher gets right: over all it samples, at least."""
    there = [given.rows[name] for name in ("sft", "grpo") if name in given.rows]
    prompts = min(distill.num_samples, sum(there)) if there else distill.num_samples
    length = row_length(distill, given)
    if distill.method == "demonstrations":
        of_rows = training_settings(distill, length, given.rows.get("sft"))
        return {"method": distill.method, **of_rows}
    if distill.method == "on_policy":
        trained = training_settings(distill, length, prompts)
        completions = trained["optimiser_steps"] * trained["sequences_a_step"]
        return {"method": distill.method, **trained, "completions": completions}
    samples = prompts * distill.samples_per_prompt
    lessons = min(samples, prompts * (distill.keep or samples))
    trained = training_settings(distill, length, lessons)
    del trained["rows"]
    if distill.rollouts:
        del trained["epochs"]
    return {
        "method": distill.method,
        "prompts": prompts,
        "teacher_samples": samples,
        "teacher_batches": -(-prompts // TEACHER_BATCH),
        **{("epochs_at_least" if k == "epochs" else k): v for k, v in trained.items()},
    }


def row_length(distill: Distill, given: Setting) -> int:
    """Tokens of a row that is trained on, at most."""
    on_policy = distill.method == "on_policy"
    return given.prompt + distill.max_completion_length if on_policy else distill.max_length


def evaluate_settings(given: Setting) -> dict[str, Any]:
    evaluate = given.params.evaluate
    counts = [given.rows.get(evaluate.split), evaluate.num_samples]
    asked = getattr(given.params.task, evaluate.split)
    there = [count for count in counts if count is not None] or [asked]
    problems = None if there[0] is None else min(there)
    completions = problems and problems * (1 + evaluate.samples_per_prompt)
    return known({
        "problems": problems,
        "completions": completions,
        "batch_size": evaluate.at_once,
        "batches": completions and -(-completions // evaluate.at_once),
        "tokens_generated_at_most": completions and completions * evaluate.max_completion_length,
    })  # fmt: skip


def evaluated(params: Params) -> dict[str, str]:
    """Stage that evaluates -> its model folder, as dvc.yaml and report.compare list them."""
    own = graph.declared().get("evaluate", {}).get("foreach", {})
    named = {f"evaluate@{model}": folder for model, folder in own.items()}
    report = params.report
    others = {f"evaluate_also@{how}": student for student, how in report.students.items()}
    others |= {f"evaluate_control@{kind}": sft for sft, kind in report.trained_otherwise.items()}
    return named | {stage: f"models/{model}" for stage, model in others.items()}


# --- their memory ---------------------------------------------------------------------------------


def size_of(section: Training) -> int:
    """Bytes of a value in the precision that training computes in."""
    return 4 if section.precision == "fp32" else 2


def eager(params: Params) -> bool:
    return params.base.attn_implementation == "eager"


def checkpointing(trainer: dict[str, Any]) -> bool:
    """TRL's default is on."""
    given = trainer.get("activation_checkpointing")
    given = trainer.get("gradient_checkpointing") if given is None else given
    return True if given is None else given


def optim(section: Training) -> str:
    if getattr(section, "optimizer", None) == "muon":
        return "muon"
    return str(section.trainer.get("optim", "adamw"))


def one_batch(section: Sft, model: Model, given: Setting) -> dict[str, int]:
    share = section.batch_size // given.params.launch.processes
    return memory.backward(
        model, share, section.max_length, size_of(section), eager(given.params),
        checkpointing(section.trainer),
    )  # fmt: skip


def sft_memory(given: Setting) -> dict[str, int] | None:
    sft, model = given.params.sft, given.model
    if sft.method == "none":
        return None
    size = size_of(sft)
    if sft.method == "full":
        fixed = memory.full(model, optim(sft), half=size < 4)
    else:
        trained = memory.adapter(model, sft.lora)
        fixed = memory.with_adapter(model, trained, optim(sft), size, sft.method == "qlora")
    return memory.peak(fixed, one_batch(sft, model, given))


def grpo_memory(given: Setting) -> dict[str, int]:
    grpo, model, attention = given.params.grpo, given.model, eager(given.params)
    size = size_of(grpo)
    new, share = grpo.max_completion_length, grpo.batch_size // given.params.launch.processes
    return memory.peak(
        grpo_weights(grpo, model, size),
        memory.generation(model, share * grpo.sampled_batches, given.prompt, new, size, attention),
        memory.backward(model, share, given.prompt + new, size, attention,
                        checkpointing(grpo.trainer), scored=new),
    )  # fmt: skip


def grpo_weights(grpo: Grpo, model: Model, size: int) -> dict[str, int]:
    """What stays in memory; under full training with a KL penalty a second, frozen copy as well."""
    if grpo.lora is None:
        fixed = memory.full(model, optim(grpo), half=size < 4)
        return {**fixed, **({"reference": 4 * model.parameters} if grpo.kl_coef else {})}
    trained = memory.adapter(model, grpo.lora)
    return memory.with_adapter(model, trained, optim(grpo), size, grpo.quantize == "nf4")


def stored(given: Setting) -> int:
    """Bytes of a weight of models/sft and models/grpo: full training saves float32."""
    whole = given.params.sft.method == "full" or given.params.grpo.lora is None
    return 4 if whole else given.model.stored


def merge_memory(given: Setting) -> dict[str, int]:
    """The merged model, the unmerged and the reloaded one side by side, as they are stored."""
    return memory.peak({"weights": 3 * stored(given) * given.model.parameters})


def distill_memory(given: Setting) -> dict[str, int] | None:
    """The larger of the teacher's sampling and the student's training; one follows the other.

    Where distributions are compared, the teacher stays beside the student, and looks at each batch.
    """
    distill, teacher, student = given.params.distill, given.model, given.student
    if student is None:
        return None
    size, attention, new = stored(given), eager(given.params), distill.max_completion_length
    weights = size * teacher.parameters
    phases = []
    if distill.method in ("verified", "unverified", "logits"):
        at_once = TEACHER_BATCH * distill.samples_per_prompt
        phases.append({"weights": weights, **memory.generation(
            teacher, at_once, given.prompt, new, size, attention)})  # fmt: skip
    training = memory.full(student, optim(distill), half=size_of(distill) < 4)
    length = row_length(distill, given)
    batch = memory.backward(student, distill.batch_size, length, size_of(distill), attention,
                            checkpointing(distill.trainer))  # fmt: skip
    if distill.method in MATCHED:
        training["teacher"] = weights
        batch["teacher_batch"] = memory.forward(
            teacher, distill.batch_size, length, size, attention
        )
    if distill.method == "on_policy":
        at_once = distill.batch_size * distill.gradient_accumulation_steps
        phases.append({**training, **memory.generation(
            student, at_once, given.prompt, new, 4, attention)})  # fmt: skip
    return memory.peak({}, *phases, {**training, **batch})


def evaluate_memory(given: Setting, folder: str) -> dict[str, int] | None:
    of_student = Path(folder).name.startswith("student")
    model = given.student if of_student else given.model
    if model is None:
        return None
    evaluate = given.params.evaluate
    size = model.stored if Path(folder).name == "base" else 4 if of_student else stored(given)
    prompt = (given.prompt + evaluate.max_completion_length) * evaluate.few_shot + given.prompt
    return memory.peak(
        {"weights": size * model.parameters},
        memory.generation(model, evaluate.at_once, prompt, evaluate.max_completion_length, size,
                          eager(given.params)),
    )  # fmt: skip


# --- their time -----------------------------------------------------------------------------------


# What may differ from the last run without changing what a sequence costs.
FREE = {"learning_rate", "max_steps", "batch_size", "gradient_accumulation_steps", "kl_coef",
        "clip_epsilon", "temperature", "top_p", "lora", "rewards", "min_samples", "if_fewer",
        "num_samples", "samples_per_prompt", "split", "preflight", "keep", "choose", "beta",
        "rollouts"}  # fmt: skip


def time(
    stage: str, settings: dict[str, Any], entry: dict, params: Params | None
) -> dict[str, float | None]:
    """The last run's seconds, and in proportion to what there is to do now.

    Args:
        stage: as DVC names it.
        settings: the stage's, as `stages` gives them.
        entry: the stage's, of dvc.lock.
        params: today's; None where data or model are not those of the last run.
    """
    last = last_run.seconds(stage)
    then = last_run.params(stage, entry)
    if last is None or then is None or params is None:
        return {"last": last, "estimate": None}
    name = launch.module(stage)
    before = now = 1
    if name in ("sft", "grpo", "distill", "evaluate"):
        section, recorded = getattr(params, name), then.get(name, {})
        free = FREE - ({"num_samples", "samples_per_prompt"} if name == "distill" else set())
        if not comparable(section, recorded, free):
            return {"last": last, "estimate": None}
        if name == "evaluate":
            before, now = answered(stage, recorded), settings.get("completions", 0)
        else:
            before, now = work(recorded), work(section.model_dump())
    return {"last": last, "estimate": round(last * now / before, 1) if before and now else None}


def comparable(section: Section, recorded: dict, free: set[str]) -> bool:
    was = read_as(section, recorded)
    return was is not None and was.model_dump(exclude=free) == section.model_dump(exclude=free)


def work(section: dict[str, Any]) -> int:
    """Sequences that a training stage went through, from the parameters of its run."""
    if section.get("method") == "none":
        return 0
    names = ("max_steps", "batch_size", "gradient_accumulation_steps")
    steps, batch, accumulated = (section.get(name, 1) for name in names)
    return steps * batch * accumulated


def answered(stage: str, section: dict[str, Any]) -> int:
    """Completions that an evaluation made: problems of all its tasks, and their samples."""
    tasks = [value for value in last_run.metrics(stage).values() if isinstance(value, dict)]
    return sum(task.get("n", 0) for task in tasks) * (1 + section.get("samples_per_prompt", 0))


# --- for a terminal -------------------------------------------------------------------------------


def text(found: dict[str, Any]) -> str:
    machine = found["device"]
    lines = [
        yaml.safe_dump(found["params"], sort_keys=False, allow_unicode=True, width=100),
        f"device   {machine['name']}, {as_bytes(machine['memory'])}, precision auto is "
        f"{machine['half']}",
        *(f"{name:<8} {counted(found[name])}" for name in ("model", "student")),
        f"prompts  at most {found['prompt']['tokens_at_most']} tokens ({found['prompt']['from']})",
    ]
    if (processes := found["params"]["launch"]["processes"]) > 1:
        lines.append(f"launch   {processes} processes share each batch; memory is of one of them")
    for name, stage in found["stages"].items():
        lines += ["", name, *(f"  {label:<7} {what}" for label, what in described(stage))]
    return "\n".join([*lines, "", totals(found["stages"])])


def counted(model: dict[str, Any]) -> str:
    if model["parameters"] is None:
        return f"parameters {model['from']}"
    return f"{model['parameters']:,} parameters ({model['from']})"


def described(stage: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if stage["settings"]:
        yield "takes", ", ".join(f"{name.replace('_', ' ')} {number(value)}"
                                 for name, value in stage["settings"].items())  # fmt: skip
    if held := stage["memory"]:
        parts = ", ".join(f"{name.replace('_', ' ')} {as_bytes(value)}"
                          for name, value in held.items() if name != "peak")  # fmt: skip
        yield "memory", f"about {as_bytes(held['peak'])}: {parts}"
    yield "time", timed(stage["time"])


def timed(time: dict[str, float | None]) -> str:
    last, estimate = time["last"], time["estimate"]
    if last is None:
        return "not known: no last run"
    if estimate is None:
        return f"last time {last_run.duration(last)}, with other data, model or lengths"
    if round(last, 1) == estimate:
        return f"last time {last_run.duration(last)}"
    return f"about {last_run.duration(estimate)} (last time {last_run.duration(last)})"


def totals(stages: dict[str, dict]) -> str:
    times = [stage["time"]["estimate"] for stage in stages.values()]
    summed = sum(time for time in times if time is not None)
    unknown = sum(time is None for time in times)
    peaks = [stage["memory"]["peak"] for stage in stages.values() if stage["memory"]]
    most = f"memory about {as_bytes(max(peaks))} at most" if peaks else "memory not known"
    if unknown == len(times):
        return f"all stages: time not known, {most} (and the libraries' own)"
    rest = f" and {unknown} stages not known" if unknown else ""
    return f"all stages: about {last_run.duration(summed)}{rest}, {most} (and the libraries' own)"


def number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else "all" if value is None else value


def as_bytes(size: int) -> str:
    """
    >>> as_bytes(2_948_480), as_bytes(999), as_bytes(25_769_803_776)
    ('2.9 MB', '0.0 MB', '25.8 GB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


if __name__ == "__main__":
    main()
