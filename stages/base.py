"""base: the model that everything starts from.

`base.source: scratch` makes a tokenizer and a small Llama-architecture model on the spot. A hub id
or a folder is only described (revision, hash of each file) in a manifest; its weights stay where
they are.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from stages import tasks
from stages.core import libraries, stage
from stages.core.errors import UserError
from stages.core.files import replacing, sha256
from stages.core.models import MANIFEST, check_loadable, from_scratch, parameters, save_model
from stages.core.params import Base, Params, is_local
from stages.core.stage import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

OUT = Path("models/base")
LIBRARIES = ("transformers.models.llama.modeling_llama",)
# what the stages below it need, to be loaded while prepare and audit leave a processor idle
LATER = ("trl.trainer.sft_trainer", "trl.trainer.grpo_trainer", "lm_eval.evaluator",
         "lm_eval.models.huggingface", "matplotlib.figure")  # fmt: skip
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def body(params: Params, run: Run) -> dict:
    if params.base.source != "scratch":
        return describe(params.base)
    libraries.load(*LIBRARIES)
    tokenizer = make_tokenizer(params)
    model = from_scratch(params.base.scratch, tokenizer, params.seed)
    save_model(model, tokenizer, OUT)
    return {"parameters": parameters(model), "vocabulary": len(tokenizer)}


def make_tokenizer(params: Params) -> "PreTrainedTokenizerFast":
    """A byte-level BPE learned from generated problems; tags are one token.

    Digits stay single, unless `base.numbers` is whole: then frequent numbers become tokens, too.
    The tags are ordinary tokens, not special ones: decoding must keep them for the grader.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    tags = [AddedToken(tag, normalized=False) for tag in params.format.tags.tags]
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=params.base.numbers == "digits")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=params.base.vocab_size - len(tags),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tasks.corpus(params.task.name, params.seed, 4000), trainer)
    tokenizer.add_tokens(tags)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>"
    )
    fast.chat_template = CHATML
    return fast


def describe(base: Base) -> dict:
    """A manifest of the hub's or the folder's files; fails here, early, where it has no model."""
    files, revision = files_of_folder(base) if is_local(base.source) else files_of_hub(base)
    with replacing(OUT) as beside:
        beside.mkdir()
        source = str(Path(base.source).resolve()) if is_local(base.source) else base.source
        manifest = {"source": source, "revision": revision, "files": files}
        (beside / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return {"files": len(files)}


def files_of_folder(base: Base) -> tuple[dict[str, str], None]:
    folder = Path(base.source).expanduser()
    check_loadable(folder)
    return {p.name: sha256(p) for p in sorted(folder.iterdir()) if p.is_file()}, None


def files_of_hub(base: Base) -> tuple[dict[str, str], str]:
    """The hub's own content hashes at the resolved commit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    try:
        info = HfApi().model_info(base.source, revision=base.revision, files_metadata=True)
    except (OSError, HTTPError, OfflineModeIsEnabled) as error:
        raise UserError(
            f"base.source: the model {base.source} cannot be had from the hub "
            f"({type(error).__name__}). Download it elsewhere and name its folder in base.source "
            "and base.watch"
        ) from error
    files = {s.rfilename: s.lfs.sha256 if s.lfs else s.blob_id for s in info.siblings}
    return files, info.sha


if __name__ == "__main__":
    stage.main("base", body, LIBRARIES, LATER)
