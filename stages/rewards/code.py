"""Does the code pass its tests? It runs in the sandbox, never in this process."""

import re

from stages.answers.format import Format
from stages.core.errors import UserError
from stages.rewards.text import text
from stages.sandbox import Asserts, Limits, Pairs, SandboxError, run_many

MAX_CODE = 50_000  # characters
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


def unit_tests(
    completions: list,
    tests: list[list],
    fmt: Format,
    strict: bool = False,
    seconds: float = 10.0,
    threads: int = 2,
    **_,
) -> list[float | None]:
    """The share of a problem's tests that the code passes; None where the sandbox itself failed.

    The code is the last fenced block of the answer, or the answer as it stands. 0.0 where there is
    none. A column `tests` holds for each row a list of `assert ...` lines, or of objects
    `{"input": stdin, "output": stdout}`.

    Args:
        completions: one per sample.
        tests: the tests of each.
        fmt: where the answer stands.
        strict: 1.0 for all tests, else 0.0.
        seconds: wall time for all tests of one completion.
        threads: completions at a time.

    Raises:
        UserError: this machine has no sandbox, or a row no tests.
    """
    codes = [code(text(completion), fmt) for completion in completions]
    at = [i for i, found in enumerate(codes) if found is not None]
    jobs = [(codes[i], as_tests(tests[i])) for i in at]
    try:
        verdicts = run_many(jobs, Limits(wall_seconds=seconds), threads)
    except SandboxError as error:
        raise UserError(f"the reward unit_tests cannot run code here: {error}") from None
    scores: list[float | None] = [0.0] * len(completions)
    for i, verdict in zip(at, verdicts, strict=True):
        share = None if verdict.passed is None else verdict.passed / verdict.total
        scores[i] = float(share == 1) if strict and share is not None else share
    return scores


def code(completion: str, fmt: Format) -> str | None:
    """The code of a completion: of its answer block, or of all behind the thinking without one."""
    answer = fmt.answer(completion)
    if answer is None:
        if fmt.answer_open in completion:
            return None  # an answer that never ends, or two that differ
        answer = completion.rpartition(fmt.think_close)[2]
        blocks = _FENCE.findall(answer[:MAX_CODE])
        return blocks[-1] if blocks else None
    blocks = _FENCE.findall(answer[:MAX_CODE])
    found = blocks[-1] if blocks else answer
    return found if found.strip() and len(found) <= MAX_CODE else None


def as_tests(tests: list) -> Asserts | Pairs:
    """A row's tests as the sandbox takes them.

    Raises:
        UserError: none, or of no known form.
    """
    if tests and all(isinstance(test, str) for test in tests):
        return Asserts(tuple(tests))
    if tests and all(isinstance(t, dict) and {"input", "output"} <= t.keys() for t in tests):
        return Pairs(tuple((t["input"], t["output"]) for t in tests))
    raise UserError(
        'the reward unit_tests needs a column "tests": a list of `assert ...` lines, or of objects '
        '{"input": ..., "output": ...}'
    )
