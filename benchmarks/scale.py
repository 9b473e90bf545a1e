"""How time and memory grow with size, a curve a command: python -m benchmarks.scale CURVE [N ...].

    prepare        rows of one's own through the stage prepare
    metrics        points logged by a stage, until they stand in MLflow's sqlite store

Every point is a process of its own; memory is the most that it held.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from benchmarks.overlap import prose
from stages.core import params as parameters
from stages.core import tracker, tracking
from stages.core.files import write_rows, write_text

ROOT = Path(__file__).parents[1]
LOGGED = 20  # values of one step
TEST = 1_000  # held-out rows, however many there are to train on


def prepare(size: int) -> dict[str, Any]:
    """The stage on that many rows of its own file, a tenth of them demonstrations."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, count in (("train", size), ("test", TEST)):
            write_rows(folder / "data/raw" / f"{split}.jsonl", islice(problems(split), count))
        task = {"name": "rows", "source": "data/raw", "watch": "data/raw", "test": None,
                "demonstrations": size // 10, "pool": None}  # fmt: skip
        project(folder, {"task": task})
        (folder / "models/base").mkdir(parents=True)
        found = measured(folder, "stages.prepare", "prepare")
        return {"rows": size, **found}


def problems(seed: str) -> Iterator[dict]:
    """Questions of 50 words with a worked solution; none occurs twice."""
    rng = random.Random(seed)
    for number, text in enumerate(prose(rng, [])):
        yield {"question": text, "answer": str(number), "solution": text[:100]}


def project(folder: Path, changes: dict[str, Any]) -> None:
    """A folder in which stages of this checkout run, with its params.yaml changed."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text()) | changes
    write_text(folder / "params.yaml", yaml.safe_dump(raw))
    write_text(folder / "dvc.yaml", (ROOT / "dvc.yaml").read_text())
    # what checks params.yaml is made once; here it would count, as Linux counts a parent's memory
    check = "from stages.core import params; params.load()"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)
    shutil.copytree(ROOT / ".cache/schema", folder / ".cache/schema")


def measured(folder: Path, module: str, stage: str) -> dict[str, Any]:
    """Seconds and MB as the stage itself puts them into its metrics."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", module], cwd=folder, env=environment, check=True)
    found = json.loads((folder / "metrics" / f"{stage}.json").read_text())
    return {"seconds": found["seconds"], "MB": found["peak_memory_mb"]}


def metrics(points: int) -> dict[str, Any]:
    """Points in a burst, as a stage logs them, until all stand in a sqlite store."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        os.environ["PYTHONPATH"] = str(ROOT)
        project(Path(), {})
        with tracking.tracked("sft", parameters.load()):
            pass  # makes the store
        began = time.perf_counter()
        with tracking.tracked("grpo", parameters.load()) as spool:
            opened = time.perf_counter()
            for step in range(points // LOGGED):
                spool.metrics({f"metric_{i}": random.random() for i in range(LOGGED)}, step)
            written = time.perf_counter()
        ended = time.perf_counter()
        tracker.send_missed()  # what was not sent while the stage waited
        there = time.perf_counter()
        with sqlite3.connect("mlflow.db") as store:
            found = store.execute("select count(*) from metrics").fetchone()[0]
        return {"points": points, "there": found, "start": round(opened - began, 2),
                "logging": round(written - opened, 2), "waiting": round(ended - written, 2),
                "until all are there": round(there - opened, 2)}  # fmt: skip


CURVES = {
    "prepare": (prepare, [1_000, 10_000, 100_000, 1_000_000]),
    "metrics": (metrics, [1_000, 10_000, 100_000]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("curve", choices=CURVES)
    parser.add_argument("sizes", nargs="*", type=int)
    chosen = parser.parse_args()
    measure, usual = CURVES[chosen.curve]
    for size in chosen.sizes or usual:
        print("  ".join(f"{k} {v:,}" for k, v in measure(size).items()), flush=True)


if __name__ == "__main__":
    main()
