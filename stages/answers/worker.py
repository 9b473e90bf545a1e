"""The symbolic comparison's process, from outside: asked over a pipe, begun anew when it ended.

One process serves a whole trainer, from any thread; a forked child starts its own. It limits its
own processor time (SIGALRM here would need the main thread), so that a busy machine makes no right
answer wrong. Verdicts are kept, so that no pair costs twice.
"""

import atexit
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from stages.answers import symbolic

log = logging.getLogger("stages")

WALL = 60.0  # seconds for one question, should the machine give it no processor at all
START = 60.0  # seconds for the process to start and import sympy, on a busy machine
MAX_KEPT = 200_000  # verdicts; the oldest half is dropped beyond

ROOT = Path(__file__).resolve().parents[2]

_lock = threading.Lock()
_process: subprocess.Popen | None = None
_verdicts: dict[tuple[str, str, str], bool] = {}
_counts: Counter = Counter()


def counts() -> dict[str, int]:
    """How many questions were asked, kept, timed out or crashed in this process, so far."""
    return {name: _counts[name] for name in ("asked", "kept", "timed_out", "crashed")}


def trouble() -> dict[str, int]:
    """Answers that no equality was found for, because the worker was too slow or died."""
    return {f"verifier_{name}": _counts[name] for name in ("timed_out", "crashed")}


def same(gold: str, answer: str, percent: str) -> bool:
    """`compare.same` with algebra. A time-out or a crash is no equality, and counted."""
    question = gold, answer, percent
    with _lock:
        if question in _verdicts:
            _counts["kept"] += 1
            return _verdicts[question]
        verdict = _asked(question)
        if len(_verdicts) >= MAX_KEPT:
            for old in list(_verdicts)[: MAX_KEPT // 2]:
                del _verdicts[old]
        _verdicts[question] = verdict
        return verdict


def _asked(question: tuple[str, str, str]) -> bool:
    """The worker's verdict; one more try if it died, perhaps idle: that says nothing."""
    _counts["asked"] += 1
    for _ in range(2):
        process = _started()
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
        except OSError:
            stop()
            continue
        line = _line(process, WALL)
        if line in (b"true", b"false"):
            return line == b"true"
        stop()
        if line is None or process.returncode == -signal.SIGPROF:
            _counts["timed_out"] += 1
            return False
        if line != b"":
            break
    _counts["crashed"] += 1
    return False


def _line(process: subprocess.Popen, seconds: float) -> bytes | None:
    """A line of the process's output; b"" if it ended, None if it took too long."""
    end, fd, read = time.monotonic() + seconds, process.stdout.fileno(), b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not read.endswith(b"\n"):
        left = end - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return None
        if not (chunk := os.read(fd, 4096)):
            return b""
        read += chunk
    return read.strip()


def _started() -> subprocess.Popen:
    """The running worker, or a new one: a fresh program, not a fork, without our environment.

    Raises:
        RuntimeError: it does not start, so that no answer could be judged.
    """
    global _process
    if _process is not None and _process.poll() is None:
        return _process
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(paths), "LC_ALL": "C.UTF-8",
                   "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}  # fmt: skip
    _process = subprocess.Popen(
        [sys.executable, "-m", symbolic.__name__, str(os.getpid())],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
        env=environment, start_new_session=True,
    )  # fmt: skip
    if sys.platform != "linux" and not _counts["started"]:
        log.warning("no memory limit for the symbolic comparison on %s, only a time limit",
                    sys.platform)  # fmt: skip
    _counts["started"] += 1
    if _line(_process, START) != b"ready":
        stop()
        raise RuntimeError(
            f"the symbolic comparison does not start: {sys.executable} -m {symbolic.__name__}"
        )
    return _process


@atexit.register
def stop() -> None:
    """Ends the worker, if there is one; the next question starts another."""
    global _process
    if _process is not None:
        _process.kill()
        _process.wait()
        _process.stdin.close()
        _process.stdout.close()
        _process = None


def _forget() -> None:
    """In a forked child: the parent's worker and lock are not ours."""
    global _lock, _process
    _lock = threading.Lock()
    if _process is not None:
        _process.stdin.close()
        _process.stdout.close()
        _process.returncode = 0  # not our child: never wait for it
        _process = None


os.register_at_fork(after_in_child=_forget)
