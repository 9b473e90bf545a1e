"""dvc.yaml as it is read here: its stages with everything filled in, and hashes in DVC's form."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stages.core.errors import UserError

DVC_YAML = Path("dvc.yaml")
EVALUATING = ("evaluate", "evaluate_also", "evaluate_control")  # what runs stages.evaluate
MEND = "`git checkout dvc.yaml` brings back the project's own"


class Node(NamedTuple):
    """One stage of dvc.yaml, with foreach and `${...}` filled in."""

    name: str
    command: str
    deps: list[str]
    keys: list[str]  # of params.yaml, dotted
    outs: list[str]


def loaded(path: Path) -> Any:
    """A YAML file; by libyaml where PyYAML was built with it, which is ten times as fast."""
    text = path.read_text()
    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return yaml.safe_load(text)  # which counts lines as people do


def declared() -> dict[str, dict]:
    """The stages as dvc.yaml has them.

    Raises:
        UserError: there is no dvc.yaml here, or it is not as DVC wants it.
    """
    try:
        stages = loaded(DVC_YAML)["stages"]
    except FileNotFoundError:
        raise UserError("there is no dvc.yaml here: run from the project's root") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise UserError(f"dvc.yaml is not valid YAML{line}: mend it; {MEND}") from None
    except (TypeError, KeyError):
        raise UserError(f"dvc.yaml has no stages: mend it; {MEND}") from None
    for name, entry in stages.items():
        if not (entry.get("do", entry) or {}).get("deps"):
            raise UserError(f"dvc.yaml: stages.{name} has no deps: mend it; {MEND}")
    return stages


def require_dependency(file: str, stages: Sequence[str], where: str) -> None:
    """A user's file that these stages read must rerun them when it is edited.

    Raises:
        UserError: some do not have it as a dependency; `where` is the key that names it.
    """
    lacking, known = [], declared()
    for stage in stages:
        entry = known.get(stage, {})
        if file not in entry.get("do", entry).get("deps", []):
            lacking.append(f"stages.{stage}.{'do.' if 'do' in entry else ''}deps")
    if lacking:
        raise UserError(
            f"{where}: DVC does not watch {file}, so that an edit would rerun nothing; "
            f"add the line `- {file}` to {' and '.join(lacking)} in dvc.yaml"
        )


def of_stage(stage: str, values: dict) -> "Node":
    """One stage, with `values` of params.yaml filled in.

    Raises:
        UserError: dvc.yaml has none of that name.
    """
    stages = declared()
    nodes = expanded(stages, values)
    group, _, item = stage.partition("@")
    if stage not in nodes and isinstance(each := stages.get(group, {}).get("foreach"), str):
        raise UserError(f"params.yaml does not name {item} in {each.strip('${} ')}: add it there")
    if stage not in nodes:
        raise UserError(f"dvc.yaml has no stage {stage}: add it; {MEND}")
    return nodes[stage]


def expanded(stages: dict[str, dict], values: dict) -> dict[str, Node]:
    """The stages of dvc.yaml by their names, `evaluate@grpo` for one of a foreach."""
    nodes = {}
    for name, entry in stages.items():
        each = entry.get("foreach")
        if each is None:
            nodes[name] = node(name, entry, values)
            continue
        if isinstance(each, str):  # `${report.compare}`
            each = value_at(values, each.strip("${} ")) or []
        items = each if isinstance(each, dict) else {str(item): item for item in each}
        for key, item in items.items():
            known = {**values, "key": key, "item": item}
            nodes[f"{name}@{key}"] = node(f"{name}@{key}", entry["do"], known)
    return nodes


def node(name: str, entry: dict, values: dict) -> Node:
    def paths(*kinds: str) -> list[str]:
        items = [item for kind in kinds for item in entry.get(kind, [])]
        named = [next(iter(item)) if isinstance(item, dict) else item for item in items]
        return [filled(path, values) for path in named]

    keys = [key for key in entry.get("params", []) if isinstance(key, str)]
    return Node(name, filled(entry["cmd"], values), paths("deps"), keys,
                paths("outs", "metrics", "plots"))  # fmt: skip


def filled(text: str, values: dict) -> str:
    return re.sub(r"\$\{([^}]+)\}", lambda found: str(value_at(values, found[1].strip())), text)


def value_at(values: dict, key: str) -> Any:
    """`grpo.rewards` of params.yaml; None where there is none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def md5(path: Path) -> str | None:
    """As DVC has it: of a file's bytes; of a folder (ending in `.dir`), of its files' hashes."""
    if path.is_dir():
        entries = [
            {"md5": md5(file), "relpath": file.relative_to(path).as_posix()}
            for file in path.rglob("*")
            if file.is_file()
        ]
        return digest(sorted(entries, key=lambda entry: entry["relpath"])) + ".dir"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def digest(value: Any) -> str:
    """The md5 of a value's JSON with sorted keys."""
    return hashlib.md5(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
