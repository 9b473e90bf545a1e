import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from stages.answers import symbolic, worker
from stages.answers.equality import equal
from tests.conftest import ROOT

PAIRS = [("\\sqrt{51}", "\\sqrt{51}+0", True), ("3\\sqrt{13}", "\\sqrt{117}", True),
         ("2k+2", "2(k+1)", True), ("2k+2", "2k+1", False), ("6-5i", "-5i+6", True),
         ("\\pi", "3.14159265358979", False), ("x^2-1", "(x-1)(x+1)", True)]  # fmt: skip
EXPECTED = [verdict for _, _, verdict in PAIRS]


def verdicts(_=None) -> list[bool]:
    return [worker.same(gold, answer, "unit") for gold, answer, _ in PAIRS]


def test_threads_and_asyncio_agree():
    worker._verdicts.clear()
    with ThreadPoolExecutor(8) as pool:
        assert all(found == EXPECTED for found in pool.map(verdicts, range(16)))

    async def many():
        return await asyncio.gather(*(asyncio.to_thread(verdicts) for _ in range(4)))

    assert asyncio.run(many()) == [EXPECTED] * 4


def judged(pairs: list[tuple[str, str]], queue) -> None:
    queue.put([equal(gold, answer) for gold, answer in pairs])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_agrees_and_leaves_the_parents_worker_alone(method):
    assert verdicts() == EXPECTED
    pid = worker._started().pid
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    # New questions, so that the child needs a worker of its own.
    pairs = [(gold + "+1", answer + "+1") for gold, answer, _ in PAIRS]
    children = [context.Process(target=judged, args=(pairs, queue)) for _ in range(2)]
    for child in children:
        child.start()
    assert [queue.get(timeout=120) for _ in children] == [EXPECTED] * 2
    for child in children:
        child.join()
    assert worker._started().pid == pid
    worker._verdicts.clear()
    assert verdicts() == EXPECTED


BOMBS = ["10^{10^{10}}", "2^{2^{2^{2^{2^{2}}}}}", "\\binom{999999999}{4999999}",
         "{" * 3_000 + "5" + "}" * 3_000, "9^{9^{9}}x", "1e999999999", "99999!"]  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_stopped_costs_once_and_stops_nothing(bomb):
    started = time.monotonic()
    assert not equal("5", bomb)
    assert time.monotonic() - started < 15  # 1.5 s and a start, on an idle machine
    started = time.monotonic()
    assert not any(equal("5", bomb) for _ in range(100))
    assert time.monotonic() - started < 1
    assert equal("3\\sqrt{13}", "\\sqrt{117}")


def test_time_outs_are_counted_and_kept():
    before = worker.counts()
    assert not worker.same("6", "10^{10^{10}}", "unit")
    assert not worker.same("6", "10^{10^{10}}", "unit")
    after = worker.counts()
    assert after["timed_out"] - before["timed_out"] == 1
    assert after["kept"] - before["kept"] == 1


def test_a_worker_killed_while_idle_changes_no_verdict():
    worker._verdicts.clear()
    process = worker._started()
    os.kill(process.pid, signal.SIGKILL)
    assert verdicts() == EXPECTED


def test_the_worker_dies_with_its_parent():
    code = (
        "from stages.answers import worker\nimport os\n"
        "worker.same('2k+2', '2(k+1)', 'unit')\n"
        "print(worker._process.pid, flush=True)\nos._exit(1)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    pid, end = int(out.stdout), time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{pid}")


def test_nothing_a_model_writes_is_run(tmp_path):
    mark = tmp_path / "mark"
    for text in (f"__import__('os').system('touch {mark}')", f"open('{mark}','w')",
                 f"\\text{{__import__('os').system('touch {mark}')}}",
                 "exec(1)"):  # fmt: skip
        assert not equal("5", text)
        worker.same("5", text, "unit")
    assert not mark.exists()


def test_a_busy_machine_changes_no_verdict():
    """The worker gets no processor for longer than the processor time that it may take."""
    worker._verdicts.clear()
    process, before = worker._started(), worker.counts()
    os.kill(process.pid, signal.SIGSTOP)
    go_on = threading.Timer(2 * symbolic.SECONDS, os.kill, (process.pid, signal.SIGCONT))
    go_on.start()
    assert verdicts() == EXPECTED
    go_on.join()
    assert worker._started().pid == process.pid
    assert worker.counts()["timed_out"] == before["timed_out"]
