"""A distillation's student: made from scratch, from the hub, or of the teacher's own layers."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core import models
from stages.core.errors import UserError
from stages.core.params import MATCHED, Params

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OWN_TOKENIZER = ("scratch", "layers")  # sources whose student has the teacher's


def require_fitting(params: Params, teacher: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Looks at the student that is asked for before the teacher samples for hours.

    Raises:
        UserError: it cannot be loaded; the teacher does not have its layers; or the method compares
            distributions over the next token, and the student's tokens are not the teacher's.
    """
    distill, student = params.distill, params.distill.student
    if student.source == "layers":
        kept_of(student.layers, models.configuration(teacher).num_hidden_layers)
    if student.source in OWN_TOKENIZER:
        return
    own = models.load_tokenizer(student.source, student.revision)
    if distill.method not in MATCHED:
        return
    remedy = "take a student of the teacher's family, or distill.method: verified"
    if own.get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"distill.method: {distill.method} compares distributions over the same tokens, and "
            f"{student.source} has another tokenizer than the teacher: {remedy}"
        )
    size = models.configuration(student.source, student.revision).vocab_size
    if size != (wanted := models.configuration(teacher).vocab_size):
        raise UserError(
            f"distill.method: {distill.method} compares logits one by one, and {student.source} "
            f"has {size} of them, the teacher {wanted}: {remedy}"
        )


def new(
    params: Params, teacher: Path, tokenizer: "PreTrainedTokenizerBase"
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The untrained student in float32, with its tokenizer."""
    distill, student = params.distill, params.distill.student
    attn = params.base.attn_implementation
    if student.source == "scratch":
        matched = distill.method in MATCHED
        size = models.configuration(teacher).vocab_size if matched else None
        model = models.from_scratch(student.scratch, tokenizer, params.seed, size)
        model.set_attn_implementation(attn)
        return model.to(models.device()), tokenizer
    if student.source == "layers":
        return of_layers(models.load_model(teacher, attn), student.layers), tokenizer
    model = models.load_model(student.source, attn, revision=student.revision)
    return model, models.load_tokenizer(student.source, student.revision)


def of_layers(teacher: "PreTrainedModel", wanted: int | list[int]) -> "PreTrainedModel":
    """A model of some of the teacher's layers; all else (embeddings, norms, head) is copied.

    Args:
        teacher: any decoder whose layers are one list.
        wanted: which layers, counted from 0; or how many, evenly spread from the first to the last.

    Raises:
        UserError: the teacher does not have them.
    """
    config = copy.deepcopy(teacher.config)
    name, there = stack(teacher)
    kept = kept_of(wanted, there)
    config.num_hidden_layers = len(kept)
    if kinds := getattr(config, "layer_types", None):
        config.layer_types = [kinds[layer] for layer in kept]
    student = type(teacher)(config)
    place = {f"{name}.{layer}": f"{name}.{new}" for new, layer in enumerate(kept)}
    student.load_state_dict({
        place[part] + key[len(part) :] if part else key: value
        for key, value in teacher.state_dict().items()
        if (part := layer_of(key, name)) in place or part is None
    })  # fmt: skip
    student.generation_config = copy.deepcopy(teacher.generation_config)
    student.set_attn_implementation(teacher.config._attn_implementation)
    return student.to(teacher.device)


def stack(model: "PreTrainedModel") -> tuple[str, int]:
    """The name of the list of layers, and how many they are."""
    from torch.nn import ModuleList

    count = model.config.num_hidden_layers
    return next((name, count) for name, module in model.named_modules()
                if isinstance(module, ModuleList) and len(module) == count)  # fmt: skip


def layer_of(key: str, name: str) -> str | None:
    """
    >>> layer_of("model.layers.11.mlp.weight", "model.layers")
    'model.layers.11'
    """
    if not key.startswith(f"{name}."):
        return None
    return f"{name}.{key[len(name) + 1 :].partition('.')[0]}"


def kept_of(wanted: int | list[int], there: int) -> list[int]:
    """Which layers stay, of so many that are there.

    >>> kept_of(3, 12)
    [0, 6, 11]
    """
    if wanted > there if isinstance(wanted, int) else wanted[-1] >= there:
        raise UserError(
            f"distill.student.layers {wanted}: the teacher has {there}, numbered 0 to {there - 1}: "
            "ask for some of these"
        )
    if isinstance(wanted, list):
        return wanted
    return [round(place * (there - 1) / max(1, wanted - 1)) for place in range(wanted)]
