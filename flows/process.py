"""Running a command: its lines as they come, and nothing left of it at the end."""

import asyncio
import codecs
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import psutil

GRACE_S = 15  # what a process gets to save its work; Prefect kills a cancelled flow after 30
POLL_S = 0.1
DRAIN_S = 5
BAR_S = 30
CHUNK = 2**12
LINE_CHARS = 4_000

LINE_END = re.compile(r"(?<=\n)|(?<=\r)(?=[^\n])")  # a \r\n is one end, also in two pieces
ESCAPE_CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Failed(Exception):
    """A command ended with another exit code than 0."""


async def run(command: list[str], environment: dict[str, str]) -> AsyncIterator[str]:
    """Run a command, and yield the lines that come out of it, whether stdout or stderr.

    It runs in a process group of its own, of which nothing is left when this generator ends,
    however it ends. Raises Failed where the exit code is not 0.
    """
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    read_end, write_end = os.pipe()
    pipe, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb")
    )
    with os.fdopen(write_end, "wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            process_group=0,  # in this session, which what is forked for a stage must share
        )
    exit_code = asyncio.create_task(process.wait())
    # A daemon that the command left behind may hold the other end of the pipe for ever.
    exit_code.add_done_callback(lambda _: loop.call_later(DRAIN_S, pipe.close))
    try:
        async for line in _lines(reader):
            yield line
        await exit_code
    finally:
        rest = asyncio.create_task(reader.read())  # in a full pipe its last words would be stuck
        await _finish(loop.run_in_executor(None, _end_group, process.pid))
        rest.cancel()
        pipe.close()
    if exit_code.result():
        raise Failed(f"exited with {exit_code.result()}")


async def _finish(future: asyncio.Future) -> None:
    """Wait for a future in spite of being cancelled, as asyncio and Prefect do several times."""
    cancelled = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        raise cancelled


def _end_group(leader: int) -> None:
    """End a process group: INT to its leader, TERM to the others, and after the grace KILL.

    DVC, the leader, clears up after an INT (locks, the folder of an experiment) but not after a
    TERM; while its stage runs it ignores the INT, and clears up when the TERM has ended the stage.
    """
    for pid in psutil.pids():
        with suppress(ProcessLookupError):
            if os.getpgid(pid) == leader:
                os.kill(pid, signal.SIGINT if pid == leader else signal.SIGTERM)
    with suppress(ProcessLookupError):
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            os.killpg(leader, 0)  # raises as soon as nobody is left
            time.sleep(POLL_S)
        os.killpg(leader, signal.SIGKILL)


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """Yield the lines that can be read, without the blank ones and a very long one in pieces.

    Of a progress bar, redrawn after each carriage return, come its last state and one every BAR_S.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest, bar, bar_due = "", "", 0.0
    while chunk := await reader.read(CHUNK):
        *parts, rest = LINE_END.split(rest + decoder.decode(chunk))
        if len(rest) > LINE_CHARS:
            parts, rest = [*parts, rest + "\n"], ""
        for part in parts:
            line, bar = _readable(part) or bar, ""
            if part.endswith("\r"):
                if time.monotonic() < bar_due:
                    bar = line
                    continue
                bar_due = time.monotonic() + BAR_S
            if line:
                yield line
        await asyncio.sleep(0)  # while a flood lasts, `read` never waits
    if line := _readable(rest) or bar:
        yield line


def _readable(part: str) -> str:
    return ESCAPE_CODE.sub("", part).rstrip()
