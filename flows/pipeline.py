"""The flow `grpo-pipeline`: runs dvc.yaml, each of its stages as a run of its own.

dvc.yaml is the only description of the pipeline. The flow asks DVC for its graph, shows a stage
that has not changed as Cached, and runs `dvc repro --single-item STAGE` for one that has. With
overrides the whole of it is a DVC experiment, `dvc exp run --temp -S ...`, told stage by stage.
"""

import asyncio
import difflib
import heapq
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from httpx import TransportError
from prefect import flow, get_client, get_run_logger, runtime
from prefect.artifacts import acreate_markdown_artifact
from prefect.exceptions import TerminationSignal
from prefect.states import Completed, Failed, State
from pydantic import NonNegativeInt

from flows import lease, process
from flows.stage import (
    STAGE_LINE,
    PipelineError,
    cached_run,
    child_run,
    dvc,
    follow,
    server_is_there,
    stage_environment,
)

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage

lease.keep()

EXPERIMENT_LINE = re.compile(r"Reproducing experiment '(.+)'$")
EXPERIMENT_END = "Ran experiment(s): "
REPORT = "reports/report.md"


@flow(name="grpo-pipeline")
async def grpo_pipeline(
    overrides: list[str] = [],  # noqa: B006 - Prefect shows these defaults, and copies them
    targets: list[str] = [],  # noqa: B006
    force: bool = False,
    retries: NonNegativeInt = 0,
    pull: bool = False,
) -> State:
    """Bring the stages of dvc.yaml up to date, running only what has changed.

    Args:
        overrides: Parameters to change, such as `grpo.kl_coef=0.01`. The run is then a DVC
            experiment, and the workspace stays as it is.
        targets: Bring only these stages up to date, and what they need; `evaluate` stands for
            every `evaluate@...`. None means all.
        force: Run even what has not changed.
        retries: How often a failing stage is tried again. With overrides it is the experiment
            that is tried again, and DVC takes the stages that had finished from its cache.
        pull: Take from the DVC remote what was made elsewhere, before running anything.
    """
    from dvc.exceptions import DvcException

    asyncio.get_running_loop().set_exception_handler(partial(_on_error, asyncio.current_task()))
    options = [option for option, wanted in (("--force", force), ("--pull", pull)) if wanted]
    try:
        look = not (force or overrides)
        needs, unaffected = await asyncio.to_thread(survey, targets, look)
        if overrides:
            state = await _run_experiment(overrides, targets, options, retries)
        else:
            state = await _run_stages(needs, unaffected, force, options, retries)
    except (DvcException, PipelineError) as error:
        state = Failed(message=str(error))
    await server_is_there()
    return state


def _on_end(flow_run: asyncio.Task, task: asyncio.Task) -> None:
    """Cancel the flow if the signal that ends it came up in one of its tasks."""
    if not task.cancelled() and isinstance(task.exception(), TerminationSignal):
        flow_run.cancel()


def _on_error(flow_run: asyncio.Task, loop: asyncio.AbstractEventLoop, context: dict) -> None:
    """Cancel the flow if the signal that ends it came up in a callback, where asyncio drops it."""
    if isinstance(context.get("exception"), TerminationSignal):
        flow_run.cancel()
    else:
        loop.default_exception_handler(context)


def plan(targets: Iterable[str]) -> dict[str, list[str]]:
    """Map each stage that `targets` need (none: all of dvc.yaml) to those it waits for.

    A stage comes after those it waits for. Raises PipelineError where a target names no stage,
    and DvcException where DVC cannot read dvc.yaml.
    """
    return survey(targets, look=False)[0]


def survey(targets: Iterable[str], look: bool) -> tuple[dict[str, list[str]], set[str]]:
    """Return the `plan`, and those of its stages that are as they were, with all they wait for.

    These are found in one go: opening the checkout takes DVC longer than looking at a stage.
    Without `look` none is looked at, and none found.
    """
    from dvc.repo.reproduce import get_active_graph, plan_repro

    with _locked_repo() as repo:
        graph = get_active_graph(repo.index.graph)
        stages = {stage.addressing: stage for stage in graph}
        named = [stages[name] for target in targets for name in _select(target, stages)]
        wanted = named or repo.stage.collect("dvc.yaml")
        needs, unaffected = {}, set()
        for stage in plan_repro(graph, wanted):
            name = stage.addressing
            needs[name] = [needed.addressing for needed in graph.successors(stage)]
            if look and unaffected.issuperset(needs[name]) and _is_unchanged(stage):
                unaffected.add(name)
        return needs, unaffected


@contextmanager
def _locked_repo() -> Iterator["Repo"]:
    """Open the checkout while no DVC process changes it."""
    from dvc.repo import Repo

    # DVC holds the lock while it saves outputs: with a large model far longer than the 3 s that
    # it would wait for it by default.
    with Repo(_wait_for_lock=True) as repo, repo.lock:
        yield repo


def _select(target: str, stages: Iterable[str]) -> list[str]:
    """Return the stages that `target` stands for: the one so named, or all `target@...`."""
    chosen = [name for name in stages if name == target or name.startswith(f"{target}@")]
    if not chosen:
        known = {*stages, *(name.partition("@")[0] for name in stages)}
        nearest = difflib.get_close_matches(target, sorted(known), n=1, cutoff=0)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise PipelineError(f"dvc.yaml has no stage {target!r}{hint}")
    return chosen


# --- in the workspace, stage by stage -------------------------------------------------------------


async def _run_stages(
    needs: dict[str, list[str]],
    unaffected: set[str],
    force: bool,
    options: list[str],
    retries: int,
) -> State:
    """Run each stage of `needs` as soon as those it waits for have finished and a slot is free."""
    slots, ahead = Slots(slot_environments()), stages_ahead(needs)
    one_at_a_time = asyncio.Lock()
    environment = stage_environment()

    async def is_unchanged_now(name: str) -> bool:
        """What has run before it may have made what it made last time."""
        if force or unaffected.issuperset(needs[name]):
            return False
        return await asyncio.to_thread(_is_unchanged_now, name)

    async def cached(name: str) -> State:
        # One at a time: a Prefect server on SQLite makes many a concurrent request wait for 2 s.
        async with one_at_a_time:
            return await cached_run(name)

    async def run(name: str, waits_for: list[asyncio.Task]) -> State | None:
        needed = await asyncio.gather(*waits_for)
        if not all(state and state.is_completed() for state in needed):
            return None
        if name in unaffected:
            return await cached(name)
        slot = await slots.take(ahead[name])
        command = ["repro", "--single-item", *options, name]
        log = Path("logs", f"{name}.log")

        async def reproduce() -> State:
            return await follow(log, dvc(command, environment | slot), retries)

        try:
            if await is_unchanged_now(name):
                return await cached(name)
            return await child_run(name, reproduce, retries)
        finally:
            slots.give_back(slot)

    runs: dict[str, asyncio.Task[State | None]] = {}
    for name, waits_for in needs.items():
        runs[name] = asyncio.create_task(run(name, [runs[needed] for needed in waits_for]))
        runs[name].add_done_callback(partial(_on_end, asyncio.current_task()))
    # All of them end before an error counts: a lost Prefect server ends no training.
    states = await asyncio.gather(*runs.values(), return_exceptions=True)
    for error in states:
        if isinstance(error, Exception):
            raise error
    state = _summary(dict(zip(runs, states, strict=True)))
    if state.is_completed() and "report" in runs:
        await _show_report(None)
    return state


def stages_ahead(needs: dict[str, list[str]]) -> dict[str, int]:
    """Return how many stages the longest chain has that begins with each.

    Args:
        needs: each stage, after those that it waits for.
    """
    ahead = dict.fromkeys(needs, 1)
    for name in reversed(needs):
        for needed in needs[name]:
            ahead[needed] = max(ahead[needed], ahead[name] + 1)
    return ahead


class Slots:
    """What so many stages may have at a time; whoever has the longest way to go comes first."""

    PAUSE = 0.1  # seconds in which those that waited for a stage come to wait for its slot

    def __init__(self, free: list[dict[str, str]]):
        self._free = free
        self._waiting: list[tuple[int, int, asyncio.Future[dict[str, str]]]] = []
        self._came = 0

    async def take(self, way: int) -> dict[str, str]:
        """Wait for a slot; of those that wait, one with a longer way gets it first."""
        turn = asyncio.get_running_loop().create_future()
        self._came += 1
        heapq.heappush(self._waiting, (-way, self._came, turn))
        self._later()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(turn.result())
            raise

    def give_back(self, slot: dict[str, str]) -> None:
        self._free.append(slot)
        self._later()

    def _later(self) -> None:
        asyncio.get_running_loop().call_later(self.PAUSE, self._hand_out)

    def _hand_out(self) -> None:
        while self._free and self._waiting:
            *_, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(self._free.pop(0))


def _is_unchanged_now(name: str) -> bool:
    with _locked_repo() as repo:
        [stage] = repo.stage.collect(name)
        return _is_unchanged(stage)


def _is_unchanged(stage: "Stage") -> bool:
    from dvc.lock import LockError

    try:
        return not stage.changed()
    except LockError:
        return False  # someone else runs it: `dvc repro` says who


def slot_environments() -> list[dict[str, str]]:
    """Return what each of the stages that may run side by side finds in its environment.

    A slot has a GPU for each of the `launch.processes` of a stage. Raises PipelineError where
    params.yaml sets run.max_parallel to anything but a count or `auto`, or launch.processes to
    anything but a count.
    """
    gpus, cores = _gpus(), os.cpu_count() or 1
    params = yaml.safe_load(Path("params.yaml").read_text()) or {}
    processes = (params.get("launch") or {}).get("processes", 1)
    if type(processes) is not int or processes < 1:
        raise PipelineError(f"launch.processes is {processes!r}; it must be a count")
    whole = max(1, len(gpus) // processes)
    groups = [",".join(gpus[i * processes : (i + 1) * processes]) for i in range(whole)]
    count = (params.get("run") or {}).get("max_parallel", "auto")
    if count == "auto":
        count = whole if gpus else (1 if cores < 4 else 2)
    if type(count) is not int or count < 1:
        raise PipelineError(f"run.max_parallel is {count!r}; it must be a count or `auto`")
    if count == 1:
        return [{}]
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": groups[i % whole]} for i in range(count)]
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // (count * processes))))
    return [{"OMP_NUM_THREADS": threads}] * count


def _gpus() -> list[str]:
    """Return the GPUs that stages may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu.strip() for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(
        ["nvidia-smi", "-L"], capture_output=True, check=False, text=True
    ).stdout
    return [str(index) for index in range(len(re.findall(r"^GPU ", listed, re.MULTILINE)))]


def _summary(states: dict[str, State | None]) -> State:
    """Return the flow's state, given that of each stage (None: not started)."""
    failed = {name: state for name, state in states.items() if state and not state.is_completed()}
    if failed:
        left = [name for name, state in states.items() if state is None]
        not_started = [f"Not started: {', '.join(left)}."] if left else []
        reasons = [state.message or f"{name}: {state.name}" for name, state in failed.items()]
        return Failed(message="\n".join(reasons + not_started))
    cached = sum(state.name == "Cached" for state in states.values())
    ran = len(states) - cached
    return Completed(message=f"{len(states)} stages: {ran} ran, {cached} cached")


# --- as an experiment -----------------------------------------------------------------------------


async def _run_experiment(
    overrides: list[str], targets: list[str], options: list[str], retries: int
) -> State:
    for override in overrides:
        if not re.match(r"[^=\s]+=", override):
            raise PipelineError(f"the override {override!r} is not of the form key=value")
    settings = [f"--set-param={override}" for override in overrides]
    command = ["exp", "run", "--temp", *options, *settings, *targets]
    for _ in range(1 + retries):
        name, states = await _try_experiment(command)
        state = _summary(states)
        if state.is_completed():
            state.message = f"experiment {name}: {state.message}"
            break
    if all(state.name == "Cached" for state in states.values()):
        await _report_restored()
    if state.is_completed() and "report" in states:
        await _show_report(name)
    return state


async def _show_report(experiment: str | None) -> None:
    """Show verdicts and results with the flow run: the report up to its first figure."""
    if experiment:
        from dvc.api import read

        text = await asyncio.to_thread(read, REPORT, rev=experiment)
    else:
        text = Path(REPORT).read_text()
    await server_is_there()
    with suppress(TransportError):  # lost at this very moment: the report is in reports/, too
        await acreate_markdown_artifact(
            text.partition("\n![")[0], "report", f"{REPORT} of {experiment or 'the workspace'}"
        )


async def _report_restored() -> None:
    """Let MLflow know of an experiment of which no stage ran."""
    try:
        async for line in process.run([sys.executable, "-m", "stages.core.restored"], os.environ):
            get_run_logger().info(line)
    except process.Failed as failed:
        get_run_logger().warning("the experiment is not in MLflow: stages.core.restored %s", failed)


async def _try_experiment(command: list[str]) -> tuple[str, dict[str, State]]:
    """Run `dvc exp run`; return the experiment's name and how each stage ended.

    Raises PipelineError with DVC's message where DVC does not come to run a stage.
    """
    name, heading, states = "", None, {}

    async def part(lines: AsyncIterator[str]) -> AsyncIterator[str]:
        """Yield what is left up to the next stage's heading, which the next part begins with."""
        nonlocal heading
        if heading:
            yield heading
            heading = None
        async for line in lines:
            if STAGE_LINE.match(line) or line.startswith(EXPERIMENT_END):
                heading = line
                return
            yield line

    async with aclosing(dvc(command, stage_environment())) as lines:
        async for line in part(lines):
            get_run_logger().info(line)
            if found := EXPERIMENT_LINE.match(line):
                name = found[1]
                await _tag(name)
        while heading and (stage := _stage_of(heading)):
            log = Path("logs", name, f"{stage}.log")
            states[stage] = await child_run(stage, partial(follow, log, part(lines)))
        async for line in part(lines):
            get_run_logger().info(line)
    return name, states


async def _tag(experiment: str) -> None:
    """Let the flow run be found by the name of its experiment."""
    await server_is_there()
    tags = {*runtime.flow_run.tags, experiment}
    async with get_client() as client:
        with suppress(TransportError):  # lost at this very moment: the log names it, too
            await client.update_flow_run(runtime.flow_run.id, tags=tags)


def _stage_of(line: str) -> str | None:
    found = STAGE_LINE.match(line)
    return found and found[found.lastgroup]
