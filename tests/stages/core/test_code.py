"""The code of a completion and its tests, in the real sandbox."""

import time

import pytest

from stages.answers.format import Format
from stages.core import code
from stages.core.code import normal, program
from stages.core.errors import UserError

FMT = Format()
ASSERTS = ["assert double(2) == 4", "assert double(0) == 0"]
RIGHT, WRONG = "def double(n): return 2 * n", "def double(n): return n * n + 1"


@pytest.mark.parametrize(
    ("completion", "wanted"),
    [
        (FMT.render("x = 1", "w"), "x = 1"),
        (FMT.render("first ```python\na\n``` then\n```\nb\n```", "w"), "b\n"),
        ("<think>w</think>\n```py\nc\n```\n", "c\n"),
        ("<think>```python\nnot this\n```</think> none", None),
        ("<answer>never ends", None),
        ("", None),
        (FMT.render("x = 1\n" * 1000, "w"), ("x = 1\n" * 1000).strip()),
        (FMT.render("x = 1\n" * 10_000, "w"), None),
    ],
)
def test_the_code_of_a_completion(completion, wanted):
    assert program(completion, FMT) == wanted


@pytest.mark.parametrize(
    "name", ["", "python", "py", "python3", "Python 3", "py3", "python3.11", "{.python}",
             "{.python .numberLines}", " python", 'python title="a.py"']
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_fence_names_python_in_many_ways(name, end):
    blocks = [f"```{name}", "first", "```", "for example:", f"```{name}", "last", "```"]
    assert program(FMT.render(end.join(blocks), "w"), FMT) == f"last{end}"


@pytest.mark.parametrize(
    "other",
    ["```text\n5\n```", "```json\r\n{}\r\n```", "or ```5``` alone", "```c++\n5\n```\nthat"],
)
def test_a_fence_of_something_else_is_not_run(other):
    answer = f"```text\n5\n```\nor ```5```\n```py\na\n```\n{other}"
    assert program(FMT.render(answer, "w"), FMT) == "a\n"


@pytest.mark.parametrize("part", [" ", "\t", "{", "`", "py", "```py ", "```a\n", "``` "])
def test_hostile_fences_cost_little(part):
    started = time.process_time()
    program(FMT.render("```" + part * (90_000 // len(part)), "w"), FMT)
    assert time.process_time() - started < 2


def test_code_without_answer_tags_is_the_last_fenced_block():
    fmt = Format("<think>", "</think>", "", "")
    assert program("<think>w</think>\n```python\nx\n```", fmt) == "x\n"
    assert program("<think>```\nx\n```", fmt) is None


@pytest.mark.parametrize(
    ("tests", "wanted"),
    [
        (ASSERTS, {"asserts": ASSERTS}),
        ([{"input": "1", "output": "2"}], {"inputs": ["1"], "outputs": ["2"]}),
        ({"inputs": ["1"], "outputs": ["2"], "asserts": None}, {"inputs": ["1"], "outputs": ["2"]}),
        ({"asserts": ["a"], "setup": "s", "inputs": None}, {"asserts": ["a"], "setup": "s"}),
    ],
)
def test_every_shape_of_tests_becomes_one(tests, wanted):
    assert normal(tests) == wanted


@pytest.mark.parametrize(
    "tests",
    [[], [1], [{"input": "1"}], ["assert True", {"input": ""}], {}, {"inputs": ["1"]}, "assert 1",
     {"inputs": ["1"], "outputs": []}, None],
)  # fmt: skip
def test_tests_of_no_known_shape_are_a_mistake(tests):
    with pytest.raises(UserError, match="tests of code are"):
        normal(tests)


def test_what_was_judged_is_not_run_again():
    jobs = [(RIGHT, ASSERTS), (WRONG, ASSERTS), (RIGHT, ASSERTS)]
    first = code.run(jobs)
    assert [v.score for v in first] == [1.0, 0.0, 1.0]
    assert all(a is b for a, b in zip(first, code.run(jobs), strict=True))


@pytest.mark.parametrize(
    "answer",
    ["    return 2 * n", "\n    if n:\n        return 2 * n\n    return 0\n", RIGHT, f" {RIGHT}",
     f"\n    {RIGHT}\n", "    def twice(k):\n        return 2 * k\n    return twice(n)",
     "    import math\n    return math.prod((2, n))", "```\n    return 2 * n\n```"],
)  # fmt: skip
def test_a_bare_function_body_is_completed_by_its_prefix(answer):
    prompt = 'def double(n):\n    """Twice n."""\n'
    tests = {"asserts": ASSERTS, "prefix": prompt, "entry_point": "double"}
    found = program(FMT.render(answer, "w"), FMT)
    assert [v.score for v in code.run([(found, tests)])] == [1.0]


@pytest.mark.parametrize("answer", [f" {RIGHT}", f"\n    {RIGHT}\n", f"  n = 0\n{RIGHT}"])
def test_code_without_a_prefix_starts_at_the_margin(answer):
    assert code.run([(program(FMT.render(answer, "w"), FMT), ASSERTS)])[0].score == 1.0
