"""Where a number comes from: hashes of data, parameters, model, samples and code, and a command.

dvc.yaml says what a model's evaluation hangs on, up to the sources. Every hash is taken from the
files as they are now, in DVC's form, so that it can be found in dvc.lock; whether dvc.lock says the
same is told beside it.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from stages.core import modules
from stages.core.graph import Node, declared, digest, expanded, loaded, md5, value_at
from stages.core.last_run import recorded
from stages.core.tracking import git

Rows = list[list[str]]


class Source(NamedTuple):
    """The project as it lies in the working folder."""

    nodes: dict[str, Node]
    values: dict  # params.yaml
    locked: dict[str, dict]  # the entries of dvc.lock
    hashes: dict[str, str | None]  # path -> md5; None: not there
    code: dict[str, dict[str, str]]  # `.code/STAGE.json` -> what it lists: path -> md5


def read(names: Iterable[str]) -> Source:
    """What the stages `names` and all above them hang on, hashed: each file once."""
    values = loaded(Path("params.yaml"))
    nodes = expanded(declared(), values)
    wanted = {node.name: node for name in names for node in chain(name, nodes)}
    paths = {path for node in wanted.values() for path in (*node.deps, *node.outs)}
    code = {path: modules.listed(Path(path)) for path in paths if modules.is_list(path)}
    paths = sorted(paths.union(*code.values()))
    return Source(nodes, values, recorded(), {path: md5(Path(path)) for path in paths}, code)


def chain(name: str, nodes: dict[str, Node]) -> list[Node]:
    """A stage and all that it hangs on, itself first."""
    makers = {out: node.name for node in nodes.values() for out in node.outs}
    found, ahead = {}, [name]
    while ahead:
        current = nodes[ahead.pop(0)]
        if current.name not in found:
            found[current.name] = current
            ahead += [makers[dep] for dep in current.deps if dep in makers]
    return list(found.values())


def rows(evaluation: str, source: Source) -> Rows:
    """The lineage of the numbers that a stage measured: what, where, md5 (or what there is to say).

    Args:
        evaluation: as DVC names it, `evaluate@grpo`.
    """
    stages = chain(evaluation, source.nodes)
    evaluate, made = stages[0], {out for stage in stages for out in stage.outs}
    deps = list(dict.fromkeys(dep for stage in stages for dep in stage.deps))
    code = {dep for dep in deps if dep not in made and is_code(dep)} - source.code.keys()
    code = sorted(code.union(*(source.code.get(dep, ()) for dep in deps)))
    files = [["scores", out] for out in evaluate.outs if out.startswith("metrics/")]
    files += [["samples", out] for out in evaluate.outs if out.startswith("samples/")]
    files += [["model", dep] for dep in evaluate.deps if dep.startswith("models/")]
    files += [["data", dep] for dep in deps if dep in made and dep.startswith("data/")]
    files += [["source", dep] for dep in deps if dep not in made and not is_code(dep)]
    table = [[what, path, source.hashes[path] or "not there"] for what, path in files]
    keys = sections(stages)
    table += [
        ["parameters", f"{', '.join(keys)} of params.yaml",
         digest({key: plain(value_at(source.values, key)) for key in keys})],
        ["code", f"{len(code)} files of {', '.join(stage.name for stage in reversed(stages))}",
         digest([[path, source.hashes[path]] for path in code])],
    ]  # fmt: skip
    key = digest([entry[2] for entry in table if entry[0] != "scores"])  # they hold the seconds
    return [
        ["what", "where", "md5"],
        *table,
        [
            "all of these",
            "but the scores: one key, which a run that gives the same gives again",
            key,
        ],
        ["dvc.lock", against_lock(stages, source), ""],
        ["git commit", commit(), ""],
        ["made again by", command(evaluate.name), ""],
    ]


def sections(stages: list[Node]) -> list[str]:
    """The parameters of all the stages; not `grpo.rewards` where there is all of `grpo`."""
    keys = {key for stage in stages for key in stage.keys}
    return sorted(key for key in keys if not any(key.startswith(f"{other}.") for other in keys))


def is_code(path: str) -> bool:
    return modules.is_list(path) or path.startswith("stages/") or path.endswith(".py")


def against_lock(stages: list[Node], source: Source) -> str:
    """Whether dvc.lock says the same as the files: what is stated here can be found there."""
    unlike = [found for stage in stages for found in differences(stage, source)]
    if not unlike:
        return "says the same of all of them"
    return f"differs, the hashes here are those of the files: {listed(unlike)}"


def listed(names: list[str], most: int = 8) -> str:
    """The names once each, not more than `most` of them."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def differences(stage: Node, source: Source) -> list[str]:
    """In what a stage's entry of dvc.lock is not what lies here."""
    entry = source.locked.get(stage.name)
    if entry is None:
        return [f"no entry of {stage.name}"]
    recorded = {item["path"]: item.get("md5") for kind in ("deps", "outs")
                for item in entry.get(kind, [])}  # fmt: skip
    found = [path for path in (*stage.deps, *stage.outs)
             if recorded.get(path) != source.hashes[path]]  # fmt: skip
    found += [path for dep in stage.deps for path, hashed in source.code.get(dep, {}).items()
              if hashed != source.hashes[path]]  # fmt: skip
    values = entry.get("params", {}).get("params.yaml", {})
    found += [key for key in stage.keys
              if plain(values.get(key)) != plain(value_at(source.values, key))]  # fmt: skip
    return found + ([f"the command of {stage.name}"] if entry.get("cmd") != stage.command else [])


def plain(value: Any) -> Any:
    """A value with its numbers as numbers: to YAML 1.1 `4e-3` is text, to DVC it is 0.004."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value) if isfinite(float(value)) else value
    return value


def commit() -> str:
    """The commit, and the tracked files that differ from it; dvc.lock always does during a run."""
    head = git("rev-parse", "HEAD")
    if head is None:
        return "not in a git repository"
    changed = (git("diff", "--name-only", "HEAD") or "").splitlines()
    changed = [path for path in changed if path != "dvc.lock"]
    return f"{head}, and changes in {listed(changed)}" if changed else head


def command(stage: str) -> str:
    experiment = os.environ.get("DVC_EXP_NAME")
    apply = f"dvc exp apply {experiment} && " if experiment else ""
    return f"{apply}dvc repro {stage}"
