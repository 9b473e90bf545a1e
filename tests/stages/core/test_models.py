"""Odd tokenizers: one BOS where the model knows one, one EOS, a pad that is neither."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as shapes
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from stages import tasks
from stages.core import models
from stages.tasks import arithmetic
from tests.conftest import ROOT

TURNS = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tokenizer(style: str) -> PreTrainedTokenizerFast:
    """gpt2: one special token for everything; llama: a BOS that the tokenizer adds; chat: a BOS
    that tokenizer and template add."""
    bpe = Tokenizer(shapes.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>"] if style == "gpt2" else ["<s>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    bpe.train_from_iterator(arithmetic.corpus(0, 200), trainer)
    if style == "gpt2":
        end = special[0]
        return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=end, eos_token=end,
                                       unk_token=end, pad_token=end)  # fmt: skip
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>",
                                   unk_token="<unk>")  # fmt: skip
    fast.chat_template = TURNS if style == "chat" else None
    return fast


def save(style: str, folder: Path, positions: int = 1024) -> Path:
    """A GPT-2 architecture model (Conv1D layers) of a few thousand weights."""
    fast = tokenizer(style)
    config = GPT2Config(vocab_size=len(fast), n_positions=positions, n_embd=32, n_layer=1, n_head=2)
    models.save_model(GPT2LMHeadModel(config), fast, folder)
    return folder


@pytest.fixture(params=["gpt2", "llama", "chat"])
def folder(request, tmp_path) -> Path:
    return save(request.param, tmp_path / request.param)


def sequence(params) -> tuple[list[dict], list[dict]]:
    prompt = tasks.prompt("How many is 1+1?", params.format)
    return prompt, [{"role": "assistant", "content": params.format.tags.render("2", "1+1=2")}]


@pytest.fixture
def params(raw):
    from stages.core import params as parameters

    return parameters.validate(raw, "params.yaml")


def marks(folder: Path) -> int:
    return 0 if folder.name == "gpt2" else 1


def test_the_pad_is_a_token_of_the_model_and_not_its_end(folder):
    loaded = models.load_tokenizer(folder)
    assert loaded.pad_token_id not in (None, loaded.eos_token_id, loaded.bos_token_id)
    assert loaded.pad_token_id < models.load_model(folder, "eager").config.vocab_size
    text = "She has 3 apples!"
    assert loaded.decode(loaded(text, add_special_tokens=False)["input_ids"]) == text


def test_training_sees_one_bos_and_one_eos(folder, params, tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    loaded = models.load_tokenizer(folder)
    prompt, completion = sequence(params)
    trainer = SFTTrainer(
        model=models.load_model(folder, "eager"),
        args=SFTConfig(output_dir=str(tmp_path / "out"), report_to="none", use_cpu=True),
        train_dataset=Dataset.from_list([{"prompt": prompt, "completion": completion}]),
        processing_class=loaded,
    )
    ids = trainer.train_dataset[0]["input_ids"]
    bos = loaded.bos_token_id if marks(folder) else None
    assert ids.count(bos) == marks(folder) and (not marks(folder) or ids[0] == bos)
    assert ids.count(loaded.eos_token_id) == 1 and ids[-1] == loaded.eos_token_id
    batch = trainer.data_collator([trainer.train_dataset[0]])
    learned = batch["input_ids"][batch["labels"] != -100].tolist()
    assert learned[-1] == loaded.eos_token_id, "that it ends is learned"


def test_offline_a_tokenizer_is_saved_as_the_same_bits(folder, tmp_path, monkeypatch):
    for offline in (False, True):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        models.load_tokenizer(folder).save_pretrained(tmp_path / str(offline))
    for file in (tmp_path / "False").iterdir():
        assert file.read_bytes() == (tmp_path / "True" / file.name).read_bytes()


def test_evaluation_and_sampling_prompt_as_training_does(folder, params):
    from stages.core import harness

    loaded = models.load_tokenizer(folder)
    prompt, completion = sequence(params)
    whole = loaded.apply_chat_template(prompt + completion, tokenize=False)
    opened = loaded.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    assert whole.startswith(opened)
    ids = loaded(opened, add_special_tokens=False)["input_ids"]
    assert ids.count(loaded.bos_token_id) == marks(folder)
    model = harness.language_model(folder, params, shown=lambda done: None)
    assert model.tok_batch_encode([opened])[0][0].tolist() == ids


@pytest.mark.nightly
def test_gpt2s_architecture_goes_through_the_whole_pipeline(tmp_path, tiny):
    """Conv1D layers under LoRA, 1,024 positions, a tokenizer with one special token."""
    from tests.conftest import Project, merged

    where = save("gpt2", tmp_path / "gpt2")
    lora = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    changes = {
        "base": {"source": str(where), "watch": str(where), "scratch": None},
        "sft": {"method": "lora", "optimizer": "adamw", "lora": lora},
    }
    project = Project(tmp_path / "project", merged(tiny, changes))
    output = project.dvc("repro")
    assert "Traceback" not in output
    adapter = (project.folder / "models/adapter/adapter_config.json").read_text()
    assert '"fan_in_fan_out": true' in adapter
    assert (ROOT / "params.yaml").exists() and (project.folder / "reports/report.html").exists()
