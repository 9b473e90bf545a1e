"""The GSM8K preset takes real data through every stage, and DVC watches that data."""

import json
import shutil

import pytest
import yaml

from tests.conftest import ROOT, Project
from tests.test_pipeline import WHOLE, ran


@pytest.mark.long
def test_real_gsm8k_through_every_stage(tmp_path, real_data):
    preset = yaml.safe_load((ROOT / "presets/gsm8k-smoke.yaml").read_text())
    project = Project(tmp_path / "project", preset)
    raw = project.folder / "data/raw/gsm8k"
    shutil.copytree(real_data / "gsm8k", raw)
    raw.chmod(0o755)
    assert ran(project.dvc("repro")) == WHOLE
    rows = [json.loads(line) for line in (project.folder / "samples/grpo.jsonl").open()]
    test = [json.loads(line) for line in (raw / "test.jsonl").open()]
    assert len(rows) == 40
    assert {row["question"] for row in rows} <= {row["question"].strip() for row in test}
    assert ran(project.dvc("repro")) == set()

    lines = (raw / "train.jsonl").read_text().splitlines()
    (raw / "train.jsonl").chmod(0o644)
    (raw / "train.jsonl").write_text("\n".join(lines[1:]) + "\n")
    assert "prepare" in project.dvc("status")
    (raw / "train.jsonl").write_text("\n".join([*lines[:2], "{oops", *lines[2:]]))
    output = project.stage("stages.prepare", ok=False)
    assert "train.jsonl, line 3: not JSON" in output and "Traceback" not in output
