"""Ways to build a jail, and the choice among them: the first that stops every probe attack."""

import dataclasses
import functools
import json
import os
import platform
import shutil
import sys
import sysconfig
import threading
from pathlib import Path

from stages.sandbox.limits import Limits, SandboxError

FOLDER = Path(__file__).parent
START = "import sys; sys.path.insert(0, {!r}); from inside.start import main; main()"
# Sets and dicts of strings in the same order on every run: a reward must not depend on chance.
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
BUBBLEWRAP, LANDLOCK = "bubblewrap", "landlock"
lock = threading.Lock()


def choose() -> str:
    """The best option that works here; probed once per process. SandboxError where none does."""
    with lock:
        return probed()


@functools.cache
def probed() -> str:
    from stages.sandbox import probes  # it starts jails, and so imports this module

    failures = []
    for option in (BUBBLEWRAP, LANDLOCK):
        if not (failure := missing(option) or probes.failure(option)):
            return option
        failures.append(f"{option}: {failure}")
    raise SandboxError(f"no sandbox for model-written code here ({'; '.join(failures)})")


def missing(option: str) -> str:
    """What an option lacks on this machine, without trying it; empty where nothing is missing."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"needs Linux on x86_64, this is {sys.platform} on {platform.machine()}"
    if option == BUBBLEWRAP:
        return "" if shutil.which("bwrap") else "bwrap is not installed"
    from stages.sandbox.inside import landlock  # not above: it fails where there is no libc

    if (abi := landlock.abi()) >= landlock.NEEDED:
        return ""
    found = f"the kernel's Landlock ABI is {abi}" if abi else "the kernel has no Landlock"
    return f"{found}, {landlock.NEEDED} is needed to keep signals and abstract sockets inside"


def command(option: str, role: str, limits: Limits) -> tuple[list[str], dict[str, str]]:
    """The command line of a jail, and the environment to start it with."""
    if option == LANDLOCK:
        return python(role, limits, str(FOLDER), runtime()), ENVIRONMENT
    settings = [word for pair in ENVIRONMENT.items() for word in ("--setenv", *pair)]
    # bwrap's own environment stays readable in /proc/1/environ: it gets none
    return [*bubblewrap(), *settings, "--", *python(role, limits, "/jail", None)], {}


def python(role: str, limits: Limits, folder: str, readable: list[str] | None) -> list[str]:
    """Not -I: it would ignore PYTHONHASHSEED. -P and -s keep the working folder and home away."""
    setting = {"role": role, "limits": dataclasses.asdict(limits), "folder": folder,
               "readable": readable}  # fmt: skip
    flags = ["-P", "-s", "-S", "-X", "utf8"]
    return [interpreter(), *flags, "-c", START.format(folder), json.dumps(setting)]


def interpreter() -> str:
    """The real one: a virtual environment's link leads to its site-packages as well."""
    return os.path.realpath(sys.executable)


@functools.cache
def runtime() -> list[str]:
    """What a Python reads of the file system: its library and the system's shared libraries."""
    base = {"installed_base": sys.base_prefix, "platbase": sys.base_exec_prefix}  # not the venv's
    paths = sysconfig.get_paths(vars=base)
    library = Path(sysconfig.get_config_var("LIBDIR") or "/nowhere")
    candidates = [
        *(paths["stdlib"], paths["platstdlib"]),
        *(str(path) for path in library.glob("libpython*.so*")),
        *("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache"),
    ]
    return [path for path in dict.fromkeys(candidates) if os.path.exists(path)]


@functools.cache
def bubblewrap() -> tuple[str, ...]:
    """Everything unshared, an empty root, no /proc, no /tmp. bwrap(1)."""
    words = [shutil.which("bwrap") or "bwrap", "--die-with-parent", "--new-session", "--clearenv"]
    words += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    if os.geteuid() == 0:  # the jail itself changes to nobody, with these and before any code
        words += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        words.append("--unshare-user")
    for path in [*runtime(), interpreter()]:
        words += ["--dir", os.path.dirname(path)]  # else it is made with mode 0700, root's
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        else:
            words += ["--ro-bind", path, path]
    words += ["--ro-bind", str(FOLDER / "inside"), "/jail/inside", "--dir", "/dev"]
    words += ["--dev-bind", "/dev/null", "/dev/null", "--remount-ro", "/", "--chdir", "/"]
    return tuple(words)
