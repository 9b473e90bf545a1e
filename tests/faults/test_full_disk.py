"""A disk that fills in the midst: one sentence, nothing half-written, and the same bits later.

The folder in question is on a tmpfs of its own, which is filled; a later start of the same command
finds space. Both run in one mount namespace, which ends with them.
"""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Project
from tests.faults.harness import (
    Reference,
    Tally,
    check,
    check_points,
    command,
    forget,
    left_over,
    nothing_was_lost,
    twin,
)

NAMESPACE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "-m"]
# $1 folder, $2 KB left free, the rest: the stage's command. What the first start leaves is listed.
SCRIPT = """
folder=$(realpath "$1") free=$2 here=$PWD; shift 2
cp -a "$folder" ../original && mount -t tmpfs -o size=64m tmpfs "$folder" && cd "$here" || exit 99
cp -a ../original/. "$folder" || exit 99
dd if=/dev/zero of="$folder/filler" bs=4k 2>/dev/null
truncate -s -"$free"K "$folder/filler"
"$@" >../first.txt 2>&1; echo $? >../first.code
find . -name '.*.new' >../left.txt
rm "$folder/filler"
"$@" >../second.txt 2>&1; echo $? >../second.code
mkdir ../kept && cp -a "$folder/." ../kept
"""
# stage, folder, KB: where the first checkpoint, the model, the samples, the metrics do not fit
LONG = [("sft", ".cache", 300), ("grpo", ".", 100), ("distill", "models", 16),
        ("evaluate@student", "metrics", 0)]  # fmt: skip
NIGHTLY = [*((stage, ".cache", free) for stage in ("sft", "grpo", "distill")
             for free in (0, 8, 100, 500, 900)),
           ("sft", "models", 40), ("sft", "plots", 0), ("sft", "metrics", 0), ("sft", ".", 0),
           ("grpo", "rollouts", 0), ("grpo", "models", 0), ("distill", "rollouts", 0),
           ("distill", ".", 300), ("evaluate@student", "samples", 0),
           ("evaluate@student", ".cache", 0), ("evaluate@student", ".", 40)]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def mounting() -> None:
    if sys.platform != "linux" or not shutil.which("unshare"):
        pytest.skip("a tmpfs in a namespace of its own: Linux only")
    tried = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
                           capture_output=True, text=True)  # fmt: skip
    if tried.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {tried.stderr.strip()}")


def filled(done: Reference, top: Path, stage: str, folder: str, free: int) -> tuple[Project, Tally]:
    """Runs a stage on a full disk, then with space, and says what came of it."""
    project, tally = twin(done.project, top / "p"), Tally()
    forget(project, stage)
    for name in (".cache", "models", "metrics", "plots", "rollouts", "samples"):
        (project.folder / name).mkdir(exist_ok=True)
    subprocess.run([*NAMESPACE, "sh", "-c", SCRIPT, "sh", folder, str(free), *command(stage)],
                   cwd=project.folder, env=project.environment(), check=True)  # fmt: skip
    shutil.rmtree(top / "original")
    if folder == ".":
        shutil.rmtree(project.folder)
        (top / "kept").rename(project.folder)
    else:
        shutil.rmtree(project.folder / folder)
        (top / "kept").rename(project.folder / folder)
    return project, tally


def ends_well(done: Reference, top: Path, stage: str, folder: str, free: int) -> None:
    top.mkdir()
    project, tally = filled(done, top, stage, folder, free)
    where = f"{stage} with {free} KB in {folder}"
    first, second = (top / "first.txt").read_text(), (top / "second.txt").read_text()
    assert (top / "first.code").read_text().strip() == "1", f"{where}: {first}"
    said = re.findall(rf"{stage}: no space left on the disk of \S+ \(\d+ MB free\): free some",
                      first)  # fmt: skip
    assert len(said) == 1, f"{where}: {first}"
    assert "Traceback" not in first and "Logging error" not in first, f"{where}: {first}"
    assert (top / "left.txt").read_text() == "", where
    assert (top / "second.code").read_text().strip() == "0", f"{where}: {second}"
    check(project, stage, done, tally)
    check_points(project, tally)
    assert not left_over(project, stage), where
    nothing_was_lost(tally)


@pytest.mark.parametrize("cases", [
    pytest.param(LONG, marks=pytest.mark.long, id="long"),
    pytest.param(NIGHTLY, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)], id="nightly"),
])  # fmt: skip
def test_a_full_disk_is_said_and_costs_nothing_but_time(done, tmp_path, cases):
    with ThreadPoolExecutor(2) as two:
        ended = [two.submit(ends_well, done, tmp_path / str(number), *case)
                 for number, case in enumerate(cases)]  # fmt: skip
    for each in ended:
        each.result()
