"""Does GRPO learn as much with a group's prompt computed once? python -m benchmarks.grpo_learning.

    dvc repro sft prepare audit               # the model that all go on from
    python -m benchmarks.grpo_learning --seeds 0 1 2 3 4

For each seed GRPO as params.yaml has it, with `shared_prompt` on and off (TRL's own way), each
judged greedily on the held-out problems. A seed is that of the order of prompts, of the adapter and
of sampling. The seconds are of training alone. What is finished lies in .cache/learning and is not
made again.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from statistics import mean, stdev

import yaml

from stages import evaluate, grpo, merge
from stages.core import params as parameters
from stages.core import resume, stage
from stages.core.files import write_json
from stages.core.stage import Run
from stages.core.tracking import Spool

ROOT, WORK = Path.cwd(), Path.cwd() / ".cache" / "learning"
LINKED = ("stages", "data", "dvc.yaml", "models/sft")


def made(shared: bool, seed: int) -> dict[str, float]:
    """Accuracy, and seconds of training: wall clock and processor."""
    folder = WORK / f"{'shared' if shared else 'trl'}-{seed}"
    results = folder / "results.json"
    if not results.exists():
        shutil.rmtree(folder, ignore_errors=True)
        for name in LINKED:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(ROOT / name)
        os.chdir(folder)
        write_json(results, trained_and_judged(shared, seed))
        os.chdir(ROOT)
    return json.loads(results.read_text())


def trained_and_judged(shared: bool, seed: int) -> dict[str, float]:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["seed"] = seed
    raw["grpo"] |= {"shared_prompt": shared, "preflight": "off"}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    params = parameters.load()
    stage.seed_everything(seed)
    wall, cpu = time.perf_counter(), time.process_time()
    grpo.body(params, Run("grpo", params, Spool(Path(os.devnull))))
    spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    resume.finished("grpo")
    merge.body(params, None)
    run = Run("evaluate@grpo", params, Spool(Path(os.devnull)))
    judged = evaluate.body("grpo", params, run)
    resume.finished(run.name)
    scores = next(entry for entry in judged.values() if isinstance(entry, dict))
    return {"accuracy": scores["accuracy"], **spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    seeds = parser.parse_args().seeds
    stage.set_environment()
    found = {seed: (made(True, seed), made(False, seed)) for seed in seeds}
    print("| seed | shared | TRL | difference | wall, ratio | processor, ratio |")
    print("|---|---|---|---|---|---|")
    apart, wall, cpu = [], [], []
    for seed, (own, trls) in found.items():
        apart.append(own["accuracy"] - trls["accuracy"])
        wall.append(trls["wall"] / own["wall"])
        cpu.append(trls["cpu"] / own["cpu"])
        print(f"| {seed} | {own['accuracy']:.3f} | {trls['accuracy']:.3f} | {apart[-1]:+.3f} "
              f"| {wall[-1]:.2f} | {cpu[-1]:.2f} |")  # fmt: skip
    if len(seeds) > 1:
        error = stdev(apart) / len(apart) ** 0.5
        print(f"mean difference {mean(apart):+.4f}, standard error {error:.4f}")


if __name__ == "__main__":
    main()
