"""Every way of supervised training ends in a whole model that differs from the base."""

import json

import pytest
from safetensors.torch import load_file

from stages.core.files import read_rows, write_rows
from tests.conftest import Project, merged

LORA = {"optimizer": "adamw", "lora": {"r": 4, "target_modules": "all-linear"}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Project:
    import yaml

    from tests.conftest import ROOT, TINY

    raw = merged(yaml.safe_load((ROOT / "params.yaml").read_text()), TINY)
    raw["base"]["scratch"]["hidden_size"] = 64
    project = Project(tmp_path_factory.mktemp("sft") / "project", raw)
    project.stage("stages.base")
    project.stage("stages.prepare")
    return project


@pytest.mark.parametrize("method", ["lora", "qlora", "none"])
def test_methods(prepared, method):
    import yaml

    raw = yaml.safe_load((prepared.folder / "params.yaml").read_text())
    changes = {"method": method, "learning_rate": 0.01, **(LORA if method != "none" else {})}
    raw["sft"] = {**raw["sft"], "lora": {}, "optimizer": "adamw", **changes}
    prepared.write(raw)
    prepared.stage("stages.sft")
    base = load_file(prepared.folder / "models/base/model.safetensors")
    sft = load_file(prepared.folder / "models/sft/model.safetensors")
    assert base.keys() == sft.keys()
    changed = [name for name in base if not base[name].equal(sft[name])]
    if method == "none":
        assert not changed
    else:
        assert any("q_proj" in name for name in changed)
        assert all(base[name].shape == sft[name].shape for name in base)
        assert not any("embed" in name for name in changed)
        metrics = json.loads((prepared.folder / "metrics/sft.json").read_text())
        assert metrics["max_logit_diff"] < 1e-4 and metrics["top1_agreement"] == 1.0
    config = json.loads((prepared.folder / "models/sft/config.json").read_text())
    assert "quantization_config" not in config


def test_a_merge_that_changes_the_model_is_refused(prepared, monkeypatch, tmp_path):
    import torch
    from peft import get_peft_model

    from stages import sft
    from stages.core import lora, models
    from stages.core.errors import UserError

    monkeypatch.chdir(prepared.folder)
    tokenizer = models.load_tokenizer(sft.BASE)
    adapted = get_peft_model(models.load_model(sft.BASE, "eager"), lora.config(LORA["lora"]))
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapted.save_pretrained(tmp_path)
    right = lora.merge(sft.BASE, tmp_path, "eager").eval()
    assert sft.prove(right, tmp_path, tokenizer, "eager", quantize=False)["max_logit_diff"] < 1e-4
    for wrong in (models.load_model(sft.BASE, "eager").eval(), right):
        if wrong is right:
            wrong.model.layers[0].self_attn.q_proj.weight.data[0] += 1.0
        with pytest.raises(UserError, match="differs from the one that was trained"):
            sft.prove(wrong, tmp_path, tokenizer, "eager", quantize=False)


def test_rows_that_do_not_fit_are_an_error_not_a_silence(prepared):
    import yaml

    raw = yaml.safe_load((prepared.folder / "params.yaml").read_text())
    raw["sft"] = {**raw["sft"], "method": "full", "lora": {}, "max_length": 10}
    prepared.write(raw)
    output = prepared.stage("stages.sft", ok=False)
    assert "sft.max_length 10: the shortest row has" in output and "Traceback" not in output


def test_right_demonstrations_alone_or_all_of_them(prepared):
    import yaml

    rows = list(read_rows(prepared.folder / "data/sft.jsonl"))
    told = [{**row, "right": i % 4 == 0} for i, row in enumerate(rows)]
    write_rows(prepared.folder / "data/sft.jsonl", told)
    raw = yaml.safe_load((prepared.folder / "params.yaml").read_text())
    raw["sft"] = {**raw["sft"], "method": "full", "lora": {}, "max_length": 128, "max_steps": 3}
    raw["sft"]["demonstrations"] = "verified"
    prepared.write(merged(raw, {"report": {"controls": ["longer", "all"]}}))
    for control in ("longer", "all"):
        prepared.stage("stages.sft", control)
    seen = {name: json.loads((prepared.folder / f"metrics/sft_also/{name}.json").read_text())
            for name in ("longer", "all")}  # fmt: skip
    assert seen["all"]["rows"] == len(rows) and seen["longer"]["rows"] == -(-len(rows) // 4)
    steps = {name: (prepared.folder / f"plots/sft-{name}.csv").read_text().splitlines()[-1]
             for name in seen}  # fmt: skip
    assert steps["longer"].startswith("6,") and steps["all"].startswith("3,")
    weights = [load_file(prepared.folder / f"models/sft-{name}/model.safetensors") for name in seen]
    assert any(not weights[0][key].equal(weights[1][key]) for key in weights[0])


def test_no_right_demonstration_is_told(prepared):
    import yaml

    rows = list(read_rows(prepared.folder / "data/sft.jsonl"))
    write_rows(prepared.folder / "data/sft.jsonl", [{**row, "right": False} for row in rows])
    raw = yaml.safe_load((prepared.folder / "params.yaml").read_text())
    prepared.write(merged(raw, {"sft": {"method": "full", "demonstrations": "verified"}}))
    output = prepared.stage("stages.sft", ok=False)
    assert "data/sft.jsonl has no right demonstration: set sft.demonstrations to all" in output
