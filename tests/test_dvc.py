"""dvc.yaml says what is true: of each stage its code, its parameters, its inputs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages.core import launch, modules
from tests.conftest import ROOT

DECLARED = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STAGES = [name for name in DECLARED if name != "code"]
MODULES = sorted({launch.module(name) for name in STAGES})


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def of(name: str) -> dict:
    return DECLARED[name].get("do", DECLARED[name])


def test_code_comes_first_and_hangs_on_the_modules_alone():
    assert next(iter(DECLARED)) == "code"
    assert DECLARED["code"]["deps"] == ["stages"] and "params" not in DECLARED["code"]
    assert DECLARED["code"]["outs"] == [modules.FOLDER.as_posix()]
    assert modules.stages() == MODULES


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_list_of_its_own_modules(name):
    module = launch.module(name)
    assert of(name)["cmd"].split()[:3] == ["python", "-m", f"stages.{module}"]
    lists = [dep for dep in of(name)["deps"] if modules.is_list(dep)]
    assert lists == [modules.list_of(module).as_posix()]
    assert not [dep for dep in of(name)["deps"] if dep.startswith("stages")]


@pytest.mark.parametrize("module", MODULES)
def test_the_modules_that_python_loads_are_on_the_list(module):
    """Python's own account: what a fresh process has loaded once it has imported the stage."""
    code = (
        f"import json, sys, stages.{module}\n"
        "files = [getattr(m, '__file__', None) for n, m in sys.modules.items() if 'stages' in n]\n"
        "print(json.dumps(files))"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    paths = [Path(file) for file in json.loads(said) if file]
    loaded = {p.relative_to(ROOT).as_posix() for p in paths if p.is_relative_to(ROOT / "stages")}
    assert f"stages/{module}.py" in loaded
    assert {path for path in loaded if (ROOT / path).stat().st_size} <= {*modules.hashes(module)}


def test_caches_of_python_are_no_code():
    """They would change the folder whenever a module runs."""
    ignored = (ROOT / ".dvcignore").read_text().split()
    assert {"__pycache__", "*.pyc"} <= set(ignored)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_declares_the_parameters_it_reads(name):
    """Every `params.SECTION` in a stage's own modules is among its declared parameters."""
    declared = {param.split(".")[0] for param in of(name)["params"]}
    frame = {
        f"stages/core/{m}.py"
        for m in ("stage", "launch", "libraries", "tracking", "params", "schema", "progress")
    }
    used = set()
    closure = modules.closure(f"stages/{launch.module(name)}.py") - frame
    for file in filter(lambda path: path.endswith(".py"), closure):
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "params"
            ):
                used.add(node.attr)
    used -= {"load", "validate", "model_copy", "with_control"}
    assert used <= declared, f"{name} reads {used - declared} undeclared"
    assert declared <= used | {"seed"}, f"{name} declares {declared - used} and never reads it"


def test_imports_run_one_way():
    for file in (ROOT / "stages").rglob("*.py"):
        path = file.relative_to(ROOT).as_posix()
        uses = {name.split("/")[1] for name in modules.imported(path) if name.count("/") > 1}
        for alone in ("answers", "sandbox"):
            if path.startswith(f"stages/{alone}/"):
                assert uses <= {alone}, path
        if path.count("/") > 1:
            stages = {f"stages/{name}.py" for name in MODULES}
            assert not modules.imported(path) & stages, f"{path} imports a stage"
        assert not any(name.startswith("flows") for name in names_in(path)), path


def names_in(file: str) -> set[str]:
    return {*modules.named(Path(file).read_bytes(), Path(file).parent)}
