"""Every attack, with every option of this machine, as root and as an ordinary user."""

import functools
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SANDBOX = HERE.parents[2] / "stages" / "sandbox"
NOBODY = 65534
OPTIONS = ("bubblewrap", "landlock")
USERS = ("root", "nobody") if os.geteuid() == 0 else ("user",)
attacks = runpy.run_path(str(HERE / "attacks.py"))

# These do no harm, so that it can be seen that they work where nothing stops them.
HARMLESS = (
    "TCP connection", "TCP server", "UDP message", "abstract Unix socket", "Unix socket in a file",
    "socket pair", "netlink socket", "reading a file outside", "reading /etc/passwd",
    "listing the home folder", "listing /tmp", "listing the project", "reading the project",
    "reading by a path through the library", "environment of the parent in /proc",
    "memory of this process in /proc", "own environment", "own environment in memory",
    "writing a file outside", "changing a file outside", "truncating a file outside",
    "deleting a file outside", "making a folder", "renaming a file", "changing a file's mode",
    "changing a file's time", "symbolic link", "hard link", "memory file", "fork", "thread",
    "subprocess", "exec of a shell", "exec of Python", "daemon by setpgid",
    "signalling the parent", "signalling by pidfd", "limits of the parent", "own limits", "inotify",
)  # fmt: skip
FOOLS_AN_EXIT_CODE = (
    "sys.exit(0)", "os._exit(0)", "sys.exit(0) in the call", "os._exit(0) in the call", "atexit",
    "excepthook", "trace function", "object equal to everything", "SystemExit in __eq__",
)  # fmt: skip


@functools.cache
def outcome(option: str, user: str) -> dict:
    """Runs all attacks once, from a copy of the sandbox that every user can read."""
    with tempfile.TemporaryDirectory(prefix="sandbox-copy-") as folder:
        copy = Path(folder, "stages", "sandbox")
        shutil.copytree(SANDBOX, copy, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(HERE / "attacks.py", folder)
        os.chmod(folder, 0o755)
        other = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if user == "nobody" else {}
        done = subprocess.run(
            [python(user), f"{folder}/attacks.py", option], env={"PATH": os.environ["PATH"]},
            cwd=folder, capture_output=True, text=True, **other,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def python(user: str) -> str:
    """This Python, or the system's where this one lies in a folder of root's."""
    own = Path(os.path.realpath(sys.executable))
    if user != "nobody" or all(folder.stat().st_mode & 1 for folder in own.parents):
        return str(own)
    if not (system := shutil.which("python3", path="/usr/bin")):
        pytest.skip(f"nobody may not run {own}, and there is no python3 in /usr/bin")
    return system


def results(option: str, user: str) -> dict:
    found = outcome(option, user)
    if reason := found.get("unavailable", ""):
        assert "not stopped" not in reason
        pytest.skip(f"{option} as {user}: {reason}")
    return found


@pytest.fixture(params=[(option, user) for option in OPTIONS for user in USERS], ids=" as ".join)
def jailed(request: pytest.FixtureRequest) -> dict:
    return results(*request.param)


@pytest.mark.parametrize("name", attacks["ATTACKS"])
def test_attack_is_stopped(jailed: dict, name: str):
    output, reason = jailed["attacks"][name]
    assert "SUCCEEDED" not in output
    assert "exit code 1" in reason or "SIGSYS" in reason  # it ran, and failed


@pytest.mark.parametrize("name", attacks["BOMBS"])
def test_bomb_is_stopped(jailed: dict, name: str):
    output, reason = jailed["bombs"][name]
    assert "SUCCEEDED" not in output
    assert reason and attacks["BOMBS"][name][1] in reason
    assert "sandbox" not in reason


@pytest.mark.parametrize("name", attacks["CHEATS"])
def test_cheat_passes_no_test_and_skips_none(jailed: dict, name: str):
    passed, total, reason = jailed["cheats"][name]
    assert (passed, total) == (0, 3)
    assert reason


def test_nothing_outside_is_changed(jailed: dict):
    assert jailed["damage"] == []


def test_ordinary_user_is_one():
    if "nobody" in USERS:
        assert results("landlock", "nobody")["user"] == NOBODY


@pytest.mark.parametrize("name", HARMLESS)
def test_same_attack_succeeds_without_a_jail(name: str):
    source = attacks["program"](attacks["ATTACKS"][name])
    with attacks["targets"]() as target:
        done = subprocess.run(
            [os.path.realpath(sys.executable), "-c", source],
            input=json.dumps(target), capture_output=True, text=True,
        )  # fmt: skip
    assert "SUCCEEDED" in done.stdout, done.stderr


@pytest.mark.parametrize("name", FOOLS_AN_EXIT_CODE)
def test_same_cheat_fools_an_exit_code(name: str):
    source = "\n".join([attacks["CHEATS"][name], *attacks["TESTS"]])
    assert subprocess.run([sys.executable, "-c", source], capture_output=True).returncode == 0
