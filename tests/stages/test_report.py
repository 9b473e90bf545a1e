"""The whole report on the files that the other stages leave behind, made up here."""

import json
import random
import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from stages import report
from stages.core import params as parameters
from stages.core.errors import UserError
from stages.core.files import write_csv, write_json, write_rows
from stages.core.params import Params, Report
from stages.core.stage import Run
from stages.core.tracking import Spool
from tests.conftest import ROOT

MODELS = ("base", "sft", "control", "grpo", "student")
RIGHT = {"base": 0, "sft": 20, "control": 35, "grpo": 36, "student": 34}  # of 40 problems
HARMED = {**RIGHT, "grpo": 4}
HOSTILE = '</pre><script src="http://evil.example/x.js"></script><img src=x onerror=alert(1)>'
FILES = {"report.md", "report.html", "table.txt", "summary.json", "accuracy.png", "grpo.png",
         "supervised.png"}  # fmt: skip


def sample(task: str, i: int, correct: bool, model: str) -> dict:
    """A row as an evaluation of several tasks writes it."""
    return {
        "task": task, "question": f"question {i} {HOSTILE}", "gold": "4", "prompt": "p",
        "level": str(1 + i % 3) if task == "math" else None,
        "completion": f"{model} says {HOSTILE}", "answer": "4" if correct else None,
        "correct": correct, "flexible": correct, "compliant": True, "shows_working": True,
        "reward": float(correct), "tokens": 9, "truncated": False,
        "error": None if correct else "reasoning",
        "samples": [{"completion": "c", "answer": "4", "correct": correct}] * 4,
    }  # fmt: skip


MEASURES = ("mean_reward", "pass@1", "pass@4", "maj@4")


def score(right: int) -> dict:
    share = right / 40
    several = dict.fromkeys(MEASURES, share)
    return {"n": 40, "accuracy": share, "low": max(0, share - 0.1), "high": min(1, share + 0.1),
            "stderr": 0.05, "flexible_accuracy": share, "format_compliance_rate": 1.0,
            "shows_working": 1.0, "high_reward_rate": share, "truncated": 0.0, **several,
            "errors": {"reasoning": 40 - right}}  # fmt: skip


def measures(right: int) -> dict:
    """The intervals that an evaluation keeps beside its samples."""
    share = right / 40
    entry = {"value": share, "stderr": 0.05, "low": share / 2, "high": share}
    return dict.fromkeys(("accuracy", *MEASURES), entry)


OLD_SCORE = ("n", "accuracy", "low", "high", "format_compliance_rate", "shows_working")
OLD_ROW = ("question", "gold", "level", "prompt", "completion", "answer", "correct", "compliant",
           "shows_working")  # fmt: skip


def write_project(
    tasks: dict[str, dict[str, int]],
    old: bool = False,
    compare: Sequence[str] = (),
    controls: Sequence[str] = (),
) -> None:
    """What the stages before this one leave behind, in the working folder.

    Args:
        tasks: task -> model -> how many of 40 problems it gets right.
        old: as an evaluation of one task and one completion a problem writes it.
        compare: methods that the student `student-METHOD` is taught by as well.
        controls: how the SFT model `sft-CONTROL` is trained as well.
    """
    evaluated = {model: f"evaluate/{model}" for model in MODELS}
    evaluated |= {f"student-{method}": f"evaluate_also/{method}" for method in compare}
    evaluated |= {f"sft-{control}": f"evaluate_control/{control}" for control in controls}
    for model, metrics in evaluated.items():
        rows = [sample(task, i, i < right[model], model)
                for task, right in tasks.items() for i in range(40)]  # fmt: skip
        scores = {task: score(right[model]) for task, right in tasks.items()}
        if old:
            rows = [{key: row[key] for key in OLD_ROW} for row in rows]
            scores = {t: {key: s[key] for key in OLD_SCORE} for t, s in scores.items()}
        more = {} if old else {"tokens": 1234567, "peak_memory_mb": 812.4}
        if not old:
            write_json(Path(f"samples/{model}.json"),
                       {task: measures(right[model]) for task, right in tasks.items()})  # fmt: skip
        write_rows(Path(f"samples/{model}.jsonl"), rows)
        write_json(Path(f"metrics/{metrics}.json"),
                   {"parameters": 1000, **scores, "seconds": 5.0, **more})  # fmt: skip
    seconds = {"seconds": 61.4}
    for stage in ("base", "audit", "sft", "grpo"):
        write_json(Path(f"metrics/{stage}.json"), seconds)
    for method in ("verified", *compare):
        name = "distill" if method == "verified" else f"distill_also/{method}"
        write_json(Path(f"metrics/{name}.json"),
                   {"method": method, "kept": 3838, "rows": 3838, **seconds})  # fmt: skip
    write_json(Path("metrics/prepare.json"),
               {"test": 40, "test_chains_seen_in_training": 0.0, **seconds})  # fmt: skip
    write_json(Path("metrics/merge.json"),
               {"max_logit_diff": 1e-5, "top1_agreement": 1.0, **seconds})  # fmt: skip
    write_training()


def write_training() -> None:
    generator = random.Random(0)
    curve = [
        {"step": i, "loss": 1 / i, "mean_reward": i / 9, "rewards/correctness/mean": i / 9,
         "rewards/format/mean": 1.0, "entropy": 0.1, "kl_div": None}
        for i in range(1, 9)
    ]  # fmt: skip
    for name in ("sft", "grpo", "distill"):
        write_csv(Path(f"plots/{name}.csv"), curve)
    write_rows(Path("rollouts/grpo.jsonl"), (
        {"step": 1 + i // 8, "question": f"q{i // 4}", "gold": "1", "completion": "c",
         "rewards": {"correctness": generator.random(), "format": generator.random()}}
        for i in range(64)
    ))  # fmt: skip


@pytest.fixture
def params(raw):
    """Validated in the checkout, which keeps what the trainers' options are."""
    return parameters.validate(raw, "params.yaml")


@pytest.fixture
def project(params, here):
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, here / name)
    return here


def run(
    params: Params, fail_if_worse: bool = False, compare: Sequence[str] = (),
    controls: Sequence[str] = (),
) -> list[dict]:  # fmt: skip
    """The events that a report leaves for the trackers."""
    section = {"fail_if_worse": fail_if_worse, "compare": list(compare),
               "controls": list(controls)}  # fmt: skip
    params = params.model_copy(update={"report": Report(**section)})
    written = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump(written | {"report": section}))
    spool = Path("events.jsonl")
    spool.unlink(missing_ok=True)
    report.body(params, Run("report", params, Spool(spool)))
    return [json.loads(line) for line in spool.read_text().splitlines()]


class Reader(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]


def test_a_run_of_several_tasks(project, params):
    write_project({"gsm8k": RIGHT, "math": RIGHT})
    events = run(params)
    assert {path.name for path in Path("reports").iterdir()} == FILES
    text = Path("reports/report.md").read_text()
    assert "| gsm8k | grpo | 1,000 | 0.900 |" in text
    assert "- **better**: GRPO against SFT, math: +40.0 points [" in text
    assert "| math | grpo | 0.900 [0.450, 0.900] |" in text, "pass@1, in order"
    assert "| math | sft | grpo | +40.0 points [" in text, "pass@1 and pass@4, after minus before"
    assert "GRPO's samples solve more problems than SFT's." in text
    assert "## By level: math" in text and "## By level: gsm8k" not in text
    assert "| gsm8k | sft | 40 | 50.0% | 50.0% | 0.0% | 0.0% | 0.0% |" in text, "kinds of error"
    assert "| evaluate@grpo | 5 | 1,234,567 | 812 |" in text and "| all | 455 |" in text
    assert "dvc repro evaluate@student" in text
    shares = re.findall(r"^\| (?:correctness|format) \|.* (\d+\.\d)% \|$", text, re.MULTILINE)
    assert len(shares) == 2 and float(shares[0]) > 99, "the weight of format is 0"

    assert "100% of its teacher's parameters and on math 94% of its accuracy." in text
    assert "that it added skill is not shown" in text

    table = next(event for event in events if event["event"] == "table")
    assert len(table["rows"]) == 10 and table["rows"][3]["pass@4_low"] == 0.45
    assert table["rows"][3]["errors.reasoning"] == 4, "no cell holds a table"
    sent = {Path(event["path"]).name for event in events if event["event"] == "artifact"}
    assert sent == FILES
    values = next(event for event in events if event["event"] == "metrics")["values"]
    assert values["grpo.math.accuracy"] == 0.9 and len(values) == 10
    summary = json.loads(Path("reports/summary.json").read_text())
    assert summary["models"]["grpo"]["tasks"]["math"]["accuracy"] == 0.9
    assert "pass@4_low" not in summary["models"]["grpo"]["tasks"]["math"]
    assert summary["pairs"]["math"]["sft-grpo"]["verdict"] == "better"
    assert summary["pairs"]["math"]["sft-grpo"]["pass@4"]["difference"] == 0.4
    assert {"report", "evaluate@grpo", "audit"} <= set(summary["seconds"])


def test_the_page_opens_offline_and_every_link_leads_somewhere(project, params):
    write_project({"gsm8k": RIGHT, "math": HARMED})
    run(params)
    page = Path("reports/report.html").read_text()
    found = Reader(page)
    assert not {"script", "img", "link", "iframe", "object", "base"} & set(found.tags)
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    leads = [v for name, v in found.attributes if name in ("href", "xlink:href", "src", "action")]
    assert leads and all(value.startswith("#") and value[1:] in ids for value in leads)
    assert not re.search(r"url\((?!#)|@import", page)
    assert found.tags.count("svg") == 1 + 4 + 2
    assert "gsm8k, sft to grpo, gained: 16" in page
    assert "math, base to sft, gained: 20<" in page
    assert "math, control to grpo, lost: 31, the first 20 of them" in page
    assert page.count("grpo says &lt;/pre&gt;&lt;script") == (16 + 1 + 2) + (16 + 20 + 20)


def test_the_same_student_taught_otherwise(project, params):
    right = {**RIGHT, "student-demonstrations": 4, "student-logits": 35, "student-unverified": 39}
    compare = ("demonstrations", "logits", "unverified")
    write_project({"arithmetic": right}, compare=compare)
    run(params)
    without = {name: Path("reports", name).read_text() for name in ("report.md", "table.txt")}
    assert "otherwise" not in without["report.md"] and "demonstrations.json" not in str(without)
    assert set(json.loads(Path("reports/summary.json").read_text())["models"]) == set(MODELS)

    events = run(params, compare=compare)
    text = Path("reports/report.md").read_text()
    section = text.partition("## The same student, taught otherwise\n")[2].partition("\n## ")[0]
    assert "- **worse**: Taught by the method demonstrations rather than verified" in section
    assert "the same student is worse on arithmetic: -75.0 points [" in section
    assert "- **within noise**: Taught by the method logits rather than verified" in section
    assert "the same student is not shown to differ on arithmetic: +2.5 points [" in section
    assert "| verified | 3,838 | 0.850 | [0.750, 0.950] |  |  |  |  |" in section
    assert re.search(r"\| demonstrations \| 3,838 \| 0.100 \| \[\S+ \S+\] \| -75.0 points "
                     r"\[-87.5, -62.5\] \| \[0\]\S+ \| \[30\]\S+ \| 1.9e-09", section)  # fmt: skip
    assert "dvc repro evaluate_also@demonstrations" in text
    table = Path("reports/table.txt").read_text().splitlines()
    assert [line.split()[0] for line in table[6:]] == [f"student-{how}" for how in compare]
    assert table[6].endswith("the same student taught by demonstrations")
    assert [" ".join(line.split()) for line in table[:6]] == [
        " ".join(line.split()) for line in without["table.txt"].splitlines()
    ]
    summary = json.loads(Path("reports/summary.json").read_text())
    assert summary["models"]["student-logits"]["tasks"]["arithmetic"]["accuracy"] == 35 / 40
    assert summary["pairs"]["arithmetic"]["student-student-demonstrations"]["verdict"] == "worse"
    assert "distill_also@logits" in summary["seconds"]
    values = next(event for event in events if event["event"] == "metrics")["values"]
    assert values["student-demonstrations.arithmetic.accuracy"] == 0.1
    found = Reader(Path("reports/report.html").read_text())
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids)) and "otherwise" in ids
    assert all(v[1:] in ids for name, v in found.attributes if name == "href")


def test_a_student_of_demonstrations_is_not_called_the_teachers(project, params):
    write_project({"arithmetic": RIGHT})
    wanted = {0: "distilled from the GRPO model", 1: "trained on the demonstrations, as"}
    for fell_back in wanted:
        write_json(Path("metrics/distill.json"),
                   {"method": "verified", "kept": 3, "rows": 8000, "fell_back": fell_back,
                    "seconds": 61.4})  # fmt: skip
        run(params)
        for file in ("report.md", "report.html", "table.txt"):
            text = Path("reports", file).read_text()
            assert [words in text for words in wanted.values()] == [not fell_back, bool(fell_back)]


def test_controls_stand_behind_sft_and_grpo_is_compared_with_each(project, params):
    right = {**RIGHT, "sft-longer": 21, "sft-verified": 35}
    write_project({"arithmetic": right}, controls=("longer", "verified"))
    run(params)
    assert "sft-longer" not in Path("reports/report.md").read_text()
    run(params, controls=("longer", "verified"))
    text, summary = Path("reports/report.md").read_text(), Path("reports/summary.json").read_text()
    names = [*MODELS][:2] + ["sft-longer", "sft-verified"] + [*MODELS][2:]
    assert list(json.loads(summary)["models"]) == names
    table = Path("reports/table.txt").read_text().splitlines()
    assert [line.split()[0] for line in table[1:]] == names
    assert table[3].endswith("as sft, for twice the steps")
    pairs_ = json.loads(summary)["pairs"]["arithmetic"]
    assert pairs_["sft-longer-grpo"]["verdict"] == "better"
    assert pairs_["sft-verified-grpo"]["verdict"] == "within noise"
    assert "Against SFT on right demonstrations alone GRPO's difference on arithmetic" in text
    assert "dvc repro evaluate_control@verified" in text


def test_a_students_evaluation_that_is_missing_is_named(project, params):
    write_project({"arithmetic": RIGHT})
    with pytest.raises(UserError, match=r"^metrics/evaluate_also/logits.json is missing"):
        run(params, compare=["logits"])


def test_a_report_is_the_same_bits_every_time(project, params):
    write_project({"math": RIGHT})
    bits = []
    for _ in range(2):
        run(params)
        bits.append({path.name: path.read_bytes() for path in Path("reports").iterdir()})
        bits[-1].pop("summary.json")  # says how long this took
        shutil.rmtree("reports")
    assert bits[0] == bits[1]


def test_an_evaluation_without_the_newer_scores(project, params):
    write_project({"arithmetic": RIGHT}, old=True)
    run(params)
    text = Path("reports/report.md").read_text()
    assert "| grpo | 1,000 | 0.900 | [0.800, 1.000] | 1.000 | 1.000 |" in text
    for absent in ("Kinds of error", "pass@", "mean reward [", "tokens", "Several samples"):
        assert absent not in text
    lines = Path("reports/table.txt").read_text().splitlines()
    assert lines[0] == "model    parameters  accuracy  95 % interval   format  what it is"
    assert lines[4] == "grpo     1,000       0.900     [0.800, 1.000]  1.000   after GRPO"  # fmt: skip # noqa: E501


def test_without_curves_there_are_still_all_files(project, params):
    """sft.method: none leaves an empty curve."""
    write_project({"arithmetic": RIGHT})
    write_csv(Path("plots/sft.csv"), [{"step": 0, "loss": None}])
    write_csv(Path("plots/distill.csv"), [{"step": 0, "loss": None}])
    write_rows(Path("rollouts/grpo.jsonl"), [])
    run(params)
    assert {path.name for path in Path("reports").iterdir()} == FILES


def test_harm_by_grpo_is_said_first_and_fails_only_where_it_is_asked_to(project, params):
    write_project({"gsm8k": RIGHT, "math": HARMED})
    run(params)
    said = Path("reports/report.md").read_text().splitlines()[2]
    assert said.startswith("**GRPO is worse than SFT on math (-40.0 points [")
    page = Path("reports/report.html").read_text()
    assert page.index('class="alarm"') < page.index('class="verdicts"')

    shutil.rmtree("reports")
    with pytest.raises(
        UserError, match=r"^GRPO is worse than SFT on math \(-40.*if_worse to false$"
    ):
        run(params, fail_if_worse=True)
    assert {path.name for path in Path("reports").iterdir()} == FILES
    assert "artifact" in Path("events.jsonl").read_text()

    write_project({"gsm8k": RIGHT, "math": RIGHT})
    run(params, fail_if_worse=True)
    assert 'class="alarm"' not in Path("reports/report.html").read_text()


def test_metrics_without_a_task_are_a_users_mistake(project, params):
    write_project({})
    with pytest.raises(UserError, match="name no task"):
        run(params)
    Path("metrics/evaluate/sft.json").unlink()
    with pytest.raises(UserError, match=r"metrics/evaluate/sft.json is missing"):
        run(params)
