"""A problem, whatever task it comes from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A question, its gold answer, and where there is one a worked solution without the answer."""

    question: str
    gold: str
    working: str | None = None
    level: str | None = None
