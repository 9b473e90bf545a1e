"""Loading and saving models: one way for the tiny model, a local folder and a hub model.

A model folder holds either a model as transformers writes it, or a `manifest.json` that points at
one elsewhere (hub id and revision, or a folder) with its files' hashes, so that weights which
nobody changed are not copied.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.errors import UserError
from stages.core.files import replacing, sha256
from stages.core.params import is_local

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

MANIFEST = "manifest.json"
# the files that make a model what it is: shape, weights, tokenizer, chat template
OF_A_MODEL = ("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "*.model",
              "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json",
              "chat_template*")  # fmt: skip

# For tokenizers that bring no chat template: the messages as plain text.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}{{ message.content }}{{ eos_token }}"
    "{% else %}{{ message.content }}\n\n{% endif %}"
    "{% endfor %}"
)


def located(where: Path | str, revision: str | None = None) -> dict[str, Any]:
    """Where weights are, as arguments of `from_pretrained`.

    Args:
        where: a model folder of the pipeline (a Path), or a source as params.yaml names it.
        revision: of a hub source.

    Raises:
        UserError: the folder is missing or holds no model; says which file or stage is wanting.
    """
    if isinstance(where, str) and not is_local(where):
        return {"pretrained_model_name_or_path": where, "revision": revision or "main"}
    folder = Path(where).expanduser()
    if (manifest := folder / MANIFEST).exists():
        source, revision = origin(manifest)
        return located(source, revision)
    check_folder(folder)
    return {"pretrained_model_name_or_path": str(folder)}


def origin(manifest: Path) -> tuple[str, str | None]:
    """Where the weights lie that a manifest stands for.

    Raises:
        UserError: it is damaged, or the folder that it names has gone.
    """
    try:
        found = json.loads(manifest.read_text())
        source, revision = found["source"], found["revision"]
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{manifest} is damaged: make it again (`dvc repro --force base`)"
        ) from None
    if is_local(source) and not Path(source).is_dir():
        raise UserError(
            f"{manifest} names the folder {source}, which is missing: put it back, or set "
            "base.source and base.watch to where it is now"
        )
    return source, revision


def fingerprint(folder: Path) -> dict[str, str]:
    """A model folder's weights, configuration and tokenizer: file -> sha256 as it lies there.

    Of a hub model the hub's own hashes, which the manifest holds.
    """
    hashes: dict[str, str] = {}
    if (manifest := folder / MANIFEST).exists():
        source, _ = origin(manifest)
        if not is_local(source):
            hashes = json.loads(manifest.read_text())["files"]
        folder = Path(source)
    hashes = hashes or {p.name: sha256(p) for p in sorted(folder.iterdir()) if is_of_model(p.name)}
    return {name: value for name, value in hashes.items() if is_of_model(name)}


def is_of_model(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in OF_A_MODEL)


def check_folder(folder: Path) -> None:
    if folder.is_file():
        raise UserError(f"{folder} is a file, and a model is a folder: name the folder")
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: run the stage that makes it (`dvc repro`)")
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise UserError(
            f"{folder} holds a LoRA adapter, no model: merge it into its base, and name that folder"
        )
    missing = [n for n in ("config.json", "tokenizer_config.json") if not (folder / n).exists()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors (weights)")
    if missing:
        raise UserError(
            f"{folder} is no complete model folder: {', '.join(missing)} missing: save or download "
            "it again"
        )


def check_loadable(folder: Path) -> None:
    """A user's own folder, looked at whole before anything is trained on it.

    Raises:
        UserError: its weights are cut off or missing in part, its configuration or its tokenizer
            cannot be read, or it is no language model.
    """
    from safetensors import SafetensorError, safe_open

    check_folder(folder)
    index = folder / "model.safetensors.index.json"
    with reachable(folder):
        shards = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else ()
        count_parameters(folder)
        load_tokenizer(folder)
    if missing := [name for name in sorted(shards) if not (folder / name).exists()]:
        raise UserError(f"{folder}: {', '.join(missing)} missing: download it again")
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "np"):
                pass
        except SafetensorError as error:
            raise UserError(f"{file} is damaged ({error}): download it again") from None


def load_tokenizer(where: Path | str, revision: str | None = None) -> "PreTrainedTokenizerBase":
    """The tokenizer with a chat template and a pad token that is not the end token (trl#1623)."""
    from transformers import AutoTokenizer

    with reachable(where):
        tokenizer = AutoTokenizer.from_pretrained(**located(where, revision), padding_side="left")
    for how in ("is_local", "local_files_only"):  # not to be saved: offline the hash were another
        tokenizer.init_kwargs.pop(how, None)
    if not tokenizer.chat_template:
        # a tokenizer that opens texts with a BOS was trained with one; ours are not opened by it
        opens = tokenizer.bos_token_id in tokenizer("x")["input_ids"][:1]
        tokenizer.chat_template = ("{{ bos_token }}" if opens else "") + PLAIN_TEMPLATE
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.pad_token = spare_token(tokenizer)
    require_template(tokenizer, where)
    return tokenizer


def require_template(tokenizer: "PreTrainedTokenizerBase", where: Path | str) -> None:
    from jinja2 import TemplateError

    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    except TemplateError as error:
        raise UserError(
            f"the chat template of {where} is broken ({error}): mend chat_template.jinja there"
        ) from None


def spare_token(tokenizer: "PreTrainedTokenizerBase") -> str:
    """A token to pad with where there is none but the end token; the model has weights for it.

    The unknown token, else a further special one, else the last of the vocabulary, which in a BPE
    is its rarest. Padding is masked; but what pads is no text, and is left out of decoded text.
    """
    taken = {tokenizer.eos_token, tokenizer.bos_token}
    special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: -item[1])
    candidates = [tokenizer.unk_token, *special, *(token for token, _ in by_id)]
    return next(token for token in candidates if token and token not in taken)


@contextmanager
def reachable(where: Path | str) -> Iterator[None]:
    from safetensors import SafetensorError
    from torch import OutOfMemoryError

    try:
        yield
    except OutOfMemoryError:
        raise
    # no file, no package, torn weights, a wrong configuration, weights that do not fit it
    except (OSError, ImportError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "ignore_mismatched_sizes" in reason:
            reason = "its weights are of other sizes than its config.json says"
        remedy = (
            "save or download it again, or name another"
            if isinstance(where, Path) or is_local(where)
            else "without the hub, download it elsewhere and name its folder as the source"
        )
        raise UserError(f"the model of {where} cannot be loaded ({reason}): {remedy}") from error


def load_model(
    where: Path | str,
    attn_implementation: str,
    dtype: "torch.dtype | str" = "float32",
    quantize: bool = False,
    revision: str | None = None,
) -> "PreTrainedModel":
    """A causal language model with neutral generation settings.

    Args:
        where: as in `located`.
        attn_implementation: as in transformers.
        dtype: of the weights; "auto" is the stored one.
        quantize: 4-bit NF4 with double quantisation (QLoRA, https://arxiv.org/abs/2305.14314).
        revision: of a hub source.
    """
    from transformers import AutoModelForCausalLM

    with reachable(where):
        model = AutoModelForCausalLM.from_pretrained(
            **located(where, revision),
            dtype=dtype,
            attn_implementation=attn_implementation,
            quantization_config=nf4() if quantize else None,
        )
    require_numbers(model, where)
    neutral_generation(model)
    if quantize:
        keep_gradients_right(model)
        return model
    return model.to(device())


def require_numbers(model: "PreTrainedModel", where: Path | str) -> None:
    """A NaN or inf among the weights would make all of a model's answers and gradients NaN.

    Raises:
        UserError: names the first such weight.
    """
    for name, weights in model.named_parameters():
        if not weights.is_floating_point() or weights.itemsize == 1 or not weights.numel():
            continue
        low, high = weights.aminmax()  # a NaN is both; 20 times as fast as asking each
        if not (low.isfinite() and high.isfinite()):
            raise UserError(
                f"the model of {where} has weights that are no numbers (NaN or inf, in {name}): "
                "make it again, with a lower learning rate if a stage made it, or name another"
            )


def keep_gradients_right(model: "PreTrainedModel") -> None:
    """Keeps bitsandbytes from its CPU kernel without a backward pass.

    With AVX512-BF16 an evaluation repacks the 4-bit weights for a kernel whose gradients are
    silently wrong (bitsandbytes 0.50).
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def neutral_generation(model: "PreTrainedModel") -> None:
    """Drops the model's own sampling defaults (a repetition penalty, say): ours are explicit."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id
    )


def nf4() -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
    )


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def save_model(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", to: Path) -> None:
    """Model and tokenizer into a folder, all of it or nothing.

    Raises:
        UserError: the model has weights that are no numbers.
    """
    require_numbers(model, to)
    model.config.use_cache = True  # TRL turns it off to train
    with replacing(to) as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)


def parameters(model: "PreTrainedModel") -> int:
    return sum(p.numel() for p in model.parameters())


def count_parameters(where: Path | str) -> int:
    """A model's parameters, from its configuration alone; tied weights count once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with reachable(where):
        config = AutoConfig.from_pretrained(**located(where))
    with torch.device("meta"):
        return parameters(AutoModelForCausalLM.from_config(config))


def configuration(where: Path | str, revision: str | None = None) -> "PreTrainedConfig":
    """A model's own configuration, of its text part where it sees as well as reads."""
    from transformers import AutoConfig

    with reachable(where):
        return AutoConfig.from_pretrained(**located(where, revision)).get_text_config()


def from_scratch(
    shape: Any, tokenizer: "PreTrainedTokenizerBase", seed: int, vocab_size: int | None = None
) -> "PreTrainedModel":
    """A randomly initialised Llama-architecture decoder with tied embeddings.

    Llama rather than Qwen2: beside a custom tokenizer.json, AutoTokenizer would replace the
    tokenizer of a Qwen2 config by one with another pre-tokenizer.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size or len(tokenizer),
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.intermediate_size,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            initializer_range=0.05,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
