"""Is the working sound? Shaping rewards: put them behind a gate, or keep their weight small."""

from fractions import Fraction

from stages.answers.format import Format
from stages.rewards.text import equations
from stages.rewards.text import working as shown  # `working` is the reference's column


def steps(
    completions: list,
    working: list[str | None],
    fmt: Format,
    each: float = 0.2,
    most: float = 1.0,
    **_,
) -> list[float | None]:
    """`each` for every intermediate result of the reference found in the working, `most` at most.

    Results are the values behind the equals signs, compared as numbers and in the reference's
    order; 16 inside 160 is no hit, and a list of numbers without equations earns nothing. None
    where the row's `working` (a column) has no equation.
    """
    return [
        None if not (wanted := results(reference or "")) else
        min(most, each * in_order(wanted, results(shown(completion, fmt))))
        for completion, reference in zip(completions, working, strict=True)
    ]  # fmt: skip


def results(content: str) -> list[Fraction]:
    """The values behind a text's equals signs, where the equation holds."""
    return [right for left, right in equations(content) if left == right]


def in_order(wanted: list[Fraction], given: list[Fraction]) -> int:
    """The length of the longest common subsequence."""
    wanted, given = wanted[:50], given[:200]
    best = [0] * (len(given) + 1)
    for value in wanted:
        row = [0]
        for at, other in enumerate(given):
            row.append(best[at] + 1 if value == other else max(best[at + 1], row[at]))
        best = row
    return best[-1]


def equations_hold(completions: list, fmt: Format, **_) -> list[float]:
    """1.0 where the working has equations and every one holds exactly, else 0.0."""

    def score(content: str) -> float:
        found = list(equations(content))
        return float(bool(found) and all(left == right for left, right in found))

    return [score(shown(c, fmt)) for c in completions]


def step_structure(
    completions: list, fmt: Format, least: int = 2, most: int = 20, **_
) -> list[float]:
    """1.0 where the working has `least` to `most` lines with text, no two alike; else 0.0."""

    def score(content: str) -> float:
        lines = [line.strip() for line in content.splitlines() if line.strip()]
        return float(least <= len(lines) <= most and len(set(lines)) == len(lines))

    return [score(shown(c, fmt)) for c in completions]
