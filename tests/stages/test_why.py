"""`python -m stages.why` on real DVC projects: a small one that has run, and this one."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import why
from stages.core.errors import UserError
from tests.conftest import ROOT

DVC_YAML = """
stages:
  prepare:
    cmd: python make.py prepare 2
    deps: [make.py, raw]
    params: [prepare]
    outs: [out/prepare]
    metrics: [metrics/prepare.json]
  train:
    cmd: python make.py train 30
    deps: [make.py, out/prepare]
    params: [train.lr, train.lora, other.yaml: [depth]]
    outs: [out/train]
    metrics: [metrics/train.json]
  evaluate:
    foreach: {a: 5, b: 7.5}
    do:
      cmd: python make.py evaluate/${key} ${item}
      deps: [make.py, out/train]
      params: [test]
      outs: ["out/evaluate/${key}"]
      metrics: ["metrics/evaluate/${key}.json"]
  report:
    cmd: python make.py report 0
    deps: [out/evaluate/a, out/evaluate/b]
    outs: [out/report]
"""
MAKE = """
import json, pathlib, sys, time
name, seconds = sys.argv[1:]
if pathlib.Path("slow").exists():
    pathlib.Path("started").touch()
    time.sleep(60)
out = pathlib.Path("out", name)
out.mkdir(parents=True)
(out / "file").write_text(name + pathlib.Path("params.yaml").read_text().split("#")[0])
if name != "report":
    metrics = pathlib.Path("metrics", name + ".json")
    metrics.parent.mkdir(parents=True, exist_ok=True)
    metrics.write_text(json.dumps({"seconds": float(seconds)}))
"""
PARAMS = "prepare: 1\ntrain:\n  lr: 0.1\n  lora: {r: 16, targets: [q, v]}\ntest: 5\n"
ALL = ["prepare", "train", "evaluate@a", "evaluate@b", "report"]


def dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT),
           "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # fmt: skip
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def new(tmp_path_factory) -> Path:
    """A project that has never run."""
    folder = tmp_path_factory.mktemp("new")
    texts = {"dvc.yaml": DVC_YAML, "make.py": MAKE, "params.yaml": PARAMS,
             "other.yaml": "depth: 2\n", "raw/a.txt": "a"}  # fmt: skip
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    dvc(folder, "init", "--no-scm", "--quiet")
    return folder


@pytest.fixture(scope="module")
def ran(new, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ran") / "project"
    shutil.copytree(new, folder)
    dvc(folder, "repro")
    return folder


@pytest.fixture
def here(ran, tmp_path, monkeypatch) -> Path:
    """A copy of the project that has run, as the working folder."""
    shutil.copytree(ran, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def replace(file: str, old: str, new: str) -> None:
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new))


def one(name: str) -> dict:
    [stage] = why.answer(name)["stages"]
    return stage


def rerun(name: str) -> list[str]:
    return [row["stage"] for row in one(name)["reruns"]]


def test_nothing_changed(here):
    found = why.answer()
    assert sorted(stage["stage"] for stage in found["stages"]) == sorted(ALL)
    assert {stage["state"] for stage in found["stages"]} == {"unchanged"}
    assert found["reruns"] == [] and found["seconds"] == 0
    assert why.in_full(one("train")) == ["train: nothing changed since its last run"]
    assert "would run nothing" in why.in_lines(found)[-1]


def test_a_comment_in_the_parameters_changes_nothing(here):
    replace("params.yaml", "test: 5", "test: 5  # as before")
    assert {stage["state"] for stage in why.answer()["stages"]} == {"unchanged"}


def test_a_changed_parameter_by_its_full_name_and_what_hangs_on_it(here):
    replace("params.yaml", "r: 16", "r: 32")
    stage = one("train")
    assert stage["state"] == "changed" and stage["above"] == []
    assert stage["params"] == [{"name": "train.lora.r", "old": 16, "new": 32}]
    assert stage["inputs"] == stage["code"] == stage["outputs"] == []
    assert stage["reruns"] == [
        {"stage": "train", "seconds": 30.0},
        {"stage": "evaluate@a", "seconds": 5.0},
        {"stage": "evaluate@b", "seconds": 7.5},
        {"stage": "report", "seconds": None},
    ]
    lines = why.in_full(stage)
    assert "  parameter  train.lora.r: 16 -> 32" in lines
    assert "  together    42.5 s, and 1 not known" in lines
    assert why.in_lines(why.answer())[-1] == (
        "At most 4 stages rerun; last time they took 42.5 s, and 1 not known."
    )


def test_parameters_that_come_and_go_and_those_of_another_file(here):
    replace("params.yaml", "lora: {r: 16, targets: [q, v]}", "lora: {r: 16, bias: none}")
    replace("other.yaml", "2", "3")
    assert one("train")["params"] == [
        {"name": "train.lora.bias", "old": why.ABSENT, "new": "none"},
        {"name": "train.lora.targets", "old": ["q", "v"], "new": why.ABSENT},
        {"name": "other.yaml:depth", "old": 2, "new": 3},
    ]


def test_a_stage_below_the_changed_one_says_so(here):
    replace("params.yaml", "lr: 0.1", "lr: 0.2")
    stage = one("evaluate@a")
    assert stage["state"] == "below" and stage["above"] == ["train"]
    assert rerun("evaluate@a") == ["evaluate@a", "report"]
    assert why.in_full(stage)[0] == "evaluate@a itself has not changed; above it changed: train"
    assert one("prepare")["state"] == "unchanged"


def test_a_changed_and_a_missing_input(here):
    Path("raw/a.txt").write_text("b")
    assert one("prepare")["inputs"] == [{"path": "raw", "how": "changed", "made_by": None}]
    shutil.rmtree("out/prepare")
    assert one("prepare")["outputs"] == [{"path": "out/prepare", "how": "missing"}]
    assert one("train")["inputs"] == [
        {"path": "out/prepare", "how": "missing", "made_by": "prepare"}
    ]
    assert "(made by prepare): missing" in "\n".join(why.in_full(one("train")))


def test_changed_code_and_a_changed_command(here):
    Path("make.py").write_text(MAKE + "# more\n")
    replace("dvc.yaml", "make.py train 30", "make.py train 31")
    stage = one("train")
    assert stage["code"] == [{"path": "make.py", "how": "changed"}]
    assert stage["command"] == {"old": "python make.py train 30", "new": "python make.py train 31"}
    assert one("prepare")["command"] is None
    assert "command" in why.in_lines(why.answer())[1]


MODULES = {
    "stages/train.py": "from stages.core import loop\n# stage.main(",
    "stages/evaluate.py": "def f():\n    from stages.core import both\n# stage.main(",
    "stages/core/loop.py": "import stages.core.both",
    "stages/core/both.py": "x = 1",
    "stages/core/other.py": "x = 1",
}


@pytest.fixture
def with_code(here) -> Path:
    """The same project with the stage `code`, and modules of its own for two of its stages."""
    text = DVC_YAML.replace("stages:\n", "stages:\n  code:\n    cmd: python -m stages.code\n"
                            "    deps: [stages]\n    outs: [.code]\n", 1)  # fmt: skip
    for name, after in (("train", "out/prepare"), ("evaluate", "out/train")):
        deps = f"deps: [make.py, {after}]"
        assert deps in text
        text = text.replace(deps, f"deps: [make.py, .code/{name}.json, {after}]")
    Path("dvc.yaml").write_text(text)
    for name, code in MODULES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(code)
    dvc(here, "repro")
    return here


def changed_code() -> dict[str, list]:
    """Stage -> what is said of its code, of those that changed themselves."""
    return {stage["stage"]: stage["code"] for stage in why.answer()["stages"]
            if stage["state"] == "changed"}  # fmt: skip


def ran_in(said: str) -> list[str]:
    return [name for name in ["code", *ALL] if f"Running stage '{name}'" in said]


def test_nothing_changed_in_the_code(with_code):
    assert {stage["state"] for stage in why.answer()["stages"]} == {"unchanged"}
    assert ran_in(dvc(with_code, "repro")) == []


@pytest.mark.parametrize(("path", "stages", "reruns"), [
    ("stages/core/loop.py", ["train"], ["train", "evaluate@a", "evaluate@b", "report"]),
    ("stages/core/both.py", ["train", "evaluate@a", "evaluate@b"],
     ["train", "evaluate@a", "evaluate@b", "report"]),
    ("stages/evaluate.py", ["evaluate@a", "evaluate@b"], ["evaluate@a", "evaluate@b", "report"]),
    ("stages/core/other.py", [], []),
])  # fmt: skip
def test_a_changed_module_is_named_where_it_counts(with_code, path, stages, reruns):
    """Before DVC has run `code` again, and without writing anything."""
    lists = {file: file.read_bytes() for file in Path(".code").iterdir()}
    replace(path, MODULES[path], MODULES[path] + "\n# a comment")
    assert changed_code() == {"code": [], **{n: [{"path": path, "how": "changed"}] for n in stages}}
    assert [row["stage"] for row in why.answer()["reruns"]] == ["code", *reruns]
    assert [row["stage"] for row in one("code")["reruns"]] == ["code"]
    assert {file: file.read_bytes() for file in Path(".code").iterdir()} == lists
    said = dvc(with_code, "repro")
    assert ran_in(said) == ["code", *stages], "what comes out the same reruns nothing below"
    assert changed_code() == {}


def test_modules_that_come_and_go(with_code):
    Path("stages/core/loop.py").write_text("from stages.core import other")
    assert changed_code()["train"] == [
        {"path": "stages/core/both.py", "how": "no longer imported"},
        {"path": "stages/core/loop.py", "how": "changed"},
        {"path": "stages/core/other.py", "how": "new"},
    ]
    Path("stages/core/both.py").unlink()
    assert changed_code()["evaluate@a"] == [{"path": "stages/core/both.py", "how": "missing"}]
    assert "code: stages/core/both.py and 2 more" in "\n".join(why.in_lines(why.answer()))


def test_an_edit_that_is_taken_back_was_none(with_code):
    Path("stages/core/both.py").write_text("x = 2")
    Path("stages/core/both.py").write_text("x = 1")
    assert {stage["state"] for stage in why.answer()["stages"]} == {"unchanged"}


def test_a_list_that_is_in_no_cache(with_code):
    shutil.rmtree(".dvc/cache")
    assert changed_code().get("train", []) == []
    replace("stages/core/loop.py", "import", "import sys,")
    [said] = one("train")["code"]
    assert said == {"path": ".code/train.json", "how": why.NO_LIST}


def test_code_that_is_not_python(with_code):
    Path("stages/core/loop.py").write_text("def f(:")
    with pytest.raises(UserError, match=r"stages/core/loop.py, line 1 is not valid Python"):
        why.answer()


def test_a_run_from_before_there_were_lists(here):
    replace("dvc.yaml", "[make.py, out/prepare]", "[make.py, .code/train.json, out/prepare]")
    Path("stages").mkdir()
    Path("stages/train.py").write_text(MODULES["stages/evaluate.py"])
    assert one("train")["code"] == [{"path": ".code/train.json", "how": "new"}]


def test_at_most_is_kept(here):
    """A comment in the code reruns what lists it; what comes out the same reruns nothing below."""
    Path("make.py").write_text(MAKE + "# more\n")
    predicted = [row["stage"] for row in why.answer()["reruns"]]
    said = dvc(here, "repro")
    actual = [name for name in ALL if f"Running stage '{name}'" in said]
    assert sorted(predicted) == sorted(ALL)
    assert actual == ALL[:-1]
    assert {stage["state"] for stage in why.answer()["stages"]} == {"unchanged"}


def test_never_run(new, tmp_path, monkeypatch, capsys):
    shutil.copytree(new, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    found = why.answer()
    assert {stage["state"] for stage in found["stages"]} == {"never run"}
    assert why.in_full(one("train"))[0].startswith("train has never run")
    assert rerun("evaluate@b") == ["evaluate@b", "report"]
    assert "not known" in why.in_lines(found)[-1]


def test_a_stage_added_later(here):
    Path("dvc.yaml").write_text(DVC_YAML + "  later: {cmd: python make.py later 1, outs: [later]}")
    assert one("later")["state"] == "never run"
    assert one("report")["state"] == "unchanged"


def test_frozen_and_always(here):
    replace("dvc.yaml", "deps: [make.py, raw]", "deps: [make.py, raw]\n    frozen: true")
    replace(
        "dvc.yaml", "python make.py report 0", "python make.py report 0\n    always_changed: true"
    )
    Path("raw/a.txt").write_text("b")
    assert one("prepare")["state"] == "unchanged"
    assert one("report")["always"] and one("report")["state"] == "changed"
    assert "every time" in "\n".join(why.in_full(one("report")))


def test_a_data_file_that_dvc_tracks(here):
    shutil.move("raw/a.txt", "a.txt")
    Path("raw/a.txt").write_text("a")
    dvc(here, "add", "--quiet", "a.txt")
    assert one("a.txt.dvc")["state"] == "unchanged"
    os.remove("a.txt")
    Path("a.txt").write_text("changed")
    assert one("a.txt.dvc")["outputs"] == [{"path": "a.txt", "how": "changed"}]


def test_a_group_stands_for_all_of_it(here):
    stages = why.answer("evaluate")["stages"]
    assert [stage["stage"] for stage in stages] == ["evaluate@a", "evaluate@b"]


def test_metrics_that_say_nothing(here):
    Path("metrics/train.json").unlink()
    Path("metrics/train.json").write_text("[1")
    replace("params.yaml", "lr: 0.1", "lr: 0.2")
    assert one("train")["reruns"][0] == {"stage": "train", "seconds": None}


@pytest.mark.parametrize("name, near", [("trian", "train"), ("evaluate@c", "evaluate@")])
def test_an_unknown_stage(here, name, near):
    with pytest.raises(UserError, match=f"no stage {name}; did you mean {near}"):
        why.answer(name)


def test_a_broken_dvc_yaml_is_one_sentence(here):
    Path("dvc.yaml").write_text("stages: [")
    with pytest.raises(UserError) as error:
        why.answer()
    assert "\n" not in str(error.value) and "dvc.yaml" in str(error.value)


def test_a_stage_that_runs(here):
    Path("slow").touch()
    replace("params.yaml", "lr: 0.1", "lr: 0.2")
    command = [sys.executable, "-m", "dvc", "repro", "--quiet", "train"]
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    running = subprocess.Popen(command, env=env, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while not Path("started").exists():
            assert time.monotonic() < until
            time.sleep(0.1)
        stage = one("train")
        assert stage["running"] and "It runs now" in "\n".join(why.in_full(stage))
        assert not one("prepare")["running"]
    finally:
        os.killpg(running.pid, 9)
        running.wait()


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "stages.why", *arguments], cwd=folder, env=env,
                          capture_output=True, text=True)  # fmt: skip


def test_the_command(here, tmp_path):
    replace("params.yaml", "lr: 0.1", "lr: 0.2")
    done = command("train", "--json", folder=here)
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout) == why.answer("train")
    done = command("nothing", folder=here)
    assert done.returncode == 1 and done.stdout == ""
    assert (
        done.stderr.startswith("why: dvc.yaml has no stage nothing")
        and done.stderr.count("\n") == 1
    )
    done = command(folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "why: there is no dvc.yaml here: run from the project's root\n"


def test_this_projects_stages(project):
    lines = project.stage("stages.why").splitlines()
    assert lines[-1].startswith("At most 14 stages rerun")
    assert {line.split()[0] for line in lines[:-1]} >= {"prepare", "grpo", "evaluate@grpo"}
    found = json.loads(project.stage("stages.why", "grpo", "--json"))
    assert [row["stage"] for row in found["reruns"]][:2] == ["grpo", "merge"]


nested = st.recursive(
    st.none() | st.integers(0, 2) | st.lists(st.integers(0, 2), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=6,
)  # fmt: skip


@given(old=st.dictionaries(st.sampled_from("abc"), nested),
       new=st.dictionaries(st.sampled_from("abc"), nested))  # fmt: skip
def test_leaves_name_exactly_what_differs(old, new):
    found = list(why.leaves("p", old, new))
    assert bool(found) == (old != new)
    for name, was, now in found:
        assert was != now and (was, now) == (at(old, name), at(new, name))


def at(values: dict, name: str):
    for key in name.split(".")[1:]:
        if not isinstance(values, dict) or key not in values:
            return why.ABSENT
        values = values[key]
    return values
