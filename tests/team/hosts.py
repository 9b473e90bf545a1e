"""Hosts of a team: clones of the toy checkout, each with an environment of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from tests.flows.conftest import PREFECT, Checkout, Outcome, wait


class Host:
    """A clone with its own DVC cache, Prefect home and environment, none of it ours."""

    def __init__(self, folder: Path, origin: Path, server: str, **environment: str):
        self.checkout = Checkout(folder / "checkout")
        self.log = folder / "worker.log"
        self.environment = PREFECT | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": server,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DVC_NO_ANALYTICS": "1",
        } | environment  # fmt: skip
        command = ["git", "clone", "--quiet", str(origin), str(self.checkout.root)]
        subprocess.run(command, check=True)
        self.checkout.notes.mkdir()
        self.checkout.forget()

    def run(self, *words: str) -> str:
        done = subprocess.run(
            words, cwd=self.checkout.root, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def deploy(self, *arguments: str) -> None:
        self.run("prefect", "--no-prompt", "deploy", *(arguments or ["--all"]))

    def nightly(self, *options: str) -> Outcome:
        text = self.run("prefect", "deployment", "run", "grpo-pipeline/nightly", *options)
        return Outcome(UUID(text.partition("UUID: ")[2].split()[0]))

    @contextmanager
    def started(self, *words: str, until: str) -> Iterator[subprocess.Popen]:
        """Start a command in the checkout, wait until it says something, end it on leaving."""
        with self.log.open("w") as file:
            process = subprocess.Popen(
                words, cwd=self.checkout.root, env=self.environment, stdout=file, stderr=file
            )
        try:
            for _ in wait(repr(until)):
                if until in self.log.read_text():
                    break
            yield process
        finally:
            process.terminate()
            process.wait(120)

    def works(self, pool: str):
        return self.started("prefect", "worker", "start", "--pool", pool, until="started!")
