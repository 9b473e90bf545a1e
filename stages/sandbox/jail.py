"""One jail: a process behind pipes, with every read and write bounded in bytes and in seconds."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator

from stages.sandbox.limits import Limits


class JailFailed(Exception):
    """The jail could not be started: the sandbox's fault, not the code's."""


class Gone(Exception):
    """The code in the jail died, hung up, ran out of time or wrote too much."""


@contextlib.contextmanager
def jail(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A process that has locked itself in and waits for its order; killed at the end.

    A session of its own keeps a terminal's Ctrl-C from it. No jail can fork, or else (bubblewrap)
    a PID namespace dies with its first process: killing one process ends all.
    """
    try:
        process = subprocess.Popen(
            command, env=environment, cwd="/", bufsize=0, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        raise JailFailed(str(error)) from error
    try:
        for pipe in (process.stdin, process.stdout, process.stderr):
            os.set_blocking(pipe.fileno(), False)
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


def await_ready(process: subprocess.Popen, limits: Limits) -> None:
    """Waits for the line that the jail sends before it reads any of the code."""
    try:
        if receive(process, time.monotonic() + limits.start_seconds, 16) == b"ready":
            return
        said = "it sent no ready message"
    except Gone as gone:
        said = str(gone)
    process.kill()
    process.wait()
    errors = (process.stderr.read(4000) or b"").decode(errors="replace").strip()
    raise JailFailed(f"{said}: {errors}" if errors else said)


def receive(process: subprocess.Popen, deadline: float, maximum: int) -> bytes:
    """The next message. Gone where there is none by `deadline` (monotonic seconds)."""
    size = int.from_bytes(read_exactly(process, 4, deadline), "big")
    if size > maximum:
        raise Gone(f"a message of {size} bytes, more than {maximum}")
    return read_exactly(process, size, deadline)


def read_exactly(process: subprocess.Popen, size: int, deadline: float) -> bytes:
    parts = []
    fd = process.stdout.fileno()
    while size:
        wait_for(fd, select.POLLIN, deadline)
        part = os.read(fd, min(size, 1 << 16))
        if not part:
            raise Gone(how_it_ended(process))
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def send(process: subprocess.Popen, payload: bytes, deadline: float) -> None:
    data = memoryview(len(payload).to_bytes(4, "big") + payload)
    fd = process.stdin.fileno()
    while data:
        wait_for(fd, select.POLLOUT, deadline)
        try:
            data = data[os.write(fd, data) :]
        except BrokenPipeError:
            raise Gone(how_it_ended(process)) from None


def wait_for(fd: int, event: int, deadline: float) -> None:
    """poll, not select: a training process may hold more than 1,024 descriptors."""
    poll = select.poll()
    poll.register(fd, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise Gone("out of wall time")


def converse(process: subprocess.Popen, text: bytes, deadline: float, maximum: int) -> bytes:
    """Feeds a program its standard input and returns its whole standard output."""
    data, parts, room = memoryview(text), [], maximum
    inlet, outlet = process.stdin.fileno(), process.stdout.fileno()
    poll = select.poll()
    poll.register(outlet, select.POLLIN)
    poll.register(inlet, select.POLLOUT)
    while True:
        ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
        if not ready:
            raise Gone("out of wall time")
        if inlet in ready:
            data = feed(process, data)
            if not data:
                poll.unregister(inlet)
                process.stdin.close()
        if outlet in ready:
            part = os.read(outlet, 1 << 16)
            room -= len(part)
            if room < 0:
                raise Gone(f"more than {maximum} bytes of output")
            if not part:
                return b"".join(parts)
            parts.append(part)


def feed(process: subprocess.Popen, data: memoryview) -> memoryview:
    """What is left to write; nothing where the program reads no more."""
    try:
        return data[os.write(process.stdin.fileno(), data) :] if data else data
    except BrokenPipeError:
        return memoryview(b"")


def how_it_ended(process: subprocess.Popen) -> str:
    """Waits for a process whose pipe is closed; one that closed it and lives on is killed."""
    try:
        code = process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        return "it closed its pipe"
    number = -code if code < 0 else code - 128  # bubblewrap reports a signal as 128 + number
    if number in (signal.SIGXCPU, signal.SIGKILL):
        return "out of processor time"
    if number in set(signal.Signals):
        return f"it was ended by {signal.Signals(number).name}"
    return f"it ended with exit code {code}"
