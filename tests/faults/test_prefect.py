"""A Prefect server that is lost in mid-flow, for longer than Prefect itself would wait."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from prefect import flow_engine
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.flows.conftest import PREFECT, Checkout, checkout, is_healthy, toy, wait  # noqa: F401

FLOW = """
import asyncio
from flows.pipeline import grpo_pipeline
state = asyncio.run(grpo_pipeline(targets={targets}, return_state=True))
print(state.name, state.message)
"""
QUERY = """
import asyncio
from prefect import get_client
async def main():
    async with get_client() as client:
        for run in await client.read_flow_runs():
            print(run.name if run.parent_task_run_id else "flow", run.state.name)
asyncio.run(main())
"""


@contextmanager
def prefect_server(port: int, home: Path) -> Iterator[None]:
    """A real one, killed on leaving."""
    environment = os.environ | PREFECT | {"PREFECT_HOME": str(home)}
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    try:
        for _ in wait("the Prefect server"):
            if is_healthy(f"http://127.0.0.1:{port}/api"):
                break
        yield
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.mark.long
@pytest.mark.parametrize(("targets", "ran", "cached"), [
    ([], ["left", "evaluate@left", "report"], ["prepare", "right", "evaluate@right"]),
    (["left"], ["left"], ["prepare"]),  # lost while the last stage ends
])  # fmt: skip
def test_a_lost_prefect_server_changes_neither_the_outcome_nor_the_exit_code(
    checkout: Checkout, tmp_path, monkeypatch, targets, ran, cached  # noqa: F811
):  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "2")  # it waits for 6 s by itself
    checkout.set(left=2)
    checkout.tell("left", "meet", "the server's end")
    output = checkout.notes / "flow.txt"
    home = tmp_path / "server"
    with prefect_server(port, home), output.open("w") as file:
        flow = subprocess.Popen(
            [sys.executable, "-c", FLOW.format(targets=targets)], stdout=file, stderr=file
        )
        for _ in wait("left to start"):
            if (checkout.notes / "left.is-here").exists():
                break
    (checkout.notes / "the server's end.is-here").touch()
    for _ in wait("the stage to end without a server"):
        if "is lost" in output.read_text():
            break
    time.sleep(10)
    assert flow.poll() is None
    with prefect_server(port, home):
        assert flow.wait(300) == 0, output.read_text()
        text = output.read_text()
        assert f"Completed {len(ran + cached)} stages: {len(ran)} ran, {len(cached)} cached" in text
        told = checkout.command(sys.executable, "-c", QUERY).splitlines()
    ended = {f"{name} Completed" for name in ["flow", *ran]} | {f"{name} Cached" for name in cached}
    assert set(told) == ended and len(told) == len(ended)
    checkout.command("dvc", "status", "--quiet", "left")


@pytest.mark.long
def test_a_lost_lease_ends_no_run():
    """Prefect's own keeper cancels the block after some 7 s."""
    from flows import pipeline  # noqa: F401 - it puts ours in its place

    async def in_a_slot() -> str:
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            async with flow_engine.amaintain_concurrency_lease(
                uuid4(), 300, raise_on_lease_renewal_failure=True
            ):
                await asyncio.sleep(10)
        return "went on"

    assert asyncio.run(in_a_slot()) == "went on"
