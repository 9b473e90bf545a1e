"""Hostile programs and cheating candidates, and a runner for them: `attacks.py OPTION` prints JSON.

A script of its own, so that the same attacks run as another user, in a Python without pytest.
"""

import contextlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PRELUDE = """
import ctypes, json, os, socket, sys, threading, time
from pathlib import Path
target = json.loads(input())
def system(number, *arguments):
    library = ctypes.CDLL(None, use_errno=True)
    result = library.syscall(ctypes.c_long(number), *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return result
"""

# A program; it prints SUCCEEDED, or raises, or ends otherwise where the attack is stopped.
ATTACKS = {
    "TCP connection": "socket.create_connection(('127.0.0.1', target['tcp']), 2)",
    "TCP server": "socket.create_server(('127.0.0.1', 0))",
    "UDP message": """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
assert s.sendto(b'secret', ('127.0.0.1', target['udp'])) == 6""",
    "abstract Unix socket": "socket.socket(socket.AF_UNIX).connect(chr(0) + target['abstract'])",
    "Unix socket in a file": "socket.socket(socket.AF_UNIX).connect(target['unix'])",
    "socket pair": "socket.socketpair()",
    "netlink socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "reading a file outside": "assert open(target['file']).read() == 'secret'",
    "reading /etc/passwd": "assert open('/etc/passwd').read()",
    "listing the home folder": "assert sorted(os.listdir(target['home'])) == target['at_home']",
    "listing /tmp": "assert os.listdir('/tmp')",
    "listing the project": "assert 'attacks.py' in os.listdir(target['project'])",
    "reading the project": "assert open(target['project'] + '/attacks.py').read()",
    "reading by a path through the library": (
        "assert open(os.path.dirname(os.__file__) + '/..' * 9 + target['file']).read()"
    ),
    "environment of the parent in /proc": (
        "assert b'=' in open(f\"/proc/{target['pid']}/environ\", 'rb').read()"
    ),
    "environment of process 1": "assert open('/proc/1/environ', 'rb').read() is not None",
    "command line of process 1": "assert open('/proc/1/cmdline', 'rb').read()",
    "memory of this process in /proc": "open('/proc/self/mem', 'r+b')",
    "own environment": "assert 'secret' in os.environ.values()",
    "own environment in memory": """
library = ctypes.CDLL(None)
library.getenv.restype = ctypes.c_char_p
assert library.getenv(target['variable'].encode())""",
    "writing a file outside": "open(target['folder'] + '/new', 'w').write('x')",
    "writing to /tmp": "open('/tmp/' + target['abstract'], 'w').write('x')",
    "writing to the working folder": "open(target['abstract'], 'w').write('x')",
    "writing to /dev/shm": "open('/dev/shm/' + target['abstract'], 'w').write('x')",
    "changing a file outside": "open(target['file'], 'a').write('x')",
    "truncating a file outside": "os.truncate(target['file'], 0)",
    "deleting a file outside": "os.unlink(target['victim'])",
    "making a folder": "os.mkdir(target['folder'] + '/made')",
    "renaming a file": "os.rename(target['victim'], target['folder'] + '/renamed')",
    "changing a file's mode": "os.chmod(target['file'], 0o600)",
    "changing a file's time": "os.utime(target['file'], (1, 1))",
    "symbolic link": """
os.symlink(target['file'], target['folder'] + '/link')
assert open(target['folder'] + '/link').read()""",
    "hard link": "os.link(target['file'], target['folder'] + '/hard')",
    "file without a name": "os.open('/tmp', os.O_TMPFILE | os.O_RDWR)",
    "memory file": "os.memfd_create('x')",
    "changing the library": "open(os.__file__, 'a')",
    "fork": "os.fork() or os._exit(0)",
    "fork by clone3": "system(435, (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17), 88) or os._exit(0)",
    "fork by the 32-bit interface": """
import mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex('b802000000cd80c3'))  # mov eax, 2 (fork); int 0x80; ret
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
result = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
result == 0 and os._exit(0)
assert result > 0""",
    "thread": "threading.Thread(target=print).start()",
    "subprocess": "import subprocess; subprocess.run(['/bin/true'], check=True)",
    "exec of a shell": "os.execv('/bin/sh', ['sh', '-c', 'echo SUCCEEDED'])",
    "exec of Python": "os.execv(target['python'], ['python', '-c', 'print(\"SUCCEEDED\")'])",
    "daemon by setsid": "os.setsid()",
    "daemon by setpgid": "os.setpgid(0, 0)",
    "daemon by double fork": """
if not os.fork():
    os.setsid()
    os.fork() or time.sleep(60)
    os._exit(0)""",
    "signalling the parent": "os.kill(target['pid'], 0)",
    "signalling every process": "os.kill(-1, 0)",
    "signalling the group": "os.killpg(0, 0)",
    "signalling by pidfd": "os.pidfd_open(target['pid'])",
    "signals by F_SETOWN": "import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, target['pid'])",
    "ptrace of the parent": "system(101, 0x4206, target['pid'], 0, 0)",
    "process_vm_readv of the parent": """
place = ctypes.create_string_buffer(8)
vector = (ctypes.c_size_t * 2)(ctypes.addressof(place), 8)
system(310, target['pid'], vector, 1, vector, 1, 0)""",
    "limits of the parent": """
import resource
resource.prlimit(target['pid'], resource.RLIMIT_CORE, (0, 0))""",
    "own limits": """
import resource
hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))""",
    "priority of the parent": "os.setpriority(os.PRIO_PROCESS, target['pid'], 19)",
    "being root": "assert os.getuid() == 0 or os.geteuid() == 0",
    "becoming root": "assert os.getuid(); os.setuid(0)",
    "user namespace": "system(272, 0x10000000)",
    "mount namespace": "system(272, 0x00020000)",
    "mount": "system(165, b'none', b'/tmp', b'tmpfs', 0, None)",
    "chroot": "os.chroot('/')",
    "io_uring": "system(425, 1, bytes(120))",
    "bpf": "system(321, 5, bytes(120), 120)",
    "keyctl": "system(250, 0, -3, 0)",
    "perf": "system(298, bytes(120), 0, -1, -1, 0)",
    "userfaultfd": "system(323, 1)",
    "open_by_handle_at": "system(304, -100, bytes(128), 0)",
    "shared memory segment": "system(29, 0, 4096, 0o1600)",
    "message queue": "system(240, b'x', 0o102, 0o600, None)",
    "inotify": "system(294, 0)",
    "typing into the terminal": "import fcntl; fcntl.ioctl(0, 0x5412, b'x')",
    "inherited descriptors": """
extra = []
for fd in range(3, 256):
    try:
        os.fstat(fd)
        extra.append(fd)
    except OSError:
        pass
assert extra""",
}

# Programs that take too much, and what ends them (empty: memory or processor time, either first).
BOMBS = {
    "fork bomb": ("while True: os.fork()", "exit code 1"),
    "thread bomb": (
        "while True: threading.Thread(target=time.sleep, args=(9,)).start()",
        "exit code 1",
    ),
    "memory bomb": ("x = [bytearray(1 << 20) for _ in range(1 << 20)]", ""),
    "memory bomb by mmap": ("import mmap; mmap.mmap(-1, 4 << 30)", "exit code 1"),
    "huge integer": ("9 ** 9 ** 9 ** 9", ""),
    "endless loop": ("while True: pass", "out of processor time"),
    "endless loop that ignores SIGXCPU": (
        "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "out of processor time",
    ),
    "endless sleep": ("time.sleep(1000)", "out of wall time"),
    "endless output": ("while True: print('x' * 10000)", "bytes of output"),
    "huge file": ("open('/dev/shm/huge', 'wb').write(bytes(1 << 30))", "exit code 1"),
    "descriptors without end": ("x = [open('/dev/null') for _ in range(9999)]", "exit code 1"),
    "deep recursion": (
        "sys.setrecursionlimit(10**9)\nclass A:\n def __repr__(s): return repr(s)\nrepr(A())",
        "ended",
    ),
    "jump to address 0": ("ctypes.string_at(0)", "SIGSEGV"),
}

TESTS = ("assert f(2) == 4", "assert f(3) == 6", "assert sorted(f2([3, 1])) == [1, 3]")

# Candidates without a right answer: not one test may pass, and none be skipped.
WRONG = "def f(x): return None\ndef f2(x): return None\n"
SCAN = """
import os, struct
def everywhere(data):
    for fd in range(64):
        try:
            os.write(fd, data)
        except OSError:
            pass
def frame(data): return struct.pack('>I', len(data)) + data
"""
CHEATS = {
    "sys.exit(0)": "import sys; sys.exit(0)",
    "os._exit(0)": "import os; os._exit(0)",
    "sys.exit(0) in the call": "def f(x): import sys; sys.exit(0)\nf2 = f",
    "os._exit(0) in the call": "def f(x): import os; os._exit(0)\nf2 = f",
    "atexit": WRONG + "import atexit, os; atexit.register(os._exit, 0)",
    "excepthook": WRONG + "import os, sys; sys.excepthook = lambda *_: os._exit(0)",
    "trace function": WRONG + "import os, sys; sys.settrace(lambda *_: os._exit(0))",
    "object equal to everything": """
class Equal:
    def __eq__(self, other): return True
    def __iter__(self): return iter([1, 3])
def f(x): return Equal()
f2 = f""",
    "SystemExit in __eq__": """
class Equal:
    def __eq__(self, other): raise SystemExit(0)
def f(x): return Equal()
f2 = f""",
    "int equal to everything": """
class Equal(int):
    def __eq__(self, other): return True
def f(x): return Equal(0)
def f2(x): return None""",
    "list equal to everything": """
class Equal(list):
    def __eq__(self, other): return True
    def sort(self): pass
def f(x): return Equal()
f2 = f""",
    "class that lies about itself": """
class Equal:
    __class__ = property(lambda self: int)
    def __eq__(self, other): return True
def f(x): return Equal()
f2 = f""",
    "patched builtins": WRONG
    + """
import builtins
builtins.exec = builtins.compile = builtins.sorted = lambda *a, **k: None
builtins.AssertionError = builtins.BaseException""",
    "patched json": WRONG + "import json; json.dumps = json.loads = lambda *a, **k: 4",
    "patched os": WRONG + "import os; os.write = os.read = lambda *a: b'1'",
    "functions named like the tests' builtins": WRONG
    + "def sorted(x): return [1, 3]\ndef exec(*a): return\ndef compile(*a): return",
    "patched frames": WRONG
    + """
import sys
frame = sys._getframe()
while frame:
    frame.f_globals['run'] = frame.f_globals['answer'] = lambda *a: ''
    frame = frame.f_back""",
    "patched modules of the harness": WRONG
    + """
import sys
for module in list(sys.modules.values()):
    for name in ('send', 'judge', 'run', 'dump'):
        if hasattr(module, name): setattr(module, name, lambda *a: None)""",
    "pickle": """
import os
class Bomb:
    def __reduce__(self): return (os._exit, (0,))
def f(x): return Bomb()
f2 = f""",
    "pickled bytes": "import pickle\ndef f(x): return pickle.dumps(print)\nf2 = f",
    "verdicts on every descriptor": WRONG + SCAN + "everywhere(frame(b'1') * 3)",
    "verdicts in the call": SCAN + "def f(x): everywhere(frame(b'1') * 3)\nf2 = f",
    "replies before the calls": WRONG + SCAN + "everywhere(frame(b'V{}') * 9)",
    "reply of a forged type": SCAN
    + """
def f(x): everywhere(frame(b'{"d": [["value", {"x": 1}]]}'))
f2 = f""",
    "forged names": SCAN
    + """everywhere(frame(b'{"d": [["names", ["sorted", "__builtins__"]]]}'))""",
    "reply without end": SCAN + "def f(x): everywhere(b'\\x7f\\xff\\xff\\xff' + b'x' * 99)\nf2 = f",
    "half a reply": SCAN
    + "def f(x): everywhere(b'\\0\\0\\0\\9'); import time; time.sleep(99)\nf2 = f",
    "deeply nested reply": SCAN + "def f(x): everywhere(frame(b'[' * 500000))\nf2 = f",
    "unhashable in a set": SCAN
    + """
def f(x): everywhere(frame(b'{"d": [["value", {"s": [[1]]}]]}'))
f2 = f""",
    "closed descriptors": WRONG + "import os; os.closerange(0, 256)",
    "closed descriptors in the call": "import os\ndef f(x): os.closerange(0, 256)\nf2 = f",
    "list that holds itself": "def f(x):\n a = []; a.append(a); return a\nf2 = f",
    "deep list": "def f(x):\n a = []\n for _ in range(10**5): a = [a]\n return a\nf2 = f",
    "huge integer": "def f(x): return 1 << 10**8\nf2 = f",
    "huge string": "def f(x): return 'x' * (100 << 20)\nf2 = f",
    "many small values": "def f(x): return [[]] * 250000\nf2 = f",
    "generator without end": "import itertools\ndef f(x): return itertools.count()\nf2 = f",
    "generator that raises": "def f(x):\n yield 1\n raise SystemExit(0)\nf2 = f",
    "function as a value": "def f(x): return lambda: 4\nf2 = f",
    "module as a value": "import os\ndef f(x): return os\nf2 = f",
    "proxy's flag as a value": "def f(x): return NotImplemented\nf2 = f",
    "endless loop in the call": "def f(x):\n while True: pass\nf2 = f",
    "sleep in the call": "import time\ndef f(x): time.sleep(1000)\nf2 = f",
    "memory bomb in the call": "def f(x): return list(range(10**9))\nf2 = f",
    "recursion in the call": "def f(x): return f(x)\nf2 = f",
    "jump to address 0": "import ctypes\ndef f(x): ctypes.string_at(0)\nf2 = f",
    "AssertionError swallowed": "def f(x): raise AssertionError\nf2 = f",
    "changed argument": "def f(x): return x\ndef f2(x): x[:] = [1, 3]",
    "syntax error": "def f(:",
    "null byte": "\0",
    "lone surrogate": "'\ud800'",
    "no code": "",
}


@contextlib.contextmanager
def targets() -> Iterator[dict]:
    """Real things to attack; afterwards they must be as they were."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-attack-")))
        folder.chmod(0o777)
        for name in ("file", "victim"):
            (folder / name).write_text("secret")
            (folder / name).chmod(0o666)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        for address in (f"\0{folder.name}", str(folder / "socket")):
            unix = stack.enter_context(socket.socket(socket.AF_UNIX))
            unix.bind(address)
            unix.listen()
        (folder / "socket").chmod(0o777)
        os.environ["SANDBOX_SECRET"] = "secret"
        yield {
            **{"folder": str(folder), "file": str(folder / "file"), "home": str(Path.home())},
            **{"victim": str(folder / "victim"), "unix": str(folder / "socket")},
            **{"abstract": folder.name, "project": str(Path(__file__).parent)},
            **{"tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1], "pid": os.getpid()},
            "at_home": entries(Path.home()),
            **{"variable": "SANDBOX_SECRET", "python": os.path.realpath(sys.executable)},
        }


def entries(folder: Path) -> list[str] | None:
    """Sorted names; None for a home that does not exist or is another's."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return None


def program(source: str) -> str:
    return f"{PRELUDE}\n{source}\nprint('SUCCEEDED', flush=True)"


def damage(target: dict) -> list[str]:
    """What the attacks changed outside."""
    folder = Path(target["folder"])
    changed = [p.name for p in folder.iterdir() if p.name not in ("file", "victim", "socket")]
    strays = [f"{place}/{target['abstract']}" for place in ("/dev/shm", ".", "/")]
    files = [name for name in ("file", "victim") if (folder / name).read_text() != "secret"]
    return changed + files + [path for path in strays if os.path.exists(path)]


def run_all(option: str) -> dict:
    """Every attack with one option: {kind: {name: what came of it}}."""
    from stages.sandbox import Asserts, Limits, options, probes, run_tests
    from stages.sandbox.jail import JailFailed
    from stages.sandbox.judge import run_program

    limits = Limits(cpu_seconds=1, wall_seconds=3.0)
    if unavailable := options.missing(option) or probes.failure(option):
        return {"unavailable": unavailable}

    def attack(source: str, wall: float = 3.0) -> list[str]:
        try:
            return list(run_program(program(source), json.dumps(target), limits, option, wall))
        except JailFailed as error:
            return ["", f"the sandbox failed: {error}"]

    def cheat(code: str) -> list:
        verdict = run_tests(code, Asserts(TESTS), limits, option)
        return [verdict.passed, verdict.total, verdict.reason]

    def bomb(source_and_end: tuple[str, str]) -> list[str]:
        """On a busy machine processor time ends long after as much wall time."""
        source, end = source_and_end
        return attack(source, 60.0 if "processor time" in end else 3.0)

    def each(run, cases: dict) -> dict:
        return dict(zip(cases, pool.map(run, cases.values()), strict=True))

    with targets() as target, ThreadPoolExecutor(2) as pool:
        return {
            "attacks": each(attack, ATTACKS),
            "bombs": each(bomb, BOMBS),
            "cheats": each(cheat, CHEATS),
            "damage": damage(target),
            "user": os.getuid(),
        }


if __name__ == "__main__":
    print(json.dumps(run_all(sys.argv[1])))
