"""Two models on the same problems: what was gained, what was lost, and whether it is noise."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stages.core.statistics import mcnemar, paired_bootstrap, paired_difference, pass_at_k

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
Difference = tuple[float, float, float]  # after - before, and its 95 % interval


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
    reward: Difference | None
    sampled: dict[str, Difference]  # pass@1 and pass@k, where each problem has k samples

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
    common = joined(samples.get(before, []), samples.get(after, []))
    both = [pair for pair in common if all(map(was_judged, pair))]
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
                reward_difference(both), sampled_difference(common))  # fmt: skip


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


def sampled_difference(both: list[Both]) -> dict[str, Difference]:
    """Of pass@1 and pass@k; empty unless all problems have the same number k of samples."""
    right = [tuple([one["correct"] for one in row.get("samples", [])] for row in pair)
             for pair in both]  # fmt: skip
    counts = {len(samples) for pair in right for samples in pair}
    if len(counts) != 1 or 0 in counts:
        return {}
    k = counts.pop()
    return {
        f"pass@{n}": paired_bootstrap(
            *zip(*([pass_at_k(k, sum(c), n) for c in pair] for pair in right), strict=True)
        )
        for n in sorted({1, k})
    }


def reward_difference(both: list[Both]) -> Difference | None:
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
    return in_points((pair.difference, pair.low, pair.high))


def in_points(difference: Difference) -> str:
    return "{:+.1f} points [{:+.1f}, {:+.1f}]".format(*(100 * value for value in difference))


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


def reach(pair: Pair) -> str:
    """Sharper or further? What the samples of a problem say of GRPO; empty for one a problem."""
    if len(pair.sampled) < 2:
        return ""
    (_, sharper, _), (_, low, high) = pair.sampled.values()
    if low > 0:
        says = "GRPO's samples solve more problems than SFT's."
    elif high < 0:
        says = (
            f"GRPO's samples solve fewer problems than SFT's{', each more often' * (sharper > 0)}."
        )
    elif sharper > 0:
        says = "GRPO's samples are right more often; that they solve more problems is not shown."
    else:
        says = "That GRPO's samples are better is not shown."
    name, found = list(pair.sampled.items())[-1]
    return f"{name} on {pair.task} went by {in_points(found)} from SFT to GRPO. {says}"


def as_metrics(pairs: list[Pair]) -> dict[str, dict]:
    """For programs: task -> `sft-grpo` -> the comparison's numbers and its verdict."""
    found: dict[str, dict] = {}
    for pair in pairs:
        found.setdefault(pair.task, {})[f"{pair.before}-{pair.after}"] = {
            "n": pair.n, "gained": len(pair.gained), "lost": len(pair.lost),
            "difference": pair.difference, "low": pair.low, "high": pair.high, "p": pair.p,
            "verdict": pair.verdict,
            **{name: dict(zip(("difference", "low", "high"), found, strict=True))
               for name, found in pair.sampled.items()},
        }  # fmt: skip
    return found
