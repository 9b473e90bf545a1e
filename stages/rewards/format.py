"""Is the format kept?"""

from stages.answers.format import Format
from stages.rewards.text import text


def format(completions: list, fmt: Format, partial: bool = False, **_) -> list[float]:
    """1.0 for exactly one working block, then one answer block, and nothing else; else 0.0.

    With `partial`, a completion that does not keep it earns 0.2 for each tag that stands in it
    exactly once and after the one before it, so that 0.8 is the most without the whole.
    """

    def score(content: str) -> float:
        if fmt.compliant(content):
            return 1.0
        return 0.2 * tags_in_order(content, fmt) if partial else 0.0

    return [score(text(c)) for c in completions]


def tags_in_order(content: str, fmt: Format) -> int:
    """How many tags stand exactly once, each after the one before it."""
    count, end = 0, 0
    for tag in fmt.tags:
        if tag and content.count(tag) == 1 and content.index(tag) >= end:
            count, end = count + 1, content.index(tag) + len(tag)
    return count
