"""Commands as processes: their lines, and that nothing is left of them."""

import asyncio
import os
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing

import psutil
import pytest

from flows import process


def lines_of(script: str) -> list[str]:
    async def collect() -> list[str]:
        command = [sys.executable, "-u", "-c", script]
        return [line async for line in process.run(command, dict(os.environ))]

    return asyncio.run(collect())


def test_lines_of_both_streams_come_in_order_without_blank_ones():
    script = "import sys; print('a\\n\\n  b'); print('c', file=sys.stderr); print('d', end='')"
    assert lines_of(script) == ["a", "  b", "c", "d"]


def test_a_progress_bar_is_thinned_and_its_last_state_kept():
    bar = r"for i in range(1000): print(f'\r{i / 10}%', end='')"
    lines = lines_of(f"print('start')\n{bar}\nprint()\nprint('end')")
    assert lines[0] == "start"
    assert lines[-2:] == ["99.9%", "end"]
    assert len(lines) < 6


def test_windows_line_ends_and_colours_are_removed():
    assert lines_of(r"print('\x1b[31mred\x1b[0m\r\nb\r')") == ["red", "b"]


def test_a_very_long_line_comes_in_pieces():
    *pieces, end = lines_of("print('x' * 1_000_000); print('end')")
    assert "".join(pieces) == "x" * 1_000_000
    assert max(map(len, pieces)) < 10_000
    assert end == "end"


def test_what_is_no_text_does_no_harm():
    assert lines_of(r"import os; os.write(1, b'\xff\xfe ok\n\xc3'); os.write(1, b'\xa4\n')") == [
        "\ufffd\ufffd ok",
        "ä",
    ]


def test_an_exit_code_is_raised():
    with pytest.raises(process.Failed, match="exited with 3"):
        lines_of("import sys; sys.exit(3)")


HANGING = """
import signal, subprocess, sys, time
from pathlib import Path

def save(*_):
    print("x" * 1_000_000)  # more than a pipe holds
    Path("saved").touch()
    sys.exit()

signal.signal(signal.SIGTERM, {on_term})
child = subprocess.Popen(["sleep", "600"])
print(child.pid)
time.sleep(600)
"""


def hanging(on_term: str) -> AsyncIterator[str]:
    """Run a command as DVC does, which waits for it and ignores an INT meanwhile."""
    script = shlex.join([sys.executable, "-u", "-c", HANGING.format(on_term=on_term)])
    return process.run(["sh", "-c", f"trap '' INT; {script}; exit 1"], dict(os.environ))


def family(line: str) -> list[psutil.Process]:
    child = psutil.Process(int(line))
    return [child, *child.parents()[:2]]


@pytest.mark.parametrize(
    "on_term", ["save", pytest.param("signal.SIG_IGN", marks=pytest.mark.long)]
)
def test_nobody_of_its_group_outlives_it(on_term, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def start_and_leave() -> list[psutil.Process]:
        async with aclosing(hanging(on_term)) as lines:
            return family(await anext(lines))

    assert psutil.wait_procs(asyncio.run(start_and_leave()), timeout=5)[1] == []
    assert (tmp_path / "saved").exists() == (on_term == "save")


def test_cancelling_it_twice_does_not_hurry_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def cancel_twice() -> list[psutil.Process]:
        lines = hanging("save")
        processes = family(await anext(lines))
        await asyncio.to_thread(int)  # a thread that is there picks its next work up later
        task = asyncio.create_task(anext(lines))
        await asyncio.sleep(0)
        for _ in range(2):
            task.cancel()
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        return processes

    assert psutil.wait_procs(asyncio.run(cancel_twice()), timeout=0)[1] == []
    assert (tmp_path / "saved").exists()


def test_a_daemon_that_holds_the_output_is_not_waited_for():
    [pid] = lines_of(
        "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid)"
    )
    psutil.Process(int(pid)).kill()
