"""Running a command: its lines as they come, and nothing left of it at the end."""

import asyncio
import codecs
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

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
    read_end, write_end = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL,
        stdout=write_end,
        stderr=write_end,
        env=environment,
        start_new_session=True,
    )
    os.close(write_end)
    exit_code = asyncio.create_task(process.wait())
    try:
        async with aclosing(_text(read_end, exit_code)) as text:
            async for line in _lines(text):
                yield line
        await exit_code
    finally:
        await _end_group(process.pid)
    if exit_code.result():
        raise Failed(f"exited with {exit_code.result()}")


async def _end_group(group: int) -> None:
    """End a process group: TERM, and KILL for what is still there after the grace."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        try:
            for _ in range(int(GRACE_S / POLL_S)):
                await asyncio.sleep(POLL_S)
                os.killpg(group, 0)  # raises as soon as nobody is left
        finally:
            os.killpg(group, signal.SIGKILL)


async def _text(pipe: int, exit_code: asyncio.Task[int]) -> AsyncIterator[str]:
    """Yield what comes out of a pipe until it is closed at its other end.

    It is closed at this end soon after the process has ended: a daemon that it left behind may
    hold the other for ever.
    """
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb")
    )
    exit_code.add_done_callback(lambda _: loop.call_later(DRAIN_S, transport.close))
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    try:
        while chunk := await reader.read(CHUNK):
            yield decoder.decode(chunk)
            await asyncio.sleep(0)  # while a flood lasts, `read` never waits
    finally:
        transport.close()


async def _lines(text: AsyncIterator[str]) -> AsyncIterator[str]:
    """Yield the lines of a text that comes in pieces, without the blank ones.

    Of a progress bar, redrawn after each carriage return, come its last state and one every BAR_S.
    """
    rest, bar, bar_due = "", "", 0.0
    async for piece in text:
        *parts, rest = LINE_END.split(rest + piece)
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
    if line := _readable(rest) or bar:
        yield line


def _readable(part: str) -> str:
    line = ESCAPE_CODE.sub("", part).rstrip()
    more = len(line) - LINE_CHARS
    return line if more <= 0 else f"{line[:LINE_CHARS]} ... and {more:,} characters more"
