"""Is the format kept?"""

from stages.answers.format import Format
from stages.rewards.correctness import text


def format(completions: list, fmt: Format, **_) -> list[float]:
    """1.0 for exactly one working block, then one answer block, and nothing else; else 0.0."""
    return [float(fmt.compliant(text(c))) for c in completions]
