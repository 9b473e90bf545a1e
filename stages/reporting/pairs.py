"""Two models on the same problems: what was gained, what was lost, and whether it is noise."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stages.core.statistics import mcnemar, paired_bootstrap, paired_difference

PAIRS = (("base", "sft"), ("sft", "grpo"), ("control", "grpo"), ("grpo", "student"))
NAMES = {
    "base": "the base model",
    "sft": "SFT",
    "sft-longer": "SFT for twice the steps",
    "sft-verified": "SFT on right demonstrations alone",
    "sft-all": "SFT on all demonstrations",
    "control": "SFT made to show its working",
    "grpo": "GRPO",
    "student": "the student",
}
SIGNIFICANT = 0.05
FEW_FLIPS = 10  # with fewer the bootstrap has next to nothing to draw from

Both = tuple[dict, dict]  # one problem's rows: before, after


@dataclass(frozen=True)
class Pair:
    """A comparison on one task; differences are after - before, with their 95 % intervals."""

    task: str
    before: str
    after: str
    n: int
    gained: list[Both]
    lost: list[Both]
    difference: float
    low: float
    high: float
    p: float
    reward: tuple[float, float, float] | None

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `within noise`: interval and exact test must agree."""
        if self.p < SIGNIFICANT and self.low > 0:
            return "better"
        if self.p < SIGNIFICANT and self.high < 0:
            return "worse"
        return "within noise"


def compared(task: str, before: str, after: str, samples: dict[str, list[dict]]) -> Pair | None:
    """Two models on the problems on which both were judged; None where there are none.

    Args:
        samples: model -> its rows of this task.
    """
    both = [pair for pair in joined(samples.get(before, []), samples.get(after, []))
            if all(map(was_judged, pair))]  # fmt: skip
    if not both:
        return None
    gained = [(was, now) for was, now in both if now["correct"] and not was["correct"]]
    lost = [(was, now) for was, now in both if was["correct"] and not now["correct"]]
    if len(gained) + len(lost) < FEW_FLIPS:
        difference, low, high = paired_difference(len(gained), len(lost), len(both))
    else:
        difference, low, high = paired_bootstrap(
            *zip(*((was["correct"], now["correct"]) for was, now in both), strict=True)
        )
    p = mcnemar(len(gained), len(lost))
    return Pair(task, before, after, len(both), gained, lost, difference, low, high, p,
                reward_difference(both))  # fmt: skip


def was_judged(sample: dict) -> bool:
    """Whether there is a verdict: there is none where the sandbox itself failed."""
    return sample.get("error") != "sandbox"


def joined(before: list[dict], after: list[dict]) -> list[Both]:
    """The rows of two models on the same problems; a question asked twice pairs in order."""
    was = dict(numbered(before))
    return [(was[key], row) for key, row in numbered(after) if key in was]


def numbered(rows: list[dict]) -> Iterator[tuple[tuple, dict]]:
    seen: Counter = Counter()
    for row in rows:
        problem = (row.get("task"), row["question"])
        yield (*problem, seen[problem]), row
        seen[problem] += 1


def reward_difference(both: list[Both]) -> tuple[float, float, float] | None:
    """Of the mean reward, over the problems on which both have one."""
    scores = [(was.get("reward"), now.get("reward")) for was, now in both]
    known = [pair for pair in scores if None not in pair]
    return paired_bootstrap(*zip(*known, strict=True)) if known else None


def all_pairs(
    samples: dict[str, dict[str, list[dict]]], controls: Sequence[str] = ()
) -> list[Pair]:
    """`PAIRS` on every task, and each of the controls against GRPO.

    Args:
        samples: task -> model -> rows.
        controls: models.
    """
    wanted = [*PAIRS[:-1], *((control, "grpo") for control in controls), PAIRS[-1]]
    found = [compared(task, before, after, models)
             for task, models in samples.items() for before, after in wanted]  # fmt: skip
    return [pair for pair in found if pair]


def worse_than_sft(pairs: list[Pair]) -> list[Pair]:
    """The tasks on which GRPO did harm."""
    return [p for p in pairs if (p.before, p.after) == ("sft", "grpo") and p.verdict == "worse"]


def alarm(pairs: list[Pair]) -> str:
    """One sentence on every task on which GRPO is worse than SFT; empty where there is none."""
    found = [f"{pair.task} ({points(pair)})" for pair in worse_than_sft(pairs)]
    return f"GRPO is worse than SFT on {' and '.join(found)}" if found else ""


def points(pair: Pair) -> str:
    shown = [100 * value for value in (pair.difference, pair.low, pair.high)]
    return "{:+.1f} points [{:+.1f}, {:+.1f}]".format(*shown)


def in_words(pair: Pair) -> str:
    """`GRPO against SFT: +43.2 points [+39.2, +47.2] on 600 problems, 262 gained, 3 lost`."""
    return (
        f"{NAMES[pair.after]} against {NAMES[pair.before]}, {pair.task}: {points(pair)} on "
        f"{pair.n} problems, {len(pair.gained)} gained, {len(pair.lost)} lost"
    )


def against_control(verdict: str, gained: bool) -> str:
    """Elicited or learned? The SFT model made to show its working is the yardstick.

    Args:
        verdict: of GRPO against it.
        gained: whether GRPO is better than the SFT model as it is.
    """
    if verdict == "within noise" and not gained:
        return "That GRPO added skill is not shown."
    return {
        "better": "GRPO did more than elicit worked solutions, it made them right more often.",
        "worse": "GRPO is worse than just making the SFT model show its working.",
        "within noise": "GRPO elicits worked solutions, which the SFT model could already write; "
        "that it added skill is not shown.",
    }[verdict]


def as_metrics(pairs: list[Pair]) -> dict[str, dict]:
    """For programs: task -> `sft-grpo` -> the comparison's numbers and its verdict."""
    found: dict[str, dict] = {}
    for pair in pairs:
        found.setdefault(pair.task, {})[f"{pair.before}-{pair.after}"] = {
            "n": pair.n, "gained": len(pair.gained), "lost": len(pair.lost),
            "difference": pair.difference, "low": pair.low, "high": pair.high, "p": pair.p,
            "verdict": pair.verdict,
        }  # fmt: skip
    return found
