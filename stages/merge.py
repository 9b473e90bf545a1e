"""merge: the adapter into the SFT model, and the proof that this changed nothing.

Where grpo trained all weights (`grpo.lora: null`), its model is taken as it is.

The adapter must have been trained on this very SFT model, by hash. The merged model is written
beside, read back, and compared with the unmerged one on real prompts: logits, likeliest tokens,
greedy text; tokenizer, chat template and end token must be the same. Only a model that passes is
moved into place; an earlier one is removed first, as DVC does.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stages.core import libraries, stage
from stages.core.errors import UserError
from stages.core.files import read_rows, remove, replacing
from stages.core.params import Merge, Params
from stages.core.stage import Run, log

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

SFT, ADAPTER, ROWS, OUT = (
    Path("models/sft"), Path("models/adapter"), Path("data/grpo.jsonl"), Path("models/grpo")
)  # fmt: skip
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


def body(params: Params, run: Run) -> dict:
    from stages.core import lora, models

    remove(OUT)
    if not (ADAPTER / "adapter_config.json").exists():
        return whole_model()
    lora.require_base(SFT, ADAPTER)
    libraries.load("peft")
    tokenizer = models.load_tokenizer(SFT)
    attn, quantize = params.base.attn_implementation, params.grpo.quantize == "nf4"
    with replacing(OUT) as beside:
        write(lora.merge(SFT, ADAPTER, attn, quantize), tokenizer, beside, params.merge)
        return prove(beside, tokenizer, params)


def write(
    merged: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", to: Path, settings: Merge
) -> None:
    from stages.core import models

    models.neutral_generation(merged)
    merged.save_pretrained(to, max_shard_size=int(settings.max_shard_gb * 1e9))
    tokenizer.save_pretrained(to)


def prove(folder: Path, tokenizer: "PreTrainedTokenizerBase", params: Params) -> dict:
    """What the comparison of a written model with the unmerged one gave.

    Raises:
        UserError: they are not the same model.
    """
    from stages.core import lora, models

    attn, quantize = params.base.attn_implementation, params.grpo.quantize == "nf4"
    unmerged = lora.unmerged(SFT, ADAPTER, attn, quantize)
    reloaded = models.load_model(folder, attn, dtype="auto").eval()
    require_same_text(unmerged, tokenizer, folder)
    proof = compare(unmerged, reloaded, prompts(tokenizer, params.merge.prompts))
    bounds = bounds_for(params.merge, coarser(reloaded, quantize), proof["largest_logit"])
    require_equal(proof, bounds)
    if proof["max_logit_diff"] > proof["adapter_logit_diff"] / 2:
        log.warning(
            "merge: rounding to %s moves logits by %.2g, all of GRPO by %.2g: the merged model may "
            "have lost what was learnt; the adapter beside it has not",
            reloaded.dtype, proof["max_logit_diff"], proof["adapter_logit_diff"],
        )  # fmt: skip
    files = len(list(folder.glob("*.safetensors")))
    return {"parameters": models.parameters(reloaded), "weight_files": files, **proof}


def whole_model() -> dict:
    """Copies what grpo trained: there is no adapter to merge."""
    from stages.core import models

    models.check_folder(ADAPTER)
    with replacing(OUT) as beside:
        shutil.copytree(ADAPTER, beside)
    log.info("merge: grpo trained all weights: no adapter to merge, its model is copied")
    return {"parameters": models.count_parameters(OUT)}


def prompts(tokenizer: "PreTrainedTokenizerBase", count: int) -> list["BatchEncoding"]:
    """Real prompts as ids (8, tokens), padded on the left, with their attention mask.

    Raises:
        UserError: there are none.
    """
    rows = [row for row, _ in zip(read_rows(ROWS), range(count), strict=False)]
    if not rows:
        raise UserError(f"{ROWS} has no rows: raise task.pool")
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


def require_same_text(
    unmerged: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path
) -> None:
    """Raises UserError where what was written reads, stops or converses in another way."""
    from transformers import GenerationConfig

    from stages.core import models

    written, settings = models.load_tokenizer(folder), GenerationConfig.from_pretrained(folder)
    before = as_text(tokenizer, unmerged.generation_config)
    after = as_text(written, settings)
    unlike = [name for name in before if before[name] != after[name]]
    if unlike:
        raise UserError(
            f"the merged model's {', '.join(unlike)} would differ from the SFT model's: make that "
            "again (`dvc repro --force sft`); no model is left"
        )
    if len(written) > (rows := unmerged.get_input_embeddings().weight.shape[0]):
        raise UserError(
            f"the tokenizer of {SFT} has {len(written)} tokens and the model weights for {rows}: "
            "resize its embeddings before it is trained; no model is left"
        )


def as_text(tokenizer: "PreTrainedTokenizerBase", settings: Any) -> dict[str, Any]:
    """What decides how a model reads text, ends it and converses."""
    return {
        "chat template": tokenizer.chat_template,
        "vocabulary": tokenizer.get_vocab(),
        "added tokens": {i: str(token) for i, token in tokenizer.added_tokens_decoder.items()},
        "special tokens": tokenizer.special_tokens_map,
        "end token": settings.eos_token_id,
        "start token": settings.bos_token_id,
        "pad token": settings.pad_token_id,
    }


def coarser(reloaded: "PreTrainedModel", quantize: bool) -> str:
    """The dtype whose rounding tells the two models apart: stored, or computed in over 4 bits."""
    from stages.core import models

    dtypes = [reloaded.dtype, *([models.nf4().bnb_4bit_compute_dtype] if quantize else [])]
    names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    return max(names, key=list(BOUNDS).index)


def bounds_for(settings: Merge, dtype: str, largest_logit: float) -> Bounds:
    """The dtype's bounds, with those laid over them that params.yaml gives."""
    own = BOUNDS[dtype]._replace(max_logit_diff=BOUNDS[dtype].max_logit_diff * largest_logit)
    given = {name: getattr(settings, name) for name in Bounds._fields}
    return own._replace(**{k: v for k, v in given.items() if v is not None})


def require_equal(proof: dict[str, float], bounds: Bounds) -> None:
    """Raises UserError for a model that is another one; a NaN is, too."""
    if not (
        proof["max_logit_diff"] <= bounds.max_logit_diff
        and proof["top1_agreement"] >= bounds.min_top1_agreement
        and proof["greedy_agreement"] >= bounds.min_greedy_agreement
    ):
        raise UserError(
            f"the merged model differs from the unmerged one: largest logit difference "
            f"{proof['max_logit_diff']:.2g} (merge.max_logit_diff {bounds.max_logit_diff:.2g}), "
            f"top-1 agreement {proof['top1_agreement']:.4f} (merge.min_top1_agreement "
            f"{bounds.min_top1_agreement}), same greedy text {proof['greedy_agreement']:.4f} "
            f"(merge.min_greedy_agreement {bounds.min_greedy_agreement}); no model is left"
        )


if __name__ == "__main__":
    stage.main("merge", body)
