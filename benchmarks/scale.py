"""How time and memory grow with size, a curve a command: python -m benchmarks.scale CURVE [N ...].

    prepare        rows of one's own through the stage prepare
    group          completions of a prompt in a GRPO step, 16 prompts
    length         tokens of each completion in a GRPO step, 16 prompts of 8; none ends by itself
    samples        samples of each of 100 problems in an evaluation, beside the greedy one
    evaluate       problems in an evaluation, greedy
    metrics        points logged by a stage, until they stand in MLflow's sqlite store
    experiments    DVC experiments, each with its run in MLflow and a stage's below it

`group`, `length`, `samples` and `evaluate` need `dvc repro sft prepare`. Each point is a process of
its own; MB is the most memory that it (of `prepare`: the stage) held.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from benchmarks.overlap import peak, prose
from stages.core import params as parameters
from stages.core import tracker, tracking
from stages.core.files import write_rows, write_text

ROOT = Path(__file__).parents[1]
TEST = 1_000  # held-out rows, however many there are to train on
PROMPTS = 16  # of a GRPO step
STEPS = 8
LOGGED = 20  # values of one step


def prepare(size: int) -> dict[str, Any]:
    """The stage on that many rows of one's own and TEST held-out ones; a tenth demonstrations."""
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
    """Seconds and MB as the stage itself puts them into its metrics; the processor's seconds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", module], cwd=folder, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = json.loads((folder / "metrics" / f"{stage}.json").read_text())
    return {"seconds": found["seconds"], "of processor, tracker included": round(cpu, 1),
            "MB": found["peak_memory_mb"]}  # fmt: skip


def group(size: int) -> dict[str, Any]:
    return {"group": size, **grpo_step({"group_size": size, "batch_size": PROMPTS * size})}


def length(tokens: int) -> dict[str, Any]:
    found = grpo_step({"max_completion_length": tokens}, ends=[-1])
    return {"tokens": tokens, **found}


def grpo_step(changes: dict[str, Any], ends: list[int] | None = None) -> dict[str, Any]:
    """The stage's median step, by the clock and of the processor.

    `ends` stands in place of the tokens that end a completion.
    """
    from benchmarks import clock, grpo_step

    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["grpo"] |= {"max_steps": STEPS, **changes}
    trainer = grpo_step.own(parameters.validate(raw, "params.yaml"))
    trainer.eos_token_ids = ends or trainer.eos_token_ids
    wall, cpu = clock.timed(trainer)
    return {"ms": round(1000 * wall), "of processor": round(1000 * cpu), "MB": round(peak())}


def samples(count: int) -> dict[str, Any]:
    return {"samples": count, **evaluation(100, count)}


def evaluate(rows: int) -> dict[str, Any]:
    return {"rows": rows, **evaluation(rows, 0)}


def evaluation(count: int, per_prompt: int) -> dict[str, Any]:
    """The SFT model's evaluation, without loading it; of that, what is not generation."""
    from stages import evaluate, tasks
    from stages.core import harness
    from stages.tasks import arithmetic

    params = parameters.load()
    evaluation = params.evaluate.model_copy(update={"samples_per_prompt": per_prompt})
    params = params.model_copy(update={"evaluate": evaluation})
    task = params.task.model_copy(update={"test": count})
    made = arithmetic.load(task, seed=1)[1]
    rows = [tasks.row(problem, "arithmetic", task, params.format) for problem in made]
    model = harness.language_model(Path("models/sft"), params, shown=lambda done: None)
    began = time.perf_counter()
    outcome = harness.run(model, rows, [], params)
    generated = time.perf_counter()
    found = evaluate.judged(rows, outcome, model, params)
    evaluate.measured(found, params)
    judged = time.perf_counter()
    return {"seconds in lm-eval": round(generated - began, 1),
            "judging": round(judged - generated, 2), "MB": round(peak())}  # fmt: skip


def metrics(points: int) -> dict[str, Any]:
    """Points in a burst, as a stage logs them, until all stand in a sqlite store."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        os.environ["PYTHONPATH"] = str(ROOT)
        project(Path(), {})
        with tracking.tracked("sft", parameters.load()):
            pass  # makes the store
        with tracking.tracked("grpo", parameters.load()) as spool:
            began = time.perf_counter()
            for step in range(points // LOGGED):
                spool.metrics({f"metric_{i}": random.random() for i in range(LOGGED)}, step)
            written = time.perf_counter()
        ended = time.perf_counter()
        tracker.send_missed()  # what was not sent while the stage waited
        there = time.perf_counter()
        with sqlite3.connect("mlflow.db") as store:
            found = store.execute("select count(*) from metrics").fetchone()[0]
        return {"points": points, "there": found, "logging": round(written - began, 2),
                "waiting": round(ended - written, 2),
                "until all are there": round(there - began, 2)}  # fmt: skip


def experiments(count: int) -> dict[str, Any]:
    """Experiments as DVC keeps them, commits under refs/exps; each has its runs in MLflow."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        os.environ["PYTHONPATH"] = str(ROOT)
        made(count)
        store = tracker.Store(None)
        for i in range(count):
            tags = {"made.for": f"pipeline {i}", "dvc.experiment": f"exp-{i}"}
            params = tracking.flat(parameters.load().model_dump())
            store.new_run(f"exp-{i}", tags, params, i)
            store.new_run("grpo", {"made.for": f"stage {i}", "stage.key": f"{i}"}, params, i)
        return {"experiments": count, **{what: seconds(do) for what, do in {
            "restored": partial(command, "-m", "stages.core.restored"),
            "flow's plan": partial(command, "-c", "from flows import pipeline; pipeline.plan([])"),
            "why": partial(command, "-m", "stages.why"),
            "dvc exp show": partial(command, "-m", "dvc", "exp", "show"),
            "new run": lambda: store.new_run("new", {"made.for": "new"}, {}, 0),
            "its stage's last run": lambda: store.run_with("0"),
        }.items()}}  # fmt: skip


def made(count: int) -> None:
    """A project with that many experiments; their commits are what fast-import is told of them."""
    for name in ("stages", "flows", "data/raw", ".dvc/config"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, name)
    write_text(Path(".gitignore"), (ROOT / ".gitignore").read_text())
    project(Path(), {})
    git = partial(subprocess.run, check=True, text=True, capture_output=True)
    git(["git", "init", "--quiet", "-b", "main"])
    for key, value in (("user.name", "benchmark"), ("user.email", "benchmark@example.org")):
        git(["git", "config", key, value])
    git(["git", "add", "-A"])
    git(["git", "commit", "--quiet", "-m", "start"])
    head = git(["git", "rev-parse", "HEAD"]).stdout.strip()
    text = Path("params.yaml").read_text()
    commits = (commit(f"refs/exps/{head[:2]}/{head[2:]}/exp-{i}", head, text.replace(
        "\nseed: 0\n", f"\nseed: {i + 1}\n")) for i in range(count))  # fmt: skip
    git(["git", "fast-import", "--quiet"], input="".join(commits))


def commit(ref: str, parent: str, params: str) -> str:
    """One commit that changes params.yaml, as `git fast-import` reads it."""
    return (f"commit {ref}\ncommitter benchmark <benchmark@example.org> 1700000000 +0000\n"
            f"data 3\nexp\nfrom {parent}\n"
            f"M 644 inline params.yaml\ndata {len(params.encode())}\n{params}\n")  # fmt: skip


def command(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def seconds(do: Callable[[], Any]) -> float:
    began = time.perf_counter()
    do()
    return round(time.perf_counter() - began, 2)


CURVES = {
    "prepare": (prepare, [1_000, 10_000, 100_000, 1_000_000]),
    "group": (group, [4, 8, 16, 32, 64]),
    "length": (length, [16, 32, 64, 128, 256]),
    "samples": (samples, [1, 4, 16]),
    "evaluate": (evaluate, [100, 400, 1_600]),
    "metrics": (metrics, [1_000, 10_000, 100_000]),
    "experiments": (experiments, [50, 150, 500]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("curve", choices=CURVES)
    parser.add_argument("sizes", nargs="*", type=int)
    chosen = parser.parse_args()
    measure, usual = CURVES[chosen.curve]
    if len(chosen.sizes) == 1:
        print("  ".join(f"{k} {v:,}" for k, v in measure(chosen.sizes[0]).items()))
        return
    for size in chosen.sizes or usual:
        command = [sys.executable, "-m", "benchmarks.scale", chosen.curve, str(size)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
