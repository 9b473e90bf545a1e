"""Lines of progress, and how long is left by them."""

import time

import pytest

from stages.core.progress import Progress


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def lines(caplog):
    caplog.set_level("INFO", "stages")
    return lambda: [record.getMessage().strip() for record in caplog.records]


def test_what_came_before_the_first_step_is_not_what_each_step_takes(clock, lines):
    progress = Progress("sft", every_seconds=5)
    for done, seconds in ((1, 13), (2, 1), (12, 10), (20, 8)):
        clock[0] += seconds
        progress.update(done, 20, "loss 1.0")
    assert lines() == ["sft: 1/20 (5 %)  loss 1.0", "sft: 12/20 (60 %), 0:08 left  loss 1.0",
                       "sft: 20/20 (100 %), 0:00 left  loss 1.0"]  # fmt: skip


def test_a_resumed_loop_counts_from_where_it_goes_on(clock, lines):
    progress = Progress("grpo", every_seconds=5)
    for done in (301, 302, 303):
        clock[0] += 60
        progress.update(done, 400)
    assert lines()[-1] == "grpo: 303/400 (76 %), 97:00 left"


def test_each_loop_counts_by_itself(clock, lines):
    progress = Progress("distill", every_seconds=0)
    progress.update(1, 1)
    progress.restart()
    for done in (100, 200):
        clock[0] += 10
        progress.update(done, 300)
    assert lines() == ["distill: 1/1 (100 %), 0:00 left", "distill: 100/300 (33 %)",
                       "distill: 200/300 (67 %), 0:10 left"]  # fmt: skip
