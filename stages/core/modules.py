"""Which files of stages/ a stage hangs on: `.code/STAGE.json` holds their paths and hashes.

A stage of dvc.yaml depends on that one file. `python -m stages.code`, the first stage, makes all of
them from what the modules import; a stage that finds its own untrue when it begins, because it was
started by hand or because its code was edited after `code` had run, makes it true. So DVC records
the code that ran.
"""

import ast
import json
from functools import cache
from pathlib import Path

from stages.core.errors import UserError
from stages.core.files import write_text
from stages.core.graph import md5

FOLDER = Path(".code")
# Modules -> what they read or start, but do not import.
READ = {
    "stages/core/grade.py": ["stages/sandbox/inside/start.py"],  # begins in a jail
    "stages/core/harness.py": ["stages/tasks/graded.yaml"],
}


def stages() -> list[str]:
    """The modules that are stages: those that the frame runs."""
    found = Path("stages").glob("*.py")
    return sorted(path.stem for path in found if b" stage.main(" in path.read_bytes())


def write(name: str) -> None:
    """Makes `.code/NAME.json`, and leaves alone one that is as it would be.

    Raises:
        UserError: a module is not valid Python.
    """
    path, text = list_of(name), as_text(hashes(name))
    if not path.exists() or path.read_text() != text:
        write_text(path, text)


def renew(name: str) -> None:
    """Makes `.code/NAME.json` true; where all files are as it says, no code is read for that."""
    known = listed(list_of(name))
    if Path(f"stages/{name}.py").exists() and (not known or stale(known)):
        write(name)


def list_of(name: str) -> Path:
    return FOLDER / f"{name}.json"


def is_list(path: str) -> bool:
    """Whether a dependency of dvc.yaml stands for the files that it lists."""
    return path.startswith(f"{FOLDER}/")


def listed(path: Path) -> dict[str, str]:
    """Path -> md5, as a list has them; none where it is missing or damaged."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def stale(known: dict[str, str]) -> list[str]:
    """The files that are not as they were listed."""
    return [path for path, hashed in known.items() if md5(Path(path)) != hashed]


def as_text(found: dict[str, str]) -> str:
    return json.dumps(found, indent=0) + "\n"


def hashes(name: str) -> dict[str, str]:
    """Path -> md5 of all files that `python -m stages.NAME` hangs on, sorted."""
    return {path: md5(Path(path)) for path in sorted(closure(f"stages/{name}.py"))}


def of_user(module: str, file: str) -> set[str]:
    """The project's files outside stages/ that importing a module of the user's runs.

    Args:
        module: dotted.
        file: its path from the project's root.
    """
    on_the_way = {path for path in files(module) if not path.startswith("stages/")}
    return set().union(*(closure(path, ours=False) for path in {file, *on_the_way}))


def closure(file: str, ours: bool = True) -> set[str]:
    """A file, and all that it reaches by imports and by READ."""
    reached, ahead = set(), {file}
    while ahead:
        reached |= ahead
        scripts = [name for name in ahead if name.endswith(".py")]
        ahead = set().union(*({*imported(name, ours), *READ.get(name, [])} for name in scripts))
        ahead -= reached
    return reached


def imported(file: str, ours: bool = True) -> set[str]:
    """The non-empty modules of stages/ that a file imports, wherever in it; packages on the way
    too. Where not `ours`: those of the project outside stages/.

    Raises:
        UserError: it is not valid Python.
    """
    try:
        names = named(Path(file).read_bytes(), Path(file).parent)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f", line {line}" if line else ""
        raise UserError(f"{file}{where} is not valid Python: mend it") from None
    tops = {name: name.partition(".")[0] for name in names}
    return {path for name, top in tops.items() if top and (top == "stages") is ours
            for path in files(name)}  # fmt: skip


@cache
def named(code: bytes, folder: Path) -> frozenset[str]:
    """The modules that some code of a folder imports, and what it imports of them, dotted."""
    nodes = list(ast.walk(ast.parse(code)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            above = folder.parts[: len(folder.parts) - node.level + 1] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def files(name: str) -> set[str]:
    """`stages.core.lora` -> the files of it and of the packages on the way, but for empty ones."""
    parts = name.split(".")
    found = [Path(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    paths = [path for one in found for path in (one.with_suffix(".py"), one / "__init__.py")]
    return {path.as_posix() for path in paths if path.is_file() and path.stat().st_size}
