"""Each file of a checkpoint, damaged in each way: noticed, said, and without a trace in the end."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stages.core import checkpoints
from tests.conftest import Project
from tests.faults.harness import Tally, finish, forget, nothing_was_lost, start, twin, wait

DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "flipped": lambda content: flipped(content, len(content) // 2),
    "flipped at its end": lambda content: flipped(content, len(content) - 2),
    "no text": lambda content: b"\xff" + content[1:],
    "removed": lambda content: None,
    "emptied": lambda content: b"",
    "no object": lambda content: b"[]",
}


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]


def damage(path: Path, how: str) -> None:
    new = DAMAGES[how](path.read_bytes())
    path.unlink() if new is None else path.write_bytes(new)


def complete(project: Project, stage: str) -> list[Path]:
    """Its checkpoints, the oldest first."""
    found = (project.folder / ".cache/checkpoints" / stage).glob("*/checkpoint-*/complete.json")
    return sorted((path.parent for path in found), key=checkpoints.step)


def killed(project: Project, stage: str, after: int, how: int = signal.SIGKILL) -> int:
    """Starts a stage and kills it once a checkpoint of at least `after` steps is complete."""
    process = start(project, stage)
    assert wait(lambda: process.poll() is not None
                or any(checkpoints.step(c) >= after for c in complete(project, stage)))  # fmt: skip
    process.send_signal(how)
    return process.wait()


@pytest.fixture(scope="module")
def cut(done, tmp_path_factory) -> Project:
    """A project whose GRPO was killed with two checkpoints: step 4 or later, and 6 or later."""
    project = twin(done.project, tmp_path_factory.mktemp("damage") / "p")
    forget(project, "grpo")
    assert killed(project, "grpo", 6) == -signal.SIGKILL
    return project


@pytest.fixture
def copied(cut, tmp_path) -> Project:
    return twin(cut, tmp_path / "p")


def files_of_the_newest(project: Project) -> Iterator[Path]:
    newest = complete(project, "grpo")[-1]
    yield from sorted(path for path in newest.iterdir() if path.is_file())
    yield newest.with_name(checkpoints.ROLLOUTS)


@pytest.mark.long
def test_every_damage_to_every_file_is_noticed(cut, tmp_path, caplog):
    [*_, older, newest] = complete(cut, "grpo")
    tried = 0
    for file in files_of_the_newest(cut):
        for how in DAMAGES:
            where = tmp_path / f"{tried}"
            shutil.copytree(newest.parent, where)
            assert checkpoints.newest(where).name == newest.name
            damage(where / file.relative_to(newest.parent), how)
            caplog.clear()
            found = checkpoints.newest(where)
            assert f"{newest.name}: " in caplog.text and "passed over" in caplog.text
            if file.name == checkpoints.ROLLOUTS:  # an older one may need less of it
                assert found is None or found.name == older.name
            else:
                assert found.name == older.name, (file, how)
                assert file.name in caplog.text or how == "removed"
            tried += 1
    assert tried >= 10 * len(DAMAGES)


def ends_well_after(project: Project, done, file: Path, how: str) -> str:
    tally = Tally()
    damage(file, how)
    log = finish(project, "grpo", done, tally)
    nothing_was_lost(tally)
    return log


@pytest.mark.long
def test_a_damaged_checkpoint_is_passed_over_and_changes_nothing(copied, done):
    older, newer = complete(copied, "grpo")[-2:]
    log = ends_well_after(copied, done, newer / "adapter_model.safetensors", "truncated")
    assert f"{newer.name}: adapter_model.safetensors is damaged: passed over" in log
    assert f"grpo: going on from step {checkpoints.step(older)}" in log


@pytest.mark.long
def test_damaged_rollouts_are_passed_over_and_change_nothing(copied, done):
    rollouts = complete(copied, "grpo")[-1].with_name(checkpoints.ROLLOUTS)
    log = ends_well_after(copied, done, rollouts, "truncated")
    assert "rollouts.jsonl is damaged: passed over" in log


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_whatever_is_damaged_the_run_ends_with_the_same_bits(cut, done, tmp_path):
    for number, file in enumerate(files_of_the_newest(cut)):
        for how in DAMAGES:
            project = twin(cut, tmp_path / f"{number} {how}")
            ends_well_after(project, done, project.folder / file.relative_to(cut.folder), how)
            shutil.rmtree(project.folder)


@pytest.mark.nightly
@pytest.mark.parametrize(("stage", "after"), [("sft", 3), ("grpo", 6), ("distill", 2)])
def test_a_killed_training_goes_on_from_its_checkpoint(done, tmp_path, stage, after):
    project, tally = twin(done.project, tmp_path / "p"), Tally()
    forget(project, stage)
    assert killed(project, stage, after, signal.SIGTERM) == 128 + signal.SIGTERM
    log = finish(project, stage, done, tally)
    assert f"{stage}: going on from step" in log
    nothing_was_lost(tally)


@pytest.mark.long
def test_a_changed_parameter_begins_anew_and_put_back_goes_on(copied, done):
    params = copied.folder / "params.yaml"
    before, text = complete(copied, "grpo"), params.read_text()
    assert before
    params.write_text(text.replace("kl_coef: 0.0", "kl_coef: 0.1"))
    assert "going on" not in copied.stage("stages.grpo")
    assert (copied.folder / "models/adapter").exists()
    assert complete(copied, "grpo") == before
    params.write_text(text)
    forget(copied, "grpo")
    tally = Tally()
    assert "going on from step" in finish(copied, "grpo", done, tally)
    nothing_was_lost(tally)
