"""The final model behind an OpenAI-style API, asked by OpenAI's own client."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stages import serve, tasks
from stages.core import params as parameters
from stages.core.errors import UserError
from tests.conftest import ROOT
from tests.known import KNOWN


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def server(knowing) -> Iterator[str]:
    """The address of `python -m stages.serve` with a model that knows two answers."""
    pytest.importorskip("openai")
    port = free_port()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "stages.serve", "--port", str(port)]
    with Path("serve.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)


def wait_for(url: str, process: subprocess.Popen) -> None:
    for _ in range(240):
        assert process.poll() is None, Path("serve.log").read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(Path("serve.log").read_text())


@pytest.mark.long
def test_a_chat_request_about_a_problem_gets_the_models_answer(server):
    from openai import OpenAI

    client = OpenAI(base_url=server, api_key="none", max_retries=0)
    fmt = parameters.validate(yaml.safe_load(Path("params.yaml").read_text()), "params.yaml").format
    for question, (completion, gold) in KNOWN.items():
        asked = {"model": "models/grpo", "messages": tasks.prompt(question, fmt), "temperature": 0}
        answer = client.chat.completions.create(**asked, max_tokens=40)
        assert answer.choices[0].message.content == completion
        assert answer.choices[0].finish_reason == "stop"
        assert re.search(r"<answer>(.*)</answer>", completion)[1] == gold
        chunks = list(client.chat.completions.create(**asked, max_tokens=40, stream=True))
        parts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
        assert "".join(parts) == completion
    cut = client.chat.completions.create(**asked, max_tokens=3).choices[0]
    assert cut.finish_reason == "length" and completion.startswith(cut.message.content)
    assert "models/grpo on http" in Path("serve.log").read_text()


def test_what_cannot_be_served_is_refused(here):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port} cannot be had"):
            serve.require_free("127.0.0.1", port)
    with pytest.raises(UserError, match="models/grpo is missing: run the stage that makes it"):
        serve.located("grpo")
