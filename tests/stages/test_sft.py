"""Every way of supervised training ends in a whole model that differs from the base."""

import json

import pytest
from safetensors.torch import load_file

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
    config = json.loads((prepared.folder / "models/sft/config.json").read_text())
    assert "quantization_config" not in config


def test_rows_that_do_not_fit_are_an_error_not_a_silence(prepared):
    import yaml

    raw = yaml.safe_load((prepared.folder / "params.yaml").read_text())
    raw["sft"] = {**raw["sft"], "method": "full", "lora": {}, "max_length": 10}
    prepared.write(raw)
    output = prepared.stage("stages.sft", ok=False)
    assert "sft.max_length 10: the shortest row has" in output and "Traceback" not in output
