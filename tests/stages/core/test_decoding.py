"""The logits of few operations are those of transformers' own forward, bit by bit."""

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Cache, LlamaConfig, LlamaForCausalLM, LogitsProcessorList

from stages.core import decoding
from stages.core.decoding import decoder, is_plain
from stages.core.sampling import Roomy, positions, sampled
from tests.architectures import END, PROMPTS, SMALL, made

HOW = {
    "float32": (torch.float32, nullcontext),
    "bfloat16": (torch.bfloat16, nullcontext),
    "autocast": (torch.float32, lambda: torch.autocast("cpu", torch.bfloat16)),
}


def llama(**changes: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, **{**SMALL, **changes}))
    model.set_attn_implementation("eager")
    return model.eval()


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 2}, {"head_dim": 24}])
@pytest.mark.parametrize("how", HOW)
@torch.no_grad()
def test_each_step_has_the_bits_of_transformers_forward(how, changes):
    dtype, context = HOW[how]
    model = llama(**changes).to(dtype)
    ids = torch.randint(8, 30, (5, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    theirs = Cache(layer_class_to_replicate=Roomy)

    def forward(cache: Cache, before: int, after: int) -> torch.Tensor:
        with context():
            return model(
                ids[:, before:after], attention_mask=mask[:, :after], past_key_values=cache,
                position_ids=positions(mask[:, :after])[:, before:], logits_to_keep=1,
            ).logits[:, 0]  # fmt: skip

    forward(theirs, 0, 5)
    ours = deepcopy(theirs)
    decode = decoder(model, ours)
    for at in range(5, 30):  # beyond the room there is: more is made
        place = positions(mask[:, : at + 1])[:, -1:]
        found = decode(ids[:, at : at + 1], mask[:, : at + 1], place)
        assert torch.equal(found, forward(theirs, at, at + 1))
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        assert torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)


def test_after_the_prompts_transformers_forward_is_not_called(monkeypatch):
    model, calls = llama(), []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **named: calls.append(1) or forward(**named))
    plain = LogitsProcessorList()
    found = sampled(model, PROMPTS, 0, [END], plain, 12, greedy=True)
    assert max(map(len, found)) > 2 and len(calls) == 1
    monkeypatch.setattr("stages.core.sampling.decoder", lambda *_: None)
    assert found == sampled(model, PROMPTS, 0, [END], plain, 12, greedy=True)
    assert len(calls) == 1 + max(map(len, found))


@pytest.mark.parametrize("changes", [
    {"attention_bias": True}, {"mlp_bias": True}, {"hidden_act": "gelu"},
    {"attention_dropout": 0.1},
])  # fmt: skip
def test_a_llama_made_otherwise_is_left_to_transformers(changes):
    assert is_plain(llama()) and not is_plain(llama(**changes))


def test_another_attention_and_a_large_llama_are_left_to_transformers(monkeypatch):
    model = llama()
    model.set_attn_implementation("sdpa")
    assert not is_plain(model)
    model.set_attn_implementation("eager")
    monkeypatch.setattr(decoding, "SMALL", model.num_parameters() - 1)
    assert not is_plain(model)


def test_another_model_and_one_with_an_adapter_are_left_to_transformers():
    adapted = get_peft_model(llama(), LoraConfig(target_modules=["q_proj"]))
    assert not is_plain(adapted) and not is_plain(adapted.get_base_model())
    assert not any(map(is_plain, (made("qwen2"), made("gpt2"))))
