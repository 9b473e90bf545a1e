"""What starting costs: of each stage, of a repro and a flow with nothing to do, of a whole run.

    dvc repro                                      # the stages start on what it made
    python -m benchmarks.startup stages [--only sft] [--rounds 5]
    python -m benchmarks.startup noop
    python -m benchmarks.startup flow              # starts a Prefect server of its own
    python -m benchmarks.startup forked            # the evaluations, forked and each by itself
    python -m benchmarks.startup run               # `dvc repro --force`: all stages run again
    python -m benchmarks.startup overhead          # a new clone's `dvc repro`, and hardly any work

By turns, medians; `cpu` is processor time, which other work on the machine changes least.
"""

import argparse
import json
import os
import resource
import runpy
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from importlib import import_module
from pathlib import Path

import psutil
import yaml

HERE = "benchmarks.startup"
# Parameters with which hardly anything is trained or sampled; the stages are the same.
NO_WORK = {
    "sft": {"max_steps": 1},
    "grpo": {"max_steps": 1, "preflight": "off"},
    "distill": {"max_steps": 1, "num_samples": 8, "min_samples": 8, "if_fewer": "demonstrations"},
    "evaluate": {"num_samples": 8},
}
LEAST = [sys.executable, "-c", "import torch, transformers"]
# The call with which a stage's work begins, its libraries imported and its model loaded. Those
# without one need none: their work begins with their body.
WORK = {
    "base": "stages.tasks:corpus",
    "sft": "stages.core.training:train",
    "grpo": "stages.core.training:train",
    "merge": "stages.core.lora:attached",
    "distill": "stages.core.batches:Batches.get",
    "evaluate": "stages.core.batches:Batches.get",
    "report": "matplotlib.figure:Figure",
}
COPIED = ("stages", "benchmarks", "data", "models", "metrics", "samples", "plots", "rollouts",
          "params.yaml", "dvc.yaml", "dvc.lock", "mlflow.db", ".cache/schema", ".code")  # fmt: skip

Turn = tuple[float, float]  # seconds: wall clock, processor


def timed(command: list[str], **options) -> Turn:
    wall, before = time.perf_counter(), processor_time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)
    return time.perf_counter() - wall, processor_time() - before


def processor_time() -> float:
    """Seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def show(turns: dict[str, list[Turn]]) -> None:
    """A line each, with ratios to the first one in the same round."""
    first = next(iter(turns.values()))
    print(f"{'':38}{'s':>7}{'cpu s':>7}{'ratio':>7}  {'its range':12}{'of cpu':>7}")
    for name, own in turns.items():
        wall, cpu = (statistics.median(column) for column in zip(*own, strict=True))
        ratios, by_cpu = ([a[i] / b[i] for a, b in zip(own, first, strict=True)] for i in (0, 1))
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        print(f"{name:38}{wall:7.2f}{cpu:7.2f}{statistics.median(ratios):7.2f}  {spread:12}"
              f"{statistics.median(by_cpu):7.2f}")  # fmt: skip


# --- stages ---------------------------------------------------------------------------------------


def stages(rounds: int, only: list[str]) -> None:
    commands = {
        name: command
        for name, command in stage_commands().items()
        if not only or name.partition("@")[0] in only
    }
    turns: dict[str, list[Turn]] = {"import torch, transformers": []}
    for _ in range(rounds):
        turns["import torch, transformers"].append(timed(LEAST))
        for name, command in commands.items():
            with copied() as folder:
                for what, turn in started(command, folder / "times.json").items():
                    turns.setdefault(f"{name}: {what}", []).append(turn)
    show(turns)


def stage_commands() -> dict[str, list[str]]:
    """`python -m stages.X ...` of each stage of the frame; of a foreach the first one."""
    from stages.core import graph, launch, modules

    values = yaml.safe_load(Path("params.yaml").read_text())
    nodes = graph.expanded(graph.declared(), values)
    first: dict[str, list[str]] = {}
    for name, node in nodes.items():
        if launch.module(name) not in modules.stages():
            continue
        if not any(known.partition("@")[0] == name.partition("@")[0] for known in first):
            first[name] = node.command.split()[2:]
    return first


@contextmanager
def copied() -> Iterator[Path]:
    """What the stages read, in a folder that may be spoilt."""
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(os.path.exists, COPIED):
            copy = shutil.copytree if Path(name).is_dir() else shutil.copy
            Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            copy(name, Path(folder, name))
        before = Path.cwd()
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def started(command: list[str], report: Path) -> dict[str, Turn]:
    """A stage from its start up to its work, its end from there, and the tracker beside it."""
    before = processor_time()
    done = subprocess.run([sys.executable, "-m", HERE, "child", str(report), *command],
                          capture_output=True, text=True)  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    end, whole = time.time(), processor_time() - before
    told = json.loads(report.read_text())
    (body, body_cpu), (work, work_cpu) = told["body"], told["work"]
    return {"body": (body, body_cpu), "work": (work, work_cpu),
            "its end, and its tracker": (end - told["time"], whole - work_cpu)}  # fmt: skip


def child(report: Path, module: str, *arguments: str) -> None:
    """The stage itself, in this process, up to where its work begins."""
    from stages.core import stage

    name, run_stage, times = module.rpartition(".")[2], stage.main, {}

    def note(moment: str) -> None:
        wall = time.time() - psutil.Process().create_time()
        times.update({moment: (wall, time.process_time()), "time": time.time()})

    def begins(*_: object, **__: object) -> None:
        note("work")
        report.write_text(json.dumps(times))
        sys.exit(0)

    def main(name_: str, body: Callable, *rest: object, **options: object) -> None:
        def noted(params: object, run: object) -> object:
            note("body")
            if name not in WORK:
                begins()
            where, _, path = WORK[name].partition(":")
            *outer, last = path.split(".")
            setattr(reduce(getattr, outer, import_module(where)), last, begins)
            return body(params, run)

        run_stage(name_, noted, *rest, **options)

    stage.main = main
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")


# --- nothing to do --------------------------------------------------------------------------------


def noop(rounds: int) -> dict[str, list[Turn]]:
    """`dvc repro` of this project beside that of as many stages that hang on next to nothing."""
    dvc = [sys.executable, "-m", "dvc", "repro"]
    said = subprocess.run(dvc, check=True, capture_output=True, text=True).stdout
    count = said.count("didn't change, skipping")
    if "Running stage" in said:
        sys.exit("something had changed, and has run now: once more")
    with tempfile.TemporaryDirectory() as folder:
        empty_pipeline(Path(folder), count)
        turns: dict[str, list[Turn]] = {f"{count} empty stages": [], f"these {count} stages": []}
        for _ in range(rounds):
            turns[f"{count} empty stages"].append(timed(dvc, cwd=folder))
            turns[f"these {count} stages"].append(timed(dvc))
    return turns


def empty_pipeline(folder: Path, count: int) -> None:
    """Each stage writes a line and needs the one before it."""
    entries = {
        f"stage{i}": {"cmd": f"echo {i} > {i}.txt", "outs": [f"{i}.txt"]}
        | ({"deps": [f"{i - 1}.txt"]} if i else {})
        for i in range(count)
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": entries}))
    for arguments in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True)


def flow(rounds: int) -> None:
    """The flow with nothing to do, from its start to its end, and its process from start to end."""
    turns: dict[str, list[Turn]] = {"import prefect": [], "process": [], "of it the flow": []}
    with server() as environment:
        for _ in range(rounds):
            turns["import prefect"].append(timed([sys.executable, "-c", "import prefect"]))
            with tempfile.NamedTemporaryFile() as report:
                command = [sys.executable, "-m", HERE, "flow-child", report.name]
                turns["process"].append(timed(command, env=environment))
                turns["of it the flow"].append(tuple(json.load(report)))
    show(turns)


def flow_child(report: Path) -> None:
    import asyncio

    from flows.pipeline import grpo_pipeline

    wall, cpu = time.perf_counter(), time.process_time()
    state = asyncio.run(grpo_pipeline(return_state=True))
    report.write_text(json.dumps((time.perf_counter() - wall, time.process_time() - cpu)))
    if not state.is_completed() or " 0 ran" not in state.message:
        sys.exit(f"the flow had something to do: {state.message}")


@contextmanager
def server() -> Iterator[dict[str, str]]:
    """A Prefect server, and the environment that names it."""
    from httpx import TransportError, get

    with socket.socket() as free, tempfile.TemporaryDirectory() as home:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        url = f"http://127.0.0.1:{port}/api"
        environment = {**os.environ, "PREFECT_HOME": home, "PREFECT_API_URL": url,
                       "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}  # fmt: skip
        command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            while True:
                try:
                    if get(f"{url}/health").is_success:
                        break
                except TransportError:
                    time.sleep(0.2)
            yield environment
        finally:
            process.terminate()
            process.wait(30)


# --- forked stages --------------------------------------------------------------------------------


def forked(rounds: int) -> None:
    """Short stages with a process that they are forked from, and without one."""
    from stages.core import forkserver, graph

    values = yaml.safe_load(Path("params.yaml").read_text())
    names = [n for n in graph.expanded(graph.declared(), values) if n.startswith("evaluate@")]
    command = [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", *names]
    kinds = {"each loads its libraries": {forkserver.SERVER: forkserver.NONE}, "forked": {}}
    turns: dict[str, list[Turn]] = {f"{len(names)} evaluations, {kind}": [] for kind in kinds}
    for _ in range(rounds):
        for kind, environment in zip(turns, kinds.values(), strict=True):
            turns[kind].append(timed_with_server(command, env={**os.environ, **environment}))
    show(turns)


def timed_with_server(command: list[str], **options) -> Turn:
    """Nobody waits for the server of stages: processor time is here that of the whole machine."""
    before = psutil.cpu_times()
    wall, _ = timed(command, stderr=subprocess.DEVNULL, **options)
    now = psutil.cpu_times()
    return wall, now.user + now.system - before.user - before.system


def overhead(rounds: int) -> None:
    """What of a whole run is neither training nor sampling: it is left when hardly any is done."""
    turns: dict[str, list[Turn]] = {"the whole pipeline": [], "one step each, 8 problems": []}
    for _ in range(rounds):
        for own, changes in zip(turns.values(), ({}, NO_WORK), strict=True):
            with cloned(changes) as folder:
                command = [sys.executable, "-m", "dvc", "repro"]
                own.append(timed_with_server(command, cwd=folder))
    show(turns)


@contextmanager
def cloned(changes: dict[str, dict]) -> Iterator[Path]:
    """A new clone of the last commit, installed, with these parameters."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", ".", folder], check=True)
        values = yaml.safe_load(Path(folder, "params.yaml").read_text())
        for section, own in changes.items():
            values[section] |= own
        Path(folder, "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        subprocess.run([sys.executable, "-m", "stages.core.schema"], check=True, cwd=folder)
        yield Path(folder)


# --- a whole run ----------------------------------------------------------------------------------


def run() -> None:
    """How the time of a whole run is made up, by its processes."""
    began = time.time()
    dvc = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "--force"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    lives = watched(psutil.Process(dvc.pid))
    wall = time.time() - began
    if dvc.wait():
        sys.exit("dvc repro failed")
    kinds: dict[str, list[dict]] = {}
    for life in lives:
        kinds.setdefault(kind_of(life["command"]), []).append(life)
    # a process that a stage starts bears its command for a moment
    longest: dict[str, float] = {}
    for life in kinds["stages"]:
        took = life["end"] - life["start"]
        longest[life["stage"]] = max(took, longest.get(life["stage"], 0))
    own, inside = sum(longest.values()), sum(map(seconds_of, longest))
    print(f"{wall:7.1f} s in all, of which")
    print(f"{inside:7.1f}   `seconds` of the stages: interpreter, imports and work")
    print(f"{own - inside:7.1f}   their ends: the tracker's last words, and the interpreter's end")
    print(f"{wall - own:7.1f}   DVC before, between and after them")
    for kind, found in kinds.items():
        print(f"{sum(life['cpu'] for life in found):7.1f} s processor time of {kind}")


def watched(parent: psutil.Process) -> list[dict]:
    """Start, end and processor time of each of our processes, while the first one lives."""
    lives: dict[tuple[int, float], dict] = {}
    while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
        for process in [parent, *parent.children(recursive=True), *forked_under(parent)]:
            try:
                command = process.cmdline()
                used = process.cpu_times()
                life = lives.setdefault((process.pid, process.create_time()), {})
                life.update(command=command, stage=process.environ().get("DVC_STAGE"),
                            start=process.create_time(), end=time.time(),
                            cpu=used.user + used.system)  # fmt: skip
            except psutil.Error:
                continue
        time.sleep(0.05)
    return [life for life in lives.values() if life]


def forked_under(owner: psutil.Process) -> list[psutil.Process]:
    """The process that stages and trackers are forked from, and those, who bear its command."""
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if (command := p.info["cmdline"])
            and "stages.core.forkserver" in command and str(owner.pid) in command]  # fmt: skip


def kind_of(command: list[str]) -> str:
    module = next((part for part in command[1:3] if part.startswith("stages.")), None)
    if module in (own := {"stages.core.tracker": "trackers", "stages.code": "code",
                          "stages.core.forkserver": "what is forked, and its server"}):  # fmt: skip
        return own[module]
    return "stages" if module else "dvc" if "dvc" in command[1:3] else "others"


def seconds_of(name: str) -> float:
    """What a stage itself says that it took."""
    from stages.core.stage import metrics_path

    return json.loads(metrics_path(name).read_text())["seconds"]


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        return child(Path(sys.argv[2]), *sys.argv[3:])
    if sys.argv[1:2] == ["flow-child"]:
        return flow_child(Path(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["stages", "noop", "flow", "forked", "run", "overhead"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="stages: these")
    chosen = parser.parse_args()
    match chosen.what:
        case "stages":
            stages(chosen.rounds, chosen.only)
        case "noop":
            show(noop(chosen.rounds))
        case "flow":
            flow(chosen.rounds)
        case "forked":
            forked(chosen.rounds)
        case "run":
            run()
        case "overhead":
            overhead(chosen.rounds)


if __name__ == "__main__":
    main()
