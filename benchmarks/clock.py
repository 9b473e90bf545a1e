"""Steps of a trainer timed by turns, and their table."""

import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback

WARM_UP = 2  # steps of a turn that do not count

Turn = tuple[float, float]  # median seconds of a step: wall clock, processor


class Clock(TrainerCallback):
    def __init__(self):
        self.steps: list[Turn] = []

    def on_step_begin(self, *_, **__):
        self.began = time.perf_counter(), time.process_time()

    def on_step_end(self, *_, **__):
        wall, cpu = self.began
        self.steps.append((time.perf_counter() - wall, time.process_time() - cpu))


def medians(steps: list[Turn]) -> Turn:
    wall, cpu = zip(*steps[WARM_UP:], strict=True)
    return statistics.median(wall), statistics.median(cpu)


def timed(trainer: Trainer) -> Turn:
    clock = Clock()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock)
    with tempfile.TemporaryDirectory() as folder:
        trainer.args.output_dir = folder
        trainer.train()
    return medians(clock.steps)


def by_turns(variants: dict[str, Callable[[], Turn]], rounds: int) -> dict[str, list[Turn]]:
    measured: dict[str, list[Turn]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, turn in variants.items():
            measured[name].append(turn())
    return measured


def show(measured: dict[str, list[Turn]], samples: int, of: str) -> None:
    """A line a variant; ratios to the first one, in the same round."""
    print(f"{samples} {of} a step, {torch.get_num_threads()} threads")
    print(f"{'':34}{'ms':>7}{'samples/s':>11}{'ratio':>7}  {'its range':13}{'by processor time'}")
    first = next(iter(measured.values()))
    for name, turns in measured.items():
        wall = statistics.median(turn[0] for turn in turns)
        ratios, by_cpu = ([a[i] / b[i] for a, b in zip(first, turns, strict=True)] for i in (0, 1))
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        print(f"{name:34}{1000 * wall:7.0f}{samples / wall:11.0f}{statistics.median(ratios):7.2f}"
              f"  {spread:13}{statistics.median(by_cpu):.2f}")  # fmt: skip
