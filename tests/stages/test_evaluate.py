"""Evaluation of a model that knows two answers, through lm-eval itself."""

import json
from pathlib import Path

import pytest
import yaml

from stages import evaluate, tasks
from stages.core import harness
from stages.core import params as parameters
from stages.core.errors import UserError
from stages.core.grade import Grade, comparison
from stages.core.harness import Completion
from stages.core.params import Source
from stages.core.progress import Progress
from stages.tasks.problem import Problem
from tests.conftest import merged
from tests.known import KNOWN, LONG, SHORT

UNKNOWN = "Who wrote this?"


def params(**evaluate_options):
    raw = yaml.safe_load(Path("params.yaml").read_text())
    return parameters.validate(merged(raw, {"evaluate": evaluate_options}), "params.yaml")


def rows(loaded) -> list[dict]:
    golds = {SHORT: "2", LONG: "8", UNKNOWN: "nobody"}
    return [tasks.row(Problem(q, g, level="1"), task, Source(name="rows"), loaded.format)
            for task, q, g in zip(("sums", "sums", "words"), golds, golds.values(), strict=True)
            ]  # fmt: skip


def evaluated(**options):
    loaded = params(**options)
    made = rows(loaded)
    return made, evaluate.evaluated(Path("models/grpo"), made, loaded, Progress("evaluate", 60))


def test_each_task_has_its_measures_and_each_problem_its_row(knowing):
    made, result = evaluated()
    sums, words = result.metrics["sums"], result.metrics["words"]
    assert (sums["n"], sums["accuracy"], sums["errors"]) == (2, 1.0, {})
    assert (words["n"], words["accuracy"]) == (1, 0.0) and sum(words["errors"].values()) == 1
    assert 0 < sums["low"] < 1 and sums["high"] == 1.0
    assert sums["mean_reward"] == sums["high_reward_rate"] == sums["format_compliance_rate"] == 1.0
    first = result.samples[0]
    assert first["completion"] == KNOWN[SHORT][0] and first["answer"] == "2"
    assert not first["truncated"] and first["tokens"] == 10 and first["error"] is None
    assert [s["question"] for s in result.samples] == [r["question"] for r in made]
    assert result.metrics["tokens"] == sum(s["tokens"] for s in result.samples)
    assert set(result.measures["sums"]["accuracy"]) == {"value", "stderr", "low", "high"}


def test_lm_evals_own_figures_are_ours(knowing):
    loaded = params(samples_per_prompt=3, temperature=1.5)
    made = rows(loaded)
    model = harness.language_model(Path("models/grpo"), loaded, shown=lambda done: None)
    outcome = harness.run(model, made, [], loaded)
    samples = evaluate.judged(made, outcome, model, loaded)
    for name, of in harness.RATES.items():
        ours = sum(sample[of] for sample in samples) / 3
        assert outcome.figures["graded"][f"{name},none"] == pytest.approx(ours)
    ours = sum(s["correct"] for sample in samples for s in sample["samples"]) / 9
    assert outcome.figures["sampled"]["accuracy,all"] == pytest.approx(ours)
    measures = evaluate.measured(samples, loaded)
    assert measures["pass@1"]["value"] == pytest.approx(ours)
    assert measures["pass@1"]["value"] <= measures["pass@3"]["value"] <= 1
    assert measures["entropy"]["value"] == sum(s["entropy"] for s in samples) / 3 > 0
    assert measures["entropy"]["low"] < measures["entropy"]["value"]


def test_the_same_seed_draws_the_same_samples(knowing):
    options = {"samples_per_prompt": 2, "temperature": 2.0}
    first, second = evaluated(**options)[1], evaluated(**options)[1]
    assert first.samples == second.samples
    assert len({s["completion"] for sample in first.samples for s in sample["samples"]}) > 2


def test_a_completion_cut_off_at_its_limit_is_told_apart(knowing):
    _, result = evaluated(max_completion_length=4)
    assert all(s["truncated"] and s["error"] == "truncation" for s in result.samples[:2])
    assert {s["tokens"] for s in result.samples[:2]} == {4}


def test_prompts_that_were_cut_are_counted(knowing):
    loaded = params()
    model = harness.language_model(Path("models/grpo"), loaded, shown=lambda done: None)
    long = "x" * 3 * model.max_length
    assert harness.prompts_cut(model, ["short", long], 40) == 1
    assert evaluated()[1].metrics["prompts_cut"] == 0


def test_the_control_may_not_open_with_the_answer(knowing):
    loaded = params(max_completion_length=3)
    made = rows(loaded)
    opened = []
    for bar in (False, True):
        model = harness.language_model(Path("models/grpo"), loaded, bar, lambda done: None)
        for sample in harness.run(model, made, [], loaded).greedy:
            opened.append((bar, sample.startswith("<answer>")))
    assert (True, True) not in opened


def test_few_shot_prompts_show_worked_demonstrations(knowing):
    loaded = params(few_shot=1)
    shot = {**rows(loaded)[0], "question": "How many is 3+3?",
            "completion": [{"role": "assistant", "content": "<think>w</think>six"}]}  # fmt: skip
    model = harness.language_model(Path("models/grpo"), loaded, shown=lambda done: None)
    prompts = harness.run(model, rows(loaded), [shot], loaded).prompts
    before = (
        "user\nHow many is 3+3?<|im_end|>\n<|im_start|>assistant\n<think>w</think>six<|im_end|>"
    )
    assert all(before in prompt for prompt in prompts)


TASK = """
task: own_sums
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["</answer>"], max_gen_toks: 20}
filter_list:
- name: flexible
  filter:
  - {function: regex, regex_pattern: '([0-9]+)', group_select: -1}
  - {function: take_first}
metric_list: [{metric: exact_match}]
"""


def test_further_tasks_of_lm_eval_run_as_they_are(knowing):
    Path("sums.jsonl").write_text(json.dumps({"question": SHORT, "answer": "2"}))
    Path("own_sums.yaml").write_text(TASK % Path("sums.jsonl").resolve())
    _, result = evaluated(tasks=["./own_sums.yaml"])
    assert result.metrics["lm_eval"]["own_sums"]["exact_match.flexible"] == 1.0
    Path("other.yaml").write_text((TASK % "missing.jsonl").replace("own_sums", "other"))
    with pytest.raises(UserError, match=r"evaluate.tasks: the data of other cannot be had"):
        evaluated(tasks=["./other.yaml"])


def test_an_unknown_task_of_lm_eval_is_named(knowing):
    Path("own_sums.yaml").write_text(TASK % "missing.jsonl")
    Path("no_such.yaml").write_text("include: []\n")
    with pytest.raises(UserError, match="lm-eval has no task no_such"):
        evaluated(tasks=["./no_such.yaml"])


def test_vllm_must_be_installed(knowing):
    with pytest.raises(UserError, match="vllm is not installed"):
        evaluated(backend="vllm")


ENDED, CUT = Completion("x", 3, True), Completion("x", 3, False)


@pytest.mark.parametrize(
    ("verdict", "loose", "completion", "kind"),
    [
        (Grade("5", True, False, False), True, CUT, None),
        (Grade("6", False, True, True), False, ENDED, "reasoning"),
        (Grade("6", False, True, True), False, CUT, "truncation"),
        (Grade(None, False, False, False), True, ENDED, "extraction"),
        (Grade(None, False, False, False), False, ENDED, "format"),
        (Grade("def f()", None, True, True), False, ENDED, "sandbox"),
    ],
)
def test_kinds_of_error(verdict, loose, completion, kind):
    assert evaluate.error(verdict, loose, completion) == kind


@pytest.mark.parametrize(
    ("answers", "value"),
    [
        (["5", "5.0", "6", "6", "$5"], 1.0),
        (["5", "6", "7"], 1 / 3),
        ([None, None, "5"], 1.0),
        ([None, None], 0.0),
        (["6", "6", "5"], 0.0),
    ],
)
def test_equal_answers_vote_together(answers, value):
    samples = [{"answer": a, "correct": a in ("5", "5.0", "$5")} for a in answers]
    assert evaluate.majority(samples) == pytest.approx(value)


@pytest.mark.parametrize(
    ("row", "answers", "right", "value"),
    [
        ({"options": ["21", "22"]}, ["B", "B) 22", "22", "A", "A"], "TTTFF", 1.0),
        ({"aliases": []}, ["Zürich", "zurich", "the Zurich", "Bern", "Bern"], "TTTFF", 1.0),
        ({"percent": "value"}, ["50%", "0.5", "0.7", "0.7"], "TTFF", 0.5),
        ({"percent": "either"}, ["50%", "50", "0.7"], "TTF", 1.0),
        ({"tests": ["assert f()"]}, ["x" * 1001] * 3 + ["y" * 1001] * 2, "TTTFF", 1.0),
        ({"tests": ["assert f()"]}, ["f = 1.0", "f = 1", "g"], "TFF", 1 / 3),
        ({"numbers": [1, 2]}, ["1+2", "2+1", "3", "3"], "TTFF", 0.5),
        ({}, ["5 kg", "5 kg", "5"], "FFT", 0.0),
        ({}, ["5", "5 kg", "5"], "TFT", 1.0),
    ],
)
def test_a_vote_compares_as_the_rows_verdict_does(row, answers, right, value):
    samples = [{"answer": a, "correct": r == "T"} for a, r in zip(answers, right, strict=True)]
    assert evaluate.majority(samples, comparison(row)) == pytest.approx(value)


def test_a_sample_keeps_what_its_row_is_judged_by(knowing):
    loaded = params(samples_per_prompt=2, temperature=1.5)
    made = rows(loaded)
    made[0] |= {"options": ["2", "3"], "gold": "A"}
    result = evaluate.evaluated(Path("models/grpo"), made, loaded, Progress("evaluate", 60))
    assert result.samples[0]["options"] == ["2", "3"] and result.samples[0]["correct"]
    assert "options" not in result.samples[1] and "percent" not in result.samples[1]
    assert result.metrics["sums"]["maj@2"] in (0.5, 1.0)


def sample(correct: bool, error: str | None, reward: float | None) -> dict:
    flags = dict.fromkeys(("compliant", "shows_working", "truncated"), False)
    return {"task": "t", "correct": correct, "flexible": correct, "error": error, "reward": reward,
            **flags}  # fmt: skip


def test_what_the_sandbox_failed_at_is_in_no_accuracy(knowing, caplog):
    right, failed = sample(True, None, 1.0), sample(False, "sandbox", None)
    found = evaluate.measured([right, failed] * 50, params())
    alone = evaluate.measured([right] * 50, params())
    for name in ("accuracy", "flexible_accuracy", "mean_reward"):
        assert found[name] == alone[name] and found[name]["value"] == 1.0
    assert "t: the sandbox failed on 50 of 100 programs: they are in no accuracy" in caplog.text
    with pytest.raises(UserError, match="t: the sandbox failed on all 3 programs"):
        evaluate.measured([failed] * 3, params())
