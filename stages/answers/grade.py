"""The one grader: the reward of training and the score of evaluation are the same function."""

from dataclasses import dataclass

from stages.answers.equality import equal
from stages.answers.format import Format


@dataclass(frozen=True)
class Grade:
    """What a completion is worth: the extracted answer and three verdicts."""

    answer: str | None
    correct: bool
    compliant: bool
    shows_working: bool

    @property
    def rates(self) -> tuple[bool, bool, bool]:
        return self.correct, self.compliant, self.shows_working


def grade(completion: str, gold: str, fmt: Format) -> Grade:
    """Grades one completion against its gold in the given format."""
    answer = fmt.answer(completion)
    return Grade(
        answer=answer,
        correct=equal(gold, answer),
        compliant=fmt.compliant(completion),
        shows_working=fmt.shows_working(completion),
    )
