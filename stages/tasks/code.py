"""Programming problems in their published forms; rows `{"problem", "tests", "solution"}`: rows.py.

- HumanEval (https://arxiv.org/abs/2107.03374): `prompt` (a function without its body),
  `canonical_solution` (the body), `test` (defines `check`), `entry_point`
- MBPP (https://arxiv.org/abs/2108.07732): `text` or `prompt`, `code`, `test_list`
- APPS (https://arxiv.org/abs/2105.09938): `question`, `solutions` and `input_output` as JSON texts,
  `difficulty`; programs that read and print, or a function by `fn_name`
- CodeContests (https://arxiv.org/abs/2203.07814): `description`, `public_tests` and `private_tests`
  {input, output}, `solutions` {language, solution}
"""

import json

from stages.tasks.problem import Problem, maybe, text_of, texts_of, wrong

PYTHON_3 = 3  # CodeContests' number of the language


def humaneval(row: dict, place: str) -> Problem:
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise wrong(place, "no text in 'prompt' (HumanEval rows have prompt and test)")
    name, test = (text_of(row, (field,), place) for field in ("entry_point", "test"))
    body = row.get("canonical_solution")
    return Problem(
        f"Complete this Python function:\n```python\n{prompt.strip()}\n```",
        prompt + body if body else "",
        tests={"asserts": [f"{test}\ncheck({name})"], "setup": prompt, "entry_point": name,
               "prefix": prompt},
    )  # fmt: skip


def mbpp(row: dict, place: str) -> Problem:
    """The first test shows the function's name and arguments, as in the paper's prompt."""
    tests = texts_of(row.get("test_list"), "test_list", place)
    if not tests:
        raise wrong(place, "test_list is empty")
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or [])
    question = f"{text_of(row, ('text', 'prompt'), place)}\nIt must pass: {tests[0]}"
    return Problem(
        question, maybe(row, ("code",), place) or "", tests={"asserts": tests, "setup": setup}
    )


def apps(row: dict, place: str) -> Problem:
    tests = parsed(row, "input_output", place)
    if not isinstance(tests, dict) or not tests.get("inputs") or not tests.get("outputs"):
        raise wrong(place, "input_output holds no inputs and outputs (APPS rows do)")
    given, wanted = tests["inputs"], tests["outputs"]
    if name := tests.get("fn_name"):
        asserts = [f"assert {name}(*{i!r}) == {o!r}" for i, o in zip(given, wanted, strict=False)]
        tests = {"asserts": asserts, "entry_point": name}
    else:
        tests = {"inputs": [joined(i) for i in given], "outputs": [joined(o) for o in wanted]}
    solutions = parsed(row, "solutions", place) or [""]
    level = maybe(row, ("difficulty",), place)
    return Problem(text_of(row, ("question",), place), solutions[0], level=level, tests=tests)


def parsed(row: dict, name: str, place: str) -> dict | list | None:
    value = row.get(name)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except json.JSONDecodeError as error:
        raise wrong(place, f"{name} is not JSON ({error.msg})") from None


def joined(lines: str | list[str]) -> str:
    """APPS has both, a text and a list of lines."""
    return lines if isinstance(lines, str) else "\n".join(map(str, lines))


def contests(row: dict, place: str) -> Problem:
    inputs, outputs = [], []
    for name in ("public_tests", "private_tests"):
        tests = row.get(name) or {}
        inputs += texts_of(tests.get("input", []), f"{name}.input", place)
        outputs += texts_of(tests.get("output", []), f"{name}.output", place)
    if not inputs or len(inputs) != len(outputs):
        raise wrong(place, "public_tests and private_tests hold no pairs of input and output")
    known = row.get("solutions") or {}
    pairs = zip(known.get("language", []), known.get("solution", []), strict=False)
    solution = next((text for language, text in pairs if language == PYTHON_3), "")
    question = text_of(row, ("description",), place)
    return Problem(question, solution, tests={"inputs": inputs, "outputs": outputs})
