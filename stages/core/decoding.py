"""A small Llama's next tokens on a CPU, in few operations.

Of a model of three layers under autocast transformers calls for 379 operations a token, and casts
all weights anew; for a small one that takes longer than the products do (benchmarks/README.md).
Here weights that read the same input are one matrix, cast once for a batch of completions: 230.
The logits are transformers' own, bit by bit.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from transformers import Cache, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, repeat_kv, rotate_half

from stages.core.models import device

SMALL = 20_000_000  # weights; with more the products take the time, and copies of weights memory

Decode = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def decoder(model: nn.Module, cache: Cache) -> Decode | None:
    """What gives the logits after a further token of each row; None where the model is another's.

    Args:
        cache: what the model has filled with the tokens before; its dtype is that of products.

    Returns:
        (rows, 1) tokens, (rows, length) mask and (rows, 1) positions -> logits, (rows, vocabulary).
    """
    if not is_plain(model):
        return None
    dtype = cache.layers[0].dtype
    body, layers = model.model, [Layer(layer, dtype) for layer in model.model.layers]
    head = model.lm_head.weight.to(dtype)

    def decode(new: torch.Tensor, mask: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        hidden = body.embed_tokens(new)[:, 0]
        cos, sin = body.rotary_emb(hidden, position_ids=place)
        hide = hidden_from(mask, cache.get_mask_sizes(1, 0)[0], hidden.dtype)
        for i, layer in enumerate(layers):
            hidden = layer(hidden, cos[:, None], sin[:, None], hide, cache, i)
        return functional.linear(body.norm(hidden).to(dtype), head)

    return decode


class Layer:
    """One layer's weights, put together."""

    def __init__(self, layer: LlamaDecoderLayer, dtype: torch.dtype):
        self.layer, self.dtype = layer, dtype
        self.attention = attention = layer.self_attn
        mlp = layer.mlp
        self.read = together(attention.q_proj, attention.k_proj, attention.v_proj).to(dtype)
        self.wide = together(mlp.gate_proj, mlp.up_proj).to(dtype)
        self.out, self.down = attention.o_proj.weight.to(dtype), mlp.down_proj.weight.to(dtype)
        self.kept = attention.k_proj.out_features // attention.head_dim  # heads, as many of values

    def __call__(
        self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, hide: torch.Tensor,
        cache: Cache, i: int,
    ) -> torch.Tensor:  # fmt: skip
        """(rows, width) -> (rows, width); the cache's layer i has the token's keys and values then.

        Args:
            cos, sin: of the token's place, (rows, 1, 1, head size).
            hide: added to the scores, (rows, 1, 1, length).
        """
        attention, rows, kept = self.attention, len(hidden), self.kept
        x = self.layer.input_layernorm(hidden).to(self.dtype)
        x = functional.linear(x, self.read).view(rows, -1, 1, attention.head_dim)
        turned, values = x[:, :-kept], x[:, -kept:]
        turned = (turned * cos) + (rotate_half(turned) * sin)
        queries, keys = turned[:, :-kept].to(self.dtype), turned[:, -kept:]
        seen = cache.update(keys, values, i)
        keys, values = (repeat_kv(some, attention.num_key_value_groups) for some in seen)
        scores = queries @ keys.transpose(2, 3) * attention.scaling + hide
        weights = functional.softmax(scores, -1, dtype=torch.float32).to(self.dtype)
        x = (weights @ values).view(rows, -1)
        hidden = hidden + functional.linear(x, self.out)
        x = self.layer.post_attention_layernorm(hidden).to(self.dtype)
        gate, up = functional.linear(x, self.wide).chunk(2, 1)
        return hidden + functional.linear(functional.silu(gate) * up, self.down)


def together(*parts: nn.Linear) -> torch.Tensor:
    return torch.cat([part.weight for part in parts])


def hidden_from(mask: torch.Tensor, length: int, dtype: torch.dtype) -> torch.Tensor:
    """What is added to a row's scores, (rows, 1, 1, length): what it must not see is far below."""
    hide = mask.new_full((len(mask), length), torch.finfo(dtype).min, dtype=dtype)
    hide[:, : mask.shape[1]].masked_fill_(mask.bool(), 0)
    return hide[:, None, None]


def is_plain(model: nn.Module) -> bool:
    """Whether a model is a Llama of transformers as it is made: no adapter, no bias, no codes."""
    if type(model) is not LlamaForCausalLM or device() != "cpu" or model.num_parameters() > SMALL:
        return False
    config = model.config
    linear = [module for name, module in model.named_modules() if name.endswith(("proj", "head"))]
    return (
        all(type(module) is nn.Linear and module.bias is None for module in linear)
        and (config._attn_implementation, config.hidden_act) == ("eager", "silu")
        and not config.attention_dropout
    )
