"""LoRA adapters: their configuration, and merging one into the model it was trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import models
from stages.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel


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


def merge(base: Path, adapter: Path, attn: str, quantize: bool = False) -> "PreTrainedModel":
    """The base model with the adapter added into its weights, in the base's own dtype.

    The sum is taken in float32. A 4-bit base is dequantised first: adding the adapter to the
    4-bit weights themselves would round most of it away.
    """
    import torch

    model = models.load_model(base, attn, dtype="auto", quantize=quantize)
    if quantize:
        model = model.dequantize()
    merged = attached(model.to(torch.float32), adapter).merge_and_unload(safe_merge=True)
    return merged.to(stored_dtype(base))


def stored_dtype(folder: Path) -> "torch.dtype":
    import torch
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(**models.located(folder)).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32
