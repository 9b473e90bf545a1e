"""Which files a stage hangs on, in a small tree of modules whose imports are known."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stages.core import modules
from stages.core.errors import UserError
from tests.conftest import ROOT

TREE = {
    "stages/__init__.py": "# not empty",
    "stages/train.py": "from stages.core import loop\nimport torch, stages.tools.deep.end\n"
    "if __name__ == '__main__':\n    stage.main('train', 1)\n",
    "stages/score.py": "from stages.core import *\n\ndef f():\n    from stages.core.late import g\n"
    "    stage.main('score', f)\n",
    "stages/command.py": "from stages import train",
    "stages/core/__init__.py": "",
    "stages/core/loop.py": "from stages.core.late import g as h",
    "stages/core/late.py": "def g(): pass",
    "stages/core/unused.py": "import stages.core.loop",
    "stages/tools/__init__.py": "from . import near",
    "stages/tools/near.py": "from .deep import end\nfrom ..core import nothing",
    "stages/tools/deep/end.py": "try:\n    import stages_of_others\nexcept ImportError:\n    pass",
    "stages/tools/deep/beside.py": "x = 1",
    "stages_of_others.py": "y = 1",
}
TRAIN = ["stages/__init__.py", "stages/core/late.py", "stages/core/loop.py",
         "stages/tools/__init__.py", "stages/tools/deep/end.py", "stages/tools/near.py",
         "stages/train.py"]  # fmt: skip
SCORE = ["stages/__init__.py", "stages/core/late.py", "stages/score.py"]


@pytest.fixture
def tree(here) -> Path:
    for name, text in TREE.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return here


def listed(name: str) -> list[str]:
    return list(modules.listed(modules.list_of(name)))


def test_late_relative_and_whole_imports_count_and_packages_on_the_way(tree):
    assert list(modules.hashes("train")) == TRAIN
    assert list(modules.hashes("score")) == SCORE


def test_the_stages_are_what_the_frame_runs(tree):
    assert modules.stages() == ["score", "train"]


def test_what_is_read_or_started_counts_where_it_is_used(tree, monkeypatch):
    monkeypatch.setattr(modules, "READ", {"stages/core/loop.py": ["stages/data.yaml"]})
    Path("stages/data.yaml").write_text("a: 1")
    assert "stages/data.yaml" in modules.hashes("train")
    assert "stages/data.yaml" not in modules.hashes("score")


def test_what_is_read_is_there():
    for module, files in modules.READ.items():
        assert all((ROOT / path).is_file() for path in (module, *files))


def test_a_list_changes_with_the_modules_on_it_and_with_no_others(tree):
    before = {name: modules.hashes(name) for name in ("train", "score")}
    Path("stages/core/unused.py").write_text("import stages.train")
    Path("stages/tools/deep/beside.py").write_text("x = 2")
    assert {name: modules.hashes(name) for name in before} == before
    Path("stages/core/loop.py").write_text("# a comment")
    assert modules.hashes("train") != before["train"]
    assert modules.hashes("score") == before["score"]
    Path("stages/core/__init__.py").write_text("# no longer empty")
    assert "stages/core/__init__.py" in modules.hashes("score")


def test_a_list_is_made_true_and_left_alone_where_it_is(tree):
    modules.renew("train")
    assert listed("train") == TRAIN
    first = modules.list_of("train").stat()
    modules.renew("train")
    modules.write("train")
    Path("stages/core/unused.py").write_text("z = 1")
    modules.renew("train")
    assert modules.list_of("train").stat().st_mtime_ns == first.st_mtime_ns
    Path("stages/core/late.py").write_text("import stages.core.unused")
    modules.renew("train")
    assert listed("train") == sorted([*TRAIN, "stages/core/unused.py"])
    Path("stages/core/unused.py").unlink()
    modules.renew("train")
    assert listed("train") == TRAIN


@pytest.mark.parametrize("damaged", ["", "{", "[]", "{}", "3"])
def test_a_damaged_list_is_made_again(tree, damaged):
    modules.FOLDER.mkdir()
    modules.list_of("train").write_text(damaged)
    modules.renew("train")
    assert listed("train") == TRAIN


def test_the_cache_keeps_what_it_had_where_a_list_is_a_link_into_it(tree):
    """DVC makes its outputs read-only hard links."""
    modules.write("train")
    cached = Path("cached")
    cached.hardlink_to(modules.list_of("train"))
    cached.chmod(0o444)
    before = cached.read_bytes()
    Path("stages/train.py").write_text("# other")
    modules.renew("train")
    assert listed("train") == ["stages/train.py"] and cached.read_bytes() == before


def test_nothing_is_listed_where_the_modules_are_not(here):
    modules.renew("train")
    assert not modules.FOLDER.exists()


@pytest.mark.parametrize(("code", "says"), [
    (b"def f(:\n", "stages/core/late.py, line 1 is not valid Python: mend it"),
    (b"x = '\xff'\n", "stages/core/late.py.* is not valid Python: mend it"),
    (b"x = 1\0", "stages/core/late.py.* is not valid Python: mend it"),
])  # fmt: skip
def test_what_is_not_python_is_named(tree, code, says):
    Path("stages/core/late.py").write_bytes(code)
    with pytest.raises(UserError, match=says):
        modules.write("train")
    assert not modules.list_of("train").exists()


def test_the_command_writes_a_list_for_each_stage_of_this_project(here):
    (here / "stages").symlink_to(ROOT / "stages")
    command = [sys.executable, "-m", "stages.code"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    lists = {path.stem: json.loads(path.read_text()) for path in Path(".code").iterdir()}
    assert {"sft", "grpo", "distill", "evaluate", "report"} <= lists.keys()
    assert "stages/core/training.py" in lists["grpo"].keys() - lists["evaluate"].keys()
    assert "stages/tasks/graded.yaml" in lists["evaluate"].keys() - lists["grpo"].keys()


def test_the_command_loads_nothing_heavy(here):
    code = "import sys, stages.code; print(*{name.partition('.')[0] for name in sys.modules})"
    said = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    assert "ast" in said and not {"torch", "numpy", "pydantic", "dvc"} & set(said)
