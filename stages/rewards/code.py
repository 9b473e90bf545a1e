"""Does the code pass its tests? It runs in the sandbox, never in this process."""

from stages.answers.format import Format
from stages.core import code
from stages.core.errors import UserError
from stages.core.params import Count, Positive
from stages.rewards.text import text


def unit_tests(
    completions: list,
    fmt: Format,
    tests: list | None = None,
    strict: bool = False,
    seconds: Positive = code.SECONDS,
    threads: Count | None = None,
    **_,
) -> list[float | None]:
    """The share of a problem's tests that the code passes; None where the sandbox itself failed.

    The code is the last fenced block of the answer, or the answer as it stands; 0.0 where there is
    none. The column `tests` holds for each row a list of `assert ...` lines or of objects
    `{"input": stdin, "output": stdout}`, or what the prepared rows hold (`core.code.normal`). Rows
    without tests, in a mixture of tasks, cannot be judged: None.

    Args:
        completions: one per sample.
        fmt: where the answer stands.
        tests: the tests of each.
        strict: 1.0 for all tests, else 0.0.
        seconds: wall time for all tests of one completion.
        threads: completions at a time; None: one a core.

    Raises:
        UserError: this machine has no sandbox, or no row has tests.
    """
    if not any(tests or []):
        raise UserError(
            f'the reward unit_tests needs a column "tests": {code.SHAPES}; take the reward out '
            "where rows have none"
        )
    programs = [code.program(text(completion), fmt) for completion in completions]
    scores: list[float | None] = [0.0 if row else None for row in tests]
    at = [i for i, found in enumerate(programs) if found is not None and tests[i]]
    verdicts = code.run([(programs[i], tests[i]) for i in at], seconds, threads)
    for i, verdict in zip(at, verdicts, strict=True):
        share = verdict.score
        scores[i] = float(share == 1) if strict and share is not None else share
    return scores
