"""Rows as the published data sets have them."""

import json

import pytest

from stages import tasks
from stages.answers.equality import equal
from stages.answers.format import Format
from stages.core.errors import UserError
from stages.core.grade import grades
from stages.core.params import Source
from stages.tasks import choice, code, math


def test_math_takes_the_last_box_and_leaves_no_box_in_the_working():
    solution = r"We get \boxed{4}, then \boxed{\frac{1}{\sqrt{2}}}."
    problem = math.read(
        {"problem": "P", "solution": solution, "level": "Level 3", "type": "Algebra"}, "here"
    )
    assert (problem.gold, problem.level, problem.topic) == (r"\frac{1}{\sqrt{2}}", "3", "Algebra")
    assert problem.working == r"We get 4, then \frac{1}{\sqrt{2}}."
    bare = math.read({"problem": "P", "solution": r"It is \boxed 2."}, "here")
    assert bare.gold == "2" and bare.working == "It is  2."
    assert math.read({"problem": "P", "solution": "no box"}, "here").gold == ""


def test_math_500_is_read_whole_and_its_golds_are_in_their_solutions(real_data):
    task = Source(name="math", source=str(real_data / "math500" / "test.jsonl"))
    train, test = map(list, tasks.load(task, 0))
    assert (len(train), len(test)) == (400, 100)
    fmt = Format("", "", r"\boxed{", "}")
    rendered = [fmt.render(p.gold, p.working) for p in train + test]
    assert all(g.correct and g.compliant for g in
               grades(rendered, [{"gold": p.gold} for p in train + test], fmt))  # fmt: skip
    lines = (real_data / "math500" / "test.jsonl").open()
    boxed = [math.read({**json.loads(line), "answer": None}, "here") for line in lines]
    golds = {p.question: p.gold for p in train + test}
    assert all(equal(golds[p.question], p.gold) for p in boxed)
    some = tasks.load(task.model_copy(update={"levels": ["5"], "topics": ["Algebra"]}), 0)[0]
    assert {(p.level, p.topic) for p in some} == {("5", "Algebra")}
    with pytest.raises(UserError, match=r"task.levels: no problem of 6 \(there are 1, 2, 3, 4, 5"):
        list(tasks.load(task.model_copy(update={"levels": ["6"]}), 0)[0])


def test_human_eval_is_read_whole_and_its_golds_pass(real_data):
    task = Source(name="humaneval", source=str(real_data / "humaneval" / "HumanEval.jsonl"))
    problems = [p for side in tasks.load(task, 0) for p in side]
    assert len(problems) == 164
    fmt = Format()
    rows = [{"gold": p.gold, "tests": p.tests} for p in problems[:40]]
    verdicts = grades([fmt.render(p.gold, "w") for p in problems[:40]], rows, fmt)
    assert all(verdict.correct and verdict.compliant for verdict in verdicts)


@pytest.mark.parametrize(
    ("read", "row", "gold", "options"),
    [
        (choice.aqua, {"question": "Q", "options": ["A)21", "B)21.5"], "rationale": "r",
                       "correct": "B"}, "B", ["21", "21.5"]),
        (choice.arc, {"question": "Q", "choices": {"text": ["x", "y"], "label": ["1", "2"]},
                      "answerKey": "2"}, "B", ["x", "y"]),
        (choice.logiqa, {"context": "C", "query": "Q", "options": ["x", "y"],
                         "correct_option": 0}, "A", ["x", "y"]),
        (choice.logiqa, {"context": "C", "question": "Q", "options": ["x", "y"], "label": "b"},
         "B", ["x", "y"]),
    ],
)  # fmt: skip
def test_multiple_choice(read, row, gold, options):
    problem = read(row, "here")
    assert (problem.gold, problem.options) == (gold, options)
    assert problem.question.endswith(f"\nA) {options[0]}\nB) {options[1]}")


SOLUTION = "print(2 * int(input()))"


@pytest.mark.parametrize(
    ("read", "row"),
    [
        (code.mbpp, {"text": "Double n.", "code": "def d(n): return math.prod([2, n])",
                     "test_list": ["assert d(2) == 4", "assert d(abs(-1)) == 2"],
                     "test_setup_code": "import math"}),
        (code.apps, {"question": "Double n.", "solutions": json.dumps([SOLUTION]),
                     "input_output": json.dumps({"inputs": ["3\n", ["4"]],
                                                 "outputs": ["6\n", ["8"]]}),
                     "difficulty": "introductory"}),
        (code.apps, {"question": "Double n.", "solutions": json.dumps(["def d(n): return 2 * n"]),
                     "input_output": json.dumps({"inputs": [[2]], "outputs": [4],
                                                 "fn_name": "d"})}),
        (code.contests, {"description": "Double n.",
                         "public_tests": {"input": ["3"], "output": ["6"]},
                         "private_tests": {"input": ["4"], "output": ["8"]},
                         "solutions": {"language": [1, 3], "solution": ["x", SOLUTION]}}),
    ],
)  # fmt: skip
def test_programming_problems_and_their_reference_solutions(read, row):
    problem = read(row, "here")
    gold = "import math\n" + problem.gold
    rows = [{"gold": gold, "tests": problem.tests}] * 2
    fmt = Format()
    verdicts = grades([fmt.render(gold), fmt.render("print(7)")], rows, fmt)
    assert [verdict.correct for verdict in verdicts] == [True, False]


@pytest.mark.parametrize(
    ("read", "row", "says"),
    [
        (choice.arc, {"question": "Q", "choices": ["x"], "answerKey": "A"}, "no choices with text"),
        (choice.arc, {"question": "Q", "choices": {"text": ["x"], "label": ["A"]},
                      "answerKey": "B"}, "'B' is none of the labels A"),
        (choice.aqua, {"question": "Q", "correct": "A"}, "options is no list of texts"),
        (code.humaneval, {"task_id": 1}, "no text in 'prompt'"),
        (code.mbpp, {"text": "T", "test_list": []}, "test_list is empty"),
        (code.apps, {"question": "Q", "input_output": "{"}, "input_output is not JSON"),
        (code.apps, {"question": "Q", "input_output": "{}"}, "no inputs and outputs"),
        (code.contests, {"description": "D"}, "hold no pairs"),
        (math.read, {"problem": "P"}, "no text in 'solution'"),
    ],
)  # fmt: skip
def test_a_row_that_will_not_do_is_named(read, row, says):
    with pytest.raises(UserError, match=f"here: .*{says}"):
        read(row, "here")
