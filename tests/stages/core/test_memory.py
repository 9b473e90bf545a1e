"""The memory arithmetic: against numbers worked out by hand, and against torch itself."""

import itertools
import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from stages.core import memory
from stages.core.memory import NF4
from stages.core.params import Shape

SHAPE = Shape(hidden_size=8, layers=2, heads=2, intermediate_size=16)
MODEL = memory.scratch(SHAPE, 300)


def test_parameters_by_hand():
    in_layers = 2 * (4 * 8 * 8 + 3 * 8 * 16)
    assert MODEL.in_layers == in_layers == 1280
    assert MODEL.parameters == 300 * 8 + in_layers + (2 * 2 + 1) * 8 == 3720


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"r": 4, "target_modules": "all-linear"}, 2 * (4 * 4 * 16 + 3 * 4 * 24)),
        ({}, 2 * 2 * 8 * 16),  # peft's default: r 8, query and value
        ({"r": 2, "target_modules": ["down_proj"]}, 2 * 2 * 24),
        ({"r": 2, "target_modules": r"model\.layers\.1\..*gate_proj"}, 2 * 24),
    ],
)
def test_an_adapters_parameters_by_hand_and_by_peft(options, expected):
    from peft import LoraConfig, get_peft_model

    assert memory.adapter(MODEL, options) == expected
    adapted = get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM", **options))
    assert adapted.get_nb_trainable_parameters()[0] == expected


@pytest.mark.parametrize(
    "name, expected",
    [("adamw", 8 * 3720), ("adamw_8bit", 2 * 3720), ("sgd", 0), ("adafactor", 0),
     ("muon", 4 * 1280 + 8 * 2440)],
)  # fmt: skip
def test_optimizer_state_by_hand(name, expected):
    assert memory.optimizer_state(3720, name, 1280) == expected


def test_weights_in_four_bits_by_hand():
    assert memory.nf4(MODEL, 2) == round(1280 * NF4) + 2440 * 2 == 660 + 4880


def test_kv_cache_by_hand():
    assert memory.kv_cache(MODEL, sequences=3, length=10, size=2) == 2 * 2 * 8 * 3 * 10 * 2 == 1920


@pytest.mark.parametrize(
    "size, eager, checkpointing, expected",
    [
        (4, False, False, 2 * 30 * 4 * (8 * 8 + 4 * 16 + 2 * 8)),
        (4, True, False, 2 * 30 * (4 * (8 * 8 + 4 * 16 + 2 * 8) + 2 * 10 * 4)),
        (2, True, False, 2 * 30 * (2 * (14 * 8 + 4 * 16 + 2 * 8) + 2 * 10 * 6)),
        (4, False, True, 30 * 4 * (8 * 8 + 4 * 16 + 2 * 8) + 2 * 30 * 8 * 4),
    ],
)
def test_activations_by_hand(size, eager, checkpointing, expected):
    assert memory.activations(MODEL, 3, 10, size, eager, checkpointing) == expected


def test_a_forward_pass_by_hand():
    assert memory.forward(MODEL, 3, 10, 4, False) == 30 * 4 * (8 * 8 + 2 * 8)
    assert memory.forward(MODEL, 3, 10, 2, True) == 30 * (2 * (8 * 8 + 2 * 8) + 2 * 10 * 10)
    wide = memory.scratch(SHAPE.model_copy(update={"intermediate_size": 64}), 300)
    assert memory.forward(wide, 3, 10, 4, False) == 30 * 4 * 3 * (8 + 64)


def test_logits_by_hand():
    assert memory.logits(MODEL, tokens=30, size=4) == 30 * 300 * 12 + 30 * 8 * 4
    large = memory.scratch(SHAPE, 150_000)
    assert memory.logits(large, 10_000, 2) == 4096 * 32768 * 10 + 10_000 * 8 * 4


def test_the_peak_is_what_stays_and_the_largest_phase():
    found = memory.peak({"weights": 5}, {"kv_cache": 4, "logits": 4}, {"activations": 7})
    assert found == {"weights": 5, "kv_cache": 4, "logits": 4, "peak": 13}
    assert memory.peak({"weights": 5}) == {"weights": 5, "peak": 5}


def test_full_and_adapter_training_by_hand():
    found = memory.full(MODEL, "adamw", half=True)
    assert found == {"weights": 14880, "gradients": 14880, "optimizer": 29760, "half_copies": 2560}
    found = memory.with_adapter(MODEL, 1088, "adamw", size=2, quantized=False)
    assert found == {"weights": 7440, "adapter": 4352, "gradients": 4352, "optimizer": 8704}


@given(batch=st.integers(1, 64), length=st.integers(1, 512), eager=st.booleans())
def test_checkpointing_and_half_precision_never_need_more(batch, length, eager):
    full = memory.activations(MODEL, batch, length, 4, eager)
    assert memory.activations(MODEL, batch, length, 2, eager) <= full * 1.5
    assert memory.activations(MODEL, batch, length, 4, eager, checkpointing=True) <= full


# --- against torch --------------------------------------------------------------------------------


def llama(**changes) -> LlamaForCausalLM:
    settings = {"vocab_size": 300, "hidden_size": 8, "num_hidden_layers": 2,
                "intermediate_size": 16, "num_attention_heads": 2,
                "tie_word_embeddings": True}  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))


def test_a_model_from_scratch_is_what_the_arithmetic_says(tmp_path):
    llama().save_pretrained(tmp_path)
    assert memory.read(tmp_path) == MODEL


@pytest.mark.parametrize(
    "make, kv_width",
    [
        (lambda: llama(tie_word_embeddings=False, num_key_value_heads=1), 4),
        (lambda: llama(head_dim=16), 32),
        (lambda: GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=8, n_layer=2, n_head=2)), 8),
    ],
)
def test_a_folders_sizes_are_those_of_the_loaded_model(tmp_path, make, kv_width):
    made = make().to(torch.bfloat16)
    made.save_pretrained(tmp_path)
    found = memory.read(tmp_path)
    assert found.parameters == sum(p.numel() for p in made.parameters())
    assert (found.layers, found.stored, found.kv_width) == (2, 2, kv_width)
    per_layer = {"llama": 7, "gpt2": 4}[
        json.loads((tmp_path / "config.json").read_text())["model_type"]
    ]
    assert len(found.linear) == 2 * per_layer


def test_tied_weights_that_were_saved_twice_count_once(tmp_path):
    made = llama()
    made.save_pretrained(tmp_path)
    from safetensors.torch import load_file, save_file

    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file)
    assert memory.read(tmp_path).parameters == MODEL.parameters


def saved_bytes(model: LlamaForCausalLM, tokens: torch.Tensor, half: bool) -> int:
    """What torch keeps for the backward pass, weights aside; each storage once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        model.model(input_ids=tokens)
        return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("half", [False, True])
def test_activations_are_what_torch_keeps(attention, half):
    torch.manual_seed(0)
    tokens = torch.randint(0, 300, (4, 128))
    shape = Shape(hidden_size=64, layers=3, heads=4, intermediate_size=192)
    made = LlamaForCausalLM(
        LlamaConfig(vocab_size=300, hidden_size=64, num_hidden_layers=3, intermediate_size=192,
                    num_attention_heads=4, tie_word_embeddings=True,
                    attn_implementation=attention)
    ).train()  # fmt: skip
    estimate = memory.activations(
        memory.scratch(shape, 300), 4, 128, 2 if half else 4, attention == "eager"
    )
    assert estimate == pytest.approx(saved_bytes(made, tokens, half), rel=0.15)


def most_at_once(model: LlamaForCausalLM, tokens: torch.Tensor, trace: Path) -> int:
    """The most bytes that a pass without gradients holds at once."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with (
        torch.inference_mode(),
        torch.profiler.profile(activities=activities, profile_memory=True) as profile,
    ):
        model.model(input_ids=tokens, use_cache=False)
    profile.export_chrome_trace(str(trace))
    events = [
        e for e in json.loads(trace.read_text())["traceEvents"] if e.get("name") == "[memory]"
    ]
    changes = [e["args"]["Bytes"] for e in sorted(events, key=lambda event: event["ts"])]
    return max(itertools.accumulate(changes))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_forward_pass_is_what_torch_holds(attention, dtype, tmp_path):
    sizes = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4}
    made = llama(**sizes, attn_implementation=attention).to(dtype).eval()
    shape = Shape(hidden_size=128, layers=2, heads=4, intermediate_size=384)
    held = most_at_once(made, torch.ones(4, 256, dtype=torch.long), tmp_path / "trace.json")
    estimate = memory.forward(
        memory.scratch(shape, 300), 4, 256, dtype.itemsize, attention == "eager"
    )
    assert estimate == pytest.approx(held, rel=0.25)


def test_a_file_that_is_no_safetensors_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    Path(tmp_path, "model.safetensors").write_bytes(b"abc")
    with pytest.raises(struct.error):
        memory.read(tmp_path)
