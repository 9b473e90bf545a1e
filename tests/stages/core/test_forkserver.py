"""What is forked is what the command would have been; nothing of it is left when it should go."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from stages.core import forkserver
from stages.core.forkserver import Forked
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stages are forked on Linux")

TELLING = """
import json, os, sys
print(json.dumps({
    "arguments": sys.argv[1:], "folder": os.getcwd(), "path": sys.path[0], "main": __name__,
    "environment": dict(os.environ), "group": os.getpgrp(), "process": os.getpid(),
    "server": os.getppid(), "loaded": list(sys.modules), "stdin": sys.stdin.read(),
}))
print("on stderr", file=sys.stderr)
sys.exit(3)
"""
SLEEPING = """
import os, signal, sys, time
if sys.argv[1:]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
open("begun", "w").write(str(os.getpid()))
time.sleep(600)
"""
ENDING = """
import atexit, sys, threading, time
atexit.register(lambda: print("called at the end", end=""))
threading.Thread(target=lambda: (time.sleep(0.2), print("a thread", end=", "))).start()
{how}
"""
ASKING = """
import os, sys, psutil
from stages.core import forkserver
forked = forkserver.start(psutil.Process(int(sys.argv[1])), "sleeping", [], [0, 1, 2], (),
                          outlives=bool(sys.argv[2:]))
assert forked.has_begun()
forked.wait()
"""


@pytest.fixture
def owner(here, monkeypatch) -> Iterator[psutil.Process]:
    """What stands for DVC's process."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    Path("telling.py").write_text(TELLING)
    Path("sleeping.py").write_text(SLEEPING)
    Path("asking.py").write_text(ASKING)
    process = subprocess.Popen(["sleep", "600"])
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()
    assert wait(lambda: not servers(process.pid)), "the server ends with the pipeline"


def wait(condition, seconds: float = 60) -> bool:
    ends = time.monotonic() + seconds
    while not condition() and time.monotonic() < ends:
        time.sleep(0.02)
    return condition()


def servers(owner: int) -> list[psutil.Process]:
    """The server of a pipeline run, and what it has forked."""
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if "stages.core.forkserver" in (command := p.info["cmdline"] or [])
            and str(owner) in command and p.is_running()
            and p.status() != psutil.STATUS_ZOMBIE]  # fmt: skip


def told(owner: psutil.Process, *arguments: str, needs: tuple = ()) -> dict:
    """What a forked process says of itself."""
    Path("in").write_text("its input")
    with open("in") as stdin, open("out", "w") as out, open("err", "w") as err:
        files = [file.fileno() for file in (stdin, out, err)]
        forked = forkserver.start(owner, "telling", arguments, files, needs)
    assert forked.wait(60) == 3
    assert Path("err").read_text() == "on stderr\n"
    return json.loads(Path("out").read_text())


def sleeping(owner: psutil.Process, *arguments: str, outlives: bool = False) -> Forked:
    Path("begun").unlink(missing_ok=True)
    forked = forkserver.start(owner, "sleeping", arguments, [0, 1, 2], (), outlives)
    assert wait(lambda: Path("begun").exists() and Path("begun").read_text())
    return forked


def begun() -> psutil.Process:
    return psutil.Process(int(Path("begun").read_text()))


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_forked_process_is_what_the_command_would_have_been(owner, here, monkeypatch):
    monkeypatch.setenv("MINE", "for this stage")
    its = told(owner, "a", "b c", needs=("fractions", "torch"))
    assert its["arguments"] == ["a", "b c"]
    assert its["folder"] == its["path"] == str(here)
    assert its["main"] == "__main__"
    assert its["stdin"] == "its input"
    assert its["group"] == os.getpgrp()
    assert its["environment"].items() >= dict(os.environ).items()
    assert its["environment"][forkserver.FORKED_FOR] == str(os.getpid())
    assert {"fractions", "torch"} <= set(its["loaded"])
    assert not [name for name in its["loaded"] if name.startswith("stages")]


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [("", 0, ""), ("sys.exit()", 0, ""), ("sys.exit(5)", 5, ""), ("sys.exit('why')", 1, "why\n"),
     ("raise ValueError('oh')", 1, "ValueError: oh\n")],
)  # fmt: skip
def test_it_ends_as_a_process_does(owner, how, code, said):
    Path("ending.py").write_text(ENDING.format(how=how))
    with open("out", "w") as out, open("err", "w") as err:
        files = [0, out.fileno(), err.fileno()]
        assert forkserver.start(owner, "ending", [], files, ()).wait(60) == code
    assert Path("out").read_text() == "a thread, called at the end"
    assert Path("err").read_text().endswith(said) if said else not Path("err").read_text()


def test_one_server_forks_all_of_them_from_the_code_that_is_there_then(owner):
    first = told(owner)
    Path("telling.py").write_text(TELLING.replace('sys.argv[1:], "f', '["edited"], "f'))
    second = told(owner, "a")
    assert second["arguments"] == ["edited"]
    assert first["server"] == second["server"]
    assert first["process"] != second["process"]


def test_two_that_begin_side_by_side_share_a_server(owner):
    forked: list[Forked] = []
    together = threading.Barrier(8)

    def begin() -> None:
        together.wait()
        forked.append(forkserver.start(owner, "sleeping", ["term"], [0, 1, 2], ()))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(one.has_begun(60) for one in forked)
    assert wait(lambda: len(servers(owner.pid)) == 9), "a server, and eight that it forked"
    for one in forked:
        one.send_signal(signal.SIGKILL)
    assert [one.wait(60) for one in forked] == [137] * 8


def test_trackers_have_a_server_of_their_own(owner):
    stages = told(owner)["server"]
    forked = forkserver.start(owner, "sleeping", [], [0, 1, 2], (), outlives=True)
    assert forked.has_begun(60)
    assert wait(lambda: Path("begun").exists() and Path("begun").read_text())
    assert begun().ppid() != stages
    forked.send_signal(signal.SIGKILL)
    assert forked.wait(60) == 137


def test_a_server_loads_meanwhile_what_will_be_needed(owner):
    Path("needed_later.py").write_text("open('loaded', 'w').close()")
    forkserver.meanwhile(owner, ("no_such_library", "needed_later"))
    assert wait(Path("loaded").exists)
    assert "needed_later" in told(owner)["loaded"]


def test_the_environment_makes_the_server_but_not_what_is_one_stages_own(owner, monkeypatch):
    ours = forkserver.name(owner)
    monkeypatch.setenv("DVC_STAGE", "grpo")
    assert forkserver.name(owner) == ours
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert forkserver.name(owner) != ours
    assert forkserver.name(psutil.Process(os.getpid())) != forkserver.name(owner)


def test_a_signal_reaches_it(owner):
    forked = sleeping(owner, "handles it")
    forked.send_signal(signal.SIGTERM)
    assert forked.wait(60) == 7
    forked = sleeping(owner)
    forked.send_signal(signal.SIGTERM)
    assert forked.wait(60) == 128 + signal.SIGTERM


def test_it_is_waited_for_no_longer_than_asked(owner):
    forked = sleeping(owner)
    with pytest.raises(TimeoutError):
        forked.wait(0.1)
    forked.send_signal(signal.SIGKILL)
    assert forked.wait(60) == 137


@pytest.mark.parametrize("outlives", [False, True])
def test_it_goes_with_who_asked_unless_it_is_to_outlive_it(owner, outlives):
    command = [sys.executable, "asking.py", str(owner.pid), *(["outlives"] if outlives else [])]
    asking = subprocess.Popen(command)
    assert wait(lambda: Path("begun").exists() and Path("begun").read_text())
    forked = begun()
    asking.kill()
    asking.wait()
    assert wait(lambda: is_gone(forked), 1 if outlives else 60) is not outlives
    told(owner)  # the server is still there
    if outlives:
        forked.kill()


def test_it_goes_with_its_server_and_the_next_one_gets_a_new_one(owner):
    before = told(owner)["server"]
    forked, process = sleeping(owner), begun()
    psutil.Process(before).kill()
    assert forked.wait(60) == 137
    assert wait(lambda: is_gone(process))
    assert told(owner)["server"] != before


def test_a_server_whose_pipeline_is_gone_sees_its_last_one_through(owner):
    forked = sleeping(owner, "handles it")
    owner.kill()
    with pytest.raises(TimeoutError):
        forked.wait(0.5)
    forked.send_signal(signal.SIGTERM)
    assert forked.wait(60) == 7


def test_what_cannot_be_loaded_is_left_to_the_process_that_asked(owner):
    forked = forkserver.start(owner, "telling", [], [0, 1, 2], ("no_such_library",))
    assert not forked.has_begun(60)
    assert forked.wait(60) == 137
    assert told(owner)["arguments"] == []


def test_where_there_is_no_server_none_is_asked(owner):
    owner.kill()
    owner.wait()
    forked = forkserver.start(owner, "telling", [], [0, 1, 2], ())
    assert forked is None or not forked.has_begun(60)


@pytest.mark.parametrize("reason", ["a GPU", "several processes", "forked itself", "torch",
                                    "the user says so"])  # fmt: skip
def test_nothing_is_forked_where_it_cannot_be_or_gains_nothing(here, reason):
    Path("asks.py").write_text(
        "import sys\nfrom stages.core import forkserver\nsys.modules.pop('torch', None)\n"
        + ("forkserver.GPUS = ['/dev/null']\n" if reason == "a GPU" else "")
        + ("sys.modules['torch'] = sys\n" if reason == "torch" else "")
        + "print(forkserver.may_run())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment |= {"WORLD_SIZE": "2"} if reason == "several processes" else {}
    environment |= {forkserver.FORKED_FOR: "1"} if reason == "forked itself" else {}
    environment |= {forkserver.SERVER: "none"} if reason == "the user says so" else {}

    def said(*command: str) -> str:
        run = [sys.executable, *command]
        return subprocess.check_output(run, env=environment, text=True).strip()

    assert said("-m", "asks") == "False"
    Path("asks.py").write_text("from stages.core import forkserver\nprint(forkserver.may_run())")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    gpu = any(map(os.path.exists, forkserver.GPUS))
    assert said("-m", "asks") == str(not gpu)
    assert said("asks.py") == "False", "not started as a module"
