"""Workers on other hosts: each runs the nightly in its own checkout, one at a time."""

from pathlib import Path

import psutil
import pytest

from tests.flows.conftest import server, toy, wait  # noqa: F401 - fixtures
from tests.team.hosts import Host

pytestmark = pytest.mark.long


@pytest.fixture
def hosts(toy, server, tmp_path):  # noqa: F811
    def hosts(*names: str) -> list[Host]:
        return [Host(tmp_path / name, toy, server, TZ=name) for name in names]

    return hosts


@pytest.fixture
def pool(hosts) -> tuple[Host, str]:
    """The host that deployed, and its work pool."""
    [deployer] = hosts("deployer")
    deployer.run("prefect", "work-pool", "create", "local", "--type", "process", "--overwrite")
    deployer.deploy()
    return deployer, "local"


def cached(host: Host) -> set[Path]:
    return set((host.checkout.root / ".dvc" / "cache" / "files").rglob("*"))


def test_a_run_takes_code_parameters_cache_and_environment_of_its_worker(hosts, pool):
    deployer, local = pool
    [other] = hosts("other")
    other.environment["CUDA_VISIBLE_DEVICES"] = "7"
    other.checkout.set(left=5)
    code = other.checkout.root / "flows" / "pipeline.py"
    code.write_text(code.read_text().replace("{ran} ran", "{ran} ran there"))
    run = deployer.nightly()
    deployer.checkout.root.rename(deployer.checkout.root.parent / "gone")
    with other.works(local):
        state = run.end()
    assert (state.name, state.message) == ("Completed", "6 stages: 6 ran there, 0 cached")
    assert (other.checkout.root / "left.txt").read_text().startswith("left 5\n")
    assert other.checkout.events()["left"]["env"]["CUDA_VISIBLE_DEVICES"] == "7"
    assert cached(other)
    assert not deployer.checkout.root.exists()


def test_of_two_workers_runs_the_second_waits(hosts, pool):
    deployer, local = pool
    both = hosts("one", "two")
    for host in both:
        host.checkout.tell("prepare", "hang")
    short = ["--param", 'targets=["prepare"]']
    with both[0].works(local), both[1].works(local):
        first = deployer.nightly(*short)
        for _ in wait("a worker that runs"):
            if hanging := [host for host in both if "prepare" in host.checkout.events("child")]:
                break
        second = deployer.nightly(*short)
        for _ in wait("the queue"):
            if second.state.name == "AwaitingConcurrencySlot":
                break
        assert first.state.is_running()
        for host in both:
            (host.checkout.notes / "prepare.hang").unlink()
        psutil.Process(hanging[0].checkout.events("child")["prepare"]["pid"]).terminate()
        assert first.end().is_completed()
        assert second.end().is_completed()
    assert second.run.start_time >= first.run.end_time
