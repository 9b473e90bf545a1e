"""sft: the warm-up. Supervised training on demonstrations, so that GRPO starts from a policy that
knows the format and sometimes succeeds. Ends with a merged model, which is GRPO's reference.

As a stage: `python -m stages.sft`; `python -m stages.sft CONTROL` trains one of report.controls,
with which GRPO is compared as well: `longer` for twice the steps, `verified` on the demonstrations
whose answer is right, `all` on the others as well.
"""

import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from stages.core import launch, libraries, stage
from stages.core.errors import UserError
from stages.core.files import Rows, indexed_rows, replacing, write_csv
from stages.core.params import CONTROLS, Control, Params
from stages.core.proof import BOUNDS, coarser, compare, prompts, within
from stages.core.stage import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE, ROWS = Path("models/base"), Path("data/sft.jsonl")
OUT, CURVE = Path("models/sft"), Path("plots/sft.csv")
PROVEN_ON = 8  # prompts on which a merged adapter must be what was trained
LIBRARIES = ("trl.trainer.sft_trainer", "transformers.models.llama.modeling_llama")


def control(kind: Control, params: Params, run: Run) -> dict:
    return body(params.with_control(kind), run, f"-{kind}")


def body(params: Params, run: Run, suffix: str = "") -> dict:
    """`suffix` is what the names of all that is written end in."""
    libraries.load(*LIBRARIES)
    from stages.core import models, training

    run.dataset(ROWS, "training")
    tokenizer = models.load_tokenizer(BASE)
    if params.sft.method == "none":
        if not launch.first():
            return {}
        copy_base(suffixed(OUT, suffix))
        write_csv(suffixed(CURVE, suffix), [{"step": 0, "loss": None}])
        return {"rows": 0}
    rows = demonstrations(params)
    if params.sft.method == "full":
        model = models.load_model(BASE, params.base.attn_implementation)
        trainer = training.supervisor(model, tokenizer, rows, params.sft, run, params.seed)
        trained = training.supervised(trainer, run, params.sft)
        proof = {}
    else:
        trained, proof = with_adapter(params, tokenizer, rows, run)
    if not launch.first():
        return {}
    models.save_model(trained, tokenizer, suffixed(OUT, suffix))
    run.write_curve(suffixed(CURVE, suffix))
    return {"rows": len(rows), **run.last("loss", "mean_token_accuracy", "tokens"), **proof,
            "findings": run.findings}  # fmt: skip


def suffixed(path: Path, suffix: str) -> Path:
    return path.with_stem(path.stem + suffix)


def demonstrations(params: Params) -> Rows:
    """The rows to train on.

    Raises:
        UserError: there is none.
    """
    rows = indexed_rows(ROWS)
    if not rows:
        raise UserError(f"{ROWS} is empty: raise task.demonstrations, or set sft.method to none")
    if params.sft.demonstrations == "all":
        return rows
    right = rows.take(i for i, row in enumerate(rows) if row.get("right", True))
    if not right:
        raise UserError(f"{ROWS} has no right demonstration: set sft.demonstrations to all")
    return right


def copy_base(out: Path) -> None:
    """The base is the start of GRPO as it is: its manifest, or the small model itself."""
    with replacing(out) as beside:
        shutil.copytree(BASE, beside)


def with_adapter(
    params: Params, tokenizer: "PreTrainedTokenizerBase", rows: Sequence[dict], run: Run
) -> tuple["PreTrainedModel", dict[str, float]]:
    """LoRA or QLoRA on the frozen base, merged at the end; and how much the merge changed."""
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
        return trained, {}
    with TemporaryDirectory() as adapter:
        trained.save_pretrained(adapter)
        del trained, trainer, model  # two more of them are to come
        merged = lora.merge(BASE, Path(adapter), attn, quantize).eval()
        return merged, prove(merged, Path(adapter), tokenizer, attn, quantize)


def prove(
    merged: "PreTrainedModel",
    adapter: Path,
    tokenizer: "PreTrainedTokenizerBase",
    attn: str,
    quantize: bool,
) -> dict[str, float]:
    """How far the merged model is from what was trained, on the first prompts.

    Raises:
        UserError: further than rounding to the base's dtype explains.
    """
    from stages.core import lora

    unmerged = lora.unmerged(BASE, adapter, attn, quantize)
    proof = compare(unmerged, merged, prompts(tokenizer, ROWS, PROVEN_ON))
    dtype = coarser(merged.dtype, quantize)
    allowed = BOUNDS[dtype].max_logit_diff * proof["largest_logit"]
    if not within(proof, BOUNDS[dtype]._replace(max_logit_diff=allowed, min_greedy_agreement=0.0)):
        raise UserError(
            f"the merged model differs from the one that was trained: largest logit difference "
            f"{proof['max_logit_diff']:.2g} (rounding to {dtype} makes {allowed:.2g} at most), "
            f"top-1 agreement {proof['top1_agreement']:.4f} (at least "
            f"{BOUNDS[dtype].min_top1_agreement}); no model is left: set sft.method to full, or "
            "take a base that is stored in a finer dtype"
        )
    return {name: proof[name] for name in ("max_logit_diff", "top1_agreement")}


def main() -> None:
    if len(sys.argv) == 2 and (kind := sys.argv[1]) in CONTROLS:
        stage.main(f"sft_also@{kind}", partial(control, kind), LIBRARIES)
    else:
        stage.main("sft", body, LIBRARIES)


if __name__ == "__main__":
    main()
