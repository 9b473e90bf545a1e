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
from stages.core.stage import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE, ROWS = Path("models/base"), Path("data/sft.jsonl")
OUT, CURVE = Path("models/sft"), Path("plots/sft.csv")


def control(kind: Control, params: Params, run: Run) -> dict:
    return body(params.with_control(kind), run, f"-{kind}")


def body(params: Params, run: Run, suffix: str = "") -> dict:
    """`suffix` is what the names of all that is written end in."""
    libraries.load("trl.trainer.sft_trainer")
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
    else:
        trained = with_adapter(params, tokenizer, rows, run)
    if not launch.first():
        return {}
    models.save_model(trained, tokenizer, suffixed(OUT, suffix))
    run.write_curve(suffixed(CURVE, suffix))
    return {"rows": len(rows), **run.last("loss", "mean_token_accuracy", "tokens"),
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


def main() -> None:
    if len(sys.argv) == 2 and (kind := sys.argv[1]) in CONTROLS:
        stage.main(f"sft_also@{kind}", partial(control, kind))
    else:
        stage.main("sft", body)


if __name__ == "__main__":
    main()
