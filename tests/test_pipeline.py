"""The whole pipeline at a very small size in a copy of the checkout: what runs, and when."""

import json
import re
import sqlite3
import sys
from pathlib import Path

import pytest

from tests.conftest import Project, merged

MODELS = ["base", "sft", "control", "grpo", "student"]
EVALUATIONS = [f"evaluate@{model}" for model in MODELS]
# `code` is another one, a moment long: it is tracked nowhere, and has no log and no metrics.
ALL = {"prepare", "base", "sft", "audit", "grpo", "merge", "distill", *EVALUATIONS, "report"}
WHOLE = {"code", *ALL}  # as DVC has it; `code` trains nothing and is tracked nowhere
# evaluate@student is not among them: the tiny student is taught from demonstrations, comes out the
# same, and DVC sees that.
BELOW_GRPO = {"grpo", "merge", "distill", "evaluate@grpo", "report"}


def ran(output: str) -> set[str]:
    """The DVC stages whose command was executed."""
    return set(re.findall(r"Running stage '([^']+)'", output))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Project, str]:
    """A project after its first `dvc repro`, committed, and what that printed."""
    import yaml

    from tests.conftest import ROOT, TINY

    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    project = Project(tmp_path_factory.mktemp("pipeline") / "project", merged(raw, TINY))
    output = project.dvc("repro")
    project.commit("first run")
    return project, output


def test_every_stage_runs_once_and_its_outputs_are_there(done):
    project, output = done
    assert ran(output) == WHOLE and "'code'" in output.splitlines()[0]
    assert "Traceback" not in output
    summary = json.loads((project.folder / "reports/summary.json").read_text())
    assert list(summary["models"]) == MODELS
    for model in summary["models"].values():
        score = model["tasks"]["arithmetic"]
        assert score["n"] == 12 and 0 <= score["low"] <= score["accuracy"] <= score["high"] <= 1
        assert 0 <= score["format_compliance_rate"] <= 1
        assert model["parameters"] > 0
    assert set(summary["seconds"]) == ALL
    page = (project.folder / "reports/report.html").read_text()
    assert page.count("<svg") > 5 and "http://" not in re.sub(r'xmlns\S*="[^"]*"', "", page)
    text = (project.folder / "reports/report.md").read_text()
    assert text.count("says the same of all of them") == len(MODELS), "dvc.lock, while DVC runs"
    for model in MODELS:
        assert f"dvc repro evaluate@{model}" in text
    lock = (project.folder / "dvc.lock").read_text()
    told = set(re.findall(r"\| (?:samples|model|data|scores) \| \S+ \| ([0-9a-f]{32}\S*) \|", text))
    assert len(told) >= 14 and all(f"md5: {md5}\n" in lock for md5 in told)
    for stage in ALL:
        assert (project.folder / "logs" / f"{stage}.log").stat().st_size
    adapter = {p.name for p in (project.folder / "models/adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= adapter


def test_the_prompt_of_evaluation_is_the_prompt_of_training(done):
    from stages.core.models import load_tokenizer

    project, _ = done
    tokenizer = load_tokenizer(project.folder / "models/sft")
    test = [json.loads(line) for line in (project.folder / "data/test.jsonl").open()]
    rows = [json.loads(line) for line in (project.folder / "samples/sft.jsonl").open()]
    for row, sample in zip(test, rows, strict=True):
        text = tokenizer.apply_chat_template(
            row["prompt"], add_generation_prompt=True, tokenize=False
        )
        assert sample["prompt"] == text and sample["question"] == row["question"]


def test_a_second_run_does_nothing_nor_does_a_comment_or_an_untracked_parameter(done):
    project, _ = done
    params = project.folder / "params.yaml"
    before = params.read_text()
    assert ran(project.dvc("repro")) == set()
    params.write_text("# a comment\n" + before.replace("max_parallel: auto", "max_parallel: 2"))
    assert ran(project.dvc("repro")) == set()
    params.write_text(before)


def test_mlflow_holds_a_parent_with_a_run_for_each_stage(done):
    project, _ = done
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("grpo-pipeline")
    runs = client.search_runs([experiment.experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = {r.info.run_name: r for r in runs if "mlflow.parentRunId" in r.data.tags}
    parent = next(p for p in parents if len(p.data.tags) > 10)
    assert set(children) == ALL
    assert all(c.info.status == "FINISHED" for c in children.values())
    assert {c.data.tags["mlflow.parentRunId"] for c in children.values()} == {parent.info.run_id}
    grpo = children["grpo"]
    assert grpo.data.params["grpo.kl_coef"] == "0.0"
    assert {"mean_reward", "loss", "entropy", "clip_fraction", "accuracy"} <= set(grpo.data.metrics)
    assert len(client.get_metric_history(grpo.info.run_id, "mean_reward")) == 3
    assert grpo.inputs.dataset_inputs[0].dataset.name == "data/grpo.jsonl"
    assert {"git.commit", "git.dirty", "dvc.stage", "input.models/sft", "version.trl"} <= set(
        grpo.data.tags
    )
    artifacts = {a.path for a in client.list_artifacts(grpo.info.run_id)}
    assert "grpo.jsonl" in artifacts and artifacts <= {
        "grpo.jsonl",
        "findings.json",
        "preflight.json",
    }
    report = children["report"].info.run_id
    table = json.loads(Path(client.download_artifacts(report, "results.json")).read_text())
    assert [row[table["columns"].index("model")] for row in table["data"]] == MODELS
    assert {f"{model}.arithmetic.accuracy" for model in MODELS} <= set(parent.data.metrics)
    for stage in ALL:
        assert parent.data.tags["stage." + stage.replace("@", ".")] == children[stage].info.run_id
    version = client.get_model_version_by_alias("grpo-policy", "final")
    assert version.source == (project.folder / "models/grpo").as_uri()


def test_nothing_is_copied_twice_and_nothing_is_left_to_send(done):
    project, _ = done
    weights = project.folder / "models/sft/model.safetensors"
    assert weights.stat().st_nlink > 1, "the cache holds the same file, not a copy of it"
    assert not list((project.folder / ".cache/tracking").glob("*.jsonl"))
    assert not list(project.folder.rglob("*.new"))


def test_an_experiment_changes_one_parameter_and_reruns_what_hangs_on_it(done):
    project, _ = done
    output = project.dvc("exp", "run", "--temp", "-n", "more-kl", "-S", "grpo.kl_coef=0.01",
                         "-S", "grpo.rewards.format.weight=0.2")  # fmt: skip
    assert ran(output) == BELOW_GRPO | {"audit"}, "the weights of the rewards are audit's, too"
    assert project.run("git", "status", "--porcelain") == ""
    shown = json.loads(project.dvc("exp", "show", "--json"))
    assert "more-kl" in json.dumps(shown)
    diff = project.dvc("params", "diff", "HEAD", "more-kl")
    assert "grpo.kl_coef" in diff and "0.01" in diff
    assert "evaluate/grpo.json" in project.dvc("metrics", "diff", "HEAD", "more-kl", "--all")

    with sqlite3.connect(project.folder / "mlflow.db") as store:
        names = dict(
            store.execute(
                "select r.name, p.value from runs r join params p on p.run_uuid = r.run_uuid"
                " where p.key = 'grpo.kl_coef' and r.name = 'more-kl'"
            )
        )
        tags = dict(
            store.execute(
                "select t.key, t.value from tags t join runs r on r.run_uuid = t.run_uuid"
                " where r.name = 'more-kl'"
            )
        )
    assert names == {"more-kl": "0.01"}
    assert "stage.sft" in tags, "a stage that was not rerun is found from the parent"


def test_an_experiment_restored_from_the_cache_has_its_run_in_mlflow(done):
    project, _ = done
    from mlflow import MlflowClient

    setting = ["-S", "grpo.kl_coef=0.01", "-S", "grpo.rewards.format.weight=0.2"]
    assert ran(project.dvc("exp", "run", "--temp", "-n", "the-same", *setting)) == set()
    assert "added the-same" in project.stage("stages.core.restored")
    assert "added" not in project.stage("stages.core.restored"), "only once"

    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("grpo-pipeline").experiment_id
    runs = {r.info.run_name: r for r in client.search_runs([experiment])}
    first, second = runs["more-kl"], runs["the-same"]
    assert second.data.params["grpo.kl_coef"] == "0.01" and second.info.status == "FINISHED"
    shared = first.data.metrics.keys() & second.data.metrics.keys()
    assert "grpo.arithmetic.accuracy" in shared
    assert all(first.data.metrics[name] == second.data.metrics[name] for name in shared)
    made_by = {k: v for k, v in second.data.tags.items() if k.startswith("stage.")}
    assert made_by == {k: v for k, v in first.data.tags.items() if k.startswith("stage.")}
    assert len(made_by) == len(ALL)


def test_a_changed_parameter_reruns_what_hangs_on_it_and_nothing_else(done):
    project, _ = done
    params = project.folder / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("kl_coef: 0.0", "kl_coef: 0.01").replace(
        "format:\n      weight: 0.0", "format:\n      weight: 0.2"))  # fmt: skip
    output = project.dvc("repro")
    assert ran(output) == set(), "the experiment's results are in the run cache"
    assert set(re.findall(r"Stage '([^']+)' is cached", output)) == BELOW_GRPO | {"audit"}
    params.write_text(before)
    project.dvc("repro")


LOADED = """
import atexit, json, runpy, sys
from pathlib import Path

def note():
    files = [getattr(m, "__file__", None) for n, m in sys.modules.items() if n[:7] == "stages."]
    Path("loaded.json").write_text(json.dumps([Path(f).relative_to(Path.cwd()).as_posix()
                                               for f in files if f and Path(f).stat().st_size]))

atexit.register(note)
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__")
"""


@pytest.mark.parametrize("command", [["merge"], ["evaluate", "base"], ["report"]])
def test_what_a_stage_loads_while_it_runs_is_on_its_list(done, command):
    project, _ = done
    listed = json.loads((project.folder / f".code/{command[0]}.json").read_text())
    project.run(sys.executable, "-c", LOADED, f"stages.{command[0]}", *command[1:])
    loaded = {*json.loads((project.folder / "loaded.json").read_text())}
    (project.folder / "loaded.json").unlink()
    project.run("git", "checkout", "--", "dvc.lock")
    assert {"stages/core/stage.py", "stages/core/modules.py"} <= loaded <= listed.keys()


def test_a_comment_in_a_module_reruns_the_stages_that_import_it(done):
    """Not those below them, where what they make comes out the same."""
    project, _ = done
    project.dvc("repro")
    path = project.folder / "stages/merge.py"
    before = path.read_text()
    path.write_text(before + "# a comment\n")
    asked = json.loads(project.stage("stages.why", "--json"))
    changed = {stage["stage"]: stage["code"] for stage in asked["stages"]
               if stage["state"] == "changed"}  # fmt: skip
    assert changed == {"code": [], "merge": [{"path": "stages/merge.py", "how": "changed"}]}
    assert ran(project.dvc("repro")) == {"code", "merge", "report"}, "metrics/ holds new seconds"
    assert ran(project.dvc("repro")) == set()
    path.write_text(before)
    assert ran(project.dvc("repro")) == set(), "all from the cache"


def test_code_that_was_edited_behind_the_first_stage_is_recorded_as_it_ran(done):
    project, _ = done
    project.dvc("repro")
    path = project.folder / "stages/merge.py"
    before = path.read_text()
    path.write_text(before + "# edited while the stages before it ran\n")
    assert ran(project.dvc("repro", "--force", "--single-item", "merge")) == {"merge"}
    assert ran(project.dvc("repro", "merge")) == {"code"}, "the list is as merge made it"
    path.write_text(before)
    assert "'merge' is cached" in project.dvc("repro"), "the edited code's run counts no longer"
    assert "says the same of all of them" in (project.folder / "reports/report.md").read_text()


def test_a_stage_by_hand_makes_its_own_list(done):
    """Without it a training would go on from a checkpoint of other code."""
    project, _ = done
    path, made = project.folder / "stages/merge.py", project.folder / ".code/merge.json"
    before, listed = path.read_text(), made.read_text()
    path.write_text(before + "# by hand\n")
    project.stage("stages.merge")
    assert json.loads(made.read_text())["stages/merge.py"] != json.loads(listed)["stages/merge.py"]
    made.unlink()
    path.write_text(before)
    project.stage("stages.merge")
    assert made.read_text() == listed
    project.dvc("repro")


def test_mistakes_end_in_one_line_and_leave_nothing(done):
    project, _ = done
    folder = project.folder
    for changes, says in (
        ({"grpo": {"kl_coeff": 1}}, "grpo: params.yaml: grpo.kl_coeff is not a key here"),
        ({"distill": {"min_samples": 10_000, "if_fewer": "fail"}}, "min_samples 10000 is more"),
    ):
        import yaml

        before = (folder / "params.yaml").read_text()
        project.write(merged(yaml.safe_load(before), changes))
        stage = "grpo" if "grpo" in changes else "distill"
        output = project.stage(f"stages.{stage}", ok=False)
        assert says in output and "Traceback" not in output
        (folder / "params.yaml").write_text(before)
    (folder / "models/sft").rename(folder / "elsewhere")
    output = project.stage("stages.merge", ok=False)
    assert "models/sft is missing: run the stage that makes it" in output
    assert "Traceback" not in output
    (folder / "elsewhere").rename(folder / "models/sft")
    assert not list(folder.rglob(".*.new"))


def test_the_same_student_is_taught_otherwise_and_nothing_else_runs_again(done):
    project, _ = done
    also = {"distill_also@demonstrations", "evaluate_also@demonstrations",
            "sft_also@longer", "evaluate_control@longer"}  # fmt: skip
    setting = ["-n", "otherwise", "-S", "report.compare=[demonstrations]",
               "-S", "report.controls=[longer]"]  # fmt: skip
    assert ran(project.dvc("exp", "run", *setting)) == also | {"report"}
    summary = json.loads((project.folder / "reports/summary.json").read_text())
    with_control = [*MODELS[:2], "sft-longer", *MODELS[2:]]
    assert list(summary["models"]) == [*with_control, "student-demonstrations"]
    assert "sft-longer-grpo" in summary["pairs"]["arithmetic"]
    last = [(project.folder / f"plots/{name}.csv").read_text().splitlines()[-1]
            for name in ("sft", "sft-longer")]  # fmt: skip
    assert [line.split(",")[0] for line in last] == ["4", "8"]
    pair = summary["pairs"]["arithmetic"]["student-student-demonstrations"]
    assert (pair["gained"], pair["lost"]) == (0, 0), "too few were verified: the same student"
    section = (project.folder / "reports/report.md").read_text().partition("taught otherwise")[2]
    assert "| verified (too few: demonstrations) | 64 |" in section
    assert "| demonstrations | 64 |" in section
    assert "Nothing changed" in project.stage("stages.why")

    with sqlite3.connect(project.folder / "mlflow.db") as store:
        names = {name for (name,) in store.execute("select name from runs")}
        tags = dict(store.execute(
            "select t.key, t.value from tags t join runs r on r.run_uuid = t.run_uuid"
            " where r.name = 'otherwise'"
        ))  # fmt: skip
    assert also <= names
    assert {"stage.distill_also.demonstrations", "stage.distill"} <= set(tags)

    project.run("git", "checkout", "HEAD", "--", "params.yaml", "dvc.lock")
    assert ran(project.dvc("repro")) <= {"report"}
    assert (project.folder / "samples/student-demonstrations.jsonl").exists()
    summary = json.loads((project.folder / "reports/summary.json").read_text())
    assert list(summary["models"]) == MODELS and set(summary["seconds"]) == ALL
    assert "taught otherwise" not in (project.folder / "reports/report.md").read_text()
