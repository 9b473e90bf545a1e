import logging
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments
from trl.trainer import utils

from stages import base
from stages.core import models, params, training
from stages.core.errors import UserError
from tests.architectures import made
from tests.conftest import ROOT, merged

PARAMS = params.load(ROOT / "params.yaml")


class Run:
    name = "sft"

    def __init__(self):
        self.logged = []
        self.tables = {}
        self.findings = []

    def table(self, name, rows):
        self.tables[name] = rows

    def log(self, step, metrics):
        self.logged.append((step, metrics))


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_training(name, value):
    run = Run()
    doctor = training.Doctor(run, PARAMS.sft)
    with pytest.raises(UserError, match=rf"{name} is (nan|inf) at step 7.*sft\.learning_rate"):
        doctor.on_log(None, SimpleNamespace(global_step=7), None, {"loss": 1.0, name: value})
    assert [finding["name"] for finding in run.tables["findings.json"]] == ["not_finite"]


def test_a_finding_is_told_once_and_handed_over_at_the_end(caplog):
    run = Run()
    doctor = training.Doctor(run, PARAMS.grpo, {"kl": "kl_div"})
    for step in range(1, 9):
        doctor.on_log(None, SimpleNamespace(global_step=step), None, {"kl": 0.9, "loss": 0.1})
    doctor.on_train_end(None, None, None)
    assert caplog.text.count("sft: doctor: step 3: kl_div is 0.90, over 0.5") == 1
    assert caplog.text.count("doctor") == 1
    assert [finding["name"] for finding in run.findings] == ["kl_high"]
    assert run.tables["findings.json"] == run.findings


def test_a_kl_over_the_limit_stops_training():
    limited = PARAMS.grpo.model_copy(update={"max_kl": 2.0})
    doctor = training.Doctor(Run(), limited, {"kl": "kl_div"})
    levels = [9.0, 9.0, 0.1, 3.0, 3.0, 3.5]  # a spike passes
    with pytest.raises(UserError, match=r"over grpo\.max_kl 2 .* at step 6: training stopped"):
        for step, kl in enumerate(levels, 1):
            doctor.on_log(None, SimpleNamespace(global_step=step), None, {"kl": kl})
    assert len(doctor.curve) == 6


def update():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")


def _generate_single_turn():
    update()


def test_out_of_memory_says_what_to_lower_in_this_runs_numbers():
    says = r"memory \(CUDA.*GiB\.\).*1\. grpo\.batch_size 128 -> 64"
    with pytest.raises(UserError, match=says), training.memory_advised(PARAMS.grpo):
        update()
    says = r"memory while sampling.*steps_per_generation"
    with pytest.raises(UserError, match=says), training.memory_advised(PARAMS.grpo):
        _generate_single_turn()


def test_metrics_carry_the_names_users_know_and_no_timings():
    run = Run()
    report = training.Report(run, {"reward": "mean_reward", "kl": "kl_div"})
    logs = {"reward": 0.5, "kl": 0.1, "step_time": 3.0, "epoch": 1.0, "loss": 2.0}
    report.on_log(None, SimpleNamespace(global_step=3), None, logs)
    assert run.logged == [(3, {"mean_reward": 0.5, "kl_div": 0.1, "loss": 2.0})]


def test_fp16_without_a_gpu_is_refused():
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        training.precision("fp16")
    assert training.precision("auto") == "bf16"


ROWS = [
    {"prompt": [{"role": "user", "content": f"Bea has {n} {'red ' * n}pens. How many?"}],
     "completion": [{"role": "assistant", "content": f"<think>{n}</think><answer>{n}</answer>"}]}
    for n in range(1, 9)
]  # fmt: skip


@pytest.fixture
def supervisors(tmp_path, monkeypatch):
    """Makes the stages' trainer on ROWS, and TRL's on the same, with some of TRL's options."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    raw = merged(yaml.safe_load((ROOT / "params.yaml").read_text()), {
        "base": {"scratch": {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64}},
        "sft": {"max_steps": 3, "batch_size": 4, "precision": "fp32", "optimizer": "adamw",
                "padding_free": False},
    })  # fmt: skip
    tokenizer = base.make_tokenizer(params.validate(raw, "params.yaml"))

    def made(own: bool, options: dict) -> SFTTrainer:
        given = params.validate(merged(raw, {"sft": {"trainer": options}}), "params.yaml")
        model = models.from_scratch(given.base.scratch, tokenizer, seed=0)
        run = SimpleNamespace(name="sft")
        monkeypatch.setattr(training.resume, "folder", lambda _: tmp_path / "out")
        one = training.supervisor(model, tokenizer, ROWS, given.sft, run, 0)
        if own:
            return one
        return SFTTrainer(
            model=models.from_scratch(given.base.scratch, tokenizer, seed=0),
            args=SFTConfig(output_dir="out", use_cpu=True, max_length=given.sft.max_length,
                           **options),
            train_dataset=Dataset.from_list(ROWS), processing_class=tokenizer,
        )  # fmt: skip

    return lambda options: (made(True, options), made(False, options))


@pytest.mark.parametrize(
    ("options", "learned"),
    [({}, "completion"), ({"completion_only_loss": None}, "completion"),
     ({"completion_only_loss": False}, "all"), ({"packing": True}, "completion")],
)  # fmt: skip
def test_rows_become_the_tokens_and_labels_that_trl_makes(supervisors, options, learned):
    own, trls = supervisors(options)
    for column in own.train_dataset.column_names:
        assert list(own.train_dataset[column]) == list(trls.train_dataset[column])
    assert all(-100 in labels for labels in own.train_dataset["labels"]) == (learned != "all")


@pytest.fixture
def templated():
    """A tokenizer whose template has this in place of a message, of which `said` are the parts."""

    def made(said: str):
        tokenizer = base.make_tokenizer(PARAMS)
        tokenizer.name_or_path = "models/base"
        tokenizer.chat_template = (
            "{% for m in messages %}[{{ m.role }}]{% set said = m.content.split('</think>') %}"
            f"{said}{{% endfor %}}"
        )
        return tokenizer

    return made


def test_a_template_that_takes_the_working_out_is_refused(templated):
    stripping = templated("{{ said[-1] }}")  # as DeepSeek-R1's does
    plain = [{**row, "completion": [{"role": "assistant", "content": "1"}]} for row in ROWS]
    assert len(training.tokenised(plain, stripping, 512, "sft")) == len(plain)
    with pytest.raises(UserError, match=r"template of models/base leaves out some of .*<think>1"):
        training.tokenised(plain + ROWS, stripping, 512, "sft")


def test_a_template_that_only_spaces_the_working_is_taken(templated):
    spacing = templated("{{ said | join('</think>\n\n') }}")  # as Qwen3's does
    row = training.token_columns(ROWS, spacing)[0]
    labelled = [label for label in row["labels"] if label != -100]
    assert spacing.decode(labelled).endswith("<think>1</think>\n\n<answer>1</answer>")


def test_a_data_set_of_parts_is_that_of_all_rows_at_once():
    from datasets import Dataset

    rows = [{"prompt": [{"role": "user", "content": f"{n}?"}], "level": None, "tests": None}
            for n in range(2500)]  # fmt: skip
    rows[1700] |= {"level": "3", "tests": {"asserts": ["assert f()"], "setup": ""}}
    rows[2400] |= {"tests": {"inputs": ["1"], "outputs": ["2"]}, "options": ["a"]}
    for row in rows:
        row.setdefault("options", None)
    made, at_once = training.dataset(rows), Dataset.from_list(rows)
    assert made.features == at_once.features and list(made) == list(at_once)


def test_only_labelled_tokens_go_through_the_head_and_the_loss_is_the_same(supervisors):
    own, _ = supervisors({})
    batch = next(iter(own.get_train_dataloader()))
    seen = []
    own.model.get_output_embeddings().register_forward_pre_hook(lambda *_: seen.append("module"))
    kernel = utils._ChunkedLogProbFunction

    class Counted:
        @staticmethod
        def apply(hidden, *others):
            seen.append(len(hidden))
            return kernel.apply(hidden, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_ChunkedLogProbFunction", Counted)
        loss = own.compute_loss(own.model, dict(batch))
    labelled = (batch["labels"][:, 1:] != -100).sum().item()
    assert seen == [labelled] and labelled < batch["labels"][:, 1:].numel()
    logits = own.model(**{k: v for k, v in batch.items() if k != "labels"}).logits[:, :-1]
    wanted = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100
    )
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize("expected", [True, False])
def test_a_checkpoint_without_the_tied_head_lacks_nothing(tmp_path, caplog, monkeypatch, expected):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model, arguments = made("tied llama"), TrainingArguments(tmp_path, report_to="none")
    trainer = Trainer(model, arguments)
    trainer.save_model(tmp_path / "kept")
    if expected:
        training.expect_no_tied_weights(model)
    kept = model.lm_head.weight.detach().clone()
    model.lm_head.weight.data.zero_()
    trainer._load_from_checkpoint(str(tmp_path / "kept"))
    assert torch.equal(model.model.embed_tokens.weight, kept)
    assert torch.equal(model.lm_head.weight, kept)
    assert ("missing keys" in caplog.text) is not expected
    trainer.save_model(tmp_path / "again")
    file = "model.safetensors"
    assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "kept" / file).read_bytes()


def test_a_head_of_its_own_is_saved(tmp_path):
    model = made("llama")
    training.expect_no_tied_weights(model)
    Trainer(model, TrainingArguments(tmp_path, report_to="none")).save_model(tmp_path / "kept")
    assert torch.equal(load_file(tmp_path / "kept/model.safetensors")["lm_head.weight"],
                       model.lm_head.weight)  # fmt: skip
