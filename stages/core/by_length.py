"""A batch's rows go through the model in parts of like length, each padded to its own longest.

Batches stay as they were drawn; padded to its longest row, one of the embedded default is padding
by a third. Loss and metrics are TRL's, over the parts together; sums are taken in another order.
"""

from functools import partial
from typing import Any

import torch
from trl.trainer.utils import FusedCausalLMOutput

from stages.core.sampling import alike

SCORES = ("log_probs", "entropy", "is_top1", "label_mask")


class ByLength:
    """Goes before TRL's SFTTrainer among a trainer's bases."""

    def compute_loss(self, model, inputs, *args, **named):
        """TRL's; where a call is to hold the whole batch (weights or rows in pieces), unchanged."""
        in_pieces = self.is_fsdp_enabled or self.is_deepspeed_enabled or self.aux_loss_enabled
        if not in_pieces and not self.args.torch_compile and "attention_mask" in inputs:
            model = partial(in_parts, model, self.accelerator.unwrap_model(model))
        return super().compute_loss(model, inputs, *args, **named)


def in_parts(
    model: torch.nn.Module, whole: torch.nn.Module, /, fused_lm_head: bool = False, **inputs: Any
) -> Any:
    """The model's output; of TRL's fused head the scores of all rows' tokens, one after another.

    Args:
        model: as it is called in training (DDP counts on one call a loss).
        whole: the model itself.
        inputs: each tensor (rows, length), rows padded on the right.
    """
    mask = inputs["attention_mask"]
    lengths, order = mask.sum(1).sort()
    parts = order.split(alike(lengths.tolist()))
    if not fused_lm_head or len(parts) == 1 or not torch.equal(mask, mask.cummin(1).values):
        return model(**inputs, fused_lm_head=True) if fused_lm_head else model(**inputs)
    outputs = []
    for part in parts:
        width = int(mask[part].sum(1).max())
        own = {name: value[part, :width] if isinstance(value, torch.Tensor) else value
               for name, value in inputs.items()}  # fmt: skip
        call = model if part is parts[-1] else whole
        outputs.append(call(**own, fused_lm_head=True))
    joined = {name: torch.cat([output[name].flatten() for output in outputs]) for name in SCORES}
    return FusedCausalLMOutput(**joined)
