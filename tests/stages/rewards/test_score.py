"""`python -m stages.rewards score`, as a person or a pipe would use it."""

import io
import json
import os
import subprocess
import sys

import pytest

from stages import grpo
from stages.answers.format import Format
from stages.core.grade import grade
from stages.rewards import __main__ as scoring
from tests.conftest import ROOT

ROWS = [
    {"completion": "<think>1+1=2</think><answer>2</answer>", "answer": "2", "id": 7},
    {"completion": "<answer>3</answer>", "answer": "2"},
]


def score(*arguments: str, rows: str | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "stages.rewards", "score", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, input=rows, env=env, capture_output=True, text=True)


@pytest.fixture
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_each_row_comes_back_in_order_with_its_rewards(in_root, tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "rows.jsonl").write_text(lines)
    done = score(str(tmp_path / "rows.jsonl"))
    assert (done.returncode, done.stderr) == (0, "")
    right, wrong = map(json.loads, done.stdout.splitlines())
    assert right == {**ROWS[0], "rewards": {"correctness": 1.0, "format": 1.0}, "total": 1.0}
    assert wrong == {**ROWS[1], "rewards": {"correctness": 0.0, "format": 0.0}, "total": 0.0}
    assert score(rows=lines).stdout == done.stdout == score("-", rows=lines).stdout


def test_named_rewards_and_what_cannot_be_judged(in_root):
    row = {"completion": "<answer>Paris</answer>", "answer": "Paris"}
    done = score("--rewards", "factual,closeness", rows=json.dumps(row))
    assert json.loads(done.stdout)["rewards"] == {"factual": 1.0, "closeness": None}
    assert json.loads(done.stdout)["total"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "rows", "says"),
    [
        ([], "{", "stdin, line 1: not JSON"),
        ([], '\n{"answer": "2"}', 'stdin, line 2: a row is an object with a "completion"'),
        ([], '{"completion": "2"}', 'has no "answer"'),
        ([], '{"completion": [], "answer": "2"}', "(a text, or chat messages)"),
        ([], '{"completion": "2", "answer": null}', 'line 1: "answer" is a text or a number'),
        ([], '{"completion": "2", "gold": true}', 'line 1: "gold" is a text or a number'),
        ([], '{"completion": "2", "gold": 2, "working": 7}', 'line 1: "working" is a text'),
        ([], '{"completion": "2", "gold": 2, "completion_ids": 7}', '"completion_ids" is a list'),
        ([], '{"completion": "2", "gold": 2, "numbers": 5}', '"numbers" is a list of whole'),
        ([], '{"completion": "2", "gold": 2, "options": 7}', '"options" is a list of texts'),
        ([], '{"completion": "2", "gold": 2, "aliases": 5}', '"aliases" is a list of texts'),
        (["nowhere.jsonl"], "", "nowhere.jsonl is no file"),
        (["--rewards", "correctnes"], "", "no reward is called correctnes"),
        (["--params", "nowhere.yaml"], "", "nowhere.yaml is missing"),
    ],
)
def test_mistakes_are_one_line(in_root, monkeypatch, capsys, arguments, rows, says):
    monkeypatch.setattr(sys, "argv", ["stages.rewards", "score", *arguments])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(rows.encode())))
    with pytest.raises(SystemExit) as ended:
        scoring.main()
    [line] = str(ended.value).splitlines()
    assert line.startswith("score: ") and says in line and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("columns", "gold", "answer"),
    [
        ({"numbers": [18, 25, 15]}, "22", "22"),
        ({"numbers": [18, 25, 15]}, "(25-18)+15", "25-18+15"),
        ({"aliases": ["Turicum"]}, "Zurich", "turicum"),
        ({"aliases": []}, "Zurich", "Zürich"),
        ({"options": ["21", "22"]}, "B", "22"),
        ({"percent": "value"}, "0.5", "50%"),
        ({"tests": {"asserts": ["assert f(1) == 2"], "inputs": None}}, "", "f = abs"),
        ({"percent": "unit", "options": None}, "50", "50%"),
    ],
)
def test_a_rollout_scored_again_has_the_verdict_of_training(
    in_root, tmp_path, capsys, columns, gold, answer
):
    row = {"task": "t", "question": "Q?", "gold": gold, **columns}
    content = Format().render(answer, "w")
    verdict = grade(content, row, Format())
    made = grpo.rollout(1, row, content, verdict, 0.0, {"correctness": 0.0})
    assert made.keys() - columns.keys() == {
        "step", "task", "question", "gold", "completion", "correct", "reward", "rewards",
    }  # fmt: skip
    (tmp_path / "rollouts.jsonl").write_text(json.dumps(made))
    scoring.score(str(tmp_path / "rollouts.jsonl"), ROOT / "params.yaml", "correctness")
    assert json.loads(capsys.readouterr().out)["rewards"] == {"correctness": verdict.correct}


def test_a_rollout_of_plain_numbers_holds_no_further_columns():
    row = {"task": "t", "question": "Q?", "gold": "5", "percent": "unit", "options": None}
    made = grpo.rollout(1, row, "5", grade("5", row, Format()), 0.0, {})
    assert not made.keys() & {"percent", "options", "aliases", "tests", "numbers"}


def test_no_column_passes_for_an_option(in_root, tmp_path, capsys):
    row = {"completion": "<think>1+1=2</think><answer>2</answer>", "answer": "2"}
    columns = {"right": True, "fmt": 1, "name": "CYRILLIC", "most": 0, "completion_ids": None}
    for name, more in (("plain", {}), ("more", columns)):
        (tmp_path / name).write_text(json.dumps({**row, **more}))
        scoring.score(str(tmp_path / name), ROOT / "params.yaml", "correctness,script,repetition")
    plain, more = map(json.loads, capsys.readouterr().out.splitlines())
    assert plain["rewards"] == more["rewards"] and more.items() > columns.items()
