"""sft: the warm-up. Supervised training on demonstrations, so that GRPO starts from a policy that
knows the format and sometimes succeeds. Ends with a merged model, which is GRPO's reference.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from stages.core import launch, libraries, stage
from stages.core.errors import UserError
from stages.core.files import indexed_rows, replacing, write_csv
from stages.core.params import Params
from stages.core.stage import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE, ROWS = Path("models/base"), Path("data/sft.jsonl")
OUT, CURVE = Path("models/sft"), Path("plots/sft.csv")


def body(params: Params, run: Run) -> dict:
    libraries.load("trl.trainer.sft_trainer")
    from stages.core import models, training

    run.dataset(ROWS, "training")
    tokenizer = models.load_tokenizer(BASE)
    if params.sft.method == "none":
        if not launch.first():
            return {}
        copy_base()
        write_csv(CURVE, [{"step": 0, "loss": None}])
        return {"rows": 0}
    rows = indexed_rows(ROWS)
    if not rows:
        raise UserError(f"{ROWS} is empty: raise task.demonstrations, or set sft.method to none")
    if params.sft.method == "full":
        model = models.load_model(BASE, params.base.attn_implementation)
        trainer = training.supervisor(model, tokenizer, rows, params.sft, run, params.seed)
        trained = training.supervised(trainer, run, params.sft)
    else:
        trained = with_adapter(params, tokenizer, rows, run)
    if not launch.first():
        return {}
    models.save_model(trained, tokenizer, OUT)
    run.write_curve(CURVE)
    return {"rows": len(rows), **run.last("loss", "mean_token_accuracy", "tokens"),
            "findings": run.findings}  # fmt: skip


def copy_base() -> None:
    """The base is the start of GRPO as it is: its manifest, or the small model itself."""
    with replacing(OUT) as beside:
        shutil.copytree(BASE, beside)


def with_adapter(
    params: Params, tokenizer: "PreTrainedTokenizerBase", rows: Sequence[dict], run: Run
) -> "PreTrainedModel":
    """LoRA or QLoRA on the frozen base, merged at the end."""
    from stages.core import lora, models, training

    quantize = params.sft.method == "qlora"
    attn = params.base.attn_implementation
    dtype = training.frozen_dtype(params.sft.precision)
    model = models.load_model(BASE, attn, dtype, quantize)
    lora.require_modules(model, params.sft.lora, "sft.lora")
    config = lora.config(params.sft.lora)
    trainer = training.supervisor(model, tokenizer, rows, params.sft, run, params.seed, config)
    trained = training.supervised(trainer, run, params.sft)
    if not launch.first():
        return trained
    with TemporaryDirectory() as adapter:
        trained.save_pretrained(adapter)
        return lora.merge(BASE, Path(adapter), attn, quantize)


if __name__ == "__main__":
    stage.main("sft", body)
