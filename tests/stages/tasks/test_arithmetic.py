import random
from itertools import islice

import pytest

from stages.core import params
from stages.tasks import arithmetic, generated


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_working_is_true_and_ends_in_the_gold(seed):
    rng = random.Random(seed)
    for _ in range(2000):
        problem = arithmetic.problem(rng)
        results = []
        for line in problem.working.split("\n"):
            left, result = line.split("=")
            a, operator, b = next(
                (left.partition(o) for o in "+-*" if o in left), (None, None, None)
            )
            value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[operator]
            assert value == int(result) >= 0
            assert not results or int(a) == results[-1]
            results.append(value)
        assert problem.gold == str(results[-1])
        assert problem.level == str(len(results))


def test_no_test_problem_and_no_test_chain_is_in_training(raw):
    task = params.validate(raw, "params.yaml").task
    train, test = map(list, arithmetic.load(task, seed=0))
    assert len(test) == task.test and len(train) == task.demonstrations + task.pool
    assert len({p.question for p in train + test}) == len(train) + len(test)
    assert not {*map(arithmetic.chain_of, train)} & {*map(arithmetic.chain_of, test)}


def test_the_seed_decides_the_problems(raw):
    task = params.validate(raw, "params.yaml").task
    first, again, other = ([*map(list, arithmetic.load(task, seed))] for seed in (1, 1, 2))
    assert first == again != other


def test_levels_are_spread_on_both_sides():
    for parts in (generated.training(), generated.TEST):
        every = generated.distinct(arithmetic.problem, arithmetic.chain_of, random.Random(0), parts)
        some = islice(every, 900)
        levels = [p.level for p in some]
        assert 150 < levels.count("1") < 350
        assert all(250 < levels.count(level) < 450 for level in "23")
