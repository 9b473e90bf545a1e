"""A model's card, made from the run: what it is, its data, parameters, results, lineage, licences.

Only what the run's own files say is stated; a licence that they do not name is called unknown.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from stages.core.graph import value_at
from stages.core.params import Params, Training, is_local, named_parts
from stages.reporting import lineage, scores
from stages.reporting.page import Note, Table, escape_markdown

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

UNKNOWN, HERE = "unknown", "none: made by the pipeline"
MODELS = ("grpo", "student")


class Origin(NamedTuple):
    """A model or data set that this model comes from."""

    role: str
    name: str
    on_hub: bool
    licence: str


def card(model: str, params: Params, found: dict[str, dict], merge: dict, sample: str) -> str:
    """The README.md of an exported model.

    Args:
        model: grpo or student.
        found: model -> its metrics, of the models to be shown beside each other.
        merge: the merge stage's metrics.
        sample: a prompt as its chat template renders it.
    """
    from huggingface_hub import ModelCard

    origins = origins_of(model, params)
    evaluation = f"evaluate@{model}"
    source = lineage.read([evaluation])
    tasks = scores.tasks_of({model: found[model]})
    stages = lineage.chain(evaluation, source.nodes)
    used = {key: value_at(source.values, key) for key in lineage.sections(stages)}
    parts = [
        f"---\n{metadata(model, params, origins, found[model], tasks)}\n---",
        f"# {name_of(model, params)}",
        what(model, params),
        "## Use",
        usage(model, sample),
        "## Results",
        Table(scores.full(found, tasks)).markdown(),
        Note(f"Greedy, on the {params.evaluate.split} split. 95 % intervals: Wilson's. "
             + "; ".join(f"{name}: {scores.MODELS[name]}" for name in found) + ".").markdown(),
        "## Data and base",
        Table([["what", "name", "licence"], *([o.role, o.name, o.licence] for o in origins)])
        .markdown(),
        licence_note(origins),
        "## Parameters",
        Table(training(model, params)).markdown(),
        "All that the model and its scores hang on:",
        f"```yaml\n{yaml.safe_dump(used, sort_keys=False, allow_unicode=True)}```",
        *merge_proof(model, merge),
        "## Lineage",
        Table(lineage.rows(evaluation, source)).markdown(),
        "The sha256 of each of the model's files: export.json.",
        "## Limits",
        "Trained and measured on the tasks above alone. Nothing is known of its answers to "
        "anything else; its working may be wrong where its answer is right.",
    ]  # fmt: skip
    return str(ModelCard("\n\n".join(parts) + "\n"))


def what(model: str, params: Params) -> str:
    policy = "trained by GRPO (https://arxiv.org/abs/2402.03300)"
    if params.sft.method != "none":
        policy = f"warmed up by SFT ({params.sft.method}), then {policy}"
    if model == "grpo":
        merged = "all weights were trained" if params.grpo.lora is None else "its LoRA is merged in"
        return f"A policy {policy}; {merged}."
    fallback = params.distill.if_fewer == "demonstrations"
    return (
        "A smaller student, trained on those answers of its teacher that were verified as right"
        + (", or on demonstrations where these were too few" if fallback else "")
        + f". The teacher is a policy {policy}."
    )


def training(model: str, params: Params) -> list[list[str]]:
    """The settings that matter most, a row a stage."""
    grpo, sft = params.grpo, params.sft
    paid = ", ".join(f"{name} {r.weight:g}" for name, r in grpo.rewards.items() if r.weight)
    adapter = "all weights" if grpo.lora is None else f"LoRA r = {grpo.lora.get('r', 8)}"
    rows = [["stage", "steps", "learning rate", "batch", "more"]]
    if sft.method != "none":
        rows.append(["sft", *steps(sft), sft.method])
    more = f"groups of {grpo.group_size}, kl_coef {grpo.kl_coef:g}, rewards: {paid}, {adapter}"
    rows.append(["grpo", *steps(grpo), more])
    if model == "student":
        rows.append(["distill", *steps(params.distill), f"{params.distill.num_samples} prompts"])
    return rows


def steps(section: Training) -> list[str]:
    batch = section.batch_size * section.gradient_accumulation_steps
    return [str(section.max_steps), f"{section.learning_rate:g}", str(batch)]


def name_of(model: str, params: Params) -> str:
    base = params.base.source if model == "grpo" else params.distill.student.source
    return f"{'-'.join(params.task.parts)}-{Path(base).name}-{model}"


def metadata(
    model: str, params: Params, origins: list[Origin], found: dict, tasks: list[str]
) -> str:
    """The front matter that the hub reads: hub ids alone, and licences that are known."""
    from huggingface_hub import ModelCardData

    base, data = (
        [o for o in origins if (o.role == "data") is wanted and o.on_hub]
        for wanted in (False, True)
    )
    known = [o.licence for o in base if o.licence not in (UNKNOWN, HERE)]
    return ModelCardData(
        license=known[0] if known else None,
        base_model=base[0].name if base else None,
        datasets=[o.name for o in data] or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["grpo", "trl", *(["distillation"] if model == "student" else [])],
        model_name=name_of(model, params),
        eval_results=[result(task, params.evaluate.split, found[task]) for task in tasks],
    ).to_yaml()


def result(task: str, split: str, measured: dict) -> "EvalResult":
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type="text-generation", dataset_type=task, dataset_name=task, dataset_split=split,
        metric_type="accuracy", metric_value=round(measured["accuracy"], 4),
        metric_name=f"accuracy, n = {measured['n']}",
    )  # fmt: skip


def usage(model: str, sample: str) -> str:
    return (
        "The folder is a plain `transformers` model.\n\n"
        "```\n"
        "transformers serve FOLDER       # or: vllm serve FOLDER\n"
        "```\n\n"
        "A prompt, as the chat template renders it; ask in the same form, greedily:\n\n"
        f"```\n{sample.replace('```', '` ` `')}\n```"
    )


def merge_proof(model: str, merge: dict) -> list[str]:
    if model != "grpo" or "max_logit_diff" not in merge:
        return []
    return [
        "## Proof of the merge",
        "Unmerged and reloaded merged model on real prompts: largest logit difference "
        f"{merge['max_logit_diff']:.1g}, same likeliest token {merge['top1_agreement']:.2%}, same "
        f"greedy text {merge['greedy_agreement']:.2%}.",
    ]


def origins_of(model: str, params: Params) -> list[Origin]:
    """Bases and data, each with the licence that its own card names."""
    models = [("base", params.base.source, params.base.revision)]
    if model == "student":
        student = params.distill.student
        models = [("teacher's base", *models[0][1:]), ("base", student.source, student.revision)]
        models.reverse()
    found = [origin(role, source, revision, "model") for role, source, revision in models]
    for _, part in named_parts(params.task):
        found.append(origin("data", part.source, part.revision, "dataset", part.name))
    return found


def origin(
    role: str, source: str | None, revision: str | None, kind: str, task: str = ""
) -> Origin:
    if source in (None, "scratch"):
        made = f"{task}, problems made by the pipeline" if task else "made from scratch"
        return Origin(role, made, False, HERE)
    on_hub = not is_local(source)
    readme = hub_readme(source, revision, kind) if on_hub else Path(source).expanduser()
    name = source if on_hub else Path(source).name
    return Origin(role, name, on_hub, licence(readme))


def hub_readme(name: str, revision: str | None, kind: str) -> Path | None:
    """The card of a hub repository, from the hub or its cache; None where neither has it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(name, "README.md", revision=revision, repo_type=kind))
    except (OSError, HTTPError, OfflineModeIsEnabled):
        return None


def licence(card: Path | None) -> str:
    """What a card's front matter says; in a folder, its README.md's, beside a file's, as well."""
    from huggingface_hub import RepoCard

    if card is not None and card.name != "README.md":
        card = (card if card.is_dir() else card.parent) / "README.md"
    if card is None or not card.is_file():
        return UNKNOWN
    text = card.read_text(encoding="utf-8", errors="replace")
    try:
        named = RepoCard(text, ignore_metadata_errors=True).data.to_dict().get("license")
    except (ValueError, yaml.YAMLError):
        return UNKNOWN
    return ", ".join(map(str, named)) if isinstance(named, list) else str(named or UNKNOWN)


def licence_note(origins: list[Origin]) -> str:
    if unknown := [o.name for o in origins if o.licence == UNKNOWN]:
        return (f"The licence of {escape_markdown(', '.join(unknown))} is not known from its card: "
                "look it up before you pass this model on.")  # fmt: skip
    if all(o.licence == HERE for o in origins):
        return "Base and data were made by the pipeline: no licence of others reaches the model."
    return "The model stands under the licences above, each as far as it reaches."
