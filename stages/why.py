"""why: what changed since a stage last ran, and what that reruns. A command, no stage.

usage: python -m stages.why grpo
       python -m stages.why evaluate@grpo --json
       python -m stages.why                # all stages, one line each

Asks DVC (its index, its graph, its own comparison with dvc.lock) and runs nothing: what the stage
`code` would write is worked out here, so that only those stages count as changed whose own modules
are, and these are named. "At most": DVC stops going down where a stage's outputs come out as they
were, and restores a run that it has in its cache. Seconds are those of the last run, from
metrics/STAGE.json; `code` has none, and counts as 0.

`--json` writes {"stages": [...], "reruns": [...], "seconds": ...}. A stage has `stage`, `state`
(unchanged, changed, below: only stages above it changed; never run), `running`, `params` (name,
old, new), `inputs`, `code` and `outputs` (path, how; inputs also made_by), `command` (old, new;
null), `always`, `above` (the changed stages above it) and `reruns` (stage, seconds; null: not
known).
"""

import argparse
import difflib
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import last_run, modules
from stages.core.errors import UserError
from stages.core.last_run import duration, seconds

if TYPE_CHECKING:
    from dvc.dependency import Dependency
    from dvc.dependency.param import ParamsDependency
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import Stage
    from networkx import DiGraph

ABSENT = "(absent)"
CODE = "code"  # the stage that lists the modules of all the others
NO_LIST = "changed; what it was is not in DVC's cache"
WIDEST = 60  # characters of a parameter's value that are shown
HOW = {"deleted": "missing", "modified": "changed", "new": "new"}  # DVC's words -> ours
NOTE = "At most: DVC goes no further down where a stage's outputs come out as before."


def main() -> None:
    made = argparse.ArgumentParser(
        prog="python -m stages.why", description="What changed since a stage last ran."
    )
    made.add_argument("stage", nargs="?", help="as DVC names it; evaluate: all evaluate@...")
    made.add_argument("--json", action="store_true", help="a JSON object, nothing else")
    options = made.parse_args()
    try:
        found = answer(options.stage)
    except UserError as error:
        sys.exit(f"why: {error}")
    try:
        print(as_json(found) if options.json else as_text(found), flush=True)
    except BrokenPipeError:
        sys.stderr.close()  # `| head` has read enough


def as_json(found: dict) -> str:
    return json.dumps(found, indent=2, ensure_ascii=False, default=str)


def as_text(found: dict) -> str:
    one = len(found["stages"]) == 1
    return "\n".join(in_full(found["stages"][0]) if one else in_lines(found))


def answer(name: str | None = None) -> dict[str, Any]:
    """What `--json` writes: for one stage, for all `name@...`, or for all there are.

    Raises:
        UserError: no dvc.yaml, no such stage, DVC cannot read the project or is busy saving.
    """
    with pipeline() as repo:
        from dvc.repo.reproduce import get_active_graph, plan_repro

        graph = get_active_graph(repo.index.graph)
        order = [stage.addressing for stage in plan_repro(graph)]
        stages = {stage.addressing: stage for stage in graph}
        asked = order if name is None else chosen(name, order)
        ran = locked(stages.values())
        makers = {out.fs_path: stage.addressing for stage in graph for out in stage.outs}
        graph.remove_edges_from([edge for edge in graph.edges if edge[1].addressing == CODE])
        above = {one: needs(graph, stages[one]) for one in asked}
        looked_at = {*asked, *(n for names in above.values() for n in names)}
        changes = {one: changed(stages[one], ran, makers) for one in order if one in looked_at}
    dirty = {one for one, change in changes.items() if change["state"] != "unchanged"}
    for one in asked:
        own = changes[one]
        own["above"] = [n for n in order if n in above[one] and n in dirty]
        if own["state"] == "unchanged" and own["above"]:
            own["state"] = "below"
        reruns = [] if own["state"] == "unchanged" else [
            n for n in order if n == one or n in below(graph, stages[one])
        ]  # fmt: skip
        own["reruns"] = [{"stage": n, "seconds": 0.0 if n == CODE else seconds(n)} for n in reruns]
    return whole([changes[one] for one in asked], order)


def whole(stages: list[dict], order: list[str]) -> dict[str, Any]:
    """The stages, and what all their changes together rerun."""
    rerun = {row["stage"]: row for stage in stages for row in stage["reruns"]}
    rows = [rerun[name] for name in order if name in rerun]
    return {"stages": stages, "reruns": rows, "seconds": total(rows)}


@contextmanager
def pipeline() -> Iterator["Repo"]:
    """DVC's view of the project, held still while it is read.

    Raises:
        UserError: whatever keeps DVC from reading it, in one sentence.
    """
    if not Path("dvc.yaml").exists():
        raise UserError("there is no dvc.yaml here: run from the project's root")
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        with Repo() as repo, repo.lock:
            yield repo
    except LockError:
        raise UserError("another DVC command is saving its results: try again") from None
    except NotDvcRepoError:
        raise UserError("this is no DVC repository: run from the project's root") from None
    except DvcException as error:
        raise UserError(" ".join(str(error).split())) from None


def chosen(name: str, stages: Iterable[str]) -> list[str]:
    found = [stage for stage in stages if stage == name or stage.startswith(f"{name}@")]
    if not found:
        near = difflib.get_close_matches(name, list(stages), n=1, cutoff=0)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"dvc.yaml has no stage {name}{hint}")
    return found


def locked(stages: Iterable["Stage"]) -> dict[str, dict]:
    """Stage -> what the dvc.lock beside its dvc.yaml holds of its last run."""
    found = {path: last_run.recorded(Path(path).with_suffix(".lock"))
             for path in {stage.path for stage in stages}}  # fmt: skip
    return {stage.addressing: found[stage.path][stage.name] for stage in stages
            if getattr(stage, "name", None) in found[stage.path]}  # fmt: skip


def needs(graph: "DiGraph", stage: "Stage") -> set[str]:
    import networkx

    return {one.addressing for one in networkx.descendants(graph, stage)}


def below(graph: "DiGraph", stage: "Stage") -> set[str]:
    """The stages that hang on this one, near or far. DVC's edges lead to what is needed."""
    import networkx

    return {one.addressing for one in networkx.ancestors(graph, stage)}


def total(rows: list[dict]) -> float:
    return round(sum(row["seconds"] or 0 for row in rows), 2)


# --- one stage ------------------------------------------------------------------------------------


def changed(stage: "Stage", ran: dict[str, dict], makers: dict[str, str]) -> dict[str, Any]:
    """A stage's own changes since its last run, by DVC's own comparison, but for its code."""
    from dvc.lock import LockError
    from dvc.stage import PipelineStage

    found: dict[str, Any] = {
        "stage": stage.addressing, "state": "unchanged", "running": False, "params": [],
        "inputs": [], "code": [], "outputs": [], "command": None, "always": False, "above": [],
    }  # fmt: skip
    last = ran.get(stage.addressing)
    code = [] if stage.frozen else changed_code(taken_out(stage))
    try:
        is_changed = stage.changed() or bool(code)
    except LockError:  # a run in progress holds its outputs, or this stage's inputs
        found["running"] = is_changed = True
    if isinstance(stage, PipelineStage) and last is None:
        return {**found, "state": "never run"}
    if is_changed:
        found["state"] = "changed"
        read_dependencies(stage, found, makers)
        found["code"] += code
        found["outputs"] = [
            {"path": str(out), "how": "missing" if not out.exists else said(out)}
            for out in stage.outs
            if out.status()
        ]
        found["always"] = bool(stage.is_callback or stage.always_changed)
        if stage.changed_stage() and last:
            found["command"] = {"old": command(last.get("cmd")), "new": command(stage.cmd)}
    return found


def taken_out(stage: "Stage") -> list["Dependency"]:
    """The dependencies that list modules, taken from the stage: the files may be of before."""
    lists = [dep for dep in stage.deps if modules.is_list(dep.def_path)
             and Path("stages", f"{Path(dep.def_path).stem}.py").exists()]  # fmt: skip
    stage.deps = [dep for dep in stage.deps if dep not in lists]
    return lists


def changed_code(lists: list["Dependency"]) -> list[dict]:
    """The modules that are not those of the last run, whose list is in DVC's cache.

    Raises:
        UserError: a module is not valid Python.
    """
    found = []
    for dep in lists:
        now, last = modules.hashes(Path(dep.def_path).stem), dep.hash_info.value
        if last == hashlib.md5(modules.as_text(now).encode()).hexdigest():
            continue
        before = modules.listed(Path(dep.repo.cache.local.oid_to_path(last))) if last else {}
        if not before:
            found.append({"path": dep.def_path, "how": NO_LIST if last else HOW["new"]})
            continue
        differ = [path for path in sorted({*before, *now}) if before.get(path) != now.get(path)]
        found += [{"path": path, "how": how(path, before, now)} for path in differ]
    return found


def how(path: str, before: dict[str, str], now: dict[str, str]) -> str:
    if path in now:
        return HOW["modified"] if path in before else HOW["new"]
    return "no longer imported" if Path(path).exists() else HOW["deleted"]


def command(cmd: Any) -> str:
    return " && ".join(cmd) if isinstance(cmd, list) else str(cmd)


def said(entry: "Output") -> str:
    word = next(iter(entry.status().values()))
    return HOW.get(word, word)


def read_dependencies(stage: "Stage", found: dict[str, Any], makers: dict[str, str]) -> None:
    from dvc.dependency import ParamsDependency

    for dep in [] if stage.frozen else stage.deps:
        if not dep.status():
            continue
        if isinstance(dep, ParamsDependency):
            found["params"] += list(parameters(dep))
        elif str(dep).endswith(".py"):
            found["code"].append({"path": str(dep), "how": said(dep)})
        else:
            made_by = makers.get(dep.fs_path)
            found["inputs"].append({"path": str(dep), "how": said(dep), "made_by": made_by})


def parameters(dep: "ParamsDependency") -> Iterator[dict]:
    """Each value that differs, by its full name; with the file's name where it is another one."""
    file = "" if Path(str(dep)).name == "params.yaml" else f"{dep}:"
    old, new = dep.hash_info.value or {}, dep.read_params()
    for name in dep.params or sorted({*old, *new}):
        for key, was, now in leaves(name, old.get(name, ABSENT), new.get(name, ABSENT)):
            yield {"name": file + key, "old": was, "new": now}


def leaves(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """The innermost values that differ.

    >>> list(leaves("grpo", {"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}))
    [('grpo.b.c', 2, 3)]
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*new, *old]):
            yield from leaves(f"{name}.{key}", old.get(key, ABSENT), new.get(key, ABSENT))
    elif old != new:
        yield name, old, new


# --- for a terminal -------------------------------------------------------------------------------


def in_full(stage: dict) -> list[str]:
    """One stage, a change a line."""
    name = stage["stage"]
    if stage["state"] == "unchanged":
        return [f"{name}: nothing changed since its last run"]
    heads = {
        "never run": f"{name} has never run (dvc.lock does not know it)",
        "below": f"{name} itself has not changed; above it changed: {', '.join(stage['above'])}",
        "changed": f"{name} changed since its last run:",
    }
    lines = [heads[stage["state"]]]
    lines += [f"  {kind:<10} {what}" for kind, what in details(stage)]
    if stage["running"]:
        lines.append("  It runs now, or a stage that it shares files with does.")
    if stage["state"] == "changed" and stage["above"]:
        lines.append(f"  Above it changed, too: {', '.join(stage['above'])}")
    return [*lines, *table(stage["reruns"]), NOTE]


def details(stage: dict) -> Iterator[tuple[str, str]]:
    for param in stage["params"]:
        yield "parameter", f"{param['name']}: {shown(param['old'])} -> {shown(param['new'])}"
    for kind, label in (("inputs", "input"), ("code", "code"), ("outputs", "output")):
        for file in stage[kind]:
            maker = f" (made by {file['made_by']})" if file.get("made_by") else ""
            yield label, f"{file['path']}{maker}: {file['how']}"
    if stage["command"]:
        yield "command", f"{stage['command']['old']} -> {stage['command']['new']}"
    if stage["always"]:
        yield "always", "dvc.yaml has it run every time"


def shown(value: Any) -> str:
    """As params.yaml would write it, cut where it is long."""
    text = value if value == ABSENT else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


def table(rows: list[dict]) -> list[str]:
    width = max(len(row["stage"]) for row in rows)
    lines = [f"  {row['stage']:<{width}}  {duration(row['seconds'])}" for row in rows]
    return ["Reruns at most (last time):", *lines, f"  {'together':<{width}}  {sum_of(rows)}"]


def sum_of(rows: list[dict]) -> str:
    unknown = sum(row["seconds"] is None for row in rows)
    if unknown == len(rows):
        return duration(None)
    return duration(total(rows)) + (f", and {unknown} not known" if unknown else "")


def in_lines(found: dict) -> list[str]:
    """All stages, one line each."""
    stages = found["stages"]
    width = max(len(stage["stage"]) for stage in stages)
    lines = [f"{stage['stage']:<{width}}  {in_short(stage)}" for stage in stages]
    if not found["reruns"]:
        return [*lines, "Nothing changed: `dvc repro` would run nothing."]
    count = len(found["reruns"])
    many = f"{count} {'stage reruns' if count == 1 else 'stages rerun'}"
    return [*lines, f"At most {many}; last time they took {sum_of(found['reruns'])}."]


def in_short(stage: dict) -> str:
    if stage["running"]:
        return "runs now, or shares files with a stage that does"
    if stage["state"] in ("unchanged", "never run"):
        return {"unchanged": "nothing changed"}.get(stage["state"], "never run")
    if stage["state"] == "below":
        return f"not itself; above it changed {few(stage['above'])}"
    parts = [f"{p['name']}: {shown(p['old'])} -> {shown(p['new'])}" for p in stage["params"][:1]]
    if len(stage["params"]) > 1:
        parts = [f"{len(stage['params'])} parameters ({stage['params'][0]['name']} ...)"]
    parts += [f"{name}: {few([file['path'] for file in stage[kind]])}"
              for kind, name in (("inputs", "input"), ("code", "code"), ("outputs", "output"))
              if stage[kind]]  # fmt: skip
    parts += ["command"] if stage["command"] else []
    return "; ".join(parts or ["runs every time"])


def few(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


if __name__ == "__main__":
    main()
