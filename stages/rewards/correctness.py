"""Is the final answer right?"""

from stages.answers.format import Format
from stages.answers.grade import grade


def correctness(completions: list, gold: list[str], fmt: Format, **_) -> list[float]:
    """1.0 where the final answer equals the gold, else 0.0: evaluation's own verdict.

    Args:
        completions: one per sample, text or chat messages.
        gold: the golds, one per sample (a column of the data set).
        fmt: where the answer stands.
    """
    return [float(grade(text(c), g, fmt).correct) for c, g in zip(completions, gold, strict=True)]


def text(completion: str | list[dict]) -> str:
    """A completion's text; TRL hands over chat messages where the prompt is one."""
    return completion if isinstance(completion, str) else completion[-1]["content"]
