"""The choice of a jail: by probe attacks that are themselves seen to work."""

import json
import os
import subprocess
import sys

import pytest

from stages.sandbox import SandboxError, options, probes

# Stopped by no rule outside, and of no consequence there.
WORKS_OUTSIDE = {
    "reads a file outside", "reads /etc/passwd", "writes a file outside", "lists a folder outside",
    "reads another process's environment", "sees the environment", "connects over TCP",
    "connects to an abstract socket", "forks", "starts a thread", "signals its parent",
    "signals this process", "leaves the session", "raises its limits",
}  # fmt: skip
HARMFUL = {"runs a program", "takes 2 GiB of memory"}


def test_probes_work_without_a_jail():
    chosen = {name: source for name, source in probes.ATTACKS.items() if name not in HARMFUL}
    with probes.targets() as target:
        done = subprocess.run(
            [os.path.realpath(sys.executable), "-c", probes.PROGRAM],
            input=json.dumps([target, chosen]), capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert set(json.loads(done.stdout.splitlines()[-1])) >= WORKS_OUTSIDE


def test_leaking_option_is_refused(monkeypatch: pytest.MonkeyPatch):
    """A jail that hides one file too few: the library's path rules, and /etc on top."""
    readable = [*options.runtime(), "/etc"]
    monkeypatch.setattr(options, "runtime", lambda: readable)
    if reason := options.missing(options.LANDLOCK):
        pytest.skip(reason)
    assert probes.failure(options.LANDLOCK) == "not stopped: reads /etc/passwd"


def test_first_trusted_option_is_chosen():
    trusted = [o for o in ("bubblewrap", "landlock") if not options.missing(o)]
    trusted = [option for option in trusted if not probes.failure(option)]
    assert options.choose() == trusted[0]


def test_without_bubblewrap(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    options.bubblewrap.cache_clear()
    assert options.missing(options.BUBBLEWRAP) == "bwrap is not installed"
    if not options.missing(options.LANDLOCK):
        assert options.probed.__wrapped__() == "landlock"


def test_off_linux_it_refuses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="needs Linux on x86_64, this is darwin") as refusal:
        options.probed.__wrapped__()
    assert "\n" not in str(refusal.value)


def test_old_kernel_is_told(monkeypatch: pytest.MonkeyPatch):
    from stages.sandbox.inside import landlock

    for abi, words in ((0, "the kernel has no Landlock"), (5, "the kernel's Landlock ABI is 5")):
        monkeypatch.setattr(landlock, "abi", lambda abi=abi: abi)
        assert options.missing(options.LANDLOCK).startswith(f"{words}, 6 is needed")
