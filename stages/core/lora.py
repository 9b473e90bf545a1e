"""LoRA adapters: their configuration, and merging one into the model it was trained on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import models
from stages.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

TRAINED_ON = "trained_on.json"  # beside an adapter: the files of the model below it, hashed


def config(options: dict[str, Any]) -> "LoraConfig":
    """peft's configuration from the `lora:` section.

    Raises:
        UserError: peft refuses the options.
    """
    from peft import LoraConfig

    try:
        return LoraConfig(**{"task_type": "CAUSAL_LM", **options})
    except (TypeError, ValueError) as error:
        raise UserError(f"lora: {error}") from None


def require_modules(model: "PreTrainedModel", options: dict[str, Any], key: str) -> None:
    """Raises UserError where LoRA is to adapt modules that the model does not have."""
    wanted = options.get("target_modules")
    names = [name for name, _ in model.named_modules() if name]
    if not isinstance(wanted, list):
        return
    ends = {name.rpartition(".")[2] for name in names}
    unknown = [one for one in wanted if not any(f".{name}".endswith(f".{one}") for name in names)]
    if unknown:
        known = sorted(end for end in ends if end.endswith(("proj", "attn", "fc", "lm_head")))
        raise UserError(
            f"{key}.target_modules: the model has no {', '.join(unknown)} (it has "
            f"{', '.join(known or sorted(ends))}): name those, or say all-linear"
        )


def unmerged(base: Path, adapter: Path, attn: str, quantize: bool = False) -> "PeftModel":
    """The base model as it was trained on, with the adapter beside its weights, for evaluation."""
    return attached(models.load_model(base, attn, dtype="auto", quantize=quantize), adapter).eval()


def attached(model: "PreTrainedModel", adapter: Path) -> "PeftModel":
    from peft import PeftModel
    from safetensors import SafetensorError

    if not (adapter / "adapter_config.json").exists():
        raise UserError(f"{adapter} holds no adapter: run the stage that makes it (`dvc repro`)")
    try:
        return PeftModel.from_pretrained(model, str(adapter))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the adapter in {adapter} does not load ({reason}): make it again (`dvc repro --force "
            "grpo`)"
        ) from error


def require_base(base: Path, adapter: Path) -> None:
    """Raises UserError where the adapter was trained on another base: of one shape, it would load.

    Its record (`TRAINED_ON`) is written by the stage that made it.
    """
    record = adapter / TRAINED_ON
    again = "make it again (`dvc repro --force grpo`)"
    try:
        trained_on = json.loads(record.read_text())
    except (OSError, ValueError):
        raise UserError(f"{record} is missing or damaged, so that no base fits: {again}") from None
    here = models.fingerprint(base)
    unlike = sorted(name for name in here | trained_on if here.get(name) != trained_on.get(name))
    if unlike:
        raise UserError(
            f"{adapter} was trained on another model than {base}: {', '.join(unlike)} differ "
            f"(sha256 in {record}): put that model back, or {again}"
        )


def merge(base: Path, adapter: Path, attn: str, quantize: bool = False) -> "PreTrainedModel":
    """The base model with the adapter added into its weights, in the base's own dtype.

    The sum is taken in float32. A 4-bit base is dequantised first: adding the adapter to the
    4-bit weights themselves would round most of it away.
    """
    import torch

    model = models.load_model(base, attn, dtype="auto", quantize=quantize)
    if quantize:
        model = model.dequantize()
    tied = model.config.get_text_config().tie_word_embeddings
    adapted = attached(model.to(torch.float32), adapter)
    untie(adapted)
    merged = adapted.merge_and_unload(safe_merge=True)
    if tied:
        tie_if_equal(merged)
    merged.config.use_cache = True
    return merged.to(stored_dtype(base))


def untie(model: "PeftModel") -> None:
    """Gives each module a weight of its own: what is added to a shared one is added to both.

    An adapter on tied input embeddings would change the output's, too, which it never did while
    it was trained (peft only warns of it).
    """
    import torch

    seen = set()
    for name, weight in list(model.named_parameters(remove_duplicate=False)):
        if id(weight) in seen:
            owner, _, own = name.rpartition(".")
            copy = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
            setattr(model.get_submodule(owner), own, copy)
        seen.add(id(weight))


def tie_if_equal(model: "PreTrainedModel") -> None:
    """Embeddings that stayed one are stored once; others stand apart, and the config says so."""
    import torch

    first, last = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    same = first.shape == last.shape and torch.equal(first, last)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = same
    if same:
        model.tie_weights()


def stored_dtype(folder: Path) -> "torch.dtype":
    import torch
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(**models.located(folder)).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32
