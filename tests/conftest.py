"""Fixtures that several tests share. Tests run real components in temporary folders."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
import yaml

ROOT = Path(__file__).parent.parent
os.environ["OMP_NUM_THREADS"] = "1"  # quiet, and the same bits whatever the machine
os.environ["DVC_NO_ANALYTICS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

hypothesis.settings.register_profile("any machine", deadline=None, derandomize=True)
hypothesis.settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, or one worker would be left with them at the end."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")


@pytest.fixture
def raw() -> dict:
    """The embedded default's parameters, as YAML gives them."""
    return yaml.safe_load((ROOT / "params.yaml").read_text())


TINY = {
    "task": {"demonstrations": 64, "pool": 32, "test": 12},
    "base": {"scratch": {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64}},
    "sft": {"max_steps": 4, "batch_size": 8},
    "grpo": {"preflight": "warn", "max_steps": 3, "batch_size": 8, "group_size": 4,
             "max_completion_length": 8, "learning_rate": 0.02, "trainer": {"warmup_steps": 0},
             "rewards": {"variety": {"weight": 1.0, "function": "my_rewards:variety"}}},
    "merge": {"prompts": 4},
    "distill": {"num_samples": 16, "min_samples": 1, "if_fewer": "demonstrations",
                "max_steps": 2, "batch_size": 8, "max_completion_length": 8,
                "student": {"scratch": {"hidden_size": 16, "layers": 1, "heads": 2,
                                        "intermediate_size": 32}}},
    # `variety` is no reward for being right
    "audit": {"max_false_negative_rate": 1.0, "max_false_positive_rate": 1.0},
    "evaluate": {"batch_size": 12, "max_completion_length": 8},
}  # fmt: skip

# A model this small gets nothing right: without some other reward GRPO would change no weight, and
# DVC, seeing the same model, would rightly rerun nothing below it.
MY_REWARDS = """
def variety(completions, **_):
    return [float(len(set(c[-1]["content"]))) for c in completions]
"""


def watching(*files: str, by: tuple[str, ...]) -> None:
    """The project's dvc.yaml with these files in the deps of these stages."""
    text = (ROOT / "dvc.yaml").read_text()
    for stage in by:
        before, deps, after = text[text.index(f"\n  {stage}:\n") :].partition("deps:\n")
        indent = before.rpartition("\n")[2]
        lines = "".join(f"{indent}- {file}\n" for file in files)
        text = text.replace(before + deps + after, before + deps + lines + after)
    Path("dvc.yaml").write_text(text)


def merged(values: dict, changes: dict) -> dict:
    """Nested `values` with `changes` laid over them."""
    return {
        **values,
        **{
            key: merged(values[key], new) if isinstance(new, dict) and values.get(key) else new
            for key, new in changes.items()
        },
    }


@pytest.fixture
def tiny(raw: dict) -> dict:
    """Parameters with which every stage takes seconds; nothing is learnt."""
    return merged(raw, TINY)


class Project:
    """A copy of the checkout's code in a folder of its own, with its own git and DVC."""

    def __init__(self, folder: Path, params: dict):
        self.folder = folder
        for name in ("stages", "flows", "data/raw", ".dvc/config", "dvc.yaml", "prefect.yaml",
                     ".gitignore", ".dvcignore", ".dvc/.gitignore"):  # fmt: skip
            copy(ROOT / name, folder / name)
        if (schema := ROOT / ".cache" / "schema").exists():
            copy(schema, folder / ".cache" / "schema")
        self.add_reward()
        self.write(params)
        self.run("git", "init", "--quiet", "-b", "main")
        self.run("git", "config", "user.email", "test@example.org")
        self.run("git", "config", "user.name", "test")
        self.commit("start")

    def add_reward(self) -> None:
        """A user's own reward, and the line in dvc.yaml that makes DVC watch it."""
        (self.folder / "my_rewards.py").write_text(MY_REWARDS)
        declared = (self.folder / "dvc.yaml").read_text()
        for stage in ("audit", "grpo"):
            command = f"cmd: python -m stages.{stage}\n    deps:\n"
            assert command in declared
            declared = declared.replace(command, f"{command}    - my_rewards.py\n")
        (self.folder / "dvc.yaml").write_text(declared)

    def write(self, params: dict) -> None:
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "--quiet", "-m", message)

    def run(self, *command: str, ok: bool = True, **environment: str) -> str:
        """A command's output, stdout and stderr together; asserts that it succeeds (or fails)."""
        done = subprocess.run(
            command, cwd=self.folder, env={**self.environment(), **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert (done.returncode == 0) is ok, done.stdout
        return done.stdout

    def dvc(self, *arguments: str, **options) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments, **options)

    def stage(self, *arguments: str, **options) -> str:
        return self.run(sys.executable, "-m", *arguments, **options)

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_STAGE", "GRPO_PIPE"))}
        return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PYTHONPATH": ""}  # fmt: skip


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@pytest.fixture
def project(tmp_path: Path, tiny: dict) -> Project:
    return Project(tmp_path / "project", tiny)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


@pytest.fixture
def real_data() -> Path:
    """Real GSM8K, MATH-500 and HumanEval, where GRPO_DATA_DIR names them."""
    if "GRPO_DATA_DIR" not in os.environ:
        pytest.skip("GRPO_DATA_DIR is not set: no real data to test on")
    return Path(os.environ["GRPO_DATA_DIR"]).resolve()


def pytest_terminal_summary(terminalreporter):
    """The tallies of tests/faults; here, as of several processes the first one loads no more."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "tally" and report.when == "call":
                    terminalreporter.write_line(value)
