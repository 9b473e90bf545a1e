"""dvc.yaml says what is true: each stage's dependencies are exactly what its code imports."""

import ast
from pathlib import Path

import pytest
import yaml

from stages.core import launch
from tests.conftest import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
JAIL = "stages/sandbox/inside/start.py"  # what runs inside a jail is started, not imported
READ_NOT_IMPORTED = {
    "prepare": {JAIL},
    "audit": {JAIL},
    "grpo": {JAIL},
    "distill": {JAIL},
    "evaluate": {"stages/tasks/graded.yaml", JAIL},
}


def imported(file: str) -> set[str]:
    """The project's non-empty modules that a file imports, packages on the way included."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or "/inside/" in file, f"{file}: relative import"
            parent = ".".join(Path(file).parent.parts) if node.level else ""
            module = ".".join(filter(None, [parent, node.module]))
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    found = set()
    for name in names:
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            for end in (".py", "/__init__.py"):
                path = Path("/".join(parts[:depth]) + end)
                if (ROOT / path).is_file() and (ROOT / path).stat().st_size:
                    found.add(path.as_posix())
    return found


def closure(file: str) -> set[str]:
    reached, ahead = set(), {file}
    while ahead:
        reached |= ahead
        python = [name for name in ahead if name.endswith(".py")]
        ahead = set().union(*map(imported, python)) - reached
    return reached


def code_of(stage: str) -> set[str]:
    """Every file of the project that a stage's outcome hangs on."""
    module = launch.module(stage)
    files = [f"stages/{module}.py", *READ_NOT_IMPORTED.get(module, set())]
    return set().union(*map(closure, files))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_exactly_the_modules_it_imports(name):
    stage = STAGES[name].get("do", STAGES[name])
    declared = {dep for dep in stage["deps"] if dep.startswith("stages/")}
    assert declared == code_of(name)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_declares_the_parameters_it_reads(name):
    """Every `params.SECTION` in a stage's own modules is among its declared parameters."""
    stage = STAGES[name].get("do", STAGES[name])
    declared = {param.split(".")[0] for param in stage["params"]}
    frame = {
        f"stages/core/{m}.py"
        for m in ("stage", "launch", "libraries", "tracking", "params", "schema", "progress")
    }
    used = set()
    for file in closure(f"stages/{launch.module(name)}.py") - frame:
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
        uses = {name.split("/")[1] for name in imported(path) if name.count("/") > 1}
        for alone in ("answers", "sandbox"):
            if path.startswith(f"stages/{alone}/"):
                assert uses <= {alone}, path
        if path.count("/") > 1:
            stages = {f"stages/{name}.py" for name in STAGES}
            assert not imported(path) & stages, f"{path} imports a stage"
        assert not any(name.startswith("flows") for name in imported(path)), path
