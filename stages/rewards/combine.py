"""How several rewards become one.

None means "cannot be judged": such a part is left out, and where none is left the whole is None.
"""

from collections import Counter
from collections.abc import Callable
from math import prod

Scores = list[float | None]
RIGHT = 0.5  # a gate opens, and a majority's vote is a yes, from this score on


def combined(how: str, parts: list[Callable], weights: list[float]) -> Callable:
    """One reward function of several.

    | how | score |
    |---|---|
    | sum | the weighted sum |
    | mean | the weighted mean |
    | max, min | the largest, the smallest of the weighted scores |
    | product | the product of the weighted scores |
    | majority | 1.0 where more than half of the parts give at least 0.5, else 0.0 |
    | gate | the first part's; the sum of the others is added where that is at least 0.5 |
    """

    def reward(**columns) -> Scores:
        scores = [part(**columns) for part in parts]
        return [one(how, list(sample), weights) for sample in zip(*scores, strict=True)]

    return reward


def one(how: str, scores: Scores, weights: list[float]) -> float | None:
    """The combined score of one sample."""
    if how == "gate" and scores[0] is None:
        return None
    known = [(score, weight) for score, weight in zip(scores, weights, strict=True)
             if score is not None]  # fmt: skip
    if not known:
        return None
    weighted = [score * weight for score, weight in known]
    match how:
        case "sum":
            return sum(weighted)
        case "mean":
            return sum(weighted) / (sum(weight for _, weight in known) or 1)
        case "max":
            return max(weighted)
        case "min":
            return min(weighted)
        case "product":
            return prod(weighted)
        case "majority":
            votes = Counter(score >= RIGHT for score, _ in known)
            return float(votes[True] > votes[False])
        case "gate":
            return weighted[0] + (sum(weighted[1:]) if known[0][0] >= RIGHT else 0.0)
    raise AssertionError(how)


def clipped(function: Callable, scale: float, clip: tuple[float, float] | None) -> Callable:
    """A reward times `scale`, then held between the two bounds of `clip`."""
    if scale == 1.0 and clip is None:
        return function
    low, high = clip or (float("-inf"), float("inf"))

    def reward(**columns) -> Scores:
        scores = function(**columns)
        return [None if s is None else min(high, max(low, s * scale)) for s in scores]

    return reward
