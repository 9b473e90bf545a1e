"""base: what it says of a hub that is away, and what it keeps of a local model."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from stages import base
from stages.core import params as parameters
from stages.core.errors import UserError
from stages.core.files import sha256
from tests.conftest import ROOT, copy
from tests.stages.core.test_models import save

AWAY = "http://127.0.0.1:9"  # the discard port: nobody answers


def real(raw: dict, source: str, watch: str = "data/raw/README.md") -> dict:
    raw["base"] = {**raw["base"], "source": source, "watch": watch, "scratch": None}
    return raw


@pytest.mark.parametrize("offline", ["0", "1"])
def test_an_unreachable_hub_is_one_line_and_leaves_nothing(raw, here, offline):
    (here / "params.yaml").write_text(yaml.safe_dump(real(raw, "Qwen/Qwen2.5-0.5B-Instruct")))
    for name in ("dvc.yaml", "data/raw/README.md"):
        copy(ROOT / name, here / name)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": AWAY, "HF_HUB_OFFLINE": offline}
    done = subprocess.run(
        [sys.executable, "-m", "stages.base"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("base: base.source: the model Qwen/Qwen2.5-0.5B-Instruct cannot be had")
    assert "name its folder in base.source" in line
    assert not list((here / "models").glob("*"))


def test_a_local_model_is_kept_as_a_manifest_of_hashes(raw, here):
    folder = here / "qwen"
    folder.mkdir()
    with pytest.raises(UserError, match=r"no complete model folder: config.json, .* missing"):
        base.describe(parameters.validate(real(raw, "./qwen", "./qwen"), "params.yaml").base)
    folder.rmdir()
    save("gpt2", folder)
    base.describe(parameters.validate(real(raw, "./qwen", "./qwen"), "params.yaml").base)
    [manifest] = (here / "models/base").iterdir()
    kept = json.loads(manifest.read_text())
    assert kept["source"] == str(folder)
    assert kept["files"]["config.json"] == sha256(folder / "config.json")


@pytest.mark.parametrize("numbers, parts", [("digits", 2), ("whole", 1)])
def test_numbers_are_digits_or_tokens_and_read_back_the_same(raw, numbers, parts):
    raw["task"] = {**raw["task"], "name": "countdown"}
    raw["base"] = {**raw["base"], "numbers": numbers}
    tokenizer = base.make_tokenizer(parameters.validate(raw, "params.yaml"))
    assert {len(tokenizer(str(number))["input_ids"]) for number in range(10, 100)} == {parts}
    for text in ("<think>7*12=84\n84-9=75</think><answer>7*12-9</answer>", "1234567", "Make 005."):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
