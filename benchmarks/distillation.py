"""Students of one teacher by every method, as a table: python -m benchmarks.distillation.

    python -m benchmarks.distillation --seeds 0 1 2 [--methods verified logits ...]

The teacher is the project's models/grpo, and params.yaml is the project's own but for what METHODS
says. A seed is that of the student's first weights, of the teacher's samples and of the order of
the rows. Each student lies in .cache/distillation/METHOD-SEED; one that is finished is not made
again, so that a run that was stopped goes on.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from statistics import mean

import yaml

from stages import distill, evaluate
from stages.core import params as parameters
from stages.core import resume, stage
from stages.core.files import write_json
from stages.core.stage import Run
from stages.core.tracking import Spool

ROOT, WORK = Path.cwd(), Path.cwd() / ".cache" / "distillation"
LINKED = ("stages", "data", "dvc.yaml", "models/grpo", "rollouts/grpo.jsonl")

# What each changes below `distill:`. A student that cannot do anything yet learns nothing from its
# own samples, so that on_policy goes on from the same seed's student of the demonstrations.
METHODS = {
    "demonstrations": {},
    "unverified": {},
    "verified": {},
    "logits": {"beta": 0.0},
    "on_policy": {
        "beta": 1.0, "max_steps": 100, "learning_rate": 1e-3,
        "student": {"source": "../demonstrations-{seed}/models/student", "scratch": None},
    },
}  # fmt: skip


def made(method: str, seed: int) -> dict:
    """A student's (or with `teacher` the teacher's own) results, made now if they are not there."""
    folder = WORK / f"{method}-{seed}"
    results = folder / "results.json"
    if not results.exists():
        if method == "on_policy":
            made("demonstrations", seed)
        shutil.rmtree(folder, ignore_errors=True)
        for name in LINKED:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(ROOT / name)
        os.chdir(folder)
        write_json(results, trained_and_judged(method, seed))
        os.chdir(ROOT)
    return json.loads(results.read_text())


def trained_and_judged(method: str, seed: int) -> dict:
    params = changed(method, seed)
    began, trained = time.process_time(), {}
    if method != "teacher":
        stage.seed_everything(seed)
        trained = distill.body(params, Run("distill", params, Spool(Path("spool.jsonl"))))
        resume.finished("distill")
    seconds = time.process_time() - began
    name = "grpo" if method == "teacher" else "student"
    run = Run(f"evaluate@{name}", params, Spool(Path("spool.jsonl")))
    judged = evaluate.body(name, params, run)
    resume.finished(run.name)
    scores = next(entry for entry in judged.values() if isinstance(entry, dict))
    return {**trained, **scores, "parameters": judged["parameters"], "seconds": seconds}


def changed(method: str, seed: int) -> parameters.Params:
    """params.yaml as this student has it, written where the stages look for it."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    own = {} if method == "teacher" else {"method": method, **METHODS[method]}
    raw["seed"] = seed
    raw["distill"] |= own
    if student := own.get("student"):
        source = student["source"].format(seed=seed)
        raw["distill"]["student"] |= {**student, "source": source, "watch": source}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    return parameters.load()


def cell(found: dict) -> str:
    return f"{found['accuracy']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def table(found: dict[str, list[dict]], seeds: list[int]) -> str:
    by_seed = [f"seed {seed}" for seed in seeds]
    heads = ["method", *by_seed, "mean", "parameters", "rows", "CPU seconds"]
    lines = [heads, ["---"] * len(heads)]
    for method, results in found.items():
        accuracy = f"{mean(result['accuracy'] for result in results):.3f}"
        kept = ", ".join(f"{result['kept']:,}" for result in results if "kept" in result)
        seconds = f"{mean(result['seconds'] for result in results):.0f}" if kept else ""
        cells = [cell(result) for result in results] + [""] * (len(seeds) - len(results))
        lines.append([method, *cells, accuracy, f"{results[0]['parameters']:,}", kept, seconds])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    given = parser.parse_args()
    stage.set_environment()
    found = {"teacher": [made("teacher", given.seeds[0])]}
    for seed in given.seeds:
        for method in given.methods:
            found.setdefault(method, []).append(made(method, seed))
            print(f"{method}, seed {seed}: {cell(found[method][-1])}", flush=True)
    print(table(found, given.seeds))


if __name__ == "__main__":
    main()
