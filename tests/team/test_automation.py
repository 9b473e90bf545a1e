"""`python -m flows.notify URL`: what goes wrong with a nightly run reaches a webhook."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest
import yaml

from tests.conftest import ROOT, Project, copy
from tests.flows.conftest import server, toy, wait  # noqa: F401 - fixtures
from tests.team.hosts import Host

NOTIFY = [sys.executable, "-m", "flows.notify"]
SERVE = [sys.executable, "-m", "flows.serve"]


class Webhook:
    """What was posted to an address of this machine."""

    def __init__(self):
        self.texts: list[str] = []
        texts = self.texts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers["Content-Length"])
                assert self.headers["Content-Type"] == "application/json"
                texts.append(json.loads(self.rfile.read(length))["text"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/secret"

    def first(self, seconds: float = 60) -> str:
        for _ in wait("a message", seconds):
            if self.texts:
                return self.texts[0]


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    webhook = Webhook()
    thread = threading.Thread(target=webhook.server.serve_forever)
    thread.start()
    yield webhook
    webhook.server.shutdown()
    thread.join()
    webhook.server.server_close()


@pytest.fixture
def host(toy, server, tmp_path) -> Iterator[Host]:  # noqa: F811
    host = Host(tmp_path / "host", toy, server)
    copy(ROOT / "deploy", host.checkout.root / "deploy")
    yield host
    host.run("prefect", "--no-prompt", "automation", "delete", "--all")


def within(host: Host, name: str, seconds: int) -> None:
    """Set how long an automation waits."""
    path = host.checkout.root / "deploy" / "failed-nightly.yaml"
    wanted = yaml.safe_load(path.read_text())
    [automation] = [each for each in wanted["automations"] if each["name"].endswith(name)]
    automation["trigger"]["within"] = seconds
    path.write_text(yaml.safe_dump(wanted))


@pytest.mark.long
def test_a_mistake_of_the_user_is_reported_in_its_own_words(host, webhook, tiny, tmp_path):
    project = Project(tmp_path / "project", tiny)
    copy(ROOT / "deploy", project.folder / "deploy")
    host.checkout.root = project.folder
    for _ in range(2):  # the second replaces what the first made
        host.run(*NOTIFY, webhook.url)
    targets = ["--param", 'targets=["base"]']
    with host.started(*SERVE, until="Serving: "):
        good = host.nightly(*targets)
        assert good.end().is_completed()
        project.write({**tiny, "seed": "none"})
        bad = host.nightly(*targets)
        assert bad.end().is_failed()
        message = webhook.first()
    assert message.startswith(f"grpo-pipeline/nightly Failed ({bad.run.name})\n")
    assert "params.yaml: seed" in message
    assert set(webhook.texts) == {message}  # and none of the good run; Prefect may send one twice


@pytest.mark.long
def test_a_run_that_is_silent_and_one_that_was_killed_are_reported(host, webhook):
    within(host, "silent", 10)  # its next sign of life is due after 180 s
    host.run(*NOTIFY, webhook.url)
    host.checkout.tell("left", "hang")
    host.checkout.set(left=2)
    with host.started(*SERVE, until="Serving: "):
        run = host.nightly()
        stage = host.checkout.processes("left")
        assert webhook.first().startswith("grpo-pipeline/nightly gives no sign of life (")
        webhook.texts.clear()
        psutil.Process(int(host.checkout.events()["left"]["env"]["GRPO_PIPELINE_PID"])).kill()
        assert webhook.first().startswith(f"grpo-pipeline/nightly Crashed ({run.run.name})\n")
    for process in stage:
        process.kill()


@pytest.mark.long
def test_a_nightly_that_does_not_start_is_reported(host, webhook):
    within(host, "not started", 10)
    host.run(*NOTIFY, webhook.url)
    assert webhook.first() == "grpo-pipeline/nightly has not started for 0.0 hours"


def test_an_address_that_is_none_and_a_server_that_is_not_there_are_refused(tmp_path):
    nobody = "http://127.0.0.1:9/api"
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": nobody}

    def refusal(url: str) -> str:
        done = subprocess.run(
            [*NOTIFY, url], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr

    assert refusal("hooks.example.org") == (
        "'hooks.example.org' is no address of a webhook: it begins with http:// or https://.\n"
    )
    assert refusal("http://127.0.0.1:9").startswith(f"No Prefect server answers at {nobody}")
