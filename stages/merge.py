"""merge: the adapter into the SFT model, and the proof that this changed nothing.

Where grpo trained all weights (`grpo.lora: null`), its model is taken as it is.

The merged model is written beside, read back, and compared with the unmerged one on real prompts:
logits, likeliest tokens, greedy text. Only a model that passes is moved into place.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core import stage
from stages.core.errors import UserError
from stages.core.files import read_rows, replacing
from stages.core.params import Merge, Params
from stages.core.stage import Run, log

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SFT, ADAPTER, ROWS, OUT = (
    Path("models/sft"), Path("models/adapter"), Path("data/grpo.jsonl"), Path("models/grpo")
)  # fmt: skip
NEW_TOKENS = 32  # of greedy text compared


def body(params: Params, run: Run) -> dict:
    from stages.core import lora, models

    if not (ADAPTER / "adapter_config.json").exists():
        return whole_model()
    attn = params.base.attn_implementation
    quantize = params.grpo.quantize == "nf4"
    tokenizer = models.load_tokenizer(SFT)
    with replacing(OUT) as beside:
        merged = lora.merge(SFT, ADAPTER, attn, quantize)
        models.neutral_generation(merged)
        merged.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        unmerged = lora.unmerged(SFT, ADAPTER, attn, quantize)
        reloaded = models.load_model(beside, attn, dtype="auto").eval()
        proof = compare(unmerged, reloaded, prompts(tokenizer, params.merge.prompts))
        require_equal(proof, params.merge)
    return {"parameters": models.parameters(reloaded), **proof}


def whole_model() -> dict:
    """Copies what grpo trained: there is no adapter to merge."""
    from stages.core import models

    models.check_folder(ADAPTER)
    with replacing(OUT) as beside:
        shutil.copytree(ADAPTER, beside)
    log.info("merge: grpo trained all weights: no adapter to merge, its model is copied")
    return {"parameters": models.count_parameters(OUT)}


def prompts(tokenizer: "PreTrainedTokenizerBase", count: int) -> "torch.Tensor":
    """Real prompts as ids (count, length) without padding: all cut to the shortest, at the left."""
    import torch

    rows = [row for row, _ in zip(read_rows(ROWS), range(count), strict=False)]
    ids = [
        tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        for row in rows
    ]
    shortest = min(map(len, ids))
    return torch.tensor([one[-shortest:] for one in ids])


def compare(
    unmerged: "PreTrainedModel", merged: "PreTrainedModel", ids: "torch.Tensor"
) -> dict[str, float]:
    """How far the two models agree: largest logit difference, top-1 and greedy text."""
    import torch

    ids = ids.to(merged.device)
    with torch.inference_mode():
        expected, found = (model(ids).logits.float() for model in (unmerged, merged))
        texts = [
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                           max_new_tokens=NEW_TOKENS, pad_token_id=0)
            for model in (unmerged, merged)
        ]  # fmt: skip
    same_length = texts[0].shape == texts[1].shape
    agreement = (texts[0] == texts[1]).all(dim=1).float().mean().item() if same_length else 0.0
    return {
        "max_logit_diff": (expected - found).abs().max().item(),
        "top1_agreement": (expected.argmax(-1) == found.argmax(-1)).float().mean().item(),
        "greedy_agreement": agreement,
    }


def require_equal(proof: dict[str, float], bounds: Merge) -> None:
    if (
        proof["max_logit_diff"] > bounds.max_logit_diff
        or proof["top1_agreement"] < bounds.min_top1_agreement
    ):
        raise UserError(
            f"the merged model differs from the unmerged one: largest logit difference "
            f"{proof['max_logit_diff']:.2g} (merge.max_logit_diff {bounds.max_logit_diff}), "
            f"top-1 agreement {proof['top1_agreement']:.4f} (merge.min_top1_agreement "
            f"{bounds.min_top1_agreement}); nothing was written"
        )


if __name__ == "__main__":
    stage.main("merge", body)
