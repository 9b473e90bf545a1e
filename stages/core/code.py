"""Code in a completion, and its tests: what is run, how, and what came of it.

Nothing runs in this process: see stages/sandbox.
"""

import json
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any

from stages.answers.format import Format
from stages.core.errors import UserError
from stages.sandbox import Asserts, Limits, Pairs, SandboxError, Verdict, run_many

MAX_CODE = 50_000  # characters
SECONDS = 10.0  # wall time for all tests of one program
KEPT = 20_000  # verdicts remembered; training, its log and evaluation ask for the same ones
# Python's blocks, named so (python3, Python 3, {.python}) or not at all. Other blocks and inline
# code are matched, too: their ends would else open a block of the prose that follows.
_FENCE = re.compile(
    r"```[ \t]*(?:\{?\.?(?:python|py)[\d.]*(?!\w)[^\n`]*)?\r?\n(?P<python>.*?)```"
    r"|```[\w+#-]+[ \t]*\r?\n.*?```"
    r"|```[^\n`]+```",
    re.DOTALL | re.IGNORECASE,
)
_DEF = re.compile(r"\s*(?:async\s+)?def\s+(\w+)")
_verdicts: OrderedDict[tuple, Verdict] = OrderedDict()
_lock = Lock()

SHAPES = (
    '{"asserts": ["assert ...", ...]} (with "setup", "entry_point" and "prefix" where needed), '
    '{"inputs": [...], "outputs": [...]}, a list of `assert ...` lines, or a list of '
    '{"input": ..., "output": ...}'
)


def program(completion: str, fmt: Format) -> str | None:
    """The code of a completion: the last fenced block of its answer, or the answer as it stands.

    A block that names another language is none. Without an answer block, the last fenced block
    behind the thinking. None where there is none.
    """
    answer = fmt.content(completion)
    bare = answer is not None
    if answer is None:
        if fmt.answer_open and fmt.answer_open in completion:
            return None  # an answer that never ends, or two that differ
        answer = fmt.after_thinking(completion) or ""
    fences = _FENCE.finditer(answer[-2 * MAX_CODE :])
    blocks = [fence["python"] for fence in fences if fence["python"] is not None]
    found = blocks[-1] if blocks else answer if bare else ""
    return found if found.strip() and len(found) <= MAX_CODE else None


def normal(tests: Any) -> dict:
    """A row's tests in one form: `{"asserts": ...}` or `{"inputs": ..., "outputs": ...}`.

    Raises:
        UserError: none, or of no known shape.
    """
    if isinstance(tests, dict):
        tests = {key: value for key, value in tests.items() if value is not None}
        listed = [tests.get(key) for key in ("asserts", "inputs", "outputs")]
        if texts(listed[0]) and not (listed[1] or listed[2]):
            return tests
        if texts(listed[1]) and texts(listed[2]) and len(listed[1]) == len(listed[2]):
            return {"inputs": listed[1], "outputs": listed[2]}
    elif texts(tests):
        return {"asserts": list(tests)}
    elif isinstance(tests, list) and tests and all(is_pair(test) for test in tests):
        return {"inputs": [t["input"] for t in tests], "outputs": [t["output"] for t in tests]}
    raise UserError(f"tests of code are {SHAPES}")


def texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def is_pair(test: Any) -> bool:
    return isinstance(test, dict) and texts([test.get("input"), test.get("output")])


def as_job(code: str, tests: dict) -> tuple[str, Asserts | Pairs]:
    """What the sandbox runs. A prefix (HumanEval's prompt) completes a bare function body.

    Other code, the whole function among it, starts at the margin.
    """
    prefix = tests.get("prefix", "")
    defined = _DEF.match(code)
    if not prefix or (defined and defined[1] in _DEF.findall(prefix)):
        code = code.lstrip()
    if "inputs" in tests:
        return code, Pairs(tuple(zip(tests["inputs"], tests["outputs"], strict=True)))
    asserts = Asserts(tuple(tests["asserts"]), tests.get("setup", ""), tests.get("entry_point", ""))
    return prefix + code, asserts


def run(
    jobs: Sequence[tuple[str, dict]], seconds: float = SECONDS, threads: int | None = None
) -> list[Verdict]:
    """Verdicts of (code, tests) in their order; what was judged before is not run again.

    Raises:
        UserError: this machine has no sandbox, or tests have no known shape.
    """
    keys = [(code, json.dumps(normal(tests), sort_keys=True), seconds) for code, tests in jobs]
    with _lock:
        known = {key: _verdicts[key] for key in keys if key in _verdicts}
    new = [key for key in dict.fromkeys(keys) if key not in known]
    try:
        fresh = run_many(
            [as_job(code, json.loads(tests)) for code, tests, _ in new],
            Limits(wall_seconds=seconds),
            threads or os.cpu_count() or 2,
        ) if new else []  # fmt: skip
    except SandboxError as error:
        raise UserError(f"code cannot be run here: {error}") from None
    found = dict(zip(new, fresh, strict=True))
    remember({key: verdict for key, verdict in found.items() if verdict.passed is not None})
    return [known[key] if key in known else found[key] for key in keys]


def remember(verdicts: dict[tuple, Verdict]) -> None:
    with _lock:
        _verdicts.update(verdicts)
        while len(_verdicts) > KEPT:
            _verdicts.popitem(last=False)
