"""One stage as a run in Prefect, and DVC, which runs it, as a process."""

import asyncio
import logging
import os
import re
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from pathlib import Path

from httpx import TransportError
from prefect import Flow, Task, get_client, get_run_logger, runtime
from prefect.states import Completed, Failed, State

from flows import process

logger = logging.getLogger("prefect.flows")

TAIL_LINES = 10
POLL_S = 2  # between two looks for a lost server

STAGE_LINE = re.compile(
    r"Running stage '(?P<running>.+)':$"
    r"|Verifying data sources in stage: '(?P<verified>.+)'$"
    r"|(?:Stage )?'(?P<unchanged>.+)' didn't change, skipping$"
    r"|Stage '(?P<restored>.+)' is cached - skipping run"
)
EXIT_CODE = re.compile(r"exited with (-?\d+)$")


class PipelineError(Exception):
    """What keeps the pipeline from going on, in a sentence for whoever started it."""


async def child_run(name: str, body: Callable[[], Awaitable[State]], retries: int = 0) -> State:
    """Run `body` as a child run named after the stage, and return the state it ends in.

    A Prefect server that is lost meanwhile is waited for: it neither ends a stage nor changes how
    it ended.
    """
    child_id, ended = None, None

    async def stage() -> State:
        nonlocal child_id, ended
        child_id = runtime.flow_run.id
        try:
            ended = await body()
        except PipelineError:
            await server_is_there()
            raise
        await server_is_there()
        return ended

    name = _run_name(name)
    child = Flow(stage, name=name, flow_run_name=name, retries=retries)
    while True:
        await server_is_there()
        with suppress(TransportError):  # lost at this very moment
            if ended is None:
                state = await child(return_state=True)
                if ended is None or state.type == ended.type:
                    return ended or state
            async with get_client() as client:
                await client.set_flow_run_state(child_id, ended, force=True)
            return ended


async def cached_run(name: str) -> State:
    """Show a stage that has not changed as a child run that has ended, and return its state.

    It takes four requests; a run that starts, runs and ends takes twelve.
    """
    name = _run_name(name)
    state = Completed(name="Cached", message="unchanged since it last ran")
    while True:
        await server_is_there()
        with suppress(TransportError):  # lost at this very moment
            # what Prefect's engine does for a flow that a flow calls
            placeholder = await Task(_unchanged, name=name).create_run()
            async with get_client() as client:
                await client.create_flow_run(
                    Flow(_unchanged, name=name), name, state=state,
                    parent_task_run_id=placeholder.id,
                )  # fmt: skip
            get_run_logger().info("%s is unchanged since it last ran", name)
            return state


def _unchanged() -> None:
    """What a stage does that has not changed."""


def _run_name(stage: str) -> str:
    return stage.replace("/", ":")  # of a file such as data/raw.dvc; Prefect allows no slash


async def server_is_there() -> None:
    """Wait until the Prefect server answers; it may have been stopped, or be starting again."""
    waits = False
    while error := await _server_error():
        if not waits:
            logger.warning("The Prefect server is lost (%s): what runs goes on, what has ended is "
                           "told to it when it is back.", error)  # fmt: skip
        waits = True
        await asyncio.sleep(POLL_S)


async def _server_error() -> Exception | None:
    """What keeps the server from answering; asked by a client that never retries by itself."""
    async with get_client() as client:
        return await client.api_healthcheck()


async def follow(stage_log: Path, lines: AsyncIterator[str], retries: int = 0) -> State:
    """Log what a stage prints to its child run, and return the state it ends in.

    A failure that is to be retried is raised, as Prefect retries only what raises.
    """
    log, tail, cached = _Log(), deque(maxlen=TAIL_LINES), False
    try:
        async with aclosing(lines):
            async for line in lines:
                log.add(line)
                tail.append(line)
                if found := STAGE_LINE.match(line):
                    cached = found.lastgroup in ("unchanged", "restored")
    except PipelineError as error:
        log.flush()
        failure = PipelineError(_explain(str(error), stage_log, tail))
        if runtime.flow_run.run_count <= retries:
            raise failure from None
        return Failed(message=str(failure))
    return Completed(name="Cached", message=tail[0]) if cached else Completed()


class _Log:
    """Logs lines that come in one breath as one record, since a record costs half a millisecond."""

    def __init__(self):
        self._logger, self._lines = get_run_logger(), []

    def add(self, line: str) -> None:
        if not self._lines:
            asyncio.get_running_loop().call_soon(self.flush)
        self._lines.append(line)

    def flush(self) -> None:
        if self._lines:
            self._logger.info("\n".join(self._lines))
            self._lines.clear()


def _explain(error: str, stage_log: Path, tail: Iterable[str]) -> str:
    code = EXIT_CODE.search(error)
    how = f" with exit code {code[1]}" if code else ""
    where = f" ({stage_log} has more)" if stage_log.exists() else ""
    return "\n".join([f"Stage {stage_log.stem!r} failed{how}{where}:", *tail])


def stage_environment() -> dict[str, str]:
    """Return the environment of DVC and the stages, which run with this very Python."""
    return os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONUNBUFFERED": "1",
        "GRPO_PIPELINE_RUN": runtime.flow_run.id,
        "GRPO_PIPELINE_PID": str(os.getpid()),
    }


async def dvc(arguments: list[str], environment: dict[str, str]) -> AsyncIterator[str]:
    """Run DVC, and yield the lines that it and its stages print.

    Raises PipelineError with DVC's message where DVC fails.
    """
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    error = ""
    try:
        async with aclosing(process.run(command, environment)) as lines:
            async for line in lines:
                if line.startswith("ERROR: "):
                    error = line.removeprefix("ERROR: ")
                yield line
    except process.Failed as failed:
        raise PipelineError(error or f"dvc {arguments[0]} {failed}") from None
