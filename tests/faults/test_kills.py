"""Stages that are killed at random moments of their whole life, and go on to the same bits."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.harness import (
    OUTPUTS,
    Tally,
    finish,
    forget,
    kill_again_and_again,
    nothing_was_lost,
    start,
    twin,
    wait,
)


@pytest.mark.parametrize("kills", [
    pytest.param(8, marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    pytest.param(200, marks=[pytest.mark.nightly, pytest.mark.timeout(3 * 3600)]),
])  # fmt: skip
def test_killed_at_any_moment_a_stage_ends_with_the_same_bits(done, tmp_path, count, kills):
    """SIGKILL, SIGTERM, SIGINT, to the process or its group: while it imports, trains, saves a
    checkpoint, writes its output or waits for its tracker."""
    each = kills // len(OUTPUTS)
    with ThreadPoolExecutor(2) as two:
        tallies = {
            stage: two.submit(kill_again_and_again, twin(done.project, tmp_path / stage), stage,
                              done, each, seed=kills)
            for stage in OUTPUTS
        }  # fmt: skip
    for stage, tally in tallies.items():
        count(stage, tally.result())
    for tally in tallies.values():
        nothing_was_lost(tally.result())
        assert tally.result().kills == each
    assert all(tally.result().resumed for tally in tallies.values())


@pytest.mark.parametrize("stage", [
    pytest.param("distill", marks=pytest.mark.long),
    pytest.param("evaluate@student", marks=pytest.mark.nightly),
])  # fmt: skip
def test_a_killed_sampling_goes_on_after_its_last_batch(done, tmp_path, stage):
    project = twin(done.project, tmp_path / "p")
    forget(project, stage)
    process = start(project, stage)
    kept = project.folder / ".cache/checkpoints" / stage
    assert wait(lambda: any(f.read_bytes().count(b"\n") for f in kept.glob("*/batches.jsonl")))
    process.kill()
    process.wait()
    tally = Tally()
    assert "going on after" in finish(project, stage, done, tally)
    nothing_was_lost(tally)
