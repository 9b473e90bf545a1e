"""The proof that a merged model is the unmerged one: both on real prompts, logits and text."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stages.core.errors import UserError
from stages.core.files import read_rows

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

NEW_TOKENS = 32  # of greedy text compared
BATCH = 8  # prompts compared at once; their logits are (8, tokens, vocabulary) in float32, twice


class Bounds(NamedTuple):
    max_logit_diff: float
    min_top1_agreement: float
    min_greedy_agreement: float


# What rounding alone may do, by the coarser of the two models' dtypes; the first as a share of the
# largest logit. Measured in bf16: 0.017 and 0.988 over 8 random layers, whose likeliest tokens are
# nearly ties, so that only 1 of 4 greedy texts stayed; trained models keep nearly all.
BOUNDS = {
    "float32": Bounds(1e-4, 1.0, 1.0),
    "float16": Bounds(0.01, 0.98, 0.5),
    "bfloat16": Bounds(0.05, 0.95, 0.25),
}


def prompts(
    tokenizer: "PreTrainedTokenizerBase", rows_file: Path, count: int
) -> list["BatchEncoding"]:
    """The first prompts of a file as ids (8, tokens), padded on the left, with their mask.

    Raises:
        UserError: there are none.
    """
    rows = [row for row, _ in zip(read_rows(rows_file), range(count), strict=False)]
    if not rows:
        raise UserError(f"{rows_file} has no rows: raise task.pool")
    texts = [
        tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        for row in rows
    ]
    return [
        tokenizer(texts[i : i + BATCH], return_tensors="pt", padding=True, add_special_tokens=False,
                  return_token_type_ids=False)
        for i in range(0, len(texts), BATCH)
    ]  # fmt: skip


def compare(
    unmerged: "PeftModel", merged: "PreTrainedModel", batches: Iterable["BatchEncoding"]
) -> dict[str, float]:
    """How far the two models agree: largest logit difference, top-1, and greedy text.

    Beside them the largest logit, and how far the adapter itself moves any. Agreements are shares
    of the prompts' tokens and of the prompts. Padding is left out.
    """
    import torch

    worst, largest, moved, top1, texts = [], [], [], [], []
    for batch in batches:
        batch, real = batch.to(merged.device), batch["attention_mask"].bool()
        with torch.inference_mode():
            expected, found = (model(**batch).logits[real].float() for model in (unmerged, merged))
            with unmerged.disable_adapter():
                before = unmerged(**batch).logits[real].float()
            continued = zip(greedy(unmerged, batch), greedy(merged, batch), strict=True)
        worst.append((expected - found).abs().max())
        moved.append((expected - before).abs().max())
        largest.append(expected.abs().max())
        top1.append(expected.argmax(-1) == found.argmax(-1))
        texts += [one == other for one, other in continued]
    return {
        "max_logit_diff": torch.stack(worst).max().item(),
        "largest_logit": torch.stack(largest).max().item(),
        "adapter_logit_diff": torch.stack(moved).max().item(),
        "top1_agreement": torch.cat(top1).float().mean().item(),
        "greedy_agreement": sum(texts) / len(texts),
    }


def greedy(model: "PreTrainedModel", batch: "BatchEncoding") -> list[list[int]]:
    """The likeliest continuation of each prompt, without the padding behind its end."""
    pad = model.generation_config.pad_token_id
    pad = 0 if pad is None else pad
    output = model.generate(**batch, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=pad)
    rows = output[:, batch["input_ids"].shape[1] :].tolist()
    return [trimmed(row, pad) for row in rows]


def trimmed(row: list[int], pad: int) -> list[int]:
    end = len(row)
    while end and row[end - 1] == pad:
        end -= 1
    return row[:end]


def coarser(stored: "torch.dtype", quantize: bool) -> str:
    """The dtype whose rounding tells the two models apart: stored, or computed in over 4 bits."""
    from stages.core import models

    dtypes = [stored, *([models.nf4().bnb_4bit_compute_dtype] if quantize else [])]
    names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    return max(names, key=list(BOUNDS).index)


def within(proof: dict[str, float], bounds: Bounds) -> bool:
    """Does the comparison keep its bounds? A NaN does not."""
    return (
        proof["max_logit_diff"] <= bounds.max_logit_diff
        and proof["top1_agreement"] >= bounds.min_top1_agreement
        and proof["greedy_agreement"] >= bounds.min_greedy_agreement
    )
