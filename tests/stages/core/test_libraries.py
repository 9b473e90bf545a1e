"""What a stage's process loads and what it does not, told by the process itself."""

import gc
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from stages.core import libraries
from stages.core import params as parameters
from tests.conftest import ROOT, merged

WATCHED = """
import atexit, gc
import psutil
from stages.core import stage

def body(params, run):
    beside = [child.cmdline()[2] for child in psutil.Process().children()]
    print(f"{'one process' if len(beside) == 1 else len(beside)} beside it: {' '.join(beside)}")
    return {}

atexit.register(lambda: print("at its end the collector passes over what is there:",
                              gc.get_freeze_count() > 10_000))
stage.main("audit", body)
"""


def made(raw: dict, **changes: dict) -> parameters.Params:
    return parameters.validate(merged(raw, changes), "params.yaml")


def loaded_by(code: str) -> set[str]:
    """The top-level packages in a process of its own after some code."""
    told = f"{code}\nimport json, sys\nprint(json.dumps([n for n, m in sys.modules.items() if m]))"
    run = [sys.executable, "-c", told]
    done = subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_the_collector_is_held_back_and_comes_back():
    before = gc.get_freeze_count()
    with pytest.raises(ModuleNotFoundError):
        libraries.load("json", "no_such_library")
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
    gc.unfreeze()


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed here")
def test_peft_does_without_bitsandbytes_where_it_is_left_out():
    script = """
from stages.core import libraries, params
libraries.leave_out(params.load())
libraries.load("trl.trainer.grpo_trainer", "lm_eval.models.huggingface")
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
model = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8,
                                     num_hidden_layers=1, num_attention_heads=1))
adapted = get_peft_model(model, LoraConfig(target_modules="all-linear"))
adapted(input_ids=torch.ones(1, 2, dtype=int)).logits.sum().backward()
adapted.merge_and_unload()
"""
    loaded_by("from stages.core import params\nparams.load()")  # reads TRL's options once
    assert {"peft", "trl", "torch", "lm_eval"} <= (found := loaded_by(script))
    assert "bitsandbytes" not in found


@pytest.mark.parametrize(
    "changes",
    [
        {"sft": {"method": "qlora", "optimizer": "adamw"}},
        {"grpo": {"quantize": "nf4"}},
        {"base": {"source": "Qwen/Qwen2.5-0.5B", "scratch": None}},
        {"distill": {"student": {"source": "Qwen/Qwen2.5-0.5B", "scratch": None}}},
        {"sft": {"optimizer": "adamw", "trainer": {"optim": "paged_adamw_8bit"}}},
        {"grpo": {"trainer": {"optim": "adamw_8bit"}}},
        {"grpo": {"lora": {"init_lora_weights": "loftq"}}},
        {"grpo": {"rewards": {"judge": {"function": "my_rewards:judge"}}}},
        {"evaluate": {"rewards": {"judge": {"function": "my_rewards:judge"}}}},
        {"grpo": {"rewards": {"both": {"combine": "sum", "of": {"a": {"function": "m:a"}}}}}},
    ],
    ids=str,
)
def test_bitsandbytes_stays_where_anything_may_need_it(raw, changes):
    assert not libraries.may_need_bitsandbytes(made(raw))
    assert libraries.may_need_bitsandbytes(made(raw, **changes))


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda p: p.stem)
def test_bitsandbytes_stays_for_each_preset_that_names_a_model(preset, monkeypatch):
    monkeypatch.chdir(ROOT)
    params = parameters.load(preset)
    assert libraries.may_need_bitsandbytes(params) or params.base.source == "scratch"


@pytest.mark.parametrize("stage", ["prepare", "audit", "report", "base", "sft", "grpo", "merge",
                                   "distill", "evaluate"])  # fmt: skip
def test_before_its_parameters_are_checked_a_stage_loads_no_heavy_library(stage):
    script = f"import stages.{stage}\nfrom stages.core import params\nparams.load()"
    loaded_by("from stages.core import params\nparams.load()")  # reads TRL's options once
    heavy = {"torch", "transformers", "trl", "peft", "datasets", "lm_eval", "mlflow", "dvc",
             "bitsandbytes", "matplotlib", "sympy", "scipy", "pandas", "sklearn"}  # fmt: skip
    assert not loaded_by(script) & heavy


def test_stages_that_compute_no_model_load_neither_torch_nor_trackers(project):
    """Told by Python's own record of what was imported, of a stage run as DVC runs it."""
    project.dvc("repro", "prepare", "audit")
    for name in ("prepare", "audit"):
        imported = project.run(sys.executable, "-X", "importtime", "-m", f"stages.{name}")
        lines = [line for line in imported.splitlines() if line.startswith("import time:")]
        packages = {line.split("|")[-1].strip().partition(".")[0] for line in lines}
        assert "pydantic" in packages
        assert not packages & {"torch", "transformers", "datasets", "mlflow", "dvc"}
    said = project.run(sys.executable, "-c", WATCHED)
    assert "one process beside it: stages.core.tracker" in said
    assert "at its end the collector passes over what is there: True" in said


def test_a_yaml_file_is_read_alike_by_either_loader():
    import yaml

    from stages.core.graph import loaded

    for name in ("dvc.yaml", "dvc.lock"):
        path = Path(os.path.relpath(ROOT / name))
        assert loaded(path) == yaml.safe_load(path.read_text())


SHAPES = """
import torch
from stages.core import stage
stage.set_environment()
weight = torch.rand(32, 32).bfloat16()
rows = [torch.rand(n, 32).bfloat16() for n in range(33, 33 + 1500)]
for _ in range(2):
    for row in rows:
        torch.nn.functional.linear(row, weight)
"""


def test_a_shape_that_comes_back_is_not_compiled_again():
    told = subprocess.run(
        [sys.executable, "-c", SHAPES], env={**os.environ, "ONEDNN_VERBOSE": "profile_create"},
        capture_output=True, text=True, check=True, cwd=ROOT,
    ).stdout  # fmt: skip
    missed, hit = (told.count(f",create:cache_{what},cpu,matmul") for what in ("miss", "hit"))
    if not missed:
        pytest.skip("oneDNN does not multiply bf16 on this machine")
    assert missed == hit == 1500
