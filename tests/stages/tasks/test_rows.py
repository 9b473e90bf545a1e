"""Rows of one's own, whatever their fields are called."""

import pytest

from stages import tasks
from stages.core.errors import UserError
from stages.core.params import Source
from stages.tasks import rows
from tests.conftest import ROOT

TESTS = ["assert f() == 1"]


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"problem": "P", "answer": 5}, {"question": "P", "gold": "5"}),
        ({"question": "Q", "ground_truth": "1/2", "level": 3}, {"gold": "1/2", "level": "3"}),
        ({"question": "Q", "answer": "5", "solution": "2+3"}, {"working": "2+3"}),
        ({"passage": "P.", "question": "Q", "answer": "a"}, {"question": "P.\nQ"}),
        ({"question": "Q", "answer": "Rome", "aliases": ["Roma"]}, {"aliases": ["Roma"]}),
        ({"question": "Q", "ground_truth": "5", "predicted_answer": 5.0, "correct": False},
         {"gold": "5", "claimed": "5.0"}),
        ({"problem": "P", "tests": TESTS, "solution": "def f(): return 1"},
         {"gold": "def f(): return 1", "tests": {"asserts": TESTS}, "working": None}),
        ({"problem": "P", "tests": TESTS}, {"gold": ""}),
        ({"question": "Q", "options": ["(A) 1", "(B) 2"], "answer": "B"},
         {"question": "Q\nA) 1\nB) 2", "gold": "B", "options": ["1", "2"]}),
        ({"question": "Q", "options": ["A. 1", "B. x"], "answer": "x"},
         {"question": "Q\nA) 1\nB) x", "gold": "B", "options": ["1", "x"]}),
        ({"question": "Q", "options": ["A.1", "B.2"], "answer": "B"}, {"options": ["1", "2"]}),
        ({"question": "Q", "options": ["A.M.", "P.M."], "answer": "A.M."},
         {"question": "Q\nA) A.M.\nB) P.M.", "gold": "A", "options": ["A.M.", "P.M."]}),
        ({"question": "Q", "options": ["A.D.", "B.C."], "answer": "B.C."},
         {"question": "Q\nA) A.D.\nB) B.C.", "gold": "B", "options": ["A.D.", "B.C."]}),
        ({"question": "Q", "options": ["A. Lincoln", "B. Franklin", "G. Washington"], "answer": 0},
         {"question": "Q\nA) A. Lincoln\nB) B. Franklin\nC) G. Washington", "gold": "A"}),
        ({"question": "Q", "options": ["yes", "no"], "answer": "no"}, {"gold": "B"}),
        ({"question": "Q", "options": ["yes", "no"], "answer": 0}, {"gold": "A"}),
    ],
)  # fmt: skip
def test_what_a_row_holds_makes_the_problem(row, wanted):
    problem = rows.read(row, "here")
    assert {name: getattr(problem, name) for name in wanted} == wanted


@pytest.mark.parametrize("name", ["math-easy", "math-medium", "math-hard", "code"])
def test_the_projects_own_samples_are_read_as_they_are(name):
    source = str(ROOT / "data/samples" / f"{name}.jsonl")
    train, test = map(list, tasks.load(Source(name="rows", source=source), seed=0))
    assert len(train) + len(test) == (40 if name == "code" else 30)
    assert all(p.gold and p.level and p.topic for p in train + test)
    assert all(bool(p.tests) is (name == "code") for p in train + test)


def test_fields_may_have_other_names():
    problem = rows.read({"Frage": "Q", "Antwort": "5"}, "here",
                        {"question": "Frage", "answer": "Antwort"})  # fmt: skip
    assert (problem.question, problem.gold) == ("Q", "5")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"answer": "5"}, "here: no text in 'question' or 'problem' or 'prompt'"),
        ({"question": "Q"}, "here: no text in 'answer' or 'ground_truth' or 'gold'"),
        ({"question": "Q", "answer": True}, "no text in 'answer'"),
        ({"question": "Q", "answer": "C", "options": ["1", "2"]}, "'C' is none of the 2 options"),
        ({"question": "Q", "answer": "1", "options": ["1", "1"]}, "^here"),
        ({"question": "Q", "answer": "A", "options": "1 or 2"}, "options is no list of texts"),
        ({"question": "Q", "answer": "A", "aliases": [["a"]]}, "aliases is no list of texts"),
        ({"question": "Q", "tests": [1]}, "here: tests of code are"),
    ],
)
def test_a_row_that_will_not_do_is_named(row, says):
    with pytest.raises(UserError, match=says):
        rows.read(row, "here")
