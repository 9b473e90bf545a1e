"""Lineage against DVC's own view of the same project."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages.reporting import lineage
from tests.conftest import ROOT

MODELS = ("base", "sft", "control", "grpo", "student")

# Two stages on two files, the second of them once for each of two models, and their code.
PIPELINE = """
stages:
  code:
    cmd: touch .code/train.json .code/evaluate.json
    deps: [stages]
    outs: [.code]
  train:
    cmd: cp data/in.txt models/a/weights
    deps: [.code/train.json, data/in.txt, '${task.watch}']
    params: [seed, train.rate]
    outs: [models/a]
    metrics: [metrics/train.json: {cache: false}]
  evaluate:
    foreach: {a: models/a, b: models/a}
    do:
      cmd: echo ${key}
      deps: ['${item}', .code/evaluate.json, my_rewards.py, data/test.txt]
      params: [evaluate]
      outs: ['samples/${key}.txt']
      metrics: ['metrics/evaluate/${key}.json']
"""
LISTS = {"train": ["stages/both.py", "stages/train.py"],
         "evaluate": ["stages/both.py", "stages/evaluate.py"]}  # fmt: skip
VALUES = "seed: 1\ntask: {watch: raw}\ntrain: {rate: 4e-3, other: 2}\nevaluate: {n: 5}\n"


def put(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def entry(node: lineage.Node, source: lineage.Source, **values) -> dict:
    """What DVC would write into dvc.lock after the stage."""

    def hashed(paths):
        return [{"path": path, "md5": source.hashes[path]} for path in paths]

    return {"cmd": node.command, "deps": hashed(node.deps), "outs": hashed(node.outs),
            "params": {"params.yaml": values}}  # fmt: skip


@pytest.fixture
def small(here):
    """A finished pipeline whose dvc.lock is right."""
    put("dvc.yaml", PIPELINE)
    put("params.yaml", VALUES)
    made = ["models/a/weights", "models/a/sub/b", "metrics/train.json"]
    for name in "ab":
        made += [f"samples/{name}.txt", f"metrics/evaluate/{name}.json"]
    for path in ("data/in.txt", "data/test.txt", "raw/x", "my_rewards.py", "stages/other.py",
                 *LISTS["train"], *LISTS["evaluate"], *made):  # fmt: skip
        put(path, f"{path} holds this")
    lock()
    return here


def lock() -> None:
    for name, paths in LISTS.items():
        put(f".code/{name}.json", json.dumps({path: md5(path) for path in paths}))
    source = lineage.read(["evaluate@a", "evaluate@b"])
    values: dict = {f"evaluate@{model}": {"evaluate": {"n": 5}} for model in "ab"}
    values["train"] = {"seed": 1, "train.rate": 0.004}  # as YAML 1.2 reads 4e-3
    stages = {name: entry(source.nodes[name], source, **values[name]) for name in values}
    put("dvc.lock", yaml.safe_dump({"schema": "2.0", "stages": stages}))


def found(model: str = "a") -> dict[str, list[str]]:
    """Where -> [what, md5], of a model's lineage."""
    rows = lineage.rows(f"evaluate@{model}", lineage.read([f"evaluate@{model}"]))
    assert rows[0] == ["what", "where", "md5"]
    return {row[1] if row[2] and row[0] not in ("parameters", "code") else row[0]:
            [row[0], row[2] or row[1]] for row in rows[1:]}  # fmt: skip


def md5(path: str) -> str:
    return hashlib.md5(Path(path).read_bytes()).hexdigest()


def test_the_stages_are_those_that_dvc_sees():
    """foreach, templates, and paths with options, on the project's own dvc.yaml."""
    from dvc.repo import Repo

    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    nodes = lineage.expanded(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"], values)
    with Repo(ROOT) as repo:
        seen = {stage.addressing: stage for stage in repo.index.stages}
    assert set(nodes) == set(seen)
    for name, node in nodes.items():
        assert node.command == seen[name].cmd
        assert set(node.outs) == {out.def_path for out in seen[name].outs}
        files = [dep for dep in seen[name].deps if dep.def_path != "params.yaml"]
        assert set(node.deps) == {dep.def_path for dep in files}
        params = [dep for dep in seen[name].deps if dep.def_path == "params.yaml"]
        assert set(node.keys) == {key for dep in params for key in dep.params}
        assert bool(params) == (name != "code")


def test_hashes_are_dvcs(here):
    """Of a file and of a folder with folders in it, by `dvc add`."""
    for path in ("one", "folder/b/x.txt", "folder/a", "folder/ä é", "folder/b.txt", "folder/B"):
        put(path, f"text of {path}")
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "-q"], check=True)
    subprocess.run([*dvc, "add", "-q", "one", "folder"], check=True)
    for path in ("one", "folder"):
        [out] = yaml.safe_load(Path(f"{path}.dvc").read_text())["outs"]
        assert lineage.md5(Path(path)) == out["md5"]
    assert lineage.md5(Path("none")) is None


def test_a_number_is_traced_to_its_sources(small):
    rows = found()
    assert rows["metrics/evaluate/a.json"] == ["scores", md5("metrics/evaluate/a.json")]
    assert rows["samples/a.txt"] == ["samples", md5("samples/a.txt")]
    assert rows["models/a"] == ["model", lineage.md5(Path("models/a"))]
    assert rows["data/in.txt"] == ["source", md5("data/in.txt")]
    assert rows["raw"][0] == "source" and rows["raw"][1].endswith(".dir")
    assert rows["made again by"][1] == "dvc repro evaluate@a"
    assert rows["git commit"][1] == "not in a git repository"
    assert rows["dvc.lock"][1] == "says the same of all of them"


@pytest.mark.parametrize(
    ("path", "row"),
    [("models/a/weights", "models/a"), ("samples/a.txt", "samples/a.txt"), ("raw/x", "raw"),
     ("data/in.txt", "data/in.txt"), ("stages/train.py", "code"), ("my_rewards.py", "code"),
     ("stages/both.py", "code"), ("stages/evaluate.py", "code")],
)  # fmt: skip
def test_a_changed_file_is_hashed_as_it_is_and_the_stale_lock_named(small, path, row):
    before = found()
    put(path, "something else")
    after = found()
    assert after[row] != before[row]
    assert after["dvc.lock"][1].startswith("differs, the hashes here are those of the files: ")
    assert (path if row == "code" else row) in after["dvc.lock"][1]
    key = next(name for name in before if name.startswith("but the scores"))
    assert after[key] != before[key]
    lock()
    assert found()["dvc.lock"][1] == "says the same of all of them"


def test_code_is_the_files_that_the_stages_lists_name(small):
    rows = lineage.rows("evaluate@a", lineage.read(["evaluate@a"]))
    [(_, where, hashed)] = [row for row in rows if row[0] == "code"]
    files = sorted({"my_rewards.py", *LISTS["train"], *LISTS["evaluate"]})
    assert where == "4 files of train, evaluate@a"
    assert hashed == lineage.digest([[path, md5(path)] for path in files])
    assert not [row for row in rows if row[1].startswith((".code", "stages"))]


def test_code_that_no_list_names_counts_for_nothing(small):
    before = found()
    put("stages/other.py", "something else")
    assert found() == before


def test_a_list_that_dvc_lock_does_not_know_is_named(small):
    put(".code/train.json", json.dumps({"stages/train.py": md5("stages/train.py")}))
    assert found()["dvc.lock"][1].endswith("files: .code/train.json")


def test_other_scores_with_the_same_samples_keep_the_key(small):
    """A second run takes other seconds."""
    before = found()
    put("metrics/evaluate/a.json", "0.1 s later")
    after = found()
    key = next(name for name in before if name.startswith("but the scores"))
    assert after[key] == before[key]
    assert after["metrics/evaluate/a.json"] != before["metrics/evaluate/a.json"]


@pytest.mark.parametrize(("old", "new", "seen"), [
    ("rate: 4e-3", "rate: 0.005", "train.rate"), ("n: 5", "n: 6", "evaluate"),
    ("other: 2", "other: 3", ""), ("rate: 4e-3", "rate: 0.004", ""),
])  # fmt: skip
def test_parameters_count_as_far_as_the_stages_read_them(small, old, new, seen):
    before = found()
    put("params.yaml", VALUES.replace(old, new))
    after = found()
    assert (after["parameters"] != before["parameters"]) is bool(seen)
    assert seen in after["dvc.lock"][1]
    assert ("differs" in after["dvc.lock"][1]) is bool(seen)


def test_without_a_lock_the_files_themselves_are_hashed(small):
    before = found()
    Path("dvc.lock").unlink()
    after = found()
    assert "no entry of evaluate@a, no entry of train" in after.pop("dvc.lock")[1]
    before.pop("dvc.lock")
    assert after == before


def test_what_is_not_there_has_no_hash(small):
    Path("samples/a.txt").unlink()
    assert found()["samples/a.txt"] == ["samples", "not there"]
    assert "samples/a.txt" in found()["dvc.lock"][1]


def test_an_experiment_is_named_in_the_command(small, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "more-kl")
    assert found("b")["made again by"][1] == "dvc exp apply more-kl && dvc repro evaluate@b"


def test_the_commit_and_what_was_changed_since(small):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
                       check=True, capture_output=True)  # fmt: skip

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "all")
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    assert found()["git commit"][1] == head
    put("dvc.lock", "stages: {}")
    assert found()["git commit"][1] == head, "a run always changes dvc.lock"
    put("stages/train.py", "new")
    assert found()["git commit"][1] == f"{head}, and changes in stages/train.py"


def test_long_lists_are_cut():
    assert lineage.listed(["a", "a", "b"]) == "a, b"
    assert lineage.listed([str(i) for i in range(20)], most=2) == "0, 1 and 18 more"
