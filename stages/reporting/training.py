"""What training recorded: its curves, and what each reward had to say in the advantages."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

Points = list[tuple[int, float]]  # (step, value)

# Title, unit and curves of a chart, by the names of plots/grpo.csv.
GRPO_PANELS = (
    ("Rates", "share", ("accuracy", "shows_working", "format_compliance_rate", "high_reward_rate")),
    ("Groups and limits", "share", ("dead_groups", "truncated", "clip_fraction", "unjudged")),
    ("Entropy", "nats a token", ("entropy",)),
    ("KL to the SFT model", "nats a token", ("kl_div",)),
    ("Completion length", "tokens", ("completion_length",)),
    ("Loss", "", ("loss",)),
)
DEAD = 1e-8  # a group whose rewards spread less has no advantages (as TRL counts them)


class Panel(NamedTuple):
    """One small chart; `unit` is that of the vertical axis."""

    title: str
    unit: str
    curves: dict[str, Points]


def read_curves(path: Path) -> dict[str, Points]:
    """The columns of a training curve, without blanks and what is no finite number."""
    curves: dict[str, Points] = defaultdict(list)
    if not path.exists():
        return curves
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            step = row.pop("step")
            for name, value in row.items():
                if value and math.isfinite(float(value)):
                    curves[name].append((int(step), float(value)))
    return dict(curves)


def grpo_panels(curves: dict[str, Points], shares: dict[str, Points]) -> list[Panel]:
    """The panels of which there is anything to show."""
    rewards = {"mean_reward": "mean_reward"} | {
        name: name.removeprefix("rewards/").removesuffix("/mean")
        for name in curves
        if name.startswith("rewards/") and name.endswith("/mean")
    }
    reward = {shown: curves[name] for name, shown in rewards.items() if name in curves}
    panels = [Panel("Reward", "mean score", reward)]
    if len(shares) > 1:
        panels.append(Panel("Share of the advantage", "share", shares))
    panels += [Panel(title, unit, {name: curves[name] for name in names if name in curves})
               for title, unit, names in GRPO_PANELS]  # fmt: skip
    return [panel for panel in panels if panel.curves]


def loss_panels(sft: dict[str, Points], distill: dict[str, Points]) -> list[Panel]:
    named = {"SFT": sft, "Distillation": distill}
    return [Panel(title, "loss", {"loss": curves["loss"]})
            for title, curves in named.items() if "loss" in curves]  # fmt: skip


def advantage_shares(rollouts: Iterable[dict], weights: dict[str, float]) -> dict[str, Points]:
    """Each reward's share of the advantages, step by step.

    Within a group (the completions of one question at one step) the total reward is the sum of
    weight x score, so that its variance is the sum of the covariances of each part with it: a
    part's covariance over the total's variance is its share, and the shares of a group sum to 1. A
    share below 0 is that of a reward which pulls against the rest. A step's share is the mean over
    its groups, each counting the same, because GRPO divides advantages by their group's spread;
    groups without a spread have no advantages and are left out.

    Args:
        rollouts: rows with `step`, `question` and `rewards` (name -> score; NaN or None: not
            judged, counts as 0, as in training).
        weights: of the rewards, by name; one that is not named weighs 0.
    """
    groups: dict[tuple, list[list[float]]] = defaultdict(list)
    names: dict[str, None] = {}
    for row in rollouts:
        names |= dict.fromkeys(row["rewards"])
        parts = [weights.get(n, 0.0) * known(row["rewards"].get(n)) for n in names]
        groups[row["step"], row["question"]].append(parts)
    steps: dict[int, list[list[float]]] = defaultdict(list)
    for (step, _), group in groups.items():
        if shares := group_shares([parts + [0.0] * (len(names) - len(parts)) for parts in group]):
            steps[step].append(shares)
    return {
        name: [(step, fmean(shares[i] for shares in steps[step])) for step in sorted(steps)]
        for i, name in enumerate(names)
        if steps
    }


def known(score: float | None) -> float:
    return 0.0 if score is None or math.isnan(score) else score


def group_shares(parts: list[list[float]]) -> list[float] | None:
    """The share of each column in the variance of the rows' sums; None where that is 0.

    >>> group_shares([[1.0, 0.0], [0.0, 0.5]])
    [2.0, -1.0]
    """
    totals = [math.fsum(row) for row in parts]
    mean = fmean(totals)
    away = [total - mean for total in totals]
    variance = math.fsum(a * a for a in away)
    if math.sqrt(variance / len(away)) < DEAD:
        return None
    columns = zip(*parts, strict=True)
    return [math.fsum(a * x for a, x in zip(away, c, strict=True)) / variance for c in columns]


def advantage_table(shares: dict[str, Points], weights: dict[str, float],
                    curves: dict[str, Points]) -> list[list[str]]:  # fmt: skip
    """Per reward: its weight, mean score at both ends, and mean share of the advantage."""
    table = [["reward", "weight", "mean score, first step", "last step", "share of the advantage"]]
    for name, points in shares.items():
        means = [value for _, value in curves.get(f"rewards/{name}/mean", [])]
        ends = [f"{means[0]:.3f}", f"{means[-1]:.3f}"] if means else ["", ""]
        share = f"{fmean(value for _, value in points):.1%}"
        table.append([name, f"{weights.get(name, 0.0):g}", *ends, share])
    return table


def finding_table(metrics: dict[str, dict]) -> list[list[str]]:
    """What the diagnosis found, stage by stage, with a head row.

    Args:
        metrics: stage -> its metrics; `findings` as stages/core/doctor.py has them.
    """
    table = [["stage", "step", "kind", "finding", "remedy"]]
    for stage, values in metrics.items():
        for finding in values.get("findings", []):
            what = [finding[key] for key in ("severity", "what", "remedy")]
            table.append([stage, str(finding["step"]), *what])
    return table


def target_table(targets: list[dict]) -> list[list[str]]:
    """The documents' targets and whether they were reached, with a head row."""
    said = {True: "reached", False: "not reached", None: "not measured"}
    table = [["target", "goal", "value", ""]]
    for target in targets:
        value = "" if target["value"] is None else f"{target['value']:.3f}"
        table.append([target["name"], target["goal"], value, said[target["reached"]]])
    return table
