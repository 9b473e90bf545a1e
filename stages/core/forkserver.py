"""Heavy libraries, loaded once for all stages of a pipeline run.

Most of a short stage's time goes into importing torch, transformers and trl, and most of its
tracker's into mlflow and dvc. The first process of a `dvc repro` that needs any of them starts one
that loads them and waits; from then on stages and trackers are forked from it, as Python's
`multiprocessing` does by its start method of the same name. The process that DVC started for a
stage stays: it waits for the forked one, passes signals on to it and ends as it ends. The forked
one is in its process group, has its files, folder and environment, and is killed when it is. The
server ends with the pipeline run: with the process of DVC, or of the flow. Trackers have a second
one, so that both load side by side; `meanwhile` has one load what will be needed later.

It holds libraries and no code of stages/, which what is forked imports as it then is. Where a GPU
is (its driver does not survive a fork), where a stage runs in several processes, and for a stage
that is started by hand, nothing is forked; nor with GRPO_FORKSERVER=none in the environment.
"""

import atexit
import ctypes
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from typing import Any

import psutil

from stages.core import libraries

FORKED_FOR = "GRPO_FORKED_FOR"  # in a forked process: the one that DVC started
SERVER = "GRPO_FORKSERVER"  # in a forked process: its server's name
NONE = "none"  # what a user sets it to who wants no server
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # drivers of NVIDIA, of AMD, and inside WSL
OF_ONE_STAGE = {"DVC_STAGE", "PWD", "OLDPWD", "SHLVL", "_"}  # variables no library reads
WAIT = 10.0  # seconds in which who asks has said what
STARTED = b"\0"
KILLED = 128 + signal.SIGKILL
PR_SET_PDEATHSIG = 1


def asker() -> psutil.Process:
    """The process that was started for this stage: this one, where it is not a forked one."""
    return psutil.Process(int(os.environ.get(FORKED_FOR, os.getpid())))


# In the process that asks


def of_use() -> bool:
    """Whether a server can save anything: not where this process has loaded torch itself.

    So does a new checkout's first stage, to read the options of TRL's classes, which `make` reads
    when it installs.
    """
    if sys.platform != "linux" or os.environ.get(SERVER) == NONE:
        return False
    return FORKED_FOR in os.environ or "torch" not in sys.modules


def may_run() -> bool:
    """Whether a stage may be forked from a process that has loaded its libraries."""
    return (
        of_use()
        and FORKED_FOR not in os.environ
        and "WORLD_SIZE" not in os.environ
        and sys.modules["__main__"].__spec__ is not None  # `python -m stages.NAME`
        and not any(map(os.path.exists, GPUS))
    )


def run(owner: psutil.Process, needs: Sequence[str], later: Sequence[str] = ()) -> int | None:
    """Has this very command run by a forked process; returns its exit code.

    None if there is no server and none can be made: then nothing has run.

    Args:
        owner: the process that the server ends with.
        needs: names of modules of the libraries that the command will import.
        later: of those that commands after it will import.
    """
    came: list[int] = []
    forked: Forked | None = None

    def pass_on(number: int, _: object) -> None:
        came.append(number)
        if forked:
            forked.send_signal(number)

    numbers = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in numbers}
    forked = start(owner, sys.modules["__main__"].__spec__.name, sys.argv[1:], [0, 1, 2], needs)
    for number in came if forked else ():  # meanwhile
        forked.send_signal(number)
    if forked and forked.has_begun():
        meanwhile(owner, later)
        return forked.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    for number in came:
        os.kill(os.getpid(), number)
    return None


class Forked:
    """A process that the server forks, seen from the one that asked for it."""

    def __init__(self, server: socket.socket):
        self._server, self._began = server, False

    def has_begun(self, seconds: float | None = None) -> bool:
        """Waits until it is there; false if it never will be.

        Raises:
            TimeoutError: it is not there by then.
        """
        self._began = self._began or self._said(seconds) == STARTED
        return self._began

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        with suppress(OSError):
            self._server.send(bytes([number]))

    def wait(self, seconds: float | None = None) -> int:
        """Its exit code, 128 + N where signal N ended it; a lost server takes it along.

        Raises:
            TimeoutError: it has not ended by then.
        """
        said = self._said(seconds) if self.has_begun(seconds) else b""
        return said[0] if said else KILLED

    def _said(self, seconds: float | None) -> bytes:
        self._server.settimeout(seconds)
        try:
            return self._server.recv(1)
        except ConnectionError:
            return b""


def start(
    owner: psutil.Process,
    module: str,
    arguments: Sequence[str],
    files: Sequence[int],
    needs: Sequence[str],
    outlives: bool = False,
) -> Forked | None:
    """Has `python -m MODULE ARGUMENTS` run in a forked process; None if there is no server.

    Args:
        files: descriptors of its stdin, stdout and stderr.
        outlives: it goes on when the process that asks, or the server, is gone: a tracker.
    """
    server = socket.socket(socket.AF_UNIX)
    try:
        named = connect(server, owner, outlives)
        request = {"module": module, "arguments": arguments, "needs": needs, "outlives": outlives,
                   "process": asker().pid, "server": named, "group": os.getpgrp(),
                   "folder": os.getcwd(), "environment": dict(os.environ)}  # fmt: skip
        socket.send_fds(server, [b"\n"], files)
        server.sendall(json.dumps(request).encode() + b"\n")
    except OSError:
        server.close()
        return None
    return Forked(server)


def meanwhile(owner: psutil.Process, needs: Sequence[str], trackers: bool = False) -> None:
    """Has the server, or that of the trackers, load libraries when it has nothing else to do."""
    if not needs:
        return
    with socket.socket(socket.AF_UNIX) as server, suppress(OSError):
        connect(server, owner, trackers)
        server.sendall(b"\n" + json.dumps({"later": needs}).encode() + b"\n")


def connect(server: socket.socket, owner: psutil.Process, trackers: bool) -> str:
    """Connects to a server of this pipeline run; makes it where there is none.

    Returns what the name of both begins with.

    Raises:
        OSError: there is none, or it is another user's.
    """
    both = os.environ.get(SERVER) or name(owner)
    address = both + "-trackers" * trackers
    for pause in (0.01, 0.1, 1.0, 0.0):
        make(address, owner)
        try:
            server.connect(f"\0{address}")
            break
        except ConnectionRefusedError:
            time.sleep(pause)  # its maker has the name, and does not listen yet
    if user(server) != os.getuid():
        raise PermissionError(f"{address} is another user's")
    return both


def make(address: str, owner: psutil.Process) -> None:
    """Makes the server where there is none: of two that try, the one that gets the name."""
    with socket.socket(socket.AF_UNIX) as listening:
        try:
            listening.bind(f"\0{address}")  # no file: it is gone with the server
        except OSError:
            return
        listening.listen()
        begin(listening, owner)


def begin(listening: socket.socket, owner: psutil.Process) -> None:
    """Starts the server, in a process group of its own: a Ctrl-C is not for it."""
    inherited, nothing = listening.fileno(), subprocess.DEVNULL
    command = [sys.executable, "-m", "stages.core.forkserver", str(inherited), str(owner.pid)]
    if libraries.bitsandbytes_is_left_out():
        command.append("without-bitsandbytes")
    subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing,
                     pass_fds=[inherited], process_group=0)  # fmt: skip


def name(owner: psutil.Process) -> str:
    """A server's name: one per pipeline run, session, environment and set of libraries.

    psutil's hash of a process holds when it began; its time of that is by a clock that may be set.
    """
    environment = sorted(item for item in os.environ.items() if item[0] not in OF_ONE_STAGE)
    of = [os.getuid(), hash(owner), os.getsid(0), sys.executable, environment,
          libraries.bitsandbytes_is_left_out()]  # fmt: skip
    return f"grpo-pipeline-{sha256(json.dumps(of).encode()).hexdigest()}"


def user(connection: socket.socket) -> int:
    """The user id of the process at the other end."""
    said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", said)[1]


# In the server


class Server:
    """Has libraries; forks stages, hands signals to them, and says how they ended.

    It has one thread of Python's, so that it may be forked; those of OpenBLAS and of pyarrow's
    allocator stop for that and begin anew.
    """

    def __init__(self, listening: socket.socket, owner: int):
        self.listening, self.owner = listening, os.pidfd_open(owner)
        self.askers: dict[int, socket.socket] = {}  # pidfd of a forked process -> who waits for it
        self.environment = dict(os.environ)  # which libraries add to
        self.later: list[str] = []  # modules to load
        self.events = selectors.DefaultSelector()
        self.events.register(listening, selectors.EVENT_READ, self.accept)
        self.events.register(self.owner, selectors.EVENT_READ, self.accept_no_more)

    def serve(self) -> dict[str, Any] | None:
        """Returns in each forked process, with what was asked; None when the run is over."""
        while self.events.get_map():
            happened = self.events.select(0 if self.later else None)
            if not happened:
                can_load([self.later.pop(0)])
            for key, _ in happened:
                still = self.events.get_map().get(key.fd) == key
                if still and (request := key.data()):
                    return request
        return None

    def accept(self) -> dict[str, Any] | None:
        """Forks a stage; in it, returns what was asked."""
        asker, _ = self.listening.accept()
        request, files = asked_by(asker)
        if request and "later" in request:
            self.later += request["later"]
            asker.close()
            return None
        server = os.getpid()
        process = forked() if request and can_load(request["needs"]) else None
        if process == 0:
            asker.close()
            self.close()
            added = {k: v for k, v in os.environ.items() if self.environment.get(k) != v}
            become(request, files, server, added)
            return request
        if process is None:
            asker.close()
        else:
            self.watch(process, asker, request["outlives"])
        for file in files:
            os.close(file)
        return None

    def watch(self, process: int, asker: socket.socket, outlives: bool) -> None:
        handle = os.pidfd_open(process)
        self.askers[handle] = asker
        ended, told = partial(self.ended, handle, process), partial(self.told, handle, outlives)
        self.events.register(handle, selectors.EVENT_READ, ended)
        self.events.register(asker, selectors.EVENT_READ, told)
        with suppress(OSError):
            asker.send(STARTED)

    def told(self, handle: int, outlives: bool) -> None:
        """Hands a signal on. That who asked is gone means: it was killed."""
        try:
            number = self.askers[handle].recv(1)
        except OSError:
            number = b""
        if not number:
            self.events.unregister(self.askers[handle])
            if outlives:
                return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number[0] if number else signal.SIGKILL)

    def ended(self, handle: int, process: int) -> None:
        """Says how a forked process ended, as a shell would: 128 + N for signal N."""
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        asker = self.askers.pop(handle)
        with suppress(OSError):
            asker.send(bytes([code if code >= 0 else 128 - code]))
        for watched in (handle, asker):
            with suppress(KeyError):
                self.events.unregister(watched)
        asker.close()
        os.close(handle)

    def accept_no_more(self) -> None:
        """The pipeline run is over; stages that still run are told so by who watches it."""
        self.events.unregister(self.owner)
        self.events.unregister(self.listening)
        self.listening.close()

    def close(self) -> None:
        """In a forked process: what the server has open is not for it."""
        self.events.close()
        for handle, asker in self.askers.items():
            os.close(handle)
            asker.close()
        os.close(self.owner)
        self.listening.close()


def asked_by(asker: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """What is asked, with its files; nothing of another user, or of one that is gone already."""
    asker.settimeout(WAIT)
    files: list[int] = []
    try:
        files = socket.recv_fds(asker, 1, 3)[1]
        with asker.makefile("rb") as said:
            request = json.loads(said.readline())
    except (OSError, ValueError):
        return None, files
    asker.settimeout(None)
    return (request if user(asker) == os.getuid() else None), files


def can_load(needs: Sequence[str]) -> bool:
    """Loads libraries; what cannot be loaded is for the stage itself to meet, and to say."""
    try:
        libraries.load("pydantic", *needs)
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def forked() -> int | None:
    """As `os.fork`; None where there is no room for one more process."""
    try:
        return os.fork()
    except OSError:
        return None


def become(request: dict[str, Any], files: list[int], server: int, added: dict[str, str]) -> None:
    """Makes this process, just forked, what the command that was asked for would have become.

    Args:
        server: its process number.
        added: what libraries have set in the environment.
    """
    if not request["outlives"]:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:
            os._exit(KILLED)  # it was gone before
    with suppress(OSError):  # a group that is gone: this process is about to be killed
        os.setpgid(0, request["group"])
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    os.environ.clear()
    os.environ.update(added | request["environment"])
    os.environ[FORKED_FOR], os.environ[SERVER] = str(request["process"]), request["server"]
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    sys.argv[1:] = request["arguments"]
    for module in [name for name in sys.modules if name.partition(".")[0] == "stages"]:
        del sys.modules[module]


def main() -> None:
    """`python -m stages.core.forkserver SOCKET OWNER [without-bitsandbytes]`, by `begin`."""
    code = 1

    def last() -> None:
        """Leaves the libraries' modules to the kernel: to take them apart takes half a second.

        Of what is called at the end of a process the first one registered comes last.
        """
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)

    atexit.register(last)
    if sys.argv[3:]:
        libraries.leave_out_bitsandbytes()
    listening, owner = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    request = Server(listening, owner).serve()
    if request:
        try:
            runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            raise
    code = 0


if __name__ == "__main__":
    main()
