"""4-bit weights as we load them: NF4, twice quantised, with an adapter's gradients as they must be.

QLoRA: https://arxiv.org/abs/2305.14314. The reference is the same model with its 4-bit weights
dequantised, all in float32, and the same adapter.
"""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from stages.core import models

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed here")

SHAPE = {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 4, "intermediate_size": 128}  # fmt: skip
IDS = torch.arange(48).reshape(4, 12)
LAYERS = 2


@pytest.fixture(scope="module", params=["llama", "qwen2"])  # layers without bias, layers with
def folder(request, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    if request.param == "llama":
        model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPE))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    where = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(where)
    (where / "tokenizer_config.json").write_text("{}")
    return where


def quantised(folder: Path, dtype: torch.dtype = torch.float32):
    return models.load_model(folder, "eager", dtype, quantize=True)


def linears(model) -> list:
    return [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]


def dequantised(folder: Path):
    """A float32 model whose matrices are bitsandbytes' own reading of the 4-bit ones."""
    plain = models.load_model(folder, "eager", torch.float32)
    for name, module in quantised(folder).named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            state = module.weight.quant_state
            weight = bnb.functional.dequantize_4bit(module.weight.data, state)
            plain.get_submodule(name).weight.data = weight.to(torch.float32)
    return plain


def gradients(model, evaluated: bool) -> dict[str, torch.Tensor]:
    """Of an adapter's weights, which are drawn anew from one seed; after an evaluation or not."""
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    torch.manual_seed(1)
    trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    for name in sorted(trained):
        trained[name].data = torch.randn(trained[name].shape) * 0.1
    if evaluated:
        adapted.eval()
        with torch.no_grad():
            adapted(input_ids=IDS)
            adapted.generate(input_ids=IDS, max_new_tokens=2, do_sample=False, pad_token_id=0)
    adapted.train()
    adapted(input_ids=IDS, labels=IDS).loss.backward()
    return {name: p.grad.float() for name, p in trained.items()}


def error(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The largest relative error of a matrix's gradient, in the Frobenius norm."""
    assert found.keys() == wanted.keys() and len(wanted) == LAYERS * 7 * 2
    return max(((found[n] - wanted[n]).norm() / wanted[n].norm()).item() for n in wanted)


def test_what_is_loaded_is_nf4_twice_quantised(folder):
    modules = linears(quantised(folder))
    assert len(modules) == LAYERS * 7
    for module in modules:
        assert module.weight.quant_state.quant_type == "nf4" and module.weight.quant_state.nested
        assert not module.support_avx512bf16_for_cpu


@pytest.mark.parametrize("evaluated", [False, True])
def test_an_adapters_gradients_are_those_on_the_dequantised_weights(folder, evaluated):
    if torch.cuda.is_available():
        pytest.skip("this is about the CPU; a GPU computes in bfloat16")
    wanted = gradients(dequantised(folder), evaluated=False)
    assert min(gradient.norm() for gradient in wanted.values()) > 0
    assert error(gradients(quantised(folder), evaluated), wanted) < 1e-5


def test_in_bfloat16_they_are_within_its_rounding(folder):
    """Activations are rounded to 8 bits some dozen times a layer, forward and backward."""
    wanted = gradients(dequantised(folder), evaluated=False)
    with torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16):
        found = gradients(quantised(folder, torch.bfloat16), evaluated=True)
    roundings = 2 * 12 * LAYERS
    assert 1e-4 < error(found, wanted) < 2**-9 * roundings


def test_the_quantisation_is_seen(folder):
    """Else the reference would hold whatever the weights are."""
    plain = gradients(models.load_model(folder, "eager", torch.float32), evaluated=False)
    assert error(gradients(quantised(folder), evaluated=False), plain) > 0.01


def test_without_our_switch_the_trap_bites(folder):
    """bitsandbytes repacks the weights at an evaluation for a kernel that has no backward."""
    if torch.cuda.is_available() or not bnb.functional.has_avx512bf16():
        pytest.skip("only on a CPU with AVX512-BF16")
    model = quantised(folder)
    for module in linears(model):
        module.support_avx512bf16_for_cpu = True
    wanted = gradients(dequantised(folder), evaluated=False)
    try:
        assert error(gradients(model, evaluated=True), wanted) > 0.1
    except RuntimeError as refused:
        assert "view" in str(refused) or "grad" in str(refused)
