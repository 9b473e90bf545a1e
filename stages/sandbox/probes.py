"""Attacks that an option must stop before it is trusted with a model's code.

They run once, all in one jail, each against something real: a file and a listening socket of this
process, its environment, its life. One that gets through rules the option out.
"""

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stages.sandbox import judge, options
from stages.sandbox.jail import JailFailed
from stages.sandbox.limits import Limits

# Each statement below raises where the attack is stopped. `target` is defined by `program`.
ATTACKS = {
    "reads a file outside": "open(target['file']).read()",
    "reads /etc/passwd": "open('/etc/passwd').read()",
    "writes a file outside": "open(target['file'] + '.new', 'w')",
    "lists a folder outside": "os.listdir(os.path.dirname(target['file']))",
    "reads another process's environment": "open(f'/proc/{target[\"pid\"]}/environ', 'rb').read()",
    "reads process 1's environment": "open('/proc/1/environ', 'rb').read()",
    "sees the environment": "os.environ[target['variable']]",
    "connects over TCP": "socket.create_connection(('127.0.0.1', target['port']), 2)",
    "connects to an abstract socket": (
        "socket.socket(socket.AF_UNIX).connect(chr(0) + target['abstract'])"
    ),
    "forks": "os.fork() or os._exit(0)",
    "starts a thread": "threading.Thread(target=print).start()",
    "runs a program": "os.execv(target['program'], ['python', '-c', ''])",
    "signals its parent": "os.kill(os.getppid() or target['pid'], 0)",
    "signals this process": "os.kill(target['pid'], 0)",
    "leaves the session": "os.setsid()",
    "leaves the process group": "os.setpgid(0, 0)",
    # PTRACE_SEIZE: should it get through, PTRACE_ATTACH would stop the training process
    "traces this process": "system(101, 0x4206, target['pid'], 0, 0)",
    "reads this process's memory": "system(310, target['pid'], 0, 0, 0, 0, 0)",
    "makes a user namespace": "system(272, 0x10000000)",
    "sets up io_uring": "system(425, 1, bytes(120))",
    "loads a BPF program": "system(321, 0, bytes(120), 120)",
    "takes 2 GiB of memory": "bytearray(2 << 30)",
    "is root": "os.getuid() and 1 / 0",
    "raises its limits": "resource.setrlimit(resource.RLIMIT_CPU, (1, 1))",
}

PROGRAM = """
import ctypes, json, os, resource, socket, threading

def system(number, *arguments):
    library = ctypes.CDLL(None, use_errno=True)
    if library.syscall(ctypes.c_long(number), *arguments) == -1:
        raise OSError(ctypes.get_errno())

target, attacks = json.loads(input())
through = []
for name, source in attacks.items():
    try:
        exec(source)
        through.append(name)
    except BaseException:
        pass
print(json.dumps(through))
"""


def failure(option: str) -> str:
    """Why an option cannot be trusted; empty where every probe was stopped."""
    with targets() as target:
        try:
            given = json.dumps([target, ATTACKS])
            limits = Limits(cpu_seconds=10, wall_seconds=20)
            output, reason = judge.run_program(PROGRAM, given, limits, option, 20.0)
        except (JailFailed, OSError) as error:
            return f"it does not start here: {judge.tidy(str(error))}"
        try:
            through = json.loads(output)
        except ValueError:
            return f"the probes did not run through: {reason or judge.tidy(output)}"
        return f"not stopped: {', '.join(through)}" if through else ""


@contextlib.contextmanager
def targets() -> Iterator[dict]:
    """What the probes go for. Everybody may read the file and write its folder."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-probe-")))
        folder.chmod(0o777)
        (folder / "file").write_text("outside")
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0{folder.name}")
        abstract.listen()
        yield {
            "file": str(folder / "file"),
            "program": options.interpreter(),
            "pid": os.getpid(),
            "variable": next(iter(os.environ), "PATH"),
            "port": tcp.getsockname()[1],
            "abstract": folder.name,
        }
