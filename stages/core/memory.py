"""How much memory a stage needs, by arithmetic: nothing is loaded, torch is not imported.

What counts: weights, gradients, optimizer state, and the larger of what generation needs (KV cache,
the logits of one token, one layer over the prompts) and what a backward pass needs
(activations, a tile of logits). What does not: the libraries themselves (0.7 GB on a CPU), the CUDA
context, and the allocator's fragments. One run each on a CPU, 62 million parameters, bf16, resident
memory above a tiny model's, beside this arithmetic at about the lengths of that data: full SFT 1.5
GB measured, 1.5 here; GRPO with LoRA 1.7 GB measured, 1.1 here. Not measured on a GPU. Sizes are
bytes; `read` alone is not pure.
"""

import json
import re
import struct
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from stages.core.params import Shape

# Bytes of a weight in NF4 with double quantisation: 4.127 bits (https://arxiv.org/abs/2305.14314).
NF4 = 4.127 / 8
# TRL 1.16 never makes all logits of a batch: it goes over them in tiles (tokens, vocabulary).
TILE = (4096, 32768)
TYPES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I8": 1, "U8": 1, "F8_E4M3": 1, "F8_E5M2": 1}
# What peft adapts where `target_modules` is not given: that of Llama and Qwen2.
PEFT_DEFAULT = ["q_proj", "v_proj"]
NO_WEIGHT = re.compile(r"\.attn\.(masked_)?bias$|inv_freq$")  # masks and the like
NO_LAYER = re.compile(r"embed|lm_head|wte|wpe")


@dataclass(frozen=True)
class Model:
    """A decoder's sizes. `linear`: name -> (out, in) of the matrices inside its layers."""

    parameters: int
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_width: int  # key-value heads x their width
    intermediate: int
    linear: dict[str, tuple[int, int]]
    stored: int = 4  # bytes of a weight in its file

    @property
    def in_layers(self) -> int:
        """Parameters of the matrices inside the layers."""
        return sum(map(prod, self.linear.values()))


def scratch(shape: Shape, vocab: int) -> Model:
    """What stages.core.models.from_scratch makes: Llama with tied embeddings."""
    return decoder(vocab, shape, shape.hidden_size)


def decoder(
    vocab: int, shape: Shape, kv_width: int, tied: bool = True, biases: bool = False
) -> Model:
    """A Llama, or with `biases` (of query, key and value) a Qwen2, by its shape."""
    hidden, wide = shape.hidden_size, shape.intermediate_size
    sizes = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv_width, hidden),
             "self_attn.v_proj": (kv_width, hidden), "self_attn.o_proj": (hidden, hidden),
             "mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden),
             "mlp.down_proj": (hidden, wide)}  # fmt: skip
    linear = {f"model.layers.{i}.{name}": size
              for i in range(shape.layers) for name, size in sizes.items()}  # fmt: skip
    a_layer = 2 * hidden + (hidden + 2 * kv_width if biases else 0)
    count = vocab * hidden * (1 if tied else 2) + sum(map(prod, linear.values()))
    count += shape.layers * a_layer + hidden
    return Model(count, vocab, hidden, shape.layers, shape.heads, kv_width, wide, linear)


# Family and size -> vocabulary, hidden, layers, heads, key-value heads, intermediate, tied, from
# the config.json at https://huggingface.co/Qwen/Qwen2.5-SIZE and HuggingFaceTB/SmolLM2-SIZE.
PUBLISHED = {
    "Qwen2.5-0.5B": (151936, 896, 24, 14, 2, 4864, True),
    "Qwen2.5-1.5B": (151936, 1536, 28, 12, 2, 8960, True),
    "Qwen2.5-3B": (151936, 2048, 36, 16, 2, 11008, True),
    "Qwen2.5-7B": (152064, 3584, 28, 28, 4, 18944, False),
    "Qwen2.5-14B": (152064, 5120, 48, 40, 8, 13824, False),
    "SmolLM2-135M": (49152, 576, 30, 9, 3, 1536, True),
    "SmolLM2-360M": (49152, 960, 32, 15, 5, 2560, True),
    "SmolLM2-1.7B": (49152, 2048, 24, 32, 32, 8192, True),
}
OF_HUB = re.compile(
    r"(?:Qwen|HuggingFaceTB)/(Qwen2\.5|SmolLM2)(?:-Math|-Coder)?-([\d.]+[BM])(-Instruct)?"
)


def published(source: str) -> Model | None:
    """The sizes of a hub model whose shape is known here; None of any other.

    >>> published("Qwen/Qwen2.5-0.5B-Instruct").parameters, published("some/model")
    (494032768, None)
    """
    named = OF_HUB.fullmatch(source)
    found = named and PUBLISHED.get(f"{named[1]}-{named[2]}")
    if not found:
        return None
    vocab, hidden, layers, heads, kv_heads, wide, tied = found
    shape = Shape(hidden_size=hidden, layers=layers, heads=heads, intermediate_size=wide)
    made = decoder(vocab, shape, hidden // heads * kv_heads, tied, biases=named[1] == "Qwen2.5")
    return replace(made, stored=2)


def of_layers(model: Model, count: int) -> Model:
    """So many of a model's layers, each with its two norms, and all that is no layer's."""
    kept = {name: size for name, size in model.linear.items()
            if int(re.search(r"\.(\d+)\.", name)[1]) < count}  # fmt: skip
    gone = model.in_layers - sum(map(prod, kept.values()))
    gone += 2 * model.hidden * (model.layers - count)
    return replace(model, parameters=model.parameters - gone, layers=count, linear=kept, stored=4)


def read(folder: Path) -> Model:
    """A model folder's sizes, from its config.json and the heads of its safetensors files.

    Tied weights count once. Of a model that sees as well as reads, the text part's shape counts.
    """
    config = json.loads((folder / "config.json").read_text())
    text = config.get("text_config", config)
    tensors = {name: info for file in sorted(folder.glob("*.safetensors"))
               for name, info in header(file).items() if not NO_WEIGHT.search(name)}  # fmt: skip
    if config.get("tie_word_embeddings", False):
        tensors.pop("lm_head.weight", None)
    linear = {name.removesuffix(".weight"): tuple(info["shape"]) for name, info in tensors.items()
              if len(info["shape"]) == 2 and not NO_LAYER.search(name)}  # fmt: skip
    hidden = first(text, "hidden_size", "n_embd")
    heads = first(text, "num_attention_heads", "n_head")
    width = text.get("head_dim") or hidden // heads
    kinds = [TYPES.get(info["dtype"], 4) for info in tensors.values()]
    return Model(
        parameters=sum(prod(info["shape"]) for info in tensors.values()),
        vocab=text["vocab_size"],
        hidden=hidden,
        layers=first(text, "num_hidden_layers", "n_layer"),
        heads=heads,
        kv_width=(text.get("num_key_value_heads") or heads) * width,
        intermediate=first(text, "intermediate_size", "n_inner") or 4 * hidden,
        linear=linear,
        stored=max(set(kinds), key=kinds.count),
    )


def first(config: dict, *names: str) -> Any:
    return next((config[name] for name in names if config.get(name)), None)


def header(file: Path) -> dict[str, dict]:
    """Tensor name -> dtype and shape (https://huggingface.co/docs/safetensors)."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        found = json.loads(opened.read(length))
    return {name: info for name, info in found.items() if name != "__metadata__"}


def adapter(model: Model, lora: dict[str, Any]) -> int:
    """Parameters of a LoRA adapter: r x (in + out) for each matrix that it adapts."""
    wanted = lora.get("target_modules") or PEFT_DEFAULT
    rank = lora.get("r", 8)

    def adapted(name: str) -> bool:
        if wanted == "all-linear":
            return True
        if isinstance(wanted, str):
            return re.fullmatch(wanted, name) is not None
        return any(name == one or name.endswith(f".{one}") for one in wanted)

    return sum(rank * sum(size) for name, size in model.linear.items() if adapted(name))


def nf4(model: Model, rest: int) -> int:
    """Weights with the layers' matrices in 4 bits; `rest`: bytes of each other weight."""
    return round(model.in_layers * NF4) + (model.parameters - model.in_layers) * rest


def optimizer_state(parameters: int, name: str, matrices: int = 0) -> int:
    """Two float32 moments (AdamW); one byte each in 8 bits; one for the matrices under muon.

    `name`: `muon`, or one of the trainer's (`optim`).
    """
    if name == "muon":
        return 4 * matrices + 8 * (parameters - matrices)
    each = {"8bit": 2, "4bit": 1, "adafactor": 0, "sgd": 0}
    return parameters * next((size for word, size in each.items() if word in name), 8)


def kv_cache(model: Model, sequences: int, length: int, size: int) -> int:
    """Keys and values of each layer; `length` in tokens, `size` in bytes a value."""
    return 2 * model.layers * model.kv_width * sequences * length * size


def activations(
    model: Model, sequences: int, length: int, size: int, eager: bool, checkpointing: bool = False
) -> int:
    """What a forward pass keeps for the backward pass.

    A token and layer keeps about 8 hidden-wide values (14 in half precision, where the norms keep
    float32), 4 intermediate-wide ones, keys and values, and, with eager attention, a float32
    probability (and its half-precision copy) for each head and earlier token. Counted in
    transformers 5.23's Llama with torch's saved-tensor hooks. Checkpointing keeps each layer's
    input and recomputes one layer at a time.
    """
    half = size < 4
    attention = model.heads * length * (6 if half else 4) if eager else 0
    keys = 2 * (model.hidden if eager else model.kv_width)
    values = (14 if half else 8) * model.hidden + 4 * model.intermediate + keys
    layer = sequences * length * (values * size + attention)
    if not checkpointing:
        return model.layers * layer
    return layer + model.layers * sequences * length * model.hidden * size


def forward(model: Model, sequences: int, length: int, size: int, eager: bool) -> int:
    """What a pass without gradients holds at once: one layer's attention or its MLP.

    Fitted to torch's profiler on transformers 5.23's Llama, within a quarter.
    """
    keys = 2 * (model.hidden if eager else model.kv_width)
    mlp = size * 3 * (model.hidden + model.intermediate)
    probabilities = model.heads * length * (8 if size == 4 else 10) if eager else 0
    return sequences * length * max(mlp, size * (8 * model.hidden + keys) + probabilities)


def logits(model: Model, tokens: int, size: int) -> int:
    """A tile of logits with its float32 working copies, and the gradient of its input."""
    tile = min(tokens, TILE[0]) * min(model.vocab, TILE[1])
    return tile * (size + 8) + tokens * model.hidden * 4


def generation(model: Model, sequences: int, prompt: int, new: int, size: int, eager: bool) -> dict:
    """Sampling `new` tokens after prompts of `prompt` tokens, all sequences at once."""
    return {
        "kv_cache": kv_cache(model, sequences, prompt + new, size),
        "logits": 3 * 4 * sequences * model.vocab,  # as given, warped, as probabilities
        "prompts": forward(model, sequences, prompt, size, eager),
    }


def backward(
    model: Model,
    sequences: int,
    length: int,
    size: int,
    eager: bool,
    checkpointing: bool,
    scored: int | None = None,
) -> dict:
    """One micro-batch; `scored`: tokens of a sequence that make the loss (None: all)."""
    return {
        "activations": activations(model, sequences, length, size, eager, checkpointing),
        "logits": logits(model, sequences * (length if scored is None else scored), size),
    }  # fmt: skip


def peak(fixed: dict[str, int], *phases: dict[str, int]) -> dict[str, Any]:
    """What stays, what the largest phase adds, and their sum."""
    largest = max(phases, key=lambda phase: sum(phase.values()), default={})
    return {**fixed, **largest, "peak": sum(fixed.values()) + sum(largest.values())}


def full(model: Model, optim: str, half: bool) -> dict[str, int]:
    """Training all weights in float32; autocast keeps a half-precision copy of the matrices."""
    return {
        "weights": 4 * model.parameters,
        "gradients": 4 * model.parameters,
        "optimizer": optimizer_state(model.parameters, optim, model.in_layers),
        **({"half_copies": 2 * model.in_layers} if half else {}),
    }


def with_adapter(model: Model, trained: int, optim: str, size: int, quantized: bool) -> dict:
    """Training a float32 adapter of `trained` parameters on frozen weights of `size` bytes."""
    return {
        "weights": nf4(model, size) if quantized else size * model.parameters,
        "adapter": 4 * trained,
        "gradients": 4 * trained,
        "optimizer": optimizer_state(trained, optim),
    }
