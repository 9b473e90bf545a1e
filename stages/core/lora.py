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


def unmerged(base: Path, adapter: Path, attn: str, quantize: bool = False) -> "PeftModel":
    """The base model as it was trained on, with the adapter beside its weights, for evaluation."""
    return attached(models.load_model(base, attn, dtype="auto", quantize=quantize), adapter).eval()


def attached(model: "PreTrainedModel", adapter: Path) -> "PeftModel":
    from peft import PeftModel

    if not (adapter / "adapter_config.json").exists():
        raise UserError(f"{adapter} holds no adapter: run the stage that makes it (`dvc repro`)")
    return PeftModel.from_pretrained(model, str(adapter))


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
