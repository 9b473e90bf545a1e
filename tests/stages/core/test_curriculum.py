"""Easy problems first, and none that teach nothing."""

import pytest

from stages.core import curriculum
from stages.core.errors import UserError
from stages.core.params import Curriculum

ROWS = [{"question": f"Q{n}" + "?" * (9 - n), "level": str(n % 3), "working": "x\n" * n + "x"}
        for n in range(9)]  # fmt: skip
RATES = {row["question"]: n / 8 for n, row in enumerate(ROWS)}


def settings(**options) -> Curriculum:
    return Curriculum(watch="x", **({"rollouts": "x"} | options))


def order(by: str, count: int = 9, stages=3, seed: int = 0) -> list[int]:
    rows = curriculum.in_stages(ROWS, RATES, settings(by=by, stages=stages), count, seed)
    return [int(row["question"][1]) for row in rows]


@pytest.mark.parametrize(
    ("by", "stages"),
    [
        ("steps", [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}]),
        ("length", [{6, 7, 8}, {3, 4, 5}, {0, 1, 2}]),
        ("pass_rate", [{6, 7, 8}, {3, 4, 5}, {0, 1, 2}]),
        ("level", [{0, 3, 6}, {1, 4, 7}, {2, 5, 8}]),
    ],
)
def test_each_stage_is_trained_before_the_next(by, stages):
    taken = order(by)
    assert [set(taken[i : i + 3]) for i in (0, 3, 6)] == stages


def test_training_takes_as_many_as_it_needs_each_stage_its_share():
    taken = order("steps", count=20)
    assert len(taken) == 20
    assert set(taken[:7]) == {0, 1, 2} and set(taken[7:13]) == {3, 4, 5}
    assert max(taken[:7].count(n) for n in range(3)) <= 3, "a new pass only after all were seen"
    assert len(order("steps", count=4)) == 4


def test_stages_may_end_where_one_says():
    assert set(order("steps", count=4, stages=[1, 2])[:1]) == {0}
    with pytest.raises(UserError, match="the last begins at 9, of 9 problems"):
        order("steps", stages=[1, 9])


@pytest.mark.parametrize("stages", [2, 9])
def test_every_stage_has_a_problem(stages):
    with pytest.raises(UserError, match=f"stages: {stages + 1} stages, but only {stages} problems"):
        curriculum.in_stages(ROWS[:stages], RATES, settings(by="steps", stages=stages + 1), 9, 0)
    rows = curriculum.in_stages(ROWS[:stages], RATES, settings(by="steps", stages=stages), 9, 0)
    assert {row["question"] for row in rows} == {row["question"] for row in ROWS[:stages]}


def test_the_order_within_a_stage_is_the_seeds():
    assert order("steps", 90) == order("steps", 90)
    assert order("steps", 90) != order("steps", 90, seed=1)


def test_problems_that_are_always_or_never_solved_are_left_out():
    rollouts = [{"question": row["question"], "correct": n >= 4 or (n == 3 and i)}
                for n, row in enumerate(ROWS) for i in range(2) if n < 8]  # fmt: skip
    rates = curriculum.pass_rates(rollouts)
    kept = curriculum.worth_training(ROWS, rates, settings(keep=(0.01, 0.99)))
    assert [row["question"][1] for row in kept] == ["3", "8"], "8 was never measured"
    with pytest.raises(UserError, match=r"pass rate lies within 0\.9 to 0\.95"):
        curriculum.worth_training(ROWS[:7], rates, settings(keep=(0.9, 0.95)))


def test_rows_without_what_they_are_ordered_by_are_refused():
    bare = [{"question": "Q", "level": None, "working": None}]
    for by, lacking in (("level", "level"), ("steps", "working")):
        with pytest.raises(UserError, match=f"by: {by}, but 1 of 1 rows have no {lacking}"):
            curriculum.in_stages(bare, {}, settings(by=by), 1, 0)


@pytest.mark.parametrize(
    "options",
    [{"by": "pass_rate", "rollouts": None}, {"keep": (0.1, 1.0), "rollouts": None},
     {"stages": [300, 100]}, {"stages": []}, {"stages": 0}],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError):
        settings(**options)
