from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from stages import merge
from stages.core import lora, models
from stages.core.errors import UserError
from stages.core.params import Merge


@pytest.fixture
def adapted(here) -> tuple[Path, Path]:
    """A tiny model and an adapter with weights that change its output a good deal."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained("base")
    Path("base/tokenizer_config.json").write_text("{}")
    peft = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    peft.save_pretrained("adapter")
    return Path("base"), Path("adapter")


IDS = torch.arange(48).reshape(4, 12)


def test_a_merged_model_is_the_unmerged_one_and_not_the_base(adapted):
    base, adapter = adapted
    merged = lora.merge(base, adapter, "eager")
    merged.save_pretrained("merged")
    Path("merged/tokenizer_config.json").write_text("{}")
    reloaded = models.load_model(Path("merged"), "eager", dtype="auto").eval()
    proof = merge.compare(lora.unmerged(base, adapter, "eager"), reloaded, IDS)
    assert proof["max_logit_diff"] < 1e-4
    assert proof["top1_agreement"] == proof["greedy_agreement"] == 1.0
    assert not any("lora" in name for name, _ in reloaded.named_parameters())

    plain = models.load_model(base, "eager").eval()
    changed = merge.compare(lora.unmerged(base, adapter, "eager"), plain, IDS)
    assert changed["max_logit_diff"] > 0.1 and changed["top1_agreement"] < 0.9
    bounds = Merge(prompts=4, max_logit_diff=1e-3, min_top1_agreement=1.0)
    merge.require_equal(proof, bounds)
    with pytest.raises(UserError, match="the merged model differs from the unmerged one"):
        merge.require_equal(changed, bounds)


def test_a_missing_adapter_and_an_incomplete_model_are_named(adapted):
    base, _ = adapted
    with pytest.raises(UserError, match="elsewhere holds no adapter"):
        lora.merge(base, Path("elsewhere"), "eager")
    (base / "config.json").unlink()
    with pytest.raises(UserError, match=r"no complete model folder: config\.json missing"):
        models.load_model(base, "eager")
