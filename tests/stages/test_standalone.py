"""`python -m stages.evaluate` with options, as a person calls it."""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stages import base, standalone
from stages.core import params as parameters
from stages.core.errors import UserError
from stages.core.files import read_rows
from tests.conftest import ROOT, merged
from tests.known import KNOWN, SHORT


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "stages.evaluate", *arguments],
                          env={"PATH": "", "PYTHONPATH": str(ROOT), "HOME": str(Path.cwd()),
                               "HF_HUB_OFFLINE": "1"},
                          capture_output=True, text=True)  # fmt: skip


def raw_rows() -> Path:
    lines = [json.dumps({"problem": q, "ground_truth": g[1]}) for q, g in KNOWN.items()]
    Path("raw.jsonl").write_text("\n".join(lines))
    return Path("raw.jsonl")


def test_on_its_own_with_any_model_and_raw_rows(knowing):
    done = run("--model", "models/grpo", "--data", str(raw_rows()), "--output-dir", "out")
    assert done.returncode == 0, done.stderr
    assert "rows: 2 problems" in done.stdout and "accuracy                1.000" in done.stdout
    assert json.loads(Path("out/metrics.json").read_text())["rows"]["accuracy"] == 1.0
    samples = list(read_rows(Path("out/samples.jsonl")))
    assert [s["question"] for s in samples] == list(KNOWN)
    assert "no baseline stands beside: name one with --baseline" in done.stdout


def test_the_base_model_of_the_pipeline_stands_beside(knowing):
    params = parameters.load()
    base.body(params, run=None)
    done = run("--model", "models/grpo", "--data", str(raw_rows()), "--output-dir", "beside")
    shutil.rmtree("models/base")
    assert done.returncode == 0, done.stderr
    assert "accuracy                1.000  +- 0.000  [0.342, 1.000]  baseline 0.000" in done.stdout
    assert "2 gained, 0 lost, McNemar p = 0.5: within noise" in done.stdout
    metrics = json.loads(Path("beside/metrics.json").read_text())
    assert metrics["baseline"]["rows"]["accuracy"] == 0.0
    assert metrics["against_baseline"]["rows"]["baseline-model"]["gained"] == 2
    prompts = [[s["prompt"] for s in read_rows(Path(f"beside/{name}.jsonl"))]
               for name in ("samples", "baseline")]  # fmt: skip
    assert prompts[0] == prompts[1] and len(prompts[0]) == 2


@pytest.mark.parametrize(
    ("model", "asked", "baseline"),
    [
        ("models/grpo", None, "models/base"),
        ("models/base", None, None),
        ("models/grpo", "none", None),
        ("Qwen/Qwen2.5-0.5B-Instruct", None, None),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
    ],
)
def test_which_model_is_the_baseline(here, model, asked, baseline):
    (here / "models/base").mkdir(parents=True)
    found = standalone.baseline_of(argparse.Namespace(model=model, baseline=asked))
    assert found == (Path(baseline) if baseline == "models/base" else baseline)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "nowhere/x", "--data", "raw.jsonl"], "cannot be loaded"),
        (["--model", "./nowhere", "--data", "raw.jsonl"], "nowhere is missing"),
        (["--model", "models/grpo", "--data", "no.jsonl"], "no.jsonl is missing"),
        (["--model", "models/grpo", "--data", "raw.jsonl", "--task", "gsm9k"], "--task gsm9k"),
        (["--model", "models/grpo", "--data", "raw.jsonl", "--task", "math"],
         "raw.jsonl, row 1: no text in 'solution'"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(knowing, arguments, says):
    Path("raw.jsonl").write_text(json.dumps({"problem": SHORT, "answer": "2"}))
    done = run(*arguments, "--output-dir", "nothing")
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr
    assert not Path("nothing").exists()


OWN = {"name": "rows", "source": "raw.jsonl", "watch": "raw.jsonl", "percent": "value",
       "fields": {"question": "asked"}}  # fmt: skip
MIXED = {"name": "mix", "source": None, "watch": ".",
         "of": {"own": {k: v for k, v in OWN.items() if k != "watch"}, "sums": {"name": "gsm8k",
                "source": "sums.jsonl"}}}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "asked", "percent"),
    [(OWN, "rows", "value"), (MIXED, "rows", "value"), (OWN, "gsm8k", "unit")],
)
def test_rows_of_the_projects_own_task_are_read_as_it_reads_them(here, raw, task, asked, percent):
    loaded = parameters.validate(merged(raw, {"task": task}), "params.yaml")
    Path("raw.jsonl").write_text(
        json.dumps({"asked": "Q?", "question": "Q?", "answer": "#### 0.5"})
    )
    options = argparse.Namespace(task=asked, data=Path("raw.jsonl"), num_samples=None)
    [row] = standalone.rows_of(options, loaded)
    assert (row["question"], row["percent"], row["task"]) == ("Q?", percent, asked)


def test_a_raw_row_may_call_its_fields_prompt_and_gold(here, raw):
    Path("raw.jsonl").write_text(json.dumps({"prompt": SHORT, "gold": "2"}))
    options = argparse.Namespace(task="rows", data=Path("raw.jsonl"), num_samples=None)
    loaded = parameters.validate(raw, "params.yaml")
    [row] = standalone.rows_of(options, loaded)
    assert (row["question"], row["gold"]) == (SHORT, "2") and row["prompt"][-1]["content"] == SHORT
    Path("raw.jsonl").write_text(json.dumps(row))
    assert standalone.rows_of(options, loaded) == [row]


def test_samples_are_not_taken_for_problems(here, raw):
    sample = {"question": SHORT, "prompt": "p", "gold": "2", "completion": "3", "answer": "3"}
    Path("raw.jsonl").write_text(json.dumps(sample))
    options = argparse.Namespace(task="rows", data=Path("raw.jsonl"), num_samples=None)
    with pytest.raises(UserError, match=r"raw.jsonl, row 1 is a sample, whose answer is a model's"):
        standalone.rows_of(options, parameters.validate(raw, "params.yaml"))
