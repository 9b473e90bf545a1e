"""Has anything become much slower? python -m benchmarks.ratios [--record]

    dvc repro                                  # what is measured trains, samples and starts on it
    make ratios                                # the same as the module: fails on a large fall

Each figure is how many times as fast as its alternative something of ours is, both measured here,
by turns, on one thread; the median of the rounds. It is compared with benchmarks/ratios.json, which
holds what was measured when it was last recorded: ratios hardly differ between machines, seconds
do. A fall below SHARE of the recorded one fails; a smaller one is noise, or a matter for the
benchmark itself (benchmarks/README.md).
"""

import argparse
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks import evaluation, grpo_step, rewards, sandbox, startup
from benchmarks.clock import Turn, by_turns
from stages.core import harness, stage
from stages.core.files import read_rows, write_json
from stages.sandbox import options, probes

RECORD = Path(__file__).with_suffix(".json")
SHARE = 0.5  # of a recorded ratio; a busy machine alone moves some by a third
MODEL = Path("models/grpo")
BATCH = 64  # of lm-eval; what is best differs little from machine to machine
Measure = Callable[[int], Iterator[float]]


def grpo_steps(rounds: int) -> Iterator[float]:
    """Completions a second of the grpo stage beside a plain TRL script's; processor time."""
    params = grpo_step.changed(5, shared=True)
    makers = {"plain": grpo_step.plain, "ours": grpo_step.own}
    turns = by_turns(
        {name: partial(grpo_step.turn, make, params) for name, make in makers.items()}, rounds,
    )  # fmt: skip
    yield from of_processor(turns["plain"], turns["ours"])


def evaluations(rounds: int) -> Iterator[float]:
    """Completions a second of the evaluate stage beside lm-eval's own model; processor time."""
    params = evaluation.changed(samples_per_prompt=4)
    rows = list(read_rows(evaluation.ROWS))[:200]
    theirs = evaluation.lm_evals(MODEL, params, BATCH)
    ours = harness.language_model(MODEL, params, shown=lambda done: None)
    turns = by_turns({
        "lm-eval": lambda: clocked(lambda: evaluation.plain(theirs, rows, params)),
        "ours": lambda: clocked(lambda: evaluation.own(ours, rows, params)),
    }, rounds)  # fmt: skip
    yield from of_processor(turns["lm-eval"], turns["ours"])


def clocked(run: Callable[[], object]) -> Turn:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def of_processor(theirs: list[Turn], ours: list[Turn]) -> list[float]:
    return [a[1] / b[1] for a, b in zip(theirs, ours, strict=True)]


def verifications(rounds: int) -> Iterator[float]:
    """Pairs a second of the verifier beside math-verify's, on the golds of data/samples.

    Each round has pairs of its own, which no cache knows.
    """
    golds = [row["answer"] for path in sorted(Path("data/samples").glob("math-*.jsonl"))
             for row in read_rows(path)]  # fmt: skip
    pairs = [pair for pairs in rewards.sets(golds).values() for pair in pairs]
    graders = [rewards.math_verify(), rewards.ours()]
    for grader in graders:
        grader(r"\sqrt{2}+1", r"\boxed{1+\sqrt{2}}")  # imports, tables of the parsers
    for i in range(rounds):
        theirs, ours = (rewards.measured(grader, pairs[i::rounds])[0] for grader in graders)
        yield ours / theirs


def sandboxes(rounds: int) -> Iterator[float]:
    """Programs a second in the sandbox beside bare processes; nothing where there is none."""
    option = options.BUBBLEWRAP
    if options.missing(option) or probes.failure(option):
        return
    for _ in range(rounds):
        bare = sandbox.rate(sandbox.bare, 40)
        yield sandbox.rate(lambda: sandbox.program(option), 40) / bare


def nothing_to_do(rounds: int) -> Iterator[float]:
    """A `dvc repro` of as many empty stages beside this project's."""
    turns = startup.noop(rounds)
    yield from of_processor(*turns.values())


MEASURES: dict[str, Measure] = {
    "GRPO step, beside plain TRL": grpo_steps,
    "evaluation, beside lm-eval": evaluations,
    "verifier, beside math-verify": verifications,
    "sandboxed program, beside a bare one": sandboxes,
    "no-op dvc repro, beside an empty one": nothing_to_do,
}


def fallen(found: dict[str, float], recorded: dict[str, float]) -> list[str]:
    """What is much slower than it was; what could not be measured here has not fallen."""
    return [f"{name}: {ratio:.2f} times as fast, {recorded[name]:.2f} when recorded"
            for name, ratio in found.items() if ratio < SHARE * recorded[name]]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    logging.disable(logging.ERROR)
    found = {}
    for name, measure in MEASURES.items():
        if ratios := list(measure(chosen.rounds)):
            found[name] = round(statistics.median(ratios), 3)
            print(f"{name:38}{found[name]:7.2f}  {min(ratios):.2f}-{max(ratios):.2f}", flush=True)
        else:
            print(f"{name:38}not to be had on this machine")
    if chosen.record:
        write_json(RECORD, found)
    elif slower := fallen(found, json.loads(RECORD.read_text())):
        sys.exit("much slower than recorded in benchmarks/ratios.json:\n" + "\n".join(slower))


if __name__ == "__main__":
    stage.set_environment()
    torch.set_num_threads(1)
    main()
