"""Small models of the architectures that people train, with random weights."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
ARCHITECTURES = {
    "llama": lambda size: LlamaConfig(vocab_size=size, **SMALL, tie_word_embeddings=False),
    "tied llama": lambda size: LlamaConfig(vocab_size=size, **SMALL, tie_word_embeddings=True),
    "qwen2": lambda size: Qwen2Config(vocab_size=size, **SMALL, tie_word_embeddings=True),
    "gpt2": lambda size: GPT2Config(
        vocab_size=size, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    ),
}
EVERY = pytest.mark.parametrize("architecture", ARCHITECTURES)
END = 7  # ends a completion
PROMPTS = [[5, 9, 11, 3], [5, 9], [21, 22, 23, 24, 25, 26]]


def made(architecture: str, size: int = 40, seed: int = 0):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[architecture](size))
    for weight in model.parameters():  # far from uniform, so that what is wrong shows
        weight.data += 0.1 * torch.randn_like(weight)
    return model
