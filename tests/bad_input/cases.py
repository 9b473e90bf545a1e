"""The cases of bad input, from the tables beside this file: the one source of test and document."""

import contextlib
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.bad_input import worlds
from tests.conftest import ROOT, merged

HERE = Path(__file__).parent
STAGES = ("prepare", "base", "sft", "audit", "grpo", "merge", "distill", "report", "evaluate")
MADE = ("data", "models", "metrics", "rollouts", "samples", "reports", "plots", "out")
TABLES = {
    "params": ("params.yaml", "any command that reads it"),
    "data": ("Data", "python -m stages.prepare"),
    "commands": ("Models, rewards, the project, command lines", None),
}


class Case(NamedTuple):
    """What is wrong, where it is typed, and what is said: `…` stands for what libraries add."""

    table: str
    wrong: str
    says: str
    given: dict[str, Any]

    @property
    def command(self) -> list[str]:
        return shlex.split(self.given.get("run", "stages.prepare"))


def all_cases() -> list[Case]:
    return [Case(table, row.pop("wrong"), row.pop("says", ""), row)
            for table in TABLES
            for row in yaml.safe_load((HERE / f"{table}.yaml").read_text())]  # fmt: skip


def prepare(case: Case, folder: Path) -> None:
    """The case's project in a folder that holds the good one."""
    given, raw = case.given, worlds.tiny()
    for name, text in given.get("files", {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    raw = merged(raw, given.get("params", {}))
    if "task" in given:
        raw["task"] = worlds.raw_rows(folder, given)
    for path, value in given.get("put", {}).items():
        section, _, key = path.partition(".")
        raw[section][key] = value
    raw.pop(given.get("without"), None)
    params = folder / "params.yaml"
    params.write_text(yaml.safe_dump(raw, sort_keys=False))
    if case.table == "params" and "text" in given:
        params.write_text(given["text"])
    if case.table == "params" and "hex" in given:
        params.write_bytes(bytes.fromhex(given["hex"]))
    if "world" in given:
        getattr(worlds, given["world"])(folder)


def made(folder: Path) -> dict[str, bytes]:
    """Everything that a stage or a command leaves behind: logs and caches are none of it."""
    files = (file for name in MADE for file in sorted((folder / name).rglob("*")))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()}


def said(case: Case, folder: Path) -> str:
    """What the case's command says on its way out, here or as a process of its own."""
    if case.given.get("real"):
        return as_process(case, folder)
    if case.table == "params":
        return refused(lambda: load(folder))
    module, *arguments = case.command
    name = module.removeprefix("stages.")
    is_stage = name in STAGES and (name != "evaluate" or arguments == ["base"])
    if is_stage:
        stage = "@".join([name, *arguments])
        return f"{stage}: {refused(lambda: body(name, arguments, folder))}"
    return as_command(module, arguments)


def load(folder: Path) -> None:
    from stages.core import params as parameters

    parameters.load()


def refused(call) -> str:
    from stages.core.errors import UserError

    try:
        call()
    except UserError as error:
        return str(error)
    return "accepted"


def body(name: str, arguments: list[str], folder: Path) -> None:
    """A stage without its tracker, which takes seconds."""
    from stages.core.stage import Run, ready
    from stages.core.tracking import Spool

    stage = "@".join([name, *arguments])
    params = ready(stage)
    run = Run(stage, params, Spool(folder / "spool.jsonl"))
    import_module(f"stages.{name}").body(*arguments, params, run)


def as_command(module: str, arguments: list[str]) -> str:
    """The last line on stderr of a command run in this process."""
    name = "stages.rewards.__main__" if module == "stages.rewards" else module
    stderr, stdout, argv = io.StringIO(), io.TextIOWrapper(io.BytesIO()), sys.argv
    sys.argv = [module, *arguments]
    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stdout):
            import_module(name).main()
    except SystemExit as ended:
        text = ended.code if isinstance(ended.code, str) else stderr.getvalue().strip()
        return text.splitlines()[-1]
    finally:
        sys.argv = argv
    return "accepted"


def as_process(case: Case, folder: Path) -> str:
    if case.given.get("git"):
        for command in ("git init -q", "dvc init -q"):
            subprocess.run(command.split(), cwd=folder, check=True, env=environment())
    done = subprocess.run([sys.executable, "-m", *case.command], cwd=folder, env=environment(),
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode, "exit code 0"
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    lines = done.stderr.strip().splitlines()
    return lines[-1] if case.command[0] == "stages.solve" else "\n".join(lines)


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": f"{ROOT}:."}


def table() -> Iterator[str]:
    """docs/errors.md."""
    cases = all_cases()
    yield HEAD.format(count=len(cases))
    for name, (title, command) in TABLES.items():
        yield f"\n## {title}\n"
        columns = (
            ["what is wrong", "message"] if command else ["what is wrong", "command", "message"]
        )
        if command:
            yield f"Command: {'`' + command + '`' if ' -m ' in command else command}.\n"
        yield f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
        for case in (case for case in cases if case.table == name):
            cells = [case.wrong, *([] if command else [code(shown(case))]), code(case.says)]
            yield f"| {' | '.join(cells)} |"


def shown(case: Case) -> str:
    return f"python -m {case.given.get('run')}"


def code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")


HEAD = """\
# What is said of bad input

{count} mistakes and what is said of each: one sentence with what is wrong, where, and what mends
it, exit code not 0, nothing half-written. `…` stands for what a library adds. Made by
`python -m tests.bad_input` from the tables in `tests/bad_input/`; a test makes every one of these
mistakes and compares what is said."""


def document() -> str:
    return "\n".join(table()) + "\n"
