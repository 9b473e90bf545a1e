"""Scores of repeated samples, intervals, and paired comparisons on the same items."""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from math import comb, fsum, nan, sqrt

Z = 1.959963984540054  # two-sided 95 %


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson 1927).

    >>> low, high = wilson(528, 600); round(low, 3), round(high, 3)
    (0.852, 0.904)
    """
    share = successes / n
    centre = share + Z**2 / (2 * n)
    half = Z * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    # rounding must not put the proportion itself outside
    low, high = (centre - half) / scale, (centre + half) / scale
    return max(0.0, min(share, low)), min(1.0, max(share, high))


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p-value that as many flips one way are chance (McNemar 1947)."""
    n, k = gained + lost, min(gained, lost)
    return min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0


def paired_difference(gained: int, lost: int, n: int) -> tuple[float, float, float]:
    """A difference of two accuracies on the same n items, with its 95 % interval.

    The interval adds half an item to each cell of the 2 x 2 table (Agresti and Min 2005), so that
    a handful of items without a flip does not pass for certainty.
    """
    up, down, items = gained + 0.5, lost + 0.5, n + 2
    centre = (up - down) / items
    half = Z * sqrt(((up + down) - (up - down) ** 2 / items) / items**2)
    return (gained - lost) / n, max(-1.0, centre - half), min(1.0, centre + half)


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n samples hold a right one, where c of the n are right.

    The unbiased estimator of Chen et al. 2021 (https://arxiv.org/abs/2107.03374), in integers up to
    the one division, so that it is right to the last bit.

    Raises:
        ValueError: not 0 <= c <= n and 1 <= k <= n.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {n} samples, {c} of them right, does not exist")
    return (comb(n, k) - comb(n - c, k)) / comb(n, k)


def maj_at_k(votes: Sequence[Hashable | None], right: Collection[Hashable]) -> float:
    """The chance that a vote over one problem's samples is right (Wang et al. 2022).

    Args:
        votes: each sample's answer in a form in which equal answers are equal; None: no answer,
            which never wins over one.
        right: the answers among them that are right.

    Returns:
        0 or 1; where several answers have the most votes, the share of those that are right, which
        is what drawing one of them would give on average. 0 where nothing was answered.

    >>> maj_at_k(["7", None, None, "8"], {"7"})
    0.5
    """
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    winners = [answer for answer, count in counts.items() if count == most]
    return sum(answer in right for answer in winners) / len(winners) if winners else 0.0


def alike(answers: Iterable[str | None], same: Callable[[str, str], bool]) -> list[Counter[str]]:
    """The answers in groups that vote together, first come first: spelling -> how many gave it.

    Having none is no answer. `12` equals `12 cm` and `12 kg`, which do not equal each other: an
    answer joins others only where it equals all of them.
    """
    groups: list[Counter[str]] = []
    for answer, count in Counter(filter(None, answers)).items():
        group = next((g for g in groups if all(same(other, answer) for other in g)), None)
        if group is None:
            groups.append(group := Counter())
        group[answer] = count
    return groups


def commonest(group: Counter[str]) -> str:
    """The spelling that most gave; the first of them where several did."""
    return group.most_common(1)[0][0]


def standard_error(scores: Sequence[float]) -> float:
    """Of the mean of independent items; NaN for a single one, whose spread is not known."""
    n = len(scores)
    if n < 2:
        return nan
    mean = fsum(scores) / n
    return sqrt(fsum((score - mean) ** 2 for score in scores) / (n - 1) / n)


def mean_interval(
    scores: Sequence[float], bounds: tuple[float, float] | None = None
) -> tuple[float, float]:
    """The 95 % interval of a mean over items, by the normal approximation.

    Args:
        scores: one number an item, such as its pass@k, at least one.
        bounds: between which every score lies. They put two items at each bound before the interval
            is taken, as Agresti and Coull (1998) do for a proportion, so that a handful of equal
            scores does not pass for certainty.

    Returns:
        low, high; (NaN, NaN) for a single item without bounds.
    """
    mean = fsum(scores) / len(scores)
    if bounds is None:
        half = Z * standard_error(scores)
        return mean - half, mean + half
    padded = [*scores, *bounds, *bounds]
    centre = fsum(padded) / len(padded)
    spread = sqrt(fsum((score - centre) ** 2 for score in padded)) / len(padded)
    low, high = max(bounds[0], centre - Z * spread), min(bounds[1], centre + Z * spread)
    return min(mean, low), max(mean, high)


def paired_bootstrap(
    before: Sequence[float], after: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """The difference of two means on the same items, with its 95 % percentile interval.

    Items are drawn with replacement, each with both of its scores (Efron and Tibshirani 1993); the
    same arguments give the same bits. With few items that differ it is too narrow: without any, it
    is a point.

    Args:
        before: one score an item.
        after: of the same items in the same order.

    Returns:
        the mean of after - before, low, high.
    """
    import numpy as np

    changes = np.subtract(after, before, dtype=float)
    n = len(changes)
    generator = np.random.default_rng(seed)
    at_once = max(1, 2_000_000 // n)  # draws in memory: 16 MB, whatever n is
    means = np.concatenate([
        changes[generator.integers(n, size=(min(at_once, resamples - start), n))].mean(axis=1)
        for start in range(0, resamples, at_once)
    ])  # fmt: skip
    low, high = np.quantile(means, [0.025, 0.975])
    mean = float(changes.mean())
    return mean, min(mean, float(low)), max(mean, float(high))
