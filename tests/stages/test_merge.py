"""The merge and its gate, on tiny models with every kind of adapter."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from stages import base, grpo, merge, tasks
from stages.core import lora, models
from stages.core import params as parameters
from stages.core.errors import UserError
from stages.core.files import write_json, write_rows
from stages.core.params import Params
from stages.core.proof import BOUNDS, compare, prompts
from tests.conftest import ROOT, merged

ADDED = ["<|think|>", "<|tool|>"]  # tokens that a user put into the tokenizer
EVERYWHERE = {"r": 4, "target_modules": "all-linear"}


@pytest.fixture(scope="module")
def tokenizer():
    made = base.make_tokenizer(parameters.load(ROOT / "params.yaml"))
    made.add_tokens(ADDED)
    return made


def sft_model(tokenizer, dtype: torch.dtype = torch.float32, **shape) -> None:
    """models/sft, random, and the prompts that models are compared on."""
    torch.manual_seed(0)
    usual = {
        "vocab_size": len(tokenizer) + 3,  # as real models have, more rows than tokens
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "initializer_range": 0.1, "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    config = LlamaConfig(**{**usual, **shape})
    models.save_model(LlamaForCausalLM(config).to(dtype), tokenizer, merge.SFT)
    fmt = params().format
    write_rows(merge.ROWS, (
        {"prompt": tasks.prompt(f"Paul has {n} coins{' and more' * n}. How many?", fmt)}
        for n in range(12)
    ))  # fmt: skip


def params(**changes: dict) -> Params:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    return parameters.validate(merged(raw, changes), "params.yaml")


def adapter(tokenizer, options: dict, quantize: bool = False, std: float = 0.1) -> None:
    """models/adapter as the grpo stage saves it, its weights far from those it began with."""
    model = models.load_model(merge.SFT, "eager", dtype="auto", quantize=quantize)
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if weight.requires_grad and "magnitude" not in name:
                weight += torch.randn(weight.shape, generator=generator).to(weight) * std
            elif weight.requires_grad:
                weight *= 1.2
    grpo.save(peft, tokenizer)


def stored() -> dict[str, torch.Tensor]:
    files = sorted(merge.OUT.glob("*.safetensors"))
    return {name: weight for file in files for name, weight in load_file(file).items()}


def nothing_left() -> bool:
    return [path.name for path in sorted(Path("models").iterdir())] == ["adapter", "sft"]


ADAPTERS = {
    "every linear layer": EVERYWHERE,
    "dora": {**EVERYWHERE, "use_dora": True},
    "rslora": {**EVERYWHERE, "use_rslora": True, "lora_alpha": 16},
    "biases": {**EVERYWHERE, "init_lora_weights": "gaussian", "bias": "all"},
    "modules to save": {**EVERYWHERE, "modules_to_save": ["norm", "input_layernorm"]},
    "tied embeddings": {"r": 4, "target_modules": ["embed_tokens", "q_proj"]},
    "tied embeddings, saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "tied head, saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "tied embeddings, kept tied": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_merged_model_is_the_unmerged_one_and_not_the_base(here, tokenizer, kind):
    sft_model(tokenizer)
    adapter(tokenizer, ADAPTERS[kind])
    proof = merge.body(params(), None)
    assert proof["max_logit_diff"] < 1e-4
    assert proof["top1_agreement"] == proof["greedy_agreement"] == 1.0

    reloaded, plain = (models.load_model(f, "eager").eval() for f in (merge.OUT, merge.SFT))
    assert not any("lora" in name for name, _ in reloaded.named_parameters())
    batches = prompts(tokenizer, merge.ROWS, 12)
    changed = compare(lora.unmerged(merge.SFT, merge.ADAPTER, "eager"), plain, batches)
    assert changed["max_logit_diff"] == changed["adapter_logit_diff"] > 0.1
    bounds = merge.bounds_for(params().merge, "bfloat16", changed["largest_logit"])
    with pytest.raises(UserError, match="the merged model differs from the unmerged one"):
        merge.require_equal(changed, bounds)


@pytest.mark.parametrize(
    ("kind", "tied"),
    [("every linear layer", True), ("tied embeddings", False), ("tied head, saved", False),
     ("tied embeddings, kept tied", True)],
)  # fmt: skip
def test_embeddings_are_stored_once_only_where_they_stayed_one(here, tokenizer, kind, tied):
    sft_model(tokenizer)
    adapter(tokenizer, ADAPTERS[kind])
    merge.body(params(), None)
    assert json.loads((merge.OUT / "config.json").read_text())["tie_word_embeddings"] is tied
    assert ("lm_head.weight" in stored()) is not tied
    assert len(stored()) == len(load_file(merge.SFT / "model.safetensors")) + (not tied)


def test_an_adapter_of_trained_tokens_changes_these_alone(here, tokenizer):
    sft_model(tokenizer)
    ids = tokenizer.convert_tokens_to_ids(ADDED)
    adapter(tokenizer, {"target_modules": ["q_proj"], "trainable_token_indices": ids})
    assert merge.body(params(), None)["max_logit_diff"] < 1e-4
    before = load_file(merge.SFT / "model.safetensors")
    moved = (stored()["model.embed_tokens.weight"] - before["model.embed_tokens.weight"]).abs()
    assert moved.max(1).values.nonzero().flatten().tolist() == ids


def test_the_tokenizer_the_chat_template_and_the_end_stay_the_same(here, tokenizer):
    sft_model(tokenizer)
    adapter(tokenizer, EVERYWHERE)
    merge.body(params(), None)
    again = models.load_tokenizer(merge.OUT)
    messages = [{"role": "user", "content": f"1+1{ADDED[0]} é"}]
    assert again.chat_template == tokenizer.chat_template
    assert again.apply_chat_template(messages) == tokenizer.apply_chat_template(messages)
    assert again.convert_tokens_to_ids(ADDED) == tokenizer.convert_tokens_to_ids(ADDED)
    model = AutoModelForCausalLM.from_pretrained(merge.OUT)
    assert model.generation_config.eos_token_id == again.eos_token_id == tokenizer.eos_token_id
    assert model.config.use_cache


def test_a_large_model_is_written_in_parts_that_load(here, tokenizer):
    sft_model(tokenizer)
    adapter(tokenizer, EVERYWHERE)
    whole = merge.body(params(), None)
    weights = stored()
    parts = merge.body(params(merge={"max_shard_gb": 2e-5}), None)
    assert whole["weight_files"] == 1 and parts["weight_files"] > 2
    index = json.loads((merge.OUT / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == weights.keys()
    assert all(torch.equal(weight, stored()[name]) for name, weight in weights.items())
    assert {k: v for k, v in whole.items() if k != "weight_files"} == {
        k: v for k, v in parts.items() if k != "weight_files"
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_and_has_a_bound_of_its_own(here, tokenizer, dtype):
    sft_model(tokenizer, dtype)
    adapter(tokenizer, EVERYWHERE)
    proof = merge.body(params(), None)
    assert {weight.dtype for weight in stored().values()} == {dtype}
    bounds = merge.bounds_for(params().merge, str(dtype)[6:], proof["largest_logit"])
    assert 1e-4 < proof["max_logit_diff"] < bounds.max_logit_diff
    with pytest.raises(UserError, match=r"merge\.max_logit_diff 0\.0001\)"):
        merge.body(params(merge={"max_logit_diff": 1e-4}), None)
    assert nothing_left()


def test_a_4_bit_base_is_merged_without_rounding_the_adapter_away(here, tokenizer):
    sft_model(tokenizer, hidden_size=64, intermediate_size=128)
    adapter(tokenizer, EVERYWHERE, quantize=True)
    quantized = params(grpo={"quantize": "nf4"})
    proof = merge.body(quantized, None)
    assert proof["max_logit_diff"] < 1e-4 and proof["greedy_agreement"] == 1
    assert {weight.dtype for weight in stored().values()} == {torch.float32}
    # into the weights as they were before the 4 bits, it is another model than was trained
    write = lora.merge(merge.SFT, merge.ADAPTER, "eager", quantize=False)
    merge.write(write, tokenizer, Path("other"), quantized.merge)
    with pytest.raises(UserError, match="differs from the unmerged one"):
        merge.prove(Path("other"), tokenizer, quantized)


# --- what the gate refuses ------------------------------------------------------------------------


@pytest.fixture
def proven(here, tokenizer) -> Path:
    """A good merge, and a copy of it to be damaged."""
    sft_model(tokenizer)
    adapter(tokenizer, EVERYWHERE)
    merge.body(params(), None)
    shutil.copytree(merge.OUT, "copy")
    return Path("copy")


def tamper(file: Path, change) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})


ONE = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w[ONE].mul_(1.05),
        lambda w: w[ONE][0, 0].add_(1.0),
        lambda w: w.update({ONE: load_file(merge.SFT / "model.safetensors")[ONE]}),
        lambda w: w["model.embed_tokens.weight"].copy_(w["model.embed_tokens.weight"].flip(0)),
    ],
    ids=["scaled", "one number", "one layer not merged", "rows exchanged"],
)
def test_a_tampered_weight_is_found(proven, tokenizer, change):
    tamper(proven / "model.safetensors", change)
    with pytest.raises(UserError, match=r"differs from the unmerged one: .*; no model is left"):
        merge.prove(proven, tokenizer, params())


def test_a_weight_that_is_no_number_is_found(proven, tokenizer):
    tamper(proven / "model.safetensors", lambda w: w[ONE][0, 0].fill_(float("nan")))
    with pytest.raises(UserError, match="weights that are no numbers"):
        merge.prove(proven, tokenizer, params())
    nan = {"max_logit_diff": float("nan"), "top1_agreement": 1.0, "greedy_agreement": 1.0}
    with pytest.raises(UserError, match="differs from the unmerged one"):
        merge.require_equal(nan, BOUNDS["float32"])


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("chat_template.jinja", lambda text: text + "{{ '\\n' }}", "chat template"),
        ("generation_config.json", lambda text: text.replace('id": 2', 'id": 3'),
         "end token"),
        ("tokenizer.json", lambda text: text.replace("<|tool|>", "<|tule|>"),
         "vocabulary, added tokens"),
        ("tokenizer_config.json", lambda text: text.replace("<|pad|>", "<|im_start|>"),
         "special tokens"),
    ],
)  # fmt: skip
def test_another_way_to_converse_is_found(proven, tokenizer, file, change, says):
    path = proven / file
    path.write_text(changed := change(path.read_text()))
    assert changed != (merge.OUT / file).read_text()
    with pytest.raises(UserError, match=f"the merged model's {says}.* would differ"):
        merge.prove(proven, tokenizer, params())


def test_a_tokenizer_larger_than_the_model_is_refused(here, tokenizer):
    sft_model(tokenizer, vocab_size=len(tokenizer) - 1)
    adapter(tokenizer, EVERYWHERE)
    with pytest.raises(UserError, match=r"has 444 tokens and the model weights for 443: resize"):
        merge.body(params(), None)
    assert nothing_left()


def test_a_merge_that_fails_leaves_no_model_not_even_an_earlier_one(proven):
    shutil.rmtree(proven)
    assert merge.OUT.is_dir()
    with pytest.raises(UserError, match=r"largest logit difference .* no model is left"):
        merge.body(params(merge={"max_logit_diff": 1e-12}), None)
    assert nothing_left()


def test_another_base_of_the_same_shape_is_refused(proven, tokenizer):
    shutil.rmtree(proven)
    tamper(merge.SFT / "model.safetensors", lambda w: w[ONE].add_(1e-3))
    with pytest.raises(UserError, match=r"than models/sft: model\.safetensors differ"):
        merge.body(params(), None)
    assert nothing_left()
    tamper(merge.SFT / "model.safetensors", lambda w: None)
    (merge.ADAPTER / lora.TRAINED_ON).write_text(json.dumps(models.fingerprint(merge.SFT)))
    merge.body(params(), None)
    (merge.SFT / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(UserError, match=r"models/sft: chat_template\.jinja differ"):
        merge.body(params(), None)
    (merge.ADAPTER / lora.TRAINED_ON).unlink()
    with pytest.raises(UserError, match=r"trained_on\.json is missing or damaged, so that no base"):
        merge.body(params(), None)
    assert nothing_left()


def test_a_base_on_the_hub_or_elsewhere_has_a_fingerprint_too(here, tokenizer):
    sft_model(tokenizer)
    own = models.fingerprint(merge.SFT)
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= set(own)
    files = {"README.md": "a", "model.safetensors": "b", "tokenizer.json": "c"}
    for name, source in (("hub", "org/name"), ("linked", str(merge.SFT.resolve()))):
        manifest = {"source": source, "revision": None, "files": files}
        write_json(Path(name, models.MANIFEST), manifest)
    assert models.fingerprint(Path("hub")) == {"model.safetensors": "b", "tokenizer.json": "c"}
    assert models.fingerprint(Path("linked")) == own


def test_a_missing_adapter_and_an_incomplete_model_are_named(here, tokenizer):
    sft_model(tokenizer)
    with pytest.raises(UserError, match="elsewhere holds no adapter"):
        lora.merge(merge.SFT, Path("elsewhere"), "eager")
    (merge.SFT / "config.json").unlink()
    with pytest.raises(UserError, match=r"no complete model folder: config\.json missing"):
        models.load_model(merge.SFT, "eager")


def test_an_update_too_small_for_bf16_is_named(here, tokenizer, caplog):
    sft_model(tokenizer, torch.bfloat16)
    adapter(tokenizer, EVERYWHERE, std=1e-3)
    proof = merge.body(params(), None)
    assert proof["max_logit_diff"] > proof["adapter_logit_diff"] / 2 > 0
    assert "the merged model may have lost what was learnt" in caplog.text
