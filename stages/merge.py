"""merge: the adapter into the SFT model, and the proof that this changed nothing.

Where grpo trained all weights (`grpo.lora: null`), its model is taken as it is.

The adapter must have been trained on this very SFT model, by hash. The merged model is written
beside, read back, and compared with the unmerged one on real prompts: logits, likeliest tokens,
greedy text; tokenizer, chat template and end token must be the same. Only a model that passes is
moved into place; an earlier one is removed first, as DVC does.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import libraries, stage
from stages.core.errors import UserError
from stages.core.files import remove, replacing
from stages.core.params import Merge, Params
from stages.core.proof import BOUNDS, Bounds, coarser, compare, prompts, within
from stages.core.stage import Run, log

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SFT, ADAPTER, ROWS, OUT = (
    Path("models/sft"), Path("models/adapter"), Path("data/grpo.jsonl"), Path("models/grpo")
)  # fmt: skip
LIBRARIES = ("peft", "transformers.models.llama.modeling_llama")


def body(params: Params, run: Run) -> dict:
    from stages.core import lora, models

    remove(OUT)
    if not (ADAPTER / "adapter_config.json").exists():
        return whole_model()
    lora.require_base(SFT, ADAPTER)
    libraries.load(*LIBRARIES)
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
    proof = compare(unmerged, reloaded, prompts(tokenizer, ROWS, params.merge.prompts))
    bounds = bounds_for(params.merge, coarser(reloaded.dtype, quantize), proof["largest_logit"])
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


def bounds_for(settings: Merge, dtype: str, largest_logit: float) -> Bounds:
    """The dtype's bounds, with those laid over them that params.yaml gives."""
    own = BOUNDS[dtype]._replace(max_logit_diff=BOUNDS[dtype].max_logit_diff * largest_logit)
    given = {name: getattr(settings, name) for name in Bounds._fields}
    return own._replace(**{k: v for k, v in given.items() if v is not None})


def require_equal(proof: dict[str, float], bounds: Bounds) -> None:
    """Raises UserError for a model that is another one."""
    if not within(proof, bounds):
        raise UserError(
            f"the merged model differs from the unmerged one: largest logit difference "
            f"{proof['max_logit_diff']:.2g} (merge.max_logit_diff {bounds.max_logit_diff:.2g}), "
            f"top-1 agreement {proof['top1_agreement']:.4f} (merge.min_top1_agreement "
            f"{bounds.min_top1_agreement}), same greedy text {proof['greedy_agreement']:.4f} "
            f"(merge.min_greedy_agreement {bounds.min_greedy_agreement}); no model is left"
        )


if __name__ == "__main__":
    stage.main("merge", body, LIBRARIES)
