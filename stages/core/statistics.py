"""Intervals and paired comparisons of proportions."""

from math import comb, sqrt

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
    return min(share, (centre - half) / scale), max(share, (centre + half) / scale)


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
